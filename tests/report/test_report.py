"""`leashrl report`: the numbers by hand, the words, and the page in a real Chromium."""

import csv
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from leashrl.cli import main
from leashrl.cli.runs import score_lines
from leashrl.errors import BadInput
from leashrl.evaluate.statistics import performance_profile, probability_of_improvement, summary
from leashrl.report import report
from leashrl.report.comparison import compare
from leashrl.report.failures import notes
from leashrl.report.html import page
from leashrl.report.reading import lines_of, read_runs
from leashrl.report.summary import answer
from leashrl.report.tables import comparisons, latex, summaries
from support.files import edited, read_lines, write_lines

EVIL = "<script>alert(1)</script>&\"'"


def make_run(
    folder: Path,
    algorithm: str,
    finals: list[float],
    *,
    data: str = "pendulum-medium",
    options: dict | None = None,
    preset: str = "default",
    finished: bool = True,
    diverged: dict[int, tuple[int, str]] | None = None,
    growth: float = 1.0,
    scored: bool = True,
    seeds: list[int] | None = None,
    digest: str = "ab" * 32,
) -> Path:
    """A run's files as `train` leaves them: two evaluations a seed, the first at half the final score."""
    seeds, diverged = seeds or list(range(len(finals))), diverged or {}
    folder.mkdir(parents=True)
    about = {"name": data, "source": f"{data}.hdf5", "hash": digest, "rows": 400, "transitions": 399}
    about |= {"action_space": {"kind": "Box", "low": [-2.0], "high": [2.0]}, "action_space_assumed": False}
    versions = {"python": "3.11.7", "jax": "0.10.2"}
    config = {"steps": 1000, "hidden": [8, 8], "preprocess": {"obs": "none"}} | (options or {})
    plan = {"algorithm": algorithm, "preset": preset, "config": config, "data": about, "task": "pendulum"}
    plan |= {"members": [{"seed": s} for s in seeds], "episodes": 2, "versions": versions}
    (folder / "config.json").write_text(json.dumps(plan))
    metrics, evaluations, members = [], [], []
    for seed, final in zip(seeds, finals, strict=True):
        fell = diverged.get(seed)
        for step in range(100, 1001, 100):
            if fell is None or step <= fell[0]:
                q = 40.0 * growth ** (step / 100) if fell else 50.0
                metrics.append({"step": step, "stage": "train", "seed": seed, "q_data": q, "acceptance": 0.5})
        for step, value in ((500, final / 2), (1000, final)):
            if fell is None or step <= fell[0]:
                row = {"step": step, "seed": seed, "return": value * 10, "score": value if scored else None}
                evaluations.append(row | {"returns": [value * 10 - 1, value * 10 + 1], "lengths": [200, 200]})
        end = None if fell else final
        score = (
            {"final": end, "last_10_mean": 0.75 * final} if scored else {"final": None, "last_10_mean": None}
        )
        member = {"name": f"seed-{seed}", "seed": seed, "score": score}
        member |= {"return": {"final": end and 10 * end, "last_10_mean": 7.5 * final}}
        members.append(member | {"diverged": fell and {"step": fell[0], "metric": fell[1]}})
    for name, rows in (("metrics", metrics), ("evaluations", evaluations)):
        write_lines(folder / f"{name}.jsonl", rows)
    if finished:
        result = {"algorithm": algorithm, "members": members, "versions": versions}
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def read(*folders: Path):
    runs, problems = read_runs(folders)
    assert problems == []
    return lines_of(runs)


# --- Statistics --------------------------------------------------------------


def test_a_performance_profile_by_hand():
    scores = np.array([[1.0, 10.0], [2.0, 30.0]])
    # above 0: all 4; above 1: 2, 10, 30; above 2: 10, 30; above 10: 30; above 30: none
    assert performance_profile(scores, [0, 1, 2, 10, 30]).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert performance_profile(np.stack([scores, scores + 100]), [30.0]).tolist() == [[0.0], [1.0]]


def test_the_probability_of_improvement_by_hand():
    # task 1: 3 > 1, 3 = 3, 5 > 1, 5 > 3: 3.5 of 4; task 2: 7 < 8, 7 = 7, and again: 1 of 4
    a, b = np.array([[3.0, 7.0], [5.0, 7.0]]), np.array([[1.0, 8.0], [3.0, 7.0]])
    assert probability_of_improvement(a, b) == pytest.approx((3.5 / 4 + 1 / 4) / 2)
    assert probability_of_improvement(a, b) + probability_of_improvement(b, a) == pytest.approx(1.0)
    # unequal numbers of runs: 4 > 1, 4 > 2, not 4 > 9
    assert probability_of_improvement([[4.0]], [[1.0], [2.0], [9.0]]) == pytest.approx(2 / 3)
    with pytest.raises(BadInput, match="the same tasks"):
        probability_of_improvement([[1.0, 2.0]], [[1.0]])


# --- Reading and labelling ---------------------------------------------------


def test_runs_are_found_below_and_pooled(tmp_path):
    make_run(tmp_path / "a" / "iql", "iql", [10.0, 20.0])
    make_run(tmp_path / "b" / "iql-more", "iql", [60.0], seeds=[2])
    make_run(tmp_path / "b" / "deep" / "bc", "bc", [5.0, 7.0, 9.0])
    (tmp_path / "b" / "other").mkdir()
    (tmp_path / "b" / "other" / "config.json").write_text("{}")  # many programs have one
    (tmp_path / "b" / "back").symlink_to(tmp_path, target_is_directory=True)
    rows = summaries(read(tmp_path))
    assert [(r["label"], r["mean"], r["n"]) for r in rows] == [("iql", 30.0, 3), ("bc", 7.0, 3)]
    assert rows[0]["last_10_mean"] == pytest.approx(0.75 * 30)
    half = 6.2053 * 2 / 3**0.5  # t of 2 degrees of freedom, standard deviation 2
    assert (rows[1]["low"], rows[1]["high"]) == pytest.approx((7 - half, 7 + half), abs=1e-3)


def test_labels_say_what_sets_runs_apart(tmp_path):
    for name, options in {"a": {"k": 1}, "b": {"k": 1}, "c": {"k": 5}, "d": {"k": 1}}.items():
        seeds = [0] if name != "d" else [7]
        make_run(tmp_path / name, "misa", [1.0], options=options, seeds=seeds)
    make_run(tmp_path / "e", "misa", [1.0], options={"k": 9}, preset="paper")
    make_run(tmp_path / "f", "misa", [1.0], data="other", options={"k": 3})
    found = [(line.place, line.label) for line in read(tmp_path)]
    twice = [f"misa ({tmp_path.name}/{name})" for name in "abd"]  # seed 0 of the same settings came twice
    assert found == [
        ("other", "misa"),
        *(("pendulum-medium", label) for label in sorted([*twice, "misa k=5", "misa paper"])),
    ]


def test_data_of_one_name_but_other_contents_is_not_pooled(tmp_path):
    make_run(tmp_path / "a", "bc", [1.0])
    make_run(tmp_path / "b", "bc", [1.0], digest="cd" * 32)
    assert [line.place for line in read(tmp_path)] == ["pendulum-medium [ababab]", "pendulum-medium [cdcdcd]"]


def test_members_of_one_run_with_other_options_are_lines_of_their_own(tmp_path):
    folder = make_run(tmp_path / "a", "bc", [1.0, 3.0])
    with edited(folder / "config.json") as config:
        config["members"] = [{"seed": 0, "rate": 0.1}, {"seed": 0, "rate": 0.2}]
    (folder / "result.json").unlink()
    rows = [{"step": 5, "return": 1.0, "score": 10.0 * m["rate"]} | m for m in config["members"]]
    write_lines(folder / "evaluations.jsonl", rows)
    assert [(line.label, line.finals) for line in read(tmp_path)] == [
        ("bc rate=0.1", [1.0]),
        ("bc rate=0.2", [2.0]),
    ]


# --- What went wrong ---------------------------------------------------------


def test_a_diverged_seed_is_told_in_plain_words(tmp_path):
    make_run(tmp_path / "cql", "cql", [10.0, 20.0, 30.0], diverged={2: (700, "q_data")}, growth=10.0)
    (note,) = notes(read(tmp_path))
    # five lines, steps 300 to 700: 40 * 10^3 to 40 * 10^7
    assert note["text"] == (
        "Seed 2 of cql stopped at step 700: q_data became non-finite, or larger than any reward allows. In "
        "the 5 lines logged before, it had gone from 40,000 to 4e+08: the critic diverged. The other 2 seeds "
        "went on."
    )
    (row,) = summaries(read(tmp_path))
    assert (row["n"], row["of"], row["mean"], row["diverged"]) == (2, 3, 15.0, ["seed-2"])


def test_a_sudden_end_an_early_one_and_a_policys(tmp_path):
    make_run(tmp_path / "a", "a", [1.0], diverged={0: (700, "td_loss")})
    make_run(tmp_path / "b", "b", [1.0], diverged={0: (50, "state")})
    make_run(tmp_path / "c", "c", [1.0], diverged={0: (1000, "action")})
    said = {note["text"].split()[3]: note["text"] for note in notes(read(tmp_path))}
    assert "nothing had grown tenfold: it came suddenly. No seed of it is left." in said["a"]
    assert "its parameters became non-finite; nothing was logged before" in said["b"]
    assert "its policy gave an action that is not finite" in said["c"]


def test_an_unfinished_run_counts_as_far_as_it_got(tmp_path):
    make_run(tmp_path / "bc", "bc", [10.0, 20.0], finished=False)
    lines = read(tmp_path)
    (note,) = notes(lines)
    assert (
        note["kind"] == "unfinished" and "stands at step 1,000 of 1,000; its last evaluation" in note["text"]
    )
    assert note["command"] == f"leashrl resume {tmp_path / 'bc'}" and summaries(lines)[0]["mean"] == 15.0


def test_values_beyond_all_others_are_suspicious(tmp_path):
    make_run(tmp_path / "a", "iql", [1.0, 1.0, 1.0, 1.0])
    odd = make_run(tmp_path / "b", "awac", [1.0, 1.0])
    rows = read_lines(odd / "metrics.jsonl")
    rows[-1]["q_data"] = 501.0  # of seed 1: ten times the median 50 is 500
    write_lines(odd / "metrics.jsonl", rows)
    (note,) = notes(read(tmp_path))
    assert note["text"].startswith("Seed 1 of awac finished, but with Q-values of 501")


def test_broken_files_are_one_line_each_and_the_rest_is_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(Path("good"), "bc", [1.0])
    (make_run(Path("bad"), "iql", [1.0]) / "result.json").write_text('{"members": [{}]}')
    (make_run(Path("worse"), "cql", [1.0]) / "evaluations.jsonl").write_text('{"step": "x", "return": 1}\n')
    (make_run(Path("worst"), "awac", [1.0]) / "diagnostics.json").write_text("[1]")
    assert main(["report", "."]) == 0
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 3 and "'bad/result.json' is not what leashrl wrote" in said.err
    assert "Left out: &#x27;bad/result.json&#x27;" in Path("report.html").read_text()
    assert main(["report", "bad"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not Path("bad/report.html").exists()


# --- Comparison --------------------------------------------------------------


def test_the_comparison_takes_the_places_that_all_share(tmp_path):
    for name, place, finals in [
        ("bc", "one", [1.0, 2.0, 3.0]),
        ("bc", "two", [10.0, 20.0, 30.0]),
        ("iql", "one", [2.0, 3.0]),
        ("iql", "two", [5.0, 6.0, 7.0]),
        ("bc", "three", [9.0]),
    ]:
        make_run(tmp_path / f"{name}-{place}", name, finals, data=place)
    found = compare(read(tmp_path))
    assert found is not None and found["places"] == ["one", "two"] and found["labels"] == ["bc", "iql"]
    assert "Of iql only as many seeds" in found["note"]
    # one: 1,2,3 against 2,3: (0 + 0) + (.5 + 0) + (1 + .5) of 6; two: 10,20,30 against 5,6: all
    assert found["matrix"][0][1]["p"] == pytest.approx((2 / 6 + 1) / 2)
    assert found["rows"][0]["mean"] == pytest.approx((2 + 20) / 2)
    (test,) = found["tests"]
    assert (test["a"], test["b"], test["pairs"]) == ("bc", "iql", 2)
    # bc's first two seeds 1, 2 and 10, 20; iql's 2, 3 and 5, 6: differences -1, -1, 5, 14
    assert test["difference"] == pytest.approx(11 - (2.5 + 5.5) / 2) and not test["decided"]
    assert test["p_signs"] == pytest.approx(np.mean([abs(s) >= 17 for s in signed(-1, -1, 5, 14)]))
    (profile,) = found["charts"]
    assert (
        profile["series"][1]["points"][0][:2] == [0.0, 1.0] and profile["series"][0]["points"][-1][1] == 0.0
    )
    assert compare(read(tmp_path / "bc-one")) is None


def signed(*differences: float) -> list[float]:
    """Sums under every choice of signs."""
    return [sum(d * s for d, s in zip(differences, signs, strict=True)) for signs in every_sign(differences)]


def every_sign(values: tuple[float, ...]):
    return itertools.product((1, -1), repeat=len(values))


def said(folder: Path) -> str:
    lines = read(folder)
    (place,) = {line.place for line in lines}
    rows = summaries(lines)
    return re.sub("<[^>]+>", "", str(answer([r for r in rows if r["data"] == place], comparisons(lines))))


def test_who_is_ahead_rests_on_a_test(tmp_path):
    make_run(tmp_path / "two" / "a", "a", [90.0, 91.0])
    make_run(tmp_path / "two" / "b", "b", [10.0, 11.0])
    assert "not decided: that takes three seeds of each, and one of them has two seeds." in said(
        tmp_path / "two"
    )
    # 9.7 below 9.8: the seeds' ranges do not meet, so that bootstrap intervals did not either
    make_run(tmp_path / "three" / "a", "a", [9.8, 15.0, 12.0])
    make_run(tmp_path / "three" / "b", "b", [5.0, 6.2, 9.7])
    text = said(tmp_path / "three")
    p = stats.ttest_ind([9.8, 15.0, 12.0], [5.0, 6.2, 9.7], equal_var=False).pvalue
    assert (
        "Whether it is ahead of b is not decided: with three seeds Welch's t test, corrected for all pairs, "
        f"gives p = {p:.3f}" in text.replace("&#x27;", "'")
    )
    assert "a permutation test cannot give less than 0.10" in text
    make_run(tmp_path / "far" / "a", "a", [90.0, 91.0, 92.0])
    make_run(tmp_path / "far" / "b", "b", [10.0, 14.0, 12.0])
    assert "It is ahead of the other (Welch" in said(tmp_path / "far") and "p &lt; 0.001" in said(
        tmp_path / "far"
    )


def test_one_seed_has_no_interval_anywhere(tmp_path):
    make_run(tmp_path / "a", "a", [90.0])
    make_run(tmp_path / "b", "b", [10.0, 20.0])
    out = tmp_path / "r.html"
    found = report([tmp_path], out, formats=["html", "csv", "latex", "png"])
    b, a = sorted(found.summary, key=lambda row: row.n, reverse=True)
    assert (a.mean, a.low, a.high, a.std) == (90.0, None, None, None) and b.label == "b" and b.mean == 15.0
    assert [file.suffix for file in found.files] == [".html", ".csv", ".tex", ".png"]
    assert (found.runs, found.members, found.problems) == (2, 3, ()) and found.summary[0] == a
    values = found.to_json()
    assert list(values) == ["files", "runs", "problems", "summary", "members"]
    assert values["summary"] == summaries(read(tmp_path))
    (a, _) = summaries(read(tmp_path))
    assert score_lines(summary([90.0])) == ["score over 1 members: mean 90.0, IQM 90.0, no interval"]
    assert (a["low"], a["high"], a["std"]) == (None, None, None)
    data = json.loads(re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', out.read_text(), re.S)[1])
    series = {s["label"]: s["points"] for s in data["charts"]["curve-0"]["series"]}
    assert series["a"][0][1:] == [45.0, None, None] and series["b"][0][2] < series["b"][0][1]
    assert "no interval of one seed" in out.read_text() and "NaN" not in out.read_text()
    assert "\\pm" not in next(
        x for x in out.with_suffix(".tex").read_text().splitlines() if x.startswith("a &")
    )


def test_what_a_choice_is_worth_by_hand(tmp_path):
    make_run(tmp_path / "bc", "bc", [10.0, 30.0])
    make_run(tmp_path / "iql", "iql", [20.0, 20.0])
    found = compare(read(tmp_path))
    assert found is not None
    _, chosen = found["charts"]
    points = {series["label"]: series["points"] for series in chosen["series"]}
    # episodes of 99 and 101, 299 and 301: one cannot tell, two can; pendulum's scores: -1228.7 to -150
    score = lambda value: 100 * (value + 1228.7) / (1228.7 - 150)
    assert points["bc"][0][:2] == pytest.approx([0, score(200)], rel=1e-3)
    assert points["bc"][-1][1] == pytest.approx(score(300), rel=1e-3)
    assert [point[1] for point in points["iql"]] == pytest.approx([score(200)] * 9, rel=1e-3)


# --- Formats -----------------------------------------------------------------


def test_latex_by_hand(tmp_path):
    make_run(tmp_path / "a", "td3-bc", [74.0, 74.0])
    make_run(tmp_path / "b", "bc_x", [10.0, 20.0], data="100%_data")
    body = latex(read(tmp_path)).splitlines()
    assert (
        body[4:]
        == [
            r"\begin{tabular}{lrr}",
            r"\hline",
            r" & 100\%\_data & pendulum-medium \\",
            r"\hline",
            r"bc\_x & $\mathbf{15.0}\pm 127.3$ & -- \\",  # 25.452 x 7.071 / sqrt(2), t of 1 degree of freedom
            r"td3-bc & -- & $\mathbf{74.0}$ \\",  # equal seeds tell nothing of their scatter
            r"\hline",
            r"\end{tabular}",
            "",
        ][:-1]
    )


def test_what_latex_prints_bold_is_tested(tmp_path):
    # two intervals that do not meet, of two seeds: no finding; three seeds of far means: one
    for name, finals in (("a", [74.0, 75.0, 76.0]), ("b", [70.0, 75.0, 71.0]), ("c", [10.0, 11.0, 12.0])):
        make_run(tmp_path / name, name, finals)
    rows = {line[0]: line for line in latex(read(tmp_path)).splitlines() if line[1:3] == " &"}
    assert ["mathbf" in rows[name] for name in "abc"] == [True, True, False]
    make_run(tmp_path / "two" / "d", "d", [74.0, 74.1], data="other")
    make_run(tmp_path / "two" / "e", "e", [10.0, 10.1], data="other")
    rows = latex(read(tmp_path / "two")).splitlines()
    assert sum("mathbf" in row for row in rows) == 2


def test_all_formats_from_the_command_line(tmp_path, capsys):
    make_run(tmp_path / "runs" / "bc", "bc", [10.0, 20.0])
    make_run(tmp_path / "runs" / "iql", "iql", [30.0, 40.0])
    out = tmp_path / "new" / "paper.html"
    argv = [
        "report",
        str(tmp_path / "runs"),
        "--out",
        str(out),
        "--format",
        "html,png,pdf,csv,latex",
        "--json",
    ]
    assert main(argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == 2 and found["members"] == 4 and found["problems"] == []
    assert sorted(p.name for p in out.parent.iterdir()) == sorted(
        f"paper.{e}" for e in ("html", "png", "pdf", "csv", "tex")
    )
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert out.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    rows = list(csv.DictReader(out.with_suffix(".csv").read_text().splitlines()))
    pick = {(r["label"], r["member"], r["measure"]): float(r["value"]) for r in rows}
    assert pick["iql", "seed-1", "score_final"] == 40.0 and pick["bc", "all", "score_mean"] == 15.0
    assert pick["bc", "all", "n"] == 2.0


def test_a_single_run_keeps_its_report_and_may_be_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(Path("run"), "bc", [10.0])
    assert main(["report", "run"]) == 0 and Path("run/report.html").exists()
    from leashrl.disk.claim import earlier_run

    assert {path.name for path in earlier_run(Path("run"), overwrite=True)} >= {"report.html", "config.json"}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["report", "nowhere"], "no folder 'nowhere'"),
        (["report", "empty"], "no run in or below 'empty'"),
        (["report", "run", "--format", "htm"], "did you mean 'html'?"),
        (["report", "run", "--out", "data.hdf5"], "must end in .html"),
        (["report", "run", "--out", "/proc/nowhere/a.html"], "cannot write"),
        (["report"], "DIR"),
    ],
)
def test_a_mistake_is_one_line(argv, words, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    make_run(Path("run"), "bc", [10.0])
    assert words in refused(*argv)


def test_no_jax_is_needed_for_a_report():
    code = "import sys, leashrl.report.html, leashrl.report.tables; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- The page, as text -------------------------------------------------------


def test_nothing_from_a_run_is_markup(tmp_path):
    folder = make_run(tmp_path / "a", EVIL, [1.0, 2.0], data=EVIL, options={EVIL: EVIL})
    with edited(folder / "config.json") as config:
        config["versions"][EVIL] = EVIL
    make_run(tmp_path / "b", "bc", [1.0], diverged={0: (700, EVIL)}, data=EVIL)
    runs, problems = read_runs([tmp_path])
    text = page(runs, lines_of(runs), [*problems, EVIL], EVIL)
    assert "<script>alert" not in text and text.count("<script") == 2 and text.count("</script") == 2
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert "default-src 'none'" in text


# --- The page, in Chromium ---------------------------------------------------


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """Three algorithms on two data sets, one seed diverged, one name that is an attack."""
    folder = tmp_path_factory.mktemp("report")
    for place in ("pendulum-medium", "a-data-set-with-a-very-long-name-medium-expert-replay-v2"):
        make_run(folder / place / "bc", "bc", [10.0, 20.0, 30.0], data=place)
        make_run(
            folder / place / "iql",
            "iql",
            [50.0, 60.0, 70.0],
            data=place,
            diverged={1: (700, "q_data")},
            growth=9,
        )
        make_run(folder / place / "evil", EVIL, [40.0, 41.0, 42.0], data=place)
    out = folder / "report.html"
    report([folder], out)
    return out


@pytest.fixture
def opened(browser, file):
    """Open the page; gives it back once it is clear that nothing was complained of or asked of a network."""
    pages = []

    def opening(**settings):
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | settings))
        page, said, asked = context.new_page(), [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        page.wait_for_selector("#curves path.line")
        pages.append((context, said, asked))
        return page

    yield opening
    for context, said, asked in pages:
        assert said == [] and [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
        context.close()


def lines_in(page, chart: str = "curve-0") -> list[str]:
    found = page.locator(f'[data-chart="{chart}"] g.series[data-label]')
    return [found.nth(i).get_attribute("data-label") for i in range(found.count())]


def test_the_curves_are_drawn_with_finite_coordinates_in_the_picture(opened):
    page = opened()
    assert sorted(lines_in(page)) == sorted(["bc", "iql", EVIL])
    paths = page.eval_on_selector_all("svg path", "nodes => nodes.map(n => n.getAttribute('d'))")
    assert len(paths) > 30 and not any(re.search("NaN|Infinity|undefined", path) for path in paths)
    box = page.eval_on_selector("#curves svg[viewBox]", "n => n.getAttribute('viewBox')").split()
    figures = page.eval_on_selector_all(
        "#curves figure:first-of-type path.line[d]", "nodes => nodes.map(n => n.getAttribute('d'))"
    )
    for d in figures:
        numbers = [float(x) for x in re.findall(r"-?[\d.]+", d)]
        assert all(0 <= x <= float(box[2]) for x in numbers[::2]) and all(
            0 <= y <= float(box[3]) for y in numbers[1::2]
        )
    # higher scores stand higher: SVG's y grows downwards
    last = {
        label: float(page.locator(f"{lines} circle").last.get_attribute("cy"))
        for label in ("iql", "bc")
        if (lines := f'[data-chart="curve-0"] g.series[data-label="{label}"]')
    }
    assert last["iql"] < last["bc"]


def test_the_answer_is_on_the_first_screen(opened):
    page = opened()
    answer = page.locator(".answer").first
    assert (
        "iql ends highest, with a mean normalised score of 60.0 over two seeds"
        in answer.inner_text().replace("\u00a0", " ")
    )
    assert answer.bounding_box()["y"] < 900 and page.locator(".summary").first.bounding_box()["y"] < 900
    assert "the critic diverged" in page.locator(".problems").inner_text()


def test_filters_hide_lines_rows_and_places(opened):
    page = opened()
    page.uncheck('input[data-label="bc"]')
    assert "bc" not in lines_in(page) and "iql" in lines_in(page)
    assert page.locator('.summary tr[data-label="bc"]:visible').count() == 0
    page.click("button[data-all=no]")
    assert lines_in(page) == []
    page.click("button[data-all=yes]")
    assert len(lines_in(page)) == 3
    assert page.locator("#curves figure:visible").count() == 2
    page.select_option("#place", "pendulum-medium")
    assert page.locator("#curves figure:visible").count() == 1
    assert page.locator("path.seed").count() == 0
    page.check("input[data-seed='[\"0\"]']")
    assert page.locator("#curves figure:visible path.seed").count() == 3
    page.uncheck("#band")
    assert page.locator("#curves figure:visible path.band").count() == 0


def test_values_under_the_pointer_and_the_arrow_keys(opened):
    page = opened()
    plot, tip = page.locator('[data-chart="curve-1"] .plot'), page.locator('[data-chart="curve-1"] .tip')
    assert not tip.is_visible()
    plot.hover(position={"x": 60, "y": 80})
    assert tip.is_visible() and tip.inner_text().startswith("step 500") and "10" in tip.inner_text()
    page.mouse.move(0, 0)
    assert not tip.is_visible()
    plot.focus()
    page.keyboard.press("End")
    lines = tip.inner_text().split("\n")
    assert lines[0] == "step 1,000" and lines[1:3] == ["iql", "60"]
    page.keyboard.press("ArrowLeft")
    assert tip.inner_text().startswith("step 500")
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_the_keyboard_reaches_everything(opened):
    page, seen = opened(), []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                "(n => n.id || n.className || n.dataset.label || n.tagName)(document.activeElement)"
            )
        )
    assert seen[0] == "skip" and "theme" in seen and "bc" in seen and "place" in seen and "plot" in seen
    page.locator('input[data-label="bc"]').focus()
    page.keyboard.press("Space")
    assert "bc" not in lines_in(page)


BACKGROUND = "getComputedStyle(document.body).backgroundColor"


def test_dark_light_and_the_switch(opened):
    light, dark = opened(color_scheme="light"), opened(color_scheme="dark")
    white, black = light.evaluate(BACKGROUND), dark.evaluate(BACKGROUND)
    assert sum(map(int, re.findall(r"\d+", white))) > 700 and sum(map(int, re.findall(r"\d+", black))) < 120
    light.click("#theme")
    assert light.evaluate(BACKGROUND) == black and light.inner_text("#theme") == "Light"
    dark.click("#theme")
    assert dark.evaluate(BACKGROUND) == white


@pytest.mark.parametrize("width", [320, 390, 820])
def test_no_width_makes_the_page_scroll_sideways(opened, width):
    page = opened(viewport={"width": width, "height": 844})
    page.evaluate("document.querySelectorAll('details').forEach(n => { n.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("#curves path.line").count() >= 6


def test_print_is_light_and_opens_what_is_folded(opened):
    page = opened(color_scheme="dark")
    assert page.locator("details:not([open])").count() > 0
    page.emulate_media(media="print")
    page.wait_for_selector("details:not([open])", state="detached")
    assert page.evaluate(BACKGROUND) == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible() and not page.locator("#filters").is_visible()
    assert page.locator("#curves path.line").first.is_visible()


def test_without_scripts_the_tables_stand(browser, file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert (
        page.locator(".summary tbody tr:visible").count() == 6
        and "JavaScript" in page.locator("noscript").first.inner_text()
    )
    context.close()
