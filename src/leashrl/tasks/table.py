"""The task table: which environment, which file, which reference scores a task's name stands for.

A task's normalised score is `100 (R - min) / (max - min)`, R the undiscounted sum of the environment's
own rewards over one episode; `min` is a uniform random policy's return and `max` an expert's, the same
for every data set and version of an environment (Fu et al. 2020, arXiv 2004.07219).

Four kinds of names: D4RL data sets (`hopper-medium-v2`), OGBench's tasks (`tasks.ogbench`), our own
generated ones (`pendulum-medium`), and bare environments (`hopper`, `kitchen-mixed`), which go with any data
file or with none.
Imports neither jax nor a simulator.
"""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from leashrl.errors import BadInput
from leashrl.tasks import ogbench

D4RL_URL = "http://rail.eecs.berkeley.edu/datasets/offline_rl/"


@dataclasses.dataclass(frozen=True)
class Task:
    """One row of the table."""

    name: str
    domain: str
    """`gym`, `adroit`, `kitchen`, `antmaze`, `ogbench`, `pendulum`, `cartpole`; without reference scores
    `online`, and `own`, a user's environment."""
    env_id: str | None
    """The maintained Gymnasium id that policies are evaluated on; None: nothing to evaluate on."""
    min_score: float | None
    max_score: float | None
    max_episode_steps: int
    """D4RL's limit, also where the maintained environment's own limit is another."""
    episodes: int
    """How many episodes an evaluation runs by default."""
    obs_dim: int
    action_dim: int
    """How many numbers an action has, or, where actions are discrete, how many there are."""
    discrete: bool
    data_file: str | None
    """D4RL's base name of the data file, in `$D4RL_DATASET_DIR` or `~/.d4rl/datasets`."""
    url: str | None
    papers: tuple[str, ...]
    """Which of the papers behind this library report the task."""
    note: str
    """How today's environment differs from the benchmark's; empty where it does not."""

    @property
    def data_pays_returns(self) -> bool:
        """Whether scores are made of what the data's rewards sum up to; OGBench's are shares of success."""
        return self.domain != "ogbench"


class Family(NamedTuple):
    """What all data sets of one environment share."""

    domain: str
    env_id: str
    min_score: float | None
    max_score: float | None
    max_episode_steps: int
    obs_dim: int
    action_dim: int
    note: str = ""
    discrete: bool = False


# --- Families ----------------------------------------------------------------

_V4 = "D4RL rolled out the -v2 environment in mujoco-py; -v4 pays the same reward in a newer MuJoCo."
_ANT = _V4 + " Its contact forces (obs[27:111]) are live here and were mostly zero in D4RL."
_REWARD = (
    "The reward is recomputed by D4RL's formula: gymnasium-robotics 1.2.1 to 1.4.2 pays "
    "+0.1 times the hand's distance to the object where D4RL pays -0.1."
)
_PEN = (
    "The limit is D4RL's 100 steps (the maintained environment: 200), and an episode ends when the pen is "
    "dropped, as in D4RL (the maintained environment goes on)."
)
_KITCHEN = (
    "Observations are mapped to D4RL's 60 = [robot 9, objects 21, goal 30] with D4RL's noise ratio 0.1; "
    "the data's rewards count the sub-tasks that are done at each step, the environment pays each once."
)
_ANTMAZE = (
    "The robot differs: D4RL's ant has torques of +-30 at 10 Hz, this one gear 150 at 20 Hz, in a maze "
    "centred on the origin with the y axis mirrored: policies trained on D4RL's data do not transfer."
)

GYM: dict[str, Family] = {
    "halfcheetah": Family("gym", "HalfCheetah-v4", -280.178953, 12135.0, 1000, 17, 6, _V4),
    "hopper": Family("gym", "Hopper-v4", -20.272305, 3234.3, 1000, 11, 3, _V4),
    "walker2d": Family("gym", "Walker2d-v4", 1.629008, 4592.3, 1000, 17, 6, _V4),
    "ant": Family("gym", "Ant-v4", -325.6, 3879.7, 1000, 111, 8, _ANT),
}
ADROIT: dict[str, Family] = {
    "pen": Family("adroit", "AdroitHandPen-v1", 96.262799, 3076.8331017826877, 100, 45, 24, _PEN),
    "hammer": Family("adroit", "AdroitHandHammer-v1", -274.856578, 12794.134825156867, 200, 46, 26, _REWARD),
    "door": Family("adroit", "AdroitHandDoor-v1", -56.512833, 2880.5693087298737, 200, 39, 28, _REWARD),
    "relocate": Family("adroit", "AdroitHandRelocate-v1", -6.425911, 4233.877797728884, 200, 39, 30, _REWARD),
}
KITCHEN = Family("kitchen", "FrankaKitchen-v1", 0.0, 4.0, 280, 60, 9, _KITCHEN)
ANTMAZE: dict[str, Family] = {
    "umaze": Family("antmaze", "AntMaze_UMaze-v4", 0.0, 1.0, 700, 29, 8, _ANTMAZE),
    "medium": Family("antmaze", "AntMaze_Medium-v4", 0.0, 1.0, 1000, 29, 8, _ANTMAZE),
    "large": Family("antmaze", "AntMaze_Large-v4", 0.0, 1.0, 1000, 29, 8, _ANTMAZE),
}
# min: the mean return of 400,000 episodes of uniform torques on gymnasium's Pendulum-v1 equations in numpy
# (standard error 0.5); tests/tasks/test_table.py runs some again. max: what an energy-shaping controller
# gets.
PENDULUM = Family("pendulum", "Pendulum-v1", -1228.7, -150.0, 200, 3, 1)
# min: the same of 400,000 episodes of random pushes (standard error 0.02). max: the pole stands to the end.
CARTPOLE = Family("cartpole", "CartPole-v1", 22.26, 500.0, 500, 4, 2, discrete=True)
ONLINE: dict[str, Family] = {
    "inverted-pendulum": Family("online", "InvertedPendulum-v4", None, None, 1000, 4, 1, _V4),
    "inverted-double-pendulum": Family("online", "InvertedDoublePendulum-v4", None, None, 1000, 11, 1, _V4),
    "swimmer": Family("online", "Swimmer-v4", None, None, 1000, 8, 2, _V4),
    "reacher": Family("online", "Reacher-v4", None, None, 50, 11, 2, _V4),
    "humanoid": Family("online", "Humanoid-v4", None, None, 1000, 376, 17, _V4),
}
# OGBench's ant that is told a direction and paid for going there: the expert of its mazes learns on it.
ANT_XY = Family("online", "online-ant-v0", None, None, 1000, 29, 8)
MIRACLE = ("hopper", "walker2d", "ant", "pendulum", *(n for n in ONLINE if n != "inverted-pendulum"))
"""The eight online environments of the MIRACLE text's figure 2. "Pendulum" may be `inverted-pendulum` there:
it is one of MuJoCo's, as the text says of all eight, and `pendulum` is not."""


# --- Rows --------------------------------------------------------------------


def _row(name: str, family: Family, file: str | None = None, papers: tuple[str, ...] = ()) -> Task:
    """`file` is the path under D4RL's base URL."""
    return Task(
        name=name,
        episodes=100 if family.domain == "antmaze" else 10,
        data_file=file.rsplit("/", 1)[-1] if file else None,
        url=D4RL_URL + file if file else None,
        papers=papers,
        **family._asdict(),
    )


def _bare() -> Iterator[Task]:
    environments: dict[str, Family] = {
        **GYM,
        **ADROIT,
        **{f"kitchen-{kind}": KITCHEN for kind in ("complete", "partial", "mixed")},
        **{f"antmaze-{maze}": family for maze, family in ANTMAZE.items()},
        "pendulum": PENDULUM,
        "cartpole": CARTPOLE,
        **ONLINE,
        "online-ant-xy-v0": ANT_XY,
    }
    for name, family in environments.items():
        yield _row(name, family, papers=("MIRACLE",) if name in MIRACLE else ())


def _gym() -> Iterator[Task]:
    # MISA reports v2; its ICLR text adds the random sets. BRAC+ and Fisher-BRC report v0, and "mixed" there
    # is medium-replay. Nobody reports ant's data sets.
    reports = {
        ("medium", 2): ("MISA",),
        ("medium-replay", 2): ("MISA",),
        ("medium-expert", 2): ("MISA",),
        ("random", 2): ("MISA (ICLR text)",),
        ("random", 0): ("BRAC+", "Fisher-BRC"),
        ("medium", 0): ("BRAC+", "Fisher-BRC"),
        ("medium-replay", 0): ("BRAC+", "Fisher-BRC"),
        ("medium-expert", 0): ("BRAC+", "Fisher-BRC"),
        ("expert", 0): ("Fisher-BRC",),
    }
    for name, family in GYM.items():
        for version in (0, 1, 2):
            for kind in ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert"):
                if version == 0 and kind == "full-replay":
                    continue
                stem = f"{name}_{kind.replace('-', '_')}"
                if version:
                    file = f"gym_mujoco_v{version}/{stem}-v{version}.hdf5"
                elif kind == "medium-replay":
                    # D4RL's one irregular name: walker_mixed, without "2d"
                    file = f"gym_mujoco/{'walker' if name == 'walker2d' else name}_mixed.hdf5"
                else:
                    file = f"gym_mujoco/{stem}.hdf5"
                papers = () if name == "ant" else reports.get((kind, version), ())
                yield _row(f"{name}-{kind}-v{version}", family, file, papers)
    # D4RL has a file for this name and no reference scores.
    unscored = GYM["ant"]._replace(min_score=None, max_score=None)
    yield _row("ant-random-expert-v0", unscored, "gym_mujoco/ant_random_expert.hdf5")


def _adroit() -> Iterator[Task]:
    v0 = {"human": "v0_demos_clipped", "cloned": "demos-v0-bc-combined", "expert": "v0_expert_clipped"}
    reports = {"human": ("MISA", "BRAC+"), "cloned": ("MISA",), "expert": ()}
    for name, family in ADROIT.items():
        for kind, tail in v0.items():
            yield _row(f"{name}-{kind}-v0", family, f"hand_dapg/{name}-{tail}.hdf5", reports[kind])
            yield _row(f"{name}-{kind}-v1", family, f"hand_dapg_v1/{name}-{kind}-v1.hdf5")


def _kitchen() -> Iterator[Task]:
    files = {
        "complete": "mini_kitchen_microwave_kettle_light_slider",
        "partial": "kitchen_microwave_kettle_light_slider",
        "mixed": "kitchen_microwave_kettle_bottomburner_light",
    }
    for kind, stem in files.items():
        yield _row(f"kitchen-{kind}-v0", KITCHEN, f"kitchen/{stem}-v0.hdf5", ("MISA",))


def _antmaze() -> Iterator[Task]:
    mazes = {"umaze": "u-maze", "medium": "big-maze", "large": "hardest-maze"}
    kinds = {  # data set -> (maze, multistart, multigoal)
        "umaze": ("umaze", False, False),
        "umaze-diverse": ("umaze", True, True),
        "medium-play": ("medium", True, False),
        "medium-diverse": ("medium", True, True),
        "large-play": ("large", True, False),
        "large-diverse": ("large", True, True),
    }
    for kind, (maze, start, goal) in kinds.items():
        stem = f"Ant_maze_{mazes[maze]}_noisy_multistart_{start}_multigoal_{goal}_sparse"
        yield _row(f"antmaze-{kind}-v0", ANTMAZE[maze], f"ant_maze_new/{stem}.hdf5", ("MISA",))
        yield _row(f"antmaze-{kind}-v2", ANTMAZE[maze], f"ant_maze_v2/{stem}_fixed.hdf5")


def _made_here() -> Iterator[Task]:
    for kind in ("random", "medium", "expert", "medium-expert", "medium-replay"):
        yield _row(f"pendulum-{kind}", PENDULUM)
    for kind in ("random", "medium", "expert"):
        yield _row(f"cartpole-{kind}", CARTPOLE)


def _ogbench(with_data: bool) -> Iterator[Task]:
    for name in ogbench.names():
        parts = ogbench.parse(name)
        if parts is None or (parts.kind is not None) != with_data:
            continue
        world = ogbench.WORLDS[parts.world]
        yield Task(
            name=name, domain="ogbench", env_id=parts.environment, min_score=0.0, max_score=1.0,
            max_episode_steps=world.max_episode_steps, episodes=50, obs_dim=world.obs_dim,
            action_dim=world.action_dim, discrete=False, data_file=None, url=None, papers=(),
            note=ogbench.NOTE,
        )  # fmt: skip


BARE: dict[str, Task] = {row.name: row for rows in (_bare(), _ogbench(False)) for row in rows}
"""Environments without a data set of their own."""

TASKS: dict[str, Task] = BARE | {
    row.name: row
    for rows in (_gym(), _adroit(), _kitchen(), _antmaze(), _made_here(), _ogbench(True))
    for row in rows
}

D4RL: dict[str, Task] = {name: row for name, row in TASKS.items() if row.data_file}
"""The tasks whose data D4RL publishes."""

LIMIT_OF_FILE: dict[str, int] = {
    row.data_file: row.max_episode_steps for row in D4RL.values() if row.data_file
}
"""The time limit of a file under its published name: v0 files may have no `timeouts`."""


# --- Files and scores --------------------------------------------------------


def d4rl_file(name: str) -> Path:
    """Where D4RL itself keeps this task's file: `$D4RL_DATASET_DIR`, else `~/.d4rl/datasets`."""
    root = os.environ.get("D4RL_DATASET_DIR") or Path.home() / ".d4rl" / "datasets"
    return Path(root) / str(D4RL[name].data_file)


def normalise(task: Task, returns: Any) -> np.ndarray:
    """Normalised scores `100 (R - min) / (max - min)`, float64, of the shape of `returns`.

    Raises:
      BadInput: the task has no reference scores.

    >>> normalise(TASKS["hopper"], [-20.272305, 3234.3]).tolist()
    [0.0, 100.0]
    """
    if task.min_score is None or task.max_score is None:
        raise BadInput(f"task '{task.name}' has no reference scores: report its returns as they are")
    return 100.0 * (np.asarray(returns, np.float64) - task.min_score) / (task.max_score - task.min_score)
