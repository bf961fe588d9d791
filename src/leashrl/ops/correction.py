"""Equation 15 of MISA: the policy's gradient of log Z, by samples of p(a|s) ~ pi(a|s) e^{T(s,a)}.

Every estimator but `reparam` returns pre-tanh points u and weights w such that the gradient of
`sum w log N(u; mean, std)` in the policy's parameters estimates the gradient of the bound's
log-partition term. (The tanh Jacobian does not depend on the parameters and drops out.)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from leashrl.dist import Normal, squash_log_prob
from leashrl.ops import mcmc, mi
from leashrl.ops.blocks import sweep
from leashrl.types import Array

Scalar = Float[Array, ""]
Obs = Float[Array, "batch obs_dim"]
Action = Float[Array, "batch dim"]
Samples = Float[Array, "batch k dim"]
Energies = Float[Array, "batch k"]

ESTIMATORS = ("snis", "hmc", "hmc-action", "reparam", "none")
Energy = Callable[[Float[Array, "rows obs_dim"], Float[Array, "rows dim"]], Float[Array, " rows"]]
"""T(s, a)."""


class Chain(NamedTuple):
    """How long and how boldly HMC walks."""

    samples: int
    burn_in: int
    leapfrog: int
    adapt: int
    step_size: Scalar


class Points(NamedTuple):
    u: Float[Array, "batch samples dim"]
    weight: Float[Array, "batch samples"]
    acceptance: Scalar  # share of accepted HMC proposals, 1 without a chain


def correction(
    estimator: str,
    bound: str,
    apply: Callable,
    params: Any,
    pi: Normal,
    obs: Obs,
    samples: Samples,
    energies: Energies,
    *,
    action: Action,
    key: PRNGKeyArray,
    chain: Chain,
) -> tuple[Callable[[Normal], Scalar], Scalar]:
    """`new -> scalar`, whose gradient in the policy's parameters is that of log Z; HMC's acceptance.

    Args:
      estimator: one of ESTIMATORS; `reparam` is log Z itself, through the policy's samples, and `none` 0.
      apply, params: of a critic, whose smallest member is T.
      pi: the policy as it is, mean and log_std (batch, dim), at `obs`.
      samples: pre-tanh policy samples, with `energies` T at their actions.
      action: the data's, inside (-1, 1).
    """
    if estimator == "none":
        return lambda new: jnp.zeros(()), jnp.ones(())
    if estimator == "reparam":
        noise = (samples - pi.mean[:, None]) * jnp.exp(-pi.log_std)[:, None]

        def log_z(new: Normal) -> Array:
            a = jnp.tanh(new.mean[:, None] + jnp.exp(new.log_std)[:, None] * noise)
            return mi.log_partition(bound, jnp.min(sweep(apply, params, obs, a), axis=0))

        return log_z, jnp.ones(())

    def energy(obs: Array, action: Array) -> Array:
        return jnp.min(apply(params, obs, action), axis=0)

    if estimator == "snis":
        points = importance(bound, samples, energies)
    elif estimator == "hmc":
        points = whitened(bound, pi, obs, samples, energies, energy, key, chain)
    else:
        points = in_action_space(bound, pi, obs, energies, energy, action, key, chain)
    return lambda new: jnp.sum(points.weight * new.each().log_prob(points.u)), points.acceptance


def importance(bound: str, samples: Samples, energies: Energies) -> Points:
    """`snis`: the k policy samples that estimate log Z, with its own derivatives as weights.

    Args:
      samples: pre-tanh policy samples.
      energies: T at their actions.
    """
    return Points(samples, mi.weights(bound, energies), jnp.ones(()))


def whitened(
    bound: str,
    pi: Normal,
    obs: Obs,
    samples: Samples,
    energies: Energies,
    energy: Energy,
    key: PRNGKeyArray,
    chain: Chain,
) -> Points:
    """`hmc`: Hamiltonian Monte Carlo in z = (u - mean) / std.

    There the target is log N(z; 0, 1) + T(tanh(mean + std z)): the Jacobians of policy and target cancel,
    nothing lies outside, and one step size fits narrow and wide policies. Chains start at a weighted draw
    of the policy samples, near their target from the first step.

    Args:
      pi: mean and log_std (batch, dim), at `obs`.
      samples, energies: as `importance` takes them.
    """
    weights = mi.weights(bound, energies)
    key_start, key_chain = jax.random.split(key)
    start, _ = mi.resample(key_start, weights, 1)
    std = jnp.exp(pi.log_std)
    z = (jnp.take_along_axis(samples, start[..., None], axis=1)[:, 0] - pi.mean) / std

    def log_prob(z: Array) -> Array:
        return -0.5 * jnp.sum(z**2, axis=-1) + energy(obs, jnp.tanh(pi.mean + std * z))

    chains = _run(mcmc.differentiate(log_prob), z, key_chain, chain)
    return _weighted(pi.mean[None] + std[None] * chains.samples, weights, chains)


def in_action_space(
    bound: str,
    pi: Normal,
    obs: Obs,
    energies: Energies,
    energy: Energy,
    action: Action,
    key: PRNGKeyArray,
    chain: Chain,
) -> Points:
    """`hmc-action`: HMC on the action itself, started from the data's, as MISA's authors run it.

    A proposal outside (-1, 1) has no pre-tanh value and is rejected. At the authors' step that is nearly
    every proposal, so the critic is asked about those inside only.

    Args:
      action: the data's, inside (-1, 1).
    """

    def log_prob(a: Array, pi: Normal, obs: Array) -> Array:
        return squash_log_prob(pi, jnp.arctanh(a)) + energy(obs, a)

    def inside(a: Array) -> Array:
        return jnp.all(jnp.abs(a) < 1.0, axis=-1)

    chains = _run(mcmc.only(inside, mcmc.differentiate(log_prob), pi, obs), action, key, chain)
    return _weighted(jnp.arctanh(chains.samples), mi.weights(bound, energies), chains)


def _run(evaluate: mcmc.Evaluate, start: Array, key: Array, chain: Chain) -> mcmc.Chains:
    return mcmc.hmc(
        evaluate,
        start,
        key,
        samples=chain.samples,
        burn_in=chain.burn_in,
        leapfrog=chain.leapfrog,
        step_size=chain.step_size,
        adapt=min(chain.adapt, chain.burn_in),
    )


def _weighted(u: Array, weights: Array, chains: mcmc.Chains) -> Points:
    """Within a state all samples of its chain count alike; a state counts as its policy samples do."""
    u = jnp.moveaxis(u, 0, 1)
    mass = jnp.sum(weights, axis=-1, keepdims=True)
    return Points(u, jnp.broadcast_to(mass / u.shape[1], u.shape[:2]), chains.acceptance)
