"""FQE finds values known in closed form, never trains on what it holds out, and says what it cannot do."""

import dataclasses
import functools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import leashrl
from leashrl.data import Dataset, convert, make
from leashrl.errors import BadInput
from leashrl.nn import PRECISIONS, hidden
from leashrl.ope import estimator, occupancy, reliability
from leashrl.ope import fits as fitting
from leashrl.ope.occupancy import Rows as Logged
from leashrl.ope.occupancy import occupancies
from leashrl.types import Box, Discrete

UNIT = Box((-1.0,), (1.0,))


def fit(dataset: Dataset, policies, config: estimator.Config, seeds=(0,)):
    """Fits of the behaviour and of `policies`, functions of all observations; and what they were asked."""
    split = estimator.split(dataset)
    asked = fitting.Asked.of(split, len(dataset), 0)
    actions = np.stack(
        [dataset.action[asked.rows], *(policy(dataset.obs[asked.rows]) for policy in policies)]
    )
    logged = estimator.logged_values(dataset, config.gamma)
    return fitting.fit(dataset, split, asked, actions, config, seeds, logged), split, asked, actions


# --- Values that are known ---------------------------------------------------


def linear(episodes: int = 100, steps: int = 20, seed: int = 0) -> Dataset:
    """s' = 0.8 s + 0.2 a, r = -(s^2 + 0.1 a^2), random actions; every episode is cut, none ends."""
    rng = np.random.default_rng(seed)
    obs, action = np.empty((episodes, steps, 1)), rng.uniform(-1, 1, (episodes, steps, 1))
    state = rng.uniform(-1, 1, (episodes, 1))
    for t in range(steps):
        obs[:, t] = state
        state = 0.8 * state + 0.2 * action[:, t]
    reward = -(obs**2 + 0.1 * action**2)
    cut = np.arange(episodes * steps) % steps == steps - 1
    flat = lambda x: x.reshape(episodes * steps, -1).astype(np.float32)
    return Dataset.from_arrays(
        flat(obs), flat(action), flat(reward)[:, 0], np.zeros(len(cut), bool), timeout=cut, action_space=UNIT
    )


GAINS = (0.0, -1.0, 1.0, -0.5)


def linear_value(gain: float, gamma: float = 0.9) -> float:
    """V(s) = -s^2 (1 + 0.1 k^2) sum_t gamma^t (0.8 + 0.2 k)^2t: the factor of s^2."""
    return -(1 + 0.1 * gain**2) / (1 - gamma * (0.8 + 0.2 * gain) ** 2)


@pytest.mark.slow
def test_linear_quadratic_values_are_those_of_the_closed_form():
    data = linear()
    config = estimator.Config(
        steps=2500, batch_size=128, hidden=(32, 32), gamma=0.9, critic_rate=3e-3, polyak=0.05
    )
    policies = [lambda obs, k=k: (k * obs).astype(np.float32) for k in GAINS]
    found, split, asked, actions = fit(data, policies, config, seeds=(0, 1))
    squares = float((data.obs[split.held_starts] ** 2).mean())
    known = np.array([linear_value(k) for k in GAINS]) * squares
    assert found.values.shape == (5, 2, 20)
    values = found.values[1:].mean((1, 2))
    np.testing.assert_allclose(values, known, rtol=0.08, atol=0.02)
    assert np.argsort(-values).tolist() == [1, 3, 0, 2]  # gains -1, -0.5, 0, 1
    # the behaviour: E V for random actions, from the same linear system, a = 1/3 of variance at each step:
    # E s_t^2 = 0.64^t s^2 + 0.04 / 3 (1 - 0.64^t) / 0.36
    t = np.arange(400)
    second = 0.64**t * squares + 0.04 / 3 * (1 - 0.64**t) / 0.36
    behaviour = -(0.9**t * (second + 0.1 / 3)).sum()
    assert found.values[0].mean() == pytest.approx(behaviour, rel=0.08)
    logged = estimator.logged_values(data, 0.9)
    assert logged[split.held_starts].mean() == pytest.approx(behaviour, rel=0.08)

    rows = fitting.judge(found, data, split, asked, actions, 0.9)
    assert [row.rank for row in rows[1:]] == [3, 1, 4, 2]
    assert all(row.low <= row.value <= row.high for row in rows)
    assert not any("extrapolates" in flag for row in rows for flag in row.flags)
    assert all(row.strange < 0.3 for row in rows)  # random actions are everywhere
    assert not any("leaves" in flag for row in rows for flag in row.flags)  # and keep the states near 0


def chain(episodes: int = 200, seed: int = 0) -> tuple[Dataset, np.ndarray]:
    """Five places in a row, steps left and right at random; at the right end 1 is paid and the episode ends.

    Cut after 12 steps. Also P(s' | s, a) of the four places that are left again, (4, 2, 4).
    """
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(episodes):
        place = int(rng.integers(4))
        for t in range(12):
            action = int(rng.integers(2))
            after = max(0, place - 1) if action == 0 else place + 1
            rows.append((np.eye(5)[place], action, float(after == 4), after == 4, t == 11 and after != 4))
            if after == 4:
                break
            place = after
    obs, action, reward, terminal, timeout = (np.array(x) for x in zip(*rows, strict=True))
    data = Dataset.from_arrays(
        obs, action.astype(np.int32), reward, terminal, timeout=timeout, action_space=Discrete(2)
    )
    moves = np.zeros((4, 2, 4))
    for s in range(4):
        moves[s, 0, max(0, s - 1)] = 1
        if s < 3:
            moves[s, 1, s + 1] = 1
    return data, moves


@pytest.mark.slow
def test_discrete_values_solve_the_bellman_equation():
    data, moves = chain()
    pays = np.array([[0, 0], [0, 0], [0, 0], [0, 1.0]])
    choices = {"right": [1, 1, 1, 1], "left": [0, 0, 0, 0], "stays behind": [1, 1, 0, 1]}
    gamma = 0.8
    config = estimator.Config(
        steps=2000, batch_size=128, hidden=(32,), gamma=gamma, critic_rate=1e-2, polyak=0.05
    )
    policies = [lambda obs, c=c: np.append(c, 0)[obs.argmax(1)].astype(np.int32) for c in choices.values()]
    found, split, _, _ = fit(data, policies, config)
    start = data.obs[split.held_starts].argmax(1)
    for values, chosen in zip(found.values[1:], choices.values(), strict=True):
        p, r = moves[np.arange(4), chosen], pays[np.arange(4), chosen]
        known = np.linalg.solve(np.eye(4) - gamma * p, r)  # a time-out ends nothing, the right end does
        np.testing.assert_allclose(values[0], known[start], atol=0.05)
    # the behaviour's value is that of the action it began with
    values = np.linalg.solve(np.eye(4) - gamma * moves.mean(1), pays.mean(1))
    known = (pays + gamma * moves @ values)[start, data.action[split.held_starts]]
    np.testing.assert_allclose(found.values[0, 0], known, atol=0.08)  # of what 160 episodes show


# --- Where the policy leaves the data ----------------------------------------

CLIFF = 2.0
"""Beyond it a step costs 1; the data never come there, and their rewards grow towards it."""


def walk(episodes: int = 100, steps: int = 20, seed: int = 0) -> Dataset:
    """s' = s + 0.1 a, random actions: all actions are in the data, but only the states about 0."""
    rng = np.random.default_rng(seed)
    action = rng.uniform(-1, 1, (episodes, steps))
    obs = rng.uniform(-1, 1, (episodes, 1)) + 0.1 * (np.cumsum(action, 1) - action)
    cut = np.arange(obs.size) % steps == steps - 1
    flat = lambda x: x.reshape(-1, 1).astype(np.float32)
    return Dataset.from_arrays(
        flat(obs),
        flat(action),
        flat(pays(obs))[:, 0],
        np.zeros(obs.size, bool),
        timeout=cut,
        action_space=UNIT,
    )


def pays(obs: np.ndarray) -> np.ndarray:
    return np.where(obs < CLIFF, np.clip(1 + obs / 2, 0, 2), -1.0)


def walked(drift: float, data: Dataset, gamma: float) -> tuple[float, float]:
    """Of a = drift, exactly: its value, and the share of its discounted visits outside the logged states."""
    time = np.arange(500)[:, None]
    path, weight = np.linspace(-1, 1, 1001) + 0.1 * drift * time, gamma**time
    beyond = (path > data.obs.max()) | (path < data.obs.min())
    return float((weight * pays(path)).sum(0).mean()), float((1 - gamma) * (weight * beyond).sum(0).mean())


def constant(drift: float):
    return lambda obs: np.full_like(obs, drift)


@pytest.mark.slow
def test_a_policy_that_walks_out_of_the_data_is_flagged_and_one_that_stays_is_not():
    """Its actions are logged ones wherever the data are, so nothing else gives it away."""
    data, gamma = walk(), 0.95
    config = estimator.Config(
        steps=1200, batch_size=64, hidden=(32,), gamma=gamma, critic_rate=3e-3, polyak=0.1
    )
    drifts = (1.0, -1.0, 0.0, 0.1)
    found, split, asked, actions = fit(data, [constant(x) for x in drifts], config, seeds=(0, 1, 2))
    behaviour, *rows = fitting.judge(found, data, split, asked, actions, gamma)
    leaves = [any(flag.startswith("leaves the data") for flag in row.flags) for row in rows]
    for drift, row, left in zip(drifts, rows, leaves, strict=True):
        value, outside = walked(drift, data, gamma)
        inside = row.low <= value <= row.high
        # the truth is far below, and the interval does not know: only the flag tells
        assert (inside, left) == ((False, True) if abs(drift) == 1 else (True, False)), (drift, value, row)
        assert row.strange < 0.5  # its flag is for half
        assert row.outside == pytest.approx(outside, abs=0.1)
    assert behaviour.outside < 0.05 and behaviour.ess > 0.9


@pytest.mark.slow
def test_the_share_outside_is_what_the_exact_occupancy_says():
    gamma = 0.95
    for seed in range(2):
        data = walk(seed=seed)
        split = estimator.split(data, 50)
        behind = split.train + 1
        rows = Logged(
            data.obs[split.train],
            data.action[split.train],
            data.obs[behind],
            data.terminal[split.train],
            data.obs[split.train_starts],
        )
        drifts = (0.0, 0.2, 0.4, 0.7, 1.0)
        at = lambda obs: np.stack([constant(x)(obs) for x in drifts])  # noqa: B023
        found = occupancies(rows, at(rows.next_obs), at(rows.start), gamma)
        exact = [walked(x, data, gamma)[1] for x in drifts]
        np.testing.assert_allclose([x.outside for x in found], exact, atol=0.1)
        assert np.all(np.diff([x.ess for x in found][1:]) < 0)


def test_weights_are_the_density_ratio_of_a_finite_chain():
    """With an indicator for each state and action, they are d_pi(s, a) / d_D(s, a), from a linear system."""
    data, moves = chain(episodes=400)
    gamma, chosen = 0.8, np.array([1, 1, 0, 1])
    whole = np.flatnonzero(~data.ends | data.terminal)
    place, action = data.obs[whole].argmax(1), data.action[whole]
    after = data.obs[np.minimum(whole + 1, len(data) - 1)].argmax(1)
    pairs = np.eye(8)
    flow = pairs[2 * place + action]
    flow = flow - gamma * ~data.terminal[whole, None] * pairs[2 * after + np.append(chosen, 0)[after]]
    start = np.full(4, 0.25)
    source = (1 - gamma) * start @ pairs[2 * np.arange(4) + chosen]
    weights = occupancy.match(flow, source, 1e-9)
    # the actions that the policy never takes weigh 0; its own visits solve d = (1 - g) start + g P' d
    p = moves[np.arange(4), chosen]
    visits = np.linalg.solve(np.eye(4) - gamma * p.T, (1 - gamma) * start)
    logged = np.bincount(2 * place + action, minlength=8) / len(whole)
    exact = np.zeros(8)
    exact[2 * np.arange(4) + chosen] = visits
    np.testing.assert_allclose(weights, (exact / logged)[2 * place + action], atol=1e-3)


def test_a_deterministic_policy_among_many_random_actions_is_no_stranger():
    """s' = 0.9 s + 0.2 a in six dimensions: doing nothing stays about 0, all the same action ends at 2."""
    rng = np.random.default_rng(0)
    obs, action = np.empty((50, 60, 6)), rng.uniform(-1, 1, (50, 60, 6))
    obs[0] = rng.uniform(-1, 1, (60, 6))
    for t in range(49):
        obs[t + 1] = 0.9 * obs[t] + 0.2 * action[t]
    flat = lambda x: x.reshape(-1, 6)
    rows = Logged(flat(obs[:-1]), flat(action[:-1]), flat(obs[1:]), np.zeros(49 * 60, bool), obs[0])
    same = lambda x: np.stack([np.zeros_like(x), np.full_like(x, 0.8)])
    stays, leaves = occupancies(rows, same(rows.next_obs), same(rows.start), 0.98)
    assert stays.outside < 0.1 and stays.ess > 0.3
    assert leaves.outside > 0.3 and leaves.ess < 0.1


def test_far_states_cannot_be_matched_and_an_even_match_is_the_whole_sample():
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(600, 2)), rng.uniform(-1, 1, (600, 1))
    start, first = rng.normal(size=(200, 2)), rng.uniform(-1, 1, (200, 1))
    ends = np.ones(600, bool)  # one step an episode: occupancy and first states are one
    here, there = (
        occupancies(Logged(obs, action, obs, ends, start + shift), action[None], first[None], 0.9)[0]
        for shift in (0.0, 6.0)
    )
    assert here.outside < 0.15 and here.ess > 0.8
    assert there.outside > 0.9


# --- What is held out --------------------------------------------------------


def test_no_held_out_row_is_trained_on_and_none_beside_one():
    data = linear(episodes=30)
    found = estimator.split(data, 20, seed=3)
    episode = np.repeat(np.arange(30), 20)
    held, trained = set(episode[found.held]), set(episode[found.train])
    assert len(held) == 6 and len(trained) == 24 and not held & trained
    assert set(episode[found.held_starts]) == held and set(episode[found.train_starts]) == trained
    # a cut row has no successor; all others are there
    assert len(found.held) == 6 * 19 and not (data.ends[found.held] & ~data.terminal[found.held]).any()
    again, other = estimator.split(data, 20, seed=3), estimator.split(data, 20, seed=4)
    assert np.array_equal(found.held, again.held) and not np.array_equal(found.held, other.held)


@pytest.mark.slow
def test_held_out_rewards_change_no_critic():
    data = linear(episodes=10)
    config = estimator.Config(steps=20, batch_size=8, hidden=(8,), gamma=0.9)
    split = estimator.split(data)
    reward = data.reward.copy()
    reward[np.repeat(np.isin(np.arange(0, 200, 20), split.held_starts), 20)] = 1e6
    other = Dataset.from_arrays(
        data.obs, data.action, reward, data.terminal, timeout=data.timeout, action_space=UNIT
    )
    zero = [lambda obs: np.zeros_like(obs)]
    # centre and scale come from the values of rows that are trained on; theirs are the same in both
    logged = estimator.logged_values(data, 0.9)
    results = []
    for dataset in (data, other):
        asked = fitting.Asked.of(split, len(data), 0)
        actions = np.stack([data.action[asked.rows], zero[0](data.obs[asked.rows])])
        results.append(fitting.fit(dataset, split, asked, actions, config, [0], logged))
    np.testing.assert_array_equal(results[0].values, results[1].values)
    assert results[1].error.min() > 1e5 > results[1].train_error.max()


def test_the_open_tail_and_a_terminal_at_the_end():
    zeros = np.zeros((5, 1))
    arrays = {"obs": zeros, "action": zeros, "reward": np.ones(5), "action_space": UNIT}
    tail = Dataset.from_arrays(**arrays, terminal=[0, 1, 0, 0, 0])
    both = estimator.split(tail, 50)
    assert sorted([*both.train, *both.held]) == [0, 1, 2, 3]  # row 4 is not followed by anything
    ended = Dataset.from_arrays(**arrays, terminal=[0, 1, 0, 0, 1])
    both = estimator.split(ended, 50)
    assert sorted([*both.train, *both.held]) == [0, 1, 2, 3, 4]
    assert estimator.logged_values(ended, 0.5).tolist() == [1.5, 1.0, 1.75, 1.5, 1.0]


@pytest.mark.parametrize(
    ("percent", "most", "says"), [(0, 9, "above 0"), (100, 9, "below 100"), (20, 0, "row")]
)
def test_a_share_that_makes_no_sense(percent, most, says):
    with pytest.raises(BadInput, match=says):
        estimator.split(linear(episodes=2), percent, most=most)


def test_one_episode_is_too_few():
    with pytest.raises(BadInput, match="1 episode"):
        estimator.split(linear(episodes=1))


# --- Arithmetic --------------------------------------------------------------


def test_flags_are_raised_where_they_should_be():
    fine = {"value": 5.0, "drift": 0.1, "error": 1.0, "train_error": 0.9, "beyond": 0.0, "strange": 0.1}
    fine |= {"outside": 0.1, "ess": 0.2}
    flag = lambda **row: reliability.flags(fine | row, (0.0, 10.0), 2.0)
    assert flag() == []
    assert flag(value=11.0) == ["extrapolates: no rewards of the data add up to this value"]
    assert flag(beyond=0.25) == ["extrapolates: 25% of its Q beyond what the data's rewards allow"]
    assert flag(drift=-0.5) == ["still moving: -0.5 in the last fifth"]
    assert flag(error=2.0)[0].startswith("over-fitted")
    assert flag(outside=0.4, ess=0.001) == [
        "leaves the data: no logged rows are like 40% of what it would meet; its value is a guess"
    ]
    assert flag(ess=0.004) == ["rests on few rows: as good as 0.4% of them"]
    assert flag(strange=0.6) == ["off the data: 60% of its actions far from any that was logged"]


def test_possible_values_know_that_an_ended_episode_pays_nothing():
    paid = lambda terminal: Dataset.from_arrays(
        [[0.0]] * 4, [[0.0]] * 4, [-3.0, -1.0, -2.0, -1.0], terminal, timeout=[0, 0, 0, 1], action_space=UNIT
    )
    assert estimator.bounds(paid([0, 0, 0, 0]), 0.5) == (-6.0, -2.0)
    assert estimator.bounds(paid([0, 1, 0, 0]), 0.5) == (-6.0, 0.0)


def test_an_interval_is_students_over_the_seeds_fits():
    """Of five seeds: s sqrt(1 + 1/5) sqrt(n / (n - 1)) t to each side, where first states do not differ."""
    seeds = np.array([3.0, 5.0, 4.0, 8.0, 5.0])
    values = np.repeat(seeds[None, :, None], 40, axis=2)
    found = reliability.intervals(values, trained_on=20)
    half = seeds.std(ddof=1) * np.sqrt(1.2 * 20 / 19) * stats.t.ppf(0.975, 4)
    assert found["mean"][0] == pytest.approx(5.0)
    assert found["high"][0] - 5 == pytest.approx(half, rel=0.06)
    assert 5 - found["low"][0] == pytest.approx(half, rel=0.06)
    # of first states alone, where all seeds agree: the mean's standard error, 1.97 of them for 400
    values = np.repeat(np.random.default_rng(0).normal(size=(1, 1, 400)), 3, axis=1)
    found = reliability.intervals(values, trained_on=20)
    width = 2 * stats.t.ppf(0.975, 399) * values[0, 0].std(ddof=1) / 20
    assert found["high"][0] - found["low"][0] == pytest.approx(width, rel=0.06)


def test_ranks_know_that_policies_share_their_episodes():
    chance = np.random.default_rng(0).normal(size=(1, 5, 1)) + np.zeros((1, 5, 30))
    found = reliability.intervals(np.concatenate([chance, chance + 0.1]), trained_on=50)
    assert found["low"][1] < found["high"][0]  # their values are far from known
    assert found["rank_low"].tolist() == found["rank_high"].tolist() == [2, 1]  # their order is


@pytest.mark.parametrize(("seeds", "held", "trained"), [(1, 9, 9), (3, 1, 9), (3, 9, 1)])
def test_where_nothing_can_be_compared_there_is_no_interval(seeds, held, trained):
    found = reliability.intervals(np.zeros((2, seeds, held)), trained)
    assert np.isnan(found["low"]).all() and np.isnan(found["high"]).all()
    assert found["rank_low"].tolist() == [1, 1] and found["rank_high"].tolist() == [2, 2]


def test_a_seed_draws_whole_episodes_with_replacement():
    episode = np.repeat(np.arange(200), 3)
    rows, counts = estimator.resampled(episode, [0, 1, 2])
    assert counts.tolist() == [600] * 3
    for line in rows:
        assert np.all(line.reshape(-1, 3) == 3 * (line[::3, None] // 3) + np.arange(3))
    times = np.stack([np.bincount(line[::3] // 3, minlength=200) for line in rows])
    assert (times == 0).mean() == pytest.approx(np.exp(-1), abs=0.06)  # a Poisson count each, nearly
    assert not np.array_equal(times[0], times[1])
    again, _ = estimator.resampled(episode, [2])
    assert np.array_equal(again[0], rows[2])


@pytest.mark.slow
def test_bfloat16_moves_the_values_a_little():
    """By its rounding, of 2^-8: 30 times as much would be an error."""
    data, values = linear(episodes=10), []
    for precision in ("auto", "float32", "bfloat16"):
        config = estimator.Config(
            steps=40, batch_size=32, hidden=(32, 32), gamma=0.9, precision=precision, polyak=0.2
        )
        values.append(fit(data, [lambda obs: -obs], config)[0].values)
    np.testing.assert_array_equal(values[0], values[1])  # `auto` of an unresolved Config
    assert 0 < np.abs(values[2] - values[1]).max() < 0.1 * np.abs(values[1]).max()


@pytest.mark.slow
def test_a_seed_fits_to_the_episodes_that_it_drew():
    """Rewards of an episode that seed 0 did not draw change its critic in nothing, and seed 1's that did."""
    data = linear(episodes=10)
    config = estimator.Config(steps=20, batch_size=8, hidden=(8,), gamma=0.9)
    split = estimator.split(data)
    rows, counts = estimator.resampled(np.searchsorted(split.train_starts, split.train, "right"), [0, 1])
    mine, other = (set(split.train[line[:n]] // 20) for line, n in zip(rows, counts, strict=True))
    episode = min(other - mine)
    reward = data.reward.copy()
    reward[20 * episode : 20 * episode + 20] = -1e3
    changed = Dataset.from_arrays(
        data.obs, data.action, reward, data.terminal, timeout=data.timeout, action_space=UNIT
    )
    logged = estimator.logged_values(data, 0.9)
    asked = fitting.Asked.of(split, len(data), 0)
    actions = data.action[asked.rows][None]
    one, two = (fitting.fit(x, split, asked, actions, config, [0, 1], logged).values for x in (data, changed))
    np.testing.assert_array_equal(one[:, 0], two[:, 0])
    assert np.abs(one[:, 1] - two[:, 1]).min() > 0


def noisy(seed: int, episodes: int = 50, steps: int = 20) -> Dataset:
    """As `linear`, with noise in states (0.2) and rewards (2)."""
    rng = np.random.default_rng([seed, 1])
    action, obs = rng.uniform(-1, 1, (episodes, steps)), np.empty((episodes, steps))
    obs[:, 0] = rng.uniform(-1, 1, episodes)
    for t in range(steps - 1):
        obs[:, t + 1] = 0.8 * obs[:, t] + 0.2 * action[:, t] + 0.2 * rng.normal(size=episodes)
    reward = -(obs**2 + 0.1 * action**2) + 2 * rng.normal(size=obs.shape)
    cut = np.arange(obs.size) % steps == steps - 1
    flat = lambda x: x.reshape(-1, 1).astype(np.float32)
    return Dataset.from_arrays(
        flat(obs),
        flat(action),
        flat(reward)[:, 0],
        np.zeros(obs.size, bool),
        timeout=cut,
        action_space=UNIT,
    )


@pytest.mark.slow
def test_intervals_hold_what_other_data_would_have_said():
    """20 data sets, each with its own noise: of intervals of 95 %, 16 hold the truth all but once in 400."""
    gamma, gain = 0.9, -0.5
    rho, t = 0.8 + 0.2 * gain, np.arange(500)
    # E s_t^2 from s_0 even in [-1, 1]; the noise of rewards is 0 on average
    squares = rho ** (2 * t) / 3 + 0.04 * (1 - rho ** (2 * t)) / (1 - rho**2)
    truth = -(1 + 0.1 * gain**2) * (gamma**t * squares).sum()
    config = estimator.Config(
        steps=500, batch_size=64, hidden=(8,), gamma=gamma, critic_rate=3e-3, polyak=0.1
    )
    policy = lambda obs: (gain * obs).astype(np.float32)
    hits = 0
    for seed in range(20):
        found, split, _, _ = fit(noisy(seed), [policy], config, seeds=range(5))
        one = reliability.intervals(found.values[1:], len(split.train_starts))
        hits += int(one["low"][0] <= truth <= one["high"][0])
    assert hits >= 16


# --- The command -------------------------------------------------------------

TINY = ["--steps", "20", "--seeds", "1", "--set", "hidden=8", "batch_size=16"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Clones of a good and a bad controller of `linear`'s world, a Decision Transformer, and data files."""
    folder = tmp_path_factory.mktemp("fqe")
    data = linear()
    small = {"hidden": (8,), "batch_size": 32}
    for name, gain in (("good", -1.0), ("bad", 1.0)):
        shown = Dataset.from_arrays(
            data.obs, gain * data.obs, data.reward, data.terminal, timeout=data.timeout, action_space=UNIT
        )
        leashrl.train(
            "bc",
            shown,
            preset="deterministic",
            options=small | {"policy_rate": 1e-2},
            seeds=1,
            steps=400,
            out=folder / name,
        )
    arrays = {"observations": data.obs, "actions": data.action, "rewards": data.reward}
    np.savez(folder / "raw.npz", **arrays, terminals=data.terminal, timeouts=data.timeout)
    convert(folder / "raw.npz", folder / "data.hdf5", action_space=UNIT)
    make("pendulum-medium", folder / "pendulum.hdf5", steps=600)
    tiny = {"heads": 1, "layers": 1, "width": 8, "batch_size": 2}
    leashrl.train("dt", folder / "data.hdf5", options=tiny, seeds=1, steps=1, out=folder / "dt")
    leashrl.train(
        "bc",
        folder / "pendulum.hdf5",
        task="pendulum",
        options=small,
        seeds=2,
        steps=20,
        eval_every=10,
        episodes=1,
        snapshots=True,
        out=folder / "swing",
    )
    return folder


@pytest.fixture
def cli(home, monkeypatch, cli):
    """`leashrl fqe ...` in `home`."""
    monkeypatch.chdir(home)
    return functools.partial(cli, "fqe")


@pytest.mark.slow
def test_two_controllers_are_put_in_order(cli, home):
    """By arrays in memory, the data are given; the good one's value is the closed form's."""
    options = ["--gamma", "0.9", "--steps", "2500", "--seeds", "3", "--set", "hidden=32,32", "batch_size=64"]
    more = ["critic_rate=3e-3", "polyak=0.05"]
    out, _ = cli("bad", "good", "--data", "data.hdf5", *options, *more, "--json", "--out", "found.json")
    found = json.loads(out)
    assert found == json.loads((home / "found.json").read_text())
    first, second = found["policies"]
    assert (first["folder"], second["folder"]) == ("good", "bad")
    assert (first["rank"], second["rank"]) == (1, 2) and first["low"] > second["high"]
    assert (first["rank_high"], second["rank_low"]) == (1, 2)
    data = linear()
    squares = float((data.obs[estimator.split(data).held_starts] ** 2).mean())
    assert first["value"] == pytest.approx(linear_value(-1.0) * squares, rel=0.15)  # clones are not exact
    assert second["value"] == pytest.approx(linear_value(1.0) * squares, rel=0.15)
    assert found["data"]["episodes"] == {"held_out": 20, "trained_on": 80}
    assert found["data"]["hash"] and found["versions"]["jax"] and found["config"]["gamma"] == 0.9
    assert found["config"]["precision"] in PRECISIONS  # what `auto` was here
    assert found["data"]["off"] is None
    assert first["outside"] < 0.2 and first["ess"] > 0.02  # it keeps to the data's states
    assert found["data"]["fqe"]["outside"] < 0.1 and len(found["seeds"]) == 3
    assert "exists already" in cli("bad", "--data", "data.hdf5", "--out", "found.json", status=2)[1]


@pytest.mark.slow
def test_from_python_it_has_types(home, monkeypatch):
    monkeypatch.setattr(hidden, "fast_bfloat16", lambda: True)
    monkeypatch.setattr(estimator, "BFLOAT16", True)
    found = leashrl.fqe(
        [home / "swing", home / "dt"],
        home / "pendulum.hdf5",
        seeds=[4],
        options={"steps": 20, "hidden": (8,), "batch_size": 16},
    )
    first, second = found.policies
    assert first.value is not None and second.value is not None and first.value >= second.value
    assert first.rank == 1 and first.low is None and first.algorithm == "bc" and first.step is None
    assert first.seeds == (first.value,) and {first.member, second.member} == {"seed-0", "seed-1"}
    assert found.left_out[0].policy.endswith("dt seed-0") and found.seeds == (4,)
    assert found.config.precision == "bfloat16"  # as the machine and the module say
    assert found.config.hidden == (8,) and found.data.rows.held_out < found.data.rows.trained_on
    assert found.data.fqe.policy == "" and found.data.possible[0] < found.data.value.held_out
    values = json.loads(json.dumps(found.to_json()))
    assert values == found.to_json()  # lists, no tuples
    names = ["policy", "folder", "member", "algorithm", "step"]
    names += ["value", "low", "high", "rank", "rank_low", "rank_high", "strange", "outside", "ess"]
    more = ["seeds", "trained_on", "drift", "error", "train_error", "beyond"]
    assert list(values["policies"][0]) == [*names, *more, "flags"]
    assert list(values["data"]["fqe"]) == [*names[5:], *more, "flags"]
    assert list(dataclasses.replace(first, seeds=None).to_json()) == [*names, "flags"]  # a critic diverged


@pytest.mark.slow
def test_the_table_is_for_people(cli):
    out, _ = cli("swing", "--snapshots", *TINY, "--steps", "20")
    assert "not returns, and not scores" in out
    names = [f"swing/snapshots/step-00000000{step} seed-{seed}" for step in (10, 20) for seed in (0, 1)]
    assert all(out.count(name) == 1 for name in names)
    assert "the data's behaviour, as logged" in out and re.search("20 updates, b?float(16|32) products", out)
    assert "outside" in out and "ESS" in out and "No intervals: they take two seeds" in out


@pytest.mark.slow
def test_modes_and_copies(cli, home):
    shutil.copytree(home / "swing" / "policy", home / "copy", dirs_exist_ok=True)
    values = {}
    for mode in ("mean", "sample"):
        out, _ = cli("copy", "--data", "pendulum.hdf5", "--mode", mode, *TINY, "--json")
        values[mode] = json.loads(out)["policies"][0]["value"]
        assert json.loads(out)["mode"] == mode
    assert values["mean"] != values["sample"]
    assert "no mode 'best'" in cli("swing", "--mode", "best", *TINY, status=2)[1]


@pytest.mark.slow
def test_policies_with_a_memory_are_left_out_and_the_others_go_on(cli):
    out, _ = cli("dt", "good", "--data", "data.hdf5", *TINY)
    assert "left out: dt seed-0: dt acts by what it remembers" in out and "good seed-0" in out
    assert "remembers" in cli("dt", "--data", "data.hdf5", status=2)[1]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "DIR"),
        (["nowhere"], "no policy in 'nowhere'"),
        (["good"], "was trained on arrays in memory: name the data"),
        (["copy"], "does not say what it was trained on"),
        (["swing", "--data", "data.hdf5"], "knows observations 3, 'data' has 1"),
        (["good", "swing", "--data", "pendulum.hdf5"], "knows observations 1, 'pendulum' has 3"),
        (["dt", "swing"], "no policy to evaluate|different data"),
        (["swing", "--data", "lost.hdf5"], "no file lost.hdf5"),
        (["good", "--snapshots"], "no snapshots in 'good'"),
        (["swing", "--gamma", "1"], "below 1, not 1"),
        (["swing", "--seeds", "0"], "seeds must be at least one"),
        (["swing", "--set", "hiden=8"], "did you mean 'hidden'"),
        (["swing", "--set", "gamma=0.9"], "give --gamma"),
        (["swing", "--set", "precision=half"], "option 'precision' cannot be 'half'"),
        (["swing", "--held-out", "100"], "below 100"),
        (["swing", "--out", "here.txt"], "name the file here.txt.json"),
        (["swing", "--out", "no/such/here.json"], "cannot write into 'no/such'"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(home, argv, says, refused):
    shutil.copytree(home / "swing" / "policy", home / "copy", dirs_exist_ok=True)
    assert re.search(says, refused(*argv))
