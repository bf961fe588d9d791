"""One table from what `scores.py` and `speed.py` have written: algorithms by data files.

    python benchmarks/table.py benchmarks/results/scores-*5000.json --speed benchmarks/results/speed-*.json

Scores are mean and 95 % t interval over seeds, minutes the wall time of a file's seeds together (the mean
over files) with compilation, pre-training and the curve's episodes. Updates a second are one seed's, where
`speed.py` measured the same networks.
"""

import argparse
from pathlib import Path
from typing import Any

from leashrl.disk.files import read_json


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scores", nargs="+", type=Path, help="JSON of scores.py")
    parser.add_argument("--speed", nargs="*", type=Path, default=[], help="JSON of speed.py")
    args = parser.parse_args()
    rows = [row for path in args.scores for row in read_json(path)["rows"]]
    speeds = [row for path in args.speed for row in read_json(path)["rows"] if row["seeds"] == 1]
    runs = dict.fromkeys((row["run"], row["config"]["steps"]) for row in rows)
    files = {row["data"]: row["data_mean"] for row in rows}
    names = [
        f"{file.removesuffix('.hdf5').removesuffix('-sb3-v4')} ({mean:.1f})" for file, mean in files.items()
    ]
    print(f"| | {' | '.join(names)} | updates | updates/s | minutes |")
    print("|" + " --- |" * (len(files) + 4))
    for run, steps in runs:
        mine = {row["data"]: row for row in rows if (row["run"], row["config"]["steps"]) == (run, steps)}
        cells = [score(mine.get(file)) for file in files]
        some = next(iter(mine.values()))
        before = some["steps"] - steps
        rate = rate_of(some, run, speeds)
        minutes = sum(row["minutes"] for row in mine.values()) / len(mine)
        print(
            f"| `{run}` | {' | '.join(cells)} | {steps:,}{f' + {before:,}' if before else ''} "
            f"| {f'{rate:.0f}' if rate else '–'} | {minutes:.1f} |"
        )


def score(row: dict[str, Any] | None) -> str:
    """Empty where it was not run; of one seed the mean alone."""
    if row is None:
        return ""
    ends = f" ({row['low']:.1f} to {row['high']:.1f})" if row["low"] is not None else ""
    return f"{row['mean']:.1f}{ends}"


def rate_of(row: dict[str, Any], run: str, speeds: list[dict[str, Any]]) -> float | None:
    """Updates a second of one seed with the same switches and sizes, whatever the tuned numbers."""
    algorithm = "bc" if run == "bc-10" else run.split(":")[0].split("+")[0]

    def fixed(config: dict[str, Any]) -> dict[str, Any]:
        free = ("steps", "preprocess", "targets", "horizon", "termination")
        return {k: v for k, v in config.items() if not isinstance(v, float) and k not in free}

    same = [s for s in speeds if s["algorithm"] == algorithm and fixed(s["config"]) == fixed(row["config"])]
    return same[-1]["updates_per_second"] if same else None


if __name__ == "__main__":
    main()
