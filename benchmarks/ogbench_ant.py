"""The ant that walks where it is told, the expert of OGBench's ant mazes: from a run of SAC into the package.

    leashrl train sac --task online-ant-xy-v0 --seeds 1 --steps 390000 --snapshots --eval-every 10000
        --episodes 10 --set warmup=10000 policy_rate=1e-4 critic_rate=1e-4 target_entropy=-0.5
    python benchmarks/ogbench_ant.py RUN [--episodes 50] [--rate UPDATES_PER_SECOND]

OGBench's protocol: 400,000 steps in the environment, 10,000 of them random before the first update, a rate of
1e-4, a target entropy of half a nat per action dimension, 2 x 256. Writes the policy and its card into the
package, and the learning curve into benchmarks/results: returns of the policy's means, which are metres along
the directions told in 1,000 steps. The shipped policy (float16, numpy) is rolled once more, to see that it is
the same one.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from recipes import converted  # beside this file
from safetensors.numpy import load_file, save

from leashrl.data import locomotion, mazes
from leashrl.disk.files import read_json, write_atomically, write_json
from leashrl.report.plots import COLOURS, need_matplotlib
from leashrl.tasks import task
from leashrl.tasks.making import env_seed, make_one

ROOT = Path(__file__).parents[1]
POLICIES = ROOT / "src" / "leashrl" / "data" / "policies"
RESULTS = ROOT / "benchmarks" / "results"
NAME, STEP = mazes.WALKER


def ship(run: Path) -> None:
    """float16 weights with D4RL's names, and how they were made."""
    found = load_file(run / "snapshots" / f"step-{STEP:010d}" / "seed-0.safetensors")
    assert not found["obs_mean"].any() and (found["obs_std"] == 1).all()  # nothing but weights decides
    folder = POLICIES / NAME
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{STEP:07d}.safetensors", save(converted(found)))
    config = read_json(run / "config.json")
    card = {
        "task": config["task"],
        "algorithm": "sac",
        "seed": config["members"][0]["seed"],
        "updates": STEP,
        "environment_steps": STEP + config["config"]["warmup"],
        "options": config["config"],
        "versions": config["versions"],
    }
    write_json(folder / "card.json", card)


def rolled(episodes: int) -> np.ndarray:
    """Returns of the shipped policy's means."""
    env, actor = make_one(task("online-ant-xy-v0")), locomotion.Actor(NAME, STEP)
    returns = []
    for episode in range(episodes):
        obs, _ = env.reset(seed=env_seed(1, episode))
        total, done = 0.0, False
        while not done:
            action = np.tanh(actor.gaussian(obs[None])[0][0])
            obs, reward, terminated, truncated, _ = env.step(action)
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    return np.array(returns)


def curve(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    return [
        {"step": row["step"], "return": row["return"], "std": float(np.std(row["returns"]))} for row in rows
    ]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    figure = need_matplotlib()(figsize=(4.6, 2.8), layout="constrained")
    axes = figure.subplots()
    x, y, std = (np.array([row[key] for row in rows]) for key in ("step", "return", "std"))
    axes.plot(x / 1000, y, color=COLOURS[0])
    axes.fill_between(x / 1000, y - std, y + std, color=COLOURS[0], alpha=0.2, linewidth=0)
    axes.set_xlabel("thousand updates (10,000 random steps before)")
    axes.set_ylabel("metres along the directions")
    axes.set_title("SAC on online-ant-xy-v0, ± std of 10 episodes", loc="left", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description="The expert of OGBench's ant mazes.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--rate", type=float, help="updates per second of the run, for the page")
    options = parser.parse_args()
    ship(options.run)
    rows, returns = curve(options.run), rolled(options.episodes)
    found = {
        "command": "python benchmarks/ogbench_ant.py RUN",
        "updates_per_second": options.rate,
        "curve": rows,
        "shipped": {
            "episodes": options.episodes,
            "return": float(returns.mean()),
            "std": float(returns.std()),
            "least": float(returns.min()),
        },
        "card": read_json(POLICIES / NAME / "card.json"),
    }
    write_json(RESULTS / "ogbench-ant.json", found)
    draw(rows, RESULTS / "ogbench-ant.png")
    print(json.dumps(found["shipped"]), rows[-1])


if __name__ == "__main__":
    main()
