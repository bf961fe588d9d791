"""Flow matching: a velocity field that carries noise to the data's actions, and its integration.

A field v(s, x, t) is learnt on straight lines between noise and data (Lipman et al. 2023, arXiv 2210.02747;
Liu et al. 2023, arXiv 2209.03003): x_0 ~ N(0, I), x_1 = a, x_t = (1 - t) x_0 + t x_1 with t ~ U(0, 1), whose
velocity is x_1 - x_0. Carrying x_0 along the field from t = 0 to 1 then gives a draw of the data's actions.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from leashrl.types import Array

Actions = Float[Array, "*batch dim"]
Field = Callable[[Actions, Float[Array, "*batch 1"]], Actions]
"""(x, t) -> velocity, of some states."""


def lines(
    action: Float[Array, "batch dim"], key: PRNGKeyArray
) -> tuple[Float[Array, "batch dim"], Float[Array, "batch 1"], Float[Array, "batch dim"]]:
    """A point on a line from noise to each action, its time, and the line's velocity."""
    key_noise, key_time = jax.random.split(key)
    noise = jax.random.normal(key_noise, action.shape)
    time = jax.random.uniform(key_time, (*action.shape[:-1], 1))
    return (1 - time) * noise + time * action, time, action - noise


def matching_loss(
    params: Any, apply: Callable[..., Array], obs: Array, action: Array, key: PRNGKeyArray
) -> Float[Array, ""]:
    """Mean of |v(s, x_t, t) - (x_1 - x_0)|^2 over the batch and the action dimensions.

    Args:
      apply: (params, obs, x, t) -> velocity.
    """
    x, time, velocity = lines(action, key)
    return jnp.mean((apply(params, obs, x, time) - velocity) ** 2)


def carry(field: Field, noise: Actions, steps: int) -> Actions:
    """Noise (..., dim) carried along the field by `steps` steps of Euler, cut off at [-1, 1].

    >>> carry(lambda x, t: jnp.full_like(x, 0.5), jnp.zeros(1), 10).tolist()
    [0.5]
    """
    x = noise
    for i in range(steps):
        time = jnp.full((*x.shape[:-1], 1), i / steps)
        x = x + field(x, time) / steps
    return jnp.clip(x, -1.0, 1.0)
