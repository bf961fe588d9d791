"""Action distributions, held in the pre-tanh coordinate u so that nothing is ever inverted twice."""

import math

import jax
import jax.numpy as jnp

from leashrl.types import Array, pytree

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


@pytree
class Normal:
    """A diagonal Gaussian over u, shapes (..., dim). `TanhNormal` squashes it to actions a = tanh(u)."""

    mean: Array
    log_std: Array

    def sample(self, key: Array, shape: tuple[int, ...] = ()) -> Array:
        """Reparameterised samples `(*shape, ..., dim)`."""
        noise = jax.random.normal(key, (*shape, *self.mean.shape))
        lead = (None,) * len(shape)
        return self.mean[lead] + jnp.exp(self.log_std)[lead] * noise

    def log_prob(self, u: Array) -> Array:
        """log N(u; mean, std), summed over the last axis. `u` has the distribution's rank.

        >>> float(Normal(jnp.zeros(1), jnp.zeros(1)).log_prob(jnp.zeros(1))) + LOG_SQRT_2PI
        0.0
        """
        z = (u - self.mean) * jnp.exp(-self.log_std)
        return jnp.sum(-0.5 * z**2 - self.log_std - LOG_SQRT_2PI, axis=-1)


def log_det_tanh(u: Array) -> Array:
    """log |da/du| of a = tanh(u): sum of log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)).

    >>> round(float(log_det_tanh(jnp.array([0.0]))), 6)
    0.0
    """
    return jnp.sum(2.0 * (math.log(2.0) - u - jax.nn.softplus(-2.0 * u)), axis=-1)


def squash_log_prob(normal: Normal, u: Array) -> Array:
    """log density of the action tanh(u) under the squashed Gaussian."""
    return normal.log_prob(u) - log_det_tanh(u)


def mixture_log_prob(components: Normal, u: Array) -> Array:
    """log of the mean of n densities, `log (1/n) sum_i N(u; mean_i, std_i)`.

    Args:
      components: (n, dim).
      u: (..., dim); the result is (...).

    >>> two = Normal(jnp.array([[-1.0], [1.0]]), jnp.zeros((2, 1)))
    >>> float(jnp.exp(mixture_log_prob(two, jnp.zeros(1))) * math.sqrt(2 * math.pi * math.e))
    1.0000
    """
    lead = (None,) * (u.ndim - 1)
    each = Normal(components.mean[lead], components.log_std[lead]).log_prob(u[..., None, :])
    return jax.nn.logsumexp(each, axis=-1) - math.log(components.mean.shape[0])


def kl_to_standard(normal: Normal) -> Array:
    """KL(N(mean, std) || N(0, I)), summed over the last axis.

    >>> float(kl_to_standard(Normal(jnp.ones(2), jnp.zeros(2))))
    1.0
    """
    square = normal.mean**2 + jnp.exp(2 * normal.log_std)
    return jnp.sum(0.5 * (square - 1.0) - normal.log_std, axis=-1)


def unsquash(action: Array, margin: float) -> Array:
    """u = atanh(a), with the action first clipped to ±(1 - margin): data hold exact ±1."""
    limit = 1.0 - margin
    return jnp.arctanh(jnp.clip(action, -limit, limit))
