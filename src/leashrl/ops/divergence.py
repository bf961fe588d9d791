"""How far a policy is from the behaviour that made the data: KL, bounds of it, MMD, dual forms.

All values are per state, so that a multiplier may weigh each state on its own.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from leashrl.dist import Mixture, Normal, kl, kl_to_standard
from leashrl.ops.mi import safe_exp
from leashrl.types import Array

KERNELS = ("laplacian", "gaussian")


def kl_to_mixture(p: Normal, q: Mixture) -> Float[Array, "*batch"]:
    """An upper bound of KL(p || sum_i w_i q_i): -log sum_i w_i e^{-KL(p || q_i)}, exact for one component.

    By Jensen for any weights phi, E_p log sum w_i q_i >= sum phi_i (log w_i/phi_i + E_p log q_i), at its
    best for phi_i ~ w_i e^{-KL(p || q_i)} (Hershey & Olsen 2007, ICASSP, equation 18).

    >>> p = Normal(jnp.zeros(1), jnp.zeros(1))
    >>> float(kl_to_mixture(p, Mixture.even(Normal(jnp.ones((2, 1)), jnp.zeros((2, 1))))))
    0.5
    """
    each = kl(Normal(p.mean[..., None, :], p.log_std[..., None, :]), Normal(q.mean, q.log_std))
    return -jax.nn.logsumexp(jax.nn.log_softmax(q.logits) - each, axis=-1)


def kl_bound(pi: Normal, decoded: Normal | Mixture, posterior: Normal) -> Float[Array, "*batch"]:
    """KL(pi || p(.|s, z)) + KL(q || N(0, I)): above KL(pi(.|s) || behaviour(.|s)) in expectation over z ~ q.

    BRAC+'s equation 7. The gap is the mean KL from q to the decoder's true posterior of z given the
    policy's action: none where that does not depend on the action and q equals it.

    Args:
      pi: (..., dim) the policy over pre-tanh actions; both Jacobians cancel.
      decoded: (..., dim) p(.|s, z) at one z ~ posterior.
      posterior: (..., latent) q(z|s, u) of a policy action u, or any other distribution of z.
    """
    first = kl_to_mixture(pi, decoded) if isinstance(decoded, Mixture) else kl(pi, decoded)
    return first + kl_to_standard(posterior)


def mmd(
    x: Float[Array, "batch k dim"],
    y: Float[Array, "batch m dim"],
    kernel: str,
    sigma: Float[Array, ""] | float,
) -> Float[Array, " batch"]:
    """Squared maximum mean discrepancy E k(x, x') - 2 E k(x, y) + E k(y, y'), with diagonals (V-statistic).

    k(x, y) = exp(-d / (2 sigma)), with d = |x - y|_1 (`laplacian`) or |x - y|^2 (`gaussian`): BEAR's and
    BRAC+'s convention. BRAC's exp(-d / sigma) is half of that sigma (Gretton et al. 2007).

    >>> round(float(mmd(jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1)), "gaussian", 0.5)[0]), 4)
    1.2642
    """

    def mean_kernel(a: Array, b: Array) -> Array:
        gap = a[:, :, None] - b[:, None]
        distance = jnp.sum(jnp.abs(gap) if kernel == "laplacian" else gap**2, axis=-1)
        return jnp.mean(jnp.exp(-distance / (2.0 * sigma)), axis=(1, 2))

    return mean_kernel(x, x) - 2.0 * mean_kernel(x, y) + mean_kernel(y, y)


def root(square: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """sqrt(x + 1e-6): the discrepancy itself, 1e-3 and with a slope at 0, as in the public codes."""
    return jnp.sqrt(jnp.maximum(square, 0.0) + 1e-6)


def dual(
    kind: str, policy: Float[Array, "batch k"], behaviour: Float[Array, "batch k"]
) -> Float[Array, " batch"]:
    """A divergence from a critic g of state and action, which climbs it.

    `kl`: E_pi g - E_mu e^{g-1} <= KL(pi || mu), equal where g = 1 + log pi/mu (Nguyen et al. 2010).
    `w`: E_pi g - E_mu g, Wasserstein's distance at the best g of slope 1 (Arjovsky et al. 2017). BRAC's
    dual forms (Wu et al. 2019, appendix).
    """
    other = safe_exp(behaviour - 1.0) if kind == "kl" else behaviour
    return jnp.mean(policy, axis=-1) - jnp.mean(other, axis=-1)


def density_loss(
    log_prob_data: Float[Array, " batch"], log_prob_own: Float[Array, " batch"], alpha: Any
) -> Float[Array, ""]:
    """-E_D log mu(a) + alpha E log mu(a'), a' ~ mu: cloning with an entropy bonus (BRAC, Fisher-BRC)."""
    return jnp.mean(alpha * log_prob_own) - jnp.mean(log_prob_data)


def elbo_loss(
    decoded: Normal | Mixture, posterior: Normal, x: Float[Array, "*batch dim"]
) -> Float[Array, "*batch"]:
    """-(log p(x|s, z) - KL(q || N(0, I))): minus the evidence lower bound of log p(x|s)."""
    return kl_to_standard(posterior) - decoded.log_prob(x)
