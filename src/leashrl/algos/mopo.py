"""MOPO: Model-based Offline Policy Optimization (Yu et al., NeurIPS 2020, arXiv 2005.13239)."""

import dataclasses
import math
from dataclasses import field

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.algos.common import choice, continuous, positive, share, soft_update, tanh_gaussian, within
from leashrl.core import HP, Algorithm, Data, Preprocess, Preset, Stage, uniform
from leashrl.dist import Normal
from leashrl.errors import BadInput
from leashrl.models import dynamics
from leashrl.optim import adam_init, descend
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


# --- Held-out rows -----------------------------------------------------------


def held_out(n: int, percent: int) -> tuple[int, int]:
    """Rows of a period, and how many at its beginning are held out. Blocks: neighbours are too much alike."""
    period = max(2, min(5000, n // 4))
    return period, min(period - 1, max(1, period * percent // 100))


def training_row(index: Array, n: int, percent: int) -> Array:
    """The row of the `index`-th row that is not held out; `index` < `training_rows`."""
    period, held = held_out(n, percent)
    return index // (period - held) * period + held + index % (period - held)


def training_rows(n: int, percent: int) -> int:
    """How many rows are not held out."""
    period, held = held_out(n, percent)
    return n // period * (period - held) + max(0, n % period - held)


# --- Build -------------------------------------------------------------------


def build(config: Config, spec: Spec) -> Algorithm:
    """MOPO for continuous actions in [-1, 1]^d."""
    dim = continuous("mopo", spec).dim
    model = dynamics.ensemble(spec.obs_dim, dim, config.model_hidden, config.members)
    policy = nn.gaussian(spec.obs_dim, dim, config.hidden)
    critic = nn.critic(spec.obs_dim, dim, config.hidden, ensemble=config.ensemble)
    ends = dynamics.TERMINATIONS[config.termination]
    model_steps = share(config.steps, config.model_percent)
    chunk = config.rollouts * config.horizon
    real = min(config.batch_size, config.batch_size * config.real_percent // 100)

    def init(key: Array, hp: HP) -> State:
        keys = jax.random.split(key, 3)
        parts = {
            "model": model.init(keys[0]),
            "policy": policy.init(keys[1]),
            "critic": critic.init(keys[2]),
            "log_alpha": jnp.zeros(()),
        }
        rows = config.retain * chunk
        return State(
            **parts,
            best_model=jax.tree.map(jnp.copy, parts["model"]),
            best_error=jnp.full(config.members, jnp.inf, jnp.float32),
            waited=jnp.zeros(config.members, jnp.int32),
            target_critic=jax.tree.map(jnp.copy, parts["critic"]),
            dreams={
                "obs": jnp.zeros((rows, spec.obs_dim)),
                "action": jnp.zeros((rows, dim)),
                "reward": jnp.zeros(rows),
                "terminal": jnp.zeros(rows, bool),
                "next_obs": jnp.zeros((rows, spec.obs_dim)),
            },
            written=jnp.zeros((), jnp.int32),
            penalties=jnp.zeros(3),
            optimiser={name: adam_init(value) for name, value in parts.items()},
            hp=hp,
        )

    # --- the model

    def rows_of_model(data: Data, state: State, key: Array) -> tuple[Array, Array, Array, Array | None]:
        """What `outcomes` has, of rows (members, batch) drawn anew for each network."""
        assert isinstance(data, Transitions)
        n = data.reward.shape[0]
        index = jax.random.randint(
            key, (config.members, config.batch_size), 0, training_rows(n, config.hold_percent)
        )
        return outcomes(data, training_row(index, n, config.hold_percent))

    def train_model(state: State, rows, key: Array, step: Array) -> tuple[State, Metrics]:
        *drawn, known = rows
        loss, grads = jax.value_and_grad(model.loss)(state.model, *drawn, state.hp["decay"], known)
        grads["scale"] = jax.tree.map(jnp.zeros_like, grads["scale"])  # the data's, not learnt
        return descend(state, {"model": grads}, {"model": state.hp["model_rate"]}), {
            "model_loss": loss / config.members,
            "held_out_error": jnp.mean(jnp.where(jnp.isinf(state.best_error), 0.0, state.best_error)),
        }

    def look(state: State, data: Data, key: Array) -> State:
        """Keep each network's weights where they are the best so far, until its patience is over."""
        assert isinstance(data, Transitions)
        scale = dynamics.scale_of(jnp.asarray(data.obs), jnp.asarray(data.action))
        params = state.model | {"scale": scale}
        n = data.reward.shape[0]
        period, held = held_out(n, config.hold_percent)
        index = jax.random.randint(jax.random.key(0), (HELD_ROWS,), 0, max(1, n // period) * held)
        error = dynamics.squared_errors(model, params, *outcomes(data, index // held * period + index % held))
        waiting = state.waited < config.patience
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

    # --- roll-outs

    def dream(state: State, data: Data, key: Array) -> State:
        """`rollouts` times `horizon` rows of the model, in place of the oldest."""
        assert isinstance(data, Transitions)
        obs, n = jnp.asarray(data.obs), data.reward.shape[0]
        elites = jnp.argsort(state.best_error)[: config.elites]

        def step(now: Array, key: Array):
            keys = jax.random.split(key, 4)
            action = jnp.tanh(Normal(*policy.apply(state.policy, now)).sample(keys[0]))
            mean, log_var = model.predict(state.best_model, now, action)
            std = jnp.exp(0.5 * log_var)
            chosen = elites[jax.random.randint(keys[1], (config.rollouts,), 0, config.elites)]
            pick = lambda x: jnp.take_along_axis(x, chosen[None, :, None], axis=0)[0]
            outcome = pick(mean) + pick(std) * jax.random.normal(keys[2], mean.shape[1:])
            unsure = jnp.max(jnp.sqrt(jnp.sum(std**2, axis=-1)), axis=0)
            after = now + outcome[:, 1:]
            over = ends(after)
            row = {
                "obs": now,
                "action": action,
                "reward": outcome[:, 0] - state.hp["penalty"] * unsure,
                "terminal": over,
                "next_obs": after,
            }
            # Where an episode is over another begins, so that every row is one to learn from.
            fresh = obs[jax.random.randint(keys[3], (config.rollouts,), 0, n)]
            return jnp.where(over[:, None], fresh, after), (row, unsure)

        key_start, key_steps = jax.random.split(key)
        start = obs[jax.random.randint(key_start, (config.rollouts,), 0, n)]
        _, (rows, unsure) = jax.lax.scan(step, start, jax.random.split(key_steps, config.horizon))
        at = state.written % config.retain * chunk

        def write(old: Array, new: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(old, new.reshape(chunk, *new.shape[2:]), at, axis=0)

        return dataclasses.replace(
            state,
            dreams={name: write(state.dreams[name], rows[name]) for name in rows},
            written=state.written + 1,
            penalties=jnp.stack([jnp.mean(unsure), jnp.median(unsure), jnp.max(unsure)]),
        )

    def mixed(data: Data, state: State, key: Array) -> Batch:
        """Rows of the data first, then rows of the model."""
        key_real, key_dream = jax.random.split(key)
        held = jnp.minimum(state.written, config.retain) * chunk
        index = jax.random.randint(key_dream, (config.batch_size - real,), 0, held)
        found = {name: x[index] for name, x in state.dreams.items()}
        terminal = found.pop("terminal")
        dreamt = Batch(**found, discount=jnp.where(terminal, 0.0, state.hp["gamma"]))
        if not real:
            return dreamt
        return jax.tree.map(lambda *x: jnp.concatenate(x), uniform(real)(data, state, key_real), dreamt)

    # --- SAC

    def update(state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
        new, metrics, values = soft_update(state, batch, key, policy, critic, state.hp["target_entropy"])
        return new, metrics | {
            "q_data": jnp.mean(values[:, :real]) if real else jnp.zeros(()),
            "q_model": jnp.mean(values[:, real:]),
            "held_out_error": jnp.mean(jnp.sort(state.best_error)[: config.elites]),
            "penalty_mean": state.penalties[0],
            "penalty_median": state.penalties[1],
            "penalty_max": state.penalties[2],
        }

    def refresh(state: State, data: Data, key: Array) -> State:
        # The model's last updates are looked at here, before the first roll-out.
        return dream(look(state, data, key), data, key)

    stages = (
        Stage("model", model_steps, rows_of_model, train_model, look, config.check),
        Stage("train", config.steps, mixed, update, refresh, config.every),
    )
    return Algorithm(init, stages, tanh_gaussian(policy))


def outcomes(data: Transitions, index: Array) -> tuple[Array, Array, Array, Array | None]:
    """Observations, actions, rewards beside changes of the observations, and which rows' change is known.

    Unknown is what followed a terminal that was logged without its next observation, as the next row begins
    another episode: the model learns what such a row pays, and not where it leads.
    """
    obs = jnp.asarray(data.obs)[index]
    change = jnp.asarray(data.next_obs)[index] - obs
    outcome = jnp.concatenate([jnp.asarray(data.reward)[index][..., None], change], axis=-1)
    known = None if data.known is None else jnp.asarray(data.known)[index]
    return obs, jnp.asarray(data.action)[index], outcome, known


# --- Presets -----------------------------------------------------------------

TABLE = {  # horizon and lambda by data set, the authors' configurations for D4RL's first version
    "halfcheetah-random": (5, 0.5),
    "halfcheetah-medium": (1, 1.0),
    "halfcheetah-medium-replay": (5, 1.0),
    "halfcheetah-medium-expert": (5, 5.0),
    "hopper-random": (5, 1.0),
    "hopper-medium": (5, 5.0),
    "hopper-medium-replay": (5, 1.0),
    "hopper-medium-expert": (5, 1.0),
    "walker2d-random": (1, 1.0),
    "walker2d-medium": (5, 5.0),
    "walker2d-medium-replay": (1, 1.0),
    "walker2d-medium-expert": (1, 2.0),
}
DOMAINS = {family: {"termination": family} for family in ("hopper", "walker2d")} | {
    place: {"horizon": horizon, "penalty": penalty} for place, (horizon, penalty) in TABLE.items()
}
OURS = {
    "model_percent": 100,
    "check": 500,
    "rollouts": 10_000,
    "retain": 2,
    "polyak": 0.02,
    "policy_rate": 1e-3,
    "critic_rate": 1e-3,
}
PRESETS = {
    "default": Preset("ours: fewer roll-outs at once, rates 1e-3, targets that follow faster", OURS),
    "authors": Preset("the authors' values", {}),
}
