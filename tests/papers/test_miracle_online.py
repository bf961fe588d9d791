"""MIRACLE's figures 2 to 5 from folders of runs, against numbers worked out by hand."""

import json

import numpy as np
import pytest

from leashrl.cli import main
from leashrl.papers import make, miracle_online
from support.files import write_lines

pytest.importorskip("matplotlib")


def write_run(folder, preset, task, episodes, algorithm="miracle"):
    """`episodes`: {seed: [(length, return), ...]}."""
    folder.mkdir(parents=True)
    plan = {"algorithm": algorithm, "preset": preset, "task": task, "config": {}, "data": {}}
    (folder / "config.json").write_text(json.dumps(plan | {"members": [], "versions": {}}))
    rows = [
        {"step": 0, "return": value, "length": length, "seed": seed}
        for seed, pairs in episodes.items()
        for length, value in pairs
    ]
    write_lines(folder / "episodes.jsonl", rows)


@pytest.fixture
def runs(tmp_path):
    """Two seeds each; 100 steps an episode."""
    write_run(
        tmp_path / "a", "default", "swimmer", {0: [(100, 4.0), (100, 8.0)], 1: [(100, 2.0), (150, 0.0)]}
    )
    write_run(tmp_path / "b", "sac", "swimmer", {0: [(100, 1.0), (100, 1.0)], 1: [(100, 3.0), (100, 3.0)]})
    write_run(tmp_path / "deep" / "c", "vae", "pendulum", {0: [(200, -5.0), (200, -7.0)]})
    write_run(tmp_path / "d", "default", "swimmer", {0: [(100, 9.0)]}, algorithm="sac")  # another SAC
    return tmp_path


def test_curves_and_who_is_ahead(runs, tmp_path):
    made = make("miracle", "figure", "2", tmp_path / "out", {"runs": str(runs)})
    assert made.files == [tmp_path / "out" / "miracle-figure-2.png"] and made.files[0].stat().st_size > 10_000
    rows = {(row["task"], row["method"]): row for row in made.values["rows"]}
    assert list(rows) == [("swimmer", "MIRACLE"), ("swimmer", "SAC")]  # the autoencoder is figure 4's
    ours = rows["swimmer", "MIRACLE"]
    # At step 200, the last that all have reached: (4 + 8) / 2 = 6, and still 2, whose second one ends at 250.
    assert (ours["seeds"], ours["steps"], ours["final"]) == (2, 200, 4.0)
    assert rows["swimmer", "SAC"]["final"] == 2.0
    # Seeds at 6 and 2: deviation sqrt(8), over sqrt(2); SAC's at 1 and 3: 1.
    assert ours["standard error"] == pytest.approx(2.0) and rows["swimmer", "SAC"]["standard error"] == 1.0
    assert ours["finals"] == [6.0, 2.0]
    assert ours["lead over SAC"] == 2.0 and ours["standard error of the lead"] == pytest.approx(5**0.5)


def test_the_best_so_far(tmp_path):
    write_run(tmp_path / "a", "default", "swimmer", {0: [(100, 4.0), (100, 0.0)]})
    final = lambda n: make("miracle", "figure", n, tmp_path, {"runs": str(tmp_path)}).values["rows"][0][
        "final"
    ]
    assert final("2") == 2.0 and final("3") == 4.0


def test_figures_4_and_5_are_the_autoencoders(runs, tmp_path):
    rows = make("miracle", "figure", "5", tmp_path / "out", {"runs": str(runs)}).values["rows"]
    assert [(row["task"], row["method"]) for row in rows] == [
        ("pendulum", "MIRACLE (VAE)"),
        ("swimmer", "SAC"),
    ]


def test_panels_stand_in_the_texts_order(tmp_path):
    for task in ("hopper", "swimmer", "inverted-pendulum", "pendulum"):
        write_run(tmp_path / task, "sac", task, {0: [(100, 1.0), (100, 2.0)]})
    rows = make("miracle", "figure", "2", tmp_path, {"runs": str(tmp_path)}).values["rows"]
    assert [row["task"] for row in rows] == ["pendulum", "inverted-pendulum", "swimmer", "hopper"]


def test_a_grid_holds_the_last_value_before():
    series = (np.array([10, 20, 40]), np.array([1.0, 5.0, 2.0]))
    steps, values = miracle_online.on_grid([series], best=False)
    assert steps[0] == 10 and steps[-1] == 40
    assert values[0, 0] == 1.0 and values[0, -1] == 2.0
    assert set(values[0]) == {1.0, 5.0, 2.0}
    assert np.all(values[0, (steps >= 20) & (steps < 40)] == 5.0)


def test_no_runs_is_one_line(tmp_path, capsys):
    assert (
        main(["paper", "miracle", "--figure", "2", "--set", f"runs={tmp_path}", "--out", str(tmp_path)]) == 2
    )
    assert "no online runs of ddpg, miracle, ppo below" in capsys.readouterr().err
