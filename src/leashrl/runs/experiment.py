"""The two ways into a run: `train` plans and checks a new one, `resume` goes on with an old one."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leashrl.core import Preprocess, State
from leashrl.data import Dataset, load
from leashrl.disk.checkpoint import load_checkpoint, restore
from leashrl.disk.claim import claim_folder, hold
from leashrl.disk.files import versions
from leashrl.disk.folder import RunFolder
from leashrl.errors import BadInput, nearest
from leashrl.runs.events import Report
from leashrl.runs.execute import execute
from leashrl.runs.plan import (
    DECISIVE,
    ONLINE,
    Plan,
    at_least_one,
    check_members,
    chosen,
    configure,
    describe,
    find_algorithm,
    find_place,
    make_members,
)
from leashrl.runs.results import Result
from leashrl.runs.run import Run
from leashrl.tasks import Task
from leashrl.tasks import task as find_task
from leashrl.training import loop
from leashrl.training.compilation import in_float32
from leashrl.types import Box, Space

SELECTIONS = ("last", "fqe")


@in_float32
def train(
    algorithm: str,
    data: str | Path | Dataset | None = None,
    *,
    task: str | None = None,
    preset: str = "default",
    options: Mapping[str, Any] | None = None,
    vary: Mapping[str, Sequence[float]] | None = None,
    seeds: int | Sequence[int] = 3,
    members: Sequence[Mapping[str, float]] | None = None,
    steps: int | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    log_every: int = 1000,
    eval_every: int | None = None,
    episodes: int | None = None,
    final_episodes: int | None = None,
    snapshots: bool = False,
    select: str = "last",
    report: Report | None = None,
) -> Result:
    """Train all members in one compiled program, evaluate them, and leave the artefacts in `out`.

    Args:
      algorithm: a name of the registry (`leashrl algos`).
      data: a file, an id, or a `Dataset`; None: what the members see of the task's environment as they act.
      task: where to evaluate (`leashrl tasks`); by default what the data's name says; `none` for nowhere.
      preset: named values of the algorithm's Config.
      options: single fields of the Config, laid over the preset.
      vary: hyper-parameters (float fields) with several values each: every seed trains with every one.
      seeds: how many (0, 1, ...), or which.
      members: rows of a `seed` and hyper-parameters each, in place of `seeds` and `vary`.
      steps: gradient updates; the Config's own number by default.
      out: the run's folder; `runs/ALGORITHM-DATA` by default.
      overwrite: delete the run in `out` first, else it is refused; other files are never deleted.
      log_every: updates a line of metrics.
      eval_every: updates per evaluation and per snapshot; ten of them a run by default.
      episodes: per evaluation and member; the task's own number by default.
      final_episodes: of the last evaluation, where it has another number.
      snapshots: keep the policies of every `eval_every` updates, in `snapshots/`; without a task too.
      select: `fqe` keeps snapshots and notes in the plan that `leashrl.select` is to choose among them.
      report: called with the events of `runs.events` as the run goes on.

    Returns:
      What `result.json` holds.

    Raises:
      BadInput: anything about the arguments, the data or the disk, before anything is written.
    """
    config, dataset, place = read_inputs(algorithm, data, task, preset, options or {}, steps)
    eval_every = max(1, config.steps // 10) if eval_every is None else eval_every
    episodes = (place.episodes if place else 0) if episodes is None else episodes
    at_least_one(
        steps=config.steps,
        batch_size=config.batch_size,
        log_every=log_every,
        eval_every=eval_every,
        episodes=episodes if place else 1,
        final_episodes=1 if final_episodes is None else final_episodes,
    )
    check_data(dataset, config, select)
    rows = make_members(config, seeds, vary or {}) if members is None else check_members(config, members)
    plan = Plan(
        algorithm=algorithm,
        preset=preset,
        config=chosen(algorithm, config),
        data=ONLINE if dataset is None else {"source": source_of(data)} | describe(dataset),
        task=place.name if place else None,
        members=rows,
        log_every=log_every,
        eval_every=eval_every,
        episodes=episodes if place else 0,
        snapshots=snapshots or select != "last",
        select=select,
        final_episodes=final_episodes if place else None,
    )
    run = Run.build(plan, dataset)
    refuse_memory(run)
    name = dataset.name if dataset else f"{place.name}-online" if place else ""
    folder = Path(out) if out else Path("runs") / f"{algorithm}-{name}"
    return start(run, folder, overwrite, report)


def read_inputs(
    algorithm: str,
    data: str | Path | Dataset | None,
    task: str | None,
    preset: str,
    options: Mapping[str, Any],
    steps: int | None,
) -> tuple[Any, Dataset | None, Task | None]:
    """The Config, the data set and the task of a new run; the Config depends on the other two."""
    configure(algorithm, preset, None, options)  # a typo is told before a large file is read
    wanted = None if task == "none" else task  # for files whose rewards are a task's
    dataset = data if isinstance(data, Dataset) or data is None else load(data, task=wanted)
    place = find_place(task, dataset) if dataset else online_place(algorithm, task)
    options = dict(options) | ({} if steps is None else {"steps": steps})
    config = configure(algorithm, preset, place, options, dataset.name if dataset else "")
    return config, dataset, place


def check_data(dataset: Dataset | None, config: Any, select: str) -> None:
    """BadInput where an online run is asked for what only a data set can give."""
    if dataset is None and config.preprocess != Preprocess():
        raise BadInput("option 'preprocess' needs a data set: online there are no statistics before training")
    if select not in SELECTIONS:
        raise BadInput(f"'select' cannot be '{select}': {nearest(select, SELECTIONS)}")
    if select != "last" and dataset is None:
        raise BadInput("FQE judges snapshots on a data set, and an online run has none: leave out --select")


def refuse_memory(run: Run) -> None:
    if run.plan.select != "last" and run.remembers:
        name = run.plan.algorithm
        raise BadInput(f"{name} remembers its episode, and FQE looks at rows alone: leave out --select")


def start(run: Run, folder: Path, overwrite: bool, report: Report | None) -> Result:
    """Claim the folder, write `config.json`, and execute the run from its first update."""
    if run.task:
        try_environment(run.task, run.spec.action, bool(run.plan.data.get("action_space_assumed")))
    with claim_folder(folder, overwrite):
        RunFolder(folder).write_config(run.plan.to_json() | {"versions": versions()})
        return execute(run, folder, None, report)


@in_float32
def resume(
    folder: str | Path, *, data: str | Path | Dataset | None = None, report: Report | None = None
) -> Result:
    """Continue a run from its newest checkpoint; the result has the uninterrupted run's bits.

    A run that was killed before its first checkpoint starts again; a finished one gives its result.

    Args:
      folder: the run's folder.
      data: the data set, where the run was started from arrays in memory, or its file has moved.
      report: called as the run goes on.

    Raises:
      BadInput: no run, broken files, other data than the run was started on, or a run that goes on already.
    """
    folder = Path(folder)
    plan, before = read_plan(folder)
    if RunFolder(folder).finished:
        return Result.read(folder)
    run = rebuild(folder, plan, data)
    with hold(folder):
        warn_of_versions(folder, before)
        found = load_checkpoint(RunFolder(folder).checkpoint)
        if found is None and plan.switch:
            again = f"`leashrl finetune {plan.switch.folder} ... --out {folder} --overwrite`"
            raise BadInput(
                f"'{folder}' was stopped before it held the offline state: start again with {again}"
            )
        return execute(run, folder, found, report)


@in_float32
def last_state(folder: str | Path, *, data: str | Path | Dataset | None = None) -> tuple[Run, State]:
    """A run made ready again, and the newest checkpoint's state of all its members: to look into.

    Args and errors as in `resume`; a run that has no checkpoint yet is refused.
    """
    folder = Path(folder)
    plan, _ = read_plan(folder)
    run = rebuild(folder, plan, data)
    found = load_checkpoint(RunFolder(folder).checkpoint)
    if found is None:
        raise BadInput(f"'{folder}' has no checkpoint yet: `leashrl resume {folder}` starts it")
    step, flat, _ = found
    like = loop.blank(run.algorithm, run.data, run.keys, run.hp, step)
    return run, restore(like, flat, str(RunFolder(folder).checkpoint))["state"]


def read_plan(folder: Path) -> tuple[Plan, dict[str, str]]:
    """What `config.json` says: the plan, and the versions that it was started with."""
    files = RunFolder(folder)
    values = files.own_config()
    try:
        plan = Plan.from_json(values)
        _ = plan.data["source"], plan.data["hash"]
        return plan, dict(values["versions"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise files.malformed("config.json", error) from None


def rebuild(folder: Path, plan: Plan, data: str | Path | Dataset | None) -> Run:
    """The run of a plan, on the data that it was started on."""
    dataset = None if plan.data == ONLINE else same_data(folder, plan, data)
    if dataset is None and data is not None:
        raise BadInput(f"'{folder}' is an online run: it takes no data")
    return Run.build(plan, dataset)


def try_environment(place: Task, space: Space, assumed: bool) -> None:
    """A missing simulator, and actions in other units than its own, are told before training.

    Args:
      space: the actions' of the data.
      assumed: nobody said it: it is [-1, 1] by D4RL's convention.
    """
    from leashrl.tasks.making import action_bounds

    bounds = action_bounds(place)
    if bounds is None or not isinstance(space, Box) or np.allclose(bounds, (space.low, space.high)):
        return
    low, high = (",".join(f"{x:g}" for x in side) for side in bounds)
    units = f"task '{place.name}' takes actions from {low} to {high}"
    if assumed:
        raise BadInput(
            f"{units}, and the data do not say their bounds, which D4RL's convention makes [-1, 1]: write a "
            f"file that says them, `leashrl data convert FILE OUT --action-low={low} --action-high={high}`; "
            "actions that were scaled to [-1, 1] are to be scaled back before"
        )
    logging.getLogger("leashrl").warning(
        "leashrl: warning: %s, the data's lie from %s to %s: they are executed as they are, in these units",
        units,
        ",".join(f"{x:g}" for x in space.low),
        ",".join(f"{x:g}" for x in space.high),
    )


def online_place(algorithm: str, task: str | None) -> Task:
    """The task that an online run acts in."""
    if not find_algorithm(algorithm).online:
        raise BadInput(f"{algorithm} learns from data: give --data")
    if task in (None, "none"):
        raise BadInput(f"{algorithm} without data learns in a task's environment: give --task, or --data")
    place = find_task(task)
    if place.env_id is None:
        raise BadInput(f"task '{task}' has no environment to learn in")
    return place


def same_data(folder: Path, plan: Plan, data: str | Path | Dataset | None) -> Dataset:
    """The data set that the run was started on, compared with what `config.json` says of it."""
    if data is None and plan.data["source"] is None:
        raise BadInput(f"'{folder}' was trained on arrays in memory: pass them as `data`")
    dataset = data if isinstance(data, Dataset) else load(data or plan.data["source"], task=plan.task)
    found = describe(dataset)
    # Older versions stored the hash alone.
    other = [name for name in DECISIVE if name in plan.data and plan.data[name] != found[name]]
    if other:
        what = " and ".join(f"the {name.replace('_', ' ')} differs" for name in other)
        raise BadInput(
            f"'{dataset.name}' is not the data '{folder}' was trained on: {what}; name the right one"
        )
    return dataset


def warn_of_versions(folder: Path, before: Mapping[str, str]) -> None:
    """One line where XLA may round otherwise than when the run was started."""
    now = versions()
    names = [name for name in ("jax", "jaxlib") if name in before and before[name] != now.get(name)]
    if names:
        logging.getLogger("leashrl").warning(
            "leashrl: warning: '%s' was started with %s: its bits may differ from an uninterrupted run's",
            folder,
            ", ".join(f"{name} {before[name]} (now {now.get(name)})" for name in names),
        )


def source_of(source: str | Path | Dataset | None) -> str | None:
    """A path that holds wherever `resume` is called from; ids and recipes stay as they are."""
    if source is None or isinstance(source, Dataset):
        return None
    path = Path(source).expanduser()
    # Links are not followed: a file's name says what kind it is, and a store's names may say nothing.
    return str(path.absolute()) if path.exists() else str(source)
