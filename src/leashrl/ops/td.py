"""Temporal-difference targets."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Float

from leashrl.types import Array, Batch

Each = Float[Array, "*batch"]
Values = Float[Array, "ensemble batch"]


def target(reward: Each, discount: Each, next_value: Each) -> Each:
    """y = r + discount * V(s'), with discount = gamma (1 - terminal).

    >>> float(target(jnp.float32(1.0), jnp.float32(0.5), jnp.float32(4.0)))
    3.0
    """
    return reward + discount * next_value


def squared_error(values: Values, targets: Float[Array, " batch"]) -> Float[Array, ""]:
    """mean over the batch of (Q_i - y)^2, summed over the ensemble.

    >>> float(squared_error(jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([0.0, 0.0])))
    2.5
    """
    return jnp.sum(jnp.mean((values - targets[None]) ** 2, axis=-1))


def critic_loss(
    params: Any, apply: Callable, batch: Batch, y: Float[Array, " batch"]
) -> tuple[Float[Array, ""], Values]:
    """sum_i E_D(Q_i(s, a) - y)^2, and Q_i. `apply` is a critic's."""
    values = apply(params, batch.obs, batch.action)
    return squared_error(values, y), values
