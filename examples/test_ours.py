"""What an algorithm must keep, on a probe whose optimum is known; `pytest examples/test_ours.py`."""

import numpy as np
import ours  # noqa: F401  (it enters itself into the registry)
import pytest

import leashrl


@pytest.fixture
def probe() -> leashrl.Dataset:
    """One step an episode, pays 1 - (a - 0.5)^2: the best action is 0.5 everywhere, and worth 1."""
    rng = np.random.default_rng(0)
    action = rng.uniform(-1, 1, size=(2000, 1))
    return leashrl.Dataset.from_arrays(
        obs=rng.normal(size=(2000, 2)),
        action=action,
        reward=1 - (action[:, 0] - 0.5) ** 2,
        terminal=np.ones(2000, bool),
        action_space=leashrl.Box((-1.0,), (1.0,)),
    )


def train(probe, out, **more):
    small = {"hidden": (32, 32), "batch_size": 64} | more
    return leashrl.train("ours", probe, options=small, seeds=2, steps=2000, log_every=100, out=out)


def test_it_finds_the_best_action(probe, tmp_path):
    assert not train(probe, tmp_path / "run", beta=0.1).diverged
    action = leashrl.load_policy(tmp_path / "run")(np.zeros((1, 2)))
    assert action == pytest.approx(0.5, abs=0.2)  # cloning draws it towards the data's mean, 0


def test_without_its_leash_it_is_nearer_and_with_more_it_clones(probe, tmp_path):
    found = []
    for beta in (0.0, 100.0):
        train(probe, tmp_path / str(beta), beta=beta)
        found.append(float(leashrl.load_policy(tmp_path / str(beta))(np.zeros(2))[0]))
    assert abs(found[0] - 0.5) < 0.2 and abs(found[1]) < 0.2
