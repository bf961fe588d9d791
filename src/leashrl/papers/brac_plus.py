"""BRAC+ (Zhang et al. 2020, ICLR 2021 submission; arXiv 2110.00894): the toy figures of its appendices.

Figure 4 (appendix A) is regression with a penalty on the slope where there are no data. Figure 5 (appendix B)
is the distance between a narrow policy and the behaviour, against where the policy is.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from leashrl.dist import Mixture, Normal
from leashrl.errors import BadInput
from leashrl.nn import mlp
from leashrl.ops import divergence, slope
from leashrl.optim import fit
from leashrl.report.plots import COLOURS, FAINT, INK, dress, legend_below, need_matplotlib, save
from leashrl.types import Array

# --- Figure 4: values ----------------------------------------------------------

DATA, BEYOND, END = 0.8, 1.0, 2.0  # data end at ±0.8; the fits are judged beyond ±1
POINTS, NOISE, RATE, HIDDEN = 100, 0.5, 0.01, (64, 64)
# The text's e ~ N(0, 0.5) does not say whether 0.5 is the deviation or the variance: here the deviation.
FITS = ("without", "with")


@dataclasses.dataclass(frozen=True)
class Figure4:
    """Options of figure 4.

    Args:
      steps: of Adam, each on all points. The text has no number.
      seeds: data sets and networks that the numbers are means of.
      penalty: lambda, the weight of the squared slope.
    """

    steps: int = 2000
    seeds: int = 5
    penalty: float = 0.1


def figure_4(out: Path, options: Figure4) -> tuple[dict[str, Any], list[Path]]:
    """Fits of 5 sin(pi x) from |x| < 0.8, with and without a penalty on the slope at 0.8 < |x| < 2."""
    figure_class = need_matplotlib()  # before the work
    if options.steps < 1 or options.seeds < 1 or options.penalty < 0:
        raise BadInput(f"figure 4 takes steps >= 1, seeds >= 1, penalty >= 0, not {options}")
    grid = np.linspace(-END, END, 401)
    keys = jax.random.split(jax.random.key(0), options.seeds)
    x, y, predicted, slopes = map(np.asarray, regress(keys, options.penalty, grid, options.steps))
    inside, near, far = np.abs(grid) <= DATA, in_between(grid, DATA, BEYOND), in_between(grid, BEYOND, END)
    error = predicted - truth(grid)
    rows = []
    for which, name in enumerate(FITS):
        value = predicted[:, which]
        ends = [value[:, nearest(grid, [-at, at])] for at in (BEYOND, END)]
        rows.append(
            {"penalty": name}
            | {"data RMSE": rmse(error[:, which, inside]), "0.8-1 RMSE": rmse(error[:, which, near])}
            | {"1-2 slope": float(np.abs(slopes[:, which, far]).mean())}
            | {"1-2 lowest": float(value[:, far].min(axis=1).mean())}
            | {"1-2 highest": float(value[:, far].max(axis=1).mean())}
            | {"1-2 change": float(np.abs(ends[1] - ends[0]).mean())}
        )
    file = out / "brac-plus-figure-4.png"
    draw_4(figure_class, grid, x[0], y[0], predicted, file)
    return {"rows": rows}, [file]


def regress(keys: Array, penalty: float, grid: np.ndarray, steps: int) -> tuple[Array, Array, Array, Array]:
    """The data's x and y (seeds, 100); values and slopes (seeds, 2, grid) without and with the penalty."""
    network = mlp(1, 1, HIDDEN)
    at = jnp.asarray(grid, jnp.float32)[:, None]

    def one(key: Array, penalty: Array, x: Array, y: Array, unseen: Array) -> tuple[Array, Array]:
        def loss(params: Any, _: Array) -> Array:  # equation 11
            squares = slope.squared_slope(lambda x: network.apply(params, x)[:, 0], unseen)
            return jnp.mean((network.apply(params, x) - y) ** 2) + penalty * jnp.mean(squares)

        params = fit(loss, network.init(key), key, steps, RATE)
        value = lambda x: network.apply(params, x)[..., 0]
        return value(at), jax.vmap(jax.grad(lambda x: value(x[None])))(at[:, 0])

    def both(key: Array) -> tuple[Array, Array, Array, Array]:
        key_x, key_noise, key_side, key_unseen, key_network = jax.random.split(key, 5)
        x = jax.random.uniform(key_x, (POINTS, 1), minval=-DATA, maxval=DATA)
        y = truth(x) + NOISE * jax.random.normal(key_noise, (POINTS, 1))
        side = jnp.where(jax.random.bernoulli(key_side, shape=(POINTS, 1)), 1.0, -1.0)
        unseen = side * jax.random.uniform(key_unseen, (POINTS, 1), minval=DATA, maxval=END)
        penalties = jnp.array([0.0, penalty])
        fits = jax.vmap(one, in_axes=(None, 0, None, None, None))(key_network, penalties, x, y, unseen)
        return x[:, 0], y[:, 0], *fits

    return jax.jit(jax.vmap(both))(keys)


def truth(x: Any) -> Any:
    return 5.0 * (np if isinstance(x, np.ndarray) else jnp).sin(math.pi * x)


def in_between(x: np.ndarray, low: float, high: float) -> np.ndarray:
    return (np.abs(x) > low) & (np.abs(x) < high)


def nearest(grid: np.ndarray, points: list[float]) -> list[int]:
    """Indices of the grid's points nearest to some points."""
    return [int(np.abs(grid - point).argmin()) for point in points]


def rmse(error: np.ndarray) -> float:
    """Of each seed, (seeds, points); their mean."""
    return float(np.sqrt((error**2).mean(axis=1)).mean())


# --- Figure 5: values ----------------------------------------------------------

POLICY_STD, REACH = 0.2, 10.0  # the policy N(x, 0.2), |x| <= 10
BEHAVIOURS = {  # weight, mean, standard deviation
    "one mode": [(1.0, 0.0, 1.0)],
    "two modes": [(0.3, -1.5, 0.3), (0.7, 1.0, 0.5)],
}
DIVERGENCES = {"forward": "KL(π‖b)", "backward": "KL(b‖π)", "mmd": "MMD²"}
OTHER_SIGMAS = (0.1, 1.0)
"""Bandwidths that rows are given for beside the one drawn, since the MMD's minima depend on it."""
STEP = 0.01
GRID = STEP * np.arange(-1500, 1501)
"""Actions of the quadrature: ten standard deviations beyond every density. The rectangle rule's error is
far below 1e-6 for such densities, and of the order of `STEP`^2 for the kernel's kink."""
WITHIN = np.abs(GRID) < REACH + STEP / 2
X = GRID[WITHIN]


@dataclasses.dataclass(frozen=True)
class Figure5:
    """Options of figure 5.

    Args:
      sigma: of the MMD's Laplacian kernel exp(-|x - y| / (2 sigma)). The text has none; 20 is the default
        of `leashrl.algos.brac_plus`.
    """

    sigma: float = 20.0


def figure_5(out: Path, options: Figure5) -> tuple[dict[str, Any], list[Path]]:
    """Divergences of N(x, 0.2) from a behaviour of one mode and of two, by x, and where they are least."""
    figure_class = need_matplotlib()
    if options.sigma < 5 * STEP:
        raise BadInput(f"figure 5 takes sigma >= {5 * STEP:g}, which its grid can resolve, not {options}")
    rows, curves = [], {}
    for name, modes in BEHAVIOURS.items():
        density = np.exp(log_density(modes, X))
        found = kls(modes)
        for sigma in sorted({*OTHER_SIGMAS, options.sigma}):
            found[f"mmd {sigma:g}"] = squared_mmd(modes, sigma)
        for key, values in found.items():
            kind, _, sigma = key.partition(" ")
            for i in minima(values):
                rows.append(
                    {"behaviour": name, "divergence": DIVERGENCES[kind] + (f", σ = {sigma}" if sigma else "")}
                    | {"minimum at": round(float(X[i]), 2), "value": float(values[i])}
                    | {
                        "lowest": bool(i == values.argmin()),
                        "density / peak": float(density[i] / density.max()),
                    }
                )
        curves[name] = {
            "density": density,
            "forward": found["forward"],
            "backward": found["backward"],
            "mmd": found[f"mmd {options.sigma:g}"],
            "bound": bound(modes),
        }
    # For one mode the bound is the closed form, so that the gap is the arithmetic's error.
    gaps = {name: found["bound"] - found["forward"] for name, found in curves.items()}
    file = out / "brac-plus-figure-5.png"
    draw_5(figure_class, curves, options.sigma, file)
    spans = {name: [float(gap.min()), float(gap.max())] for name, gap in gaps.items()}
    return {"rows": rows, "bound less KL": spans}, [file]


def log_density(modes: list[tuple[float, float, float]], u: np.ndarray) -> np.ndarray:
    """log sum_i w_i N(u; mean_i, std_i), which stays finite where the density is 0 in float64."""
    each = [math.log(w / std) - 0.5 * ((u - mean) / std) ** 2 for w, mean, std in modes]
    return np.logaddexp.reduce(each, axis=0) - 0.5 * math.log(2 * math.pi)


def kls(modes: list[tuple[float, float, float]]) -> dict[str, np.ndarray]:
    """KL(pi || b) and KL(b || pi) at every `X`, by quadrature."""
    log_b = log_density(modes, GRID)
    b = np.exp(log_b) * STEP
    forward, backward = [], []
    for x in X:
        log_pi = log_density([(1.0, x, POLICY_STD)], GRID)
        forward.append(np.sum(np.exp(log_pi) * STEP * (log_pi - log_b)))
        backward.append(np.sum(b * (log_b - log_pi)))
    return {"forward": np.array(forward), "backward": np.array(backward)}


def squared_mmd(modes: list[tuple[float, float, float]], sigma: float) -> np.ndarray:
    """Squared MMD of N(x, 0.2) and the behaviour at every `X`: `divergence.mmd` of endless samples."""
    gaps = STEP * np.arange(1 - len(GRID), len(GRID))
    kernel = np.exp(-np.abs(gaps) / (2.0 * sigma))
    potential = lambda weights: np.convolve(kernel, weights, mode="valid")  # E k(., y)
    b = np.exp(log_density(modes, GRID)) * STEP
    pi = np.exp(log_density([(1.0, 0.0, POLICY_STD)], GRID)) * STEP  # at x = 0; the kernel knows gaps alone
    cross = np.convolve(potential(b), pi, mode="same")[WITHIN]
    return pi @ potential(pi) - 2.0 * cross + b @ potential(b)


def bound(modes: list[tuple[float, float, float]]) -> np.ndarray:
    """`kl_to_mixture` at every `X`; the closed form where there is one mode."""
    weight, mean, std = (jnp.asarray(column, jnp.float32) for column in zip(*modes, strict=True))
    at = jnp.asarray(X, jnp.float32)[:, None]
    pi = Normal(at, jnp.full_like(at, math.log(POLICY_STD)))
    repeat = lambda values: jnp.broadcast_to(values, (len(X), len(modes)))
    b = Mixture(repeat(jnp.log(weight)), repeat(mean)[..., None], repeat(jnp.log(std))[..., None])
    return np.asarray(divergence.kl_to_mixture(pi, b), float)


def minima(values: np.ndarray) -> list[int]:
    """Indices of the local minima inside; a plateau's first. Steps of rounding error do not count."""
    steps = np.diff(values)
    moves = np.flatnonzero(np.abs(steps) > 1e-9 * np.ptp(values))
    turns = (steps[moves[:-1]] < 0) & (steps[moves[1:]] > 0)
    return [int(i) + 1 for i in moves[:-1][turns]]


# --- Pictures ------------------------------------------------------------------


def draw_4(
    figure_class: Any, grid: np.ndarray, x: np.ndarray, y: np.ndarray, predicted: np.ndarray, file: Path
) -> None:
    """The first seed's data and fits in bold, the other seeds' fits faint."""
    figure = figure_class(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for edge, colour in ((DATA, "#C1272D"), (BEYOND, "#2B4C9B")):  # the text's red and blue lines
        for side in (-edge, edge):
            axes.axvline(side, color=colour, linewidth=1.0, linestyle="--", alpha=0.8, zorder=1)
            top = axes.get_xaxis_transform()
            axes.text(
                side,
                1.01,
                f"{side:g}".replace("-", "−"),
                color=colour,
                fontsize=8,
                ha="center",
                transform=top,
            )
    axes.plot(grid, truth(grid), color=FAINT, linewidth=1.4, label="5 sin(πx)", zorder=2)
    axes.plot(x, y, ".", color=INK, alpha=0.45, markersize=4.5, markeredgewidth=0, label="data", zorder=2)
    for i, (name, colour) in enumerate(zip(FITS, (COLOURS[1], COLOURS[0]), strict=True)):
        axes.plot(grid, predicted[1:, i].T, color=colour, linewidth=0.9, alpha=0.35, zorder=3)
        axes.plot(grid, predicted[0, i], color=colour, linewidth=2.2, label=f"{name} penalty", zorder=4)
    axes.set_xlim(-END, END)
    axes.set_xlabel("x", color=INK)
    axes.set_ylabel("prediction", color=INK)
    dress(axes)
    legend_below(figure, axes)
    save(figure, file)


def draw_5(figure_class: Any, curves: dict[str, dict[str, np.ndarray]], sigma: float, file: Path) -> None:
    """Above, each divergence on its own scale about the behaviour, minima marked; below, the whole range."""
    figure = figure_class(figsize=(9.6, 6.6), dpi=150, layout="constrained")
    grid = figure.subplots(2, 2, height_ratios=(1.5, 1.0))
    styles = {  # the text's colours; for one mode both KLs have one form, so that the wider lies below
        "backward": (DIVERGENCES["backward"], {"color": COLOURS[0], "linewidth": 2.8}),
        "mmd": (f"{DIVERGENCES['mmd']}, σ = {sigma:g}", {"color": COLOURS[2], "linewidth": 1.8}),
        "forward": (DIVERGENCES["forward"], {"color": COLOURS[1], "linewidth": 1.8}),
        "bound": ("its bound kl_to_mixture", {"color": INK, "linewidth": 1.0, "linestyle": (0, (4, 3))}),
    }
    near = np.abs(X) <= 3.0
    for (upper, lower), (name, found) in zip(grid.T, curves.items(), strict=True):
        density = found["density"] / found["density"].max()
        upper.fill_between(X[near], density[near], color=INK, alpha=0.08, linewidth=0)
        upper.plot(X[near], density[near], color=INK, linewidth=1.4, label="behaviour b")
        for key, (label, style) in styles.items():
            if key == "bound" and len(BEHAVIOURS[name]) == 1:
                continue  # the KL itself
            shown = found["forward" if key == "bound" else key][near]
            scaled = (found[key] - shown.min()) / np.ptp(shown)
            upper.plot(X[near], scaled[near], label=label, **style)
            lower.plot(X, found[key], **style)
            for i in minima(found[key]) if key != "bound" else []:
                upper.plot([X[i]] * 2, [scaled[i], density[i]], ":", color=style["color"], linewidth=1.4)
                upper.plot(X[i], scaled[i], "o", color=style["color"], markersize=6, clip_on=False, zorder=4)
        upper.set_title(f"behaviour of {name}", loc="left", fontsize=10, color=INK)
        upper.set(xlim=(-3, 3), ylim=(-0.03, 1.06))
        lower.set(xlim=(-REACH, REACH), xticks=np.arange(-10, 11, 5), yscale="log")
        lower.set_xlabel("x, the mean of π = N(x, 0.2)", color=INK)
        dress(upper)
        dress(lower)
    grid[0, 0].set_ylabel("each on its own scale", color=INK)
    grid[1, 0].set_ylabel("divergence", color=INK)
    legend_below(figure, grid[0, 1])
    save(figure, file)
