"""SAC's policy objective, for whoever maximises a value and entropy."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from leashrl.dist import Normal, squash_log_prob
from leashrl.types import Array


def policy_loss(
    params: Any,
    apply: Callable,
    value: Callable[[Float[Array, "batch dim"]], Float[Array, " batch"]],
    obs: Float[Array, "batch obs_dim"],
    key: PRNGKeyArray,
    alpha: Float[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """E[alpha log pi(a|s) - value(a)] over a ~ pi, a tanh-Gaussian; and the policy's entropy.

    Haarnoja et al. (2018, arXiv 1812.05905), equation 9.

    Args:
      apply: `(params, obs) -> (mean, log_std)` before tanh.
      value: of actions, after tanh.
    """
    pi = Normal(*apply(params, obs))
    u = pi.sample(key)
    log_pi = squash_log_prob(pi, u)
    return jnp.mean(alpha * log_pi - value(jnp.tanh(u))), -jnp.mean(log_pi)
