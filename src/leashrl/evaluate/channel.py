"""The channel from states to actions, fitted on all folds of a data set in one program. Layer 6.

A policy pi(a|s), the mean of an ensemble's mixtures of Gaussians or categoricals, is fitted by maximum
likelihood around the linear channel of least squares. On it stands an energy T(s, a) for each bound of Ma
et al. (2023, arXiv 2210.07484, equations 8 to 10), which maximises what its bound has beyond pi. `scores`
says of held-out rows how much better their actions fit their own states than the other states of the fold.
"""

import functools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.dist import LOG_SQRT_2PI, Categorical, Mixture
from leashrl.evaluate.folds import AXES, Folds
from leashrl.nn import Params
from leashrl.nn.mlp import bounded
from leashrl.ops import mi
from leashrl.optim import adam, adam_init, cosine
from leashrl.types import Array

ENERGIES = ("misa", "dv", "f")
MEMBERS = 3
"""Policies whose mean is pi: what they wrongly see in the training rows differs, and mostly cancels."""
HIDDEN, ENERGY_HIDDEN = (192, 192, 192), (64, 64)
COMPONENTS = 4
"""Of a member. More than the data's own policy has: they also stand for what is not known of its mean."""
FLOOR, FLOOR_STD = 0.01, 2.0
"""Weight and width, in residuals of the linear channel, of a component that is not learnt."""
EMBEDDING = 32
BATCH, ENERGY_BATCH = 256, 128
DRAWS, VALID_DRAWS, MANY_DRAWS = 8, 16, 64
"""Policy actions a state: in training, for early stopping, and where the results count."""
RATE, ENERGY_RATE = 4e-3, 2e-3
EVERY = 50
"""Updates between two looks at the validation rows."""
BLOCK = 64
"""Rows that are compared with all states at once."""


# --- Networks ----------------------------------------------------------------


class Policy(NamedTuple):
    """A member of pi(a|s) as functions; `targets` are those of `Folds`."""

    init: Callable[[Array], Params]
    at: Callable[[Params, Folds, Array], Any]
    """(params, fold, obs) to distributions."""
    join: Callable[[Any], Any]
    """Members' distributions, along the first axis, to their even mixture."""
    log_prob: Callable[[Any, Array], Array]
    """(distributions, targets) to (..., 1 + dimensions): the whole action, then each dimension alone."""
    table: Callable[[Any], Any]
    log_probs: Callable[[Any, Array], Array]
    """(table of the distributions in M states, one target) to (1 + dimensions, M)."""
    draw: Callable[[Any, Array, int], Array]
    """(distributions, key, k) to whole actions, whitened: (batch, k, dim)."""


def mixture_policy(obs_dim: int, dim: int) -> Policy:
    """A mixture of diagonal Gaussians of the whitened action; of each dimension alone, one beside it."""
    shapes = (COMPONENTS, dim), (dim, COMPONENTS, 1)  # of means; the weights have all axes but the last
    sizes = [math.prod(shape[:-1]) + 2 * math.prod(shape) for shape in shapes]
    body = nn.mlp(obs_dim, sum(sizes), HIDDEN, out_scale=0.0)

    def init(key: Array) -> Params:
        """With no weights in the last layer pi starts as the linear channel; its components must differ."""
        key_body, key_bias = jax.random.split(key)
        params = body.init(key_body)
        bias = 0.3 * jax.random.normal(key_bias, params["out"]["bias"].shape)
        return params | {"out": params["out"] | {"bias": bias}}

    def at(params: Params, fold: Folds, obs: Array) -> tuple[Mixture, Mixture]:
        out, centre = body.apply(params, obs), obs @ fold.linear
        centres = centre[..., None, :dim], centre[..., dim:, None, None]
        parts = jnp.split(out, sizes[:1], axis=-1)
        whole, alone = (mixture(*x) for x in zip(parts, shapes, centres, strict=True))
        return whole, alone

    def log_prob(dist: tuple[Mixture, Mixture], target: Array) -> Array:
        whole, alone = dist
        parts = whole.log_prob(target[..., :dim])[..., None], alone.log_prob(target[..., dim:, None])
        return jnp.concatenate(parts, axis=-1)

    def draw(dist: tuple[Mixture, Mixture], key: Array, k: int) -> Array:
        return jax.vmap(dist[0].sample, out_axes=1)(jax.random.split(key, k))

    def join(dist: tuple[Mixture, Mixture]) -> tuple[Mixture, Mixture]:
        return joined(dist[0]), joined(dist[1])

    def table(dist: tuple[Mixture, Mixture]) -> tuple[Table, Table]:
        return tabulated(dist[0]), jax.vmap(tabulated, in_axes=1)(dist[1])

    def log_probs(tables: tuple[Table, Table], target: Array) -> Array:
        whole, alone = tables
        each = jax.vmap(Table.log_probs)(alone, target[dim:, None])
        return jnp.concatenate([whole.log_probs(target[:dim])[None], each])

    return Policy(init, at, join, log_prob, table, log_probs, draw)


class Table(NamedTuple):
    """Mixtures of n components in M states, which are the last axis: ten times as fast as `Mixture` here."""

    offset: Array  # (n, M)
    mean: Array  # (n, dim, M)
    inverse: Array  # (n, dim, M), of the standard deviation

    def log_probs(self, point: Array) -> Array:
        """log density of one point (dim,) in every state, (M,)."""
        z = (point[None, :, None] - self.mean) * self.inverse
        return jax.nn.logsumexp(self.offset - 0.5 * jnp.sum(z**2, axis=1), axis=0)


def tabulated(m: Mixture) -> Table:
    offset = jax.nn.log_softmax(m.logits) - jnp.sum(m.log_std + LOG_SQRT_2PI, axis=-1)
    return Table(offset.T, jnp.moveaxis(m.mean, 0, -1), jnp.moveaxis(jnp.exp(-m.log_std), 0, -1))


def joined(members: Mixture) -> Mixture:
    """The components of all, members being the first axis, as one mixture: every member has equal weight."""

    def beside(x: Array, axis: int) -> Array:
        x = jnp.moveaxis(x, 0, axis - 1)
        return x.reshape(*x.shape[: axis - 1], -1, *x.shape[x.ndim + axis + 1 :])

    logits = jax.nn.log_softmax(members.logits)
    return Mixture(beside(logits, -1), beside(members.mean, -2), beside(members.log_std, -2))


def mixture(raw: Array, shape: tuple[int, ...], centre: Array) -> Mixture:
    """From a network's output, around `centre`; a last, fixed component bounds what an outlier costs."""
    lead, n = raw.shape[:-1], math.prod(shape)
    mean, log_std, logits = jnp.split(raw, (n, 2 * n), axis=-1)
    mean = mean.reshape(*lead, *shape)
    log_std = bounded(log_std.reshape(mean.shape), "soft", (-6.0, 2.0))
    logits = logits.reshape(mean.shape[:-1])
    odds = jax.nn.logsumexp(logits, axis=-1, keepdims=True) + math.log(FLOOR / (1 - FLOOR))
    wide = jnp.zeros_like(mean[..., :1, :])
    return Mixture(
        jnp.concatenate([logits, odds], axis=-1),
        jnp.concatenate([mean, wide], axis=-2) + centre,
        jnp.concatenate([log_std, wide + math.log(FLOOR_STD)], axis=-2),
    )


def categorical_policy(obs_dim: int, n: int) -> Policy:
    """Of one-hot actions; there are no dimensions to look at alone."""
    net = nn.mlp(obs_dim, n, HIDDEN, out_scale=0.0)

    def log_prob(dist: Categorical, target: Array) -> Array:
        return jnp.sum(dist.log_probs * target, axis=-1, keepdims=True)

    def draw(dist: Categorical, key: Array, k: int) -> Array:
        index = jax.random.categorical(key, dist.logits, shape=(k, *dist.logits.shape[:-1]))
        return jnp.moveaxis(jax.nn.one_hot(index, n), 0, 1)

    return Policy(
        init=net.init,
        at=lambda params, fold, obs: Categorical(net.apply(params, obs)),
        join=lambda dist: Categorical(mi.log_mean_exp(dist.log_probs, axis=0)),
        log_prob=log_prob,
        table=lambda dist: dist.log_probs,
        log_probs=lambda log_probs, target: (log_probs @ target)[None],
        draw=draw,
    )


class Energy(NamedTuple):
    """T_b(s, a) = g_b(s) . h(a) of each b in ENERGIES, zero at first: all pairs cost one matrix product."""

    init: Callable[[Array], Params]
    state: Callable[[Params, Array], Array]
    """(..., bounds, EMBEDDING)"""
    action: Callable[[Params, Array], Array]
    """(..., EMBEDDING), of whitened actions at unit variance."""


def energy(obs_dim: int, dim: int) -> Energy:
    g = nn.mlp(obs_dim, len(ENERGIES) * EMBEDDING, ENERGY_HIDDEN, activation="elu", out_scale=0.0)
    h = nn.mlp(dim, EMBEDDING, ENERGY_HIDDEN, activation="elu")

    def init(key: Array) -> Params:
        keys = jax.random.split(key)
        return {"state": g.init(keys[0]), "action": h.init(keys[1])}

    def state(params: Params, obs: Array) -> Array:
        return g.apply(params["state"], obs).reshape(*obs.shape[:-1], len(ENERGIES), EMBEDDING)

    return Energy(init, state, lambda params, action: h.apply(params["action"], action))


# --- Losses ------------------------------------------------------------------


class Channel(NamedTuple):
    """All that depends on sizes alone, so that a second data set of the same compiles nothing anew.

    The losses are functions of (params, fixed, fold, rows, key, k).
    """

    policy: Policy
    energy: Energy

    def members(self, params: Params, fold: Folds, obs: Array) -> Any:
        return jax.vmap(self.policy.at, (0, None, None))(params, fold, obs)

    def pi(self, params: Params, fold: Folds, obs: Array) -> Any:
        return self.policy.join(self.members(params, fold, obs))

    def policy_loss(
        self, params: Params, fixed: Params, fold: Folds, rows: Array, key: Array, k: int
    ) -> Array:
        """- E[log pi(a|s)], of the whole action and each of its dimensions alone, of each member: the sum."""
        dist = self.members(params, fold, fold.obs[rows])
        log_prob = jax.vmap(self.policy.log_prob, (0, None))(dist, fold.action[rows] @ fold.targets)
        return -jnp.sum(jnp.mean(log_prob, axis=1))

    def energy_loss(
        self, params: Params, fixed: Params, fold: Folds, rows: Array, key: Array, k: int
    ) -> Array:
        """log_partition(T) - E_D[T], summed over the bounds, from k actions a state of the policy `fixed`."""
        obs = fold.obs[rows]
        drawn = self.policy.draw(self.pi(fixed, fold, obs), key, k) * fold.scale[None, None]
        taken = (fold.action[rows] @ fold.targets)[:, : drawn.shape[-1]] * fold.scale[None]
        state = self.energy.state(params, obs)
        energies = jnp.einsum("sbe,ske->bsk", state, self.energy.action(params, drawn))
        data = jnp.einsum("sbe,se->b", state, self.energy.action(params, taken)) / len(rows)
        losses = []
        for i, bound in enumerate(ENERGIES):
            offset = 1.0 if bound == "f" else 0.0  # its best T is 1, not 0, where pi is the data's
            losses.append(mi.log_partition(bound, energies[i] + offset) - (data[i] + offset))
        return jnp.stack(losses).sum()


@functools.cache
def channel(obs_dim: int, dim: int, discrete: bool) -> Channel:
    """`dim` is the number of actions where they are discrete."""
    policy = categorical_policy(obs_dim, dim) if discrete else mixture_policy(obs_dim, dim)
    return Channel(policy, energy(obs_dim, dim))


# --- Training ----------------------------------------------------------------


def train(
    channel: Channel, folds: Folds, seed: int, steps: int, report: Callable[[str, int, int], None]
) -> tuple[Params, Params]:
    """(policy, energies) with a leading fold axis: `steps` updates of the policy, a third as many of T."""
    keys = jax.random.split(jax.random.key(seed), 4)
    many, third = len(folds.count), -(-steps // 3)
    start = jax.vmap(jax.vmap(channel.policy.init))(jax.random.split(keys[0], (many, MEMBERS)))
    tell = partial(report, "the policy")
    policy = fit(channel.policy_loss, start, {}, folds, keys[1], BATCH, RATE, steps, tell)
    start = jax.vmap(channel.energy.init)(jax.random.split(keys[2], many))
    tell = partial(report, "the energies")
    found = fit(channel.energy_loss, start, policy, folds, keys[3], ENERGY_BATCH, ENERGY_RATE, third, tell)
    return policy, found


def fit(
    loss: Callable, start: Params, fixed: Params, folds: Folds, key: Array,
    batch: int, rate: float, steps: int, report: Callable[[int, int], None],
) -> Params:  # fmt: skip
    """Minimise `loss`: the parameters of each fold when its loss on the validation rows was least."""
    keys = jax.random.split(key, len(folds.count))
    state = start, jax.vmap(adam_init)(start)
    best = start, jnp.full(len(folds.count), jnp.inf)
    for step in range(0, steps, EVERY):
        report(step, steps)
        best = _validate(best, state[0], fixed, folds, keys, loss)
        when = jnp.int32(step), jnp.float32(steps)
        state = _advance(state, fixed, folds, keys, *when, loss, batch, rate)
    return _validate(best, state[0], fixed, folds, keys, loss)[0]


@partial(jax.jit, static_argnames=("loss", "batch", "rate"))
def _advance(
    state: Any, fixed: Params, folds: Folds, keys: Array, first: Array, steps: Any,
    loss: Callable, batch: int, rate: float,
) -> Any:  # fmt: skip
    """EVERY updates of every fold."""

    def update(state: Any, fixed: Params, fold: Folds, key: Array, step: Array) -> Any:
        params, moments = state
        key_rows, key_loss = jax.random.split(jax.random.fold_in(key, step))
        rows = fold.train[jax.random.randint(key_rows, (batch,), 0, fold.count)]
        grads = jax.grad(loss)(params, fixed, fold, rows, key_loss, DRAWS)
        return adam(grads, moments, params, cosine(jnp.float32(rate), step, steps))

    def all_folds(state: Any, step: Array) -> tuple[Any, None]:
        return jax.vmap(update, (0, 0, AXES, 0, None))(state, fixed, folds, keys, step), None

    return jax.lax.scan(all_folds, state, first + jnp.arange(EVERY))[0]


@partial(jax.jit, static_argnames=("loss",))
def _validate(best: Any, params: Params, fixed: Params, folds: Folds, keys: Array, loss: Callable) -> Any:
    """`best`: of every fold the parameters with the least loss so far, and that loss."""

    def one(best: Any, params: Params, fixed: Params, fold: Folds, key: Array) -> Any:
        now = loss(params, fixed, fold, fold.valid, key, VALID_DRAWS)
        return jax.tree.map(partial(jnp.where, now < best[1]), (params, now), best)

    return jax.vmap(one, (0, 0, 0, AXES, 0))(best, params, fixed, folds, keys)


# --- What the bounds are made of ---------------------------------------------


@partial(jax.jit, static_argnames=("channel",))
def scores(channel: Channel, policy: Params, energies: Params, fold: Folds, key: Array) -> dict[str, Array]:
    r"""Of the M test rows of one fold: the score of their own state against that of all M.

    p(a) in equations 7 to 10 is unknown. Here the mean over states of the policy stands for it, which keeps
    every bound a bound: with any f(s, a) and M independent states, the own one among them,

    $$E[f(s_i, a_i) - \log \tfrac{1}{M} \textstyle\sum_j e^{f(s_j, a_i)}] \le \min(I(S;A), \log M)$$

    (van den Oord et al. 2018, arXiv 1807.03748; Poole et al. 2019, arXiv 1905.06922, equation 12).

    * `ba` (M, 1 + dimensions): f = log pi, of the whole action and of each dimension alone.
    * `misa` (M,): f = log mu = log pi + T - log Z(s), the tilted policy, with Z from MANY_DRAWS actions.
    * `dv`, `f` (M, 2): T' = log pi + T - log p(a) in the own state, p(a) the mean over states of mu, and
      the log of the mean over states of e^{T'}. E[T'] - log E[e^{T'}] is at most the bound above with
      f = log pi + T, whatever stands for p(a) (Jensen).
    """
    obs = fold.obs[fold.test]
    action = fold.action[fold.test] @ fold.targets
    table = channel.policy.table(channel.pi(policy, fold, obs))
    state = jnp.moveaxis(channel.energy.state(energies, obs), 1, 0)  # (bounds, M, EMBEDDING)
    taken = channel.energy.action(energies, action[:, : len(fold.scale)] * fold.scale[None])

    def normaliser(inputs: tuple[Array, Array, Array]) -> Array:
        """log Z of one state."""
        obs, state, key = inputs
        drawn = channel.policy.draw(channel.pi(policy, fold, obs[None]), key, MANY_DRAWS)[0]
        return mi.log_mean_exp(channel.energy.action(energies, drawn * fold.scale[None]) @ state)

    keys = jax.random.split(key, len(obs))
    log_z = jax.lax.map(normaliser, (obs, state[0], keys), batch_size=BLOCK)

    def score(inputs: tuple[Array, Array, Array]) -> dict[str, Array]:
        """One row's action in all states; the last axis is theirs."""
        i, target, taken = inputs
        log_pi = channel.policy.log_probs(table, target)
        misa, dv, f = log_pi[:1] + state @ taken
        misa = misa - log_z
        against = lambda x: x[..., i] - mi.log_mean_exp(x, axis=-1)
        pair = lambda x: jnp.stack([x[i], mi.log_mean_exp(x)]) - mi.log_mean_exp(misa)
        return {"misa": against(misa), "dv": pair(dv), "f": pair(f), "ba": against(log_pi)}

    return jax.lax.map(score, (jnp.arange(len(obs)), action, taken), batch_size=BLOCK)
