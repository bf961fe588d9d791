"""MIRACLE (Leibfried & Grau-Moya 2019, arXiv 1909.05950): its figures.

Figure 1 is made here from the grid world of appendix E. The paper's text does not name its values of beta;
those here run from where both methods have all but reached their limit for small beta to where they agree.
"""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np

from leashrl.disk.files import write_atomically
from leashrl.errors import BadInput
from leashrl.report.plots import COLOURS, FAINT, INK, need_matplotlib
from leashrl.tabular import Model, Solution, gridworld, value_iteration
from leashrl.tabular.blahut_arimoto import RULES
from leashrl.tabular.gridworld import GOAL

MAPS = (0.01, 0.1, 1.0, 10.0, 100.0)
BETAS = tuple(float(f"{beta:.3g}") for beta in np.geomspace(0.01, 100.0, 17))
"""Four a decade, those of the maps among them."""
METHODS = {"soft": "soft (uniform prior)", "mi": "mutual information"}
STATES = {"mean": "mean over states", "corner": "the corner opposite the goal", "next": "beside the goal"}


@dataclasses.dataclass(frozen=True)
class Figure1:
    """Options of figure 1.

    Args:
      size: side of the grid.
      goal_reward: of the step into the goal; 8 where the step's -1 counts there too.
      rule: when an inner iteration stops, `gap` or `policy` (the paper's); see `tabular.apply`.
      tolerance: of values and of the rule. Appendix E's is 5e-3, which leaves errors of 0.05.
    """

    size: int = 16
    goal_reward: float = 9.0
    rule: str = "gap"
    tolerance: float = 1e-3


# --- Values ------------------------------------------------------------------


def figure_1(out: Path, options: Figure1) -> tuple[dict[str, Any], list[Path]]:
    """Soft and mutual-information-regularised values by beta, and the limits that they run to."""
    figure_class = need_matplotlib()  # before the work
    rules = [rule for rule in RULES if rule != "held"]
    if options.size < 2 or options.rule not in rules or not options.tolerance > 0:
        raise BadInput(f"figure 1 takes size >= 2, tolerance > 0, rule={' or '.join(rules)}, not {options}")
    world = gridworld(options.size, options.size, goal_reward=options.goal_reward)
    found = {
        "soft": {beta: solve(world, beta, "held", options.tolerance) for beta in BETAS},
        "mi": {beta: solve(world, beta, options.rule, options.tolerance) for beta in BETAS},
    }
    # By the grid's symmetry, left as often as down is the best state-independent policy.
    limits = {
        "optimal": summary(world, settle(world, None)),
        "best state-independent": summary(world, settle(world, np.array([0.5, 0.0, 0.0, 0.5, 0.0]))),
        "uniform policy": summary(world, settle(world, np.full(5, 0.2))),
    }
    rows = []
    for beta in BETAS:
        soft, mi = found["soft"][beta], found["mi"][beta]
        values = {name: summary(world, np.asarray(s.value)) for name, s in (("soft", soft), ("mi", mi))}
        rows.append(
            {"beta": beta}
            | {f"{name} {state}": values[name][state] for state in STATES for name in METHODS}
            | {
                "gap": float(mi.prior.gap),
                "iterations": int(mi.iterations),
                "inner": int(mi.inner_iterations),
            }
            | {"converged": bool(soft.converged) and bool(mi.converged)}
        )
    maps = {name: [np.asarray(by_beta[beta].value) for beta in MAPS] for name, by_beta in found.items()}
    file = out / "miracle-figure-1.png"
    draw(figure_class, maps, rows, limits, file)
    return {"rows": rows, "limits": limits}, [file]


def solve(world: Model, beta: float, rule: str, tolerance: float) -> Solution:
    return value_iteration(
        world, beta, rule=rule, tolerance=tolerance, inner_tolerance=tolerance, max_inner_iterations=20_000
    )


def settle(world: Model, policy: np.ndarray | None) -> np.ndarray:
    """Values of always drawing from `policy` (A,) in a deterministic world; the optimal ones without it."""
    reward, discount = np.asarray(world.reward, float), np.asarray(world.discount, float)
    values = np.zeros(reward.shape[0])
    for _ in range(500):  # 0.9^500 = 1e-23
        q = reward + discount * values[np.asarray(world.successor)[:, :, 0]]
        values = q.max(axis=1) if policy is None else q @ policy
    return values


def summary(world: Model, values: np.ndarray) -> dict[str, float]:
    """The values that are told: p's mean, the top right corner, right of the goal."""
    mean = float(np.asarray(world.p, float) @ values)
    return {"mean": mean, "corner": float(values[-1]), "next": float(values[GOAL + 1])}


# --- Picture -----------------------------------------------------------------


def draw(figure_class: Any, maps: dict, rows: list[dict], limits: dict, file: Path) -> None:
    """Maps of the values above, two rows on one scale; curves of a few states against beta below."""
    figure = figure_class(figsize=(9.6, 6.9), dpi=150, layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.3, 1.0), hspace=0.03)
    grid = above.subplots(2, len(MAPS))
    size = round(len(maps["soft"][0]) ** 0.5)
    shown = np.concatenate([values for row in maps.values() for values in row])
    image = None
    for axes_row, (name, label) in zip(grid, METHODS.items(), strict=True):
        for axes, beta, values in zip(axes_row, MAPS, maps[name], strict=True):
            values = np.where(np.arange(size**2) == GOAL, np.nan, values)  # no action there, no colour
            image = axes.imshow(
                values.reshape(size, size), origin="lower", cmap="viridis", vmin=shown.min(), vmax=shown.max()
            )
            axes.plot(0, 0, "*", color=COLOURS[1], markersize=8, markeredgewidth=0)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color(FAINT)
            if name == "soft":
                axes.set_title(f"β = {beta:g}", fontsize=10, color=INK)
        axes_row[0].set_ylabel(label, fontsize=10, color=INK)
    bar = above.colorbar(image, ax=grid, shrink=0.9, pad=0.015, aspect=28)
    bar.set_label("value (★ goal)", fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_edgecolor(FAINT)

    betas = [row["beta"] for row in rows]
    for axes, (state, title) in zip(below.subplots(1, len(STATES)), STATES.items(), strict=True):
        for dash, (limit, values) in zip(("-", "--", ":"), limits.items(), strict=True):
            axes.axhline(values[state], linestyle=dash, color=FAINT, linewidth=1.0, label=limit, zorder=1)
        for colour, (name, label) in zip(COLOURS, METHODS.items(), strict=False):
            values = [row[f"{name} {state}"] for row in rows]
            axes.plot(betas, values, color=colour, linewidth=1.8, marker="o", markersize=3, label=label)
        axes.set_xscale("log")
        axes.set_title(title, loc="left", fontsize=10, color=INK)
        axes.set_xlabel("β", color=INK)
        axes.tick_params(colors=INK, labelsize=8.5, length=3)
        axes.minorticks_off()
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(FAINT)
    below.axes[0].set_ylabel("value", color=INK)
    handles, labels = below.axes[0].get_legend_handles_labels()
    order = [3, 4, 0, 1, 2]
    below.legend(
        [handles[i] for i in order], [labels[i] for i in order],
        loc="outside lower center", ncols=5, fontsize=9, frameon=False, labelcolor=INK,
    )  # fmt: skip
    image_file = io.BytesIO()
    figure.savefig(image_file, format="png")
    write_atomically(file, image_file.getvalue())
