"""What comes next, by an ensemble of Gaussian networks: PETS (Chua et al. 2018, 1805.12114), as in MOPO."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.types import Array, Transitions

Params = Any


SHARES = (0.5, 1.0, 1.5, 1.5, 2.0)
"""MOPO's decay of the kernels, layer by layer, in units of 5e-5; in between for other depths."""


class Dynamics(NamedTuple):
    """`members` networks of reward and change of the observation, (1 + obs_dim) numbers a row.

    Attributes:
      init: `(key) -> params`, every array with a leading axis of members but for `scale`.
      predict: `(params, obs (batch, obs_dim), action (batch, dim)) -> (mean, log_var)`, each
        (members, batch, 1 + obs_dim).
      loss: `(params, obs, action, outcome, decay, known=None) -> ()`, rows (members, batch, ...), each member
        its own; `known` (members, batch) bool says of which the change counts, the reward always does.
    """

    init: Callable[[Array], Params]
    predict: Callable[[Params, Array, Array], tuple[Array, Array]]
    loss: Callable[..., Array]


def ensemble(obs_dim: int, dim: int, hidden: tuple[int, ...], members: int) -> Dynamics:
    """Swish networks; log variances are bent into a learnt range, softly."""
    out = 1 + obs_dim
    net = nn.mlp(obs_dim + dim, 2 * out, hidden, activation="swish")
    depths = jnp.linspace(0.0, 1.0, len(hidden) + 1)
    shares = jnp.interp(depths, jnp.linspace(0.0, 1.0, len(SHARES)), jnp.asarray(SHARES))

    def init(key: Array) -> Params:
        return {
            "net": jax.vmap(net.init)(jax.random.split(key, members)),
            "high": jnp.full((members, out), 0.5, jnp.float32),
            "low": jnp.full((members, out), -10.0, jnp.float32),
            "scale": {"mean": jnp.zeros(obs_dim + dim), "std": jnp.ones(obs_dim + dim)},
        }

    def heads(params: Params, x: Array) -> tuple[Array, Array]:
        """(members, batch, obs_dim + dim), each member its own rows."""
        x = (x - params["scale"]["mean"][None, None]) / params["scale"]["std"][None, None]
        mean, raw = jnp.split(jax.vmap(net.apply)(params["net"], x), 2, axis=-1)
        high, low = params["high"][:, None], params["low"][:, None]
        log_var = high - jax.nn.softplus(high - raw)
        return mean, low + jax.nn.softplus(log_var - low)

    def predict(params: Params, obs: Array, action: Array) -> tuple[Array, Array]:
        x = jnp.concatenate([obs, action], axis=-1)
        return heads(params, jnp.broadcast_to(x[None], (members, *x.shape)))

    def loss(
        params: Params, obs: Array, action: Array, outcome: Array, decay: Array, known: Array | None = None
    ) -> Array:
        """sum over members of E[(mean - y)^2 / var + log var], the range's width, and the weights' norms."""
        mean, log_var = heads(params, jnp.concatenate([obs, action], axis=-1))
        fit = jnp.sum(mean_of(known, (mean - outcome) ** 2 * jnp.exp(-log_var) + log_var))
        width = 0.01 * (jnp.sum(params["high"]) - jnp.sum(params["low"]))
        layers = [*params["net"]["hidden"], params["net"]["out"]]
        norms = jnp.stack([jnp.sum(layer["kernel"] ** 2) for layer in layers])
        return fit + width + decay * jnp.sum(shares * norms)

    return Dynamics(init, predict, loss)


def scale_of(obs: Array, action: Array) -> dict[str, Array]:
    """Mean and standard deviation of the networks' inputs over a data set, for `params["scale"]`."""
    x = jnp.concatenate([obs, action], axis=-1)
    return {"mean": jnp.mean(x, axis=0), "std": jnp.std(x, axis=0) + 1e-6}


def squared_errors(
    dynamics: Dynamics, params: Params, obs: Array, action: Array, outcome: Array, known: Array | None = None
) -> Array:
    """(members,) mean squared errors of the predicted means on rows for all; `known` as in `loss`."""
    mean, _ = dynamics.predict(params, obs, action)
    return mean_of(known, (mean - outcome[None]) ** 2)


def mean_of(known: Array | None, x: Array) -> Array:
    """(members,) means of `x` (members, batch, 1 + obs_dim): of all rewards, and of the `known` observations.

    >>> x = jnp.array([[[1.0, 5.0], [3.0, 9.0]]])
    >>> mean_of(jnp.array([[True, False]]), x).tolist()  # of 1 and 3, and of 5
    [3.5]
    """
    if known is None:
        return jnp.mean(x, axis=(1, 2))
    change = jnp.sum(x[..., 1:], axis=-1)
    weight = jnp.broadcast_to(known, change.shape).astype(x.dtype)
    change = jnp.sum(change * weight, axis=-1) / jnp.maximum(jnp.sum(weight, axis=-1), 1.0)
    return (jnp.mean(x[..., 0], axis=-1) + change) / x.shape[-1]


# --- What it learns from --------------------------------------------------------------------------


def held_out(n: int, percent: int) -> tuple[int, int]:
    """Rows of a period, and how many at its beginning are held out. Blocks: neighbours are too much alike."""
    period = max(2, min(5000, n // 4))
    return period, min(period - 1, max(1, period * percent // 100))


def training_row(index: Array, n: int, percent: int) -> Array:
    """The row of the `index`-th row that is not held out; `index` < `training_rows`."""
    period, held = held_out(n, percent)
    return index // (period - held) * period + held + index % (period - held)


def training_rows(n: int, percent: int) -> int:
    """How many rows are not held out."""
    period, held = held_out(n, percent)
    return n // period * (period - held) + max(0, n % period - held)


def outcomes(data: Transitions, index: Array) -> tuple[Array, Array, Array, Array | None]:
    """Observations, actions, rewards beside changes of the observations, and which rows' change is known.

    Unknown is what followed a terminal that was logged without its next observation, as the next row begins
    another episode: the model learns what such a row pays, and not where it leads.
    """
    obs = jnp.asarray(data.obs)[index]
    change = jnp.asarray(data.next_obs)[index] - obs
    outcome = jnp.concatenate([jnp.asarray(data.reward)[index][..., None], change], axis=-1)
    known = None if data.known is None else jnp.asarray(data.known)[index]
    return obs, jnp.asarray(data.action)[index], outcome, known


# --- Where an episode ends, by the simulators' own rules ------------------------------------------


def never(next_obs: Array) -> Array:
    return jnp.zeros(next_obs.shape[:-1], bool)


def hopper(next_obs: Array) -> Array:
    """Gymnasium's Hopper: height, angle, and everything behind the angle within its bounds."""
    height, angle, rest = next_obs[..., 0], next_obs[..., 1], next_obs[..., 1:]
    healthy = (height > 0.7) & (jnp.abs(angle) < 0.2) & jnp.all(jnp.abs(rest) < 100.0, axis=-1)
    return ~healthy


def walker2d(next_obs: Array) -> Array:
    """Gymnasium's Walker2d: height and angle within their bounds."""
    height, angle = next_obs[..., 0], next_obs[..., 1]
    return ~((height > 0.8) & (height < 2.0) & (jnp.abs(angle) < 1.0))


TERMINATIONS: dict[str, Callable[[Array], Array]] = {"none": never, "hopper": hopper, "walker2d": walker2d}
"""`next_obs (..., obs_dim) -> (...) bool`, in the environment's units."""
