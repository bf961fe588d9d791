"""Charts as data: learning curves, panels of metrics, histograms of actions. `page.js` draws them.

    {id, place, title, about, x, y, series: [{label, points: [[x, middle, low, high], ...]}]}

where `low` and `high` are None if there is no interval; and optional `big`, `steps` (stairs), `percent` (y
is a share), `symlog` (y is asinh(value / symlog)), `xlog`, `levels` ([{label, y}], lines to compare with);
in a series `seeds` ({seed: [[x, y], ...]}) and `filled`.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from leashrl.evaluate.statistics import summary
from leashrl.report.reading import Line, Member, Row, finite

POINTS = 150
"""Most points a line; where there are more, they are thinned evenly and the last is kept."""
GROUPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "Q-values",
        "What the critic believes; far above any possible return, it overestimates.",
        ("q_", "target", "value"),
    ),
    ("Bounds on mutual information", "Estimates in nats, of the batch.", ("bound_", "mi", "lagrange", "gap")),
    (
        "Samplers",
        "Share of proposals accepted, and how many independent draws the weights are worth.",
        ("acceptance", "effective_"),
    ),
    (
        "Distance from the data",
        "How far the policy is from the behaviour, and how random it is.",
        ("divergence", "kl", "entropy", "log_prob", "behaviour_error", "policy_std", "penalty", "threshold"),
    ),
    ("Losses", "What is minimised. Their scales differ between algorithms.", ("td_loss", "loss", "error")),
)
OTHERS = ("Other values", "Weights and multipliers, as each algorithm names them.")
MANY_ACTIONS = 6
"""Histograms of more action dimensions than these are those that differ most."""


# --- Learning curves ---------------------------------------------------------


def curves(lines: Sequence[Line]) -> list[Row]:
    """One chart a place: the mean over seeds and its interval at every evaluation, and each seed alone."""
    found = []
    for i, place in enumerate(places_of(lines)):
        here = [x for x in lines if x.place == place and x.unit and any(m.points for m in x.members)]
        if here:
            y = "normalised score" if here[0].unit == "score" else "return"
            series = [curve(line) for line in here]
            more = {"place": place, "big": True, "levels": levels(here)}
            found.append(chart(f"curve-{i}", place, series, x=steps_of(here), y=y, **more))
    return found


def curve(line: Line) -> Row:
    steps: dict[int, list[float]] = {}
    for member in line.members:
        for step, value in member.points:
            steps.setdefault(step, []).append(value)
    points = []
    for step in thin(sorted(steps)):
        s = summary(steps[step])
        points.append([step, *(None if x is None else rounded(x) for x in (s.mean, s.low, s.high))])
    seeds = {seed_of(m): [[x, rounded(y)] for x, y in thin(m.points)] for m in line.members}
    return {"label": line.label, "points": points, "seeds": seeds}


def seed_of(member: Member) -> str:
    """What the page calls it: the label already says what else varies within a run."""
    return str(member.seed)


def levels(lines: Sequence[Line]) -> list[Row]:
    """The mean return of the data's own episodes, where `--diagnose` has measured it."""
    for line in lines:
        for run in (member.run for member in line.members):
            found = ((run.diagnostics or {}).get("behaviour") or {}).get(line.unit)
            if finite([found]):
                return [{"label": "mean of the data", "y": found}]
    return []


# --- Metrics -----------------------------------------------------------------


def panels(lines: Sequence[Line]) -> list[Row]:
    """Groups of charts, `{title, about, charts}`: every logged metric of every place."""
    groups: dict[str, Row] = {
        title: {"title": title, "about": about, "charts": []} for title, about, _ in GROUPS
    }
    groups[OTHERS[0]] = {"title": OTHERS[0], "about": OTHERS[1], "charts": []}
    where = places_of(lines)
    for i, place in enumerate(where):
        here = [line for line in lines if line.place == place]
        names = {name for line in here for m in line.members for row in m.metrics for name in row}
        for name in sorted(names - line_names(here)):
            series = [s for line in here if (s := band(line, name))]
            if series:
                scale = symlog([v for s in series for point in s["points"] for v in point[1:]])
                more = {"place": place, "symlog": scale, "about": place if len(where) > 1 else ""}
                groups[group_of(name)]["charts"].append(
                    chart(f"metric-{i}-{name}", name, series, x=steps_of(here), **more)
                )
    return [group for group in groups.values() if group["charts"]]


def line_names(lines: Sequence[Line]) -> set[str]:
    """What a line of metrics holds beside metrics."""
    return {"step", "stage"} | {name for line in lines for member in line.members for name in member.values}


def group_of(metric: str) -> str:
    """
    >>> [group_of(name) for name in ("q_data", "value_loss", "bound_misa", "weight")]
    ['Q-values', 'Losses', 'Bounds on mutual information', 'Other values']
    """
    if metric.endswith(("_loss", "_error")) and metric != "behaviour_error":
        return "Losses"
    return next((title for title, _, names in GROUPS if metric.startswith(names)), OTHERS[0])


def band(line: Line, name: str) -> Row | None:
    """Mean over the members, and the lowest and highest of them, at each logged step."""
    steps: dict[int, list[float]] = {}
    for member in line.members:
        for row in member.metrics:
            for value in finite([row.get(name)]):
                steps.setdefault(row["step"], []).append(value)
    if not steps:
        return None
    points = [
        [step, *map(rounded, (statistics.fmean(steps[step]), min(steps[step]), max(steps[step])))]
        for step in thin(sorted(steps))
    ]
    return {"label": line.label, "points": points}


def symlog(values: Sequence[float]) -> float | None:
    """The scale of an asinh axis where values span so much that a plain axis would show only the largest."""
    sizes = sorted(abs(v) for v in values if v)
    if len(sizes) < 2 or sizes[-1] < 50 * max(statistics.median(sizes), 1e-12):
        return None
    return rounded(max(statistics.median(sizes), 1e-12) / 2)


# --- Policy against data -----------------------------------------------------

SPREADS = (
    (
        "distance",
        "Distance from the logged action",
        "0: the policy does what was logged; 1: every action is at the other end of its range.",
        "distance",
    ),
    (
        "kl",
        "KL divergence from the behaviour",
        "Estimated state by state from draws of the policy and the nearest logged actions.",
        "nats, each bin 33 % wider",
    ),
)


def against_data(lines: Sequence[Line]) -> list[Row]:
    """A place each, `{place, notes, charts}`: what the `diagnostics.json` of its runs say."""
    found = []
    for i, place in enumerate(places_of(lines)):
        here = [(line, m.run.diagnostics) for line in lines if line.place == place for m in line.members[:1]]
        notes = [f"{line.label} is left out: {d['skipped']}." for line, d in here if d and d["skipped"]]
        looked = [(line, measured(line)) for line, d in here if d and not d["skipped"]]
        looked = [(line, members) for line, members in looked if members]
        charts = []
        for key, title, about, x in SPREADS:
            rows = [
                (line.label, pooled([m[key] for m in members])) for line, members in looked if members[0][key]
            ]
            chart = histograms(f"{key}-{i}", title, about, x, trimmed(rows))
            charts += [chart | {"xlog": key == "kl"}] if chart else []
        dims = [d["actions"] for _, d in here if d and d["actions"]]
        charts += actions(looked, dims[0], i) if dims else []
        if notes or charts:
            found.append({"place": place, "notes": notes, "charts": [c | {"place": place} for c in charts]})
    return found


def measured(line: Line) -> list[Row]:
    """What was measured of each member of a line."""
    rows = [(m.run.diagnostics or {}).get("members", {}).get(m.name) for m in line.members]
    return [row for row in rows if row]


def trimmed(rows: Sequence[tuple[str, Row]]) -> list[tuple[str, Row]]:
    """Without the bins at either end that are next to empty (under 0.05 %) in all of them."""
    full = [i for _, h in rows for i, c in enumerate(h["counts"]) if c > 0.0005 * sum(h["counts"])]
    a, b = min(full, default=0), max(full, default=-1) + 1
    return [
        (label, {"edges": h["edges"][a : b + 1], "counts": h["counts"][a:b]}) for label, h in rows if b > a
    ]


def pooled(rows: Sequence[Row]) -> Row:
    """Histograms on the same edges, added."""
    return {
        "edges": rows[0]["edges"],
        "counts": [sum(c) for c in zip(*(r["counts"] for r in rows), strict=True)],
    }


def actions(looked: Sequence[tuple[Line, list[Row]]], dims: Sequence[Row], i: int) -> list[Row]:
    """A histogram an action dimension: the data's, and each policy's over it."""
    found = []
    for j, dim in enumerate(dims):
        rows: list[tuple[str, Row]] = [("data", {"edges": dim["edges"], "counts": dim["data"]})]
        for line, members in looked:
            alike = [{"edges": dim["edges"], "counts": m["actions"][j]} for m in members]
            rows.append((line.label, pooled(alike)))
        chart = histograms(f"action-{i}-{j}", dim["name"].capitalize(), "", "", rows)
        if chart:
            far = max((apart(rows[0][1], h) for _, h in rows[1:]), default=0.0)
            found.append((far, j, chart))
    chosen = sorted(sorted(found, key=lambda row: -row[0])[:MANY_ACTIONS], key=lambda row: row[1])
    if len(found) > len(chosen):
        chosen[0][2]["about"] = f"The {MANY_ACTIONS} of {len(found)} dimensions that differ most are shown."
    return [chart for _, _, chart in chosen]


def apart(a: Row, b: Row) -> float:
    """Total variation between two histograms: half the sum of the differences of their shares."""
    total = lambda h: sum(h["counts"]) or 1
    return sum(abs(x / total(a) - y / total(b)) for x, y in zip(a["counts"], b["counts"], strict=True)) / 2


def histograms(name: str, title: str, about: str, x: str, rows: Iterable[tuple[str, Row]]) -> Row | None:
    """Stairs of shares a bin; the series named `data` is filled."""
    series = []
    for label, h in rows:
        total = sum(h["counts"]) or 1
        shares = [rounded(count / total) for count in h["counts"]]
        points = [[rounded(x), y, y, y] for x, y in zip(h["edges"], [*shares, shares[-1]], strict=True)]
        series.append({"label": label, "points": points} | ({"filled": True} if label == "data" else {}))
    return chart(name, title, series, x=x, about=about, steps=True, percent=True) if series else None


# --- Small things ------------------------------------------------------------


def chart(
    name: str, title: str, series: list[Row], *, x: str, y: str = "", about: str = "", **more: Any
) -> Row:
    """What `page.js` draws; `more` as above."""
    return {"id": name, "title": title, "about": about, "x": x, "y": y, "series": series} | more


def places_of(lines: Sequence[Line]) -> list[str]:
    return list(dict.fromkeys(line.place for line in lines))


def steps_of(lines: Sequence[Line]) -> str:
    """What a step is: runs of other libraries count the environment's."""
    others = any("library" in m.run.config for line in lines for m in line.members)
    return "environment steps" if others else "gradient updates"


def thin(values: Sequence[Any]) -> list[Any]:
    """At most `POINTS` of them, evenly, the last one kept."""
    stride = math.ceil(len(values) / POINTS) or 1
    return list(values[len(values) - 1 :: -stride][::-1]) if values else []


def rounded(value: float) -> float:
    """Five significant digits."""
    return float(f"{value:.5g}")
