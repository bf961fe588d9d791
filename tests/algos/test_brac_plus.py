"""BRAC+: what its policy, critics and multipliers descend on, by closed forms and by hand."""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leashrl.algos import brac_plus
from leashrl.core import hyper, override
from leashrl.dist import Normal, kl, kl_to_standard
from leashrl.errors import BadInput
from leashrl.nn import Network, vae
from leashrl.runs.plan import configure
from leashrl.tasks import TASKS
from leashrl.types import Batch, Box, Spec, Transitions
from support import algorithms
from support.algorithms import random_batch
from support.draws import f32

SPEC = Spec(2, Box((-1.0,), (1.0,)))
SMALL = dict.fromkeys(("hidden", "critic_hidden", "behaviour_hidden", "alpha_hidden"), (8, 8))
SMALL |= {"batch_size": 16, "steps": 40}


def built(preset="default", **options):
    config, _, state, stages = algorithms.built("brac-plus", preset, spec=SPEC, **SMALL | options)
    compiled = {stage.name: stage._replace(update=jax.jit(stage.update)) for stage in stages.values()}
    return config, state, compiled


def constant(params, bias):
    """A network's parameters whose outputs are `bias` whatever it sees."""
    out = params["out"]
    kernel, bias = jnp.zeros_like(out["kernel"]), jnp.broadcast_to(f32(bias), out["bias"].shape)
    return params | {"out": {"kernel": kernel, "bias": bias}}


# --- The entropy's bound ---------------------------------------------------------------------


def fixed(params, obs):
    """The same Gaussian in every state; `params` are (mean, log_std)."""
    return tuple(jnp.broadcast_to(x, (*obs.shape[:-1], 1)) for x in params)


@pytest.mark.parametrize(("coordinates", "outwards"), [("action", 1.0), ("pre-tanh", 0.0)])
def test_the_gradient_of_the_entropys_bound_in_the_mean(coordinates, outwards):
    """beta H(tanh u) = beta (log std + c + E log(1 - tanh^2 u)): -2 beta E tanh u in the mean, by quadrature.

    Before tanh it is beta (log std + c): nothing in the mean, beta in log std.
    """
    mean, std, beta = 1.5, 0.3, 2.0
    points, weights = np.polynomial.hermite_e.hermegauss(40)
    wanted = -2.0 * beta * np.sum(weights * np.tanh(mean + std * points)) / np.sum(weights)
    noise = jax.random.normal(jax.random.key(0), (1, 200_000, 1))

    def loss(params):
        return brac_plus.policy_loss(
            params, Network(lambda key: None, fixed), None, lambda pi: jnp.zeros(1), jnp.zeros((1, 2)),
            noise, f32(0.0), f32(0.0), f32(beta), coordinates,
        )[0]  # fmt: skip

    slope = jax.grad(loss)((f32(mean), f32(math.log(std))))
    assert float(slope[0]) == pytest.approx(outwards * wanted, abs=1e-2)
    if coordinates == "pre-tanh":
        assert float(slope[0]) == 0.0 and float(slope[1]) == pytest.approx(beta)
        entropy = math.log(std) + 0.5 * math.log(2 * math.pi * math.e)
        assert float(loss((f32(mean), f32(math.log(std))))) == pytest.approx(beta * entropy, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "outwards"), [("default", False), ("authors", True)])
def test_cloning_under_the_entropys_bound_moves_a_saturated_mean(preset, outwards):
    """The behaviour's mean is 0, the policy's 2, and beta so high that D hardly counts."""
    _, state, stages = built(preset, beta=1e3)
    behaviour = jax.tree.map(jnp.zeros_like, state.behaviour)
    policy = constant(state.policy, [2.0, -1.0])
    start = dataclasses.replace(state, behaviour=behaviour, policy=policy)
    after, _ = stages["clone"].update(start, random_batch(SPEC, 64), jax.random.key(1), jnp.int32(0))
    assert (float(after.policy["out"]["bias"][0]) > 2.0) == outwards


@pytest.mark.slow
def test_the_data_entropy_is_measured_where_the_bound_is():
    """-ELBO of u less d log(std_scale); in actions the Jacobian's mean is added."""
    data, found = random_batch(SPEC, 64), {}
    for coordinates in ("action", "pre-tanh"):
        _, state, stages = built(entropy_of=coordinates, margin=1e-3, std_scale=1.0)
        after, _ = stages["behaviour"].update(state, data, jax.random.key(1), jnp.int32(0))
        found[coordinates] = float(after.entropy_cap)
    jacobian = np.mean(np.log(1.0 - np.clip(np.asarray(data.action), -0.999, 0.999) ** 2))
    assert found["action"] - found["pre-tanh"] == pytest.approx(jacobian, abs=1e-3)


def test_a_short_stages_threshold_is_its_last_divergence():
    """D falls while the policy clones; epsilon is D at the clone's end, not its mean over the stage."""
    options = {"steps": 200, "clone_percent": 100, "slack": 0.5, "clone_rate": 1e-2, "beta": 1e-6}
    _, state, stages = built("authors", **options)
    state = dataclasses.replace(state, policy=constant(state.policy, [2.0, -1.0]))
    data, divergences = random_batch(SPEC, 64), []
    for step in range(200):
        state, metrics = stages["clone"].update(state, data, jax.random.key(step), jnp.int32(step))
        divergences.append(float(metrics["divergence"]))
    last = np.mean(divergences[-20:])
    assert np.mean(divergences) > last + 0.2
    assert float(state.threshold) - 0.5 == pytest.approx(last, abs=0.05)


# --- The decoder's floor ---------------------------------------------------------------------


@pytest.mark.parametrize("components", [1, 3])
def test_the_floor_is_below_every_standard_deviation_and_no_gradient_dies_there(components):
    """std = floor + softplus(raw): 0.3 + 4.5e-5 at the raw -10, 0.3 + log 2 at 0."""
    net = vae(2, 1, 2, (8, 8), components=components, min_std=0.3)
    params = net.init(jax.random.key(0))
    obs, z = jnp.ones((5, 2)), jnp.ones((5, 2))

    @jax.jit
    def std(raw):
        with_bias = params | {"decoder": constant(params["decoder"], raw)}
        return jnp.exp(net.decode(with_bias, obs, z).log_std)

    for raw, wanted in ((-10.0, 0.3 + math.log1p(math.exp(-10.0))), (0.0, 0.3 + math.log(2.0))):
        np.testing.assert_allclose(std(raw), wanted, rtol=1e-5)
    # The slope of log std in the raw at -2: sigmoid(-2) / (0.3 + softplus(-2)).
    slope = jax.grad(lambda raw: jnp.mean(jnp.log(std(raw))))(-2.0)
    sigmoid = 1 / (1 + math.exp(2.0))
    assert float(slope) == pytest.approx(sigmoid / (0.3 + math.log1p(math.exp(-2.0))), rel=1e-5)


def test_the_defaults_divergence_from_a_narrow_behaviour_has_the_floors_precision():
    """A decoder at its narrowest, N(0, 0.3), and q = N(0, log 2): both KLs in closed form."""
    config, state, _ = built()
    narrow = jax.tree.map(jnp.zeros_like, state.behaviour)
    bias = narrow["decoder"]["out"]["bias"]
    narrow["decoder"]["out"]["bias"] = bias.at[..., -1].set(-100.0)
    pi = Normal(f32([[0.6]]), f32([[-1.0]]))
    behaviour = brac_plus.networks(config, SPEC).behaviour
    found = jax.jit(behaviour.distance)(narrow, pi, jnp.zeros((1, 2)), jax.random.key(0), f32(1.0))
    decoder = Normal(f32([[0.0]]), f32([[math.log(0.3)]]))
    posterior = Normal(jnp.zeros((1, 2)), jnp.full((1, 2), math.log(math.log(2.0))))
    wanted = kl(pi, decoder) + kl_to_standard(posterior)
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


# --- Multipliers -----------------------------------------------------------------------------


def dual_ascent(updates=300, leave=0.0, **options: Any):
    """alpha where the behaviour is far and where it is near, and the last metrics.

    The decoder's mean is 2 in one half of the states and 0 in the other; the policy's is 0 in all, plus
    `leave` after cloning, and cannot move.
    """
    options = {"policy_rate": 0.0, "clone_rate": 0.0, "alpha_rate": 1e-2, "alpha": 1.0, **options}
    config, state, stages = built(slope_weight="none", slack=0.2, **options)
    behaviour = jax.tree.map(jnp.zeros_like, state.behaviour)
    decoder = behaviour["decoder"]  # one unit of each layer passes relu(100 s_1) on
    for layer, weight in ((decoder["hidden"][0], 100.0), (decoder["hidden"][1], 1.0), (decoder["out"], 0.02)):
        layer["kernel"] = layer["kernel"].at[:, 0, 0].set(weight)
    half = jnp.where(jnp.arange(64) % 2 == 0, 1.0, -1.0)
    batch = dataclasses.replace(random_batch(SPEC, 64), obs=jnp.stack([half, jnp.zeros(64)], axis=-1))
    state = dataclasses.replace(state, behaviour=behaviour, policy=constant(state.policy, [0.0, -1.0]))
    key = jax.random.key(1)
    state, _ = stages["clone"].update(state, batch, key, jnp.int32(0))
    state = dataclasses.replace(state, policy=constant(state.policy, [leave, -1.0]))
    for i in range(updates):
        state, metrics = stages["train"].update(state, batch, jax.random.fold_in(key, i), jnp.int32(i))
    if config.state_wise:
        raw = brac_plus.networks(config, SPEC).alpha.apply(state.alpha, f32([[1.0, 0.0], [-1.0, 0.0]]))[:, 0]
    else:
        raw = jnp.broadcast_to(state.alpha["raw"], 2)
    return [float(x) for x in jax.nn.softplus(raw)], {name: float(x) for name, x in metrics.items()}


def test_the_mean_of_the_divergence_is_no_budget_for_every_state():
    """Half of the states are above it and cannot come below: no fixed point, up to the bound alone."""
    (far, near), metrics = dual_ascent(threshold_of="mean", state_wise=True, max_alpha=1e4)
    assert metrics["above"] == 0.5 and far > 10.0 and near < 1.0


@pytest.mark.slow
def test_the_default_multiplier_stays_where_the_policy_is_as_near_as_cloning_left_it():
    """The same states: D is what it was after cloning, within the slack, so that no multiplier rises."""
    (far, near), metrics = dual_ascent()
    assert metrics["above"] == 0.0 and far <= 1.0 and near <= 1.0
    assert metrics["threshold"] - metrics["divergence"] == pytest.approx(0.2, abs=1e-3)
    (left, _), metrics = dual_ascent(leave=-0.5)  # farther in one half, and wholly within reach
    assert metrics["above"] > 0.0 and left > 1.0


def test_no_multiplier_runs_beyond_its_bound():
    _, metrics = dual_ascent(leave=-2.0, alpha_rate=1.0, max_alpha=20.0, state_wise=True)
    assert 1.0 < metrics["alpha"] <= 20.0


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"threshold_of": "state", "clone_percent": 0}, "clone_percent"),
        ({"threshold_of": "median"}, "mean"),
        ({"entropy_of": "u"}, "pre-tanh"),
        ({"floor_percent": -1}, "0 or more"),
        ({"max_alpha": 0.0}, "at least"),
    ],
)
def test_what_no_config_may_hold_is_told_in_one_line(options, word):
    with pytest.raises(BadInput, match=word):
        override(brac_plus.Config(), options)


# --- Published settings ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "data", "sigma", "threshold", "entropy"),
    [
        ("hopper", "hopper-medium-replay-v0", 10.0, 0.2, -3.0),
        ("walker2d", "walker2d-medium-expert-v0", 20.0, 0.2, -12.0),
        ("halfcheetah", "halfcheetah-medium-v0", 10.0, 0.3, -12.0),
    ],
)
def test_mmd_has_table_3s_values_and_table_5s_entropy(task, data, sigma, threshold, entropy):
    config = configure("brac-plus", "mmd", TASKS[task], {}, data)
    assert (config.divergence, config.samples) == ("mmd", 10)
    assert (config.sigma, config.threshold, config.entropy_cap) == (sigma, threshold, entropy)


# --- Equation 10 -----------------------------------------------------------------------------


def line(params, obs, action):
    """Q(s, a) = theta a, an ensemble of one; actions (batch, 1)."""
    return (params * action[..., 0])[None]


@pytest.mark.parametrize(
    ("preset", "best"),
    [("paper", 1 / (1 + 0.1)), ("paper-mixture", 1 / 1.1), ("authors", 1 / (1 + 2 * 0.1))],
)
def test_lambda_weighs_the_slope_against_the_squared_error_as_the_text_has_it(preset, best):
    """Q = theta a, data a = y = 1, lambda 0.1: (theta - 1)^2 + 0.1 theta^2 has its least value at 1 / 1.1.

    With half of the squared error, as in the authors' code, at 1 / 1.2: the text's lambda doubled.
    """
    weight = configure("brac-plus", preset, TASKS["hopper"], {}, "hopper-medium-v0").error_weight
    one = f32([[1.0]])
    batch = Batch(jnp.zeros((1, 2)), one, f32([0.0]), f32([0.9]), jnp.zeros((1, 2)))

    def loss(theta):
        penalty = (f32(0.1), f32([1.0]))
        critic = Network(lambda key: None, line)
        return brac_plus.critic_loss(theta, critic, batch, f32([1.0]), one, penalty, True, weight)[0]

    assert float(jax.grad(loss)(f32(best))) == pytest.approx(0.0, abs=1e-6)
    assert float(loss(f32(2.0))) == pytest.approx(weight * 1.0 + 0.1 * 4.0)


# --- The clone's end -------------------------------------------------------------------------


@pytest.mark.slow
def test_the_clone_comes_to_rest_before_it_is_kept():
    """The divergence that epsilon is taken from settles: beta, once faster than its policy, made it swing."""
    small = dict.fromkeys(("hidden", "behaviour_hidden", "critic_hidden", "alpha_hidden"), (16, 16))
    values = (
        brac_plus.ENTRY["brac-plus"].presets["default"].values
        | small
        | {"batch_size": 32, "steps": 12_000, "behaviour_percent": 20}
    )
    config = override(brac_plus.Config(), values)
    algorithm = brac_plus.build(config, Spec(2, Box((-1.0,) * 3, (1.0,) * 3)))
    rng = np.random.default_rng(0)
    obs = rng.standard_normal((2000, 2))
    mean = np.stack([obs[:, 0], obs[:, 1], obs.sum(1)], 1) / 2
    action = np.tanh(mean + 0.3 * rng.standard_normal((2000, 3)))
    none = jnp.zeros(2000, bool)
    data = Transitions(f32(obs), f32(action), f32(np.zeros(2000)), none, f32(obs))

    def run(stage, state):
        def one(state, t):
            key_sample, key_update = jax.random.split(jax.random.fold_in(jax.random.key(1), t))
            return stage.update(state, stage.sample(data, state, key_sample), key_update, t)

        return jax.lax.scan(one, state, jnp.arange(stage.steps))

    behaviour, clone = algorithm.stages[:2]
    state, _ = jax.jit(partial(run, behaviour))(algorithm.init(jax.random.key(0), hyper(config)))
    _, metrics = jax.jit(partial(run, clone))(state)
    divergence = np.asarray(metrics["divergence"]).reshape(-1, 20).mean(1)  # 600 means of twenty
    settled, last = divergence[180:480], divergence[480:]
    assert last.std() < 2 * settled.std()
    assert last.mean() == pytest.approx(settled.mean(), rel=0.01)
