"""A paper's table, run here: our numbers beside the printed ones."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leashrl.disk.files import write_atomically, write_json
from leashrl.evaluate.statistics import interquartile_mean, summary
from leashrl.papers.experiments import Done, chosen, has_source, read_scores, stopped
from leashrl.papers.printed import Printed, tasks_of_row
from leashrl.papers.protocols import Options, Trial, in_words
from leashrl.runs.results import Result

Row = dict[str, Any]


def columns_of(table: Printed, options: Options) -> list[str]:
    return chosen(options.columns, table.runs, "column")


def trials(table: Printed, options: Options) -> list[Trial]:
    """A trial a cell, or one for each task that it is the mean of: the rows asked for, or all with data."""
    rows = chosen(options.tasks, table.rows, "task")
    rows = [row for row in rows if options.tasks or has_source(tasks_of_row(row)[0])]
    columns = columns_of(table, options)
    return [trial for row in rows for column in columns for trial in trials_of(table, row, column, options)]


def trials_of(table: Printed, row: str, column: str, options: Options) -> list[Trial]:
    """The trials of a cell."""
    run = table.runs_at(options.scale)[column]
    return [Trial(task, run, paper=table.paper) for task in tasks_of_row(row)]


def make(
    table: Printed, name: str, out: Path, done: Done, options: Options
) -> tuple[dict[str, Any], list[Path]]:
    """Rows, the table as markdown, and its two files.

    Final scores are of the last checkpoint, `last ten` is the mean of the last ten evaluations: the best is
    never chosen. Intervals are 95 % intervals over seeds. A seed that diverged counts with its last finite
    policy, and its cell is marked.
    """
    columns = columns_of(table, options)
    sources = {
        row: done.sources[first] for row in table.rows if (first := tasks_of_row(row)[0]) in done.sources
    }
    of = {(row, c): trials_of(table, row, c, options) for row in sources for c in columns}
    ended = {place: cell for place, cell in of.items() if all(trial in done.results for trial in cell)}
    rows = [
        row_of(table, *place, cell[0].run, sources[place[0]].about, [done.results[trial] for trial in cell])
        for place, cell in ended.items()
    ]
    lines = [f"# {name}: {table.about}", "", f"Printed: {table.source}. Ours: {in_words(options)}.", ""]
    for task, source in sources.items():
        mine = [row for row in rows if row["task"] == task]
        lines += [f"## {task}, {source.about}", "", *markdown(mine, CELLS), "", *marks(mine)] if mine else []
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    whole = [c for c in columns if all((task, c) in ended for task in tasks)]
    if len(tasks) > 1 and whole:
        lines += [f"## Over {len(tasks)} tasks", "", *markdown([over(rows, c) for c in whole], OVER), ""]
    order = order_of(table, rows, tasks)
    lines += [line for _, line in order]
    if done.left:
        lines += ["", f"Not finished: {len(done.left)} of {len(done.left) + len(done.results)} runs."]
    lines += ["", *(f"- {line}" for line in done.absent)] if done.absent else []
    values = {
        "scale": options.scale,
        "source": table.source,
        "rows": rows,
        "order": [found for found, _ in order],
        "unfinished": [f"{trial.run} on {trial.task}" for trial in done.left],
        "absent": done.absent,
        "markdown": "\n".join(lines),
    }
    stem = f"{name.replace(' ', '-')}-{options.scale}"
    files = [out / f"{stem}.md", out / f"{stem}.json"]
    write_atomically(files[0], ("\n".join(lines).rstrip() + "\n").encode())
    write_json(files[1], values)
    return values, files


def row_of(table: Printed, task: str, column: str, run: str, data: str, results: Sequence[Result]) -> Row:
    """A cell's numbers; each seed's score is its mean over the cell's tasks."""
    scores = {
        what: np.mean(list(zip(*of_tasks, strict=False)), axis=1).tolist() if all(of_tasks) else []
        for what, of_tasks in each_of(map(read_scores, results)).items()
    }
    found = summary(scores["final"]) if scores["final"] else None
    return {
        "task": task,
        "data": data,
        "column": column,
        "run": run,
        "paper": table.cell(task, column),
        "final": found and found.mean,
        "low": found and found.low,
        "high": found and found.high,
        "last ten": float(np.mean(scores["last_10_mean"])) if scores["last_10_mean"] else None,
        "seeds": min(len(result.members) for result in results),
        "diverged": sum(len(result.diverged) for result in results),
        "stopped": [words for result in results for _, words in stopped(result)],
        "updates": results[0].steps,
        "finals": scores["final"],
    }


def each_of(dictionaries: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    """
    >>> each_of([{"a": 1}, {"a": 2}])
    {'a': [1, 2]}
    """
    found = list(dictionaries)
    return {name: [one[name] for one in found] for name in found[0]}


def over(rows: Sequence[Row], column: str) -> Row:
    """One column over all tasks: sums as the papers print them, and the interquartile mean of all seeds."""
    mine = [row for row in rows if row["column"] == column]
    total = lambda name: sum(r[name] for r in mine) if all(r[name] is not None for r in mine) else None
    finals = [row["finals"] for row in mine]
    seeds = min(map(len, finals))
    iqm = float(interquartile_mean(np.array([f[:seeds] for f in finals]).T)) if seeds else None
    return {
        "column": column,
        "paper": total("paper"),
        "final": total("final"),
        "last ten": total("last ten"),
    } | {
        "IQM": iqm,
        "diverged": sum(row["diverged"] for row in mine),
    }


def order_of(table: Printed, rows: Sequence[Row], tasks: Sequence[str]) -> list[tuple[Row, str]]:
    """Whether the order that the paper claims appears, for each task and the sums."""
    found = []
    for task in [*tasks, *([None] if len(tasks) > 1 else [])]:
        mine = {c: [r for r in rows if r["column"] == c and task in (None, r["task"])] for c in table.order}
        values = [[r["final"] for r in mine[c]] for c in table.order]
        if len(table.order) < 2 or any(len(v) < (1 if task else len(tasks)) or None in v for v in values):
            continue
        sums = [float(sum(v)) for v in values]
        holds = all(a < b for a, b in itertools.pairwise(sums))
        text = " , ".join(f"{c} {s:.1f}" for c, s in zip(table.order, sums, strict=True))
        where = task or f"the sum of {len(tasks)} tasks"
        claim = " < ".join(table.order)
        line = f"- {where}: {claim} {'holds' if holds else 'does not hold'} ({text.replace(' , ', ', ')})"
        found.append(({"where": where, "holds": holds} | dict(zip(table.order, sums, strict=True)), line))
    return found


# --- Markdown ------------------------------------------------------------------

MARK = "†"
"""At a score that a seed which diverged is part of."""


CELLS: dict[str, Callable[[Row], str]] = {
    "": lambda row: row["column"],
    "paper": lambda row: number(row["paper"]),
    "final": lambda row: number(row["final"]) + (f" {MARK}" if row["diverged"] else ""),
    "95 % interval": lambda row: "–" if row["low"] is None else f"{row['low']:.1f} to {row['high']:.1f}",
    "last ten": lambda row: number(row["last ten"]),
    "seeds": lambda row: str(row["seeds"]),
    "diverged": lambda row: str(row["diverged"] or ""),
    "run": lambda row: f"`{row['run']}`",
}
OVER: dict[str, Callable[[Row], str]] = {
    "": lambda row: row["column"],
    "paper, sum": lambda row: number(row["paper"]),
    "final, sum": lambda row: number(row["final"]) + (f" {MARK}" if row["diverged"] else ""),
    "last ten, sum": lambda row: number(row["last ten"]),
    "IQM": lambda row: number(row["IQM"]),
    "diverged": lambda row: str(row["diverged"] or ""),
}


def marks(rows: Sequence[Row]) -> list[str]:
    """What `MARK` stands for in each row that has it."""
    found = [f"{MARK} {row['column']}: {'; '.join(row['stopped'])}." for row in rows if row["stopped"]]
    return [line for words in found for line in (words, "")]


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def markdown(rows: Sequence[Row], cells: Mapping[str, Callable[[Row], str]]) -> list[str]:
    """An aligned table, numbers to the right.

    >>> markdown([{"column": "BA", "paper": 1.25}], {"": CELLS[""], "paper": CELLS["paper"]})
    ['|    | paper |', '| -- | ----: |', '| BA |   1.2 |']
    """
    table = [list(cells), *([show(row) for show in cells.values()] for row in rows)]
    widths = [max(2, *map(len, column)) for column in zip(*table, strict=True)]
    text = [name in ("", "run") for name in cells]
    pad = lambda row: [
        c.ljust(w) if left else c.rjust(w) for c, w, left in zip(row, widths, text, strict=True)
    ]
    rule = ["-" * w if left else "-" * (w - 1) + ":" for w, left in zip(widths, text, strict=True)]
    return [f"| {' | '.join(row)} |" for row in [pad(table[0]), rule, *map(pad, table[1:])]]
