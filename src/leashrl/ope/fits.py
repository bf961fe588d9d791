"""Critics fitted to every policy side by side, and what they say."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from leashrl.core import HP, hyper
from leashrl.data import Dataset
from leashrl.data.preprocessing import scales
from leashrl.ope import estimator, reliability
from leashrl.ope.occupancy import Occupancy, occupancies
from leashrl.ope.occupancy import Rows as Logged
from leashrl.ope.results import FqeRow
from leashrl.training import loop
from leashrl.types import Array, Box, Spec

PIECE = 8192
"""Rows that a critic looks at together."""
LATE = 4
"""Tenths of the training, the last ones, over which estimates are averaged: a critic never quite rests."""
CHECKED = 10_000
"""Rows on each side, at most, on which Bellman errors are measured."""
COVERED = 4000
"""Rows, at most, that are weighed for the policies' occupancies."""
Report = Callable[[int, int], None]
"""Told how many updates are done, and how many there are."""

# --- What is asked of a policy -----------------------------------------------


class Asked(NamedTuple):
    """The rows in whose states the policies are asked, once each, and what each is asked for."""

    rows: np.ndarray  # row numbers of the data set, sorted
    held: np.ndarray  # of these, some held-out ones, for errors and distances
    train: np.ndarray  # and some that are trained on

    @staticmethod
    def of(split: estimator.Split, n: int, seed: int) -> "Asked":
        rng = np.random.default_rng(seed)
        some = lambda rows: np.sort(rng.choice(rows, min(CHECKED, len(rows)), replace=False))
        held, train = some(split.held), some(split.train)
        wanted = [after(split.train, n), after(held, n), held, split.train_starts, split.held_starts]
        return Asked(np.unique(np.concatenate(wanted)), held, train)

    def at(self, actions: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(policies, len(rows), ...): of all actions, those in some of the rows."""
        return actions[:, np.searchsorted(self.rows, rows)]


def after(rows: np.ndarray, n: int) -> np.ndarray:
    """The rows behind; behind a terminal last one is nothing, and nothing is asked of it."""
    return np.minimum(rows + 1, n - 1)


def to_unit(dataset: Dataset, action: np.ndarray) -> np.ndarray:
    """Actions as critics see them: in [-1, 1], or integers."""
    if not isinstance(dataset.action_space, Box):
        return action
    return np.clip(dataset.action_space.to_unit(action), -1, 1).astype(np.float32)


# --- The fits ----------------------------------------------------------------


class Critics(NamedTuple):
    """Trained critics of policies times seeds, to be asked about rows."""

    ask: Callable[[Any, np.ndarray, np.ndarray], np.ndarray]
    state: Any
    obs: np.ndarray  # (n, obs_dim) of the data set, as they see them
    shape: tuple[int, int]  # policies, seeds
    fallen: np.ndarray  # (policies times seeds, 1), those that diverged
    centre: float
    scale: float  # standard deviation of the logged values

    def q(self, rows: np.ndarray, action: np.ndarray) -> np.ndarray:
        """(policies, seeds, len(rows)) in the rewards' units; NaN where a critic diverged.

        Args:
          action: (policies, len(rows), ...), in [-1, 1] or integers.
        """
        return self.scaled(self.ask(self.state, self.obs[rows], action))

    def scaled(self, q: np.ndarray) -> np.ndarray:
        return self.centre + self.scale * np.where(self.fallen, np.nan, q).reshape(*self.shape, -1)


class Fits(NamedTuple):
    """What the critics say, in the rewards' units; NaN where a critic diverged."""

    values: np.ndarray  # (policies, seeds, held-out episodes), Q(s_0, pi(s_0)), mean of the LATE tenths
    train_values: np.ndarray  # (policies, seeds, other episodes)
    path: np.ndarray  # (tenths of the training, policies): the values' means as training went on
    error: np.ndarray  # (policies, seeds), Bellman error of held-out rows, root mean square
    train_error: np.ndarray  # (policies, seeds), of rows that were trained on
    held_q: np.ndarray  # (policies, seeds, held-out rows), Q(s', pi(s'))
    scale: float  # standard deviation of the logged values


def train(
    dataset: Dataset,
    split: estimator.Split,
    asked: Asked,
    actions: np.ndarray,
    config: estimator.Config,
    seeds: Sequence[int],
    logged: np.ndarray,
    report: Report | None = None,
) -> tuple[Critics, np.ndarray]:
    """A critic for every policy and seed, trained side by side.

    A seed has the same first weights, the same resampled episodes and the same batches for all policies, so
    that what differs between their values is the policies' own.

    Args:
      actions: (policies, len(asked.rows), ...), in [-1, 1] or integers.
      logged: (n,) values of the logged behaviour, as from `logged_values`.

    Returns:
      The critics, and (tenths, policies times seeds, held-out episodes) Q(s_0, pi(s_0)) as training went on,
      as critics scale it.
    """
    n, policies = len(dataset), len(actions)
    centre, scale = float(logged[split.train].mean()), float(logged[split.train].std()) or 1.0
    columns = dataset.obs[split.train]
    mean, std = columns.mean(0, np.float64), scales(columns).astype(np.float64)
    obs = ((dataset.obs - mean) / std).astype(np.float32)
    unit = to_unit(dataset, dataset.action)
    reward = estimator.scaled_rewards(dataset.reward, dataset.terminal, config.gamma, centre, scale)
    behind = after(split.train, n)
    drawn, counts = estimator.resampled(np.searchsorted(split.train_starts, split.train, "right"), seeds)
    data = estimator.Rows(
        obs=jnp.asarray(obs[split.train]),
        action=jnp.asarray(unit[split.train]),
        reward=jnp.asarray(reward[split.train]),
        terminal=jnp.asarray(dataset.terminal[split.train]),
        next_obs=jnp.asarray(obs[behind]),
        next_action=jnp.asarray(asked.at(actions, behind)),
        drawn=jnp.asarray(drawn),
    )

    which = np.repeat(np.arange(policies, dtype=np.int32), len(seeds))
    limits = [(x - centre) / scale for x in estimator.bounds(dataset, config.gamma)]
    hp = members(config, limits, which, counts)
    keys = jax.vmap(jax.random.key)(jnp.asarray(np.tile(np.asarray(seeds, np.uint32), policies)))
    algorithm = estimator.build(config, dataset.spec)
    ask = functools.partial(_ask, _asking(config, dataset.spec), which)

    path, snapshot = [], None
    for snapshot in loop.run(algorithm, data, keys, hp, log_every=max(1, config.steps // 10)):
        if report:
            report(snapshot.step, config.steps)
        if snapshot.logged is not None:
            path.append(ask(snapshot.state, obs[split.held_starts], asked.at(actions, split.held_starts)))
    assert snapshot is not None
    fallen = np.isin(np.arange(len(which)), list(snapshot.fallen))[:, None]
    critics = Critics(ask, snapshot.state, obs, (policies, len(seeds)), fallen, centre, scale)
    return critics, np.array(path)


def fit(
    dataset: Dataset,
    split: estimator.Split,
    asked: Asked,
    actions: np.ndarray,
    config: estimator.Config,
    seeds: Sequence[int],
    logged: np.ndarray,
    report: Report | None = None,
) -> Fits:
    """Train critics, with arguments as in `train`, and ask them."""
    n, policies, unit = len(dataset), len(actions), to_unit(dataset, dataset.action)
    critics, path = train(dataset, split, asked, actions, config, seeds, logged, report)
    scaled, table = critics.scaled, critics.q

    def errors(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(policies, seeds) root mean square of r + gamma Q(s', pi(s')) - Q(s, a), and that Q(s', pi(s'))."""
        next_q = table(after(rows, n), asked.at(actions, after(rows, n)))
        q = table(rows, np.broadcast_to(unit[rows], (policies, *unit[rows].shape)))
        discount = np.where(dataset.terminal[rows], 0.0, config.gamma)
        residual = dataset.reward[rows] + discount * next_q - q
        return np.sqrt(np.mean(residual**2, axis=-1)), next_q[..., ~dataset.terminal[rows]]

    error, held_q = errors(asked.held)
    return Fits(
        values=scaled(np.mean(path[-LATE:], axis=0)),
        train_values=table(split.train_starts, asked.at(actions, split.train_starts)),
        path=np.array([scaled(q).mean((1, 2)) for q in path]),
        error=error,
        train_error=errors(asked.train)[0],
        held_q=held_q,
        scale=critics.scale,
    )


def members(config: estimator.Config, limits: Sequence[float], which: np.ndarray, counts: np.ndarray) -> HP:
    """Hyper-parameters of policies times seeds, policy by policy.

    Args:
      limits: the least and the highest value, as critics see them.
      which: (members,) each one's policy.
      counts: (seeds,) rows that each seed drew.
    """
    one = hyper(config) | {"low": jnp.float32(limits[0]), "high": jnp.float32(limits[1])}
    seed = np.arange(len(which), dtype=np.int32) % len(counts)
    own = {"policy": which, "seed": seed, "count": counts[seed]}
    every = {name: jnp.broadcast_to(x, which.shape) for name, x in one.items()}
    return every | {name: jnp.asarray(x) for name, x in own.items()}


@functools.lru_cache(maxsize=8)
def _asking(config: estimator.Config, spec: Spec) -> Callable:
    """`(params (members, ...), which (members,), obs, action (policies, n, ...)) -> (members, n)`."""
    critic = estimator.network(config, spec)

    def ask(params: Any, which: Array, obs: Array, action: Array) -> Array:
        # one after the other: side by side, the hidden layers of a hundred members take gigabytes
        return jax.lax.map(lambda m: critic.apply(m[0], obs, action[m[1]])[0], (params, which))

    return jax.jit(ask)


def _ask(ask: Callable, which: np.ndarray, state: Any, obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    """(members, n) of the averaged critics, float64."""
    pieces = [slice(first, first + PIECE) for first in range(0, len(obs), PIECE)]
    found = [ask(state.target_critic, which, obs[piece], action[:, piece]) for piece in pieces]
    return np.concatenate([np.asarray(x, np.float64) for x in found], axis=1)


# --- The verdict -------------------------------------------------------------


def judge(
    fits: Fits, dataset: Dataset, split: estimator.Split, asked: Asked, actions: np.ndarray, gamma: float
) -> list[FqeRow]:
    """A row a policy, the behaviour's first: value, interval, rank among the others, errors, flags."""
    limits = estimator.bounds(dataset, gamma)
    strange = strangeness(dataset, asked, actions)
    covered = coverage(dataset, split, asked, actions, gamma)
    margin = 0.1 * fits.scale  # no fit is exact, and the best values may lie at a limit
    limits = (limits[0] - margin, limits[1] + margin)
    sound: np.ndarray = np.asarray(np.isfinite(fits.values).all((1, 2)))
    # the behaviour has no rank: the policies are ranked among themselves
    groups = [np.flatnonzero(sound[:1]), 1 + np.flatnonzero(sound[1:])]
    said: dict[int, dict[str, Any]] = {}
    for group in filter(len, groups):
        found = reliability.intervals(fits.values[group], len(split.train_starts))
        known = np.isfinite(found["low"][0])
        order = np.empty(len(group), int)
        order[np.argsort(-found["mean"], kind="stable")] = np.arange(1, len(group) + 1)
        for i, member in enumerate(group):
            said[int(member)] = {
                "value": float(found["mean"][i]),
                "low": float(found["low"][i]) if known else None,
                "high": float(found["high"][i]) if known else None,
                "rank": int(order[i]),
                "rank_low": int(found["rank_low"][i]) if known else None,
                "rank_high": int(found["rank_high"][i]) if known else None,
            }
    rows = []
    nothing = dict.fromkeys(("value", "low", "high", "rank", "rank_low", "rank_high"))
    for i in range(len(actions)):
        row: dict[str, Any] = said.get(i, nothing) | {"strange": float(strange[i])} | covered[i]._asdict()
        if i not in said:
            rows.append(FqeRow(**row, flags=("diverged: a critic of FQE left every scale of the rewards",)))
            continue
        q = fits.held_q[i]
        row |= {
            "seeds": tuple(fits.values[i].mean(1).tolist()),
            "trained_on": float(fits.train_values[i].mean()),
            "drift": float(fits.path[-1, i] - fits.path[max(0, len(fits.path) - 3), i]),
            "error": float(fits.error[i].mean()),
            "train_error": float(fits.train_error[i].mean()),
            "beyond": float(np.mean(np.logical_or(q < limits[0], q > limits[1]))) if q.size else 0.0,
        }
        rows.append(FqeRow(**row, flags=tuple(reliability.flags(row, limits, fits.scale))))
    return rows


def strangeness(dataset: Dataset, asked: Asked, actions: np.ndarray) -> np.ndarray:
    """(policies,) as `reliability.strangeness`, on few enough rows that it takes no time."""
    unit = to_unit(dataset, dataset.action)
    few = lambda rows, n: rows[:: max(1, len(rows) // n)]
    held, seen = few(asked.held, 500), few(asked.train, CHECKED)
    there = asked.at(actions, held)
    return reliability.strangeness(dataset.obs[held], there, unit[held], dataset.obs[seen], unit[seen])


def coverage(
    dataset: Dataset, split: estimator.Split, asked: Asked, actions: np.ndarray, gamma: float
) -> list[Occupancy]:
    """Of each policy, as `ope.occupancy`, on few enough rows that it takes seconds."""
    unit, few = to_unit(dataset, dataset.action), asked.train[:: -(-len(asked.train) // COVERED)]
    behind, starts = after(few, len(dataset)), split.train_starts[:CHECKED]
    rows = Logged(
        dataset.obs[few], unit[few], dataset.obs[behind], dataset.terminal[few], dataset.obs[starts]
    )
    return occupancies(rows, asked.at(actions, behind), asked.at(actions, starts), gamma)
