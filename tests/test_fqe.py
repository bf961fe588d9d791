"""FQE finds values known in closed form, never trains on what it holds out, and says what it cannot do."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import leashrl
from leashrl.choosing import fits as fitting
from leashrl.cli import main
from leashrl.data import Dataset, convert, make
from leashrl.errors import BadInput
from leashrl.evaluate import fqe as estimator
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

    rows = fitting.judge(found, data, asked, actions, estimator.bounds(data, 0.9))
    assert [row["rank"] for row in rows[1:]] == [3, 1, 4, 2]
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    assert not any("extrapolates" in flag for row in rows for flag in row["flags"])
    assert all(row["strange"] < 0.3 for row in rows)  # random actions are everywhere


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
    flag = lambda **row: estimator.flags(fine | row, (0.0, 10.0), 2.0)
    assert flag() == []
    assert flag(value=11.0) == ["extrapolates: no rewards of the data add up to this value"]
    assert flag(beyond=0.25) == ["extrapolates: 25% of its Q beyond what the data's rewards allow"]
    assert flag(drift=-0.5) == ["still moving: -0.5 in the last fifth"]
    assert flag(error=2.0)[0].startswith("over-fitted")
    assert flag(strange=0.6) == ["off the data: 60% of its actions far from any that was logged"]


def test_possible_values_know_that_an_ended_episode_pays_nothing():
    paid = lambda terminal: Dataset.from_arrays(
        [[0.0]] * 4, [[0.0]] * 4, [-3.0, -1.0, -2.0, -1.0], terminal, timeout=[0, 0, 0, 1], action_space=UNIT
    )
    assert estimator.bounds(paid([0, 0, 0, 0]), 0.5) == (-6.0, -2.0)
    assert estimator.bounds(paid([0, 1, 0, 0]), 0.5) == (-6.0, 0.0)


def test_an_interval_holds_seeds_and_episodes():
    """Two seeds that are 10 apart, episodes that are alike: half of the draws are the mean of both."""
    found = estimator.resample(np.array([[[0.0] * 50, [10.0] * 50], [[4.0] * 50, [4.0] * 50]]))
    of = lambda i: [found[name][i] for name in ("mean", "low", "high")]
    assert of(0) == pytest.approx([5.0, 0.0, 10.0]) and of(1) == pytest.approx([4.0, 4.0, 4.0])
    assert (found["rank_low"][0], found["rank_high"][0]) == (1, 2)
    # many episodes of one seed: the interval is the mean's normal one, 1.96 standard errors to each side
    values = np.random.default_rng(0).normal(size=(1, 1, 400))
    found = estimator.resample(values)
    width = 2 * 1.96 * values.std() / 20
    assert found["high"][0] - found["low"][0] == pytest.approx(width, rel=0.1)


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
def cli(home, monkeypatch, capsys):
    """Run `leashrl fqe ...` in `home`; gives (stdout, stderr) once the exit status is as expected."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("LEASHRL_CACHE", str(home / "cache"))

    def run(*argv: str, status: int = 0) -> tuple[str, str]:
        capsys.readouterr()
        assert main(["fqe", *argv]) == status
        said = capsys.readouterr()
        return said.out, said.err

    return run


def test_two_controllers_are_put_in_order(cli, home):
    """By arrays in memory, the data are given; the good one's value is the closed form's."""
    options = ["--gamma", "0.9", "--steps", "2500", "--seeds", "1", "--set", "hidden=32,32", "batch_size=128"]
    more = ["critic_rate=3e-3", "polyak=0.05"]
    out, _ = cli("bad", "good", "--data", "data.hdf5", *options, *more, "--json", "--out", "found.json")
    found = json.loads(out)
    assert found == json.loads((home / "found.json").read_text())
    first, second = found["policies"]
    assert (first["folder"], second["folder"]) == ("good", "bad")
    assert (first["rank"], second["rank"]) == (1, 2) and first["low"] > second["high"]
    data = linear()
    squares = float((data.obs[estimator.split(data).held_starts] ** 2).mean())
    assert first["value"] == pytest.approx(linear_value(-1.0) * squares, rel=0.15)  # clones are not exact
    assert second["value"] == pytest.approx(linear_value(1.0) * squares, rel=0.15)
    assert found["data"]["episodes"] == {"held_out": 20, "trained_on": 80}
    assert found["data"]["hash"] and found["versions"]["jax"] and found["config"]["gamma"] == 0.9
    assert found["data"]["off"] is None
    assert "exists already" in cli("bad", "--data", "data.hdf5", "--out", "found.json", status=2)[1]


def test_the_table_is_for_people(cli):
    out, _ = cli("swing", "--snapshots", *TINY, "--steps", "20")
    assert "not returns, and not scores" in out
    names = [f"swing/snapshots/step-00000000{step} seed-{seed}" for step in (10, 20) for seed in (0, 1)]
    assert all(out.count(name) == 1 for name in names)
    assert "the data's behaviour, as logged" in out


def test_modes_and_copies(cli, home):
    shutil.copytree(home / "swing" / "policy", home / "copy", dirs_exist_ok=True)
    values = {}
    for mode in ("mean", "sample"):
        out, _ = cli("copy", "--data", "pendulum.hdf5", "--mode", mode, *TINY, "--json")
        values[mode] = json.loads(out)["policies"][0]["value"]
        assert json.loads(out)["mode"] == mode
    assert values["mean"] != values["sample"]
    assert "no mode 'best'" in cli("swing", "--mode", "best", *TINY, status=2)[1]


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
        (["swing", "--held-out", "100"], "below 100"),
        (["swing", "--out", "here.txt"], "name the file here.txt.json"),
        (["swing", "--out", "no/such/here.json"], "cannot write into 'no/such'"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(cli, home, argv, says):
    shutil.copytree(home / "swing" / "policy", home / "copy", dirs_exist_ok=True)
    _, err = cli(*argv, status=2)
    assert re.search(says, err) and err.count("\n") == 1
