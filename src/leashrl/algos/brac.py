"""BRAC: Behavior Regularized Actor Critic, -p and -v (Wu, Tucker, Nachum 2019, arXiv 1911.11361)."""

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
from leashrl.dist import Normal, squash_log_prob, unsquash
from leashrl.ops import divergence, dual, slope, td
from leashrl.optim import begin, descend
from leashrl.types import Array, Batch, Metrics, Spec, pytree

# --- Config ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    r"""BRAC: actor and critic with a divergence D from a cloned behaviour as penalty.

    First stage, behaviour $\mu$: a tanh-Gaussian by maximum likelihood with SAC's entropy bonus. Then
    critics, the last term of y in `brac-v` alone (value penalty),

    $$E_D(Q_i - y)^2,\quad
      y = r + \gamma\,[(\lambda\min_i + (1-\lambda)\max_i)Q'_i(s', a') - \alpha D(\pi,\mu)(s')],\ a'\sim\pi$$

    and in both the policy (policy regularisation), which for its first updates sees D alone:

    $$\max_\pi\ E[\min_i Q_i(s, a_\pi) - \alpha D(\pi,\mu)(s)]$$

    D is estimated from `samples` policy actions a state:

    * `kl`: $E_\pi\log\pi - \log\mu$, with the cloned density;
    * `kl-exact`: the same without samples, from the means and standard deviations of both Gaussians;
    * `kl-dual`, `w`: a critic g of state and action climbs the divergence's dual form, its slope kept
      below 1 (a penalty on what is above), so that no density is needed;
    * `mmd`: Laplacian or Gaussian kernel between pre-tanh samples of both.

    Args:
      steps: gradient updates of critics and policy.
      behaviour_percent: updates of the behaviour before that, in percent of `steps`.
      policy_only_percent: for so many of `steps` in percent, the policy minimises D alone.
      batch_size: transitions an update.
      preprocess: what is done to observations and rewards before training.
      hidden: widths of the policy's and behaviour's hidden layers.
      critic_hidden: widths of the critics' hidden layers.
      ensemble: number of critics.
      value_penalty: put D into the critics' targets too: BRAC-v; without it, BRAC-p.
      start: how the policy begins: `random`, or as a copy of the cloned `behaviour`.
      std_range: of policy and behaviour, before tanh: `narrow`, squashed by tanh into [e^-5, 1], or `wide`,
        cut off at [e^-5, e^2] as `bc` has it.
      behaviour_bonus: give the behaviour SAC's entropy bonus, which holds its entropy at its target or above.
      divergence: `kl`, `kl-exact`, `kl-dual`, `mmd` or `w`.
      kernel: of `mmd`: `laplacian` or `gaussian`.
      samples: policy actions a state for D.
      tune: let alpha follow D - `threshold` in place of staying what it is.
      entropy: SAC's bonus -alpha_e log pi for the policy, in targets and objective, its weight tuned.
      best_of: actions among which the mode `best` chooses by the first critic.
      gamma: discount.
      polyak: rate of the target critics.
      alpha: weight of D; where it is tuned, its start.
      threshold: what `tune` holds D at.
      mix: lambda above; 1 takes the critics' minimum.
      sigma: of the kernel exp(-d / (2 sigma)); BRAC's own 20 in exp(-d / sigma) is 10 here.
      slope_penalty: weight of the dual critic's slope penalty.
      target_entropy: of policy and behaviour, in nats per action dimension.
      margin: data actions, and what the behaviour's density is asked about, are cut off at 1 - margin.
      policy_rate, critic_rate, alpha_rate, behaviour_rate: Adam's learning rates; the dual critic uses the
        critics'.

    References:
      Wu et al. (2019), arXiv 1911.11361; Fu et al. (2020), arXiv 2004.07219. Departures:
      docs/algorithms/brac-p.md.
    """

    steps: int = 1_000_000
    behaviour_percent: int = 100
    policy_only_percent: int = 2
    batch_size: int = 256
    preprocess: Preprocess = field(default_factory=Preprocess)
    precision: str = "auto"
    hidden: tuple[int, ...] = (200, 200)
    critic_hidden: tuple[int, ...] = (300, 300)
    ensemble: int = 2
    value_penalty: bool = False
    start: str = "random"
    std_range: str = "narrow"
    behaviour_bonus: bool = True
    divergence: str = "kl"
    kernel: str = "laplacian"
    samples: int = 4
    tune: bool = False
    entropy: bool = False
    best_of: int = 10
    gamma: float = 0.99
    polyak: float = 0.005
    alpha: float = 1.0
    threshold: float = 0.0
    mix: float = 1.0
    sigma: float = 10.0
    slope_penalty: float = 5.0
    target_entropy: float = -1.0
    margin: float = 1e-3
    policy_rate: float = 3e-5
    critic_rate: float = 1e-3
    alpha_rate: float = 1e-5
    behaviour_rate: float = 5e-4

    def __post_init__(self) -> None:
        choice("divergence", self.divergence, ("kl", "kl-exact", "kl-dual", "mmd", "w"))
        choice("start", self.start, ("random", "behaviour"))
        choice("std_range", self.std_range, STD_RANGES)
        choice("kernel", self.kernel, divergence.KERNELS)
        positive(self, "ensemble", "samples", "best_of")
        within(self, 0, 1, "gamma", "polyak", "mix")
        within(self, 0, math.inf, "policy_rate", "critic_rate", "alpha_rate", "behaviour_rate", "sigma")
        within(self, 1e-6, 500, "alpha")
        within(self, 1e-7, 0.5, "margin")


STD_RANGES = {
    "narrow": {"bound": "tanh", "log_std_range": (-5.0, 0.0)},
    "wide": {"bound": "clip", "log_std_range": (-5.0, 2.0)},
}
ALPHA = dual.Multiplier(500.0)  # as the authors bound theirs

# --- State -------------------------------------------------------------------


@pytree
class State:
    behaviour: dict
    log_alpha_behaviour: Array  # () weight of the behaviour's entropy
    policy: dict
    critic: dict  # leading ensemble axis
    target_critic: dict
    energy: dict  # g, the dual forms' critic; {} where there is none
    log_alpha: Array  # () logarithm of D's weight
    log_alpha_entropy: Array  # () of the policy's entropy
    optimiser: dict  # Adam's moments of all but the target
    hp: HP


# --- Losses ------------------------------------------------------------------


def clipped_log_prob(pi: Normal, u: Array, margin: Array) -> Array:
    """log density of tanh(u), at the margin's where it lies beyond, with no slope there."""
    limit = jnp.arctanh(1.0 - margin)
    return squash_log_prob(pi, jnp.clip(u, -limit, limit))


def behaviour_loss(params, network: nn.Network, batch: Batch, key: Array, alpha, margin):
    """-E_D log mu(a) + alpha E log mu(a'), a' ~ mu reparameterised; and the entropy of mu."""
    mu = Normal(*network.apply(params, batch.obs))
    own = squash_log_prob(mu, mu.sample(key))
    data = squash_log_prob(mu, unsquash(batch.action, margin))
    return divergence.density_loss(data, own, alpha), (jnp.mean(data), -jnp.mean(own))


def dual_critic_loss(params, g: nn.Network, kind: str, obs: Array, policy: Array, behaviour: Array, weight):
    """-D + weight * E max(|grad_a g| - 1, 0)^2; both actions (batch, n, dim), slopes half-way between."""
    value = lambda a: g.apply(params, obs, a)[0]
    steepness = slope.squared_slope(value, 0.5 * (policy + behaviour))
    distance = jnp.mean(divergence.dual(kind, value(policy), value(behaviour)))
    return -distance + weight * jnp.mean(slope.steeper_than_one(steepness))


def policy_loss(params, policy: nn.Network, value, penalty, obs: Array, key: Array, alpha, alpha_entropy, on):
    """E[alpha D(s) + alpha_e log pi(a|s) - on * Q(s, a)]; `value` maps actions to Q, `penalty` pi to D."""
    pi = Normal(*policy.apply(params, obs))
    u = pi.sample(key)
    log_pi, q, distance = squash_log_prob(pi, u), value(jnp.tanh(u)), penalty(pi)
    loss = jnp.mean(alpha * distance + alpha_entropy * log_pi - on * q)
    return loss, (jnp.mean(distance), -jnp.mean(log_pi), jnp.mean(q))


# --- Build -------------------------------------------------------------------


class Networks(NamedTuple):
    """What a state's parameters are applied with."""

    policy: nn.Network
    behaviour: nn.Network
    critic: nn.Network
    energy: nn.Network
    dual_form: str  # of the divergence that a critic g climbs; "" where there is none
    config: Config
    dim: int


def networks(config: Config, spec: Spec) -> Networks:
    dim = continuous("brac", spec).dim
    critic = partial(nn.critic, spec.obs_dim, dim, config.critic_hidden)
    gaussian = nn.gaussian(spec.obs_dim, dim, config.hidden, **STD_RANGES[config.std_range])
    dual_form = {"kl-dual": "kl", "w": "w"}.get(config.divergence, "")
    return Networks(
        gaussian, gaussian, critic(ensemble=config.ensemble), critic(ensemble=1), dual_form, config, dim
    )


def build(config: Config, spec: Spec) -> Algorithm:
    """BRAC for continuous actions in [-1, 1]^d."""
    n, sample = networks(config, spec), uniform(config.batch_size)
    behaviour = share(config.steps, config.behaviour_percent)
    alone = share(config.steps, config.policy_only_percent)
    stages = (
        Stage("behaviour", behaviour, sample, partial(clone, n)),
        Stage("train", config.steps, sample, partial(update, n, alone)),
    )
    acting = best_of(n.policy, n.critic, config.best_of, modes=("mean", "sample", "best"))
    return Algorithm(partial(init, n), stages, acting)


def init(n: Networks, key: Array, hp: HP) -> State:
    keys = jax.random.split(key, 4)
    params = {
        "behaviour": n.behaviour.init(keys[0]),
        "log_alpha_behaviour": jnp.zeros(()),
        "policy": n.policy.init(keys[1]),
        "critic": n.critic.init(keys[2]),
        "energy": n.energy.init(keys[3]) if n.dual_form else {},
        "log_alpha": jnp.log(hp["alpha"]),
        "log_alpha_entropy": jnp.zeros(()),
    }
    return begin(State, params, hp, targets=("critic",))


# --- What an update needs ----------------------------------------------------


def distance(n: Networks, state: State, obs: Array, key: Array):
    """`pi -> D(pi, mu)`, (batch,), at some observations."""
    config = n.config
    mu = Normal(*n.behaviour.apply(state.behaviour, obs))
    key_pi, key_mu = jax.random.split(key)

    def of(pi: Normal) -> Array:
        if config.divergence == "kl-exact":
            return divergence.kl(pi, mu)
        u = pi.draws(key_pi, config.samples)
        if config.divergence == "kl":
            log_mu = clipped_log_prob(mu.each(), u, state.hp["margin"])
            return jnp.mean(squash_log_prob(pi.each(), u) - log_mu, axis=-1)
        other = mu.draws(key_mu, config.samples)
        if not n.dual_form:
            return divergence.mmd(u, other, config.kernel, state.hp["sigma"])
        value = lambda a: n.energy.apply(state.energy, obs, a)[0]
        return divergence.dual(n.dual_form, value(jnp.tanh(u)), value(jnp.tanh(other)))

    return of


def targets(n: Networks, state: State, batch: Batch, keys: Array, alpha, alpha_entropy) -> Array:
    mix = state.hp["mix"]
    pi = Normal(*n.policy.apply(state.policy, batch.next_obs))
    u = pi.sample(keys[0])
    each = n.critic.apply(state.target_critic, batch.next_obs, jnp.tanh(u))
    value = mix * jnp.min(each, axis=0) + (1 - mix) * jnp.max(each, axis=0)
    value -= alpha_entropy * squash_log_prob(pi, u)
    if n.config.value_penalty:
        value -= alpha * distance(n, state, batch.next_obs, keys[1])(pi)
    return td.target(batch.reward, batch.discount, value)


def energy_grad(n: Networks, state: State, obs: Array, key: Array):
    """The gradient of `dual_critic_loss` at actions of policy and behaviour."""
    both = [
        Normal(*network.apply(params, obs))
        for network, params in ((n.policy, state.policy), (n.behaviour, state.behaviour))
    ]
    keys = jax.random.split(key)
    pair = [jnp.tanh(x.draws(k, n.config.samples)) for x, k in zip(both, keys, strict=True)]
    return jax.grad(dual_critic_loss)(
        state.energy, n.energy, n.dual_form, obs, *pair, state.hp["slope_penalty"]
    )


# --- Stages ------------------------------------------------------------------


def clone(n: Networks, state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
    hp = state.hp
    alpha = jnp.exp(state.log_alpha_behaviour) if n.config.behaviour_bonus else jnp.zeros(())
    grads, (log_prob, entropy) = jax.grad(behaviour_loss, has_aux=True)(
        state.behaviour, n.behaviour, batch, key, alpha, hp["margin"]
    )
    excess = n.dim * hp["target_entropy"] - entropy
    dual_grad = dual.Multiplier().grad(state.log_alpha_behaviour, excess)
    grads = {"behaviour": grads, "log_alpha_behaviour": dual_grad}
    state = descend(state, grads, dict.fromkeys(grads, hp["behaviour_rate"]))
    if n.config.start == "behaviour":
        state = dataclasses.replace(state, policy=state.behaviour)
    return state, {"log_prob_data": log_prob, "behaviour_entropy": entropy, "behaviour_alpha": alpha}


def update(n: Networks, alone: int, state: State, batch: Batch, key: Array, step: Array):
    """The policy's first `alone` updates see D alone."""
    hp, alpha = state.hp, ALPHA(state.log_alpha)
    alpha_entropy = jnp.exp(state.log_alpha_entropy) if n.config.entropy else jnp.zeros(())
    keys = jax.random.split(key, 6)

    state = dual.follow(state, "critic")  # before the step, as in the authors' code
    y = targets(n, state, batch, keys[:2], alpha, alpha_entropy)
    (td_loss, values), critic_grads = jax.value_and_grad(td.critic_loss, has_aux=True)(
        state.critic, n.critic.apply, batch, y
    )
    grads = {"critic": critic_grads}
    if n.dual_form:
        grads["energy"] = energy_grad(n, state, batch.obs, keys[2])
    state = descend(state, grads, dict.fromkeys(grads, hp["critic_rate"]))

    on = (step >= alone).astype(jnp.float32)
    min_q = partial(nn.least, n.critic, state.critic, batch.obs)
    penalty = distance(n, state, batch.obs, keys[3])
    policy_grads, (apart, entropy, q_policy) = jax.grad(policy_loss, has_aux=True)(
        state.policy, n.policy, min_q, penalty, batch.obs, keys[4], alpha, alpha_entropy, on
    )
    grads, rates = {"policy": policy_grads}, {"policy": hp["policy_rate"]}
    if n.config.tune:
        grads["log_alpha"] = ALPHA.grad(state.log_alpha, apart - hp["threshold"])
        rates["log_alpha"] = hp["alpha_rate"]
    if n.config.entropy:
        excess = n.dim * hp["target_entropy"] - entropy
        grads["log_alpha_entropy"] = dual.Multiplier().grad(state.log_alpha_entropy, excess)
        rates["log_alpha_entropy"] = hp["policy_rate"]
    return descend(state, grads, rates), {
        "td_loss": td_loss,
        "q_data": jnp.mean(values),
        "q_policy": q_policy,
        "target": jnp.mean(y),
        "divergence": apart,
        "entropy": entropy,
        "alpha": alpha,
    }


PAPER = "Wu et al. 2019, arXiv 1911.11361"
ENTRY = {name: Entry(Config, build, PAPER, *presets.read(name, Config)) for name in ("brac-p", "brac-v")}
