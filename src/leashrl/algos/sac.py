"""SAC: Soft Actor-Critic (Haarnoja et al. 2018, arXiv 1812.05905)."""

import dataclasses
import math
from dataclasses import field

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.algos.common import continuous, positive, soft_update, tanh_gaussian, within
from leashrl.core import HP, Algorithm, Preprocess, Preset, Stage, uniform
from leashrl.optim import adam_init
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


def build(config: Config, spec: Spec) -> Algorithm:
    """SAC for continuous actions in [-1, 1]^d."""
    dim = continuous("sac", spec).dim
    policy = nn.gaussian(spec.obs_dim, dim, config.hidden)
    critic = nn.critic(spec.obs_dim, dim, config.hidden, ensemble=config.ensemble, norm=config.critic_norm)

    def init(key: Array, hp: HP) -> State:
        keys = jax.random.split(key)
        params = {"policy": policy.init(keys[0]), "critic": critic.init(keys[1]), "log_alpha": jnp.zeros(())}
        return State(
            **params,
            target_critic=jax.tree.map(jnp.copy, params["critic"]),
            optimiser={name: adam_init(value) for name, value in params.items()},
            hp=hp,
        )

    def update(state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
        return soft_update(state, batch, key, policy, critic, dim * state.hp["target_entropy"])[:2]

    stage = Stage("train", config.steps, uniform(config.batch_size), update)
    return Algorithm(init, (stage,), tanh_gaussian(policy))


PRESETS = {
    "default": Preset("the 2018 text's values; D4RL's locomotion data came from it", {}),
}
