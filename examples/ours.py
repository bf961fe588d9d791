"""A whole algorithm in one file: a deterministic actor-critic that is tied to the data by cloning."""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

import leashrl
from leashrl import nn
from leashrl.algos.common import continuous, tanh_of
from leashrl.core import HP, Algorithm, Entry, Preprocess, Preset, Stage, uniform
from leashrl.ops import dual, td
from leashrl.optim import begin, descend
from leashrl.types import Array, Batch, Metrics, Spec, pytree


@dataclasses.dataclass(frozen=True)
class Config:
    r"""Ours: Q-learning whose policy is held at the data's actions.

    $$\min_\phi E_D(Q_\phi(s,a) - r - \gamma \min_i Q'_i(s', \pi(s')))^2, \quad
      \max_\theta E_D[\min_i Q_i(s, \pi(s)) / E|Q| - \beta\,\|\pi(s) - a\|^2]$$

    Args:
      steps: gradient updates.
      batch_size: transitions an update.
      preprocess: what is done to observations and rewards before training.
      hidden: widths of the hidden layers.
      ensemble: number of critics; targets and policy take their minimum.
      gamma: discount.
      polyak: rate of the target critics.
      beta: weight of cloning.
      policy_rate, critic_rate: Adam's learning rates.
    """

    steps: int = 1_000_000
    batch_size: int = 256
    preprocess: Preprocess = dataclasses.field(default_factory=lambda: Preprocess(obs="standardise"))
    hidden: tuple[int, ...] = (256, 256)
    ensemble: int = 2
    gamma: float = 0.99
    polyak: float = 0.005
    beta: float = 1.0
    policy_rate: float = 1e-3
    critic_rate: float = 1e-3


@pytree
class State:
    policy: dict
    critic: dict  # leading ensemble axis
    target_critic: dict
    optimiser: dict
    hp: HP


def policy_loss(params, policy: nn.Network, q, batch: Batch, beta: Array) -> tuple[Array, Metrics]:
    """Cloning less Q on its own scale; `q` maps actions (batch, dim) to the smallest Q (batch,)."""
    action = jnp.tanh(policy.apply(params, batch.obs))
    values, distance = q(action), jnp.mean((action - batch.action) ** 2)
    scale = jax.lax.stop_gradient(jnp.mean(jnp.abs(values)))
    loss = beta * distance - jnp.mean(values) / jnp.maximum(scale, 1e-6)
    return loss, {"policy_loss": loss, "distance": distance}


class Networks(NamedTuple):
    policy: nn.Network
    critic: nn.Network


def build(config: Config, spec: Spec) -> Algorithm:
    sizes = spec.obs_dim, continuous("ours", spec).dim, config.hidden
    n = Networks(nn.mlp(*sizes), nn.critic(*sizes, ensemble=config.ensemble))
    stage = Stage("train", config.steps, uniform(config.batch_size), partial(update, n))
    return Algorithm(partial(init, n), (stage,), tanh_of(n.policy))


def init(n: Networks, key: Array, hp: HP) -> State:
    keys = jax.random.split(key)
    params = {"policy": n.policy.init(keys[0]), "critic": n.critic.init(keys[1])}
    return begin(State, params, hp, targets=("critic",))


def update(n: Networks, state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
    hp, next_action = state.hp, jnp.tanh(n.policy.apply(state.policy, batch.next_obs))
    next_q = nn.least(n.critic, state.target_critic, batch.next_obs, next_action)
    y = td.target(batch.reward, batch.discount, next_q)
    critic_grads, values = jax.grad(td.critic_loss, has_aux=True)(state.critic, n.critic.apply, batch, y)
    min_q = partial(nn.least, n.critic, state.critic, batch.obs)
    to_policy = jax.grad(policy_loss, has_aux=True)
    policy_grads, metrics = to_policy(state.policy, n.policy, min_q, batch, hp["beta"])
    grads = {"critic": critic_grads, "policy": policy_grads}
    new = descend(state, grads, {"critic": hp["critic_rate"], "policy": hp["policy_rate"]})
    return dual.follow(new, "critic"), metrics | {"q_data": jnp.mean(values)}


leashrl.REGISTRY["ours"] = Entry(Config, build, "ours", {"default": Preset("a first guess", {})})
