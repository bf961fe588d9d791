"""The channel from states to actions, fitted on all folds of a data set in one program.

A policy pi(a|s), the mean of an ensemble's mixtures of Gaussians or categoricals, is fitted by maximum
likelihood around the linear channel of least squares. On it stands an energy T(s, a) for each bound of Ma
et al. (2023, arXiv 2210.07484, equations 8 to 10), which maximises what its bound has beyond pi. `scores`
says of held-out rows how much better their actions fit their own states than the other states of the fold.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.information.densities import Policy, categorical_policy, mixture_policy
from leashrl.information.folds import AXES, Folds
from leashrl.nn import Params
from leashrl.ops import mi
from leashrl.optim import adam, adam_init, cosine
from leashrl.types import Array

ENERGIES = ("misa", "dv", "f")
MEMBERS = 3
"""Policies whose mean is pi: what they wrongly see in the training rows differs, and mostly cancels."""
ENERGY_HIDDEN, EMBEDDING = (64, 64), 32
BATCH, ENERGY_BATCH = 256, 128
DRAWS, VALID_DRAWS, MANY_DRAWS = 8, 16, 64
"""Policy actions a state: in training, for early stopping, and where the results count."""
RATE, ENERGY_RATE = 4e-3, 2e-3
EVERY = 50
"""Updates between two looks at the validation rows."""
BLOCK = 64
"""Rows that are compared with all states at once."""
BFLOAT16 = False
"""Whether bounds were shown to be the same in bfloat16 as in float32: then `precision=auto` may choose it."""


# --- Energies ----------------------------------------------------------------


class Energy(NamedTuple):
    """T_b(s, a) = g_b(s) . h(a) of each b in ENERGIES, zero at first: all pairs cost one matrix product."""

    init: Callable[[Array], Params]
    state: Callable[[Params, Array], Array]
    """(..., bounds, EMBEDDING)"""
    action: Callable[[Params, Array], Array]
    """(..., EMBEDDING), of whitened actions at unit variance."""


def energy(obs_dim: int, dim: int) -> Energy:
    g = nn.mlp(obs_dim, len(ENERGIES) * EMBEDDING, ENERGY_HIDDEN, activation="elu", out_scale=0.0)
    h = nn.mlp(dim, EMBEDDING, ENERGY_HIDDEN, activation="elu")

    def init(key: Array) -> Params:
        keys = jax.random.split(key)
        return {"state": g.init(keys[0]), "action": h.init(keys[1])}

    def state(params: Params, obs: Array) -> Array:
        return g.apply(params["state"], obs).reshape(*obs.shape[:-1], len(ENERGIES), EMBEDDING)

    return Energy(init, state, lambda params, action: h.apply(params["action"], action))


# --- Losses ------------------------------------------------------------------


class Channel(NamedTuple):
    """All that depends on sizes alone, so that a second data set of the same compiles nothing anew.

    The losses are functions of (params, fixed, fold, rows, key, k).
    """

    policy: Policy
    energy: Energy

    def members(self, params: Params, fold: Folds, obs: Array) -> Any:
        return jax.vmap(self.policy.at, (0, None, None))(params, fold, obs)

    def pi(self, params: Params, fold: Folds, obs: Array) -> Any:
        return self.policy.join(self.members(params, fold, obs))

    def policy_loss(
        self, params: Params, fixed: Params, fold: Folds, rows: Array, key: Array, k: int
    ) -> Array:
        """- E[log pi(a|s)], of the whole action and each of its dimensions alone, of each member: the sum."""
        dist = self.members(params, fold, fold.obs[rows])
        log_prob = jax.vmap(self.policy.log_prob, (0, None))(dist, fold.action[rows] @ fold.targets)
        return -jnp.sum(jnp.mean(log_prob, axis=1))

    def energy_loss(
        self, params: Params, fixed: Params, fold: Folds, rows: Array, key: Array, k: int
    ) -> Array:
        """log_partition(T) - E_D[T], summed over the bounds, from k actions a state of the policy `fixed`."""
        obs = fold.obs[rows]
        drawn = self.policy.draw(self.pi(fixed, fold, obs), key, k) * fold.scale[None, None]
        taken = (fold.action[rows] @ fold.targets)[:, : drawn.shape[-1]] * fold.scale[None]
        state = self.energy.state(params, obs)
        energies = jnp.einsum("sbe,ske->bsk", state, self.energy.action(params, drawn))
        data = jnp.einsum("sbe,se->b", state, self.energy.action(params, taken)) / len(rows)
        losses = []
        for i, bound in enumerate(ENERGIES):
            offset = 1.0 if bound == "f" else 0.0  # its best T is 1, not 0, where pi is the data's
            losses.append(mi.log_partition(bound, energies[i] + offset) - (data[i] + offset))
        return jnp.stack(losses).sum()


@functools.cache
def channel(obs_dim: int, dim: int, discrete: bool) -> Channel:
    """`dim` is the number of actions where they are discrete."""
    policy = categorical_policy(obs_dim, dim) if discrete else mixture_policy(obs_dim, dim)
    return Channel(policy, energy(obs_dim, dim))


# --- Training ----------------------------------------------------------------


def train(
    channel: Channel, folds: Folds, seed: int, steps: int, precision: str,
    report: Callable[[str, int, int], None],
) -> tuple[Params, Params]:  # fmt: skip
    """(policy, energies) with a leading fold axis: `steps` updates of the policy, a third as many of T.

    Hidden layers' products are in `precision`, one of `nn.PRECISIONS`; on validation rows, and in `scores`,
    they are in float32.
    """
    keys = jax.random.split(jax.random.key(seed), 4)
    many, third = len(folds.count), -(-steps // 3)
    start = _policies(channel, jax.random.split(keys[0], (many, MEMBERS)))
    tell = partial(report, "the policy")
    policy = fit(channel.policy_loss, start, {}, folds, keys[1], BATCH, RATE, steps, precision, tell)
    start = _energies(channel, jax.random.split(keys[2], many))
    tell, how = partial(report, "the energies"), (ENERGY_BATCH, ENERGY_RATE)
    return policy, fit(channel.energy_loss, start, policy, folds, keys[3], *how, third, precision, tell)


@partial(jax.jit, static_argnums=0)  # op by op, dozens of small programs would be compiled
def _policies(channel: Channel, keys: Array) -> Params:
    return jax.vmap(jax.vmap(channel.policy.init))(keys)


@partial(jax.jit, static_argnums=0)
def _energies(channel: Channel, keys: Array) -> Params:
    return jax.vmap(channel.energy.init)(keys)


def fit(
    loss: Callable, start: Params, fixed: Params, folds: Folds, key: Array,
    batch: int, rate: float, steps: int, precision: str, report: Callable[[int, int], None],
) -> Params:  # fmt: skip
    """Minimise `loss`: the parameters of each fold when its loss on the validation rows was least."""
    keys = jax.random.split(key, len(folds.count))
    state = start, jax.vmap(adam_init)(start)
    best = start, jnp.full(len(folds.count), jnp.inf)
    for step in range(0, steps, EVERY):
        report(step, steps)
        best = _validate(best, state[0], fixed, folds, keys, loss)
        when = jnp.int32(step), jnp.float32(steps)
        state = _advance(state, fixed, folds, keys, *when, loss, batch, rate, precision)
    return _validate(best, state[0], fixed, folds, keys, loss)[0]


@partial(jax.jit, static_argnames=("loss", "batch", "rate", "precision"))
def _advance(
    state: Any, fixed: Params, folds: Folds, keys: Array, first: Array, steps: Any,
    loss: Callable, batch: int, rate: float, precision: str,
) -> Any:  # fmt: skip
    """EVERY updates of every fold."""

    def update(state: Any, fixed: Params, fold: Folds, key: Array, step: Array) -> Any:
        params, moments = state
        key_rows, key_loss = jax.random.split(jax.random.fold_in(key, step))
        rows = fold.train[jax.random.randint(key_rows, (batch,), 0, fold.count)]
        grads = jax.grad(loss)(params, fixed, fold, rows, key_loss, DRAWS)
        return adam(grads, moments, params, cosine(jnp.float32(rate), step, steps))

    def all_folds(state: Any, step: Array) -> tuple[Any, None]:
        return jax.vmap(update, (0, 0, AXES, 0, None))(state, fixed, folds, keys, step), None

    with nn.precision(precision):
        return jax.lax.scan(all_folds, state, first + jnp.arange(EVERY))[0]


@partial(jax.jit, static_argnames=("loss",))
def _validate(best: Any, params: Params, fixed: Params, folds: Folds, keys: Array, loss: Callable) -> Any:
    """`best`: of every fold the parameters with the least loss so far, and that loss."""

    def one(best: Any, params: Params, fixed: Params, fold: Folds, key: Array) -> Any:
        now = loss(params, fixed, fold, fold.valid, key, VALID_DRAWS)
        return jax.tree.map(partial(jnp.where, now < best[1]), (params, now), best)

    return jax.vmap(one, (0, 0, 0, AXES, 0))(best, params, fixed, folds, keys)


# --- What the bounds are made of ---------------------------------------------


@partial(jax.jit, static_argnames=("channel",))
def scores(channel: Channel, policy: Params, energies: Params, fold: Folds, key: Array) -> dict[str, Array]:
    r"""Of the M test rows of one fold: the score of their own state against that of all M.

    p(a) in equations 7 to 10 is unknown. Here the mean over states of the policy stands for it, which keeps
    every bound a bound: with any f(s, a) and M independent states, the own one among them,

    $$E[f(s_i, a_i) - \log \tfrac{1}{M} \textstyle\sum_j e^{f(s_j, a_i)}] \le \min(I(S;A), \log M)$$

    (van den Oord et al. 2018, arXiv 1807.03748; Poole et al. 2019, arXiv 1905.06922, equation 12).

    * `ba` (M, 1 + dimensions): f = log pi, of the whole action and of each dimension alone.
    * `misa` (M,): f = log mu = log pi + T - log Z(s), the tilted policy, with Z from MANY_DRAWS actions.
    * `dv`, `f` (M, 2): T' = log pi + T - log p(a) in the own state, p(a) the mean over states of mu, and
      the log of the mean over states of e^{T'}. E[T'] - log E[e^{T'}] is at most the bound above with
      f = log pi + T, whatever stands for p(a) (Jensen).
    """
    obs = fold.obs[fold.test]
    action = fold.action[fold.test] @ fold.targets
    table = channel.policy.table(channel.pi(policy, fold, obs))
    state = jnp.moveaxis(channel.energy.state(energies, obs), 1, 0)  # (bounds, M, EMBEDDING)
    taken = channel.energy.action(energies, action[:, : len(fold.scale)] * fold.scale[None])

    def normaliser(inputs: tuple[Array, Array, Array]) -> Array:
        """log Z of one state."""
        obs, state, key = inputs
        drawn = channel.policy.draw(channel.pi(policy, fold, obs[None]), key, MANY_DRAWS)[0]
        return mi.log_mean_exp(channel.energy.action(energies, drawn * fold.scale[None]) @ state)

    keys = jax.random.split(key, len(obs))
    log_z = jax.lax.map(normaliser, (obs, state[0], keys), batch_size=BLOCK)

    def score(inputs: tuple[Array, Array, Array]) -> dict[str, Array]:
        """One row's action in all states; the last axis is theirs."""
        i, target, taken = inputs
        log_pi = channel.policy.log_probs(table, target)
        misa, dv, f = log_pi[:1] + state @ taken
        misa = misa - log_z
        against = lambda x: x[..., i] - mi.log_mean_exp(x, axis=-1)
        pair = lambda x: jnp.stack([x[i], mi.log_mean_exp(x)]) - mi.log_mean_exp(misa)
        return {"misa": against(misa), "dv": pair(dv), "f": pair(f), "ba": against(log_pi)}

    return jax.lax.map(score, (jnp.arange(len(obs)), action, taken), batch_size=BLOCK)
