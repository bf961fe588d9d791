"""The demo and the drawing of learning curves."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from leashrl import demo
from leashrl.data import load
from leashrl.data.recipes import make
from leashrl.disk.files import Lines, read_json
from leashrl.errors import BadInput
from leashrl.report import plots

TINY = demo.Size(seeds=2, steps=4, evaluations=2, episodes=1)


def run_folder(folder: Path, rows: list[tuple[int, int, float | None]]) -> Path:
    """A run of (step, seed, score) evaluations, with returns of ten times the score."""
    folder.mkdir(parents=True)
    lines = [
        {"step": step, "seed": seed, "return": 10 * (score or 0.0), "score": score}
        for step, seed, score in rows
    ]
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


# --- Curves ------------------------------------------------------------------


def test_a_curve_pools_members_of_all_runs(tmp_path):
    a = run_folder(tmp_path / "a", [(10, 0, 1.0), (20, 0, 4.0), (10, 1, 3.0), (20, 1, 4.0)])
    b = run_folder(tmp_path / "b", [(10, 2, 5.0)])
    what, points = plots.curve([a, b])
    assert what == "score"
    assert [(step, mean) for step, mean, _, _ in points] == [(10, 3.0), (20, 4.0)]
    half = 6.2053 * 2 / 3**0.5  # members 1, 3, 5: standard deviation 2, t of 2 degrees of freedom
    assert points[0][2:] == pytest.approx((3 - half, 3 + half), rel=1e-4)
    assert points[1][2:] == (None, None)  # two members at the same score tell nothing of their scatter


def test_without_reference_scores_returns_are_drawn(tmp_path):
    run = run_folder(tmp_path / "a", [(10, 0, None)])
    rows = Lines.read(run / "evaluations.jsonl")
    assert plots.curve([run]) == ("return", [(10, rows[0]["return"], None, None)])


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_picture_is_drawn(tmp_path, ending):
    run = run_folder(tmp_path / "a", [(1000, 0, 1.0), (2000, 0, 55.5)])
    out = plots.draw({"ours": [run]}, tmp_path / f"c.{ending}", "A title", levels={"data": 50.0})
    assert {"png": b"\x89PNG\r\n\x1a\n", "svg": b"<svg"}[ending] in out.read_bytes()[:900]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", f"c.{ending}"]


def test_more_labels_than_colours_are_told_apart(tmp_path):
    run = run_folder(tmp_path / "a", [(10, 0, 1.0)])
    count = len(plots.COLOURS)
    drawn = {
        n: plots.draw({str(i): [run] for i in range(n)}, tmp_path / f"{n}.svg", "")
        for n in (count, count + 1)
    }
    few, many = (path.read_text().lower() for path in drawn.values())
    assert all(colour.lower() in few for colour in plots.COLOURS)
    dashes = "stroke-dasharray: [1-9]"  # the seventh has the first one's colour, but is dashed
    assert not re.search(dashes, few) and re.search(dashes, many)


def test_what_cannot_be_drawn_is_said_in_one_line(tmp_path):
    scored = run_folder(tmp_path / "scored", [(10, 0, 1.0)])
    bare = run_folder(tmp_path / "bare", [(10, 0, None)])
    cases = [
        ({}, "c.png", "no runs to draw"),
        ({"x": [tmp_path / "nowhere"]}, "c.png", "holds no evaluations"),
        ({"x": [scored, bare]}, "c.png", "draw them apart"),
        ({"x": [scored], "y": [bare]}, "c.png", "two pictures"),
        ({"x": [scored]}, "c.hdf5", "name it .png"),
        ({"x": [scored]}, "c", "name it .png"),
        ({"x": [scored]}, "missing/c.png", "cannot write"),
    ]
    for runs, name, words in cases:
        with pytest.raises(BadInput, match=words) as error:
            plots.draw(runs, tmp_path / name, "T")
        assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "scored"]


def test_without_matplotlib_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BadInput, match=r"pip install 'leashrl\[report\]'$"):
        demo.demo(tmp_path / "demo", TINY)
    assert not (tmp_path / "demo").exists()


# --- The demo ----------------------------------------------------------------


def test_the_demo_runs_twice_and_says_the_same(tmp_path, monkeypatch, capfd):
    # bc alone, since compiling MISA takes half a minute; `.ci/run` runs all of it.
    monkeypatch.setattr(demo, "ALGORITHMS", {"bc": demo.ALGORITHMS["bc"]})
    first = demo.demo(tmp_path / "demo", TINY)
    (tmp_path / "demo" / "curves.png").unlink()
    assert demo.demo(tmp_path / "demo", TINY) == first

    # The behaviour's row by hand: returns between the reference scores of the task.
    returns = load(make(demo.RECIPE, tmp_path / "again.hdf5")).returns()
    score = 100 * (returns.mean() + 1228.7) / (1228.7 - 150.0)
    assert first[1].split()[:4] == ["behaviour", "(the", "data)", f"{score:.1f}"]
    result = read_json(tmp_path / "demo" / "bc" / "result.json")
    assert first[2].split()[:2] == ["bc", f"{result['score']['mean']:.1f}"]
    assert first[2].endswith("2 seeds")
    low, high = result["score"]["low"], result["score"]["high"]
    ends = f"{low:.1f} to {high:.1f}".split() if low is not None else ["–"]  # both seeds may score the same
    assert first[2].split()[2:-2] == ends
    assert (tmp_path / "demo" / "curves.png").stat().st_size > 10_000
    out, err = capfd.readouterr()
    assert out == "" and "bc: update 2 of 4" in err and "\x1b" not in err and "\r" not in err


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path, capfd):
    run = run_folder(tmp_path / "mine" / "misa", [(10, 0, 1.0)])
    assert demo.main(["--out", str(tmp_path / "mine")]) == 2
    assert "something else than a demo" in capfd.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["misa"] and any(run.iterdir())


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--quik"], "did you mean '--quick'"),
        (["there"], "no option 'there'"),
        (["--out"], "expected one argument"),
        (["--out", __file__], "cannot make the folder"),
    ],
)
def test_a_mistake_is_one_line(argv, words, capfd):
    assert demo.main(argv) == 2
    out, err = capfd.readouterr()
    assert out == "" and words in err and err.count("\n") == 1 and err.startswith("leashrl.demo: error: ")


def test_ctrl_c_leaves_a_run_to_resume(tmp_path):
    command = [sys.executable, "-m", "leashrl.demo", "--out", str(tmp_path / "demo")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr and process.stdout
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("bc: update 500 "):
                process.send_signal(signal.SIGINT)
        assert process.stdout.read() == ""
    assert process.returncode == 130
    run = tmp_path / "demo" / "bc"
    assert lines[-1] == (
        f"leashrl.demo: interrupted: `leashrl resume {run}` goes on, or the same command starts again\n"
    )
    assert not any("Traceback" in line for line in lines)
    assert list((run / "checkpoint").iterdir()) and not (run / "result.json").exists()
