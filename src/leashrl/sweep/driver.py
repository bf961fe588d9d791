"""The driver: which trials there are, which of them still wait, and what the others have found.

    OUT/runs/NAME/     one folder a run, as `leashrl train` leaves it
    OUT/sweep.json     which trial is in which run, and each trial's result, merged from the folders

`sweep.json` is written before the first run starts and after each one ends. Its rows are keyed by the trials'
ids, and a result is read from its run's folder each time: a driver that dies loses nothing, and what is
merged again is the same row.
"""

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from leashrl.disk.claim import hold
from leashrl.disk.files import make_folder, read_json, versions, write_json
from leashrl.disk.folder import RunFolder, member_name
from leashrl.errors import BadInput
from leashrl.sweep.results import SweepResult
from leashrl.sweep.space import Point, draw, grid, key, plain, propose
from leashrl.sweep.spec import Spec, read_spec
from leashrl.sweep.trials import Source, Trial, fold, look_at, trials_of
from leashrl.sweep.workers import Say, by_ray, here, ray_cluster

Book = dict[str, Any]
"""What `sweep.json` holds: `trials`, `runs`, and what they were planned from."""


def sweep(
    path: str | Path,
    *,
    out: str | Path | None = None,
    workers: int | None = None,
    dry: bool = False,
    report: Say | None = None,
) -> SweepResult:
    """Carry out a sweep, or go on with it, and return all of its trials, done or not.

    Args:
      path: the specification, `SPEC.toml`.
      out: the sweep's folder, in place of the file's own word.
      workers: how many processes, in place of `[ray] num_cpus`; 0 trains here, one run after the other.
      dry: only plan the first runs, and write nothing.
      report: called with (event, details) as the sweep goes on: start, begin, retry, failed, end.

    Raises:
      BadInput: anything about the file, the data or the folder, before anything is trained.
    """
    spec = read_spec(path)
    spec = dataclasses.replace(spec, out=Path(out)) if out else spec
    cpus = workers if workers is not None else spec.num_cpus
    cpus = (os.cpu_count() or 1) if cpus is None else cpus
    say = report or (lambda event, details: None)
    sources = look_at(spec)
    if dry:
        book = open_book(spec)
        plan(book, spec, sources)
        return SweepResult.from_json(book, spec.out)
    make_folder(spec.out)
    book = open_book(spec)  # what is no sweep's folder is refused before a lock is left in it
    with ExitStack() as stack:
        stack.enter_context(hold(spec.out))
        book = open_book(spec)
        on_ray = False

        def note(event: str, details: dict[str, Any]) -> None:
            """After each event the book on disk is right."""
            merge(book, details["run"], spec.out)
            save(book, spec.out)
            say(event, details)

        while waiting := plan(book, spec, sources):
            save(book, spec.out)
            if not on_ray and (spec.address or (cpus and len(waiting) > 1)):
                stack.enter_context(ray_cluster(spec, cpus))
                on_ray = True
            say("start", {"book": book, "waiting": waiting, "folder": spec.out, "ray": on_ray})
            (by_ray if on_ray else here)(waiting, spec, spec.out / "runs", note)
        save(book, spec.out)
    return SweepResult.from_json(book, spec.out)


# --- What is to be done ------------------------------------------------------


def plan(book: Book, spec: Spec, sources: Mapping[str | None, Source]) -> list[dict[str, Any]]:
    """Add the trials that are due to the book, and return the runs that wait; none at the end."""
    trials: list[Trial] = []
    for label in spec.labels:
        for data in spec.data:
            trials += trials_of(spec, sources, label, data, points_of(book, spec, label, data))
    known = {row["id"] for row in book["trials"]}
    if others := known - {trial.id for trial in trials}:
        raise BadInput(
            f"'{spec.out}' holds {len(others)} trials that '{spec.path}' does not ask for: a sweep may grow, "
            "but what it has begun stays; choose another out"
        )
    new = list({trial.id: trial for trial in trials if trial.id not in known}.values())
    runs = fold(spec, sources, new)
    run_of = {identity: run["name"] for run in runs for identity in run["trials"]}
    book["runs"] += runs
    book["trials"] += [
        {
            "id": trial.id,
            "run": run_of[trial.id],
            "algorithm": trial.label,
            "data": trial.data,
            "values": plain(trial.point),
            "seed": trial.seed,
            "status": "waiting",
            "diverged": None,
            "score": None,
            "return": None,
        }
        for trial in new
    ]
    return [run for run in book["runs"] if run["status"] == "waiting"]


def points_of(book: Book, spec: Spec, label: str, data: str | None) -> list[Point]:
    """All points of one algorithm on one data set; of a search, those known and perhaps the next ones."""
    space = spec.space[label]
    if spec.kind == "grid":
        return grid(space)
    if spec.kind == "random":
        return draw(space, spec.trials, spec.seed)
    groups = grouped([row for row in book["trials"] if (row["algorithm"], row["data"]) == (label, data)])
    points = [group[0]["values"] for group in groups]
    due = min(spec.at_once, spec.trials - len(points))
    if due <= 0 or any(row["status"] == "waiting" for row in book["trials"]):
        return points
    history = [(group[0]["values"], objective(group)) for group in groups]
    return points + propose(space, history, due, seed=(spec.seed, len(points)), startup=spec.startup)


def grouped(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows that differ in their seeds alone, together."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(key({"": [row["algorithm"], row["data"], row["values"]]}), []).append(row)
    return list(found.values())


def objective(group: Sequence[dict[str, Any]]) -> float | None:
    """What [search] makes large: the mean over seeds of the mean of the last ten scores.

    The return where the task has no score; None where a seed has diverged or failed.
    """
    if any(row["status"] != "done" for row in group):
        return None
    values = [value for row in group if (value := last_ten(row)) is not None]
    return float(np.mean(values)) if len(values) == len(group) else None


def last_ten(row: Mapping[str, Any]) -> float | None:
    value = row["score"]["last_10_mean"] if row["score"] else None
    return row["return"]["last_10_mean"] if value is None and row["return"] else value


# --- The book ----------------------------------------------------------------


def open_book(spec: Spec) -> Book:
    """What `sweep.json` says, with the results of all runs that have ended; failed runs wait again."""
    searched = {"space": spec.space, "seed": spec.seed} if spec.kind == "search" else None
    book: Book = {
        "spec": str(spec.path),
        "spec_sha256": hashlib.sha256(spec.path.read_bytes()).hexdigest(),
        "kind": spec.kind,
        "search": searched,
        "trials": [],
        "runs": [],
        "points": [],
        "versions": versions("ray", "optuna"),
    }
    file = spec.out / "sweep.json"
    if not file.exists():
        if spec.out.exists() and any(
            not p.name.startswith(".") and p.name != "runs" for p in spec.out.iterdir()
        ):
            raise BadInput(f"'{spec.out}' exists and is not a sweep: choose another out")
        return book
    before = read_json(file)
    try:
        same = key({"": before["search"]}) == key({"": searched}) or not before["trials"]
        book |= {"trials": before["trials"], "runs": before["runs"]}
        for run in book["runs"]:
            run |= {"status": "waiting", "error": None}
            merge(book, run, spec.out)
    except (KeyError, TypeError) as error:
        raise BadInput(f"'{file}' is not what leashrl wrote: {type(error).__name__} {error}") from None
    if not same:
        raise BadInput(
            f"'{spec.out}' was searched otherwise: in [search] only trials may grow; choose another out"
        )
    return book


def merge(book: Book, run: dict[str, Any], out: Path) -> None:
    """Bring a run's rows, and its status, to what its folder says."""
    rows = {row["id"]: row for row in book["trials"] if row["run"] == run["name"]}
    mine = [rows[identity] for identity in run["trials"]]
    folder = out / "runs" / run["name"]
    if not RunFolder(folder).finished:
        run["status"] = "failed" if run["error"] else "waiting"
        for row in mine:
            row["status"] = run["status"]
        return
    run |= {"status": "done", "error": None}
    members = RunFolder(folder).result()["members"]
    names = [member_name(member) for member in run["train"]["members"]]
    if [member["name"] for member in members] != names:
        raise BadInput(f"'{folder}' is not the run that the sweep began: choose another out")
    for row, member in zip(mine, members, strict=True):
        row["status"] = "diverged" if member["diverged"] else "done"
        row |= {name: member[name] for name in ("diverged", "score", "return")}


def save(book: Book, out: Path) -> None:
    book["points"] = points(book["trials"])
    write_json(out / "sweep.json", book)


def points(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a point, the mean over its seeds; the best first within an algorithm and data set."""
    found = []
    for group in grouped(rows):
        done = [row for row in group if row["status"] == "done" and last_ten(row) is not None]
        what = "score" if done and done[0]["score"]["last_10_mean"] is not None else "return"
        mean = lambda when, what=what, done=done: (
            float(np.mean([r[what][when] for r in done])) if done else None
        )
        found.append(
            {name: group[0][name] for name in ("algorithm", "data", "values")}
            | {"seeds": len(group), "done": sum(row["status"] == "done" for row in group)}
            | {"diverged": sum(row["status"] == "diverged" for row in group), "measure": what}
            | {"last_10_mean": mean("last_10_mean"), "final": mean("final")}
        )
    order = {name: i for i, name in enumerate(dict.fromkeys((p["algorithm"], p["data"]) for p in found))}
    worst = float("-inf")
    rank = lambda p: (
        order[p["algorithm"], p["data"]],
        -(worst if p["last_10_mean"] is None else p["last_10_mean"]),
    )
    return sorted(found, key=rank)
