"""The runs that a table or a figure is made of: trained where missing, resumed where stopped.

    leashrl paper misa --table 1 --scale cpu --set tasks=hopper-medium-v2 minutes=10

A trial is a task of the paper and a run in short, such as `misa:ba` or `misa+bound=ba`. Its data are D4RL's
file where it is on this disk, else this library's recipe of that name: every row says which. One folder each,

    RUNS/SCALE/DATA--RUN/

so that tables and figures share what they have in common, and a killed or time-limited call goes on where it
stopped.
"""

import dataclasses
import importlib.util
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from leashrl import experiment, peers
from leashrl.core import override, to_json
from leashrl.data import load, recipes
from leashrl.data.d4rl import D4RL, d4rl_file
from leashrl.errors import BadInput, nearest
from leashrl.peers import PEERS
from leashrl.plan import configure, parse_run
from leashrl.run import Result
from leashrl.tasks import task as find_task

# --- How much of it ----------------------------------------------------------


class Scale(NamedTuple):
    """A protocol. Of `full` it is the papers', where they agree; `cpu` is what two cores do in an evening."""

    steps: int
    seeds: int
    evaluations: int
    episodes: int | None
    """An evaluation and seed; None: the task's own number."""
    rows: int | None
    """Of a recipe's data; None: the recipe's own number."""
    options: Mapping[str, Any] = {}
    online_steps: int = 0
    """Online at least so many, so that an episode ends."""


SCALES = {
    "smoke": Scale(20, 2, 2, 1, 2_000, {"hidden": (8, 8), "batch_size": 8}, 1_200),
    "cpu": Scale(5_000, 2, 10, 10, 100_000),
    "full": Scale(1_000_000, 5, 100, None, None),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of all tables and figures that are made of runs.

    Args:
      scale: `smoke` sees that it works, `cpu` is 5,000 updates of two seeds, `full` the paper's protocol.
      tasks: the paper's tasks to run, with commas, or beginnings of their names; all whose data are at hand.
      columns: the columns or curves to run, with commas; all.
      runs: the folder of the runs.
      minutes: stop after so long; the same command goes on. 0: not before the end.
      steps, seeds: in place of the scale's; 0: the scale's.
    """

    scale: str = "cpu"
    tasks: str = ""
    columns: str = ""
    runs: str = "runs/papers"
    minutes: float = 0.0
    steps: int = 0
    seeds: int = 0


def scale_of(options: Options) -> Scale:
    if options.scale not in SCALES:
        raise BadInput(f"no scale '{options.scale}': {nearest(options.scale, SCALES)}")
    if min(options.minutes, options.steps, options.seeds) < 0:
        raise BadInput(f"minutes, steps and seeds cannot be negative: {options}")
    scale = SCALES[options.scale]
    return scale._replace(steps=options.steps or scale.steps, seeds=options.seeds or scale.seeds)


# --- Trials ------------------------------------------------------------------


class Trial(NamedTuple):
    task: str
    run: str
    """`ALGORITHM[:PRESET][+OPTION=VALUE]...`, see `plan.parse_run`; or one of `peers.PEERS`."""
    online: bool = False
    """It learns in the task's environment, without data."""


class Source(NamedTuple):
    """Where a task's data come from."""

    path: Path | None
    name: str
    about: str
    hash: str | None


ONLINE = "online, in the environment"


def source_of(task: str, online: bool, scale: Scale) -> Source | None:
    """D4RL's own file, else our recipe of that name, made now where it is not in the cache yet; else None."""
    if online:
        return Source(None, task, ONLINE, None)
    recipe = re.sub(r"-v\d$", "", task)
    if task in D4RL and d4rl_file(task).is_file():
        path, name, about = d4rl_file(task), task, f"D4RL's file {d4rl_file(task).name}"
    elif recipe in recipes.RECIPES:
        path = recipes.make(recipe, steps=scale.rows)
        rows = scale.rows or recipes.RECIPES[recipe].default_steps
        name, about = f"{recipe}-{rows}", f"our recipe {recipe}, {rows:,} rows"
    else:
        return None
    return Source(path, name, about, load(path).hash)


def has_source(task: str) -> bool:
    """Whether `source_of` would find something, nothing made."""
    return (task in D4RL and d4rl_file(task).is_file()) or re.sub(r"-v\d$", "", task) in recipes.RECIPES


def chosen(asked: str, known: Iterable[str], what: str) -> list[str]:
    """Those of `known` that `asked` names, by themselves or by their beginnings; all where it is empty.

    >>> chosen("hopper", ["hopper-medium-v2", "walker2d-medium-v2"], "task")
    ['hopper-medium-v2']
    """
    known, found = list(known), []
    for word in filter(None, (w.strip() for w in asked.split(","))):
        mine = [name for name in known if name == word] or [n for n in known if n.startswith(f"{word}-")]
        if not mine:
            raise BadInput(f"no {what} '{word}' here: {nearest(word, known)}")
        found += mine
    return [name for name in known if name in found] if found else known


def protocol(options: Options) -> str:
    """The scale in words."""
    scale = scale_of(options)
    return f"scale {options.scale}, {scale.steps:,} updates, {scale.seeds} seeds"


class OutOfTime(Exception):
    """The minutes are over; all work is saved."""


class Done(NamedTuple):
    """What has become of the trials."""

    results: dict[Trial, Result]
    sources: dict[str, Source]
    """By task."""
    left: list[Trial]
    """Not finished, since the minutes were over."""
    absent: list[str]
    """What cannot be run here, and why: no data, no package."""


def finish(trials: Iterable[Trial], options: Options, say: Callable[[str], None]) -> Done:
    """Train what is missing, resume what was stopped, read what is done."""
    scale, trials = scale_of(options), list(dict.fromkeys(trials))
    deadline = time.monotonic() + 60 * options.minutes if options.minutes else None
    sources: dict[str, Source] = {}
    absent = []
    for task, online in dict.fromkeys((trial.task, trial.online) for trial in trials):
        source = source_of(task, online, scale)
        if source is None:
            absent.append(f"{task}: no file of D4RL's and no recipe here")
        else:
            sources[task] = source
    lost = [] if peers_at_hand() else sorted({trial.run for trial in trials} & PEERS.keys())
    absent += [f"{name}: pip install 'leashrl[peers]'" for name in lost]
    trials = [trial for trial in trials if trial.task in sources and trial.run not in lost]
    results: dict[Trial, Result] = {}
    for n, trial in enumerate(trials, 1):
        folder = folder_of(trial, sources[trial.task], options)
        new = not (folder / "result.json").exists()
        if new and deadline and time.monotonic() > deadline:
            break
        try:
            results[trial] = one(trial, sources[trial.task], scale, folder, deadline, say)
        except OutOfTime:
            break
        if new:
            say(f"{n} of {len(trials)}: {trial.run} on {sources[trial.task].name}: {told(results[trial])}")
    return Done(results, sources, [trial for trial in trials if trial not in results], absent)


def one(
    trial: Trial,
    source: Source,
    scale: Scale,
    folder: Path,
    deadline: float | None,
    say: Callable[[str], None],
) -> Result:
    """One trial to its end, or OutOfTime once it is saved."""
    steps = max(scale.steps, scale.online_steps if trial.online else 0)
    every, name = max(1, steps // scale.evaluations), trial.run
    if name in PEERS:  # their runs cannot be resumed
        if (folder / "result.json").exists():
            return Result.read(folder)
        return peers.train(
            name,
            trial.task,
            seeds=scale.seeds,
            steps=steps,
            eval_every=every,
            out=folder,
            overwrite=(folder / "config.json").exists(),
        )
    algorithm, preset, given = parse_run(name)
    values = dict(scale.options) | ({"warmup": 20} if trial.online and scale.options else {})
    values |= given | {"steps": steps}
    if (folder / "config.json").exists():
        refuse_another(folder, algorithm, preset, values, trial.task, source, scale)
    if (folder / "result.json").exists():
        return Result.read(folder)

    def report(event: str, details: dict[str, Any]) -> None:
        if event == "saved" and deadline and time.monotonic() > deadline:
            raise OutOfTime
        if event == "diverged":
            say(f"  {details['member']} diverged at step {details['step']} ({details['metric']})")

    if (folder / "config.json").exists():
        return experiment.resume(folder, data=source.path, report=report)
    return experiment.train(
        algorithm,
        source.path,
        task=trial.task,
        preset=preset,
        options=values,
        seeds=scale.seeds,
        eval_every=every,
        episodes=scale.episodes,
        log_every=max(1, min(1000, steps // 10)),
        out=folder,
        report=report,
    )


def folder_of(trial: Trial, source: Source, options: Options) -> Path:
    run = re.sub(r"[^\w.,+=:-]", "_", trial.run).replace(":", "-")
    return Path(options.runs).expanduser() / options.scale / f"{source.name}--{run}"


def below(runs: str, name: str) -> list[Path]:
    """All files of that name below some folders, which stand as in PATH."""
    folders = [Path(folder).expanduser() for folder in runs.split(os.pathsep)]
    return sorted(path for folder in folders for path in folder.rglob(name))


def peers_at_hand() -> bool:
    return importlib.util.find_spec("stable_baselines3") is not None


def refuse_another(
    folder: Path, algorithm: str, preset: str, values: dict, task: str, source: Source, scale: Scale
) -> None:
    """BadInput where the folder holds a run of other options or data: an earlier default's, say."""
    plan, _ = experiment.read_plan(folder)
    config = configure(algorithm, preset, find_task(task), values, plan.data["name"])
    old, new = to_json(override(type(config)(), to_json(plan.config))), to_json(config)
    other = [name for name, value in new.items() if old[name] != value]
    if len(plan.members) != scale.seeds:
        other.append("seeds")
    if plan.data["hash"] != source.hash:  # None online
        other.append("data")
    if other:
        raise BadInput(
            f"'{folder}' holds a run with another {', '.join(other)}: remove it, or name another folder "
            "with --set runs=FOLDER"
        )


def told(result: Result) -> str:
    score = result.score
    fallen = f"; diverged: {', '.join(result.diverged)}" if result.diverged else ""
    return ("no score" if score is None else f"score {score['mean']:.1f}") + fallen


def read_scores(result: Result) -> dict[str, list[float]]:
    """Of the members that did not diverge: final scores, and the means of their last ten evaluations."""
    up = [m["score"] for m in result.values["members"] if not m["diverged"]]
    return {what: [s[what] for s in up if s[what] is not None] for what in ("final", "last_10_mean")}
