"""Environments of one's own: ids that Gymnasium knows, `module:id`, and environments themselves."""

import json
import sys

import gymnasium as gym
import numpy as np
import pytest

import leashrl
from leashrl.data import Dataset
from leashrl.errors import BadInput
from leashrl.tasks import own, places, task
from leashrl.types import Box

MODULE = '''
import gymnasium as gym
import numpy as np

class Five(gym.Env):
    """Pays 1 a step for five steps, and the action's first number on top."""
    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,))
    action_space = gym.spaces.Box(-1, 1, (2,))
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(3, np.float32), {}
    def step(self, action):
        self.t += 1
        return np.ones(3, np.float32), 1.0, False, self.t >= 5, {}

gym.register("Five-v0", Five)
gym.register("Broken-v0", lambda: 1 / 0)
'''


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A module of one's own, and a run that was trained on logs from its environment."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "five_envs.py").write_text(MODULE)
    rng = np.random.default_rng(0)
    data = Dataset.from_arrays(
        rng.normal(size=(60, 3)), rng.uniform(-1, 1, (60, 2)), np.ones(60), np.zeros(60),
        timeout=np.arange(60) % 5 == 4, action_space=Box((-1.0, -1.0), (1.0, 1.0)),
    )  # fmt: skip
    leashrl.train("bc", data, steps=3, seeds=2, options={"hidden": (8,), "batch_size": 8}, out=folder / "run")
    return folder


@pytest.fixture
def here(home, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return home


def test_an_id_of_a_module_is_a_task(here, cli):
    found = task("five_envs:Five-v0")
    assert (found.obs_dim, found.action_dim, found.discrete, found.min_score) == (3, 2, False, None)
    assert found.domain == "own" and places(found, "hopper-medium") == ()
    out, _ = cli("eval", "run", "--task", "five_envs:Five-v0", "--episodes", "12", "--json")
    result = json.loads(out)
    assert [m["returns"] for m in result["members"]] == [[5.0] * 12] * 2 and result["score"] is None


def test_training_evaluates_in_it(here, cli):
    words = ["--steps", "4", "--seeds", "1", "--set", "hidden=8", "batch_size=8", "--out", "trained"]
    cli("data", "make", "pendulum-medium", "--steps", "60", "--out", "p.hdf5")
    cli("train", "bc", "--data", "p.hdf5", "--task", "gymnasium.envs.classic_control:Pendulum-v1", *words)
    (row, *_) = map(json.loads, (here / "trained/evaluations.jsonl").read_text().splitlines())
    assert row["score"] is None and len(row["returns"]) == own.EPISODES


def test_an_environment_itself_is_a_task(here):
    task("five_envs:Five-v0")  # registers it
    policy = leashrl.load_policy("run")
    for given in (gym.make("Five-v0"), gym.make("Five-v0").unwrapped):
        assert policy.evaluate(given, episodes=3).returns == (5.0, 5.0, 5.0)
    found = leashrl.evaluate_run("run", task=gym.make("Five-v0"), episodes=2)
    assert [m["return"] for m in found.members] == [5.0, 5.0] and found.task == "Five-v0"
    several = [gym.make("Five-v0") for _ in range(2)]
    assert policy.evaluate("Five-v0", episodes=5, envs=several).lengths == (5,) * 5


def test_own_and_the_librarys_environments_give_the_same_returns(tmp_path):
    rng = np.random.default_rng(0)
    bounds = Box((-2.0,), (2.0,))
    data = Dataset.from_arrays(
        rng.normal(size=(9, 3)), rng.uniform(-2, 2, 9), np.ones(9), np.arange(9) == 8, action_space=bounds
    )
    result = leashrl.train("bc", data, steps=2, seeds=1, options={"hidden": (8,)}, out=tmp_path / "run")
    policy = leashrl.load_policy(result.folder)
    one = policy.evaluate("pendulum", episodes=3).returns
    assert policy.evaluate(gym.make("Pendulum-v1"), episodes=3).returns == one
    assert policy.evaluate("Pendulum-v1", episodes=3).returns == one


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("five_envs:Six-v0", "no task 'five_envs:Six-v0'"),
        ("no_such_module:X-v0", "cannot import 'no_such_module'"),
        ("five_envs:Broken-v0", "cannot make five_envs:Broken-v0: ZeroDivisionError"),
        ("hoppper", "did you mean 'hopper'"),
        ("FrozenLake-v1", "observes a Discrete space: wrap it in"),
        (lambda: gym.make_vec("Pendulum-v1", num_envs=2), "a vector environment was given"),
        (lambda: 7, "int is neither a task's name nor a Gymnasium environment"),
        (
            lambda: gym.make("Pendulum-v1"),
            "but the data's action space is|but obs_mean has shape|takes actions",
        ),
    ],
)
def test_what_cannot_be_a_task_is_one_line(given, words, here):
    with pytest.raises(BadInput, match=words) as caught:
        leashrl.load_policy("run").evaluate(given if isinstance(given, str) else given(), episodes=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("envs", [gym.make_vec, list, lambda: 3, lambda: "Pendulum-v1"])
def test_envs_are_a_list_of_single_ones(envs, here):
    given = envs("Pendulum-v1", num_envs=2) if envs is gym.make_vec else envs()
    with pytest.raises(BadInput, match="'envs' must be a list of single environments"):
        leashrl.load_policy("run").evaluate("pendulum", episodes=1, envs=given)
