"""OGBench's data made here against the package: observations rebuilt from stored states, rewards relabelled.

For rows of each family of environments, an episode or more made by its recipe, or given as a file:

    observation   rebuilt by the package from the row's `qpos`, `qvel` (and `button_states`)
    reward, mask  of each of the five tasks, by the package's own `relabel_dataset`

An observation of the cube environments is not all of one moment: after a step of MuJoCo, places of sites are
those of the last step of physics before it, and only the scene and the puzzles work them out again. So the
effector (place and yaw) of cubes is rebuilt from the state one step of physics back, which the state itself
gives, since MuJoCo moves `qpos` by the new `qvel`; an episode's first row has made no step. Left out is what
the state does not tell: the gripper's contact, which is a force, and the yaw of a cube that stands on its
side, an arctangent of two rounding errors.

    python benchmarks/ogbench_parity.py [--rows 1000] [--files FOLDER] [--results RESULTS]
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from leashrl.data import load, ogbench, oracles
from leashrl.tasks import task as find_task
from leashrl.tasks.making import versions

RECIPES = (
    *("cube-single-play", "cube-double-noisy", "cube-triple-play", "scene-play", "scene-noisy"),
    *("puzzle-3x3-play", "puzzle-4x4-noisy", "pointmaze-medium-navigate", "pointmaze-large-stitch"),
    *("antmaze-medium-navigate", "antmaze-large-stitch", "antmaze-large-explore"),
)
WORLDS = ("humanoidmaze-medium", "antsoccer-arena", "antsoccer-medium")
"""Without a recipe: rows of random actions."""
EFFECTOR, CONTACT = slice(12, 17), 18
"""Of an arm's observation: place, cosine and sine of yaw; the gripper's contact."""
FIRST, EACH = 19, 9
"""Where cubes begin in it, and numbers of each: place, quaternion, cosine and sine of yaw."""


def environment(world: str) -> Any:
    import gymnasium
    import ogbench  # registers its environments

    gymnasium.register_envs(ogbench)
    env = gymnasium.make(f"{world}-v0", disable_env_checker=True).unwrapped
    env.reset(seed=0)
    return env


def rebuilt(env: Any, world: str, made: dict[str, np.ndarray], row: int, first: bool) -> np.ndarray:
    """The observation that the package makes of a stored state; nan where the state does not tell."""
    env.set_state(*(made[name][row] for name in ogbench.STATE if name in made))
    if not hasattr(env, "compute_observation"):
        return np.asarray(env.get_ob(), np.float32)
    seen = env.compute_observation()
    if world.startswith("cube") and not first:
        import mujoco as mj

        mujoco: Any = mj
        model, data = env._model, env._data
        mujoco.mj_integratePos(model, data.qpos, data.qvel, -model.opt.timestep)
        mujoco.mj_kinematics(model, data)
        seen[EFFECTOR] = env.compute_observation()[EFFECTOR]
    seen[CONTACT] = math.nan
    cubes = {"cube-single": 1, "cube-double": 2, "cube-triple": 3, "scene": 1}.get(world, 0)
    for yaw in (slice(FIRST + EACH * i + 7, FIRST + EACH * i + 9) for i in range(cubes)):
        w, x, y, z = seen[yaw.start - 4 : yaw.start]
        if math.hypot(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)) < 1e-2:
            seen[yaw] = math.nan
    return np.asarray(seen, np.float32)


def observations(world: str, made: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """(rows, dim) |rebuilt - stored|, nan where the state does not tell."""
    env, first = environment(world), np.concatenate([[True], made["terminals"][:-1]])
    return np.array(
        [abs(rebuilt(env, world, made, i, bool(first[i])) - made["observations"][i]) for i in rows]
    )


def rewards(path: Path, world: str, made: dict[str, np.ndarray], rows: np.ndarray) -> int:
    """How many rewards and masks of the five tasks differ from the package's, of these rows."""
    import gymnasium
    from ogbench.relabel_utils import relabel_dataset

    differ = 0
    for number in (1, 2, 3, 4, 5):
        name = f"{world}-singletask-task{number}-v0"
        mine = load(path, task=name)
        theirs = {key: made[key] for key in ("qpos", "button_states") if key in made}
        relabel_dataset(name, gymnasium.make(name, disable_env_checker=True), theirs)
        open_ = ~made["terminals"][rows]  # the last row of an episode leads nowhere, and has no mask here
        differ += int((mine.reward != theirs["rewards"])[rows].sum())
        differ += int((mine.terminal != (theirs["masks"] == 0))[rows][open_].sum())
    return differ


def wandered(world: str, count: int) -> dict[str, np.ndarray]:
    """Rows of random actions, in OGBench's layout; an episode each 100."""
    env, obs = environment(world), np.zeros(0)
    rows: dict[str, list] = {"observations": [], "actions": [], "qpos": [], "qvel": []}
    env.action_space.seed(0)
    for row in range(count):
        if row % 100 == 0:
            obs, _ = env.reset(seed=row, options={"task_id": 1 + row // 100 % 5})
        action = env.action_space.sample()
        state = (obs, action, env.data.qpos.copy(), env.data.qvel.copy())
        for name, value in zip(rows, state, strict=True):
            rows[name].append(np.float32(value))
        obs, *_ = env.step(action)
    made = {name: np.stack(values) for name, values in rows.items()}
    return made | {"terminals": np.arange(count) % 100 == 99}


def compared(recipe: str, count: int, folder: Path) -> dict[str, Any]:
    """A recipe's data, or random actions in a world."""
    world = recipe if recipe in WORLDS else oracles.RECIPES[recipe].world
    path = folder / f"{recipe if recipe in oracles.RECIPES else f'{world}-navigate'}-v0.npz"
    if recipe in WORLDS:
        np.savez_compressed(path, **wandered(world, count))  # pyright: ignore
    elif not path.exists():
        made = oracles.generate(oracles.RECIPES[recipe], -(-count // oracles.RECIPES[recipe].rows), 0)
        np.savez_compressed(path, **made)  # pyright: ignore
    with np.load(path) as file:
        made = {name: file[name] for name in file.files if "/" not in name}
    count = min(count, len(made["terminals"]))
    rows = np.sort(np.random.default_rng(0).choice(len(made["terminals"]), count, replace=False))
    apart = observations(world, made, rows)
    return {
        "recipe": f"{world}, random actions" if recipe in WORLDS else recipe,
        "rows": count,
        "of": len(made["terminals"]),
        "values": int(apart.size),
        "left_out": int(np.isnan(apart).sum()),
        "largest_difference": float(np.nanmax(apart)),
        "largest_observation": float(np.abs(made["observations"][rows]).max()),
        "rewards_and_masks_that_differ": rewards(path, world, made, rows),
    }


def markdown(found: dict[str, Any]) -> str:
    lines = [
        "# OGBench's data made here, against the package",
        "",
        f"`{found['command']}`, " + ", ".join(f"{k} {v}" for k, v in found["versions"].items()) + ".",
        "Rewards and masks: all five tasks of each row.",
        "",
        "| recipe | rows compared | values compared | left out | largest difference | largest value | "
        "rewards and masks that differ |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found["recipes"]:
        lines.append(
            f"| {row['recipe']} | {row['rows']:,} of {row['of']:,} | {row['values'] - row['left_out']:,} | "
            f"{row['left_out']:,} | {row['largest_difference']:.1e} | {row['largest_observation']:.3g} | "
            f"{row['rewards_and_masks_that_differ']} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description="OGBench's data made here against the package.")
    parser.add_argument("--rows", type=int, default=1000, help="of each recipe")
    parser.add_argument(
        "--files", type=Path, default=Path("ogbench-parity"), help="where data are, or are made"
    )
    parser.add_argument("--results", type=Path, help="write .json and .md here")
    options = parser.parse_args()
    options.files.mkdir(parents=True, exist_ok=True)
    found = {
        "command": f"python benchmarks/ogbench_parity.py --rows {options.rows}",
        "versions": {k: v for k, v in versions(find_task("scene-singletask-v0")).items() if k != "env_id"},
        "recipes": [compared(recipe, options.rows, options.files) for recipe in (*RECIPES, *WORLDS)],
    }
    print(markdown(found))
    if options.results:
        options.results.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
        options.results.with_suffix(".md").write_text(markdown(found))


if __name__ == "__main__":
    main()
