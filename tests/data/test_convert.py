"""Conversions: nothing lost, the same hash in any container, nothing half-written."""

import json
import sys

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from leashrl.cli import main
from leashrl.data import Dataset, check, convert, hdf5, load
from leashrl.errors import BadInput
from leashrl.types import Box, Discrete
from support.files import write


@pytest.fixture(autouse=True)
def minari_home(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def contents(path):
    """Every array of an HDF5 file by its path."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
        )
    return found


def same(one, two):
    assert set(one) == set(two)
    for key in one:
        a, b = np.asarray(one[key]), np.asarray(two[key])
        assert (a.dtype, a.shape) == (b.dtype, b.shape), key
        np.testing.assert_array_equal(a, b, err_msg=key)


def base(dtype="f4", n=10):
    random = np.random.Generator(np.random.PCG64(2))
    obs = random.standard_normal((n + 1, 3)).astype(dtype)
    return {
        "observations": obs[:-1],
        "actions": random.uniform(-1, 1, (n, 2)).astype(dtype),
        "rewards": random.standard_normal(n).astype(dtype),
        "terminals": np.arange(n) == 3,
    }


def gym_v2():
    values = base()
    after = np.concatenate([values["observations"][1:], np.ones((1, 3), "f4")])
    after[3] = after[7] = 5  # ends of episodes, where the next row is not the next observation
    return values | {
        "timeouts": np.arange(10) == 7,
        "next_observations": after,
        "infos/qpos": np.arange(20, dtype="f4").reshape(10, 2),
        "infos/deep/log_prob": np.arange(10.0),
        "metadata/algorithm": b"SAC",
        "metadata/iteration": np.int32(7),
        "metadata/policy/fc0/weight": np.ones((4, 3), "f4"),
    }


def kitchen():
    return base() | {"terminals": (np.arange(10) == 3).astype("f4"), "infos": np.arange(10)}


def adroit_cloned():
    values = base("f8")
    return values | {"actions": values["actions"].astype("f4"), "timeouts": np.arange(10) == 9}


def odd_marks():
    """Both flags on one row, some next observations that are not the next rows', an open tail."""
    after = np.roll(base()["observations"], -1, 0)
    after[[1, 3, 6, 9]] = 5
    return base() | {"timeouts": np.arange(10) == 3, "next_observations": after}


FILES = {f.__name__: f for f in (gym_v2, kitchen, adroit_cloned, odd_marks)}


@pytest.mark.parametrize("name", FILES)
def test_a_round_trip_through_every_format_loses_nothing(tmp_path, name):
    source = write(tmp_path / "a.hdf5", FILES[name]())
    convert(source, tmp_path / "b.npz")
    convert(tmp_path / "b.npz", "minari:test/round-v0")
    convert("test/round-v0", tmp_path / "c.h5")
    convert(tmp_path / "c.h5", tmp_path / "d.npz")
    data = load(source)
    for other in ("b.npz", "minari/test/round-v0", "c.h5", "d.npz"):
        again = load(tmp_path / other)
        assert again.hash == data.hash and again.action_space == data.action_space
        assert set(again.extras) == set(data.extras)
    before, after = contents(source), contents(tmp_path / "c.h5")
    if name == "kitchen":  # Minari's flags are bool; the hash above knows no other kind
        before["terminals"] = before["terminals"].astype(bool)
    same(before, after)
    with np.load(tmp_path / "d.npz") as file:
        same(after, {k: file[k] for k in file.files if not k.startswith("action_")})


def attributes(path):
    """Every attribute of an HDF5 file: where, its type on the disk, its value."""
    with h5py.File(path) as file:
        places = {"": file}
        file.visititems(lambda name, item: places.update({name: item}))
        return {
            (place, name): (item.attrs.get_id(name).dtype, np.asarray(item.attrs[name]).tolist())
            for place, item in places.items()
            for name in item.attrs
            if name not in ("action_low", "action_high")
        }


def test_attributes_come_back_as_they_were(tmp_path):
    source = write(
        tmp_path / "a.hdf5",
        gym_v2(),
        author="Ana Lúa",
        empty="",
        raw=np.bytes_(b"\xff\x01"),
        tags=["a", "b"],
        version=np.float32(0.1),
        pair=np.array([1, 2], ">i2"),
        none=np.zeros((0, 3)),
        flag=True,
    )
    with h5py.File(source, "a") as file:
        file["rewards"].attrs["unit"] = "N"
        file["infos"].attrs["rate"] = 50
        file["infos/qpos"].attrs["unit"] = "rad"
    before = attributes(source)
    assert len(before) == 11
    notes = [
        convert(source, tmp_path / "b.npz"),
        convert(tmp_path / "b.npz", "minari:test/attributes-v0"),
        convert("test/attributes-v0", tmp_path / "c.npz"),
        convert(tmp_path / "c.npz", tmp_path / "d.hdf5"),
    ]
    assert attributes(tmp_path / "d.hdf5") == before
    assert [len(said) for said in notes] == [1, 0, 0, 0] and "[-1, 1] were assumed" in notes[0][0]
    assert load(tmp_path / "d.hdf5").hash == load(source).hash
    assert set(load(tmp_path / "c.npz").extras) == set(load(source).extras)


def test_links_become_copies_and_what_cannot_be_carried_is_named(tmp_path):
    source = write(tmp_path / "a.hdf5", gym_v2(), action_low=[-1, -1], action_high=[1, 1])
    with h5py.File(source, "a") as file:
        file["q"] = h5py.SoftLink("/infos/qpos")
        file["deeper"] = h5py.SoftLink("/infos/deep")
        file["same"] = file["infos/qpos"]  # a second name of the same data set
    assert convert(source, tmp_path / "b.npz") == []
    extras = load(tmp_path / "b.npz").extras
    for name in ("q", "same"):
        np.testing.assert_array_equal(extras[name], gym_v2()["infos/qpos"])
    np.testing.assert_array_equal(extras["deeper/log_prob"], np.arange(10.0))

    with h5py.File(source, "a") as file:
        file["around"] = h5py.SoftLink("/")
        file["gone"] = h5py.SoftLink("/nowhere")
        file["rewards"].attrs["see"] = file["actions"].ref
        file.create_dataset("ragged", (2,), h5py.vlen_dtype("i4"))
    (said,) = convert(source, tmp_path / "c.npz")
    assert said.startswith("left behind: ") and "\n" not in said
    for words in (
        "around (a link to a group around it)",
        "gone (a link that leads nowhere)",
        "rewards@see (neither numbers nor text)",
        "ragged (neither numbers nor text)",
    ):
        assert words in said
    assert main(["data", "convert", str(source), str(tmp_path / "d.h5"), "--json"]) == 0
    assert load(tmp_path / "d.h5").hash == load(tmp_path / "c.npz").hash == load(source).hash


def test_reset_options_are_said_to_be_left_behind(tmp_path, minaris_own):
    with h5py.File(tmp_path / "minari/test/own-v0/data/main_data.hdf5", "a") as file:
        file["episode_0"].attrs["options/goal"] = 3
    assert convert("test/own-v0", tmp_path / "a.npz") == ["left behind: the episodes' reset options"]


def test_minari_itself_reads_what_was_written(tmp_path):
    convert(write(tmp_path / "a.hdf5", gym_v2()), "minari:test/gym-v2")
    dataset = minari.load_dataset("test/gym-v2")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 10)
    first, second, third = dataset.iterate_episodes()
    values = gym_v2()
    np.testing.assert_array_equal(first.observations[:-1], values["observations"][:4])
    np.testing.assert_array_equal(first.observations[-1], [5, 5, 5])
    np.testing.assert_array_equal(second.actions, values["actions"][4:8])
    np.testing.assert_array_equal(second.infos["qpos"], values["infos/qpos"][4:8])
    assert first.terminations.tolist() == [False, False, False, True]
    assert second.truncations.tolist() == [False, False, False, True]
    assert not third.truncations.any()
    assert dataset.action_space == gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    assert check("test/gym-v2") == []


@pytest.fixture
def minaris_own(tmp_path):
    """A data set as Minari makes it: structured observations, infos of T + 1, seeds, an environment."""
    random = np.random.Generator(np.random.PCG64(4))
    buffers = [
        EpisodeBuffer(
            seed=seed,
            observations={
                "observation": random.standard_normal((steps + 1, 2)),
                "desired_goal": random.standard_normal((steps + 1, 1)),
            },
            actions=random.uniform(-2, 2, (steps, 1)).astype("f4"),
            rewards=random.standard_normal(steps),
            terminations=np.arange(steps) == 99,
            truncations=np.arange(steps) == steps - 1,
            infos={"height": np.arange(steps + 1.0) + seed},
        )
        for seed, steps in ((5, 3), (6, 4))
    ]
    spaces = gymnasium.spaces
    box = {"observation": spaces.Box(-9, 9, (2,)), "desired_goal": spaces.Box(-9, 9, (1,))}
    with pytest.warns(UserWarning):
        minari.create_dataset_from_buffers(
            "test/own-v0",
            buffers,
            env="Pendulum-v1",
            observation_space=spaces.Dict(box),
            author={"A", "B"},
        )
    return buffers


def test_minaris_own_data_sets_load_and_convert(tmp_path, minaris_own):
    data = load("test/own-v0")
    assert data.action_space == Box((-2.0,), (2.0,)) and data.max_episode_steps == 200
    assert [part.stop for part in data.episodes()] == [3, 7]
    for buffer, part in zip(minaris_own, data.episodes(), strict=True):
        flat = np.concatenate(
            [buffer.observations[k] for k in ("desired_goal", "observation")], 1, dtype="f4"
        )
        np.testing.assert_array_equal(data.obs[part], flat[:-1])
        np.testing.assert_array_equal(data.next_obs[part], flat[1:])
    assert len(data.transitions("dynamics")["obs"]) == 7
    np.testing.assert_array_equal(data.extras["infos/height"], [5, 6, 7, 6, 7, 8, 9])
    np.testing.assert_array_equal(data.extras["final_infos/height"], [8, 10])

    convert("test/own-v0", tmp_path / "own.hdf5")
    convert(tmp_path / "own.hdf5", "minari:test/again-v0")
    again = minari.load_dataset("test/again-v0")
    assert load("test/again-v0").hash == data.hash == load(tmp_path / "own.hdf5").hash
    assert again.spec.env_spec.id == "Pendulum-v1" and again.storage.metadata["author"] == {"A", "B"}
    for buffer, episode in zip(minaris_own, again.iterate_episodes(), strict=True):
        np.testing.assert_array_equal(episode.infos["height"], buffer.infos["height"])
    assert [m["seed"] for m in again.storage.get_episode_metadata(range(2))] == [5, 6]


def test_models_see_minaris_last_observations(tmp_path, minaris_own):
    """An episode of T steps has T + 1 observations, so every step's next one is known; whole episodes too."""
    data = load("test/own-v0")
    keys = ("desired_goal", "observation")
    after = [np.concatenate([np.float32(b.observations[k])[1:] for k in keys], 1) for b in minaris_own]
    view, whole = data.transitions("dynamics"), data.whole()
    np.testing.assert_array_equal(view["next_obs"], np.concatenate(after))
    assert view["known"].all() and len(view["known"]) == 7
    assert whole["gap"].tolist() == [2, 6]
    np.testing.assert_array_equal(whole["gap_obs"], [part[-1] for part in after])


def test_discrete_actions_survive(tmp_path):
    values = base() | {"actions": np.arange(10) % 4}
    space = Discrete(4)
    convert(write(tmp_path / "a.hdf5", values), tmp_path / "b.npz", action_space=space)
    convert(tmp_path / "b.npz", "minari:test/discrete-v0")
    convert("test/discrete-v0", tmp_path / "c.hdf5")
    data = load(tmp_path / "c.hdf5")
    assert data.action_space == space and data.action.tolist() == values["actions"].tolist()
    assert data.hash == load(tmp_path / "b.npz").hash
    assert contents(tmp_path / "c.hdf5")["actions"].dtype == np.int64


def test_hash_is_that_of_the_same_arrays_from_memory(tmp_path):
    values = gym_v2()
    data = Dataset.from_arrays(
        *(values[k] for k in ("observations", "actions", "rewards", "terminals")),
        timeout=values["timeouts"],
        next_obs=values["next_observations"],
        action_space=Box((-1.0, -1.0), (1.0, 1.0)),
    )
    assert load(write(tmp_path / "a.hdf5", values)).hash == data.hash


def test_infos_are_not_read_until_asked_for(tmp_path, monkeypatch):
    path = write(tmp_path / "a.hdf5", gym_v2())
    asked = []
    read = hdf5._read_extra
    monkeypatch.setattr(hdf5, "_read_extra", lambda path, name: asked.append(name) or read(path, name))
    data = load(path)
    assert data.transitions() and data.hash and data.returns().size and set(data.extras)
    assert asked == []
    assert data.extras["infos/qpos"].shape == (10, 2) and asked == ["infos/qpos"]


def test_space_and_limit_are_written_into_our_files(tmp_path):
    values = base()
    del values["terminals"]
    path = write(tmp_path / "a.hdf5", values | {"terminals": np.zeros(10, bool)})
    space = Box((-3.0, -1.0), (1.0, 2.0))
    for target in (tmp_path / "b.hdf5", tmp_path / "c.npz", "minari:test/space-v0"):
        convert(path, target, action_space=space, max_episode_steps=4)
        data = load(str(target))
        assert data.action_space == space and data.max_episode_steps == 4 and data.timeout is None
        assert len(data.episodes()) == 3


def test_targets_that_cannot_be(tmp_path):
    source = write(tmp_path / "a.hdf5", gym_v2())
    (tmp_path / "file").write_text("x")
    (tmp_path / "b.npz").write_text("mine")
    convert(source, "minari:test/twice-v0")
    for target, words in [
        (tmp_path / "b.npz", "exists already"),
        (tmp_path / "c.csv", "give a .hdf5, .h5 or .npz file"),
        (tmp_path / "file" / "c.npz", "cannot write"),
        ("minari:test/twice-v0", "exists already"),
        ("minari:x/y-v0", "is no Minari id"),
        ("minari:../../out-v0", "is no Minari id"),
    ]:
        with pytest.raises(BadInput, match=words):
            convert(source, target)
    assert (tmp_path / "b.npz").read_text() == "mine"
    write(tmp_path / "bad.hdf5", gym_v2() | {"rewards": np.full(10, np.nan)})
    with pytest.raises(BadInput, match="rewards: rows 0, 1"):
        convert(tmp_path / "bad.hdf5", tmp_path / "never.npz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.hdf5", "b.npz", "bad.hdf5", "file", "minari"]


@pytest.mark.parametrize("when", ["during", "end"])
def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch, when):
    source = write(tmp_path / "a.hdf5", gym_v2())

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    if when == "during":
        monkeypatch.setattr(np.lib.format, "write_array", full)
        monkeypatch.setattr(h5py.Group, "create_dataset", full)
    else:
        monkeypatch.setattr("os.replace", full)
        monkeypatch.setattr("os.rename", full)
    for target in (tmp_path / "b.hdf5", tmp_path / "b.npz", "minari:test/full-v0"):
        with pytest.raises(BadInput, match="No space left on device"):
            convert(source, target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.hdf5", "minari"]
    assert [p for p in (tmp_path / "minari").rglob("*") if p.is_file()] == []


def test_without_minari_reading_works_and_writing_says_what_to_install(tmp_path, monkeypatch):
    convert(write(tmp_path / "a.hdf5", gym_v2()), "minari:test/one-v0")
    monkeypatch.setitem(sys.modules, "minari", None)
    assert load("test/one-v0").hash == load(tmp_path / "a.hdf5").hash
    with pytest.raises(BadInput, match=r"pip install 'leashrl\[minari\]'"):
        convert(tmp_path / "a.hdf5", "minari:test/two-v0")


def test_damaged_minari_data_sets_are_refused_in_one_line(tmp_path, refused):
    convert(write(tmp_path / "a.hdf5", gym_v2()), "minari:test/whole-v0")
    data = tmp_path / "minari" / "test" / "whole-v0" / "data"
    main, metadata = (data / "main_data.hdf5").read_bytes(), json.loads((data / "metadata.json").read_text())

    def refused(words):
        with pytest.raises(BadInput, match=words) as caught:
            load("test/whole-v0")
        assert "\n" not in str(caught.value)
        assert check("test/whole-v0")[0].fatal

    (data / "main_data.hdf5").write_bytes(main[:3000])
    refused("cannot be read")
    with h5py.File(data / "main_data.hdf5", "w") as file:
        file.create_group("episode_0")
    refused("cannot be read")
    (data / "main_data.hdf5").write_bytes(main)
    for change, words in [
        ({"total_episodes": 9}, "cannot be read"),
        ({"total_episodes": 0}, "no episodes"),
        ({"data_format": "arrow"}, "stored as arrow"),
        ({"action_space": json.dumps({"type": "Tuple", "subspaces": []})}, "Tuple space"),
        ({"action_space": "{"}, "cannot be read"),
    ]:
        (data / "metadata.json").write_text(json.dumps(metadata | change))
        refused(words)
    (data / "metadata.json").write_text("[1")
    refused("cannot be read")
    (data / "metadata.json").write_text("[1]")
    refused("cannot be read")
    (data / "metadata.json").write_text(json.dumps(metadata))
    assert load("test/whole-v0").hash == load(tmp_path / "a.hdf5").hash


# --- Observations of other spaces ----------------------------------------------------


def collected(name, space, episodes=2):
    """A data set by Minari's own collector, of an environment that observes samples of `space`."""

    class World(gymnasium.Env):
        observation_space, action_space = space, gymnasium.spaces.Discrete(3)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.t = 0
            return self.observation_space.sample(), {}

        def step(self, action):
            self.t += 1
            return self.observation_space.sample(), 0.0, self.t >= 5, False, {}

    space.seed(0)
    collector, seen = minari.DataCollector(World()), []
    for episode in range(episodes):
        seen.append(collector.reset(seed=episode)[0])
        for _ in range(5):
            seen.append(collector.step(0)[0])
        seen.pop()
    collector.create_dataset(
        dataset_id=f"own/{name}-v0", algorithm_name="r", code_permalink="x", author="a", author_email="a@b.c"
    )
    return np.array([gymnasium.spaces.flatten(space, obs) for obs in seen], np.float32)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.Discrete(4),
        gymnasium.spaces.Discrete(4, start=2),
        gymnasium.spaces.MultiDiscrete([2, 3]),
        gymnasium.spaces.MultiBinary(3),
        gymnasium.spaces.Dict({"b": gymnasium.spaces.Discrete(2), "a": gymnasium.spaces.Box(-1, 1, (2, 2))}),
        gymnasium.spaces.Tuple([gymnasium.spaces.Box(i, i + 1, (1,)) for i in range(12)]),
    ],
    ids=lambda space: type(space).__name__,
)
def test_observations_are_flattened_as_gymnasium_does(space):
    wanted = collected("flat", space)
    np.testing.assert_array_equal(load("own/flat-v0").obs, wanted)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("value", [-1, 4])
def test_an_observation_beyond_its_space_is_refused(value, tmp_path):
    collected("odd", gymnasium.spaces.Discrete(4))
    with h5py.File(tmp_path / "minari/own/odd-v0/data/main_data.hdf5", "a") as file:
        file["episode_0/observations"][2] = value
    with pytest.raises(BadInput, match="cannot be read as a Minari data set"):
        load("own/odd-v0")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("leaf", "words"),
    [
        (gymnasium.spaces.Text(8), "observations/what is text"),
        (
            gymnasium.spaces.Box(0, 255, (32, 32, 3), np.uint8),
            r"observations/what is an image .*\[32, 32, 3\]",
        ),
    ],
)
def test_a_leaf_that_is_no_number_is_named(leaf, words):
    collected("leaf", gymnasium.spaces.Dict({"p": gymnasium.spaces.Box(-1, 1, (3,)), "what": leaf}))
    with pytest.raises(BadInput, match=words):
        load("own/leaf-v0")
