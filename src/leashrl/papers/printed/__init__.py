"""What the papers print: their tables' numbers and what they say of their figures, with sources.

A paper is a file of this folder, `misa.toml` say, that reads as its tables do: a row for each task under the
task's name here, a number for each column. `nan` stands for a cell without a number, and a comment at the row
says why: a dash in print, or not legible in the copy that was read. `deviations` names the columns that have
a ±, and `std` holds those columns alone. The tests hold printed totals against the cells they sum, and
baselines that two papers quote against each other.

`protocol` is how the published numbers were made: updates, seeds, evaluations. Runs at `full` follow it.
"""

import dataclasses
import functools
import math
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from leashrl.errors import BadInput, nearest
from leashrl.tasks import ogbench, places, task

PAPERS = ("misa", "brac-plus", "fisher-brc", "miracle", "fql")
Row = tuple[float | None, ...]


@dataclasses.dataclass(frozen=True)
class Printed:
    """A table, a figure, or a passage of a text."""

    source: str
    """Authors, year, where it appeared, which table or figure."""
    about: str
    """What it shows, and how the numbers were taken: seeds, episodes, what ± means."""
    claim: str
    """What the text says it shows."""
    columns: tuple[str, ...] = ()
    rows: Mapping[str, Row] = dataclasses.field(default_factory=dict)
    """By task, or data set (`tasks_of_row`), a number for each column; None where there is none."""
    std: Mapping[str, Row] = dataclasses.field(default_factory=dict)
    """The ± of each cell, under the same names."""
    totals: Mapping[str, Row] = dataclasses.field(default_factory=dict)
    """Printed sums over the rows of a domain (`gym`, `adroit`), by its name."""
    totals_std: Mapping[str, Row] = dataclasses.field(default_factory=dict)
    runs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What of ours stands beside a column or a curve: a run in short, as `plan.parse_run` reads it."""
    quick: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What goes before `runs` where the scale is not the paper's: the same comparison, made to be cheap."""
    order: tuple[str, ...] = ()
    """Columns in the order that the text claims, the worst first."""
    tasks: tuple[str, ...] = ()
    """What a figure's runs are of; a table has them as `rows`."""
    instead: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """A task that the text may mean in place of one of `tasks`, and that task: run where it is asked for."""
    online: bool = False
    """The runs learn in the tasks' environments, without data."""
    paper: str = ""
    """One of `PAPERS`."""

    def cell(self, row: str, column: str) -> float | None:
        return self.rows[row][self.columns.index(column)] if column in self.columns else None

    def runs_at(self, scale: str) -> dict[str, str]:
        """What each column or curve runs at a scale of `experiments.SCALES`."""
        return dict(self.runs) if scale == "full" else {**self.runs, **self.quick}


def tasks_of_row(row: str) -> tuple[str, ...]:
    """The tasks whose mean a row is: of an OGBench data set its five, else the row's own.

    >>> tasks_of_row("scene-play-v0")[:2], tasks_of_row("hopper-medium-v2")
    (('scene-play-singletask-task1-v0', 'scene-play-singletask-task2-v0'), ('hopper-medium-v2',))
    """
    name = ogbench.parse(row)
    if name is None or name.single:
        return (row,)
    return tuple(name.task_name(number) for number in ogbench.TASKS)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a column of a paper was trained and evaluated, for one task."""

    sources: tuple[str, ...]
    """Where these are published."""
    updates: int
    """Of the policy's stage, `steps` of a Config; online, of the environment."""
    seeds: int
    evaluate_every: int
    """Updates between two evaluations."""
    episodes: int
    """Of an evaluation and seed."""
    final_episodes: int | None = None
    """Of the last evaluation, where it has another number."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Of the algorithm, laid over its preset and under what a run in short gives."""


def protocol(paper: str, algorithm: str, task_name: str) -> Protocol:
    """What was published on an algorithm's runs in a paper: the paper's values, and over them those that the
    task, the algorithm, and the algorithm on the task have of their own.

    >>> protocol("misa", "dt", "hopper-medium-v2").updates
    100000
    >>> protocol("misa", "misa", "antmaze-umaze-v0").episodes
    100
    """
    base = content(paper)["protocol"]
    own = base.get("algorithms", {}).get(algorithm, {})
    values: dict[str, Any] = {"options": {}, "sources": ()}
    for part in (base, own):
        where = part.get("places", {})
        for layer in (part, *(where[p] for p in places(task(task_name), task_name) if p in where)):
            more = {name: value for name, value in layer.items() if name not in ("places", "algorithms")}
            said = [" ".join(words.split()) for words in [more.pop("source", "")] if words]
            options = values["options"] | more.pop("options", {})
            values |= more | {"options": options, "sources": (*values["sources"], *said)}
    return Protocol(**values)


def printed(paper: str, kind: str, number: str) -> Printed:
    """One item of a paper.

    Args:
      paper: one of `PAPERS`.
      kind: `table`, `figure` or `text`.
      number: the paper's, as a word; for `text` a name.

    Raises:
      BadInput: there is none; the nearest names are given.

    >>> table = printed("misa", "table", "1")
    >>> dict(zip(table.columns, table.rows["hopper-medium-v2"]))["MISA-DV"], table.runs["MISA-DV"]
    (61.6, 'misa:paper+bound=dv')
    """
    items = {n: item for (k, n), item in load(paper).items() if k == kind}
    if number not in items:
        known = nearest(number, items) if items else f"no {kind} of it is kept"
        raise BadInput(f"nothing printed of '{paper}' as {kind} '{number}': {known}")
    return items[number]


@functools.cache
def load(paper: str) -> Mapping[tuple[str, str], Printed]:
    """All that is kept of a paper, by kind and number, in the file's order.

    >>> [f"{kind} {number}" for kind, number in load("misa")]
    ['table 1', 'table 2', 'table 3', 'figure 1']
    """
    kinds = {kind: items for kind, items in content(paper).items() if kind != "protocol"}
    return {(kind, n): parse(paper, values) for kind, items in kinds.items() for n, values in items.items()}


@functools.cache
def content(paper: str) -> Mapping[str, Any]:
    """The paper's file as it stands."""
    if paper not in PAPERS:
        raise BadInput(f"no paper '{paper}': {nearest(paper, PAPERS)}")
    return tomllib.loads(resources.files(__name__).joinpath(f"{paper}.toml").read_text("utf-8"))


def parse(paper: str, values: Mapping[str, Any]) -> Printed:
    """A part of the file as `Printed`: a text is one line, and `std` has a place for every column."""
    fields = dict(values)
    columns, deviations = tuple(fields.pop("columns", ())), tuple(fields.pop("deviations", ()))
    for name in ("source", "about", "claim"):
        fields[name] = " ".join(fields[name].split())
    parts = {"rows": columns, "totals": columns, "std": deviations, "totals_std": deviations}
    for name, own in parts.items():
        fields[name] = {task: spread(row, own, columns) for task, row in fields.get(name, {}).items()}
    return Printed(columns=columns, paper=paper, **fields)


def spread(numbers: Sequence[float], own: Sequence[str], columns: Sequence[str]) -> Row:
    """Numbers of some columns as a number or None for each of all.

    >>> spread([1, float("nan")], ["a", "c"], ["a", "b", "c"])
    (1.0, None, None)
    """
    found = dict(zip(own, numbers, strict=True))
    all_of_them = (float(found.get(column, math.nan)) for column in columns)
    return tuple(None if math.isnan(x) else x for x in all_of_them)


def cells(numbers: Sequence[float | None], std: Sequence[float | None] | None = None) -> list[str]:
    """A row as people read it; a dash where there is no number. For Markdown and for plain tables alike.

    >>> cells([44.0, None, 0.2, 64.9], [None, None, 0.11, 1.6])
    ['44.0', '–', '0.20 ± 0.11', '64.9 ± 1.6']
    """
    return [cell(x, s) for x, s in zip(numbers, std or [None] * len(numbers), strict=True)]


def cell(mean: float | None, std: float | None = None) -> str:
    """One number with as many digits as are printed, at least one.

    >>> cell(-0.0), cell(0.35)
    ('-0.0', '0.35')
    """
    known = [x for x in (mean, std) if x is not None]
    digits = max((len(repr(x).partition(".")[2]) for x in known), default=1)
    return "–" if mean is None else " ± ".join(f"{x:.{digits}f}" for x in known)
