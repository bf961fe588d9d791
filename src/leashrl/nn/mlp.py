"""Multi-layer perceptrons: a deterministic head and a Gaussian one."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from leashrl.nn.hidden import product, unit
from leashrl.nn.initial import Params, layers, with_norm
from leashrl.types import Array

Inputs = Float[Array, "*batch inputs"]
Outputs = Float[Array, "*batch outputs"]


class Network(NamedTuple):
    """`init(key) -> params` and `apply(params, *inputs) -> outputs`."""

    init: Callable[[PRNGKeyArray], Params]
    apply: Callable[..., Any]


def affine(params: Params, x: Inputs, *, outer: bool = False) -> Outputs:
    bias = params["bias"].reshape((1,) * (x.ndim - 1) + (-1,))
    return product(x, params["kernel"], outer=outer) + bias


def next_kernel(layers: Sequence[Params], i: int) -> Array | None:
    return layers[i + 1]["kernel"] if i + 1 < len(layers) else None


def kept(key: PRNGKeyArray, percent: int, shape: tuple[int, ...]) -> Array:
    """What dropout multiplies with: 0 for `percent` of the places, else the factor that keeps the mean.

    Two places share 32 random bits, so the share is a multiple of 2^-16: at most 1e-5 away.
    """
    size = math.prod(shape)
    pairs = jax.random.bits(key, (-(-size // 2),), jnp.uint32)
    numbers = jax.lax.bitcast_convert_type(pairs, jnp.uint16).reshape(-1)[:size].reshape(shape)
    keep = round((1 - percent / 100) * 2**16)
    return jnp.where(numbers < keep, 2**16 / keep, 0.0)


def dropped(x: Array, key: PRNGKeyArray | None, percent: int) -> Array:
    """`x` with `percent` of its numbers 0 and the others scaled up; `x` itself without a key."""
    return x * kept(key, percent, x.shape) if percent and key is not None else x


def mlp(
    inputs: int,
    outputs: int,
    hidden: Sequence[int],
    *,
    activation: str = "relu",
    norm: bool = False,
    learnt_norm: bool = False,
    out_scale: float = 1.0,
    dropout_percent: int = 0,
    initial: str = "scaled",
) -> Network:
    """`(..., inputs) -> (..., outputs)`. With a `key`, `apply` drops that share of the hidden units.

    Layers are normalised before the activation (`norm`) or after it, with a learnt scale and shift.
    """
    sizes = (inputs, *hidden)

    def init(key: PRNGKeyArray) -> Params:
        hidden, out = layers(key, sizes, outputs, initial, out_scale)
        return {"hidden": with_norm(hidden) if learnt_norm else hidden, "out": out}

    def apply(params: Params, x: Inputs, key: PRNGKeyArray | None = None) -> Outputs:
        dropping = dropout_percent and key is not None
        for i, layer in enumerate(params["hidden"]):
            then = None if dropping else next_kernel(params["hidden"], i)
            x = affine(layer, x, outer=i == 0)
            x = unit(x, activation, norm, then, layer.get("norm"))
            x = dropped(x, None if key is None else jax.random.fold_in(key, i), dropout_percent)
        return affine(params["out"], x, outer=True)

    return Network(init, apply)


def gaussian(
    inputs: int,
    outputs: int,
    hidden: Sequence[int],
    *,
    activation: str = "relu",
    out_scale: float = 0.01,
    mean_limit: float = 9.0,
    log_std_range: tuple[float, float] = (-5.0, 2.0),
    log_std_offset: float = -1.0,
    bound: str = "clip",
    scalars: bool = True,
    mean: str = "free",
    initial: str = "scaled",
) -> Network:
    """`(..., inputs) -> (mean, log_std)`, each `(..., outputs)`.

    The mean is bent into [-1, 1] (`mean="tanh"`), or clipped, which keeps importance weights finite. How the
    last layer's raw value becomes log_std is `bound`'s: see `bounded`; `scalars=False` leaves the two learnt
    numbers out.
    """
    body = mlp(inputs, 2 * outputs, hidden, activation=activation, out_scale=out_scale, initial=initial)
    scaled = scalars and bound in ("clip", "soft")
    centre = jnp.tanh if mean == "tanh" else lambda x: jnp.clip(x, -mean_limit, mean_limit)

    def init(key: PRNGKeyArray) -> Params:
        scale = {"multiplier": jnp.ones(()), "offset": jnp.full((), log_std_offset, jnp.float32)}
        return body.init(key) | (scale if scaled else {})

    def apply(params: Params, x: Inputs) -> tuple[Outputs, Outputs]:
        raw_mean, raw = jnp.split(body.apply(params, x), 2, axis=-1)
        if scaled:
            raw = params["multiplier"] * raw + params["offset"]
        return centre(raw_mean), bounded(raw, bound, log_std_range)

    return Network(init, apply)


def free_gaussian(
    inputs: int,
    outputs: int,
    hidden: Sequence[int],
    *,
    activation: str = "relu",
    mean: str = "tanh",
    log_std_range: tuple[float, float] = (-5.0, 2.0),
    dropout_percent: int = 0,
    initial: str = "scaled",
) -> Network:
    """`(..., inputs) -> (mean, log_std)`, each `(..., outputs)`: a Gaussian over actions, unsquashed.

    Its log_std is one learnt number a dimension, the same in every state; its mean is bent into [-1, 1]
    (`mean="tanh"`) or not (`free`). With a `key`, `apply` drops that share of the hidden units.
    """
    body = mlp(
        inputs, outputs, hidden, activation=activation, dropout_percent=dropout_percent, initial=initial
    )
    bend = {"tanh": jnp.tanh, "free": lambda x: x}[mean]

    def init(key: PRNGKeyArray) -> Params:
        return body.init(key) | {"log_std": jnp.zeros(outputs)}

    def apply(params: Params, x: Inputs, key: PRNGKeyArray | None = None) -> tuple[Outputs, Outputs]:
        centre = bend(body.apply(params, x, key))
        return centre, jnp.broadcast_to(jnp.clip(params["log_std"], *log_std_range), centre.shape)

    return Network(init, apply)


def bounded(raw: Array, bound: str, log_std_range: tuple[float, float]) -> Array:
    """log_std from a network's raw value, by one of the public codes' ways.

    * `clip`: cut off at the range, after two learnt scalars have scaled and shifted it (MISA, CQL).
    * `soft`: bent into the range by two softplus, so that no gradient dies (PETS, Chua et al. 2018).
    * `tanh`: squashed into the range (BRAC).
    * `softplus`: std = softplus(raw), raw cut off at -10 and 5 (BRAC+); there is no other range.
    """
    low, high = log_std_range
    if bound == "softplus":
        return jnp.log(jax.nn.softplus(jnp.clip(raw, -10.0, 5.0)))
    if bound == "tanh":
        return low + (high - low) * 0.5 * (jnp.tanh(raw) + 1.0)
    if bound == "soft":
        raw = high - jax.nn.softplus(high - raw)
        raw = low + jax.nn.softplus(raw - low)
    return jnp.clip(raw, low, high)


def velocity(
    obs_dim: int,
    dim: int,
    hidden: Sequence[int],
    *,
    timed: bool = True,
    activation: str = "relu",
    initial: str = "scaled",
) -> Network:
    """`(params, obs, x, t) -> (..., dim)`: the velocity field of a flow over actions.

    Not `timed`, it takes no t: one step from noise x to an action.
    """
    body = mlp(obs_dim + dim + timed, dim, hidden, activation=activation, initial=initial)

    def apply(params: Params, obs: Inputs, x: Array, *time: Array) -> Outputs:
        return body.apply(params, jnp.concatenate([obs, x, *time], axis=-1))

    return Network(body.init, apply)
