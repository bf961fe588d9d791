"""Scores in bfloat16 against float32: the same seeds and data, and paired intervals of the difference.

    python benchmarks/precision.py --out DIR [--only ALGORITHM...] [--minutes M] [--results PREFIX]

trains and evaluates the cells below, cheapest first, each in a folder of its own: the same command goes on
after any interruption. What is done is written to PREFIX/CELL.json as it comes, and the table to PREFIX.md:
two runs of one seed go apart like two seeds once a rounding has moved one sampled action, so equal scores
are scores whose paired difference is inside the noise between seeds. `python benchmarks/precision.py` without
--out writes the table from what is there.

Which algorithms take bfloat16 under `precision=auto` (`Entry.bfloat16`) is read off this table, and
`tests/project/test_precision.py` holds the two together.
"""

import argparse
import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from leashrl.disk.files import read_json, versions, write_atomically, write_json
from leashrl.evaluate.significance import compare
from leashrl.evaluate.statistics import summary
from leashrl.runs import experiment
from leashrl.runs.loading import evaluate_run

RESULTS = Path(__file__).parent / "results" / "precision"
SEEDS, EPISODES = 5, 30
HOPPER = Path("../shared/data/hopper-medium-expert-like-sb3-v4.hdf5")
PLACES = {"pendulum": "pendulum-medium", "cartpole": "cartpole-medium", "hopper": HOPPER, "online": None}
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Cell:
    """One algorithm in one place, trained in both precisions."""

    algorithm: str
    place: str
    steps: int

    @property
    def name(self) -> str:
        return f"{self.place}-{self.algorithm}-{self.steps}"


CELLS = [
    *(Cell(name, "pendulum", 3000) for name in ("td3-bc", "iql")),
    *(Cell(name, "hopper", 5000) for name in ("td3-bc", "iql", "bc", "misa")),
    *(Cell(name, "pendulum", 3000) for name in ("misa", "brac-plus", "cql")),
    *(Cell(name, "hopper", 5000) for name in ("brac-plus", "cql")),
    Cell("sac", "online", 10_000),
    *(Cell(name, "cartpole", 2000) for name in ("bc", "iql", "misa", "cql")),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of the runs; without it only the table is written")
    parser.add_argument("--only", nargs="+", help="algorithms")
    parser.add_argument("--minutes", type=float, help="stop after so long, resumably")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.minutes:  # the same as a Ctrl-C: checkpoint, then out
        threading.Timer(60 * args.minutes, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        for cell in CELLS if args.out else ():
            if not args.only or cell.algorithm in args.only:
                run(cell, args.out, args.results)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", flush=True)
    write_atomically(args.results.with_suffix(".md"), table(args.results).encode())
    print(table(args.results))
    sys.stdout.flush()
    os._exit(0)  # the timer, if any, must not hold us


def run(cell: Cell, out: Path, results: Path) -> None:
    """Train and evaluate a cell in both precisions, as far as that was not done, and write its JSON."""
    scores, about = {}, {}
    for precision in PRECISIONS:
        folder = out / f"{cell.name}-{precision}"
        if (folder / "config.json").exists():
            experiment.resume(folder)
        else:
            experiment.train(
                cell.algorithm,
                PLACES[cell.place],
                task=None if PLACES[cell.place] else "hopper",
                options={"precision": precision},
                seeds=SEEDS,
                steps=cell.steps,
                eval_every=cell.steps,
                episodes=1,
                log_every=cell.steps // 10,
                out=folder,
            )
        if not (folder / "final.json").exists():
            found = evaluate_run(folder, episodes=EPISODES)
            write_json(folder / "final.json", {"scores": [member.score for member in found.members]})
        scores[precision] = read_json(folder / "final.json")["scores"]
        about = read_json(folder / "config.json")
        print(f"{cell.name} {precision} {[round(score, 1) for score in scores[precision]]}", flush=True)
    results.mkdir(parents=True, exist_ok=True)
    found = {
        "algorithm": cell.algorithm,
        "place": cell.place,
        "steps": cell.steps,
        "episodes": EPISODES,
        "data": about["data"],
        "task": about["task"],
        "config": {name: value for name, value in about["config"].items() if name != "precision"},
        "scores": scores,
        "difference": compare(scores["bfloat16"], scores["float32"], paired=True).to_json(),
        "versions": versions(),
    }
    write_json(results / f"{cell.name}.json", found)


def table(results: Path) -> str:
    """The committed cells as Markdown."""
    lines = [
        "# Scores in bfloat16 and in float32",
        "",
        f"`python benchmarks/precision.py --out DIR`: default settings, {SEEDS} seeds, the last policy,",
        f"{EPISODES} episodes per seed. Intervals are of the paired difference (same seed, same data), 95 %,",
        "by Student's t. Where they hold 0, the difference is inside the noise between seeds. Five seeds",
        "cannot show a small difference: the width of the interval says what they could have shown.",
        "",
        "| place | algorithm | updates | float32 | bfloat16 | difference (95 %) | p |",
        "|---|---|---|---|---|---|---|",
    ]
    for cell in CELLS:
        file = results / f"{cell.name}.json"
        if not file.exists():
            continue
        found = read_json(file)
        d = found["difference"]
        means = [f"{summary(found['scores'][precision]).mean:.1f}" for precision in PRECISIONS]
        lines.append(
            f"| {cell.place} | {cell.algorithm} | {cell.steps} | {means[0]} | {means[1]} | "
            f"{d['difference']:+.1f} ({d['low']:.1f} to {d['high']:.1f}) | {d['p']:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
