"""The runs that a table or a figure is made of: trained where missing, resumed where stopped.

    leashrl paper misa --table 1 --scale cpu --set tasks=hopper-medium-v2 minutes=10

A trial is a task of the paper and a run in short, such as `misa:ba` or `misa+bound=ba`. Its data are D4RL's
file where it is on this disk, else this library's recipe of that name: every row says which. How it is
trained and evaluated is in `protocols`. One folder each,

    RUNS/SCALE/DATA--RUN/        RUNS/full/PAPER/DATA--RUN/

so that tables and figures share what they have in common, and a killed or time-limited call goes on where it
stopped.
"""

import importlib.util
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from leashrl.core import override, to_json
from leashrl.data import load, oracles, recipes
from leashrl.data.ogbench import ogbench_file
from leashrl.disk.folder import RunFolder, runs_below
from leashrl.errors import BadInput, nearest
from leashrl.papers.protocols import FULL, SCALES, Options, Setup, Trial, check, setup_of
from leashrl.runs import experiment, peers
from leashrl.runs.events import Event, MemberDiverged, Saved
from leashrl.runs.peers import PEERS
from leashrl.runs.results import Result
from leashrl.tasks import D4RL, d4rl_file, ogbench

# --- Data ----------------------------------------------------------------------


class Source(NamedTuple):
    """Where a task's data come from."""

    path: Path | None
    name: str
    about: str
    hash: str | None


ONLINE = "online, in the environment"


def source_of(task: str, online: bool, scale: str) -> Source | None:
    """D4RL's or OGBench's own file, else our recipe of that name, made now where it is not in the cache yet;
    else None. OGBench's are whole at every scale but `smoke`: they take half an hour to make."""
    if online:
        return Source(None, task, ONLINE, None)
    recipe = re.sub(r"-v\d$", "", task)
    if task in D4RL and d4rl_file(task).is_file():
        path, name, about = d4rl_file(task), task, f"D4RL's file {d4rl_file(task).name}"
    elif recipe in recipes.RECIPES:
        rows = SCALES[scale].rows if scale in SCALES else recipes.RECIPES[recipe].default_steps
        path = recipes.make(recipe, steps=rows)
        name, about = f"{recipe}-{rows}", f"our recipe {recipe}, {rows:,} rows"
    elif of_ogbench := ogbench.parse(task):
        return ogbench_source(of_ogbench, task, scale)
    else:
        return None
    return Source(path, name, about, load(path).hash)


def ogbench_source(name: ogbench.Name, task: str, scale: str) -> Source | None:
    """A data set's file, or the recipe made; one file serves several tasks, which are told apart by name."""
    path, recipe = ogbench_file(name.data), oracles.RECIPES.get(name.data.removesuffix("-v0"))
    if not path.is_file():
        if recipe is None:
            return None
        path = recipes.make(recipe.name, episodes=2 if scale == "smoke" else recipe.episodes)
    data = load(path, task=task)
    whose = "our recipe" if recipes.made_by_oracles(path) else "OGBench's file"
    return Source(path, task, f"{whose} {path.stem}, {len(data):,} rows", data.hash)


def has_source(task: str) -> bool:
    """Whether `source_of` would find something, nothing made."""
    name = ogbench.parse(task)
    if name is not None:
        file, recipe = ogbench_file(name.data), oracles.RECIPES.get(name.data.removesuffix("-v0"))
        made = recipe and recipes.ogbench_cache(recipe, recipe.episodes, 0)
        return file.is_file() or bool(made and made.is_file())
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


# --- Runs ----------------------------------------------------------------------


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
    check(options)
    trials = list(dict.fromkeys(trials))
    deadline = time.monotonic() + 60 * options.minutes if options.minutes else None
    sources: dict[str, Source] = {}
    absent = []
    for task, online in dict.fromkeys((trial.task, trial.online) for trial in trials):
        source = source_of(task, online, options.scale)
        if source is None:
            absent.append(f"{task}: no file on this disk and no recipe here")
        else:
            sources[task] = source
    lost = [] if peers_at_hand() else sorted({trial.run for trial in trials} & PEERS.keys())
    absent += [f"{name}: pip install 'leashrl[peers]'" for name in lost]
    trials = [trial for trial in trials if trial.task in sources and trial.run not in lost]
    results: dict[Trial, Result] = {}
    for n, trial in enumerate(trials, 1):
        folder = folder_of(trial, sources[trial.task], options)
        new = not RunFolder(folder).finished
        if new and deadline and time.monotonic() > deadline:
            break
        try:
            results[trial] = one(trial, sources[trial.task], setup_of(trial, options), folder, deadline, say)
        except OutOfTime:
            break
        if new:
            say(f"{n} of {len(trials)}: {trial.run} on {sources[trial.task].name}: {told(results[trial])}")
    return Done(results, sources, [trial for trial in trials if trial not in results], absent)


def one(
    trial: Trial,
    source: Source,
    setup: Setup,
    folder: Path,
    deadline: float | None,
    say: Callable[[str], None],
) -> Result:
    """One trial to its end, or OutOfTime once it is saved."""
    started, ended = RunFolder(folder).begun, RunFolder(folder).finished
    if trial.run in PEERS:  # their runs cannot be resumed
        if ended:
            return Result.read(folder)
        return peers.train(
            trial.run,
            trial.task,
            seeds=setup.seeds,
            steps=setup.steps,
            eval_every=setup.eval_every,
            out=folder,
            overwrite=started,
        )
    if started:
        refuse_another(folder, setup, trial.task, source)
    if ended:
        return Result.read(folder)

    def report(event: Event) -> None:
        if isinstance(event, Saved) and deadline and time.monotonic() > deadline:
            raise OutOfTime
        if isinstance(event, MemberDiverged):
            say(f"  {event.member} diverged at step {event.step} ({event.metric})")

    if started:
        return experiment.resume(folder, data=source.path, report=report)
    return experiment.train(
        setup.algorithm,
        source.path,
        task=trial.task,
        preset=setup.preset,
        options=setup.options,
        seeds=setup.seeds,
        eval_every=setup.eval_every,
        episodes=setup.episodes,
        final_episodes=setup.final_episodes,
        log_every=max(1, min(1000, setup.steps // 10)),
        out=folder,
        report=report,
    )


def folder_of(trial: Trial, source: Source, options: Options) -> Path:
    """Papers share their runs, except at `full`, where each has its own protocol."""
    run = re.sub(r"[^\w.,+=:-]", "_", trial.run).replace(":", "-")
    top = Path(options.runs).expanduser() / options.scale
    return (top / trial.paper if options.scale == FULL else top) / f"{source.name}--{run}"


def below(runs: str) -> list[RunFolder]:
    """All runs of ours at or below some folders, which stand as in PATH."""
    folders = [Path(folder).expanduser() for folder in runs.split(os.pathsep)]
    return [run for folder in folders for run in runs_below(folder)]


def peers_at_hand() -> bool:
    return importlib.util.find_spec("stable_baselines3") is not None


def refuse_another(folder: Path, setup: Setup, task: str, source: Source) -> None:
    """BadInput where the folder holds a run of other options or data: an earlier default's, say."""
    plan, _ = experiment.read_plan(folder)
    config = setup.config(task, plan.data.get("name", ""))
    old, new = to_json(override(type(config)(), to_json(plan.config))), to_json(config)
    if new.get("precision") == "auto":  # chosen when the run began; it stays on any machine
        new["precision"] = old["precision"]
    other = [name for name, value in new.items() if old[name] != value]
    if len(plan.members) != setup.seeds:
        other.append("seeds")
    if (plan.eval_every, plan.episodes) != (setup.eval_every, setup.episodes):
        other.append("evaluation")
    if plan.data["hash"] != source.hash:  # None online
        other.append("data")
    if other:
        raise BadInput(
            f"'{folder}' holds a run with another {', '.join(other)}: remove it, or name another folder "
            "with --set runs=FOLDER"
        )


# --- What became of them -------------------------------------------------------


def told(result: Result) -> str:
    finals = read_scores(result)["final"]
    score = f"score {np.mean(finals):.1f}" if finals else "no score"
    return "; ".join([score, *(words for _, words in stopped(result))])


def read_scores(result: Result) -> dict[str, list[float]]:
    """Final scores, and the means of the last ten evaluations, member by member.

    A member that diverged stays at its last finite policy, whose score stands for both: columns that diverge
    are scored in print too. `stopped` names the members.
    """
    found: dict[str, list[float]] = {"final": [], "last_10_mean": []}
    for member in result.members:
        end = member.diverged
        for what, values in found.items():
            value = end.score if end else getattr(member.score, what)
            if value is not None:
                values.append(float(value))
    return found


def stopped(result: Result) -> list[tuple[int, str]]:
    """The members that diverged: the update, and a sentence without a full stop."""
    found = []
    for member in result.members:
        if end := member.diverged:
            known = end.score is not None
            what = "its last finite policy is scored" if known else "it has no finite policy"
            found.append((end.step, f"{member.name} diverged at update {end.step:,}: {what}"))
    return found
