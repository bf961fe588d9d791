"""CartPole's recipe by gymnasium: its rows are steps of it, and its kinds are as good as they claim."""

import gymnasium
import numpy as np
import pytest

from leashrl.data import cartpole, check, load, make
from leashrl.data.pendulum import Random
from leashrl.tasks import task
from leashrl.types import Discrete, Spec


@pytest.mark.parametrize("kind", cartpole.KINDS)
def test_every_row_is_a_step_of_gymnasiums_cartpole(kind):
    rows = cartpole.cartpole(kind, 1500, 3)
    env = gymnasium.make("CartPole-v1").unwrapped
    env.reset(seed=0)
    for obs, action, reward, after, terminal in zip(
        *(rows[k] for k in ("observations", "actions", "rewards", "next_observations", "terminals")),
        strict=True,
    ):
        env.state, env.steps_beyond_terminated = obs.astype(np.float64), None
        expected, paid, terminated, *_ = env.step(int(action))
        np.testing.assert_allclose(after, expected, atol=1e-5)
        assert (reward, terminal) == (paid, terminated)
    env.close()
    ends = np.flatnonzero(rows["terminals"] | rows["timeouts"])
    assert ends[-1] == 1499 and not np.any(rows["terminals"] & rows["timeouts"])
    inside = np.setdiff1d(np.arange(1500), ends)
    np.testing.assert_array_equal(rows["observations"][inside + 1], rows["next_observations"][inside])
    assert np.abs(rows["observations"][ends[:-1] + 1]).max() <= 0.05  # gymnasium's start


def lengths(kind, steps=40_000):
    rows = cartpole.cartpole(kind, steps, 1)
    return np.diff(np.flatnonzero(rows["terminals"] | rows["timeouts"]))


def test_the_kinds_are_as_good_as_they_claim():
    random, medium, expert = (lengths(kind).mean() for kind in cartpole.KINDS)
    assert random == pytest.approx(task("cartpole").min_score, abs=1.5)  # standard error 0.3
    assert random < medium < 60 and expert > 490
    assert lengths("expert").max() == task("cartpole").max_score == cartpole.LIMIT


def test_cloning_medium_gains_nothing():
    """Its noise-free controller, which is what cloning finds, stands no longer than the data do."""
    state, stood = 0.1 * Random(5).uniform((500, 4)) - 0.05, np.zeros(500)
    alive = np.ones(500, bool)
    for _ in range(200):
        stood += alive
        state = cartpole.step(state, (state[:, 2] > 0).astype(float))
        alive &= ~cartpole.fallen(state)
    assert not alive.any() and stood.mean() < lengths("medium").mean()


def test_a_recipe_is_a_discrete_data_set():
    data = load(make("cartpole-medium", steps=500))
    assert data.spec == Spec(4, Discrete(2)) and data.action.dtype == np.int32
    assert not [d for d in check("cartpole-medium", spec=data.spec) if d.fatal]
