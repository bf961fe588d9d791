"""Behaviour cloning: the data's actions, imitated."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.algos import presets
from leashrl.algos.common import categorical, choice, cut_off, tanh_gaussian, tanh_of, within
from leashrl.core import HP, Algorithm, Entry, Policy, Preprocess, Stage, uniform
from leashrl.dist import Categorical, Normal, squash_log_prob, unsquash
from leashrl.optim import adam, adam_init
from leashrl.types import Array, Batch, Discrete, Metrics, Spec, pytree

# --- Config ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    r"""Behaviour cloning (Pomerleau 1991): maximum likelihood of the data's actions.

    $$\max_\theta E_D[\log\pi(a|s)] \quad\text{or, deterministic,}\quad \min_\theta E_D\|\pi(s) - a\|^2 / d$$

    with $\pi$ a tanh-Gaussian, or a network's output with or without tanh; of discrete actions, a softmax. Up
    to the constant H(A) the first is the Barber-Agakov bound of the mutual information between states and
    actions.

    Args:
      steps: gradient updates.
      batch_size: transitions an update.
      preprocess: what is done to observations before training.
      hidden: widths of the hidden layers.
      activation: of the hidden layers.
      initial: weights begin `scaled` by fan-in, or `glorot`, as FQL's (the last layer with a hundredth of the
        variance).
      deterministic: squared error in place of likelihood; of discrete actions the likelihood all the same.
      squash: a deterministic action is tanh of the network's output; `false` cuts it off at the action space
        when it acts, and its error is that of a Gaussian of unit spread.
      gamma: discount; behaviour cloning does not use it.
      policy_rate: Adam's learning rate.

    References:
      Pomerleau (1991), Efficient Training of Artificial Neural Networks for Autonomous Navigation.
      Barber and Agakov (2003), The IM Algorithm.
    """

    steps: int = 1_000_000
    batch_size: int = 256
    preprocess: Preprocess = field(default_factory=lambda: Preprocess(obs="standardise"))
    precision: str = "auto"
    hidden: tuple[int, ...] = (256, 256)
    activation: str = "relu"
    initial: str = "scaled"
    deterministic: bool = False
    squash: bool = True
    gamma: float = 0.99
    policy_rate: float = 1e-3

    def __post_init__(self) -> None:
        choice("activation", self.activation, nn.ACTIVATIONS)
        choice("initial", self.initial, tuple(INITIAL))
        within(self, 0, 1, "gamma")
        within(self, 0, math.inf, "policy_rate")


INITIAL = {"scaled": "scaled", "glorot": "glorot-small"}
ACTION_MARGIN = 1e-3  # as MISA's, so that both clone the same targets


# --- State -------------------------------------------------------------------


@pytree
class State:
    policy: dict
    optimiser: dict
    hp: HP


# --- Losses ------------------------------------------------------------------


def likelihood_loss(params, network: nn.Network, batch: Batch) -> tuple[Array, Metrics]:
    """-E_D[log pi(a|s)], in nats."""
    pi = Normal(*network.apply(params, batch.obs))
    log_prob = jnp.mean(squash_log_prob(pi, unsquash(batch.action, ACTION_MARGIN)))
    return -log_prob, {"policy_loss": -log_prob, "policy_std": jnp.mean(jnp.exp(pi.log_std))}


def softmax_loss(params, network: nn.Network, batch: Batch) -> tuple[Array, Metrics]:
    """-E_D[log pi(a|s)] of discrete actions, in nats."""
    pi = Categorical(network.apply(params, batch.obs))
    loss = -jnp.mean(pi.log_prob(batch.action))
    return loss, {"policy_loss": loss, "entropy": jnp.mean(pi.entropy())}


def squared_loss(
    params, network: nn.Network, batch: Batch, squash: Callable[[Array], Array] = jnp.tanh
) -> tuple[Array, Metrics]:
    """E_D of the squared error of squash(network), averaged over action dimensions."""
    loss = jnp.mean((squash(network.apply(params, batch.obs)) - batch.action) ** 2)
    return loss, {"policy_loss": loss}


def as_it_is(x: Array) -> Array:
    return x


# --- Build -------------------------------------------------------------------


class Networks(NamedTuple):
    """What a state's parameters are applied with."""

    policy: nn.Network
    loss: Callable[..., tuple[Array, Metrics]]  # of what the policy gives
    acting: Callable[[nn.Network], Policy]
    config: Config


def networks(config: Config, spec: Spec) -> Networks:
    sizes = (spec.obs_dim, spec.action.dim, config.hidden)
    style: dict[str, Any] = {"activation": config.activation, "initial": INITIAL[config.initial]}
    if isinstance(spec.action, Discrete):
        return Networks(nn.mlp(*sizes, **style), softmax_loss, categorical, config)
    if not config.deterministic:
        return Networks(nn.gaussian(*sizes, **style), likelihood_loss, tanh_gaussian, config)
    if config.squash:
        return Networks(nn.mlp(*sizes, **style), squared_loss, tanh_of, config)
    return Networks(nn.mlp(*sizes, **style), partial(squared_loss, squash=as_it_is), cut_off, config)


def build(config: Config, spec: Spec) -> Algorithm:
    """Behaviour cloning for continuous actions in [-1, 1]^d, or discrete ones."""
    n = networks(config, spec)
    stage = Stage("train", config.steps, uniform(config.batch_size), partial(update, n))
    return Algorithm(partial(init, n), (stage,), n.acting(n.policy))


def init(n: Networks, key: Array, hp: HP) -> State:
    params = n.policy.init(key)
    return State(params, adam_init(params), hp)


# --- Stages ------------------------------------------------------------------


def update(n: Networks, state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
    (_, metrics), gradient = jax.value_and_grad(n.loss, has_aux=True)(state.policy, n.policy, batch)
    params, optimiser = adam(gradient, state.optimiser, state.policy, state.hp["policy_rate"])
    return State(params, optimiser, state.hp), metrics


ENTRY = {
    "bc": Entry(
        Config,
        build,
        "Pomerleau 1991",
        *presets.read("bc", Config),
        discrete=True,
        bfloat16=True,
        offline_only="it has no critic",
    ),
    "bc-10": Entry(
        Config,
        build,
        "10%BC of Chen et al. 2021, arXiv 2106.01345",
        *presets.read("bc-10", Config),
        discrete=True,
        offline_only="it has no critic",
    ),
}
