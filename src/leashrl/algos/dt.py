"""Decision Transformer (Chen et al., NeurIPS 2021, arXiv 2106.01345)."""

import dataclasses
import math
from dataclasses import field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.algos import presets
from leashrl.algos.common import choice, continuous, positive, row_of, share, with_row, within
from leashrl.core import HP, Algorithm, Data, Entry, Policy, Preprocess, Stage
from leashrl.errors import BadInput
from leashrl.nn.hidden import layer_norm
from leashrl.nn.initial import dense, normal, torch_linear
from leashrl.nn.mlp import affine
from leashrl.optim import begin, clip_norm, descend
from leashrl.types import Array, Episodes, Metrics, Spec, TimeStep, pytree

# --- Config ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    r"""Decision Transformer: imitation of the data, told what return is still to come.

    Of each row of a window of `context` rows a causal transformer sees three tokens, the return to go
    $\hat R_t = \sum_{t'\ge t} r_{t'}$, observation and action, and says the action after the first two:

    $$\min_\theta\ E\big[\|\tanh f_\theta(\hat R_{\le t}, s_{\le t}, a_{<t}) - a_t\|^2 / d\big]$$

    To act it is told a return worth having, less what has been earned since the episode began. The rewards
    that are fed back are the environment's own.

    Args:
      steps: gradient updates.
      batch_size: windows an update.
      preprocess: what is done to observations; rewards stay as they are.
      context: rows of a window.
      width: of tokens and blocks.
      layers: blocks.
      heads: of attention.
      dropout_percent: of attention weights and blocks' outputs, while it trains.
      embedding_dropout_percent: of the tokens, each an embedding and its time's, while it trains.
      initial: weights begin `scaled` by fan-in, times at N(0, 0.02^2); or as the `authors`: blocks at
        N(0, 0.02^2), the layers around them as PyTorch's, times at N(0, 1).
      max_steps: rows of an episode that are told apart; later ones count as the last of them.
      warmup_percent: the share of updates in which the rate rises from 0.
      targets: returns to ask for, a mode of the policy each, the first is how it is evaluated; with none, the
        highest return of the data.
      scale: returns are divided by it.
      policy_rate: Adam's learning rate.
      decay: of all weights, decoupled from Adam.
      clip: the most that the gradient's norm may be.

    References:
      Chen et al. (2021), Decision Transformer: Reinforcement Learning via Sequence Modeling.
    """

    steps: int = 100_000
    batch_size: int = 64
    preprocess: Preprocess = field(default_factory=lambda: Preprocess(obs="standardise"))
    precision: str = "auto"
    context: int = 20
    width: int = 128
    layers: int = 3
    heads: int = 1
    dropout_percent: int = 10
    embedding_dropout_percent: int = 0
    initial: str = "scaled"
    max_steps: int = 1000
    warmup_percent: int = 10
    targets: tuple[int, ...] = ()
    scale: int = 1000
    policy_rate: float = 1e-4
    decay: float = 1e-4
    clip: float = 0.25

    def __post_init__(self) -> None:
        positive(self, "context", "width", "layers", "heads", "max_steps", "scale")
        choice("initial", self.initial, ("scaled", "authors"))
        within(self, 0, 99, "dropout_percent", "embedding_dropout_percent")
        within(self, 0, 100, "warmup_percent")
        within(self, 0, math.inf, "policy_rate", "decay", "clip")
        if self.width % self.heads:
            raise BadInput(f"option 'width' must be a multiple of heads = {self.heads}, not {self.width}")
        if self.preprocess.reward != "none":
            raise BadInput("dt is told the environment's own rewards: leave preprocess.reward at none")


# --- State -------------------------------------------------------------------


@pytree
class State:
    policy: dict
    best: Array  # () the highest return of the data, scaled
    optimiser: dict  # Adam's moments of the policy
    hp: HP


@pytree
class Window:
    """`context` rows of one episode; those behind its end are not `inside`."""

    to_go: Array  # (batch, context), scaled
    obs: Array  # (batch, context, obs_dim)
    action: Array  # (batch, context, action_dim)
    step: Array  # (batch, context) int32
    inside: Array  # (batch, context) bool


# --- Losses ------------------------------------------------------------------


def imitation_loss(params, network: nn.Network, window: Window, key: Array):
    """The squared error of the actions inside, a mean over rows and dimensions."""
    found = network.apply(params, window.to_go, window.obs, window.action, window.step, key)
    error = jnp.mean((found - window.action) ** 2, axis=-1)
    return jnp.mean(error, where=window.inside)


# --- The network -------------------------------------------------------------


def model(config: Config, obs_dim: int, dim: int) -> nn.Network:
    """`apply(params, to_go (..., t), obs (..., t, obs_dim), action (..., t, dim), step (..., t))` gives
    actions (..., t, dim), each from what comes before it."""
    width, authors = config.width, config.initial == "authors"
    outer, block, spread = (torch_linear, normal(0.02), 1.0) if authors else (dense, dense, 0.02)
    body = nn.transformer(
        width, layers=config.layers, heads=config.heads, layer=block, dropout_percent=config.dropout_percent,
        input_dropout_percent=config.embedding_dropout_percent,
    )  # fmt: skip

    def init(key: Array) -> nn.Params:
        keys = jax.random.split(key, 6)
        return {
            "to_go": outer(keys[0], 1, width),
            "obs": outer(keys[1], obs_dim, width),
            "action": outer(keys[2], dim, width),
            "step": spread * jax.random.normal(keys[3], (config.max_steps, width)),
            "body": body.init(keys[4]),
            "out": outer(keys[5], width, dim),
        }

    def apply(params, to_go, obs, action, step, key: Array | None = None):
        when = params["step"][jnp.minimum(step, config.max_steps - 1)]
        three = [
            affine(params[name], x, outer=True) + when
            for name, x in (("to_go", to_go[..., None]), ("obs", obs), ("action", action))
        ]
        tokens = jnp.stack(three, axis=-2).reshape(*obs.shape[:-2], 3 * obs.shape[-2], width)
        after_obs = slice(1, None, 3)  # the tokens that have seen what an action may depend on
        seen = body.apply(params["body"], layer_norm(tokens), key, after_obs)
        return jnp.tanh(affine(params["out"], seen, outer=True))

    return nn.Network(init, apply)


# --- Build -------------------------------------------------------------------


class Networks(NamedTuple):
    """What a state's parameters are applied with."""

    policy: nn.Network
    config: Config
    obs_dim: int
    dim: int
    asked: dict[str, Array]  # the returns of `targets`, scaled, by mode


def networks(config: Config, spec: Spec) -> Networks:
    dim = continuous("dt", spec).dim
    asked = {f"return-{target}": jnp.float32(target / config.scale) for target in config.targets}
    return Networks(model(config, spec.obs_dim, dim), config, spec.obs_dim, dim, asked)


def build(config: Config, spec: Spec) -> Algorithm:
    """Decision Transformer for continuous actions in [-1, 1]^d."""
    n, warmup = networks(config, spec), share(config.steps, config.warmup_percent)
    stage = Stage("train", config.steps, partial(windows, config), partial(update, n, warmup))
    stage = stage._replace(refresh=partial(look, n), every=config.steps)  # once, at the beginning
    acting = Policy(params_of, partial(memory, n), partial(act, n), (*n.asked,) or ("best",))
    return Algorithm(partial(init, n), (stage,), acting)


def init(n: Networks, key: Array, hp: HP) -> State:
    return begin(State, {"policy": n.policy.init(key)}, hp, best=jnp.zeros(()))


# --- Training ----------------------------------------------------------------


def windows(config: Config, data: Data, state: State, key: Array) -> Window:
    """Windows that begin at rows drawn uniformly, so at an episode in proportion to its length, and anywhere
    in it."""
    assert isinstance(data, Episodes)
    count = data.reward.shape[0]
    first = jax.random.randint(key, (config.batch_size,), 0, count)
    row = first[:, None] + jnp.arange(config.context)[None]
    inside = row < jnp.asarray(data.end)[first][:, None]
    row = jnp.minimum(row, count - 1)
    return Window(
        to_go=jnp.asarray(data.to_go)[row] / config.scale,
        obs=jnp.asarray(data.obs)[row],
        action=jnp.asarray(data.action)[row],
        step=jnp.asarray(data.step)[row],
        inside=inside,
    )


def update(
    n: Networks, warmup: int, state: State, window: Window, key: Array, step: Array
) -> tuple[State, Metrics]:
    loss, grads = jax.value_and_grad(imitation_loss)(state.policy, n.policy, window, key)
    rate = state.hp["policy_rate"] * jnp.minimum(1.0, (step + 1).astype(jnp.float32) / max(1, warmup))
    new = descend(state, {"policy": clip_norm(grads, state.hp["clip"])}, {"policy": rate})
    shrink = rate * state.hp["decay"]
    decayed = jax.tree.map(lambda after, before: after - shrink * before, new.policy, state.policy)
    return dataclasses.replace(new, policy=decayed), {"policy_loss": loss}


def look(n: Networks, state: State, data: Data, key: Array) -> State:
    """The highest return of the data, once."""
    assert isinstance(data, Episodes)
    returns = jnp.where(jnp.asarray(data.step) == 0, data.to_go, -jnp.inf)
    return dataclasses.replace(state, best=jnp.max(returns) / n.config.scale)


# --- Acting ------------------------------------------------------------------


def params_of(state: State) -> dict[str, Any]:
    return {"policy": state.policy, "best": state.best}


def memory(n: Networks, params) -> dict[str, Array]:
    """Of the last `context` rows of the episode, before its first."""
    rows = n.config.context
    return {
        "to_go": jnp.zeros(rows),
        "obs": jnp.zeros((rows, n.obs_dim)),
        "action": jnp.zeros((rows, n.dim)),
        "step": jnp.zeros(rows, jnp.int32),
        "count": jnp.zeros((), jnp.int32),
    }


def act(n: Networks, params, carry: dict[str, Array], timestep: TimeStep, key: Array, mode: str):
    t = carry["count"]
    full = t >= n.config.context
    carry = {  # a full memory forgets its first row
        name: jnp.where(full, jnp.roll(x, -1, axis=0), x) if x.ndim else x for name, x in carry.items()
    }
    at = jnp.minimum(t, n.config.context - 1)
    target = n.asked[mode] if mode in n.asked else params["best"]
    before = row_of(carry["to_go"], jnp.maximum(at - 1, 0))
    to_go = jnp.where(t == 0, target, before - timestep.reward / n.config.scale)
    carry = carry | {
        "to_go": with_row(carry["to_go"], at, to_go),
        "obs": with_row(carry["obs"], at, timestep.obs),
        "step": with_row(carry["step"], at, t),
    }
    # What lies behind row `at` is of no concern: the transformer is causal.
    found = n.policy.apply(params["policy"], carry["to_go"], carry["obs"], carry["action"], carry["step"])
    action = row_of(found, at)
    return action, carry | {"action": with_row(carry["action"], at, action), "count": t + 1}


ENTRY = {
    "dt": Entry(
        Config,
        build,
        "Chen et al. 2021, arXiv 2106.01345",
        *presets.read("dt", Config),
        view="episodes",
        offline_only="it has no critic",
    )
}
