"""Action distributions, held in the pre-tanh coordinate u so that nothing is ever inverted twice."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, PRNGKeyArray

from leashrl.types import Array, pytree

Each = Float[Array, "*batch"]
Points = Float[Array, "*batch dim"]
Components = Float[Array, "*batch components dim"]
OfComponents = Float[Array, "*batch components"]
OfActions = Float[Array, "*batch n"]

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


@pytree
class Normal:
    """A diagonal Gaussian over u. `squash_log_prob` has the density of actions a = tanh(u)."""

    mean: Points
    log_std: Points

    def sample(self, key: PRNGKeyArray, shape: tuple[int, ...] = ()) -> Float[Array, "... dim"]:
        """Reparameterised samples `(*shape, ..., dim)`."""
        noise = jax.random.normal(key, (*shape, *self.mean.shape))
        lead = (None,) * len(shape)
        return self.mean[lead] + jnp.exp(self.log_std)[lead] * noise

    def draws(self, key: PRNGKeyArray, n: int) -> Float[Array, "batch k dim"]:
        """k = n samples for each of a batch."""
        return jnp.moveaxis(self.sample(key, (n,)), 0, 1)

    def each(self) -> "Normal":
        """As (batch, 1, dim): to be asked about `draws`, or several points per state."""
        return Normal(self.mean[:, None], self.log_std[:, None])

    def log_prob(self, u: Float[Array, "*#batch dim"]) -> Each:
        """log N(u; mean, std), summed over the last axis. `u` has the distribution's rank.

        >>> float(Normal(jnp.zeros(1), jnp.zeros(1)).log_prob(jnp.zeros(1))) + LOG_SQRT_2PI
        0.0
        """
        z = (u - self.mean) * jnp.exp(-self.log_std)
        return jnp.sum(-0.5 * z**2 - self.log_std - LOG_SQRT_2PI, axis=-1)


def log_det_tanh(u: Points) -> Each:
    """log |da/du| of a = tanh(u): sum of log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)).

    >>> round(float(log_det_tanh(jnp.array([0.0]))), 6)
    0.0
    """
    return jnp.sum(2.0 * (math.log(2.0) - u - jax.nn.softplus(-2.0 * u)), axis=-1)


def squash_log_prob(normal: Normal, u: Points) -> Each:
    """log density of the action tanh(u) under the squashed Gaussian."""
    return normal.log_prob(u) - log_det_tanh(u)


@pytree
class Mixture:
    """A weighted mixture of diagonal Gaussians over u.

    With an own mixture for each action dimension, as Fisher-BRC has it, logits are (..., dim, components)
    and means (..., dim, components, 1): see `independent_log_prob`.
    """

    logits: OfComponents
    mean: Components
    log_std: Components

    @staticmethod
    def even(components: Normal) -> "Mixture":
        """Equal weights, of components (..., components, dim)."""
        return Mixture(jnp.zeros(components.mean.shape[:-1]), components.mean, components.log_std)

    def log_prob(self, u: Points) -> Each:
        """log sum_i w_i N(u; mean_i, std_i), w = softmax(logits). `u` may have leading axes more.

        >>> two = Mixture.even(Normal(jnp.array([[-1.0], [1.0]]), jnp.zeros((2, 1))))
        >>> float(jnp.exp(two.log_prob(jnp.zeros(1))) * math.sqrt(2 * math.pi * math.e))
        1.0000
        """
        lead = (None,) * (u.ndim + 1 - self.mean.ndim)
        each = Normal(self.mean[lead], self.log_std[lead]).log_prob(u[..., None, :])
        return jax.nn.logsumexp(jax.nn.log_softmax(self.logits)[lead] + each, axis=-1)

    def sample(self, key: PRNGKeyArray) -> Points:
        """One draw of each mixture: first its component, which no gradient runs through."""
        key_component, key_noise = jax.random.split(key)
        index = jax.random.categorical(key_component, self.logits)[..., None, None]
        chosen = [jnp.take_along_axis(x, index, axis=-2)[..., 0, :] for x in (self.mean, self.log_std)]
        return Normal(*chosen).sample(key_noise)

    def sample_each(self, key: PRNGKeyArray) -> Components:
        """One draw of every component: see `expect`."""
        return Normal(self.mean, self.log_std).sample(key)

    def expect(self, values: OfComponents) -> Each:
        """sum_i w_i values_i, one for each component's draw.

        An unbiased estimate of E[f(u)] whose gradient is unbiased too: choosing a component is discrete, so a
        draw of the mixture has none in the weights.
        """
        return jnp.sum(jax.nn.softmax(self.logits) * values, axis=-1)


def independent_log_prob(mixture: Mixture, u: Points) -> Each:
    """log density of u where every dimension has a mixture of its own: the sum of theirs."""
    return jnp.sum(mixture.log_prob(u[..., None]), axis=-1)


@pytree
class Categorical:
    """Actions 0 .. n - 1 with probabilities softmax(logits)."""

    logits: OfActions

    @property
    def log_probs(self) -> OfActions:
        """Of every action."""
        return jax.nn.log_softmax(self.logits)

    def log_prob(self, action: Int[Array, "*#batch"]) -> Each:
        """Of integer actions.

        >>> two = Categorical(jnp.log(jnp.array([[1.0, 3.0]])))
        >>> float(jnp.exp(two.log_prob(jnp.array([1]))[0]))
        0.75
        """
        return taken(self.log_probs, action)

    def expect(self, values: OfActions) -> Each:
        """E[values(a)]: a sum, not a sample."""
        return jnp.sum(jnp.exp(self.log_probs) * values, axis=-1)

    def entropy(self) -> Each:
        """In nats."""
        return -self.expect(self.log_probs)


def taken(values: OfActions, action: Int[Array, "*#batch"]) -> Each:
    """values[..., action] of integer actions, which may lack leading axes.

    >>> taken(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1, 0])).tolist()
    [2.0, 3.0]
    """
    index = jnp.broadcast_to(action, values.shape[:-1])
    return jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]


def kl_to_standard(normal: Normal) -> Each:
    """KL(N(mean, std) || N(0, I)), summed over the last axis.

    >>> float(kl_to_standard(Normal(jnp.ones(2), jnp.zeros(2))))
    1.0
    """
    square = normal.mean**2 + jnp.exp(2 * normal.log_std)
    return jnp.sum(0.5 * (square - 1.0) - normal.log_std, axis=-1)


def kl(p: Normal, q: Normal) -> Each:
    """KL(p || q) of two diagonal Gaussians, summed over the last axis. Shapes broadcast at equal rank.

    >>> one = Normal(jnp.ones(2), jnp.zeros(2))
    >>> float(kl(one, Normal(jnp.zeros(2), jnp.zeros(2)))), float(kl(one, one))
    (1.0, 0.0)
    """
    ratio = jnp.exp(2.0 * (p.log_std - q.log_std))
    square = ((p.mean - q.mean) * jnp.exp(-q.log_std)) ** 2
    return jnp.sum(0.5 * (ratio + square - 1.0) + q.log_std - p.log_std, axis=-1)


def unsquash(action: Points, margin: float | Float[Array, ""]) -> Points:
    """u = atanh(a), with the action first clipped to ±(1 - margin): data hold exact ±1."""
    limit = 1.0 - margin
    return jnp.arctanh(jnp.clip(action, -limit, limit))
