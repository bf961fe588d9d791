"""Hamiltonian Monte Carlo: many independent chains, one scalar step size."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from leashrl.types import Array, pytree


@pytree
class Chains:
    """What a run of HMC leaves behind."""

    samples: Array  # (samples, chains, dim)
    acceptance: Array  # () share of accepted proposals
    step_size: Array  # () after adaptation


def hmc(
    log_prob: Callable[[Array], Array],
    init: Array,
    key: Array,
    *,
    samples: int,
    burn_in: int,
    leapfrog: int,
    step_size: Array,
    adapt: int = 0,
) -> Chains:
    """Sample `exp(log_prob)` from every row of `init` (Neal 2011, arXiv 1206.1901, section 5.2).

    Momenta are standard normal; a proposal that is not finite is rejected. During the first `adapt`
    iterations the step size moves by 1 % up or down as the mean acceptance probability is above or
    below 0.75. The gradient at a chain's current point is carried along, so that an iteration costs
    `leapfrog` gradient evaluations.

    Args:
      log_prob: (chains, dim) -> (chains,), unnormalised.
      init: (chains, dim).
      samples: states kept a chain, after `burn_in` dropped ones.
    """
    value_and_grad = jax.value_and_grad(lambda x: _sum_with_values(log_prob(x)), has_aux=True)

    def evaluate(x: Array) -> tuple[Array, Array]:
        (_, value), gradient = value_and_grad(x)
        return value, gradient

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


def _sum_with_values(values: Array) -> tuple[Array, Array]:
    return jnp.sum(values), values
