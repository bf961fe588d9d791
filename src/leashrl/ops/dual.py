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


def multiplier(raw: Array, limit: Array | float = 1e6, form: str = "exp") -> Array:
    """A Lagrange multiplier from its free variable: e^raw or softplus(raw), at most `limit`.

    >>> float(multiplier(jnp.float32(100.0))), float(multiplier(jnp.float32(50.0), form="softplus"))
    (1000000.0, 50.0)
    """
    return jnp.minimum(jax.nn.softplus(raw) if form == "softplus" else jnp.exp(raw), limit)


def raw_of(value: Array, form: str = "exp") -> Array:
    """The free variable of a positive multiplier: the inverse of `multiplier`.

    >>> float(multiplier(raw_of(jnp.float32(10.0), "softplus"), form="softplus"))
    10.0
    """
    return value + jnp.log(-jnp.expm1(-value)) if form == "softplus" else jnp.log(value)


def dual_loss(raw: Array, excess: Array, limit: Array | float = 1e6, form: str = "exp") -> Array:
    """-lambda * excess: descending it raises lambda while `excess = constraint - budget` is positive.

    One multiplier for all (shapes ()), or one a state (shapes (batch,)). At `limit` a positive excess has no
    gradient, so that lambda goes no further; a negative one has that of the limit, so that it comes back.
    """
    excess, top = jax.lax.stop_gradient(excess), raw_of(jnp.asarray(limit, raw.dtype), form)
    held = raw + jax.lax.stop_gradient(jnp.minimum(raw, top) - raw)  # the clipped value, raw's own gradient
    value = multiplier(held, jnp.inf, form)
    outward = (raw >= top) & (excess > 0)
    return -jnp.where(outward, jax.lax.stop_gradient(value), value) * excess


def temperature_loss(log_alpha: Array, entropy: Array, target: Array) -> Array:
    """-log alpha (target - H): descending it raises alpha while the entropy H is below its target.

    The public codes' form of SAC's equation 18 (Haarnoja et al. 2018, arXiv 1812.05905), same fixed point.
    """
    return -log_alpha * jax.lax.stop_gradient(target - entropy)
