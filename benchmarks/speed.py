"""Updates per second of all algorithms, each case in a fresh process; a Markdown table and JSON.

    python benchmarks/speed.py --results benchmarks/results/speed [--of misa|leash|baselines] [--only NAME...]

Hopper's shapes, batch 256, networks 2 x 256, random data. On a shared machine run it when nothing else does.

    python benchmarks/speed.py --of precision --against OTHER/src --results benchmarks/results/speed-precision

times each case on the sources of another checkout and on these in both precisions, in turns: an hour in which
the machine is slow is slow for all three.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from leashrl.disk.files import versions, write_json

HMC = ["--set", "estimator=hmc", "k=50"]
SNIS = ["--set", "k=50", "critic_resample=0"]
MISA: dict[str, list[str]] = {
    "authors, 1 seed": ["misa", "--preset", "authors"],
    "authors, 4 seeds": ["misa", "--preset", "authors", "--seeds", "4"],
    "hmc, k = 50, 1 seed": ["misa", *HMC],
    "hmc, k = 50, 4 seeds": ["misa", *HMC, "--seeds", "4"],
    "snis, k = 50, full backward pass, 1 seed": ["misa", *SNIS],
    "snis, k = 50, full backward pass, 4 seeds": ["misa", *SNIS, "--seeds", "4"],
    "snis, k = 50, 1 seed": ["misa", "--set", "k=50"],
    "snis, k = 50, 4 seeds": ["misa", "--set", "k=50", "--seeds", "4"],
    "default, 1 seed": ["misa"],
    "default, 4 seeds": ["misa", "--seeds", "4"],
    "default, k = 20": ["misa", "--set", "k=20"],
    "default, batch 512": ["misa", "--set", "batch_size=512"],
    "default, batch 1024": ["misa", "--set", "batch_size=1024"],
    "default, 2 seeds": ["misa", "--seeds", "2"],
    "default, 8 seeds": ["misa", "--seeds", "8"],
    "bc, 1 seed": ["bc"],
    "bc, 4 seeds": ["bc", "--seeds", "4"],
}
LEASH: dict[str, list[str]] = {  # the stage after pre-training, with sac to compare with
    "sac": ["sac"],
    "sac, 3 x 256": ["sac", "--set", "hidden=256,256,256"],
    "fisher-brc": ["fisher-brc"],
    "fisher-brc, no representation": ["fisher-brc", "--preset", "no-representation"],
    "brac-plus": ["brac-plus"],
    "brac-plus, no slope penalty": ["brac-plus", "--set", "slope_weight=none"],
    "brac-plus, paper": ["brac-plus", "--preset", "paper"],
    "brac-plus, authors": ["brac-plus", "--preset", "authors"],
    "brac-p": ["brac-p"],
    "brac-v": ["brac-v"],
    "brac-v, Wasserstein": ["brac-v", "--preset", "w"],
    "bear": ["bear"],
    "bear, authors": ["bear", "--preset", "authors"],
    "misa": ["misa"],
    "misa, k = 10, full backward pass": ["misa", "--set", "critic_resample=0"],
}
SETTINGS: dict[str, list[str]] = {  # as other implementations are measured: 2 x 256, batch 256
    "bc": ["bc"],
    "td3-bc": ["td3-bc"],
    "iql": ["iql"],
    "awac": ["awac"],
    "awac, 3 x 256": ["awac", "--preset", "corl"],
    "cql, backward on 4 of 30 actions": ["cql"],
    "cql, backward on all": ["cql", "--set", "resample=0"],
    "rebrac, 3 x 256": ["rebrac"],
    "rebrac, 3 x 256, batch 1024": ["rebrac", "--preset", "authors"],
    "onestep": ["onestep"],
    "dt, batch 64 of 20 rows": ["dt"],
    "mopo, after its model's training": ["mopo"],
    "mbop": ["mbop"],
    "miracle": ["miracle"],
}
BASELINES = SETTINGS | {f"{name}, 8 seeds": [*SETTINGS[name], "--seeds", "8"] for name in ("td3-bc", "iql")}
BASELINES |= {"cql, 8 seeds": ["cql", "--seeds", "8"], "awac, 8 seeds": ["awac", "--seeds", "8"]}
PRECISION: dict[str, list[str]] = {  # algorithm, then preset and options
    "misa": ["misa"],
    "misa, k = 50": ["misa", "k=50"],
    "misa, hmc, k = 50": ["misa", "estimator=hmc", "k=50"],
    "misa, authors": ["misa:authors"],
    **{
        name: [name]
        for name in ("cql", "td3-bc", "iql", "dt", "sac", "brac-plus", "fisher-brc", "rebrac", "awac")
    },
    "iql, one value pass less": ["iql", "fresh_value=false"],
    **{name: [name] for name in ("onestep", "bc", "bear", "brac-p", "brac-v", "mopo", "mbop", "miracle")},
}
CASES = {"misa": MISA, "leash": LEASH, "baselines": BASELINES, "precision": PRECISION}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="prefix of the .json and .md files")
    parser.add_argument("--of", choices=CASES, default="misa")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--against", type=Path, help="another checkout's src, for --of precision")
    parser.add_argument("--times", type=int, default=1, help="rounds over all three, for --of precision")
    args = parser.parse_args()
    cases, rows = CASES[args.of], []
    if unknown := set(args.only or ()) - set(cases):
        parser.error(f"--only {sorted(unknown)[0]!r}: --of {args.of} has {', '.join(map(repr, cases))}")
    if args.of == "precision":
        if args.against is None:
            parser.error("--of precision needs --against")
        against(args)
        return
    for name in args.only or cases:
        command = [sys.executable, "-m", "leashrl", "bench", *cases[name], "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append({"case": name} | json.loads(done.stdout))
        print(line(rows[-1]), flush=True)
    head = (
        "| case | updates/s | times seeds | GFLOP/update | share of the matmul rate | matmul GFLOP/s "
        "| CPU ms/update | compile s | peak MB |"
    )
    table = "\n".join([head, "|" + " --- |" * 9, *map(line, rows)])
    args.results.with_suffix(".md").write_text(table + "\n")
    write_json(args.results.with_suffix(".json"), {"versions": versions(), "rows": rows})


ONE = """
import json, sys
from leashrl.bench import bench
algorithm, preset, options = json.loads(sys.argv[1])
print(json.dumps(bench(algorithm, preset=preset, options=options, seconds=4.0).to_json()))
"""
SIDES = ("before", "float32", "bfloat16")
HEAD = (
    "| case | before: updates/s | CPU ms | float32: updates/s | CPU ms | bfloat16: updates/s | CPU ms "
    "| float32 / before | bfloat16 / before | products, GFLOP/s |\n" + "|" + " --- |" * 10
)


def against(args: argparse.Namespace) -> None:
    """Time the cases on other sources and on these; write the table and the JSON after each case."""
    rows: list[dict] = []
    ours = Path(__file__).parents[1] / "src"
    for name in args.only or PRECISION:
        run, *options = PRECISION[name]
        algorithm, _, preset = run.partition(":")
        chosen = dict(option.split("=", 1) for option in options)
        found: dict[str, list[dict]] = {side: [] for side in SIDES}
        for _ in range(args.times):
            for side in SIDES:
                new = {} if side == "before" else {"precision": side}
                asked = json.dumps([algorithm, preset or "default", chosen | new])
                source = args.against if side == "before" else ours
                # A case that is new has nothing before it.
                done = subprocess.run(
                    [sys.executable, "-c", ONE, asked], capture_output=True, text=True,
                    env=os.environ | {"PYTHONPATH": str(source.resolve())}, check=side != "before",
                )  # fmt: skip
                if done.returncode == 0:
                    found[side].append(json.loads(done.stdout))
        rows.append({"case": name, "options": PRECISION[name], **found})
        print(compared(rows[-1]), flush=True)
        table = "\n".join([HEAD, *map(compared, rows)])
        args.results.with_suffix(".md").write_text(table + "\n")
        about = {"command": "python " + " ".join(sys.argv), "versions": versions()}
        write_json(args.results.with_suffix(".json"), about | {"rows": rows})


def compared(row: dict) -> str:
    """A line of the table: medians over the rounds."""

    def middle(side: str, name: str) -> float | None:
        return statistics.median(x[name] for x in row[side]) if row[side] else None

    speeds = [middle(side, "updates_per_second") for side in SIDES]
    cells = [
        f"{value:.1f}" if value else ""
        for side, speed in zip(SIDES, speeds, strict=True)
        for value in (speed, middle(side, "cpu_ms_per_update"))
    ]
    ratios = [f"{x / speeds[0]:.2f}" if x and speeds[0] else "" for x in speeds[1:]]
    rates = " and ".join(f"{middle(side, 'matmul_gflops'):.0f}" for side in SIDES[1:])
    return f"| {row['case']} | {' | '.join([*cells, *ratios, rates])} |"


def line(row: dict) -> str:
    return (
        f"| {row['case']} | {row['updates_per_second']:.1f} | {row['member_updates_per_second']:.1f} "
        f"| {row['gflop_per_update']:.2f} | {row['share_of_matmul_rate']:.0%} | {row['matmul_gflops']:.0f} "
        f"| {row['cpu_ms_per_update']:.1f} | {row['compile_s']:.1f} | {row['peak_rss_mb']:.0f} |"
    )


if __name__ == "__main__":
    main()
