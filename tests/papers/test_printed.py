"""What the papers print: whether it was read right.

The checks are the papers' own redundancies: totals that are printed beside what they sum, columns that stand
in two tables, baselines that two papers quote from a third, and numbers that the prose repeats.
"""

import math
import re
from importlib import resources

import pytest

from leashrl.algos import REGISTRY
from leashrl.errors import BadInput
from leashrl.papers.printed import PAPERS, Printed, cells, load, printed, tasks_of_row
from leashrl.runs.peers import PEERS
from leashrl.runs.plan import parse_run
from leashrl.tasks import TASKS
from support import ROOT

ITEMS = {(paper, *key): item for paper in PAPERS for key, item in load(paper).items()}
PAGE = (ROOT / "docs" / "papers.md").read_text()
TITLES = {
    "misa": "MISA",
    "brac-plus": "BRAC+",
    "fisher-brc": "Fisher-BRC",
    "miracle": "MIRACLE",
    "fql": "FQL",
}
WITHOUT_RUNS = {("fql", "table", "2"): {"IDQL", "SRPO", "CAC", "FAWAC", "FBRAC"}}  # not in this library
TABLES = {key: item for key, item in ITEMS.items() if key[1] == "table"}


def column(table: Printed, name: str, std: bool = False) -> dict[str, float | None]:
    """A column by task."""
    rows = table.std if std else table.rows
    return {task: row[table.columns.index(name)] for task, row in rows.items()}


def known(numbers) -> list[float]:
    return [x for x in numbers if x is not None]


# --- Form --------------------------------------------------------------------


def test_every_file_is_a_papers():
    files = resources.files("leashrl.papers.printed").iterdir()
    assert {file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")} == set(PAPERS)


@pytest.mark.parametrize("key", ITEMS, ids=" ".join)
def test_an_item_says_where_it_is_from_and_what_runs_beside_it(key):
    item = ITEMS[key]
    assert key[1] == "text" or f"{key[1]} {key[2]}" in item.source
    assert item.about and item.claim
    assert set(item.std) <= set(item.rows) and set(item.totals_std) <= set(item.totals)
    for task, row in item.std.items():  # no ± without a number
        assert all(m is not None for m, s in zip(item.rows[task], row, strict=True) if s is not None)
    for name in {*item.runs.values(), *item.quick.values()} - PEERS.keys():
        algorithm, preset, _ = parse_run(name)
        assert preset in REGISTRY[algorithm].presets, name


@pytest.mark.parametrize("key", TABLES, ids=" ".join)
def test_a_tables_rows_are_tasks_and_its_columns_have_runs(key):
    assert {task for row in TABLES[key].rows for task in tasks_of_row(row)} <= set(TASKS)
    assert set(TABLES[key].columns) - set(TABLES[key].runs) == WITHOUT_RUNS.get(key, set())


@pytest.mark.parametrize("key", TABLES, ids=" ".join)
def test_the_page_lists_a_tables_runs(key):
    paper, kind, number = key
    (section,) = re.findall(rf"^## {re.escape(TITLES[paper])}\n(.*?)(?=^## )", PAGE, re.DOTALL | re.MULTILINE)
    (line,) = [line for line in section.splitlines() if line.startswith(f"| {kind} {number}")]
    words = set(re.findall("`([^`]+)`", line.split("|")[3]))
    runs = [TABLES[key].runs_at(scale).values() for scale in ("cpu", "full")]
    assert words in [{word for name in names for word in name.split(":")} for names in runs]


def test_fqls_table_2_is_the_mean_of_its_table_3():
    """The five tasks of two data sets are kept: their means are the printed ones, to rounding."""
    means, each = printed("fql", "table", "2"), printed("fql", "table", "3")
    for row in ("cube-single-play-v0", "scene-play-v0"):
        for name in each.columns:
            mean = sum(each.cell(task, name) for task in tasks_of_row(row)) / 5
            assert abs(mean - means.cell(row, name)) <= 1.0, (row, name)


@pytest.mark.parametrize(
    ("label", "paper", "numbers"),
    [
        ("MISA", "misa", ["2"]),
        ("MISA (ICLR text)", "misa", ["3"]),
        ("BRAC+", "brac-plus", ["1", "2"]),
        ("Fisher-BRC", "fisher-brc", ["1"]),
    ],
)
def test_the_task_table_names_the_same_tasks(label, paper, numbers):
    rows = [task for number in numbers for task in printed(paper, "table", number).rows]
    assert sorted(rows) == sorted(task.name for task in TASKS.values() if label in task.papers)


# --- Against the papers themselves -------------------------------------------


@pytest.mark.parametrize(
    ("paper", "number", "task", "name", "mean", "std"),
    [  # read from the texts by hand, one from each corner
        ("misa", "1", "halfcheetah-medium-v2", "k=5", 47.1, None),
        ("misa", "1", "walker2d-medium-expert-v2", "MISA", 109.4, None),
        ("misa", "2", "kitchen-complete-v0", "DT", None, None),
        ("misa", "2", "antmaze-large-diverse-v0", "MISA", 23.4, 8.1),
        ("brac-plus", "1", "halfcheetah-random-v0", "BEAR", 25.1, None),
        ("brac-plus", "1", "walker2d-medium-v0", "BRAC-v", 81.1, None),
        ("brac-plus", "1", "hopper-medium-replay-v0", "BRAC+", 72.7, 18.9),
        ("brac-plus", "2", "relocate-human-v0", "BRAC+", 0.20, 0.11),
        ("fisher-brc", "1", "hopper-medium-v0", "F-BRC", 99.4, 0.3),
        ("fisher-brc", "1", "walker2d-medium-replay-v0", "CQL (Ours)", 16.5, 4.9),
        ("fisher-brc", "1", "hopper-expert-v0", "CQL (GitHub)", 67.7, 54.7),
        ("fisher-brc", "1", "hopper-expert-v0", "MBOP", None, None),
    ],
)
def test_cells(paper, number, task, name, mean, std):
    table = printed(paper, "table", number)
    assert column(table, name)[task] == mean
    assert (column(table, name, std=True) if table.std else {}).get(task) == std


@pytest.mark.parametrize("number", ["1", "2"])
def test_misas_totals_are_sums_of_its_cells(number):
    table = printed("misa", "table", number)
    assert {TASKS[task].domain for task in table.rows} == set(table.totals)
    for domain, totals in table.totals.items():
        rows = [row for task, row in table.rows.items() if TASKS[task].domain == domain]
        sums = [sum(known(numbers)) for numbers in zip(*rows, strict=True)]
        assert [round(s, 1) for s, t in zip(sums, totals, strict=True) if t is not None] == known(totals)
    for domain, (*_, total) in table.totals_std.items():  # of independent errors
        squares = [row[-1] ** 2 for task, row in table.std.items() if TASKS[task].domain == domain]
        assert round(math.sqrt(sum(squares)), 1) == total


def test_misas_own_column_is_the_same_in_both_tables():
    ablations, benchmark = (printed("misa", "table", n) for n in "12")
    own = column(ablations, "MISA")
    assert own == {task: x for task, x in column(benchmark, "MISA").items() if task in own}


def test_two_papers_quote_the_same_mbop():
    ours, theirs = printed("brac-plus", "table", "1"), printed("fisher-brc", "table", "1")
    for std in (False, True):
        quoted = column(theirs, "MBOP", std)
        assert column(ours, "MBOP", std) == {task: x for task, x in quoted.items() if x is not None}


def test_two_papers_quote_the_same_cql_on_human_demonstrations():
    ours, theirs = printed("brac-plus", "table", "2"), printed("misa", "table", "2")
    quoted = column(theirs, "CQL")
    assert column(ours, "CQL(H)") == {task: quoted[task] for task in ours.rows}


def test_a_row_of_fisher_brc_repeats_another_in_three_cells():
    """The slip in print that the file tells of; where the quotation is whole again, the comment goes."""
    fisher, brac_plus = printed("fisher-brc", "table", "1"), printed("brac-plus", "table", "1")
    expert, replay = "walker2d-medium-expert-v0", "walker2d-medium-replay-v0"
    assert fisher.rows[expert][:3] == fisher.rows[replay][:3] == (11.3, -0.3, 0.9)
    assert brac_plus.rows[expert][1:3] == (76.9, 81.6)
    assert brac_plus.rows[replay][1:3] == (-0.3, 0.9)


def test_what_the_prose_says_of_the_tables():
    ablations, benchmark = (printed("misa", "table", n) for n in "12")
    total = dict(zip(ablations.columns, ablations.totals["gym"], strict=True))
    assert total["BA"] < total["MISA-f"] < total["MISA-DV"] < total["MISA"] == 742.9
    assert total["k=5"] < total["k=20"] < total["MISA"]
    assert max(total["BI=1"], total["no BA"], total["MISA-biased"]) < total["MISA"]
    energy = column(ablations, "MISA-T")
    better = {task for task, x in column(ablations, "MISA").items() if energy[task] > x}
    assert better == {"halfcheetah-medium-v2", "halfcheetah-medium-replay-v2"}
    assert [energy[task] for task in sorted(better)] == [53.1, 60.8]
    for domain in ("gym", "kitchen", "adroit"):
        assert max(known(benchmark.totals[domain])) == benchmark.totals[domain][-1]

    gym, adroit = (printed("brac-plus", "table", n) for n in "12")
    ours, free = column(gym, "BRAC+"), ("BEAR", "BRAC-p", "BRAC-v", "CQL(H)")
    ratio = [
        ours[task] / max(column(gym, name)[task] for name in free)
        for task in ("hopper-medium-replay-v0", "walker2d-medium-replay-v0")
    ]
    assert [round(x, 1) for x in ratio] == [1.5, 1.5]
    best = [task for task, row in adroit.rows.items() if row[-1] == max(row)]
    assert best == ["pen-human-v0", "door-human-v0"]  # half of them

    hours = printed("fisher-brc", "text", "training-time").rows["hours"]
    assert hours == (1.4, 6.2, 16.3)


# --- Reading -----------------------------------------------------------------


def test_what_is_not_there_is_told():
    assert printed("misa", "table", "3").rows["hopper-random-v2"] == (None, None, None)
    with pytest.raises(BadInput, match=r"no paper 'miza': did you mean 'misa'\?"):
        load("miza")
    with pytest.raises(BadInput, match=r"nothing printed of 'misa' as table '4': known: 1, 2, 3"):
        printed("misa", "table", "4")
    with pytest.raises(BadInput, match=r"as table '1': no table of it is kept"):
        printed("miracle", "table", "1")


def test_cells_keep_the_printed_digits():
    assert cells([None, -0.0, 0.35, 100.3]) == ["–", "-0.0", "0.35", "100.3"]
    assert cells([0.2, 26.4, 7.0], [0.11, 1.0, None]) == ["0.20 ± 0.11", "26.4 ± 1.0", "7.0"]
