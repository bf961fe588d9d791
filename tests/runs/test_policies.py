"""A policy read back acts as arithmetic by hand says, and scores as a plain loop over episodes does."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import leashrl
from leashrl.errors import BadInput
from leashrl.tasks import TASKS
from leashrl.tasks.making import env_seed
from support.files import edited


@pytest.fixture(scope="module")
def runs(tmp_path_factory, pendulum) -> Path:
    """Two short runs on the pendulum, `gaussian` and `deterministic`, two seeds each."""
    folder = tmp_path_factory.mktemp("policies")
    shutil.copy(pendulum, folder)
    for preset, name in (("default", "gaussian"), ("deterministic", "deterministic")):
        leashrl.train(
            "bc",
            folder / "data.hdf5",
            task="pendulum",
            preset=preset,
            options={"hidden": (8, 8), "batch_size": 16},
            seeds=2,
            steps=50,
            eval_every=50,
            episodes=1,
            out=folder / name,
        )
    return folder


def forward(path: Path, obs: np.ndarray) -> np.ndarray:
    """Torques of a saved network by numpy, in float64."""
    w = {name: x.astype(np.float64) for name, x in load_file(path).items()}
    x = (obs - w["obs_mean"]) / w["obs_std"]
    for i in range(2):
        x = np.maximum(x @ w[f"params/hidden/{i}/kernel"] + w[f"params/hidden/{i}/bias"], 0)
    out = x @ w["params/out/kernel"] + w["params/out/bias"]
    return 2 * np.tanh(out[..., :1])  # the torque's bounds are -2 and 2; a mean stands before its spread


OBS = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 8.0], [0.6, -0.8, -3.0]])


@pytest.mark.slow
@pytest.mark.parametrize("run", ["gaussian", "deterministic"])
@pytest.mark.parametrize("member", ["seed-0", "seed-1"])
def test_actions_are_those_of_the_network_by_hand(run, member, runs):
    policy = leashrl.load_policy(runs / run, member)
    by_hand = forward(runs / run / "policy" / f"{member}.safetensors", OBS)
    assert policy(OBS).shape == (3, 1) and policy(OBS).dtype == np.float32
    np.testing.assert_allclose(policy(OBS), by_hand, atol=1e-5)
    assert policy(OBS[1]).shape == (1,)
    np.testing.assert_allclose(policy(OBS[1]), by_hand[1], atol=1e-5)


def test_samples_are_drawn_by_seed_and_within_bounds(runs):
    policy = leashrl.load_policy(runs / "gaussian")
    assert policy.modes == ("mean", "sample")
    rows = np.repeat(OBS[:1], 500, axis=0)
    drawn = policy(rows, mode="sample", seed=3)
    assert np.array_equal(drawn, policy(rows, mode="sample", seed=3))
    assert not np.array_equal(drawn, policy(rows, mode="sample", seed=4))
    assert len(np.unique(drawn)) > 400 and np.abs(drawn).max() <= 2
    # tanh is monotonic: the median action is the action of the median, 2 tanh(mean)
    assert np.median(drawn) == pytest.approx(float(policy(OBS[0])[0]), abs=0.15)


def test_scores_are_those_of_a_plain_loop(runs):
    """The same episodes stepped one by one with gymnasium and the network by hand."""
    import gymnasium

    env = gymnasium.make("Pendulum-v1")
    returns = []
    for episode in range(2):
        obs, total, done = env.reset(seed=env_seed(7, episode))[0], 0.0, False
        while not done:
            action = forward(runs / "gaussian" / "policy" / "seed-1.safetensors", obs)
            obs, reward, terminated, truncated, _ = env.step(action.astype(np.float32))
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    env.close()
    found = leashrl.evaluate_run(runs / "gaussian", episodes=2, seed=7)
    assert [m.name for m in found.members] == ["seed-0", "seed-1"]
    assert found.members[1].returns == pytest.approx(returns, rel=1e-3)
    assert found.members[1].lengths == (200, 200)
    score = 100 * (np.mean(returns) + 1228.7) / (1228.7 - 150)
    assert found.members[1].score == pytest.approx(score, abs=0.1)
    assert found.score.mean == pytest.approx(np.mean([m.score for m in found.members]))
    row = found.to_json()["members"][1]
    assert list(row) == ["name", "return", "score", "returns", "lengths"] and row["lengths"] == [200, 200]
    alone = leashrl.load_policy(runs / "gaussian", "seed-1").evaluate(episodes=2, seed=7)
    assert alone.returns == pytest.approx(returns, rel=1e-3)


@pytest.mark.slow
def test_an_episode_remembers(runs):
    """A Decision Transformer stepped by hand through an episode returns what its evaluation does."""
    import gymnasium

    small = {"context": 4, "width": 8, "layers": 1, "max_steps": 200, "targets": (200, 100)}
    data, out = runs / "data.hdf5", runs / "dt"
    leashrl.train("dt", data, task="pendulum", options=small, steps=20, episodes=1, eval_every=20, out=out)
    found = leashrl.evaluate_run(out, episodes=1, seed=7, mode="return-100").members[0]
    policy = leashrl.load_policy(out)
    assert policy.modes == ("return-200", "return-100")
    env = gymnasium.make("Pendulum-v1")
    obs, paid, rewards, done = env.reset(seed=env_seed(7, 0))[0], 0.0, [], False
    act, forgetful = policy.episode(mode="return-100"), []
    while not done:
        action = act(obs, paid)
        forgetful.append(np.allclose(action, policy(obs, mode="return-100"), atol=1e-6))
        obs, paid, terminated, truncated, _ = env.step(action)
        rewards.append(paid)
        done = terminated or truncated
    env.close()
    assert sum(rewards) == pytest.approx(found.mean_return, rel=1e-3)
    assert forgetful[0] and sum(forgetful) < 20
    with pytest.raises(BadInput, match="no mode 'mean'"):
        policy.episode(mode="mean")
    with pytest.raises(BadInput, match="one observation a step"):
        policy.episode()(OBS)


def test_an_episode_draws_by_its_seed(runs):
    policy = leashrl.load_policy(runs / "gaussian")
    first, again, other = (policy.episode(mode="sample", seed=seed) for seed in (1, 1, 2))
    ours = [first(OBS[0]) for _ in range(3)]
    assert len({float(x[0]) for x in ours}) == 3
    np.testing.assert_array_equal(ours, [again(OBS[0]) for _ in range(3)])
    assert not np.array_equal(ours[0], other(OBS[0]))
    np.testing.assert_array_equal(policy.episode()(OBS[0]), policy(OBS[0]))


def test_a_seed_of_zero_repeats_the_runs_own_evaluation(runs):
    last = [json.loads(x) for x in (runs / "gaussian" / "evaluations.jsonl").read_text().splitlines()][-2:]
    found = leashrl.evaluate_run(runs / "gaussian", episodes=1, seed=0)
    assert [list(m.returns) for m in found.members] == [row["returns"] for row in last]


def test_the_policy_folder_is_whole_by_itself(runs, tmp_path):
    shutil.copytree(runs / "gaussian" / "policy", tmp_path / "copy")
    here, there = leashrl.load_policy(tmp_path / "copy"), leashrl.load_policy(runs / "gaussian")
    assert np.array_equal(here(OBS), there(OBS))
    assert here.task == "pendulum" and here.name == "seed-0" and here.spec.action.high == (2.0,)
    assert leashrl.evaluate_run(tmp_path / "copy", episodes=1).task == "pendulum"


def test_a_member_that_diverged_is_left_out(runs, tmp_path):
    shutil.copytree(runs / "gaussian" / "policy", tmp_path / "policy")
    path = tmp_path / "policy" / "policy.json"
    with edited(path) as policy:
        policy["diverged"] = ["seed-0"]
    assert leashrl.load_policy(tmp_path).name == "seed-1"
    assert leashrl.load_policy(tmp_path, "seed-0").name == "seed-0"  # for who insists
    found = leashrl.evaluate_run(tmp_path, episodes=1)
    assert [m.name for m in found.members] == ["seed-1"] and found.diverged == ("seed-0",)
    with edited(path) as policy:
        policy["diverged"] = ["seed-0", "seed-1"]
    for read in (leashrl.load_policy, leashrl.evaluate_run):
        with pytest.raises(BadInput, match="every member"):
            read(tmp_path)


def test_an_unknown_member_mode_or_task(runs):
    with pytest.raises(BadInput, match="did you mean 'seed-1'"):
        leashrl.load_policy(runs / "gaussian", "sed-1")
    policy = leashrl.load_policy(runs / "gaussian")
    with pytest.raises(BadInput, match="did you mean 'sample'"):
        policy(OBS, mode="sampel")
    with pytest.raises(BadInput, match="did you mean 'pendulum'"):
        policy.evaluate("pendulm")
    with pytest.raises(BadInput, match="'hopper'"):
        policy.evaluate("hopper")
    assert "hopper" in TASKS


@pytest.mark.parametrize(
    ("obs", "words"),
    [
        (np.zeros(4), r"\(3,\) or \(n, 3\)"),
        (np.zeros((2, 2, 3)), r"\(3,\) or \(n, 3\)"),
        (1.0, r"\(3,\) or \(n, 3\)"),
        ([[0, 0, 0], [0, np.nan, 0]], "observation 1 is not finite"),
        ("cos sin speed", "must be numbers"),
        ([[1], [1, 2]], "must be numbers"),
    ],
)
def test_bad_observations(obs, words, runs):
    with pytest.raises(BadInput, match=words):
        leashrl.load_policy(runs / "gaussian")(obs)


# --- The package's own names -------------------------------------------------


def test_public_names_are_there_and_imported_when_used():
    assert leashrl.train is leashrl.runs.experiment.train
    for name in leashrl.__all__:
        assert getattr(leashrl, name) is not None
        assert name in dir(leashrl)
    assert issubclass(leashrl.BadInput, ValueError)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        leashrl.trian  # noqa: B018


def test_training_does_not_hide_the_function():
    import leashrl.training.loop

    assert callable(leashrl.train) and not hasattr(leashrl.train, "__path__")


# --- Handed about ------------------------------------------------------------


def test_a_policy_can_be_handed_to_a_worker(runs):
    """By pickle, as process pools do; the library itself reads and writes none."""
    policy = leashrl.load_policy(runs / "gaussian", "seed-1")
    other = pickle.loads(pickle.dumps(policy))
    for mode in policy.modes:
        np.testing.assert_array_equal(other(OBS, mode=mode, seed=3), policy(OBS, mode=mode, seed=3))
    assert other.episode(seed=1)(OBS[0]) == policy.episode(seed=1)(OBS[0])
    assert (other.name, other.task, other.spec) == (policy.name, policy.task, policy.spec)


@pytest.mark.parametrize("seed", [-1, 2**32, 1796067217725624932, -(2**70)])
def test_any_whole_number_is_a_seed(seed, runs):
    policy = leashrl.load_policy(runs / "gaussian")
    drawn = policy(OBS, mode="sample", seed=seed)
    np.testing.assert_array_equal(drawn, policy(OBS, mode="sample", seed=seed))
    assert not np.array_equal(drawn, policy(OBS, mode="sample", seed=seed + 1))
    assert np.isfinite(policy.episode(mode="sample", seed=seed)(OBS[0])).all()


def test_64_bit_jax_trains_reads_and_acts_as_32_bit_does(runs, tmp_path):
    """JAX_ENABLE_X64 in the shell: the same files, actions and returns, and either reads the other's."""
    program = f"""
import sys, jax, numpy as np, leashrl
wide, other = jax.config.jax_enable_x64, sys.argv[1]
options = {{"hidden": (8, 8), "batch_size": 16}}
out = str(wide)
leashrl.train("bc", {str(runs / "data.hdf5")!r}, seeds=2, steps=50, options=options, out=out)
for run in (out, other):
    policy = leashrl.load_policy(run)
    print(policy(np.{OBS!r}).tobytes().hex(), policy.episode()(np.{OBS!r}[0]).tobytes().hex())
    print(policy.evaluate("pendulum", episodes=1).returns)
assert jax.config.jax_enable_x64 == wide
"""
    told = []
    for wide, other in (("0", str(runs / "gaussian")), ("1", "False")):
        done = subprocess.run(
            [sys.executable, "-c", program, other], cwd=tmp_path, capture_output=True, text=True,
            env=os.environ | {"JAX_ENABLE_X64": wide}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told.append(done.stdout.splitlines())
    assert told[1][:2] == told[1][2:] == told[0][:2]
    assert told[1][0].split()[0] == leashrl.load_policy(tmp_path / "True")(OBS).tobytes().hex()
    for name in ("seed-0", "seed-1"):
        files = (tmp_path / wide / "policy" / f"{name}.safetensors" for wide in ("True", "False"))
        assert len({file.read_bytes() for file in files}) == 1
