"""Episodes of OGBench's mazes, by the protocol of `data_gen_scripts/generate_locomaze.py` in its repository.

    navigate    from goal to goal
    stitch      to a goal four cells away, where it stays
    explore     another direction every ten steps

A point goes where it is told; an ant is moved by a policy that does. OGBench's own is not in its package:
ours learnt by the same protocol, SAC on `online-ant-xy-v0` for 400,000 steps, and comes with this library.
"""

import functools
from collections import defaultdict
from typing import Any

import numpy as np

from leashrl.data.locomotion import Actor

NOISE = {"pointmaze": 0.5, "antmaze": 0.2}
EXPLORING = 1.0
"""The noise of `explore`."""
TURN = 10
"""Steps between its directions."""
AWAY = 4
"""Cells between start and goal of `stitch`."""
WALKER = ("ant-xy", 390_000)
"""The ant's policy: its name and number of updates."""

Cell = tuple[int, int]


def episode(env: Any, name: str, kind: str, seed: int) -> dict[str, list]:
    """One episode of a point or an ant, which heads for the oracle's next way-point, or anywhere."""
    body, exploring = name.split("-")[0], kind == "explore"
    move, noise = MOVES[body], EXPLORING if exploring else NOISE[body]
    env.action_space.seed(seed)
    world = env.unwrapped
    free, corners = cells(world.maze_map)
    pick = lambda among: among[np.random.randint(len(among))]
    start = pick(free)
    aim = pick((apart(world.maze_map, start, AWAY) or [start]) if kind == "stitch" else corners)
    obs, _ = env.reset(seed=seed, options={"task_info": {"init_ij": start, "goal_ij": aim}})
    rows, done, toward = defaultdict(list), False, np.zeros(2)
    while not done:
        if not exploring:
            toward = world.get_oracle_subgoal(world.get_xy(), world.cur_goal_xy)[0] - world.get_xy()
        elif len(rows["actions"]) % TURN == 0:
            toward = np.random.normal(size=2)
        action = move(world, toward / (np.linalg.norm(toward) + 1e-6))
        action = np.clip(action + np.random.normal(0, noise, action.shape), -1, 1)
        following, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        if info["success"] and kind == "navigate":
            world.set_goal(pick(corners))
        rows["observations"].append(obs)
        rows["actions"].append(action)
        rows["terminals"].append(done)
        rows["qpos"].append(info["prev_qpos"])
        rows["qvel"].append(info["prev_qvel"])
        obs = following
    return rows


def point(world: Any, direction: np.ndarray) -> np.ndarray:
    return direction


def ant(world: Any, direction: np.ndarray) -> np.ndarray:
    """What the walker does, who sees the ant without its place, and the direction."""
    seen = np.concatenate([world.get_ob(ob_type="states")[2:], direction])
    mean, _ = walker().gaussian(seen[None])
    return np.tanh(mean[0])


MOVES = {"pointmaze": point, "antmaze": ant}


@functools.cache
def walker() -> Actor:
    return Actor(*WALKER)


def cells(maze: np.ndarray) -> tuple[list[Cell], list[Cell]]:
    """The free cells of a map (0: free), and those of them that are no corridor.

    >>> maze = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]])
    >>> cells(maze)
    ([(1, 1), (1, 2), (1, 3)], [(1, 1), (1, 3)])
    """
    free = [(int(i), int(j)) for i, j in np.argwhere(maze == 0)]

    def corridor(i: int, j: int) -> bool:
        up_down, left_right = (maze[i - 1, j], maze[i + 1, j]), (maze[i, j - 1], maze[i, j + 1])
        both = lambda pair, value: pair[0] == value and pair[1] == value
        return (both(up_down, 0) and both(left_right, 1)) or (both(left_right, 0) and both(up_down, 1))

    return free, [cell for cell in free if not corridor(*cell)]


def apart(maze: np.ndarray, start: Cell, steps: int) -> list[Cell]:
    """The free cells exactly so many steps away, in the order in which a breadth-first search meets them.

    >>> apart(np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]]), (1, 1), 2)
    [(1, 3)]
    """
    far, queue = {start: 0}, [start]
    for i, j in queue:
        for cell in ((i - 1, j), (i, j - 1), (i + 1, j), (i, j + 1)):
            inside = 0 <= cell[0] < maze.shape[0] and 0 <= cell[1] < maze.shape[1]
            if inside and maze[cell] == 0 and cell not in far:
                far[cell] = far[(i, j)] + 1
                queue.append(cell)
    return [cell for cell, distance in far.items() if distance == steps]
