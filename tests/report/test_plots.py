"""Learning curves: what is pooled, and what is drawn of it."""

import re
from pathlib import Path

import pytest

from leashrl.disk.files import Lines
from leashrl.errors import BadInput
from leashrl.report import plots
from support.files import write_lines


def run_folder(folder: Path, rows: list[tuple[int, int, float | None]]) -> Path:
    """A run of (step, seed, score) evaluations, with returns of ten times the score."""
    folder.mkdir(parents=True)
    lines = [
        {"step": step, "seed": seed, "return": 10 * (score or 0.0), "score": score}
        for step, seed, score in rows
    ]
    write_lines(folder / "evaluations.jsonl", lines)
    return folder


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
