"""How BRAC+'s figures from runs look: a panel for each data set, a colour and a dash for each variant."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from leashrl.report.plots import COLOURS, DASHES, FAINT, INK, Point, band, cross, dress, need_matplotlib, save

BINS = 60


class AtStates(NamedTuple):
    """One member at its policy's actions."""

    distance: np.ndarray  # (states,) D(s)
    steepness: np.ndarray  # (states,) |grad_a min_i Q_i(s, a)|
    above: np.ndarray  # (states,) whether D is above epsilon
    outside: np.ndarray  # (states,) and above epsilon_gp
    threshold: float  # epsilon


def picture(
    file: Path,
    found: Mapping[str, Any],
    draw: Callable,
    x: str,
    y: str = "",
    marks: Mapping[str, Any] | None = None,
) -> Path:
    """A panel for each data set, filled by `draw(axes, {label: ...}, styles)`; `marks` join the legend."""
    from matplotlib.lines import Line2D

    columns = min(3, len(found))
    lines = -(-len(found) // columns)
    size = (max(4.8, 3.4 * columns), 2.7 * lines + 0.6)
    figure = need_matplotlib()(figsize=size, dpi=150, layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    pens = ({"color": colour, "linestyle": dash} for dash, colour in itertools.product(DASHES, COLOURS))
    labels = dict.fromkeys(label for by in found.values() for label in by)
    styles: dict[str, Any] = {s: {"linewidth": 1.6} | pen for s, pen in zip(labels, pens, strict=False)}
    for axes in panels[len(found) :]:
        axes.set_axis_off()
    for axes, (data, by) in zip(panels, found.items(), strict=False):
        axes.set_title(data, loc="left", fontsize=9.5, color=INK)
        draw(axes, by, styles)
        dress(axes)
    figure.supxlabel(x, fontsize=9.5, color=INK)
    figure.supylabel(y, fontsize=9.5, color=INK)
    shown = styles | {name: {"color": FAINT} | style for name, style in (marks or {}).items()}
    figure.legend(
        [Line2D([], [], **style) for style in shown.values()], shown.keys(),
        loc="outside upper center", ncols=int(size[0] // 3.2), fontsize=9, frameon=False, labelcolor=INK,
    )  # fmt: skip
    save(figure, file)
    return file


def draw_curves(
    axes: Any, curves: Mapping[str, tuple[str, list[Point], list[tuple[int, float]]]], styles: Mapping
) -> None:
    """Means with 95 % intervals over members; a cross where one was stopped."""
    for label, (measure, points, stops) in curves.items():
        axes.set_ylabel("normalised score" if measure == "score" else "return", fontsize=9, color=INK)
        if points:
            step, mean, low, high = zip(*points, strict=True)
            band(axes, step, low, high, color=styles[label]["color"], alpha=0.18)
            axes.plot(step, mean, marker="o", markersize=2.5, **styles[label])
        cross(axes, stops, styles[label]["color"])
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)


def draw_distances(axes: Any, found: Mapping[str, list[AtStates]], styles: Mapping) -> None:
    """From the first thousandth of one label to the last two hundredth of another."""
    distance = {label: np.concatenate([x.distance for x in mine]) for label, mine in found.items()}
    limit = {label: float(np.mean([x.threshold for x in mine])) for label, mine in found.items()}
    ends = [*limit.values(), *(x for d in distance.values() for x in np.quantile(d, (0.001, 0.995)))]
    for label, d in distance.items():
        bars(axes, d, np.linspace(min(ends), max(ends), BINS + 1), len(d), **styles[label])
        axes.axvline(limit[label], **styles[label] | {"linewidth": 1.2, "linestyle": ":"})


def draw_slopes(axes: Any, found: Mapping[str, list[AtStates]], styles: Mapping) -> None:
    """On a logarithmic axis, from the first thousandth on; what lies `outside` is filled."""
    ends = [x for mine in found.values() for m in mine for x in np.quantile(m.steepness, (0.001, 1.0))]
    edges = np.geomspace(min(ends), max(ends), BINS + 1)
    for label, mine in found.items():
        norm, outside = (np.concatenate([getattr(x, k) for x in mine]) for k in ("steepness", "outside"))
        bars(axes, norm, edges, len(norm), **styles[label])
        bars(axes, norm[outside], edges, len(norm), fill=True, alpha=0.4, color=styles[label]["color"])
    axes.set_xscale("log")


def draw_episodes(axes: Any, found: Mapping[str, list[np.ndarray]], styles: Mapping) -> None:
    """The first episode in bold, the others faint."""
    for label, episodes in found.items():
        for i, d in enumerate(episodes):
            axes.plot(d, **styles[label] | ({"linewidth": 0.8, "alpha": 0.35} if i else {"linewidth": 1.2}))


def bars(axes: Any, values: np.ndarray, edges: np.ndarray, n: int, **style: Any) -> None:
    """A histogram in shares of n."""
    axes.stairs(np.histogram(values, edges)[0] / n, edges, **style)
