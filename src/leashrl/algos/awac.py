"""AWAC: advantage-weighted actor-critic (Nair et al. 2020, arXiv 2006.09359)."""

import dataclasses
import math
from dataclasses import field
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.algos import presets
from leashrl.algos.common import clipped_gaussian, continuous, positive, within
from leashrl.core import HP, Algorithm, Entry, Preprocess, Stage, uniform
from leashrl.dist import Normal
from leashrl.ops import dual, td
from leashrl.ops.advantage import exponential_weight, weighted_likelihood
from leashrl.optim import begin, descend
from leashrl.types import Array, Batch, Metrics, Spec, pytree

# --- Config ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    r"""AWAC: the policy imitates the data's actions, the better ones more; critics look at its own actions.

    $$E_D(Q_i - y)^2,\quad y = r + \gamma\min_i Q'_i(s', a'),\ a'\sim\pi$$

    $$\max_\theta\ E_D\big[\min(e^{A/\lambda}, 100)\,\log\pi(a|s)\big],\quad
      A = \min_i Q_i(s,a) - \min_i Q_i(s, a_\pi),\ a_\pi\sim\pi \qquad (9)$$

    The policy is a Gaussian over actions, its spread the same in every state.

    Args:
      steps: gradient updates.
      batch_size: transitions an update.
      preprocess: what is done to observations and rewards before training.
      hidden: widths of all networks' hidden layers.
      critic_norm: layer normalisation in the critics' hidden layers.
      ensemble: number of critics; targets and advantage take their minimum.
      gamma: discount.
      polyak: rate of the target critics.
      temperature: lambda above, which divides the advantage.
      policy_rate, critic_rate: Adam's learning rates.

    References:
      Nair et al. (2020), AWAC: Accelerating Online Reinforcement Learning with Offline Datasets.
    """

    steps: int = 1_000_000
    batch_size: int = 256
    preprocess: Preprocess = field(default_factory=lambda: Preprocess(obs="standardise"))
    precision: str = "auto"
    hidden: tuple[int, ...] = (256, 256, 256)
    critic_norm: bool = False
    ensemble: int = 2
    gamma: float = 0.99
    polyak: float = 0.005
    temperature: float = 1 / 3
    policy_rate: float = 3e-4
    critic_rate: float = 3e-4

    def __post_init__(self) -> None:
        positive(self, "ensemble")
        within(self, 0, 1, "gamma", "polyak")
        within(self, 1e-6, math.inf, "temperature")
        within(self, 0, math.inf, "policy_rate", "critic_rate")


# --- State -------------------------------------------------------------------


@pytree
class State:
    policy: dict
    critic: dict  # leading ensemble axis
    target_critic: dict
    optimiser: dict  # Adam's moments of policy and critic
    hp: HP


# --- Build -------------------------------------------------------------------


class Networks(NamedTuple):
    """What a state's parameters are applied with."""

    policy: nn.Network
    critic: nn.Network
    config: Config


def networks(config: Config, spec: Spec) -> Networks:
    sizes = (spec.obs_dim, continuous("awac", spec).dim, config.hidden)
    return Networks(
        nn.free_gaussian(*sizes, mean="free", log_std_range=(-20.0, 2.0)),
        nn.critic(*sizes, ensemble=config.ensemble, norm=config.critic_norm),
        config,
    )


def build(config: Config, spec: Spec) -> Algorithm:
    """AWAC for continuous actions in [-1, 1]^d."""
    n = networks(config, spec)
    stage = Stage("train", config.steps, uniform(config.batch_size), partial(update, n))
    return Algorithm(partial(init, n), (stage,), clipped_gaussian(n.policy))


def init(n: Networks, key: Array, hp: HP) -> State:
    keys = jax.random.split(key)
    params = {"policy": n.policy.init(keys[0]), "critic": n.critic.init(keys[1])}
    return begin(State, params, hp, targets=("critic",))


def pi(n: Networks, params, obs: Array) -> Normal:
    return Normal(*n.policy.apply(params, obs))


def sampled(n: Networks, state: State, obs: Array, key: Array) -> Array:
    return jnp.clip(pi(n, state.policy, obs).sample(key), -1.0, 1.0)


# --- Stages ------------------------------------------------------------------


def update(n: Networks, state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
    # In the order of the public code: critics, then the policy, which sees them.
    hp = state.hp
    key_next, key_pi = jax.random.split(key)

    next_action = sampled(n, state, batch.next_obs, key_next)
    next_q = nn.least(n.critic, state.target_critic, batch.next_obs, next_action)
    y = td.target(batch.reward, batch.discount, next_q)
    (loss, values), grads = jax.value_and_grad(td.critic_loss, has_aux=True)(
        state.critic, n.critic.apply, batch, y
    )
    new = descend(state, {"critic": grads}, {"critic": hp["critic_rate"]})

    pair = jnp.stack([batch.action, sampled(n, state, batch.obs, key_pi)], axis=1)
    q_data, q_policy = nn.least(n.critic, new.critic, batch.obs, pair).T
    weight = exponential_weight(q_data - q_policy, 1.0 / hp["temperature"])
    grads, log_prob = jax.grad(weighted_likelihood, has_aux=True)(state.policy, partial(pi, n), batch, weight)
    new = descend(new, {"policy": grads}, {"policy": hp["policy_rate"]})
    return dual.follow(new, "critic"), {
        "td_loss": loss,
        "q_data": jnp.mean(values),
        "target": jnp.mean(y),
        "q_policy": jnp.mean(q_policy),
        "weight": jnp.mean(weight),
        "log_prob_data": log_prob,
    }


ENTRY = {
    "awac": Entry(Config, build, "Nair et al. 2020, arXiv 2006.09359", *presets.read("awac", Config)),
}
