"""Online runs: the ring and its rows, episodes, resuming, and what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import leashrl
from leashrl.cli import main
from leashrl.core import draw
from leashrl.errors import BadInput
from leashrl.runs.events import Stepped
from leashrl.tasks import task
from leashrl.training import replay, simulator
from leashrl.types import Replay, Transitions
from support.files import online_bits, read_lines, replay_of
from support.processes import as_here

TINY = {"hidden": (8, 8), "batch_size": 8, "warmup": 250, "every": 20}
PLAN = {"task": "pendulum", "seeds": 2, "steps": 420, "options": TINY, "episodes": 1, "eval_every": 210}
PLAN |= {"log_every": 70}
ARGV = ["train", "sac", "--task", "pendulum", "--seeds", "2", "--steps", "420", "--episodes", "1"]
ARGV += ["--eval-every", "210", "--log-every", "70", "--set", "hidden=8,8", "batch_size=8", "warmup=250"]
ARGV += ["every=20"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("online") / "whole"
    leashrl.train("sac", **PLAN, out=folder)
    return folder


# --- What is collected -----------------------------------------------------------------


@pytest.mark.slow
def test_rows_are_steps_of_gymnasiums_environment(whole):
    """Every row, warm-up and policy, taken again in the environment itself."""
    rows, limit = replay_of(whole), 200
    torque = leashrl.Box((-2.0,), (2.0,)).from_unit(rows["action"])  # rounds as the run did
    env = gymnasium.make("Pendulum-v1", max_episode_steps=limit)
    for member in range(2):
        for t in range(rows["reward"].shape[1]):
            if t % limit == 0:
                seed = np.random.SeedSequence([member, t // limit, 1]).generate_state(1)[0]
                obs, _ = env.reset(seed=int(seed))
            np.testing.assert_array_equal(rows["obs"][member, t], obs)
            obs, reward, terminal, timeout, _ = env.step(torque[member, t])
            np.testing.assert_array_equal(rows["next_obs"][member, t], obs)
            assert rows["reward"][member, t] == np.float32(reward)
            assert rows["terminal"][member, t] == terminal and rows["timeout"][member, t] == timeout
    # 250 random rows, then one visit before every 20 updates
    assert rows["reward"].shape == (2, 250 + 420)
    random = rows["action"][:, :250]
    assert np.abs(random).max() <= 1 and abs(random.mean()) < 0.1 and abs(random.std() - 3**-0.5) < 0.05


@pytest.mark.slow
def test_episodes_are_written_down(whole):
    rows = replay_of(whole)
    lines = read_lines(whole / "episodes.jsonl")
    for member in range(2):
        mine = [line for line in lines if line["seed"] == member]
        assert [line["length"] for line in mine] == [200, 200, 200]
        sums = rows["reward"][member, :600].astype(float).reshape(3, 200).sum(1)
        np.testing.assert_allclose([line["return"] for line in mine], sums, rtol=1e-5)
        # rows 200, 400 and 600 came with the visits before updates 0, 140 and 340
        assert [line["step"] for line in mine] == [0, 140, 340]
        found = json.loads((whole / "result.json").read_text())["members"][member]["online"]
        assert found["episodes"] == 3
        assert found["return_last_100"] == pytest.approx(sums.mean(), rel=1e-5)


def test_the_mean_over_the_last_100_episodes():
    returns = np.arange(250.0)
    means = simulator.running_mean(list(returns))
    assert means[0] == 0 and means[99] == 49.5 and means[100] == 50.5 and means[249] == 199.5
    found = simulator.recent([{"return": x, "seed": 0} for x in [5.0, 1.0]], {"seed": 0})
    assert found == {"episodes": 2, "return_last_100": 3.0, "best_last_100": 5.0}
    nothing = simulator.recent([{"return": 1.0, "seed": 1}], {"seed": 0})
    assert nothing == {"episodes": 0, "return_last_100": None, "best_last_100": None}


# --- The ring --------------------------------------------------------------------------


def ring(capacity, members=2):
    spec = leashrl.types.Spec(1, leashrl.Box((-1.0,), (1.0,)))
    return replay.empty(members, capacity, spec)


def rows_of(values):
    """Rows whose every number is `values` (members, n)."""
    values = jnp.asarray(values, jnp.float32)
    wide = values[..., None]
    return {"obs": wide, "action": wide, "next_obs": wide, "reward": values, "terminal": values < 0}


def test_the_ring_keeps_the_newest_rows():
    data = ring(5)
    data = replay.append(data, rows_of([[1, 2, 3], [11, 12, 13]]))
    data = replay.append(data, rows_of([[4, 5, 6, 7], [14, 15, 16, 17]]))
    assert int(data.count) == 7
    np.testing.assert_array_equal(data.rows.reward, [6, 7, 3, 4, 5, 16, 17, 13, 14, 15])


def drawn(data, newest=None, n=4000):
    rows = draw(data, jax.random.key(0), n, newest)
    values, counts = np.unique(np.asarray(rows.reward), return_counts=True)
    return values.tolist(), counts / n


def one(data: Replay, member: int) -> Replay:
    """The replay as the loop shows it to a member."""
    return Replay(data.rows, data.first[member], data.capacity, data.count)


def test_draws_are_uniform_over_a_members_own_rows():
    data = replay.append(ring(5), rows_of([[1, 2, 3], [11, 12, 13]]))
    values, share = drawn(one(data, 1))
    assert values == [11, 12, 13]  # none of the two rows that are not filled yet
    np.testing.assert_allclose(share, 1 / 3, atol=0.04)
    data = replay.append(data, rows_of([[4, 5, 6, 7], [14, 15, 16, 17]]))
    assert drawn(one(data, 0))[0] == [3, 4, 5, 6, 7]
    values, share = drawn(one(data, 0), newest=3)
    assert values == [5, 6, 7]  # row 7 lies before rows 3 and 4 in the table
    np.testing.assert_allclose(share, 1 / 3, atol=0.04)
    assert drawn(one(data, 0), newest=100)[0] == [3, 4, 5, 6, 7]


def test_draws_from_a_data_set_are_uniform_over_all_of_it():
    column = np.zeros((3, 1), np.float32)
    data = Transitions(column, column, np.float32([7, 8, 9]), np.zeros(3, bool), column)
    assert drawn(data)[0] == [7, 8, 9] and drawn(data, newest=1)[0] == [7, 8, 9]


# --- Stopping and going on ---------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 70, 210])
def test_a_run_that_was_stopped_ends_with_the_same_bits(at, whole, tmp_path):
    """Steps 70 and 210 lie between two visits, whose rows are then drawn from on both sides."""

    def stop(event):
        if isinstance(event, Stepped) and event.step >= at:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        leashrl.train("sac", **PLAN, out=tmp_path / "cut", report=stop)
    result = leashrl.resume(tmp_path / "cut")
    assert online_bits(tmp_path / "cut") == online_bits(whole)
    assert result.to_json()["members"] == json.loads((whole / "result.json").read_text())["members"]


@pytest.mark.slow
def test_kill_9_and_what_it_leaves(whole, tmp_path):
    """Killed right after rows were written, before their checkpoint: they are beyond what is resumed."""
    code = (
        "import os, sys\n"
        "from leashrl.training import simulator\nfrom leashrl.runs import execute\n"
        "from leashrl.cli import main\n"
        "execute.CHECKPOINT_SECONDS, save = 0.0, simulator.Simulator.save\n"
        "def kill(self, folder):\n"
        "    if save(self, folder) > 500: os.kill(os.getpid(), 9)\n"
        "    return self.saved\n"
        "simulator.Simulator.save = kill\n"
        "main(sys.argv[1:])\n"
    )
    argv = [sys.executable, "-c", code, *ARGV, "--out", "killed"]
    died = subprocess.run(argv, cwd=tmp_path, capture_output=True, env=as_here())
    assert died.returncode == -9
    rows = [int(path.stem[5:]) for path in (tmp_path / "killed" / "replay").iterdir()]
    assert len(rows) > 3
    leashrl.resume(tmp_path / "killed")
    assert online_bits(tmp_path / "killed") == online_bits(whole)


def test_members_alone_and_together_see_the_same(whole, tmp_path):
    leashrl.train("sac", **PLAN | {"seeds": [1]}, out=tmp_path / "alone")
    together, alone = replay_of(whole), replay_of(tmp_path / "alone")
    for name in together:
        np.testing.assert_allclose(together[name][1, :500], alone[name][0, :500], atol=1e-3, err_msg=name)
    assert not np.array_equal(together["action"][0], together["action"][1])


@pytest.fixture
def cut(whole, tmp_path):
    """A run that was stopped at the end and has no result."""
    shutil.copytree(whole, tmp_path / "cut")
    (tmp_path / "cut" / "result.json").unlink()
    return tmp_path / "cut"


def test_missing_rows_are_told(cut):
    first = sorted((cut / "replay").iterdir())[0]
    first.unlink()
    with pytest.raises(BadInput, match=r"rows-0000000000.safetensors', which the run needs to go on"):
        leashrl.resume(cut)
    first.write_bytes(b"no rows")
    with pytest.raises(BadInput, match=r"cannot read .*rows-0000000000"):
        leashrl.resume(cut)


def test_an_environment_that_gives_something_else_is_told(cut, monkeypatch):
    class Other(gymnasium.Wrapper):
        def step(self, action):
            obs, *rest = super().step(action)
            return obs + np.float32(1e-3), *rest

    monkeypatch.setattr(simulator, "borrow", lambda task, n: [Other(env) for env in borrow(task, n)])
    borrow = leashrl.tasks.making.borrow
    with pytest.raises(BadInput, match=r"does not give again what it gave in row 6\d\d"):
        leashrl.resume(cut)


def test_snapshots_act_as_their_evaluation_did(tmp_path):
    leashrl.train("sac", **PLAN, out=tmp_path / "run", snapshots=True)
    folders = sorted((tmp_path / "run" / "snapshots").iterdir())
    assert [folder.name for folder in folders] == ["step-0000000210", "step-0000000420"]
    line = json.loads((tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()[0])
    found = leashrl.evaluate_run(folders[0], episodes=1, seed=0)
    assert found.members[0].mean_return == pytest.approx(line["return"], rel=1e-4)
    leashrl.train("sac", **PLAN, out=tmp_path / "run", overwrite=True)
    assert not (tmp_path / "run" / "snapshots").exists()


# --- What is refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["bc", "--task", "pendulum"], "bc learns from data: give --data"),
        (["sac"], "give --task, or --data"),
        (["sac", "--task", "none"], "give --task, or --data"),
        (["sac", "--task", "pendulum", "--set", "buffer=100"], "must hold the warm-up and an episode: 5200"),
        (["sac", "--task", "pendulum", "--set", "preprocess.obs=standardise"], "needs a data set"),
        (["sac", "--task", "pendulun"], "did you mean 'pendulum'"),
        (["sac", "--task", "pendulum", "--set", "every=0"], "'every' must be at least 1"),
    ],
)
def test_bad_input_is_one_line(argv, message, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    assert message in refused("train", *argv)
    assert list(tmp_path.iterdir()) == []


def test_an_online_run_takes_no_data_when_it_is_resumed(cut):
    with pytest.raises(BadInput, match="is an online run: it takes no data"):
        leashrl.resume(cut, data="pendulum-medium")


def test_an_action_that_is_not_finite_ends_the_run(tmp_path, monkeypatch, capsys):
    def broken(self, state, step):
        params = jax.tree.map(lambda x: x * np.float32(np.nan), self.policy.params(state))
        self.collect(params, self.every, step)

    monkeypatch.setattr(simulator.Simulator, "visit", broken)
    monkeypatch.chdir(tmp_path)
    assert main([*ARGV, "--out", "broken"]) == 3
    assert "not finite, after 0 updates" in capsys.readouterr().err


def test_discrete_actions_are_refused():
    class Lever:
        action_space = gymnasium.spaces.Discrete(3)
        observation_space = gymnasium.spaces.Box(-1, 1, (2,))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulator, "borrow", lambda task, n: [Lever()])
        patch.setattr(simulator, "give_back", lambda task, envs: None)
        with pytest.raises(BadInput, match="no continuous actions"):
            simulator.spec_of(task("pendulum"))
