"""The tanh-normal against quadrature and float64 numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from leashrl.dist import Normal, log_det_tanh, squash_log_prob, unsquash


def tanh_normal(mean, std):
    return Normal(jnp.full(1, mean), jnp.full(1, math.log(std)))


def densities(mean, std, u):
    """The library's log density of the action tanh(u), for a vector of u."""
    return np.asarray(jax.vmap(lambda x: squash_log_prob(tanh_normal(mean, std), x))(jnp.asarray(u)[:, None]))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.3), (-2.0, 0.8), (0.0, 3.0)])
def test_density_integrates_to_one_over_actions(mean, std):
    """Trapezoids in a = tanh(u) itself, on a grid that is dense at both ends."""
    u = np.linspace(mean - 9 * std, mean + 9 * std, 20_001).clip(-8.5, 8.5).astype(np.float32)
    u = np.unique(u)
    a = np.tanh(u.astype(np.float64))
    inside = norm.cdf(u[-1], mean, std) - norm.cdf(u[0], mean, std)
    total = np.trapezoid(np.exp(densities(mean, std, u).astype(np.float64)), a)
    assert total == pytest.approx(inside, abs=2e-3)
    assert inside > 0.99


def test_density_is_the_change_of_variables():
    a = np.array([-0.9, -0.3, 0.0, 0.5, 0.95])
    u = np.arctanh(a)
    expected = norm.logpdf(u, 0.2, 0.7) - np.log(1 - a**2)
    np.testing.assert_allclose(densities(0.2, 0.7, u.astype(np.float32)), expected, rtol=1e-5, atol=1e-5)


def test_density_sums_over_dimensions():
    mean, std, u = np.array([0.1, -1.0, 2.0]), np.array([0.5, 1.0, 0.2]), np.array([0.0, 0.3, 1.9])
    pi = Normal(jnp.asarray(mean, jnp.float32), jnp.asarray(np.log(std), jnp.float32))
    expected = multivariate_normal.logpdf(u, mean, np.diag(std**2))
    assert float(pi.log_prob(jnp.asarray(u, jnp.float32))) == pytest.approx(expected, rel=1e-5)


def test_log_det_is_that_of_float64():
    u = np.linspace(-15, 15, 301)
    expected = np.log(1 - np.tanh(u) ** 2)  # float64 keeps 1 - tanh^2 up to |u| = 15 or so
    got = jax.vmap(log_det_tanh)(jnp.asarray(u, jnp.float32)[:, None])
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_log_det_and_its_slope_are_finite_far_out():
    """Where float32's 1 - tanh(u)^2 is 0: log det tends to 2 log 2 - 2|u|, its slope to -2 sign(u)."""
    for u in (-300.0, -20.0, 20.0, 300.0):
        value, slope = jax.value_and_grad(log_det_tanh)(jnp.full(1, u))
        assert float(value) == pytest.approx(2 * math.log(2) - 2 * abs(u), rel=1e-6)
        assert float(slope[0]) == pytest.approx(-2 * math.copysign(1, u), rel=1e-6)


def test_density_at_the_boundary_of_the_data():
    """Actions of exactly ±1 count as ±0.999: finite, with a finite slope in the policy."""
    action = jnp.asarray([1.0, -1.0, 0.999])
    u = unsquash(action, 1e-3)
    np.testing.assert_allclose(u, np.arctanh([0.999, -0.999, 0.999]), rtol=1e-4)
    pi = Normal(jnp.zeros(3), jnp.full(3, -5.0))  # the narrowest policy there is
    value, slope = jax.value_and_grad(lambda m: squash_log_prob(Normal(m, pi.log_std), u))(pi.mean)
    std = math.exp(-5)
    expected = sum(norm.logpdf(math.atanh(0.999), 0, std) - math.log(1 - 0.999**2) for _ in range(3))
    assert float(value) == pytest.approx(expected, rel=1e-3)
    assert np.all(np.isfinite(slope))


def test_unsquash_undoes_tanh_inside_the_margin():
    u = np.linspace(-3, 3, 61).astype(np.float32)
    np.testing.assert_allclose(unsquash(jnp.tanh(jnp.asarray(u)), 1e-3), u, rtol=1e-4, atol=1e-6)
    outside = unsquash(jnp.asarray([0.9, 1.0, 5.0]), 0.1)
    np.testing.assert_allclose(outside, np.full(3, math.atanh(0.9)), rtol=1e-6)


def test_samples_have_the_moments_and_the_shape():
    pi = Normal(jnp.asarray([[1.0, -2.0]]), jnp.asarray([[0.0, math.log(0.1)]]))
    u = np.asarray(pi.sample(jax.random.key(0), (20_000,)))
    assert u.shape == (20_000, 1, 2)
    error = 4 / math.sqrt(20_000)
    np.testing.assert_allclose((u.mean(0) - [[1.0, -2.0]]) / [[1.0, 0.1]], 0, atol=error)
    np.testing.assert_allclose(u.std(0) / [[1.0, 0.1]], 1, atol=error)
    assert pi.sample(jax.random.key(0)).shape == (1, 2)


def test_samples_carry_gradients():
    """u = mean + std * noise: du/dmean = 1, du/dlog_std = u - mean."""
    total = lambda mean, log_std: Normal(mean, log_std).sample(jax.random.key(1))[0]
    mean, log_std = jnp.asarray([0.3]), jnp.asarray([-0.5])
    d_mean, d_log_std = jax.grad(total, argnums=(0, 1))(mean, log_std)
    assert float(d_mean[0]) == 1.0
    assert float(d_log_std[0]) == pytest.approx(float(total(mean, log_std)) - 0.3, abs=1e-6)


def test_draws_stand_beside_their_state():
    """Means 100 and 200 in two states: every one of a state's draws is near its own."""
    pi = Normal(jnp.array([[100.0], [200.0]]), jnp.zeros((2, 1)))
    draws = pi.draws(jax.random.key(0), 5)
    assert draws.shape == (2, 5, 1)
    np.testing.assert_allclose(np.asarray(draws).mean((1, 2)), [100.0, 200.0], atol=3.0)
    wanted = norm.logpdf(np.asarray(draws)[..., 0], [[100.0], [200.0]], 1.0)
    np.testing.assert_allclose(pi.each().log_prob(draws), wanted, rtol=1e-4)
