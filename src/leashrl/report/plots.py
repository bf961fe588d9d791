"""Learning curves, drawn from the folders of runs alone, and the look of all pictures. matplotlib is imported
when it draws."""

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leashrl.disk.files import write_atomically
from leashrl.disk.folder import RunFolder
from leashrl.errors import BadInput
from leashrl.evaluate.statistics import summary

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito (2008): told apart with any kind of colour vision."""
DASHES = ("-", "--", "-.", ":")
INK, FAINT = "#333333", "#888888"
Point = tuple[int, float, float | None, float | None]
"""step, mean over members, and the 95 % interval of that mean; None where there is none (one member)."""


# --- Numbers -----------------------------------------------------------------


def curve(folders: Sequence[str | Path]) -> tuple[str, list[Point]]:
    """What `evaluations.jsonl` of some runs holds, members of all of them pooled by step.

    A member that diverged counts until then, so that the last points may stand on fewer members.

    Returns:
      `score` (normalised), or `return` where the task has no reference scores; and the points by step.

    Raises:
      BadInput: a folder without evaluations, or with scores in one run and none in another.
    """
    rows: list[dict[str, Any]] = []
    for folder in folders:
        found = RunFolder(Path(folder)).evaluations()
        if not found:
            raise BadInput(f"'{folder}' holds no evaluations: is it a run's folder, with a task?")
        rows += found
    scored = {row["score"] is not None for row in rows}
    if len(scored) != 1:
        raise BadInput(
            f"{len(folders)} runs share a curve, some with scores and some without: draw them apart"
        )
    what = "score" if scored.pop() else "return"
    steps: dict[int, list[float]] = {}
    for row in rows:
        steps.setdefault(row["step"], []).append(row[what])
    points = []
    for step, values in sorted(steps.items()):
        found = summary(values)
        points.append((step, found.mean, found.low, found.high))
    return what, points


# --- Picture -----------------------------------------------------------------


def draw(
    runs: Mapping[str, Sequence[str | Path]],
    out: str | Path,
    title: str,
    *,
    levels: Mapping[str, float] | None = None,
) -> Path:
    """One picture: per label the mean over members and its 95 % interval, against updates.

    Args:
      runs: label -> folders of runs, whose members are pooled.
      out: the picture; its ending (`.png`, `.svg`, `.pdf`) is its format.
      title: of the picture.
      levels: label -> a constant to compare with, such as the data's mean, drawn as a thin line.

    Raises:
      BadInput: no matplotlib, nothing to draw, labels in different units, an ending that matplotlib does
        not know, an unwritable disk.
    """
    found = {label: curve(folders) for label, folders in runs.items()}
    if not found:
        raise BadInput("no runs to draw: give at least one label with a folder")
    units = {what for what, _ in found.values()}
    if len(units) > 1:
        raise BadInput("some runs have scores and some only returns: draw them in two pictures")
    unit = "normalised score" if units == {"score"} else "return"
    return draw_points(
        {label: points for label, (_, points) in found.items()}, out, title, unit, levels=levels
    )


def draw_points(
    found: Mapping[str, Sequence[Point]],
    out: str | Path,
    title: str,
    unit: str,
    *,
    levels: Mapping[str, float] | None = None,
) -> Path:
    """The same picture of points by label, however they were found; `unit` names the vertical axis."""
    figure_class = need_matplotlib()
    out = Path(out).expanduser()
    figure = figure_class(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    # A new dash for each round through the colours, so that a seventh label is not the first one again.
    styles = itertools.cycle(itertools.product(DASHES, COLOURS))
    for (label, points), (dash, colour) in zip(found.items(), styles, strict=False):
        step, mean, low, high = zip(*points, strict=True)
        band(axes, step, low, high, color=colour, alpha=0.18)
        axes.plot(step, mean, dash, color=colour, linewidth=1.8, marker="o", markersize=3.5, label=label)
    for (label, value), dash in zip((levels or {}).items(), itertools.cycle(DASHES[1:])):
        axes.axhline(value, linestyle=dash, color=FAINT, linewidth=1.2, label=label, zorder=1)

    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xlabel("gradient updates, pre-training counted", color=INK)
    axes.set_ylabel(unit, color=INK)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.margins(x=0.02, y=0.35)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    dress(axes)
    legend_below(figure, axes)

    kind = out.suffix.lstrip(".").lower()
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise BadInput(f"cannot draw '{out.name}': name it .png, .svg or .pdf")
    image = io.BytesIO()
    figure.savefig(image, format=kind)
    write_atomically(out, image.getvalue())
    return out


def band(axes: Any, step: Sequence[float], low: Sequence[Any], high: Sequence[Any], **style: Any) -> None:
    """An interval about a curve, with gaps where it is None.

    Of few seeds it may be many times as high as the curve: the axes follow the curve, and cut it off.
    """
    import numpy as np

    ends = np.array([low, high], np.float64)  # None becomes nan, which is not drawn
    limits = axes.dataLim.frozen()
    axes.fill_between(step, *ends, linewidth=0, **style)
    axes.dataLim.set(limits)
    axes.margins(y=0.35)


def need_matplotlib() -> Any:
    """matplotlib's Figure, which draws without a display and without global state; or how to get it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise BadInput("pictures need matplotlib: pip install 'leashrl[report]'") from None
    return Figure


def dress(axes: Any) -> None:
    axes.tick_params(colors=INK, labelsize=8.5, length=3)
    axes.minorticks_off()
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FAINT)


def cross(axes: Any, points: Sequence[tuple[int, float]], colour: str) -> None:
    """Where members that diverged were stopped, each at what its last finite policy gets."""
    for step, value in points:
        axes.plot([step], [value], marker="x", markersize=6, color=colour, linestyle="none", zorder=4)


def legend_below(figure: Any, axes: Any) -> None:
    """The legend of `axes` below the picture, where it covers no curve."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(len(labels), 5),
        fontsize=9,
        frameon=False,
        labelcolor=INK,
    )


def save(figure: Any, file: Path) -> None:
    image = io.BytesIO()
    figure.savefig(image, format="png")
    write_atomically(file, image.getvalue())
