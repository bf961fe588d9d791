"""Policies judged by importance sampling and doubly robust estimates, where the log knows its propensities.

    found = off_policy(["runs/bc", "runs/misa"], "logs.hdf5", methods=["fqe", "wis", "dr"])
    for row in found.rows:
        print(row.policy, row.method, row.value, row.low, row.high, row.ess, row.flags)

A value is the discounted sum of rewards over an episode as the log has them, up to a cut where it was cut.
`leashrl.ope.importance` has the estimators. Episodes are dealt into two halves: what is fitted (the model of
`fqe` and `dr`, the behaviour where its propensities are unknown) judges the half that it did not see.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from leashrl.algos import bc
from leashrl.core import hyper, override
from leashrl.data import Dataset
from leashrl.data.preprocessing import scales
from leashrl.data.propensity import log_propensities
from leashrl.disk.files import versions
from leashrl.errors import BadInput, nearest
from leashrl.nn import resolved
from leashrl.ope import estimator, fits, importance, reliability
from leashrl.ope.candidates import Candidate, check_fit, common_gamma, find_data, read
from leashrl.ope.results import LeftOut, OpeData, OpeResult, OpeRow
from leashrl.training import loop
from leashrl.training.compilation import in_float32
from leashrl.types import Box, Discrete, Transitions

__all__ = ["off_policy"]

METHODS = ("fqe", *importance.METHODS)
SEEDS = 4
"""Critics per half: their spread is the model's share of `fqe`'s interval."""
DRAWS = 8
"""Actions per state whose mean Q is the model's V, where actions are continuous."""
FEW = 10.0
"""Effective episodes below which nothing is to be concluded."""
BEHAVIOUR_STEPS = 5000
"""Updates of the cloned behaviour."""
MOST = 80.0
"""Of a log ratio: products of larger ones are no numbers."""

# --- The call ----------------------------------------------------------------


@in_float32
def off_policy(
    folders: Sequence[str | Path],
    data: str | Path | Dataset | None = None,
    *,
    methods: Sequence[str] = ("fqe", "wis", "dr"),
    propensity: str | None = None,
    mode: str | None = None,
    gamma: float | None = None,
    clip: float = math.inf,
    switch: float = 10.0,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    report: fits.Report | None = None,
) -> OpeResult:
    """Estimate what every policy in some runs is worth, from episodes that another policy logged.

    Args:
      folders: runs' folders, or copies of their `policy/`.
      data: to judge on; by default what the runs were trained on, where that is one data set.
      methods: of `fqe`, `is`, `wis`, `pdis`, `wpdis`, `dr`, `wdr`, `switch-dr`.
      propensity: the array in the data that holds the logged actions' propensities; by default the one with
        a name that `leashrl.data.propensity` knows. Where there is none, the behaviour is cloned.
      mode: how the policies act; by default each one's own way if that gives actions a probability or a
        density, else `sample`.
      gamma: the discount, at most 1, and below it for methods with a model; by default the policies' own.
      clip: the largest weight; unlimited by default.
      switch: the weight above which `switch-dr` trusts the model.
      seed: of the halves and of the fits.
      options: fields of `leashrl.ope.estimator.Config`, for the model.
      report: called as the model is fitted.

    Raises:
      BadInput: an unknown method, no policy whose actions have a probability, unfitting or too few data.
    """
    for method in methods:
        if method not in METHODS:
            raise BadInput(f"no method '{method}': {nearest(method, METHODS)}")
    if not methods or not clip > 0 or not switch > 0:
        raise BadInput("at least one method is needed, and limits of weights must be above 0")
    candidates, unread = read(folders, False, mode)
    judged, unjudged = judged_of(candidates, mode, methods)
    dataset = find_data(folders, data)
    for one in judged:
        check_fit(one.candidate, dataset)
    gamma = common_gamma([one.candidate for one in judged], gamma)
    if not 0 <= gamma <= 1:
        raise BadInput(f"a discount lies from 0 to 1, not {gamma:g}")
    places = Places.of(dataset)
    halves(places, seed)  # too few episodes are told before anything is fitted

    logs = None
    weighing = [method for method in methods if method != "fqe"]
    if weighing:
        logs = log_propensities(dataset, propensity)
    estimated = bool(weighing) and logs is None
    if estimated:
        logs = cloned(dataset, places, seed)
    model = None
    if {"fqe", *importance.MODELLED} & {*methods}:
        config = override(estimator.Config(), dict(options or {}) | {"gamma": gamma})
        config = override(config, {"precision": resolved(config.precision, estimator.BFLOAT16)})
        model = modelled(dataset, places, judged, config, seed, report)
    limits = {"clip": clip, "limit": switch}
    rows = [
        row
        for i, one in enumerate(judged)
        for row in estimates(one, methods, dataset, places, logs, model and model.of(i), gamma, limits)
    ]
    returns = places.table(dataset.reward) @ gamma ** np.arange(places.longest)
    low, high = importance.skewed_interval(returns)
    mean = float(returns.mean())
    return OpeResult(
        rows=tuple(rows),
        left_out=(*unread, *unjudged),
        data=OpeData(dataset.name, dataset.hash, len(returns), places.longest, mean, mean + low, mean + high),
        propensities=None if logs is None else "estimated" if estimated else "logged",
        gamma=gamma,
        clip=None if math.isinf(clip) else clip,
        switch=switch if "switch-dr" in methods else None,
        seed=seed,
        versions=versions(),
    )


# --- Who is judged -----------------------------------------------------------


class Judged(NamedTuple):
    """A policy, and how it acts."""

    candidate: Candidate
    mode: str
    weighed: bool  # its actions have a probability or a density in this mode


def judged_of(
    candidates: Sequence[Candidate], mode: str | None, methods: Sequence[str]
) -> tuple[list[Judged], list[LeftOut]]:
    """The policies that some method can judge, and what is left out."""
    found, left_out = [], []
    weighing = [method for method in methods if method != "fqe"]
    for one in candidates:
        known = one.policy.policy.weighed
        first = one.policy.known_mode(mode)
        if mode is None and weighing and first not in known and "sample" in known:
            first = "sample"
        weighed = first in known
        if weighing and not weighed:
            other = f": mode {known[0]} has" if known else ""
            why = f"{', '.join(weighing)}: its actions have no probability or density in mode {first}{other}"
            left_out.append(LeftOut(one.title, why))
        if weighed or "fqe" in methods:
            found.append(Judged(one, first, weighed))
    if not found:
        raise BadInput(f"no policy to judge: {left_out[0].policy}: {left_out[0].why}")
    return found, left_out


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


# --- The estimates -----------------------------------------------------------


def estimates(
    one: Judged, methods: Sequence[str], dataset: Dataset, places: Places, logs: np.ndarray | None,
    model: Model | None, gamma: float, limits: Mapping[str, float],
) -> list[OpeRow]:  # fmt: skip
    """A row for each method that can judge the policy."""
    rows, flags = [], []
    policy = one.candidate.policy
    name: dict[str, Any] = {"policy": one.candidate.title, "folder": str(one.candidate.folder)}
    name |= {"member": policy.name, "algorithm": policy.algorithm, "mode": one.mode}
    if model is not None and "fqe" in methods:
        found = reliability.intervals(model.starts[None], len(places.starts) // 2)
        value, low, high = (float(found[end][0]) for end in ("mean", "low", "high"))
        rows.append(OpeRow(**name, method="fqe", value=value, low=low, high=high))
    if logs is None or not one.weighed:
        return rows
    ratio = np.exp(np.minimum(policy.log_prob(dataset.obs, dataset.action, mode=one.mode) - logs, MOST))
    if not_one := unfitting(ratio, places):
        flags.append(not_one)
    tables = [] if model is None else [places.table(model.q), places.table(model.v)]
    there, reward = places.table(np.ones(len(dataset))) > 0, places.table(dataset.reward)
    episodes = importance.Episodes(there, places.table(ratio, 1.0), reward, *tables)
    for method in methods:
        if method == "fqe":
            continue
        found = importance.estimate(method, episodes, gamma, **limits)
        few, value, (low, high) = [], found.value, found.interval()
        if found.ess < FEW:  # no interval holds its coverage there
            few, low, high = [f"rests on {found.ess:.2g} effective episodes"], None, None
        if found.followed < places.longest:
            few.append(f"no logged episode does what it does beyond step {found.followed}")
            value, low, high = value if method in importance.MODELLED else None, None, None
        rows.append(
            OpeRow(
                **name, method=method, value=value, low=low, high=high, ess=found.ess,
                clipped=found.clipped, bias=found.bias, flags=(*few, *flags),
            )
        )  # fmt: skip
    return rows


def unfitting(ratio: np.ndarray, places: Places) -> str | None:
    """A flag where the ratios do not average 1, as they do for the right propensities, beyond chance."""
    sums = np.bincount(places.episode, ratio - 1.0)
    mean = float(ratio.mean())
    error = float(np.sqrt(np.sum(sums**2))) / len(ratio)  # of rows that hang together in episodes
    if abs(mean - 1) <= max(5 * error, 0.02):
        return None
    return f"ratios average {mean:.2g}, not 1: wrong propensities, or actions that the log hardly has"
