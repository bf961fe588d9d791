"""BRAC+: Improved Behavior Regularized Actor Critic (Zhang et al., ICLR 2021 submission; 2110.00894)."""

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
from leashrl.core import HP, Algorithm, Data, Entry, Preprocess, Stage, uniform
from leashrl.dist import LOG_SQRT_2PI, Normal, log_det_tanh, squash_log_prob, unsquash
from leashrl.errors import BadInput
from leashrl.models.behaviour import Behaviour, autoencoders, one_of
from leashrl.ops import dual, slope, td
from leashrl.optim import begin, descend, staircase
from leashrl.types import Array, Batch, Metrics, Spec, pytree

# --- Config ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    r"""BRAC+: an analytic divergence from the behaviour, a multiplier for every state, and critics that are
    kept flat where the policy leaves the data.

    Behaviour: `members` conditional variational autoencoders $p(u|s,z), q(z|s,u)$ of pre-tanh actions.
    Divergence of the policy from one of them, an upper bound of KL with little variance (equation 7):

    $$D(s) = E_{u\sim\pi,\ z\sim q}[KL(\pi(\cdot|s)\,\|\,p(\cdot|s,z)) + KL(q(z|s,u)\,\|\,N(0,I))]$$

    The policy starts where D is smallest. Then critics, with $a_\pi\sim\pi(s)$ and f a step or softplus
    (equation 10; $\epsilon_{gp}$ is mean plus standard deviation of D over the last epoch's states),

    $$w E_D(Q_i - y)^2 + \lambda E[f(D(s) - \epsilon_{gp})\,\|\nabla_a \min_i Q_i(s, a_\pi)\|^p],\quad
      y = r + \gamma E_{a'\sim\pi}\min_i Q'_i(s', a')$$

    and the policy (equation 8), with multipliers $\alpha(s)$ and $\beta$ by dual descent on
    $D(s)\le\epsilon$ and, since wide policies ask for values that no data show, on $H(\pi)\le H_0$:

    $$\max_\pi\ E[\min_i Q_i(s, a_\pi) - \alpha(s)(D(s) - \epsilon) + \beta\log\pi(a_\pi|s)]$$

    Args:
      steps: gradient updates of critics and policy.
      behaviour_percent: updates of the behaviour before, in percent of `steps`.
      clone_percent: updates that bring the policy to the least divergence, in percent of `steps`.
      value_percent: updates that bring the critics to that policy's value, in percent of `steps`.
      batch_size: transitions an update.
      preprocess: what is done to observations and rewards before training.
      hidden, critic_hidden, behaviour_hidden, alpha_hidden: widths of the policy's, critics', autoencoders'
        and multiplier's hidden layers.
      ensemble: number of critics; targets and policy take their minimum.
      members: number of autoencoders.
      member: D of one drawn at each update (`random`, the text) or the mean over all (`mean`, the code).
      components: Gaussians in the decoder; for more than one, D bounds KL to their mixture.
      divergence: `kl` above; `cross-entropy`, with -log p(u|s, z) in the first KL's place; `mmd` between
        samples, Laplacian kernel, for narrow human data.
      latents: draws of z a state and member in D.
      samples: policy actions a state, in targets, objective and `mmd`.
      backup: targets over the policy's samples: their `mean` (text) or `max` (code).
      target_policy: targets act with an averaged policy (code).
      state_wise: alpha is a network of the state; false for one number (the code, figure 2b).
      slope_weight: f: `hard`, `soft` (over its largest value in the batch), or `none` for no penalty.
      slope_squared: p = 2 (text) or 1 (code).
      adapt_penalty: lambda rises while the penalty is above `max_slope` (code).
      entropy_of: coordinates of log pi, H and H_0: the `action` (text, code), where the entropy also falls as
        means go outwards, or `pre-tanh`, where it is the standard deviations' alone.
      floor_percent: added to the decoders' standard deviations, in hundredths of a pre-tanh unit.
      measured: epsilon and H_0 come from the pre-trained behaviour and policy (code): D at the clone's end
        plus `slack`, and the data's mean -ELBO less d log `std_scale`; else `threshold` and `entropy_cap`.
      threshold_of: epsilon is one number (`mean`), or in each `state` D of the policy as cloning has left it,
        plus `slack`, whatever `measured` says.
      stairs: the rates of behaviour and clone fall to a hundredth, from a fifth of their stage on (`early`,
        the code) or in its last fifth (`late`); with `late`, beta's falls with the clone's.
      keep_behaviour: train the behaviour on beside the policy, at a hundredth of its rate (code).
      epoch: updates after which the penalty's threshold is taken anew.
      best_of: samples, cut off at one standard deviation, of which the mode `best` takes the highest mean Q.
      evaluation: the first mode: `best` (code) or `mean` (text).
      gamma: discount.
      polyak: rate of the averaged networks.
      alpha: where the multiplier starts.
      beta: where the entropy's multiplier starts.
      penalty: lambda; where it adapts, the least it may be.
      max_slope: see `adapt_penalty`.
      threshold: epsilon, for D or the MMD.
      entropy_cap: H_0 in nats; for `mmd` and `cross-entropy` the least entropy instead.
      slack: see `measured`.
      std_scale: see `measured`.
      sigma: of the kernel exp(-d / (2 sigma)).
      margin: data actions are cut off at 1 - margin before atanh.
      error_weight: w, of the squared error: 1 (text) or 0.5 (code), which doubles what lambda weighs.
      max_alpha: the largest multiplier of a state, or of all.
      clone_alpha: the multiplier while cloning; where it is `alpha`, beta need not change with the stage.
      policy_rate, critic_rate, alpha_rate, beta_rate, behaviour_rate, clone_rate: Adam's learning rates;
        those of behaviour and clone fall by `stairs`, and beta's is lambda's too.

    References:
      Zhang et al. (2020), BRAC+: Going Deeper with Behavior Regularized Offline RL; (2021), arXiv 2110.00894.
      Text and code differ in many places: docs/algorithms/brac-plus.md.
    """

    steps: int = 1_000_000
    behaviour_percent: int = 50
    clone_percent: int = 50
    value_percent: int = 0
    batch_size: int = 100
    preprocess: Preprocess = field(default_factory=lambda: Preprocess(reward="zero-one"))
    precision: str = "auto"
    hidden: tuple[int, ...] = (256, 256)
    critic_hidden: tuple[int, ...] = (256, 256)
    behaviour_hidden: tuple[int, ...] = (256, 256)
    alpha_hidden: tuple[int, ...] = (256, 256)
    ensemble: int = 2
    members: int = 3
    member: str = "mean"
    components: int = 1
    divergence: str = "kl"
    latents: int = 5
    samples: int = 5
    backup: str = "max"
    target_policy: bool = True
    state_wise: bool = False
    slope_weight: str = "soft"
    slope_squared: bool = False
    adapt_penalty: bool = True
    entropy_of: str = "action"
    floor_percent: int = 0
    measured: bool = True
    threshold_of: str = "mean"
    stairs: str = "early"
    keep_behaviour: bool = True
    epoch: int = 2500
    best_of: int = 20
    evaluation: str = "best"
    gamma: float = 0.99
    polyak: float = 1e-3
    alpha: float = 10.0
    beta: float = 10.0
    penalty: float = 0.1
    max_slope: float = 0.01
    threshold: float = 3.0
    entropy_cap: float = -3.0
    slack: float = 0.2
    std_scale: float = 4.0
    sigma: float = 20.0
    margin: float = 1e-6
    error_weight: float = 0.5
    max_alpha: float = 1e4
    clone_alpha: float = 1.0
    policy_rate: float = 5e-6
    critic_rate: float = 3e-4
    alpha_rate: float = 1e-3
    beta_rate: float = 1e-3
    behaviour_rate: float = 1e-3
    clone_rate: float = 1e-3

    def __post_init__(self) -> None:
        choice("member", self.member, ("mean", "random"))
        choice("divergence", self.divergence, ("kl", "cross-entropy", "mmd"))
        choice("backup", self.backup, ("mean", "max"))
        choice("slope_weight", self.slope_weight, ("hard", "soft", "none"))
        choice("entropy_of", self.entropy_of, ("action", "pre-tanh"))
        choice("threshold_of", self.threshold_of, ("mean", "state"))
        if self.threshold_of == "state" and not self.clone_percent:
            raise BadInput("option 'threshold_of=state' needs a cloned policy: 'clone_percent' cannot be 0")
        choice("stairs", self.stairs, STAIRS)
        choice("evaluation", self.evaluation, ("best", "mean"))
        positive(self, "ensemble", "members", "components", "latents", "samples", "epoch", "best_of")
        within(self, 0, 1, "gamma", "polyak")
        within(self, 0, math.inf, "policy_rate", "critic_rate", "alpha_rate", "beta_rate", "behaviour_rate")
        within(self, 0, math.inf, "clone_rate", "penalty", "max_slope", "error_weight", "floor_percent")
        within(self, 1e-6, math.inf, "alpha", "beta", "sigma", "std_scale", "max_alpha", "clone_alpha")
        within(self, 1e-7, 0.5, "margin")


STAIRS = {"early": {0.2: 0.5, 0.4: 0.1, 0.6: 0.05, 0.8: 0.01}, "late": {0.8: 0.1, 0.9: 0.01}}
DUAL = dual.Multiplier(1e4, "softplus")
WINDOW = 500  # updates over which what is measured is averaged, but a twentieth of its stage at most

# --- State -------------------------------------------------------------------


@pytree
class State:
    behaviour: dict  # leading member axis
    policy: dict
    target_policy: dict
    cloned: dict  # the policy as cloning has left it, where thresholds are taken from it
    critic: dict  # leading ensemble axis
    target_critic: dict
    alpha: dict  # the multiplier's network, or its one number
    raw_beta: Array  # () of the entropy's multiplier, before its softplus
    raw_penalty: Array  # () of lambda above its minimum, the same
    threshold: Array  # () epsilon
    entropy_cap: Array  # () H_0
    slope_from: Array  # () epsilon_gp
    seen: Array  # (3,) number, sum and sum of squares of D over the epoch's states
    optimiser: dict  # Adam's moments
    hp: HP


# --- Losses ------------------------------------------------------------------


def critic_loss(
    params, critic: nn.Network, batch: Batch, y: Array, action: Array, weight, squared: bool, error_weight=0.5
):
    """w sum_i E(Q_i - y)^2 + E[weight |grad_a min_i Q_i(s, action)|^p], with what each state pays.

    Args:
      weight: lambda and f (batch,), or None for no penalty.
      error_weight: w.
    """
    values = critic.apply(params, batch.obs, batch.action)
    loss = error_weight * td.squared_error(values, y)
    if weight is None:
        return loss, (loss, values, jnp.zeros_like(y))
    steepness = slope.squared_slope(partial(nn.least, critic, params, batch.obs), action)
    paid = steepness if squared else slope.norm(steepness)
    lam, f = weight
    return loss + lam * jnp.mean(f * paid), (loss, values, f * paid)


def policy_loss(
    params, policy: nn.Network, value, penalty, obs, noise: Array, alpha, threshold, beta,
    entropy_of: str = "action",
):  # fmt: skip
    """E[alpha(s) (D(s) - epsilon) - beta log pi - min_i Q_i]; D (batch,), and means of log pi and Q.

    Args:
      value: actions (batch, n, dim) -> smallest Q (batch, n), or None while only D counts.
      penalty: pi -> D (batch,).
      noise: (batch, n, dim) standard normal.
      beta: negative where the entropy has a minimum in place of a maximum.
      entropy_of: coordinates of log pi: the `action`, or `pre-tanh`, where it does not know the mean.
    """
    pi = Normal(*policy.apply(params, obs))
    u = pi.mean[:, None] + jnp.exp(pi.log_std)[:, None] * noise
    if entropy_of == "action":
        log_pi = squash_log_prob(pi.each(), u)
    else:
        log_pi = -jnp.sum(pi.log_std + LOG_SQRT_2PI + 0.5, axis=-1)
    apart = penalty(pi)
    q = jnp.zeros(()) if value is None else jnp.mean(value(jnp.tanh(u)))
    loss = jnp.mean(alpha * (apart - threshold)) - beta * jnp.mean(log_pi) - q
    return loss, (apart, jnp.mean(log_pi), q)


# --- Build -------------------------------------------------------------------


class Networks(NamedTuple):
    """What a state's parameters are applied with, also by those who look into a trained one."""

    policy: nn.Network
    critic: nn.Network
    behaviour: Behaviour
    alpha: nn.Network
    config: Config
    dim: int


def networks(config: Config, spec: Spec) -> Networks:
    dim = continuous("brac-plus", spec).dim
    floor = config.floor_percent / 100
    vae = nn.vae(
        spec.obs_dim, dim, 2 * dim, config.behaviour_hidden, components=config.components, min_std=floor
    )
    how = {"members": config.members, "latents": config.latents, "samples": config.samples}
    return Networks(
        nn.gaussian(spec.obs_dim, dim, config.hidden, bound="softplus"),
        nn.critic(spec.obs_dim, dim, config.critic_hidden, ensemble=config.ensemble, out_scale=1e-4),
        autoencoders(vae, kind=config.divergence, **how),
        nn.mlp(spec.obs_dim, 1, config.alpha_hidden, out_scale=1e-4),
        config,
        dim,
    )


def build(config: Config, spec: Spec) -> Algorithm:
    """BRAC+ for continuous actions in [-1, 1]^d."""
    n, sample = networks(config, spec), uniform(config.batch_size)
    behaviour, cloning, value = (
        share(config.steps, p) for p in (config.behaviour_percent, config.clone_percent, config.value_percent)
    )
    stages = (
        Stage("behaviour", behaviour, sample, partial(train_behaviour, n, behaviour)),
        Stage("clone", cloning, sample, partial(clone, n, cloning)),
        Stage("value", value, sample, partial(evaluate, n)),
        Stage("train", config.steps, sample, partial(update, n), next_epoch, config.epoch),
    )
    modes = ("best", "mean", "sample") if config.evaluation == "best" else ("mean", "sample", "best")
    acting = best_of(n.policy, n.critic, config.best_of, modes=modes, spread=1.0, score="mean")
    return Algorithm(partial(init, n), stages, acting)


def init(n: Networks, key: Array, hp: HP) -> State:
    keys = jax.random.split(key, 4)
    alpha = {"raw": DUAL.raw(hp["alpha"])}
    if n.config.state_wise:
        start, alpha = alpha["raw"], n.alpha.init(keys[3])
        alpha["out"]["bias"] = jnp.broadcast_to(start, (1,))
    params = {
        "behaviour": n.behaviour.init(keys[0]),
        "policy": n.policy.init(keys[1]),
        "critic": n.critic.init(keys[2]),
        "alpha": alpha,
        "raw_beta": DUAL.raw(hp["beta"]),
        "raw_penalty": jnp.full((), -5.0, jnp.float32),
    }
    return begin(
        State,
        params,
        hp,
        targets=("policy", "critic"),
        cloned=jax.tree.map(jnp.copy, params["policy"]) if n.config.threshold_of == "state" else {},
        threshold=hp["threshold"],
        entropy_cap=hp["entropy_cap"],
        slope_from=hp["threshold"],
        seen=jnp.zeros(3),
    )


# --- What several stages share -----------------------------------------------


def behaviour_grad(n: Networks, state: State, batch: Batch, key: Array):
    """The gradient of -ELBO; -ELBO in the coordinates that the entropy's bound has."""
    u = unsquash(batch.action, state.hp["margin"])
    loss, grads = jax.value_and_grad(n.behaviour.loss)(state.behaviour, batch.obs, u, key)
    if n.config.entropy_of == "action":
        loss = loss + jnp.mean(log_det_tanh(u))
    return grads, loss


def penalty_of(n: Networks, state: State, obs: Array, key: Array):
    """`pi -> D(pi, behaviour)`, (batch,)."""
    key_member, key_rest = jax.random.split(key)
    params = one_of(state.behaviour, key_member) if n.config.member == "random" else state.behaviour
    return lambda pi: n.behaviour.distance(params, pi, obs, key_rest, state.hp["sigma"])


def policy_grad(n: Networks, state: State, obs: Array, key: Array, value, penalty, alpha, threshold):
    """The gradients of `policy_loss` and of beta's; D (batch,), and means of log pi and Q."""
    noise = jax.random.normal(key, (obs.shape[0], n.config.samples, n.dim))
    beta, coordinates = beta_of(n, state), n.config.entropy_of
    grads, found = jax.grad(policy_loss, has_aux=True)(
        state.policy, n.policy, value, penalty, obs, noise, alpha, threshold, beta, coordinates
    )
    excess = (-found[1] - state.entropy_cap) * side(n)
    return {"policy": grads, "raw_beta": DUAL.grad(state.raw_beta, excess)}, found


def side(n: Networks) -> float:
    """1 where the entropy's bound is a maximum, -1 where it is a minimum."""
    return 1.0 if n.config.divergence == "kl" else -1.0


def beta_of(n: Networks, state: State) -> Array:
    return DUAL(state.raw_beta) * side(n)


def shift(n: Networks, state: State) -> Array:
    return n.dim * jnp.log(state.hp["std_scale"])


def running(old: Array, new: Array, step: Array, steps: int) -> Array:
    """The mean of a stage's first values, as many as the window holds, then one that forgets as slowly.

    In a short stage a window of WINDOW would still hold what was before its rate came down.
    """
    window = min(WINDOW, max(20, steps // 20))
    return old + (new - old) / jnp.minimum(step.astype(jnp.float32) + 1.0, window)


def targets(n: Networks, state: State, batch: Batch, key: Array) -> Array:
    acting = state.target_policy if n.config.target_policy else state.policy
    a = jnp.tanh(Normal(*n.policy.apply(acting, batch.next_obs)).draws(key, n.config.samples))
    values = nn.least(n.critic, state.target_critic, batch.next_obs, a)
    best = jnp.max(values, axis=-1) if n.config.backup == "max" else jnp.mean(values, axis=-1)
    return td.target(batch.reward, batch.discount, best)


# --- Stages ------------------------------------------------------------------


def train_behaviour(n: Networks, steps: int, state: State, batch: Batch, key: Array, step: Array):
    grads, loss = behaviour_grad(n, state, batch, key)
    rate = staircase(state.hp["behaviour_rate"], step, steps, STAIRS[n.config.stairs])
    cap = state.entropy_cap
    if n.config.measured:
        cap = running(jnp.where(step == 0, loss, cap + shift(n, state)), loss, step, steps)
        cap = cap - shift(n, state)
    metrics = {"behaviour_loss": loss, "entropy_cap": cap}
    return descend(state, {"behaviour": grads}, {"behaviour": rate}, entropy_cap=cap), metrics


def clone(n: Networks, steps: int, state: State, batch: Batch, key: Array, step: Array):
    hp = state.hp
    key_d, key_noise = jax.random.split(key)
    penalty = penalty_of(n, state, batch.obs, key_d)
    grads, (apart, log_pi, _) = policy_grad(
        n, state, batch.obs, key_noise, None, penalty, hp["clone_alpha"], state.threshold
    )
    mean = jnp.mean(apart)
    threshold, slope_from = state.threshold, state.slope_from
    if n.config.measured:
        slack = hp["slack"]
        threshold = running(jnp.where(step == 0, mean, threshold - slack), mean, step, steps) + slack
        slope_from = threshold + slack
    stairs = STAIRS[n.config.stairs]
    rates = {"policy": staircase(hp["clone_rate"], step, steps, stairs), "raw_beta": hp["beta_rate"]}
    if n.config.stairs == "late":
        # A multiplier that is faster than its policy swings, and what is kept below would be any phase of it.
        rates["raw_beta"] = staircase(hp["beta_rate"], step, steps, stairs)
    new = descend(state, grads, rates, threshold=threshold, slope_from=slope_from)
    copies = {"target_policy": jax.tree.map(jnp.copy, new.policy)}
    if n.config.threshold_of == "state":
        copies["cloned"] = jax.tree.map(jnp.copy, new.policy)
    metrics = {"divergence": mean, "entropy": -log_pi, "threshold": threshold}
    return dataclasses.replace(new, **copies), metrics | {"beta": jnp.abs(beta_of(n, state))}


def evaluate(n: Networks, state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
    """Critics of the policy as it is."""
    y = targets(n, state, batch, key)
    grads, (loss, values, _) = jax.grad(critic_loss, has_aux=True)(
        state.critic, n.critic, batch, y, batch.action, None, False, state.hp["error_weight"]
    )
    new = descend(state, {"critic": grads}, {"critic": state.hp["critic_rate"]})
    metrics = {"td_loss": loss, "q_data": jnp.mean(values), "target": jnp.mean(y)}
    return dual.follow(new, "critic"), metrics


def update(n: Networks, state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
    # All gradients are taken at the parameters from before the update, so that D is computed once; the
    # authors' code goes from behaviour to critics to policy.
    config, hp = n.config, state.hp
    keys = jax.random.split(key, 5)
    bounded = dual.Multiplier(hp["max_alpha"], "softplus")

    def raw_alpha(params) -> Array:
        """(batch,) in every state its own, or () the one number."""
        return n.alpha.apply(params, batch.obs)[..., 0] if config.state_wise else params["raw"]

    alpha = bounded(jnp.broadcast_to(raw_alpha(state.alpha), batch.reward.shape))
    penalty, threshold = penalty_of(n, state, batch.obs, keys[1]), state.threshold
    if config.threshold_of == "state":  # the same draws: what is left of the difference is the policies'
        threshold = penalty(Normal(*n.policy.apply(state.cloned, batch.obs))) + hp["slack"]
    min_q = partial(nn.least, n.critic, state.critic, batch.obs)
    grads, (apart, log_pi, q_policy) = policy_grad(
        n, state, batch.obs, keys[0], min_q, penalty, alpha, threshold
    )
    excess = apart - threshold
    grads["alpha"] = jax.grad(lambda p: jnp.mean(bounded.loss(raw_alpha(p), excess)))(state.alpha)

    y = targets(n, state, batch, keys[2])
    lam = hp["penalty"] + (jax.nn.softplus(state.raw_penalty) if config.adapt_penalty else 0.0)
    weight = None if config.slope_weight == "none" else (lam, slope_weight(n, apart - state.slope_from))
    action = jnp.tanh(Normal(*n.policy.apply(state.policy, batch.obs)).sample(keys[3]))
    grads["critic"], (td_loss, values, paid) = jax.grad(critic_loss, has_aux=True)(
        state.critic, n.critic, batch, y, action, weight, config.slope_squared, hp["error_weight"]
    )

    rates = {name: hp[f"{name.removeprefix('raw_')}_rate"] for name in grads}
    if config.adapt_penalty:
        grads["raw_penalty"] = DUAL.grad(state.raw_penalty, jnp.mean(paid) - hp["max_slope"])
        rates["raw_penalty"] = hp["beta_rate"]
    if config.keep_behaviour:
        grads["behaviour"], _ = behaviour_grad(n, state, batch, keys[4])
        rates["behaviour"] = hp["behaviour_rate"] * 0.01
    counted = jnp.stack([jnp.float32(apart.size), jnp.sum(apart), jnp.sum(apart**2)])
    new = descend(state, grads, rates, seen=state.seen + counted)
    return dual.follow(new, "policy", "critic"), {
        "td_loss": td_loss,
        "q_data": jnp.mean(values),
        "q_policy": q_policy,
        "target": jnp.mean(y),
        "divergence": jnp.mean(apart),
        "divergence_std": jnp.std(apart),
        "threshold": jnp.mean(threshold),
        "above": jnp.mean(apart > threshold),
        "slope": jnp.mean(paid),
        "slope_from": state.slope_from,
        "penalty": lam,
        "alpha": jnp.mean(alpha),
        "alpha_std": jnp.std(alpha),
        "beta": jnp.abs(beta_of(n, state)),
        "entropy": -log_pi,
    }


def slope_weight(n: Networks, over: Array) -> Array:
    """f of equation 10: a step, or a softplus over its largest value in the batch."""
    if n.config.slope_weight != "soft":
        return (over > 0).astype(jnp.float32)
    f = jax.nn.softplus(over)
    return f / jnp.maximum(jnp.max(f), jnp.finfo(f.dtype).tiny)


def next_epoch(state: State, data: Data, key: Array) -> State:
    """epsilon_gp from the epoch that has ended: mean + standard deviation of D over its states."""
    n, total, squares = state.seen
    mean = total / jnp.maximum(n, 1.0)
    std = jnp.sqrt(jnp.maximum(squares / jnp.maximum(n, 1.0) - mean**2, 0.0))
    slope_from = jnp.where(n > 0, mean + std, state.slope_from)
    return dataclasses.replace(state, slope_from=slope_from, seen=jnp.zeros(3))


ENTRY = {
    "brac-plus": Entry(
        Config,
        build,
        "Zhang et al. 2020, under review at ICLR 2021; 2021, arXiv 2110.00894",
        *presets.read("brac-plus", Config),
        bfloat16=True,
    )
}
