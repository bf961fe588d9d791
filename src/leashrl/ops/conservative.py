"""Critics pushed down on a proposal's actions and up on the data's: MISA's equation 12 and CQL's 4.

The proposal's actions come with log q where their energies are importance-weighted, T = Q - log q: with
actions drawn from q, mean e^T estimates the integral of e^Q, which is CQL(H). Without it they are Q itself,
and log Z is MISA's log-partition under the policy that drew them.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from leashrl.dist import taken
from leashrl.ops import mi, td
from leashrl.ops.blocks import sweep, sweep_grad
from leashrl.types import Array, Batch

Scalar = Float[Array, ""]
Targets = Float[Array, " batch"]
Values = Float[Array, "ensemble batch"]
Energies = Float[Array, "ensemble batch k"]
Proposal = Float[Array, "batch k dim"]
Chosen = Float[Array, "ensemble batch m dim"]


def loss(
    params: Any,
    apply: Any,
    bound: str,
    batch: Batch,
    actions: Proposal | Chosen,
    mass: Values | None,
    y: Targets,
    weight: Scalar | float,
    td_weight: Scalar | float,
    log_q: Float[Array, "batch k"] | None = None,
    floor: Float[Array, "batch k"] | Float[Array, "ensemble batch m"] | None = None,
    gap_floor: float = -math.inf,
) -> tuple[Scalar, tuple[Values, Energies]]:
    """td_weight * sum_i E(Q_i - y)^2 + weight * sum_i (log Z_i - E_D[Q_i]).

    Args:
      apply: `(params, obs, actions) -> (ensemble, batch, k)`, a critic.
      bound: which log Z, as in `mi.log_partition`.
      actions: all of the proposal, or m chosen ones.
      mass: the weight of a state's chosen actions, or None; the sum over states of mass * mean Q then
        stands for log Z (same gradient in expectation, another value).
      log_q: None for 0.
      floor: Q_i of the actions counts as no less, so that what is below is not pushed down further (Cal-QL).
        None: there is none.
      gap_floor: a state whose log Z_i - Q_i(s, a) is below it has no push; with `mass` None alone.

    Returns:
      the loss, and Q_i of the data and T_i of the actions, k or m of them.
    """
    data_action = jnp.broadcast_to(batch.action[:, None], (*actions.shape[:-2], 1, actions.shape[-1]))
    values = apply(params, batch.obs, jnp.concatenate([data_action, actions], axis=-2))
    data_values, energies = values[..., 0], values[..., 1:]
    if floor is not None:
        energies = jnp.maximum(energies, floor if mass is not None else floor[None])
    if log_q is not None:
        energies -= log_q[None]
    total = td_weight * td.squared_error(data_values, y)
    if energies.size:
        if math.isfinite(gap_floor):
            gap = jax.nn.logsumexp(energies, axis=-1) - data_values
            return total + weight * jnp.sum(jnp.mean(jnp.maximum(gap, gap_floor), -1)), (
                data_values,
                energies,
            )
        if mass is None:
            log_z = jnp.sum(jax.vmap(lambda e: mi.log_partition(bound, e))(energies))
        else:
            log_z = jnp.sum(mass * jnp.mean(energies, axis=-1))
        total += weight * (log_z - jnp.sum(jnp.mean(data_values, axis=-1)))
    return total, (data_values, energies)


def exact_loss(
    params: Any,
    apply: Any,
    bound: str,
    batch: Batch,
    log_mass: Float[Array, "batch n"],
    y: Targets,
    weight: Scalar | float,
    td_weight: Scalar | float,
) -> tuple[Scalar, tuple[Values, Float[Array, "ensemble batch n"]]]:
    """`loss` for finitely many actions: sums over all of them in place of samples.

    Args:
      apply: `(params, obs) -> (ensemble, batch, n)`.
      log_mass: what each e^Q counts: log pi for MISA's log Z = log sum pi e^Q, 0 for
        CQL(H)'s log sum e^Q.

    Returns:
      the loss, Q_i of the data, and T_i = Q_i + log_mass + log n: the mean over actions of e^T is that sum.
    """
    values = apply(params, batch.obs)
    data_values, energies = taken(values, batch.action), values + log_mass[None] + math.log(values.shape[-1])
    log_z = jnp.sum(jax.vmap(lambda e: mi.log_partition(bound, e))(energies))
    push = weight * (log_z - jnp.sum(jnp.mean(data_values, axis=-1)))
    return td_weight * td.squared_error(data_values, y) + push, (data_values, energies)


def choose(
    key: PRNGKeyArray, bound: str, actions: Proposal, energies: Energies, m: int
) -> tuple[Chosen, Values]:
    """m of each state's k actions, drawn for each member of the ensemble by the weights of its own energies.

    Returns:
      actions and masses, as `loss` takes them.
    """

    def member(key: Array, energies: Array) -> tuple[Array, Array]:
        index, mass = mi.resample(key, mi.weights(bound, energies), m)
        return jnp.take_along_axis(actions, index[..., None], axis=1), mass

    return jax.vmap(member)(jax.random.split(key, len(energies)), energies)


def gradient(
    params: Any,
    apply: Any,
    batch: Batch,
    actions: Proposal,
    y: Targets,
    weight: Scalar | float,
    td_weight: Scalar | float,
    *,
    bound: str,
    log_q: Float[Array, "batch k"] | None = None,
    floor: Float[Array, "batch k"] | None = None,
    gap_floor: float = -math.inf,
    key: PRNGKeyArray | None = None,
    resample: int = 0,
) -> tuple[Any, Values, Energies]:
    """Of `loss`; Q_i of the data and T_i of the actions.

    Args:
      resample: m > 0 runs the backward pass on m of the k actions alone, drawn with `key` (unbiased).
    """
    k = actions.shape[1]
    if k and resample:
        assert key is not None
        energies = sweep(apply, params, batch.obs, actions)
        energies = energies if floor is None else jnp.maximum(energies, floor[None])
        energies = energies if log_q is None else energies - log_q[None]
        if floor is None:
            actions, mass = choose(key, bound, actions, energies, resample)
        else:  # an action's floor goes with it, as one column more
            pairs = jnp.concatenate([actions, floor[..., None]], axis=-1)
            pairs, mass = choose(key, bound, pairs, energies, resample)
            actions, floor = pairs[..., :-1], pairs[..., -1]
        grads, (data_values, _) = jax.grad(loss, has_aux=True)(
            params, apply, bound, batch, actions, mass, y, weight, td_weight, floor=floor
        )
        return grads, data_values, energies

    def of_rows(params, rows):
        batch, actions, y, log_q, floor = rows
        return loss(
            params, apply, bound, batch, actions, None, y, weight, td_weight, log_q, floor, gap_floor
        )  # fmt: skip

    rows = (batch, actions, y, log_q, floor)
    # dv's one normaliser for all states is no mean over states: it goes in one piece.
    whole = jax.grad(of_rows, has_aux=True)
    grads, aux = whole(params, rows) if bound == "dv" else sweep_grad(of_rows, params, rows, k + 1)
    return grads, *aux
