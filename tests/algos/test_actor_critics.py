"""SAC's and MIRACLE's losses against independent ones; what MIRACLE's marginal can and cannot learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from leashrl import nn
from leashrl.algos import REGISTRY, miracle, sac
from leashrl.core import hyper
from leashrl.dist import Mixture, Normal, kl_to_standard
from leashrl.ops import dual, soft
from leashrl.optim import adam, adam_init
from leashrl.runs.plan import configure
from leashrl.tasks import task
from leashrl.types import Batch, Box, Spec
from support.draws import normal

SPEC = Spec(3, Box((-1.0, -1.0), (1.0, 1.0)))


# --- Densities ---------------------------------------------------------------------------


def test_the_mixture_is_the_mean_of_scipys_densities():
    mean, log_std, u = normal(5, 2), 0.5 * normal(5, 2), normal(7, 2)
    each = norm.logpdf(np.asarray(u)[:, None], np.asarray(mean), np.exp(np.asarray(log_std))).sum(-1)
    wanted = np.log(np.exp(each).mean(1))
    np.testing.assert_allclose(Mixture.even(Normal(mean, log_std)).log_prob(u), wanted, rtol=1e-5)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.5, 0.3), (-0.2, 2.0)])
def test_kl_to_the_standard_normal_by_quadrature(mean, std):
    p = norm(mean, std)
    wanted = quad(lambda x: p.pdf(x) * (p.logpdf(x) - norm.logpdf(x)), mean - 12 * std, mean + 12 * std)[0]
    found = kl_to_standard(Normal(jnp.float32([mean]), jnp.float32([np.log(std)])))
    assert float(found) == pytest.approx(wanted, abs=1e-5)


def test_the_soft_range_of_the_standard_deviation():
    """Within it little is changed, far outside it ends at the bounds, and the gradient lives on."""
    net = nn.gaussian(1, 1, (), out_scale=1.0, log_std_range=(-5.0, 2.0), log_std_offset=0.0, bound="soft")
    params = net.init(jax.random.key(0))

    def log_std(raw):
        given = params | {"out": {"kernel": jnp.zeros((1, 2)), "bias": jnp.stack([jnp.zeros(()), raw])}}
        return net.apply(given, jnp.zeros(1))[1][0]

    found = [float(log_std(jnp.float32(x))) for x in (-100.0, -1.5, 100.0)]
    np.testing.assert_allclose(found, [-5.0, -1.5, 2.0], atol=0.03)
    assert float(jax.grad(log_std)(jnp.float32(4.0))) > 0.05


# --- Losses ------------------------------------------------------------------------------


def networks():
    policy, critic = nn.gaussian(3, 2, (8,)), nn.critic(3, 2, (8,))
    return policy, policy.init(jax.random.key(1)), critic, critic.init(jax.random.key(2))


def test_policy_losses_against_scipy():
    policy, p, critic, c = networks()
    obs, key = normal(6, 3), jax.random.key(3)
    pi = Normal(*policy.apply(p, obs))
    u = np.asarray(pi.sample(key), np.float64)
    mean, std = np.asarray(pi.mean), np.exp(np.asarray(pi.log_std))
    log_pi = (norm.logpdf(u, mean, std) - np.log(1 - np.tanh(u) ** 2)).sum(1)
    q = np.asarray(critic.apply(c, obs, jnp.asarray(np.tanh(u), jnp.float32))).min(0)

    value = lambda a: jnp.min(critic.apply(c, obs, a), axis=0)
    loss, entropy = soft.policy_loss(p, policy.apply, value, obs, key, jnp.float32(0.3))
    assert float(loss) == pytest.approx((0.3 * log_pi - q).mean(), rel=1e-4)
    assert float(entropy) == pytest.approx(-log_pi.mean(), rel=1e-4)

    marginal = lambda u: -0.5 * jnp.sum(u**2, axis=-1)
    loss, (values, mean_log_pi, penalty) = miracle.policy_loss(p, policy, critic, c, marginal, obs, key)
    wanted = q - log_pi - 0.5 * (u**2).sum(1)
    np.testing.assert_allclose(values, wanted, rtol=1e-4)
    assert float(loss) == pytest.approx(-wanted.mean(), rel=1e-4)
    assert float(penalty) == pytest.approx((log_pi + 0.5 * (u**2).sum(1)).mean(), rel=1e-4)
    assert float(mean_log_pi) == pytest.approx(log_pi.mean(), rel=1e-4)


def test_the_temperature_rises_while_the_entropy_is_too_small():
    gradient = jax.grad(dual.temperature_loss)(jnp.zeros(()), jnp.float32(-3.0), jnp.float32(-2.0))
    assert float(gradient) == -1.0  # descending it raises log alpha
    assert float(jax.grad(dual.temperature_loss)(jnp.zeros(()), jnp.float32(-1.0), jnp.float32(-2.0))) == 1.0


def batch_of(terminal):
    reward = jnp.float32([1.0, -2.0])
    return Batch(normal(2, 3), 0.5 * jnp.tanh(normal(2, 2)), reward, 0.99 * (1 - terminal), normal(2, 3))


@pytest.mark.slow
def test_sacs_targets():
    """Critics that give 0 everywhere: y = r + gamma (1 - terminal) alpha H, alpha 1 at the start."""
    algorithm = sac.build(sac.Config(hidden=(8,)), SPEC)
    state = algorithm.init(jax.random.key(0), hyper(sac.Config()))
    blank = jax.tree.map(jnp.zeros_like, state.critic)
    state = sac.State(state.policy, blank, blank, state.log_alpha, state.optimiser, state.hp)
    batch = batch_of(jnp.float32([0.0, 1.0]))
    key = jax.random.key(5)
    policy = nn.gaussian(3, 2, (8,))
    pi = Normal(*policy.apply(state.policy, batch.next_obs))
    u = np.asarray(pi.sample(jax.random.split(key)[0]), np.float64)
    log_pi = norm.logpdf(u, np.asarray(pi.mean), np.exp(np.asarray(pi.log_std))) - np.log1p(
        -(np.tanh(u) ** 2)
    )
    y = np.array([1.0 - 0.99 * log_pi[0].sum(), -2.0])
    _, metrics = algorithm.stages[0].update(state, batch, key, jnp.int32(0))
    assert float(metrics["target"]) == pytest.approx(y.mean(), rel=1e-4)
    assert float(metrics["critic_loss"]) == pytest.approx(2 * (y**2).mean(), rel=1e-4)


def test_miracles_targets():
    """All networks give 0 but the averaged V, which gives 3: y = beta r + gamma (1 - terminal) 3."""
    config = miracle.Config(hidden=(8,), beta=10.0)
    algorithm = miracle.build(config, SPEC)
    state = algorithm.init(jax.random.key(0), hyper(config))
    three = jax.tree.map(jnp.zeros_like, state.target_value)
    three = three | {"out": three["out"] | {"bias": jnp.full((1,), 3.0)}}
    blank = jax.tree.map(jnp.zeros_like, (state.critic, state.value))
    state = miracle.State(state.policy, *blank, three, state.marginal, state.optimiser, state.hp)
    batch = batch_of(jnp.float32([0.0, 1.0]))
    new, metrics = algorithm.stages[0].update(state, (batch, batch.action), jax.random.key(5), jnp.int32(0))
    y = np.array([10.0 + 0.99 * 3.0, -20.0])
    assert float(metrics["critic_loss"]) == pytest.approx(2 * (y**2).mean(), rel=1e-5)
    # V goes towards min Q - (log pi - log pi_chi) = -penalty, and its average follows at the rate 0.01
    assert float(metrics["value"]) == pytest.approx(-float(metrics["penalty"]), rel=1e-5)
    bias = new.value["out"]["bias"]
    np.testing.assert_allclose(new.target_value["out"]["bias"], 3.0 + 0.01 * (bias - 3.0), rtol=1e-6)
    assert float(bias[0]) * float(metrics["value"]) > 0


@pytest.mark.slow
def test_without_a_marginal_the_penalty_is_sacs():
    config = miracle.Config(hidden=(8,), marginal="uniform")
    algorithm = miracle.build(config, SPEC)
    state = algorithm.init(jax.random.key(0), hyper(config))
    assert state.marginal == {}
    batch = batch_of(jnp.zeros(2))
    _, metrics = algorithm.stages[0].update(state, (batch, batch.action), jax.random.key(5), jnp.int32(0))
    assert float(metrics["penalty"]) == -float(metrics["entropy"])


def test_the_texts_sizes_of_the_action_buffer():
    """Appendix F."""
    sizes = dict.fromkeys(("inverted-double-pendulum", "swimmer", "reacher"), 10_000)
    sizes |= dict.fromkeys(("hopper", "walker2d", "ant", "humanoid"), 50_000) | {"pendulum": 1_000}
    for preset in REGISTRY["miracle"].presets:
        found = {name: configure("miracle", preset, task(name), {}).action_buffer for name in sizes}
        assert found == sizes


# --- The marginal ------------------------------------------------------------------------


@functools.cache
def learnt(kind: str) -> float:
    """Mean log density, before tanh, of actions with modes at -1 and 1, after 1500 updates."""
    decoder = nn.gaussian(1, 1, (32, 32), out_scale=1.0, **miracle.LOG_STD)
    encoder = nn.gaussian(1, 1, (32, 32), **miracle.LOG_STD)
    keys = jax.random.split(jax.random.key(0), 3)
    params = {"decoder": decoder.init(keys[0]), "encoder": encoder.init(keys[1])}
    rng = np.random.default_rng(0)
    u = jnp.asarray((rng.choice([-1.0, 1.0], (2000, 1)) + 0.2 * rng.standard_normal((2000, 1))), jnp.float32)

    def step(t, carry):
        k = jax.random.split(jax.random.fold_in(keys[2], t), 3)
        rows = u[jax.random.randint(k[0], (128,), 0, len(u))]
        latents = jax.random.normal(k[1], (20, 1))
        grads = jax.grad(miracle.marginal_loss)(carry[0], kind, decoder, encoder, rows, latents, k[2])
        return adam(grads, carry[1], carry[0], jnp.float32(3e-3))

    params, _ = jax.jit(lambda p: jax.lax.fori_loop(0, 1500, step, (p, adam_init(p))))(params)
    latents = jax.random.normal(jax.random.key(9), (2000, 1))
    components = Normal(*decoder.apply(params["decoder"], latents))
    return float(jnp.mean(Mixture.even(components).log_prob(u)))


ONE_GAUSSIAN = -0.5 * np.log(2 * np.pi * 1.04) - 0.5  # with the moments of the two modes
TRUTH = np.log(0.5) - 0.5 * np.log(2 * np.pi * 0.04) - 0.5  # the modes do not overlap


def test_the_texts_objective_ends_in_one_gaussian():
    assert learnt("gaussian") == pytest.approx(ONE_GAUSSIAN, abs=0.05)


@pytest.mark.parametrize("kind", ["mixture", "vae"])
def test_the_other_objectives_find_both_modes(kind):
    assert ONE_GAUSSIAN + 0.7 < learnt(kind) < TRUTH + 0.05
