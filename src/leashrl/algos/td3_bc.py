"""TD3+BC (Fujimoto & Gu 2021, arXiv 2106.06860), and ReBRAC (Tarasov et al. 2023, arXiv 2305.09836)."""

import dataclasses
import math
from dataclasses import field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.algos import presets
from leashrl.algos.common import choice, continuous, positive, tanh_of, within
from leashrl.core import HP, Algorithm, Entry, Preprocess, Stage, uniform
from leashrl.ops import dual, td
from leashrl.optim import begin, descend
from leashrl.types import Array, Batch, Metrics, Spec, pytree

# --- Config ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    r"""TD3+BC: a policy that pays for its distance from the data's actions; in ReBRAC critics do too.

    The policy $\pi$ and its average $\pi'$ are deterministic. Critics, for each member of the ensemble,

    $$E_D(Q_i - y)^2,\quad y = r + \gamma(\min_j Q'_j(s', \tilde a) - \beta_c\|\tilde a - a'\|^2),\quad
      \tilde a = \pi'(s') + \mathrm{clip}(\epsilon)$$

    with a' the data's next action and, every `policy_every` updates, the policy (equation 5 and, with
    $\beta_c$, ReBRAC's 5 and 6):

    $$\max_\pi\ E_D\Big[\frac{\alpha\,Q(s,\pi(s))}{\mathrm{mean}|Q|} - \beta_\pi\|\pi(s) - a\|^2\Big]$$

    Where `penalty` is `mean`, squared distances are averaged over action dimensions (TD3+BC), else summed.

    Args:
      steps: gradient updates of the critics.
      batch_size: transitions an update.
      preprocess: what is done to observations and rewards before training.
      hidden: widths of all networks' hidden layers.
      activation: of all hidden layers.
      critic_norm: layer normalisation in the critics' hidden layers.
      learnt_norm: the same after the activation, with a learnt scale and shift.
      initial: weights begin `scaled` by fan-in, the policy's last layer a hundredth of that; or as `rebrac`'s
        authors have them: PyTorch's, biases 0.1, last layers within 1e-3 (policy) and 3e-3 (critics); or
        `glorot`, as FQL's.
      joint: one step of one Adam for all networks, as FQL's re-implementation: the policy's gradient is taken
        before the critics move, and in updates without one its moments move it on.
      ensemble: number of critics; targets take their minimum.
      value: Q of the policy's objective: of the `first` critic, or the critics' `min`.
      penalty: squared distances' `mean` or `sum` over action dimensions.
      policy_every: updates of the critics for one of the policy and all averaged networks.
      gamma: discount.
      polyak: rate of the averaged networks.
      alpha: weight of the normalised Q.
      policy_penalty: beta_pi above; 0 for TD3.
      critic_penalty: beta_c above.
      noise: standard deviation of the target action's noise.
      noise_clip: where that noise is cut off.
      policy_rate, critic_rate: Adam's learning rates.

    References:
      Fujimoto and Gu (2021), A Minimalist Approach to Offline Reinforcement Learning.
      Tarasov et al. (2023), Revisiting the Minimalist Approach to Offline Reinforcement Learning.
    """

    steps: int = 1_000_000
    batch_size: int = 256
    preprocess: Preprocess = field(default_factory=lambda: Preprocess(obs="standardise"))
    precision: str = "auto"
    hidden: tuple[int, ...] = (256, 256)
    activation: str = "relu"
    critic_norm: bool = False
    learnt_norm: bool = False
    initial: str = "scaled"
    joint: bool = False
    ensemble: int = 2
    value: str = "first"
    penalty: str = "mean"
    policy_every: int = 2
    gamma: float = 0.99
    polyak: float = 0.005
    alpha: float = 2.5
    policy_penalty: float = 1.0
    critic_penalty: float = 0.0
    noise: float = 0.2
    noise_clip: float = 0.5
    policy_rate: float = 3e-4
    critic_rate: float = 3e-4

    def __post_init__(self) -> None:
        choice("activation", self.activation, nn.ACTIVATIONS)
        choice("initial", self.initial, INITIAL)
        choice("value", self.value, ("first", "min"))
        choice("penalty", self.penalty, ("mean", "sum"))
        positive(self, "ensemble", "policy_every")
        within(self, 0, 1, "gamma", "polyak")
        within(self, 0, math.inf, "alpha", "policy_penalty", "critic_penalty", "noise", "noise_clip")
        within(self, 0, math.inf, "policy_rate", "critic_rate")


INITIAL = {  # policy, critics
    "scaled": ("scaled", "scaled"),
    "rebrac": ("edac-policy", "edac-critic"),
    "glorot": ("glorot-small", "glorot"),
}

# --- State -------------------------------------------------------------------


@pytree
class State:
    policy: dict
    target_policy: dict
    critic: dict  # leading ensemble axis
    target_critic: dict
    optimiser: dict  # Adam's moments of policy and critic
    hp: HP


# --- Losses ------------------------------------------------------------------


def distance(action: Array, other: Array, penalty: str) -> Array:
    """Squared distance (batch,) of actions (batch, dim): `mean` or `sum` over dimensions."""
    square = (action - other) ** 2
    return jnp.mean(square, axis=-1) if penalty == "mean" else jnp.sum(square, axis=-1)


def policy_loss(params, policy: nn.Network, q, batch: Batch, hp: HP, penalty: str):
    """beta_pi E|pi(s) - a|^2 - alpha E[Q(s, pi(s))] / mean|Q|; the mean Q and the squared distance.

    Args:
      q: (batch, dim) actions -> (batch,).
    """
    action = jnp.tanh(policy.apply(params, batch.obs))
    values = q(action)
    scale = jax.lax.stop_gradient(jnp.maximum(jnp.mean(jnp.abs(values)), jnp.finfo(values.dtype).tiny))
    apart = jnp.mean(distance(action, batch.action, penalty))
    loss = hp["policy_penalty"] * apart - hp["alpha"] * jnp.mean(values) / scale
    return loss, (jnp.mean(values), apart)


# --- Build -------------------------------------------------------------------


class Networks(NamedTuple):
    """What a state's parameters are applied with."""

    policy: nn.Network
    critic: nn.Network
    config: Config


def networks(config: Config, spec: Spec) -> Networks:
    sizes = (spec.obs_dim, continuous("td3-bc", spec).dim, config.hidden)
    of_policy, of_critic = INITIAL[config.initial]
    style: dict[str, Any] = {"activation": config.activation}
    norm: dict[str, Any] = {"norm": config.critic_norm, "learnt_norm": config.learnt_norm}
    return Networks(
        nn.mlp(*sizes, out_scale=0.01, initial=of_policy, **style),
        nn.critic(*sizes, ensemble=config.ensemble, initial=of_critic, **norm, **style),
        config,
    )


def build(config: Config, spec: Spec) -> Algorithm:
    """TD3+BC and ReBRAC for continuous actions in [-1, 1]^d."""
    n = networks(config, spec)
    stage = Stage("train", config.steps, uniform(config.batch_size, next_action=True), partial(update, n))
    return Algorithm(partial(init, n), (stage,), tanh_of(n.policy))


def init(n: Networks, key: Array, hp: HP) -> State:
    keys = jax.random.split(key)
    params = {"policy": n.policy.init(keys[0]), "critic": n.critic.init(keys[1])}
    return begin(State, params, hp, targets=("policy", "critic"))


# --- Stages ------------------------------------------------------------------


def update(n: Networks, state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
    config, hp, before = n.config, state.hp, state.critic
    noise = hp["noise"] * jax.random.normal(key, batch.action.shape)
    noise = jnp.clip(noise, -hp["noise_clip"], hp["noise_clip"])
    next_action = jnp.tanh(n.policy.apply(state.target_policy, batch.next_obs))
    next_action = jnp.clip(next_action + noise, -1.0, 1.0)
    next_q = nn.least(n.critic, state.target_critic, batch.next_obs, next_action)
    assert batch.next_action is not None
    apart = distance(next_action, batch.next_action, config.penalty)
    y = td.target(batch.reward, batch.discount, next_q - hp["critic_penalty"] * apart)
    (loss, values), grads = jax.value_and_grad(td.critic_loss, has_aux=True)(
        state.critic, n.critic.apply, batch, y
    )
    state = descend(state, {"critic": grads}, {"critic": hp["critic_rate"]})

    turn = (step + 1) % config.policy_every == 0
    critics, wait = (before, coast) if config.joint else (state.critic, stay)
    state, q_policy, apart = jax.lax.cond(
        turn, partial(improve, n, batch=batch, critics=critics), wait, state
    )
    return state, {
        "td_loss": loss,
        "q_data": jnp.mean(values),
        "target": jnp.mean(y),
        "q_policy": q_policy,
        "behaviour_error": apart,
    }


def improve(n: Networks, state: State, batch: Batch, critics: dict) -> tuple[State, Array, Array]:
    """A step of the policy and all averaged networks; the mean Q and the distance from the data.

    Args:
      critics: that the policy climbs.
    """
    config = n.config
    if config.value == "first":  # the others need not be worked out
        critics = jax.tree.map(lambda x: x[:1], critics)
    q = partial(nn.least, n.critic, critics, batch.obs)
    grads, (q_policy, apart) = jax.grad(policy_loss, has_aux=True)(
        state.policy, n.policy, q, batch, state.hp, config.penalty
    )
    new = descend(state, {"policy": grads}, {"policy": state.hp["policy_rate"]})
    # Each counts for the updates that have none, so that the mean over a line is the policy's own.
    every = config.policy_every
    return dual.follow(new, "policy", "critic"), every * q_policy, every * apart


def stay(state: State) -> tuple[State, Array, Array]:
    return state, jnp.zeros(()), jnp.zeros(())


def coast(state: State) -> tuple[State, Array, Array]:
    """One Adam for all networks steps the policy on, by its moments alone, where it has no gradient."""
    nothing = jax.tree.map(jnp.zeros_like, state.policy)
    return stay(descend(state, {"policy": nothing}, {"policy": state.hp["policy_rate"]}))


ENTRY = {
    "td3-bc": Entry(
        Config, build, "Fujimoto & Gu 2021, arXiv 2106.06860", *presets.read("td3-bc", Config), bfloat16=True
    ),
    "rebrac": Entry(Config, build, "Tarasov et al. 2023, arXiv 2305.09836", *presets.read("rebrac", Config)),
}
