"""DDPG and PPO of stable-baselines3: what is ours of it, which is all but the learning.

The library brings torch, so our own tests do without it. Its stand-in below learns nothing and acts at
random, but talks to the environment and to the callback as the library does. The last test is skipped there;
with the real library it is run by

    pip install 'leashrl[peers]' && pytest tests/runs/test_peers.py
"""

import importlib.util
import json
import sys
import types
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from leashrl.cli import main
from leashrl.disk.folder import RunFolder
from leashrl.report.plots import curve
from leashrl.runs.peers import PEERS, train
from leashrl.runs.results import Result
from leashrl.tasks import TASKS, normalise
from leashrl.tasks.making import env_seed, make_one
from leashrl.training.simulator import Simulator
from support.files import read_lines

REAL = importlib.util.find_spec("stable_baselines3") is not None


class StandIn:
    """An agent whose training acts at random and whose policy does nothing; a large rate makes it NaN."""

    made: list["StandIn"]

    def __init__(self, policy, env, *, policy_kwargs, seed, device, **settings):
        assert policy == "MlpPolicy" and isinstance(env, gym.Env) and device == "cpu"
        self.env, self.settings, self.network = env, settings, policy_kwargs["net_arch"]
        self.random = np.random.default_rng(seed)
        self.first: list[np.ndarray] = []  # observations of episodes
        self.paid: list[list[float]] = []  # rewards of episodes
        self.updates = self.steps = 0
        StandIn.made.append(self)

    def begin(self) -> None:
        self.first.append(self.env.reset()[0])
        self.paid.append([])

    def learn(self, total, callback):
        self.begin()
        every = self.settings.get("n_steps", 1)
        while self.steps < total:  # whole pieces of `every` steps
            for _ in range(every):
                action = np.clip(self.random.normal(size=1), -2, 2).astype(np.float32)
                if self.settings["learning_rate"] > 1 and self.steps > 250:
                    action[:] = np.nan
                _, paid, terminal, timeout, _ = self.env.step(action)
                self.steps += 1
                if not callback({}, {}):
                    return
                self.paid[-1].append(float(paid))
                if terminal or timeout:
                    self.begin()
            self.updates += 1

    def predict(self, obs, deterministic):
        assert obs.shape == (3,) and obs.dtype == np.float32 and deterministic
        return np.zeros(1, np.float32), None


@pytest.fixture
def library(monkeypatch, tmp_path):
    """The stand-in in the library's place, torch with it; and an empty folder to stand in."""
    StandIn.made = []
    module = lambda **names: types.SimpleNamespace(__spec__=None, **names)
    validation = types.SimpleNamespace(set_default_validate_args=lambda value: None)
    replaced = {
        "stable_baselines3": module(DDPG=StandIn, PPO=StandIn),
        "stable_baselines3.common": module(),
        "stable_baselines3.common.noise": module(NormalActionNoise=lambda mean, std: (mean, std)),
        "torch": module(
            nn=types.SimpleNamespace(ReLU=None), distributions=types.SimpleNamespace(Distribution=validation)
        ),
    }
    for name, value in replaced.items():
        monkeypatch.setitem(sys.modules, name, value)
    monkeypatch.chdir(tmp_path)
    return StandIn.made


def nothing_done(episodes: int) -> list[float]:
    """Returns of the pendulum that is left alone, from where evaluations start."""
    env, returns = gym.make("Pendulum-v1"), []
    for i in range(episodes):
        env.reset(seed=env_seed(0, i))
        returns.append(sum(float(env.step(np.zeros(1, np.float32))[1]) for _ in range(200)))
    return returns


# --- What a run leaves -------------------------------------------------------


def test_a_run_leaves_what_an_online_run_leaves(library, capsys):
    argv = ["train", "ddpg", "--task", "pendulum", "--seeds", "3,5", "--steps", "500", "--eval-every", "200"]
    assert main([*argv, "--episodes", "2", "--set", "hidden=8", "tau=0.1", "--out", "run"]) == 0
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert "cannot be resumed, and leaves no policy" in lines[1]
    assert [line.split(":")[0] for line in lines[2:]] == [
        f"seed-{seed}, step {step}" for seed in (3, 5) for step in (200, 400, 500)
    ]
    assert said.out.splitlines()[-1].startswith("artefacts: run (episodes.jsonl")
    names = ["config.json", "episodes.jsonl", "evaluations.jsonl", "result.json"]
    assert sorted(path.name for path in Path("run").iterdir()) == names and RunFolder(Path("run")).ours

    config = json.loads(Path("run/config.json").read_text())
    assert config["algorithm"] == "ddpg" and config["data"]["source"] == "online"
    assert config["config"]["hidden"] == [8] and config["config"]["tau"] == 0.1
    assert library[0].network == [8] and library[0].settings["buffer_size"] == 500

    wanted = [
        {"step": 200 * (i + 1), "return": pytest.approx(sum(agent.paid[i])), "length": 200, "seed": seed}
        for seed, agent in zip((3, 5), library, strict=True)
        for i in range(2)
    ]
    assert read_lines("run/episodes.jsonl") == wanted

    returns = nothing_done(2)
    score = float(normalise(TASKS["pendulum"], returns).mean())
    evaluations = read_lines("run/evaluations.jsonl")
    assert [(row["step"], row["seed"]) for row in evaluations] == [
        (step, seed) for seed in (3, 5) for step in (200, 400, 500)
    ]
    for row in evaluations:
        assert list(row) == ["step", "seed", "return", "score", "returns", "lengths"]
        assert row["returns"] == pytest.approx(returns) and row["lengths"] == [200, 200]
        assert row["return"] == pytest.approx(np.mean(returns)) and row["score"] == pytest.approx(score)

    result = Result.read("run")
    assert result.steps == 500 and result.score and result.score.n == 2
    first = result.to_json()["members"][0]
    assert first["score"]["final"] == pytest.approx(score)
    both = [sum(paid) for paid in library[0].paid[:2]]
    assert first["online"] == {
        "episodes": 2,
        "return_last_100": pytest.approx(np.mean(both)),
        "best_last_100": pytest.approx(max(both[0], np.mean(both))),
    }
    what, points = curve(["run"])
    assert what == "score" and [point[0] for point in points] == [200, 400, 500]


def test_ppo_ends_at_the_last_step_and_not_before_its_update(library):
    train("ppo", "pendulum", seeds=1, steps=600, episodes=1, options={"n_steps": 100}, out="whole")
    assert library[0].updates == 6 and library[0].steps == 600
    train("ppo", "pendulum", seeds=1, steps=599, episodes=1, options={"n_steps": 100}, out="less")
    assert library[1].updates == 5 and library[1].steps == 600  # the last of them unseen
    assert [row["step"] for row in read_lines("less/episodes.jsonl")] == [200, 400]
    assert [row["step"] for row in read_lines("less/evaluations.jsonl")][-2:] == [59 * 10, 599]


def test_episodes_start_where_those_of_our_own_online_runs_do(library):
    train("ddpg", "pendulum", seeds=[7], steps=450, episodes=1, out="run")
    ours = types.SimpleNamespace(
        members=[{"seed": 7}], episode=np.array([-1]), envs=[make_one(TASKS["pendulum"])]
    )
    ours.obs, ours.total, ours.length = np.zeros((1, 3), np.float32), np.zeros(1), np.zeros(1, np.int64)
    for obs in library[0].first:
        Simulator.reset(ours, 0)  # pyright: ignore[reportArgumentType]
        np.testing.assert_array_equal(obs, ours.obs[0])
    assert len(library[0].first) == 3


def test_a_seed_that_diverges_is_told_and_the_status_is_3(library, capsys):
    argv = ["train", "ddpg", "--task", "pendulum", "--seeds", "1", "--steps", "500", "--episodes", "1"]
    assert main([*argv, "--set", "learning_rate=10", "--out", "run"]) == 3
    said = capsys.readouterr()
    assert "seed-0 diverged at step 251: its action is not finite" in said.err
    assert "diverged at step 251 (action)" in said.out
    result = Result.read("run")
    assert result.score is None and result.steps == 251
    assert read_lines("run/evaluations.jsonl")[-1]["step"] == 250


def test_they_are_listed_under_ours(capsys, document):
    assert main(["algos"]) == 0
    last = capsys.readouterr().out.splitlines()[-2:]
    assert [line.split()[0] for line in last] == ["ddpg", "ppo"] and "leashrl[peers]" in last[0]
    extra = [row["name"] for row in document("algos")["algorithms"] if "extra" in row]
    assert extra == list(PEERS)
    assert main(["algos", "ppo"]) == 0
    assert "clip_range     0.2" in capsys.readouterr().out
    options = document("algos", "ppo")["algorithm"]["options"]
    assert {"name": "hidden", "default": [256, 256]} in options


# --- Bad input ---------------------------------------------------------------

RUN = "--task pendulum --seeds 1 --steps 300 --episodes 1 --out run"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("train ddpg --steps 300 --out run", "give --task"),
        ("train ddpg --task none --out run", "give --task"),
        ("train ddpg --task pendulun --out run", "did you mean 'pendulum'"),
        (f"train ppo --data logs.hdf5 {RUN}", "learns online"),
        (f"train ppo {RUN}", "'n_steps', 2048 steps: 300 are too few"),
        (f"train ppo {RUN} --set batch_size=1", "'batch_size' must be at least 2"),
        (f"train ddpg {RUN} --set tua=0.1", "did you mean 'tau'"),
        (f"train ddpg {RUN} --set gamma=2", "'gamma' must be from 0 to 1"),
        (f"train ddpg {RUN} --set batch_size=many", "'batch_size' must be a whole number"),
        (f"train ddpg {RUN} --eval-every 0", "eval_every must be an integer of at least 1"),
        (f"train ddpg {RUN} --vary gamma=0.9,0.99", "no use for --vary"),
        (f"train ddpg {RUN} --preset paper", "no use for --preset"),
        (f"train ddpg {RUN} --track tensorboard", "no use for --track"),
        (f"train ddpg {RUN} --snapshots", "no use for --snapshots"),
        (f"train ddpg {RUN} --log-every 5", "no use for --log-every"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(argv, says, library, refused):
    assert says in refused(*argv.split())
    assert not Path("run").exists() and not library


def test_without_the_extra(monkeypatch, tmp_path, refused):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    assert "pip install 'leashrl[peers]'" in refused(*f"train ddpg {RUN}".split())
    assert not Path("run").exists()


def test_a_finished_run_is_neither_resumed_nor_evaluated_nor_lost(library, refused, cli):
    cli(*f"train ddpg {RUN}".split())
    assert "leaves no checkpoint and no policy" in refused("resume", "run")
    assert "leaves no checkpoint and no policy" in refused("eval", "run")
    assert "holds a run" in refused(*f"train ddpg {RUN}".split())
    assert main(f"train ddpg {RUN} --overwrite".split()) == 0


def test_ctrl_c_keeps_what_was_written(library, capsys, monkeypatch):
    monkeypatch.setattr(StandIn, "predict", lambda *args, **given: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(f"train ddpg {RUN} --eval-every 250".split()) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "leashrl: interrupted: 'run' keeps what was written, --overwrite starts it again"
    assert [row["step"] for row in read_lines("run/episodes.jsonl")] == [200]
    assert not Path("run/result.json").exists() and not Path("run/.lock").exists()


# --- The library itself ------------------------------------------------------


# torch brings gigabytes of CUDA and is in no lock file, so CI has a stand-in alone: run this where the extra
# `peers` is installed.
@pytest.mark.skipif(not REAL, reason="needs the extra `peers`")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", PEERS)
def test_the_library_itself(name, tmp_path):
    options = {"hidden": (16,), "batch_size": 32} | ({"n_steps": 128} if name == "ppo" else {})
    run = lambda out, **given: train(
        name, "pendulum", seeds=[4], steps=500, episodes=2, options=options, out=tmp_path / out, **given
    )
    run("often", eval_every=50), run("once", eval_every=500)
    # looking at a policy changes nothing of its training, and the same seed gives the same run
    often, once = (read_lines(str(tmp_path / out / "episodes.jsonl")) for out in ("often", "once"))
    assert often == once and [row["step"] for row in once] == [200, 400]
    last = [read_lines(str(tmp_path / out / "evaluations.jsonl"))[-1] for out in ("often", "once")]
    assert last[0] == last[1] and last[0]["returns"] != pytest.approx(nothing_done(2))
    broken = train(
        name,
        "pendulum",
        seeds=1,
        steps=500,
        episodes=1,
        out=tmp_path / "broken",
        options=options | {"learning_rate": 1e30},
    )
    assert broken.diverged == ["seed-0"]
