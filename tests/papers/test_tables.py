"""Tables and figures that are made of runs: what is trained, resumed, refused, and what is said of it."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import pytest

from leashrl.algos import REGISTRY
from leashrl.cli import main
from leashrl.errors import BadInput
from leashrl.nn import PRECISIONS
from leashrl.papers import PAPERS, experiments, panels, tables
from leashrl.papers.experiments import finish, folder_of, source_of, told
from leashrl.papers.misa import explained, seed_of
from leashrl.papers.printed import PAPERS as FILES
from leashrl.papers.printed import Printed, load
from leashrl.papers.protocols import Options, Trial, setup_of
from leashrl.runs.peers import PEERS
from leashrl.runs.plan import configure, parse_run
from leashrl.runs.results import Divergence
from support.files import edited

TASK = "pendulum-medium"
TABLE = Printed(
    source="Nobody 2020, table 1",
    about="two clonings",
    claim="slow is worse",
    columns=("slow", "fast"),
    rows={TASK: (10.0, 20.0), "pen-human-v0": (1.0, 2.0)},
    runs={"slow": "bc+policy_rate=1e-5", "fast": "bc"},
    quick={"slow": "bc+policy_rate=1e-4"},
    order=("slow", "fast"),
)


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> Options:
    return Options(scale="smoke", runs=str(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def done(options) -> experiments.Done:
    trials = [*tables.trials(TABLE, options), Trial("pen-human-v0", "bc")]
    return finish(trials, options, lambda line: None)


# --- Declarations --------------------------------------------------------------


def test_every_run_of_every_item_can_be_configured():
    runs = {
        run
        for paper in FILES
        for item in load(paper).values()
        for scale in ("cpu", "full")
        for run in item.runs_at(scale).values()
        if run not in PEERS
    }
    assert len(runs) > 50
    for run in runs:
        algorithm, preset, values = parse_run(run)
        assert configure(algorithm, preset, None, values) is not None and algorithm in REGISTRY


def test_quick_runs_stand_for_columns_and_orders_name_them():
    for paper in FILES:
        for item in load(paper).values():
            assert set(item.quick) <= set(item.runs) and set(item.order) <= set(item.columns)


def test_every_paper_has_what_the_texts_have():
    has = {name: (list(paper.tables), list(paper.figures)) for name, paper in PAPERS.items()}
    assert has == {
        "brac-plus": (["1", "2"], [str(n) for n in range(1, 9)]),
        "fisher-brc": (["1", "time"], [str(n) for n in range(1, 6)]),
        "miracle": ([], [str(n) for n in range(1, 6)]),
        "misa": (["1", "2", "3"], ["1"]),
        "fql": (["2", "3"], []),
    }


# --- Runs ----------------------------------------------------------------------


def test_trials_are_trained_and_then_read(done, options):
    assert [trial.run for trial in done.results] == ["bc+policy_rate=1e-4", "bc"]
    assert done.absent == ["pen-human-v0: no file on this disk and no recipe here"] and not done.left
    assert done.sources[TASK].about == "our recipe pendulum-medium, 2,000 rows"
    chosen = [json.loads((r.folder / "config.json").read_text())["config"] for r in done.results.values()]
    assert {config["precision"] for config in chosen} <= set(PRECISIONS)  # the trials say `auto`
    before = {t: (r.folder / "result.json").stat().st_mtime_ns for t, r in done.results.items()}
    again = finish(tables.trials(TABLE, options), options, lambda line: None)
    assert {t: (r.folder / "result.json").stat().st_mtime_ns for t, r in again.results.items()} == before
    assert list(again.results.values()) == list(done.results.values())


def test_time_that_is_over_leaves_the_rest_for_the_next_call(options, tmp_path, done):
    short = dataclasses.replace(options, runs=str(tmp_path), minutes=1e-9)
    trials = tables.trials(TABLE, short)
    stopped = finish(trials, short, lambda line: None)
    assert not stopped.results and stopped.left == trials
    # a run that was stopped between checkpoints goes on to the bits of one that was not
    source = source_of(TASK, False, short.scale)
    assert source is not None
    folder = folder_of(trials[0], source, short)
    with pytest.raises(experiments.OutOfTime):
        experiments.one(trials[0], source, setup_of(trials[0], short), folder, -1.0, lambda line: None)
    assert (folder / "checkpoint").exists() and not (folder / "result.json").exists()
    ended = finish(trials[:1], dataclasses.replace(short, minutes=0.0), lambda line: None)
    policies = [sorted((d.results[trials[0]].folder / "policy").glob("*.safetensors")) for d in (ended, done)]
    assert [p.read_bytes() for p in policies[0]] == [p.read_bytes() for p in policies[1]]


def test_a_folder_with_another_run_is_refused(done, options, monkeypatch):
    trial = next(iter(done.results))
    more = dataclasses.replace(options, seeds=3)
    with pytest.raises(BadInput, match="another seeds: remove it"):
        finish([trial], more, lambda line: None)
    with pytest.raises(BadInput, match="another steps"):
        finish([trial], dataclasses.replace(options, steps=21), lambda line: None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scale": "ful"}, "did you mean 'full'?"),
        ({"tasks": "pendulum-expert"}, "no task 'pendulum-expert' here"),
        ({"columns": "slo"}, "did you mean 'slow'?"),
        ({"minutes": -1.0}, "cannot be negative"),
    ],
)
def test_a_mistake_is_one_line(change, words, options):
    wrong = dataclasses.replace(options, **change)
    with pytest.raises(BadInput) as error:
        finish(tables.trials(TABLE, wrong), wrong, lambda line: None)
    assert words in str(error.value)


# --- Tables --------------------------------------------------------------------


def test_a_table_holds_both_numbers(done, options, tmp_path):
    values, files = tables.make(TABLE, "nobody table 1", tmp_path, done, options)
    rows = values["rows"]
    assert [(row["column"], row["paper"]) for row in rows] == [("slow", 10.0), ("fast", 20.0)]
    for row, result in zip(rows, done.results.values(), strict=True):
        finals = [member.score.final for member in result.members]
        tens = [member.score.last_10_mean for member in result.members]
        assert row["final"] == pytest.approx(sum(finals) / 2) and row["last ten"] == pytest.approx(
            sum(tens) / 2
        )
        assert (row["seeds"], row["diverged"], row["updates"]) == (2, 0, 20)
    assert [file.name for file in files] == ["nobody-table-1-smoke.md", "nobody-table-1-smoke.json"]
    text = files[0].read_text()
    assert "our recipe pendulum-medium, 2,000 rows" in text and "pen-human-v0: no file" in text
    assert json.loads(files[1].read_text())["rows"] == rows


def test_a_row_of_a_data_set_is_the_mean_of_its_tasks(monkeypatch):
    """Two seeds, five tasks: a seed's score is its own mean, and the interval is of the two."""
    scores = [{"final": [10.0 * n, 10.0 * n + n], "last_10_mean": []} for n in range(5)]
    monkeypatch.setattr(tables, "read_scores", lambda result: scores[result.n])
    monkeypatch.setattr(tables, "stopped", lambda result: [])
    results = [SimpleNamespace(n=n, members=(1, 2), diverged=(), steps=20) for n in range(5)]
    found = tables.row_of(load("fql")["table", "2"], "scene-play-v0", "FQL", "fql", "made", results)
    assert (found["finals"], found["final"], found["paper"]) == ([20.0, 22.0], 21.0, 56.0)
    assert found["last ten"] is None and (found["seeds"], found["updates"]) == (2, 20)
    trials = tables.trials(load("fql")["table", "2"], Options(tasks="scene-play-v0", columns="BC"))
    assert [trial.task for trial in trials] == [f"scene-play-singletask-task{n}-v0" for n in range(1, 6)]


def rows_of(*numbers: tuple[str, str, float | None]) -> list[dict]:
    more = {"paper": 1.0, "last ten": 2.0, "diverged": 1}
    return [
        {"task": task, "column": column, "final": x, "finals": [] if x is None else [x - 1, x + 1]} | more
        for task, column, x in numbers
    ]


def test_the_order_is_looked_at_task_by_task_and_in_sum():
    rows = rows_of(("a", "slow", 1.0), ("a", "fast", 2.0), ("b", "slow", 3.0), ("b", "fast", 1.5))
    found = tables.order_of(TABLE, rows, ["a", "b"])
    assert [row["holds"] for row, _ in found] == [True, False, False]  # 4.0 and 3.5 in sum
    assert found[0][1] == "- a: slow < fast holds (slow 1.0, fast 2.0)"
    assert "the sum of 2 tasks: slow < fast does not hold (slow 4.0, fast 3.5)" in found[2][1]
    lost = rows_of(("a", "slow", None), ("a", "fast", 2.0))  # all its seeds diverged
    assert tables.order_of(TABLE, lost, ["a"]) == []


def test_sums_over_tasks():
    found = tables.over(rows_of(("a", "slow", 1.0), ("b", "slow", 3.0)), "slow")
    # of 0, 2, 2, 4 the middle half is 2, 2
    assert found == {"column": "slow", "paper": 2.0, "final": 4.0, "last ten": 4.0, "IQM": 2.0, "diverged": 2}
    assert tables.over(rows_of(("a", "slow", None)), "slow")["final"] is None


def test_neighbours_explain_nothing_of_noise():
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    assert abs(explained(x, rng.normal(size=400)) + 0.1) < 0.15  # 1 - (1 + 1/10), the mean of ten draws
    assert explained(x, x[:, 0]) > 0.9


# --- Seeds that diverged -------------------------------------------------------


@pytest.fixture
def fallen(done, options, tmp_path) -> tuple[experiments.Done, Options]:
    """The same runs; of `slow` the second seed, of `fast` both have diverged, one without a finite policy."""
    runs = shutil.copytree(options.runs, tmp_path / "runs")
    scored = {"step": 7, "metric": "policy_loss", "return": -1e3, "score": 5.0}
    broken = {"step": 9, "metric": "state", "return": None, "score": None}
    for result, ends in zip(done.results.values(), ((None, scored), (broken, scored)), strict=True):
        file = runs / result.folder.relative_to(options.runs) / "result.json"
        with edited(file) as values:
            for member, end in zip(values["members"], ends, strict=True):
                if end:
                    member |= {"diverged": end, "score": {"final": None, "last_10_mean": 90.0}}
    moved = dataclasses.replace(options, runs=str(runs))
    return finish(tables.trials(TABLE, moved), moved, lambda line: None), moved


def test_a_seed_that_diverged_is_scored_at_its_last_finite_policy_and_marked(fallen, done, tmp_path):
    values, files = tables.make(TABLE, "nobody table 1", tmp_path, *fallen)
    slow, fast = values["rows"]
    first = next(iter(done.results.values())).members[0].score.final
    assert slow["finals"] == [first, 5.0] and slow["final"] == pytest.approx((first + 5.0) / 2)
    assert slow["stopped"] == ["seed-1 diverged at update 7: its last finite policy is scored"]
    assert fast["finals"] == [5.0] and fast["diverged"] == 2 and fast["last ten"] == 5.0
    text = files[0].read_text()
    assert f"{slow['final']:.1f} †" in text and "5.0 †" in text
    assert "† slow: seed-1 diverged at update 7: its last finite policy is scored." in text
    assert "seed-0 diverged at update 9: it has no finite policy" in text
    assert json.loads(files[1].read_text())["rows"][0]["stopped"] == slow["stopped"]
    results = list(fallen[0].results.values())
    assert told(results[1]).startswith("score 5.0; seed-0 diverged at update 9")
    # The run itself still says that no seed came to an end.
    assert [m.score.final for m in results[1].members] == [None, None]


def test_a_curve_that_was_stopped_has_a_cross(fallen, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    drawn = []
    monkeypatch.setattr(panels, "cross", lambda axes, points, colour: drawn.append(points))
    figure = Printed("source", "two clonings", "claim", runs=TABLE.runs, quick=TABLE.quick, tasks=(TASK,))
    values, _ = panels.make(figure, "nobody figure 2", tmp_path, *fallen)
    assert drawn == [[(7, 5.0)], [(7, 5.0)]]  # the seed without a finite policy has none
    assert [row["last finite policy"] for row in values["rows"]] == [5.0, 5.0]
    assert all("diverged at update 7" in row["stopped"] for row in values["rows"])


@pytest.mark.parametrize(
    ("ends", "wanted"),
    [([None, None], (0, None)), ([3, None], (1, None)), ([3, 9], (0, 3))],
)
def test_misas_figure_takes_a_seed_that_came_to_its_end(ends, wanted, done):
    result = next(iter(done.results.values()))
    stopped = [end and Divergence(end, "td_loss") for end in ends]
    members = [dataclasses.replace(result.members[0], diverged=end) for end in stopped]
    assert seed_of(dataclasses.replace(result, members=tuple(members))) == wanted


# --- Figures -------------------------------------------------------------------


def test_curves_are_drawn_and_rows_say_where_they_end(done, options, tmp_path):
    figure = Printed("source", "two clonings", "claim", runs=TABLE.runs, quick=TABLE.quick, tasks=(TASK,))
    asked = dataclasses.replace(options, columns="fast")
    values, files = panels.make(figure, "nobody figure 2", tmp_path, done, asked)
    (row,) = values["rows"]
    result = done.results[Trial(TASK, "bc")]
    assert row["final"] == pytest.approx(result.score.mean) and row["updates"] == 20
    assert files[0].read_bytes().startswith(b"\x89PNG")


def command(*argv: str) -> dict:
    """The JSON of `leashrl paper ...`."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
        assert main(["paper", *argv, "--json"]) == 0
    return json.loads(out.getvalue())


@pytest.mark.slow
def test_misas_table_and_figure_share_their_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("misa")
    out, runs = ("--out", str(folder)), f"runs={folder / 'runs'}"
    where = ["--scale", "smoke", *out, "--set", runs, "tasks=hopper-medium-v2"]
    table = command("misa", "--table", "1", *where, "columns=BA,MISA")
    assert [row["paper"] for row in table["rows"]] == [1.2, 67.1]
    assert all(row["final"] is not None and "our recipe" in row["data"] for row in table["rows"])
    times = lambda: {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    ended = times()
    figure = command("misa", "--figure", "1", *where)
    assert times() == ended and len(ended) == 2
    assert [row["run"] for row in figure["rows"]] == ["BA", "MISA"]
    assert all(-1 <= row["R² of the layer"] <= 1 for row in figure["rows"])


@pytest.mark.slow
def test_a_figure_of_online_runs_makes_them(tmp_path):
    more = ["--scale", "smoke", "--out", str(tmp_path), "--set", f"runs={tmp_path / 'runs'}"]
    found = command("miracle", "--figure", "2", *more, "tasks=reacher", "columns=SAC")
    (row,) = found["rows"]
    assert (row["task"], row["method"], row["seeds"]) == ("reacher", "SAC", 2)


@pytest.mark.slow
def test_a_figure_of_brac_plus_makes_its_runs(tmp_path):
    more = ["--scale", "smoke", "--out", str(tmp_path), "--set", f"runs={tmp_path / 'runs'}", "states=50"]
    found = command("brac-plus", "--figure", "3", *more, "tasks=hopper-medium-replay-v0", "columns=global")
    (row,) = found["rows"]
    assert row["members"] == 2 and row["variant"].startswith("KL, one multiplier")


@pytest.mark.slow
def test_the_time_table(tmp_path, monkeypatch):
    monkeypatch.setattr("leashrl.bench.matmul_rate", lambda name: 1e9)  # ten seconds, and not in the table
    found = command("fisher-brc", "--table", "time", "--out", str(tmp_path), "--set", "seconds=0.05")
    assert [row["paper, hours"] for row in found["rows"]] == [1.4, 6.2, 16.3]
    for row in found["rows"]:
        assert row["hours"] == pytest.approx(1e6 / row["updates per second"] / 3600)


@pytest.mark.slow
def test_fqls_table_runs_on_data_made_on_the_spot(tmp_path, monkeypatch):
    """At `smoke`: two episodes made by the package's oracles, two columns trained and scored."""
    monkeypatch.setenv("LEASHRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OGBENCH_DATASET_DIR", str(tmp_path))
    task = "cube-single-play-singletask-task2-v0"
    chosen = Options(scale="smoke", tasks=task, columns="BC,FQL", runs=str(tmp_path / "runs"))
    table = load("fql")["table", "3"]
    ended = finish(tables.trials(table, chosen), chosen, lambda line: None)
    values, files = tables.make(table, "fql table 3", tmp_path, ended, chosen)
    assert [(row["column"], row["paper"], row["updates"]) for row in values["rows"]] == [
        ("BC", 3.0, 20),
        ("FQL", 97.0, 20),
    ]
    assert all(0 <= row["final"] <= 100 and row["seeds"] == 2 for row in values["rows"])
    assert "our recipe cube-single-play-v0, 2,002 rows" in files[0].read_text()
