"""A data set as `information` sees it: folds of whole episodes, actions in coordinates that suit densities.

Numpy, until all of it is put on the device at the end.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from leashrl.data.dataset import Dataset
from leashrl.types import Array, Box, pytree

FOLDS = 3
BLOCKS = 40
"""Data with fewer episodes are cut into about as many pieces."""
VALID, STATES = 1024, 8192
"""At most, of each fold: rows for early stopping; held-out rows, and so states an action is compared with."""
KEPT = 16 * VALID
"""About so many rows are kept from training in order to draw those from, unless an eighth of it is less."""
MARGIN = 1e-6
"""Actions as near as this to a bound, on the scale of [-1, 1], count as on it."""
ATOM, ATOMS = 0.005, 16
"""A value that as large a share of the rows has is an atom; at most the most frequent 16 of a dimension."""


@pytree
class Folds:
    """Row numbers of each fold and its linear channel, with a leading axis (folds, ...); and the data.

    Targets are D numbers a row: the action whitened by the linear channel's residuals, then each of its
    dimensions over its residual's standard deviation, D = 2 dim. Discrete actions are one-hot, D = dim.
    """

    obs: Array  # (n, obs_dim), standardised; the same for all folds
    action: Array  # (n, dim), see `coordinates`; the same for all folds
    train: Array  # (folds, rows), repeated beyond `count`
    count: Array  # (folds,)
    valid: Array  # (folds, rows)
    test: Array  # (folds, rows)
    linear: Array  # (folds, obs_dim, D): the targets' means by least squares
    targets: Array  # (folds, dim, D): from actions to targets
    scale: Array  # (folds, dim): gives the whitened action unit variance


AXES: Any = Folds(None, None, 0, 0, 0, 0, 0, 0, 0)  # pyright: ignore  (in_axes of vmap over the folds)


# --- Rows to folds -----------------------------------------------------------


def pieces(dataset: Dataset) -> list[np.ndarray]:
    """Row numbers of each episode; of about BLOCKS pieces of them where there are fewer episodes."""
    found = [np.arange(part.start, part.stop) for part in dataset.episodes()]
    if len(found) < BLOCKS:
        longest = -(-len(dataset) // BLOCKS)
        found = [piece for rows in found for piece in np.array_split(rows, -(-len(rows) // longest))]
    return found


def choose(blocks: list[np.ndarray], rows: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Blocks in random order, up to so many rows: the last may be cut."""
    blocks = [blocks[i] for i in rng.permutation(len(blocks))]
    before = np.cumsum([0, *map(len, blocks)])
    return [block[: rows - b] for block, b in zip(blocks, before, strict=False) if b < rows]


def split(
    dataset: Dataset, blocks: list[np.ndarray], rng: np.random.Generator
) -> tuple[Folds, list[np.ndarray]]:
    """Folds of whole blocks, and of each fold the block that each of its test rows is from."""
    used = np.concatenate(blocks)
    obs = standardise(dataset.obs[used].astype(np.float64)).clip(-10, 10)
    action = coordinates(dataset, used, rng)
    block = np.repeat(np.arange(len(blocks)), [len(rows) for rows in blocks])
    sizes, fold_of = np.zeros(FOLDS), np.zeros(len(blocks), int)
    for i in np.argsort([-len(rows) for rows in blocks], kind="stable"):  # the longest first, for equal folds
        fold_of[i] = sizes.argmin()
        sizes[fold_of[i]] += len(blocks[i])

    folds, share = [], min(1 / 8, KEPT / len(used))
    for k in range(FOLDS):
        others = rng.permutation(np.flatnonzero(fold_of != k))
        kept = np.isin(block, others[: max(1, int(share * len(others)))])
        tested = fold_of[block] == k
        train, valid, test = (np.flatnonzero(rows) for rows in (~tested & ~kept, kept, tested))
        rows = {name: rng.permutation(rows) for name, rows in (("valid", valid), ("test", test))}
        linear = linear_channel(obs[train], action[train], isinstance(dataset.action_space, Box))
        folds.append(rows | {"train": train, "count": np.array(len(train))} | linear)
    stacked = {}
    for name in folds[0]:
        values = [fold[name] for fold in folds]
        if name == "train":
            values = [np.resize(rows, max(map(len, values))) for rows in values]
        elif name in ("valid", "test"):
            size = min(VALID if name == "valid" else STATES, *map(len, values))
            values = [rows[:size] for rows in values]
        kind = jnp.int32 if values[0].dtype.kind == "i" else jnp.float32
        stacked[name] = jnp.asarray(np.stack(values), kind)
    data = jnp.asarray(obs, jnp.float32), jnp.asarray(action, jnp.float32)
    return Folds(*data, **stacked), [block[rows] for rows in np.asarray(stacked["test"])]


# --- Coordinates -------------------------------------------------------------


def standardise(x: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance of each column; a constant one becomes zero."""
    std = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(std > 0, std, 1)


def coordinates(dataset: Dataset, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(rows, dim) float64: one-hot; or atanh of the action on [-1, 1], atoms spread, all standardised.

    One-to-one in every dimension, which leaves I(S;A) as it was. Where a bound is infinite there is no atanh.
    """
    space, action = dataset.action_space, dataset.action[rows]
    if not isinstance(space, Box):
        return np.eye(space.dim)[action]
    found = []
    for column, low, high in zip(action.T.astype(np.float64), space.low, space.high, strict=True):
        if math.isfinite(low) and math.isfinite(high):
            column = np.arctanh(np.clip(2 * (column - low) / (high - low) - 1, MARGIN - 1, 1 - MARGIN))
        found.append(spread(column, rng))
    return standardise(np.stack(found, axis=1))


def spread(column: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each atom becomes a narrow Gaussian in a gap that is opened for it; the order of values is kept.

    No density can be fitted to atoms, such as actions clipped to a bound. The noise says nothing of the
    state, and the new value tells the old one, so that I(S;A) stays exactly what it was.

    >>> wide = spread(np.array([0.0] * 500 + [0.5, 1.0]), np.random.default_rng(0))
    >>> bool(wide[:500].std() > 0 and wide[:500].max() < wide[500] < wide[501])
    True
    """
    values, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
    atom = np.zeros(len(values), bool)
    atom[np.argsort(-counts, kind="stable")[:ATOMS]] = True
    atom &= counts >= max(2, ATOM * len(column))
    room = np.where(atom, column.std() or 1.0, 0.0)
    centre = values + np.cumsum(room) - room / 2
    return centre[inverse] + room[inverse] / 8 * rng.standard_normal(len(column)).clip(-4, 4)


def linear_channel(obs: np.ndarray, action: np.ndarray, continuous: bool) -> dict[str, np.ndarray]:
    """Least squares, and the coordinates in which its residuals are white: see `Folds`."""
    dim = action.shape[1]
    if not continuous:
        return {"linear": np.zeros((obs.shape[1], dim)), "targets": np.eye(dim), "scale": np.ones(dim)}
    ridge = 1e-6 * len(obs) * np.eye(obs.shape[1])
    weights = np.linalg.solve(obs.T @ obs + ridge, obs.T @ action)
    residuals = action - obs @ weights
    covariance = residuals.T @ residuals / len(obs) + 1e-8 * np.eye(dim)
    white = np.linalg.inv(np.linalg.cholesky(covariance)).T
    targets = np.concatenate([white, np.diag(covariance.diagonal() ** -0.5)], axis=1)
    return {"linear": weights @ targets, "targets": targets, "scale": 1 / (action @ white).std(axis=0)}
