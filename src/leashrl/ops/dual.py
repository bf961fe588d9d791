"""Quantities that follow others: averaged parameters and Lagrange multipliers."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from leashrl.types import Array

Scalar = Float[Array, ""]
Each = Float[Array, "*batch"]


def polyak(target: Any, online: Any, tau: Scalar) -> Any:
    """target <- (1 - tau) target + tau online, leaf by leaf.

    >>> float(polyak(jnp.float32(0.0), jnp.float32(2.0), jnp.float32(0.25)))
    0.5
    """
    return jax.tree.map(lambda t, o: t + tau * (o - t), target, online)


def follow(state: Any, *names: str) -> Any:
    """`state` after a step of `polyak` of each `target_NAME` to NAME, at the rate `state.hp["polyak"]`."""
    tau = state.hp["polyak"]
    moved = {
        f"target_{name}": polyak(getattr(state, f"target_{name}"), getattr(state, name), tau)
        for name in names
    }
    return dataclasses.replace(state, **moved)


class Multiplier(NamedTuple):
    """A Lagrange multiplier lambda as a function of a free variable `raw`: e^raw or softplus(raw).

    One for all (shapes ()), or one per state (shapes (batch,)).

    >>> float(Multiplier()(jnp.float32(100.0))), float(Multiplier(form="softplus")(jnp.float32(50.0)))
    (1000000.0, 50.0)
    """

    limit: Scalar | float = 1e6
    """Its largest value."""
    form: str = "exp"
    """`exp` or `softplus`."""

    def __call__(self, raw: Each) -> Each:
        return jnp.minimum(self._free(raw), self.limit)

    def _free(self, raw: Each) -> Each:
        return jax.nn.softplus(raw) if self.form == "softplus" else jnp.exp(raw)

    def raw(self, value: Each) -> Each:
        """The free variable of a positive value: the inverse.

        >>> float(Multiplier(form="softplus")(Multiplier(form="softplus").raw(jnp.float32(10.0))))
        10.0
        """
        return value + jnp.log(-jnp.expm1(-value)) if self.form == "softplus" else jnp.log(value)

    def loss(self, raw: Float[Array, "*#batch"], excess: Each) -> Each:
        """-lambda * excess: descending it raises lambda while `excess = constraint - budget` is positive.

        At `limit` a positive excess has no gradient, so that lambda goes no further; a negative one has that
        of the limit, so that it comes back.
        """
        excess, top = jax.lax.stop_gradient(excess), self.raw(jnp.asarray(self.limit, raw.dtype))
        held = raw + jax.lax.stop_gradient(
            jnp.minimum(raw, top) - raw
        )  # the clipped value, raw's own gradient
        value = jnp.minimum(self._free(held), jnp.inf)
        outward = (raw >= top) & (excess > 0)
        return -jnp.where(outward, jax.lax.stop_gradient(value), value) * excess

    def grad(self, raw: Scalar, excess: Scalar) -> Scalar:
        """The gradient of `loss` in `raw`."""
        return jax.grad(self.loss)(raw, excess)


def temperature_loss(log_alpha: Scalar, entropy: Scalar, target: Scalar) -> Scalar:
    """-log alpha (target - H): descending it raises alpha while the entropy H is below its target.

    The public codes' form of SAC's equation 18 (Haarnoja et al. 2018, arXiv 1812.05905), same fixed point.
    """
    return -log_alpha * jax.lax.stop_gradient(target - entropy)
