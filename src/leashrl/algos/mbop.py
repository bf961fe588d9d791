"""MBOP: Model-Based Offline Planning (Argenson and Dulac-Arnold, ICLR 2021, arXiv 2008.05556)."""

import dataclasses
import math
from dataclasses import field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.algos import presets
from leashrl.algos.common import choice, continuous, positive, within
from leashrl.core import HP, Algorithm, Data, Entry, Policy, Preprocess, Stage
from leashrl.optim import begin, descend
from leashrl.types import Array, Episodes, Metrics, Spec, TimeStep, pytree

# --- Config ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    r"""MBOP: no policy is learnt. A planner looks ahead with what was: model, behaviour, and what came of it.

    Three ensembles, each of least squares on its own draws of the data: the next observation and reward
    $f_m(s_t, a_t)$, the behaviour $f_b(s_t, a_{t-1})$, and the reward of the next H steps
    $f_R(s_t, a_{t-1})$. At each step, from the plan T of the step before, N trajectories n of H steps,

    $$a_t = (1-\beta)\,(f_b(s_t, a_{t-1}) + \epsilon_t) + \beta\,T_{t+1},\quad \epsilon\sim N(0,\sigma^2),$$

    $$R_n = \sum_t r(s_t,a_t) + f_R(s_H, a_{H-1})$$

    where each trajectory follows one network, and rewards are the ensemble's mean. The new plan is their
    mean, weighted by $e^{\kappa R_n}$, and its first action is taken. What the networks see and what is
    executed is clipped to the action space; what is averaged is not.

    Args:
      steps: gradient updates.
      batch_size: rows an update, for each network its own.
      preprocess: what is done to observations and rewards.
      hidden: widths of all networks' hidden layers.
      members: networks of each ensemble.
      horizon: H above.
      samples: N above, rounded up to a multiple of `members`.
      bootstrap: add f_R at the horizon.
      beta: how much of the old plan is kept.
      sigma: of the noise, in units of `noise`.
      noise: `range`, the action range's half, or `data`, each dimension's standard deviation in the data.
      kappa: how sharply trajectories are told apart.
      policy_rate, model_rate, value_rate: Adam's learning rates of f_b, f_m, f_R.

    References:
      Argenson and Dulac-Arnold (2021), Model-Based Offline Planning.
    """

    steps: int = 1_000_000
    batch_size: int = 256
    preprocess: Preprocess = field(default_factory=lambda: Preprocess(obs="standardise"))
    precision: str = "auto"
    hidden: tuple[int, ...] = (500, 500)
    members: int = 3
    horizon: int = 10
    samples: int = 100
    bootstrap: bool = True
    beta: float = 0.2
    sigma: float = 0.2
    noise: str = "range"
    kappa: float = 1.0
    policy_rate: float = 1e-3
    model_rate: float = 1e-3
    value_rate: float = 1e-3

    def __post_init__(self) -> None:
        positive(self, "members", "horizon", "samples")
        choice("noise", self.noise, ("range", "data"))
        within(self, 0, 1, "beta")
        within(self, 0, math.inf, "sigma", "kappa", "policy_rate", "model_rate", "value_rate")


ENSEMBLES = ("policy", "model", "value")  # f_b, f_m and f_R

# --- State -------------------------------------------------------------------


@pytree
class State:
    policy: dict  # f_b; of all three a leading member axis
    model: dict  # f_m
    value: dict  # f_R
    noise_scale: Array  # (dim,) the noise's unit, in half action ranges
    optimiser: dict  # Adam's moments of the three
    hp: HP


@pytree
class Rows:
    """What the networks learn from, each (members, batch, ...)."""

    obs: Array
    action: Array
    before: Array  # the action of the row before, zeros at an episode's first
    reward: Array
    ahead: Array  # the sum of the next H rewards, or of those that are left
    next_obs: Array
    known: Array  # bool: next_obs is what followed


# --- Losses ------------------------------------------------------------------


def each(net: nn.Network, params, obs: Array, action: Array) -> Array:
    """All members of an ensemble, each on rows of its own (members, batch, ...)."""
    return jax.vmap(net.apply)(params, jnp.concatenate([obs, action], axis=-1))


def losses(params: dict, policy: nn.Network, model: nn.Network, value: nn.Network, batch: Rows):
    """The sum over members of their squared errors, and the mean of each ensemble's."""
    action = each(policy, params["policy"], batch.obs, batch.before)
    outcome = each(model, params["model"], batch.obs, batch.action)
    ahead = each(value, params["value"], batch.obs, batch.before)[..., 0]
    known = batch.known.astype(jnp.float32)
    change = jnp.mean((outcome[..., 1:] - (batch.next_obs - batch.obs)) ** 2, axis=-1)
    found = {
        "behaviour_error": jnp.mean((action - batch.action) ** 2),
        "reward_error": jnp.mean((outcome[..., 0] - batch.reward) ** 2),
        # What a last row pays is known even where what followed it was not stored.
        "next_obs_error": jnp.sum(change * known) / jnp.maximum(jnp.sum(known), 1.0),
        "value_error": jnp.mean((ahead - batch.ahead) ** 2),
    }
    return batch.reward.shape[0] * sum(found.values(), jnp.zeros(())), found


# --- Build -------------------------------------------------------------------


class Networks(NamedTuple):
    """What a state's parameters are applied with."""

    policy: nn.Network
    model: nn.Network
    value: nn.Network
    config: Config
    dim: int


def networks(config: Config, spec: Spec) -> Networks:
    dim = continuous("mbop", spec).dim
    inputs = spec.obs_dim + dim
    return Networks(
        nn.mlp(inputs, dim, config.hidden),
        nn.mlp(inputs, 1 + spec.obs_dim, config.hidden),
        nn.mlp(inputs, 1, config.hidden),
        config,
        dim,
    )


def build(config: Config, spec: Spec) -> Algorithm:
    """MBOP for continuous actions in [-1, 1]^d."""
    n = networks(config, spec)
    stage = Stage("train", config.steps, partial(rows, config), partial(update, n))
    if config.noise == "data":
        stage = stage._replace(refresh=measure, every=max(1, config.steps))  # once, at the beginning
    planner = Policy(params_of, partial(memory, n), partial(act, n), ("plan", "mean"))
    return Algorithm(partial(init, n), (stage,), planner)


def init(n: Networks, key: Array, hp: HP) -> State:
    keys = jax.random.split(key, len(ENSEMBLES))
    params = {
        name: jax.vmap(getattr(n, name).init)(jax.random.split(k, n.config.members))
        for name, k in zip(ENSEMBLES, keys, strict=True)
    }
    return begin(State, params, hp, noise_scale=jnp.ones(n.dim, jnp.float32))


# --- Training ----------------------------------------------------------------


def rows(config: Config, data: Data, state: State, key: Array) -> Rows:
    """Rows drawn uniformly, anew for each network."""
    assert isinstance(data, Episodes)
    count = data.reward.shape[0]
    obs, action, to_go = jnp.asarray(data.obs), jnp.asarray(data.action), jnp.asarray(data.to_go)
    i = jax.random.randint(key, (config.members, config.batch_size), 0, count)
    end = jnp.asarray(data.end)[i]
    later = jnp.where(i + config.horizon < end, to_go[jnp.minimum(i + config.horizon, count - 1)], 0.0)
    next_obs, known = following(data, i)
    begins = jnp.asarray(data.step)[i] == 0
    return Rows(
        obs=obs[i],
        action=action[i],
        before=jnp.where(begins[..., None], 0.0, action[jnp.maximum(i - 1, 0)]),
        reward=jnp.asarray(data.reward)[i],
        ahead=to_go[i] - later,
        next_obs=next_obs,
        known=known,
    )


def following(data: Episodes, i: Array) -> tuple[Array, Array]:
    """What followed rows `i`, and whether that is known: at an episode's end only where it was stored."""
    obs = jnp.asarray(data.obs)
    next_row = obs[jnp.minimum(i + 1, obs.shape[0] - 1)]
    if data.gap is None or data.gap_obs is None:
        return next_row, i + 1 < jnp.asarray(data.end)[i]
    gap, gap_obs = jnp.asarray(data.gap), jnp.asarray(data.gap_obs)
    place = jnp.minimum(jnp.searchsorted(gap, i), gap.shape[0] - 1)
    stored = gap[place] == i
    return jnp.where(stored[..., None], gap_obs[place], next_row), jnp.ones(i.shape, bool)


def update(n: Networks, state: State, batch: Rows, key: Array, step: Array) -> tuple[State, Metrics]:
    params = {name: getattr(state, name) for name in ENSEMBLES}
    grads, metrics = jax.grad(losses, has_aux=True)(params, n.policy, n.model, n.value, batch)
    return descend(state, grads, {name: state.hp[f"{name}_rate"] for name in ENSEMBLES}), metrics


def measure(state: State, data: Data, key: Array) -> State:
    """The noise's unit where that is the data's."""
    assert isinstance(data, Episodes)
    return dataclasses.replace(state, noise_scale=jnp.std(jnp.asarray(data.action), axis=0))


# --- Planning ----------------------------------------------------------------


def params_of(state: State) -> dict[str, Any]:
    return {name: getattr(state, name) for name in (*ENSEMBLES, "noise_scale")} | {
        "hp": {name: state.hp[name] for name in ("beta", "sigma", "kappa")}
    }


def memory(n: Networks, params) -> dict[str, Array]:
    """The plan and the action of the step before."""
    return {"plan": jnp.zeros((n.config.horizon, n.dim)), "before": jnp.zeros(n.dim)}


def act(n: Networks, params, carry: dict[str, Array], timestep: TimeStep, key: Array, mode: str):
    x = jnp.concatenate([timestep.obs, carry["before"]])
    habit = jnp.mean(jax.vmap(n.policy.apply, in_axes=(0, None))(params["policy"], x), axis=0)
    if mode == "mean":
        action = jnp.clip(habit, -1.0, 1.0)
        return action, carry | {"before": action}
    shifted = jnp.concatenate([carry["plan"][1:], carry["plan"][-1:]])
    new = plan(n, params, timestep.obs, carry["before"], shifted, key)
    action = jnp.clip(new[0], -1.0, 1.0)
    return action, {"plan": new, "before": action}


def plan(n: Networks, params, obs: Array, before: Array, old: Array, key: Array) -> Array:
    """The new plan (horizon, dim), from an observation, the last action, and the old plan shifted."""
    config, hp, number = n.config, params["hp"], jnp.arange(n.config.members)
    # Each network has as many trajectories: the shapes below are (members, each, ...).
    shape = (config.members, -(-config.samples // config.members))
    sigma = jnp.broadcast_to(hp["sigma"] * params["noise_scale"], (config.horizon, *shape, n.dim))
    noise = sigma * jax.random.normal(key, sigma.shape)
    spread = lambda x: jnp.broadcast_to(x[None, None], (*shape, *x.shape))
    start = (spread(obs), spread(before), jnp.zeros(shape))
    (obs, before, total), actions = jax.lax.scan(partial(follow, n, params, number), start, (noise, old))
    if config.bootstrap:
        total = total + jnp.mean(judged(n.value, params["value"], obs, before)[..., 0], axis=0)
    weight = jax.nn.softmax(hp["kappa"] * total, axis=(0, 1))
    return jnp.sum(weight[None, ..., None] * actions, axis=(1, 2))


def follow(
    n: Networks, params, number: Array, carry: tuple[Array, Array, Array], inputs: tuple[Array, Array]
):
    """One step of all trajectories: observations, actions and returns so far; and the actions unclipped.

    `number` (members,) counts the networks: a trajectory follows its own one's prediction.
    """
    hp, (obs, before, total) = params["hp"], carry
    noise, kept = inputs
    action = (1.0 - hp["beta"]) * (each(n.policy, params["policy"], obs, before) + noise)
    action = action + hp["beta"] * kept[None, None]
    # The networks only know actions within the bounds. What is averaged is not clipped: where the
    # behaviour's action is at a bound, a mean of clipped actions would never reach it.
    seen = jnp.clip(action, -1.0, 1.0)
    outcome = judged(n.model, params["model"], obs, seen)
    total = total + jnp.mean(outcome[..., 0], axis=0)
    return (obs + outcome[number, number, :, 1:], seen, total), action


def judged(net: nn.Network, params, obs: Array, action: Array) -> Array:
    """(members, members, each, ...): by every network, all trajectories."""
    x = jnp.concatenate([obs, action], axis=-1)
    return jax.vmap(net.apply, in_axes=(0, None))(params, x)


ENTRY = {
    "mbop": Entry(
        Config,
        build,
        "Argenson & Dulac-Arnold 2021, arXiv 2008.05556",
        *presets.read("mbop", Config),
        view="episodes",
        offline_only="it has no policy to improve: it plans",
    )
}
