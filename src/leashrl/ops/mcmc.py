"""Hamiltonian Monte Carlo: many independent chains, one scalar step size."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, PRNGKeyArray

from leashrl.types import Array, pytree

Scalar = Float[Array, ""]
Points = Float[Array, "chains dim"]
LogDensity = Float[Array, " chains"]
Evaluate = Callable[..., tuple[LogDensity, Points]]


@pytree
class Chains:
    """What a run of HMC leaves behind."""

    samples: Float[Array, "samples chains dim"]
    acceptance: Scalar  # share of accepted proposals
    step_size: Scalar  # after adaptation


def differentiate(log_prob: Callable[..., LogDensity]) -> Evaluate:
    """`(x, *context) -> (log_prob(x, *context), its gradient in x)`, one independent value a row of x."""

    def summed(x: Array, *context) -> tuple[Array, Array]:
        values = log_prob(x, *context)
        return jnp.sum(values), values

    def evaluate(x: Points, *context) -> tuple[LogDensity, Points]:
        (_, values), gradient = jax.value_and_grad(summed, has_aux=True)(x, *context)
        return values, gradient

    return evaluate


def hmc(
    evaluate: Evaluate,
    init: Points,
    key: PRNGKeyArray,
    *,
    samples: int,
    burn_in: int,
    leapfrog: int,
    step_size: Scalar,
    adapt: int = 0,
) -> Chains:
    """Sample an unnormalised density from every row of `init` (Neal 2011, arXiv 1206.1901, section 5.2).

    Momenta are standard normal; a proposal that is not finite is rejected. During the first `adapt`
    iterations the step size moves by 1 % up or down as the mean acceptance probability is above or
    below 0.75. The gradient at a chain's current point is carried along, so that an iteration costs
    `leapfrog` gradient evaluations.

    Args:
      evaluate: the log density and its gradient; see `differentiate`.
      samples: states kept a chain, after `burn_in` dropped ones.
    """

    def iterate(carry, inputs):
        x, value, gradient, size = carry
        key, t = inputs
        key_momentum, key_accept = jax.random.split(key)
        p = jax.random.normal(key_momentum, x.shape)
        new_x, new_p, new_gradient, new_value = x, p + 0.5 * size * gradient, gradient, value
        for i in range(leapfrog):
            new_x = new_x + size * new_p
            new_value, new_gradient = evaluate(new_x)
            new_p = new_p + (size if i < leapfrog - 1 else 0.5 * size) * new_gradient
        log_ratio = new_value - value - 0.5 * jnp.sum(new_p**2, -1) + 0.5 * jnp.sum(p**2, -1)
        log_ratio = jnp.where(jnp.isfinite(log_ratio), log_ratio, -jnp.inf)
        accept = jnp.log(jax.random.uniform(key_accept, log_ratio.shape)) < log_ratio
        x, gradient = (jnp.where(accept[:, None], a, b) for a, b in ((new_x, x), (new_gradient, gradient)))
        value = jnp.where(accept, new_value, value)
        probability = jnp.mean(jnp.exp(jnp.minimum(log_ratio, 0.0)))
        factor = jnp.where(probability > 0.75, 1.01, 1.0 / 1.01)
        size = jnp.where(t < adapt, size * factor, size)
        return (x, value, gradient, size), (x, jnp.mean(accept.astype(jnp.float32)))

    total = burn_in + samples
    value, gradient = evaluate(init)
    keys = jax.random.split(key, total)
    carry = (init, value, gradient, jnp.asarray(step_size, init.dtype))
    (_, _, _, size), (states, accepted) = jax.lax.scan(iterate, carry, (keys, jnp.arange(total)))
    return Chains(states[burn_in:], jnp.mean(accepted), size)


def only(
    mask: Callable[[Points], Bool[Array, " chains"]], evaluate: Evaluate, *context: Any, block: int = 16
) -> Evaluate:
    """`evaluate(x, *context)` for the rows of x where `mask(x)` holds, NaN (a rejection) for the others.

    On a CPU it costs what those rows cost, a block at a time; other devices compute them all.

    Args:
      context: arrays with one row for each of x's.
    """

    def everywhere(x: Array, inside: Array, *context: Any) -> tuple[Array, Array]:
        value, gradient = evaluate(x, *context)
        return jnp.where(inside, value, jnp.nan), jnp.where(inside[:, None], gradient, jnp.nan)

    def somewhere(x: Array, inside: Array, *context: Any) -> tuple[Array, Array]:
        order = jnp.argsort(~inside)  # the rows that count come first
        size = min(block, len(x))

        def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            i, value, gradient = carry
            rows = jax.lax.dynamic_slice_in_dim(order, i, size)  # the last block may reach back: no harm
            part = jax.tree.map(lambda array: array[rows], (x, inside, *context))
            new_value, new_gradient = everywhere(*part)
            return i + size, value.at[rows].set(new_value), gradient.at[rows].set(new_gradient)

        start = (jnp.zeros((), order.dtype), jnp.full(len(x), jnp.nan), jnp.full_like(x, jnp.nan))
        return jax.lax.while_loop(lambda carry: carry[0] < jnp.sum(inside), step, start)[1:]

    def chosen(x: Points) -> tuple[LogDensity, Points]:
        return jax.lax.platform_dependent(x, mask(x), *context, cpu=somewhere, default=everywhere)

    return chosen
