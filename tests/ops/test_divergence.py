"""Divergences, densities, slopes and multipliers against quadrature, direct sums and closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from leashrl import nn
from leashrl.dist import Mixture, Normal, independent_log_prob, kl, log_det_tanh
from leashrl.models.behaviour import autoencoders, one_of
from leashrl.nn.mlp import bounded
from leashrl.ops import divergence, dual, slope
from leashrl.optim import adam_init, cosine, descend, staircase
from leashrl.types import Array, pytree
from support.draws import normal


def one(mean, std):
    return Normal(jnp.float32([mean]), jnp.log(jnp.float32([std])))


# --- KL ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.5, 0.3), (-0.7, 2.0)])
def test_kl_of_two_normals_by_quadrature(mean, std):
    p, q = norm(mean, std), norm(0.4, 0.8)
    wanted = quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), mean - 12 * std, mean + 12 * std)[0]
    assert float(kl(one(mean, std), one(0.4, 0.8))) == pytest.approx(wanted, abs=1e-5)


def test_kl_to_a_mixture_is_an_upper_bound_and_exact_for_equal_components():
    weights, means, stds = np.array([0.3, 0.7]), np.array([-1.5, 1.0]), np.array([0.3, 0.5])
    q = Mixture(
        jnp.log(jnp.float32(weights)), jnp.float32(means)[:, None], jnp.log(jnp.float32(stds))[:, None]
    )

    def by_quadrature(x, log_density):
        p = norm(x, 0.2)
        return quad(lambda u: p.pdf(u) * (p.logpdf(u) - log_density(u)), x - 2, x + 2)[0]

    for x in (-1.5, -0.2, 0.9):
        truth = by_quadrature(x, lambda u: np.log(np.sum(weights * norm.pdf(u, means, stds))))
        each = [by_quadrature(x, norm(m, s).logpdf) for m, s in zip(means, stds, strict=True)]
        wanted = -np.log(np.sum(weights * np.exp(-np.array(each))))
        found = float(divergence.kl_to_mixture(one(x, 0.2), q))
        assert found == pytest.approx(wanted, abs=1e-4) and found >= truth - 1e-4
    twice = Mixture(jnp.float32([0.3, -0.4]), jnp.full((2, 1), 0.4), jnp.log(jnp.full((2, 1), 0.8)))
    found = float(divergence.kl_to_mixture(one(-0.7, 2.0), twice))
    assert found == pytest.approx(float(kl(one(-0.7, 2.0), one(0.4, 0.8))), abs=1e-5)


# A linear-Gaussian autoencoder: z ~ N(0, 1), u | z ~ N(A z + B, S^2). Then u ~ N(B, A^2 + S^2), and the
# posterior of z given u is N(G (u - B), T^2) with G = A / (A^2 + S^2), T^2 = S^2 / (A^2 + S^2).
A, B, S = 0.8, 0.3, 0.5
G, T = A / (A**2 + S**2), np.sqrt(S**2 / (A**2 + S**2))


def decoded(z, a=A):
    return Normal(a * z + B, jnp.full_like(z, np.log(S)))


def posterior(u, t=T):
    return Normal(G * (u - B), jnp.full_like(u, np.log(t)))


def bound(mean, std, q, a=A, n=400_000):
    """Equation 7, averaged over many u ~ pi and z ~ q(.|u)."""
    pi = Normal(jnp.full((n, 1), mean), jnp.full((n, 1), np.log(std)))
    keys = jax.random.split(jax.random.key(0))
    post = q(pi.sample(keys[0]))
    return float(jnp.mean(divergence.kl_bound(pi, decoded(post.sample(keys[1]), a), post)))


def monte_carlo_kl(mean, std, marginal, n=400_000):
    u = np.random.default_rng(1).normal(mean, std, n)
    return np.mean(norm.logpdf(u, mean, std) - marginal.logpdf(u))


@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.9), (1.2, 0.3), (-1.0, 0.05)])
def test_the_analytic_bound_is_above_kl_by_the_posteriors_spread(mean, std):
    """With the exact posterior the gap is E KL(q(z|u) || p(z|u')), u and u' ~ pi: G^2 std^2 / T^2."""
    truth = monte_carlo_kl(mean, std, norm(B, np.sqrt(A**2 + S**2)))
    found = bound(mean, std, posterior)
    assert found >= truth - 0.01
    assert found - truth == pytest.approx(G**2 * std**2 / T**2, abs=0.015)
    assert bound(mean, std, lambda u: posterior(u, t=0.2)) > found  # a wrong posterior: further above


def test_the_analytic_bound_is_kl_where_the_posterior_is_exact_for_all_actions():
    """A decoder that does not look at z: its posterior is the prior, whatever the action."""
    prior = lambda u: Normal(jnp.zeros_like(u), jnp.zeros_like(u))
    truth = monte_carlo_kl(0.7, 0.4, norm(B, S))
    assert bound(0.7, 0.4, prior, a=0.0) == pytest.approx(truth, abs=0.01)
    assert truth == pytest.approx(float(kl(one(0.7, 0.4), one(B, S))), abs=0.01)


def test_the_evidence_bound_is_the_density_under_the_exact_posterior():
    """What `cross-entropy` and pre-training use: z drawn from the very action's posterior."""
    u = jnp.repeat(jnp.float32([[-1.0], [0.3], [2.0]]), 300_000, axis=0)
    post = posterior(u)
    loss = divergence.elbo_loss(decoded(post.sample(jax.random.key(2))), post, u).reshape(3, -1).mean(1)
    wanted = -norm.logpdf([-1.0, 0.3, 2.0], B, np.sqrt(A**2 + S**2))
    np.testing.assert_allclose(loss, wanted, atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kl", "cross-entropy", "mmd"])
@pytest.mark.parametrize("components", [1, 3])
def test_distances_of_an_ensemble(kind, components):
    """(batch,), the mean over members; one member alone gives its own."""
    behaviour = autoencoders(
        nn.vae(3, 2, 4, (8,), components=components), members=3, kind=kind, latents=2, samples=4
    )
    params = behaviour.init(jax.random.key(0))
    obs, pi = normal(5, 3), Normal(normal(5, 2), normal(5, 2))
    find = lambda p: behaviour.distance(p, pi, obs, jax.random.key(1), jnp.float32(10.0))
    whole, alone = find(params), find(one_of(params, jax.random.key(2)))
    assert whole.shape == alone.shape == (5,)
    assert np.all(np.isfinite(whole)) and not np.allclose(whole, alone)
    if kind == "kl":
        assert np.all(whole > 0)
    assert behaviour.loss(params, obs, pi.mean, jax.random.key(3)).shape == ()


# --- Mixtures ------------------------------------------------------------------------------


def test_a_mixture_density_integrates_to_one_over_actions():
    """An own mixture for each of two dimensions, squashed: over the square of actions."""
    mu = Mixture(0.5 * normal(2, 5), normal(2, 5, 1), 0.3 * normal(2, 5, 1))

    points, weights = np.polynomial.legendre.leggauss(300)
    u = jnp.arctanh(jnp.float32(np.stack(np.meshgrid(points, points), axis=-1).reshape(-1, 2)))
    repeated = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(u), *x.shape)), mu)
    density = jnp.exp(independent_log_prob(repeated, u) - log_det_tanh(u))
    assert float(np.outer(weights, weights).ravel() @ density) == pytest.approx(1.0, abs=2e-3)


def test_a_joint_mixture_is_scipys_weighted_sum():
    mu = Mixture(normal(7, 3), normal(7, 3, 2), 0.5 * normal(7, 3, 2))
    u = normal(7, 2)
    weights = np.exp(mu.logits) / np.exp(mu.logits).sum(-1, keepdims=True)
    each = norm.pdf(np.asarray(u)[:, None], np.asarray(mu.mean), np.exp(mu.log_std)).prod(-1)
    np.testing.assert_allclose(mu.log_prob(u), np.log((weights * each).sum(-1)), rtol=1e-4, atol=1e-5)


def test_samples_of_a_mixture_have_its_moments():
    logits, mean, std = np.log([0.3, 0.7]), np.array([-1.5, 1.0]), np.array([0.3, 0.5])
    many = lambda x: jnp.broadcast_to(jnp.float32(x), (200_000, 2))
    u = Mixture(many(logits), many(mean)[..., None], many(np.log(std))[..., None]).sample(jax.random.key(0))
    assert u.shape == (200_000, 1)
    first = 0.3 * -1.5 + 0.7 * 1.0
    second = 0.3 * (0.3**2 + 1.5**2) + 0.7 * (0.5**2 + 1.0)
    assert float(jnp.mean(u)) == pytest.approx(first, abs=0.01)
    assert float(jnp.mean(u**2)) == pytest.approx(second, abs=0.02)


@pytest.mark.parametrize(
    ("bound", "raw", "wanted"),
    [("tanh", 0.0, -2.5), ("tanh", 20.0, 0.0), ("softplus", 0.0, np.log(np.log(2.0))), ("clip", 9.0, 2.0)],
)
def test_how_a_standard_deviation_is_bounded(bound, raw, wanted):
    low_high = (-5.0, 0.0) if bound == "tanh" else (-5.0, 2.0)
    assert float(bounded(jnp.float32(raw), bound, low_high)) == pytest.approx(wanted, abs=1e-6)


# --- MMD and dual forms --------------------------------------------------------------------


@pytest.mark.parametrize("kernel", divergence.KERNELS)
def test_mmd_against_a_direct_sum(kernel):
    x, y, sigma = np.asarray(normal(3, 4, 2)), np.asarray(normal(3, 5, 2)), 1.7

    def k(a, b):
        gap = np.abs(a - b).sum() if kernel == "laplacian" else ((a - b) ** 2).sum()
        return np.exp(-gap / (2 * sigma))

    def mean(a, b):
        return np.mean([k(p, q) for p in a for q in b])

    wanted = [mean(a, a) - 2 * mean(a, b) + mean(b, b) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(
        divergence.mmd(jnp.asarray(x), jnp.asarray(y), kernel, sigma), wanted, atol=1e-6
    )
    assert float(divergence.root(jnp.zeros(()))) == pytest.approx(1e-3)


def test_the_dual_form_of_kl_at_its_best_critic_is_kl():
    """g = 1 + log pi / mu makes E_pi g - E_mu e^(g-1) the divergence; any other g less."""
    pi, mu = norm(0.5, 0.6), norm(0.0, 1.0)
    rng = np.random.default_rng(0)
    own, other = rng.normal(0.5, 0.6, (1, 200_000)), rng.normal(0.0, 1.0, (1, 200_000))
    g = lambda u: jnp.asarray(1 + pi.logpdf(u) - mu.logpdf(u), jnp.float32)
    truth = float(kl(one(0.5, 0.6), one(0.0, 1.0)))
    assert float(divergence.dual("kl", g(own), g(other))[0]) == pytest.approx(truth, abs=0.02)
    assert float(divergence.dual("kl", 0.5 * g(own), 0.5 * g(other))[0]) < truth
    assert float(divergence.dual("w", jnp.float32(own), jnp.float32(other))[0]) == pytest.approx(
        0.5, abs=0.01
    )


# --- Slopes --------------------------------------------------------------------------------


def test_the_slope_of_a_linear_function_is_its_weights_norm():
    w = np.array([0.5, -2.0, 3.0], np.float32)
    found = slope.squared_slope(lambda a: a @ jnp.asarray(w) + 7.0, normal(6, 3))
    np.testing.assert_allclose(found, np.full(6, (w**2).sum()), rtol=1e-6)
    assert float(slope.norm(jnp.float32(25.0))) == 5.0
    assert np.isfinite(jax.grad(slope.norm)(jnp.zeros(())))
    assert float(slope.steeper_than_one(jnp.float32(0.5))) == 0.0


@pytest.mark.slow
def test_the_slope_of_a_critic_by_finite_differences():
    critic = nn.critic(3, 2, (16, 16), ensemble=2, activation="tanh")
    params, obs, action = critic.init(jax.random.key(0)), normal(4, 3), normal(4, 2)
    each = jnp.broadcast_to(action[None, :, None], (2, 4, 1, 2))
    found = slope.squared_slope(lambda a: critic.apply(params, obs, a), each)[..., 0]
    h, wanted = 1e-2, 0.0
    for d in np.eye(2, dtype=np.float32):
        up, down = (critic.apply(params, obs, action + s * h * d[None]) for s in (1, -1))
        wanted = wanted + np.asarray((up - down) / (2 * h)) ** 2
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-5)


# --- Multipliers and rates -------------------------------------------------------------------


@pytree
class Parts:
    x: Array
    raw: Array
    optimiser: dict


def two_parts(**params):
    return Parts(**params, optimiser={name: adam_init(value) for name, value in params.items()})


@pytest.mark.parametrize("form", ["exp", "softplus"])
def test_the_multiplier_settles_at_the_constraint(form):
    """max -(x - 2)^2 subject to x <= 1 has x = 1 and, as the slope there is 2, lambda = 2."""

    def step(t, state):
        rate = cosine(jnp.float32(1e-2), t, 20_000)  # a rate that stays makes the two circle
        weight = dual.Multiplier(form=form)(state.raw)
        grads = {
            "x": jax.grad(lambda x: (x - 2.0) ** 2 + weight * (x - 1.0))(state.x),
            "raw": dual.Multiplier(form=form).grad(state.raw, state.x - 1.0),
        }
        return descend(state, grads, {"x": rate, "raw": rate})

    start = two_parts(x=jnp.float32(0.0), raw=dual.Multiplier(form=form).raw(jnp.float32(0.5)))
    state = jax.jit(lambda start: jax.lax.fori_loop(0, 20_000, step, start))(start)
    assert float(state.x) == pytest.approx(1.0, abs=0.02)
    assert float(dual.Multiplier(form=form)(state.raw)) == pytest.approx(2.0, abs=0.05)


def test_a_multiplier_for_every_state_moves_by_its_own_excess():
    raw, excess = jnp.zeros(3), jnp.float32([1.0, 0.0, -1.0])
    gradient = jax.grad(lambda r: jnp.sum(dual.Multiplier(1e4, "softplus").loss(r, excess)))(raw)
    np.testing.assert_allclose(gradient, [-0.5, 0.0, 0.5])  # softplus' is a half at 0


@pytest.mark.parametrize(("form", "slope_at_limit"), [("exp", 10.0), ("softplus", 1.0 - math.exp(-10.0))])
def test_a_multiplier_comes_back_from_its_limit(form, slope_at_limit):
    """At the limit of 10 the gradient is 0 outwards and d lambda / d raw inwards, by hand for both forms."""
    limited = dual.Multiplier(10.0, form)
    gradient = lambda raw, excess: float(limited.grad(jnp.float32(raw), jnp.float32(excess)))
    assert gradient(20.0, 1.0) == 0.0
    assert gradient(20.0, -1.0) == pytest.approx(slope_at_limit, rel=1e-5)
    assert gradient(2.0, 1.0) == -gradient(2.0, -1.0) != 0.0  # below its limit it is one function

    def step(t, state):  # violated for 500 steps, then met
        excess = jnp.where(t < 500, 1.0, -1.0)
        return descend(state, {"raw": limited.grad(state.raw, excess)}, {"raw": jnp.float32(0.1)})

    start = two_parts(x=jnp.float32(0.0), raw=jnp.float32(1.0))
    after = [jax.lax.fori_loop(0, n, step, start).raw for n in (500, 1000)]
    assert float(limited(after[0])) == 10.0
    assert float(limited(after[1])) < 0.1


def test_a_staircase():
    stairs = {0.2: 0.5, 0.4: 0.1}
    found = [float(staircase(jnp.float32(2.0), jnp.int32(t), 10, stairs)) for t in (0, 1, 2, 3, 4, 9)]
    np.testing.assert_allclose(found, [2.0, 2.0, 1.0, 1.0, 0.2, 0.2], rtol=1e-6)


def test_descend_steps_the_named_parts_alone():
    state = two_parts(x=jnp.float32(1.0), raw=jnp.float32(1.0))
    new = descend(state, {"x": jnp.float32(3.0)}, {"x": jnp.float32(0.5)})
    assert float(new.x) == pytest.approx(0.5, abs=1e-4)  # Adam's first step is its rate
    assert float(new.raw) == 1.0
    assert int(new.optimiser["x"]["count"]) == 1 and new.optimiser["raw"] == state.optimiser["raw"]
    new = descend(new, {"raw": jnp.float32(-3.0)}, {"raw": jnp.float32(0.1)}, x=jnp.float32(7.0))
    assert (float(new.x), float(new.raw)) == (7.0, pytest.approx(1.1, abs=1e-4))
