"""Where D4RL's data sets are: file names, addresses and time limits of the published ids.

Fu et al. (2020), D4RL: Datasets for Deep Data-Driven Reinforcement Learning, arXiv:2004.07219.
"""

import os
from pathlib import Path
from typing import NamedTuple

BASE = "http://rail.eecs.berkeley.edu/datasets/offline_rl/"


class Published(NamedTuple):
    """An id's file below `BASE`, and its environment's time limit."""

    path: str
    max_episode_steps: int

    @property
    def file(self) -> str:
        return self.path.rpartition("/")[2]


def _table() -> dict[str, Published]:
    table: dict[str, Published] = {}
    qualities = ("random", "medium", "expert", "medium-expert", "medium-replay", "full-replay")
    for env in ("halfcheetah", "hopper", "walker2d", "ant"):
        for quality in qualities:
            name = f"{env}_{quality.replace('-', '_')}"
            for version in (1, 2):
                path = f"gym_mujoco_v{version}/{name}-v{version}.hdf5"
                table[f"{env}-{quality}-v{version}"] = Published(path, 1000)
            if quality == "medium-replay":  # v0 says "mixed", and "walker" for once
                name = f"{'walker' if env == 'walker2d' else env}_mixed"
            if quality != "full-replay":
                table[f"{env}-{quality}-v0"] = Published(f"gym_mujoco/{name}.hdf5", 1000)
    table["ant-random-expert-v0"] = Published("gym_mujoco/ant_random_expert.hdf5", 1000)

    for env in ("pen", "hammer", "door", "relocate"):
        limit = 100 if env == "pen" else 200
        old = {
            "human": f"{env}-v0_demos_clipped",
            "cloned": f"{env}-demos-v0-bc-combined",
            "expert": f"{env}-v0_expert_clipped",
        }
        for quality, name in old.items():
            table[f"{env}-{quality}-v0"] = Published(f"hand_dapg/{name}.hdf5", limit)
            table[f"{env}-{quality}-v1"] = Published(f"hand_dapg_v1/{env}-{quality}-v1.hdf5", limit)

    for quality, name in {
        "complete": "mini_kitchen_microwave_kettle_light_slider",
        "partial": "kitchen_microwave_kettle_light_slider",
        "mixed": "kitchen_microwave_kettle_bottomburner_light",
    }.items():
        table[f"kitchen-{quality}-v0"] = Published(f"kitchen/{name}-v0.hdf5", 280)

    for quality, maze, start, goal in (
        ("umaze", "u-maze", False, False),
        ("umaze-diverse", "u-maze", True, True),
        ("medium-play", "big-maze", True, False),
        ("medium-diverse", "big-maze", True, True),
        ("large-play", "hardest-maze", True, False),
        ("large-diverse", "hardest-maze", True, True),
    ):
        name = f"Ant_maze_{maze}_noisy_multistart_{start}_multigoal_{goal}_sparse"
        limit = 700 if maze == "u-maze" else 1000
        table[f"antmaze-{quality}-v0"] = Published(f"ant_maze_new/{name}.hdf5", limit)
        table[f"antmaze-{quality}-v2"] = Published(f"ant_maze_v2/{name}_fixed.hdf5", limit)
    return table


D4RL = _table()
"""Every id the papers use, and its file."""

LIMIT_OF_FILE = {entry.file: entry.max_episode_steps for entry in D4RL.values()}
"""The time limit of a file under its published name: v0 files may have no `timeouts`."""


def d4rl_file(name: str) -> Path:
    """Where D4RL itself keeps the file of this id: `$D4RL_DATASET_DIR`, else `~/.d4rl/datasets`."""
    root = os.environ.get("D4RL_DATASET_DIR") or Path.home() / ".d4rl" / "datasets"
    return Path(root) / D4RL[name].file
