"""IQL: Implicit Q-Learning (Kostrikov et al., ICLR 2022, arXiv 2110.06169)."""

import dataclasses
import math
from dataclasses import field

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.algos.common import categorical, choice, clipped_gaussian, positive, within
from leashrl.core import HP, Algorithm, Preprocess, Preset, Stage, uniform
from leashrl.dist import Categorical, Normal
from leashrl.ops import dual, td
from leashrl.ops.advantage import expectile_loss, exponential_weight, weighted_likelihood
from leashrl.optim import adam_init, cosine, descend
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
      critic_norm: layer normalisation in the critics' and the value's hidden layers.
      initial: weights begin `scaled` by fan-in, or `orthogonal` times sqrt 2, as the authors'.
      ensemble: number of critics; value and policy take their minimum.
      dropout_percent: of the policy's hidden units, while it trains.
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
    hidden: tuple[int, ...] = (256, 256)
    critic_norm: bool = False
    initial: str = "scaled"
    ensemble: int = 2
    dropout_percent: int = 0
    schedule: str = "cosine"
    gamma: float = 0.99
    polyak: float = 0.005
    expectile: float = 0.7
    temperature: float = 3.0
    policy_rate: float = 3e-4
    value_rate: float = 3e-4
    critic_rate: float = 3e-4

    def __post_init__(self) -> None:
        choice("initial", self.initial, ("scaled", "orthogonal"))
        choice("schedule", self.schedule, ("constant", "cosine"))
        positive(self, "ensemble")
        within(self, 0, 99, "dropout_percent")
        within(self, 0, 1, "gamma", "polyak", "expectile")
        within(self, 0, math.inf, "temperature", "policy_rate", "value_rate", "critic_rate")


# --- State -------------------------------------------------------------------


@pytree
class State:
    policy: dict
    value: dict
    critic: dict  # leading ensemble axis
    target_critic: dict
    optimiser: dict  # Adam's moments of the first three
    hp: HP


# --- Losses ------------------------------------------------------------------


def value_loss(params, value: nn.Network, obs: Array, q: Array, expectile: Array):
    """Expectile regression of q (batch,) on the state, and V(s)."""
    v = value.apply(params, obs)[..., 0]
    return expectile_loss(q - v, expectile), v


# --- Build -------------------------------------------------------------------


def build(config: Config, spec: Spec) -> Algorithm:
    """IQL for continuous actions in [-1, 1]^d, or discrete ones."""
    sizes, dropout = (spec.obs_dim, spec.action.dim, config.hidden), config.dropout_percent
    initial, norm = config.initial, config.critic_norm
    value = nn.mlp(spec.obs_dim, 1, config.hidden, norm=norm, initial=initial)
    if isinstance(spec.action, Discrete):
        policy, critic = nn.mlp(*sizes, dropout_percent=dropout, initial=initial), nn.table_critic
        pi = lambda params, obs, key: Categorical(policy.apply(params, obs, key))
        acting = categorical(policy)
    else:
        policy, critic = nn.free_gaussian(*sizes, dropout_percent=dropout, initial=initial), nn.critic
        pi = lambda params, obs, key: Normal(*policy.apply(params, obs, key))
        acting = clipped_gaussian(policy)
    critic = critic(*sizes, ensemble=config.ensemble, norm=norm, initial=initial)

    def init(key: Array, hp: HP) -> State:
        keys = jax.random.split(key, 3)
        params = {
            "policy": policy.init(keys[0]),
            "value": value.init(keys[1]),
            "critic": critic.init(keys[2]),
        }
        return State(
            **params,
            target_critic=jax.tree.map(jnp.copy, params["critic"]),
            optimiser={name: adam_init(part) for name, part in params.items()},
            hp=hp,
        )

    def update(state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
        # In the authors' order: value, policy, critics; each sees what came before it.
        hp = state.hp
        q = jnp.min(critic.apply(state.target_critic, batch.obs, batch.action), axis=0)
        (v_loss, _), grads = jax.value_and_grad(value_loss, has_aux=True)(
            state.value, value, batch.obs, q, hp["expectile"]
        )
        state = descend(state, {"value": grads}, {"value": hp["value_rate"]})

        both = value.apply(state.value, jnp.concatenate([batch.obs, batch.next_obs]))[..., 0]
        v, next_v = jnp.split(both, 2)
        weight = exponential_weight(q - v, hp["temperature"])
        y = td.target(batch.reward, batch.discount, next_v)
        policy_grads, log_prob = jax.grad(weighted_likelihood, has_aux=True)(
            state.policy, pi, batch, weight, key
        )
        (loss, values), critic_grads = jax.value_and_grad(td.critic_loss, has_aux=True)(
            state.critic, critic.apply, batch, y
        )
        rate = hp["policy_rate"]
        if config.schedule == "cosine":
            rate = cosine(rate, step, config.steps)
        state = descend(
            state,
            {"policy": policy_grads, "critic": critic_grads},
            {"policy": rate, "critic": hp["critic_rate"]},
        )
        averaged = dual.polyak(state.target_critic, state.critic, hp["polyak"])
        return dataclasses.replace(state, target_critic=averaged), {
            "value_loss": v_loss,
            "td_loss": loss,
            "q_data": jnp.mean(values),
            "value": jnp.mean(v),
            "target": jnp.mean(y),
            "advantage": jnp.mean(q - v),
            "weight": jnp.mean(weight),
            "log_prob_data": log_prob,
        }

    stage = Stage("train", config.steps, uniform(config.batch_size), update)
    return Algorithm(init, (stage,), acting)


# --- Presets -----------------------------------------------------------------

SLOW = {"temperature": 0.5, "dropout_percent": 10}
DOMAINS = {
    "gym": {"preprocess.reward": "return"},
    "antmaze": {"expectile": 0.9, "temperature": 10.0, "preprocess.reward": "minus-one"},
    "kitchen": SLOW,
    "adroit": SLOW,
}
OURS = {
    "preprocess.obs": "standardise",
    "polyak": 0.02,
    "policy_rate": 1e-3,
    "value_rate": 1e-3,
    "critic_rate": 1e-3,
}
PRESETS = {
    "default": Preset("ours: standardised observations, rates 1e-3, targets that follow faster", OURS),
    "authors": Preset("what the authors' public code does", {"initial": "orthogonal"}),
}
