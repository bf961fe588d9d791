"""MIRACLE: Mutual-Information Regularised Actor-Critic (Leibfried & Grau-Moya 2019, arXiv 1909.05950)."""

import dataclasses
import math
from dataclasses import field
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.algos import presets
from leashrl.algos.common import choice, continuous, positive, tanh_gaussian, within
from leashrl.core import HP, Algorithm, Data, Entry, Preprocess, Stage, draw, uniform
from leashrl.dist import Mixture, Normal, kl_to_standard, log_det_tanh, squash_log_prob, unsquash
from leashrl.ops import dual, td
from leashrl.optim import begin, descend
from leashrl.types import Array, Batch, Metrics, Spec, pytree

# --- Config ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    r"""MIRACLE: a soft actor-critic whose reference policy is the marginal of its actions; SAC's is uniform.

    With rewards scaled by $\beta$ in place of penalties by $1/\beta$, policy (equation 20), critics (21) and
    state value (22), $a_\pi\sim\pi$ reparameterised and $\bar V$ an averaged copy of V:

    $$\max_\phi\ E[\min_i Q_i(s, a_\pi) - \log\frac{\pi(a_\pi|s)}{\pi_\chi(a_\pi)}],\quad
      E_D(Q_i(s,a) - \beta r - \gamma\bar V(s'))^2,\quad
      E_D(V(s) - [\min_i Q_i(s,a_\pi) - \log\frac{\pi(a_\pi|s)}{\pi_\chi(a_\pi)}])^2$$

    The marginal is $\pi_\chi(a) = E_u\,\pi_\chi(a|u)$ with $u\sim N(0, I)$, estimated by a mean over
    `latents` draws of u, and trained on the newest `action_buffer` actions:

    * `gaussian`: $\max_\chi E\log\pi_\chi(a|u)$, a draw of u for each action, as the text says. Nothing
      ties u to a, so that the best network ignores u: one Gaussian in pre-tanh coordinates.
    * `mixture`: $\max_\chi E\log\frac1N\sum_n\pi_\chi(a|u_n)$, the estimator itself, which can have
      many modes.
    * `vae`: the evidence lower bound with a recognition network (appendix F).
    * `uniform`: no marginal at all, the text's SAC baseline.

    Args:
      steps: gradient updates, and environment steps after the warm-up.
      batch_size: transitions an update, and actions for the marginal.
      preprocess: what is done to observations and rewards before training; nothing online.
      hidden: widths of all networks' hidden layers.
      ensemble: number of critics; V and the policy take their minimum.
      marginal: `gaussian`, `mixture`, `vae` or `uniform`.
      latents: draws of u in the estimate of the marginal.
      action_buffer: how many of the newest actions the marginal is trained on (online).
      buffer: transitions that the replay holds (online).
      warmup: environment steps with uniformly random actions before the first update (online).
      every: environment steps between two looks at the policy, and updates after them (online).
      beta: reward scale.
      gamma: discount.
      polyak: rate of the averaged state value.
      policy_rate, critic_rate, marginal_rate: Adam's learning rates; the state value uses the critics'.

    References:
      Leibfried & Grau-Moya (2019), arXiv 1909.05950; what it leaves open: docs/algorithms/miracle.md.
    """

    steps: int = 1_000_000
    batch_size: int = 256
    preprocess: Preprocess = field(default_factory=Preprocess)
    precision: str = "auto"
    hidden: tuple[int, ...] = (256, 256)
    ensemble: int = 2
    marginal: str = "gaussian"
    latents: int = 20
    action_buffer: int = 50_000
    buffer: int = 1_000_000
    warmup: int = 1_000
    every: int = 50
    beta: float = 10.0
    gamma: float = 0.99
    polyak: float = 0.01
    policy_rate: float = 3e-4
    critic_rate: float = 3e-4
    marginal_rate: float = 3e-4

    def __post_init__(self) -> None:
        choice("marginal", self.marginal, ("gaussian", "mixture", "vae", "uniform"))
        positive(self, "ensemble", "latents", "action_buffer", "buffer", "warmup", "every")
        within(self, 0, 1, "gamma", "polyak")
        within(self, 0, math.inf, "policy_rate", "critic_rate", "marginal_rate")


ACTION_MARGIN = 1e-5  # actions are clipped to ±(1 - margin) before atanh: float32 tanh reaches ±1
# "limit the variance following [PETS]": the text names no bounds. SAC's own, softly.
LOG_STD = {"log_std_range": (-5.0, 2.0), "log_std_offset": 0.0, "bound": "soft"}


# --- State -------------------------------------------------------------------


@pytree
class State:
    policy: dict
    critic: dict  # leading ensemble axis
    value: dict
    target_value: dict
    marginal: dict  # pi_chi(a|u), and the recognition network of `vae`; {} where `uniform`
    optimiser: dict  # Adam's moments of policy, critic, value, marginal
    hp: HP


# --- Losses ------------------------------------------------------------------


def policy_loss(params, policy: nn.Network, critic: nn.Network, critic_params, log_marginal, obs, key: Array):
    """E[log pi(a|s) - log pi_chi(a) - min_i Q_i(s, a)] over a ~ pi (equation 20).

    Args:
      log_marginal: pre-tanh actions (batch, dim) -> log pi_chi (batch,).

    Returns:
      the loss; the state values' targets (batch,), which are its negative terms; mean log pi and penalty.
    """
    pi = Normal(*policy.apply(params, obs))
    u = pi.sample(key)
    log_pi = squash_log_prob(pi, u)
    penalty = log_pi - log_marginal(u)
    value = nn.least(critic, critic_params, obs, jnp.tanh(u)) - penalty
    return -jnp.mean(value), (value, jnp.mean(log_pi), jnp.mean(penalty))


def critic_loss(params, critic: nn.Network, batch: Batch, y: Array):
    """sum_i E(Q_i - y)^2 (equation 21), and Q_i (ensemble, batch)."""
    values = critic.apply(params, batch.obs, batch.action)
    return td.squared_error(values, y), values


def value_loss(params, value: nn.Network, obs: Array, y: Array):
    """E(V - y)^2 (equation 22)."""
    return jnp.mean((value.apply(params, obs)[..., 0] - y) ** 2)


def marginal_loss(params, kind: str, decoder: nn.Network, encoder: nn.Network, u, latents: Array, key: Array):
    """Minus the objective under which the marginal is trained, in nats an action in pre-tanh coordinates.

    Args:
      u: (batch, dim) pre-tanh actions.
      latents: (n, dim) draws of the latent variable.
    """
    if kind == "mixture":
        return -jnp.mean(Mixture.even(Normal(*decoder.apply(params["decoder"], latents))).log_prob(u))
    if kind == "gaussian":
        latent, divergence = jax.random.normal(key, u.shape), 0.0
    else:
        posterior = Normal(*encoder.apply(params["encoder"], jnp.tanh(u)))
        latent, divergence = posterior.sample(key), jnp.mean(kl_to_standard(posterior))
    return divergence - jnp.mean(Normal(*decoder.apply(params["decoder"], latent)).log_prob(u))


# --- Build -------------------------------------------------------------------


class Networks(NamedTuple):
    """What a state's parameters are applied with."""

    policy: nn.Network
    critic: nn.Network
    value: nn.Network
    decoder: nn.Network
    encoder: nn.Network
    config: Config
    dim: int


def networks(config: Config, spec: Spec) -> Networks:
    dim = continuous("miracle", spec).dim
    return Networks(
        nn.gaussian(spec.obs_dim, dim, config.hidden, **LOG_STD),
        nn.critic(spec.obs_dim, dim, config.hidden, ensemble=config.ensemble),
        nn.mlp(spec.obs_dim, 1, config.hidden),
        nn.gaussian(dim, dim, config.hidden, out_scale=1.0, **LOG_STD),
        nn.gaussian(dim, dim, config.hidden, **LOG_STD),
        config,
        dim,
    )


def build(config: Config, spec: Spec) -> Algorithm:
    """MIRACLE for continuous actions in [-1, 1]^d."""
    n = networks(config, spec)
    stage = Stage("train", config.steps, partial(sample, config), partial(update, n))
    return Algorithm(partial(init, n), (stage,), tanh_gaussian(n.policy))


def init(n: Networks, key: Array, hp: HP) -> State:
    keys = jax.random.split(key, 5)
    params = {
        "policy": n.policy.init(keys[0]),
        "critic": n.critic.init(keys[1]),
        "value": n.value.init(keys[2]),
        "marginal": {},
    }
    if n.config.marginal != "uniform":
        params["marginal"] = {"decoder": n.decoder.init(keys[3])}
    if n.config.marginal == "vae":
        params["marginal"]["encoder"] = n.encoder.init(keys[4])
    return begin(State, params, hp, targets=("value",))


def sample(config: Config, data: Data, state: State, key: Array) -> tuple[Batch, Array]:
    """A batch, and the actions for the marginal, which come from a shorter past."""
    key_batch, key_action = jax.random.split(key)
    recent = draw(data, key_action, config.batch_size, config.action_buffer)
    return uniform(config.batch_size)(data, state, key_batch), recent.action


def log_marginal(n: Networks, state: State, latents: Array, u: Array) -> Array:
    """log pi_chi (batch,) of the actions whose pre-tanh coordinates are u (batch, dim)."""
    if n.config.marginal == "uniform":  # the constant of a uniform density is left out, as in SAC
        return jnp.zeros(u.shape[:-1])
    components = Normal(*n.decoder.apply(state.marginal["decoder"], latents))
    return Mixture.even(components).log_prob(u) - log_det_tanh(u)


def marginal_grad(n: Networks, state: State, actions: Array, latents: Array, key: Array):
    """The marginal's loss and its gradient; where it is uniform there is nothing to learn."""
    kind = n.config.marginal
    if kind == "uniform":
        return jnp.zeros(()), {}
    u = unsquash(actions, ACTION_MARGIN)
    return jax.value_and_grad(marginal_loss)(state.marginal, kind, n.decoder, n.encoder, u, latents, key)


def update(
    n: Networks, state: State, sampled: tuple[Batch, Array], key: Array, step: Array
) -> tuple[State, Metrics]:
    # All gradients are taken at the parameters from before the update; the text does not say.
    (batch, actions), hp = sampled, state.hp
    key_pi, key_latent, key_marginal = jax.random.split(key, 3)
    latents = jax.random.normal(key_latent, (n.config.latents, n.dim))
    marginal = partial(log_marginal, n, state, latents)

    grads = {}
    grads["policy"], (values, log_pi, penalty) = jax.grad(policy_loss, has_aux=True)(
        state.policy, n.policy, n.critic, state.critic, marginal, batch.obs, key_pi
    )
    next_value = n.value.apply(state.target_value, batch.next_obs)[..., 0]
    # The text's equation 21 has no mask at terminals; without one, terminals would have a future.
    y = td.target(hp["beta"] * batch.reward, batch.discount, next_value)
    (loss, q), grads["critic"] = jax.value_and_grad(critic_loss, has_aux=True)(
        state.critic, n.critic, batch, y
    )
    v_loss, grads["value"] = jax.value_and_grad(value_loss)(state.value, n.value, batch.obs, values)
    m_loss, grads["marginal"] = marginal_grad(n, state, actions, latents, key_marginal)

    rates = {
        "policy": hp["policy_rate"],
        "critic": hp["critic_rate"],
        "value": hp["critic_rate"],
        "marginal": hp["marginal_rate"],
    }
    return dual.follow(descend(state, grads, rates), "value"), {
        "critic_loss": loss,
        "value_loss": v_loss,
        "marginal_loss": m_loss,
        "q_data": jnp.mean(q),
        "value": jnp.mean(values),
        "entropy": -log_pi,
        "penalty": penalty,
    }


ENTRY = {
    "miracle": Entry(
        Config,
        build,
        "Leibfried & Grau-Moya 2019, arXiv 1909.05950",
        *presets.read("miracle", Config),
        online=True,
    )
}
