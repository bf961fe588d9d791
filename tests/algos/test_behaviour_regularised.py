"""BRAC, BEAR, BRAC+, Fisher-BRC: their losses against numbers worked out by hand, and what stages do."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leashrl.algos import REGISTRY, bear, brac, brac_plus, fisher_brc
from leashrl.algos.common import share
from leashrl.core import override
from leashrl.dist import Mixture, Normal
from leashrl.errors import BadInput
from leashrl.nn import Network
from leashrl.ops import divergence
from leashrl.runs.plan import configure
from leashrl.tasks import TASKS, places
from leashrl.types import Batch, Box, Spec, TimeStep
from support import algorithms
from support.algorithms import random_batch, same
from support.draws import f32

SPEC = Spec(2, Box((-1.0,), (1.0,)))
SMALL = {"hidden": (8, 8), "batch_size": 16, "steps": 40}
built = functools.partial(algorithms.built, spec=SPEC, **SMALL)


def batch(reward=(1.0, 2.0), action=(0.5, -0.5), discount=(0.9, 0.0)):
    obs = f32([[1.0, 0.0], [0.0, 2.0]])
    return Batch(obs, f32(action)[:, None], f32(reward), f32(discount), obs)


def linear(slopes):
    """Critics Q_i(s, a) = s_1 + slopes_i a, in `nn.critic`'s shapes."""

    def apply(params, obs, action):
        if action.ndim == 2:
            return obs[None, :, 0] + params[:, None] * action[None, :, 0]
        if action.ndim == 3:
            return obs[None, :, 0, None] + params[:, None, None] * action[None, ..., 0]
        return obs[None, :, 0, None] + params[:, None, None] * action[..., 0]

    return Network(lambda key: f32(slopes), apply), f32(slopes)


def fixed(mean, std):
    """A policy that is the same Gaussian in every state; its parameters are (mean, log std)."""

    def apply(params, obs):
        shape = (*obs.shape[:-1], 1)
        return jnp.broadcast_to(params[0], shape), jnp.broadcast_to(params[1], shape)

    return Network(lambda key: None, apply), f32([mean, math.log(std)])


# --- Fisher-BRC ----------------------------------------------------------------------------


def test_fishers_critic_is_log_density_plus_offset_and_pays_for_its_slope():
    """Offsets 1 + 2a and 1 - 3a at (s_1, a) = (1, 0.5), (0, -0.5); log mu = -1, 2; y = 0, 1."""
    critic, params = linear([2.0, -3.0])
    loss, (td_loss, values, square) = fisher_brc.critic_loss(
        params, critic, batch(), f32([-1.0, 2.0]), f32([0.0, 1.0]), f32([[0.1], [0.2]]), 0.1
    )
    np.testing.assert_allclose(values, [[2.0 - 1.0, -1.0 + 2.0], [-0.5 - 1.0, 1.5 + 2.0]])
    wanted = (1.0**2 + 0.0**2) / 2 + (1.5**2 + 2.5**2) / 2
    assert float(td_loss) == pytest.approx(wanted)
    np.testing.assert_allclose(square, [[4.0, 4.0], [9.0, 9.0]])
    assert float(loss) == pytest.approx(wanted + 0.1 * (4.0 + 9.0))


def test_fishers_density_ends_at_the_margin():
    mu = Mixture(jnp.zeros((1, 1, 2)), f32([[[[0.0], [1.0]]]]), jnp.zeros((1, 1, 2, 1)))
    hp = {"margin": f32(1e-6), "min_log_std": f32(-20.0)}
    find = lambda u, hp=hp: float(fisher_brc.log_density(mu, f32([[u]]), hp)[0])
    inside, at, beyond = (find(u) for u in (7.0, 7.2543, 20.0))
    assert inside != pytest.approx(at, abs=0.1) and beyond == pytest.approx(at, abs=1e-2)
    slope = jax.grad(lambda u: fisher_brc.log_density(mu, u, hp)[0])
    assert float(slope(f32([[20.0]]))[0, 0]) == 0.0 and float(slope(f32([[0.3]]))[0, 0]) != 0.0
    # A component that has shrunk onto actions of exactly 1 is as wide as the least that is allowed.
    shrunk, least = (dataclasses.replace(mu, log_std=jnp.full((1, 1, 2, 1), x)) for x in (-30.0, -5.0))
    floor = hp | {"min_log_std": f32(-5.0)}
    values = [float(fisher_brc.log_density(m, f32([[1.0]]), floor)[0]) for m in (shrunk, least)]
    assert values[0] == values[1] and np.isfinite(values[0])


WEIGHTS, MEANS, STDS = [0.3, -0.2], [-0.8, 0.9], [0.4, 0.6]


def squashed_entropy(logits, mean, std):
    """-E log density of tanh of a one-dimensional mixture, by Gauss-Hermite quadrature in float64."""
    x, w = np.polynomial.hermite_e.hermegauss(200)
    w = w / math.sqrt(2 * math.pi)
    share = np.exp(logits) / np.exp(logits).sum()
    pdf = lambda u, m, s: np.exp(-0.5 * ((u - m) / s) ** 2) / s / math.sqrt(2 * math.pi)
    total = 0.0
    for p, m, s in zip(share, mean, std, strict=True):
        u = m + s * x
        density = sum(q * pdf(u, n, t) for q, n, t in zip(share, mean, std, strict=True))
        jacobian = 2 * (math.log(2) - u - np.logaddexp(0, -2 * u))
        total -= p * (w * (np.log(density) - jacobian)).sum()
    return total


def entropy_slopes():
    """Of the entropy above in logits, means and log stds, (3, 2): central differences."""
    at = np.array([WEIGHTS, MEANS, np.log(STDS)])
    find = lambda x: squashed_entropy(x[0], x[1], np.exp(x[2]))
    found = np.zeros((3, 2))
    for place in np.ndindex(3, 2):
        step = np.zeros((3, 2))
        step[place] = 1e-5
        found[place] = (find(at + step) - find(at - step)) / 2e-5
    return found


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["every", "chosen"])
def test_the_entropy_bonus_of_fishers_density_has_its_gradient(sampling):
    """Against quadrature. The authors' code has none in the weights, as TensorFlow Probability's mixtures."""

    def apply(params, obs):
        logits, mean, log_std = (jnp.broadcast_to(x, (len(obs), 1, 2)) for x in params)
        return Mixture(logits, mean[..., None], log_std[..., None])

    network, params = Network(lambda key: None, apply), tuple(map(f32, (WEIGHTS, MEANS, np.log(STDS))))
    hp = {"margin": f32(1e-6), "min_log_std": f32(-20.0)}
    n = 200_000
    data = Batch(jnp.zeros((n, 1)), jnp.zeros((n, 1)), jnp.zeros(n), jnp.zeros(n), jnp.zeros((n, 1)))

    def bonus(params):  # what the loss has more with alpha = 1: E log mu(a'), a' ~ mu
        key = jax.random.key(0)
        find = lambda a: fisher_brc.behaviour_loss(params, network, data, key, f32(a), hp, sampling)
        return find(1.0)[0] - find(0.0)[0], find(1.0)[1][1]

    (value, entropy), found = jax.value_and_grad(bonus, has_aux=True)(params)
    wanted = squashed_entropy(WEIGHTS, MEANS, STDS)
    assert float(entropy) == pytest.approx(wanted, abs=0.01)
    assert float(value) == pytest.approx(-wanted, abs=0.01)
    logits, mean, log_std = -entropy_slopes()
    assert logits[0] > 0.1 and mean[0] < -0.5
    np.testing.assert_allclose(found[0], logits if sampling == "every" else np.zeros(2), atol=0.01)
    np.testing.assert_allclose(found[1], mean, atol=0.01)
    np.testing.assert_allclose(found[2], log_std, atol=0.01)


def test_fishers_presets_say_how_the_density_is_sampled():
    pick = lambda preset: configure("fisher-brc", preset, None, {}, "").sampling
    assert {p: pick(p) for p in ("default", "paper", "authors")} == {
        "default": "every",
        "paper": "every",
        "authors": "chosen",
    }


@pytest.mark.slow
def test_fishers_stages_train_the_density_then_leave_it():
    _, _, state, stages = built("fisher-brc", behaviour_percent=50, start="random")
    assert [(s.name, s.steps) for s in stages.values()] == [("behaviour", 20), ("train", 40)]
    data = random_batch(SPEC)
    after, _ = stages["behaviour"].update(state, data, jax.random.key(1), jnp.int32(0))
    assert not same(after.behaviour, state.behaviour)
    assert same((after.critic, after.policy), (state.critic, state.policy))
    later, _ = stages["train"].update(after, random_batch(SPEC), jax.random.key(2), jnp.int32(0))
    assert same(later.behaviour, after.behaviour) and not same(later.critic, after.critic)
    assert built("fisher-brc", "no-representation")[3]["behaviour"].steps == 0
    # With `start=behaviour` the policy is trained there too, the critics are not.
    stages = built("fisher-brc", behaviour_percent=50, start="behaviour")[3]
    cloned, _ = stages["behaviour"].update(state, data, jax.random.key(1), jnp.int32(0))
    assert not same(cloned.policy, state.policy)
    assert same((cloned.critic, cloned.log_alpha), (state.critic, state.log_alpha))
    assert same(cloned.behaviour, after.behaviour)


def test_fishers_bonus_raises_the_target_and_nothing_else():
    targets, data = {}, random_batch(SPEC)
    for bonus in (0.0, 5.0):
        _, _, state, stages = built("fisher-brc", bonus=bonus)
        metrics = stages["train"].update(state, data, jax.random.key(2), jnp.int32(0))[1]
        targets[bonus] = float(metrics["target"])
    assert targets[5.0] - targets[0.0] == pytest.approx(5.0, abs=1e-4)


# --- BRAC ----------------------------------------------------------------------------------


def test_bracs_policy_loss_weighs_divergence_entropy_and_value():
    """pi = N(0.2, 0.5) everywhere: D = KL to N(0, 1) in closed form, Q = 3 everywhere."""
    policy, params = fixed(0.2, 0.5)
    kl = math.log(1 / 0.5) + (0.25 + 0.04) / 2 - 0.5
    penalty = lambda pi: divergence.kl(pi, Normal(jnp.zeros_like(pi.mean), jnp.zeros_like(pi.mean)))
    key, obs = jax.random.key(0), jnp.zeros((4096, 2))
    find = lambda on: brac.policy_loss(
        params, policy, lambda a: jnp.full(a.shape[0], 3.0), penalty, obs, key, f32(2.0), f32(0.0), f32(on)
    )
    loss, (apart, _, q) = find(1.0)
    assert float(apart) == pytest.approx(kl, abs=1e-5) and float(q) == 3.0
    assert float(loss) == pytest.approx(2 * kl - 3.0, abs=1e-4)
    assert float(find(0.0)[0]) == pytest.approx(2 * kl, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [-100.0, 1e4])
def test_bracs_tuned_multiplier_stays_at_its_limit_and_comes_back(threshold):
    """The value stops at 500; what it is computed from may not go on rising, or it would come back late."""
    _, _, state, stages = built("brac-p", "tuned", threshold=threshold)
    at_limit = dataclasses.replace(state, log_alpha=f32(math.log(500.0)))
    after, _ = stages["train"].update(
        at_limit, random_batch(SPEC, rng=np.random.default_rng(1)), jax.random.key(0), jnp.int32(0)
    )
    moved = float(after.log_alpha - at_limit.log_alpha)
    assert moved == 0.0 if threshold < 0 else moved < 0.0


@pytest.mark.parametrize("name", ["brac-p", "brac-v"])
@pytest.mark.parametrize(
    ("preset", "behaviour", "steps", "divergence_alone"),
    [("authors", 300_000, 500_000, 20_000), ("d4rl", 1_000_000, 1_000_000, 20_000)],
)
def test_bracs_presets_resolve_to_the_published_counts(name, preset, behaviour, steps, divergence_alone):
    """README: --total_train_steps=300000 for bc, 500000 for brac_primal; the agent's warm_start is 20000."""
    config = configure(name, preset, None, {}, "")
    stages = REGISTRY[name].build(config, SPEC).stages
    assert [(s.name, s.steps) for s in stages] == [("behaviour", behaviour), ("train", steps)]
    assert share(config.steps, config.policy_only_percent) == divergence_alone


def test_bracs_clone_of_wide_data_reaches_their_own_density():
    """a = tanh(1.5 noise): E log p in closed form. A standard deviation below 1 misses it by 0.22 nats."""
    u = 1.5 * np.random.default_rng(2).standard_normal((1024, 1))
    jacobian = np.mean(2 * (math.log(2) - u - np.logaddexp(0, -2 * u)))
    fitted = lambda s: -math.log(s) - np.mean(u**2) / (2 * s**2) - 0.5 * math.log(2 * math.pi) - jacobian
    wanted = fitted(np.sqrt(np.mean(u**2)))
    assert wanted - fitted(1.0) > 0.2
    _, _, state, stages = built("brac-p", hidden=(8, 8), critic_hidden=(8, 8))
    obs = jnp.ones((1024, 2))
    data = Batch(obs, jnp.tanh(f32(u)), jnp.zeros(1024), jnp.zeros(1024), obs)
    step = lambda s, i: (stages["behaviour"].update(s, data, jax.random.key(i), i)[0], None)
    state, _ = jax.jit(lambda s: jax.lax.scan(step, s, jnp.arange(3000)))(state)
    reached = stages["behaviour"].update(state, data, jax.random.key(0), jnp.int32(0))[1]["log_prob_data"]
    assert float(reached) == pytest.approx(wanted, abs=0.03)


def test_bracs_policy_begins_as_the_clone():
    """`start=behaviour`: the same parameters, so that D is 0 and, while it is alone, moves nothing."""
    _, _, state, stages = built("brac-p", critic_hidden=(8, 8), policy_only_percent=50)
    data = random_batch(SPEC)
    cloned, _ = stages["behaviour"].update(state, data, jax.random.key(0), jnp.int32(0))
    assert same(cloned.policy, cloned.behaviour) and not same(cloned.behaviour, state.behaviour)
    later, metrics = stages["train"].update(cloned, data, jax.random.key(1), jnp.int32(0))
    assert float(metrics["divergence"]) == 0.0
    assert same(later.policy, cloned.policy)
    _, _, state, stages = built("brac-p", "authors", critic_hidden=(8, 8))
    cloned, _ = stages["behaviour"].update(state, data, jax.random.key(0), jnp.int32(0))
    assert same(cloned.policy, state.policy)


def test_bracs_exact_divergence_is_what_its_samples_estimate():
    """In 200,000 samples, far from the margin; and Gauss's closed form by hand."""
    options = {"critic_hidden": (8, 8), "policy_only_percent": 50, "start": "random", "hidden": (8, 8)}
    found = {}
    for kind, samples in (("kl-exact", 1), ("kl", 20_000)):
        _, _, state, stages = built("brac-p", divergence=kind, samples=samples, **options)
        found[kind] = stages["train"].update(
            state, random_batch(SPEC, rng=np.random.default_rng(1)), jax.random.key(2), jnp.int32(0)
        )[1]
    exact = float(found["kl-exact"]["divergence"])
    assert float(found["kl"]["divergence"]) == pytest.approx(exact, rel=0.05, abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kl", "kl-exact", "kl-dual", "mmd", "w"])
def test_the_value_penalty_lowers_targets_by_alpha_times_the_divergence(kind):
    """One update from the same state: BRAC-v's targets are BRAC-p's less gamma alpha D(s')."""
    targets, data = {}, random_batch(SPEC)
    for name in ("brac-p", "brac-v"):
        for alpha in (1.0, 3.0):
            _, _, state, stages = built(name, divergence=kind, alpha=alpha, critic_hidden=(8, 8))
            metrics = stages["train"].update(state, data, jax.random.key(2), jnp.int32(0))[1]
            targets[name, alpha] = float(metrics["target"])
    assert targets["brac-p", 1.0] == targets["brac-p", 3.0]
    less = [targets["brac-p", alpha] - targets["brac-v", alpha] for alpha in (1.0, 3.0)]
    assert less[1] == pytest.approx(3 * less[0], rel=1e-3, abs=1e-5) and less[0] != 0.0


def test_brac_begins_with_the_divergence_alone():
    """While Q is off, what the critic says moves no policy."""
    data, key = random_batch(SPEC), jax.random.key(2)
    policies = {}
    for step in (0, 39):
        for scale in (1.0, 50.0):
            _, _, state, stages = built("brac-p", policy_only_percent=50, critic_rate=0.0)
            state = dataclasses.replace(state, critic=jax.tree.map(lambda x, s=scale: s * x, state.critic))
            policies[step, scale] = stages["train"].update(state, data, key, jnp.int32(step))[0].policy
    assert same(policies[0, 1.0], policies[0, 50.0])
    assert not same(policies[39, 1.0], policies[39, 50.0])


# --- BEAR ----------------------------------------------------------------------------------


def test_bears_policy_loss_by_hand():
    """One policy sample at u = 0, the behaviour's at 1: MMD^2 = 2 - 2 e^(-1/(2 sigma)) with |u - u'| = 1."""
    policy, params = fixed(0.0, 0.5)
    config = bear.Config(samples=1, kernel="laplacian")
    loss, (apart, q, std) = bear.policy_loss(
        params,
        policy,
        lambda a: a[..., 0] + 4.0,
        jnp.ones((2, 1, 1)),
        jnp.zeros((2, 2)),
        jnp.zeros((2, 1, 1)),
        f32(3.0),
        f32(1.0),
        config,
        {"sigma": f32(2.0), "threshold": f32(0.05)},
    )
    wanted = math.sqrt(2 - 2 * math.exp(-0.25) + 1e-6)
    assert float(apart) == pytest.approx(wanted, abs=1e-5)
    assert float(q) == 4.0 and float(std) == pytest.approx(0.5)
    assert float(loss) == pytest.approx(3 * (wanted - 0.05) - 4.0, abs=1e-4)


def test_bears_multiplier_rises_above_its_threshold_and_stays_in_its_range():
    for threshold, sign in ((0.0, 1), (10.0, -1)):
        _, _, state, stages = built("bear", threshold=threshold, behaviour_hidden=(8, 8))
        after, _ = stages["train"].update(state, random_batch(SPEC), jax.random.key(0), jnp.int32(0))
        assert sign * float(after.log_beta) > 0
        state = dataclasses.replace(state, log_beta=f32(sign * 20.0))
        after, _ = stages["train"].update(state, random_batch(SPEC), jax.random.key(0), jnp.int32(0))
        assert float(after.log_beta) == (10.0 if sign > 0 else -5.0)


# --- BRAC+ ---------------------------------------------------------------------------------


def test_brac_plus_critics_pay_where_the_policy_leaves_the_data():
    """Q = s_1 + 2a, s_1 - 3a at (1, 0.5), (0, -0.5): 2 and -0.5, -1 and 1.5; the least slopes by -3."""
    critic, params = linear([2.0, -3.0])
    y, at, f = f32([1.0, 0.5]), f32([[0.4], [0.4]]), f32([0.0, 1.0])
    base = 0.5 * ((1.0 + 1.5**2) / 2 + (1.5**2 + 1.0) / 2)
    for squared, paid in ((True, 9.0), (False, 3.0)):
        loss, (td_loss, _, pays) = brac_plus.critic_loss(
            params, critic, batch(), y, at, (f32(0.1), f), squared
        )
        assert float(td_loss) == pytest.approx(base)
        np.testing.assert_allclose(pays, [0.0, paid], rtol=1e-6)
        assert float(loss) == pytest.approx(base + 0.1 * paid / 2)
    assert float(brac_plus.critic_loss(params, critic, batch(), y, at, None, True)[0]) == pytest.approx(base)


def test_brac_plus_policy_loss_weighs_every_state_by_its_own_multiplier():
    """alpha (D - epsilon) with alpha = 1, 5 and D = KL to N(s_1, 1): a sum by hand."""
    policy, params = fixed(0.0, 1.0)
    obs = f32([[1.0, 0.0], [2.0, 0.0]])
    noise = jnp.zeros((2, 3, 1))
    penalty = lambda pi: 0.5 * obs[:, 0] ** 2
    value = lambda a: jnp.full(a.shape[:2], 7.0)
    loss, (apart, log_pi, _) = brac_plus.policy_loss(
        params, policy, value, penalty, obs, noise, f32([1.0, 5.0]), f32(0.3), f32(0.0)
    )
    np.testing.assert_allclose(apart, [0.5, 2.0])
    assert float(loss) == pytest.approx((1.0 * (0.5 - 0.3) + 5.0 * (2.0 - 0.3)) / 2 - 7.0)
    assert float(log_pi) == pytest.approx(-0.5 * math.log(2 * math.pi), abs=1e-5)  # at u = 0
    capped = brac_plus.policy_loss(
        params, policy, value, penalty, obs, noise, f32([0.0, 0.0]), f32(0.3), f32(2.0)
    )
    assert float(capped[0]) == pytest.approx(-2.0 * float(log_pi) - 7.0, abs=1e-5)


@pytest.mark.slow
def test_brac_plus_takes_the_slope_threshold_from_the_last_epoch():
    """1, 2, 3 and 6 seen: mean 3, variance (1 + 4 + 9 + 36) / 4 - 9 = 3.5."""
    _, _, state, stages = built(
        "brac-plus", "paper", critic_hidden=(8, 8), behaviour_hidden=(8, 8), alpha_hidden=(8,)
    )
    seen = dataclasses.replace(state, seen=f32([4.0, 12.0, 50.0]))
    after = stages["train"].refresh(seen, None, jax.random.key(0))
    assert float(after.slope_from) == pytest.approx(3.0 + math.sqrt(3.5))
    assert np.array_equal(after.seen, np.zeros(3))
    assert float(stages["train"].refresh(state, None, jax.random.key(0)).slope_from) == float(
        state.slope_from
    )
    later, metrics = stages["train"].update(state, random_batch(SPEC), jax.random.key(1), jnp.int32(0))
    n, total, squares = (float(x) for x in later.seen)
    assert n == 16 and total / n == pytest.approx(float(metrics["divergence"]), rel=1e-4)
    assert math.sqrt(squares / n - (total / n) ** 2) == pytest.approx(
        float(metrics["divergence_std"]), rel=1e-3
    )


@pytest.mark.slow
def test_brac_plus_measures_threshold_and_entropy_in_the_stages_before():
    """The first update's mean D plus slack; minus the data's ELBO less d log(std_scale)."""
    small = {"critic_hidden": (8, 8), "behaviour_hidden": (8, 8), "alpha_hidden": (8,)}
    _, _, state, stages = built("brac-plus", "authors", slack=0.7, std_scale=4.0, **small)
    after, metrics = stages["behaviour"].update(state, random_batch(SPEC), jax.random.key(0), jnp.int32(0))
    loss = float(metrics["behaviour_loss"])
    assert float(after.entropy_cap) == pytest.approx(loss - math.log(4.0), abs=1e-5)
    second, metrics = stages["behaviour"].update(after, random_batch(SPEC), jax.random.key(1), jnp.int32(1))
    mean = (loss + float(metrics["behaviour_loss"])) / 2
    assert float(second.entropy_cap) == pytest.approx(mean - math.log(4.0), abs=1e-5)
    cloned, metrics = stages["clone"].update(second, random_batch(SPEC), jax.random.key(2), jnp.int32(0))
    assert float(cloned.threshold) == pytest.approx(float(metrics["divergence"]) + 0.7, abs=1e-4)
    _, _, state, stages = built("brac-plus", "paper", threshold=1.5, entropy_cap=-2.0, **small)
    after, _ = stages["behaviour"].update(state, random_batch(SPEC), jax.random.key(0), jnp.int32(0))
    after, _ = stages["clone"].update(after, random_batch(SPEC), jax.random.key(0), jnp.int32(0))
    assert (float(after.threshold), float(after.entropy_cap)) == (1.5, -2.0)


@pytest.mark.slow
@pytest.mark.parametrize("state_wise", [True, False])
def test_brac_plus_multiplier_rises_where_the_divergence_is_above_its_threshold(state_wise):
    small = {"critic_hidden": (8, 8), "behaviour_hidden": (8, 8), "alpha_hidden": (8,), "alpha_rate": 1e-2}
    for threshold, sign in ((-100.0, 1), (1e4, -1)):
        _, _, state, stages = built(
            "brac-plus", "paper", threshold=threshold, state_wise=state_wise, alpha=2.0, **small
        )
        data = random_batch(SPEC)
        first, metrics = stages["train"].update(state, data, jax.random.key(0), jnp.int32(0))
        assert float(metrics["alpha"]) == pytest.approx(2.0, abs=0.05)
        _, metrics = stages["train"].update(first, data, jax.random.key(0), jnp.int32(1))
        assert sign * (float(metrics["alpha"]) - 2.0) > 1e-3


def test_the_texts_task_tables_are_chosen_by_the_data():
    task = TASKS["halfcheetah"]
    paper = configure("brac-plus", "paper", task, {}, "halfcheetah-medium-expert-like")
    assert (paper.threshold, paper.entropy_cap) == (11.5, -24.0)
    door = configure("brac-plus", "paper", TASKS["door"], {}, "door-human-dapg-replayed")
    assert (door.divergence, door.threshold, door.entropy_cap, door.policy_rate) == ("mmd", 0.1, -60.0, 5e-8)
    authors = configure("brac-plus", "authors", task, {}, "halfcheetah-medium-v2")
    assert (authors.slack, authors.max_slope) == (7.0, 0.1)
    mixed = configure("brac-plus", "mmd", TASKS["hopper"], {}, "hopper_mixed")
    assert (mixed.divergence, mixed.sigma, mixed.threshold) == ("mmd", 10.0, 0.2)
    assert places(None, "anything") == ()


# --- All of them -----------------------------------------------------------------------------


def test_the_best_of_several_actions():
    """Q = s_1 + 2 a, so the largest sample is the best; cut off at one standard deviation where asked."""
    from leashrl.algos.common import best_of

    critic, params = linear([2.0, -3.0])
    policy, gaussian = fixed(0.3, 0.5)
    state = {"policy": gaussian, "critic": params}
    step = TimeStep(jnp.zeros(2), jnp.zeros(()), jnp.asarray(True))
    modes = ("best", "mean", "sample")
    act = lambda key, mode, **kw: float(
        best_of(policy, critic, 50, modes=modes, **kw).act(state, (), step, jax.random.key(key), mode)[0][0]
    )
    noise = np.asarray(jax.random.normal(jax.random.key(1), (50, 1)))
    assert act(1, "best") == pytest.approx(np.tanh(0.3 + 0.5 * noise.max()), abs=1e-6)
    assert act(1, "best", spread=1.0) == pytest.approx(np.tanh(0.8), abs=1e-6)
    # The mean of the two slopes is -0.5: the lowest action.
    assert act(1, "best", spread=1.0, score="mean") == pytest.approx(np.tanh(-0.2), abs=1e-6)
    assert act(1, "mean") == pytest.approx(np.tanh(0.3), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "option", "word"),
    [
        ("brac-p", {"divergence": "js"}, "kl-dual"),
        ("brac-plus", {"slope_weight": "sotf"}, "soft"),
        ("brac-plus", {"members": 0}, "at least 1"),
        ("bear", {"kernel": "cauchy"}, "laplacian"),
        ("bear", {"mix": 1.5}, "from 0 to 1"),
        ("brac-p", {"start": "clone"}, "behaviour"),
        ("brac-p", {"std_range": "wise"}, "wide"),
        ("brac-p", {"margin": 0.0}, "from 1e-07 to 0.5"),
        ("fisher-brc", {"sampling": "all"}, "every"),
        ("fisher-brc", {"start": "clone"}, "behaviour"),
        ("fisher-brc", {"penalty_at": "polcy"}, "policy"),
        ("fisher-brc", {"penalty": -1.0}, "at least 0"),
    ],
)
def test_what_no_config_may_hold_is_told_in_one_line(name, option, word):
    with pytest.raises(BadInput, match=word) as told:
        override(REGISTRY[name].config(), option)
    assert "\n" not in str(told.value)
