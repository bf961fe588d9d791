"""`leashrl mi` against known information: Gaussian channels, and hopper data whose policies are known.

    python benchmarks/information.py [--channels] [--hopper DIR] [--kinds medium expert] [--seed 0]
        [--results benchmarks/results/information]

A Gaussian channel of I nats in d dimensions: A_i = r S_i + sqrt(1 - r^2) noise with r^2 = 1 - e^{-2 I / d},
100,000 rows. DIR holds hopper-random.hdf5, hopper-medium.hdf5 and hopper-expert.hdf5 as `leashrl data make
hopper-random --out DIR/hopper-random.hdf5` and so on write them. Their actions are drawn from policies in the
package, so that I(S;A) is the mean of log pi(a|s) - log p(a), where p(a) is the mean of pi(a|s) over 20,000
other states. Results that are on disk and not asked for are kept.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logsumexp

from leashrl.data import load
from leashrl.data.dataset import Dataset
from leashrl.data.locomotion import Actor, runs
from leashrl.disk.files import read_json, versions, write_json
from leashrl.information.estimate import information
from leashrl.types import Box

NATS, DIMS, ROWS = (0.0, 0.5, 2.0, 5.0), (1, 3, 6), 100_000
CHANNEL_STEPS = 1000
"""A third of the default: channels so nearly linear need no more."""
KINDS = ("random", "medium", "expert")
BOUNDS = ("misa", "dv", "f", "ba")


def gaussian(nats: float, dim: int) -> Dataset:
    rng = np.random.default_rng(0)
    r = math.sqrt(1 - math.exp(-2 * nats / dim))
    obs = rng.standard_normal((ROWS, dim))
    action = r * obs + math.sqrt(1 - r * r) * rng.standard_normal((ROWS, dim))
    ends = np.arange(ROWS) % 100 == 99
    space = Box((-10.0,) * dim, (10.0,) * dim)
    return Dataset.from_arrays(obs, action, np.zeros(ROWS), ends, action_space=space, name="gaussian")


def known(data: Dataset, kind: str, rows: int = 30_000, states: int = 20_000) -> dict[str, float]:
    """I(S;A) of the policy that made the data, and its standard error."""
    if kind == "random":
        return {"known": 0.0, "known_error": 0.0}
    chosen = np.random.default_rng(0).permutation(len(data))[: rows + states]
    mean, log_std = Actor("hopper", runs()["hopper"][kind]).gaussian(data.obs[chosen])
    u = np.arctanh(np.clip(data.action[chosen].astype(np.float64), 2**-21 - 1, 1 - 2**-21))
    own = -(0.5 * ((u - mean) * np.exp(-log_std)) ** 2 + log_std).sum(axis=1)
    # log pi(a|s) of all pairs is a product of (u^2, u) with (-1 / 2 std^2, mean / std^2), and an offset
    m, inverse = mean[rows:], np.exp(-2 * log_std[rows:])
    kernel = np.concatenate([-0.5 * inverse, m * inverse], axis=1).T
    offset = -(0.5 * m**2 * inverse + log_std[rows:]).sum(axis=1)
    total = [
        np.asarray(logsumexp(np.concatenate([part**2, part], axis=1) @ kernel + offset, axis=1))
        for part in np.array_split(u[:rows], rows // 500)
    ]
    each = own[:rows] - np.concatenate(total) + math.log(states)
    return {"known": float(each.mean()), "known_error": float(each.std() / math.sqrt(rows))}


def measure(data: Dataset, steps: int | None = None, seed: int = 0) -> dict[str, Any]:
    began, cpu = time.perf_counter(), time.process_time()
    found = information(data, rows=len(data), steps=steps, seed=seed)
    took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    return {"hash": data.hash} | found.to_json() | took


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--channels", action="store_true")
    parser.add_argument("--hopper", type=Path, metavar="DIR")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seed", type=int, default=0, help="of the folds and networks of the hopper data")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/information"))
    args = parser.parse_args()
    file = args.results.with_suffix(".json")
    results: dict[str, Any] = read_json(file) if file.exists() else {"channels": [], "hopper": {}}
    results["versions"] = versions()

    def keep() -> None:
        write_json(file, results)
        args.results.with_suffix(".md").write_text("\n".join(tables(results)) + "\n")

    if args.hopper:
        for kind in args.kinds:
            data = load(args.hopper / f"hopper-{kind}.hdf5")
            row = {"data": f"hopper-{kind}", **known(data, kind), **measure(data, seed=args.seed)}
            results["hopper"][f"{kind}, seed {args.seed}"] = row
            keep()
    if args.channels:
        results["channels"] = []
        for dim in DIMS:
            for nats in NATS:
                row = {"dim": dim, "nats": nats, **measure(gaussian(nats, dim), steps=CHANNEL_STEPS)}
                results["channels"].append(row)
                keep()
    print("\n".join(tables(results)))


def tables(results: dict[str, Any]) -> list[str]:
    def cells(row: dict[str, Any]) -> str:
        misa = f"{row['misa']['estimate']:.3f} ({row['misa']['low']:.3f} to {row['misa']['high']:.3f})"
        return " | ".join([misa, *(f"{row[b]['estimate']:.3f}" for b in BOUNDS[1:])])

    lines = ["| dimensions | I(S;A) | MISA (95 % interval) | DV | f | BA |", "|--:|--:|--:|--:|--:|--:|"]
    lines += [f"| {row['dim']} | {row['nats']:g} | {cells(row)} |" for row in results["channels"]]
    head = "| data | seed | I(S;A) by its policy | MISA (95 % interval) | DV | f | BA | by action dimension |"
    lines += ["", head, "|---|--:|--:|--:|--:|--:|--:|---|"]
    for row in results["hopper"].values():
        truth = f"{row['known']:.3f} ± {row['known_error']:.3f}" if row["known"] else "0"
        each = ", ".join(f"{d['estimate']:.2f}" for d in row["dimensions"])
        lines.append(f"| {row['data']} | {row['seed']} | {truth} | {cells(row)} | {each} |")
    return lines


if __name__ == "__main__":
    main()
