"""Importance sampling against sums over all trajectories of a small world, and intervals against chance."""

import itertools
import math

import numpy as np
import pytest

from leashrl.ope import importance
from leashrl.ope.importance import METHODS, Episodes, estimate

GAMMA = 0.5
B = np.array([[0.25, 0.75], [0.5, 0.5]])  # b(a | s) of two states
PI = np.array([[0.75, 0.25], [0.125, 0.875]])
REWARD = np.array([[1.0, -2.0], [0.5, 4.0]])
NEXT = np.array([[1, 0], [0, 1]])  # the state that an action leads to
LONG = 3


def world(starts=(0, 1)):
    """Every trajectory of three steps, with its probability under b, and states and actions (n, 3)."""
    rows = []
    for start, *actions in itertools.product(starts, *[range(2)] * LONG):
        states, probability, s = [], 1 / len(starts), start
        for a in actions:
            states.append(s)
            probability *= B[s, a]
            s = NEXT[s, a]
        rows.append((probability, states, actions))
    probability, states, actions = zip(*rows, strict=True)
    return np.array(probability), np.array(states), np.array(actions)


def value(policy):
    """The exact value by steps left: V_k(s), for k from 0."""
    v = [np.zeros(2)]
    for _ in range(LONG):
        v.append(np.sum(policy * (REWARD + GAMMA * v[-1][NEXT]), 1))
    return v


def episodes(states, actions, model=None):
    """Of a world without ends; `model`: V by steps left, whose Q is the Bellman backup, or anything else."""
    ratio, reward = (PI / B)[states, actions], REWARD[states, actions]
    there = np.ones(states.shape, bool)
    if model is None:
        return Episodes(there, ratio, reward)
    left = LONG - np.arange(LONG)
    v = np.stack([model[k][states[:, t]] for t, k in enumerate(left)], 1)
    q = np.stack(
        [
            REWARD[states[:, t], actions[:, t]] + GAMMA * model[k - 1][NEXT[states[:, t], actions[:, t]]]
            for t, k in enumerate(left)
        ],
        1,
    )
    return Episodes(there, ratio, reward, q, v)


def wrong_model():
    """A Q of noise, and the V that is its mean under the policy: what doubly robust estimates forgive."""
    rng = np.random.default_rng(0)
    _, states, actions = world()
    table = rng.normal(size=(LONG, 2, 2))
    steps = np.arange(LONG)
    q = table[steps, states, actions]
    v = np.sum(PI[None] * table, -1)[steps, states]
    return episodes(states, actions)._replace(q=q, v=v)


@pytest.mark.parametrize("method", ["is", "pdis", "dr", "switch-dr"])
def test_estimates_average_to_the_value(method):
    """Over all trajectories, each with its probability: what unbiased means."""
    probability, states, actions = world()
    assert probability.sum() == pytest.approx(1)
    data = wrong_model() if method in importance.MODELLED else episodes(states, actions)
    found = estimate(method, data, GAMMA)
    assert probability @ (found.value + found.influence) == pytest.approx(value(PI)[LONG].mean(), rel=1e-12)
    assert found.bias == 0.0 and found.clipped == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_a_log_in_proportion_gives_the_value_exactly(method):
    """Each trajectory as often as b makes it: every method then finds the sum over trajectories."""
    probability, states, actions = world()
    counts = np.round(probability * 2 * 64).astype(int)
    assert counts.sum() == 128
    often = np.repeat(np.arange(len(counts)), counts)
    data = wrong_model() if method in importance.MODELLED else episodes(states, actions)
    data = Episodes(*(None if x is None else x[often] for x in data))
    assert estimate(method, data, GAMMA).value == pytest.approx(value(PI)[LONG].mean(), rel=1e-12)


@pytest.mark.parametrize("method", ["dr", "wdr", "switch-dr"])
def test_the_right_model_needs_no_luck(method):
    """With the exact Q every episode says the value of its start, whatever was done in it."""
    _, states, actions = world()
    exact = value(PI)
    some = np.random.default_rng(1).integers(len(states), size=7)
    data = episodes(states[some], actions[some], exact)
    found = estimate(method, data, GAMMA, limit=1.0)
    starts = exact[LONG][states[some, 0]]
    assert found.value == pytest.approx(starts.mean(), rel=1e-12)
    np.testing.assert_allclose(found.influence, starts - starts.mean(), atol=1e-12)


def test_by_hand():
    """Two episodes of two and one steps, gamma 1/2."""
    data = Episodes(
        there=np.array([[True, True], [True, False]]),
        ratio=np.array([[2.0, 0.5], [0.25, 1.0]]),
        reward=np.array([[1.0, 4.0], [8.0, 0.0]]),
        q=np.array([[1.0, 2.0], [4.0, 0.0]]),
        v=np.array([[0.5, 1.0], [2.0, 0.0]]),
    )
    # weights (2, 1) and (0.25, 0.25); returns 3 and 8; deltas 1 + 0.5 - 1, 4 - 2 and 8 - 4
    by_hand = {
        "is": (1 * 3 + 0.25 * 8) / 2,
        "wis": (1 * 3 + 0.25 * 8) / 1.25,
        "pdis": (2 * 1 + 0.5 * 1 * 4 + 0.25 * 8) / 2,
        "wpdis": (2 * 1 + 0.25 * 8) / 2.25 + 0.5 * (1 * 4) / 1.25,
        "dr": (0.5 + 2 * 0.5 + 0.5 * 1 * 2 + 2 + 0.25 * 4) / 2,
        "wdr": 1.25 + (2 * 0.5 + 0.25 * 4) / 2.25 + 0.5 * (1 * 2) / 1.25,
        "switch-dr": (0.5 + 0.5 * 1 * 2 + 2 + 0.25 * 4) / 2,
    }
    for method, expected in by_hand.items():
        assert estimate(method, data, 0.5, limit=1.0).value == pytest.approx(expected), method
    assert estimate("is", data, 0.5).ess == pytest.approx(1.25**2 / (1 + 0.0625))
    assert estimate("is", data, 0.5).followed == 2
    clipped = estimate("pdis", data, 0.5, clip=1.0)
    assert clipped.value == pytest.approx((1 * 1 + 0.5 * 1 * 4 + 0.25 * 8) / 2)
    assert clipped.clipped == pytest.approx(1 / 4)
    # of weights 1 and 0.25 three eighths are missing, at both steps, where at most 8 and 4 are paid
    assert clipped.bias == pytest.approx(0.375 * 8 + 0.5 * 0.375 * 4)
    assert estimate("wis", data, 0.5, clip=0.5).bias is None


def test_the_bound_of_the_bias_holds():
    probability, states, actions = world()
    counts = np.round(probability * 2 * 64).astype(int)
    often = np.repeat(np.arange(len(counts)), counts)
    whole = episodes(states[often], actions[often])
    truth = value(PI)[LONG].mean()
    for clip in (0.5, 1.0, 2.0):
        for method in ("is", "pdis"):
            found = estimate(method, whole, GAMMA, clip=clip)
            assert 0 < abs(found.value - truth) <= found.bias


def test_influences_are_derivatives():
    """Of a self-normalised value in an episode's share of the data, by finite differences."""
    rng = np.random.default_rng(2)
    n = 6
    data = Episodes(
        np.ones((n, 2), bool), rng.exponential(size=(n, 2)), rng.normal(size=(n, 2)),
        rng.normal(size=(n, 2)), rng.normal(size=(n, 2)),
    )  # fmt: skip
    many = 10_000
    for method in ("wis", "wpdis", "wdr"):
        found = estimate(method, data, 0.9)
        for i in range(n):
            index = np.concatenate([np.tile(np.arange(n), many // n), [i]])
            more = estimate(method, Episodes(*(x[index] for x in data)), 0.9)
            slope = (more.value - found.value) * len(index)
            assert slope == pytest.approx(found.influence[i], rel=2e-3, abs=2e-3), method


def test_intervals_of_skewed_values_hold_more_often_than_students():
    """The mean of lognormal draws, which importance weights resemble: 1, by construction."""
    rng, hits, plain, tries, n = np.random.default_rng(3), 0, 0, 1000, 50
    for _ in range(tries):
        x = np.exp(rng.normal(-0.5, 1.0, n))
        low, high = importance.skewed_interval(x)
        hits += low <= 1 - x.mean() <= high
        plain += abs(1 - x.mean()) <= importance.t_quantile(0.95, n - 1) * x.std(ddof=1) / math.sqrt(n)
    assert hits / tries > 0.915 > plain / tries
    normal = rng.normal(size=200)
    low, high = importance.skewed_interval(normal)
    half = importance.t_quantile(0.95, 199) * normal.std(ddof=1) / math.sqrt(200)
    assert high - low == pytest.approx(2 * half, rel=0.02)


def test_one_episode_has_no_interval():
    assert importance.skewed_interval(np.array([1.0])) == (-math.inf, math.inf)
    assert importance.skewed_interval(np.array([1.0, 1.0])) == (0.0, 0.0)
