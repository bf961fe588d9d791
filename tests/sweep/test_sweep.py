"""Sweeps: what a file may say, where values come from, how trials fold, and how a sweep goes on."""

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import leashrl
from leashrl.algos import REGISTRY
from leashrl.cli import main
from leashrl.core import tunable
from leashrl.errors import BadInput
from leashrl.nn import PRECISIONS
from leashrl.runs import experiment
from leashrl.sweep.driver import sweep
from leashrl.sweep.space import Range, at, draw, propose
from leashrl.sweep.spec import read_spec
from support.files import spec

SMALL = """
algorithms = ["bc"]
data = "data.hdf5"
task = "pendulum"
seeds = 2
steps = 20
eval_every = 10
episodes = 1

[options]
hidden = [4]
batch_size = 4
"""
TWO = SMALL.replace('["bc"]', '["bc", "td3-bc"]')


# --- What the file may say ---------------------------------------------------

MISTAKES = {
    "no TOML": ("seeds = ", "cannot read"),
    "a key": ("algoritms = ['bc']", "no key 'algoritms': did you mean 'algorithms'"),
    "no algorithm": ("data = 'data.hdf5'", "algorithms must name"),
    "an algorithm": ("algorithms = ['bcc']", "algorithms: no algorithm 'bcc': did you mean 'bc'"),
    "a preset": ("algorithms = ['misa:autors']", "no preset 'autors': did you mean 'authors'"),
    "an option": (
        SMALL + "[grid]\nhiden = [[4]]",
        "hiden: bc: no option 'hiden': did you mean 'hidden'",
    ),
    "another's option": (
        TWO + "[grid]\nalpha = [1.0]",
        "td3-bc has it: put it into [grid.td3-bc]",
    ),
    "another's table": (SMALL + "[grid.misa]\nk = [5]", "[grid.misa] is for none of the algorithms"),
    "a value": (
        SMALL + "[grid]\npolicy_rate = ['fast']",
        "policy_rate: bc: option 'policy_rate' must be",
    ),
    "no list": (SMALL + "[grid]\npolicy_rate = 0.1", "[grid] policy_rate must be a list"),
    "a value twice": (
        SMALL + "[grid]\npolicy_rate = [1, 1.0]",
        "policy_rate needs at least one value",
    ),
    "an option twice": (SMALL + "[grid]\nbatch_size = [4]", "'batch_size' is given twice for bc"),
    "steps twice": (SMALL + "[grid]\nsteps = [4, 5]", "'steps' is given twice"),
    "a range in a grid": (SMALL + "[grid]\npolicy_rate = {low = 1, high = 2}", "[grid] takes lists"),
    "half a range": (
        SMALL + "[random]\ntrials = 2\npolicy_rate = {low = 1}",
        "policy_rate needs both",
    ),
    "a range's key": (
        SMALL + "[random]\ntrials = 2\npolicy_rate = {low = 1, hgh = 2}",
        "no key 'hgh' in [random] policy_rate: did you mean 'high'",
    ),
    "a range upside down": (
        SMALL + "[random]\ntrials = 2\npolicy_rate = {low = 0, high = 1, log = true}",
        "low must be below high, and above 0 where log is true",
    ),
    "a range of words": (
        SMALL + "[random]\ntrials = 2\ndeterministic = {low = 0, high = 1}",
        "is no number in bc: give a list",
    ),
    "no trials": (SMALL + "[random]\npolicy_rate = [1.0]", "[random] trials must say how many"),
    "nothing to search": (SMALL + "[search]\ntrials = 3", "[search] names nothing to search for bc"),
    "two kinds": (SMALL + "[grid]\n[random]\ntrials = 1", "[grid] and [random] exclude each other"),
    "a ray key": (SMALL + "[ray]\nnum_cpu = 2", "no key 'num_cpu' in [ray]: did you mean 'num_cpus'"),
    "a ray value": (SMALL + "[ray]\nretries = 'two'", "[ray] retries must be a whole number of at least 0"),
    "a share": (SMALL + "[ray]\ngpus_per_run = 1.5", "[ray] gpus_per_run must be a part of one"),
    "seeds": (SMALL.replace("seeds = 2", "seeds = [1, 1]"), "seeds must be how many"),
    "steps": (SMALL.replace("steps = 20", "steps = 0.5"), "steps must be a whole number"),
    "data": (SMALL.replace("data.hdf5", "dta.hdf5"), "did you mean 'data.hdf5'"),
    "a task of other sizes": (SMALL.replace('"pendulum"', '"hopper"'), "size 11"),
    "a search without scores": (
        SMALL.replace('"pendulum"', '"none"') + "[search]\ntrials = 2\npolicy_rate = {low = 1, high = 2}",
        "[search] needs scores",
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(kind, refused):
    text, words = MISTAKES[kind]
    assert words in refused("sweep", spec(text), "--out", "out")
    assert not Path("out").exists()


def test_what_a_file_leaves_out():
    found = read_spec(spec("algorithms = 'misa:authors'\ndata = 'data.hdf5'"))
    assert found.seeds == (0, 1, 2) and found.out == Path("runs/s") and found.kind == "grid"
    assert found.labels == ("misa:authors",) and found.space == {"misa:authors": {}}


# --- Where values come from --------------------------------------------------


def test_draws_come_again_and_more_of_them_change_none():
    space = {"rate": Range(1e-4, 1e-2, log=True), "k": Range(1, 3, whole=True), "act": ("relu", "tanh")}
    few, many = draw(space, 5, seed=0), draw(space | {"gamma": Range(0.9, 1.0)}, 50, seed=0)
    assert few == [{name: point[name] for name in space} for point in many[:5]]
    assert draw(space, 5, seed=1) != few
    rates = np.array([point["rate"] for point in many])
    assert ((rates >= 1e-4) & (rates <= 1e-2)).all()
    assert 15 < (rates < 1e-3).sum() < 35  # half of the logarithms; binomial, five deviations are 18
    assert Counter(point["k"] for point in many).keys() == {1, 2, 3}


def test_the_ends_of_a_range():
    top = np.nextafter(1, 0)
    assert [at(Range(1, 3, whole=True), u) for u in (0, 0.34, 0.67, top)] == [1, 2, 3, 3]
    assert [at(Range(1, 8, log=True, whole=True), u) for u in (0, top)] == [1, 8]
    assert at(Range(0.12354, 0.2), 0) == 0.12354  # rounding to four digits stays inside


def test_proposals_go_where_values_are_large():
    space = {"x": Range(0.0, 1.0), "way": ("left", "right")}
    rng = np.random.default_rng(0)
    points = [{"x": float(x), "way": ("left", "right")[i % 2]} for i, x in enumerate(rng.random(40))]
    worth = lambda p: -abs(p["x"] - 0.8) - (p["way"] == "left")
    history = [(point, None if point["x"] < 0.2 else worth(point)) for point in points]
    ask = lambda history, seed: propose(space, history, 8, seed=(seed, len(history)), startup=10)
    found = ask(history, 0)
    assert found == ask(history, 0) != ask(history, 1)
    assert np.mean([abs(point["x"] - 0.8) < 0.2 for point in found]) > 0.6  # 0.4 of the range
    assert np.mean([point["way"] == "right" for point in found]) > 0.6
    assert all(point["x"] > 0.2 for point in found)  # there all diverged


def test_a_small_space_is_searched_to_its_end_and_no_further():
    space = {"way": ("left", "right", "up")}
    history = [({"way": "left"}, 1.0)]
    found = propose(space, history, 8, seed=(0, 1), startup=1)
    assert sorted(point["way"] for point in found) == ["right", "up"]


# --- Folding -----------------------------------------------------------------


def test_what_differs_in_floats_and_seeds_is_one_run(document):
    grid = "[grid]\npolicy_rate = [0.1, 0.2]\nbatch_size = [4, 8]\n[grid.td3-bc]\nalpha = [1, 2.5]\n"
    path = spec(TWO.replace("batch_size = 4\n", "") + grid)
    book = document("sweep", path, "--out", "out", "--dry-run")
    assert not Path("out").exists()
    assert [len(run["trials"]) for run in book["runs"]] == [4, 4, 8, 8]
    assert len({row["id"] for row in book["trials"]}) == len(book["trials"]) == 24
    sizes = [(run["train"]["algorithm"], run["train"]["options"]["batch_size"]) for run in book["runs"]]
    assert sizes == [("bc", 4), ("bc", 8), ("td3-bc", 4), ("td3-bc", 8)]
    first = book["runs"][2]["train"]["members"]
    assert first[0] == {"seed": 0, "policy_rate": 0.1, "alpha": 1.0}
    assert {tuple(row) for row in first} == {("seed", "policy_rate", "alpha")}


def test_a_run_takes_no_more_members_than_it_may():
    found = sweep(spec("members = 3\n" + SMALL.replace("seeds = 2", "seeds = 8")), out="out", dry=True)
    assert [len(run.trials) for run in found.runs] == [3, 3, 2]
    assert {(row.status, row.score, row.returns) for row in found.trials} == {("waiting", None, None)}
    assert found.points == () and found.folder == Path("out") and not Path("out").exists()


def test_a_trial_in_a_run_of_many_is_the_trial_alone():
    found = sweep(spec(SMALL + "[grid]\npolicy_rate = [0.1, 0.001]"), out="out", workers=0)
    options = {"hidden": [4], "batch_size": 4, "policy_rate": 0.001}
    alone = leashrl.train(
        "bc", "data.hdf5", task="pendulum", seeds=[1], steps=20, eval_every=10, episodes=1, options=options
    )
    row = next(row for row in found.trials if (row.seed, row.values["policy_rate"]) == (1, 0.001))
    assert row.returns is not None and row.status == "done" and row.diverged is None
    assert dataclasses.asdict(row.returns) == alone.to_json()["members"][0]["return"]
    assert [point.values["policy_rate"] for point in found.points] in ([0.1, 0.001], [0.001, 0.1])
    means = [point.last_10_mean for point in found.points]
    assert means == sorted(means, reverse=True)
    assert found.points[0].measure == "score" and found.points[0].done == 2
    run = found.runs[0]
    assert run.trials == tuple(trial.id for trial in found.trials) and run.train["algorithm"] == "bc"
    assert (run.status, run.attempts, run.error) == ("done", 1, None) and found.search is None
    config = json.loads((Path("out/runs") / run.name / "config.json").read_text())["config"]
    assert config["precision"] in PRECISIONS  # chosen, not `auto`
    text = Path("out/sweep.json").read_text()
    assert json.dumps(found.to_json(), indent=1) + "\n" == text  # the same names in the same order


def test_members_must_be_rows_of_the_same_names():
    with pytest.raises(BadInput, match="seed, gamma"):
        leashrl.train("bc", "data.hdf5", members=[{"seed": 0, "gamma": 0.9}, {"seed": 1}], out="out")
    many = dict.fromkeys(tunable(REGISTRY["misa"].config()), 0.123456)
    with pytest.raises(BadInput, match="too many hyper-parameters"):
        leashrl.train("misa", "data.hdf5", members=[{"seed": 0} | many], out="out")


def test_planning_touches_no_device():
    """Or the driver would hold three quarters of a GPU while its workers train on it."""
    look = "from jax._src import xla_bridge; assert not xla_bridge.backends_are_initialized()"
    argv = ["sweep", spec(SMALL + "[grid]\npolicy_rate = [0.1, 0.2]"), "--dry-run"]
    subprocess.run(
        [sys.executable, "-c", f"from leashrl.cli import main; main({argv}); {look}"], check=True, timeout=240
    )


# --- Going on ----------------------------------------------------------------


def test_a_sweep_may_grow_and_what_was_done_is_not_done_again(capsys):
    path = spec(SMALL + "[grid]\npolicy_rate = [0.1]")
    assert main(["sweep", path, "--out", "out", "--workers", "0"]) == 0
    first = next(Path("out/runs").iterdir()) / "result.json"
    before, rows = first.stat().st_mtime_ns, json.loads(Path("out/sweep.json").read_text())["trials"]
    assert main(["sweep", spec(SMALL.replace("seeds = 2", "seeds = 3")), "--out", "out"]) == 2
    assert "2 trials that 's.toml' does not ask for" in capsys.readouterr().err
    path = spec(SMALL.replace("seeds = 2", "seeds = 3") + "[grid]\npolicy_rate = [0.1, 0.2]")
    assert main(["sweep", path, "--out", "out", "--workers", "0"]) == 0
    grown = json.loads(Path("out/sweep.json").read_text())
    assert [len(run["trials"]) for run in grown["runs"]] == [2, 4]
    assert grown["trials"][:2] == rows and first.stat().st_mtime_ns == before
    assert Counter(row["status"] for row in grown["trials"]) == {"done": 6}


def test_a_folder_of_something_else_is_left_alone(capsys):
    Path("out").mkdir()
    Path("out/thesis.tex").write_text("mine")
    assert main(["sweep", spec(SMALL), "--out", "out"]) == 2
    assert "is not a sweep" in capsys.readouterr().err
    assert [p.name for p in Path("out").iterdir()] == ["thesis.tex"]


def test_a_run_that_fails_is_tried_again_and_the_others_go_on(monkeypatch, capsys):
    path = spec(SMALL.replace("batch_size = 4\n", "[grid]\nbatch_size = [2, 4]\n[ray]\nretries = 2\n"))
    train, tries = experiment.train, Counter()

    def broken(*args, **named):
        tries[named["options"]["batch_size"]] += 1
        if named["options"]["batch_size"] == 2 and tries[2] <= limit:
            raise RuntimeError("a worker broke\nin two lines")
        return train(*args, **named)

    monkeypatch.setattr(experiment, "train", broken)
    limit = 3
    assert main(["sweep", path, "--out", "out", "--workers", "0"]) == 1
    said = capsys.readouterr()
    assert "failed for good after 3 attempts: RuntimeError: a worker broke" in said.err
    assert "failed: bc-data-" in said.out and "2 failed" in said.out
    book = json.loads(Path("out/sweep.json").read_text())
    assert tries == {2: 3, 4: 1} and [run["status"] for run in book["runs"]] == ["failed", "done"]
    limit = 5  # the same command tries again: two failures more, and then it works
    assert main(["sweep", path, "--out", "out", "--workers", "0"]) == 0
    book = json.loads(Path("out/sweep.json").read_text())
    assert tries == {2: 6, 4: 1} and book["runs"][0]["attempts"] == 6
    assert Counter(row["status"] for row in book["trials"]) == {"done": 4}


def test_a_plan_that_cannot_work_is_not_tried_again():
    own = "[options.bc]\nsteps = 20\n[options.td3-bc]\nsteps = 0\n"
    path = spec(TWO.replace("steps = 20\n", "") + own)
    assert main(["sweep", path, "--out", "out", "--workers", "0"]) == 1
    book = json.loads(Path("out/sweep.json").read_text())
    assert [(run["status"], run["attempts"]) for run in book["runs"]] == [("done", 1), ("failed", 1)]
    assert "'steps' must be at least 1" in book["runs"][1]["error"]


def test_a_trial_that_diverges_is_a_result(capsys):
    path = spec(SMALL + "[grid]\npolicy_rate = [1e-3, 1e30]")
    assert main(["sweep", path, "--out", "out", "--workers", "0"]) == 0
    book = json.loads(Path("out/sweep.json").read_text())
    found = {(row["values"]["policy_rate"], row["seed"]): row["status"] for row in book["trials"]}
    assert found == {(0.001, 0): "done", (0.001, 1): "done", (1e30, 0): "diverged", (1e30, 1): "diverged"}
    assert book["runs"][0]["attempts"] == 1 and "0, 2 diverged" in capsys.readouterr().out
    again = sweep(path, out="out", workers=0)
    assert again.to_json() == book
    assert again.trials[2].diverged is not None and again.trials[2].diverged.step <= 20


# --- Search ------------------------------------------------------------------

SEARCH = """
[search]
trials = 5
at_once = 2
startup = 2
seed = 3
policy_rate = {low = 1e-4, high = 1e-1, log = true}
"""


@pytest.mark.slow
def test_a_search_comes_again_and_goes_on_where_it_was_stopped():
    path = spec(SMALL + SEARCH)
    result = sweep(path, out="whole", workers=0)
    assert result.search is not None and result.search.seed == 3
    whole = result.to_json()
    assert whole == json.loads(Path("whole/sweep.json").read_text())
    assert whole["search"]["space"] == {"bc": {"policy_rate": [1e-4, 1e-1, True, False]}}
    points = list(dict.fromkeys(row["values"]["policy_rate"] for row in whole["trials"]))
    assert len(points) == 5 and len(whole["trials"]) == 10
    assert [len(run["trials"]) for run in whole["runs"]] == [4, 4, 2]  # two rates at once, two seeds each

    def stop(event, details):
        if event == "end" and len(details["run"]["trials"]) == 4 and not stopped:
            stopped.append(details)
            raise KeyboardInterrupt

    stopped = []
    with pytest.raises(KeyboardInterrupt):
        sweep(path, out="stopped", workers=0, report=stop)
    assert len(json.loads(Path("stopped/sweep.json").read_text())["trials"]) == 4
    again = sweep(path, out="stopped", workers=0).to_json()
    assert again["trials"] == whole["trials"] and again["points"] == whole["points"]
    grown = spec(SMALL + SEARCH.replace("trials = 5", "trials = 6"))
    more = sweep(grown, out="stopped", workers=0).to_json()
    assert more["trials"][:10] == whole["trials"] and len(more["trials"]) == 12
    with pytest.raises(BadInput, match="only trials may grow"):
        sweep(spec(SMALL + SEARCH.replace("1e-4", "1e-5")), out="stopped", workers=0)
