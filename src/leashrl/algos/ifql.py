"""Implicit flow Q-learning: IQL's values, the best of a flow's draws (Park et al. 2025, arXiv 2502.02538)."""

import dataclasses
import math
from dataclasses import field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.algos import presets
from leashrl.algos.common import choice, continuous, positive, row_of, within
from leashrl.core import HP, Algorithm, Entry, Policy, Preprocess, Stage, uniform
from leashrl.ops import dual, flow, td
from leashrl.ops.advantage import value_loss
from leashrl.optim import begin, descend
from leashrl.types import Array, Batch, Metrics, Spec, TimeStep, pytree

# --- Config ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    r"""IFQL: IDQL (Hansen-Estruch et al. 2023) with a flow in the place of its diffusion.

    Value and critics are IQL's: with averaged critics Q',

    $$\min_\psi\ E_D[L_2^\tau(\min_i Q'_i(s,a) - V(s))],\qquad
      \min_\theta\ E_D(r + \gamma V(s') - Q_i(s,a))^2,\qquad L_2^\tau(x) = |\tau - 1(x<0)|\,x^2$$

    A velocity field learns the behaviour by flow matching, and nothing else: it is the policy's only network.
    To act, `samples` draws of it are made in `flow_steps` steps of Euler, and the one with the highest
    $\min_i Q_i$ is taken. All gradients are taken before any of the networks moves.

    Args:
      steps: gradient updates.
      batch_size: transitions an update.
      preprocess: what is done to observations and rewards before training.
      hidden: widths of all networks' hidden layers.
      activation: of all hidden layers.
      initial: weights begin `scaled` by fan-in, or `glorot`, as the authors'.
      learnt_norm: layer normalisation after the activations of critics and value, with a learnt scale and
        shift.
      ensemble: number of critics; value and policy take their minimum.
      samples: actions among which the best is taken.
      flow_steps: steps of Euler from noise to an action.
      gamma: discount.
      polyak: rate of the averaged critics.
      expectile: tau above.
      policy_rate, value_rate, critic_rate: Adam's learning rates; the policy is the velocity field.

    References:
      Park, Li and Levine (2025), Flow Q-Learning, appendix C.
      Hansen-Estruch et al. (2023), IDQL: Implicit Q-Learning as an Actor-Critic Method with Diffusion
      Policies.
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
    samples: int = 32
    flow_steps: int = 10
    gamma: float = 0.99
    polyak: float = 0.005
    expectile: float = 0.9
    policy_rate: float = 3e-4
    value_rate: float = 3e-4
    critic_rate: float = 3e-4

    def __post_init__(self) -> None:
        choice("activation", self.activation, nn.ACTIVATIONS)
        choice("initial", self.initial, ("scaled", "glorot"))
        positive(self, "ensemble", "samples", "flow_steps")
        within(self, 0, 1, "gamma", "polyak", "expectile")
        within(self, 0, math.inf, "policy_rate", "value_rate", "critic_rate")


# --- State -------------------------------------------------------------------


@pytree
class State:
    policy: dict  # the velocity field of the behaviour's flow
    value: dict
    critic: dict  # leading ensemble axis
    target_critic: dict
    optimiser: dict  # Adam's moments of the first three
    hp: HP


# --- Build -------------------------------------------------------------------


class Networks(NamedTuple):
    """What a state's parameters are applied with."""

    policy: nn.Network
    value: nn.Network
    critic: nn.Network
    config: Config


def networks(config: Config, spec: Spec) -> Networks:
    sizes = (spec.obs_dim, continuous("ifql", spec).dim, config.hidden)
    style: dict[str, Any] = {"activation": config.activation, "initial": config.initial}
    norm: dict[str, Any] = {"learnt_norm": config.learnt_norm}
    return Networks(
        nn.velocity(*sizes, **style),
        nn.mlp(spec.obs_dim, 1, config.hidden, **norm, **style),
        nn.critic(*sizes, ensemble=config.ensemble, **norm, **style),
        config,
    )


def build(config: Config, spec: Spec) -> Algorithm:
    """IFQL for continuous actions in [-1, 1]^d."""
    n = networks(config, spec)
    stage = Stage("train", config.steps, uniform(config.batch_size), partial(update, n))
    return Algorithm(partial(init, n), (stage,), acting(n, spec.action.dim))


def acting(n: Networks, dim: int) -> Policy:
    """A draw of the flow, or (`best`) of several the one with the highest least Q."""

    def act(params, carry, timestep: TimeStep, key: Array, mode: str):
        many = n.config.samples if mode == "best" else 1
        obs = jnp.broadcast_to(timestep.obs, (many, *timestep.obs.shape))
        field = partial(n.policy.apply, params["policy"], obs)
        draws = flow.carry(field, jax.random.normal(key, (many, dim)), n.config.flow_steps)
        if mode == "sample":
            return draws[0], carry
        q = nn.least(n.critic, params["critic"], timestep.obs[None], draws[None])[0]  # (samples,)
        return row_of(draws, jnp.argmax(q)), carry

    kept = lambda state: {"policy": state.policy, "critic": state.critic}
    return Policy(kept, lambda params: (), act, ("best", "sample"))


def init(n: Networks, key: Array, hp: HP) -> State:
    keys = jax.random.split(key, 3)
    params = {
        "policy": n.policy.init(keys[0]),
        "value": n.value.init(keys[1]),
        "critic": n.critic.init(keys[2]),
    }
    return begin(State, params, hp, targets=("critic",))


# --- Stages ------------------------------------------------------------------


def update(n: Networks, state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
    hp = state.hp
    q = nn.least(n.critic, state.target_critic, batch.obs, batch.action)
    (v_loss, v), value_grads = jax.value_and_grad(value_loss, has_aux=True)(
        state.value, n.value.apply, batch.obs, q, hp["expectile"]
    )
    y = td.target(batch.reward, batch.discount, n.value.apply(state.value, batch.next_obs)[..., 0])
    (loss, values), critic_grads = jax.value_and_grad(td.critic_loss, has_aux=True)(
        state.critic, n.critic.apply, batch, y
    )
    flow_loss, policy_grads = jax.value_and_grad(flow.matching_loss)(
        state.policy, n.policy.apply, batch.obs, batch.action, key
    )
    grads = {"policy": policy_grads, "value": value_grads, "critic": critic_grads}
    rates = {"policy": hp["policy_rate"], "value": hp["value_rate"], "critic": hp["critic_rate"]}
    return dual.follow(descend(state, grads, rates), "critic"), {
        "value_loss": v_loss,
        "td_loss": loss,
        "flow_loss": flow_loss,
        "q_data": jnp.mean(values),
        "value": jnp.mean(v),
        "target": jnp.mean(y),
        "advantage": jnp.mean(q - v),
    }


ENTRY = {
    "ifql": Entry(Config, build, "Park et al. 2025, arXiv 2502.02538", *presets.read("ifql", Config)),
}
