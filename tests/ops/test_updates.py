"""Targets, optimiser, averages and multipliers against hand-worked numbers."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leashrl.ops import dual, mi, td
from leashrl.optim import adam, adam_init, begin, cosine
from leashrl.types import pytree
from support.draws import f32


def test_td_target_and_error():
    """A terminal stops the value; the error is a mean over the batch and a sum over the ensemble."""
    y = td.target(f32([1.0, 2.0]), f32([0.9, 0.0]), f32([10.0, 10.0]))
    np.testing.assert_allclose(y, [10.0, 2.0])
    assert float(td.squared_error(f32([[10.0, 5.0], [8.0, 2.0]]), y)) == pytest.approx(9 / 2 + 4 / 2)


def numpy_adam(gradients, x, rate, b1=0.9, b2=0.999, epsilon=1e-8):
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        x -= rate * (m / (1 - b1**t)) / (math.sqrt(v / (1 - b2**t)) + epsilon)
    return x


def test_adam_is_hand_worked():
    """Gradients 0.5 then -2.0: m = 0.05, -0.155; v = 2.5e-4, 4.24975e-3.

    Second step: m-hat = -0.155/0.19, v-hat = 4.24975e-3/1.999e-3, a move of 0.1 * 0.81579/1.45807.
    """
    params = {"a": f32(1.0), "b": f32([1.0, 3.0])}
    state = adam_init(params)
    params, state = adam({"a": f32(0.5), "b": f32([0.5, 1e-3])}, state, params, f32(0.1))
    np.testing.assert_allclose(params["a"], 0.9, rtol=1e-6)
    np.testing.assert_allclose(params["b"], [0.9, 2.9], rtol=1e-5)
    params, state = adam({"a": f32(-2.0), "b": f32([-2.0, 0.0])}, state, params, f32(0.1))
    np.testing.assert_allclose(params["a"], 0.9 + 0.1 * 0.8157895 / 1.4580695, rtol=1e-6)
    expected = [numpy_adam([0.5, -2.0], 1.0, 0.1), numpy_adam([1e-3, 0.0], 3.0, 0.1)]
    np.testing.assert_allclose(params["b"], expected, rtol=1e-5)
    assert int(state["count"]) == 2


def test_adam_stays_with_float64_for_long():
    """300 steps: the bias corrections, powers in float32, do not drift."""
    gradients = np.random.default_rng(0).standard_normal(300)

    def step(carry, g):
        params, state = adam(g, carry[1], carry[0], f32(1e-2))
        return (params, state), None

    (x, _), _ = jax.lax.scan(step, (f32(1.0), adam_init(f32(1.0))), f32(gradients))
    assert float(x) == pytest.approx(numpy_adam(gradients, 1.0, 1e-2), abs=2e-5)


def test_cosine_schedule():
    got = [float(cosine(f32(4.0), jnp.int32(t), 300)) for t in (0, 100, 150, 300, 301)]
    np.testing.assert_allclose(got, [4.0, 3.0, 2.0, 0.0, 0.0], atol=1e-6)


def test_polyak_average():
    target, online = {"w": f32([0.0, 1.0])}, {"w": f32([10.0, 1.0])}
    np.testing.assert_allclose(dual.polyak(target, online, f32(0.005))["w"], [0.05, 1.0])
    for _ in range(3):
        target = dual.polyak(target, online, f32(0.5))
    np.testing.assert_allclose(target["w"], [8.75, 1.0])  # 10 (1 - 1/8)


@pytree
class Two:
    policy: dict
    critic: dict
    target_critic: dict
    optimiser: dict
    hp: dict
    count: jax.Array


def test_a_state_begins_with_copies_and_moments_and_its_targets_follow():
    params = {"policy": {"w": f32([1.0])}, "critic": {"w": f32([8.0])}}
    state = begin(Two, params, {"polyak": f32(0.25)}, targets=("critic",), count=jnp.zeros(()))
    assert float(state.target_critic["w"][0]) == 8.0 and float(state.count) == 0.0
    assert state.optimiser.keys() == {"policy", "critic"}
    assert all(float(jnp.sum(jnp.abs(x))) == 0.0 for x in jax.tree.leaves(state.optimiser))
    moved = dual.follow(dataclasses.replace(state, critic={"w": f32([16.0])}), "critic")
    assert float(moved.target_critic["w"][0]) == 10.0  # a quarter of the way from 8 to 16
    assert float(moved.critic["w"][0]) == 16.0 and moved.policy is state.policy


def test_dual_gradient():
    """d/dx of -e^x * excess is -e^x * excess; none flows into the excess; none beyond the limit."""
    gradient = jax.grad(dual.Multiplier().loss, argnums=(0, 1))(f32(math.log(3.0)), f32(2.0))
    np.testing.assert_allclose(gradient, [-6.0, 0.0], rtol=1e-6)
    assert float(dual.Multiplier().grad(f32(20.0), f32(2.0))) == 0.0


def test_multiplier_settles_at_its_constraint():
    """min x^2/2 - 3x subject to x <= 1: x = 1 and lambda = 2, by simultaneous steps on both."""

    def step(carry, _):
        x, log_value = carry
        x = x - 0.05 * (x - 3.0 + dual.Multiplier()(log_value))
        return (x, log_value - 0.005 * dual.Multiplier().grad(log_value, x - 1.0)), None

    run = jax.jit(lambda start: jax.lax.scan(step, (f32(0.0), start), length=4000)[0])
    for start in (-2.0, 2.0):
        x, log_value = run(f32(start))
        assert float(x) == pytest.approx(1.0, abs=0.02)
        assert float(dual.Multiplier()(log_value)) == pytest.approx(2.0, abs=0.02)


def test_multiplier_of_an_idle_constraint_vanishes():
    """The same with x <= 5: the optimum 3 is inside, so lambda falls towards 0."""

    def step(carry, _):
        x, log_value = carry
        x = x - 0.05 * (x - 3.0 + dual.Multiplier()(log_value))
        return (x, log_value - 0.05 * dual.Multiplier().grad(log_value, x - 5.0)), None

    (x, log_value), _ = jax.lax.scan(step, (f32(0.0), f32(0.0)), length=2000)
    assert float(dual.Multiplier()(log_value)) < 0.02
    assert float(x) == pytest.approx(3.0, abs=0.02)


def test_effective_sample_size_by_hand():
    """(1+2+3)^2/(1+4+9) = 36/14 and, for equal weights, k; whatever their scale."""
    weights = f32([[1.0, 2.0, 3.0], [0.1, 0.1, 0.1]])
    assert float(mi.effective_sample_size(weights)) == pytest.approx((36 / 14 + 3) / 2, rel=1e-6)
    assert float(mi.effective_sample_size(1e-3 * weights)) == pytest.approx((36 / 14 + 3) / 2, rel=1e-5)
    assert float(mi.effective_sample_size(f32([[0.0, 7.0, 0.0]]))) == pytest.approx(1.0)


def test_log_mean_exp_by_hand():
    x = np.log([[1.0, 3.0], [5.0, 7.0]])
    assert float(mi.log_mean_exp(f32(x))) == pytest.approx(math.log(4.0), rel=1e-6)
    np.testing.assert_allclose(mi.log_mean_exp(f32(x), axis=-1), np.log([2.0, 6.0]), rtol=1e-6)
    np.testing.assert_allclose(mi.log_mean_exp(f32(x), axis=(0, 1)), math.log(4.0), rtol=1e-6)
    assert float(mi.log_mean_exp(f32([1000.0, 1000.0]))) == pytest.approx(1000.0)
    assert float(mi.log_mean_exp(f32([-1000.0, -1000.0]))) == pytest.approx(-1000.0)
