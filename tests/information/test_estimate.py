"""`leashrl mi` and `leashrl.information`: channels of known information, and what leaves it unchanged."""

import json
import math

import numpy as np
import pytest

from leashrl.data import make
from leashrl.data.dataset import Dataset
from leashrl.information import Bound, Information, densities, estimate
from leashrl.information.estimate import block_sums, bounds, information, meaning
from leashrl.information.folds import choose, pieces, split, spread
from leashrl.nn import PRECISIONS, hidden
from leashrl.types import Box, Discrete

N = 1500
SPACE = Box((-10.0,) * 2, (10.0,) * 2)


def dataset(obs, action, space=SPACE, length=50) -> Dataset:
    """Rows as episodes of one length. All tests have two observations and two actions: one compilation."""
    n = len(obs)
    ends = np.arange(n) % length == length - 1
    return Dataset.from_arrays(obs, action, np.zeros(n), ends, action_space=space)


def gaussian(nats: float, seed: int = 0):
    """A_i = r S_i + sqrt(1 - r^2) noise for i = 0, 1, of which I(S;A) = -log(1 - r^2), half of it in each."""
    rng = np.random.default_rng(seed)
    r = math.sqrt(1 - math.exp(-nats))
    obs = rng.standard_normal((N, 2))
    return obs, r * obs + math.sqrt(1 - r * r) * rng.standard_normal((N, 2))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Networks that are large enough for what is asked of them here."""
    monkeypatch.setattr(densities, "HIDDEN", (64, 64))


# --- Known information -------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("nats", [0.0, 0.5, 2.0])
def test_gaussian_channels(nats):
    """Against the mean over the rows of log p(a|s) / p(a), which scatters about the channel's information."""
    obs, action = gaussian(nats)
    left = math.exp(-nats)  # 1 - r^2
    square = (action - math.sqrt(1 - left) * obs) ** 2
    truth = (nats / 2 + action**2 / 2 - square / left / 2).mean(axis=0)
    assert truth.sum() == pytest.approx(nats, abs=0.12)
    found = information(dataset(obs, action), steps=100)
    for name in ("misa", "dv", "f", "ba"):
        bound = getattr(found, name)
        assert bound.estimate == pytest.approx(truth.sum(), abs=0.04 + 0.02 * nats)
        assert bound.low <= bound.estimate <= bound.high
    for i, each in enumerate(found.dimensions):
        assert each.estimate == pytest.approx(truth[i], abs=0.02 + 0.02 * nats)
    assert found.ceiling == math.log(N / 3) and found.entropy is None and "entropy" not in found.to_json()


@pytest.mark.slow
def test_bfloat16_gives_nearly_the_same_bounds(monkeypatch):
    """`auto` takes it where this machine is fast with it and `BFLOAT16` says that it may."""
    obs, action = gaussian(0.5)
    plain = information(dataset(obs, action), steps=100, precision="float32")
    monkeypatch.setattr(hidden, "fast_bfloat16", lambda: True)
    monkeypatch.setattr(estimate, "BFLOAT16", True)
    found = information(dataset(obs, action), steps=100)
    assert (plain.precision, found.precision) == ("float32", "bfloat16")
    for name in ("misa", "dv", "f", "ba"):
        mine, other = getattr(found, name).estimate, getattr(plain, name).estimate
        assert mine != other and mine == pytest.approx(other, abs=0.01)


@pytest.mark.slow
def test_information_that_no_linear_channel_has():
    """A = S^2 up to noise in one of two dimensions, noise in the other: S and A are uncorrelated."""
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, (N, 2))
    square = obs[:, :1] ** 2 + rng.uniform(-0.1, 0.1, (N, 1))
    data = dataset(obs, np.concatenate([square, rng.uniform(-1, 1, (N, 1))], axis=1))
    found = information(data, steps=400)
    # H(A) - log 0.2, with the density of A = S^2 + noise, by a sum: (sqrt(a + 0.1) - sqrt(a - 0.1)) / 0.2
    a = np.linspace(-0.1, 1.1, 1_200_001)
    root = lambda x: np.sqrt(np.clip(x, 0, 1))
    p = (root(a + 0.1) - root(a - 0.1)) / 0.2
    truth = -np.sum(p * np.log(np.where(p > 0, p, 1))) * (a[1] - a[0]) - math.log(0.2)
    assert 0.7 * truth < found.misa.estimate < truth + 0.05
    assert 0.7 * truth < found.dimensions[0].estimate < truth + 0.05
    assert -0.1 < found.dimensions[1].estimate < 0.02  # 1,500 rows are few: bounds fall below


def flipped(seed: int):
    """A fair sign, and one that differs from it in one case of ten: log 2 - h(0.1) = 0.3681 nats."""
    rng = np.random.default_rng(seed)
    sign = rng.choice([-1.0, 1.0], N)
    return sign, np.where(rng.random(N) < 0.9, sign, -sign)


@pytest.mark.slow
def test_discrete_actions():
    sign, action = flipped(0)
    found = information(dataset(np.stack([sign, sign], 1), (action > 0).astype(int), Discrete(2)), steps=100)
    for name in ("misa", "dv", "f", "ba"):
        assert getattr(found, name).estimate == pytest.approx(0.3681, abs=0.04)
    assert found.entropy == pytest.approx(math.log(2), abs=1e-3)
    assert found.dimensions == ()
    assert "of the 0.69 nats of their entropy" in meaning(found)


@pytest.mark.slow
def test_actions_on_their_bounds():
    """The same channel where -1 and 1 are the corners of a box; the second action is always 0."""
    sign, action = flipped(0)
    actions = np.stack([action, np.zeros(N)], 1)
    found = information(dataset(np.stack([sign, sign], 1), actions, Box((-1.0,) * 2, (1.0,) * 2)), steps=300)
    assert found.misa.estimate == pytest.approx(0.3681, abs=0.05)
    assert found.dimensions[1].estimate == pytest.approx(0.0, abs=0.02)


# --- What leaves it unchanged, and what takes it away ------------------------


@pytest.mark.slow
def test_units_do_not_matter():
    obs, action = gaussian(0.5)
    plain = information(dataset(obs, action), steps=100)
    units = Box((-32.0,) * 2, (48.0,) * 2)
    other = information(dataset(1024 * obs + 4096, 4 * action + 8, units), steps=100)
    for name in ("misa", "dv", "f", "ba"):
        assert getattr(other, name).estimate == pytest.approx(getattr(plain, name).estimate, abs=5e-3)


@pytest.mark.slow
def test_shuffled_actions_tell_nothing():
    obs, action = gaussian(2.0, seed=3)
    found = information(dataset(obs, np.random.default_rng(0).permutation(action)), steps=100)
    for name in ("misa", "dv", "f", "ba"):
        assert getattr(found, name).low <= 0 and abs(getattr(found, name).estimate) < 0.02
    assert meaning(found).startswith("The actions hardly depend on the states")


@pytest.mark.slow
def test_constants_tell_nothing():
    obs = gaussian(0.0)[0] * np.array([[1.0, 0.0]])
    found = information(dataset(obs, np.zeros((N, 2))), steps=100)
    assert abs(found.misa.estimate) < 0.02


@pytest.mark.slow
def test_a_function_of_the_states_reaches_for_the_ceiling():
    obs = gaussian(0.0)[0]
    found = information(dataset(obs, obs), steps=100)
    assert found.ceiling - 1 < found.misa.estimate <= found.ceiling
    assert meaning(found).startswith("The actions are nearly a function of the states")


# --- Parts -------------------------------------------------------------------


def test_bounds_by_hand():
    """Rows of two blocks, T' = 1 and 2 against log-means 0 and log 3 in `dv`, 0 and 0 in `f`."""
    scores = {
        "misa": np.array([1.0, 3.0]),
        "dv": np.array([[1.0, 0.0], [2.0, math.log(3.0)]]),
        "f": np.array([[1.0, 0.0], [2.0, 0.0]]),
        "ba": np.array([[0.0, 0.25], [1.0, 0.75]]),
    }
    sums = block_sums(scores, np.array([7, 4]))
    assert sums.shape[0] == 2
    assert bounds(sums.sum(axis=0)).tolist() == pytest.approx([2.0, 1.5 - math.log(2.0), 1.5, 0.5, 0.5])
    assert bounds(sums)[1].tolist() == pytest.approx([1.0, 1.0, 1.0, 0.0, 0.25])
    same = bounds(block_sums(scores | {"f": scores["dv"]}, np.array([7, 4])).sum(axis=0))
    assert same[1] > same[2] == pytest.approx(0.5)  # E[T] - log E[e^T] against E[T] + 1 - E[e^T], of one T


def test_folds_hold_whole_episodes():
    data = dataset(*(x[:1000] for x in gaussian(0.5)), length=20)
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
    data = dataset(*(x[:1000] for x in gaussian(0.5)), length=1000)
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


def test_few_rows_are_said_to_be_few():
    row = Bound(estimate=0.1, low=-0.1, high=0.3)
    rows = {"misa": row, "dv": row, "f": row, "ba": row, "dimensions": (row,)}
    sizes = {"rows": 900, "rows_used": 900, "episodes": 9, "blocks": 9, "folds": 3, "steps": 3000}
    found = Information(**rows, **sizes, ceiling=5.0, seed=0, precision="float32")
    said = meaning(found)
    assert said.startswith("These rows do not tell whether the actions depend on the states: 0.100 nats")
    values = found.to_json()
    assert values["misa"] == {"estimate": 0.1, "low": -0.1, "high": 0.3} == values["dimensions"][0]
    assert list(values) == [*("misa", "dv", "f", "ba", "dimensions", "ceiling"), *sizes, "seed", "precision"]


# --- The command -------------------------------------------------------------


@pytest.mark.slow
def test_the_command(tmp_path, cli):
    file = make("pendulum-medium", tmp_path / "data.hdf5", steps=1000)
    options = ["--steps", "100", "--rows", "500"]
    out, err = cli("mi", str(file), *options, "--json")
    found = json.loads(out)
    for name in ("misa", "dv", "f", "ba"):
        assert set(found[name]) == {"estimate", "low", "high"}
        assert found[name]["low"] <= found[name]["estimate"] <= found[name]["high"]
    assert found["rows"] == 1000 and found["source"] == str(file) and found["meaning"]
    assert "the policy" in err
    lines = cli("mi", str(file), *options)[0].splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["misa", "dv", "f", "ba"]
    (used,) = [line for line in lines if line.startswith("500 of 1000 rows")]
    assert found["precision"] in PRECISIONS and f"; {found['precision']} products; " in used


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--rows", "10"], "an estimate of I(S;A) needs at least 400 rows: rows=10 is too few"),
        (["--steps", "0"], "steps must be at least 1, not 0"),
        (["--precision", "half"], "option 'precision' cannot be 'half': known: auto, bfloat16, float32"),
        (["--stepz", "3"], "`leashrl mi` has no option '--stepz': did you mean '--steps'?"),
        ([], "an estimate of I(S;A) needs at least 400 rows: small has 200"),
    ],
)
def test_bad_input(tmp_path, options, line, refused):
    file = make("pendulum-medium", tmp_path / "small.hdf5", steps=200)
    assert refused("mi", str(file), *options).startswith(f"leashrl: error: {line}")
