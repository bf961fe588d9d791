"""IQL: Implicit Q-Learning (Kostrikov et al., ICLR 2022, arXiv 2110.06169)."""

import dataclasses
import math
from dataclasses import field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.algos import presets
from leashrl.algos.common import categorical, choice, clipped_gaussian, positive, within
from leashrl.core import HP, Algorithm, Entry, Preprocess, Stage, uniform
from leashrl.dist import Categorical, Normal
from leashrl.ops import dual, td
from leashrl.ops.advantage import exponential_weight, value_loss, weighted_likelihood
from leashrl.optim import begin, cosine, descend
from leashrl.types import Array, Batch, Discrete, Metrics, Spec, pytree

# --- Config ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    r"""IQL: critics never asked about an action that is not in the data.

    Value, an upper expectile $\tau$ over the data's actions (equation 5), with averaged critics Q':

    $$\min_\psi\ E_D[L_2^\tau(\min_i Q'_i(s,a) - V(s))],\quad L_2^\tau(x) = |\tau - 1(x<0)|\,x^2$$

    Critics (equation 6) and, by advantage-weighted regression (equation 7), the policy:

    $$\min_\theta\ E_D(r + \gamma V(s') - Q_i(s,a))^2,\qquad
      \max_\phi\ E_D[\min(e^{\beta(\min_i Q'_i - V)}, 100)\,\log\pi(a|s)]$$

    The policy is a Gaussian over actions, its mean tanh of a network, its spread the same in every state;
    of discrete actions, a softmax.

    Args:
      steps: gradient updates.
      batch_size: transitions an update.
      preprocess: what is done to observations and rewards before training.
      hidden: widths of all networks' hidden layers.
      activation: of all hidden layers.
      critic_norm: layer normalisation in the critics' and the value's hidden layers.
      learnt_norm: the same after the activation, with a learnt scale and shift.
      initial: weights begin `scaled` by fan-in, or `orthogonal` times sqrt 2, as the authors', or `glorot`,
        as FQL's (the policy's last layer with a hundredth of the variance).
      policy: a Gaussian whose mean is `tanh` of a network and whose spread is learnt, or `unit`: its mean is
        the network's output, its spread 1.
      joint: all gradients are taken before any network moves, and the advantage is of the critics themselves,
        not of their averages: FQL's re-implementation.
      ensemble: number of critics; value and policy take their minimum.
      dropout_percent: of the policy's hidden units, while it trains.
      fresh_value: the advantage takes V(s) after V's update, as the authors' code does; `false` takes it from
        the pass of V's own loss, which saves one (a departure).
      schedule: `constant` or `cosine`, of the policy's learning rate.
      gamma: discount.
      polyak: rate of the target critics.
      expectile: tau above.
      temperature: beta above, which multiplies the advantage.
      policy_rate, value_rate, critic_rate: Adam's learning rates.

    References:
      Kostrikov, Nair and Levine (2022), Offline Reinforcement Learning with Implicit Q-Learning.
    """

    steps: int = 1_000_000
    batch_size: int = 256
    preprocess: Preprocess = field(default_factory=Preprocess)
    precision: str = "auto"
    hidden: tuple[int, ...] = (256, 256)
    activation: str = "relu"
    critic_norm: bool = False
    learnt_norm: bool = False
    initial: str = "scaled"
    policy: str = "tanh"
    joint: bool = False
    ensemble: int = 2
    dropout_percent: int = 0
    fresh_value: bool = True
    schedule: str = "cosine"
    gamma: float = 0.99
    polyak: float = 0.005
    expectile: float = 0.7
    temperature: float = 3.0
    policy_rate: float = 3e-4
    value_rate: float = 3e-4
    critic_rate: float = 3e-4

    def __post_init__(self) -> None:
        choice("activation", self.activation, nn.ACTIVATIONS)
        choice("initial", self.initial, ("scaled", "orthogonal", "glorot"))
        choice("policy", self.policy, tuple(POLICIES))
        choice("schedule", self.schedule, ("constant", "cosine"))
        positive(self, "ensemble")
        within(self, 0, 99, "dropout_percent")
        within(self, 0, 1, "gamma", "polyak", "expectile")
        within(self, 0, math.inf, "temperature", "policy_rate", "value_rate", "critic_rate")


POLICIES = {  # how the network's output becomes the Gaussian
    "tanh": {},
    "unit": {"mean": "free", "log_std_range": (0.0, 0.0)},
}

# --- State -------------------------------------------------------------------


@pytree
class State:
    policy: dict
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
    discrete: bool


def networks(config: Config, spec: Spec) -> Networks:
    discrete, sizes = isinstance(spec.action, Discrete), (spec.obs_dim, spec.action.dim, config.hidden)
    policy, critic = (nn.mlp, nn.table_critic) if discrete else (nn.free_gaussian, nn.critic)
    last: dict[str, Any] = {"initial": "glorot-small" if config.initial == "glorot" else config.initial}
    form: dict[str, Any] = {} if discrete else POLICIES[config.policy]
    style: dict[str, Any] = {"activation": config.activation, "initial": config.initial}
    style |= {"norm": config.critic_norm, "learnt_norm": config.learnt_norm}
    return Networks(
        policy(*sizes, activation=config.activation, dropout_percent=config.dropout_percent, **last, **form),
        nn.mlp(spec.obs_dim, 1, config.hidden, **style),
        critic(*sizes, ensemble=config.ensemble, **style),
        config,
        discrete,
    )


def build(config: Config, spec: Spec) -> Algorithm:
    """IQL for continuous actions in [-1, 1]^d, or discrete ones."""
    n = networks(config, spec)
    stage = Stage("train", config.steps, uniform(config.batch_size), partial(update, n))
    acting = categorical(n.policy) if n.discrete else clipped_gaussian(n.policy)
    return Algorithm(partial(init, n), (stage,), acting)


def init(n: Networks, key: Array, hp: HP) -> State:
    keys = jax.random.split(key, 3)
    params = {
        "policy": n.policy.init(keys[0]),
        "value": n.value.init(keys[1]),
        "critic": n.critic.init(keys[2]),
    }
    return begin(State, params, hp, targets=("critic",))


def pi(n: Networks, params, obs: Array, key: Array) -> Categorical | Normal:
    """The policy, its hidden units dropped out."""
    out = n.policy.apply(params, obs, key)
    return Categorical(out) if n.discrete else Normal(*out)


# --- Stages ------------------------------------------------------------------


def update(n: Networks, state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
    # In the authors' order: value, policy, critics; each sees what came before it. `joint`: none does.
    hp, before = state.hp, state
    q = nn.least(n.critic, state.target_critic, batch.obs, batch.action)
    (v_loss, v), grads = jax.value_and_grad(value_loss, has_aux=True)(
        state.value, n.value.apply, batch.obs, q, hp["expectile"]
    )
    state = descend(state, {"value": grads}, {"value": hp["value_rate"]})

    if n.config.joint:
        next_v = n.value.apply(before.value, batch.next_obs)[..., 0]
        q = nn.least(n.critic, before.critic, batch.obs, batch.action)
    else:
        asked = jnp.concatenate([batch.obs, batch.next_obs]) if n.config.fresh_value else batch.next_obs
        *fresh, next_v = jnp.split(n.value.apply(state.value, asked)[..., 0], len(asked) // len(batch.obs))
        v = fresh[0] if fresh else v
    weight = exponential_weight(q - v, hp["temperature"])
    y = td.target(batch.reward, batch.discount, next_v)
    policy_grads, log_prob = jax.grad(weighted_likelihood, has_aux=True)(
        state.policy, partial(pi, n), batch, weight, key
    )
    (loss, values), critic_grads = jax.value_and_grad(td.critic_loss, has_aux=True)(
        state.critic, n.critic.apply, batch, y
    )
    rate = hp["policy_rate"]
    if n.config.schedule == "cosine":
        rate = cosine(rate, step, n.config.steps)
    grads, rates = (
        {"policy": policy_grads, "critic": critic_grads},
        {"policy": rate, "critic": hp["critic_rate"]},
    )
    return dual.follow(descend(state, grads, rates), "critic"), {
        "value_loss": v_loss,
        "td_loss": loss,
        "q_data": jnp.mean(values),
        "value": jnp.mean(v),
        "target": jnp.mean(y),
        "advantage": jnp.mean(q - v),
        "weight": jnp.mean(weight),
        "log_prob_data": log_prob,
    }


ENTRY = {
    "iql": Entry(
        Config,
        build,
        "Kostrikov et al. 2022, arXiv 2110.06169",
        *presets.read("iql", Config),
        discrete=True,
        bfloat16=True,
    ),
}
