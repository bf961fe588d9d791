"""`leashrl mi` and `evaluate.information`: channels of known information, and what leaves it unchanged."""

import json
import math

import numpy as np
import pytest

from leashrl.cli import main
from leashrl.data import make
from leashrl.data.dataset import Dataset
from leashrl.evaluate.folds import choose, pieces, split, spread
from leashrl.evaluate.information import bounds, information, meaning
from leashrl.types import Box, Discrete

N, STEPS = 4000, 200
SPACE = Box((-10.0,), (10.0,))


def dataset(obs, action, space=SPACE, length=50) -> Dataset:
    """Rows as episodes of one length."""
    n = len(obs)
    ends = np.arange(n) % length == length - 1
    return Dataset.from_arrays(obs, action, np.zeros(n), ends, action_space=space)


def gaussian(nats: float, n: int = N, seed: int = 0):
    """A = r S + sqrt(1 - r^2) noise, of which I(S;A) = -log(1 - r^2) / 2."""
    rng = np.random.default_rng(seed)
    r = math.sqrt(1 - math.exp(-2 * nats))
    obs = rng.standard_normal((n, 1))
    return obs, r * obs + math.sqrt(1 - r * r) * rng.standard_normal((n, 1))


# --- Known information -------------------------------------------------------


@pytest.mark.parametrize("nats", [0.0, 0.5, 2.0])
def test_gaussian_channels(nats):
    found = information(dataset(*gaussian(nats)), steps=STEPS)
    for name in ("misa", "dv", "f", "ba"):
        assert found[name]["estimate"] == pytest.approx(nats, abs=0.02 + 0.05 * nats)
        assert found[name]["low"] <= found[name]["estimate"] <= found[name]["high"]
    assert found["dimensions"][0]["estimate"] == pytest.approx(nats, abs=0.02 + 0.05 * nats)
    assert found["f"]["estimate"] <= found["dv"]["estimate"] + 1e-9
    assert found["ceiling"] == pytest.approx(math.log(N / 3), abs=0.05)


def test_information_that_no_linear_channel_has():
    """A = S^2 up to noise, in one of two dimensions: S and A are uncorrelated, the other is noise."""
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, (N, 1))
    action = np.concatenate([obs**2 + rng.uniform(-0.1, 0.1, (N, 1)), rng.uniform(-1, 1, (N, 1))], axis=1)
    found = information(dataset(obs, action, Box((-2.0,) * 2, (2.0,) * 2)), steps=1000)
    # H(A) - log(0.2) by numerical integration of the density of S^2 + noise, (sqrt(a+.1) - sqrt(a-.1)) / 0.2
    a = np.linspace(-0.1, 1.1, 1_200_001)
    root = lambda x: np.sqrt(np.clip(x, 0, 1))
    p = (root(a + 0.1) - root(a - 0.1)) / 0.2
    truth = -np.sum(p * np.log(np.where(p > 0, p, 1))) * (a[1] - a[0]) - math.log(0.2)
    assert 0.8 * truth < found["misa"]["estimate"] < truth + 0.03
    assert 0.8 * truth < found["dimensions"][0]["estimate"] < truth + 0.03
    assert found["dimensions"][1]["estimate"] == pytest.approx(0.0, abs=0.02)


def test_discrete_actions():
    """Two signs as state, the action follows with probability 0.9: log 2 - h(0.1) = 0.3681 nats."""
    rng = np.random.default_rng(0)
    sign = rng.integers(0, 2, N)
    action = np.where(rng.random(N) < 0.9, sign, 1 - sign)
    found = information(dataset(sign[:, None].astype(float), action, Discrete(2)), steps=STEPS)
    truth = math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1)
    for name in ("misa", "dv", "f", "ba"):
        assert found[name]["estimate"] == pytest.approx(truth, abs=0.03)
    assert found["entropy"] == pytest.approx(math.log(2), abs=1e-3)
    assert found["dimensions"] == []
    assert "53% of the 0.69 nats" in meaning(found | {"misa": {"estimate": truth, "low": 0.3, "high": 0.4}})


def test_clipped_actions():
    """Actions of -1 and 1 only, as a box's corners: the same channel as of discrete actions."""
    rng = np.random.default_rng(1)
    sign = rng.choice([-1.0, 1.0], (N, 1))
    action = np.where(rng.random((N, 1)) < 0.9, sign, -sign)
    found = information(dataset(sign, action, Box((-1.0,), (1.0,))), steps=400)
    assert found["misa"]["estimate"] == pytest.approx(0.3681, abs=0.04)


# --- What leaves it unchanged, and what takes it away ------------------------


def test_units_do_not_matter():
    obs, action = gaussian(0.5, n=1200)
    plain = information(dataset(obs, action), steps=100)
    other = information(
        dataset(1024 * obs + 4096, 4 * action + 8, Box((-32.0,), (48.0,)), length=50), steps=100
    )
    for name in ("misa", "dv", "f", "ba"):
        assert other[name]["estimate"] == pytest.approx(plain[name]["estimate"], abs=5e-3)


def test_shuffled_actions_tell_nothing():
    obs, action = gaussian(2.0, seed=3)
    found = information(dataset(obs, np.random.default_rng(0).permutation(action)), steps=STEPS)
    for name in ("misa", "dv", "f", "ba"):
        assert found[name]["low"] - 0.005 <= 0 and abs(found[name]["estimate"]) < 0.01
    assert meaning(found).startswith("The actions hardly depend on the states")


def test_constants_tell_nothing():
    obs = np.concatenate([np.random.default_rng(0).standard_normal((600, 1)), np.ones((600, 1))], axis=1)
    found = information(dataset(obs, np.zeros((600, 1))), steps=100)
    assert abs(found["misa"]["estimate"]) < 0.02


def test_a_function_of_the_states_reaches_for_the_ceiling():
    obs = np.random.default_rng(0).standard_normal((1200, 1))
    found = information(dataset(obs, obs), steps=100)
    assert found["ceiling"] - 1 < found["misa"]["estimate"] <= found["ceiling"]
    assert meaning(found).startswith("The actions are nearly a function of the states")


# --- Parts -------------------------------------------------------------------


def test_bounds_by_hand():
    """Two rows: misa 1 and 3, ba 0 and 1, T' 1 and 2 against log-means 0 and log 3 (dv), 0 and 0 (f)."""
    sums = np.array([2.0, 4.0, 1.0, 3.0, 1.0 + 3.0, 3.0, 2.0])
    assert bounds(sums).tolist() == pytest.approx([2.0, 1.5 - math.log(2.0), 1.5 + 1 - 1.0, 0.5])


def test_folds_hold_whole_episodes():
    data = dataset(*gaussian(0.5, n=1000), length=20)
    rng = np.random.default_rng(0)
    blocks = choose(pieces(data), 10**6, rng)
    folds, owners = split(data, blocks, rng)
    rows = np.concatenate(blocks)
    for k in range(3):
        train = np.asarray(folds.train[k])[: int(folds.count[k])]
        episodes = [set(rows[np.asarray(part)] // 20) for part in (train, folds.valid[k], folds.test[k])]
        assert len(set.union(*episodes)) == sum(map(len, episodes)) == 50
        assert set(owners[k]) == {i for i, b in enumerate(blocks) if b[0] // 20 in episodes[2]}
    assert len(set(np.asarray(folds.test).ravel().tolist())) == 960  # folds of 17, 17 and 16 episodes


def test_one_long_episode_is_cut_and_rows_are_limited():
    data = dataset(*gaussian(0.5, n=1000), length=1000)
    blocks = pieces(data)
    assert len(blocks) == 40 and sorted(np.concatenate(blocks)) == list(range(1000))
    assert sum(map(len, choose(blocks, 410, np.random.default_rng(0)))) == 410


def test_atoms_keep_their_order():
    rng = np.random.default_rng(0)
    column = np.clip(rng.standard_normal(1000), -1, 1)
    wide = spread(column, rng)
    inside = np.abs(column) < 1
    assert np.all(np.diff(wide[inside][np.argsort(column[inside])]) > 0)
    assert wide[column == -1].max() < wide[inside].min() and wide[inside].max() < wide[column == 1].min()
    assert len(np.unique(wide)) == 1000
    assert np.array_equal(spread(column[inside], rng), column[inside])


# --- The command -------------------------------------------------------------


def test_the_command(tmp_path, capsys):
    file = make("pendulum-medium", tmp_path / "data.hdf5", steps=1000)
    assert main(["mi", str(file), "--steps", "100", "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    for name in ("misa", "dv", "f", "ba"):
        assert set(found[name]) == {"estimate", "low", "high"}
        assert found[name]["low"] <= found[name]["estimate"] <= found[name]["high"]
    assert found["rows"] == 1000 and found["source"] == str(file) and found["meaning"]
    assert "the policy" in said.err
    assert main(["mi", str(file), "--steps", "100", "--rows", "500"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["misa", "dv", "f", "ba"]
    assert any(line.startswith("500 of 1000 rows") for line in lines)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--rows", "10"], "an estimate of I(S;A) needs at least 400 rows: rows=10 is too few"),
        (["--steps", "0"], "steps must be at least 1, not 0"),
        (["--stepz", "3"], "`leashrl mi` has no option '--stepz': did you mean '--steps'?"),
        ([], "an estimate of I(S;A) needs at least 400 rows: small has 200"),
    ],
)
def test_bad_input(tmp_path, capsys, options, line):
    file = make("pendulum-medium", tmp_path / "small.hdf5", steps=200)
    assert main(["mi", str(file), *options]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(f"leashrl: error: {line}") and said.err.count("\n") == 1
