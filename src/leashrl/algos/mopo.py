"""MOPO: Model-based Offline Policy Optimization (Yu et al., NeurIPS 2020, arXiv 2005.13239)."""

import dataclasses
import math
from dataclasses import field
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.algos import presets
from leashrl.algos.common import choice, continuous, positive, share, soft_update, tanh_gaussian, within
from leashrl.core import HP, Algorithm, Data, Entry, Preprocess, Stage, uniform
from leashrl.dist import Normal
from leashrl.errors import BadInput
from leashrl.models import dynamics
from leashrl.optim import begin, descend
from leashrl.types import Array, Batch, Metrics, Spec, Transitions, pytree

# --- Config ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    r"""MOPO: SAC in a learnt model of the world, whose rewards are lower where the model does not know.

    The model, an ensemble of Gaussians over reward and change of the observation, each of maximum likelihood:

    $$\min\ E_D\big[(\mu_n - y)^2/\sigma_n^2 + \log\sigma_n^2\big],\quad y = (r, s' - s)$$

    Every `every` updates, `rollouts` observations of the data are followed for `horizon` steps with the
    policy's actions; each step is a draw of one of the `elites`, and its reward (equation 8 and section 4.3)

    $$\tilde r = r - \lambda\max_n\|\sigma_n(s,a)\|$$

    From these rows and, `real_percent` of a batch, the data's, SAC learns:

    $$E(Q_i - y)^2,\quad y = \tilde r + \gamma(\min_i Q'_i(s',a') - \alpha\log\pi(a'|s')),\qquad
      \max_\pi\ E[\min_i Q_i(s,a_\pi) - \alpha\log\pi(a_\pi|s)]$$

    Args:
      steps: gradient updates of critics and policy.
      model_percent: updates of the model before, in percent of `steps`, at most: see `patience`.
      batch_size: transitions an update.
      preprocess: what is done to rewards; observations stay as they are where a simulator's rule reads them.
      hidden: widths of policy's and critics' hidden layers.
      model_hidden: widths of the model's hidden layers.
      ensemble: number of critics; targets and policy take their minimum.
      members: networks of the model.
      elites: of them the ones that err least on held-out rows, which roll-outs use.
      hold_percent: rows held out of the model's training, in blocks all over the data.
      check: updates of the model between two looks at the held-out rows.
      patience: looks in a row without a gain of a hundredth after which a network's best weights are final.
      every: updates between two roll-outs.
      rollouts: that many at once.
      horizon: steps of each.
      retain: so many roll-outs back are learnt from.
      real_percent: of a batch, rows of the data.
      termination: the simulator's rule by which an episode ends: `hopper`, `walker2d` or `none`.
      gamma: discount.
      polyak: rate of the target critics.
      penalty: lambda above.
      target_entropy: the temperature's target in nats, for all action dimensions together.
      policy_rate, critic_rate, model_rate: Adam's learning rates; the temperature uses the policy's.
      decay: weight of the squared norms of the model's kernels; layers have shares of it.

    References:
      Yu et al. (2020), MOPO: Model-based Offline Policy Optimization.
    """

    steps: int = 1_000_000
    model_percent: int = 10
    batch_size: int = 256
    preprocess: Preprocess = field(default_factory=Preprocess)
    precision: str = "auto"
    hidden: tuple[int, ...] = (256, 256)
    model_hidden: tuple[int, ...] = (200, 200, 200, 200)
    ensemble: int = 2
    members: int = 7
    elites: int = 5
    hold_percent: int = 20
    check: int = 1000
    patience: int = 5
    every: int = 1000
    rollouts: int = 50_000
    horizon: int = 5
    retain: int = 5
    real_percent: int = 5
    termination: str = "none"
    gamma: float = 0.99
    polyak: float = 0.005
    penalty: float = 1.0
    target_entropy: float = -3.0
    policy_rate: float = 3e-4
    critic_rate: float = 3e-4
    model_rate: float = 1e-3
    decay: float = 5e-5

    def __post_init__(self) -> None:
        choice("termination", self.termination, dynamics.TERMINATIONS)
        positive(self, "ensemble", "members", "elites", "check", "patience", "every", "rollouts", "horizon")
        positive(self, "retain", "model_percent")
        within(self, 1, 50, "hold_percent")
        within(self, 0, 100, "real_percent")
        within(self, 0, 1, "gamma", "polyak")
        within(self, 0, math.inf, "penalty", "policy_rate", "critic_rate", "model_rate", "decay")
        if self.elites > self.members:
            raise BadInput(f"option 'elites' must be at most members = {self.members}, not {self.elites}")
        if self.termination != "none" and self.preprocess.obs != "none":
            raise BadInput("the simulator's rule reads observations as they are: set preprocess.obs=none")


HELD_ROWS = 1000  # of the held-out rows so many are looked at

# --- State -------------------------------------------------------------------


@pytree
class State:
    model: dict  # leading member axis
    best_model: dict  # the same, of each network where it erred least
    best_error: Array  # (members,) squared error there, on held-out rows
    waited: Array  # (members,) looks since then
    policy: dict
    critic: dict  # leading ensemble axis
    target_critic: dict
    log_alpha: Array  # () entropy temperature
    dreams: dict[str, Array]  # Batch's arrays, (retain * horizon * rollouts, ...)
    written: Array  # () int32 roll-outs so far
    penalties: Array  # (3,) mean, median and largest penalty of the last of them
    optimiser: dict  # Adam's moments of model, policy, critic, log_alpha
    hp: HP


# --- Build -------------------------------------------------------------------


class Networks(NamedTuple):
    """What a state's parameters are applied with."""

    model: dynamics.Dynamics
    policy: nn.Network
    critic: nn.Network
    config: Config
    obs_dim: int
    dim: int
    chunk: int  # rows of a roll-out
    real: int  # rows of the data in a batch


def networks(config: Config, spec: Spec) -> Networks:
    dim = continuous("mopo", spec).dim
    return Networks(
        dynamics.ensemble(spec.obs_dim, dim, config.model_hidden, config.members),
        nn.gaussian(spec.obs_dim, dim, config.hidden),
        nn.critic(spec.obs_dim, dim, config.hidden, ensemble=config.ensemble),
        config,
        spec.obs_dim,
        dim,
        chunk=config.rollouts * config.horizon,
        real=min(config.batch_size, config.batch_size * config.real_percent // 100),
    )


def build(config: Config, spec: Spec) -> Algorithm:
    """MOPO for continuous actions in [-1, 1]^d."""
    n, learning = networks(config, spec), share(config.steps, config.model_percent)
    rows, batches = partial(model_rows, config), partial(mixed, n)
    stages = (
        Stage("model", learning, rows, partial(train_model, n), partial(look, n), config.check),
        Stage("train", config.steps, batches, partial(update, n), partial(refresh, n), config.every),
    )
    return Algorithm(partial(init, n), stages, tanh_gaussian(n.policy))


def init(n: Networks, key: Array, hp: HP) -> State:
    keys = jax.random.split(key, 3)
    params = {
        "model": n.model.init(keys[0]),
        "policy": n.policy.init(keys[1]),
        "critic": n.critic.init(keys[2]),
        "log_alpha": jnp.zeros(()),
    }
    rows = n.config.retain * n.chunk
    return begin(
        State,
        params,
        hp,
        targets=("critic",),
        best_model=jax.tree.map(jnp.copy, params["model"]),
        best_error=jnp.full(n.config.members, jnp.inf, jnp.float32),
        waited=jnp.zeros(n.config.members, jnp.int32),
        dreams={
            "obs": jnp.zeros((rows, n.obs_dim)),
            "action": jnp.zeros((rows, n.dim)),
            "reward": jnp.zeros(rows),
            "terminal": jnp.zeros(rows, bool),
            "next_obs": jnp.zeros((rows, n.obs_dim)),
        },
        written=jnp.zeros((), jnp.int32),
        penalties=jnp.zeros(3),
    )


# --- The model ---------------------------------------------------------------


def model_rows(config: Config, data: Data, state: State, key: Array):
    """What `dynamics.outcomes` has, of rows (members, batch) drawn anew for each network."""
    assert isinstance(data, Transitions)
    count, percent = data.reward.shape[0], config.hold_percent
    shape = (config.members, config.batch_size)
    index = jax.random.randint(key, shape, 0, dynamics.training_rows(count, percent))
    return dynamics.outcomes(data, dynamics.training_row(index, count, percent))


def train_model(n: Networks, state: State, rows, key: Array, step: Array) -> tuple[State, Metrics]:
    *drawn, known = rows
    loss, grads = jax.value_and_grad(n.model.loss)(state.model, *drawn, state.hp["decay"], known)
    grads["scale"] = jax.tree.map(jnp.zeros_like, grads["scale"])  # the data's, not learnt
    return descend(state, {"model": grads}, {"model": state.hp["model_rate"]}), {
        "model_loss": loss / n.config.members,
        "held_out_error": jnp.mean(jnp.where(jnp.isinf(state.best_error), 0.0, state.best_error)),
    }


def look(n: Networks, state: State, data: Data, key: Array) -> State:
    """Keep each network's weights where they are the best so far, until its patience is over."""
    assert isinstance(data, Transitions)
    scale = dynamics.scale_of(jnp.asarray(data.obs), jnp.asarray(data.action))
    params = state.model | {"scale": scale}
    count = data.reward.shape[0]
    period, held = dynamics.held_out(count, n.config.hold_percent)
    index = jax.random.randint(jax.random.key(0), (HELD_ROWS,), 0, max(1, count // period) * held)
    rows = dynamics.outcomes(data, index // held * period + index % held)
    error = dynamics.squared_errors(n.model, params, *rows)
    waiting = state.waited < n.config.patience
    better = waiting & (error < 0.99 * state.best_error)

    def keep(old: Array, new: Array) -> Array:
        return jnp.where(better.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    parts = {
        name: jax.tree.map(keep, state.best_model[name], params[name]) for name in ("net", "high", "low")
    }
    return dataclasses.replace(
        state,
        model=params,
        best_model=parts | {"scale": scale},
        best_error=jnp.where(better, error, state.best_error),
        waited=jnp.where(waiting, jnp.where(better, 0, state.waited + 1), state.waited),
    )


# --- Roll-outs ---------------------------------------------------------------


def dream_step(n: Networks, state: State, obs: Array, elites: Array, now: Array, key: Array):
    """One step of all roll-outs from `now`: the next ones; rows, and how unsure the model is of each."""
    keys, rollouts = jax.random.split(key, 4), n.config.rollouts
    action = jnp.tanh(Normal(*n.policy.apply(state.policy, now)).sample(keys[0]))
    mean, log_var = n.model.predict(state.best_model, now, action)
    std = jnp.exp(0.5 * log_var)
    chosen = elites[jax.random.randint(keys[1], (rollouts,), 0, n.config.elites)]
    pick = lambda x: jnp.take_along_axis(x, chosen[None, :, None], axis=0)[0]
    outcome = pick(mean) + pick(std) * jax.random.normal(keys[2], mean.shape[1:])
    unsure = jnp.max(jnp.sqrt(jnp.sum(std**2, axis=-1)), axis=0)
    after = now + outcome[:, 1:]
    over = dynamics.TERMINATIONS[n.config.termination](after)
    row = {
        "obs": now,
        "action": action,
        "reward": outcome[:, 0] - state.hp["penalty"] * unsure,
        "terminal": over,
        "next_obs": after,
    }
    # Where an episode is over another begins, so that every row is one to learn from.
    fresh = obs[jax.random.randint(keys[3], (rollouts,), 0, obs.shape[0])]
    return jnp.where(over[:, None], fresh, after), (row, unsure)


def dream(n: Networks, state: State, data: Data, key: Array) -> State:
    """`rollouts` times `horizon` rows of the model, in place of the oldest."""
    assert isinstance(data, Transitions)
    obs, config = jnp.asarray(data.obs), n.config
    elites = jnp.argsort(state.best_error)[: config.elites]
    key_start, key_steps = jax.random.split(key)
    start = obs[jax.random.randint(key_start, (config.rollouts,), 0, obs.shape[0])]
    step = partial(dream_step, n, state, obs, elites)
    _, (rows, unsure) = jax.lax.scan(step, start, jax.random.split(key_steps, config.horizon))
    at = state.written % config.retain * n.chunk

    def write(old: Array, new: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(old, new.reshape(n.chunk, *new.shape[2:]), at, axis=0)

    return dataclasses.replace(
        state,
        dreams={name: write(state.dreams[name], rows[name]) for name in rows},
        written=state.written + 1,
        penalties=jnp.stack([jnp.mean(unsure), jnp.median(unsure), jnp.max(unsure)]),
    )


def refresh(n: Networks, state: State, data: Data, key: Array) -> State:
    # The model's last updates are looked at here, before the first roll-out.
    return dream(n, look(n, state, data, key), data, key)


# --- SAC ---------------------------------------------------------------------


def mixed(n: Networks, data: Data, state: State, key: Array) -> Batch:
    """Rows of the data first, then rows of the model."""
    key_real, key_dream = jax.random.split(key)
    held = jnp.minimum(state.written, n.config.retain) * n.chunk
    index = jax.random.randint(key_dream, (n.config.batch_size - n.real,), 0, held)
    found = {name: x[index] for name, x in state.dreams.items()}
    terminal = found.pop("terminal")
    dreamt = Batch(**found, discount=jnp.where(terminal, 0.0, state.hp["gamma"]))
    if not n.real:
        return dreamt
    return jax.tree.map(lambda *x: jnp.concatenate(x), uniform(n.real)(data, state, key_real), dreamt)


def update(n: Networks, state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
    new, metrics, values = soft_update(state, batch, key, n.policy, n.critic, state.hp["target_entropy"])
    return new, metrics | {
        "q_data": jnp.mean(values[:, : n.real]) if n.real else jnp.zeros(()),
        "q_model": jnp.mean(values[:, n.real :]),
        "held_out_error": jnp.mean(jnp.sort(state.best_error)[: n.config.elites]),
        "penalty_mean": state.penalties[0],
        "penalty_median": state.penalties[1],
        "penalty_max": state.penalties[2],
    }


ENTRY = {
    "mopo": Entry(
        Config,
        build,
        "Yu et al. 2020, arXiv 2005.13239",
        *presets.read("mopo", Config),
        view="dynamics",
        offline_only="its critic learns from a model of the data, which stays as it is",
    )
}
