"""Lower bounds of the mutual information between states and actions (MISA).

Each bound reads  I(S;A) >= H(A) + E_data[log pi(a|s)] + E_data[T(s,a)] - log_partition(T), where the
energies of k actions drawn from the policy estimate the last term (Ma et al. 2023, arXiv 2210.07484,
equations 8 to 10). With T dropped altogether it is the Barber-Agakov bound. The gradient of the last
term with respect to each energy is what both sides of the algorithm need: as weights of the critic's
push-down and, by equation 15, as weights of the policy's correction. One function gives it for all bounds.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, PRNGKeyArray

from leashrl.types import Array

Energies = Float[Array, "batch k"]

BOUNDS = ("misa", "dv", "f", "ba")
MAX_EXPONENT = 20.0
"""Above it `f`'s exponential goes on as its tangent: e^20 is 5e8, and float32 ends at e^88."""


def log_mean_exp(x: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    """log((1/n) sum e^x), without overflow.

    >>> round(float(log_mean_exp(jnp.log(jnp.array([1.0, 3.0])))), 6) == round(math.log(2.0), 6)
    True
    """
    n = (
        x.size
        if axis is None
        else math.prod(x.shape[a] for a in (axis if isinstance(axis, tuple) else (axis,)))
    )
    return jax.nn.logsumexp(x, axis=axis) - math.log(n)


def safe_exp(x: Array) -> Array:
    """e^x up to MAX_EXPONENT, its tangent beyond: finite, and still sloping."""
    top = math.exp(MAX_EXPONENT)
    return jnp.where(x < MAX_EXPONENT, jnp.exp(jnp.minimum(x, MAX_EXPONENT)), top * (1.0 + x - MAX_EXPONENT))


def log_partition(bound: str, energies: Energies) -> Float[Array, ""]:
    """What a bound subtracts, estimated from `energies` of k policy actions a state.

    misa: mean_s log mean_k e^T (eq. 10) · dv: log mean_{s,k} e^T (eq. 9) · f: mean_{s,k} e^{T-1} (eq. 8)
    · ba: 0. For any energies  misa <= dv <= f  (Jensen; log x <= x/e), so the bounds order the other way.

    >>> x = jnp.array([[0.0, 0.0], [2.0, 2.0]])
    >>> [round(float(log_partition(b, x)), 4) for b in ("misa", "dv", "f", "ba")]
    [1.0, 1.4338, 1.5431, 0.0]
    """
    if bound == "misa":
        return jnp.mean(log_mean_exp(energies, axis=-1))
    if bound == "dv":
        return log_mean_exp(energies)
    if bound == "f":
        return jnp.mean(safe_exp(energies - 1.0))
    return jnp.zeros(())


def weights(bound: str, energies: Energies) -> Energies:
    """d log_partition / d energies: how strongly the bound pushes each energy down.

    Self-normalised within each state for `misa` (they sum to 1/batch a state), over the whole batch
    for `dv`, not normalised for `f`, zero for `ba`.

    >>> weights("misa", jnp.zeros((1, 2))).tolist()
    [[0.5, 0.5]]
    """
    return jax.grad(lambda e: log_partition(bound, e))(energies)


def effective_sample_size(weights: Float[Array, "batch k"]) -> Float[Array, ""]:
    """(sum_k w)^2 / sum_k w^2, averaged over states: between 1 and k.

    >>> float(effective_sample_size(jnp.array([[1.0, 1.0, 0.0, 0.0]])))
    2.0
    """
    tiny = jnp.finfo(weights.dtype).tiny
    return jnp.mean(jnp.sum(weights, -1) ** 2 / jnp.maximum(jnp.sum(weights**2, -1), tiny))


def resample(
    key: PRNGKeyArray, weights: Float[Array, "batch k"], m: int
) -> tuple[Int[Array, "batch m"], Float[Array, " batch"]]:
    """Draw m of the k actions of each state in proportion to their weights.

    `sum_s mass_s mean_j T(s, a_index[s, j])` then has the expectation `sum_{s,k} w_{s,k} T(s, a_k)`, so
    that a backward pass over m actions estimates the gradient of `log_partition` without bias. The
    m draws of a state are stratified (systematic resampling: one uniform number a state), which keeps
    the expectation and lowers the variance.

    Args:
      weights: non-negative.
      m: draws a state.

    Returns:
      index into the k actions, and mass = sum_k weights.

    >>> index, mass = resample(jax.random.key(0), jnp.array([[0.0, 0.25, 0.0]]), 2)
    >>> index.tolist(), mass.tolist()
    ([[1, 1]], [0.25])
    """
    batch, k = weights.shape
    cumulative = jnp.cumsum(weights, axis=-1)
    mass = cumulative[:, -1]
    strata = jnp.arange(m, dtype=weights.dtype)[None] + jax.random.uniform(key, (batch, 1))
    points = strata / m * mass[:, None]
    index = jnp.sum(points[:, :, None] >= cumulative[:, None, :], axis=-1)
    return jnp.minimum(index, k - 1), mass
