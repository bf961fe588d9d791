"""Critics at many actions a state, in blocks of states that fit a CPU's cache.

The hidden layers of 256 states x 50 actions do not fit; walked through in blocks that do, a forward pass
goes from 30-50 % to 95 % of the machine's matmul rate (`docs/decisions.md`). Other devices run in one piece.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from leashrl.types import Array

Params = Any
BLOCK_ROWS = 1600
"""State-action pairs a block: 1600 x 256 float32 hidden units are 1.6 MB, one core's level-2 cache."""


def sweep(
    apply: Callable,
    params: Params,
    obs: Float[Array, "batch obs_dim"],
    action: Float[Array, "batch k dim"],
) -> Float[Array, "ensemble batch k"]:
    """`apply(params, obs, action)`, in cache-sized blocks on a CPU.

    The result is the same; other devices run it in one piece. A block's backward pass
    computes its hidden layers again, which costs less than carrying them all through memory.
    """
    blocks = _blocks(*action.shape[:2])

    def blocked(params: Params, obs: Array, action: Array) -> Array:
        one = jax.checkpoint(lambda part: apply(params, *part))
        return _joined(jax.lax.map(one, _split(blocks, (obs, action))))

    if blocks == 1:
        return apply(params, obs, action)
    return jax.lax.platform_dependent(params, obs, action, cpu=blocked, default=apply)


def sweep_grad(loss: Callable, params: Params, rows: Any, k: int) -> tuple[Params, Any]:
    """`jax.grad(loss, has_aux=True)(params, rows)` for a loss that is a mean over states, block by block.

    Args:
      loss: `(params, rows) -> (scalar, aux)`; aux arrays are (ensemble, batch, ...).
      rows: arrays (batch, ...).
      k: actions a state, which decide how many states make a block.
    """
    batch = jax.tree.leaves(rows)[0].shape[0]
    blocks = _blocks(batch, k)
    grad = jax.grad(loss, has_aux=True)

    def blocked(params: Params, rows: Any) -> tuple[Params, Any]:
        def add(total: Params, part: Any) -> tuple[Params, Any]:
            gradient, aux = grad(params, part)
            return jax.tree.map(lambda t, g: t + g / blocks, total, gradient), aux

        total, aux = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), _split(blocks, rows))
        return total, jax.tree.map(_joined, aux)

    if blocks == 1:
        return grad(params, rows)
    return jax.lax.platform_dependent(params, rows, cpu=blocked, default=grad)


def _split(blocks: int, rows: Any) -> Any:
    """(batch, ...) arrays as (blocks, batch / blocks, ...)."""
    return jax.tree.map(lambda x: x.reshape(blocks, x.shape[0] // blocks, *x.shape[1:]), rows)


def _joined(parts: Array) -> Array:
    """(blocks, ensemble, rows, ...) as (ensemble, blocks * rows, ...)."""
    return jnp.moveaxis(parts, 0, 1).reshape(parts.shape[1], -1, *parts.shape[3:])


def _blocks(batch: int, k: int) -> int:
    return _divisor_near(batch, batch * k / BLOCK_ROWS)


def _divisor_near(n: int, target: float) -> int:
    """The divisor of n that is nearest to `target`.

    >>> _divisor_near(256, 8.3), _divisor_near(256, 0.2), _divisor_near(7, 3)
    (8, 1, 1)
    """
    return min((d for d in range(1, n + 1) if n % d == 0), key=lambda d: abs(d - target))
