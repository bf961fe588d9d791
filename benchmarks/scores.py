"""Normalised scores of algorithms on data files: trains what is missing, resumes what is not finished.

    python benchmarks/scores.py --data FILE... --runs bc misa:authors misa:paper misa --steps 50000 --out DIR

Each (file, algorithm, preset) is one run of all seeds in a folder of its own, so that a killed or
time-limited call goes on with the next one. `--table` prints what is there and draws the curves.
"""

import argparse
import time
from pathlib import Path

from leashrl import experiment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--runs", nargs="+", default=["bc", "misa:authors", "misa:paper", "misa"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--evaluations", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--set", nargs="*", default=[], help="options of the Config, NAME=VALUE")
    parser.add_argument("--vary", nargs="*", default=[], help="NAME=V1,V2")
    args = parser.parse_args()
    for data in args.data:
        for run in args.runs:
            train_one(data, run, args)


def train_one(data: Path, run: str, args: argparse.Namespace) -> None:
    algorithm, _, preset = run.partition(":")
    suffix = "".join(f"+{x}" for x in args.set)
    folder = args.out / f"{data.stem}--{run.replace(':', '-')}{suffix}"
    began = time.monotonic()

    def report(event: str, details: dict) -> None:
        if event == "evaluation":
            scores = [round(row["score"], 1) for row in details["rows"]]
            print(f"{folder.name} {details['step']} {scores} {time.monotonic() - began:.0f} s", flush=True)
        elif event == "diverged":
            print(f"{folder.name} {details}", flush=True)

    if (folder / "checkpoint").exists():
        experiment.resume(folder, report=report)
        return
    experiment.train(
        algorithm,
        data,
        preset=preset or "default",
        options=dict(x.split("=", 1) for x in args.set),
        vary={n: [float(v) for v in vs.split(",")] for n, vs in (x.split("=", 1) for x in args.vary)},
        seeds=args.seeds,
        steps=args.steps,
        eval_every=max(1, args.steps // args.evaluations),
        episodes=args.episodes,
        out=folder,
        overwrite=True,
        report=report,
    )


if __name__ == "__main__":
    main()
