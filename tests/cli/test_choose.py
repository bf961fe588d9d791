"""`leashrl choose`: what is read of runs, what is printed, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import leashrl
from support.files import edited, read_lines, write_lines


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A finished run of two seeds, evaluated twice with three episodes, and what `eval --json` says of it."""
    folder = tmp_path_factory.mktemp("choose")
    leashrl.train(
        "bc",
        "pendulum-random",
        task="pendulum",
        options={"hidden": (8, 8), "batch_size": 16},
        seeds=2,
        steps=50,
        eval_every=25,
        episodes=3,
        out=folder / "run",
    )
    found = leashrl.evaluate_run(folder / "run", episodes=4, mode="sample")
    (folder / "sample.json").write_text(json.dumps(found.to_json()))
    return folder


@pytest.fixture
def choose(home, monkeypatch, cli):
    """`leashrl choose ...` in `home`: gives what it prints."""
    monkeypatch.chdir(home)
    return lambda *argv: cli("choose", *argv)[0]


def finals(run: Path) -> dict[str, float]:
    members = json.loads((run / "result.json").read_text())["members"]
    return {m["name"]: m["score"]["final"] for m in members if m["score"]["final"] is not None}


def test_it_reads_a_runs_last_evaluation_and_what_eval_printed(choose, home):
    found = json.loads(choose("run", "sample.json", "--budget", "0,4000", "--json"))
    scores = [*finals(home / "run").values()]
    scores += [m["score"] for m in json.loads((home / "sample.json").read_text())["members"]]
    assert [x["mean"] for x in found["candidates"]] == pytest.approx(scores)
    assert [x["episodes"] for x in found["candidates"]] == [3, 3, 4, 4]
    assert [x["mode"] for x in found["candidates"]] == [None, None, "sample", "sample"]
    assert found["task"] == "pendulum" and found["unit"] == "score" and found["rule"] == "ucb"
    assert found["budgets"][0]["mean"] == pytest.approx(np.mean(scores))
    assert found["budgets"][1]["mean"] == pytest.approx(max(scores))
    assert found["choice_among"] == 4 and found["versions"]["numpy"]


def test_the_table(choose, home):
    scores = finals(home / "run")
    out = choose("run", "--budget", "0,1,5", "--rule", "uniform").splitlines()
    assert out[0] == "a choice among 2 candidates on pendulum, rule uniform, from 3 episodes of each"
    assert out[1].split() == ["episodes", "score", "95", "%", "of", "choices"]
    assert out[2].split()[:2] == ["0", f"{np.mean([*scores.values()]):.1f}"]
    assert out[5].startswith(f"best over all its episodes: run {max(scores, key=lambda name: scores[name])}")
    assert "--episodes 100 --json" in out[6]


def test_an_earlier_and_better_evaluation_does_not_count(choose, home, tmp_path):
    shutil.copytree(home / "run", tmp_path / "run")
    path = tmp_path / "run" / "evaluations.jsonl"
    rows = read_lines(path)
    assert [row["step"] for row in rows] == [25, 25, 50, 50]
    for row in rows[:2]:
        row |= {"returns": [0.0] * 3, "return": 0.0, "score": 113.9}
    write_lines(path, rows)
    assert (
        json.loads(choose(str(tmp_path / "run"), "--budget", "9", "--json"))["budgets"]
        == (json.loads(choose("run", "--budget", "9", "--json"))["budgets"])
    )


def test_what_cannot_be_chosen_from_is_one_line(choose, refused, home, tmp_path):
    def copy(name: str, **result) -> str:
        shutil.copytree(home / "run", tmp_path / name)
        with edited(tmp_path / name / "result.json") as value:
            value |= result
        return str(tmp_path / name)

    assert "has not finished" in refused("choose", unfinished(copy("half")))
    assert "trained without a task" in refused("choose", copy("blind", task=None))
    assert "diverge" in refused("choose", copy("lost", steps=51))
    assert "not what leashrl wrote" in refused("choose", copy("odd", members=3))
    line = refused("choose", "run", copy("elsewhere", task="hopper"))
    assert "evaluated on pendulum and" in line and "on hopper" in line and "not comparable" in line
    # another name of the same environment
    assert "4 candidates" in choose("run", copy("same", task="pendulum-medium"))
    assert "no evaluations in" in refused("choose", "run/policy")
    assert "not what leashrl wrote" in refused("choose", "run/config.json")
    assert "no run and no file 'nix'" in refused("choose", "nix")
    assert "given twice" in refused("choose", "run", "./run")
    assert "0 or more" in refused("choose", "run", "--budget", "1,-1")
    assert "whole number" in refused("choose", "run", "--budget", "some")
    assert "3 of 2 candidates" in refused("choose", "run", "--candidates", "3")
    assert "did you mean 'uniform'" in refused("choose", "run", "--rule", "unifrom")


def unfinished(folder: str) -> str:
    (Path(folder) / "result.json").unlink()
    return folder
