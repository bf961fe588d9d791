"""The matrix products of hidden layers: the one place that knows of bfloat16.

Processors with AMX and newer GPUs multiply bfloat16 numbers, and sum the products in float32, four to five
times as fast as they multiply float32. Only what is multiplied is rounded, forward and backward: parameters,
optimiser, targets, losses and all sums stay float32 (Micikevicius et al. 2018, arXiv 1710.03740). bfloat16
has float32's exponents, so losses need no scaling (Kalamkar et al. 2019, arXiv 1905.12322).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Float

from leashrl.types import Array

PRECISIONS = ("float32", "bfloat16")
NARROW = 32
"""Products with fewer rows or columns in the kernel stay float32, where they are as fast."""

_CHOSEN: ContextVar[str] = ContextVar("precision", default="float32")


def fast_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 faster: a processor with AMX, a GPU since Ampere, or a TPU."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        try:
            return "amx_bf16" in Path("/proc/cpuinfo").read_text()
        except OSError:  # not Linux
            return False
    if device.platform == "gpu":
        return float(getattr(device, "compute_capability", "0") or 0) >= 8.0
    return device.platform == "tpu"


@contextmanager
def precision(name: str) -> Iterator[None]:
    """While it is open, what is traced multiplies hidden layers in `name`, one of PRECISIONS."""
    token = _CHOSEN.set(name)
    try:
        yield
    finally:
        _CHOSEN.reset(token)


def product(
    x: Float[Array, "*batch inputs"], kernel: Float[Array, "inputs outputs"]
) -> Float[Array, "*batch outputs"]:
    """`x @ kernel`, with both rounded to bfloat16 where `precision` says so; the sum is float32.

    >>> with precision("bfloat16"):
    ...     product(jnp.full((1, 32), 1.001), jnp.ones((32, 32)))[0, :2].tolist()
    [32.0, 32.0]
    """
    if _CHOSEN.get() == "float32" or min(kernel.shape) < NARROW:
        return jnp.matmul(x, kernel)
    return _rounded(x, kernel)


@jax.custom_vjp
def _rounded(x: Array, kernel: Array) -> Array:
    return jax.lax.dot_general(
        x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), (((x.ndim - 1,), (0,)), ((), ())),
        preferred_element_type=jnp.float32,
    )  # fmt: skip


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _rounded(x, kernel), (x, kernel)


def _backward(known: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    # jax's own derivative would multiply float32 by bfloat16, which no processor does fast.
    x, kernel = known
    rows, slopes = (a.reshape(-1, a.shape[-1]) for a in (x, cotangent))
    return _rounded(cotangent, kernel.T), _rounded(rows.T, slopes)


_rounded.defvjp(_forward, _backward)
