"""What a data set of OGBench's holds that was made here, and whether one process makes the same bits.

    python benchmarks/ogbench_data.py FILE.npz [--again EPISODES] [--seconds S] [--results RESULTS]

Rows, episodes, lengths and hash of the file; the share of rows in which each of the five tasks is done, and
the returns of its rewards (minus the sub-tasks that are left, row by row). `--again` makes the file's first
episodes once more, in one process, and compares every array bit for bit. `--seconds` is how long the file and
its validation part took to make.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from leashrl.data import info, load, oracles
from leashrl.tasks import ogbench
from leashrl.tasks import task as find_task
from leashrl.tasks.making import versions


def of_task(path: Path, name: str) -> dict[str, Any]:
    found = info(load(path, task=name))
    reached = load(path, task=name).terminal
    return {
        "task": name,
        "rows_done": float(reached.mean()),
        "episodes_that_reach_it": share_of_episodes(path, reached),
        "return_mean": found.returns.mean,
        "return_min": found.returns.min,
        "return_max": found.returns.max,
        "reward_min": found.reward.min,
    }


def share_of_episodes(path: Path, reached: np.ndarray) -> float:
    with np.load(path) as file:
        starts = np.concatenate([[0], np.flatnonzero(file["terminals"])[:-1] + 1])
    return float(np.logical_or.reduceat(reached, starts).mean())


def again(path: Path, recipe: oracles.Recipe, episodes: int) -> dict[str, Any]:
    """The first episodes, made in one process, against the file's."""
    began = time.perf_counter()
    made = oracles.generate(recipe, episodes, 0, processes=1)
    seconds, rows = time.perf_counter() - began, len(made["terminals"])
    with np.load(path) as file:
        equal = {name: bool(np.array_equal(file[name][:rows], made[name])) for name in made}
    return {
        "episodes": episodes,
        "processes": 1,
        "rows": rows,
        "seconds": seconds,
        "rows_per_second": rows / seconds,
        "equal": equal,
    }


def measured(path: Path, episodes: int, seconds: float | None) -> dict[str, Any]:
    name = ogbench.parse(path.stem)
    assert name is not None and name.kind is not None
    recipe = oracles.RECIPES[name.data.removesuffix("-v0")]
    tasks = [of_task(path, name.task_name(number)) for number in ogbench.TASKS]
    about = info(load(path))
    with np.load(path) as file:
        made = json.loads(file["metadata/made"].item())
    return {
        "recipe": recipe.name,
        "made": made,
        "rows": about.rows,
        "episodes": about.episodes,
        "length": [about.lengths.min, about.lengths.max],
        "hash": about.hash,
        "megabytes": path.stat().st_size / 1e6,
        "seconds": seconds,
        "tasks": tasks,
        "again": again(path, recipe, episodes) if episodes else None,
        "cpu": os.cpu_count(),
        "versions": versions(find_task(name.task_name(None))),
    }


def markdown(found: dict[str, Any]) -> str:
    lines = [
        f"# {found['recipe']}, made here",
        "",
        f"{found['rows']:,} rows, {found['episodes']:,} episodes of {found['length'][0]:.0f} to "
        f"{found['length'][1]:.0f} rows, {found['megabytes']:.0f} MB; SHA-256 of the default task's arrays "
        f"`{found['hash']}`. "
        + ", ".join(f"{k} {v}" for k, v in found["versions"].items() if k != "env_id")
        + ".",
        "",
    ]
    if found["seconds"]:
        rate = 1.1 * found["rows"] / found["seconds"]
        lines += [
            f"Two processes took {found['seconds']:.0f} s for it and its validation part, a tenth as long "
            f"({rate:.0f} rows per second).",
            "",
        ]
    if found["again"]:
        one = found["again"]
        verdict = "the same bits" if all(one["equal"].values()) else f"OTHER bits: {one['equal']}"
        lines += [f"The first {one['episodes']} episodes made again in one process: {verdict}.", ""]
    lines += [
        "| task | rows in which it is done | episodes that reach it | mean return | lowest | highest |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in found["tasks"]:
        lines.append(
            f"| {row['task']} | {row['rows_done']:.3%} | {row['episodes_that_reach_it']:.1%} | "
            f"{row['return_mean']:.1f} | {row['return_min']:.0f} | {row['return_max']:.0f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description="What a data set of OGBench's holds that was made here.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--again", type=int, default=0, metavar="EPISODES")
    parser.add_argument("--seconds", type=float, help="that it took to make, for the page")
    parser.add_argument("--results", type=Path, help="write .json and .md here")
    options = parser.parse_args()
    found = measured(options.file, options.again, options.seconds)
    print(markdown(found))
    if options.results:
        options.results.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
        options.results.with_suffix(".md").write_text(markdown(found))


if __name__ == "__main__":
    main()
