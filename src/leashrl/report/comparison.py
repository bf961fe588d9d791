"""Algorithms against one another: aggregates, performance profiles, probability of improvement. Layer 10.

Seam: a further chart of the section "Comparison" is one function `(lines, scores, unit) -> chart or None` in
`CHARTS`; `scores` has (runs, tasks) by label, in the order of their means.
A chart is `{id, title, about, x, y, series: [{label, points: [[x, middle, low, high], ...]}]}`, and optional
`steps` (drawn as stairs), `percent` (the y axis is a share), `short` (less high).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from leashrl.evaluate.budget import expected_score
from leashrl.evaluate.statistics import (
    improvement_interval,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap_interval,
    summary,
)
from leashrl.report.reading import Line, Row

THRESHOLDS, RESAMPLES = 61, 1000
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
    """Aggregates a label, charts, and the matrix of P(row > column); None with fewer than two labels."""
    found, where, note = tables(lines)
    if len(found) < 2:
        return None
    unit = next(line.unit for line in lines if line.place == where[0] and line.unit)
    ranked = sorted(found, key=lambda label: -float(found[label].mean()))
    ordered, rows = {label: found[label] for label in ranked}, []
    for label, scores in ordered.items():
        iqm = stratified_bootstrap_interval(scores, interquartile_mean, resamples=RESAMPLES)
        rows.append(
            {"label": label} | summary(scores, resamples=RESAMPLES) | {"iqm_low": iqm[0], "iqm_high": iqm[1]}
        )
    matrix = [[None if a == b else improvement(found[a], found[b]) for b in ranked] for a in ranked]
    charts = [chart for make in CHARTS if (chart := make(lines, ordered, unit))]
    return {
        "places": where,
        "note": note,
        "unit": unit,
        "rows": rows,
        "labels": ranked,
        "matrix": matrix,
        "charts": charts,
    }


def improvement(a: np.ndarray, b: np.ndarray) -> Row:
    low, high = improvement_interval(a, b, resamples=RESAMPLES)
    return {"p": float(probability_of_improvement(a, b)), "low": low, "high": high}


def profiles(lines: Sequence[Line], found: dict[str, np.ndarray], unit: str) -> Row | None:
    """Share of runs above each score, with the bootstrap's interval at each."""
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
            share = lambda table, tau=tau: performance_profile(table, [tau])[..., 0]
            a, b = stratified_bootstrap_interval(scores, share, resamples=200)
            points.append([float(f"{x:.5g}") for x in (tau, share(scores), a, b)])
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
        points = [[row[name] for name in ("budget", "mean", "low", "high")] for row in rows]
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
