"""Making a task's environments. Gymnasium and the simulators are imported here, when first needed."""

import contextlib
import importlib.metadata
import io
import os
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from leashrl.errors import BadInput
from leashrl.tasks import Task, own

if TYPE_CHECKING:
    import gymnasium as gym

_KITCHEN = {
    "complete": ("microwave", "kettle", "light switch", "slide cabinet"),
    "partial": ("microwave", "kettle", "light switch", "slide cabinet"),
    "mixed": ("microwave", "kettle", "bottom burner", "light switch"),
}


def _arguments(task: Task) -> dict[str, Any]:
    """What D4RL's version of the environment is made with, where that is not the default."""
    from leashrl.tasks.wrappers import maze_map

    kind = task.name.split("-")[1] if "-" in task.name else ""
    if task.env_id == "Ant-v4":
        return {"use_contact_forces": True}  # 111 numbers, as Ant-v2; the default gives 27
    if task.domain == "kitchen":
        # D4RL's kitchen_multitask_v0 has ratio 0.1 for the robot and for the objects
        return {
            "tasks_to_complete": list(_KITCHEN[kind]),
            "robot_noise_ratio": 0.1,
            "object_noise_ratio": 0.1,
        }
    if task.domain == "antmaze":
        # the default never terminates at the goal
        return {"maze_map": maze_map(kind), "continuing_task": False}
    return {}


def make_one(task: Task, *, render_mode: str | None = None) -> "gym.Env":
    """One corrected environment of `task`, not yet reset; `rgb_array` as `render_mode` gives pictures.

    Raises:
      BadInput: the task has no environment, a package is missing, or the installed one is too new or old.
    """
    if task.env_id is None:
        raise BadInput(f"task '{task.name}' has no environment: its policies cannot be evaluated here")
    if task.domain == own.DOMAIN:
        return own.make(task, render_mode)
    if task.domain not in ("pendulum", "cartpole"):
        check_mujoco()
    try:
        # gymnasium-robotics prints a notice about the very reward that `wrappers` recomputes
        with contextlib.redirect_stderr(io.StringIO()):
            import gymnasium as gym

            if task.domain in ("adroit", "kitchen", "antmaze"):
                import gymnasium_robotics

                gym.register_envs(gymnasium_robotics)
            if task.domain == "ogbench" or task.name == "online-ant-xy-v0":
                register_ogbench()
        # v4 environments warn that v5 exists: v4 is chosen because it is the closer to D4RL's
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from leashrl.tasks.wrappers import correct

            env = gym.make(
                task.env_id,
                max_episode_steps=task.max_episode_steps,
                disable_env_checker=True,
                render_mode=render_mode,
                **_arguments(task),
            )
            return correct(env, task.name, task.domain)
    except (ImportError, gym_error()) as error:
        reason = " ".join(str(error).split())[:200]
        extra = "ogbench" if task.domain == "ogbench" else "mujoco"
        raise BadInput(
            f"cannot make {task.env_id} for task '{task.name}' ({reason}): pip install 'leashrl[{extra}]'"
        ) from None


def register_ogbench() -> None:
    """Make OGBench's environments known to Gymnasium; nothing is downloaded. ImportError without them."""
    with warnings.catch_warnings():  # of a window system that is not there, which nothing here needs
        warnings.simplefilter("ignore")
        import gymnasium as gym
        import ogbench.online_locomotion

        gym.register_envs(ogbench)


def check_mujoco() -> None:
    """BadInput where the variable MUJOCO_GL keeps mujoco from being imported; a missing one is told later."""
    try:
        with contextlib.suppress(ImportError):
            import mujoco  # noqa: F401  (it loads the library for drawing that MUJOCO_GL names)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(
            f"mujoco cannot be imported with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')} ({reason}): "
            "unset MUJOCO_GL, or install what it names"
        ) from None


def gym_error() -> type[Exception]:
    """Gymnasium's own error class; ImportError where gymnasium is missing."""
    try:
        from gymnasium.error import Error
    except ImportError:
        return ImportError
    return Error


def whole(name: str, value: Any, least: int) -> int:
    """`value` if it is an integer of at least `least`."""
    if not isinstance(value, int | np.integer) or value < least:
        raise BadInput(f"{name} must be an integer of at least {least}, not {value!r}")
    return int(value)


def env_seed(seed: int, i: int) -> int:
    """The seed of environment i: a hash of (seed, i), so neighbouring seeds share no episodes."""
    return int(np.random.SeedSequence([whole("seed", seed, 0), i]).generate_state(1)[0])


def action_bounds(task: Task) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The least and the highest actions of a task's environment; None where they are discrete.

    Raises:
      BadInput: it cannot be made.
    """
    env = borrow(task, 1)[0]
    low, high = (getattr(env.action_space, name, None) for name in ("low", "high"))
    give_back(task, [env])
    if low is None or high is None:
        return None
    return tuple(map(float, np.ravel(low))), tuple(map(float, np.ravel(high)))


# --- Environments kept between evaluations -----------------------------------

_idle: dict[Task, list["gym.Env"]] = {}


def borrow(task: Task, n: int) -> list["gym.Env"]:
    """n environments, idle ones of earlier evaluations first: a kitchen takes half a second to make."""
    idle = _idle.setdefault(task, [])
    return [idle.pop() if idle else make_one(task) for _ in range(n)]


def give_back(task: Task, envs: list["gym.Env"]) -> None:
    """Keep environments for the next `borrow`. Not after an error: their state is then unknown."""
    _idle.setdefault(task, []).extend(envs)


def versions(task: Task) -> dict[str, str]:
    """What returns depend on besides the policy: the same actions give others in another MuJoCo."""
    found = {"env_id": task.env_id or ""}
    for package in ("gymnasium", "mujoco", "gymnasium-robotics", "ogbench"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
