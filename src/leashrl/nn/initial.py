"""Initial weights of public codes, by name: for `mlp`, `gaussian`, `free_gaussian` and `critic`."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

Params = Any
Layer = Callable[[PRNGKeyArray, int, int], Params]
"""(key, fan_in, fan_out) -> kernel (fan_in, fan_out) and bias (fan_out,)."""


class Initial(NamedTuple):
    """How a network's hidden layers begin, and its last one."""

    hidden: Layer
    last: Layer


def dense(
    key: PRNGKeyArray, fan_in: int, fan_out: int, *, scale: float = 1.0, lead: tuple[int, ...] = ()
) -> Params:
    """Kernel ~ U(±sqrt(3 scale / fan_in)) (variance scaling, fan-in), zero bias; `lead` adds leading axes."""
    bound = (3.0 * scale / fan_in) ** 0.5
    kernel = jax.random.uniform(key, (*lead, fan_in, fan_out), minval=-bound, maxval=bound)
    return {"kernel": kernel, "bias": jnp.zeros((*lead, fan_out))}


def uniform(kernel: Callable[[int, int], float], bias: Callable[[int, int], float]) -> Layer:
    """Both uniform within ± these functions of (fan_in, fan_out)."""

    def init(key: PRNGKeyArray, fan_in: int, fan_out: int) -> Params:
        keys, bounds = jax.random.split(key), (kernel(fan_in, fan_out), bias(fan_in, fan_out))
        shapes = {"kernel": (fan_in, fan_out), "bias": (fan_out,)}
        return {
            name: jax.random.uniform(k, shape, minval=-bound, maxval=bound)
            for k, bound, (name, shape) in zip(keys, bounds, shapes.items(), strict=True)
        }

    return init


def constant_bias(layer: Layer, value: float) -> Layer:
    """`layer`, with the same number for all biases."""
    same = lambda n: jnp.full((n,), value, jnp.float32)
    return lambda key, fan_in, fan_out: layer(key, fan_in, fan_out) | {"bias": same(fan_out)}


def orthogonal(gain: float) -> Layer:
    """Kernel orthogonal (its rows or its columns), times `gain`; zero bias."""
    init = jax.nn.initializers.orthogonal(gain)
    return lambda key, fan_in, fan_out: {"kernel": init(key, (fan_in, fan_out)), "bias": jnp.zeros(fan_out)}


def glorot(variance: float = 1.0) -> Layer:
    """Kernel uniform, of `variance` times 2 / (fan_in + fan_out) (Glorot & Bengio 2010); zero bias."""
    bound = lambda i, o: math.sqrt(6 * variance / (i + o))
    return constant_bias(uniform(bound, bound), 0.0)


def normal(std: float) -> Layer:
    """Kernel ~ N(0, std^2), zero bias."""

    def init(key: PRNGKeyArray, fan_in: int, fan_out: int) -> Params:
        return {"kernel": std * jax.random.normal(key, (fan_in, fan_out)), "bias": jnp.zeros(fan_out)}

    return init


def within(bound: float) -> Layer:
    return uniform(lambda i, o: bound, lambda i, o: bound)


torch_linear = uniform(lambda i, o: 1 / math.sqrt(i), lambda i, o: 1 / math.sqrt(i))
"""PyTorch's default."""
# rlkit's `fanin_init` takes a weight's first axis for its fan-in; in PyTorch that is the fan-out.
_rlkit = constant_bias(uniform(lambda i, o: 1 / math.sqrt(o), lambda i, o: 1.0), 0.1)
_edac = constant_bias(torch_linear, 0.1)
_xavier = constant_bias(uniform(lambda i, o: 0.01 * math.sqrt(6 / (i + o)), lambda i, o: 1.0), 0.0)

INITIAL: dict[str, Initial] = {
    "orthogonal": Initial(orthogonal(math.sqrt(2)), orthogonal(math.sqrt(2))),  # IQL
    "orthogonal-small": Initial(orthogonal(math.sqrt(2)), orthogonal(0.01)),  # CORL's critics of CQL
    "glorot": Initial(glorot(), glorot()),  # FQL
    "glorot-small": Initial(glorot(), glorot(0.01)),  # FQL's Gaussian policies
    "torch": Initial(torch_linear, torch_linear),
    "torch-small": Initial(torch_linear, _xavier),  # CORL's policy of CQL
    "rlkit-policy": Initial(_rlkit, within(1e-3)),
    "rlkit-critic": Initial(_rlkit, within(3e-3)),
    "edac-policy": Initial(_edac, within(1e-3)),  # ReBRAC
    "edac-critic": Initial(_edac, within(3e-3)),
}


def layers(
    key: PRNGKeyArray,
    sizes: Sequence[int],
    outputs: int,
    initial: str,
    out_scale: float,
    lead: tuple[int, ...] = (),
) -> tuple[list[Params], Params]:
    """Hidden layers between `sizes`, and the last one.

    Args:
      initial: a name in `INITIAL`, or `scaled`: `dense`, the last layer's variance times `out_scale`.
      lead: a leading axis, of independent draws.
    """
    keys, pairs = jax.random.split(key, len(sizes)), [*itertools.pairwise(sizes)]
    if initial == "scaled":
        hidden = [dense(k, a, b, lead=lead) for k, (a, b) in zip(keys, pairs, strict=False)]
        return hidden, dense(keys[-1], sizes[-1], outputs, scale=out_scale, lead=lead)

    def draw(layer: Layer, key: PRNGKeyArray, fan_in: int, fan_out: int) -> Params:
        if not lead:
            return layer(key, fan_in, fan_out)
        return jax.vmap(lambda k: layer(k, fan_in, fan_out))(jax.random.split(key, lead[0]))

    how = INITIAL[initial]
    hidden = [draw(how.hidden, k, a, b) for k, (a, b) in zip(keys, pairs, strict=False)]
    return hidden, draw(how.last, keys[-1], sizes[-1], outputs)


def with_norm(layers: Sequence[Params], lead: tuple[int, ...] = ()) -> list[Params]:
    """The hidden layers, each with the `norm` that `hidden.unit` learns: scale 1, shift 0."""

    def norm(layer: Params) -> Params:
        shape = (*lead, layer["bias"].shape[-1])
        return {"scale": jnp.ones(shape), "shift": jnp.zeros(shape)}

    return [layer | {"norm": norm(layer)} for layer in layers]
