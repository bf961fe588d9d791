"""What a traced program computes, equation by equation."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp

from leashrl.nn.hidden import NARROW

CALLS = {"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2", "custom_jvp_call"}
CALLS |= {"custom_vjp_call", "custom_vjp_call_jaxpr", "scan", "while", "cond"}
"""What runs programs of its own, whose equations are looked at in its place."""
MOVES = {"convert_element_type", "transpose", "reshape", "broadcast_in_dim", "squeeze", "slice"}
MOVES |= {"copy", "layout_constraint"}
"""What may give bfloat16: it moves numbers, or rounds them, and computes nothing."""
HIGHEST = jax.lax.Precision.HIGHEST
"""Of a product of float32 numbers, which no device then rounds."""


def equations_in(jaxpr: Any) -> Iterator[Any]:
    """Of a program and of all programs in it, but for those that only call one."""
    for equation in jaxpr.eqns:
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations_in(inner)
        if equation.primitive.name not in CALLS:
            yield equation


def half(var: Any) -> bool:
    """Whether it holds floats of fewer than 32 bits."""
    dtype = getattr(var.aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def multiplies(equation: Any) -> bool:
    """Whether it is a product of bfloat16."""
    return equation.primitive.name == "dot_general" and half(equation.invars[0])


def narrow_sums(jaxpr: Any) -> list[str]:
    """Whatever sums, or computes otherwise, in fewer than 32 bits; products with float32 sums do not.

    Also what rounds a sum afterwards: `jnp.sum` of bfloat16 adds in float32 and hands bfloat16 on. Only a
    hidden layer's numbers may be rounded; they have two axes or more, one of them NARROW or longer.
    """
    return [str(equation) for equation in equations_in(jaxpr) if not _allowed(equation)]


def _allowed(equation: Any) -> bool:
    name = equation.primitive.name
    if name == "dot_general":
        left, right = (var.aval.dtype for var in equation.invars)
        # An algorithm in place of a precision may say that sums are bfloat16 as well.
        precision = equation.params["precision"]
        known = precision in (None, (None, None)) or (precision == (HIGHEST, HIGHEST) and left == jnp.float32)
        return left == right and known and not half(equation.outvars[0])
    halves = [var for var in (*equation.invars, *equation.outvars) if half(var)]
    layers = all(len(var.aval.shape) > 1 and max(var.aval.shape) >= NARROW for var in halves)
    return not halves or (name in MOVES and layers)
