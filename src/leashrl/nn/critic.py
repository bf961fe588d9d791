"""State-action critics with a leading ensemble axis.

`critic` is built for many continuous actions a state. Its first layer is split,
`W [s; a] + b = W_s s + W_a a + b`, so that the state's part is computed once for all k actions. For many of
them, `ops.blocks` walks through the states in pieces that fit a CPU's cache.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, PRNGKeyArray

from leashrl.dist import taken
from leashrl.nn.hidden import product, unit
from leashrl.nn.initial import layers, with_norm
from leashrl.nn.mlp import Network, Params, affine, mlp, next_kernel
from leashrl.types import Array

Obs = Float[Array, "batch obs_dim"]
Actions = Float[Array, "batch dim"] | Float[Array, "batch k dim"] | Float[Array, "ensemble batch k dim"]
Values = Float[Array, "ensemble batch"]


def critic(
    obs_dim: int,
    action_dim: int,
    hidden: Sequence[int],
    *,
    ensemble: int = 2,
    activation: str = "relu",
    norm: bool = False,
    learnt_norm: bool = False,
    out_scale: float = 1.0,
    initial: str = "scaled",
) -> Network:
    """Q(s, a) for each member of an ensemble.

    `apply(params, obs (batch, obs_dim), action)` gives `(ensemble, batch)` for actions
    `(batch, action_dim)`, `(ensemble, batch, k)` for `(batch, k, action_dim)`, and the same for
    `(ensemble, batch, k, action_dim)`, where each member looks at actions of its own.
    """
    sizes = tuple(hidden)

    def init(key: PRNGKeyArray) -> Params:
        joint = (obs_dim + action_dim, *sizes)
        every, out = layers(key, joint, 1, initial, out_scale, lead=(ensemble,))
        first, *rest = with_norm(every, (ensemble,)) if learnt_norm else every
        kernel = first.pop("kernel")
        first |= {"obs": kernel[:, :obs_dim], "action": kernel[:, obs_dim:]}
        return {"first": first, "hidden": rest, "out": out}

    def one(params: Params, obs: Obs, action: Float[Array, "batch k dim"]) -> Float[Array, "batch k"]:
        """One member on flat rows."""
        first = params["first"]
        state_part = product(obs, first["obs"], outer=True) + first["bias"][None]
        every = [first, *params["hidden"]]
        x = state_part[:, None] + product(action, first["action"], outer=True)
        x = unit(x, activation, norm, next_kernel(every, 0), first.get("norm")).reshape(-1, sizes[0])
        for i, layer in enumerate(params["hidden"], 1):
            x = product(x, layer["kernel"]) + layer["bias"][None]
            x = unit(x, activation, norm, next_kernel(every, i), layer.get("norm"))
        return affine(params["out"], x, outer=True).reshape(action.shape[:2])

    def apply(params: Params, obs: Obs, action: Actions) -> Values | Float[Array, "ensemble batch k"]:
        if action.ndim == 2:
            return apply(params, obs, action[:, None])[..., 0]
        return jax.vmap(one, in_axes=(0, None, 0 if action.ndim == 4 else None))(params, obs, action)

    return Network(init, apply)


def table_critic(
    obs_dim: int, n: int, hidden: Sequence[int], *, ensemble: int = 2, **options: Any
) -> Network:
    """Q(s, a) of the actions 0 .. n - 1, for each member of an ensemble; `options` are `mlp`'s.

    `apply(params, obs (batch, obs_dim))` gives all, `(ensemble, batch, n)`; with integer actions `(batch,)`
    it gives theirs, `(ensemble, batch)`.
    """
    one = mlp(obs_dim, n, hidden, **options)

    def init(key: PRNGKeyArray) -> Params:
        return jax.vmap(one.init)(jax.random.split(key, ensemble))

    def apply(
        params: Params, obs: Obs, action: Int[Array, " batch"] | None = None
    ) -> Float[Array, "ensemble batch n"] | Values:
        values = jax.vmap(one.apply, in_axes=(0, None))(params, obs)
        return values if action is None else taken(values, action)

    return Network(init, apply)


def least(critic: Network, params: Params, obs: Obs, *action: Array) -> Float[Array, "batch ..."]:
    """The smallest Q over the ensemble; shapes as `critic.apply` gives them, less the first axis."""
    return jnp.min(critic.apply(params, obs, *action), axis=0)
