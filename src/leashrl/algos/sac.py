"""SAC: Soft Actor-Critic (Haarnoja et al. 2018, arXiv 1812.05905)."""

import dataclasses
import math
from dataclasses import field
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.algos import presets
from leashrl.algos.common import continuous, positive, soft_update, tanh_gaussian, within
from leashrl.core import HP, Algorithm, Entry, Preprocess, Stage, uniform
from leashrl.optim import begin
from leashrl.types import Array, Batch, Metrics, Spec, pytree

# --- Config ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    r"""SAC: the policy maximises reward and its own entropy; two critics, a temperature that tunes itself.

    Critics (equation 5), for each member of the ensemble, $\alpha$ the temperature:

    $$E_D(Q(s,a) - y)^2,\quad y = r + \gamma (\min_i Q'_i(s', a') - \alpha\log\pi(a'|s')),\ a'\sim\pi$$

    Policy (equation 9), with $a_\pi\sim\pi$ reparameterised, and the temperature (equation 18), whose
    constraint is an entropy of at least $\bar H$ = `target_entropy` a dimension:

    $$\min_\phi\ E[\alpha\log\pi(a_\pi|s) - \min_i Q_i(s, a_\pi)],\qquad
      \min_\alpha\ -\alpha\,E[\log\pi(a_\pi|s) + \bar H]$$

    Online, `every` steps in the environment are followed by as many updates, one a step.

    Args:
      steps: gradient updates, and environment steps after the warm-up.
      batch_size: transitions an update.
      preprocess: what is done to observations and rewards before training; nothing online.
      hidden: widths of all networks' hidden layers.
      critic_norm: layer normalisation in the critics' hidden layers.
      ensemble: number of critics; targets and policy take their minimum.
      buffer: transitions that the replay holds (online).
      warmup: environment steps with uniformly random actions before the first update (online).
      every: environment steps between two looks at the policy, and updates after them (online).
      gamma: discount.
      polyak: rate of the target critics.
      target_entropy: the temperature's target, in nats per action dimension.
      policy_rate, critic_rate: Adam's learning rates; the temperature uses the policy's.

    References:
      Haarnoja et al. (2018), arXiv 1812.05905.
    """

    steps: int = 1_000_000
    batch_size: int = 256
    preprocess: Preprocess = field(default_factory=Preprocess)
    precision: str = "auto"
    hidden: tuple[int, ...] = (256, 256)
    critic_norm: bool = False
    ensemble: int = 2
    buffer: int = 1_000_000
    warmup: int = 5_000
    every: int = 50
    gamma: float = 0.99
    polyak: float = 0.005
    target_entropy: float = -1.0
    policy_rate: float = 3e-4
    critic_rate: float = 3e-4

    def __post_init__(self) -> None:
        positive(self, "ensemble", "buffer", "warmup", "every")
        within(self, 0, 1, "gamma", "polyak")
        within(self, 0, math.inf, "policy_rate", "critic_rate")


# --- State -------------------------------------------------------------------


@pytree
class State:
    policy: dict
    critic: dict  # leading ensemble axis
    target_critic: dict
    log_alpha: Array  # () entropy temperature
    optimiser: dict  # Adam's moments of the above
    hp: HP


# --- Build -------------------------------------------------------------------


class Networks(NamedTuple):
    """What a state's parameters are applied with."""

    policy: nn.Network
    critic: nn.Network
    config: Config
    dim: int


def networks(config: Config, spec: Spec) -> Networks:
    dim = continuous("sac", spec).dim
    return Networks(
        nn.gaussian(spec.obs_dim, dim, config.hidden),
        nn.critic(spec.obs_dim, dim, config.hidden, ensemble=config.ensemble, norm=config.critic_norm),
        config,
        dim,
    )


def build(config: Config, spec: Spec) -> Algorithm:
    """SAC for continuous actions in [-1, 1]^d."""
    n = networks(config, spec)
    stage = Stage("train", config.steps, uniform(config.batch_size), partial(update, n))
    return Algorithm(partial(init, n), (stage,), tanh_gaussian(n.policy))


def init(n: Networks, key: Array, hp: HP) -> State:
    keys = jax.random.split(key)
    params = {
        "policy": n.policy.init(keys[0]),
        "critic": n.critic.init(keys[1]),
        "log_alpha": jnp.zeros(()),
    }
    return begin(State, params, hp, targets=("critic",))


# --- Stages ------------------------------------------------------------------


def update(n: Networks, state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
    return soft_update(state, batch, key, n.policy, n.critic, n.dim * state.hp["target_entropy"])[:2]


ENTRY = {
    "sac": Entry(
        Config,
        build,
        "Haarnoja et al. 2018, arXiv 1812.05905",
        *presets.read("sac", Config),
        bfloat16=True,
        online=True,
    ),
}
