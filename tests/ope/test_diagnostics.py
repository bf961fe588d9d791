"""`leashrl report --diagnose`: policies held against their data; analytic values and plain counting."""

import json
from pathlib import Path

import numpy as np
import pytest

from leashrl.data import load
from leashrl.ope.diagnostics import BINS, categorical_kl, diagnose, distance, gaussian_kl, neighbours
from leashrl.runs.experiment import train
from leashrl.runs.loading import load_policy
from leashrl.types import Box, Discrete

TINY = {"hidden": "8", "batch_size": "16"}


def test_the_kl_of_gaussians_is_the_analytic_one():
    random = np.random.default_rng(0)
    pi = random.normal([0.3, 0.0], [0.1, 0.4], size=(40_000, 1, 2))
    beta = random.normal([0.0, 0.0], [0.3, 0.2], size=(40_000, 1, 2))
    # log 3 + (0.01 + 0.09) / 0.18 - 1/2, and log 1/2 + 0.16 / 0.08 - 1/2
    exact = np.log(3) + 0.1 / 0.18 - 0.5 + np.log(0.5) + 2 - 0.5
    assert gaussian_kl(pi, beta) == pytest.approx([exact], rel=0.02)
    still = np.zeros((5, 1, 1))  # two policies without spread, 0.1 apart, at the floor of 0.05: 0.1^2 / 0.005
    assert gaussian_kl(still + 0.1, still) == pytest.approx([2.0])


def test_of_equal_distributions_the_estimate_is_about_0_03_a_dimension():
    random = np.random.default_rng(0)
    pi, beta = random.normal(0, 0.3, (64, 3000, 1)), random.normal(0, 0.3, (100, 3000, 1))
    assert gaussian_kl(pi, beta).mean() == pytest.approx(0.03, abs=0.01)


def test_the_kl_of_categories_by_hand():
    pi, beta = np.array([[0], [0], [0]]), np.array([[0], [1], [1]])
    # shares with half a count: 3.5/4, 0.5/4 against 1.5/4, 2.5/4
    exact = 0.875 * np.log(0.875 / 0.375) + 0.125 * np.log(0.125 / 0.625)
    assert categorical_kl(pi, beta, 2) == pytest.approx([exact])


def test_neighbours_are_the_nearest_and_not_oneself():
    obs = np.random.default_rng(0).normal(size=(300, 2)) * [1.0, 1000.0]
    scaled = (obs - obs.mean(0)) / (obs.std(0) + 1e-3)
    found = neighbours(obs, np.array([7, 250]))
    for row, i in zip(found, (7, 250), strict=True):
        order = np.argsort(((scaled - scaled[i]) ** 2).sum(1))
        assert order[0] == i and set(row) == set(order[1:101])


def test_distances_by_hand():
    box = Box((-2.0, 0.0), (2.0, 1.0))
    # a quarter and a whole range apart: sqrt((1/16 + 1) / 2)
    assert distance(box, np.array([[1.0, 1.0]]), np.array([[0.0, 0.0]])) == pytest.approx([np.sqrt(17 / 32)])
    assert distance(Discrete(3), np.array([0, 2]), np.array([0, 1])).tolist() == [0.0, 1.0]


def test_a_run_with_continuous_actions(place, cli):
    train("bc", "data.hdf5", task="none", options=TINY, seeds=2, steps=20, out="run")
    assert "run/diagnostics.json" in cli("report", "run", "--diagnose")[1]
    found, dataset = json.loads(Path("run/diagnostics.json").read_text()), load("data.hdf5")
    assert (
        found["mode"] == "sample"
        and found["skipped"] is None
        and list(found["members"]) == ["seed-0", "seed-1"]
    )
    (dim,) = found["actions"]
    counts, edges = np.histogram(dataset.action[:, 0], BINS, (-2.0, 2.0))
    assert dim["data"] == counts.tolist() and dim["edges"] == pytest.approx(edges.tolist())
    assert found["behaviour"]["return"] == pytest.approx(dataset.returns().mean())
    member = found["members"]["seed-1"]
    apart = np.abs(load_policy("run", "seed-1")(dataset.obs) - dataset.action)[:, 0] / 4
    assert member["distance"]["median"] == pytest.approx(np.median(apart), rel=1e-5)
    assert [sum(h) for h in (*member["actions"], member["distance"]["counts"], member["kl"]["counts"])] == [
        400
    ] * 3
    text = Path("run/report.html").read_text()
    assert "Policy against data" in text and "KL divergence from the behaviour" in text


def test_a_run_with_discrete_actions(tmp_path):
    train("bc", "cartpole-medium", task="none", options=TINY, seeds=1, steps=20, out=tmp_path / "run")
    found = diagnose(tmp_path / "run", rows=500)
    (dim,) = found.actions
    assert dim.edges == (-0.5, 0.5, 1.5) and sum(dim.data) == 500
    member = found.members["seed-0"]
    assert sum(member.actions[0]) == sum(member.distance.counts) == 500 and member.distance.edges[0] == 0
    assert found.mode == "sample" and found.skipped is None and member.kl is not None
    assert found.behaviour is not None and found.behaviour.mean_return > 0 and found.behaviour.score is None
    text = (tmp_path / "run" / "diagnostics.json").read_text()
    assert json.dumps(found.to_json(), indent=1) + "\n" == text
    names = ["data", "behaviour", "skipped", "mode", "actions", "members", "versions"]
    assert list(json.loads(text)) == names and list(json.loads(text)["behaviour"]) == ["return"]


def test_a_policy_with_a_memory_is_left_out_with_a_sentence(tmp_path, cli):
    options = {"batch_size": "4", "context": "2", "width": "8", "layers": "1", "heads": "1"}
    train("dt", "pendulum-medium", task="none", options=options, seeds=1, steps=2, out=tmp_path / "run")
    _, err = cli("report", str(tmp_path / "run"), "--diagnose")
    assert "remembers the episode so far" in err
    assert "dt is left out: its policy remembers" in (tmp_path / "run" / "report.html").read_text()


def test_lost_data_costs_the_diagnostics_alone(place, cli):
    train("bc", "data.hdf5", task="none", options=TINY, seeds=1, steps=2, out="run")
    Path("data.hdf5").unlink()
    (line,) = cli("report", "run", "--diagnose")[1].splitlines()
    assert line.startswith("leashrl: warning: no diagnostics of 'run':") and Path("run/report.html").exists()
