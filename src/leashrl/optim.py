"""Adam whose learning rate is a traced scalar, so that it can differ between members of one program."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from leashrl.types import Array

T = TypeVar("T")
B1, B2, EPSILON = 0.9, 0.999, 1e-8


def adam_init(params: Any) -> dict[str, Any]:
    """First and second moments of every array in `params`, and the number of updates so far."""
    return {
        "mean": jax.tree.map(jnp.zeros_like, params),
        "square": jax.tree.map(jnp.zeros_like, params),
        "count": jnp.zeros((), jnp.int32),
    }


def adam(grads: Any, state: dict[str, Any], params: Any, rate: Array) -> tuple[Any, dict[str, Any]]:
    """One step of Adam (Kingma & Ba 2015, algorithm 1, arXiv 1412.6980): `(params, state)` after it.

    The first step moves every parameter by `rate` against its gradient's sign:

    >>> params, _ = adam(jnp.float32(-3.0), adam_init(jnp.float32(1.0)), jnp.float32(1.0), jnp.float32(0.5))
    >>> round(float(params), 6)
    1.5
    """
    count = state["count"] + 1
    mean = jax.tree.map(lambda m, g: B1 * m + (1 - B1) * g, state["mean"], grads)
    square = jax.tree.map(lambda v, g: B2 * v + (1 - B2) * g**2, state["square"], grads)
    steps = count.astype(jnp.float32)
    debias_mean, debias_square = 1 / (1 - B1**steps), 1 / (1 - B2**steps)

    def move(p: Array, m: Array, v: Array) -> Array:
        return p - rate * (m * debias_mean) / (jnp.sqrt(v * debias_square) + EPSILON)

    return jax.tree.map(move, params, mean, square), {"mean": mean, "square": square, "count": count}


def descend(state: Any, grads: dict, rates: dict, **other: Any) -> Any:
    """`state` after a step of Adam on the parts named in `grads`, each at its own rate, and with `other`.

    Args:
      state: a dataclass whose `optimiser` has `adam_init` of each part by name.
    """
    names = tuple(grads)
    steps = [adam(grads[n], state.optimiser[n], getattr(state, n), rates[n]) for n in names]
    params, moments = (dict(zip(names, each, strict=True)) for each in zip(*steps, strict=True))
    return dataclasses.replace(state, **params | other, optimiser=state.optimiser | moments)


def begin(
    kind: Callable[..., T], params: Mapping[str, Any], hp: Any, *, targets: Iterable[str] = (), **other: Any
) -> T:
    """A state to start from: parameters by name, copies `target_NAME` of some, Adam's moments, and the rest.

    Args:
      kind: the state's class, with the fields `optimiser`, `hp` and those named here.
    """
    copies = {f"target_{name}": jax.tree.map(jnp.copy, params[name]) for name in targets}
    moments = {name: adam_init(value) for name, value in params.items()}
    return kind(**params, **copies, **other, optimiser=moments, hp=hp)


def clip_norm(grads: Any, limit: Array | float) -> Any:
    """`grads` scaled down so that their norm, over all arrays together, is at most `limit`.

    >>> clip_norm({"a": jnp.float32([3.0]), "b": jnp.float32([4.0])}, 1.0)["b"].tolist()
    [0.800000011920929]
    """
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grads)))
    scale = jnp.minimum(1.0, limit / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))
    return jax.tree.map(lambda leaf: leaf * scale, grads)


def cosine(rate: Array, step: Array, steps: int) -> Array:
    """`rate` falling to 0 over `steps` updates: rate (1 + cos(pi step / steps)) / 2.

    >>> float(cosine(jnp.float32(2.0), jnp.int32(50), 100))
    1.0
    """
    progress = jnp.minimum(step.astype(jnp.float32) / steps, 1.0)
    return rate * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


def staircase(rate: Array, step: Array, steps: int, stairs: dict[float, float]) -> Array:
    """`rate` times the factor of the last stair reached; `stairs` has factors by share of `steps`.

    >>> float(staircase(jnp.float32(2.0), jnp.int32(85), 100, {0.8: 0.1, 0.9: 0.01}))
    0.2000
    """
    progress, factor = step.astype(jnp.float32) / steps, jnp.ones(())
    for share in sorted(stairs):
        factor = jnp.where(progress >= share, stairs[share], factor)
    return rate * factor


def fit(loss: Callable[[Any, Array], Array], params: Any, key: Array, steps: int, rate: float) -> Any:
    """Parameters after `steps` of Adam on `loss(params, key)`, a new key each step."""

    def step(i: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        params, optimiser = carry
        grads = jax.grad(loss)(params, jax.random.fold_in(key, i))
        return adam(grads, optimiser, params, jnp.float32(rate))

    return jax.lax.fori_loop(0, steps, step, (params, adam_init(params)))[0]
