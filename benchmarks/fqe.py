"""Do FQE's values put policies in the order of their true returns? Resumable; nothing is done twice.

    python benchmarks/fqe.py --out DIR --results benchmarks/results/fqe

On each data set five runs are trained briefly, and every snapshot is a checkpoint: some better, some worse,
and those of TD3 without a leash, which believe in actions that no row shows. `leashrl eval`'s episodes give
the true scores, and the same episodes the true discounted returns; `leashrl fqe` sees the data alone.
"""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from leashrl.disk.files import read_json, versions, write_json
from leashrl.ope.fqe import fqe
from leashrl.ope.reliability import FAR
from leashrl.report.plots import COLOURS, dress, legend_below, need_matplotlib, save
from leashrl.runs import experiment
from leashrl.runs.loading import load_policy
from leashrl.runs.policies import LoadedPolicy
from leashrl.tasks import Task, normalise
from leashrl.tasks import task as find_task
from leashrl.tasks.making import borrow, env_seed, give_back

RUNS = ("bc", "td3-bc", "iql", "misa", "td3-bc:td3")
STEPS = {"pendulum-medium-replay": 3000, "hopper-medium-replay": 5000}
SNAPSHOTS = 5
"""Of each run."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", nargs="+", default=list(STEPS), help="recipes or files")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--results", type=Path, help="prefix of the .json and .png to write")
    parser.add_argument("--episodes", type=int, default=10, help="a checkpoint, for its true return")
    parser.add_argument("--seeds", type=int, default=5, help="of FQE")
    parser.add_argument("--steps", type=int, default=5000, help="of FQE")
    parser.add_argument("--set", nargs="*", default=[], help="options of FQE, NAME=VALUE")
    args = parser.parse_args()
    found = [measure(data, args) for data in args.data]
    if args.results:
        command = {"command": shlex.join(["python", *sys.argv])}
        write_json(args.results.with_suffix(".json"), command | {"versions": versions(), "data": found})
        draw(found, args.results.with_suffix(".png"))


def measure(data: str, args: argparse.Namespace) -> dict[str, Any]:
    name = Path(data).stem
    folders = [args.out / f"{name}--{run.replace(':', '-')}" for run in RUNS]
    for run, folder in zip(RUNS, folders, strict=True):
        train(data, run, folder)
    options = {"steps": args.steps} | dict(x.split("=", 1) for x in args.set)
    kept = args.out / f"{name}--fqe-{'-'.join(f'{k}={v}' for k, v in options.items())}-{args.seeds}.json"
    if not kept.exists():
        began = time.process_time()
        estimates = fqe(folders, snapshots=True, seeds=args.seeds, options=options)
        write_json(kept, estimates.to_json() | {"cpu_seconds": time.process_time() - began})
    estimates = read_json(kept)
    gamma = estimates["config"]["gamma"]
    rows = []
    for row in estimates["policies"]:
        rows.append(row | truth(Path(row["folder"]), gamma, args.episodes))
        print(
            f"{row['policy']}: {row['value']:.1f} ({row['low']:.1f} to {row['high']:.1f}), "
            f"score {rows[-1]['score']:.1f}, discounted {rows[-1]['discounted']:.1f}; {row['flags']}",
            flush=True,
        )
    near = [row for row in rows if not any(flag.startswith(FAR) for flag in row["flags"])]
    correlations = {
        which: {what: correlation(group, what) for what in ("score", "discounted")}
        for which, group in {"all": rows, "near the data by FQE's flags": near}.items()
    }
    best, picked = max(row["score"] for row in rows), rows[0]["score"]
    held = sum(row["low"] <= row["discounted"] <= row["high"] for row in rows)
    print(json.dumps(correlations, indent=1), f"picked {picked:.1f} of {best:.1f}", flush=True)
    return {
        "data": name,
        "checkpoints": len(rows),
        "episodes": args.episodes,
        "rank_correlation": correlations,
        "intervals_that_hold_the_discounted_return": held,
        "score_of_the_one_picked": picked,
        "best_score": best,
        "median_score": float(np.median([row["score"] for row in rows])),
        "fqe": {key: value for key, value in estimates.items() if key != "policies"},
        "rows": rows,
    }


def train(data: str, run: str, folder: Path) -> None:
    if (folder / "config.json").exists():
        experiment.resume(folder)
        return
    algorithm, _, preset = run.partition(":")
    steps = STEPS.get(data, 5000)
    experiment.train(
        algorithm,
        data,
        preset=preset or "default",
        seeds=1,
        steps=steps,
        eval_every=steps // SNAPSHOTS,
        log_every=steps // SNAPSHOTS,
        episodes=3,
        snapshots=True,
        out=folder,
    )


# --- True returns ------------------------------------------------------------


def truth(folder: Path, gamma: float, episodes: int) -> dict[str, float]:
    """Mean score, return and discounted return over `leashrl eval`'s episodes; kept beside the policy."""
    kept = folder / f"true-{episodes}-{gamma:g}.json"
    if not kept.exists():
        policy = load_policy(folder)
        task = find_task(policy.task or "")
        returns, discounted = roll(policy, task, gamma, episodes)
        scores = normalise(task, returns)
        values = {"score": scores, "return": returns, "discounted": discounted}
        write_json(kept, {name: float(np.mean(x)) for name, x in values.items()})
    return read_json(kept)


def roll(policy: LoadedPolicy, task: Task, gamma: float, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """(episodes,) returns and discounted returns, of the episodes that `leashrl eval` starts with seed 1."""
    envs = borrow(task, episodes)
    obs = np.stack([env.reset(seed=env_seed(1, i))[0] for i, env in enumerate(envs)]).astype(np.float32)
    returns, discounted, live, step = np.zeros(episodes), np.zeros(episodes), set(range(episodes)), 0
    while live:
        action = policy(obs)
        for i in sorted(live):
            obs[i], reward, terminated, truncated, _ = envs[i].step(action[i])
            returns[i] += float(reward)
            discounted[i] += gamma**step * float(reward)
            if terminated or truncated:
                live.remove(i)
        step += 1
    give_back(task, envs)
    return returns, discounted


# --- Rank correlation --------------------------------------------------------


def correlation(rows: list[dict[str, Any]], what: str, resamples: int = 2000) -> dict[str, Any]:
    """Spearman's, between FQE's value and the truth, with a 95 % bootstrap interval over checkpoints."""
    pairs = np.array([(row["value"], row[what]) for row in rows])
    rng = np.random.default_rng(0)
    drawn = [spearman(pairs[rng.integers(len(pairs), size=len(pairs))]) for _ in range(resamples)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return {"n": len(rows), "spearman": spearman(pairs), "low": float(low), "high": float(high)}


def spearman(pairs: np.ndarray) -> float:
    x, y = (rankdata(column) for column in pairs.T)
    if x.std() == 0 or y.std() == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def draw(found: list[dict[str, Any]], out: Path) -> None:
    """A panel a data set: FQE's value against the true discounted return, a colour a run."""
    figure = need_matplotlib()(figsize=(4.6 * len(found), 4.2), dpi=150, layout="constrained")
    panels = np.ravel(figure.subplots(1, len(found)))
    for axes, one in zip(panels, found, strict=True):
        for run, colour in zip(RUNS, COLOURS, strict=False):
            rows = [row for row in one["rows"] if f"--{run.replace(':', '-')}/snap" in row["folder"]]
            x = [row["discounted"] for row in rows]
            axes.plot(x, [row["value"] for row in rows], "o", color=colour, label=run, markersize=5)
        ends = [f(row["discounted"] for row in one["rows"]) for f in (min, max)]
        axes.plot(ends, ends, "-", color="#999999", linewidth=1, label="equal")
        rho = one["rank_correlation"]["all"]["discounted"]
        title = f"{one['data']}\nSpearman {rho['spearman']:.2f} ({rho['low']:.2f} to {rho['high']:.2f})"
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("true discounted return")
        axes.set_ylabel("FQE's value")
        dress(axes)
    legend_below(figure, panels[-1])
    save(figure, out)


if __name__ == "__main__":
    main()
