"""MOPO: its model against numbers worked out by hand, the simulators' own rules, its roll-outs."""

import dataclasses
import functools
import math

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leashrl.algos import REGISTRY, mopo
from leashrl.core import Preprocess, override
from leashrl.data import Dataset, prepare
from leashrl.errors import BadInput
from leashrl.models import dynamics
from leashrl.runs.plan import configure
from leashrl.tasks import task
from leashrl.types import Box, Spec, Transitions
from support import algorithms
from support.draws import normal

SPEC = Spec(3, Box((-1.0, -1.0), (1.0, 1.0)))
SMALL = {"hidden": (8,), "model_hidden": (8,), "members": 4, "elites": 2, "batch_size": 20, "steps": 40}
SMALL |= {"rollouts": 6, "horizon": 3, "retain": 2, "real_percent": 25, "check": 10, "model_percent": 100}
built = functools.partial(algorithms.built, "mopo", spec=SPEC, **SMALL)


def world(n=400):
    """s' = s + (a_1, a_2, 0.5 s_1), r = a_1 - s_2."""
    draw = functools.partial(normal, n, rng=np.random.default_rng(0))
    obs, action = draw(3), jnp.tanh(draw(2))
    change = jnp.concatenate([action, 0.5 * obs[:, :1]], axis=1)
    return Transitions(obs, action, action[:, 0] - obs[:, 1], jnp.zeros(n, bool), obs + change)


DATA = world()


def falls(stored):
    """10 episodes of 20 steps of 0.1 in each dimension; each 20th step is a fall to -50, and pays -9."""
    start = 100.0 * np.arange(10).repeat(20)
    obs = (start + 0.1 * np.tile(np.arange(20), 10))[:, None].repeat(3, 1)
    terminal = np.arange(200) % 20 == 19
    return Dataset.from_arrays(
        *(obs, np.zeros((200, 2)), np.where(terminal, -9.0, 1.0), terminal),
        timeout=np.zeros(200),
        next_obs=np.where(terminal[:, None], -50.0, obs + 0.1) if stored else None,
        action_space=SPEC.action,
    )


def seen_by_mopo(dataset):
    return Transitions(**prepare(dataset, Preprocess(), REGISTRY["mopo"].view)[0])


def sure(state, outcome, errors=(3.0, 1.0, 2.0, 4.0)):
    """A model whose network n says n + `outcome` whatever it sees, with the least variance."""
    members = len(errors)
    net = jax.tree.map(jnp.zeros_like, state.model["net"])
    mean = jnp.arange(float(members))[:, None] + jnp.asarray(outcome, jnp.float32)[None]
    net["out"]["bias"] = jnp.concatenate([mean, jnp.full_like(mean, -100.0)], axis=1)
    model = state.model | {"net": net}
    return dataclasses.replace(state, best_model=model, best_error=jnp.float32(errors))


# --- The model -----------------------------------------------------------------------------------


def test_the_models_loss_by_hand():
    """One linear network, one row: mean 1 + 2 s - a, raw log variance 0, softly within -10 and 0.5."""
    model = dynamics.ensemble(1, 1, (), 1)
    params = model.init(jax.random.key(0))
    kernel = jnp.float32([[[2.0, 0.0, 0.0, 0.0], [-1.0, 3.0, 0.0, 0.0]]])
    params["net"]["out"] = {"kernel": kernel, "bias": jnp.float32([[1.0, 0.0, 0.0, 0.0]])}
    params["scale"] = {"mean": jnp.float32([1.0, 0.0]), "std": jnp.float32([2.0, 0.5])}
    obs, action, outcome = jnp.float32([[3.0]]), jnp.float32([[0.25]]), jnp.float32([[2.0, 1.0]])
    high = 0.5 - math.log1p(math.exp(0.5))
    log_var = -10 + math.log1p(math.exp(high + 10))
    mean, found = model.predict(params, obs, action)  # scaled: s = 1, a = 0.5
    np.testing.assert_allclose(mean[0], [[1 + 2 - 0.5, 1.5]], rtol=1e-6)
    np.testing.assert_allclose(found[0], [[log_var, log_var]], rtol=1e-5)
    fit = (0.5**2 + 0.5**2) / 2 * math.exp(-log_var) + log_var
    wanted = fit + 0.01 * 2 * 10.5 + 0.1 * 0.5 * (4 + 1 + 9)  # the first layer's share is a half
    loss = model.loss(params, obs[None], action[None], outcome[None], 0.1)
    assert float(loss) == pytest.approx(wanted, rel=1e-5)


def test_all_rewards_count_and_the_observations_that_are_known():
    """Two networks, three rows: the mean of all rewards, and of each dimension of the known observations."""
    model = dynamics.ensemble(3, 2, (8,), 2)
    params = model.init(jax.random.key(0))
    obs, action, outcome = normal(2, 3, 3), normal(2, 3, 2), normal(2, 3, 4)
    known = np.array([[True, False, True], [False, False, True]])
    far = jnp.where(jnp.asarray(known)[..., None], outcome, outcome.at[..., 1:].set(1e6))

    def mean_of_four(x, known):
        return (x[:, 0].mean() + x[known, 1:].mean(0).sum()) / 4

    means, log_vars = zip(*(model.predict(params, obs[i], action[i]) for i in (0, 1)), strict=True)
    fit = 0.0
    for i in (0, 1):
        mean, log_var = np.asarray(means[i][i], np.float64), np.asarray(log_vars[i][i], np.float64)
        fit += mean_of_four((mean - np.asarray(outcome[i])) ** 2 * np.exp(-log_var) + log_var, known[i])
    loss = model.loss(params, obs, action, far, 0.0, jnp.asarray(known))
    assert float(loss) == pytest.approx(fit + 0.01 * 2 * 4 * 10.5, rel=1e-5)
    found = dynamics.squared_errors(model, params, obs[0], action[0], far[0], jnp.asarray(known[0]))
    squares = (np.asarray(means[0]) - np.asarray(outcome[0])) ** 2
    np.testing.assert_allclose(found, [mean_of_four(x, known[0]) for x in squares], rtol=1e-5)
    everything = jnp.ones((2, 3), bool)
    plain, all_known = (model.loss(params, obs, action, outcome, 0.1, x) for x in (None, everything))
    assert float(plain) == pytest.approx(float(all_known), rel=1e-6)


def test_layers_have_the_authors_shares_of_the_decay():
    model = dynamics.ensemble(1, 1, (2, 2, 2, 2), 1)
    params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))
    params["scale"]["std"] = jnp.ones(2)
    rows = (jnp.zeros((1, 1, 1)), jnp.zeros((1, 1, 1)), jnp.zeros((1, 1, 2)))
    layers = [*params["net"]["hidden"], params["net"]["out"]]
    found = []
    for layer in layers:
        kept, layer["kernel"] = layer["kernel"], layer["kernel"].at[0, 0, 0].set(1.0)
        found.append(float(model.loss(params, *rows, 5e-5) - model.loss(params, *rows, 0.0)))
        layer["kernel"] = kept
    np.testing.assert_allclose(found, [2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4], atol=2e-6)


@pytest.mark.parametrize(
    ("name", "env_id", "noise"), [("hopper", "Hopper-v5", 0.15), ("walker2d", "Walker2d-v5", 0.6)]
)
def test_episodes_end_by_the_simulators_own_rule(name, env_id, noise):
    env = gymnasium.make(env_id).unwrapped
    env.reset(seed=0)
    rng, seen = np.random.default_rng(0), []
    for _ in range(300):
        position = env.init_qpos + rng.normal(0, noise, env.model.nq)
        velocity = rng.normal(0, 40 if rng.random() < 0.3 else 1, env.model.nv)
        env.set_state(position, velocity)
        obs = np.concatenate([position[1:], velocity])  # without the cut of velocities at ±10
        seen.append((bool(dynamics.TERMINATIONS[name](jnp.asarray(obs))), not env.is_healthy))
    env.close()
    found, wanted = zip(*seen, strict=True)
    assert found == wanted and 30 < sum(wanted) < 270
    assert not bool(dynamics.never(jnp.zeros(3)))


# --- Held-out rows -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [8, 40, 399, 12_345, 100_000])
def test_rows_are_either_held_out_or_learnt_from(n):
    period, held = dynamics.held_out(n, 20)
    count = dynamics.training_rows(n, 20)
    learnt = np.asarray(dynamics.training_row(jnp.arange(count), n, 20))
    kept = np.flatnonzero(np.arange(n) % period < held)
    assert len(np.unique(learnt)) == count and not set(learnt) & set(kept)
    assert set(learnt) | set(kept) == set(range(n))
    assert n < 40 or 0.15 < len(kept) / n < 0.25


def test_each_network_keeps_its_best_weights_until_its_patience_is_over():
    config, _, state, stages = built()
    look = jax.jit(stages["model"].refresh)
    first = look(state, DATA, None)
    assert np.all(np.isfinite(first.best_error)) and not np.any(first.waited)
    np.testing.assert_allclose(first.model["scale"]["mean"][:3], DATA.obs.mean(0), atol=1e-5)
    # Network 0 has erred less before and has patience, 1 has none left, 2 is better now, 3 hardly better.
    known = first.best_error * jnp.float32([0.5, 2.0, 2.0, 1.005])
    waited = jnp.int32([4, config.patience, 1, 0])
    older = jax.tree.map(lambda x: x + 1.0, first.model)
    state = dataclasses.replace(first, best_error=known, waited=waited, best_model=older)
    after = look(state, DATA, None)
    np.testing.assert_array_equal(after.waited, [5, config.patience, 0, 1])
    np.testing.assert_array_equal(after.best_error != known, [False, False, True, False])
    bias, old, new = (m["net"]["out"]["bias"] for m in (after.best_model, older, first.model))
    np.testing.assert_array_equal(bias, jnp.stack([old[0], old[1], new[2], old[3]]))


def test_the_model_learns_a_world():
    _, _, state, stages = built(model_hidden=(32, 32), batch_size=64, model_rate=1e-2, decay=0.0)
    stage = stages["model"]
    errors = []
    step = jax.jit(lambda s, k: stage.update(s, stage.sample(DATA, s, k), k, jnp.int32(0))[0])
    for i in range(300):
        if i % 100 == 0:
            state = stage.refresh(state, DATA, None)
            errors.append(float(jnp.mean(state.best_error)))
        state = step(state, jax.random.key(i))
    assert float(jnp.mean(stage.refresh(state, DATA, None).best_error)) < 0.1 * errors[0]
    assert errors[0] > errors[1] > errors[2]


# --- Where an episode ends -----------------------------------------------------------------------


@pytest.mark.parametrize("stored", [True, False])
def test_the_model_learns_no_fall_to_the_next_episodes_start(stored):
    data = seen_by_mopo(falls(stored))
    _, _, state, stages = built(batch_size=4000)
    *drawn, known = stages["model"].sample(data, state, jax.random.key(0))
    obs, _, outcome = map(np.asarray, drawn)
    last = np.isclose(obs[..., 0] % 100, 1.9, atol=0.01)
    assert last.any()
    np.testing.assert_array_equal(known, ~last if not stored else np.ones_like(last))
    change = outcome[..., 1:]
    np.testing.assert_allclose(change[~last], 0.1, atol=1e-3)
    if stored:
        np.testing.assert_allclose(change[last], -50 - obs[last], rtol=1e-5)
    assert not np.any(np.isclose(change, 98.1, atol=0.1))  # up to the next episode's start


@pytest.mark.parametrize("stored", [True, False])
def test_falls_stay_in_the_share_that_sac_has_of_the_data(stored):
    data = seen_by_mopo(falls(stored))
    _, _, state, stages = built(real_percent=100, batch_size=2000)
    batch = stages["train"].sample(data, dataclasses.replace(state, written=jnp.int32(1)), jax.random.key(0))
    fell = np.asarray(batch.reward) == -9
    assert 0.03 < fell.mean() < 0.07  # one row of twenty
    np.testing.assert_array_equal(batch.discount, np.where(fell, 0, np.float32(0.99)))


@pytest.mark.slow
def test_unknown_outcomes_move_nothing():
    """One update, and the held-out rows' error, with a fall's row that leads to 0 or to anywhere."""
    data = seen_by_mopo(falls(False))
    far = dataclasses.replace(data, next_obs=jnp.where(data.known[:, None], data.next_obs, 1e9))
    _, _, state, stages = built(batch_size=200)
    stage = stages["model"]
    one, two = (
        stage.refresh(
            stage.update(state, stage.sample(rows, state, jax.random.key(0)), None, jnp.int32(0))[0],
            rows,
            None,
        )
        for rows in (data, far)
    )
    assert jax.tree.all(
        jax.tree.map(np.array_equal, (one.model, one.best_error), (two.model, two.best_error))
    )


# --- Roll-outs -----------------------------------------------------------------------------------


def test_roll_outs_follow_an_elite_and_pay_for_what_no_network_knows():
    _, _, state, stages = built(penalty=10.0)
    state = sure(state, [0.5, 1.0, 0.0, -1.0])  # the elites are networks 1 and 2
    after = jax.jit(stages["train"].refresh)(
        dataclasses.replace(state, waited=jnp.full(4, 9)), DATA, jax.random.key(1)
    )
    rows = {name: np.asarray(x)[:18].reshape(3, 6, *x.shape[1:]) for name, x in after.dreams.items()}
    unsure = 2.0 * math.exp(-5.0)  # four numbers of variance e^-10
    np.testing.assert_allclose(after.penalties, [unsure] * 3, rtol=1e-3)
    change = rows["next_obs"] - rows["obs"]
    network = np.round(rows["reward"] + 10 * unsure - 0.5)
    assert set(network.ravel()) == {1.0, 2.0}
    spread = 6 * math.exp(-5.0)
    np.testing.assert_allclose(rows["reward"] + 10 * unsure, network + 0.5, atol=spread)
    np.testing.assert_allclose(change, network[..., None] + np.array([1.0, 0.0, -1.0]), atol=spread)
    np.testing.assert_array_equal(rows["obs"][1:], rows["next_obs"][:-1])
    starts = {tuple(row) for row in np.asarray(DATA.obs)}
    assert all(tuple(row) in starts for row in rows["obs"][0])
    assert not rows["terminal"].any() and not np.asarray(after.dreams["obs"])[18:].any()
    assert int(after.written) == 1


def test_an_episode_that_is_over_begins_anew():
    _, _, state, stages = built(termination="hopper")
    state = dataclasses.replace(sure(state, [0.0, -100.0, 0.0, 0.0]), waited=jnp.full(4, 9))
    after = jax.jit(stages["train"].refresh)(state, DATA, jax.random.key(1))
    starts = {tuple(row) for row in np.asarray(DATA.obs)}
    assert all(tuple(row) in starts for row in np.asarray(after.dreams["obs"])[:18])
    assert np.asarray(after.dreams["terminal"])[:18].all()


def test_the_oldest_roll_outs_go_first():
    _, _, state, stages = built()
    refresh = jax.jit(stages["train"].refresh)
    state = dataclasses.replace(sure(state, [0.0] * 4), waited=jnp.full(4, 9))
    one = refresh(state, DATA, jax.random.key(1))
    two = refresh(one, DATA, jax.random.key(2))
    three = refresh(two, DATA, jax.random.key(3))
    first, second = slice(0, 18), slice(18, 36)
    np.testing.assert_array_equal(two.dreams["obs"][first], one.dreams["obs"][first])
    np.testing.assert_array_equal(three.dreams["obs"][second], two.dreams["obs"][second])
    assert not np.array_equal(three.dreams["obs"][first], two.dreams["obs"][first])


def test_a_batch_is_of_the_data_and_of_the_model():
    _, _, state, stages = built()
    fill = {"reward": 7.0, "terminal": True, "obs": 5.0, "action": 0.5, "next_obs": 6.0}
    written = {name: state.dreams[name].at[:18].set(x) for name, x in fill.items()}
    state = dataclasses.replace(state, dreams=written, written=jnp.int32(1))  # the second roll-out is to come
    batch = stages["train"].sample(DATA, state, jax.random.key(0))
    known = {tuple(row) for row in np.asarray(DATA.obs)}
    assert all(tuple(row) in known for row in np.asarray(batch.obs[:5]))
    assert np.all(batch.obs[5:] == 5.0) and np.all(batch.reward[5:] == 7.0)
    np.testing.assert_array_equal(batch.discount, np.float32([0.99] * 5 + [0.0] * 15))


# --- Options -------------------------------------------------------------------------------------


def test_values_come_with_the_data():
    config = configure("mopo", "default", task("hopper"), {}, "hopper-medium-expert-like")
    assert (config.horizon, config.penalty, config.termination) == (5, 1.0, "hopper")
    config = configure("mopo", "authors", task("halfcheetah"), {}, "halfcheetah-medium")
    assert (config.horizon, config.penalty, config.termination) == (1, 1.0, "none")


@pytest.mark.parametrize(
    "options",
    [
        {"elites": 9},
        {"termination": "ant"},
        {"termination": "hopper", "preprocess.obs": "standardise"},
        {"hold_percent": 0},
    ],
)
def test_options_that_make_no_sense(options):
    with pytest.raises(BadInput):
        override(mopo.Config(), options)


def test_options_that_fit_each_other_may_come_in_any_order():
    assert override(mopo.Config(), {"members": 3, "elites": 2}).elites == 2
