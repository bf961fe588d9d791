"""OneStep RL: a single step of policy improvement (Brandfonbrener et al., NeurIPS 2021, arXiv 2106.08909)."""

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
from leashrl.dist import Normal, kl, squash_log_prob, unsquash
from leashrl.ops import dual, td
from leashrl.ops.advantage import exponential_weight
from leashrl.optim import begin, descend
from leashrl.types import Array, Batch, Metrics, Spec, pytree

# --- Config ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    r"""OneStep RL: the behaviour, its value, and one step from there. Nothing is evaluated off the data.

    Behaviour $\beta$ by maximum likelihood; its critics by SARSA, a' the data's next action,

    $$E_D(Q_i - y)^2,\quad y = r + \gamma\min_i Q'_i(s', a')$$

    and then the policy, from $\beta$ on, by one of

    * `reverse-kl`: $\max_\pi\ E[\min_i Q_i(s,a_\pi)] - \alpha\,KL(\pi(\cdot|s)\,\|\,\beta(\cdot|s))$;
    * `exp-weight`: $\max_\pi\ E_D[\min(e^{t A}, 100)\log\pi(a|s)]$, A over the mean of n actions of $\beta$;
    * `easy-bcq`: no training: of n actions of $\beta$ the one with the highest Q.

    Args:
      steps: gradient updates of the policy (of the critics, for `easy-bcq`).
      behaviour_percent: updates of the behaviour before, in percent of `steps`.
      value_percent: updates of the critics before, in percent of `steps`.
      batch_size: transitions an update.
      preprocess: what is done to observations and rewards before training.
      hidden: widths of all networks' hidden layers.
      ensemble: number of critics; targets and policy take their minimum.
      improvement: `reverse-kl`, `exp-weight` or `easy-bcq`.
      samples: n above.
      policy: a Gaussian before tanh (`squashed`); or `normal`, as the authors': over actions, its mean bent
        into [-1, 1], cut off at the action space where it acts.
      bound: of the log spread: `tanh`, bent into [-5, 0], or `clip`, cut off at -5 and 2 as MISA's.
      gamma: discount.
      polyak: rate of the target critics.
      alpha: weight of the divergence.
      temperature: t above, which multiplies the advantage.
      policy_rate, critic_rate, behaviour_rate: Adam's learning rates.

    References:
      Brandfonbrener et al. (2021), Offline RL Without Off-Policy Evaluation.
    """

    steps: int = 100_000
    behaviour_percent: int = 500
    value_percent: int = 2000
    batch_size: int = 512
    preprocess: Preprocess = field(default_factory=Preprocess)
    precision: str = "auto"
    hidden: tuple[int, ...] = (1024, 1024)
    ensemble: int = 1
    improvement: str = "reverse-kl"
    samples: int = 10
    policy: str = "squashed"
    bound: str = "tanh"
    gamma: float = 0.99
    polyak: float = 0.0025
    alpha: float = 1.0
    temperature: float = 0.01
    policy_rate: float = 1e-4
    critic_rate: float = 1e-4
    behaviour_rate: float = 1e-4

    def __post_init__(self) -> None:
        choice("improvement", self.improvement, ("reverse-kl", "exp-weight", "easy-bcq"))
        choice("policy", self.policy, ("squashed", "normal"))
        choice("bound", self.bound, tuple(LOG_STD_RANGE))
        positive(self, "ensemble", "samples")
        within(self, 0, 1, "gamma", "polyak")
        within(self, 0, math.inf, "alpha", "temperature", "policy_rate", "critic_rate", "behaviour_rate")


ACTION_MARGIN = 1e-3  # data actions are clipped to ±0.999 before atanh, as BC's
LOG_STD_RANGE = {"tanh": (-5.0, 0.0), "clip": (-5.0, 2.0)}

# --- State -------------------------------------------------------------------


@pytree
class State:
    behaviour: dict
    critic: dict  # leading ensemble axis
    target_critic: dict
    policy: dict
    optimiser: dict  # Adam's moments of the three that learn
    hp: HP


# --- Losses ------------------------------------------------------------------


def behaviour_loss(
    params, policy: nn.Network, batch: Batch, weight: Array | float = 1.0, squashed: bool = True
):
    """-E_D[weight log pi(a|s)]; of a Gaussian before tanh (`squashed`), or over actions."""
    pi = Normal(*policy.apply(params, batch.obs))
    if squashed:
        return -jnp.mean(weight * squash_log_prob(pi, unsquash(batch.action, ACTION_MARGIN)))
    return -jnp.mean(weight * pi.log_prob(batch.action))


def reverse_kl_loss(
    params, policy: nn.Network, beta: Normal, value, obs: Array, key: Array, alpha: Array, squash=jnp.tanh
):
    """E[alpha KL(pi || beta) - min_i Q_i(s, a_pi)], and the mean Q and KL.

    Args:
      value: (batch, dim) actions -> (batch,).
      squash: of what the Gaussians draw, to actions.
    """
    pi = Normal(*policy.apply(params, obs))
    # Squashing is one-to-one, so the divergence is that of the Gaussians before it; the authors sample it.
    apart = jnp.mean(kl(pi, beta))
    q = jnp.mean(value(squash(pi.sample(key))))
    return alpha * apart - q, (q, apart)


# --- Build -------------------------------------------------------------------


class Networks(NamedTuple):
    """What a state's parameters are applied with."""

    policy: nn.Network  # behaviour and policy
    critic: nn.Network
    config: Config
    squashed: bool


def networks(config: Config, spec: Spec) -> Networks:
    sizes = (spec.obs_dim, continuous("onestep", spec).dim, config.hidden)
    squashed = config.policy == "squashed"
    mean, initial = ("free", "scaled") if squashed else ("tanh", "torch")
    spread = {"bound": config.bound, "log_std_range": LOG_STD_RANGE[config.bound]}
    return Networks(
        nn.gaussian(*sizes, mean=mean, initial=initial, **spread),
        nn.critic(*sizes, ensemble=config.ensemble, initial=initial),
        config,
        squashed,
    )


def build(config: Config, spec: Spec) -> Algorithm:
    """OneStep RL for continuous actions in [-1, 1]^d."""
    n = networks(config, spec)
    sample, pairs = uniform(config.batch_size), uniform(config.batch_size, next_action=True)
    behaviour, value = (share(config.steps, p) for p in (config.behaviour_percent, config.value_percent))
    stages = (Stage("behaviour", behaviour, sample, partial(clone, n)),)
    if config.improvement == "easy-bcq":
        modes = ("best", "mean", "sample")
        stages += (Stage("train", config.steps, pairs, partial(evaluate, n)),)
    else:
        modes = ("mean", "sample", "best")
        stages += (
            Stage("value", value, pairs, partial(evaluate, n)),
            Stage("train", config.steps, sample, partial(improve, n)),
        )
    to_action = jnp.tanh if n.squashed else lambda u: jnp.clip(u, -1.0, 1.0)
    acting = best_of(n.policy, n.critic, config.samples, modes=modes, score="min", squash=to_action)
    return Algorithm(partial(init, n), stages, acting)


def init(n: Networks, key: Array, hp: HP) -> State:
    keys = jax.random.split(key)
    behaviour = n.policy.init(keys[0])
    params = {
        "behaviour": behaviour,
        "critic": n.critic.init(keys[1]),
        "policy": jax.tree.map(jnp.copy, behaviour),
    }
    return begin(State, params, hp, targets=("critic",))


def squash(n: Networks, u: Array) -> Array:
    # In training the authors ask their critic about what a Gaussian over actions draws, also beyond ±1.
    return jnp.tanh(u) if n.squashed else u


# --- Stages ------------------------------------------------------------------


def clone(n: Networks, state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
    loss, grads = jax.value_and_grad(behaviour_loss)(state.behaviour, n.policy, batch, 1.0, n.squashed)
    new = descend(state, {"behaviour": grads}, {"behaviour": state.hp["behaviour_rate"]})
    same = jax.tree.map(jnp.copy, new.behaviour)
    return dataclasses.replace(new, policy=same), {"behaviour_loss": loss}


def evaluate(n: Networks, state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
    assert batch.next_action is not None
    next_q = nn.least(n.critic, state.target_critic, batch.next_obs, batch.next_action)
    y = td.target(batch.reward, batch.discount, next_q)
    (loss, values), grads = jax.value_and_grad(td.critic_loss, has_aux=True)(
        state.critic, n.critic.apply, batch, y
    )
    new = descend(state, {"critic": grads}, {"critic": state.hp["critic_rate"]})
    metrics = {"td_loss": loss, "q_data": jnp.mean(values), "target": jnp.mean(y)}
    return dual.follow(new, "critic"), metrics


def improve(n: Networks, state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
    hp, beta = state.hp, Normal(*n.policy.apply(state.behaviour, batch.obs))
    value = partial(nn.least, n.critic, state.critic, batch.obs)
    if n.config.improvement == "reverse-kl":
        grads, (q, apart) = jax.grad(reverse_kl_loss, has_aux=True)(
            state.policy, n.policy, beta, value, batch.obs, key, hp["alpha"], partial(squash, n)
        )
        metrics = {"q_policy": q, "divergence": apart}
    else:
        own = squash(n, beta.draws(key, n.config.samples))
        values = value(jnp.concatenate([batch.action[:, None], own], axis=1))
        advantage = values[:, 0] - jnp.mean(values[:, 1:], axis=1)
        weight = exponential_weight(advantage, hp["temperature"])
        loss, grads = jax.value_and_grad(behaviour_loss)(state.policy, n.policy, batch, weight, n.squashed)
        metrics = {"policy_loss": loss, "advantage": jnp.mean(advantage), "weight": jnp.mean(weight)}
    return descend(state, {"policy": grads}, {"policy": hp["policy_rate"]}), metrics


ENTRY = {
    "onestep": Entry(
        Config,
        build,
        "Brandfonbrener et al. 2021, arXiv 2106.08909",
        *presets.read("onestep", Config),
        offline_only="its critic is the behaviour's, and learns no more while the policy improves",
    ),
}
