"""MIRACLE against SAC online: figures 2 and 3, a run a task and method, stopped and resumed as you like.

    python benchmarks/miracle.py [--runs DIR] [--seeds 5] [--tasks pendulum ...] [--presets default sac]

Lengths and networks are for two cores without a GPU, not the text's (1 million steps, 256 units, 10 seeds):
`--paper` takes the text's. Run it again after an interruption: finished runs are left alone, others go on.
"""

import argparse
import sys
from pathlib import Path

import leashrl

STEPS = {
    "pendulum": 15_000,
    "inverted-double-pendulum": 30_000,
    "reacher": 30_000,
    "swimmer": 60_000,
    "hopper": 50_000,
}
SMALL = {
    "hidden": (64, 64),
    "batch_size": 128,
    "policy_rate": 1e-3,
    "critic_rate": 1e-3,
    "marginal_rate": 1e-3,
}
"""The same for both methods."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Online runs of MIRACLE and SAC.")
    parser.add_argument("--runs", type=Path, default=Path("runs/miracle"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", nargs="+", default=list(STEPS))
    parser.add_argument("--presets", nargs="+", default=["default", "sac"])
    parser.add_argument("--paper", action="store_true", help="the text's sizes")
    args = parser.parse_args()
    for task in args.tasks:
        for preset in args.presets:
            folder = args.runs / f"{task}-{preset}"
            print(folder, file=sys.stderr, flush=True)
            if (folder / "config.json").exists():
                leashrl.resume(folder)
                continue
            leashrl.train(
                "miracle",
                task=task,
                preset=preset,
                seeds=args.seeds,
                steps=1_000_000 if args.paper else STEPS[task],
                options={} if args.paper else SMALL,
                eval_every=10**9,  # the text looks at the episodes of training alone
                out=folder,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
