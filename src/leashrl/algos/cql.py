"""CQL: Conservative Q-Learning (Kumar et al., NeurIPS 2020, arXiv 2006.04779)."""

import dataclasses
import math
from dataclasses import field
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.algos import presets
from leashrl.algos.common import (
    categorical,
    choice,
    entropy_target,
    positive,
    share,
    tanh_gaussian,
    with_returns,
    within,
)
from leashrl.core import HP, Algorithm, Entry, Preprocess, Stage, uniform
from leashrl.dist import Categorical, Normal, squash_log_prob, unsquash
from leashrl.errors import BadInput
from leashrl.ops import conservative, dual, mi, td
from leashrl.optim import begin, descend
from leashrl.types import Array, Batch, Discrete, Metrics, Space, Spec, pytree

# --- Config ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    r"""CQL: critics pushed down where a policy would go, up on the data: lower bounds of its value.

    CQL(H), equation 4, for each member of the ensemble, with $y = r + \gamma\min_i Q'_i(s',a')$, $a'\sim\pi$:

    $$E_D(Q_i - y)^2 + w\,\big(E_s\log\textstyle\int e^{Q_i(s,a)}da - E_D[Q_i(s,a)]\big)$$

    The integral is estimated by importance sampling, $\log\sum_j e^{Q_i(s,a_j) - \log q(a_j)}$, over k
    actions each of the uniform distribution, of $\pi(s)$ and of $\pi(s')$, the latter judged in s too.
    CQL($\rho$) leaves the weights out and counts the data's action among them. With the policy's actions
    alone as proposal, it is the critic of MISA: both are `ops.conservative`.

    Cal-QL (Nakamoto et al. 2023) has $\max(Q_i(s,a_j), V^\mu(s))$ for $Q_i$ of the policy's
    actions in the integral, $V^\mu$ the data's return to go.

    Policy and temperature are SAC's, after a while of behaviour cloning:

    $$\max_\phi\ E[\min_i Q_i(s,a_\pi) - \alpha\log\pi(a_\pi|s)]$$

    Of discrete actions all of this is summed, not sampled: `k` and `resample` are not used, and CQL($\rho$)
    has the policy for $\rho$, $\log\sum_a\pi(a|s)e^{Q_i(s,a)}$.

    Args:
      steps: gradient updates.
      warmup_percent: the share of them in which the policy clones, $\log\pi(a|s)$ in place of Q.
      batch_size: transitions an update.
      preprocess: what is done to observations and rewards before training.
      hidden: widths of all networks' hidden layers.
      critic_hidden: the critics' own, where they are not the same.
      critic_norm: layer normalisation in the critics' hidden layers.
      networks: how they begin and what bounds the policy: `ours`, `authors` or `corl` (table below).
      ensemble: number of critics; targets and policy take their minimum.
      form: `h`, or `rho`.
      k: actions of each of the three proposals.
      resample: m > 0 runs the critic's backward pass on m of the 3 k actions, drawn by their weights
        (unbiased); 0 on all of them.
      lagrange: `none`; or tune w's multiplier by the excess of the gap in brackets: `weighted`, w gap - tau
        (the authors), or `gap`, w (gap - tau) (JaxCQL and what came of it).
      calibrated: Cal-QL: Q of the policy's actions counts as no less than the return to go of the data's
        row, so that the critics are pushed down to the behaviour's value and no further.
      gap_floor: n > 0: a state whose gap is below -n is not pushed; 0 pushes all.
      backup: next actions in the target: one `sample`; of k the one with the largest minimum of the critics
        (`max`, CORL); or the minimum of each critic's own maximum (`max-each`, the authors).
      backup_entropy: targets less the temperature times log pi (SAC's own).
      gamma: discount.
      polyak: rate of the target critics.
      weight: w above.
      tau: budget of the Lagrange forms.
      target_entropy: the temperature's target, in nats per dimension of continuous actions.
      entropy_share: the same of n discrete actions, as a share of log n, the entropy of the uniform policy.
      policy_rate, critic_rate: Adam's learning rates; the temperature uses the policy's, the multiplier the
        critic's.

    References:
      Kumar et al. (2020), Conservative Q-Learning for Offline Reinforcement Learning.
      Nakamoto et al. (2023), Cal-QL: Calibrated Offline RL Pre-Training for Efficient Online Fine-Tuning.
    """

    steps: int = 1_000_000
    warmup_percent: int = 4
    batch_size: int = 256
    preprocess: Preprocess = field(default_factory=Preprocess)
    precision: str = "auto"
    hidden: tuple[int, ...] = (256, 256, 256)
    critic_hidden: tuple[int, ...] = ()
    critic_norm: bool = False
    networks: str = "ours"
    ensemble: int = 2
    form: str = "h"
    k: int = 10
    resample: int = 0
    lagrange: str = "none"
    calibrated: bool = False
    gap_floor: int = 0
    backup: str = "sample"
    backup_entropy: bool = False
    gamma: float = 0.99
    polyak: float = 0.005
    weight: float = 5.0
    tau: float = 5.0
    target_entropy: float = -1.0
    entropy_share: float = 0.5
    policy_rate: float = 1e-4
    critic_rate: float = 3e-4

    def __post_init__(self) -> None:
        choice("form", self.form, ("h", "rho"))
        choice("lagrange", self.lagrange, ("none", "weighted", "gap"))
        choice("backup", self.backup, ("sample", "max", "max-each"))
        choice("networks", self.networks, NETWORKS)
        positive(self, "ensemble", "k")
        within(self, 0, 100, "warmup_percent")
        within(self, 0, 1, "gamma", "polyak", "entropy_share")
        within(self, 0, math.inf, "weight", "policy_rate", "critic_rate")
        if not self.hidden:  # the critic splits its first layer by state and action
            raise BadInput("option 'hidden' must hold at least one width")
        if self.gap_floor and self.resample:
            raise BadInput("option 'gap_floor' needs all actions of a state: give resample=0")


class Variant(NamedTuple):
    """Initial weights (`nn.INITIAL`), and what a policy's mean and log spread are kept within."""

    policy: str
    critic: str
    scalars: bool  # learnt factor and offset of the log spread
    mean_limit: float
    log_std_range: tuple[float, float]


NETWORKS = {
    "ours": Variant("scaled", "scaled", True, 9.0, (-5.0, 2.0)),
    "authors": Variant("rlkit-policy", "rlkit-critic", False, 9.0, (-5.0, 2.0)),
    "corl": Variant("torch-small", "orthogonal-small", True, math.inf, (-20.0, 2.0)),
}
ACTION_MARGIN = 1e-3  # data actions are clipped to ±0.999 before atanh, as MISA's and BC's
DUAL = dual.Multiplier()

# --- State -------------------------------------------------------------------


@pytree
class State:
    policy: dict
    critic: dict  # leading ensemble axis
    target_critic: dict
    log_alpha: Array  # () entropy temperature
    log_lagrange: Array  # () multiplier of w
    optimiser: dict  # Adam's moments of all but the target
    hp: HP


# --- Losses ------------------------------------------------------------------


def policy_loss(params, policy: nn.Network, value, batch: Batch, key: Array, alpha: Array, cloning: Array):
    """E[alpha log pi(a_pi) - min_i Q_i(s, a_pi)], or with E_D[log pi(a)] for Q while `cloning`.

    Args:
      value: (batch, dim) actions -> (batch,) smallest Q.
      cloning: () bool.
    """
    pi = Normal(*policy.apply(params, batch.obs))
    u = pi.sample(key)
    entropy = -jnp.mean(squash_log_prob(pi, u))
    q = jnp.mean(value(jnp.tanh(u)))
    log_prob_data = jnp.mean(squash_log_prob(pi, unsquash(batch.action, ACTION_MARGIN)))
    wanted = jnp.where(cloning, log_prob_data, q)
    metrics = {"q_policy": q, "entropy": entropy, "log_prob_data": log_prob_data}
    return -alpha * entropy - wanted, metrics | {"policy_std": jnp.mean(jnp.exp(pi.log_std))}


def exact_policy_loss(params, policy: nn.Network, q: Array, batch: Batch, alpha: Array, cloning: Array):
    """`policy_loss` of discrete actions, with q (batch, n) the smallest Q of each."""
    pi = Categorical(policy.apply(params, batch.obs))
    entropy = jnp.mean(pi.entropy())
    q_policy = jnp.mean(pi.expect(q))
    log_prob_data = jnp.mean(pi.log_prob(batch.action))
    wanted = jnp.where(cloning, log_prob_data, q_policy)
    metrics = {"q_policy": q_policy, "entropy": entropy, "log_prob_data": log_prob_data}
    return -alpha * entropy - wanted, metrics


# --- Build -------------------------------------------------------------------


class Networks(NamedTuple):
    """What a state's parameters are applied with, also by those who look into a trained one."""

    policy: nn.Network
    critic: nn.Network
    config: Config
    action: Space
    discrete: bool


def networks(config: Config, spec: Spec) -> Networks:
    discrete, dim = isinstance(spec.action, Discrete), spec.action.dim
    if discrete and (config.calibrated or config.gap_floor):
        raise BadInput("options 'calibrated' and 'gap_floor' are of continuous actions")
    how, make = NETWORKS[config.networks], nn.table_critic if discrete else nn.critic
    sizes = (spec.obs_dim, dim, config.hidden)
    if discrete:
        policy = nn.mlp(*sizes, out_scale=0.01, initial=how.policy)
    else:
        limits = {"mean_limit": how.mean_limit, "log_std_range": how.log_std_range}
        policy = nn.gaussian(*sizes, initial=how.policy, scalars=how.scalars, **limits)
    sizes = (spec.obs_dim, dim, config.critic_hidden or config.hidden)
    critic = make(*sizes, ensemble=config.ensemble, norm=config.critic_norm, initial=how.critic)
    return Networks(policy, critic, config, spec.action, discrete)


def build(config: Config, spec: Spec) -> Algorithm:
    """CQL for continuous actions in [-1, 1]^d, or discrete ones."""
    n = networks(config, spec)
    sample = with_returns(config.batch_size) if config.calibrated else uniform(config.batch_size)
    stage = Stage("train", config.steps, sample, partial(update, n))
    return Algorithm(partial(init, n), (stage,), (categorical if n.discrete else tanh_gaussian)(n.policy))


def init(n: Networks, key: Array, hp: HP) -> State:
    keys = jax.random.split(key)
    params = {
        "policy": n.policy.init(keys[0]),
        "critic": n.critic.init(keys[1]),
        "log_alpha": jnp.zeros(()),
        # The multiplier starts at 1 with the authors, at e in JaxCQL.
        "log_lagrange": jnp.float32(n.config.lagrange == "gap"),
    }
    return begin(State, params, hp, targets=("critic",))


# --- Update ------------------------------------------------------------------


def update(n: Networks, state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
    # All gradients are taken at the parameters from before the update. The public codes step the policy
    # before the critics, but both losses are formed before either step: it is the same.
    config, hp = n.config, state.hp
    multiplier = jnp.ones(()) if config.lagrange == "none" else DUAL(state.log_lagrange)
    weight, cloning = multiplier * hp["weight"], step < share(config.steps, config.warmup_percent)
    grads, metrics = (summed if n.discrete else sampled)(n, state, batch, key, weight, cloning)
    excess = hp["weight"] * metrics["gap"] - hp["tau"]
    if config.lagrange == "gap":
        excess = hp["weight"] * (metrics["gap"] - hp["tau"])
    target = entropy_target(n.action, hp["target_entropy"], hp["entropy_share"])
    grads["log_lagrange"] = DUAL.grad(state.log_lagrange, excess)
    grads["log_alpha"] = jax.grad(dual.temperature_loss)(state.log_alpha, metrics["entropy"], target)
    rates = {
        "critic": hp["critic_rate"],
        "policy": hp["policy_rate"],
        "log_alpha": hp["policy_rate"],
        "log_lagrange": hp["critic_rate"] * float(config.lagrange != "none"),
    }
    new = descend(state, grads, rates)
    metrics |= {"lagrange": multiplier, "alpha": jnp.exp(state.log_alpha)}
    return dual.follow(new, "critic"), metrics


def measured(values: Array, y: Array, gap: Array) -> Metrics:
    """What either half finds of the critics, as metrics: Q_i of the data (ensemble, batch), targets, gap."""
    td_loss = td.squared_error(values, y)
    return {"td_loss": td_loss, "q_data": jnp.mean(values), "target": jnp.mean(y), "gap": gap}


# --- Continuous actions: expectations are sampled ----------------------------


def sampled(n: Networks, state: State, batch: Batch, key: Array, weight: Array, cloning: Array):
    """Gradients of policy and critics, and metrics."""
    config = n.config
    key_next, key_proposal, key_draw, key_pi = jax.random.split(key, 4)
    both = n.policy.apply(state.policy, jnp.concatenate([batch.obs, batch.next_obs]))
    pi, pi_next = map(Normal, *(jnp.split(x, 2) for x in both))

    y = targets(n, state, pi_next, batch, key_next)
    actions, log_q = proposals(n, pi, pi_next, batch, key_proposal)
    gap_floor = -float(config.gap_floor) if config.gap_floor else -math.inf
    critic_grads, values, energies = conservative.gradient(
        state.critic, n.critic.apply, batch, actions, y, weight, 1.0,
        bound="misa", log_q=log_q if config.form == "h" else None, floor=floors(n, batch, actions.shape[1]),
        gap_floor=gap_floor, key=key_draw, resample=config.resample,
    )  # fmt: skip
    gap = jnp.maximum(jax.nn.logsumexp(energies, axis=-1) - values, gap_floor)

    min_q = partial(nn.least, n.critic, state.critic, batch.obs)
    policy_grads, metrics = jax.grad(policy_loss, has_aux=True)(
        state.policy, n.policy, min_q, batch, key_pi, jnp.exp(state.log_alpha), cloning
    )
    grads = {"critic": critic_grads, "policy": policy_grads}
    return grads, metrics | measured(values, y, jnp.mean(gap))


def targets(n: Networks, state: State, pi_next: Normal, batch: Batch, key: Array) -> Array:
    u = pi_next.draws(key, 1 if n.config.backup == "sample" else n.config.k)
    values = n.critic.apply(state.target_critic, batch.next_obs, jnp.tanh(u))  # (ensemble, batch, k)
    if n.config.backup_entropy:
        values -= jnp.exp(state.log_alpha) * squash_log_prob(pi_next.each(), u)[None]
    if n.config.backup == "max-each":
        best = jnp.min(jnp.max(values, axis=-1), axis=0)
    else:
        best = jnp.max(jnp.min(values, axis=0), axis=-1)
    return td.target(batch.reward, batch.discount, best)


def proposals(n: Networks, pi: Normal, pi_next: Normal, batch: Batch, key: Array) -> tuple[Array, Array]:
    """Actions (batch, 3 k, dim), and their log densities (batch, 3 k) under what drew them."""
    keys, k, (rows, dim) = jax.random.split(key, 3), n.config.k, batch.action.shape
    anywhere = jax.random.uniform(keys[0], (rows, k, dim), minval=-1.0, maxval=1.0)
    u_next, u = pi_next.draws(keys[1], k), pi.draws(keys[2], k)
    actions = [anywhere, jnp.tanh(u_next), jnp.tanh(u)]
    if n.config.form == "rho":
        actions.append(batch.action[:, None])
    log_q = [
        jnp.full((rows, k), -dim * math.log(2.0)),
        squash_log_prob(pi_next.each(), u_next),
        squash_log_prob(pi.each(), u),
    ]
    return jnp.concatenate(actions, axis=1), jnp.concatenate(log_q, axis=1)


def floors(n: Networks, batch: Batch, columns: int) -> Array | None:
    """Cal-QL's bounds of the proposals' Q (batch, columns): the return to go, of the policy's actions."""
    if not n.config.calibrated:
        return None
    if batch.to_go is None:
        raise BadInput("option 'calibrated' needs the data's returns to go")
    k, rows = n.config.k, len(batch.reward)
    own = jnp.broadcast_to(batch.to_go[:, None], (rows, 2 * k))
    # uniform ones before, CQL(rho)'s of the data behind
    before, behind = (jnp.full((rows, m), -jnp.inf) for m in (k, columns - 3 * k))
    return jnp.concatenate([before, own, behind], axis=1)


# --- Discrete actions: expectations are summed -------------------------------


def summed(n: Networks, state: State, batch: Batch, key: Array, weight: Array, cloning: Array):
    """Gradients of policy and critics, and metrics."""
    config, alpha = n.config, jnp.exp(state.log_alpha)
    pi_next = Categorical(n.policy.apply(state.policy, batch.next_obs))
    next_q = nn.least(n.critic, state.target_critic, batch.next_obs)
    if config.backup_entropy:
        next_q -= alpha * pi_next.log_probs
    next_value = pi_next.expect(next_q) if config.backup == "sample" else jnp.max(next_q, axis=-1)
    y = td.target(batch.reward, batch.discount, next_value)

    log_mass = Categorical(n.policy.apply(state.policy, batch.obs)).log_probs
    if config.form == "h":
        log_mass = jnp.zeros_like(log_mass)
    critic_grads, (values, energies) = jax.grad(conservative.exact_loss, has_aux=True)(
        state.critic, n.critic.apply, "misa", batch, log_mass, y, weight, 1.0
    )
    gap = mi.log_partition("misa", energies.reshape(-1, n.action.dim)) - jnp.mean(values)

    min_q = nn.least(n.critic, state.critic, batch.obs)
    policy_grads, metrics = jax.grad(exact_policy_loss, has_aux=True)(
        state.policy, n.policy, min_q, batch, alpha, cloning
    )
    grads = {"critic": critic_grads, "policy": policy_grads}
    return grads, metrics | measured(values, y, gap)


ENTRY = {
    "cql": Entry(
        Config,
        build,
        "Kumar et al. 2020, arXiv 2006.04779",
        *presets.read("cql", Config),
        discrete=True,
        bfloat16=True,
    )
}
