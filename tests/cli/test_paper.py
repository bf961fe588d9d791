"""`leashrl paper`, as a newcomer and as a script use it."""

import sys

import pytest

from leashrl.cli import main, paper
from leashrl.papers import PAPERS
from leashrl.papers.protocols import Options

FIGURE = ["paper", "miracle", "--figure", "1"]
SMALL = ["--set", "size=3", "tolerance=0.02"]


def test_lists(capsys, document):
    found = document("paper", "miracle", "--list")
    assert set(found) == {"tables", "figures"} and "1" in found["figures"]
    rows = document("paper")["papers"]
    assert [row["name"] for row in rows] == sorted(PAPERS) and {"name": "miracle"} | found in rows
    for argv in (["paper", "miracle", "--list"], ["paper", "miracle"]):
        assert main(argv) == 0
        assert "--figure 1" in capsys.readouterr().out
    assert main(["paper"]) == 0
    assert "miracle" in capsys.readouterr().out


def test_figure_1(tmp_path, document):
    out = tmp_path / "deep" / "er"
    found = document(*FIGURE, *SMALL, "--out", str(out))
    assert found["paper"] == "miracle" and found["figure"] == "1" and found["options"]["size"] == 3
    assert found["files"] == [str(out / "miracle-figure-1.png")]
    assert (out / "miracle-figure-1.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in out.iterdir()] == ["miracle-figure-1.png"]
    rows, limits = found["rows"], found["limits"]
    assert (rows[0]["beta"], rows[-1]["beta"], len(rows)) == (0.01, 100.0, 17)
    assert all(row["converged"] for row in rows)
    assert limits["optimal"]["corner"] == pytest.approx(
        -1 - 0.9 - 0.81 + 0.729 * 9
    )  # three steps, then the goal
    for state in ("mean", "corner", "next"):
        assert rows[0][f"mi {state}"] == pytest.approx(limits["best state-independent"][state], abs=0.2)
        assert rows[-1][f"mi {state}"] == pytest.approx(limits["optimal"][state], abs=0.05)
        assert rows[-1][f"soft {state}"] == pytest.approx(limits["optimal"][state], abs=0.1)
        assert all(row[f"mi {state}"] > row[f"soft {state}"] for row in rows)


def test_figure_1_as_a_table_and_over_an_older_one(tmp_path, capsys):
    file = tmp_path / "miracle-figure-1.png"
    file.write_bytes(b"old")
    assert main([*FIGURE, *SMALL, "rule=policy", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "beta" and len({len(line) for line in lines[:18]}) == 1
    assert lines[1].split()[0] == "0.01" and lines[17].split()[-1] == "yes"
    assert lines[18:] == [str(file)] and file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["paper", "miracel", "--figure", "1"], "did you mean 'miracle'?"),
        (["paper", "miracle", "--figure", "9"], "'miracle' has no figure '9': known: 1"),
        (["paper", "miracle", "--table", "1"], "no table '1'"),
        (["paper", "miracle", "--figure", "1", "--table", "1"], "not allowed with"),
        (["paper", "miracle", "--figur", "1"], "did you mean '--figure'?"),
        (["paper", "--figure", "1"], "of which paper?"),
        (["paper", "miracle", *SMALL], "--set needs --figure or --table"),
        ([*FIGURE, "--set", "sise=3"], "did you mean 'size'?"),
        ([*FIGURE, "--set", "size=big"], "option 'size' must be a whole number"),
        ([*FIGURE, "--set", "size=1"], "size >= 2"),
        ([*FIGURE, "--set", "rule=held"], "rule=gap or policy"),
        ([*FIGURE, "--out", __file__], "cannot write"),
        ([*FIGURE, "--out", "/proc/nowhere"], "cannot write"),
    ],
)
def test_a_mistake_is_one_line(argv, words, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    assert words in refused(*argv)


def test_without_matplotlib_it_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main([*FIGURE, *SMALL, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said == "leashrl: error: pictures need matplotlib: pip install 'leashrl[report]'\n"


def test_every_entry_is_complete():
    for name, entry in PAPERS.items():
        assert entry.about and (entry.tables or entry.figures), name
        for _, number, item in paper.items(entry):
            assert item.about and callable(item.make) and number
            options = item.options or Options()
            assert item.options or item.trials
            assert all(field in (type(options).__doc__ or "") for field in vars(options))
