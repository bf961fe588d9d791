"""TD3+BC (Fujimoto & Gu 2021, arXiv 2106.06860), and ReBRAC (Tarasov et al. 2023, arXiv 2305.09836)."""

import dataclasses
import math
from dataclasses import field

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.algos.common import choice, continuous, positive, tanh_of, within
from leashrl.core import HP, Algorithm, Preprocess, Preset, Stage, uniform
from leashrl.ops import dual, td
from leashrl.optim import adam_init, descend
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
      critic_norm: layer normalisation in the critics' hidden layers.
      initial: weights begin `scaled` by fan-in, the policy's last layer a hundredth of that; or as `rebrac`'s
        authors have them: PyTorch's, biases 0.1, last layers within 1e-3 (policy) and 3e-3 (critics).
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
    hidden: tuple[int, ...] = (256, 256)
    critic_norm: bool = False
    initial: str = "scaled"
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
        choice("initial", self.initial, INITIAL)
        choice("value", self.value, ("first", "min"))
        choice("penalty", self.penalty, ("mean", "sum"))
        positive(self, "ensemble", "policy_every")
        within(self, 0, 1, "gamma", "polyak")
        within(self, 0, math.inf, "alpha", "policy_penalty", "critic_penalty", "noise", "noise_clip")
        within(self, 0, math.inf, "policy_rate", "critic_rate")


INITIAL = {"scaled": ("scaled", "scaled"), "rebrac": ("edac-policy", "edac-critic")}  # policy, critics

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


def build(config: Config, spec: Spec) -> Algorithm:
    """TD3+BC and ReBRAC for continuous actions in [-1, 1]^d."""
    dim = continuous("td3-bc", spec).dim
    of_policy, of_critic = INITIAL[config.initial]
    policy = nn.mlp(spec.obs_dim, dim, config.hidden, out_scale=0.01, initial=of_policy)
    critic = nn.critic(
        spec.obs_dim, dim, config.hidden, ensemble=config.ensemble, norm=config.critic_norm, initial=of_critic
    )

    def init(key: Array, hp: HP) -> State:
        keys = jax.random.split(key)
        params = {"policy": policy.init(keys[0]), "critic": critic.init(keys[1])}
        return State(
            **params,
            target_policy=jax.tree.map(jnp.copy, params["policy"]),
            target_critic=jax.tree.map(jnp.copy, params["critic"]),
            optimiser={name: adam_init(value) for name, value in params.items()},
            hp=hp,
        )

    def update(state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
        hp = state.hp
        noise = hp["noise"] * jax.random.normal(key, batch.action.shape)
        noise = jnp.clip(noise, -hp["noise_clip"], hp["noise_clip"])
        next_action = jnp.tanh(policy.apply(state.target_policy, batch.next_obs))
        next_action = jnp.clip(next_action + noise, -1.0, 1.0)
        next_q = jnp.min(critic.apply(state.target_critic, batch.next_obs, next_action), axis=0)
        assert batch.next_action is not None
        apart = distance(next_action, batch.next_action, config.penalty)
        y = td.target(batch.reward, batch.discount, next_q - hp["critic_penalty"] * apart)
        (loss, values), grads = jax.value_and_grad(td.critic_loss, has_aux=True)(
            state.critic, critic.apply, batch, y
        )
        state = descend(state, {"critic": grads}, {"critic": hp["critic_rate"]})

        def q(action: Array) -> Array:
            first = config.value == "first"  # the others need not be worked out
            params = jax.tree.map(lambda x: x[:1], state.critic) if first else state.critic
            return jnp.min(critic.apply(params, batch.obs, action), axis=0)

        def follow(state: State) -> tuple[State, Array, Array]:
            grads, (q_policy, apart) = jax.grad(policy_loss, has_aux=True)(
                state.policy, policy, q, batch, hp, config.penalty
            )
            new = descend(state, {"policy": grads}, {"policy": hp["policy_rate"]})
            new = dataclasses.replace(
                new,
                target_policy=dual.polyak(state.target_policy, new.policy, hp["polyak"]),
                target_critic=dual.polyak(state.target_critic, new.critic, hp["polyak"]),
            )
            # Each counts for the updates that have none, so that the mean over a line is the policy's own.
            n = config.policy_every
            return new, n * q_policy, n * apart

        def stay(state: State) -> tuple[State, Array, Array]:
            return state, jnp.zeros(()), jnp.zeros(())

        turn = (step + 1) % config.policy_every == 0
        state, q_policy, apart = jax.lax.cond(turn, follow, stay, state)
        return state, {
            "td_loss": loss,
            "q_data": jnp.mean(values),
            "target": jnp.mean(y),
            "q_policy": q_policy,
            "behaviour_error": apart,
        }

    stage = Stage("train", config.steps, uniform(config.batch_size, next_action=True), update)
    return Algorithm(init, (stage,), tanh_of(policy))


# --- Presets -----------------------------------------------------------------

REBRAC = {
    "batch_size": 1024,
    "preprocess.obs": "none",
    "hidden": (256, 256, 256),
    "critic_norm": True,
    "value": "min",
    "penalty": "sum",
    "alpha": 1.0,
    "policy_penalty": 0.01,
    "critic_penalty": 0.01,
    "policy_rate": 1e-3,
    "critic_rate": 1e-3,
}
TABLE = {  # beta_pi and beta_c by data set, as the authors' 36 configurations have them
    "halfcheetah-random": (0.001, 0.1),
    "halfcheetah-medium": (0.001, 0.01),
    "halfcheetah-expert": (0.01, 0.01),
    "halfcheetah-medium-expert": (0.01, 0.1),
    "halfcheetah-medium-replay": (0.01, 0.001),
    "halfcheetah-full-replay": (0.001, 0.1),
    "hopper-random": (0.001, 0.01),
    "hopper-medium": (0.01, 0.01),
    "hopper-expert": (0.1, 0.1),
    "hopper-medium-expert": (0.1, 0.01),
    "hopper-medium-replay": (0.05, 0.5),
    "hopper-full-replay": (0.01, 0.01),
    "walker2d-random": (0.01, 0.0),
    "walker2d-medium": (0.05, 0.1),
    "walker2d-expert": (0.01, 0.5),
    "walker2d-medium-expert": (0.01, 0.01),
    "walker2d-medium-replay": (0.05, 0.01),
    "walker2d-full-replay": (0.01, 0.01),
    "antmaze-umaze": (0.003, 0.002),
    "antmaze-umaze-diverse": (0.003, 0.001),
    "antmaze-medium-play": (0.001, 0.0005),
    "antmaze-medium-diverse": (0.001, 0.0),
    "antmaze-large-play": (0.002, 0.001),
    "antmaze-large-diverse": (0.002, 0.002),
    "pen-human": (0.1, 0.5),
    "pen-cloned": (0.05, 0.5),
    "pen-expert": (0.01, 0.01),
    "door-human": (0.1, 0.1),
    "door-cloned": (0.01, 0.1),
    "door-expert": (0.05, 0.01),
    "hammer-human": (0.01, 0.5),
    "hammer-cloned": (0.1, 0.5),
    "hammer-expert": (0.01, 0.01),
    "relocate-human": (0.1, 0.01),
    "relocate-cloned": (0.1, 0.01),
    "relocate-expert": (0.05, 0.01),
}
DOMAINS_REBRAC = {
    "adroit": {"batch_size": 256, "policy_rate": 3e-4, "critic_rate": 3e-4},
    "antmaze": {
        "preprocess.reward": "hundredfold",
        "batch_size": 256,
        "gamma": 0.999,
        "policy_rate": 3e-4,
        "critic_rate": 5e-5,
    },
} | {place: {"policy_penalty": policy, "critic_penalty": critic} for place, (policy, critic) in TABLE.items()}
DOMAINS = {"antmaze": {"preprocess.reward": "minus-one"}}

FAST = {"polyak": 0.02, "policy_rate": 1e-3, "critic_rate": 1e-3}
PRESETS = {
    "default": Preset("ours: rates 1e-3, targets that follow faster", FAST),
    "authors": Preset("the authors' values", {}),
    "td3": Preset("TD3 on data: no penalty", FAST | {"policy_penalty": 0.0}),
}
PRESETS_REBRAC = {
    "default": Preset(
        "ours: standardised observations, batches of 256, targets that follow faster",
        REBRAC | {"preprocess.obs": "standardise", "batch_size": 256, "polyak": 0.02},
    ),
    "authors": Preset("the authors' values, by data set", REBRAC | {"initial": "rebrac"}),
}
