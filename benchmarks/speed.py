"""Updates per second of all algorithms, each case in a fresh process; a Markdown table and JSON.

    python benchmarks/speed.py --results benchmarks/results/speed [--of misa|leash|baselines] [--only NAME...]

Hopper's shapes, batch 256, networks 2 x 256, random data. On a shared machine run it when nothing else does.
"""

import argparse
import json
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
CASES = {"misa": MISA, "leash": LEASH, "baselines": BASELINES}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="prefix of the .json and .md files")
    parser.add_argument("--of", choices=CASES, default="misa")
    parser.add_argument("--only", nargs="*")
    args = parser.parse_args()
    cases, rows = CASES[args.of], []
    if unknown := set(args.only or ()) - set(cases):
        parser.error(f"--only {sorted(unknown)[0]!r}: --of {args.of} has {', '.join(map(repr, cases))}")
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


def line(row: dict) -> str:
    return (
        f"| {row['case']} | {row['updates_per_second']:.1f} | {row['member_updates_per_second']:.1f} "
        f"| {row['gflop_per_update']:.2f} | {row['share_of_matmul_rate']:.0%} | {row['matmul_gflops']:.0f} "
        f"| {row['cpu_ms_per_update']:.1f} | {row['compile_s']:.1f} | {row['peak_rss_mb']:.0f} |"
    )


if __name__ == "__main__":
    main()
