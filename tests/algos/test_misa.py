"""MISA's losses on inputs small enough to work by hand, and what each preset of table 1 switches."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from leashrl import nn
from leashrl.algos import bc, misa
from leashrl.core import hyper, override
from leashrl.errors import BadInput
from leashrl.ops import conservative, dual, mi
from leashrl.runs.plan import configure
from leashrl.tasks import TASKS
from leashrl.types import Batch, Box, Discrete, Spec
from support.draws import f32

PRESETS = misa.ENTRY["misa"].presets


# --- Losses, with closed forms for networks -----------------------------------------------


def linear_q(params, obs, action):
    """Q_i(s, a) = params_i (s + 2 a) for one-dimensional s and a; params (ensemble,)."""
    if action.ndim == 2:
        return linear_q(params, obs, action[:, None])[..., 0]
    return params[:, None, None] * (
        obs[None, :, None, 0] + 2 * action[..., 0].reshape(-1, *action.shape[-3:-1])
    )


CRITIC = nn.Network(lambda key: f32([1.0, 0.5]), linear_q)
BATCH = Batch(
    obs=f32([[0.0], [1.0]]),
    action=f32([[0.5], [-0.25]]),
    reward=f32([1.0, 0.0]),
    discount=f32([0.9, 0.0]),
    next_obs=f32([[1.0], [0.0]]),
)
ACTIONS = f32([[[0.0], [0.5]], [[-0.5], [0.0]]])  # (batch, k, dim)
Y = f32([0.0, 1.0])
# Q_1 of the data: 1, 0.5; Q_2: 0.5, 0.25. Q_1 of the k actions: (0, 1), (0, 1); Q_2: (0, 0.5), (0, 0.5).
TD = (1.0 + 0.25) / 2 + (0.25 + 0.5625) / 2
DATA = 0.75 + 0.375
LME_1, LME_2 = math.log((1 + math.e) / 2), math.log((1 + math.exp(0.5)) / 2)
LOG_Z = {
    "misa": LME_1 + LME_2,
    "dv": LME_1 + LME_2,  # both states are alike
    "f": (math.exp(-1) + 1) / 2 + (math.exp(-1) + math.exp(-0.5)) / 2,
    "ba": 0.0,
}


@pytest.mark.slow
@pytest.mark.parametrize("bound", mi.BOUNDS)
def test_critic_loss_by_hand(bound):
    loss, (data_values, energies) = conservative.loss(
        CRITIC.init(None), CRITIC.apply, bound, BATCH, ACTIONS, None, Y, f32(5.0), f32(0.5)
    )
    np.testing.assert_allclose(data_values, [[1.0, 0.5], [0.5, 0.25]])
    np.testing.assert_allclose(energies, [[[0.0, 1.0]] * 2, [[0.0, 0.5]] * 2])
    assert float(loss) == pytest.approx(0.5 * TD + 5.0 * (LOG_Z[bound] - DATA), rel=1e-5)


def test_critic_gradient_by_hand():
    """d/dw_1: 0.5 mean 2 (Q - y) q + 5 (mean softmax . q_k - mean q), q = dQ_1/dw_1 = Q_1 at w_1 = 1."""
    arguments = (CRITIC.apply, "misa", BATCH, ACTIONS, None, Y, f32(5.0), f32(0.5))
    gradient, _ = jax.grad(conservative.loss, has_aux=True)(CRITIC.init(None), *arguments)
    by_hand = 0.5 * (2 * 1.0 * 1.0 + 2 * (-0.5) * 0.5) / 2 + 5 * (math.e / (1 + math.e) - 0.75)
    assert float(gradient[0]) == pytest.approx(by_hand, rel=1e-5)


def test_critic_without_policy_actions_is_temporal_difference():
    loss, _ = conservative.loss(
        CRITIC.init(None), CRITIC.apply, "misa", BATCH, ACTIONS[:, :0], None, Y, f32(5.0), f32(1.0)
    )
    assert float(loss) == pytest.approx(TD, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("bound", ["misa", "dv", "f"])
@pytest.mark.parametrize("m", [1, 2])
def test_resampled_critic_gradient_is_unbiased(bound, m):
    """Averaged over keys, `choose` and a backward pass over m of the k actions give the full gradient."""
    rng = np.random.default_rng(0)
    actions = f32(rng.uniform(-0.9, 0.9, (2, 6, 1)))
    params = f32([2.0, -1.0])
    energies = linear_q(params, BATCH.obs, actions)
    rest, grad = (Y, f32(5.0), f32(0.5)), jax.grad(conservative.loss, has_aux=True)

    @jax.jit
    @jax.vmap
    def gradient(key):
        chosen = conservative.choose(key, bound, actions, energies, m)
        return jax.grad(conservative.loss, has_aux=True)(params, CRITIC.apply, bound, BATCH, *chosen, *rest)[
            0
        ]

    drawn = np.asarray(gradient(jax.random.split(jax.random.key(0), 10_000)))
    full, _ = grad(params, CRITIC.apply, bound, BATCH, actions, None, *rest)
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert np.all(error > 0)  # the draws do differ
    assert np.all(np.abs(drawn.mean(0) - np.asarray(full)) < 4 * error + 1e-4)


POLICY = nn.Network(lambda key: f32([0.3, -0.7]), lambda p, s: (p[0] * s, jnp.full_like(s, p[1])))
HP = {"gamma_2": f32(0.5), "gamma_2_correction": f32(0.1)}


def log_prob(u, mean, std):
    """log density of tanh(u)."""
    return norm.logpdf(u, mean, std) - np.log(1 - np.tanh(u) ** 2)


def policy_terms(key):
    """E[Q(a_pi)], E[log pi(a_pi)] and E_D[log pi(a)] in float64, for the noise that `key` gives."""
    noise = np.asarray(jax.random.normal(key, (2, 1)), np.float64)
    mean, std = 0.3 * np.asarray(BATCH.obs, np.float64), math.exp(-0.7)
    u = mean + std * noise
    u_data = np.arctanh(np.asarray(BATCH.action, np.float64))
    return (3.0 * np.tanh(u)).mean(), log_prob(u, mean, std).mean(), log_prob(u_data, mean, std).mean()


def policy_loss(**switches):
    q = lambda a: 3.0 * a[:, 0]
    correction = lambda pi: 7.0 * jnp.sum(pi.mean)  # sum of means: 0.3
    config = misa.Config(**switches)
    arguments = (POLICY, q, BATCH, jax.random.key(4), f32(2.0), correction, HP, config)
    return misa.policy_loss(POLICY.init(None), *arguments)


def test_policy_loss_by_hand():
    """-E[Q] + 0.5 (2 E[log pi(a_pi)] - E_D[log pi(a)]) + 0.1 * 2.1, for alpha = 2."""
    loss, metrics = policy_loss()
    q, log_pi, log_pi_data = policy_terms(jax.random.key(4))
    assert float(loss) == pytest.approx(-q + 0.5 * (2 * log_pi - log_pi_data) + 0.21, rel=1e-5)
    assert float(metrics["q_policy"]) == pytest.approx(q, rel=1e-5)
    assert float(metrics["entropy"]) == pytest.approx(-log_pi, rel=1e-5)
    assert float(metrics["log_prob_data"]) == pytest.approx(log_pi_data, rel=1e-5)
    assert float(metrics["policy_std"]) == pytest.approx(math.exp(-0.7), rel=1e-6)


def test_switches_remove_exactly_their_term():
    _, log_pi, log_pi_data = policy_terms(jax.random.key(4))
    whole = float(policy_loss()[0])
    assert float(policy_loss(barber_agakov=False)[0]) - whole == pytest.approx(0.5 * log_pi_data, rel=1e-4)
    assert whole - float(policy_loss(entropy=False)[0]) == pytest.approx(0.5 * 2 * log_pi, rel=1e-4)


def test_behaviour_cloning_is_the_barber_agakov_term():
    loss, _ = bc.likelihood_loss(POLICY.init(None), POLICY, BATCH)
    _, metrics = policy_loss()
    assert float(loss) == -float(metrics["log_prob_data"])
    assert float(loss) == pytest.approx(-policy_terms(jax.random.key(4))[2], rel=1e-5)


def test_temperature_rises_while_the_entropy_is_too_low():
    """d/d log_alpha of -log_alpha (target - H) = H - target: negative, so that descent raises alpha."""
    value, slope = jax.value_and_grad(dual.temperature_loss)(f32(0.5), f32(-4.0), f32(-1.0))
    assert float(value) == pytest.approx(-1.5)
    assert float(slope) == pytest.approx(-3.0)
    assert float(jax.grad(dual.temperature_loss, argnums=1)(f32(0.5), f32(-4.0), f32(-1.0))) == 0.0


def test_uniform_proposals_give_the_penalty_of_cql():
    """Section 4.4: with all |A| actions as k, log Z = log sum_a e^Q - log |A|; the gradients are equal."""
    actions = jnp.broadcast_to(jnp.linspace(-0.9, 0.9, 7)[None, :, None], (2, 7, 1))
    params, rest = CRITIC.init(None), (BATCH, actions, None, Y, f32(1.0), f32(0.0))

    def cql(params):  # in float32, to be differentiated: sum_i E_s[log sum_a e^Q] - E_D[Q]
        q, data = linear_q(params, BATCH.obs, actions), linear_q(params, BATCH.obs, BATCH.action)
        return jnp.sum(jnp.mean(jnp.log(jnp.sum(jnp.exp(q), -1)), -1)) - jnp.sum(jnp.mean(data, -1))

    value_and_grad = jax.value_and_grad(conservative.loss, has_aux=True)
    (ours, _), gradient = value_and_grad(params, CRITIC.apply, "misa", *rest)
    theirs, cql_gradient = jax.value_and_grad(cql)(params)
    assert float(theirs - ours) == pytest.approx(2 * math.log(7), rel=1e-5)  # once a member
    np.testing.assert_allclose(gradient, cql_gradient, rtol=1e-4)
    q = np.asarray(linear_q(params, BATCH.obs, actions), np.float64)
    data = np.asarray(linear_q(params, BATCH.obs, BATCH.action), np.float64)
    assert float(theirs) == pytest.approx((logsumexp(q, axis=-1).mean(-1) - data.mean(-1)).sum(), rel=1e-5)


def test_a_separate_energy_at_a_size_that_is_cut_into_blocks():
    """Its critic has no actions to be pushed down on, and so no blocks; its energy has both."""
    config = override(misa.Config(), PRESETS["t"].values | {"hidden": (8, 8), "estimator": "none"})
    algorithm = misa.build(config, Spec(1, Box((-1.0,), (1.0,))))
    state = jax.jit(algorithm.init)(jax.random.key(0), hyper(config))
    rng = np.random.default_rng(0)
    obs, action = f32(rng.standard_normal((256, 1))), f32(rng.uniform(-1, 1, (256, 1)))
    batch = Batch(obs, action, obs[:, 0], jnp.full(256, 0.9), obs)
    after, metrics = jax.jit(algorithm.stages[0].update)(state, batch, jax.random.key(1), jnp.int32(0))
    assert all(np.isfinite(x) for x in metrics.values())
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), state.energy, after.energy)
    assert all(jax.tree.leaves(changed))


# --- Presets: which hyper-parameters reach which network --------------------------------

SPEC = Spec(1, Box((-1.0,), (1.0,)))
SMALL = {"hidden": (4,), "batch_size": 2, "k": 3, "chain_samples": 2, "burn_in": 1, "chain_adapt": 0}


class Update:
    """One compiled update of a preset, from a state whose critics are constant: Q_1 = 2, Q_2 = 1."""

    def __init__(self, preset, **more):
        config = override(override(misa.Config(), PRESETS[preset].values), SMALL | more)
        algorithm = misa.build(config, SPEC)
        state = jax.jit(algorithm.init)(jax.random.key(0), hyper(config))
        critic = jax.tree.map(lambda x: x, state.critic)
        critic["out"] = {"kernel": 0.0 * critic["out"]["kernel"], "bias": f32([[2.0], [1.0]])}
        self.state = dataclasses.replace(state, critic=critic)
        self.update = jax.jit(algorithm.stages[0].update)
        self.after, self.metrics = self.run(self.state)

    def run(self, state):
        return self.update(state, BATCH, jax.random.key(1), jnp.int32(0))

    def moved(self, **values):
        """The networks whose gradients other values of some hyper-parameters change."""
        hp = self.state.hp | {name: f32(value) for name, value in values.items()}
        other, _ = self.run(dataclasses.replace(self.state, hp=hp))
        # Adam's mean of the gradients: the parameters' first step is blind to a gradient's length
        leaves = lambda state, part: jax.tree.leaves(state.optimiser[part]["mean"])
        differs = lambda a, b: any(not np.array_equal(x, y) for x, y in zip(a, b, strict=True))
        parts = ("policy", "critic", "energy")
        return {p for p in parts if differs(leaves(self.after, p), leaves(other, p))}


def test_full_objective_reaches_both_networks():
    full = Update("authors", estimator="snis", lagrange=True, tau=2.0)
    assert full.moved(gamma_1=50.0) == {"critic"}
    assert full.moved(gamma_2_correction=10.0) == {"policy"}
    assert full.moved(gamma_2=5.0) == {"policy"}
    assert full.moved(td_weight=10.0) == {"critic"}
    # The gap log Z - E_D[Q] of a constant is 0; the authors' code divides by the batch where k is meant.
    gap = math.log(3 / 2)
    assert float(full.metrics["gap"]) == pytest.approx(gap, abs=1e-6)
    # lambda starts at e; d/dx of -e^x (gap - tau) at x = 1, times Adam's 1 - b1; the gap is within its
    # budget, so lambda falls.
    assert float(full.metrics["lagrange"]) == pytest.approx(math.e, rel=1e-6)
    slope = -math.e * (gap - 2.0)
    assert float(full.after.optimiser["log_lagrange"]["mean"]) == pytest.approx(0.1 * slope, rel=1e-5)
    assert float(full.after.log_lagrange) < 1.0


def test_biased_has_no_correction():
    """On f here, whose gap of a constant c is e^(c - 1) - c: (e - 2) and (1 - 1) over the ensemble."""
    biased = Update("biased", bound="f", normaliser="k")
    assert biased.moved(gamma_2_correction=1e3) == set()
    assert biased.moved(gamma_1=50.0) == {"critic"}
    assert float(biased.metrics["gap"]) == pytest.approx((math.e - 2) / 2, rel=1e-5)
    known = float(biased.metrics["bound_ba"]) + 1.0  # the energy is the smaller Q
    for bound, log_z in (("misa", 1.0), ("dv", 1.0), ("f", 1.0)):
        assert float(biased.metrics[f"bound_{bound}"]) == pytest.approx(known - log_z, abs=1e-5)


def test_barber_agakov_alone_has_no_energy_anywhere():
    ba = Update("ba")
    assert ba.moved(gamma_1=1e3, gamma_2_correction=1e3) == set()
    assert ba.moved(gamma_2=5.0) == {"policy"}
    assert "bound_misa" not in ba.metrics
    assert float(ba.metrics["gap"]) == 0.0


def test_separate_energy_climbs_the_bound_and_the_critic_does_not():
    t = Update("t", estimator="none")
    assert t.moved(gamma_1=1e3) == set()  # no penalty on Q; T climbs at its own rate
    assert t.moved(td_weight=10.0) == {"critic"}
    assert any(np.any(x) for x in jax.tree.leaves(t.after.optimiser["energy"]["mean"]))


TABLE_1 = {  # the columns of the text's table 1: what differs from the authors' settings
    "k5": {"k": 5, "chain_samples": 5},
    "k20": {"k": 20, "chain_samples": 20},
    "bi1": {"burn_in": 1, "chain_adapt": 0},
    "no-ba": {"barber_agakov": False},
    "ba": {"bound": "ba"},
    "f": {"bound": "f"},
    "dv": {"bound": "dv"},
    "biased": {"estimator": "none"},
    "t": {"energy": "t"},
}


@pytest.mark.parametrize("name", TABLE_1)
def test_columns_of_table_1_differ_in_one_thing(name):
    config = lambda preset: dataclasses.asdict(override(misa.Config(), PRESETS[preset].values))
    authors, column = config("authors"), config(name)
    assert {k: v for k, v in column.items() if v != authors[k]} == TABLE_1[name]


def test_authors_and_paper_hold_their_published_values():
    """Facts 4.1 and 4.2: what the public code does, and where the text says otherwise."""
    config = lambda preset: override(misa.Config(), PRESETS[preset].values)
    authors, paper = config("authors"), config("paper")
    common = {"k": 50, "chain_samples": 50, "burn_in": 5, "leapfrog": 2, "chain_step": 1.0, "gamma": 0.99}
    common |= {"bound": "misa", "barber_agakov": True, "polyak": 0.005}
    common |= {"critic_activation": "elu", "policy_rate": 1e-4, "critic_resample": 0, "batch_size": 256}
    code = {"gamma_1": 5.0, "gamma_2": 0.5, "gamma_2_correction": 0.1, "td_weight": 1.0, "critic_rate": 3e-4}
    code |= {"policy_activation": "relu", "normaliser": "batch", "entropy": True, "schedule": "constant"}
    code |= {"estimator": "hmc-action", "single_gamma_2": False, "chain_adapt": 4}
    text = {"single_gamma_2": True, "td_weight": 0.5, "critic_rate": 1e-4, "policy_activation": "elu"}
    text |= {"normaliser": "k", "entropy": False, "schedule": "cosine", "estimator": "hmc", "chain_adapt": 0}
    for name, value in (common | code).items():
        assert getattr(authors, name) == value, name
    for name, value in (common | code | text).items():
        if name != "gamma_2_correction":  # equation 13 has none
            assert getattr(paper, name) == value, name


def test_one_gamma_2_weighs_the_term_and_its_correction():
    """Equation 13: -E[Q] - 0.5 E_D[log pi(a)] + 0.5 * 2.1 without the entropy, whatever gamma_2' says."""
    loss, _ = policy_loss(single_gamma_2=True, entropy=False)
    q, _, log_pi_data = policy_terms(jax.random.key(4))
    assert float(loss) == pytest.approx(-q - 0.5 * log_pi_data + 0.5 * 2.1, rel=1e-5)
    tied = Update("paper")
    assert tied.moved(gamma_2_correction=10.0) == set()
    assert tied.moved(gamma_2=5.0) == {"policy"}


def learnt_log_likelihood(preset, updates=300):
    """log pi of the data and HMC's acceptance after `updates` on 256 rows of a = tanh(s) + noise."""
    rng = np.random.default_rng(0)
    obs = rng.standard_normal((256, 2)).astype(np.float32)
    action = np.clip(np.tanh(obs) + 0.1 * rng.standard_normal(obs.shape), -0.99, 0.99)
    batch = Batch(f32(obs), f32(action), f32(obs[:, 0]), jnp.full(256, 0.9), f32(obs[::-1]))
    more = {"hidden": (32, 32), "k": 10, "chain_samples": 10, "steps": updates}
    config = override(override(misa.Config(), PRESETS[preset].values), more)
    config = override(config, {"policy_rate": 1e-3, "critic_rate": 1e-3})
    algorithm = misa.build(config, Spec(2, Box((-1.0, -1.0), (1.0, 1.0))))
    update = algorithm.stages[0].update

    @jax.jit
    def train(state):
        step = lambda t, s: update(s, batch, jax.random.fold_in(jax.random.key(1), t), t)[0]
        state = jax.lax.fori_loop(0, updates, step, state)
        return update(state, batch, jax.random.key(2), jnp.int32(updates - 1))[1]

    metrics = train(jax.jit(algorithm.init)(jax.random.key(0), hyper(config)))
    return float(metrics["log_prob_data"]), float(metrics["acceptance"])


@pytest.mark.slow
def test_the_texts_settings_keep_the_policy_on_the_data():
    """With a sampler that does not move, equation 15's term cancels E_D[log pi]: log pi was -6.6.

    The Gaussian that fits best has log pi = 2 (-log 0.1 - 1.42) = 1.8 before tanh's Jacobian, which adds 0.9.
    """
    log_prob, acceptance = learnt_log_likelihood("paper")
    assert acceptance > 0.6
    assert log_prob > 0.0


def test_log_z_is_too_low_by_what_a_sample_of_k_does_not_reach():
    """Of Q ~ N(0, 3^2) under pi, log Z = 9 / 2; of k draws it is less. Then the default's k by domain."""
    q = 3.0 * np.random.default_rng(0).standard_normal((20_000, 50))
    found = {k: float(np.mean(logsumexp(q[:, :k], axis=1) - math.log(k))) for k in (10, 50)}
    assert found[10] == pytest.approx(2.77, abs=0.05) and found[50] == pytest.approx(3.63, abs=0.05)
    assert float(mi.log_partition("misa", f32(q))) == pytest.approx(found[50], abs=1e-4)
    one = {row.domain: row for row in TASKS.values()}
    for domain in ("adroit", "kitchen", "antmaze"):  # tau is the text's, and so is the k that it belongs to
        assert configure("misa", "default", one[domain], {}).k == 50
    assert configure("misa", "default", one["gym"], {}).k == 10


def test_domains_are_each_presets_own():
    """Fact 4.2: the text has the Lagrange form and wider antmaze networks, the code scales rewards."""
    one = {row.domain: row for row in TASKS.values()}
    get = lambda preset, domain: configure("misa", preset, one.get(domain), {})
    for domain in ("adroit", "kitchen"):
        assert (get("paper", domain).lagrange, get("paper", domain).tau) == (True, 3.0)
        assert get("paper", domain).preprocess.reward == "none"
        for preset in ("authors", *TABLE_1):
            assert not get(preset, domain).lagrange and get(preset, domain).preprocess.reward == "unit"
    assert get("paper", "antmaze").tau == 10.0 and len(get("paper", "antmaze").hidden) == 3
    assert not get("authors", "antmaze").lagrange and len(get("authors", "antmaze").hidden) == 2
    for preset in ("default", "paper", "authors"):
        assert get(preset, "antmaze").preprocess.reward == "antmaze"
        assert get(preset, "gym") == get(preset, None)


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_discrete_actions_have_a_temperature_that_can_rise(share):
    """Its gradient is H - share log 3, and H is near log 3 for a new policy; -1 nat was never reached."""
    config = override(misa.Config(), {"hidden": (4,), "entropy_share": share})
    algorithm = misa.build(config, Spec(1, Discrete(3)))
    batch = dataclasses.replace(BATCH, action=jnp.array([0, 2]))
    state = jax.jit(algorithm.init)(jax.random.key(0), hyper(config))
    after, _ = jax.jit(algorithm.stages[0].update)(state, batch, jax.random.key(1), jnp.int32(0))
    wanted = 0.1 * (1 - share) * math.log(3)  # Adam's mean holds a tenth of the first gradient
    assert float(after.optimiser["log_alpha"]["mean"]) == pytest.approx(wanted, rel=1e-2)


@pytest.mark.parametrize(
    "option",
    [
        {"hidden": ()},
        {"gamma": 7.0},
        {"gamma": -0.1},
        {"polyak": 1.5},
        {"critic_rate": -1e-3},
    ],
)
def test_values_out_of_range_are_refused(option):
    with pytest.raises(BadInput, match=f"'{next(iter(option))}' must"):
        misa.Config(**option)
