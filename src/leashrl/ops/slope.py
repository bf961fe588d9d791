"""Penalties on the slope of a critic in the action."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from leashrl.types import Array

Actions = Float[Array, "*batch dim"]
Each = Float[Array, "*batch"]


def squared_slope(value: Callable[[Actions], Each], action: Actions) -> Each:
    """|d value / d action|^2 at each action (Fisher-BRC's equation 7; BRAC+'s equation 10).

    Args:
      value: actions to values, each of its own action alone.
      action: a leading ensemble axis gives each member its own slope.

    >>> squared_slope(lambda a: a @ jnp.array([3.0, 4.0]), jnp.zeros((2, 2))).tolist()
    [25.0, 25.0]
    """
    slope = jax.grad(lambda a: jnp.sum(value(a)))(jax.lax.stop_gradient(action))
    return jnp.sum(slope**2, axis=-1)


def norm(square: Each) -> Each:
    """sqrt with a finite slope at 0."""
    return jnp.sqrt(square + 1e-12)


def steeper_than_one(square: Each) -> Each:
    """max(|slope| - 1, 0)^2: what a Wasserstein critic pays (Gulrajani et al. 2017, one-sided).

    >>> float(steeper_than_one(jnp.float32(9.0)))
    4.0
    """
    return jnp.maximum(norm(square) - 1.0, 0.0) ** 2
