"""Logged episodes in two halves, each judged by what was fitted to the other.

A model's Q and V of every row, for doubly robust estimates, and the logged actions' propensities where the
log does not say them. `leashrl.ope.off_policy` makes estimates of both.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from leashrl.algos import bc
from leashrl.core import hyper, override
from leashrl.data import Dataset
from leashrl.data.preprocessing import scales
from leashrl.errors import BadInput
from leashrl.ope import estimator, fits
from leashrl.ope.candidates import Candidate
from leashrl.training import loop
from leashrl.types import Box, Discrete, Transitions

SEEDS = 4
"""Critics per half: their spread is the model's share of `fqe`'s interval."""
DRAWS = 8
"""Actions per state whose mean Q is the model's V, where actions are continuous."""
BEHAVIOUR_STEPS = 5000
"""Updates of the cloned behaviour."""


class Judged(NamedTuple):
    """A policy, and how it acts."""

    candidate: Candidate
    mode: str
    weighed: bool  # its actions have a probability or a density in this mode


# --- Episodes ----------------------------------------------------------------


class Places(NamedTuple):
    """Where each row stands among the episodes."""

    episode: np.ndarray  # (rows,)
    step: np.ndarray  # (rows,) within it
    starts: np.ndarray  # (episodes,)

    @staticmethod
    def of(dataset: Dataset) -> "Places":
        parts = dataset.episodes()
        starts = np.array([part.start for part in parts])
        episode = np.repeat(np.arange(len(parts)), [part.stop - part.start for part in parts])
        return Places(episode, np.arange(len(dataset)) - starts[episode], starts)

    @property
    def longest(self) -> int:
        return int(self.step.max()) + 1

    def table(self, values: np.ndarray, behind: float = 0.0) -> np.ndarray:
        """(episodes, longest) float64 of values by row; `behind` stands after each episode's end."""
        found = np.full((len(self.starts), self.longest), behind)
        found[self.episode, self.step] = values
        return found


def timed(dataset: Dataset, places: Places) -> Dataset:
    """The same rows, which know what step it is, and whose episodes end where they are cut.

    So the model's values are of what is left of an episode, as the weights' are.
    """
    clock = (places.step / max(1, places.longest - 1)).astype(np.float32)
    return dataclasses.replace(
        dataset,
        obs=np.column_stack([dataset.obs, clock]),
        terminal=estimator.last_rows(dataset),
        timeout=None,
        next_obs=None,
        max_episode_steps=None,
        continues=False,
    )


def halves(places: Places, seed: int) -> list[estimator.Split]:
    """Two splits: each half of the episodes is held out of one.

    Raises:
      BadInput: fewer than four episodes.
    """
    n = len(places.starts)
    if n < 4:
        raise BadInput(f"off-policy estimates take at least 4 episodes, and the data have {n}")
    first = np.zeros(n, bool)
    first[np.random.default_rng(seed).permutation(n)[: n // 2]] = True
    found = []
    for held in (first, ~first):
        rows = held[places.episode]
        sides = (np.flatnonzero(~rows), np.flatnonzero(rows), places.starts[~held], places.starts[held])
        found.append(estimator.Split(*sides))
    return found


# --- The model ---------------------------------------------------------------


class Model(NamedTuple):
    """What critics of the other half say of each row, by policy."""

    q: np.ndarray  # (policies, rows) of the logged action
    v: np.ndarray  # (policies, rows), expected over the policy's actions
    starts: np.ndarray  # (policies, seeds, episodes), V by each seed

    def of(self, i: int) -> "Model":
        """One policy's, without their axis."""
        return Model(self.q[i], self.v[i], self.starts[i])


def modelled(
    dataset: Dataset, places: Places, judged: Sequence[Judged], config: estimator.Config, seed: int,
    report: fits.Report | None,
) -> Model:  # fmt: skip
    """Fitted Q evaluation on each half, asked about the other."""
    clocked, n = timed(dataset, places), len(dataset)
    logged = estimator.logged_values(clocked, config.gamma)
    unit = fits.to_unit(dataset, dataset.action)
    shape = (len(judged), SEEDS, n)
    q, v = np.empty(shape), np.empty(shape)
    for i, split in enumerate(halves(places, seed)):
        rows = np.unique(np.concatenate([fits.after(split.train, n), split.held_starts]))
        asked = fits.Asked(rows, split.held, split.train)
        raw = [one.candidate.actions(dataset.obs[rows], one.mode) for one in judged]
        actions = np.stack([fits.to_unit(dataset, action) for action in raw])
        told = None if report is None else lambda step, total, i=i: report(i * total + step, 2 * total)
        seeds = [seed + j for j in range(SEEDS)]
        critics, _ = fits.train(clocked, split, asked, actions, config, seeds, logged, told)
        if critics.fallen.any():
            raise BadInput("a critic of the model diverged: give a lower --gamma, or methods without a model")
        held = split.held
        q[..., held] = critics.q(held, np.broadcast_to(unit[held], (len(judged), *unit[held].shape)))
        v[..., held] = expected(critics, dataset, judged, held)
    return Model(q.mean(1), v.mean(1), v[..., places.starts])


def expected(
    critics: fits.Critics, dataset: Dataset, judged: Sequence[Judged], rows: np.ndarray
) -> np.ndarray:
    """(policies, seeds, rows) E Q(s, a) over each policy's actions: a sum, or a mean of draws."""
    obs, space = dataset.obs[rows], dataset.action_space
    if isinstance(space, Discrete) and all(one.weighed for one in judged):
        total = np.zeros((len(judged), critics.shape[1], len(rows)))
        for action in range(space.n):
            same = np.full(len(rows), action, np.int32)
            share = np.exp([one.candidate.policy.log_prob(obs, same, mode=one.mode) for one in judged])
            total += share[:, None] * critics.q(rows, np.broadcast_to(same, (len(judged), len(rows))))
        return total
    draws = []
    for draw in range(DRAWS):
        raw = [one.candidate.actions(obs, one.mode, seed=1 + draw) for one in judged]
        draws.append(critics.q(rows, np.stack([fits.to_unit(dataset, action) for action in raw])))
    return np.mean(draws, axis=0)


# --- The behaviour, where nothing is logged of it ----------------------------


def cloned(dataset: Dataset, places: Places, seed: int) -> np.ndarray:
    """(rows,) log propensities of the logged actions, by a policy cloned from the half without them."""
    config = override(bc.Config(), {"steps": BEHAVIOUR_STEPS})
    algorithm = bc.build(config, dataset.spec)
    unit = fits.to_unit(dataset, dataset.action)
    volume = dataset.action_space.log_volume if isinstance(dataset.action_space, Box) else 0.0
    found = np.empty(len(dataset))
    for split in halves(places, seed):
        seen = dataset.obs[split.train]
        obs = ((dataset.obs - seen.mean(0, np.float64)) / scales(seen)).astype(np.float32)
        train = [jnp.asarray(x[split.train]) for x in (obs, unit, dataset.reward, dataset.terminal, obs)]
        keys, hp = jax.random.split(jax.random.key(seed), 1), jax.tree.map(lambda x: x[None], hyper(config))
        *_, snapshot = loop.run(algorithm, Transitions(*train), keys, hp, log_every=config.steps)
        params = jax.tree.map(lambda x: x[0], algorithm.policy.params(snapshot.state))
        density = algorithm.policy.log_prob
        assert density is not None
        log_prob = jax.jit(jax.vmap(lambda o, a, p=params, of=density: of(p, o, a, "sample")))
        found[split.held] = np.asarray(log_prob(obs[split.held], unit[split.held]), np.float64) - volume
    return found
