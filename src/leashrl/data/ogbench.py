"""OGBench's `.npz` files: states, actions and ends of episodes, without rewards, which a task gives them.

A file holds `observations`, `actions`, `terminals` (the last row of each episode), `qpos`, `qvel` and, where
there are buttons, `button_states`. The last row's action leads nowhere: it is marked as a time-out, which no
view of transitions pairs with the row behind it. Rewards and ends of the task are computed for the task at
hand, of the state before the step, as the package's `relabel_dataset` does: one file serves five tasks.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from leashrl.data.raw import Defect, Raw
from leashrl.errors import BadInput
from leashrl.tasks import ogbench
from leashrl.tasks.lookup import task as find_task
from leashrl.tasks.making import borrow, give_back
from leashrl.tasks.table import Task
from leashrl.types import Box

STATE = ("qpos", "qvel", "button_states")
CUBE, CUBES = 7, 14
"""Numbers of a cube in qpos, and where the first one is."""
NEAR = 0.04
"""Metres (or radians) within which an object is where it should be."""


def ogbench_file(name: str) -> Path:
    """Where OGBench itself keeps a data set's file: `$OGBENCH_DATASET_DIR`, else `~/.ogbench/data`."""
    root = os.environ.get("OGBENCH_DATASET_DIR") or Path.home() / ".ogbench" / "data"
    return Path(root) / f"{name}.npz"


def without_rewards(raw: Raw) -> bool:
    """Whether a container is OGBench's: rewards are not in it, the simulator's states are."""
    return "rewards" not in raw.arrays and {"qpos", "qvel"} <= set(raw.extras)


def task_of(name: str | None, path: str) -> Task:
    """The task that rewards are wanted for: the one named, else the default one of the file's name.

    Raises:
      BadInput: no OGBench task, or one of another environment than the file's name says.
    """
    file = ogbench.parse(Path(path).stem.removesuffix("-val"))
    if name is None:
        if file is None or file.kind is None:
            raise BadInput(f"{path} holds no rewards: name its task, such as cube-single-singletask-task2-v0")
        return find_task(file.task_name(None))
    task, parts = find_task(name), ogbench.parse(name)
    if parts is None:
        raise BadInput(f"{path} is OGBench's and holds no rewards: task '{name}' has none for it")
    if file is not None and file.world != parts.world:
        raise BadInput(
            f"{path} is of {file.world}, and task '{name}' of {parts.world}: wrong task or wrong file"
        )
    return task


def with_rewards(raw: Raw, name: str | None) -> Raw:
    """The file's contents as every other container has them, with a task's rewards and ends.

    Raises:
      BadInput: a wrong task, arrays of sizes that are not the task's, or no package to ask for its goal.
    """
    task = task_of(name, raw.where)
    state = {key: np.asarray(raw.extras[key]) for key in STATE if key in raw.extras}
    missing = [key for key in ("observations", "actions", "terminals") if key not in raw.arrays]
    if missing:
        return replace(raw, defects=(*raw.defects, _lacks(raw, missing)))
    rows = len(raw.arrays["observations"])
    if other := [key for key, x in state.items() if len(x) != rows]:
        raise BadInput(f"{raw.where}, {other[0]} has {len(state[other[0]])} rows, observations {rows}")
    width = np.shape(raw.arrays["observations"])[-1]
    if width != task.obs_dim:
        raise BadInput(
            f"{raw.where}: observations have {width} dimensions, those of task '{task.name}' {task.obs_dim}: "
            "wrong task or wrong file"
        )
    parts = ogbench.parse(task.name)
    assert parts is not None
    reward, done = relabelled(parts.world, goal(task), state)
    last = np.asarray(raw.arrays["terminals"]).reshape(-1) > 0
    arrays = raw.arrays | {"rewards": reward, "terminals": done & ~last, "timeouts": last}
    return replace(
        raw,
        arrays=arrays,
        action_space=Box((-1.0,) * task.action_dim, (1.0,) * task.action_dim),
        max_episode_steps=None,
        continues=True,  # the robot goes on to its next goal
    )


def _lacks(raw: Raw, names: list[str]) -> Defect:
    text = f"{raw.where} has no {', '.join(names)}: it is not a whole OGBench file"
    return Defect("missing", raw.where, (), text)


# --- Rewards -----------------------------------------------------------------


def goal(task: Task) -> dict[str, Any]:
    """What a task wants, read off its environment: `xy` and `tolerance`, or `cubes`, `buttons`, ..."""
    (env,) = borrow(task, 1)
    env.reset(seed=0)
    world: Any = env.unwrapped
    if "maze" in task.name or "soccer" in task.name:
        found = {"xy": np.array(world.cur_goal_xy), "tolerance": float(world._goal_tol)}
    else:
        found: dict[str, Any] = {}
        if not task.name.startswith("puzzle"):
            found["cubes"] = world._data.mocap_pos.copy()
        if hasattr(world, "_target_button_states"):
            found["buttons"] = world._target_button_states.copy()
        if hasattr(world, "_target_drawer_pos"):
            found |= {"drawer": float(world._target_drawer_pos), "window": float(world._target_window_pos)}
    give_back(task, [env])
    return found


def relabelled(
    world: str, goal: Mapping[str, Any], state: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Rewards (n,) float32 and whether the task is done (n,), of rows of the simulator's state.

    Mazes: -1 until the goal, 0 at it. Objects: minus the number of sub-tasks that are left.

    >>> at_goal = {"qpos": np.array([[1.0, 2.0], [1.0, 2.9]])}
    >>> reward, done = relabelled("pointmaze-medium", {"xy": np.array([1.0, 2.0]), "tolerance": 0.5}, at_goal)
    >>> reward.tolist(), done.tolist()
    ([0.0, -1.0], [True, False])
    """
    qpos = state["qpos"]
    if "xy" in goal:
        first = 15 if world.startswith("antsoccer") else 0  # the ball's place, or the agent's
        met = np.linalg.norm(qpos[:, first : first + 2] - goal["xy"], axis=-1) <= goal["tolerance"]
        return met.astype(np.float32) - np.float32(1.0), met
    parts = []
    cubes = len(goal.get("cubes", ()))
    if cubes:
        places = qpos[:, CUBES : CUBES + cubes * CUBE].reshape(len(qpos), cubes, CUBE)[..., :3]
        parts.append(np.linalg.norm(goal["cubes"] - places, axis=-1) <= NEAR)
    if "buttons" in goal:
        parts.append(state["button_states"] == goal["buttons"])
    if "drawer" in goal:
        at = CUBES + cubes * CUBE + len(goal["buttons"])
        for i, name in enumerate(("drawer", "window")):
            parts.append(np.abs(qpos[:, at + i] - goal[name])[:, None] <= NEAR)
    met = np.concatenate(parts, axis=-1)
    return (met.sum(axis=-1) - met.shape[-1]).astype(np.float32), np.asarray(met.all(axis=-1))
