"""Equation 15's estimators, HMC and resampling against quadrature and closed forms.

The estimators run through `benchmarks/estimators.py`, so that the published table and the tests are one code.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import norm

from leashrl.dist import Normal
from leashrl.ops import mi
from leashrl.ops.correction import Chain, importance, whitened
from leashrl.ops.mcmc import differentiate, hmc, only
from support import script

benchmark = script("benchmarks/estimators.py")
MODEST, STEEP = benchmark.PROBLEMS["modest"], benchmark.PROBLEMS["steep"]
R = 500

# --- Equation 15 ------------------------------------------------------------------------


def log_z(mean, log_std, problem):
    """log E_pi[e^T] by adaptive quadrature."""
    std = math.exp(log_std)
    top = problem.energy(1.0) + abs(problem.curvature)
    integrand = lambda u: norm.pdf(u, mean, std) * math.exp(problem.energy(math.tanh(u)) - top)
    return top + math.log(
        quad(integrand, mean - 10 * std, mean + 10 * std, epsabs=0, epsrel=1e-12, limit=200)[0]
    )


@pytest.mark.parametrize("problem", [MODEST, STEEP])
def test_equation_15_is_the_derivative_of_log_z(problem):
    """E_p[grad log pi], which the benchmark calls exact, equals finite differences of log Z."""
    at, h = (problem.mean, math.log(problem.std)), 1e-4
    differences = [
        (log_z(at[0] + h, at[1], problem) - log_z(at[0] - h, at[1], problem)) / (2 * h),
        (log_z(at[0], at[1] + h, problem) - log_z(at[0], at[1] - h, problem)) / (2 * h),
    ]
    np.testing.assert_allclose(benchmark.exact(problem), differences, rtol=1e-5, atol=1e-6)


def importance_error(problem, n):
    """The delta method's RMS error of self-normalised weights: sqrt(E_p[w g g] / n), w = p/pi, as a share."""
    z = np.linspace(-10, 10, 20_001)
    pi = norm.pdf(z) * (z[1] - z[0])
    t = problem.energy(np.tanh(problem.mean + problem.std * z))
    w = np.exp(t - logsumexp(t, b=pi))
    g = np.stack([z / problem.std, z**2 - 1]) - benchmark.exact(problem)[:, None]
    return math.sqrt((pi * w**2 * (g**2).sum(0)).sum() / n) / np.linalg.norm(benchmark.exact(problem))


def test_snis_error_falls_as_the_square_root_of_n():
    """And stands where the delta method puts it; the bias falls faster, as 1/n."""
    few, many = (benchmark.measure("snis", MODEST, n, R) for n in (50, 800))
    assert few["rms"] == pytest.approx(importance_error(MODEST, 50), rel=0.12)
    assert many["rms"] == pytest.approx(importance_error(MODEST, 800), rel=0.12)
    assert few["rms"] / many["rms"] == pytest.approx(4.0, rel=0.2)
    assert many["bias"] < 4 * many["rms"] / math.sqrt(R)
    few, many = (benchmark.measure("snis", STEEP, n, R) for n in (50, 800))
    assert few["bias"] > 0.1  # seldom does one of 50 samples reach p, two deviations away
    assert many["bias"] < few["bias"] / 4


def test_reparam_error_falls_as_the_square_root_of_n():
    """It differentiates T as well: less error on a flat energy, which the paper's 15 does not use."""
    few, many = (benchmark.measure("reparam", MODEST, n, R) for n in (50, 800))
    assert few["rms"] / many["rms"] == pytest.approx(4.0, rel=0.2)
    assert many["bias"] < 4 * many["rms"] / math.sqrt(R)
    assert few["rms"] < 0.15


def test_hmc_is_within_the_error_of_its_samples():
    """In whitened coordinates, on both energies: unbiased, and better than importance where that is poor."""
    name = "hmc, step 0.8 (default)"
    modest, steep = (benchmark.measure(name, problem, 50, R) for problem in (MODEST, STEEP))
    for figures in (modest, steep):
        assert figures["acceptance"] > 0.8
        assert figures["bias"] < 4 * figures["rms"] / math.sqrt(R)
    # 50 independent draws from p would err by sqrt(Var_p / 50); a chain's are correlated, or the reverse.
    z = np.linspace(-10, 10, 20_001)
    for problem, figures in ((MODEST, modest), (STEEP, steep)):
        p = norm.pdf(z) * np.exp(problem.energy(np.tanh(problem.mean + problem.std * z)))
        p /= p.sum()
        truth = benchmark.exact(problem)
        g = np.stack([z / problem.std, z**2 - 1]) - truth[:, None]
        independent = math.sqrt((p * (g**2).sum(0)).sum() / 50) / np.linalg.norm(truth)
        assert 0.5 * independent < figures["rms"] < 2.0 * independent
    assert steep["rms"] < 0.3 * benchmark.measure("snis", STEEP, 50, R)["rms"]


def test_authors_chain_stays_at_its_start():
    """hmc-action at step 1.0 accepts (nearly) nothing: its gradient is that of the data's likelihood."""
    problem, n = STEEP, 50
    authors = benchmark.measure("hmc-action, step 1.0 (authors)", problem, n, R)
    assert authors["acceptance"] < 0.01
    # E_data[grad log pi] in closed form, from the normal distribution of the data's atanh(a)
    gap = benchmark.DATA_MEAN - problem.mean
    at_start = np.array([gap, gap**2 + benchmark.DATA_STD**2 - problem.std**2]) / problem.std**2
    gradients, _ = benchmark.estimates(jax.random.key(1), "hmc-action", 1.0, problem, n, R)
    spread = np.asarray(gradients).std(0) / math.sqrt(R)
    assert np.all(np.abs(np.asarray(gradients).mean(0) - at_start) < 4 * spread + 0.05)
    sane = benchmark.measure("hmc-action, step 0.1", problem, n, R)
    assert sane["acceptance"] > 0.85
    assert sane["rms"] < 0.15 < 1.0 < authors["rms"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bound", "estimator"), [("misa", "snis"), ("dv", "snis"), ("f", "snis"), ("dv", "hmc")]
)
def test_a_state_counts_by_its_partition(bound, estimator):
    """Two kinds of states: misa weighs both alike, dv by Z(s) / Z, f by Z(s) / e."""
    kinds = [MODEST._replace(slope=1.0), MODEST._replace(mean=-0.4)]
    z = np.exp([log_z(p.mean, math.log(p.std), p) for p in kinds])
    mass = {"misa": np.ones(2), "dv": z / z.mean(), "f": z / math.e}[bound] / 2
    expected = (mass[:, None] * np.stack([benchmark.exact(p) for p in kinds])).sum(0)
    columns = lambda *xs: jnp.repeat(jnp.asarray(xs, jnp.float32), R)[:, None]
    mean, log_std = columns(*(p.mean for p in kinds)), columns(*(math.log(p.std) for p in kinds))
    slope, curvature = columns(*(p.slope for p in kinds)), columns(*(p.curvature for p in kinds))
    gradient = state_gradient(jax.random.key(3), bound, estimator, mean, log_std, slope, curvature)
    np.testing.assert_allclose(np.asarray(gradient).sum((1, 2)), expected, atol=0.1)
    # each kind alone, whose sums the total could hide
    halves = np.asarray(gradient).reshape(2, 2, R).sum(2).T
    np.testing.assert_allclose(
        halves, mass[:, None] * np.stack([benchmark.exact(p) for p in kinds]), atol=0.1
    )


@partial(jax.jit, static_argnums=(1, 2))
def state_gradient(key, bound, estimator, mean, log_std, slope, curvature):
    pi = Normal(mean, log_std)
    energy = lambda _, a: (slope * a + curvature * a**2)[:, 0]
    u = jnp.moveaxis(pi.sample(key, (200,)), 0, 1)
    a = jnp.tanh(u)
    energies = (slope[:, None] * a + curvature[:, None] * a**2)[..., 0]
    if estimator == "snis":
        points = importance(bound, u, energies)
    else:
        chain = Chain(30, burn_in=2, leapfrog=2, adapt=2, step_size=jnp.float32(0.8))
        points = whitened(bound, pi, mean, u, energies, energy, jax.random.fold_in(key, 1), chain)
    total = lambda m, s: jnp.sum(points.weight * Normal(m[:, None], s[:, None]).log_prob(points.u))
    return jnp.stack(jax.grad(total, argnums=(0, 1))(mean, log_std))


# --- Hamiltonian Monte Carlo ------------------------------------------------------------

CHAINS = 4000


def bimodal(x):
    """Modes of unequal weight at -1 and 2: log (0.3 N(-1, 0.5) + 0.7 N(2, 0.8))."""
    x = x[..., 0]
    normal = lambda m, s: -0.5 * ((x - m) / s) ** 2 - math.log(s)
    return jnp.logaddexp(math.log(0.3) + normal(-1.0, 0.5), math.log(0.7) + normal(2.0, 0.8))


@partial(jax.jit, static_argnames=("target", "samples", "burn_in", "leapfrog", "adapt"))
def walk(target, init, key, step_size, samples=1, burn_in=100, leapfrog=3, adapt=0):
    settings = {"samples": samples, "burn_in": burn_in, "leapfrog": leapfrog, "adapt": adapt}
    return hmc(differentiate(target), init, key, step_size=jnp.asarray(step_size), **settings)


def standard(x):
    return -0.5 * jnp.sum(x**2, -1)


def exact_bimodal(rng, n):
    left = rng.random(n) < 0.3
    return np.where(left, rng.normal(-1, 0.5, n), rng.normal(2, 0.8, n))


def assert_moments(x, density, low=-12.0, high=12.0):
    """Mean, variance, third moment and P(x > 0) by quadrature, within 4 standard errors of x's own."""
    points = [0.0]
    total = quad(density, low, high, points=points)[0]
    for moment in (lambda x: x, lambda x: x**2, lambda x: x**3, lambda x: 1.0 * (x > 0)):
        expected = quad(lambda t, m=moment: m(t) * density(t) / total, low, high, points=points)[0]
        values = moment(np.asarray(x, np.float64))
        assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(values.size)


def test_hmc_reaches_a_tilted_gaussian():
    """From a bad start: exp(3x - x^2 / 0.5) is N(0.75, 0.25)."""
    target = lambda x: 3 * x[..., 0] - 2 * x[..., 0] ** 2
    chains = walk(target, jnp.full((CHAINS, 1), -2.0), jax.random.key(0), 0.4)
    assert_moments(chains.samples[-1, :, 0], lambda x: norm.pdf(x, 0.75, 0.5))


def test_hmc_leaves_a_bimodal_target_invariant():
    """From exact samples, at a step that is refused now and then; each kept state has the target's law."""
    start = exact_bimodal(np.random.default_rng(0), CHAINS)
    chains = walk(bimodal, jnp.asarray(start, jnp.float32)[:, None], jax.random.key(1), 0.9)
    assert 0.5 < chains.acceptance < 0.95
    x = np.asarray(chains.samples[-1, :, 0])
    assert np.mean(x != start.astype(np.float32)) == 1.0  # every chain has moved
    assert_moments(x, lambda x: 0.3 * norm.pdf(x, -1, 0.5) + 0.7 * norm.pdf(x, 2, 0.8))


def test_hmc_crosses_between_modes():
    chains = walk(bimodal, jnp.full((CHAINS, 1), 2.0), jax.random.key(2), 0.9)
    assert_moments(chains.samples[-1, :, 0], lambda x: 0.3 * norm.pdf(x, -1, 0.5) + 0.7 * norm.pdf(x, 2, 0.8))


def mean_acceptance(step, leapfrog):
    """E[min(1, e^-dH)] on a standard normal, by quadrature over position and momentum."""
    grid = np.linspace(-6, 6, 401)
    x, p = (v.ravel() for v in np.meshgrid(grid, grid))
    weight = norm.pdf(x) * norm.pdf(p) * (grid[1] - grid[0]) ** 2
    before = (x**2 + p**2) / 2
    for _ in range(leapfrog):  # a kick, a drift, a kick
        p = p - step / 2 * x
        x = x + step * p
        p = p - step / 2 * x
    return (weight * np.exp(np.minimum(0, before - (x**2 + p**2) / 2))).sum()


@pytest.mark.parametrize("step", [0.05, 0.7, 1.8])
def test_acceptance_is_that_of_the_leapfrog_integrator(step):
    start = np.random.default_rng(3).standard_normal((CHAINS, 1)).astype(np.float32)
    chains = walk(standard, jnp.asarray(start), jax.random.key(3), step)
    assert float(chains.acceptance) == pytest.approx(mean_acceptance(step, 3), abs=0.01)


def test_acceptance_tends_to_one_with_small_steps():
    rates = [mean_acceptance(step, 3) for step in (1.8, 0.7, 0.05)]
    assert rates == sorted(rates)
    assert rates[-1] > 0.9999


@pytest.mark.parametrize(("step", "expected"), [(0.01, 0.01 * 1.01**4), (10.0, 10.0 / 1.01**4)])
def test_step_size_adapts_towards_its_acceptance(step, expected):
    """By 1 % an iteration, and only during the first `adapt` of them."""
    chains = walk(standard, jnp.ones((8, 1)), jax.random.key(4), step, samples=3, burn_in=6, adapt=4)
    assert float(chains.step_size) == pytest.approx(expected, rel=1e-5)


def test_proposals_without_a_density_are_refused():
    """The uniform law on (-1, 1), whose log density is NaN outside."""
    inside = lambda x: 0.0 * jnp.arctanh(x[..., 0])
    start = np.random.default_rng(5).uniform(-1, 1, (CHAINS, 1)).astype(np.float32)
    chains = walk(inside, jnp.asarray(start), jax.random.key(5), 0.3)
    x = np.asarray(chains.samples[-1, :, 0])
    assert np.all(np.abs(x) < 1)
    assert 0.3 < chains.acceptance < 0.9
    assert x.mean() == pytest.approx(0.0, abs=4 * math.sqrt(1 / 3 / CHAINS))
    assert x.var() == pytest.approx(1 / 3, abs=4 * math.sqrt(4 / 45 / CHAINS))


# --- Weights and resampling -------------------------------------------------------------

ENERGIES = np.random.default_rng(6).normal(0.0, 1.5, (3, 5))


def partition(bound, e):
    """In float64 numpy; no energy here is near the clamp of `f`."""
    if bound == "misa":
        return np.mean(logsumexp(e, axis=1) - math.log(e.shape[1]))
    if bound == "dv":
        return logsumexp(e) - math.log(e.size)
    return np.mean(np.exp(e - 1))


@pytest.mark.parametrize("bound", ["misa", "dv", "f"])
def test_weights_are_derivatives(bound):
    h, expected = 1e-5, np.zeros_like(ENERGIES)
    for i in np.ndindex(ENERGIES.shape):
        bump = np.zeros_like(ENERGIES)
        bump[i] = h
        expected[i] = (partition(bound, ENERGIES + bump) - partition(bound, ENERGIES - bump)) / (2 * h)
    got = mi.weights(bound, jnp.asarray(ENERGIES, jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)
    sums = np.asarray(got).sum(1)
    if bound == "misa":
        np.testing.assert_allclose(sums, 1 / 3, rtol=1e-6)  # a state's weights sum to 1 / batch
    if bound == "dv":
        assert sums.sum() == pytest.approx(1.0, rel=1e-6)


def test_barber_agakov_has_no_partition():
    assert float(mi.log_partition("ba", jnp.asarray(ENERGIES, jnp.float32))) == 0.0
    assert not np.any(mi.weights("ba", jnp.asarray(ENERGIES, jnp.float32)))


@pytest.mark.parametrize("bound", ["misa", "dv", "f"])
@pytest.mark.parametrize("m", [1, 3])
def test_resampling_is_unbiased(bound, m):
    """Over many keys, mass / m times the count of each action is its weight."""
    weights = mi.weights(bound, jnp.asarray(ENERGIES, jnp.float32))
    keys = jax.random.split(jax.random.key(7), 20_000)
    index, mass = jax.jit(jax.vmap(lambda key: mi.resample(key, weights, m)))(keys)
    np.testing.assert_allclose(mass[0], np.asarray(weights).sum(1), rtol=1e-6)
    counts = (np.asarray(index)[..., None] == np.arange(5)).sum(2)  # (keys, batch, k)
    estimates = np.asarray(mass)[..., None] * counts / m
    error = estimates.std(0) / math.sqrt(len(keys)) + 1e-7
    assert np.all(np.abs(estimates.mean(0) - np.asarray(weights)) < 4.5 * error)
    # stratified: a count never differs from m times its share by one or more
    share = m * np.asarray(weights) / np.asarray(weights).sum(1, keepdims=True)
    assert np.all(np.abs(counts - share) < 1.0 + 1e-4)


def test_resampling_never_draws_what_has_no_weight():
    weights = jnp.asarray([[0.0, 0.5, 0.0, 0.5, 0.0]])
    keys = jax.random.split(jax.random.key(8), 1000)
    index, mass = jax.vmap(lambda key: mi.resample(key, weights, 1))(keys)
    assert set(np.asarray(index).ravel()) == {1, 3}
    assert np.all(np.asarray(mass) == 1.0)


def test_only_the_rows_inside_are_evaluated_and_nothing_changes():
    """Chains that ask for the density inside (-1, 1) alone equal, bit for bit, those that ask everywhere."""
    rng = np.random.default_rng(6)
    start = jnp.asarray(rng.uniform(-0.9, 0.9, (50, 2)), jnp.float32)  # no multiple of the block
    slope = jnp.asarray(rng.normal(size=50), jnp.float32)
    density = lambda x, slope: jnp.sum(jnp.arctanh(x) ** 2, -1) * slope
    inside = lambda x: jnp.all(jnp.abs(x) < 1, -1)
    everywhere = differentiate(lambda x: density(x, slope))
    settings = {"samples": 20, "burn_in": 3, "leapfrog": 2, "step_size": jnp.float32(0.5), "adapt": 2}
    runs = [
        jax.jit(lambda start, key, e=evaluate: hmc(e, start, key, **settings))(start, jax.random.key(6))
        for evaluate in (everywhere, only(inside, differentiate(density), slope))
    ]
    assert 0.1 < runs[0].acceptance < 0.9
    np.testing.assert_array_equal(*(run.samples for run in runs))
    assert runs[0].acceptance == runs[1].acceptance


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1, 16, 17, 50])
def test_only_counts_rows_once(count):
    """Whatever the number of rows that count: their values and gradients, NaN for the others."""
    x = jnp.linspace(1.0, 2.0, 50)[:, None]
    x = x.at[jnp.asarray(np.random.default_rng(count).permutation(50)[count:])].multiply(-1)
    value, gradient = jax.jit(only(lambda x: x[:, 0] > 0, differentiate(lambda x: x[:, 0] ** 3)))(x)
    assert int(jnp.isfinite(value).sum()) == int(jnp.isfinite(gradient).sum()) == count
    expected = np.where(x[:, 0] > 0, x[:, 0] ** 3, np.nan)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[:, 0], np.where(x[:, 0] > 0, 3 * x[:, 0] ** 2, np.nan), rtol=1e-6)
