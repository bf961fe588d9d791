"""BEAR: Bootstrapping Error Accumulation Reduction (Kumar et al., NeurIPS 2019, arXiv 1906.00949)."""

import dataclasses
import math
from dataclasses import field

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.algos.common import best_of, choice, continuous, positive, share, within
from leashrl.core import HP, Algorithm, Preprocess, Preset, Stage, uniform
from leashrl.dist import Normal, kl_to_standard
from leashrl.ops import divergence, dual, td
from leashrl.optim import adam_init, descend
from leashrl.types import Array, Batch, Metrics, Spec, pytree

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


LATENT_LIMIT = 0.5  # where samples of the latent are cut off, so that the behaviour stays near its data
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


def critic_loss(params, critic: nn.Network, batch: Batch, y: Array):
    """sum_i E(Q_i - y)^2, and Q_i (ensemble, batch)."""
    values = critic.apply(params, batch.obs, batch.action)
    return td.squared_error(values, y), values


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


def build(config: Config, spec: Spec) -> Algorithm:
    """BEAR for continuous actions in [-1, 1]^d."""
    dim = continuous("bear", spec).dim
    policy = nn.gaussian(spec.obs_dim, dim, config.hidden)
    critic = nn.critic(spec.obs_dim, dim, config.hidden, ensemble=config.ensemble)
    vae = nn.vae(spec.obs_dim, dim, 2 * dim, config.behaviour_hidden, components=0, bound="clip")

    def init(key: Array, hp: HP) -> State:
        keys = jax.random.split(key, 3)
        params = {
            "behaviour": vae.init(keys[0]),
            "policy": policy.init(keys[1]),
            "critic": critic.init(keys[2]),
            "log_beta": jnp.zeros(()),
        }
        return State(
            **params,
            target_policy=jax.tree.map(jnp.copy, params["policy"]),
            target_critic=jax.tree.map(jnp.copy, params["critic"]),
            optimiser={name: adam_init(value) for name, value in params.items()},
            hp=hp,
        )

    def update(state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
        hp, size = state.hp, batch.reward.shape[0]
        keys = jax.random.split(key, 4)
        grads, rates = {}, {}

        grads["behaviour"], error = jax.grad(behaviour_loss, has_aux=True)(
            state.behaviour, vae, batch, keys[0]
        )
        rates["behaviour"] = hp["behaviour_rate"]

        actor = state.target_policy if config.target_policy else state.policy
        pi_next = Normal(*policy.apply(actor, batch.next_obs))
        a_next = jnp.tanh(jnp.moveaxis(pi_next.sample(keys[1], (config.candidates,)), 0, 1))
        each = critic.apply(state.target_critic, batch.next_obs, a_next)  # (ensemble, batch, candidates)
        mixed = hp["mix"] * jnp.min(each, axis=0) + (1 - hp["mix"]) * jnp.max(each, axis=0)
        y = td.target(batch.reward, batch.discount, jnp.max(mixed, axis=-1))
        (td_loss, values), grads["critic"] = jax.value_and_grad(critic_loss, has_aux=True)(
            state.critic, critic, batch, y
        )
        rates["critic"] = hp["critic_rate"]
        state = descend(state, grads, rates)

        latent = jax.random.normal(keys[2], (size, config.samples, vae.latent))
        latent = jnp.clip(latent, -LATENT_LIMIT, LATENT_LIMIT)
        obs = jnp.broadcast_to(batch.obs[:, None], (size, config.samples, spec.obs_dim))
        other = vae.decode(state.behaviour, obs, latent)
        noise = jax.random.normal(keys[3], (size, config.samples, dim))
        if config.target_policy:  # the original code cuts the policy's noise off too
            noise = jnp.clip(noise, -LATENT_LIMIT, LATENT_LIMIT)
        on = (step >= share(config.steps, config.policy_only_percent)).astype(jnp.float32)
        policy_grads, (apart, q_policy, std) = jax.grad(policy_loss, has_aux=True)(
            state.policy,
            policy,
            lambda a: jnp.min(critic.apply(state.critic, batch.obs, a), axis=0),
            other,
            batch.obs,
            noise,
            jnp.exp(state.log_beta),
            on,
            config,
            hp,
        )
        grads = {
            "policy": policy_grads,
            "log_beta": dual.Multiplier().grad(state.log_beta, apart - hp["threshold"]),
        }
        rates = {"policy": hp["policy_rate"], "log_beta": hp["alpha_rate"]}
        new = descend(state, grads, rates)
        return dataclasses.replace(
            new,
            log_beta=jnp.clip(new.log_beta, *LOG_BETA),
            target_policy=dual.polyak(state.target_policy, new.policy, hp["polyak"]),
            target_critic=dual.polyak(state.target_critic, state.critic, hp["polyak"]),
        ), {
            "td_loss": td_loss,
            "behaviour_error": error,
            "q_data": jnp.mean(values),
            "q_policy": q_policy,
            "target": jnp.mean(y),
            "mmd": apart,
            "policy_std": std,
            "beta": jnp.exp(state.log_beta),
        }

    stage = Stage("train", config.steps, uniform(config.batch_size), update)
    return Algorithm(
        init, (stage,), best_of(policy, critic, config.best_of, modes=("best", "mean", "sample"))
    )


# --- Presets -----------------------------------------------------------------

ORIGINAL = {
    "hidden": (400, 300),
    "batch_size": 100,
    "policy_only_percent": 10,
    "target_policy": True,
    "mean_value": True,
    "samples": 10,
    "kernel": "laplacian",
    "sigma": 20.0,
    "best_of": 10,
    "policy_rate": 1e-3,
    "critic_rate": 1e-3,
    "behaviour_rate": 1e-3,
}
OURS = {
    "preprocess.obs": "standardise",
    "policy_only_percent": 20,
    "behaviour_hidden": (256, 256),
    "policy_rate": 1e-3,
    "critic_rate": 1e-3,
    "alpha_rate": 1e-2,
    "behaviour_rate": 1e-3,
    "polyak": 0.02,
    "sigma": 20.0,
}
# The codes' comments: 10 (original) and 20 (rlkit) for these two, 20 and 50 for walker2d and ant.
AUTHORS_DOMAINS = {family: {"sigma": 10.0} for family in ("hopper", "halfcheetah")}
DOMAINS = {family: {"sigma": 20.0} for family in ("hopper", "halfcheetah")}

PRESETS = {
    "default": Preset("ours: standardised observations, rates 1e-3, a smaller autoencoder", OURS, {}),
    "authors": Preset("the authors' original code, at its sigma for walker2d", ORIGINAL, AUTHORS_DOMAINS),
    "d4rl": Preset("as D4RL's evaluation ran it: the source of published scores", {}),
}
