"""How far exported policies are from the policies, and how long an action takes.

    python benchmarks/export.py runs/hopper/* runs/cartpole/* --latency runs/hopper/iql

Every run is exported in each format, and checked as `leashrl export` does. Of the run that `--latency` names,
single actions are timed: medians over calls that take turns, so that what else the machine does falls on all
alike.
"""

import argparse
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from leashrl.data import Dataset, load
from leashrl.disk.files import read_json, versions, write_json
from leashrl.errors import BadInput
from leashrl.export import export_policy
from leashrl.export.formats import FORMATS, numpy, onnx, stablehlo
from leashrl.export.program import trace
from leashrl.runs.loading import load_policy

CALLS = 2000


def differences(run: str, data: dict[str, Dataset], every_mode: bool) -> list[dict[str, Any]]:
    """A row a mode: each format's largest difference, or its refusal."""
    source = read_json(Path(run) / "config.json")["data"]["source"]
    data.setdefault(source, load(source))
    policy, rows = load_policy(run), []
    for mode in policy.modes if every_mode else policy.modes[:1]:
        row: dict[str, Any] = {"algorithm": policy.algorithm, "task": policy.task, "mode": mode}
        for format in FORMATS:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    out = f"{folder}/policy"
                    exported = export_policy(run, format, mode=mode, data=data[source], out=out)
                    row[format] = exported.check.to_json()
                except BadInput as error:
                    row[format] = {"refused": str(error)}
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def latency(run: str) -> list[dict[str, Any]]:
    """Microseconds a single action, in the algorithm's own mode."""
    policy = load_policy(run)
    program = trace(policy, policy.modes[0])
    obs = (policy.obs_mean + policy.obs_std)[None].astype(np.float32)
    ways: dict[str, Callable[[], Any]] = {"`policy(obs)`": lambda: policy(obs[0])}
    compiled = jax.jit(jax.vmap(program.call))
    ways["jitted jax, to a numpy array"] = lambda: np.asarray(compiled(obs)[0])
    made = {"onnxruntime, one thread": onnx, "numpy": numpy, "StableHLO in jax": stablehlo}
    for name, make in made.items():
        ways[name] = functools.partial(make(program, policy).run, [obs])
    times: dict[str, list[float]] = {name: [] for name in ways}
    for call in range(CALLS + 50):
        for name, act in ways.items():
            begin = time.perf_counter()
            act()
            if call >= 50:
                times[name].append(1e6 * (time.perf_counter() - begin))
    return [
        {
            "way": name,
            "median_us": statistics.median(taken),
            "fastest_tenth_us": float(np.quantile(taken, 0.1)),
            "slowest_hundredth_us": float(np.quantile(taken, 0.99)),
        }
        for name, taken in times.items()
    ]


def table(rows: list[list[str]]) -> str:
    head, *rest = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *rest])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", help="folders of finished runs")
    parser.add_argument("--latency", metavar="RUN")
    parser.add_argument("--all-modes", action="store_true", help="not only the algorithm's own")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/export"))
    args = parser.parse_args()
    data: dict[str, Dataset] = {}
    timed = latency(args.latency) if args.latency else []
    rows = [row for run in args.runs for row in differences(run, data, args.all_modes)]
    found = {
        "command": " ".join(["python benchmarks/export.py", *sys.argv[1:]]),
        "calls": CALLS,
        "load": os.getloadavg(),
        "cpus": os.cpu_count(),
        "versions": versions("onnx", "jax2onnx", "onnxruntime"),
        "differences": rows,
        "latency": timed,
    }
    write_json(args.out.with_suffix(".json"), found)
    args.out.with_suffix(".md").write_text(page(found))


def page(found: dict[str, Any]) -> str:
    def cell(check: dict[str, Any]) -> str:
        if "refused" in check:
            return "refused"
        tied = f" ({check['chose_another']} ties)" if check["chose_another"] else ""
        return f"{check['max_difference']:.1e}{tied}"

    far = [
        [
            f"`{row['algorithm']}`",
            row["mode"],
            row["onnx"]["from"],
            *(cell(row[format]) for format in FORMATS),
        ]
        for row in found["differences"]
    ]
    fast = [
        [row["way"], *(f"{row[k]:.0f}" for k in ("median_us", "fastest_tenth_us", "slowest_hundredth_us"))]
        for row in found["latency"]
    ]
    head = ["way", "median, µs", "fastest tenth", "slowest hundredth"]
    return (
        "\n\n".join([table([["policy", "mode", "observations of", *FORMATS], *far]), table([head, *fast])])
        + "\n"
    )


if __name__ == "__main__":
    main()
