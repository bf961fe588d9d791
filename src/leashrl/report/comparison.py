"""Algorithms against one another: aggregates, performance profiles, probability of improvement.

Seam: a further chart of the section "Comparison" is one function `(lines, scores, unit) -> chart or None` in
`CHARTS`; `scores` has (runs, tasks) by label, in the order of their means.
A chart is `{id, title, about, x, y, series: [{label, points: [[x, middle, low, high], ...]}]}`, and optional
`steps` (drawn as stairs), `percent` (the y axis is a share), `short` (less high).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from leashrl.evaluate.budget import expected_score
from leashrl.evaluate.significance import compare as compare_two
from leashrl.evaluate.significance import compare_all
from leashrl.evaluate.statistics import (
    improvement_interval,
    iqm_interval,
    performance_profile,
    probability_of_improvement,
    summary,
)
from leashrl.evaluate.student import share_interval
from leashrl.report.reading import Line, Row

THRESHOLDS = 61
BUDGETS = (0, 1, 2, 3, 5, 8, 12, 20, 30)


def tables(lines: Sequence[Line]) -> tuple[dict[str, np.ndarray], list[str], str]:
    """(runs, tasks) of final scores by label, over places that all share; and a note on what is left out.

    Normalised scores where a place has them; returns only where there is a single place, since returns of
    different tasks cannot be pooled. A label with fewer members left in one place gives as many everywhere.
    """
    lines = [line for line in lines if line.finals]
    scored = [line for line in lines if line.unit == "score"]
    first = next(iter(dict.fromkeys(line.place for line in lines)), None)
    lines = scored or [line for line in lines if line.place == first]
    by_label: dict[str, dict[str, Line]] = {}
    for line in lines:
        by_label.setdefault(line.label, {})[line.place] = line
    everywhere = [
        p for p in dict.fromkeys(line.place for line in lines) if all(p in row for row in by_label.values())
    ]
    if not everywhere:  # the place where most have been
        counted = [line.place for line in lines]
        everywhere = sorted(set(counted), key=lambda p: (-counted.count(p), p))[:1]
    found, uneven = {}, []
    for label, row in by_label.items():
        if all(place in row for place in everywhere):
            columns = [row[place].finals for place in everywhere]
            runs = min(map(len, columns))
            uneven += [label] if any(len(column) > runs for column in columns) else []
            found[label] = np.array([column[:runs] for column in columns]).T
    dropped = [label for label in by_label if label not in found]
    note = f"Not run there, and left out: {', '.join(dropped)}. " if dropped else ""
    note += f"Of {', '.join(uneven)} only as many seeds as every data set has. " if uneven else ""
    return found, everywhere, note.strip()


def compare(lines: Sequence[Line]) -> Row | None:
    """Aggregates per label, charts, the matrix of P(row > column), tests; None with fewer than two labels."""
    found, where, note = tables(lines)
    if len(found) < 2:
        return None
    unit = next(line.unit for line in lines if line.place == where[0] and line.unit)
    ranked = sorted(found, key=lambda label: -float(found[label].mean()))
    ordered, rows = {label: found[label] for label in ranked}, []
    for label, scores in ordered.items():
        low, high = iqm_interval(scores) or (None, None)
        rows.append({"label": label} | summary(scores).to_json() | {"iqm_low": low, "iqm_high": high})
    matrix = [[None if a == b else improvement(found[a], found[b]) for b in ranked] for a in ranked]
    charts = [chart for make in CHARTS if (chart := make(lines, ordered, unit))]
    return {
        "places": where,
        "note": note,
        "unit": unit,
        "rows": rows,
        "labels": ranked,
        "matrix": matrix,
        "tests": tested(lines, ordered, where),
        "charts": charts,
    }


def tested(lines: Sequence[Line], found: dict[str, np.ndarray], where: Sequence[str]) -> list[Row]:
    """The first label against each other: both tests over the places, and both of matched seeds."""
    best = next(iter(found))
    rows: list[Row] = []
    for pair in (pair for pair in compare_all(found) if pair.a == best):
        a, b = matched(lines, pair.a, pair.b, where)
        both = compare_two(a, b, paired=True) if len(a) > 1 else None
        of_seeds = {"p_paired": both and both.p, "p_signs": both and both.p_permutation}
        rows.append(pair.to_json() | {"pairs": len(a)} | of_seeds)
    return rows


def matched(lines: Sequence[Line], a: str, b: str, where: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(seeds, tasks) of the seeds that two labels share in all places; none where a seed comes twice."""
    by = [
        [{m.seed: m.final for m in line.members if m.final is not None} for p in where for line in lines
         if (line.label, line.place) == (label, p)]
        for label in (a, b)
    ]  # fmt: skip
    shared = sorted(set.intersection(*(set(finals) for mine in by for finals in mine)))
    twice = any(
        len({m.seed for m in line.members}) < len(line.members) for line in lines if line.label in (a, b)
    )
    seeds = [] if twice else shared
    table = lambda mine: np.array([[finals[seed] for finals in mine] for seed in seeds])
    return table(by[0]), table(by[1])


def improvement(a: np.ndarray, b: np.ndarray) -> Row:
    low, high = improvement_interval(a, b) or (None, None)
    return {"p": float(probability_of_improvement(a, b)), "low": low, "high": high}


def profiles(lines: Sequence[Line], found: dict[str, np.ndarray], unit: str) -> Row | None:
    """Share of runs above each score, with its interval at each."""
    every = np.unique(np.concatenate([scores.ravel() for scores in found.values()]))
    low = min(0.0, every[0]) if unit == "score" else every[0]
    if not every[-1] > low:
        return None
    # The shares change at the scores alone, so with few of them the stairs are exact.
    taus = np.union1d(every, low) if len(every) < THRESHOLDS else np.linspace(low, every[-1], THRESHOLDS)
    series = []
    for label, scores in found.items():
        points = []
        for tau in taus:
            # Runs of different tasks scatter less than draws of one chance: the interval is on the safe side.
            ends = share_interval(int((scores > tau).sum()), scores.size)
            share = performance_profile(scores, [tau])[0]
            points.append([float(f"{x:.5g}") for x in (tau, share, *ends)])
        series.append({"label": label, "points": points})
    return {
        "id": "profiles",
        "title": "Performance profiles",
        "about": "Share of runs whose final evaluation lies above a threshold; a higher line is better.",
        "x": "normalised score" if unit == "score" else unit,
        "y": "share of runs above",
        "percent": True,
        "steps": True,
        "short": True,
        "series": series,
    }


def chosen(lines: Sequence[Line], found: dict[str, np.ndarray], unit: str) -> Row | None:
    """What choosing one of a label's members by a few episodes is worth; in one place, of two or more."""
    mine = [line for line in lines if line.label in found and line.finals]
    if len({line.place for line in mine}) > 1:
        return None
    series = []
    for line in mine:
        episodes = [member.episodes for member in line.members if member.episodes and not member.diverged]
        if len(episodes) < 2 or min(map(len, episodes)) < 2:
            return None
        rows = expected_score(episodes, BUDGETS, resamples=300)
        points = [(row.budget, row.mean, row.low, row.high) for row in rows]
        series.append({"label": line.label, "points": [[float(f"{x:.5g}") for x in p] for p in points]})
    return {
        "id": "chosen",
        "title": "What a choice is worth",
        "about": "What a bandit's pick among a line's seeds is worth, by the real episodes that it takes; "
        "at 0 it is any of them.",
        "x": "episodes that the choice may take",
        "y": "normalised score" if unit == "score" else unit,
        "short": True,
        "series": series,
    }


CHARTS: list[Callable[[Sequence[Line], dict[str, np.ndarray], str], Any]] = [profiles, chosen]
