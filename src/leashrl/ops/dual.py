"""Quantities that follow others: averaged parameters and Lagrange multipliers."""

from typing import Any

import jax
import jax.numpy as jnp

from leashrl.types import Array


def polyak(target: Any, online: Any, tau: Array) -> Any:
    """target <- (1 - tau) target + tau online, leaf by leaf.

    >>> float(polyak(jnp.float32(0.0), jnp.float32(2.0), jnp.float32(0.25)))
    0.5
    """
    return jax.tree.map(lambda t, o: t + tau * (o - t), target, online)


def multiplier(log_value: Array, limit: float = 1e6) -> Array:
    """A Lagrange multiplier stored as its logarithm: exp(log_value), at most `limit`.

    >>> float(multiplier(jnp.float32(100.0)))
    1000000.0
    """
    return jnp.minimum(jnp.exp(log_value), limit)


def dual_loss(log_value: Array, excess: Array) -> Array:
    """-lambda * excess: descending it raises lambda while `excess = constraint - budget` is positive."""
    return -multiplier(log_value) * jax.lax.stop_gradient(excess)
