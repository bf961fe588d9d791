"""Environments of one's own as tasks: a registered Gymnasium id, `module:id`, or an environment itself.

They have no reference scores, so that what is told of them is returns.
"""

import importlib
import os
import sys
from typing import Any

import numpy as np

from leashrl.errors import BadInput
from leashrl.tasks.table import Task

DOMAIN = "own"
LONGEST = 10_000
"""Steps after which an episode is cut where the environment was registered without a limit."""
EPISODES = 10


def registered(name: str) -> Task | None:
    """The task of an id that Gymnasium knows; None where it does not know it, or is not installed.

    With `module:id` the module is imported first, from the current folder too.

    Raises:
      BadInput: the module or the environment cannot be made, or it is of a kind that is not supported.
    """
    try:
        import gymnasium as gym
    except ImportError:
        return None
    module, colon, short = name.rpartition(":")
    if colon:
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise BadInput(
                f"cannot import '{module}' of task '{name}': {' '.join(str(error).split())}"
            ) from None
    try:
        spec = gym.spec(short)
    except (gym.error.Error, ValueError):
        return None
    limit = spec.max_episode_steps or LONGEST
    env = _made(name, limit, {})
    found = of(env, name, limit)
    env.close()
    return found


def make(task: Task, render_mode: str | None) -> Any:
    """One environment of `task`, not yet reset; BadInput where its constructor fails."""
    return _made(task.name, task.max_episode_steps, {"render_mode": render_mode} if render_mode else {})


def _made(name: str, limit: int, options: dict[str, Any]) -> Any:
    import gymnasium as gym

    try:
        return gym.make(name.rpartition(":")[2], max_episode_steps=limit, disable_env_checker=True, **options)
    except Exception as error:  # of somebody's constructor: anything
        raise BadInput(f"cannot make {name}: {type(error).__name__} {' '.join(str(error).split())}") from None


def of(env: Any, name: str | None = None, limit: int = LONGEST) -> Task:
    """The task of an environment that is there.

    Raises:
      BadInput: it is no single environment, or its spaces are not flat.
    """
    if hasattr(env, "num_envs"):
        raise BadInput(
            "a vector environment was given: give a single one, its episodes run side by side anyway"
        )
    if not all(hasattr(env, part) for part in ("reset", "step", "observation_space", "action_space")):
        raise BadInput(f"{type(env).__name__} is neither a task's name nor a Gymnasium environment")
    spec = getattr(env, "spec", None)
    name = name or (type(env).__name__ if spec is None else str(spec.id))
    obs, action = env.observation_space, env.action_space
    if getattr(obs, "shape", None) is None or type(obs).__name__ != "Box":
        raise BadInput(
            f"{name} observes a {type(obs).__name__} space: wrap it in gymnasium.wrappers.FlattenObservation"
        )
    discrete = type(action).__name__ == "Discrete"
    if not discrete and (type(action).__name__ != "Box" or len(action.shape) != 1):
        raise BadInput(f"{name} takes actions of {action}: only a flat Box, and Discrete, are supported")
    return Task(
        name=name, domain=DOMAIN, env_id=name, min_score=None, max_score=None, max_episode_steps=limit,
        episodes=EPISODES, obs_dim=int(np.prod(obs.shape)), data_file=None, url=None, papers=(), note="",
        action_dim=int(action.n) if discrete else int(action.shape[0]), discrete=discrete,
    )  # fmt: skip
