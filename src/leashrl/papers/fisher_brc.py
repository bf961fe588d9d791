"""Fisher-BRC (Kostrikov et al. 2021, arXiv 2103.08050): figure 1, the continuous bandit of section 5.1.

The text names neither network nor optimiser, nor its coefficients. Here: two layers of 64 ReLU units, Adam
with 1e-3, each step on 256 of the 1000 actions and as many new ones from U(-1, 1) for the penalty; and
coefficients that span what both methods can do.

No network is needed to know what the right-hand panel tends to. With endless data the behaviour's scale is
1/8 and the offset has to meet t(a) = 9|a| + const where they are. The best of all functions solves
O - t = l^2 O'' there with l = sqrt(lambda) / 2, is even, and is flat from ±1/4 on, so that

    O(a) + log mu(a) = r(a) - 9 l sinh((|a| - 1/8) / l) / cosh(1 / 8l)   for |a| <= 1/4,

with slope -8 beyond. It has maxima apart from 0 only where cosh(1 / 8l) > 9, lambda < 0.0075, and they are
higher than the one at 0 only for lambda < 0.0017: larger ones draw the policy to the data's middle.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from leashrl.errors import BadInput
from leashrl.nn import mlp
from leashrl.ops import slope
from leashrl.optim import fit
from leashrl.report.plots import FAINT, INK, dress, need_matplotlib, save
from leashrl.types import Array

EDGE, ACTIONS = 0.25, 1000
ALPHAS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
LAMBDAS = (0.0, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
METHODS = {"BRAC": "α", "Fisher-BRC": "λ"}
BATCH, RATE = 256, 1e-3
GRID = np.linspace(-1.0, 1.0, 801)


@dataclasses.dataclass(frozen=True)
class Figure1:
    """Options of figure 1.

    Args:
      steps: of Adam, for each critic.
      seeds: data sets and networks.
      hidden: widths of the critics' hidden layers.
    """

    steps: int = 5000
    seeds: int = 5
    hidden: tuple[int, ...] = (64, 64)


# --- Values --------------------------------------------------------------------


def figure_1(out: Path, options: Figure1) -> tuple[dict[str, Any], list[Path]]:
    """What a policy would climb, by action and coefficient, and where it is highest on either side of 0."""
    figure_class = need_matplotlib()  # before the work
    if options.steps < 1 or options.seeds < 1 or not options.hidden:
        raise BadInput(f"figure 1 takes steps >= 1, seeds >= 1, a hidden layer or more, not {options}")
    keys = jax.random.split(jax.random.key(0), options.seeds)
    critics, log_mu = landscape(keys, LAMBDAS, options.hidden, options.steps)
    found = {
        "BRAC": {alpha: critics[:, 0] + alpha * log_mu for alpha in ALPHAS},
        "Fisher-BRC": {penalty: critics[:, 1 + i] + log_mu for i, penalty in enumerate(LAMBDAS)},
    }
    rows = []
    for method, by_coefficient in found.items():
        for coefficient, values in by_coefficient.items():
            row: dict[str, Any] = {"method": method, "coefficient": coefficient}
            for side, half in (("left", GRID <= 0), ("right", GRID >= 0)):
                at = GRID[half][values[:, half].argmax(axis=1)]
                row |= {
                    side: float(at.mean()),
                    f"{side} min": float(at.min()),
                    f"{side} max": float(at.max()),
                }
            points = {"at -0.25": -EDGE, "at 0": 0.0, "at 0.25": EDGE}
            heights = {name: values[:, np.abs(GRID - a).argmin()] for name, a in points.items()}
            rows.append(row | {name: float(height.mean()) for name, height in heights.items()})
    right = GRID[GRID >= 0]
    exact = {f"{penalty:g}": float(right[limit(penalty, right).argmax()]) for penalty in LAMBDAS if penalty}
    file = out / "fisher-brc-figure-1.png"
    draw(figure_class, found, file)
    return {"rows": rows, "exact": exact}, [file]


def landscape(
    keys: Array, penalties: tuple[float, ...], hidden: tuple[int, ...], steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """R, then O for each penalty, (seeds, 1 + penalties, grid); and log mu, (seeds, grid)."""
    network = mlp(1, 1, hidden)
    grid = jnp.asarray(GRID, jnp.float32)[:, None]

    def critic(key: Array, action: Array, target: Array, penalty: Array) -> Array:
        def loss(params: Any, key: Array) -> Array:
            key_batch, key_penalty = jax.random.split(key)
            rows = jax.random.randint(key_batch, (BATCH,), 0, ACTIONS)
            anywhere = jax.random.uniform(key_penalty, (BATCH, 1), minval=-1.0, maxval=1.0)
            squares = slope.squared_slope(lambda a: network.apply(params, a)[:, 0], anywhere)
            error = network.apply(params, action[rows]) - target[rows]
            return jnp.mean(error**2) + penalty * jnp.mean(squares)

        key_init, key_fit = jax.random.split(key)
        return network.apply(fit(loss, network.init(key_init), key_fit, steps, RATE), grid)[:, 0]

    def one(key: Array) -> tuple[Array, Array]:
        key_action, key_critic = jax.random.split(key)
        action = jax.random.uniform(key_action, (ACTIONS, 1), minval=-EDGE, maxval=EDGE)
        location, scale = laplace(action)
        reward = jnp.abs(action) - 0.125
        offset = reward - log_laplace(action, location, scale)
        # BRAC's critic is one without a density in it and without a penalty, whatever alpha is.
        targets = jnp.stack([reward, *[offset] * len(penalties)])
        critics = jax.vmap(critic, in_axes=(None, None, 0, 0))(
            key_critic, action, targets, jnp.array([0.0, *penalties])
        )
        return critics, log_laplace(grid[:, 0], location, scale)

    critics, log_mu = jax.jit(jax.vmap(one))(keys)
    return np.asarray(critics), np.asarray(log_mu)


def laplace(action: Array) -> tuple[Array, Array]:
    """Location and scale of the likeliest Laplace distribution: the median and the mean distance from it."""
    location = jnp.median(action)
    return location, jnp.mean(jnp.abs(action - location))


def log_laplace(action: Array, location: Array, scale: Array) -> Array:
    return -jnp.abs(action - location) / scale - jnp.log(2.0 * scale)


def limit(penalty: float, action: np.ndarray) -> np.ndarray:
    """The landscape of the best of all offsets, by the formula above."""
    length = math.sqrt(penalty) / 2.0
    inside = np.minimum(np.abs(action), EDGE)
    # sinh / cosh, each divided by e^(1 / 8l), which overflows for small penalties
    ratio = (np.exp((inside - EDGE) / length) - np.exp(-inside / length)) / (1.0 + math.exp(-EDGE / length))
    return inside - 0.125 - 9.0 * length * ratio - 8.0 * (np.abs(action) - inside)


# --- Picture -------------------------------------------------------------------


def draw(figure_class: Any, found: dict[str, dict[float, np.ndarray]], file: Path) -> None:
    """Mean landscapes and the range over seeds; dots where the mean is highest on either side."""
    from matplotlib import colormaps

    figure = figure_class(figsize=(9.6, 4.4), dpi=150, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (method, by_coefficient) in zip(panels, found.items(), strict=True):
        axes.axvspan(-EDGE, EDGE, color=INK, alpha=0.07, linewidth=0)
        for side in (-EDGE, EDGE):
            axes.axvline(side, color=FAINT, linewidth=1.0, linestyle="--", zorder=1)
        shades = colormaps["viridis"](np.linspace(0.0, 0.9, len(by_coefficient)))
        for shade, (coefficient, values) in zip(shades, by_coefficient.items(), strict=True):
            mean = values.mean(axis=0)
            axes.fill_between(
                GRID, values.min(axis=0), values.max(axis=0), color=shade, alpha=0.18, linewidth=0
            )
            axes.plot(GRID, mean, color=shade, linewidth=1.8, label=f"{METHODS[method]} = {coefficient:g}")
            if method == "Fisher-BRC" and coefficient > 0:
                label = "exact, λ > 0" if coefficient == LAMBDAS[-1] else None
                exact = limit(coefficient, GRID)
                axes.plot(GRID, exact, color=INK, linewidth=0.9, linestyle=":", zorder=4, label=label)
            for i in {int(np.where(side, mean, -np.inf).argmax()) for side in (GRID <= 0, GRID >= 0)}:
                if mean[i] == mean[max(i - 1, 0) : i + 2].max():  # not where a half begins on a slope
                    axes.plot(GRID[i], mean[i], "o", color=shade, markersize=6, clip_on=False, zorder=5)
        form = "R(a) + α log μ(a)" if method == "BRAC" else "O(a) + log μ(a)"
        axes.set_title(f"{method}: {form}", loc="left", fontsize=10, color=INK)
        axes.set(xlim=(-1, 1), ylim=(-2.5, 1.4))
        axes.set_xlabel("action a", color=INK)
        dress(axes)
        free = "lower center" if method == "BRAC" else "upper right"
        axes.legend(loc=free, fontsize=8.5, handlelength=1.4, frameon=False, labelcolor=INK)
    panels[0].set_ylabel("regularised value", color=INK)
    save(figure, file)
