"""Flow matching: lines, the loss by hand, and Euler's steps against fields whose flow is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leashrl.ops import flow
from support.draws import normal


def test_lines_are_straight_and_end_at_the_action():
    action = jnp.tanh(normal(500, 3))
    x, time, velocity = flow.lines(action, jax.random.key(0))
    assert time.shape == (500, 1) and float(time.min()) >= 0 and float(time.max()) <= 1
    np.testing.assert_allclose(x + (1 - time) * velocity, action, atol=1e-5)
    noise = np.asarray(x - time * velocity)
    np.testing.assert_allclose(noise, np.asarray(action - velocity), atol=1e-5)
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1
    assert abs(float(time.mean()) - 0.5) < 0.05


def test_the_loss_is_the_mean_square_of_what_is_missed():
    obs, action, key = normal(50, 2), jnp.tanh(normal(50, 3)), jax.random.key(1)
    x, time, velocity = (np.asarray(a, np.float64) for a in flow.lines(action, key))
    apply = lambda params, obs, x, t: params * x + t
    found = flow.matching_loss(jnp.float32(0.5), apply, obs, action, key)
    assert float(found) == pytest.approx(np.mean((0.5 * x + time - velocity) ** 2), rel=1e-5)


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_a_field_towards_one_action_arrives_there(steps):
    """The best field for a single action a is (a - x) / (1 - t): Euler's steps along it are exact."""
    target = jnp.float32([0.4, -0.7])
    field = lambda x, t: (target[None] - x) / (1 - t)
    noise = normal(6, 2)
    np.testing.assert_allclose(flow.carry(field, noise, steps), np.broadcast_to(target, (6, 2)), atol=1e-5)


def test_steps_of_euler_are_those_of_the_equation():
    """x' = -x: every step of 1/n multiplies by 1 - 1/n."""
    x = jnp.float32([[0.8, -0.5]])
    np.testing.assert_allclose(flow.carry(lambda x, t: -x, x, 10), x * 0.9**10, rtol=1e-5)
    near = flow.carry(lambda x, t: -x, x, 1000)
    np.testing.assert_allclose(near, x / math.e, rtol=1e-3)


def test_what_leaves_the_space_is_cut_off_at_the_end_alone():
    """On the way it may: a field that comes back from 3 ends where it would have without a bound."""
    out_and_back = lambda x, t: jnp.where(t < 0.5, 6.0, -5.8)
    assert float(flow.carry(out_and_back, jnp.zeros((1, 1)), 2)[0, 0]) == pytest.approx(0.1, abs=1e-6)
    assert float(flow.carry(lambda x, t: 0 * x, jnp.float32([[4.0]]), 3)[0, 0]) == 1.0
