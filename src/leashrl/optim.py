"""Adam whose learning rate is a traced scalar, so that it can differ between members of one program."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from leashrl.types import Array

_ADAM = optax.scale_by_adam()


def adam_init(params: Any) -> dict[str, Any]:
    """First and second moments of every network in `params`, and the number of updates so far."""
    state = _ADAM.init(params)
    return {"mu": state.mu, "nu": state.nu, "count": state.count}


def adam(grads: Any, state: dict[str, Any], params: Any, rate: Array) -> tuple[Any, dict[str, Any]]:
    """One step of Adam (Kingma & Ba 2015, algorithm 1): `(params, state)` after it."""
    inner = optax.ScaleByAdamState(count=state["count"], mu=state["mu"], nu=state["nu"])
    direction, inner = _ADAM.update(grads, inner)
    params = jax.tree.map(lambda p, d: p - rate * d, params, direction)
    return params, {"mu": inner.mu, "nu": inner.nu, "count": inner.count}


def cosine(rate: Array, step: Array, steps: int) -> Array:
    """`rate` falling to 0 over `steps` updates: rate (1 + cos(pi step / steps)) / 2.

    >>> float(cosine(jnp.float32(2.0), jnp.int32(50), 100))
    1.0
    """
    progress = jnp.minimum(step.astype(jnp.float32) / steps, 1.0)
    return rate * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
