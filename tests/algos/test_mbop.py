"""MBOP: what its networks learn from, and its planner where the answer has a closed form."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leashrl.algos import REGISTRY, mbop
from leashrl.core import Preprocess, override
from leashrl.data import Dataset, prepare
from leashrl.data.preprocessing import to_go
from leashrl.errors import BadInput
from leashrl.runs.plan import configure
from leashrl.tasks import task
from leashrl.types import Box, Episodes, Spec, TimeStep
from support import algorithms
from support.algorithms import episodes_of
from support.draws import normal

SPEC = Spec(1, Box((-1.0,), (1.0,)))
built = functools.partial(algorithms.built, "mbop", spec=SPEC, hidden=(8,), batch_size=16, steps=40)
episodes = functools.partial(episodes_of, spec=SPEC)


def falls(stored):
    """Two episodes that end far from where the next begins: 0, 1, 2 and 100, 101. Falls lead to -5, -6."""
    data = Dataset.from_arrays(
        *([[0.0], [1.0], [2.0], [100.0], [101.0]], [[0.0]] * 5, [1.0] * 5, [0, 0, 1, 0, 1]),
        timeout=[0] * 5,
        next_obs=[[1.0], [2.0], [-5.0], [101.0], [-6.0]] if stored else None,
        action_space=SPEC.action,
    )
    return Episodes(**prepare(data, Preprocess(), REGISTRY["mbop"].view)[0])


# --- What they learn from ------------------------------------------------------------------------


def test_rows_know_what_came_before_and_what_comes():
    lengths = [1, 4, 7]
    data = episodes(lengths)
    config, _, state, _ = built(horizon=3, batch_size=2000, members=2)
    found = jax.tree.map(np.asarray, mbop.rows(config, data, state, jax.random.key(0)))
    assert found.obs.shape == (2, 2000, 1) and not np.array_equal(found.obs[0], found.obs[1])
    action, reward = np.asarray(data.action), np.asarray(data.reward)
    starts = np.cumsum(lengths) - lengths
    for i in range(12):
        at = found.obs[..., 0] == i
        assert at.any()
        start, end = max(s for s in starts if s <= i), int(data.end[i])
        one = {name: getattr(found, name)[at] for name in ("before", "ahead", "known", "action", "reward")}
        np.testing.assert_allclose(
            one["before"], np.broadcast_to(0.0 if i == start else action[i - 1], (at.sum(), 1))
        )
        np.testing.assert_allclose(one["ahead"], reward[i : min(i + 3, end)].sum(), atol=1e-5)
        assert np.all(one["known"] == (i + 1 < end)) and np.all(one["reward"] == reward[i])
        if i + 1 < end:
            assert np.all(found.next_obs[at] == i + 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stored", "wanted"), [(True, {0: 1, 1: 2, 2: -5, 100: 101, 101: -6}), (False, {0: 1, 1: 2, 100: 101})]
)
def test_a_fall_leads_to_its_own_next_observation_or_to_none(stored, wanted):
    config, _, state, _ = built(batch_size=500, members=2)
    found = mbop.rows(config, falls(stored), state, jax.random.key(0))
    known = np.asarray(found.known)
    pairs = np.stack([found.obs[..., 0], found.next_obs[..., 0]], axis=-1)[known]
    assert {tuple(pair) for pair in pairs.tolist()} == set(wanted.items())
    assert known.all() == stored


def test_a_row_inside_an_episode_that_is_not_followed_by_the_next_has_its_own():
    """Such as at a time-out that nobody marked: row 1 leads to 7, and row 2 begins anew."""
    data = Dataset.from_arrays(
        *([[0.0], [1.0], [2.0], [3.0]], [[0.0]] * 4, [1.0] * 4, [0, 0, 0, 1]),
        next_obs=[[1.0], [7.0], [3.0], [9.0]],
        action_space=SPEC.action,
    )
    rows, normaliser = prepare(data, Preprocess("standardise"), REGISTRY["mbop"].view)
    found, known = mbop.following(Episodes(**rows), jnp.arange(4))
    np.testing.assert_allclose(
        normaliser.mean + normaliser.std * np.asarray(found), [[1], [7], [3], [9]], rtol=1e-6
    )
    assert known.all() and rows["gap"].tolist() == [1, 3]  # and no second copy of the observations


@pytest.mark.slow
def test_errors_against_numpy():
    _, algorithm, state, _ = built(hidden=(), members=2, policy_rate=0.0, model_rate=0.0, value_rate=0.0)
    (stage,) = algorithm.stages
    batch = stage.sample(episodes([5, 9]), state, jax.random.key(0))
    _, metrics = stage.update(state, batch, jax.random.key(1), jnp.int32(0))

    def of(name, obs, action):
        out = getattr(state, name)["out"]
        x = np.concatenate([obs, action], axis=-1)
        return np.einsum("mbi,mio->mbo", x, np.asarray(out["kernel"])) + np.asarray(out["bias"])[:, None]

    outcome = of("model", batch.obs, batch.action)
    change = (outcome[..., 1:] - (np.asarray(batch.next_obs) - np.asarray(batch.obs))) ** 2
    wanted = {
        "behaviour_error": ((of("policy", batch.obs, batch.before) - batch.action) ** 2).mean(),
        "reward_error": ((outcome[..., 0] - batch.reward) ** 2).mean(),
        "next_obs_error": change[np.asarray(batch.known)].mean(),
        "value_error": ((of("value", batch.obs, batch.before)[..., 0] - batch.ahead) ** 2).mean(),
    }
    for name, number in wanted.items():
        assert float(metrics[name]) == pytest.approx(float(number), rel=1e-4), name


def test_all_three_learn():
    _, algorithm, state, _ = built(hidden=(16,), batch_size=64)
    (stage,) = algorithm.stages
    obs = normal(300, 1)
    action = jnp.tanh(obs) * 0.5
    row = np.arange(300, dtype=np.int32)
    reward = obs[:, 0] * 0.3
    end = row // 50 * 50 + 50
    data = Episodes(obs, action, reward, to_go(np.asarray(reward), end), row % 50, end)
    step = jax.jit(lambda s, k: stage.update(s, stage.sample(data, s, k), k, jnp.int32(0)))
    first = last = None
    for i in range(400):
        state, last = step(state, jax.random.key(i))
        first = first or last
    assert all(float(last[name]) < 0.2 * float(first[name]) for name in ("behaviour_error", "reward_error"))
    assert float(last["value_error"]) < float(first["value_error"])


# --- The planner, on linear worlds ---------------------------------------------------------------


def linear(state, behaviour=0.0, reward=(0.0, 0.0), change=(0.0, 0.0), value=(0.0, 0.0)):
    """Networks without hidden layers: r = reward . (s, a), s' - s = change . (s, a), f_R = value . (s, a)."""

    def out(*columns, bias=0.0):
        kernel = jnp.asarray(columns, jnp.float32).T[None]
        return {"hidden": [], "out": {"kernel": kernel, "bias": jnp.full((1, len(columns)), bias)}}

    return dataclasses.replace(
        state,
        policy=out((0.0, 0.0), bias=behaviour),
        model=out(reward, change),
        value=out(value),
    )


def tilted(b, sigma, kappa, pays, what=lambda a: a):
    """E[what(a) e^{kappa pays(a)}] / E[e^{kappa pays(a)}] of a ~ N(b, sigma^2), by quadrature."""
    a = np.linspace(b - 8 * sigma, b + 8 * sigma, 20_001)
    weight = np.exp(-0.5 * ((a - b) / sigma) ** 2 + kappa * pays(a))
    return (what(a) * weight).sum() / weight.sum()


def clip(a):
    return np.clip(a, -1, 1)


def planned(state, algorithm, obs=0.0, plan=None, mode="plan"):
    policy = algorithm.policy
    params = policy.params(state)
    carry = policy.init(params)
    carry = carry if plan is None else carry | {"plan": jnp.float32(plan)[:, None]}
    step = TimeStep(jnp.float32([obs]), jnp.zeros(()), jnp.asarray(True))
    return jax.jit(policy.act, static_argnums=4)(params, carry, step, jax.random.key(0), mode)


MANY = {"hidden": (), "members": 1, "samples": 50_000, "sigma": 0.2, "kappa": 2.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "nets", "plan", "wanted"),
    [
        # a ~ N(b, s^2) tilted by e^{k w a} has mean b + k w s^2 = 0.1 + 2 * 1.5 * 0.04
        ({"horizon": 1, "beta": 0.0, "bootstrap": False}, {"reward": (0, 1.5)}, None, 0.1 + 0.12),
        # with the value of the last action: k (w + v) s^2
        ({"horizon": 1, "beta": 0.0}, {"reward": (0, 1.5), "value": (0, 0.5)}, None, 0.1 + 0.16),
        # mixed with the old plan's next action: (1 - beta) (b + k (1 - beta) w s^2) + beta T
        ({"horizon": 2, "beta": 0.25, "bootstrap": False}, {"reward": (0, 1.5)}, [0.9, 0.4],
         0.75 * (0.1 + 0.75 * 0.12) + 0.25 * 0.4),
        # only the state pays, one step later: the first action is tilted by its part in s'
        ({"horizon": 2, "beta": 0.0, "bootstrap": False}, {"reward": (1.5, 0), "change": (0, 1.0)}, None,
         0.1 + 0.12),
        # nothing pays, so nothing is tilted
        ({"horizon": 3, "beta": 0.0, "bootstrap": False}, {"change": (0, 1.0)}, None, 0.1),
    ],
)  # fmt: skip
def test_the_plan_is_the_tilted_mean(options, nets, plan, wanted):
    _, algorithm, state, _ = built(**MANY, **options)
    action, carry = planned(linear(state, behaviour=0.1, **nets), algorithm, plan=plan)
    assert float(action[0]) == pytest.approx(wanted, abs=0.005)
    assert carry["plan"].shape == (options["horizon"], 1) and carry["before"] == action


@pytest.mark.parametrize(
    ("behaviour", "reward", "wanted"),
    [
        (1.0, 0.0, 1.0),  # nothing pays: the behaviour's own action at a bound, and not the mean of its noise
        (-1.0, 0.0, -1.0),  # clipped first, that is off by sigma / sqrt(2 pi) = 0.08
        (0.9, 1.5, tilted(0.9, 0.2, 2.0, lambda a: 1.5 * clip(a))),
        (1.3, 1.5, tilted(1.3, 0.2, 2.0, lambda a: 1.5 * clip(a))),
    ],
)
def test_actions_at_the_bounds_are_averaged_before_they_are_clipped(behaviour, reward, wanted):
    _, algorithm, state, _ = built(**MANY, horizon=1, beta=0.0, bootstrap=False)
    action, carry = planned(linear(state, behaviour=behaviour, reward=(0, reward)), algorithm)
    assert float(carry["plan"][0, 0]) == pytest.approx(wanted, abs=0.004)
    assert float(action[0]) == pytest.approx(float(clip(wanted)), abs=0.004)
    assert carry["before"] == action  # what was executed


def test_the_networks_see_actions_that_can_be_executed():
    _, algorithm, state, _ = built(**MANY | {"sigma": 0.4}, horizon=2, beta=0.0, bootstrap=False)
    state = linear(state, behaviour=0.0, reward=(1.5, 0), change=(0, 1.0))
    kernel = jnp.float32([[[0.0], [0.5]]])  # f_b = 0.9 + half of the action before, which is 0 at first
    policy = {"hidden": [], "out": {"kernel": kernel, "bias": jnp.float32([[0.9]])}}
    _, carry = planned(dataclasses.replace(state, policy=policy), algorithm)
    # The second state pays 1.5 times the first action, clipped; the second action begins from half of that.
    first, seen = (tilted(0.9, 0.4, 2.0, lambda a: 1.5 * clip(a), what) for what in (lambda a: a, clip))
    np.testing.assert_allclose(carry["plan"][:, 0], [first, 0.9 + 0.5 * seen], atol=0.008)


def test_noise_may_be_in_units_of_the_datas_actions():
    options = {"horizon": 1, "beta": 0.0, "bootstrap": False, "noise": "data", "sigma": 0.8}
    _, algorithm, state, _ = built(**MANY | options)
    data = dataclasses.replace(episodes([6]), action=jnp.float32([[0.25], [-0.25]] * 3))
    (stage,) = algorithm.stages
    state = stage.refresh(state, data, jax.random.key(0))
    assert state.noise_scale.tolist() == [0.25]
    action, _ = planned(linear(state, behaviour=0.1, reward=(0, 1.0)), algorithm)
    assert float(action[0]) == pytest.approx(0.1 + 2.0 * (0.8 * 0.25) ** 2, abs=0.005)


def test_with_all_of_the_old_plan_it_is_shifted():
    _, algorithm, state, _ = built(**MANY | {"samples": 10}, horizon=3, beta=1.0)
    action, carry = planned(linear(state, reward=(0, 1.0)), algorithm, plan=[0.1, 0.2, 0.3])
    np.testing.assert_allclose(carry["plan"][:, 0], [0.2, 0.3, 0.3], rtol=1e-5)
    assert float(action[0]) == pytest.approx(0.2)


def test_each_trajectory_follows_one_network_and_all_judge_it():
    _, algorithm, state, _ = built(
        **MANY | {"members": 2, "samples": 40_000, "kappa": 0.0}, horizon=1, beta=0.0
    )
    one, twice = linear(state), lambda part: jax.tree.map(lambda x: jnp.concatenate([x, x]), part)
    policy = twice(one.policy)
    policy["out"]["bias"] = jnp.float32([[0.5], [-0.1]])
    both = dataclasses.replace(one, policy=policy, model=twice(one.model), value=twice(one.value))
    assert float(planned(both, algorithm)[0][0]) == pytest.approx(0.2, abs=0.005)  # half of them each
    assert float(planned(both, algorithm, mode="mean")[0][0]) == pytest.approx(0.2)
    # One network pays 3 a, the other -1 a: together a, so both halves are tilted by k s^2 a.
    model = twice(one.model)
    model["out"]["kernel"] = jnp.float32([[[0, 0], [3.0, 0]], [[0, 0], [-1.0, 0]]])
    sharp = state.hp | {"kappa": jnp.float32(2.0)}
    paying = dataclasses.replace(both, policy=twice(one.policy), model=model, hp=sharp)
    assert float(planned(paying, algorithm)[0][0]) == pytest.approx(2 * 0.04, abs=0.005)


def test_the_last_action_is_remembered():
    _, algorithm, state, _ = built(**MANY | {"samples": 10, "sigma": 0.0}, horizon=1, beta=0.0)
    state = linear(state)
    kernel = jnp.float32([[[0.0], [0.5]]])  # f_b = 0.3 + half of the action before
    state = dataclasses.replace(
        state, policy={"hidden": [], "out": {"kernel": kernel, "bias": jnp.float32([[0.3]])}}
    )
    for mode in ("plan", "mean"):
        policy = algorithm.policy
        params = policy.params(state)
        carry, found = policy.init(params), []
        for t in range(3):
            step = TimeStep(jnp.zeros(1), jnp.zeros(()), jnp.asarray(t == 0))
            action, carry = policy.act(params, carry, step, jax.random.key(t), mode)
            found.append(float(action[0]))
        np.testing.assert_allclose(found, [0.3, 0.45, 0.525], rtol=1e-5)


def test_acmes_values():
    config = configure("mbop", "acme", task("hopper"), {}, "hopper-medium-expert-like")
    planner = {"horizon": 15, "samples": 1000, "kappa": 0.5, "beta": 0.2, "sigma": 0.8, "noise": "data"}
    networks = {"members": 5, "hidden": (64, 64), "batch_size": 64}
    rates = dict.fromkeys(("policy_rate", "model_rate", "value_rate"), 3e-4)
    for name, value in (planner | networks | rates).items():
        assert getattr(config, name) == value, name


def test_options_that_make_no_sense():
    for options in ({"noise": "half"}, {"horizon": 0}, {"beta": 1.5}, {"samples": 0}):
        with pytest.raises(BadInput):
            override(mbop.Config(), options)
