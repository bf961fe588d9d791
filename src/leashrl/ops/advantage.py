"""Advantages as weights: what makes an actor imitate the better of the data's actions."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Float

from leashrl.types import Array, Batch

Scalar = Float[Array, ""]


def expectile_loss(difference: Float[Array, " batch"], expectile: Scalar | float) -> Scalar:
    """mean |expectile - 1(difference < 0)| difference^2: least where the expectile of `difference` is 0.

    At 0.5 it is half the squared error; towards 1 only what lies above counts (Kostrikov et al. 2021,
    arXiv 2110.06169, equation 4).

    >>> round(float(expectile_loss(jnp.array([2.0, -2.0]), 0.75)), 4)
    2.0
    """
    side = jnp.where(difference < 0, 1.0 - expectile, expectile)
    return jnp.mean(side * difference**2)


def value_loss(
    params: Any,
    apply: Callable,
    obs: Float[Array, "batch obs"],
    q: Float[Array, " batch"],
    expectile: Scalar | float,
) -> tuple[Scalar, Float[Array, " batch"]]:
    """`expectile_loss` of Q - V(s), and V(s).

    Args:
      apply: `(params, obs) -> (batch, 1)`.
    """
    v = apply(params, obs)[..., 0]
    return expectile_loss(q - v, expectile), v


def exponential_weight(
    advantage: Float[Array, "*batch"], scale: Scalar | float, limit: float = 100.0
) -> Float[Array, "*batch"]:
    """min(e^(scale * advantage), limit), without overflow.

    >>> [round(x, 3) for x in exponential_weight(jnp.array([0.0, 1.0, 1e4]), 2.0).tolist()]
    [1.0, 7.389, 100.0]
    """
    return jnp.exp(jnp.minimum(scale * advantage, math.log(limit)))


def weighted_likelihood(
    params: Any, pi: Callable, batch: Batch, weight: Float[Array, " batch"], *rest: Any
) -> tuple[Scalar, Scalar]:
    """-E_D[weight log pi(a|s)] and E_D[log pi(a|s)].

    Args:
      pi: `(params, obs, *rest) -> distribution` over actions themselves.
    """
    log_prob = pi(params, batch.obs, *rest).log_prob(batch.action)
    return -jnp.mean(weight * log_prob), jnp.mean(log_prob)
