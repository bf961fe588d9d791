"""State-action critics with a leading ensemble axis, built for many actions a state.

The first layer is split, `W [s; a] + b = W_s s + W_a a + b`, so that the state's part is computed once
for all k actions. On a CPU the hidden layers of 256 states x 50 actions do not fit the cache; `sweep` and
`sweep_grad` walk through the states in blocks that do, which takes a forward pass from 30-50 % to 95 % of
the machine's matmul rate (`docs/decisions.md`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from leashrl.nn.mlp import ACTIVATIONS, Network, Params, dense, layer_norm
from leashrl.types import Array

BLOCK_ROWS = 1600
"""State-action pairs a block: 1600 x 256 float32 hidden units are 1.6 MB, one core's level-2 cache."""


def critic(
    obs_dim: int,
    action_dim: int,
    hidden: Sequence[int],
    *,
    ensemble: int = 2,
    activation: str = "relu",
    norm: bool = False,
    out_scale: float = 1.0,
) -> Network:
    """Q(s, a) for each member of an ensemble.

    `apply(params, obs (batch, obs_dim), action)` gives `(ensemble, batch)` for actions
    `(batch, action_dim)`, `(ensemble, batch, k)` for `(batch, k, action_dim)`, and the same for
    `(ensemble, batch, k, action_dim)`, where each member looks at actions of its own.
    """
    act = ACTIVATIONS[activation]
    sizes = tuple(hidden)

    def unit(x: Array) -> Array:
        return act(layer_norm(x) if norm else x)

    def init(key: Array) -> Params:
        keys = jax.random.split(key, len(sizes) + 1)
        first = dense(keys[0], obs_dim + action_dim, sizes[0], lead=(ensemble,))
        kernel = first.pop("kernel")
        first |= {"obs": kernel[:, :obs_dim], "action": kernel[:, obs_dim:]}
        rest = [
            dense(k, a, b, lead=(ensemble,)) for k, a, b in zip(keys[1:-1], sizes, sizes[1:], strict=False)
        ]
        return {
            "first": first,
            "hidden": rest,
            "out": dense(keys[-1], sizes[-1], 1, scale=out_scale, lead=(ensemble,)),
        }

    def one(params: Params, obs: Array, action: Array) -> Array:
        """One member on flat rows: `obs` (batch, obs_dim), `action` (batch, k, action_dim) -> (batch, k)."""
        first = params["first"]
        state_part = obs @ first["obs"] + first["bias"][None]
        x = unit(state_part[:, None] + action @ first["action"]).reshape(-1, sizes[0])
        for layer in params["hidden"]:
            x = unit(x @ layer["kernel"] + layer["bias"][None])
        return (x @ params["out"]["kernel"] + params["out"]["bias"][None]).reshape(action.shape[:2])

    def apply(params: Params, obs: Array, action: Array) -> Array:
        if action.ndim == 2:
            return apply(params, obs, action[:, None])[..., 0]
        return jax.vmap(one, in_axes=(0, None, 0 if action.ndim == 4 else None))(params, obs, action)

    return Network(init, apply)


def sweep(apply: Callable, params: Params, obs: Array, action: Array) -> Array:
    """`apply(params, obs, action)` for actions (batch, k, action_dim), in cache-sized blocks on a CPU.

    The result is the same (ensemble, batch, k); other devices run it in one piece. A block's backward pass
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
