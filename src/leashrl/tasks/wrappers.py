"""Today's environments made to behave as D4RL's. Imports gymnasium: import this module inside functions.

What each maintained environment does differently was read in gymnasium-robotics 1.4.2 and in D4RL's own
sources (Farama-Foundation/D4RL, `hand_manipulation_suite/*_v0.py`, `kitchen/`, `locomotion/maze_env.py`).
"""

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation

# --- Adroit ------------------------------------------------------------------

# The dense rewards are recomputed whole from the simulator's state instead of flipping one term's sign, so
# that they are D4RL's whatever the installed version pays (1.2.1 to 1.4.2 have the sign reversed under the
# same id as versions that have it right).


def door_reward(env: Any) -> float:
    """D4RL's door reward of the simulator's present state: d the palm's distance to the handle, q the hinge.

    -0.1 d - 0.1 (q - 1.57)^2 - 1e-5 |qvel|^2 + 2 [q > 0.2] + 8 [q > 1.0] + 10 [q > 1.35]
    """
    data = env.unwrapped.data
    hinge = float(data.joint("door_hinge").qpos[0])
    distance = np.linalg.norm(data.site("S_grasp").xpos - data.site("S_handle").xpos)
    reward = -0.1 * distance - 0.1 * (hinge - 1.57) ** 2 - 1e-5 * np.sum(data.qvel**2)
    return float(reward + 2 * (hinge > 0.2) + 8 * (hinge > 1.0) + 10 * (hinge > 1.35))


def hammer_reward(env: Any) -> float:
    """D4RL's hammer reward; n is the nail's distance to its goal, z heights over the table.

    -0.1 |palm - handle| - |head - nail| - 10 n - 0.01 |qvel|
    + 2 [z_hammer > 0.04 and z_head > 0.04] + 25 [n < 0.02] + 75 [n < 0.01]
    """
    data = env.unwrapped.data
    hammer, head = data.body("Object").xpos, data.site("tool").xpos
    nail = data.site("S_target").xpos
    depth = np.linalg.norm(nail - data.site("nail_goal").xpos)
    reward = -0.1 * np.linalg.norm(data.site("S_grasp").xpos - hammer) - np.linalg.norm(head - nail)
    reward -= 10 * depth + 1e-2 * np.linalg.norm(data.qvel)
    lifted = hammer[2] > 0.04 and head[2] > 0.04
    return float(reward + 2 * lifted + 25 * (depth < 0.02) + 75 * (depth < 0.01))


def relocate_reward(env: Any) -> float:
    """D4RL's relocate reward; b is the ball's distance to the target.

    -0.1 |palm - ball| + [z_ball > 0.04] (1 - 0.5 |palm - target| - 0.5 b) + 10 [b < 0.1] + 20 [b < 0.05]
    """
    data = env.unwrapped.data
    ball, palm, target = data.body("Object").xpos, data.site("S_grasp").xpos, data.site("target").xpos
    distance = np.linalg.norm(ball - target)
    reward = -0.1 * np.linalg.norm(palm - ball)
    if ball[2] > 0.04:
        reward += 1.0 - 0.5 * np.linalg.norm(palm - target) - 0.5 * distance
    return float(reward + 10 * (distance < 0.1) + 20 * (distance < 0.05))


ADROIT_REWARDS = {"door": door_reward, "hammer": hammer_reward, "relocate": relocate_reward}


class AdroitReward(gym.Wrapper):
    """Pays D4RL's dense reward of the hand task named."""

    def __init__(self, env: gym.Env, name: str):
        super().__init__(env)
        self._reward = ADROIT_REWARDS[name]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        obs, _, terminated, truncated, info = self.env.step(action)
        return obs, self._reward(self.env), terminated, truncated, info


class PenDrop(gym.Wrapper):
    """Ends the episode when the pen is lower than 0.075 m: D4RL does, the maintained environment goes on."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        dropped = bool(self.env.unwrapped.data.body("Object").xpos[2] < 0.075)  # pyright: ignore[reportAttributeAccessIssue]
        return obs, reward, terminated or dropped, truncated, info


# --- Kitchen -----------------------------------------------------------------

KITCHEN_SLOTS: dict[str, tuple[int, ...]] = {
    "bottom burner": (11, 12),
    "top burner": (15, 16),
    "light switch": (17, 18),
    "slide cabinet": (19,),
    "hinge cabinet": (20, 21),
    "microwave": (22,),
    "kettle": (23, 24, 25, 26, 27, 28, 29),
}
"""Where an object's joints stand in the 30 positions, and so in D4RL's goal."""


def kitchen_obs(obs: dict) -> np.ndarray:
    """The maintained Dict observation as D4RL's 60 = [robot qpos 9, objects qpos 21, goal 30].

    The maintained 59 = [robot qpos 9, robot qvel 9, objects qpos 21, objects qvel 20]. The goal holds the
    wanted positions of the task's objects and zeros elsewhere.
    """
    goal = np.zeros(30)
    for name, values in obs["desired_goal"].items():
        goal[list(KITCHEN_SLOTS[name])] = values
    state = obs["observation"]
    return np.concatenate([state[0:9], state[18:39], goal])


# --- Ant mazes ---------------------------------------------------------------

MAZE_ENDS = {"umaze": ((1, 1), (3, 1)), "medium": ((1, 1), (6, 6)), "large": ((1, 1), (7, 9))}
"""Start and goal cells (row, column) of D4RL's evaluation mazes."""


def maze_map(size: str) -> list[list[int | str]]:
    """The maintained map of that size (D4RL's walls are the same) with D4RL's one start and one goal."""
    from gymnasium_robotics.envs.maze import maps

    walls = {"umaze": maps.U_MAZE, "medium": maps.MEDIUM_MAZE, "large": maps.LARGE_MAZE}[size]
    cells: list[list[int | str]] = [list(row) for row in walls]
    for (row, column), mark in zip(MAZE_ENDS[size], (maps.RESET, maps.GOAL), strict=True):
        cells[row][column] = mark
    return cells


def antmaze_obs(obs: dict) -> np.ndarray:
    """D4RL's 29 = [x, y, the ant's 27]; the goal is not part of it, in D4RL neither."""
    return np.concatenate([obs["achieved_goal"], obs["observation"]])


# --- OGBench -----------------------------------------------------------------


class OwnRandom(gym.Wrapper):
    """An environment of OGBench's whose resets and steps depend on their seed alone.

    The package draws from numpy's global generator too: this environment has a state of its own for it, which
    takes the global one's place while it runs.
    """

    def __init__(self, env: gym.Env):
        super().__init__(env)
        with warnings.catch_warnings():  # gymnasium's on a Box of float64 bounds, anew at each look
            warnings.simplefilter("ignore")
            self.action_space, self.observation_space = env.action_space, env.observation_space
        self._random = np.random.RandomState(0).get_state()

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        if seed is not None:
            self._random = np.random.RandomState(seed).get_state()
            self.action_space.seed(seed)  # a maze's reset takes random actions
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the same, of the package's own random actions
            return self._apart(self.env.reset, seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        return self._apart(self.env.step, action)

    def _apart(self, call: Callable, *args: Any, **options: Any) -> Any:
        outside = np.random.get_state()
        np.random.set_state(self._random)
        try:
            return call(*args, **options)
        finally:
            self._random = np.random.get_state()
            np.random.set_state(outside)


class Success(gym.Wrapper):
    """An OGBench task that pays 1 on success."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        obs, _, terminated, truncated, info = self.env.step(action)
        return obs, float(info["success"]), terminated, truncated, info


def directed(env: gym.Env) -> gym.Env:
    """The ant with a direction in its observation, a new one every 100 steps, paid for its way along it."""
    from ogbench.online_locomotion.wrappers import GymXYWrapper

    return OwnRandom(GymXYWrapper(env, resample_interval=100))


# --- To look at ---------------------------------------------------------------


class Watched(gym.Wrapper):
    """Shows itself to `watch` after each reset and each step."""

    def __init__(self, env: gym.Env, watch: Callable[[gym.Env], None]):
        super().__init__(env)
        self._watch = watch

    def reset(self, **options: Any) -> tuple[Any, dict]:
        found = self.env.reset(**options)
        self._watch(self.env)
        return found

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        found = self.env.step(action)
        self._watch(self.env)
        return found


# --- All together ------------------------------------------------------------


def correct(env: gym.Env, name: str, domain: str) -> gym.Env:
    """`env` with the corrections of the task `name` of `domain`; unchanged where there are none."""
    if domain == "ogbench":
        return Success(OwnRandom(env))
    if name == "online-ant-xy-v0":
        return directed(env)
    head = name.split("-")[0]
    if head in ADROIT_REWARDS:
        return AdroitReward(env, head)
    if head == "pen":
        return PenDrop(env)
    if domain in ("kitchen", "antmaze"):
        size, read = (60, kitchen_obs) if domain == "kitchen" else (29, antmaze_obs)
        return TransformObservation(env, read, spaces.Box(-np.inf, np.inf, (size,), np.float64))
    return env
