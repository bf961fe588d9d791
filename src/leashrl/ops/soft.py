"""SAC's policy objective, for whoever maximises a value and entropy."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from leashrl.dist import Normal, squash_log_prob
from leashrl.types import Array


def policy_loss(params: Any, apply: Callable, value: Callable, obs: Array, key: Array, alpha: Array):
    """E[alpha log pi(a|s) - value(a)] over a ~ pi, a tanh-Gaussian; and the policy's entropy.

    Haarnoja et al. (2018, arXiv 1812.05905), equation 9.

    Args:
      apply: `(params, obs) -> (mean, log_std)` before tanh.
      value: actions (batch, dim) -> (batch,).
    """
    pi = Normal(*apply(params, obs))
    u = pi.sample(key)
    log_pi = squash_log_prob(pi, u)
    return jnp.mean(alpha * log_pi - value(jnp.tanh(u))), -jnp.mean(log_pi)
