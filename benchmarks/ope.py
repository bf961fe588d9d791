"""Off-policy estimates against the truth: how far off they are, and how often their intervals hold it.

    python benchmarks/ope.py --out FILE.json [--sets 200] [--modelled 20]

Two worlds, each cut after 1, 20 and 200 steps: CartPole, logged by a noisy rule, and the pendulum, logged by
a tanh-Gaussian about a swing-up controller. Each set is a fresh log of 200 episodes with its propensities, of
which a policy that was cloned from less noisy logs is judged. The truth is the mean of its own 20,000
episodes. Estimates by weights alone are made of `--sets` logs, those with a model of the first `--modelled`.
Writes a table and a picture beside the JSON file.
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import leashrl
from leashrl.data import Dataset
from leashrl.data.cartpole import fallen
from leashrl.data.cartpole import step as push
from leashrl.data.pendulum import controller, observe
from leashrl.data.pendulum import step as turn
from leashrl.disk.files import versions, write_json
from leashrl.evaluate.student import share_interval
from leashrl.types import Box, Discrete

HORIZONS = (1, 20, 200)
EPISODES, TRUE = 200, 20_000
GAMMA = 0.99
WEIGHTS = ("is", "wis", "pdis", "wpdis")
MODELLED = ("fqe", "dr", "wdr")
MODEL = {"steps": 1500, "hidden": (64, 64)}

# --- The worlds --------------------------------------------------------------


class CartPole:
    """Pushes towards the side that the pole leans to, with some probability."""

    name, space = "cartpole", Discrete(2)

    def begin(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-0.05, 0.05, (n, 4))

    def seen(self, state: np.ndarray) -> np.ndarray:
        return state.astype(np.float32)

    def behave(self, state: np.ndarray, noise: float, rng: np.random.Generator) -> tuple:
        leaning = state[:, 2] > 0
        follow = rng.random(len(state)) > noise
        return np.where(follow, leaning, ~leaning).astype(np.int32), np.where(follow, 1 - noise, noise)

    def move(self, state: np.ndarray, action: np.ndarray) -> tuple:
        after = push(state, action)
        return after, np.ones(len(state)), fallen(after)


class Pendulum:
    """2 tanh(u) with u normal about what a swing-up controller wants."""

    name, space = "pendulum", Box((-2.0,), (2.0,))

    def begin(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return np.stack([rng.uniform(-np.pi, np.pi, n), rng.uniform(-1, 1, n)], 1)

    def seen(self, state: np.ndarray) -> np.ndarray:
        return observe(*state.T)

    def behave(self, state: np.ndarray, noise: float, rng: np.random.Generator) -> tuple:
        mean = np.arctanh(np.clip(controller(state[:, 0], state[:, 1], kp=3.0, kd=0.3) / 2, -0.8, 0.8))
        z = rng.standard_normal(len(state))
        u = mean + noise * z
        density = np.exp(-(z**2) / 2) / (noise * math.sqrt(2 * math.pi)) / (2 * (1 - np.tanh(u) ** 2))
        return (2 * np.tanh(u)).astype(np.float32), density

    def move(self, state: np.ndarray, action: np.ndarray) -> tuple:
        theta, speed, reward = turn(state[:, 0], state[:, 1], action.reshape(-1).astype(float))
        return np.stack([theta, speed], 1), reward, np.zeros(len(state), bool)


NOISE = {"cartpole": (0.3, 0.2), "pendulum": (0.6, 0.45)}
"""Of the log, and of the logs that the judged policy was cloned from."""


def episodes(world, horizon: int, n: int, act, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Rows of n episodes, one behind the other; `act` gives actions and propensities."""
    state, alive, rows = world.begin(n, rng), np.ones(n, bool), []
    for t in range(horizon):
        action, density = act(state, t)
        after, reward, ended = world.move(state, action)
        rows.append((world.seen(state), action, reward, ended, density, alive, np.full(n, t == horizon - 1)))
        state, alive = np.where(alive[:, None], after, state), alive & ~ended
    obs, action, reward, ended, density, there, last = (np.stack(x, 1) for x in zip(*rows, strict=True))
    kept = {"obs": obs, "action": action, "reward": reward, "terminal": ended, "propensity": density}
    return {name: x[there] for name, x in kept.items()} | {"timeout": (last & ~ended)[there]}


def logged(world, horizon: int, n: int, noise: float, rng: np.random.Generator) -> Dataset:
    rows = episodes(world, horizon, n, lambda state, t: world.behave(state, noise, rng), rng)
    named: dict[str, Any] = dict(rows)
    return Dataset.from_arrays(**named, action_space=world.space, name=world.name)


def truth(world, horizon: int, policy, rng: np.random.Generator) -> float:
    def act(state: np.ndarray, t: int) -> tuple:
        action = policy(world.seen(state), mode="sample", seed=int(rng.integers(2**31)))
        return action.reshape(len(state), *action.shape[2:]), np.ones(len(state))

    rows = episodes(world, horizon, TRUE, act, rng)
    start = np.flatnonzero(np.append(True, (rows["terminal"] | rows["timeout"])[:-1]))
    step = np.arange(len(rows["reward"])) - np.repeat(start, np.diff(np.append(start, len(rows["reward"]))))
    return float(np.sum(GAMMA**step * rows["reward"]) / len(start))


# --- The table ---------------------------------------------------------------


def judged(world, horizon: int, run: Path, sets: int, modelled: int) -> dict:
    """By method: estimates, intervals and effective episodes of each log; and the truth."""
    known = truth(world, horizon, leashrl.load_policy(run), np.random.default_rng(1))
    found: dict[str, list] = {}
    log = 0.0
    for i in range(sets):
        data = logged(world, horizon, EPISODES, NOISE[world.name][0], np.random.default_rng([horizon, i]))
        methods = WEIGHTS + (MODELLED if i < modelled else ())
        result = leashrl.off_policy(
            [run], data, methods=methods, mode="sample", gamma=GAMMA, seed=i, options=MODEL
        )
        log += result.data.value / sets
        for row in result.rows:
            found.setdefault(row.method, []).append((row.value, row.low, row.high, row.ess))
    return {"truth": known, "logged": log, "methods": found}


def summary(truth: float, rows: Sequence[Sequence[float | None]]) -> dict:
    """Bias, root mean square error, and of the intervals that were given how many hold the truth."""
    values = np.array([np.nan if row[0] is None else row[0] for row in rows], float)
    given = [(low, high) for _, low, high, _ in rows if low is not None and high is not None]
    held = sum(low <= truth <= high for low, high in given)
    ess = [row[3] for row in rows if row[3] is not None]
    none = not np.isfinite(values).any()
    return {
        "sets": len(rows),
        "bias": None if none else float(np.nanmean(values) - truth),
        "rmse": None if none else float(np.sqrt(np.nanmean((values - truth) ** 2))),
        "given": len(given),
        "held": held,
        "held_95": share_interval(held, len(given)) if given else None,
        "width": float(np.mean([high - low for low, high in given])) if given else None,
        "ess": float(np.mean(ess)) if ess else None,
    }


def page(cells: dict) -> list[str]:
    titles = [
        "world",
        "steps",
        "truth",
        "log",
        "method",
        "bias",
        "RMSE",
        "intervals given",
        "hold the truth",
        "width",
        "ESS",
    ]
    lines = [f"| {' | '.join(titles)} |", "|" + " --- |" * len(titles)]
    digits = lambda x: "–" if x is None else f"{x:.3g}"
    for name, cell in cells.items():
        world, horizon = name.split("-")
        for method, rows in cell["methods"].items():
            one = summary(cell["truth"], rows)
            share = "–"
            if one["given"]:
                low, high = one["held_95"]
                share = f"{one['held'] / one['given']:.0%} ({low:.0%} to {high:.0%})"
            row = [
                world,
                horizon,
                digits(cell["truth"]),
                digits(cell["logged"]),
                f"`{method}`",
                digits(one["bias"]),
            ]
            row += [
                digits(one["rmse"]),
                f"{one['given']} of {one['sets']}",
                share,
                digits(one["width"]),
                digits(one["ess"]),
            ]
            lines.append(f"| {' | '.join(row)} |")
    return lines


def picture(cells: dict, file: Path) -> None:
    """Root mean square errors as shares of the true value."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for axis, world in zip(axes, ("cartpole", "pendulum"), strict=True):
        for method in (*WEIGHTS, *MODELLED):
            errors = []
            for horizon in HORIZONS:
                cell = cells.get(f"{world}-{horizon}", {"methods": {}})
                one = (
                    summary(cell["truth"], cell["methods"][method])
                    if method in cell["methods"]
                    else {"rmse": None}
                )
                errors.append(np.nan if one["rmse"] is None else one["rmse"] / abs(cell["truth"]))
            axis.plot(HORIZONS, errors, marker="o", label=method)
        axis.set(xscale="log", yscale="log", title=world, xlabel="steps per episode", xticks=HORIZONS)
        axis.set_xticklabels(HORIZONS)
    axes[0].set_ylabel("root mean square error / |truth|")
    axes[1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--modelled", type=int, default=20)
    args = parser.parse_args(argv)
    cells: dict = {}
    for world in (CartPole(), Pendulum()):
        rng, options = np.random.default_rng(0), {"hidden": (32, 32)}
        data = logged(world, max(HORIZONS), 100, NOISE[world.name][1], rng)
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "bc"
            leashrl.train("bc", data, task="none", seeds=1, steps=2000, options=options, out=run)
            for horizon in HORIZONS:
                cells[f"{world.name}-{horizon}"] = judged(world, horizon, run, args.sets, args.modelled)
                settings = {"episodes": EPISODES, "gamma": GAMMA, "model": MODEL, "noise": NOISE}
                write_json(args.out, {"cells": cells, "settings": settings, "versions": versions()})
                command = (
                    f"python benchmarks/ope.py --out FILE.json --sets {args.sets} --modelled {args.modelled}"
                )
                args.out.with_suffix(".md").write_text("\n".join([f"`{command}`", "", *page(cells), ""]))
    picture(cells, args.out.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
