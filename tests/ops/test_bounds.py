"""f <= DV <= MISA <= I(S;A), on channels whose mutual information is known.

The bounds are worked twice: by numpy in float64 with exact sums or quadrature, and by the library's
`mi.log_partition`, whose k "samples" of a policy with rational probabilities n/k are the policy itself.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import logsumexp, ndtri
from scipy.stats import norm

from leashrl.ops import mi

# --- Discrete channels ------------------------------------------------------------------

STATES, ACTIONS, ROWS, K = 3, 4, 8, 16
log_partitions = jax.jit(lambda e: jnp.stack([mi.log_partition(b, e) for b in ("f", "dv", "misa")]))
all_weights = jax.jit(lambda e: {b: mi.weights(b, e) for b in ("f", "dv", "misa")})


def shares(rng, parts, total):
    """Positive integers that sum to `total`."""
    return 1 + rng.multinomial(total - parts, rng.dirichlet(np.full(parts, 0.5)))


class Table:
    """A random joint table and policy: p(s) = rows/ROWS, pi(a|s) = counts/K, p(a|s) any numbers."""

    def __init__(self, seed: int, concentration: float = 0.5):
        rng = np.random.default_rng(seed)
        self.rows = shares(rng, STATES, ROWS)
        self.counts = np.array([shares(rng, ACTIONS, K) for _ in range(STATES)])
        conditional = rng.dirichlet(np.full(ACTIONS, concentration), size=STATES)
        conditional = (conditional + 1e-9) / (conditional + 1e-9).sum(1, keepdims=True)
        self.p_s, self.pi = self.rows / ROWS, self.counts / K
        self.p = self.p_s[:, None] * conditional  # p(s, a)
        self.p_a = self.p.sum(0)
        self.information = float((self.p * np.log(conditional / self.p_a)).sum())
        self.ba = float((self.p * np.log(self.pi / self.p_a)).sum())
        self.best = np.log(conditional / self.pi)  # T at which the bounds are tight, up to constants
        self.rng = rng

    def bounds(self, T):
        """(f, dv, misa) by exact sums."""
        known = self.ba + (self.p * T).sum()
        log_z = logsumexp(T, b=self.pi, axis=1)  # (states,)
        with np.errstate(over="ignore"):
            f = np.exp(T - 1) * self.pi * self.p_s[:, None]
        return known - np.array([f.sum(), logsumexp(log_z, b=self.p_s), self.p_s @ log_z])

    def replicate(self, T):
        """T as the energies (ROWS, K) of a batch that holds each state and each action by its share."""
        rows = [np.repeat(T[s], self.counts[s]) for s in range(STATES) for _ in range(self.rows[s])]
        return jnp.asarray(np.array(rows), jnp.float32)


tables = st.builds(Table, st.integers(0, 2**32 - 1), st.sampled_from([0.05, 0.5, 5.0]))
scales = st.sampled_from([0.0, 0.1, 1.0, 10.0, 100.0, 600.0])


@settings(deadline=None, max_examples=60)
@given(tables, scales, st.floats(-50, 50))
def test_bounds_are_ordered_for_any_energy_and_policy(table, scale, shift):
    T = scale * table.rng.standard_normal((STATES, ACTIONS)) + shift
    f, dv, misa = table.bounds(T)
    tolerance = 1e-12 * (1 + np.abs(T).max())
    assert f <= dv + tolerance
    assert dv <= misa + tolerance
    assert misa <= table.information + tolerance
    assert table.ba <= table.information + 1e-12


@settings(deadline=None, max_examples=60)
@given(tables, st.sampled_from([0.0, 0.3, 1.0, 3.0]))
def test_library_gives_the_exact_bounds(table, scale):
    T = scale * np.clip(table.rng.standard_normal((STATES, ACTIONS)), -3, 3)
    known = table.ba + (table.p * T).sum()
    np.testing.assert_allclose(
        known - log_partitions(table.replicate(T)), table.bounds(T), rtol=2e-5, atol=2e-5
    )


@settings(deadline=None, max_examples=60)
@given(tables, st.sampled_from([10.0, 100.0, 1000.0]))
def test_library_is_finite_and_below_the_information_for_large_energies(table, scale):
    T = scale * table.rng.standard_normal((STATES, ACTIONS))
    bounds = table.ba + (table.p * T).sum() - np.asarray(log_partitions(table.replicate(T)), np.float64)
    assert np.all(np.isfinite(bounds))
    tolerance = 1e-5 * (1 + np.abs(T).max())
    assert bounds[1] <= bounds[2] + tolerance
    # `f` too, clamp or not: see the test of the clamp for when that holds
    assert max(bounds) <= table.information + tolerance


@settings(deadline=None, max_examples=50)
@given(tables, st.floats(-3, 3))
def test_each_bound_is_tight_at_its_own_optimum(table, constant):
    """misa: up to a constant of each state; dv: up to one constant; f: only at 1 + log p/pi."""
    per_state = table.rng.standard_normal((STATES, 1))
    f, dv, misa = table.bounds(table.best + 1.0)
    np.testing.assert_allclose([f, dv, misa], table.information, atol=1e-9)
    f, dv, misa = table.bounds(table.best + constant)
    np.testing.assert_allclose([dv, misa], table.information, atol=1e-9)
    assert f == pytest.approx(table.information + constant - math.exp(constant - 1), abs=1e-9)
    _, dv, misa = table.bounds(table.best + per_state)
    assert misa == pytest.approx(table.information, abs=1e-9)
    assert dv <= table.information
    # dv's distance from misa there is KL(p(s) || p(s) Z(s) / Z), as in the proof of theorem 4.1
    z = np.exp(per_state[:, 0])
    kl = table.p_s @ np.log((table.p_s @ z) / z)
    assert misa - dv == pytest.approx(kl, abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(tables)
def test_weights_are_the_data_distribution_at_the_optimum(table):
    """There d bound / dT = p(s, a) - weights is zero, action by action."""
    weights = all_weights(table.replicate(table.best + 1.0))
    for bound in ("f", "dv", "misa"):
        mass = np.zeros((STATES, ACTIONS))
        states = np.repeat(np.arange(STATES), table.rows)
        for row, s in enumerate(states):
            np.add.at(
                mass[s], np.repeat(np.arange(ACTIONS), table.counts[s]), np.asarray(weights[bound])[row]
            )
        np.testing.assert_allclose(mass, table.p, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_a_free_constant_lifts_each_bound_to_the_next(seed):
    """max_c f(T + c) = dv(T) and max_c(s) dv(T + c(s)) = misa(T): what the normalisers are worth."""
    table = Table(seed)
    T = table.rng.standard_normal((STATES, ACTIONS))
    _, dv, misa = table.bounds(T)
    best_f = -minimize(lambda c: -table.bounds(T + c[0])[0], np.zeros(1), tol=1e-12).fun
    best_dv = -minimize(lambda c: -table.bounds(T + c[:, None])[1], np.zeros(STATES), tol=1e-12).fun
    assert best_f == pytest.approx(dv, abs=1e-8)
    assert best_dv == pytest.approx(misa, abs=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_ba_is_below_f_once_the_energy_is_maximised(seed):
    """Over any family with the constant T = 1, where f equals BA; here c x (a random T) + a constant."""
    table = Table(seed)
    T = table.rng.standard_normal((STATES, ACTIONS))
    assert table.bounds(np.ones_like(T))[0] == pytest.approx(table.ba, abs=1e-12)
    found = minimize(lambda x: -table.bounds(x[0] * T + x[1])[0], np.array([1.0, 0.0]))
    assert table.ba + 1e-4 < -found.fun < table.information


def test_ba_may_exceed_all_others_for_a_bad_energy():
    """One binary symmetric channel, error 1/4, policy = channel: BA is exact and T = (2, 0) spoils it."""
    channel = np.array([[0.75, 0.25], [0.25, 0.75]])
    information = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    T = 2.0 * (1 - np.eye(2))  # prefers the action that the data take less often
    energies = jnp.asarray([np.repeat(T[s], (4 * channel[s]).astype(int)) for s in range(2)], jnp.float32)
    # E_p[T] = 2/4, log Z = log((3 + e^2)/4) in both states
    by_hand = information + 0.5 - math.log((3 + math.e**2) / 4)
    _, dv, misa = information + 0.5 - np.asarray(log_partitions(energies))
    assert misa == pytest.approx(by_hand, abs=1e-6)
    assert dv == pytest.approx(by_hand, abs=1e-6)
    assert misa < information - 0.4


# --- The clamp of `f` -------------------------------------------------------------------


def test_safe_exp_is_exp_then_its_tangent():
    x = np.array([-50.0, 0.0, 19.9, 20.0, 21.0, 30.0, 1e4])
    top = math.exp(20.0)
    expected = [math.exp(-50), 1.0, math.exp(19.9), top, 2 * top, 11 * top, (1e4 - 19) * top]
    got = jax.vmap(mi.safe_exp)(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    slopes = jax.vmap(jax.grad(mi.safe_exp))(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(slopes, np.exp(np.minimum(x, 20.0)), rtol=1e-5)


def test_what_the_clamp_changes():
    """It replaces f's generator x log x by one that is infinite above x = p/pi = e^20.

    So the clamped bound stays below I(S;A) as long as p(a|s) <= e^20 pi(a|s); it may then pass DV, to
    which f as printed is inferior; where the policy all but excludes an action of the data, it may pass I.
    """
    # One state: I(S;A) = 0. The data take action 0 alone, the policy both: known = log pi(0) + log 1.
    n, T = 1000, 30.0

    def clamped(pi_0, t):  # by hand: the tangent of e^(t-1) at 21
        return math.log(pi_0) + t - pi_0 * math.exp(20) * (t - 20)

    energies = jnp.asarray([[T] + [-1e6] * (n - 1)], jnp.float32)
    f, dv, misa = math.log(1 / n) + T - np.asarray(log_partitions(energies), np.float64)
    assert f == pytest.approx(clamped(1 / n, T), rel=1e-5)
    assert f < dv == pytest.approx(misa)
    assert misa == pytest.approx(0.0, abs=1e-5)
    # The supremum over T lies below 0 while pi(0) >= e^-20 and is unbounded below that.
    grid = np.linspace(21, 1000, 2000)
    assert max(clamped(math.exp(-19.9), t) for t in grid) <= 0
    assert clamped(math.exp(-21), 1000.0) > 0
    # Unclamped it never rises above 0 = I: log pi + T - pi e^(T-1) <= 0.
    assert all(-21 + t - math.exp(t - 22) <= 1e-12 for t in grid[grid < 700])


# --- Gaussian channel -------------------------------------------------------------------

S, A = np.linspace(-7, 7, 141), np.linspace(-9, 9, 361)
P_S = norm.pdf(S) * (S[1] - S[0])  # the trapezoid rule is exact to rounding for these smooth integrands
DA = A[1] - A[0]


def gaussian_bounds(rho, policy, T):
    """(ba, f, dv, misa) in nats for s ~ N(0, 1), a = rho s + sqrt(1 - rho^2) noise; p(a) = N(0, 1).

    policy: (slope, std) of pi(a|s) = N(slope s, std^2).  T: (S, A) -> values on the grid.
    """
    slope, std = policy
    p = P_S[:, None] * norm.pdf(A, rho * S[:, None], math.sqrt(1 - rho**2)) * DA
    log_pi = norm.logpdf(A, slope * S[:, None], std)
    pi = np.exp(log_pi) * DA
    t = T(S[:, None], A[None])
    ba = (p * (log_pi - norm.logpdf(A))).sum()
    known = ba + (p * t).sum()
    log_z = logsumexp(t, b=pi, axis=1)
    log_partition = [P_S @ (np.exp(t - 1) * pi).sum(1), logsumexp(log_z, b=P_S), P_S @ log_z]
    return np.array([ba, *(known - np.array(log_partition))])


def waves(seed, scale):
    """A random smooth bounded energy."""
    rng = np.random.default_rng(seed)
    w, v, c = rng.standard_normal((3, 6))
    return lambda s, a: scale * sum(ci * np.sin(wi * s + vi * a) for wi, vi, ci in zip(w, v, c, strict=True))


CASES = [(rho, policy) for rho in (0.0, 0.5, 0.95) for policy in ((0.0, 1.0), (0.7, 0.6), (-0.5, 1.5))]


@pytest.mark.parametrize(("rho", "policy"), CASES)
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_gaussian_bounds_are_ordered(rho, policy, scale):
    information = -0.5 * math.log(1 - rho**2)
    for seed in range(2):
        ba, f, dv, misa = gaussian_bounds(rho, policy, waves(seed, scale))
        assert f <= dv <= misa + 1e-9
        assert misa <= information + 1e-9
        assert ba <= information + 1e-9


@pytest.mark.parametrize(("rho", "policy"), [c for c in CASES if c[0] < 0.9])
def test_gaussian_bounds_are_tight_at_the_optimum(rho, policy):
    """T = 1 + log p(a|s)/pi(a|s); BA by the closed form I - E_s KL of two normals."""
    slope, std = policy
    noise = math.sqrt(1 - rho**2)
    information = -0.5 * math.log(1 - rho**2)
    best = lambda s, a: 1 + norm.logpdf(a, rho * s, noise) - norm.logpdf(a, slope * s, std)
    ba, *bounds = gaussian_bounds(rho, policy, best)
    np.testing.assert_allclose(bounds, information, atol=1e-9)
    kl = math.log(std / noise) + (noise**2 + (rho - slope) ** 2) / (2 * std**2) - 0.5
    assert ba == pytest.approx(information - kl, abs=1e-9)


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_library_agrees_on_the_gaussian_channel(scale):
    """Samples at the policy's quantiles, states at theirs: what k random samples tend to."""
    rho, policy, T = 0.5, (0.7, 0.6), waves(1, scale)
    ba, *expected = gaussian_bounds(rho, policy, T)
    n, k = 400, 400
    s = ndtri((np.arange(n) + 0.5) / n)[:, None]
    a = policy[0] * s + policy[1] * ndtri((np.arange(k) + 0.5) / k)
    p = P_S[:, None] * norm.pdf(A, rho * S[:, None], math.sqrt(1 - rho**2)) * DA
    known = ba + (p * T(S[:, None], A[None])).sum()
    got = known - np.asarray(log_partitions(jnp.asarray(T(s, a), jnp.float32)))
    np.testing.assert_allclose(got, expected, atol=3e-3)
