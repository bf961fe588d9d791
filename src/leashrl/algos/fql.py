"""Flow Q-learning (Park, Li & Levine 2025, arXiv 2502.02538)."""

import dataclasses
import math
from dataclasses import field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.algos import presets
from leashrl.algos.common import choice, continuous, positive, within
from leashrl.core import HP, Algorithm, Entry, Policy, Preprocess, Stage, uniform
from leashrl.ops import dual, flow, td
from leashrl.optim import begin, descend
from leashrl.types import Array, Batch, Metrics, Spec, TimeStep, pytree

# --- Config ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    r"""FQL: a one-step policy that follows a flow of the data's actions, and climbs Q.

    A velocity field v learns the behaviour by flow matching (equation 6); $\mu(s, z)$ carries noise z along
    it in `flow_steps` steps of Euler, cut off at [-1, 1]. The policy $\pi(s, z)$ makes one step of it
    (equation 8):

    $$\min_\pi\ E\big[\alpha\,\|\pi(s,z) - \mu(s,z)\|^2 - \mathrm{mean}_i\,Q_i(s, \pi(s,z))\big],\quad
      z \sim N(0, I)$$

    and critics learn, with averaged critics Q' (equation 9):

    $$E_D(Q_i(s,a) - r - \gamma\,\mathrm{mean}_j\,Q'_j(s', \pi(s', z)))^2$$

    Squares are averaged over action dimensions, actions cut off at [-1, 1] before critics see them. The first
    term bounds the squared 2-Wasserstein distance between policy and behaviour from above, for which BRAC has
    a dual form. All gradients are taken before any of the networks moves.

    Args:
      steps: gradient updates.
      batch_size: transitions an update.
      preprocess: what is done to observations and rewards before training.
      hidden: widths of all networks' hidden layers.
      activation: of all hidden layers.
      initial: weights begin `scaled` by fan-in, or `glorot`, as the authors'.
      learnt_norm: layer normalisation after the critics' activations, with a learnt scale and shift.
      ensemble: number of critics.
      target: critics' `mean` or `min` in the target.
      flow_steps: steps of Euler from noise to an action of the behaviour.
      normalise: Q of the policy's objective is divided by the batch's mean |Q|.
      gamma: discount.
      polyak: rate of the averaged critics.
      alpha: weight of the distance from the behaviour.
      policy_rate, critic_rate: Adam's learning rates; the velocity field has the policy's.

    References:
      Park, Li and Levine (2025), Flow Q-Learning.
    """

    steps: int = 1_000_000
    batch_size: int = 256
    preprocess: Preprocess = field(default_factory=Preprocess)
    precision: str = "auto"
    hidden: tuple[int, ...] = (512, 512, 512, 512)
    activation: str = "gelu"
    initial: str = "glorot"
    learnt_norm: bool = True
    ensemble: int = 2
    target: str = "mean"
    flow_steps: int = 10
    normalise: bool = False
    gamma: float = 0.99
    polyak: float = 0.005
    alpha: float = 10.0
    policy_rate: float = 3e-4
    critic_rate: float = 3e-4

    def __post_init__(self) -> None:
        choice("activation", self.activation, nn.ACTIVATIONS)
        choice("initial", self.initial, ("scaled", "glorot"))
        choice("target", self.target, TARGETS)
        positive(self, "ensemble", "flow_steps")
        within(self, 0, 1, "gamma", "polyak")
        within(self, 0, math.inf, "alpha", "policy_rate", "critic_rate")


TARGETS = {"mean": jnp.mean, "min": jnp.min}

# --- State -------------------------------------------------------------------


@pytree
class State:
    policy: dict  # noise to action, in one step
    velocity: dict  # of the behaviour's flow
    critic: dict  # leading ensemble axis
    target_critic: dict
    optimiser: dict  # Adam's moments of the first three
    hp: HP


# --- Losses ------------------------------------------------------------------


def policy_loss(params, policy: nn.Network, obs: Array, noise: Array, behaviour: Array, q, alpha: Array,
                normalise: bool):  # fmt: skip
    """alpha E|pi(s, z) - mu(s, z)|^2 - E[Q(s, pi(s, z))]; the mean Q and the squared distance.

    Args:
      behaviour: mu(s, z) (batch, dim).
      q: (batch, dim) actions -> (batch,).
    """
    action = policy.apply(params, obs, noise)
    apart = jnp.mean((action - behaviour) ** 2)
    values = q(jnp.clip(action, -1.0, 1.0))
    scale = jnp.maximum(jnp.mean(jnp.abs(values)), jnp.finfo(values.dtype).tiny) if normalise else 1.0
    return alpha * apart - jnp.mean(values) / jax.lax.stop_gradient(scale), (jnp.mean(values), apart)


# --- Build -------------------------------------------------------------------


class Networks(NamedTuple):
    """What a state's parameters are applied with."""

    policy: nn.Network
    velocity: nn.Network
    critic: nn.Network
    config: Config


def networks(config: Config, spec: Spec) -> Networks:
    sizes = (spec.obs_dim, continuous("fql", spec).dim, config.hidden)
    style: dict[str, Any] = {"activation": config.activation, "initial": config.initial}
    return Networks(
        nn.velocity(*sizes, timed=False, **style),
        nn.velocity(*sizes, **style),
        nn.critic(*sizes, ensemble=config.ensemble, learnt_norm=config.learnt_norm, **style),
        config,
    )


def build(config: Config, spec: Spec) -> Algorithm:
    """FQL for continuous actions in [-1, 1]^d."""
    n = networks(config, spec)
    stage = Stage("train", config.steps, uniform(config.batch_size), partial(update, n))
    return Algorithm(partial(init, n), (stage,), acting(n.policy, spec.action.dim))


def acting(policy: nn.Network, dim: int) -> Policy:
    """One step from noise, cut off at the action space."""

    def act(params, carry, timestep: TimeStep, key: Array, mode: str):
        noise = jax.random.normal(key, (dim,))
        return jnp.clip(policy.apply(params, timestep.obs, noise), -1.0, 1.0), carry

    return Policy(lambda state: state.policy, lambda params: (), act, ("sample",))


def init(n: Networks, key: Array, hp: HP) -> State:
    keys = jax.random.split(key, 3)
    params = {
        "policy": n.policy.init(keys[0]),
        "velocity": n.velocity.init(keys[1]),
        "critic": n.critic.init(keys[2]),
    }
    return begin(State, params, hp, targets=("critic",))


# --- Stages ------------------------------------------------------------------


def update(n: Networks, state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
    config, hp = n.config, state.hp
    key_next, key_flow, key_noise = jax.random.split(key, 3)

    noise = jax.random.normal(key_next, batch.action.shape)
    next_action = jnp.clip(n.policy.apply(state.policy, batch.next_obs, noise), -1.0, 1.0)
    next_q = n.critic.apply(state.target_critic, batch.next_obs, next_action)
    y = td.target(batch.reward, batch.discount, TARGETS[config.target](next_q, axis=0))
    (loss, values), critic_grads = jax.value_and_grad(td.critic_loss, has_aux=True)(
        state.critic, n.critic.apply, batch, y
    )
    flow_loss, velocity_grads = jax.value_and_grad(flow.matching_loss)(
        state.velocity, n.velocity.apply, batch.obs, batch.action, key_flow
    )

    noise = jax.random.normal(key_noise, batch.action.shape)
    field = partial(n.velocity.apply, state.velocity, batch.obs)
    behaviour = flow.carry(field, noise, config.flow_steps)
    q = lambda action: jnp.mean(n.critic.apply(state.critic, batch.obs, action), axis=0)
    policy_grads, (q_policy, apart) = jax.grad(policy_loss, has_aux=True)(
        state.policy, n.policy, batch.obs, noise, behaviour, q, hp["alpha"], config.normalise
    )
    grads = {"critic": critic_grads, "velocity": velocity_grads, "policy": policy_grads}
    rates = {"critic": hp["critic_rate"], "velocity": hp["policy_rate"], "policy": hp["policy_rate"]}
    return dual.follow(descend(state, grads, rates), "critic"), {
        "td_loss": loss,
        "flow_loss": flow_loss,
        "q_data": jnp.mean(values),
        "target": jnp.mean(y),
        "q_policy": q_policy,
        "behaviour_error": apart,
    }


ENTRY = {
    "fql": Entry(Config, build, "Park et al. 2025, arXiv 2502.02538", *presets.read("fql", Config)),
}
