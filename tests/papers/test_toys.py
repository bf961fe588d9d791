"""The toy figures of BRAC+ and Fisher-BRC: against closed forms and other numerics, and as commands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from leashrl.ops import divergence
from leashrl.papers import brac_plus, fisher_brc

SMALL = {
    ("brac-plus", "4"): ["steps=3", "seeds=2"],
    ("brac-plus", "5"): ["sigma=1"],
    ("fisher-brc", "1"): ["steps=2", "seeds=2", "hidden=8"],
}
FIRST = {
    ("brac-plus", "4"): {"penalty": "without"},
    ("brac-plus", "5"): {"behaviour": "one mode", "divergence": "KL(π‖b)", "minimum at": 0.0, "lowest": True},
    ("fisher-brc", "1"): {"method": "BRAC", "coefficient": 0.0},
}
ROWS = {("brac-plus", "4"): 2, ("brac-plus", "5"): 10, ("fisher-brc", "1"): 12}


@pytest.mark.slow
@pytest.mark.parametrize("which", list(SMALL), ids=" ".join)
def test_from_the_command_line(which, tmp_path, document):
    name, number = which
    argv = ["paper", name, "--figure", number, "--out", str(tmp_path), "--set", *SMALL[which]]
    found = document(*argv)
    file = tmp_path / f"{name}-figure-{number}.png"
    assert found["files"] == [str(file)] and file.read_bytes().startswith(b"\x89PNG")
    rows = found["rows"]
    assert len(rows) == ROWS[which] and FIRST[which].items() <= rows[0].items()
    assert all(row.keys() == rows[0].keys() for row in rows)  # a table of them can be printed
    assert all(np.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))


@pytest.mark.parametrize(
    ("which", "option", "words"),
    [
        (("brac-plus", "4"), "seeds=0", "seeds >= 1"),
        (("brac-plus", "4"), "steps=0", "steps >= 1"),
        (("brac-plus", "4"), "penalty=-1", "penalty >= 0"),
        (("brac-plus", "5"), "sigma=0", "sigma >= 0.05"),
        (("brac-plus", "5"), "sigm=1", "did you mean 'sigma'?"),
        (("fisher-brc", "1"), "seeds=0", "seeds >= 1"),
        (("fisher-brc", "1"), "steps=0", "steps >= 1"),
        (("fisher-brc", "1"), "hidden=()", "a hidden layer"),
    ],
)
def test_a_mistake_is_one_line(which, option, words, tmp_path, refused):
    assert words in refused("paper", which[0], "--figure", which[1], "--out", str(tmp_path), "--set", option)


# --- BRAC+, figure 4 -----------------------------------------------------------


def test_the_penalty_flattens_where_there_are_no_data():
    grid = np.linspace(-2.0, 2.0, 81)
    keys = jax.random.split(jax.random.key(1), 1)
    x, y, values, slopes = map(np.asarray, brac_plus.regress(keys, 0.1, grid, 150))
    assert x.shape == y.shape == (1, 100) and values.shape == slopes.shape == (1, 2, 81)
    assert np.abs(x).max() <= 0.8 and np.std(y - 5 * np.sin(np.pi * x)) == pytest.approx(0.5, abs=0.1)
    far = np.abs(grid) > 1
    without, with_it = np.abs(slopes[0][:, far]).mean(axis=1)
    assert with_it < 0.1 * without
    # the reported slope is that of the reported values, but at kinks
    off = np.diff(values[0, 0]) / 0.05 - (slopes[0, 0, 1:] + slopes[0, 0, :-1]) / 2
    assert np.median(np.abs(off)) < 1e-3


def test_fit_is_adam_with_a_new_key_each_step():
    """The loss |x| has gradient ±1, which Adam turns into steps of its rate."""
    found = brac_plus.fit(lambda x, key: jnp.abs(x), jnp.float32(2.0), jax.random.key(0), 10, 0.1)
    assert float(found) == pytest.approx(1.0, abs=1e-5)
    noisy = lambda steps: float(
        brac_plus.fit(lambda x, key: x * jax.random.normal(key), jnp.zeros(()), jax.random.key(0), steps, 0.1)
    )
    assert abs(noisy(20)) < 1.0  # one key for all would have gone 2.0 in one direction


# --- BRAC+, figure 5 -----------------------------------------------------------

ONE, TWO = brac_plus.BEHAVIOURS.values()
X = brac_plus.X


def moments(modes):
    weight, mean, std = np.array(modes).T
    centre = weight @ mean
    return centre, weight @ (std**2 + mean**2) - centre**2


@pytest.fixture(scope="module")
def kls():
    return {len(modes): brac_plus.kls(modes) for modes in (ONE, TWO)}


def test_kl_against_closed_forms(kls):
    np.testing.assert_allclose(kls[1]["forward"], np.log(1 / 0.2) + (0.04 + X**2) / 2 - 0.5, rtol=1e-9)
    u = np.linspace(-8, 8, 20001)
    for modes in (ONE, TWO):  # KL(b || N(x, s)) = -H(b) + log(s sqrt(2 pi)) + (var + (centre - x)^2) / 2 s^2
        b = sum(weight * stats.norm.pdf(u, mean, std) for weight, mean, std in modes)
        negative_entropy = np.trapezoid(b * np.log(b), u)
        centre, variance = moments(modes)
        wanted = negative_entropy + np.log(0.2 * np.sqrt(2 * np.pi)) + (variance + (centre - X) ** 2) / 0.08
        np.testing.assert_allclose(kls[len(modes)]["backward"], wanted, rtol=1e-7)


def test_the_bound_is_one_and_is_the_kl_of_one_mode(kls):
    one, two = (brac_plus.bound(modes) - kls[len(modes)]["forward"] for modes in (ONE, TWO))
    assert np.abs(one).max() < 1e-4  # float32 beside 51
    assert two.min() > -1e-3 and two.max() > 0.1


@pytest.mark.parametrize("sigma", [0.3, 20.0])
def test_mmd_against_the_library_at_evenly_spaced_quantiles(sigma):
    n = 500
    levels = (np.arange(n) + 0.5) / n
    parts = [
        stats.norm.ppf((np.arange(m) + 0.5) / m, mean, std)
        for m, (_, mean, std) in zip((150, 350), TWO, strict=True)
    ]
    behaviours = {"one": stats.norm.ppf(levels), "two": np.concatenate(parts)}
    for modes, samples in ((ONE, behaviours["one"]), (TWO, behaviours["two"])):
        found = brac_plus.squared_mmd(modes, sigma)
        for x in (-2.0, 0.25, 1.0):
            policy = stats.norm.ppf(levels, x, 0.2)
            pair = [jnp.asarray(a, jnp.float32)[None, :, None] for a in (policy, samples)]
            wanted = float(divergence.mmd(*pair, "laplacian", sigma)[0])
            assert found[np.abs(X - x).argmin()] == pytest.approx(wanted, abs=2e-3 * found.max())


def test_where_the_divergences_are_least(kls):
    at = lambda values: [round(float(X[i]), 2) for i in brac_plus.minima(values)]
    assert at(kls[2]["forward"]) == [-1.5, 1.0]  # the modes
    assert at(kls[2]["backward"]) == [0.25]  # the mean: 0.3 * -1.5 + 0.7
    # A wide kernel's MMD is the energy distance, which is least where E|x + 0.2 z - b| is: at the median m of
    # b - 0.2 z, 0.3 + 0.7 Phi((m - 1) / sqrt(0.5^2 + 0.2^2)) = 1/2.
    (wide,) = at(brac_plus.squared_mmd(TWO, 1000.0))
    assert wide == pytest.approx(1 + np.sqrt(0.29) * stats.norm.ppf(2 / 7), abs=0.006)
    assert at(brac_plus.squared_mmd(TWO, 0.1)) == [-1.5, 1.0]  # a narrow one's sees the modes
    for values in (*kls[1].values(), brac_plus.squared_mmd(ONE, 20.0)):
        assert at(values) == [0.0]


def test_minima():
    assert brac_plus.minima(np.array([3.0, 1.0, 2.0, 0.0, 5.0])) == [1, 3]
    assert brac_plus.minima(np.array([3.0, 1.0, 1.0, 2.0])) == [1]  # a plateau's first
    assert brac_plus.minima(np.array([3.0, 2.0, 2.0, 1.0])) == []  # a stair
    assert brac_plus.minima(np.array([3.0, 2.0, 2.0 + 1e-12, 1.0])) == []  # rounding


# --- Fisher-BRC, figure 1 ------------------------------------------------------


def test_laplace_by_maximum_likelihood():
    action = jax.random.uniform(jax.random.key(0), (1000, 1), minval=-0.25, maxval=0.25)
    location, scale = fisher_brc.laplace(action)
    wanted = stats.laplace.fit(np.asarray(action, float).ravel())
    np.testing.assert_allclose([location, scale], wanted, atol=1e-6)
    grid = jnp.linspace(-1.0, 1.0, 5)
    np.testing.assert_allclose(
        fisher_brc.log_laplace(grid, location, scale), stats.laplace.logpdf(grid, *wanted), atol=1e-5
    )


def test_the_exact_landscape_minimises_the_loss():
    """The same loss on a fine grid, where it is quadratic in O's values, solved as a linear system."""
    n = 1600
    a = np.linspace(-1.0, 1.0, n + 1)
    h = a[1] - a[0]
    log_mu = stats.laplace.logpdf(a, 0, 0.125)
    inside = (np.abs(a) < 0.25 + h / 4) * np.where(
        np.isclose(np.abs(a), 0.25), 0.5, 1.0
    )  # halves at the ends
    difference = np.diff(np.eye(n + 1), axis=0)
    for penalty in (1e-3, 0.1):
        # E_{U(-1/4, 1/4)} (O - t)^2 + penalty E_{U(-1, 1)} O'^2
        matrix = np.diag(2.0 * h * inside) + penalty * 0.5 / h * difference.T @ difference
        offset = np.linalg.solve(matrix, 2.0 * h * inside * (np.abs(a) - 0.125 - log_mu))
        np.testing.assert_allclose(fisher_brc.limit(penalty, a), offset + log_mu, atol=3e-3)


def test_for_which_penalties_the_exact_landscape_is_highest_apart_from_0():
    a = np.linspace(0.0, 1.0, 100_001)
    top = lambda penalty: a[fisher_brc.limit(penalty, a).argmax()]
    assert top(1e-8) == pytest.approx(0.25, abs=1e-3)  # no overflow either
    assert top(0.00167) > 0.2 and top(0.00169) == 0
    climbs = lambda penalty: (np.diff(fisher_brc.limit(penalty, a)) > 0).any()
    assert climbs(0.00749) and not climbs(0.00751)


def test_a_large_penalty_leaves_the_behaviours_density():
    keys = jax.random.split(jax.random.key(0), 1)
    critics, log_mu = fisher_brc.landscape(keys, (0.0, 100.0), (8,), 300)
    assert critics.shape == (1, 3, 801) and log_mu.shape == (1, 801)
    _, free, flat = critics[0]
    assert np.ptp(flat) < 0.2 < np.ptp(free)
    assert (flat + log_mu[0]).argmax() == log_mu[0].argmax()
    assert abs(fisher_brc.GRID[log_mu[0].argmax()]) < 0.05
