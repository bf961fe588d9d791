"""Densities of an action given a state, for `channel`: mixtures of Gaussians, or a categorical."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.dist import LOG_SQRT_2PI, Categorical, Mixture
from leashrl.information.folds import Folds
from leashrl.nn import Params
from leashrl.nn.mlp import bounded
from leashrl.ops.mi import log_mean_exp
from leashrl.types import Array

HIDDEN = (192, 192, 192)
COMPONENTS = 4
"""More than the data's own policy has: they also stand for what is not known of its mean."""
FLOOR, FLOOR_STD = 0.01, 2.0
"""Weight and width, in residuals of the linear channel, of a component that is not learnt."""


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


def joined(members: Mixture) -> Mixture:
    """The components of all members, which are the first axis, as one mixture: each member has equal weight.

    >>> one = Mixture(jnp.array([0.0, 1.0]), jnp.array([[-1.0], [1.0]]), jnp.zeros((2, 1)))
    >>> two = joined(jax.tree.map(lambda x: jnp.stack([x, x]), one))
    >>> two.logits.shape, bool(jnp.allclose(two.log_prob(jnp.zeros(1)), one.log_prob(jnp.zeros(1))))
    ((4,), True)
    """
    logits = jax.nn.log_softmax(members.logits)
    components = (jnp.concatenate(x, axis=-2) for x in (members.mean, members.log_std))
    return Mixture(jnp.concatenate(logits, axis=-1), *components)


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
        join=lambda dist: Categorical(log_mean_exp(dist.log_probs, axis=0)),
        log_prob=log_prob,
        table=lambda dist: dist.log_probs,
        log_probs=lambda log_probs, target: (log_probs @ target)[None],
        draw=draw,
    )
