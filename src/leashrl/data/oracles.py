"""OGBench's data sets made again by the package's own oracles and its published protocol.

    cube, scene, puzzle   `play`: plans followed open loop, with smooth noise; `noisy`: closed loop, with
                          Gaussian noise whose size is drawn for each episode
    pointmaze, antmaze    see `mazes`

The protocol is that of `data_gen_scripts` in OGBench's repository. Episode i depends on (recipe, seed, i)
alone, so that any number of processes makes the same bits, and a longer data set begins with a shorter one.
"""

import functools
import multiprocessing
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import numpy as np

from leashrl.data import mazes
from leashrl.data.locomotion import threads
from leashrl.errors import BadInput
from leashrl.tasks.making import check_mujoco, gym_error, register_ogbench
from leashrl.tasks.ogbench import WORLDS

Episode = dict[str, np.ndarray]
Report = Callable[[int], None]

NOISE, SMOOTHING, LEAST = 0.1, 0.5, 0.4
"""Of oracles' actions: noise, its smoothing in plans, and the least norm of a closed loop's actions."""
STACKED = {"cube-single": (0.0, 0.0), "cube-double": (0.0, 0.25), "cube-triple": (0.05, 0.35)}
"""Range from which an episode draws how likely a cube goes on another; one half elsewhere."""
TYPES = {"terminals": np.bool_, "button_states": np.int64}
CHUNK = 4
"""Episodes that a process makes before it hands them over."""


@dataclass(frozen=True)
class Recipe:
    """How to make a data set of one environment and kind."""

    world: str
    kind: str
    episodes: int
    """As published; the validation part has a tenth as many."""
    rows: int
    """Of an episode."""

    @property
    def name(self) -> str:
        return f"{self.world}-{self.kind}"

    @property
    def task(self) -> str:
        """The default one that the data serve."""
        return f"{self.name}-singletask-v0"

    def total(self, episodes: int | None) -> int:
        """Rows of so many episodes (None: all) and of their validation part."""
        episodes = self.episodes if episodes is None else episodes
        return self.rows * (episodes + validation_episodes(episodes))

    @property
    def expert(self) -> str:
        return "a policy of ours" if self.world.startswith("antmaze") else "its oracles"

    @property
    def about(self) -> str:
        return f"OGBench's {self.name}-v0, made again by {self.expert}"


SIZES = {"navigate": (1000, 1001), "stitch": (5000, 201), "explore": (10_000, 501)}
"""Episodes and rows of each, in mazes."""


def validation_episodes(episodes: int) -> int:
    return max(1, episodes // 10)


def _recipes() -> Iterator[Recipe]:
    for world in ("cube-single", "cube-double", "cube-triple", "scene", "puzzle-3x3", "puzzle-4x4"):
        for kind in WORLDS[world].kinds:
            yield Recipe(world, kind, 1000, 1001)
    for world in ("pointmaze-medium", "pointmaze-large"):
        yield from (Recipe(world, kind, *SIZES[kind]) for kind in ("navigate", "stitch"))
    for world in ("antmaze-medium", "antmaze-large"):
        yield from (Recipe(world, kind, *SIZES[kind]) for kind in SIZES)


RECIPES = {recipe.name: recipe for recipe in _recipes()}


def generate(
    recipe: Recipe, episodes: int, seed: int, *, validation: bool = False, processes: int | None = None,
    report: Report = lambda rows: None,
) -> Episode:  # fmt: skip
    """The arrays of a data set, OGBench's names and types: whole episodes, one after another.

    Args:
      validation: the episodes of the validation part, which are others.
      processes: side by side; as many as there are cores by default.
      report: called with the number of rows so far.

    Raises:
      BadInput: the package is missing, or a process was killed.
    """
    require()
    chunks = [range(i, min(i + CHUNK, episodes)) for i in range(0, episodes, CHUNK)]
    make = functools.partial(several, recipe, seed, validation)
    many, done, rows = min(processes or threads(), len(chunks)), {}, 0
    if many == 1:
        for chunk in chunks:
            done[chunk.start] = make(chunk)
            rows += len(done[chunk.start]["terminals"])
            report(rows)
    else:
        # A fresh interpreter each: a fork of a process that has jax's threads may hang.
        with ProcessPoolExecutor(many, multiprocessing.get_context("spawn")) as pool:
            running = {pool.submit(make, chunk): chunk.start for chunk in chunks}
            for future in as_completed(running):
                try:
                    done[running[future]] = future.result()
                except BrokenProcessPool:
                    raise BadInput(
                        f"one of {many} processes that make episodes was killed, most likely for want of "
                        "memory: choose fewer with --processes"
                    ) from None
                rows += len(done[running[future]]["terminals"])
                report(rows)
    parts = [done[start] for start in sorted(done)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def require() -> None:
    """BadInput where the simulator or the package is missing."""
    check_mujoco()
    try:
        register_ogbench()
    except ImportError as error:
        raise BadInput(f"OGBench's data need its package ({error}): pip install 'leashrl[ogbench]'") from None


def several(recipe: Recipe, seed: int, validation: bool, numbers: range) -> Episode:
    """Episodes of these numbers, one after another."""
    made = []
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # the package's, of a Box's float64 and a window system that is not there
        for number in numbers:
            # numpy's global generator too: the oracles and the mazes draw from it
            drawn = int(np.random.SeedSequence([seed, int(validation), number]).generate_state(1)[0])
            np.random.seed(drawn)
            if "maze" in recipe.world:
                made.append(mazes.episode(environment(recipe), recipe.world, recipe.kind, drawn))
            else:
                made.append(manipulation_episode(recipe, drawn))
    return {
        name: np.concatenate([np.asarray(part[name], TYPES.get(name, np.float32)) for part in made])
        for name in made[0]
    }


@functools.lru_cache(maxsize=1)
def environment(recipe: Recipe) -> Any:
    import gymnasium as gym

    register_ogbench()
    options = {} if "maze" in recipe.world else {"mode": "data_collection"}
    try:
        return gym.make(
            f"{recipe.world}-v0", terminate_at_goal=False, max_episode_steps=recipe.rows,
            disable_env_checker=True, **options,
        )  # fmt: skip
    except gym_error() as error:
        raise BadInput(f"cannot make {recipe.world}-v0: {' '.join(str(error).split())[:200]}") from None


# --- Objects -----------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def oracles(recipe: Recipe) -> dict[str, Any]:
    """By the object that they move."""
    from ogbench.manipspace.oracles.markov import button_markov, cube_markov, drawer_markov, window_markov
    from ogbench.manipspace.oracles.plan import button_plan, cube_plan, drawer_plan, window_plan

    puzzle, scene = recipe.world.startswith("puzzle"), recipe.world == "scene"
    objects = ("button",) if puzzle else ("cube", "button", "drawer", "window") if scene else ("cube",)
    if recipe.kind == "play":
        kinds = {
            "cube": cube_plan.CubePlanOracle,
            "button": button_plan.ButtonPlanOracle,
            "drawer": drawer_plan.DrawerPlanOracle,
            "window": window_plan.WindowPlanOracle,
        }
        options: dict[str, Any] = {"noise": NOISE, "noise_smoothing": SMOOTHING}
    else:
        kinds = {
            "cube": cube_markov.CubeMarkovOracle,
            "button": button_markov.ButtonMarkovOracle,
            "drawer": drawer_markov.DrawerMarkovOracle,
            "window": window_markov.WindowMarkovOracle,
        }
        options = {"min_norm": LEAST}
    own = {"button": {"gripper_always_closed": True}} if puzzle else {}
    if scene and recipe.kind == "noisy":
        own = {"cube": {"max_step": 100}}
    env = environment(recipe)
    return {name: kinds[name](env=env, **options, **own.get(name, {})) for name in objects}


def manipulation_episode(recipe: Recipe, seed: int) -> dict[str, list]:
    """One episode; in the scene, one in which the cube stays where it can be seen."""
    env, seeds = environment(recipe), iter([seed])
    while True:
        obs, info = env.reset(seed=next(seeds, None))
        rows = _manipulate(recipe, env, obs, info)
        if recipe.world != "scene" or _in_sight(np.array(rows["qpos"])[:, 14:17]):
            return rows


def _manipulate(recipe: Recipe, env: Any, obs: np.ndarray, info: dict) -> dict[str, list]:
    agents = oracles(recipe)
    low, high = STACKED.get(recipe.world, (0.5, 0.5))
    stacked = np.random.uniform(low, high) if low < high else low
    size = np.random.uniform(0, NOISE) if recipe.kind == "noisy" else None
    agent = agents[info["privileged/target_task"]]
    agent.reset(obs, info)
    rows, done = defaultdict(list), False
    while not done:
        action = np.array(agent.select_action(obs, info))
        if size is not None:
            action = action + np.random.normal(0, size * np.array([1, 1, 1, 3, 10]), action.shape)
        action = np.clip(action, -1, 1)
        following, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        if agent.done:
            new_obs, new = env.unwrapped.set_new_target(p_stack=stacked)
            agent = agents[new["privileged/target_task"]]
            agent.reset(new_obs, new)
        rows["observations"].append(obs)
        rows["actions"].append(action)
        rows["terminals"].append(done)
        for name in ("qpos", "qvel", "button_states"):
            if f"prev_{name}" in info:
                rows[name].append(info[f"prev_{name}"])
        obs = following
    return rows


def _in_sight(cube: np.ndarray) -> bool:
    """Whether the cube (n, 3) is never too far right, nor left of the table but in the drawer."""
    _, y, z = cube.T
    return not ((y >= 0.29).any() or ((y <= -0.3) & ((z < 0.06) | (z > 0.08))).any())
