"""IQL, AWAC, TD3+BC, ReBRAC, CQL, OneStep: their losses against numbers worked out by hand or elsewhere."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import expectile, norm

from leashrl import bench, nn
from leashrl.algos import REGISTRY, cql, onestep, td3_bc
from leashrl.core import override
from leashrl.data import Dataset, prepare
from leashrl.dist import Normal, squash_log_prob, unsquash
from leashrl.errors import BadInput
from leashrl.ops import advantage, conservative
from leashrl.runs.plan import configure
from leashrl.tasks import task
from leashrl.types import Box, Spec, TimeStep
from support import algorithms
from support.algorithms import random_batch, same
from support.draws import RNG, f32, normal

SPEC = Spec(3, Box((-1.0, -1.0), (1.0, 1.0)))
SMALL = {"hidden": (8, 8), "batch_size": 16, "steps": 40}


def many(n=16, rng=RNG):
    discount = f32(np.where(rng.random(n) < 0.2, 0.0, 0.9))
    return dataclasses.replace(
        random_batch(SPEC, n, rng), discount=discount, next_action=jnp.tanh(normal(n, 2, rng=rng))
    )


BATCH = many(rng=np.random.default_rng(0))
built = functools.partial(algorithms.built, spec=SPEC, **SMALL)
STILL = {"policy_rate": 0.0, "critic_rate": 0.0}  # metrics are then of the state as it was


def update(name, preset="default", step=0, stage="train", change=None, **options):
    """State before and after one update on BATCH, and its metrics."""
    _, _, state, stages = built(name, preset, **options)
    state = change(state) if change else state
    after, metrics = jax.jit(stages[stage].update)(state, BATCH, jax.random.key(1), jnp.int32(step))
    return state, after, {name: float(x) for name, x in metrics.items()}


CRITIC, MLP = nn.critic(3, 2, (8, 8)), nn.mlp(3, 1, (8, 8))


def q_of(params, obs, action):
    return np.asarray(CRITIC.apply(params, obs, action), np.float64)


def linear(slopes):
    """Critics Q_i(s, a) = s_1 + slopes_i a_1."""
    return lambda params, obs, a: obs[None, :, 0] + f32(slopes)[:, None] * a[None, :, 0]


# --- Advantages as weights ---------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.5, 0.7, 0.9])
def test_the_expectile_loss_is_least_at_scipys_expectile(tau):
    x = RNG.standard_normal(50)
    slope = jax.grad(lambda v: advantage.expectile_loss(f32(x) - v, tau))
    best = expectile(x, tau)
    assert abs(float(slope(f32(best)))) < 1e-6
    assert float(slope(f32(best - 0.1))) < -1e-3 < 1e-3 < float(slope(f32(best + 0.1)))


def test_weighted_likelihood_against_scipy():
    policy = nn.free_gaussian(3, 2, (8,))
    params = policy.init(jax.random.key(0)) | {"log_std": f32([-0.5, 0.3])}
    weight = jnp.abs(normal(16))
    mean = np.asarray(policy.apply(params, BATCH.obs)[0], np.float64)
    log_prob = norm.logpdf(np.asarray(BATCH.action), mean, np.exp([-0.5, 0.3])).sum(1)
    pi = lambda params, obs: Normal(*policy.apply(params, obs))
    loss, found = advantage.weighted_likelihood(params, pi, BATCH, weight)
    assert float(found) == pytest.approx(log_prob.mean(), rel=1e-5)
    assert float(loss) == pytest.approx(-(np.asarray(weight) * log_prob).mean(), rel=1e-5)


# --- IQL ---------------------------------------------------------------------------------------


def test_iqls_update_against_numpy():
    options = STILL | {"value_rate": 0.0, "expectile": 0.8, "temperature": 2.0}
    state, _, metrics = update("iql", **options)
    value = lambda obs: np.asarray(MLP.apply(state.value, obs), np.float64)[:, 0]
    q = q_of(state.target_critic, BATCH.obs, BATCH.action)
    apart = q.min(0) - value(BATCH.obs)
    y = np.asarray(BATCH.reward) + np.asarray(BATCH.discount) * value(BATCH.next_obs)
    wanted = {
        "value_loss": (np.where(apart < 0, 0.2, 0.8) * apart**2).mean(),
        "td_loss": ((q - y) ** 2).mean(1).sum(),
        "target": y.mean(),
        "advantage": apart.mean(),
        "weight": np.minimum(np.exp(2.0 * apart), 100).mean(),
    }
    for name, number in wanted.items():
        assert metrics[name] == pytest.approx(number, rel=1e-4), name


def test_iqls_critics_and_policy_see_the_new_value():
    _, _, still = update("iql", value_rate=0.0)
    _, _, moved = update("iql", value_rate=0.1)
    assert moved["value_loss"] == still["value_loss"]
    assert moved["target"] != still["target"] and moved["advantage"] != still["advantage"]


def test_iqls_policy_may_see_the_value_from_before_its_update():
    """Then V's rate matters to the critics' targets alone."""
    still, _, frozen = update("iql", value_rate=0.0)
    moved, _, metrics = update("iql", value_rate=0.1, fresh_value=False)
    for name in ("value", "advantage", "weight"):
        np.testing.assert_allclose(metrics[name], frozen[name], rtol=1e-6)
    np.testing.assert_allclose(moved.policy["out"]["kernel"], still.policy["out"]["kernel"], rtol=1e-6)
    assert abs(metrics["target"] - frozen["target"]) > 1e-3


def test_iqls_policy_rate_falls_as_a_cosine_and_its_units_drop_out():
    moved = {}
    for schedule in ("cosine", "constant"):
        before, after, _ = update("iql", step=40, schedule=schedule)
        moved[schedule] = not same(before.policy, after.policy)
    assert moved == {"cosine": False, "constant": True}
    net = nn.mlp(3, 4, (64,), dropout_percent=50)
    params, x = net.init(jax.random.key(0)), normal(1, 3)
    drawn = jax.vmap(lambda key: net.apply(params, x, key))(jax.random.split(jax.random.key(1), 20_000))
    assert float(jnp.std(drawn, axis=0).min()) > 0.01
    np.testing.assert_allclose(jnp.mean(drawn, axis=0), net.apply(params, x), atol=0.02)


# --- AWAC --------------------------------------------------------------------------------------


def narrow(state):
    """The policy without spread: what it samples is its mean."""
    return dataclasses.replace(state, policy=state.policy | {"log_std": jnp.full(2, -20.0)})


def test_awacs_update_against_numpy():
    state, _, metrics = update("awac", change=narrow, **STILL, temperature=0.5)
    policy = nn.free_gaussian(3, 2, (8, 8), mean="free")
    act = lambda obs: jnp.clip(policy.apply(state.policy, obs)[0], -1, 1)
    next_q = q_of(state.target_critic, BATCH.next_obs, act(BATCH.next_obs)).min(0)
    y = np.asarray(BATCH.reward) + np.asarray(BATCH.discount) * next_q
    q, own = (q_of(state.critic, BATCH.obs, a) for a in (BATCH.action, act(BATCH.obs)))
    wanted = {
        "td_loss": ((q - y) ** 2).mean(1).sum(),
        "target": y.mean(),
        "q_policy": own.min(0).mean(),
        "weight": np.minimum(np.exp((q.min(0) - own.min(0)) / 0.5), 100).mean(),
    }
    for name, number in wanted.items():
        assert metrics[name] == pytest.approx(number, rel=1e-4), name


# --- TD3+BC and ReBRAC -------------------------------------------------------------------------


def constant_policy(action):
    """pi(s) = action everywhere; its parameters are before tanh."""
    apply = lambda p, obs: jnp.broadcast_to(p, (*obs.shape[:-1], 2))
    return nn.Network(lambda key: None, apply), jnp.arctanh(f32(action))


@pytest.mark.parametrize(("penalty", "apart"), [("mean", 0.17), ("sum", 0.34)])
def test_td3_bcs_policy_loss_by_hand(penalty, apart):
    """pi = (0.5, -0.2), a = (0, 0.1): distance 0.25 + 0.09. Q = 2 s_1 - 1 = 3, -5: mean -1, mean |Q| 4."""
    policy, params = constant_policy([0.5, -0.2])
    batch = dataclasses.replace(many(2), obs=f32([[2, 0, 0], [-2, 0, 0]]), action=f32([[0, 0.1]] * 2))
    hp = {"alpha": f32(2.5), "policy_penalty": f32(0.6)}
    q = lambda a: 2 * batch.obs[:, 0] - 2 * a[:, 0]
    loss, (value, found) = td3_bc.policy_loss(params, policy, q, batch, hp, penalty)
    assert float(value) == pytest.approx(-1.0) and float(found) == pytest.approx(apart, rel=1e-5)
    assert float(loss) == pytest.approx(0.6 * apart - 2.5 * -1.0 / 4.0, rel=1e-5)
    # Rewards ten times as large change nothing: Q is normalised, and its scale has no gradient.
    slope = lambda q: jax.grad(lambda p: td3_bc.policy_loss(p, policy, q, batch, hp, penalty)[0])(params)
    np.testing.assert_allclose(slope(q), slope(lambda a: 10 * q(a)), rtol=1e-5)
    by_hand = 0.6 * 2 * np.array([0.5, -0.3]) / (2 if penalty == "mean" else 1) + 2.5 * np.array([2, 0]) / 4
    np.testing.assert_allclose(slope(q), by_hand * (1 - np.array([0.5, -0.2]) ** 2), rtol=1e-4)


def test_td3_bc_is_misas_special_case():
    """The Barber-Agakov bound of a Gaussian of fixed spread: -log pi(a|s) is |pi(s) - a|^2 / 2 sigma^2."""
    policy, params = constant_policy([0.5, -0.2])
    hp, sigma = {"alpha": f32(2.5), "policy_penalty": f32(1.0)}, 0.7

    def misa(p):
        mean = jnp.tanh(policy.apply(p, BATCH.obs))
        q = BATCH.obs[:, 1] * mean[:, 0]
        log_prob = Normal(mean, jnp.full_like(mean, math.log(sigma))).log_prob(BATCH.action)
        gamma_2 = 2 * sigma**2 / 2  # the mean over 2 dimensions in place of the sum
        return -2.5 * jnp.mean(q) / jax.lax.stop_gradient(jnp.mean(jnp.abs(q))) - gamma_2 * jnp.mean(log_prob)

    q = lambda a: BATCH.obs[:, 1] * a[:, 0]
    ours = jax.grad(lambda p: td3_bc.policy_loss(p, policy, q, BATCH, hp, "mean")[0])(params)
    np.testing.assert_allclose(ours, jax.grad(misa)(params), rtol=1e-4)


@pytest.mark.parametrize("name", ["td3-bc", "rebrac"])
def test_targets_without_noise_against_numpy(name):
    options = STILL | {"noise": 0.0, "critic_penalty": 0.7}
    state, _, metrics = update(name, **options)
    critic = nn.critic(3, 2, (8, 8), norm=name == "rebrac")
    action = np.tanh(np.asarray(nn.mlp(3, 2, (8, 8)).apply(state.target_policy, BATCH.next_obs)))
    q = np.asarray(critic.apply(state.target_critic, BATCH.next_obs, f32(action))).min(0)
    square = (action - np.asarray(BATCH.next_action)) ** 2
    apart = square.mean(1) if name == "td3-bc" else square.sum(1)
    y = np.asarray(BATCH.reward) + np.asarray(BATCH.discount) * (q - 0.7 * apart)
    assert metrics["target"] == pytest.approx(y.mean(), rel=1e-4)


def test_the_targets_noise_is_cut_off():
    wide = update("td3-bc", **STILL, noise=100.0, noise_clip=0.0)[2]["target"]
    assert wide == update("td3-bc", **STILL, noise=0.0)[2]["target"]
    assert wide != update("td3-bc", **STILL, noise=100.0)[2]["target"]


def test_policy_and_averages_move_at_every_second_update():
    for step, moves in ((0, False), (1, True), (2, False)):
        before, after, metrics = update("td3-bc", step=step)
        assert not same(before.critic, after.critic)
        for part in ("policy", "target_policy", "target_critic"):
            assert same(getattr(before, part), getattr(after, part)) != moves, part
        assert (metrics["behaviour_error"] > 0) == moves


@pytest.mark.parametrize("value", ["first", "min"])
def test_which_critic_the_policy_climbs(value):
    before, after, metrics = update("td3-bc", step=1, value=value)
    action = jnp.tanh(nn.mlp(3, 2, (8, 8)).apply(before.policy, BATCH.obs))
    q = nn.critic(3, 2, (8, 8)).apply(after.critic, BATCH.obs, action)
    assert abs(float(jnp.mean(q[0] - jnp.min(q, axis=0)))) > 1e-3  # the two differ here
    expected = q[0] if value == "first" else jnp.min(q, axis=0)
    assert metrics["q_policy"] == pytest.approx(2 * float(jnp.mean(expected)), rel=1e-4)  # for two updates


@pytest.mark.parametrize(("value", "climbed"), [("first", 1), ("min", 2)])
def test_the_bench_counts_a_policy_that_has_every_second_turn_by_half(value, climbed):
    """By hand, multiplications a row, networks 3 -> 8 -> 8 -> 2 and 5 -> 8 -> 8 -> 1."""
    _, _, state, stages = built("td3-bc", value=value, batch_size=10)
    two = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    keys = jax.random.split(jax.random.key(0))
    policy, critic = 24 + 64 + 16, 40 + 64 + 8
    evaluation = policy + 2 * critic + 2 * (2 * critic + 64 + 8)  # of targets; values and their two gradients
    climb = policy + climbed * (critic + 8 + 64 + 16) + policy + 16 + 64  # Q's gradient ends at the action
    data = bench.random_data(3, 2, "bellman")
    counted = bench.update_flop(stages["train"], data, two, keys)
    assert counted == pytest.approx(2 * 10 * 2 * (evaluation + climb / 2))  # two members


REBRAC = {  # beta_pi, beta_c: the 36 files under configs/rebrac of the authors' repository
    "halfcheetah": "random 0.001 0.1, medium 0.001 0.01, expert 0.01 0.01, medium-expert 0.01 0.1, "
    "medium-replay 0.01 0.001, full-replay 0.001 0.1",
    "hopper": "random 0.001 0.01, medium 0.01 0.01, expert 0.1 0.1, medium-expert 0.1 0.01, "
    "medium-replay 0.05 0.5, full-replay 0.01 0.01",
    "walker2d": "random 0.01 0, medium 0.05 0.1, expert 0.01 0.5, medium-expert 0.01 0.01, "
    "medium-replay 0.05 0.01, full-replay 0.01 0.01",
    "antmaze": "umaze 0.003 0.002, umaze-diverse 0.003 0.001, medium-play 0.001 0.0005, "
    "medium-diverse 0.001 0, large-play 0.002 0.001, large-diverse 0.002 0.002",
    "pen": "human 0.1 0.5, cloned 0.05 0.5, expert 0.01 0.01",
    "door": "human 0.1 0.1, cloned 0.01 0.1, expert 0.05 0.01",
    "hammer": "human 0.01 0.5, cloned 0.1 0.5, expert 0.01 0.01",
    "relocate": "human 0.1 0.01, cloned 0.1 0.01, expert 0.05 0.01",
}
REBRAC_SHARED = {  # batch, gamma, both rates, rewards
    "gym": (1024, 0.99, 1e-3, 1e-3, "none"),
    "adroit": (256, 0.99, 3e-4, 3e-4, "none"),
    "antmaze": (256, 0.999, 3e-4, 5e-5, "hundredfold"),
}


@pytest.mark.parametrize("env", REBRAC)
def test_rebracs_values_are_the_authors_by_data_set(env):
    for row in REBRAC[env].split(", "):
        kind, *weights = row.split()
        version = 2 if env in ("halfcheetah", "hopper", "walker2d", "antmaze") else 1
        place = task(f"{env}-{kind}-v{version}")
        config = configure("rebrac", "authors", place, {}, f"{env}-{kind}-v{version}")
        assert [config.policy_penalty, config.critic_penalty] == [float(x) for x in weights], row
        shared = (config.batch_size, config.gamma, config.policy_rate, config.critic_rate)
        assert (*shared, config.preprocess.reward) == REBRAC_SHARED[place.domain]
        assert (config.hidden, config.critic_norm, config.initial) == ((256, 256, 256), True, "rebrac")
        assert (config.policy_every, config.noise, config.noise_clip, config.polyak) == (2, 0.2, 0.5, 0.005)
        assert (config.steps, config.alpha, config.preprocess.obs) == (1_000_000, 1.0, "none")


def test_other_names_of_a_data_set_find_its_values():
    config = configure("rebrac", "authors", task("hopper"), {}, "hopper-medium-expert-like")
    assert (config.policy_penalty, config.critic_penalty, config.batch_size) == (0.1, 0.01, 1024)
    config = configure("rebrac", "default", task("door"), {}, "door-human")
    assert (config.policy_penalty, config.critic_penalty, config.policy_rate) == (0.1, 0.1, 3e-4)
    config = configure("rebrac", "authors", task("antmaze-umaze"), {}, "D4RL/antmaze/umaze-diverse-v1")
    assert (config.policy_penalty, config.critic_penalty, config.gamma) == (0.003, 0.001, 0.999)


def test_rebracs_weights_begin_as_the_authors():
    """PyTorch's U(+-1/sqrt(fan-in)), biases 0.1, last layers within 1e-3 (policy) and 3e-3 (critics)."""
    _, _, state, _ = built("rebrac", "authors", hidden=(256, 256))
    spread = lambda x: (float(jnp.max(jnp.abs(x))), float(jnp.std(x)))
    bound = 1 / math.sqrt(256)
    for kernel in (state.policy["hidden"][1]["kernel"], state.critic["hidden"][0]["kernel"]):
        assert spread(kernel) == pytest.approx((bound, bound / math.sqrt(3)), rel=0.02)
    assert spread(state.policy["out"]["kernel"]) == pytest.approx((1e-3, 1e-3 / math.sqrt(3)), rel=0.06)
    assert spread(state.critic["out"]["kernel"]) == pytest.approx((3e-3, 3e-3 / math.sqrt(3)), rel=0.06)
    first = jnp.concatenate([state.critic["first"]["obs"], state.critic["first"]["action"]], axis=1)
    assert spread(first)[0] == pytest.approx(1 / math.sqrt(5), rel=0.01)
    for bias in (state.policy["hidden"][0]["bias"], state.critic["first"]["bias"]):
        assert np.all(np.asarray(bias) == np.float32(0.1))


# --- CQL ---------------------------------------------------------------------------------------


def silent(state):
    """Q = 0 everywhere, and a policy that is wide: what few actions of a narrow one leave out is much."""
    wide = state.policy | ({"offset": jnp.zeros(())} if "offset" in state.policy else {})
    return dataclasses.replace(state, critic=jax.tree.map(jnp.zeros_like, state.critic), policy=wide)


def test_with_q_zero_cqls_integral_is_the_volume_of_the_actions():
    """E_q[1 / q] = 2^d for each proposal, so log sum over 3 k actions = log(3 k 2^d)."""
    _, _, metrics = update("cql", change=silent, k=3000, resample=0)
    assert metrics["gap"] == pytest.approx(math.log(9000 * 2**2), abs=0.05)
    _, _, metrics = update("cql", "rho", change=silent, k=10)
    assert metrics["gap"] == pytest.approx(math.log(31), rel=1e-5)  # and the data's action, no weights


def test_cqls_critic_is_misas_with_a_mixed_proposal():
    """`conservative` with T = Q - log q: the gradient of w (log sum_j e^{Q_j} / q_j - E_D[Q]), in float64."""
    slopes, k = np.array([0.8, -0.4]), 6
    actions, log_q = RNG.uniform(-0.9, 0.9, (16, k, 2)), RNG.normal(size=(16, k))

    def apply(p, obs, a):
        a = a if a.ndim == 4 else a[None]
        return obs[None, :, 0, None] + p[:, None, None] * a[..., 0]

    y, obs, data = (np.asarray(x, np.float64) for x in (BATCH.reward, BATCH.obs, BATCH.action))

    def by_hand(p):
        q = obs[None, :, 0, None] + p[:, None, None] * actions[None, ..., 0]
        own = obs[None, :, 0] + p[:, None] * data[None, :, 0]
        push = logsumexp(q - log_q, axis=-1).mean(1) - own.mean(1)
        return (((own - y) ** 2).mean(1) + 3.0 * push).sum()

    each = (f32(slopes), apply, BATCH, f32(actions), BATCH.reward, 3.0, 1.0)
    grads, _, _ = conservative.gradient(*each, bound="misa", log_q=f32(log_q))
    step = 1e-5
    slope = [(by_hand(slopes + step * e) - by_hand(slopes - step * e)) / (2 * step) for e in np.eye(2)]
    np.testing.assert_allclose(grads, slope, rtol=1e-4)
    # Without log q, and with the policy's own actions, it is the critic of MISA.
    misa = jax.grad(conservative.loss, has_aux=True)(
        f32(slopes), apply, "misa", BATCH, f32(actions), None, BATCH.reward, 3.0, 1.0
    )[0]
    plain, _, _ = conservative.gradient(*each, bound="misa")
    np.testing.assert_allclose(plain, misa, rtol=1e-5)
    assert np.abs(np.asarray(misa) - slope).max() > 0.01
    # A backward pass on 2 of the 6 has the same mean.
    draw = lambda key: conservative.gradient(*each, bound="misa", log_q=f32(log_q), key=key, resample=2)[0]
    drawn = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 4000)))
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert np.all(error > 0) and np.all(np.abs(drawn.mean(0) - slope) < 4 * error + 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["weighted", "gap"])
def test_cqls_multiplier_rises_while_the_gap_is_above_its_budget(form):
    """At w = 5 and a gap of log(36000) = 10.5, `weighted` compares 52.5 with tau, `gap` 10.5."""
    for tau, rises in ((9.0, (True, True)), (30.0, (True, False)), (60.0, (False, False))):
        options = {"lagrange": form, "k": 3000, "resample": 0, "weight": 5.0, "tau": tau}
        before, after, metrics = update("cql", change=silent, **options)
        assert (after.log_lagrange > before.log_lagrange) == rises[form == "gap"]
        assert metrics["lagrange"] == pytest.approx(math.e if form == "gap" else 1.0)
    assert same(*(s.log_lagrange for s in update("cql")[:2]))


def test_cqls_policy_clones_before_it_climbs():
    policy = nn.gaussian(3, 2, (8, 8))
    params, key = policy.init(jax.random.key(3)), jax.random.key(4)
    value = lambda a: 3.0 * a[:, 0]
    find = lambda cloning: cql.policy_loss(params, policy, value, BATCH, key, f32(0.2), jnp.asarray(cloning))
    pi = Normal(*policy.apply(params, BATCH.obs))
    u = pi.sample(key)
    log_pi = float(jnp.mean(squash_log_prob(pi, u)))
    data = float(jnp.mean(squash_log_prob(pi, unsquash(BATCH.action, 1e-3))))
    climb = float(jnp.mean(value(jnp.tanh(u))))
    assert float(find(True)[0]) == pytest.approx(0.2 * log_pi - data, rel=1e-5)
    assert float(find(False)[0]) == pytest.approx(0.2 * log_pi - climb, rel=1e-5)
    before, cloned, _ = update("cql", step=0, warmup_percent=10)  # 4 of 40
    _, climbed, _ = update("cql", step=4, warmup_percent=10)
    assert not same(cloned.policy, climbed.policy) and not same(before.policy, climbed.policy)


def test_cqls_targets():
    """With a policy that has no spread: one sample, the largest of k, and SAC's entropy in them."""

    def still(state):
        out = state.policy["out"] | {"kernel": jnp.zeros_like(state.policy["out"]["kernel"])}
        return dataclasses.replace(state, policy=state.policy | {"out": out, "offset": jnp.float32(-5.0)})

    state, _, metrics = update("cql", change=still)
    q = q_of(state.target_critic, BATCH.next_obs, jnp.zeros((16, 2))).min(0)
    y = np.asarray(BATCH.reward) + np.asarray(BATCH.discount) * q
    assert metrics["target"] == pytest.approx(y.mean(), abs=0.02)
    assert update("cql", change=still, backup="max", k=20)[2]["target"] >= metrics["target"]
    soft = update("cql", change=still, backup_entropy=True)[2]["target"]
    # alpha = 1; the expected log density of a normal of spread e^-5 in two dimensions, squashed at 0
    log_pi = 2 * (-0.5 * math.log(2 * math.pi * math.e) + 5.0)
    assert metrics["target"] - soft == pytest.approx(np.asarray(BATCH.discount).mean() * log_pi, rel=0.25)


# weight, policy rate, Lagrange, gap floor, target, observations, rewards and critics: configs/offline/cql
CORL = {
    "gym": (10.0, 3e-5, "none", 0, "sample", "standardise", "none", (256,) * 3),
    "adroit": (1.0, 1e-4, "none", 0, "sample", "standardise", "none", (256,) * 3),
    "antmaze": (5.0, 1e-4, "gap", 200, "max", "none", "ten-minus-five", (256,) * 5),
}


@pytest.mark.parametrize(
    "name",
    [
        "hopper-medium-v2",
        "hopper-expert-v2",
        "walker2d-medium-replay-v2",
        "halfcheetah-random-v2",
        "pen-human-v1",
        "door-cloned-v1",
        "antmaze-umaze-v2",
        "antmaze-large-play-v2",
    ],
)
def test_cqls_corl_is_what_corls_configurations_say(name):
    config, domain = configure("cql", "corl", task(name), {}, name), task(name).domain
    *wanted, critics = CORL[domain]
    if name == "hopper-medium-v2":  # alone among the 18 of gym it has `normalize_reward: true`
        wanted[-1] = "return"
    found = (config.weight, config.policy_rate, config.lagrange, config.gap_floor, config.backup)
    assert [*found, config.preprocess.obs, config.preprocess.reward] == wanted
    assert (config.hidden, config.critic_hidden or config.hidden) == ((256,) * 3, critics)
    if domain == "antmaze":
        assert config.tau == 0.8
    assert (config.warmup_percent, config.networks, config.critic_rate) == (0, "corl", 3e-4)
    assert (config.steps, config.batch_size, config.k, config.resample) == (1_000_000, 256, 10, 0)
    assert (config.gamma, config.polyak, config.target_entropy, config.form) == (0.99, 0.005, -1.0, "h")
    assert not config.backup_entropy and config.ensemble == 2


def test_cqls_authors_presets():
    gym = configure("cql", "authors", task("hopper"), {}, "hopper-medium")
    maze = configure("cql", "authors", task("antmaze-umaze-v2"), {}, "antmaze-umaze-v2")
    for config in (gym, maze):
        assert (config.networks, config.hidden, config.warmup_percent) == ("authors", (256,) * 3, 4)
        assert (config.policy_rate, config.critic_rate, config.weight) == (1e-4, 3e-4, 5.0)
    assert (gym.lagrange, gym.preprocess.reward) == ("none", "none")
    assert (maze.lagrange, maze.tau, maze.preprocess.reward) == ("weighted", 5.0, "antmaze")


def orthogonal_rows(kernel, gain):
    """Whether a kernel's rows (or its columns, where they are fewer) are orthogonal, all of length `gain`."""
    k = np.asarray(kernel, np.float64)
    k = k if k.shape[0] <= k.shape[1] else k.T
    return np.allclose(k @ k.T, gain**2 * np.eye(len(k)), atol=1e-5 * max(1, gain**2))


def test_cqls_corl_weights_and_bounds():
    _, _, state, _ = built("cql", "corl", hidden=(64, 64), critic_hidden=(64, 64, 64))
    assert len(state.critic["hidden"]) == 2 and len(state.policy["hidden"]) == 2
    for i in range(2):
        first = jnp.concatenate([state.critic["first"][x][i] for x in ("obs", "action")])
        assert orthogonal_rows(first, math.sqrt(2))
        assert orthogonal_rows(state.critic["hidden"][1]["kernel"][i], math.sqrt(2))
        assert orthogonal_rows(state.critic["out"]["kernel"][i], 0.01)
    assert not same(*(jax.tree.map(lambda x, i=i: x[i], state.critic) for i in range(2)))
    # the policy's: PyTorch's own, its last layer Xavier's times 0.01; the scalars at 1 and -1
    hidden, out = state.policy["hidden"][1], np.asarray(state.policy["out"]["kernel"])
    for x in (hidden["kernel"], hidden["bias"]):
        assert float(jnp.max(jnp.abs(x))) == pytest.approx(1 / 8, rel=0.05)
    assert np.abs(out).max() == pytest.approx(0.01 * math.sqrt(6 / (64 + 4)), rel=0.05)
    assert (float(state.policy["multiplier"]), float(state.policy["offset"])) == (1.0, -1.0)
    # neither mean nor spread are cut off where the authors do
    wild = jax.tree.map(jnp.copy, state.policy)
    wild["out"] = {"kernel": jnp.zeros((64, 4)), "bias": f32([50.0, -50.0, -17.0, 30.0])}
    how = cql.NETWORKS["corl"]
    policy = nn.gaussian(3, 2, (64, 64), mean_limit=how.mean_limit, log_std_range=how.log_std_range)
    mean, log_std = policy.apply(wild, BATCH.obs)
    np.testing.assert_allclose(mean[0], [50, -50])
    np.testing.assert_allclose(log_std[0], [-18, 2])


def test_cqls_authors_weights():
    """rlkit's: +-1/sqrt(fan-out) of each hidden layer, biases 0.1, last layers 3e-3 and 1e-3, no scalars."""
    _, _, state, _ = built("cql", "authors", hidden=(256, 64))
    assert set(state.policy) == {"hidden", "out"}
    for kernel in (state.policy["hidden"][1]["kernel"], state.critic["hidden"][0]["kernel"]):
        assert float(jnp.max(jnp.abs(kernel))) == pytest.approx(1 / 8, rel=0.01)
        assert float(jnp.std(kernel)) == pytest.approx(1 / 8 / math.sqrt(3), rel=0.02)
    for network, limit in ((state.policy, 1e-3), (state.critic, 3e-3)):
        kernel, bias = network["out"]["kernel"], network["out"]["bias"]
        assert float(jnp.max(jnp.abs(kernel))) == pytest.approx(limit, rel=0.03)
        assert np.all(np.abs(bias) <= limit) and np.any(np.asarray(bias) != 0)
    for layer in (*state.policy["hidden"], state.critic["first"], *state.critic["hidden"]):
        assert np.all(np.asarray(layer["bias"]) == np.float32(0.1))


@pytest.mark.parametrize(("backup", "wanted"), [("max", 2.0), ("max-each", 3.0)])
def test_cqls_best_of_k_next_actions(backup, wanted, monkeypatch):
    """Two critics at three actions, [1, 5, 2] and [3, 1, 2]: the minima are 1, 1, 2; the maxima 5 and 3."""
    table = f32([[1.0, 5.0, 2.0], [3.0, 1.0, 2.0]])

    def fixed(*args, **options):
        real = nn.Network(lambda key: {"w": jnp.zeros((2, 1))}, None)

        def apply(params, obs, action):
            q = jnp.sum(params["w"]) + 0 * jnp.sum(obs)
            if action.ndim == 2:
                return jnp.zeros((2, len(action))) + q
            n = action.shape[-2]
            rows = table if n == 3 else jnp.zeros((2, n))
            return jnp.broadcast_to(rows[:, None], (2, len(obs), n)) + q

        return real._replace(apply=apply)

    monkeypatch.setattr(nn, "critic", fixed)
    _, _, metrics = update("cql", "corl", backup=backup, k=3)
    y = np.asarray(BATCH.reward) + np.asarray(BATCH.discount) * wanted
    assert metrics["target"] == pytest.approx(y.mean(), rel=1e-5)


@pytest.mark.slow
def test_cqls_losses_are_formed_before_either_step():
    """Both public codes step the policy before the critics, but form both losses before: so the policy's step
    is that of the old critics, and the critics' is that of the old policy's targets and proposals."""
    both = update("cql", "corl", policy_rate=1e-2, critic_rate=1e-2)[1]
    policy_alone = update("cql", "corl", policy_rate=1e-2, critic_rate=0.0)[1]
    critic_alone = update("cql", "corl", policy_rate=0.0, critic_rate=1e-2)[1]
    assert same(both.policy, policy_alone.policy) and same(both.critic, critic_alone.critic)
    # and by hand: Adam's first step is the rate against the sign of the gradient at the old parameters
    _, _, state, _ = built("cql", "corl")
    how = cql.NETWORKS["corl"]
    policy = nn.gaussian(
        3, 2, (8, 8), mean_limit=how.mean_limit, log_std_range=how.log_std_range, scalars=how.scalars
    )
    key = jax.random.split(jax.random.key(1), 4)[3]

    def loss(params):
        pi = Normal(*policy.apply(params, BATCH.obs))
        u = pi.sample(key)
        q = jnp.min(CRITIC.apply(state.critic, BATCH.obs, jnp.tanh(u)), axis=0)
        return jnp.mean(squash_log_prob(pi, u) - q)  # alpha is 1

    grads = jax.grad(loss)(state.policy)
    moved = jax.tree.map(lambda a, b: a - b, both.policy, state.policy)
    for g, m in zip(jax.tree.leaves(grads), jax.tree.leaves(moved), strict=True):
        g, m = np.asarray(g), np.asarray(m)
        clear = np.abs(g) > 1e-5
        np.testing.assert_allclose(m[clear], -1e-2 * np.sign(g[clear]), rtol=0.01)


def test_a_gap_below_its_floor_is_not_pushed():
    """Q of the data 300, of nine others 0 at density 1/4: log(9 * 4) - 300 is below -200: no slope."""

    def slope(floor, lift):
        def apply(p, obs, a):
            place = jnp.arange(a.shape[1], dtype=jnp.float32)[None, None]  # the data's action comes first
            one = jnp.ones((2, *a.shape[:2]))
            return p[:, None, None] * (1.0 + place) * one + jnp.where(place == 0, lift, 0.0) * one

        grads, values, energies = conservative.gradient(
            jnp.zeros(2), apply, BATCH, jnp.zeros((16, 9, 2)), jnp.zeros(16), 5.0, 0.0, bound="misa",
            log_q=jnp.full((16, 9), -2 * math.log(2.0)), gap_floor=floor,
        )  # fmt: skip
        assert np.all(np.asarray(values) == lift)
        np.testing.assert_allclose(energies, math.log(4.0), rtol=1e-6)
        return np.asarray(grads)

    # energies j p, j = 2 .. 10, have the slope 6 on average, the data's 1: w (6 - 1) where there is a push
    np.testing.assert_allclose(slope(-math.inf, 300.0), 25.0, rtol=1e-5)
    np.testing.assert_array_equal(slope(-200.0, 300.0), 0.0)
    np.testing.assert_allclose(slope(-200.0, 100.0), 25.0, rtol=1e-5)
    with pytest.raises(BadInput, match="give resample=0"):
        built("cql", gap_floor=200)


@pytest.mark.slow
def test_a_floor_holds_q_up_by_finite_differences():
    """Cal-QL: w (log sum_j e^{max(Q_j, V)} / q_j - E_D[Q]); a Q below V has no slope. In float64."""
    slope, k = 0.8, 5
    actions, log_q = RNG.uniform(-0.9, 0.9, (16, k, 2)), RNG.normal(size=(16, k))
    obs, data = (np.asarray(x, np.float64) for x in (BATCH.obs, BATCH.action))
    q = obs[:, None, 0] + slope * actions[..., 0]
    floor = np.where(RNG.random((16, k)) < 0.5, q + RNG.normal(size=(16, k)), -np.inf)
    assert 10 < (floor > q).sum() < 60  # some hold, some do not

    def objective(p):
        energy = np.maximum(obs[:, None, 0] + p * actions[..., 0], floor) - log_q
        return 5.0 * (logsumexp(energy, axis=1) - (obs[:, 0] + p * data[:, 0])).mean()

    wanted = (objective(slope + 1e-6) - objective(slope - 1e-6)) / 2e-6

    def apply(p, obs, a):
        a = a if a.ndim == 4 else a[None]
        return obs[None, :, 0, None] + p[:, None, None] * a[..., 0]

    find = lambda **how: conservative.gradient(
        f32([slope]), apply, BATCH, f32(actions), jnp.zeros(16), 5.0, 0.0, bound="misa", log_q=f32(log_q),
        floor=f32(floor), **how,
    )  # fmt: skip
    grads, _, energies = find()
    assert float(grads[0]) == pytest.approx(wanted, rel=1e-4)
    np.testing.assert_allclose(energies[0], np.maximum(q, floor) - log_q, rtol=1e-5, atol=1e-5)
    draws = jax.vmap(lambda key: find(key=key, resample=2)[0])(jax.random.split(jax.random.key(0), 3000))
    assert float(draws.mean()) == pytest.approx(wanted, abs=4 * float(draws.std()) / math.sqrt(3000))


@pytest.mark.slow
@pytest.mark.parametrize("resample", [0, 2])
def test_calibrated_cql_pushes_the_policys_actions_no_lower_than_the_data_earned(resample):
    def after(calibrated, to_go):
        _, _, state, stages = built("cql", k=3, calibrated=calibrated, resample=resample)
        batch = dataclasses.replace(BATCH, to_go=jnp.full(16, to_go))
        state, metrics = jax.jit(stages["train"].update)(state, batch, jax.random.key(1), jnp.int32(0))
        return state, float(metrics["gap"])

    plain, without_bound, high = after(False, 0.0), after(True, -jnp.inf), after(True, 500.0)
    assert plain[1] == pytest.approx(without_bound[1], rel=1e-6)
    for one, other in zip(*map(jax.tree.leaves, (plain[0].critic, without_bound[0].critic)), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)  # two programs, rounded each its own way
    assert not same(plain[0].critic, high[0].critic) and 490 < high[1] < 520
    with pytest.raises(BadInput, match="needs the data's returns to go"):
        update("cql", calibrated=True)


# --- OneStep -----------------------------------------------------------------------------------


def test_reverse_kl_by_quadrature():
    """KL of two tanh-Gaussians, integrated over actions."""

    def fixed(mean, std):
        both = lambda obs: (jnp.full((len(obs), 1), mean), jnp.full((len(obs), 1), math.log(std)))
        return nn.Network(lambda key: None, lambda p, obs: both(obs))

    beta = Normal(*fixed(-0.1, 0.8).apply(None, BATCH.obs))
    loss, (q, apart) = onestep.reverse_kl_loss(
        None, fixed(0.4, 0.3), beta, lambda a: jnp.full(len(a), 2.0), BATCH.obs, jax.random.key(0), f32(3.0)
    )

    def density(a, mean, std):
        return norm.pdf(np.arctanh(a), mean, std) / (1 - a**2)

    term = lambda a: density(a, 0.4, 0.3) * np.log(density(a, 0.4, 0.3) / density(a, -0.1, 0.8))
    wanted = quad(term, -0.95, 0.999)[0]
    assert float(apart) == pytest.approx(wanted, rel=1e-3) and float(q) == 2.0
    assert float(loss) == pytest.approx(3.0 * wanted - 2.0, rel=1e-3)


def test_onesteps_critics_see_the_datas_next_action_alone():
    state, after, metrics = update("onestep", stage="value")
    q = q_of(state.target_critic, BATCH.next_obs, BATCH.next_action).min(0)
    y = np.asarray(BATCH.reward) + np.asarray(BATCH.discount) * q
    assert metrics["target"] == pytest.approx(y.mean(), rel=1e-4)
    assert same((state.policy, state.behaviour), (after.policy, after.behaviour))


def test_onesteps_policy_starts_as_the_behaviour_and_leaves_it_in_its_own_stage():
    _, cloned, _ = update("onestep", stage="behaviour")
    assert same(cloned.policy, cloned.behaviour)
    before, after, _ = update("onestep")
    assert same((before.behaviour, before.critic), (after.behaviour, after.critic))
    assert not same(before.policy, after.policy)


def test_onesteps_weights_against_numpy():
    def narrow(state):
        out = jax.tree.map(jnp.zeros_like, state.behaviour["out"])
        out["bias"] = f32([0.3, -0.2, -50.0, -50.0])  # the spread is at its least, e^-5
        return dataclasses.replace(state, behaviour=state.behaviour | {"out": out})

    state, _, metrics = update("onestep", "exp-weight", change=narrow, temperature=2.0)
    own = jnp.broadcast_to(jnp.tanh(f32([0.3, -0.2])), (16, 2))
    apart = q_of(state.critic, BATCH.obs, BATCH.action).min(0) - q_of(state.critic, BATCH.obs, own).min(0)
    assert metrics["advantage"] == pytest.approx(apart.mean(), abs=5e-3)
    assert metrics["weight"] == pytest.approx(np.exp(2 * apart).mean(), rel=0.02)


def test_easy_bcq_acts_by_the_best_of_the_behaviours_actions():
    _, algorithm, state, stages = built("onestep", "easy-bcq", samples=50)
    assert list(stages) == ["behaviour", "train"] and algorithm.policy.modes[0] == "best"
    params = algorithm.policy.params(state)
    step = TimeStep(BATCH.obs[0], jnp.zeros(()), jnp.asarray(True))
    keys = jax.random.split(jax.random.key(0), 20)
    act = lambda mode: jax.vmap(lambda k: algorithm.policy.act(params, (), step, k, mode)[0])(keys)
    value = lambda a: q_of(state.critic, jnp.broadcast_to(BATCH.obs[0], (20, 3)), a).min(0)
    assert value(act("best")).min() > np.quantile(value(act("sample")), 0.5)


def test_onesteps_authors_have_a_gaussian_over_actions():
    config, algorithm, state, stages = built("onestep", "authors")
    assert (config.policy, config.bound) == ("normal", "tanh")
    policy = nn.gaussian(3, 2, (8, 8), bound="tanh", log_std_range=(-5.0, 0.0), mean="tanh")
    mean, log_std = (np.asarray(x, np.float64) for x in policy.apply(state.behaviour, BATCH.obs))
    assert np.abs(mean).max() < 1 and log_std.min() > -5 and log_std.max() < 0
    # its likelihood is the normal's: no tanh, no truncation
    wanted = -norm.logpdf(np.asarray(BATCH.action), mean, np.exp(log_std)).sum(1).mean()
    found = jax.jit(stages["behaviour"].update)(state, BATCH, jax.random.key(1), jnp.int32(0))[1]
    assert float(found["behaviour_loss"]) == pytest.approx(wanted, rel=1e-5)
    # it acts at its mean, and cut off at the action space
    step = TimeStep(BATCH.obs[0], jnp.zeros(()), jnp.asarray(True))
    act = lambda key, mode: algorithm.policy.act(algorithm.policy.params(state), (), step, key, mode)[0]
    np.testing.assert_allclose(act(jax.random.key(0), "mean"), mean[0], rtol=1e-5)
    drawn = np.asarray(jax.vmap(lambda k: act(k, "sample"))(jax.random.split(jax.random.key(0), 4000)))
    std = np.exp(log_std[0])
    share = 1 - norm.cdf((1 - mean[0]) / std) + norm.cdf((-1 - mean[0]) / std)  # beyond +-1
    np.testing.assert_allclose((np.abs(drawn) == 1).mean(0), share, atol=0.01)


def test_onesteps_policy_starts_as_the_behaviour_with_a_fresh_optimiser():
    _, _, state, stages = built("onestep", "authors")
    for name in ("behaviour", "behaviour", "value"):
        state, _ = jax.jit(stages[name].update)(state, BATCH, jax.random.key(1), jnp.int32(0))
    assert same(state.policy, state.behaviour)
    assert int(state.optimiser["policy"]["count"]) == 0 and int(state.optimiser["behaviour"]["count"]) == 2
    assert not any(np.any(np.asarray(x)) for x in jax.tree.leaves(state.optimiser["policy"]["mean"]))
    _, metrics = jax.jit(stages["train"].update)(state, BATCH, jax.random.key(1), jnp.int32(0))
    assert float(metrics["divergence"]) == pytest.approx(0.0, abs=1e-6)


def test_iqls_authors_begin_orthogonal_last_layers_too():
    _, _, state, _ = built("iql", "authors", hidden=(16, 16))
    kernels = [state.policy["hidden"][1], state.policy["out"], state.value["out"]]
    assert all(orthogonal_rows(layer["kernel"], math.sqrt(2)) for layer in kernels)
    assert orthogonal_rows(state.critic["out"]["kernel"][0], math.sqrt(2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["awac", "cql", "iql", "td3-bc"])
def test_layer_normalised_critics_do_not_feel_the_scale_of_a_layer(name):
    def tripled(state):
        first = jax.tree.map(lambda x: 3.0 * x, state.critic["first"])
        return dataclasses.replace(state, critic=state.critic | {"first": first})

    for normed in (True, False):
        options = STILL | {"critic_norm": normed} | ({"value_rate": 0.0} if name == "iql" else {})
        before, after = (update(name, change=change, **options)[2]["q_data"] for change in (None, tripled))
        assert (after == pytest.approx(before, abs=1e-4)) == normed


# --- What they ask of the data -----------------------------------------------------------------


def logged():
    """Three episodes of 2, 3 and 2 rows, returns 3, -1 and 9; the second is cut off."""
    return Dataset.from_arrays(
        obs=np.arange(7.0)[:, None],
        action=np.linspace(-2, 2, 7)[:, None],
        reward=[1.0, 2.0, 0.0, 0.0, -1.0, 4.0, 5.0],
        terminal=[0, 1, 0, 0, 0, 0, 1],
        timeout=[0, 0, 0, 0, 1, 0, 0],
        action_space=Box((-2.0,), (2.0,)),
    )


def prepared(**options):
    return prepare(logged(), override(REGISTRY["iql"].config().preprocess, options))[0]


def test_next_actions_are_the_next_rows():
    rows = prepared()
    np.testing.assert_array_equal(rows["obs"][:, 0], [0, 1, 2, 3, 5])
    np.testing.assert_allclose(rows["next_action"][:, 0], (np.array([1, 2, 3, 4, 6]) - 3) / 3, rtol=1e-6)


def test_rewards_scaled_by_returns_and_shifted():
    np.testing.assert_allclose(prepared(reward="return")["reward"], np.array([1, 2, 0, 0, 4]) * 100)
    np.testing.assert_array_equal(prepared(reward="minus-one")["reward"], [0, 1, -1, -1, 3])
    np.testing.assert_array_equal(prepared(reward="ten-minus-five")["reward"], [5, 15, -5, -5, 35])
    np.testing.assert_array_equal(prepared(reward="hundredfold")["reward"], [100, 200, 0, 0, 400])
    flat = dataclasses.replace(logged(), reward=np.zeros(7, np.float32))
    with pytest.raises(BadInput, match="every episode's return is 0"):
        prepare(flat, override(REGISTRY["iql"].config().preprocess, {"reward": "return"}))


def test_ten_percent_bc_learns_from_the_best_episodes():
    np.testing.assert_array_equal(prepared(best_percent=34)["reward"], [4])  # the last row has no next one
    np.testing.assert_array_equal(prepared(best_percent=67)["reward"], [1, 2, 4])
    assert configure("bc-10", "default", None, {}).preprocess.best_percent == 10
    for wrong in (0, 101):
        with pytest.raises(BadInput, match="best_percent"):
            prepared(best_percent=wrong)


def test_domains_choose_the_authors_values():
    config = configure("iql", "default", task("hopper"), {}, "hopper-medium")
    assert (config.expectile, config.temperature, config.preprocess.reward) == (0.7, 3.0, "return")
    config = configure("iql", "default", task("antmaze-umaze-v2"), {}, "antmaze-umaze")
    assert (config.expectile, config.temperature, config.preprocess.reward) == (0.9, 10.0, "minus-one")
    config = configure("awac", "default", task("door"), {}, "door-human")
    assert config.temperature == 0.1
