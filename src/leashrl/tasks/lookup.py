"""Which task a name stands for: a task's own, an environment's id, a data set's or a file's."""

import difflib
import re

from leashrl.errors import BadInput, nearest
from leashrl.tasks import ogbench, own
from leashrl.tasks.table import BARE, TASKS, Task


def task(name: str) -> Task:
    """The task of that name, or of a registered Gymnasium id (`tasks.own`).

    Raises:
      BadInput: there is none; the nearest names are given.

    >>> task("pen-human-v0").max_episode_steps
    100
    """
    if name in TASKS:
        return TASKS[name]
    if (found := own.registered(str(name))) is not None:
        return found
    close = difflib.get_close_matches(str(name), TASKS, n=4) or list(BARE)
    raise BadInput(f"no task '{name}' in the table (`leashrl tasks` prints it): {nearest(str(name), close)}")


def of_environment(name: str) -> Task:
    """The task of that name, or the bare environment of that Gymnasium id.

    Raises:
      BadInput: neither is in the table.

    >>> of_environment("Hopper-v4").name, of_environment("hopper").name
    ('hopper', 'hopper')
    """
    return next((row for row in BARE.values() if row.env_id == name), None) or task(name)


KINDS = (
    *("umaze-diverse", "umaze", "medium-play", "medium-diverse", "large-play", "large-diverse"),
    *("medium-expert", "medium-replay", "full-replay", "mixed", "random", "medium", "expert"),
    *("human", "cloned"),
)
"""What data sets of one environment are told apart by; `mixed` is an older name of `medium-replay`."""


def places(task: Task | None, data: str) -> tuple[str, ...]:
    """The names under which an algorithm may keep values for a task and its data, the most general first.

    >>> places(TASKS["hopper-medium-v2"], "hopper_medium-v2.hdf5")
    ('gym', 'hopper', 'hopper-medium', 'hopper-medium-v2')
    >>> places(BARE["door"], "door-human-dapg-replayed")
    ('adroit', 'door', 'door-human')

    D4RL's own name of a file may not say what kind of data it holds; the task's name then does.

    >>> places(TASKS["pen-human-v0"], "pen-v0_demos_clipped")
    ('adroit', 'pen', 'pen-human', 'pen-human-v0')

    An AntMaze's kind is part of its name.

    >>> places(BARE["antmaze-umaze"], "D4RL/antmaze/umaze-diverse-v1")
    ('antmaze', 'antmaze-umaze', 'antmaze-umaze-diverse')
    """
    if task is None or task.domain == own.DOMAIN:
        return ()
    if task.domain == "ogbench":
        return _ogbench_places(task, data)
    name = data.rsplit("/", 1)[-1].lower().replace("_", "-")
    said = (k for words in (name, task.name) for k in KINDS if re.search(rf"(^|-){k}(-|\.|$)", words))
    kind = next(said, None)
    kind = "medium-replay" if kind == "mixed" else kind
    family = task.name.split("-")[0]
    names = [f"{family}-{kind}"] if kind else []
    names = [task.name, *names] if task.name in BARE else [*names, task.name]
    names = [task.domain, family, *names]
    return tuple(dict.fromkeys(names))


def _ogbench_places(task: Task, data: str) -> tuple[str, ...]:
    """An environment without a data type has that of its data.

    >>> _ogbench_places(TASKS["cube-single-singletask-task2-v0"], "cube-single-play-v0")
    ('ogbench', 'cube', 'cube-single', 'cube-single-play', 'cube-single-singletask-task2-v0')

    OGBench's ants and their mazes are others than D4RL's of the same names.

    >>> _ogbench_places(TASKS["antmaze-large-navigate-singletask-v0"], "")
    ('ogbench', 'antmaze-large-navigate', 'antmaze-large-navigate-singletask-v0')
    """
    name, of_data = ogbench.parse(task.name), ogbench.parse(data.rsplit("/", 1)[-1])
    assert name is not None
    kind = name.kind or (of_data.kind if of_data and of_data.world == name.world else None)
    heads = () if name.world.startswith("antmaze") else (name.world.split("-")[0], name.world)
    kinds = (f"{name.world}-{kind}",) if kind else ()
    return tuple(dict.fromkeys(("ogbench", *heads, *kinds, task.name)))


def guess(name: str) -> Task | None:
    """The task that a data set's or a file's name stands for, or None if it does not name one.

    In this order: a task's own name, D4RL's name of its file, OGBench's of a data set (its default task), the
    older papers' `hopper-mixed`, and last an environment's name at the start (`hopper-medium-like.hdf5`,
    the Minari id `D4RL/door/human-v2`).

    >>> guess("walker_mixed.hdf5").name
    'walker2d-medium-replay-v0'
    >>> guess("runs/hopper-medium-like.hdf5").name
    'hopper'
    >>> guess("data/cube-single-play-v0.npz").name
    'cube-single-play-singletask-v0'
    >>> guess("my-logs.npz") is None
    True
    """
    path = re.sub(r"\.(hdf5|h5|npz)$", "", str(name).replace("\\", "/").rstrip("/"), flags=re.IGNORECASE)
    base = path.rsplit("/", 1)[-1].lower()
    files = {row.data_file[: -len(".hdf5")].lower(): row for row in TASKS.values() if row.data_file}
    found = TASKS.get(base) or files.get(base)
    data = ogbench.parse(base)
    if found is None and data is not None and data.kind:
        return TASKS[data.task_name(None)]
    mixed = re.fullmatch(r"(hopper|walker2d|halfcheetah|ant)-mixed(-v0)?", base)
    if found is None and mixed:
        found = TASKS[f"{mixed[1]}-medium-replay-v0"]
    if found is None:
        minari = re.sub(r"^(minari:)?(d4rl|mujoco)/", "", path.lower()).replace("/", "-")
        for candidate in (base, minari):
            heads = [bare for bare in BARE if re.match(rf"{re.escape(bare)}($|[-_.])", candidate)]
            found = found or (BARE[max(heads, key=len)] if heads else None)
    return found
