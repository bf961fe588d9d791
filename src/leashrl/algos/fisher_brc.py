"""Fisher-BRC: Fisher Divergence Critic Regularization (Kostrikov et al., ICML 2021, arXiv 2103.08050)."""

import dataclasses
import math
from dataclasses import field
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.algos import presets
from leashrl.algos.common import choice, continuous, positive, share, tanh_gaussian, within
from leashrl.core import HP, Algorithm, Entry, Preprocess, Stage, uniform
from leashrl.dist import Mixture, Normal, independent_log_prob, log_det_tanh, squash_log_prob, unsquash
from leashrl.ops import divergence, dual, slope, td
from leashrl.optim import begin, descend, staircase
from leashrl.types import Array, Batch, Metrics, Spec, pytree

# --- Config ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    r"""Fisher-BRC: the critic is the behaviour's log density plus an offset, and the offset is kept flat.

    $$Q_i(s,a) = O_i(s,a) + \log\mu(a|s) \qquad (5)$$

    First stage, behaviour: a mixture of tanh-Gaussians for every action dimension, by maximum likelihood
    with an entropy bonus whose weight keeps $H(\mu)$ at its target or above (appendix A),

    $$\max_\mu\ E_D[\log\mu(a|s)] + \alpha_\mu H(\mu)$$

    Then with $\mu$ fixed, critics (equation 7), for each member of the ensemble, $a_\pi\sim\pi$,

    $$E_D(Q_i - y)^2 + \lambda E[\|\nabla_a O_i(s, a_\pi)\|^2],\quad
      y = r + b + \gamma \min_i Q'_i(s', a'),\ a'\sim\pi$$

    where Q' has the averaged offset and the same $\mu$, and b is a bonus for being alive. Policy, with
    $\alpha$ tuned as SAC's:

    $$\max_\pi\ E[\min_i Q_i(s, a_\pi) - \alpha\log\pi(a_\pi|s)]$$

    The penalty is the Fisher divergence between the Boltzmann policy of Q and the behaviour (equation 10).

    Args:
      steps: gradient updates of critics and policy.
      behaviour_percent: updates of the behaviour's density before that, in percent of `steps`.
      batch_size: transitions an update.
      preprocess: what is done to observations and rewards before training.
      hidden: widths of the policy's and critics' hidden layers.
      behaviour_hidden: widths of the density's hidden layers.
      components: Gaussians a dimension in the density's mixture.
      sampling: the draw that the density's entropy is estimated from: of `every` component, weighted by their
        probabilities, or of one `chosen` component, which gives the probabilities no gradient.
      ensemble: number of critics; targets and policy take their minimum.
      start: how the policy begins: `random`, or cloned from the data in the behaviour's stage, with the
        density's weight of an entropy bonus (`behaviour`).
      representation: critics as in equation 5; false leaves log mu out (figure 5: SAC with a penalty).
      penalty_at: where the offset is kept flat: at the policy's actions (`policy`) or at the data's
        (`data`, the other direction of the divergence, section 4.2).
      gamma: discount.
      polyak: rate of the target critics.
      penalty: lambda, the weight of the slope's square.
      bonus: b, added to every reward before it is discounted.
      target_entropy: the policy's, in nats per action dimension.
      behaviour_entropy: the density's, in nats per action dimension.
      margin: data actions, and what the density is asked about, are cut off at 1 - margin before atanh.
      min_log_std: the least of the density's components. Data with actions of exactly ±1 have no likeliest
        density without it: a component may shrink onto them for ever.
      policy_rate, critic_rate: Adam's learning rates; the policy's temperature uses the policy's.
      behaviour_rate: of the density and its temperature; a tenth of it from 80 % of their stage, a hundredth
        from 90 %.

    References:
      Kostrikov et al. (2021), arXiv 2103.08050; text and code: docs/algorithms/fisher-brc.md.
    """

    steps: int = 1_000_000
    behaviour_percent: int = 100
    batch_size: int = 256
    preprocess: Preprocess = field(default_factory=Preprocess)
    precision: str = "auto"
    hidden: tuple[int, ...] = (256, 256, 256)
    behaviour_hidden: tuple[int, ...] = (256, 256)
    components: int = 5
    sampling: str = "every"
    ensemble: int = 2
    start: str = "random"
    representation: bool = True
    penalty_at: str = "policy"
    gamma: float = 0.99
    polyak: float = 0.005
    penalty: float = 0.1
    bonus: float = 5.0
    target_entropy: float = -1.0
    behaviour_entropy: float = -1.0
    margin: float = 1e-6
    min_log_std: float = -20.0
    policy_rate: float = 3e-4
    critic_rate: float = 3e-4
    behaviour_rate: float = 1e-3

    def __post_init__(self) -> None:
        choice("start", self.start, ("random", "behaviour"))
        choice("sampling", self.sampling, ("every", "chosen"))
        choice("penalty_at", self.penalty_at, ("policy", "data"))
        positive(self, "components", "ensemble")
        within(self, 0, 1, "gamma", "polyak")
        within(self, 0, math.inf, "penalty", "policy_rate", "critic_rate", "behaviour_rate")
        within(self, 1e-7, 0.5, "margin")
        within(self, -20, 2, "min_log_std")


STAIRS = {0.8: 0.1, 0.9: 0.01}
LOG_STD = (-20.0, 2.0)  # the authors' clip, for density and policy

# --- State -------------------------------------------------------------------


@pytree
class State:
    behaviour: dict
    log_alpha_behaviour: Array  # () weight of the density's entropy
    policy: dict
    critic: dict  # the offsets O, leading ensemble axis
    target_critic: dict
    log_alpha: Array  # () the policy's temperature
    optimiser: dict  # Adam's moments of all but the target
    hp: HP


# --- Losses ------------------------------------------------------------------


def floored(mu: Mixture, hp: HP) -> Mixture:
    """mu with no component narrower than the least."""
    return dataclasses.replace(mu, log_std=jnp.maximum(mu.log_std, hp["min_log_std"]))


def log_density(mu: Mixture, u: Array, hp: HP) -> Array:
    """log mu(a|s) of actions tanh(u), (batch,). Beyond the margin it is the margin's and has no slope."""
    limit = jnp.arctanh(1.0 - hp["margin"])
    u = jnp.clip(u, -limit, limit)
    return independent_log_prob(floored(mu, hp), u) - log_det_tanh(u)


def own_log_density(mu: Mixture, key: Array, hp: HP, sampling: str) -> Array:
    """E log mu(a|s) over a ~ mu, minus its entropy, (batch,): an estimate with a gradient."""
    mu = floored(mu, hp)
    if sampling == "chosen":  # as the authors' code: no gradient in the components' weights
        return log_density(mu, mu.sample(key)[..., 0], hp)
    limit = jnp.arctanh(1.0 - hp["margin"])
    u = jnp.clip(mu.sample_each(key), -limit, limit)  # (batch, dim, components, 1)
    each = jnp.moveaxis(mu.log_prob(jnp.moveaxis(u, -2, 0)), 0, -1) - log_det_tanh(u)
    return jnp.sum(mu.expect(each), axis=-1)


def behaviour_loss(params, behaviour: nn.Network, batch: Batch, key: Array, alpha: Array, hp: HP, sampling):
    """-E_D log mu(a) + alpha E log mu(a'), a' ~ mu; and the entropy of mu."""
    mu = behaviour.apply(params, batch.obs)
    own = own_log_density(mu, key, hp, sampling)
    data = log_density(mu, unsquash(batch.action, hp["margin"]), hp)
    return divergence.density_loss(data, own, alpha), (jnp.mean(data), -jnp.mean(own))


def clone_loss(params, policy: nn.Network, batch: Batch, key: Array, alpha: Array, hp: HP):
    """-E_D log pi(a|s) + alpha E log pi(a'), a' ~ pi, with no deviation below the density's least."""
    mean, log_std = policy.apply(params, batch.obs)
    pi = Normal(mean, jnp.maximum(log_std, hp["min_log_std"]))
    own = squash_log_prob(pi, pi.sample(key))
    data = squash_log_prob(pi, unsquash(batch.action, hp["margin"]))
    return divergence.density_loss(data, own, alpha)


def critic_loss(params, critic: nn.Network, batch: Batch, log_mu: Array, y: Array, action: Array, weight):
    """sum_i E(O_i + log mu - y)^2 + weight sum_i E|grad_a O_i(s, action)|^2   (equation 7).

    Args:
      log_mu: (batch,) of the data's actions, or zeros.
      action: (batch, dim) where the slope is penalised.
    """
    values = critic.apply(params, batch.obs, batch.action) + log_mu[None]
    each = jnp.broadcast_to(action[None, :, None], (values.shape[0], *action[:, None].shape))
    steepness = slope.squared_slope(lambda a: critic.apply(params, batch.obs, a), each)[..., 0]
    loss = td.squared_error(values, y)
    return loss + weight * jnp.sum(jnp.mean(steepness, axis=-1)), (loss, values, steepness)


def policy_loss(params, policy: nn.Network, value, obs: Array, key: Array, alpha: Array):
    """E[alpha log pi(a|s) - Q(s, a)] over a ~ pi, and the policy's entropy. `value` maps u to min_i Q_i."""
    pi = Normal(*policy.apply(params, obs))
    u = pi.sample(key)
    log_pi = squash_log_prob(pi, u)
    q = value(u)
    return jnp.mean(alpha * log_pi - q), (-jnp.mean(log_pi), jnp.mean(q))


# --- Build -------------------------------------------------------------------


class Networks(NamedTuple):
    """What a state's parameters are applied with."""

    policy: nn.Network
    critic: nn.Network
    behaviour: nn.Network
    config: Config
    dim: int


def networks(config: Config, spec: Spec) -> Networks:
    dim = continuous("fisher-brc", spec).dim
    behaviour = nn.mixture(
        spec.obs_dim, dim, config.components, config.behaviour_hidden, independent=True,
        log_std_range=LOG_STD, out_scale=0.01,
    )  # fmt: skip
    return Networks(
        nn.gaussian(spec.obs_dim, dim, config.hidden, log_std_range=LOG_STD, log_std_offset=0.0),
        nn.critic(spec.obs_dim, dim, config.hidden, ensemble=config.ensemble),
        behaviour,
        config,
        dim,
    )


def build(config: Config, spec: Spec) -> Algorithm:
    """Fisher-BRC for continuous actions in [-1, 1]^d."""
    n, sample = networks(config, spec), uniform(config.batch_size)
    pretraining = share(config.steps, config.behaviour_percent) if config.representation else 0
    stages = (
        Stage("behaviour", pretraining, sample, partial(clone, n, pretraining)),
        Stage("train", config.steps, sample, partial(update, n)),
    )
    return Algorithm(partial(init, n), stages, tanh_gaussian(n.policy))


def init(n: Networks, key: Array, hp: HP) -> State:
    keys = jax.random.split(key, 3)
    params = {
        "behaviour": n.behaviour.init(keys[0]),
        "log_alpha_behaviour": jnp.zeros(()),
        "policy": n.policy.init(keys[1]),
        "critic": n.critic.init(keys[2]),
        "log_alpha": jnp.zeros(()),
    }
    return begin(State, params, hp, targets=("critic",))


# --- What an update needs ----------------------------------------------------


def log_mu(n: Networks, state: State, obs: Array, u: Array) -> Array:
    """log mu(tanh(u)|s), (batch,); zeros where critics are not built on it."""
    if not n.config.representation:
        return jnp.zeros(u.shape[:-1])
    return log_density(n.behaviour.apply(state.behaviour, obs), u, state.hp)


def min_q(n: Networks, state: State, offset, obs: Array, u: Array) -> Array:
    """min_i Q_i(s, tanh(u)), (batch,), by equation 5; `offset`: the parameters of O."""
    return nn.least(n.critic, offset, obs, jnp.tanh(u)) + log_mu(n, state, obs, u)


# --- Stages ------------------------------------------------------------------


def clone(n: Networks, steps: int, state: State, batch: Batch, key: Array, step: Array):
    hp, alpha = state.hp, jnp.exp(state.log_alpha_behaviour)
    grads, (log_prob, entropy) = jax.grad(behaviour_loss, has_aux=True)(
        state.behaviour, n.behaviour, batch, key, alpha, hp, n.config.sampling
    )
    rate = staircase(hp["behaviour_rate"], step, steps, STAIRS)
    excess = n.dim * hp["behaviour_entropy"] - entropy
    dual_grad = dual.Multiplier().grad(state.log_alpha_behaviour, excess)
    grads = {"behaviour": grads, "log_alpha_behaviour": dual_grad}
    if n.config.start == "behaviour":
        key_pi = jax.random.fold_in(key, 1)
        grads["policy"] = jax.grad(clone_loss)(state.policy, n.policy, batch, key_pi, alpha, hp)
    state = descend(state, grads, dict.fromkeys(grads, rate))
    return state, {"log_prob_data": log_prob, "behaviour_entropy": entropy, "behaviour_alpha": alpha}


def update(n: Networks, state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
    hp, alpha = state.hp, jnp.exp(state.log_alpha)
    key_next, key_penalty, key_pi = jax.random.split(key, 3)

    u_next = Normal(*n.policy.apply(state.policy, batch.next_obs)).sample(key_next)
    next_q = min_q(n, state, state.target_critic, batch.next_obs, u_next)
    y = td.target(batch.reward + hp["bonus"], batch.discount, next_q)
    log_mu_data = log_mu(n, state, batch.obs, unsquash(batch.action, hp["margin"]))
    flat_at = batch.action
    if n.config.penalty_at == "policy":
        flat_at = jnp.tanh(Normal(*n.policy.apply(state.policy, batch.obs)).sample(key_penalty))
    grads, (td_loss, values, steepness) = jax.grad(critic_loss, has_aux=True)(
        state.critic, n.critic, batch, log_mu_data, y, flat_at, hp["penalty"]
    )
    state = descend(state, {"critic": grads}, {"critic": hp["critic_rate"]})

    # The policy sees the critics from after their step, as in the authors' code.
    value = partial(min_q, n, state, state.critic, batch.obs)
    grads, (entropy, q_policy) = jax.grad(policy_loss, has_aux=True)(
        state.policy, n.policy, value, batch.obs, key_pi, alpha
    )
    excess = n.dim * hp["target_entropy"] - entropy
    grads = {"policy": grads, "log_alpha": dual.Multiplier().grad(state.log_alpha, excess)}
    state = descend(state, grads, dict.fromkeys(grads, hp["policy_rate"]))
    return dual.follow(state, "critic"), {
        "td_loss": td_loss,
        "slope": jnp.mean(slope.norm(steepness)),
        "q_data": jnp.mean(values),
        "q_policy": q_policy,
        "target": jnp.mean(y),
        "log_mu_data": jnp.mean(log_mu_data),
        "entropy": entropy,
        "alpha": alpha,
    }


ENTRY = {
    "fisher-brc": Entry(
        Config, build, "Kostrikov et al. 2021, arXiv 2103.08050", *presets.read("fisher-brc", Config)
    )
}
