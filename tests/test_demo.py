"""The demo: what it leaves, what it says, and how it is stopped."""

import signal
import subprocess
import sys

import pytest

from leashrl import demo
from leashrl.data import load
from leashrl.data.recipes import make
from leashrl.disk.files import read_json
from leashrl.errors import BadInput
from support.files import write_lines

TINY = demo.Size(seeds=2, steps=4, evaluations=2, episodes=1)


def test_without_matplotlib_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BadInput, match=r"pip install 'leashrl\[report\]'$"):
        demo.demo(tmp_path / "demo", TINY)
    assert not (tmp_path / "demo").exists()


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
    run = tmp_path / "mine" / "misa"
    run.mkdir(parents=True)
    write_lines(run / "evaluations.jsonl", [{"step": 10, "seed": 0, "return": 10.0, "score": 1.0}])
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


@pytest.mark.slow
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
