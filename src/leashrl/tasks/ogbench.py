"""OGBench's tasks (Park et al. 2025, arXiv 2410.20092), under its own names: rows for the task table.

A data set `cube-single-play-v0` serves five tasks, which differ in their rewards alone:
`cube-single-play-singletask-task2-v0`, or without a number the default one. Environments have no data type:
`cube-single-singletask-task2-v0`. Sizes and limits are those of the package ogbench 1.2.2.
"""

import re
from typing import NamedTuple

URL = "https://rail.eecs.berkeley.edu/datasets/ogbench"


class World(NamedTuple):
    """What all data sets and tasks of one OGBench environment share."""

    max_episode_steps: int
    obs_dim: int
    action_dim: int
    kinds: tuple[str, ...]
    """Of its published data sets."""
    default: int
    """The task without a number."""


MANIPULATION = ("play", "noisy")
MAZE = ("navigate", "stitch")
EXPLORED = (*MAZE, "explore")

WORLDS: dict[str, World] = {
    "cube-single": World(200, 28, 5, MANIPULATION, 2),
    "cube-double": World(500, 37, 5, MANIPULATION, 2),
    "cube-triple": World(1000, 46, 5, MANIPULATION, 2),
    "cube-quadruple": World(1000, 55, 5, MANIPULATION, 2),
    "cube-octuple": World(1500, 91, 5, MANIPULATION, 2),
    "scene": World(750, 40, 5, MANIPULATION, 2),
    "puzzle-3x3": World(500, 55, 5, MANIPULATION, 4),
    "puzzle-4x4": World(500, 83, 5, MANIPULATION, 4),
    "puzzle-4x5": World(1000, 99, 5, MANIPULATION, 2),
    "puzzle-4x6": World(1000, 115, 5, MANIPULATION, 2),
    "pointmaze-medium": World(1000, 2, 2, MAZE, 1),
    "pointmaze-large": World(1000, 2, 2, MAZE, 1),
    "pointmaze-giant": World(1000, 2, 2, MAZE, 1),
    "pointmaze-teleport": World(1000, 2, 2, MAZE, 1),
    "antmaze-medium": World(1000, 29, 8, EXPLORED, 1),
    "antmaze-large": World(1000, 29, 8, EXPLORED, 1),
    "antmaze-giant": World(1000, 29, 8, MAZE, 1),
    "antmaze-teleport": World(1000, 29, 8, EXPLORED, 1),
    "humanoidmaze-medium": World(2000, 69, 21, MAZE, 1),
    "humanoidmaze-large": World(2000, 69, 21, MAZE, 1),
    "humanoidmaze-giant": World(4000, 69, 21, MAZE, 1),
    "antsoccer-arena": World(1000, 42, 8, MAZE, 4),
    "antsoccer-medium": World(1000, 42, 8, MAZE, 4),
}
# humanoidmaze-teleport is registered too; ogbench 1.2.2 cannot make it.
TASKS = (1, 2, 3, 4, 5)

NOTE = (
    "The score is the success rate. Since ogbench 1.2.0 an environment tells success of the state before its "
    "step (FQL's table: 1.1.0, after it). Its environments pay -1, or minus the number of sub-tasks left; "
    "here they pay 1 on success, so that a return is a success."
)

NAME = re.compile(
    rf"(?P<world>{'|'.join(map(re.escape, WORLDS))})"
    r"(-(?P<kind>play|noisy|navigate|stitch|explore))?(-singletask(-task(?P<task>[1-5]))?)?-v0"
)


class Name(NamedTuple):
    """What an OGBench name is made of; parts that it lacks are None."""

    world: str
    kind: str | None
    single: bool
    """Whether it is a task's, and not a data set's."""
    task: int | None

    @property
    def data(self) -> str:
        """The data set's name.

        >>> parse("cube-single-play-singletask-task2-v0").data
        'cube-single-play-v0'
        """
        return f"{self.world}-{self.kind}-v0"

    def task_name(self, task: int | None) -> str:
        """The name of one of the tasks that the data set serves; None: the default one."""
        return f"{self.world}-{self.kind}-singletask{f'-task{task}' if task else ''}-v0"

    @property
    def environment(self) -> str:
        """The Gymnasium id of a task's environment.

        >>> parse("cube-single-play-singletask-task2-v0").environment
        'cube-single-singletask-task2-v0'
        """
        return f"{self.world}-singletask{f'-task{self.task}' if self.task else ''}-v0"


def parse(name: str) -> Name | None:
    """The parts of a task's, a data set's or an environment's name; None of another name.

    >>> parse("scene-noisy-v0"), parse("hopper-medium-v2")
    (Name(world='scene', kind='noisy', single=False, task=None), None)
    """
    found = NAME.fullmatch(name)
    if not found or (found["kind"] and found["kind"] not in WORLDS[found["world"]].kinds):
        return None
    return Name(found["world"], found["kind"], "-singletask" in name, int(found["task"] or 0) or None)


def names() -> list[str]:
    """Of all tasks: with a data type, and (environments, for data of one's own) without."""
    return [
        f"{world}{f'-{kind}' if kind else ''}-singletask{f'-task{task}' if task else ''}-v0"
        for world, row in WORLDS.items()
        for kind in (*row.kinds, None)
        for task in (None, *TASKS)
    ]
