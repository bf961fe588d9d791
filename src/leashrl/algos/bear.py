"""BEAR: Bootstrapping Error Accumulation Reduction (Kumar et al., NeurIPS 2019, arXiv 1906.00949)."""

import dataclasses
import math
from dataclasses import field
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.algos import presets
from leashrl.algos.common import best_of, choice, continuous, positive, share, within
from leashrl.core import HP, Algorithm, Entry, Preprocess, Stage, uniform
from leashrl.dist import Normal, kl_to_standard
from leashrl.models.behaviour import LATENT_LIMIT
from leashrl.ops import divergence, dual, td
from leashrl.optim import begin, descend
from leashrl.types import Array, Batch, Spec, pytree

# --- Config ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    r"""BEAR: the policy maximises Q while its samples stay within an MMD of the behaviour's.

    Behaviour: a conditional variational autoencoder $\mu$ of actions, trained all along,
    $\min E_D\|\hat a - a\|^2/d + \tfrac12 KL(q(z|s,a)\,\|\,N(0, I))/\dim z$. Critics, with
    `candidates` actions $a'_j$ of the policy at s' and $\lambda$ = `mix`:

    $$E_D(Q_i - y)^2,\quad y = r + \gamma\max_j (\lambda\min_i + (1-\lambda)\max_i)\,Q'_i(s', a'_j)$$

    Policy, the multiplier $\beta$ by dual descent on its constraint, after a time with the MMD alone:

    $$\max_\pi\ E[\min_i Q_i(s, a_\pi)]\quad\text{subject to}\quad
      \mathrm{MMD}(\pi(\cdot|s), \mu(\cdot|s)) \le \varepsilon$$

    on pre-tanh actions, $\mu$'s sampled with its latent cut off at a half.

    Args:
      steps: gradient updates.
      policy_only_percent: for so many of `steps` in percent, the policy minimises the MMD alone.
      batch_size: transitions an update.
      preprocess: what is done to observations and rewards before training.
      hidden: widths of the policy's and critics' hidden layers.
      behaviour_hidden: widths of the autoencoder's hidden layers.
      ensemble: number of critics.
      candidates: actions at s' among which a target takes the best.
      samples: actions a state of policy and behaviour in the MMD.
      kernel: `laplacian` or `gaussian`.
      target_policy: targets act with an averaged policy (the original code) or the policy (rlkit's).
      mean_value: the policy's Q over all its `samples` (the original) or the first (rlkit's).
      best_of: actions among which evaluation chooses by the first critic.
      gamma: discount.
      polyak: rate of target critics and target policy.
      mix: lambda above.
      threshold: epsilon.
      sigma: of the kernel exp(-d / (2 sigma)).
      policy_rate, critic_rate, alpha_rate, behaviour_rate: Adam's learning rates; `alpha_rate` is beta's.

    References:
      Kumar et al. (2019), arXiv 1906.00949; two public codes: docs/algorithms/bear.md.
    """

    steps: int = 1_000_000
    policy_only_percent: int = 4
    batch_size: int = 256
    preprocess: Preprocess = field(default_factory=Preprocess)
    precision: str = "auto"
    hidden: tuple[int, ...] = (256, 256)
    behaviour_hidden: tuple[int, ...] = (750, 750)
    ensemble: int = 2
    candidates: int = 10
    samples: int = 4
    kernel: str = "gaussian"
    target_policy: bool = False
    mean_value: bool = False
    best_of: int = 100
    gamma: float = 0.99
    polyak: float = 0.005
    mix: float = 0.75
    threshold: float = 0.05
    sigma: float = 50.0
    policy_rate: float = 1e-4
    critic_rate: float = 3e-4
    alpha_rate: float = 1e-3
    behaviour_rate: float = 3e-4

    def __post_init__(self) -> None:
        choice("kernel", self.kernel, divergence.KERNELS)
        positive(self, "ensemble", "candidates", "samples", "best_of")
        within(self, 0, 1, "gamma", "polyak", "mix")
        within(self, 0, math.inf, "policy_rate", "critic_rate", "alpha_rate", "behaviour_rate", "sigma")


LOG_BETA = (-5.0, 10.0)

# --- State -------------------------------------------------------------------


@pytree
class State:
    behaviour: dict
    policy: dict
    target_policy: dict
    critic: dict  # leading ensemble axis
    target_critic: dict
    log_beta: Array  # () logarithm of the constraint's multiplier
    optimiser: dict  # Adam's moments of all but the targets
    hp: HP


# --- Losses ------------------------------------------------------------------


def behaviour_loss(params, vae: nn.Vae, batch: Batch, key: Array):
    """E_D|a' - a|^2 / d + KL(q || N(0, I)) / (2 latent), a' = tanh(decoder)."""
    posterior = vae.encode(params, batch.obs, batch.action)
    error = jnp.mean((jnp.tanh(vae.decode(params, batch.obs, posterior.sample(key))) - batch.action) ** 2)
    return error + 0.5 * jnp.mean(kl_to_standard(posterior)) / vae.latent, error


def policy_loss(
    params, policy: nn.Network, value, other: Array, obs, noise: Array, beta, on, config: Config, hp
):
    """E[beta (MMD - epsilon) - on * min_i Q_i], and MMD and Q.

    Args:
      value: actions (batch, n, dim) -> smallest Q (batch, n).
      other: (batch, samples, dim) the behaviour's pre-tanh actions.
      noise: (batch, samples, dim) standard normal.
    """
    pi = Normal(*policy.apply(params, obs))
    u = pi.mean[:, None] + jnp.exp(pi.log_std)[:, None] * noise
    apart = divergence.root(divergence.mmd(u, other, config.kernel, hp["sigma"]))
    q = jnp.mean(value(jnp.tanh(u if config.mean_value else u[:, :1])), axis=-1)
    loss = jnp.mean(beta * (apart - hp["threshold"]) - on * q)
    return loss, (jnp.mean(apart), jnp.mean(q), jnp.mean(jnp.exp(pi.log_std)))


# --- Build -------------------------------------------------------------------


class Networks(NamedTuple):
    """What a state's parameters are applied with."""

    policy: nn.Network
    critic: nn.Network
    behaviour: nn.Vae
    config: Config
    dim: int


def networks(config: Config, spec: Spec) -> Networks:
    dim = continuous("bear", spec).dim
    return Networks(
        nn.gaussian(spec.obs_dim, dim, config.hidden),
        nn.critic(spec.obs_dim, dim, config.hidden, ensemble=config.ensemble),
        nn.vae(spec.obs_dim, dim, 2 * dim, config.behaviour_hidden, components=0, bound="clip"),
        config,
        dim,
    )


def build(config: Config, spec: Spec) -> Algorithm:
    """BEAR for continuous actions in [-1, 1]^d."""
    n, alone = networks(config, spec), share(config.steps, config.policy_only_percent)
    stage = Stage("train", config.steps, uniform(config.batch_size), partial(update, n, alone))
    acting = best_of(n.policy, n.critic, config.best_of, modes=("best", "mean", "sample"))
    return Algorithm(partial(init, n), (stage,), acting)


def init(n: Networks, key: Array, hp: HP) -> State:
    keys = jax.random.split(key, 3)
    params = {
        "behaviour": n.behaviour.init(keys[0]),
        "policy": n.policy.init(keys[1]),
        "critic": n.critic.init(keys[2]),
        "log_beta": jnp.zeros(()),
    }
    return begin(State, params, hp, targets=("policy", "critic"))


# --- What an update needs ----------------------------------------------------


def targets(n: Networks, state: State, batch: Batch, key: Array) -> Array:
    mix = state.hp["mix"]
    acting = state.target_policy if n.config.target_policy else state.policy
    a = jnp.tanh(Normal(*n.policy.apply(acting, batch.next_obs)).draws(key, n.config.candidates))
    each = n.critic.apply(state.target_critic, batch.next_obs, a)  # (ensemble, batch, candidates)
    mixed = mix * jnp.min(each, axis=0) + (1 - mix) * jnp.max(each, axis=0)
    return td.target(batch.reward, batch.discount, jnp.max(mixed, axis=-1))


def behaviour_actions(n: Networks, state: State, obs: Array, key: Array) -> Array:
    """(batch, samples, dim) pre-tanh."""
    shape = (obs.shape[0], n.config.samples)
    latent = jax.random.normal(key, (*shape, n.behaviour.latent))
    latent = jnp.clip(latent, -LATENT_LIMIT, LATENT_LIMIT)
    obs = jnp.broadcast_to(obs[:, None], (*shape, obs.shape[-1]))
    return n.behaviour.decode(state.behaviour, obs, latent)


def policy_noise(n: Networks, batch_size: int, key: Array) -> Array:
    noise = jax.random.normal(key, (batch_size, n.config.samples, n.dim))
    if n.config.target_policy:  # the original code cuts the policy's noise off too
        noise = jnp.clip(noise, -LATENT_LIMIT, LATENT_LIMIT)
    return noise


# --- Stages ------------------------------------------------------------------


def update(n: Networks, alone: int, state: State, batch: Batch, key: Array, step: Array):
    """The policy's first `alone` updates minimise the MMD alone."""
    hp = state.hp
    keys = jax.random.split(key, 4)

    behaviour_grads, error = jax.grad(behaviour_loss, has_aux=True)(
        state.behaviour, n.behaviour, batch, keys[0]
    )
    y = targets(n, state, batch, keys[1])
    (td_loss, values), critic_grads = jax.value_and_grad(td.critic_loss, has_aux=True)(
        state.critic, n.critic.apply, batch, y
    )
    grads = {"behaviour": behaviour_grads, "critic": critic_grads}
    state = descend(state, grads, {name: hp[f"{name}_rate"] for name in grads})

    other = behaviour_actions(n, state, batch.obs, keys[2])
    noise = policy_noise(n, batch.reward.shape[0], keys[3])
    min_q = partial(nn.least, n.critic, state.critic, batch.obs)
    beta, on = jnp.exp(state.log_beta), (step >= alone).astype(jnp.float32)
    policy_grads, (apart, q_policy, std) = jax.grad(policy_loss, has_aux=True)(
        state.policy, n.policy, min_q, other, batch.obs, noise, beta, on, n.config, hp
    )
    dual_grad = dual.Multiplier().grad(state.log_beta, apart - hp["threshold"])
    grads = {"policy": policy_grads, "log_beta": dual_grad}
    state = descend(state, grads, {"policy": hp["policy_rate"], "log_beta": hp["alpha_rate"]})
    state = dataclasses.replace(state, log_beta=jnp.clip(state.log_beta, *LOG_BETA))
    return dual.follow(state, "policy", "critic"), {
        "td_loss": td_loss,
        "behaviour_error": error,
        "q_data": jnp.mean(values),
        "q_policy": q_policy,
        "target": jnp.mean(y),
        "mmd": apart,
        "policy_std": std,
        "beta": beta,
    }


ENTRY = {"bear": Entry(Config, build, "Kumar et al. 2019, arXiv 1906.00949", *presets.read("bear", Config))}
