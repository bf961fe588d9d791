"""FQL's re-implementations of IQL and ReBRAC: one loss, one step of one Adam for all networks.

The references are written here from that code's equations: a total loss over all parameters at once, and Adam
by its formula. Four updates, each on other rows, must end in the same parameters.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leashrl import nn
from leashrl.types import Box, Spec
from support.algorithms import built, random_batch

SPEC = Spec(3, Box((-1.0, -1.0), (1.0, 1.0)))
HIDDEN, RATE = (8, 8), 3e-4
STYLE = {"activation": "gelu", "initial": "glorot"}
CRITIC = nn.critic(3, 2, HIDDEN, learnt_norm=True, **STYLE)
VALUE = nn.mlp(3, 1, HIDDEN, learnt_norm=True, **STYLE)
STOP = jax.lax.stop_gradient


def adam(params, grads, moments, t):
    """Kingma & Ba's formula, one count for all: also where a gradient is zero."""
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], grads)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, moments[1], grads)
    step = lambda p, m, v: p - RATE * (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return jax.tree.map(step, params, m, v), (m, v)


def batches(n):
    rng = np.random.default_rng(0)
    found = [random_batch(SPEC, rng=rng) for _ in range(n)]
    return [dataclasses.replace(b, next_action=random_batch(SPEC, rng=rng).action) for b in found]


def ours(name, rows, **options):
    config, _, state, stages = built(name, "ogbench", spec=SPEC, hidden=HIDDEN, batch_size=16, **options)
    first, update = state, jax.jit(stages["train"].update)
    for step, batch in enumerate(rows):
        state, _ = update(state, batch, jax.random.key(step), jnp.int32(step))
    return config, first, state


def reference(loss, params, targets, rows):
    """Four steps of `loss(params, targets, batch, key, step)`; targets follow by 0.005 where it says so."""
    nothing = jax.tree.map(jnp.zeros_like, params)
    moments = (nothing, nothing)
    for step, batch in enumerate(rows):
        grads, follow = jax.grad(loss, has_aux=True)(params, targets, batch, jax.random.key(step), step)
        params, moments = adam(params, grads, moments, step + 1)
        if follow:
            targets = {
                k: jax.tree.map(lambda t, p: t + 0.005 * (p - t), targets[k], params[k]) for k in targets
            }
    return params, targets


def assert_near(found, wanted, first):
    for name, tree in wanted.items():
        moved = 0.0
        for a, b, c in zip(
            *map(jax.tree.leaves, (getattr(found, name), tree, getattr(first, name))), strict=True
        ):
            np.testing.assert_allclose(a, b, atol=2e-5, err_msg=name)
            moved = max(moved, float(jnp.max(jnp.abs(b - c))))
        assert moved > 1e-6, f"{name} did not move"


def test_rebracs_policy_moves_on_by_its_moments_where_it_has_no_turn():
    rows = batches(4)
    config, first, last = ours("rebrac", rows, policy_penalty=0.3, critic_penalty=0.02)
    policy = nn.mlp(3, 2, HIDDEN, activation="gelu", initial="glorot-small")

    def loss(params, targets, batch, key, step):
        noise = jnp.clip(0.2 * jax.random.normal(key, batch.action.shape), -0.5, 0.5)
        after = jnp.clip(jnp.tanh(policy.apply(targets["policy"], batch.next_obs)) + noise, -1, 1)
        q = jnp.min(CRITIC.apply(targets["critic"], batch.next_obs, after), axis=0)
        q = q - 0.02 * jnp.sum((after - batch.next_action) ** 2, axis=-1)
        y = batch.reward + batch.discount * q
        total = jnp.mean((CRITIC.apply(params["critic"], batch.obs, batch.action) - y[None]) ** 2)
        if step % 2 == 0:  # the authors count from 1: the second is the first with a policy's
            return total, False
        action = jnp.tanh(policy.apply(params["policy"], batch.obs))
        q = jnp.min(CRITIC.apply(STOP(params["critic"]), batch.obs, action), axis=0)
        apart = jnp.sum((action - batch.action) ** 2, axis=-1)
        return total - jnp.mean(q) / STOP(jnp.mean(jnp.abs(q))) + 0.3 * jnp.mean(apart), True

    start = {"policy": first.policy, "critic": first.critic}
    params, targets = reference(loss, start, start, rows)
    assert_near(last, params, first)
    assert_near(last, {f"target_{name}": tree for name, tree in targets.items()}, first)
    assert config.joint and config.value == "min"


def test_iqls_advantage_is_of_the_critics_before_any_network_moves():
    rows = batches(4)
    config, first, last = ours("iql", rows, temperature=3.0)
    policy = nn.mlp(3, 2, HIDDEN, activation="gelu", initial="glorot-small")

    def loss(params, targets, batch, key, step):
        v = VALUE.apply(params["value"], batch.obs)[..., 0]
        q = jnp.min(CRITIC.apply(targets["critic"], batch.obs, batch.action), axis=0)
        total = jnp.mean(jnp.where(q >= v, 0.9, 0.1) * (q - v) ** 2)
        y = batch.reward + batch.discount * VALUE.apply(STOP(params["value"]), batch.next_obs)[..., 0]
        found = CRITIC.apply(params["critic"], batch.obs, batch.action)
        total += jnp.mean(jnp.sum((found - y[None]) ** 2, axis=0))
        weight = jnp.minimum(jnp.exp(3.0 * STOP(jnp.min(found, axis=0) - v)), 100.0)
        error = jnp.sum((policy.apply(params["policy"], batch.obs) - batch.action) ** 2, axis=-1)
        return total + jnp.mean(weight * 0.5 * error), True  # a Gaussian of unit spread, without its constant

    trunk = {name: first.policy[name] for name in ("hidden", "out")}
    start = {"policy": trunk, "value": first.value, "critic": first.critic}
    params, targets = reference(loss, start, {"critic": first.critic}, rows)
    for name in ("value", "critic"):
        assert_near(last, {name: params[name]}, first)
    assert_near(last, {"target_critic": targets["critic"]}, first)
    for a, b in zip(
        jax.tree.leaves({k: last.policy[k] for k in trunk}), jax.tree.leaves(params["policy"]), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=2e-5)
    assert config.policy == "unit" and config.joint


def test_bc_is_least_squares_without_tanh():
    (batch,) = batches(1)
    config, _, state, stages = built("bc", "ogbench", spec=SPEC, hidden=HIDDEN, batch_size=16)
    _, metrics = stages["train"].update(state, batch, jax.random.key(0), jnp.int32(0))
    mean = nn.mlp(3, 2, HIDDEN, activation="gelu", initial="glorot-small").apply(state.policy, batch.obs)
    assert float(metrics["policy_loss"]) == pytest.approx(
        float(jnp.mean((mean - batch.action) ** 2)), rel=1e-5
    )
    assert not config.squash
