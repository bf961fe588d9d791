"""Folders of runs, read into lines to compare: an algorithm's settings on one data set."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leashrl.disk.folder import RunFolder, member_name, rows_of, runs_below
from leashrl.errors import BadInput
from leashrl.tasks import normalise
from leashrl.tasks import task as find_task

SHOWN_OPTIONS = 3
"""A label that would need more options than these takes the folder's name in their place."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What one folder holds. `result` is None while the run has not finished."""

    folder: Path
    config: Row
    result: Row | None
    metrics: list[Row]
    evaluations: list[Row]
    diagnostics: Row | None
    fqe: Row | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The algorithm's options under dotted names."""
        return flat(self.config["config"])

    @property
    def recipe(self) -> str:
        """The algorithm, and the preset where it is not the default one."""
        preset = self.config["preset"]
        return self.config["algorithm"] + ("" if preset == "default" else f" {preset}")

    @property
    def step(self) -> int:
        """How far it has got."""
        return max((row["step"] for row in (*self.metrics, *self.evaluations)), default=0)


@dataclass(frozen=True)
class Member:
    """One trained policy: a seed, and its values of the options that vary within the run."""

    run: Run
    values: Row
    name: str
    diverged: Row | None
    """`step` and `metric`, where it went non-finite."""
    final: float | None
    """At the last evaluation; None where it diverged or was never evaluated."""
    last_ten: float | None
    points: list[tuple[int, float]]
    """(step, score or return) of every evaluation."""
    episodes: list[float]
    """The last evaluation's episodes, in the line's unit."""

    @property
    def seed(self) -> int:
        return self.values["seed"]

    @property
    def estimate(self) -> Row | None:
        """What FQE says of it, where it was asked."""
        rows = self.run.fqe["policies"] if self.run.fqe else []
        return next((row for row in rows if row["member"] == self.name), None)

    @property
    def metrics(self) -> list[Row]:
        return rows_of(self.values, self.run.metrics)


@dataclass
class Line:
    """All members of one label on one data set: a row of the table and a line of the charts."""

    label: str
    place: str
    unit: str
    """`score` (normalised), or `return` where the task has no reference scores; empty: not evaluated."""
    members: list[Member] = field(default_factory=list)

    @property
    def finals(self) -> list[float]:
        return [m.final for m in self.members if m.final is not None]

    @property
    def last_tens(self) -> list[float]:
        return [m.last_ten for m in self.members if m.last_ten is not None and m.final is not None]

    @property
    def finished(self) -> bool:
        return all(m.run.result is not None for m in self.members)


# --- Finding -----------------------------------------------------------------


def read_runs(folders: Sequence[str | Path]) -> tuple[list[Run], list[str]]:
    """All runs in or below some folders, and a line for each that cannot be read.

    Raises:
      BadInput: a folder that is not there, or nothing readable in any of them.
    """
    runs, problems, seen = [], [], set()
    for given in folders:
        top = Path(given).expanduser()
        if not top.is_dir():
            raise BadInput(f"no folder '{given}': give runs' folders, or a folder that holds some")
        for folder in (files.path for files in runs_below(top)):
            if folder.resolve() in seen:
                continue
            seen.add(folder.resolve())
            try:
                runs.append(read_run(folder))
            except BadInput as error:
                problems.append(str(error))
    if not runs:
        where = ", ".join(f"'{folder}'" for folder in folders)
        raise BadInput(problems[0] if problems else f"no run in or below {where}: `leashrl train` makes one")
    return runs, problems


def read_run(folder: Path) -> Run:
    """One run, finished or not; BadInput where its files are not what leashrl wrote."""
    files, name = RunFolder(folder), "config.json"
    config, result = files.config(), files.result() if files.finished else None
    diagnostics, fqe = files.diagnostics(), files.fqe()
    try:
        _ = [config["algorithm"] + config["preset"], config["config"].items(), config["data"].items()]
        _ = [int(member["seed"]) for member in config["members"]], config["versions"].items()
        name = "result.json"
        _ = [(m["name"], m["score"]["final"], m["diverged"]) for m in (result or {"members": []})["members"]]
        name = "diagnostics.json"
        _ = diagnostics and [diagnostics[k] for k in ("data", "behaviour", "skipped", "actions", "members")]
        name = "fqe.json"
        if fqe is not None:
            keys = ("member", "value", "low", "high", "rank", "rank_low", "rank_high", "flags")
            _ = [row[key] for row in fqe["policies"] for key in keys], fqe["data"]["value"]["held_out"] + 0
        name = "metrics.jsonl"
        metrics = [row for row in files.metrics() if isinstance(row["step"], int)]
        name = "evaluations.jsonl"
        is_number = lambda row: isinstance(row["step"] + row["return"] + (row["score"] or 0.0), float)
        evaluations = [row for row in files.evaluations() if is_number(row)]
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise files.malformed(name, error) from None
    return Run(folder, config, result, metrics, evaluations, diagnostics, fqe)


# --- Lines -------------------------------------------------------------------


def lines_of(runs: Sequence[Run]) -> list[Line]:
    """Members grouped by label and place, in the order of places and then of labels."""
    found: dict[tuple[str, str], Line] = {}
    for run, place, label in zip(runs, places(runs), labels(runs), strict=True):
        for values in run.config["members"]:
            varied = " ".join(f"{k}={text(v)}" for k, v in values.items() if k != "seed")
            key = (place, f"{label} {varied}".strip())
            unit = unit_of(run)
            line = found.setdefault(key, Line(key[1], place, unit))
            line.unit = line.unit or unit
            line.members.append(read_member(run, values, unit))
    return sorted(found.values(), key=lambda line: (line.place, line.label))


def read_member(run: Run, values: Row, unit: str) -> Member:
    """A member of a finished run, or as far as it has got."""
    name, rows = member_name(values), rows_of(values, run.evaluations)
    points = [(row["step"], row[unit]) for row in rows] if unit else []
    final, last_ten = None, sum(v for _, v in points[-10:]) / len(points[-10:]) if points else None
    found = next((m for m in run.result["members"] if m["name"] == name), None) if run.result else None
    if found is None:
        final = points[-1][1] if points else None
    elif unit:
        final, last_ten = found[unit]["final"], found[unit]["last_10_mean"]
    episodes = [float(x) for x in rows[-1].get("returns", [])] if rows else []
    if unit == "score" and episodes:
        episodes = normalise(find_task(run.config["task"]), episodes).tolist()
    return Member(run, values, name, found and found["diverged"], final, last_ten, points, episodes)


def unit_of(run: Run) -> str:
    if not run.evaluations:
        return ""
    return "return" if any(row["score"] is None for row in run.evaluations) else "score"


def places(runs: Sequence[Run]) -> list[str]:
    """What each run learns from and is evaluated on, in words that tell different ones apart."""
    keys = []
    for run in runs:
        data, task = run.config["data"], run.config.get("task")
        name = (
            f"{task} (online)"
            if data.get("source") == "online"
            else str(data.get("name", data.get("source")))
        )
        keys.append((name, data.get("hash"), task))
    names = []
    for name, digest, task in keys:
        rivals = {key for key in keys if key[0] == name}
        if len({key[1] for key in rivals}) > 1:
            name += f" [{str(digest)[:6]}]"
        if len({key[2] for key in rivals}) > 1:
            name += f" on {task or 'no task'}"
        names.append(name)
    return names


def labels(runs: Sequence[Run]) -> list[str]:
    """The algorithm and its preset, and what sets a run apart from the others of these on the same data.

    An option is named where its value is not the one that most of those runs have; in a tie all name theirs.
    Runs of equal settings share a label, so that their seeds are pooled, unless a seed comes twice: then the
    folder's name tells them apart.
    """
    found, where = [], places(runs)
    for run, place in zip(runs, where, strict=True):
        rivals = [r for r, p in zip(runs, where, strict=True) if r.recipe == run.recipe and p == place]
        parts = []
        for name, value in run.options.items():
            counts = Counter(text(rival.options.get(name)) for rival in rivals).most_common(2)
            usual = counts[0][0] if len(counts) == 1 or counts[0][1] > counts[1][1] else None
            if text(value) != usual:
                parts.append(f"{name}={text(value)}")
        if len(parts) > SHOWN_OPTIONS:
            parts = [f"({run.folder.resolve().name})"]
        found.append(" ".join([run.recipe, *parts]))
    seeds = Counter((p, label, json.dumps(m, sort_keys=True)) for p, label, m in _members(runs, where, found))
    twice = {(place, label) for (place, label, _), count in seeds.items() if count > 1}
    return [
        f"{label} ({run.folder.resolve().parent.name}/{run.folder.resolve().name})"
        if (place, label) in twice
        else label
        for run, place, label in zip(runs, where, found, strict=True)
    ]


def _members(
    runs: Sequence[Run], where: Sequence[str], found: Sequence[str]
) -> Iterator[tuple[str, str, Row]]:
    for run, place, label in zip(runs, where, found, strict=True):
        for member in run.config["members"]:
            yield place, label, member


# --- Small things ------------------------------------------------------------


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names.

    >>> flat({"k": 50, "preprocess": {"obs": "none"}})
    {'k': 50, 'preprocess.obs': 'none'}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def text(value: Any) -> str:
    """As `--set` takes it."""
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(text, value)) if isinstance(value, list | tuple) else str(value)


def finite(values: Iterable[Any]) -> list[float]:
    """The numbers among `values`.

    >>> finite([1, None, float("inf"), True, "x"])
    [1.0]
    """
    real = (v for v in values if isinstance(v, int | float) and not isinstance(v, bool))
    return [float(v) for v in real if math.isfinite(v)]
