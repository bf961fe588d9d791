"""Trials, and the runs that they are folded into.

A *trial* is one algorithm with all its values on one data set with one seed: the row of a sweep's result. A
*run* trains all trials of one shape in one compiled program: they differ in seeds and float options alone.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from leashrl.core import tunable
from leashrl.data import load
from leashrl.errors import BadInput
from leashrl.runs.experiment import online_place
from leashrl.runs.plan import check_members, configure, find_place
from leashrl.sweep.space import Point, key, plain
from leashrl.sweep.spec import Spec, preset_of
from leashrl.tasks import Task


class Source(NamedTuple):
    """What a sweep knows of a data set once it has been looked at."""

    name: str
    hash: str | None
    place: Task | None


@dataclass(frozen=True)
class Trial:
    """`point` are the values that were searched for; `id` says all that decides the trial's numbers."""

    id: str
    label: str
    data: str | None
    point: Point
    seed: int
    round: int = 0


def look_at(spec: Spec) -> dict[str | None, Source]:
    """Read every data set once, so that what cannot be trained on is told before anything runs."""
    found: dict[str | None, Source] = {}
    for source in spec.data:
        if source is None:
            places = [online_place(label.partition(":")[0], spec.task) for label in spec.labels]
            found[None] = Source("", None, places[0])
        else:
            dataset = load(source, task=spec.task)
            found[source] = Source(dataset.name, dataset.hash, find_place(spec.task, dataset))
        if spec.kind == "search" and found[source].place is None:
            raise BadInput(f"'{spec.path}': [search] needs scores to go by: give a task to evaluate on")
    return found


def trials_of(
    spec: Spec,
    sources: Mapping[str | None, Source],
    label: str,
    data: str | None,
    points: Sequence[Point],
    round: int = 0,
) -> list[Trial]:
    """Every point with every seed."""

    def one(point: Point, seed: int) -> Trial:
        source = sources[data]
        decisive = {
            "algorithm": label if ":" in label else f"{label}:default",
            "data": source.hash,
            "task": source.place.name if source.place else None,
            "options": spec.options[label] | point,
            "seed": seed,
        } | {name: value for name, value in spec.train.items() if name != "log_every"}
        text = json.dumps(decisive, sort_keys=True)
        return Trial(hashlib.sha256(text.encode()).hexdigest()[:12], label, data, point, seed, round)

    return [one(point, seed) for point in points for seed in spec.seeds]


# --- Folding -----------------------------------------------------------------


def fold(spec: Spec, sources: Mapping[str | None, Source], trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """As few runs as the trials' shapes and `members` allow; JSON, as `sweep.json` keeps them.

    `train` of a run is what `experiment.train` takes, and `trials` are the ids in its members' order.

    Raises:
      BadInput: what the algorithm, on these data, does not take.
    """
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(key({"": [trial.label, trial.data, static(trial)]}), []).append(trial)
    runs = []
    for group in groups.values():
        count = math.ceil(len(group) / (spec.members or len(group)))
        size = math.ceil(len(group) / count)
        runs += [run_of(spec, sources, group[i : i + size]) for i in range(0, len(group), size)]
    return runs


def static(trial: Trial) -> Point:
    """The part of a trial's point that is compiled into its program."""
    floats = tunable(preset_of(trial.label))
    return {name: value for name, value in trial.point.items() if name not in floats}


def run_of(spec: Spec, sources: Mapping[str | None, Source], group: Sequence[Trial]) -> dict[str, Any]:
    """The run of some trials of one shape."""
    first, source = group[0], sources[group[0].data]
    algorithm, _, preset = first.label.partition(":")
    fixed = static(first)
    rows = [{"seed": t.seed} | {n: v for n, v in t.point.items() if n not in fixed} for t in group]
    options = spec.options[first.label] | fixed
    steps = {name: value for name, value in spec.train.items() if name == "steps"}
    try:
        config = configure(algorithm, preset or "default", source.place, options | steps, source.name)
        members = check_members(config, rows)
    except BadInput as error:
        raise BadInput(f"'{spec.path}': {first.label}: {error}") from None
    ids = [trial.id for trial in group]
    tail = hashlib.sha256("".join(ids).encode()).hexdigest()[:8]
    words = [algorithm, preset, source.name or (source.place.name if source.place else ""), tail]
    return {
        "name": re.sub(r"[^\w.+-]", "-", "-".join(filter(None, words))),
        "trials": ids,
        "train": {
            "algorithm": algorithm,
            "preset": preset or "default",
            "data": str(Path(first.data).absolute())
            if first.data and Path(first.data).exists()
            else first.data,
            "task": spec.task,
            "options": plain(options),
            "members": list(members),
        }
        | spec.train,
        "status": "waiting",
        "attempts": 0,
        "error": None,
    }
