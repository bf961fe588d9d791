"""How much the actions of a data set depend on its states: cross-validated bounds of I(S;A)."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np

from leashrl.algos.common import choice
from leashrl.data.dataset import Dataset
from leashrl.errors import BadInput
from leashrl.information.channel import BFLOAT16, channel, scores, train
from leashrl.information.folds import AXES, FOLDS, choose, pieces, split
from leashrl.nn import PRECISIONS, resolved
from leashrl.types import Box

FEWEST_ROWS = 400
RESAMPLES = 1000
LITTLE = 0.05
"""Nats for each action dimension, or share of H(A): an interval below is near zero for `meaning`."""

Report = Callable[[str, int, int], None]
"""(phase, done, total)"""


@dataclass(frozen=True)
class Bound:
    """A lower bound of I(S;A) in nats: its mean over folds, and a 95 % interval of that."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Information:
    """Lower bounds of I(S;A), and what they were estimated from."""

    misa: Bound
    dv: Bound
    f: Bound
    ba: Bound
    dimensions: tuple[Bound, ...]
    """`ba` of each action dimension by itself; empty for discrete actions."""
    entropy: float | None = None
    """H(A) in nats of discrete actions; None for continuous ones."""
    ceiling: float
    """Log of the number of held-out states, which no bound can exceed."""
    rows: int
    """Of the data set."""
    rows_used: int
    episodes: int
    """Of the data set."""
    blocks: int
    """Whole episodes, or pieces of long ones, that were dealt into folds."""
    folds: int
    steps: int
    """Updates of the policy."""
    seed: int
    precision: str
    """Of hidden layers' products in training."""

    def to_json(self) -> dict[str, Any]:
        row = asdict(self) | {"dimensions": [asdict(bound) for bound in self.dimensions]}
        if self.entropy is None:
            del row["entropy"]
        return row


def information(
    dataset: Dataset, *, rows: int = 100_000, steps: int | None = None, seed: int = 0,
    precision: str = "auto", report: Report | None = None,
) -> Information:  # fmt: skip
    """Lower bounds of the mutual information I(S;A) between states and actions, in nats.

    Three folds of whole episodes: what is fitted on two, with some of their episodes kept for early stopping,
    is measured on the third. The bounds are `misa`, `dv`, `f` (Ma et al. 2023, equations 10, 9 and 8,
    arXiv 2210.07484) and `ba` (Barber & Agakov 2003; their equation 7). p(a) is unknown:
    `information.channel.scores` says what stands for it. None can exceed `ceiling`, the log of the number of
    states.

    Args:
      rows: at most so many are used: whole episodes, drawn at random.
      steps: updates of the policy, in fifties; the energies take a third as many. By default three for each
        hundred rows used, and at least 3,000.
      seed: of folds, networks and the bootstrap.
      precision: of hidden layers' products in training: `float32`; `bfloat16`, summed in float32; `auto`:
        bfloat16 where this machine is faster with it and bounds were shown to be the same.
      report: is told how far it has come.

    Returns:
      For each bound its mean over folds and a 95 % interval from a bootstrap over folds and their episodes.
      It says what the bound would be on other episodes and folds; the information itself may lie above.
      `dimensions` holds the same of each action dimension by itself (`ba`, of one-dimensional mixtures).

    Raises:
      BadInput: too few rows, no steps, or an unknown precision.
    """
    choice("precision", precision, ("auto", *PRECISIONS))
    if steps is not None and steps < 1:
        raise BadInput(f"steps must be at least 1, not {steps}")
    if min(rows, len(dataset)) < FEWEST_ROWS:
        what = f"rows={rows} is too few" if rows < FEWEST_ROWS else f"{dataset.name} has {len(dataset)}"
        raise BadInput(f"an estimate of I(S;A) needs at least {FEWEST_ROWS} rows: {what}")
    tell = report or (lambda phase, done, total: None)
    rng = np.random.default_rng(seed)
    blocks = choose(pieces(dataset), rows, rng)
    used = sum(map(len, blocks))
    steps = steps or max(3000, 3 * used // 100)
    folds, owners = split(dataset, blocks, rng)
    space = dataset.action_space
    made = channel(dataset.obs.shape[1], space.dim, discrete=not isinstance(space, Box))
    precision = resolved(precision, BFLOAT16)
    policy, energies = train(made, folds, seed, steps, precision, tell)

    tables = []
    for i in range(FOLDS):
        tell("held-out folds", i, FOLDS)
        fold = jax.tree.map(lambda x, axis, i=i: x if axis is None else x[i], folds, AXES)
        fitted = jax.tree.map(lambda x, i=i: x[i], (policy, energies))
        found = scores(made, *fitted, fold, jax.random.key(seed))
        found = {name: np.asarray(value, np.float64) for name, value in found.items()}
        tables.append(block_sums(found, owners[i]))
    misa, dv, f, ba, *dimensions = intervals(tables, rng)
    entropy = None
    if not isinstance(space, Box):
        counts = np.bincount(dataset.action[np.concatenate(blocks)])
        share = counts[counts > 0] / counts.sum()
        entropy = float(-(share * np.log(share)).sum())
    return Information(
        misa=misa,
        dv=dv,
        f=f,
        ba=ba,
        dimensions=tuple(dimensions),
        entropy=entropy,
        ceiling=math.log(folds.test.shape[1]),
        rows=len(dataset),
        rows_used=used,
        episodes=len(dataset.episodes()),
        blocks=len(blocks),
        folds=FOLDS,
        steps=steps,
        seed=seed,
        precision=precision,
    )


def meaning(found: Information) -> str:
    """What the result of `information` means for MISA, in a sentence.

    >>> row, size = Bound(0.001, -0.002, 0.003), {"rows": 900, "rows_used": 900, "episodes": 9, "blocks": 9}
    >>> found = Information(misa=row, dv=row, f=row, ba=row, dimensions=(row,), ceiling=9.0, **size,
    ...                     folds=3, steps=3000, seed=0, precision="float32")
    >>> meaning(found)[:50]
    'The actions hardly depend on the states (0.001 nat'
    """
    estimate, low, high = found.misa.estimate, found.misa.low, found.misa.high
    dim = len(found.dimensions)
    if high < LITTLE * (dim if found.entropy is None else found.entropy):
        return (
            f"The actions hardly depend on the states ({estimate:.3f} nats), so that MISA's bound has next "
            "to nothing to hold on to: on D4RL's random data, which are like this, its authors report "
            "scores below CQL's and IQL's."
        )
    if low <= 0:
        return (
            f"These rows do not tell whether the actions depend on the states: {estimate:.3f} nats, 95 % "
            f"interval {low:.3f} to {high:.3f}. Use more of them."
        )
    if estimate > found.ceiling - 1:
        return (
            f"The actions are nearly a function of the states: at least {estimate:.1f} nats, close to the "
            f"most that can be shown ({found.ceiling:.1f}), and MISA's bound holds a policy to that."
        )
    if found.entropy is not None:
        share = f"{estimate / found.entropy:.0%} of the {found.entropy:.2f} nats of their entropy"
    else:
        noise = math.exp(-estimate / dim)
        share = f"as if each action dimension were {noise:.0%} noise, by standard deviation"
    return (
        f"The states tell {estimate:.2f} nats of the actions, {share}: so much is there for MISA's bound to "
        "hold on to."
    )


# --- Intervals ---------------------------------------------------------------


def block_sums(scores: dict[str, np.ndarray], owner: np.ndarray) -> np.ndarray:
    """(blocks, columns): sums over the rows of each block of all that `bounds` needs."""
    columns = [np.ones(len(owner)), scores["misa"]]
    for name in ("dv", "f"):
        columns += [scores[name][:, 0], np.exp(scores[name][:, 1])]
    table = np.column_stack([*columns, scores["ba"]])
    _, index = np.unique(owner, return_inverse=True)
    sums = np.zeros((index.max() + 1, table.shape[1]))
    np.add.at(sums, index, table)
    return sums


def bounds(sums: np.ndarray) -> np.ndarray:
    """Rows (..., columns) of `block_sums`, added up, to (..., 4 + dimensions): misa, dv, f, ba, dimensions.

    E[T] - log E[e^T] for `dv`, and for `f` E[T] - E[e^{T - 1}] at T + 1.
    """
    means = sums / sums[..., :1]
    _, misa, dv, dv_others, f, f_others = np.moveaxis(means[..., :6], -1, 0)
    three = np.stack([misa, dv - np.log(dv_others), f + 1 - f_others], axis=-1)
    return np.concatenate([three, means[..., 6:]], axis=-1)


def intervals(tables: list[np.ndarray], rng: np.random.Generator) -> list[Bound]:
    """Means over folds with their 95 % bootstrap interval: folds are drawn, and blocks within each."""
    estimate = np.mean([bounds(table.sum(axis=0)) for table in tables], axis=0)
    drawn = []  # of each fold (RESAMPLES, FOLDS, 4 + dimensions): a resample may draw it FOLDS times
    for table in tables:
        even = np.full(len(table), 1 / len(table))
        drawn.append(bounds(rng.multinomial(len(table), even, size=(RESAMPLES, FOLDS)) @ table))
    which = rng.integers(FOLDS, size=(RESAMPLES, FOLDS, 1, 1))
    picked = np.take_along_axis(np.stack(drawn, axis=-1), which, axis=-1)[..., 0]
    low, high = np.quantile(picked.mean(axis=1), (0.025, 0.975), axis=0)
    return [Bound(*row) for row in zip(estimate.tolist(), low.tolist(), high.tolist(), strict=True)]
