"""MISA: Mutual Information Regularized Offline RL (Ma et al., NeurIPS 2023, arXiv 2210.07484)."""

import dataclasses
from dataclasses import field

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.algos.common import choice, continuous, tanh_gaussian
from leashrl.core import HP, Algorithm, Preprocess, Preset, Stage, uniform
from leashrl.dist import Normal, squash_log_prob, unsquash
from leashrl.nn.critic import sweep
from leashrl.ops import dual, mcmc, mi, td
from leashrl.optim import adam, adam_init, cosine
from leashrl.types import Array, Batch, Metrics, Spec, pytree

# --- Config ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    r"""MISA: actor and critic regularised by a lower bound of I(S; A), the mutual information of the data.

    With the policy as variational distribution and an energy T (here Q itself) as critic of the bound,

    $$I(S;A) \ge H(A) + E_D[\log\pi(a|s)] + E_D[T(s,a)] - \log Z_T \qquad (8\text{–}10)$$

    where $\log Z_T$ is $E_s \log E_\pi e^T$ (`misa`), $\log E_{s,\pi} e^T$ (`dv`) or $E_{s,\pi} e^{T-1}$ (`f`).

    Critic (equation 12, its printed sign mended), for each member of the ensemble:

    $$c\,E_D(Q - y)^2 + \gamma_1\,(\log Z_Q - E_D Q(s,a)), \qquad y = r + \gamma\,\min_i Q'_i(s', a'),\ a'\sim\pi$$

    Policy (equation 13), with $a_\pi\sim\pi$ reparameterised:

    $$\max_\theta\ E[\min_i Q_i(s, a_\pi)] + \gamma_2 E_D[\log\pi(a|s)] - \gamma_2' \log Z_Q(\theta)$$

    and the last term's gradient by equation 15, $E_{p}[\nabla\log\pi(a|s)]$ under $p \propto \pi e^{Q}$.

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
      k: policy actions a state that estimate log Z.
      estimator: how equation 15 is sampled. `snis`: self-normalised weights over the same k actions;
        `hmc`: Hamiltonian Monte Carlo in whitened pre-tanh coordinates; `hmc-action`: in action space
        from the data action, as the authors run it; `reparam`: differentiate log Z through the k
        actions; `none`: leave the term out (MISA-biased).
      critic_resample: m > 0 runs the critic's backward pass on m of the k actions, drawn by their
        weights (unbiased); 0 on all of them.
      chain_samples, burn_in, leapfrog, chain_adapt: HMC samples kept a state, samples dropped, leapfrog
        steps a sample, iterations that adapt the step size.
      lagrange: tune gamma_1 so that log Z_Q - E_D[Q] stays below `tau` (equation 17).
      normaliser: `k`, or `batch` to subtract log(batch) where the mean over k needs log(k), as the
        authors' code does: no gradient changes, but `tau` then means tau + log(batch / k).
      entropy: add gamma_2 * alpha * log pi(a_pi) to the policy's loss and tune alpha (SAC; not in the text).
      schedule: `constant` or `cosine` learning rates.
      gamma: discount.
      polyak: rate of the target critics.
      gamma_1: weight of the bound in the critic's loss.
      gamma_2: weight of E_D[log pi(a|s)] in the policy's objective.
      gamma_2_correction: weight of the correction, gamma_2' above (the text has one gamma_2 for both).
      td_weight: c above: 1/2 in the text, 1 in the code.
      tau: budget of the Lagrange form.
      target_entropy: alpha's target in nats per action dimension.
      chain_step: HMC step size, in standard deviations of the policy (`hmc`) or in action units.
      policy_rate, critic_rate: Adam's learning rates; alpha uses the policy's, gamma_1's dual the critic's.

    References:
      Ma et al. (2023), arXiv 2210.07484; differences between text and code: docs/algorithms/misa.md.
    """

    steps: int = 1_000_000
    batch_size: int = 256
    preprocess: Preprocess = field(default_factory=Preprocess)
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
    chain_step: float = 0.3
    policy_rate: float = 1e-4
    critic_rate: float = 3e-4

    def __post_init__(self) -> None:
        choice("bound", self.bound, mi.BOUNDS)
        choice("energy", self.energy, ("q", "t"))
        choice("estimator", self.estimator, ("snis", "hmc", "hmc-action", "reparam", "none"))
        choice("normaliser", self.normaliser, ("k", "batch"))
        choice("schedule", self.schedule, ("constant", "cosine"))


ACTION_MARGIN = 1e-3  # data actions are clipped to ±0.999 before atanh, as in the authors' code


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


def regulariser(bound: str, energies: Array, data_energy: Array) -> Array:
    """log Z_T - E_D[T]: what the critic is charged for (equation 12). (batch, k), (batch,) -> ()."""
    return mi.log_partition(bound, energies) - jnp.mean(data_energy)


def critic_loss(params, critic, batch: Batch, actions: Array, push_down, y: Array, weight, td_weight):
    """td_weight * sum_i E(Q_i - y)^2 + weight * sum_i (log Z - E_D[Q_i]).

    Args:
      actions: (batch, n, dim), or (ensemble, batch, n, dim), at which `push_down` wants energies.
      push_down: (batch, n) energies of one member, its index -> a scalar with log Z's gradient.
    """
    data_action = jnp.broadcast_to(batch.action[:, None], (*actions.shape[:-2], 1, actions.shape[-1]))
    values = sweep(critic.apply, params, batch.obs, jnp.concatenate([data_action, actions], axis=-2))
    data_values, energies = values[..., 0], values[..., 1:]
    pushed = sum(push_down(energies[i], i) for i in range(values.shape[0]))
    loss = td_weight * td.squared_error(data_values, y) + weight * (
        pushed - jnp.sum(jnp.mean(data_values, axis=-1))
    )
    return loss, data_values


def policy_loss(params, policy, q, batch: Batch, key: Array, alpha, correction, hp: HP, config: Config):
    """-E[min Q(s, a_pi)] + gamma_2 (alpha E[log pi(a_pi)] - E_D[log pi(a)]) + gamma_2' correction(pi).

    Args:
      q: (batch, dim) actions -> (batch,) smallest Q.
      correction: Normal -> a scalar whose gradient is that of log Z in theta (equation 15).
    """
    pi = Normal(*policy.apply(params, batch.obs))
    u = pi.sample(key)
    log_pi = squash_log_prob(pi, u)
    log_pi_data = jnp.mean(squash_log_prob(pi, unsquash(batch.action, ACTION_MARGIN)))
    q_policy = jnp.mean(q(jnp.tanh(u)))
    loss = -q_policy + hp["gamma_2_correction"] * correction(pi)
    if config.entropy:
        loss += hp["gamma_2"] * alpha * jnp.mean(log_pi)
    if config.barber_agakov:
        loss -= hp["gamma_2"] * log_pi_data
    return loss, {
        "policy_loss": loss,
        "q_policy": q_policy,
        "entropy": -jnp.mean(log_pi),
        "log_prob_data": log_pi_data,
        "policy_std": jnp.mean(jnp.exp(pi.log_std)),
    }


def temperature_loss(log_alpha: Array, entropy: Array, target: Array) -> Array:
    """-log alpha (target - H): descending it raises alpha while the entropy H is below its target."""
    return -log_alpha * jax.lax.stop_gradient(target - entropy)


# --- Equation 15 -------------------------------------------------------------


def correction_samples(config: Config, pi: Normal, samples: Array, energies: Array, energy, batch, key, hp):
    """Points u and weights w with sum w log N(u; pi) having the gradient of log Z in theta (equation 15).

    Args:
      samples: (batch, k, dim) pre-tanh policy samples; `energies` (batch, k) their energies.
      energy: (batch, dim) actions -> (batch,).

    Returns:
      u (batch, n, dim), w (batch, n), acceptance ().
    """
    w = mi.weights(config.bound, energies)
    if config.estimator == "snis":
        return samples, w, jnp.ones(())
    if config.estimator == "hmc":
        # In z = (u - mean) / std the tanh Jacobians of policy and target cancel: log N(z) + T. The chain
        # starts at an importance-weighted policy sample, so that it is near its target from the first step.
        key, key_start = jax.random.split(key)
        start, _ = mi.resample(key_start, w, 1)
        std = jnp.exp(pi.log_std)
        z = (jnp.take_along_axis(samples, start[..., None], axis=1)[:, 0] - pi.mean) / std
        target = lambda z: -0.5 * jnp.sum(z**2, -1) + energy(jnp.tanh(pi.mean + std * z))
        to_u = lambda z: pi.mean + std * z
    else:
        # hmc-action, as the authors run it: proposals outside (-1, 1) are NaN here and so rejected.
        z = jnp.clip(batch.action, -1 + ACTION_MARGIN, 1 - ACTION_MARGIN)
        target = lambda a: squash_log_prob(pi, jnp.arctanh(a)) + energy(a)
        to_u = jnp.arctanh
    chains = mcmc.hmc(
        target,
        z,
        key,
        samples=config.chain_samples,
        burn_in=config.burn_in,
        leapfrog=config.leapfrog,
        step_size=hp["chain_step"],
        adapt=min(config.chain_adapt, config.burn_in),
    )
    u = jnp.moveaxis(to_u(chains.samples), 0, 1)  # (batch, n, dim)
    # Within a state the chain has the weights; between states they are the policy samples' masses.
    mass = jnp.sum(w, axis=-1, keepdims=True)
    return u, jnp.broadcast_to(mass / config.chain_samples, u.shape[:2]), chains.acceptance


# --- Build -------------------------------------------------------------------


def build(config: Config, spec: Spec) -> Algorithm:
    """MISA for continuous actions in [-1, 1]^d."""
    dim = continuous("misa", spec).dim
    policy_net = nn.gaussian(spec.obs_dim, dim, config.hidden, activation=config.policy_activation)
    net = {"activation": config.critic_activation, "norm": config.critic_norm, "out_scale": 0.01}
    critic = nn.critic(spec.obs_dim, dim, config.hidden, ensemble=config.ensemble, **net)
    energy_net = nn.critic(spec.obs_dim, dim, config.hidden, ensemble=1, **net)
    separate = config.energy == "t"
    bounded = config.bound != "ba"

    def init(key: Array, hp: HP) -> State:
        keys = jax.random.split(key, 3)
        params = {"policy": policy_net.init(keys[0]), "critic": critic.init(keys[1])}
        params["energy"] = energy_net.init(keys[2]) if separate else {}
        params |= {"log_alpha": jnp.zeros(()), "log_lagrange": jnp.ones(())}
        return State(
            **params,
            target_critic=jax.tree.map(jnp.copy, params["critic"]),
            optimiser={name: adam_init(value) for name, value in params.items()},
            hp=hp,
        )

    def update(state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
        # All gradients are taken at the parameters from before the update, as in the authors' code.
        hp = state.hp
        key_next, key_k, key_draw, key_pi, key_chain = jax.random.split(key, 5)
        pi = Normal(*policy_net.apply(state.policy, batch.obs))
        min_q = lambda a: jnp.min(critic.apply(state.critic, batch.obs, a), axis=0)
        energy = min_q
        if separate:
            energy = lambda a: energy_net.apply(state.energy, batch.obs, a)[0]

        # The k policy actions of each state, and their values: one forward pass that both sides share.
        u_k = jnp.moveaxis(pi.sample(key_k, (config.k if bounded else 0,)), 0, 1)  # (batch, k, dim)
        a_k = jnp.tanh(u_k)
        regularised = energy_net if separate else critic  # whose energies the bound is about
        regularised_params = state.energy if separate else state.critic
        values_k = sweep(regularised.apply, regularised_params, batch.obs, a_k)  # (ensemble, batch, k)
        energies = jnp.min(values_k, axis=0)

        def push_down_of(values: Array, key: Array):
            """The actions on which log Z is differentiated, and log Z's surrogate on their energies."""
            if not config.critic_resample:
                return a_k, lambda e, i: mi.log_partition(config.bound, e)
            draws = [
                mi.resample(k, mi.weights(config.bound, v), config.critic_resample)
                for k, v in zip(jax.random.split(key, len(values)), values, strict=True)
            ]
            chosen = jnp.stack([jnp.take_along_axis(a_k, index[..., None], axis=1) for index, _ in draws])
            return chosen, lambda e, i: jnp.sum(draws[i][1] * jnp.mean(e, axis=-1))

        # --- critic
        pi_next = Normal(*policy_net.apply(state.policy, batch.next_obs))
        a_next = jnp.tanh(pi_next.sample(key_next))
        next_value = jnp.min(critic.apply(state.target_critic, batch.next_obs, a_next), axis=0)
        y = td.target(batch.reward, batch.discount, next_value)
        nothing = (a_k[:, :0], lambda e, i: jnp.mean(jnp.zeros(())))
        # MISA-T's text does not say whether the critic keeps a penalty; its collapse suggests not.
        penalise = bounded and not separate
        actions, push_down = push_down_of(values_k, key_draw) if penalise else nothing
        weight = hp["gamma_1"] if penalise else jnp.zeros(())
        if config.lagrange:
            weight = weight * dual.multiplier(state.log_lagrange)
        grads = {}
        (_, data_values), grads["critic"] = jax.value_and_grad(critic_loss, has_aux=True)(
            state.critic, critic, batch, actions, push_down, y, weight, hp["td_weight"]
        )
        data_energy = jnp.min(data_values, axis=0)
        if separate:
            t_actions, t_push_down = push_down_of(values_k, key_draw)
            (_, t_data), grads["energy"] = jax.value_and_grad(critic_loss, has_aux=True)(
                state.energy, energy_net, batch, t_actions, t_push_down, y, 1.0, 0.0
            )
            data_energy = t_data[0]
        else:
            grads["energy"] = {}

        # --- policy
        acceptance = jnp.ones(())
        correction = lambda pi: jnp.zeros(())
        if bounded and config.estimator == "reparam":
            noise = (u_k - pi.mean[:, None]) * jnp.exp(-pi.log_std)[:, None]

            def correction(pi: Normal) -> Array:
                a = jnp.tanh(pi.mean[:, None] + jnp.exp(pi.log_std)[:, None] * noise)
                q = sweep(regularised.apply, regularised_params, batch.obs, a)
                return mi.log_partition(config.bound, jnp.min(q, axis=0))
        elif bounded and config.estimator != "none":
            u, w, acceptance = jax.lax.stop_gradient(
                correction_samples(config, pi, u_k, energies, energy, batch, key_chain, hp)
            )

            def correction(pi: Normal) -> Array:
                one = Normal(pi.mean[:, None], pi.log_std[:, None])
                return jnp.sum(w * one.log_prob(u))

        (_, metrics), grads["policy"] = jax.value_and_grad(policy_loss, has_aux=True)(
            state.policy, policy_net, min_q, batch, key_pi, jnp.exp(state.log_alpha), correction, hp, config
        )

        # --- temperature and multiplier
        target_entropy = dim * hp["target_entropy"]
        grads["log_alpha"] = jax.grad(temperature_loss)(state.log_alpha, metrics["entropy"], target_entropy)
        shift = jnp.log(config.k / config.batch_size) if config.normaliser == "batch" else 0.0
        gaps = jnp.stack(
            [regulariser(config.bound, v, d) for v, d in zip(values_k, data_values, strict=False)]
        )
        gap = jnp.mean(gaps) + shift if penalise else jnp.zeros(())
        grads["log_lagrange"] = jax.grad(dual.dual_loss)(state.log_lagrange, gap - hp["tau"])

        # --- step
        rates = {"policy": hp["policy_rate"], "critic": hp["critic_rate"], "energy": hp["critic_rate"]}
        rates |= {
            "log_alpha": hp["policy_rate"] if config.entropy else jnp.zeros(()),
            "log_lagrange": hp["critic_rate"] if config.lagrange else jnp.zeros(()),
        }
        new, optimiser = {}, {}
        for name, gradient in grads.items():
            rate = rates[name] if config.schedule == "constant" else cosine(rates[name], step, config.steps)
            new[name], optimiser[name] = adam(gradient, state.optimiser[name], getattr(state, name), rate)
        metrics |= {
            "td_loss": td.squared_error(data_values, y),
            "q_data": jnp.mean(data_values),
            "target": jnp.mean(y),
            "alpha": jnp.exp(state.log_alpha),
            "lagrange": dual.multiplier(state.log_lagrange),
            "gap": gap,
        }
        if bounded:
            # The bounds without their constant H(A): estimates of I(S; A) - H(A) in nats.
            known = metrics["log_prob_data"] + jnp.mean(data_energy)
            metrics |= {f"bound_{b}": known - mi.log_partition(b, energies) for b in ("misa", "dv", "f")}
            metrics["effective_samples"] = mi.effective_sample_size(mi.weights("misa", energies))
            metrics["acceptance"] = acceptance
        metrics["bound_ba"] = metrics["log_prob_data"]
        target_critic = dual.polyak(state.target_critic, new["critic"], hp["polyak"])
        return State(**new, target_critic=target_critic, optimiser=optimiser, hp=hp), metrics

    stage = Stage("train", config.steps, uniform(config.batch_size), update)
    return Algorithm(init, (stage,), tanh_gaussian(policy_net))


# --- Presets -----------------------------------------------------------------

AUTHORS = {
    "estimator": "hmc-action",
    "chain_step": 1.0,
    "normaliser": "batch",
}
PAPER = AUTHORS | {
    "policy_activation": "elu",  # "ELU after each layer"; the code leaves the policy with ReLU
    "normaliser": "k",
    "gamma_2_correction": 0.5,  # equation 13 has one gamma_2
    "td_weight": 0.5,
    "entropy": False,
    "schedule": "cosine",
    "critic_rate": 1e-4,
}
OURS: dict = {
    "preprocess.obs": "standardise",
    "estimator": "snis",
    "critic_activation": "relu",
    "critic_resample": 1,
    "k": 10,
    "policy_rate": 3e-4,
}
PRESETS = {
    "default": Preset("ours: what docs/algorithms/misa.md lists, each departure with what it buys", OURS),
    "paper": Preset("the NeurIPS 2023 text's values", PAPER),
    "authors": Preset("what the authors' public code does", AUTHORS),
    # The columns of the text's table 1, on the authors' settings.
    "k5": Preset("table 1, k = 5 (and as many HMC samples)", AUTHORS | {"k": 5, "chain_samples": 5}),
    "k20": Preset("table 1, k = 20 (and as many HMC samples)", AUTHORS | {"k": 20, "chain_samples": 20}),
    "bi1": Preset(
        "table 1, one burn-in step, no step-size adaptation", AUTHORS | {"burn_in": 1, "chain_adapt": 0}
    ),
    "no-ba": Preset("table 1, without E_D[log pi(a|s)]", AUTHORS | {"barber_agakov": False}),
    "ba": Preset("table 1, the Barber-Agakov bound alone; its Q diverges", AUTHORS | {"bound": "ba"}),
    "f": Preset("table 1, the f-divergence bound", AUTHORS | {"bound": "f"}),
    "dv": Preset("table 1, the Donsker-Varadhan bound", AUTHORS | {"bound": "dv"}),
    "biased": Preset("table 1, without the correction of equation 15", AUTHORS | {"estimator": "none"}),
    "t": Preset("table 1, a separate energy network", AUTHORS | {"energy": "t"}),
}
DOMAINS = {
    "adroit": {"preprocess.reward": "unit", "lagrange": True, "tau": 3.0},
    "kitchen": {"preprocess.reward": "unit", "lagrange": True, "tau": 3.0},
    "antmaze": {"preprocess.reward": "antmaze", "lagrange": True, "tau": 10.0, "hidden": (256, 256, 256)},
}
