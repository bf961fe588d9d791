"""MISA: Mutual Information Regularized Offline RL (Ma et al., NeurIPS 2023, arXiv 2210.07484)."""

import dataclasses
import math
from dataclasses import field
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.algos import presets
from leashrl.algos.common import categorical, choice, entropy_target, positive, tanh_gaussian, within
from leashrl.core import HP, Algorithm, Entry, Preprocess, Stage, uniform
from leashrl.dist import Categorical, Normal, squash_log_prob, unsquash
from leashrl.errors import BadInput
from leashrl.ops import conservative, dual, mi, td
from leashrl.ops.correction import ESTIMATORS, Chain, correction
from leashrl.optim import begin, cosine, descend
from leashrl.types import Array, Batch, Discrete, Metrics, Space, Spec, pytree

# --- Config ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    r"""MISA: actor and critic regularised by a lower bound of I(S; A), the mutual information of the data.

    With the policy as variational distribution and an energy T (here Q itself) as critic of the bound,

    $$I(S;A) \ge H(A) + E_D[\log\pi(a|s)] + E_D[T(s,a)] - \log Z_T \qquad (8\text{–}10)$$

    where $\log Z_T$ is $E_s \log E_\pi e^T$ (`misa`), $\log E_{s,\pi} e^T$ (`dv`) or
    $E_{s,\pi} e^{T-1}$ (`f`).

    Critic (equation 12, its printed sign mended), for each member of the ensemble:

    $$c E_D(Q - y)^2 + \gamma_1(\log Z_Q - E_D Q(s,a)), \quad y = r + \gamma \min_i Q'_i(s', a'),\ a'\sim\pi$$

    Policy (equation 13), with $a_\pi\sim\pi$ reparameterised:

    $$\max_\theta\ E[\min_i Q_i(s, a_\pi)] + \gamma_2 E_D[\log\pi(a|s)] - \gamma_2' \log Z_Q(\theta)$$

    and the last term's gradient by equation 15, $E_{p}[\nabla\log\pi(a|s)]$ under $p \propto \pi e^{Q}$.

    Of discrete actions every expectation is a sum: `k`, `critic_resample`, `normaliser`, the chain's options
    and `estimator`, but for `none`, have no meaning there.

    Args:
      steps: gradient updates.
      batch_size: transitions an update.
      preprocess: what is done to observations and rewards before training.
      hidden: widths of all networks' hidden layers.
      policy_activation, critic_activation: `relu`, `elu` or `tanh`.
      critic_norm: layer normalisation in the critics' hidden layers.
      ensemble: number of critics; targets and policy take their minimum.
      bound: `misa`, `dv`, `f`, or `ba` (no energy term at all: behaviour cloning as regulariser).
      barber_agakov: keep the term E_D[log pi(a|s)] in the policy's objective.
      energy: `q`, or `t` for a separate network trained to maximise the bound (MISA-T).
      k: policy actions per state that estimate log Z. The estimate is too low by an amount that falls with k,
        so `tau` belongs to a k: the text's values are those of its k = 50.
      estimator: how equation 15 is sampled. `snis`: self-normalised weights over the same k actions;
        `hmc`: Hamiltonian Monte Carlo in whitened pre-tanh coordinates; `hmc-action`: in action space
        from the data action, as the authors run it; `reparam`: differentiate log Z through the k
        actions; `none`: leave the term out (MISA-biased).
      critic_resample: m > 0 runs the critic's backward pass on m of the k actions, drawn by their
        weights (unbiased); 0 on all of them.
      chain_samples: HMC samples kept per state.
      burn_in: HMC samples dropped before them.
      leapfrog: leapfrog steps per HMC sample.
      chain_adapt: HMC iterations that adapt the step size; 0 leaves it as it is.
      lagrange: tune gamma_1 so that log Z_Q - E_D[Q] stays below `tau` (equation 17).
      single_gamma_2: give the correction the weight gamma_2 as well, as in equation 13; then
        gamma_2_correction is not read.
      normaliser: `k`, or `batch` to subtract log(batch) where the mean over k needs log(k), as the
        authors' code does: no gradient changes, but `tau` then means tau + log(batch / k).
      entropy: add gamma_2 * alpha * log pi(a_pi) to the policy's loss and tune alpha (SAC; not in the text).
      schedule: `constant` or `cosine` learning rates.
      gamma: discount.
      polyak: rate of the target critics.
      gamma_1: weight of the bound in the critic's loss.
      gamma_2: weight of E_D[log pi(a|s)] in the policy's objective.
      gamma_2_correction: weight of the correction, gamma_2' above (see `single_gamma_2`).
      td_weight: c above: 1/2 in the text, 1 in the code.
      tau: budget of the Lagrange form.
      target_entropy: alpha's target, in nats per dimension of continuous actions.
      entropy_share: the same of n discrete actions, as a share of log n, the entropy of the uniform policy.
      chain_step: HMC step size, in standard deviations of the policy (`hmc`) or in action units.
      policy_rate, critic_rate: Adam's learning rates; alpha uses the policy's, gamma_1's dual the critic's.

    References:
      Ma et al. (2023), arXiv 2210.07484; differences between text and code: docs/algorithms/misa.md.
    """

    steps: int = 1_000_000
    batch_size: int = 256
    preprocess: Preprocess = field(default_factory=Preprocess)
    precision: str = "auto"
    hidden: tuple[int, ...] = (256, 256)
    policy_activation: str = "relu"
    critic_activation: str = "elu"
    critic_norm: bool = False
    ensemble: int = 2
    bound: str = "misa"
    barber_agakov: bool = True
    energy: str = "q"
    k: int = 50
    estimator: str = "snis"
    critic_resample: int = 0
    chain_samples: int = 50
    burn_in: int = 5
    leapfrog: int = 2
    chain_adapt: int = 4
    lagrange: bool = False
    normaliser: str = "k"
    single_gamma_2: bool = False
    entropy: bool = True
    schedule: str = "constant"
    gamma: float = 0.99
    polyak: float = 0.005
    gamma_1: float = 5.0
    gamma_2: float = 0.5
    gamma_2_correction: float = 0.1
    td_weight: float = 1.0
    tau: float = 3.0
    target_entropy: float = -1.0
    entropy_share: float = 0.5
    chain_step: float = 0.8
    policy_rate: float = 1e-4
    critic_rate: float = 3e-4

    def __post_init__(self) -> None:
        choice("policy_activation", self.policy_activation, nn.ACTIVATIONS)
        choice("critic_activation", self.critic_activation, nn.ACTIVATIONS)
        positive(self, "ensemble", "k", "chain_samples", "leapfrog")
        within(self, 0, 1, "gamma", "polyak", "entropy_share")
        within(self, 0, math.inf, "policy_rate", "critic_rate")
        if not self.hidden:  # the critic splits its first layer by state and action
            raise BadInput("option 'hidden' must hold at least one width")
        choice("bound", self.bound, mi.BOUNDS)
        choice("energy", self.energy, ("q", "t"))
        choice("estimator", self.estimator, ESTIMATORS)
        choice("normaliser", self.normaliser, ("k", "batch"))
        choice("schedule", self.schedule, ("constant", "cosine"))


ACTION_MARGIN = 1e-3  # data actions are clipped to ±0.999 before atanh, as in the authors' code
DUAL = dual.Multiplier()

# --- State -------------------------------------------------------------------


@pytree
class State:
    policy: dict
    critic: dict  # leading ensemble axis
    target_critic: dict
    energy: dict  # the T network, {} where Q is the energy
    log_alpha: Array  # () entropy temperature
    log_lagrange: Array  # () multiplier of gamma_1
    optimiser: dict  # Adam's moments of each of the above
    hp: HP


# --- Losses ------------------------------------------------------------------


def objective(q_policy, entropy, log_pi_data, correction, alpha, hp: HP, config: Config):
    """-E[min Q(s, a_pi)] - gamma_2 (alpha H(pi) + E_D[log pi(a)]) + gamma_2' correction, and its parts."""
    loss = -q_policy + hp["gamma_2" if config.single_gamma_2 else "gamma_2_correction"] * correction
    if config.entropy:
        loss -= hp["gamma_2"] * alpha * entropy
    if config.barber_agakov:
        loss -= hp["gamma_2"] * log_pi_data
    parts = {"policy_loss": loss, "q_policy": q_policy, "entropy": entropy, "log_prob_data": log_pi_data}
    return loss, parts


def policy_loss(params, policy, q, batch: Batch, key: Array, alpha, correction, hp: HP, config: Config):
    """`objective` of a tanh-Gaussian, by a sample.

    Args:
      q: (batch, dim) actions -> (batch,) smallest Q.
      correction: Normal -> a scalar whose gradient is that of log Z in theta (equation 15).
    """
    pi = Normal(*policy.apply(params, batch.obs))
    u = pi.sample(key)
    entropy = -jnp.mean(squash_log_prob(pi, u))
    log_pi_data = jnp.mean(squash_log_prob(pi, unsquash(batch.action, ACTION_MARGIN)))
    loss, parts = objective(jnp.mean(q(jnp.tanh(u))), entropy, log_pi_data, correction(pi), alpha, hp, config)
    return loss, parts | {"policy_std": jnp.mean(jnp.exp(pi.log_std))}


def exact_policy_loss(params, policy, q: Array, energies: Array, batch: Batch, alpha, hp: HP, config: Config):
    """`objective` of discrete actions, by sums: the correction is log Z itself.

    Args:
      q, energies: (batch, n) of every action, the smallest Q and the smallest T.
    """
    pi = Categorical(policy.apply(params, batch.obs))
    log_z = jnp.zeros(())
    if config.estimator != "none":
        log_n = math.log(energies.shape[-1])  # log Z is of a mean over actions
        log_z = mi.log_partition(config.bound, energies + pi.log_probs + log_n)
    q_policy, entropy = jnp.mean(pi.expect(q)), jnp.mean(pi.entropy())
    return objective(q_policy, entropy, jnp.mean(pi.log_prob(batch.action)), log_z, alpha, hp, config)


# --- Build -------------------------------------------------------------------


class Networks(NamedTuple):
    """What a state's parameters are applied with, also by those who look into a trained one."""

    policy: nn.Network
    critic: nn.Network
    energy: nn.Network  # T: the critic, or a network of its own
    config: Config
    action: Space
    discrete: bool
    bounded: bool  # the bound has an energy term
    separate: bool  # T is a network of its own
    penalised: bool  # Q is pushed down; MISA-T's text does not say, its collapse suggests that it is not


def networks(config: Config, spec: Spec) -> Networks:
    discrete = isinstance(spec.action, Discrete)
    bounded, separate = config.bound != "ba", config.energy == "t"
    sizes = (spec.obs_dim, spec.action.dim, config.hidden)
    how = {"activation": config.critic_activation, "norm": config.critic_norm, "out_scale": 0.01}
    make = partial(nn.table_critic if discrete else nn.critic, *sizes, **how)
    actor = partial(nn.mlp, out_scale=0.01) if discrete else nn.gaussian
    critic = make(ensemble=config.ensemble)
    return Networks(
        actor(*sizes, activation=config.policy_activation),
        critic,
        make(ensemble=1) if separate else critic,
        config,
        spec.action,
        discrete,
        bounded,
        separate,
        penalised=bounded and not separate,
    )


def build(config: Config, spec: Spec) -> Algorithm:
    """MISA for continuous actions in [-1, 1]^d, or discrete ones."""
    n = networks(config, spec)
    stage = Stage("train", config.steps, uniform(config.batch_size), partial(update, n))
    return Algorithm(partial(init, n), (stage,), (categorical if n.discrete else tanh_gaussian)(n.policy))


def init(n: Networks, key: Array, hp: HP) -> State:
    keys = jax.random.split(key, 3)
    params = {
        "policy": n.policy.init(keys[0]),
        "critic": n.critic.init(keys[1]),
        "energy": n.energy.init(keys[2]) if n.separate else {},
        "log_alpha": jnp.zeros(()),
        "log_lagrange": jnp.ones(()),
    }
    return begin(State, params, hp, targets=("critic",))


# --- Update ------------------------------------------------------------------


def update(n: Networks, state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
    # All gradients are taken at the parameters from before the update, as in the authors' code.
    config, hp = n.config, state.hp
    gamma_1 = hp["gamma_1"]
    if config.lagrange:
        gamma_1 *= DUAL(state.log_lagrange)
    grads, metrics = (summed if n.discrete else sampled)(n, state, batch, key, gamma_1)
    target = entropy_target(n.action, hp["target_entropy"], hp["entropy_share"])
    grads["log_alpha"] = jax.grad(dual.temperature_loss)(state.log_alpha, metrics["entropy"], target)
    grads["log_lagrange"] = DUAL.grad(state.log_lagrange, metrics["gap"] - hp["tau"])
    rates = {
        "policy": hp["policy_rate"],
        "critic": hp["critic_rate"],
        "energy": hp["critic_rate"],
        "log_alpha": hp["policy_rate"] * float(config.entropy),
        "log_lagrange": hp["critic_rate"] * float(config.lagrange),
    }
    if config.schedule == "cosine":
        rates = {name: cosine(rate, step, config.steps) for name, rate in rates.items()}
    new = descend(state, grads, rates)
    metrics |= {"alpha": jnp.exp(state.log_alpha), "lagrange": DUAL(state.log_lagrange)}
    return dual.follow(new, "critic"), metrics


def energy_params(n: Networks, state: State) -> dict:
    return state.energy if n.separate else state.critic


def measured(n: Networks, log_pi_data: Array, y: Array, q: Array, t: Array, energies: Array) -> Metrics:
    """What either half finds, as metrics: the gap log Z_Q - E_D[Q] and the bounds among them.

    Args:
      y: (batch,) targets.
      q, t: (ensemble, batch) Q and T of the data.
      energies: (ensemble, batch, k) T of k actions of the policy, or of all actions.
    """
    config, gap = n.config, jnp.zeros(())
    if n.penalised:
        log_z = jax.vmap(partial(mi.log_partition, config.bound))(energies)
        gap = jnp.mean(log_z - jnp.mean(q, axis=-1))
        if config.normaliser == "batch" and not n.discrete:
            gap += math.log(config.k / config.batch_size)
    metrics = {"td_loss": td.squared_error(q, y), "q_data": jnp.mean(q), "target": jnp.mean(y), "gap": gap}
    metrics["bound_ba"] = log_pi_data
    if n.bounded:
        # The bounds without their constant H(A): estimates of I(S; A) - H(A) in nats.
        known = log_pi_data + jnp.mean(jnp.min(t, axis=0))
        least = jnp.min(energies, axis=0)
        metrics |= {f"bound_{b}": known - mi.log_partition(b, least) for b in ("misa", "dv", "f")}
    return metrics


# --- Continuous actions: expectations are sampled ----------------------------


def sampled(n: Networks, state: State, batch: Batch, key: Array, gamma_1: Array) -> tuple[dict, Metrics]:
    """Gradients of policy, critics and energy, and metrics."""
    config, hp = n.config, state.hp
    key_next, key_k, key_draw, key_pi, key_chain = jax.random.split(key, 5)
    pi = Normal(*n.policy.apply(state.policy, batch.obs))
    u = pi.draws(key_k, config.k if n.bounded else 0)  # (batch, k, dim)
    a = jnp.tanh(u)
    a_next = jnp.tanh(Normal(*n.policy.apply(state.policy, batch.next_obs)).sample(key_next))
    next_q = nn.least(n.critic, state.target_critic, batch.next_obs, a_next)
    y = td.target(batch.reward, batch.discount, next_q)

    # Critics: towards the targets, up on the data's actions, down on k of the policy's.
    push = partial(conservative.gradient, bound=config.bound, key=key_draw, resample=config.critic_resample)
    pushed = a if n.penalised else a[:, :0]
    critic_grads, q, energies = push(state.critic, n.critic.apply, batch, pushed, y, gamma_1, hp["td_weight"])
    energy_grads, t = {}, q
    if n.separate:  # T itself climbs the bound; there is nothing temporal about it
        energy_grads, t, energies = push(state.energy, n.energy.apply, batch, a, y, 1.0, 0.0)

    # Policy: up Q and the data's likelihood, down log Z by equation 15.
    least = jnp.min(energies, axis=0)
    estimator = config.estimator if n.bounded else "none"
    inside = jnp.tanh(unsquash(batch.action, ACTION_MARGIN))
    chain = Chain(config.chain_samples, config.burn_in, config.leapfrog, config.chain_adapt, hp["chain_step"])
    log_z, acceptance = correction(
        estimator, config.bound, n.energy.apply, energy_params(n, state), pi, batch.obs, u, least,
        action=inside, key=key_chain, chain=chain,
    )  # fmt: skip
    min_q = partial(nn.least, n.critic, state.critic, batch.obs)
    policy_grads, metrics = jax.grad(policy_loss, has_aux=True)(
        state.policy, n.policy, min_q, batch, key_pi, jnp.exp(state.log_alpha), log_z, hp, config
    )
    if n.bounded:
        metrics["effective_samples"] = mi.effective_sample_size(mi.weights("misa", least))
        metrics["acceptance"] = acceptance
    grads = {"policy": policy_grads, "critic": critic_grads, "energy": energy_grads}
    return grads, metrics | measured(n, metrics["log_prob_data"], y, q, t, energies)


# --- Discrete actions: expectations are summed -------------------------------


def summed(n: Networks, state: State, batch: Batch, key: Array, gamma_1: Array) -> tuple[dict, Metrics]:
    """Gradients of policy, critics and energy, and metrics."""
    pi = Categorical(n.policy.apply(state.policy, batch.obs))
    pi_next = Categorical(n.policy.apply(state.policy, batch.next_obs))
    next_q = pi_next.expect(nn.least(n.critic, state.target_critic, batch.next_obs))
    y = td.target(batch.reward, batch.discount, next_q)

    def push(network: nn.Network, params: nn.Params, weight: Array | float, td_weight: Array | float):
        return jax.grad(conservative.exact_loss, has_aux=True)(
            params, network.apply, n.config.bound, batch, pi.log_probs, y, weight, td_weight
        )

    weight = gamma_1 if n.penalised else 0.0
    critic_grads, (q, energies) = push(n.critic, state.critic, weight, state.hp["td_weight"])
    energy_grads, t = {}, q
    if n.separate:
        energy_grads, (t, energies) = push(n.energy, state.energy, 1.0, 0.0)

    min_q = nn.least(n.critic, state.critic, batch.obs)
    min_t = nn.least(n.energy, energy_params(n, state), batch.obs)
    policy_grads, metrics = jax.grad(exact_policy_loss, has_aux=True)(
        state.policy, n.policy, min_q, min_t, batch, jnp.exp(state.log_alpha), state.hp, n.config
    )
    grads = {"policy": policy_grads, "critic": critic_grads, "energy": energy_grads}
    return grads, metrics | measured(n, metrics["log_prob_data"], y, q, t, energies)


ENTRY = {
    "misa": Entry(
        Config,
        build,
        "Ma et al. 2023, arXiv 2210.07484",
        *presets.read("misa", Config),
        discrete=True,
        bfloat16=True,
    )
}
