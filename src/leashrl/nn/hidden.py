"""Hidden layers, and the one place that knows of bfloat16.

Processors with AMX and newer GPUs multiply bfloat16 numbers, and sum the products in float32, four to five
times as fast as they multiply float32. Only what is multiplied is rounded, forward and backward, and what one
hidden layer hands to the next; parameters, optimiser, targets, losses and all sums stay float32 (Micikevicius
et al. 2018, arXiv 1710.03740). bfloat16 has float32's exponents, so losses need no scaling (Kalamkar et al.
2019, arXiv 1905.12322).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Float

from leashrl.types import Array

PRECISIONS = ("float32", "bfloat16")
NARROW = 32
"""Products with fewer rows or columns in the kernel stay float32, where they are as fast."""

FITS = 2**18
"""Numbers of float32 in a core's level-2 cache of 1 MB."""

_CHOSEN: ContextVar[str | None] = ContextVar("precision", default=None)

# --- Which precision ---------------------------------------------------------


def fast_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 faster: a GPU since Ampere, a TPU, or a processor with AMX
    (four times as fast) or AVX-512's own instructions for it (twice)."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        try:
            known = Path("/proc/cpuinfo").read_text()
            return "amx_bf16" in known or "avx512_bf16" in known
        except OSError:  # not Linux
            return False
    if device.platform == "gpu":
        return float(getattr(device, "compute_capability", "0") or 0) >= 8.0
    return device.platform == "tpu"


def resolved(name: str, shown: bool) -> str:
    """The precision `name`, or what `auto` is on this machine.

    Args:
      shown: whether results were shown to be equal in bfloat16; without that `auto` is float32.

    >>> resolved("bfloat16", False), resolved("auto", False)
    ('bfloat16', 'float32')
    """
    if name != "auto":
        return name
    return "bfloat16" if shown and fast_bfloat16() else "float32"


@contextmanager
def precision(name: str) -> Iterator[None]:
    """While it is open, what is traced multiplies hidden layers in `name`, one of PRECISIONS."""
    token = _CHOSEN.set(name)
    try:
        yield
    finally:
        _CHOSEN.reset(token)


def rounds(kernel: Array) -> bool:
    """Whether products with this kernel are of bfloat16 here."""
    return _CHOSEN.get() == "bfloat16" and min(kernel.shape[-2:]) >= NARROW


# --- Layers ------------------------------------------------------------------


def elu(x: Array) -> Array:
    """`x` above 0, `e^x - 1` below. exp is vectorised on the CPU, expm1 is not; the error is 1e-7."""
    return jnp.where(x > 0, x, jnp.exp(jnp.where(x > 0, 0.0, x)) - 1.0)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "elu": elu,
    "gelu": jax.nn.gelu,  # by tanh, as flax has it
    "swish": jax.nn.swish,
    "tanh": jnp.tanh,
}
SLOPES: dict[str, Callable[[Array], Array]] = {
    "relu": lambda y: jnp.where(y > 0, 1.0, 0.0),
    "elu": lambda y: jnp.where(y > 0, 1.0, y + 1.0),
    "tanh": lambda y: 1.0 - y**2,
}
"""Derivatives of activations by their values: nothing but these is kept for the backward pass."""


def layer_norm(x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
    """Zero mean and unit variance over the last axis, without parameters: the next layer has its own."""
    # Flat: in compiled updates XLA's CPU was slow at sums over the rows of (2, 256, 1, 256).
    return _normalised(x.reshape(-1, x.shape[-1])).reshape(x.shape)


def product(
    x: Float[Array, "*batch inputs"], kernel: Float[Array, "inputs outputs"], *, outer: bool = False
) -> Float[Array, "*batch outputs"]:
    """`x @ kernel`, with both rounded to bfloat16 where `precision` says so; the sum is float32.

    Args:
      outer: a first layer on raw inputs, or a last one: never rounded.

    >>> with precision("bfloat16"):
    ...     product(jnp.full((1, 32), 1.001), jnp.ones((32, 32)))[0, :2].tolist()
    [32.0, 32.0]
    """
    if _CHOSEN.get() is None:
        return jnp.matmul(x, kernel)
    return _multiplied(x, kernel, jnp.bfloat16 if rounds(kernel) and not outer else jnp.float32)


def unit(
    z: Float[Array, "*batch width"],
    activation: str,
    norm: bool = False,
    then: Array | None = None,
    learnt: Mapping[str, Array] | None = None,
) -> Float[Array, "*batch width"]:
    """A hidden layer's values from its sums; in bfloat16 where the next kernel, `then`, takes that.

    Args:
      norm: whether the sums are normalised.
      learnt: `scale` and `shift` (width,) of a normalisation after the activation instead, as flax's networks
        have it; None where there is none.
    """
    if learnt is not None:  # flat, as in `layer_norm`
        y = layer_norm(ACTIVATIONS[activation](z)).reshape(-1, z.shape[-1])
        return (y * learnt["scale"][None] + learnt["shift"][None]).reshape(z.shape)
    z = layer_norm(z) if norm else z
    if _CHOSEN.get() is None or activation not in SLOPES:
        return ACTIVATIONS[activation](z)
    return _activated(z, activation, jnp.bfloat16 if then is not None and rounds(then) else jnp.float32)


# --- Their derivatives -------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _multiplied(x: Array, kernel: Array, kind: Any, turned: bool = False) -> Array:
    """`x @ kernel`, or `x @ kernel.T` where `turned`: XLA would lose bfloat16 in a transpose of its own."""
    along = (((x.ndim - 1,), (1 if turned else 0,)), ((), ()))
    return jax.lax.dot_general(x.astype(kind), kernel.astype(kind), along, preferred_element_type=jnp.float32)


def _forward(x: Array, kernel: Array, kind: Any, turned: bool) -> tuple[Array, tuple[Array, Array]]:
    return _multiplied(x, kernel, kind, turned), (x, kernel)


def _backward(kind: Any, turned: bool, known: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    # jax's own derivative would multiply float32 by bfloat16, which no processor does fast.
    x, kernel = known
    rows, slopes = (a.reshape(-1, a.shape[-1]).astype(kind) for a in (x, cotangent))
    if turned:
        dkernel = _multiplied(_moved(slopes.T), rows, kind)
    elif slopes.shape[1] < NARROW:  # the narrow side is cheaper to move
        dkernel = _moved(_multiplied(_moved(slopes.T), rows, kind)).T
    else:
        dkernel = _multiplied(_moved(rows.T), slopes, kind)
    return jnp.asarray(_multiplied(cotangent, kernel, kind, not turned), x.dtype), jnp.asarray(dkernel)


_multiplied.defvjp(_forward, _backward)


def _moved(x: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """`x`, its rows one after another in memory: XLA's products on a CPU are slow on any other order.

    In float32 they are not slow enough to pay for moving what does not fit a core's cache.
    """
    if jax.default_backend() != "cpu" or (x.dtype == jnp.float32 and x.size > FITS):
        return x
    return with_layout_constraint(x, Layout((0, 1)))


@jax.custom_vjp
def _normalised(x: Array) -> Array:
    return _normalised_forward(x)[0]


def _normalised_forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6)
    return centred * scale, (centred * scale, scale)


def _normalised_backward(known: tuple[Array, Array], cotangent: Array) -> tuple[Array]:
    # Two sums a row; jax's own derivative has four, and keeps both x and what it is scaled by. The sum of a
    # product is a product of rows, faster in compiled updates; unrounded, also on a GPU.
    y, scale = known
    along = jnp.einsum("...i,...i->...", cotangent, y, precision="highest")[..., None] / y.shape[-1]
    return ((cotangent - jnp.mean(cotangent, axis=-1, keepdims=True) - y * along) * scale,)


_normalised.defvjp(_normalised_forward, _normalised_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _activated(z: Array, activation: str, kind: Any) -> Array:
    return ACTIVATIONS[activation](z).astype(kind)


def _activated_forward(z: Array, activation: str, kind: Any) -> tuple[Array, Array]:
    y = jnp.asarray(_activated(z, activation, kind))
    return y, y


def _activated_backward(activation: str, kind: Any, y: Array, cotangent: Array) -> tuple[Array]:
    return (cotangent.astype(jnp.float32) * SLOPES[activation](y.astype(jnp.float32)),)


_activated.defvjp(_activated_forward, _activated_backward)
