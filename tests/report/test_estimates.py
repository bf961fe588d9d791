"""`leashrl report --fqe`: estimated values on the page, and what they are said to be."""

import json
import re

import pytest

import leashrl
from leashrl.errors import BadInput
from leashrl.report import report
from leashrl.report.estimates import answer, estimated, section
from leashrl.report.html import page, styles
from leashrl.report.reading import lines_of, read_run, read_runs


def estimates(rows, logged=10.0):
    """What `fqe.json` holds, of (member, value, half the interval, flags)."""
    policies = []
    for rank, (member, value, half, flags) in enumerate(rows, 1):
        ends = (None, None) if value is None or half is None else (value - half, value + half)
        row = {"member": member, "value": value, "low": ends[0], "high": ends[1], "flags": flags}
        policies.append(row | {"rank": value and rank, "rank_low": 1, "rank_high": len(rows)})
    return {"policies": policies, "data": {"value": {"held_out": logged}}}


def run(folder, algorithm, rows, seeds, evaluated=False):
    """A finished run's files, without a simulator unless `evaluated`."""
    folder.mkdir(parents=True)
    about = {"name": "logs", "source": "logs.hdf5", "hash": "ab" * 32, "rows": 400, "transitions": 399}
    plan = {"algorithm": algorithm, "preset": "default", "config": {"steps": 10}, "data": about}
    plan["task"] = "pendulum" if evaluated else None
    plan |= {"members": [{"seed": s} for s in seeds], "episodes": 0, "versions": {"python": "3.11"}}
    (folder / "config.json").write_text(json.dumps(plan))
    names = [f"seed-{s}" for s in seeds]
    score = {"final": 50.0, "last_10_mean": 50.0}
    members = [{"name": n, "score": score, "return": score, "diverged": None} for n in names]
    (folder / "result.json").write_text(json.dumps({"members": members}))
    (folder / "metrics.jsonl").write_text("")
    found = [{"step": 10, "seed": s, "return": 5.0, "score": 50.0, "returns": [5.0]} for s in seeds]
    lines = "".join(json.dumps(row) + "\n" for row in found) if evaluated else ""
    (folder / "evaluations.jsonl").write_text(lines)
    if rows is not None:
        (folder / "fqe.json").write_text(json.dumps(estimates(rows)))
    return folder


def read(*folders):
    runs, problems = read_runs(folders)
    return runs, lines_of(runs), problems


def text_of(markup):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", markup))


def test_the_best_estimate_is_the_answer_where_nothing_was_evaluated(tmp_path):
    bc = run(tmp_path / "bc", "bc", [("seed-0", 12.0, 1.0, []), ("seed-1", 9.0, 1.0, [])], [0, 1])
    iql = run(tmp_path / "iql", "iql", [("seed-0", 12.5, 2.0, ["leaves the data"])], [0])
    runs, lines, problems = read(bc, iql)
    assert [(label, m.name, row["value"]) for label, m, row in estimated(lines)] == [
        ("iql", "seed-0", 12.5), ("bc", "seed-0", 12.0), ("bc", "seed-1", 9.0),
    ]  # fmt: skip
    said = text_of(answer(estimated(lines)))
    assert said.startswith("iql, seed-0 has the highest estimate, 12.50 (95 % interval 10.50 to 14.50)")
    assert (
        "behaviour is worth 10.00. One other interval reaches into it." in said
    )  # bc's 11 to 13; 8 to 10 does not
    assert "do not choose by them" in said
    whole = page(runs, lines, problems, None)
    assert whole.index("has the highest estimate") < whole.index('id="seeds"')
    assert 'href="#answer">Estimates<' in whole and "Nothing was evaluated" not in whole


def test_beside_scores_they_are_a_section(tmp_path):
    runs, lines, problems = read(
        run(tmp_path / "bc", "bc", [("seed-0", 12.0, None, [])], [0], evaluated=True)
    )
    whole = page(runs, lines, problems, None)
    assert whole.index('id="answer"') < whole.index('id="estimates"')
    said = text_of(section(lines, styles(lines)))
    assert "highest estimate, 12.00; the logged" in said and "interval reaches" not in said
    _, lines, _ = read(run(tmp_path / "none", "bc", None, [0]))
    assert section(lines, styles(lines)) is None


def test_a_value_that_diverged_comes_last(tmp_path):
    rows = [("seed-0", None, None, ["diverged"]), ("seed-1", -3.0, 1.0, [])]
    _, lines, _ = read(run(tmp_path / "bc", "bc", rows, [0, 1]))
    assert [row["value"] for _, _, row in estimated(lines)] == [-3.0, None]
    assert "−3.000" in answer(estimated(lines))
    (tmp_path / "bc" / "fqe.json").write_text(json.dumps(estimates(rows[:1])))
    _, lines, _ = read(tmp_path / "bc")
    assert "No critic" in answer(estimated(lines))


@pytest.mark.parametrize("text", ["[]", "{}", '{"policies": [{}], "data": {"value": {"held_out": 1}}}', "no"])
def test_a_damaged_file_is_told(tmp_path, text):
    folder = run(tmp_path / "bc", "bc", [("seed-0", 1.0, 1.0, [])], [0])
    (folder / "fqe.json").write_text(text)
    with pytest.raises(BadInput, match=r"fqe\.json"):
        read_run(folder)


@pytest.mark.slow
def test_the_command_leaves_values_in_the_runs(place, cli):
    options = {"hidden": (8, 8), "batch_size": 32}
    for name in ("bc", "td3-bc"):
        leashrl.train(name, "data.hdf5", task="none", seeds=1, steps=20, options=options, out=f"runs/{name}")
    leashrl.train(
        "bc", leashrl.load("data.hdf5"), task="none", seeds=1, steps=20, out="memory", options=options
    )
    _, err = cli("report", "runs", "--fqe", "60", "--out", "page.html")
    assert "estimating the values of" in err
    values = {}
    for name in ("bc", "td3-bc"):
        (row,) = leashrl.disk.folder.RunFolder(place / "runs" / name).fqe()["policies"]
        values[name] = row["value"]
    assert "has the highest estimate" in (place / "page.html").read_text()
    best = max(values, key=values.get)
    assert report(["runs"], "again.html").runs == 2
    assert f"<b>{best}, seed-0</b>" in (place / "again.html").read_text()
    retrained = {"task": "none", "seeds": 1, "steps": 20, "options": options, "out": "runs/bc"}
    leashrl.train("bc", "data.hdf5", overwrite=True, **retrained)  # fqe.json is ours, and in nobody's way
    assert not (place / "runs" / "bc" / "fqe.json").exists()
    _, err = cli("report", "memory", "--fqe", "60", "--out", "memory.html")
    assert "no values of memory" in err and "--data" in err
