"""Our SAC and stable-baselines3's, side by side on this machine: learning curves, scores, steps a second.

    python benchmarks/sac.py [--tasks hopper walker2d halfcheetah] [--steps 30000] [--results PATH]

Both take turns, each in a fresh process with both cores: the same networks (256, 256), batch, rates, warm-up
and one update an environment step. Steps a second count environment steps with their updates, simulator
included, between the first 1000 updates and the end; `start` is what comes before. stable-baselines3 lives in
an environment of its own, `benchmarks/.venv-sb3`, made on first use.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from leashrl.bench import matmul_rate
from leashrl.disk.files import versions, write_atomically, write_json
from leashrl.report.plots import COLOURS, need_matplotlib
from leashrl.tasks import normalise
from leashrl.tasks import task as find_task

HERE = Path(__file__).parent
PACKAGES = ["stable-baselines3==2.9.2", "torch==2.13.0", "gymnasium[mujoco]==1.4.0", "mujoco<3.12"]
FIRST = 1000  # updates that are not counted: compilation, caches
EPISODES = 10


def other_python() -> Path:
    """The Python that has stable-baselines3."""
    folder = HERE / ".venv-sb3"
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        (folder / ".ready").touch()
    return python


def run_theirs(task: str, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    place = find_task(task)
    argv = [str(other_python()), str(HERE / "sb3_sac.py"), place.env_id, "--seed", str(seed)]
    for name in ("steps", "warmup", "batch", "rate"):
        argv += [f"--{name}", str(getattr(args, name))]
    found = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    rows = [json.loads(line) for line in found.splitlines()]
    kind = lambda name: [row for row in rows if row["kind"] == name]
    marks = [(row["step"] - args.warmup, row["seconds"]) for row in kind("step")]
    episodes = [(row["step"], row["value"], row["seconds"]) for row in kind("episode")]
    about = kind("versions")[0]
    return summary(
        task, "stable-baselines3", seed, marks, episodes, [r["value"] for r in kind("evaluation")]
    ) | {"versions": {name: about[name] for name in ("sb3", "torch", "gymnasium")}}


OURS = """
import json, sys, time
START = time.perf_counter()
import leashrl
from leashrl.runs.events import Stepped
task, steps, warmup, batch, rate, seed, episodes, out = json.loads(sys.argv[1])
def report(event):
    if isinstance(event, Stepped):
        print(json.dumps([event.step, time.perf_counter() - START]), flush=True)
leashrl.train("sac", task=task, seeds=[seed], steps=steps, out=out, report=report, log_every=1000,
    eval_every=steps, episodes=episodes,
    options={"warmup": warmup, "batch_size": batch, "policy_rate": rate, "critic_rate": rate})
"""


def run_ours(task: str, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        given = [task, args.steps, args.warmup, args.batch, args.rate, seed, EPISODES, str(out)]
        found = subprocess.run(
            [sys.executable, "-c", OURS, json.dumps(given)], check=True, capture_output=True, text=True
        ).stdout
        marks = [tuple(json.loads(line)) for line in found.splitlines()]
        rows = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
        last = json.loads((out / "evaluations.jsonl").read_text().splitlines()[-1])
    updates, passed = np.array(marks).T
    seconds = np.interp([row["step"] for row in rows], updates, passed)
    steps = np.cumsum([row["length"] for row in rows])
    episodes = [(int(s), row["return"], float(t)) for s, row, t in zip(steps, rows, seconds, strict=True)]
    return summary(task, "leashrl", seed, marks, episodes, last["returns"])


def summary(task, name, seed, marks, episodes, returns) -> dict[str, Any]:
    """`marks`: (updates, seconds). The evaluation at the end is not counted."""
    begin = next((step, t) for step, t in marks if step >= FIRST)
    end = marks[-1]
    return {
        "task": task,
        "name": name,
        "seed": seed,
        "steps_per_second": (end[0] - begin[0]) / (end[1] - begin[1]),
        "start_s": begin[1],
        "whole_s": end[1],
        "score": float(normalise(find_task(task), returns).mean()),
        "returns": returns,
        "episodes": episodes,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Medians over seeds."""
    lines = ["| task | SAC | env steps/s | times | start, s | score |", "|---|---|---|---|---|---|"]
    for task in dict.fromkeys(row["task"] for row in rows):
        median = lambda name, what, task=task: statistics.median(
            row[what] for row in rows if (row["task"], row["name"]) == (task, name)
        )
        base = median("stable-baselines3", "steps_per_second")
        for name in ("stable-baselines3", "leashrl"):
            rate, start, score = (median(name, what) for what in ("steps_per_second", "start_s", "score"))
            numbers = f"{rate:.1f} | {rate / base:.2f} | {start:.0f} | {score:.1f}"
            lines.append(f"| {task} | {name} | {numbers} |")
    return "\n".join(lines) + "\n"


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Returns of training episodes against environment steps, and against seconds."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure = need_matplotlib()(figsize=(3.6 * len(tasks), 5.4), layout="constrained")
    panels = figure.subplots(2, len(tasks), squeeze=False)
    for column, task in enumerate(tasks):
        for colour, name in zip(COLOURS, ("leashrl", "stable-baselines3"), strict=False):
            for row in rows:
                if (row["task"], row["name"]) == (task, name) and len(row["episodes"]) > 10:
                    step, value, seconds = map(np.array, zip(*row["episodes"], strict=True))
                    smooth = np.convolve(value, np.ones(10) / 10, "valid")
                    for line, x in enumerate((step, seconds)):
                        label = name if row["seed"] == 0 else None
                        panels[line, column].plot(x[9:], smooth, color=colour, label=label)
        panels[0, column].set_title(find_task(task).env_id, loc="left", fontsize=10)
        panels[0, column].set_xlabel("environment steps")
        panels[1, column].set_xlabel("seconds")
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.locator_params(axis="x", nbins=4)
    panels[0, 0].set_ylabel("return, mean of 10 episodes")
    panels[1, 0].set_ylabel("return, mean of 10 episodes")
    panels[0, 0].legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)


def main() -> int:
    parser = argparse.ArgumentParser(description="Our SAC against stable-baselines3's.")
    parser.add_argument("--tasks", nargs="+", default=["hopper", "walker2d", "halfcheetah"])
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--warmup", type=int, default=1_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--results", type=Path, help="PATH.json, PATH.md and PATH.png")
    args = parser.parse_args()
    other_python()
    began, rows = time.perf_counter(), []
    for seed in range(args.seeds):
        for task in args.tasks:
            for run in (run_ours, run_theirs):
                rows.append(run(task, args, seed))
                shown = {k: v for k, v in rows[-1].items() if k not in ("episodes", "returns")}
                print(json.dumps(shown), f"{time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    print(table(rows))
    if args.results:
        about = {name: value for name, value in vars(args).items() if name != "results"}
        rate = matmul_rate() / 1e9
        write_json(
            args.results.with_suffix(".json"),
            {
                "settings": about,
                "cores": os.cpu_count(),
                "matmul_gflops": rate,
                "rows": rows,
                "versions": versions(),
            },
        )
        write_atomically(args.results.with_suffix(".md"), table(rows).encode())
        picture(rows, args.results.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
