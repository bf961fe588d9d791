"""How often an interval holds the truth, and how often equal algorithms are called different, by simulation.

    python benchmarks/coverage.py --results benchmarks/results/coverage

Scores of seeds are drawn from distributions whose mean is known. Intervals and tests of many tables are
computed at once, with scipy's t; that each equals the public function of `leashrl.evaluate` is checked on the
first 100. `plain t` is Student's interval without the halved tail, `bootstrap` the percentile bootstrap that
the tables had before.
"""

import argparse
import itertools
import math
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from leashrl.disk.files import versions, write_json
from leashrl.evaluate import statistics as stats
from leashrl.evaluate.significance import LEAST_RUNS, permutation_test, t_test

SEEDS = (2, 3, 4, 5, 10, 20)
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def modes(share: float, apart: float, low: float = 35.0, spread: float = 5.0) -> Draw:
    """`share` of the seeds in the upper of two normal modes, `apart` of their standard deviations above."""
    return lambda rng, shape: (
        low + spread * (apart * (rng.uniform(size=shape) < share) + rng.normal(size=shape))
    )


# name: (draw, true mean)
NORMAL: dict[str, tuple[Draw, float]] = {"normal": (lambda rng, shape: rng.normal(60, 10, shape), 60.0)}
DECLARED = NORMAL | {
    f"two modes 4 sd apart, {round(100 * (1 - w))} : {round(100 * w)}": (modes(w, 4), 35 + 20 * w)
    for w in (0.5, 0.35, 0.2, 0.1)
}
BEYOND: dict[str, tuple[Draw, float]] = {
    "uniform": (lambda rng, shape: rng.uniform(0, 100, shape), 50.0),
    "exponential": (lambda rng, shape: rng.exponential(20, shape), 20.0),
    "two modes 6 sd apart, 50 : 50": (modes(0.5, 6), 35 + 15.0),
    "two modes 6 sd apart, 80 : 20": (modes(0.2, 6), 35 + 6.0),
    "35 or 113, sd 2, 50 : 50": (modes(0.5, 39, spread=2), 74.0),
    "35 or 113, sd 2, 80 : 20": (modes(0.2, 39, spread=2), 35 + 0.2 * 78),
}
ALL = DECLARED | BEYOND


Ends = np.ndarray
"""(repetitions, 2): low and high, nan where there is no interval."""


# --- Many tables at once -----------------------------------------------------


def half_widths(tables: np.ndarray, trimmed: int, level: float) -> np.ndarray:
    """`mean_interval`'s, and of trimmed means; 0 where nothing varies."""
    runs, kept = tables.shape[1], tables[0].size - 2 * trimmed
    pooled = np.sort(tables.reshape(len(tables), -1), axis=1)
    low, high = (pooled[:, i][:, None, None] for i in (trimmed, -1 - trimmed))
    inside = ((tables >= low) & (tables <= high)).sum(1)
    parts = runs * np.clip(tables, low, high).var(1, ddof=1) / kept**2
    error = parts.sum(1)
    df = error**2 / np.maximum((parts**2 / np.maximum(inside - 1, 1)).sum(1), 1e-300)
    return np.sqrt(error) * scipy_stats.t.ppf((3 + level) / 4, np.maximum(df, 1))


def mean_ends(tables: np.ndarray, level: float = 0.95) -> Ends:
    found, half = stats.mean(tables), half_widths(tables, 0, level)
    return np.stack([found - half, found + half], 1)


def plain_t(tables: np.ndarray) -> Ends:
    return mean_ends(tables, 0.9)  # whose halved tail is the plain one of 95 %


def iqm_ends(tables: np.ndarray) -> Ends:
    found = stats.interquartile_mean(tables)
    half = np.maximum(*(half_widths(tables, k, 0.95) for k in (tables[0].size // 4, 0)))
    return np.stack([found - half, found + half], 1)


def one_by_one(find: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], Ends]:
    return lambda tables: np.array([find(table) or (np.nan, np.nan) for table in tables])


def bounded(scores: np.ndarray) -> tuple[float, float]:
    return stats.bounded_interval(np.clip(scores, 0, 120), 0, 120, draws=2000)


def p_values(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`t_test`'s of (repetitions, seeds)."""
    return np.asarray(scipy_stats.ttest_ind(a, b, axis=1, equal_var=False)[1])


# --- Coverage ----------------------------------------------------------------


def coverage(
    find: Callable[[np.ndarray], Ends], same_as: Any, name: str, truth: float, seeds: int, tasks: int, n: int
) -> dict[str, Any]:
    rng = np.random.default_rng([seeds, tasks])
    tables = ALL[name][0](rng, (n, seeds, tasks))
    ends = find(tables)
    if same_as:
        np.testing.assert_allclose(ends[:100], one_by_one(same_as)(tables[:100]), rtol=1e-6)
    held = (ends[:, 0] <= truth) & (truth <= ends[:, 1])  # no interval: not held
    return {
        "scores": name,
        "seeds": seeds,
        "tasks": tasks,
        "repetitions": n,
        "covered": float(held.mean()),
        "median half-width": float(np.nanmedian(ends[:, 1] - ends[:, 0]) / 2),
    }


def mean_iqm(name: str, seeds: int, tasks: int) -> float:
    """What the interquartile mean of so many scores is on average."""
    rng = np.random.default_rng(99)
    return float(stats.interquartile_mean(ALL[name][0](rng, (200_000, seeds, tasks))).mean())


def improvement(seeds: int, shift: float, repetitions: int) -> dict[str, Any]:
    """Of two normal algorithms `shift` standard deviations apart."""
    rng = np.random.default_rng(seeds)
    truth = 0.5 * (1 + math.erf(shift / 2))
    pairs = rng.normal(size=(repetitions, 2, seeds))
    ends = [stats.improvement_interval(a + shift, b) or (np.nan, np.nan) for a, b in pairs]
    held = float(np.mean([low <= truth <= high for low, high in ends]))
    return {"scores": f"normal, P = {truth:.2f}", "seeds": seeds, "repetitions": repetitions, "covered": held}


# --- False findings ----------------------------------------------------------


def apart(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the bootstrap intervals do not meet, which the report took for a finding."""
    x, y = (stats.stratified_bootstrap_interval(v, resamples=500) for v in (a, b))
    return x[0] > y[1] or y[0] > x[1]


def bootstraps(runs: np.ndarray) -> np.ndarray:
    return np.array([apart(a, b) for a, b in runs])


def welch(runs: np.ndarray) -> np.ndarray:
    p = p_values(runs[:, 0], runs[:, 1])
    found = np.array([t_test(a, b) for a, b in runs[:100]], np.float64)
    np.testing.assert_allclose(p[:100], found, rtol=1e-6)
    return p < 0.05


def permutations(runs: np.ndarray) -> np.ndarray:
    return np.array([permutation_test(a, b) < 0.05 for a, b in runs])


def holms(runs: np.ndarray) -> np.ndarray:
    """As `compare_all` decides: any of the pairs, and that with three seeds or more."""
    if runs.shape[2] < LEAST_RUNS:
        return np.zeros(len(runs))
    pairs = list(itertools.combinations(range(runs.shape[1]), 2))
    return len(pairs) * np.min([p_values(runs[:, i], runs[:, j]) for i, j in pairs], axis=0) < 0.05


FINDINGS: dict[str, tuple[int, int, tuple[int, ...], Callable[[np.ndarray], np.ndarray]]] = {
    # algorithms, repetitions, seeds, whether one is found
    "bootstrap intervals do not meet": (2, 1000, (2, 3, 5, 10), bootstraps),
    "Welch's t test, p < 0.05": (2, 100_000, (2, 3, 5, 10), welch),
    "permutation test, p < 0.05": (2, 1000, (2, 3, 5), permutations),
    "any of 3 pairs decided (Welch, Holm, three seeds or more)": (3, 100_000, (2, 3, 5, 10), holms),
    "any of 10 pairs decided (Welch, Holm, three seeds or more)": (5, 50_000, (2, 3, 5, 10), holms),
}


def finding(what: str, name: str, seeds: int, scale: float) -> dict[str, Any]:
    algorithms, repetitions, _, found = FINDINGS[what]
    repetitions = max(100, int(scale * repetitions))
    runs = ALL[name][0](np.random.default_rng(seeds), (repetitions, algorithms, seeds))
    share = float(found(runs).mean())
    return {"test": what, "scores": name, "seeds": seeds, "repetitions": repetitions, "found": share}


# --- What is written ---------------------------------------------------------


def table(head: str, rows: list[dict[str, Any]], value: Callable[[dict[str, Any]], str]) -> list[str]:
    columns = sorted({row["seeds"] for row in rows})
    lines = [f"| {head} | " + " | ".join(f"{n} seeds" for n in columns) + " |"]
    lines.append("| --- |" + " --: |" * len(columns))
    for name in dict.fromkeys(row["scores"] for row in rows):
        cells = {row["seeds"]: value(row) for row in rows if row["scores"] == name}
        lines.append(f"| {name} | " + " | ".join(cells.get(n, "") for n in columns) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="prefix of the .json and .md to write")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of repetitions")
    args = parser.parse_args()
    n = lambda count: max(100, int(args.scale * count))

    parts: dict[str, list[dict[str, Any]]] = {}

    def covered(
        title: str, find: Any, same: Any, names: Any, tasks: int, reps: int, seeds=SEEDS, iqm=False
    ) -> None:
        print(title, flush=True)
        truth = lambda name, k: mean_iqm(name, k, tasks) if iqm else ALL[name][1]
        parts[title] = [
            coverage(find, same, name, truth(name, k), k, tasks, n(reps)) for name in names for k in seeds
        ]

    one, iqm = stats.mean_interval, stats.iqm_interval
    covered("mean, one task", mean_ends, one, DECLARED, 1, 400_000)
    covered("mean, one task, beyond what is declared", mean_ends, one, BEYOND, 1, 100_000)
    covered("mean, one task, plain t", plain_t, None, ALL, 1, 100_000)
    some = [*NORMAL, "two modes 4 sd apart, 50 : 50", "35 or 113, sd 2, 50 : 50"]
    bootstrap = one_by_one(stats.stratified_bootstrap_interval)
    covered("mean, one task, bootstrap", bootstrap, None, some, 1, 2000, (2, 3, 5, 10))
    covered("mean, three tasks", mean_ends, one, ALL, 3, 50_000)
    covered("IQM, one task", iqm_ends, iqm, ALL, 1, 100_000, iqm=True)
    covered("IQM, three tasks", iqm_ends, iqm, ALL, 3, 50_000, iqm=True)
    hard = [*NORMAL, *(name for name in BEYOND if "modes" in name or "113" in name)]
    covered("mean, one task, bounded by 0 and 120", one_by_one(bounded), None, hard, 1, 1000, (2, 3, 5, 10))
    print("improvement and tests", flush=True)
    parts["probability of improvement"] = [
        improvement(k, shift, n(3000)) for shift in (0.0, 1.0, 2.0) for k in (2, 3, 5, 10)
    ]
    equal = [*DECLARED, "uniform", "two modes 6 sd apart, 50 : 50", "35 or 113, sd 2, 50 : 50"]
    tests = [
        finding(what, name, k, args.scale) for what in FINDINGS for name in equal for k in FINDINGS[what][2]
    ]

    lines = ["Coverage of 95 % intervals, in per cent; in brackets the median half-width.", ""]
    width = lambda r: f" ({r['median half-width']:.0f})" if "median half-width" in r else ""
    for title, rows in parts.items():
        lines += [f"**{title[0].upper()}{title[1:]}** ({rows[0]['repetitions']:,} repetitions a cell)", ""]
        lines += [*table("scores", rows, lambda r: f"{100 * r['covered']:.1f}{width(r)}"), ""]
    lines += ["How often equal algorithms are called different, in per cent.", ""]
    for what in FINDINGS:
        mine = [row for row in tests if row["test"] == what]
        lines += [f"**{what[0].upper()}{what[1:]}** ({mine[0]['repetitions']:,} repetitions a cell)", ""]
        lines += [*table("scores", mine, lambda r: f"{100 * r['found']:.1f}"), ""]
    command = shlex.join(["python", *sys.argv])
    lines += [f"`{command}`; numpy {np.__version__}, leashrl {versions().get('leashrl')}."]
    args.results.with_suffix(".md").write_text("\n".join(lines) + "\n")
    write_json(
        args.results.with_suffix(".json"),
        {"command": command, "versions": versions(), "coverage": parts, "tests": tests},
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
