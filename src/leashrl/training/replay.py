"""The replay on the device: a ring of rows for each member, written to in place."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from leashrl.types import Array, Box, Replay, Spec, Transitions


def empty(members: int, capacity: int, spec: Spec, next_action: bool = False, to_go: bool = False) -> Replay:
    """Rings without rows yet; `next_action` and `to_go` are columns that not every run has."""
    n = members * capacity
    continuous = isinstance(spec.action, Box)
    action = jnp.zeros((n, spec.action.dim)) if continuous else jnp.zeros(n, jnp.int32)
    return Replay(
        rows=Transitions(
            obs=jnp.zeros((n, spec.obs_dim)),
            action=action,
            reward=jnp.zeros(n),
            terminal=jnp.zeros(n, bool),
            next_obs=jnp.zeros((n, spec.obs_dim)),
            next_action=jnp.copy(action) if next_action else None,
            to_go=jnp.full(n, -jnp.inf) if to_go else None,
        ),
        first=jnp.arange(members, dtype=jnp.int32) * capacity,
        capacity=jnp.int32(capacity),
        count=jnp.int32(0),
    )


@functools.partial(jax.jit, donate_argnums=0)
def append(data: Replay, rows: dict[str, Array]) -> Replay:
    """`rows` (members, n, ...), n at most the capacity, behind those that are there."""
    n = rows["reward"].shape[1]
    place = (data.count + jnp.arange(n, dtype=jnp.int32)) % data.capacity
    index = data.first[:, None] + place[None]
    put = {k: getattr(data.rows, k).at[index].set(v) for k, v in rows.items()}
    return Replay(Transitions(**put), data.first, data.capacity, data.count + n)


@functools.partial(jax.jit, donate_argnums=0)
def set_to_go(data: Replay, place: Array, values: Array) -> Replay:
    """Returns to go at these places of the table; places beyond it are left out."""
    known = jnp.asarray(data.rows.to_go).at[place].set(values, mode="drop")
    return dataclasses.replace(data, rows=dataclasses.replace(data.rows, to_go=known))
