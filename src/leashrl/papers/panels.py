"""Figures that are learning curves of declared runs: a panel a task, a curve a column.

A seed that diverged counts in its curve until then. A cross stands there, at its last finite policy's score.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leashrl.errors import BadInput
from leashrl.papers.experiments import Done, chosen, has_source, stopped
from leashrl.papers.printed import Printed
from leashrl.papers.protocols import Options, Trial, in_words
from leashrl.report.plots import (
    COLOURS,
    DASHES,
    INK,
    band,
    cross,
    curve,
    dress,
    legend_below,
    need_matplotlib,
    save,
)
from leashrl.runs.results import MemberResult


def trials(figure: Printed, options: Options) -> list[Trial]:
    """A trial a curve and task; of all tasks whose data are at hand, unless some are asked for."""
    need_matplotlib()  # before the work
    tasks = chosen(options.tasks, [*figure.tasks, *figure.instead], "task") if options.tasks else figure.tasks
    tasks = [t for t in tasks if options.tasks or figure.online or has_source(t)]
    return [trial_of(figure, task, run) for task in tasks for run in runs_of(figure, options).values()]


def trial_of(figure: Printed, task: str, run: str) -> Trial:
    return Trial(task, run, figure.online, figure.paper)


def runs_of(figure: Printed, options: Options) -> Mapping[str, str]:
    runs = figure.runs_at(options.scale)
    return {name: runs[name] for name in chosen(options.columns, runs, "curve")}


def make(
    figure: Printed, name: str, out: Path, done: Done, options: Options
) -> tuple[dict[str, Any], list[Path]]:
    """Rows that say where the curves end, and the picture. Members that diverge count until then."""
    if not done.results:
        raise BadInput(f"{name} has no run that has ended: {why(done)}")
    runs, found, crosses = runs_of(figure, options), {}, {}
    rows: list[dict[str, Any]] = []
    for task, source in done.sources.items():
        for label, run in runs.items():
            result = done.results.get(trial_of(figure, task, run))
            if result is None:
                continue
            try:
                measure, points = curve([result.folder])
            except BadInput:  # it diverged before its first evaluation
                measure, points = "score", []
            found.setdefault(task, {})[label] = points
            crosses[task, label] = ends(result.members, measure)
            row = {"task": task, "data": source.about, "curve": label, "run": run}
            row |= {"members": len(result.members), "diverged": len(result.diverged)}
            end = points[-1] if points else (None,) * 4
            row |= {"updates": end[0], "measure": measure, "final": end[1], "low": end[2], "high": end[3]}
            scores = [value for _, value in crosses[task, label]]
            row["last finite policy"] = float(np.mean(scores)) if scores else None
            rows.append(row | {"stopped": "; ".join(words for _, words in stopped(result))})
    file = out / f"{name.replace(' ', '-')}-{options.scale}.png"
    draw(found, f"{figure.about}; {in_words(options)}", file, crosses)
    unfinished = [f"{trial.run} on {trial.task}" for trial in done.left]
    values = {"scale": options.scale, "source": figure.source, "claim": figure.claim, "rows": rows}
    return values | {"unfinished": unfinished, "absent": done.absent}, [file]


def ends(members: Sequence[MemberResult], measure: str) -> list[tuple[int, float]]:
    """Of each member that diverged and has a finite policy: the update, and that policy's score or return."""
    stops = [member.diverged for member in members if member.diverged]
    values = [(end.step, end.score if measure == "score" else end.mean_return) for end in stops]
    return [(step, value) for step, value in values if value is not None]


def why(done: Done) -> str:
    if done.left:
        return "the minutes were over; the same command goes on"
    return "; ".join(done.absent)


def draw(
    found: Mapping[str, Mapping[str, list]],
    title: str,
    file: Path,
    crosses: Mapping[tuple[str, str], list[tuple[int, float]]],
) -> None:
    """Means with 95 % intervals over members; `crosses` where some were stopped, by task and label."""
    columns = min(3, len(found))
    lines = -(-len(found) // columns)
    figure = need_matplotlib()(
        figsize=(max(3.1 * columns, 4.8), 2.5 * lines + 0.8), dpi=150, layout="constrained"
    )
    labels = list(dict.fromkeys(label for curves in found.values() for label in curves))
    styles = {label: (COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS)]) for i, label in enumerate(labels)}
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (task, curves) in zip(grid, found.items(), strict=False):
        for label, points in curves.items():
            colour, dash = styles[label]
            step, mean, low, high = zip(*points, strict=True) if points else ((), (), (), ())
            band(axes, step, low, high, color=colour, alpha=0.15)
            axes.plot(step, mean, dash, color=colour, linewidth=1.6, label=label)
            cross(axes, crosses.get((task, label), []), colour)
        axes.set_title(task, loc="left", fontsize=9.5, color=INK)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        dress(axes)
    for axes in grid[len(found) :]:
        axes.set_axis_off()
    figure.supxlabel("gradient updates, pre-training counted", fontsize=9, color=INK)
    figure.supylabel("normalised score", fontsize=9, color=INK)
    note = "; ✕: a seed diverged" if any(crosses.values()) else ""
    figure.suptitle(title + note, fontsize=10, color=INK, x=0.01, ha="left")
    legend_below(figure, max(grid, key=lambda axes: len(axes.lines)))
    save(figure, file)
