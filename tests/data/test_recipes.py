"""Recipes: the same bits from the same seed, true to gymnasium's dynamics, as good as they claim."""

import math

import gymnasium
import h5py
import numpy as np
import pytest

from leashrl.data import RECIPES, check, load, make, pendulum, sources
from leashrl.errors import BadInput
from leashrl.types import Box


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LEASHRL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("kind", pendulum.KINDS)
def test_every_row_is_a_step_of_gymnasiums_pendulum(kind):
    rows = pendulum.pendulum(kind, 600, 3)
    env = gymnasium.make("Pendulum-v1").unwrapped
    env.reset(seed=0)
    for obs, action, reward, after in zip(
        *(rows[k].astype(np.float64) for k in ("observations", "actions", "rewards", "next_observations")),
        strict=True,
    ):
        env.state = np.array([math.atan2(obs[1], obs[0]), obs[2]])
        expected, cost, terminated, truncated, _ = env.step(action)
        assert not terminated and not truncated
        np.testing.assert_allclose(after, expected, atol=1e-5)
        assert abs(cost - reward) < 1e-5
    env.close()


def test_a_whole_episode_follows_gymnasiums(cache):
    """Free-running, hanging down, where small errors do not grow."""
    env = gymnasium.make("Pendulum-v1").unwrapped
    env.reset(seed=0)
    env.state = np.array([math.pi - 0.5, 0.3])
    theta, speed = np.array([math.pi - 0.5]), np.array([0.3])
    for t in range(200):
        torque = math.sin(t / 7) / 10
        obs, cost, *_ = env.step(np.array([torque]))
        theta, speed, reward = pendulum.step(theta, speed, np.array([torque]))
        np.testing.assert_allclose(pendulum.observe(theta, speed)[0], obs, atol=1e-5)
        assert abs(reward[0] - cost) < 1e-5
    env.close()


def test_own_sine_and_cosine():
    angle = np.linspace(-4, 4, 10_001)
    sin, cos = pendulum.sin_cos(angle)
    np.testing.assert_allclose(sin, np.sin(angle), atol=3e-15)
    np.testing.assert_allclose(cos, np.cos(angle), atol=3e-15)
    assert pendulum.wrap(np.array([np.pi, -np.pi, 7.0])).tolist() == [-np.pi, -np.pi, 7.0 - 2 * np.pi]


def test_bell_noise_has_mean_zero_and_variance_one():
    noise = pendulum.Random(0).bell(100_000)
    assert abs(noise.mean()) < 5 / math.sqrt(100_000)
    assert abs(noise.std() - 1) < 0.02 and np.abs(noise).max() <= 6


def returns(kind):
    return pendulum.pendulum(kind, 40_000, 1)["rewards"].reshape(-1, 200).sum(1, dtype=np.float64)


def test_the_kinds_are_as_good_as_they_claim():
    random, medium, expert, mixed, replay = (returns(kind).mean() for kind in pendulum.KINDS)
    # Uniform torque on Pendulum-v1 is known for about -1200, a good policy for about -150.
    assert -1350 < random < -1100
    assert -190 < expert < -130
    assert abs(medium - (random + expert) / 2) < 100
    assert abs(mixed - (medium + expert) / 2) < 30
    assert random < replay < medium
    first, last = np.array_split(returns("medium-replay"), 4)[::3]
    assert last.mean() - first.mean() > 200


def test_cloning_medium_gains_nothing_though_better_actions_are_in_it():
    """Its noise-free controller, which is what cloning finds, does no better than the data."""
    theta = np.linspace(-np.pi, np.pi, 200, endpoint=False)
    speed, total = np.linspace(-1, 1, 200), np.zeros(200)
    for _ in range(200):
        torque = pendulum.controller(theta, speed, kp=3.0, kd=0.3)
        theta, speed, reward = pendulum.step(theta, speed, torque)
        total += reward
    assert abs(total.mean() - returns("medium").mean()) < 60
    # The noise covers the torques: near the top, each tenth of the range holds actions.
    rows = pendulum.pendulum("medium", 40_000, 1)
    top = rows["actions"][(rows["observations"][:, 0] > 0.9) & (np.abs(rows["observations"][:, 2]) < 2), 0]
    assert np.histogram(top, 10, (-2, 2))[0].min() > 50


@pytest.mark.parametrize("steps", [2, 199, 200, 401])
@pytest.mark.parametrize("kind", ["medium", "medium-expert"])
def test_any_number_of_steps(tmp_path, kind, steps):
    path = make(f"pendulum-{kind}", tmp_path / "x.hdf5", steps=steps, seed=7)
    data = load(path)
    assert len(data) == steps and data.timeout is not None and data.timeout[-1] and not data.terminal.any()
    assert max(part.stop - part.start for part in data.episodes()) <= 200
    inside = ~data.ends[:-1]
    np.testing.assert_array_equal(data.next_obs[:-1][inside], data.obs[1:][inside])
    assert data.action_space == Box((-2.0,), (2.0,)) and data.max_episode_steps == 200


@pytest.mark.parametrize("name", [f"pendulum-{kind}" for kind in pendulum.KINDS])
def test_a_file_holds_all_that_it_should(tmp_path, name):
    path = make(name, tmp_path / "x.hdf5", steps=3000)
    assert check(path) == []
    data = load(path)
    assert data.obs.shape == (3000, 3) and data.action.shape == (3000, 1)
    assert RECIPES[name].task == "pendulum"
    extras = {key: value.item() for key, value in data.extras.items()}
    assert extras.pop("metadata/numpy") == np.__version__.encode()
    assert extras == {
        "metadata/recipe": name.encode(),
        "metadata/seed": 0,
        "metadata/steps": 3000,
        "metadata/version": RECIPES[name].version,
    }


def test_same_seed_same_bits_other_seed_other_bits(tmp_path):
    a = load(make("pendulum-medium", tmp_path / "a.hdf5", steps=1000, seed=1)).hash
    b = load(make("pendulum-medium", tmp_path / "b.hdf5", steps=1000, seed=1)).hash
    c = load(make("pendulum-medium", tmp_path / "c.hdf5", steps=1000, seed=2)).hash
    assert a == b != c


def test_the_cache_is_checked_on_reuse(cache):
    path = make("pendulum-expert", steps=400)
    assert path.parent == cache and path.with_suffix(".hdf5.sha256").read_text().split()[1] == path.name
    whole, when = load(path).hash, path.stat().st_mtime_ns
    assert make("pendulum-expert", steps=400) == path and path.stat().st_mtime_ns == when
    assert make("pendulum-expert", steps=400, seed=1) != path

    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    assert load(make("pendulum-expert", steps=400)).hash == whole
    path.with_suffix(".hdf5.sha256").write_text("")
    assert load(make("pendulum-expert", steps=400)).hash == whole
    path.unlink()
    assert load(make("pendulum-expert", steps=400)).hash == whole
    assert len(list(cache.iterdir())) == 4  # two files and their notes, nothing temporary


def test_load_makes_a_recipe(cache):
    data = load("pendulum-random")
    assert data.name == "pendulum-random" and len(data) == 50_000 and len(data.episodes()) == 250
    assert len(list(cache.iterdir())) == 2


def test_refusals(tmp_path):
    for words, args in [
        ("did you mean 'pendulum-medium'", {"recipe": "pendulum-medum"}),
        ("2 or more, not 1", {"steps": 1}),
        ("whole number of steps", {"steps": 10.5}),
        ("seed is in", {"seed": -1}),
        ("name the file x.npz.hdf5", {"out": tmp_path / "x.npz"}),
        ("no recipe made it", {"out": tmp_path / "mine.hdf5"}),
        ("cannot write", {"out": tmp_path / "file" / "x.hdf5"}),
    ]:
        (tmp_path / "file").write_text("x")
        with h5py.File(tmp_path / "mine.hdf5", "w") as file:
            file["observations"] = 1
        with pytest.raises(BadInput, match=words) as caught:
            make(**{"recipe": "pendulum-random", "steps": 10, **args})
        assert "\n" not in str(caught.value)
    path = make("pendulum-random", tmp_path / "own.hdf5", steps=10)
    assert len(load(make("pendulum-random", path, steps=20))) == 20  # a recipe's own file is replaced


def test_a_recipe_that_takes_long_says_so_once(tmp_path, monkeypatch, caplog):
    """By its name it is made within `load`, and a silent command seems to hang."""
    file = make("pendulum-medium", tmp_path / "made.hdf5", steps=50)

    def slow(recipe, *, report):
        report(10)
        report(50)
        return file

    monkeypatch.setattr(sources, "make", slow)
    assert len(load("pendulum-medium")) == 50
    (record,) = caplog.records
    assert "making pendulum-medium, once" in record.getMessage()
    monkeypatch.setattr(sources, "make", lambda recipe, *, report: file)  # it is in the cache
    load("pendulum-medium")
    assert len(caplog.records) == 1
