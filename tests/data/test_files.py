"""Files: what loads, what is refused and in which words, and what a conversion keeps."""

import json
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest

from leashrl.cli import data as commands
from leashrl.cli import main
from leashrl.cli.arguments import Parser, parse
from leashrl.data import Dataset, check, convert, info, load, make
from leashrl.errors import BadInput
from leashrl.types import Box, Discrete, Spec
from support.files import N, arrays, write


def refusal(path, **options):
    """The one line with which `load` refuses, which `check` finds too."""
    with pytest.raises(BadInput) as caught:
        load(path, **options)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text
    found = check(path, **options)
    assert found and found[0].fatal and text.startswith(str(found[0]))
    return text


@pytest.mark.parametrize("suffix", [".hdf5", ".h5", ".npz"])
def test_a_valid_file_loads_as_it_is(tmp_path, suffix):
    values = arrays()
    data = load(write(tmp_path / f"two{suffix}", values))
    np.testing.assert_array_equal(data.obs, values["observations"])
    np.testing.assert_array_equal(data.next_obs, values["next_observations"])
    np.testing.assert_array_equal(data.timeout, values["timeouts"])
    assert data.name == "two" and data.spec == Spec(3, Box((-1.0, -1.0), (1.0, 1.0)))
    assert check(tmp_path / f"two{suffix}") == []


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
def test_d4rl_quirks(tmp_path, suffix):
    """(N, 1) rewards and flags, float64, float flags, `infos` as an array: kitchen and adroit."""
    values = arrays()
    odd = {
        "observations": values["observations"].astype(np.float64),
        "actions": values["actions"].astype(np.float64),
        "rewards": values["rewards"].astype(np.float64)[:, None],
        "terminals": values["terminals"].astype(np.float32)[:, None],
        "infos": np.arange(N),
    }
    data = load(write(tmp_path / f"kitchen{suffix}", odd), max_episode_steps=280)
    np.testing.assert_array_equal(data.obs, values["observations"])
    np.testing.assert_array_equal(data.reward, values["rewards"])
    np.testing.assert_array_equal(data.terminal, values["terminals"])
    assert data.timeout is None and data.next_obs is None and data.max_episode_steps == 280
    assert {x.dtype.name for x in (data.obs, data.action, data.reward)} == {"float32"}
    assert data.terminal.dtype == bool
    np.testing.assert_array_equal(data.extras["infos"], np.arange(N))


def test_a_published_file_name_tells_the_time_limit(tmp_path):
    values = {key: value for key, value in arrays().items() if key != "timeouts"}
    assert load(write(tmp_path / "hopper_mixed.hdf5", values)).max_episode_steps == 1000
    assert load(write(tmp_path / "other.hdf5", values)).max_episode_steps is None


def test_actions_a_rounding_beyond_the_bound_are_clipped(tmp_path):
    values = arrays()
    values["actions"][3] = [1.00019, -1.00019]  # the range is 2, the tolerance 2e-4
    data = load(write(tmp_path / "a.hdf5", values))
    assert data.action[3].tolist() == [1, -1]
    assert data.action[4].tolist() == values["actions"][4].tolist()
    values["actions"][3] = [1.00021, 0]
    assert "rows 3 lie outside" in refusal(write(tmp_path / "b.hdf5", values))
    assert load(tmp_path / "b.hdf5", action_space=Box((-2.0, -2.0), (2.0, 2.0))).action[3, 0] > 1


def defect(change):
    values = arrays()
    change(values)
    return values


def put(key, row, value):
    return lambda values: values[key].__setitem__(row, value)


def replace(**new):
    return lambda values: values.update(new)


def rename(old, new):
    return lambda values: values.__setitem__(new, values.pop(old))


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (put("observations", (7, 1), np.nan), "not finite", "observations: rows 7 hold NaN or infinity"),
        (
            put("rewards", slice(2, 9), np.inf),
            "not finite",
            "rewards: rows 2, 3, 4, 5, 6 and 2 more hold NaN",
        ),
        (replace(rewards=np.full(N, 1e300)), "not finite", "rewards: rows 0, 1, 2, 3, 4 and 7 more"),
        (
            put("actions", (5, 0), -1.5),
            "action bounds",
            "actions: rows 5 lie outside the action space Box(-1 to 1",
        ),
        (replace(actions=np.ones((N, 2), int)), "integer action", "give action_space=Discrete(n)"),
        (replace(rewards=np.zeros(N + 1)), "length", "rewards 13"),
        (replace(rewards=np.zeros((N, 2))), "rank", "rewards has shape (12, 2): it must be (N,)"),
        (replace(observations=np.zeros((N, 2, 2))), "rank", "observations has shape (12, 2, 2): it must be"),
        (replace(observations=np.array(1.0)), "rank", "observations has shape ()"),
        (replace(next_observations=np.zeros((N, 4))), "length", "have 4 dimensions, observations 3"),
        (replace(terminals=np.array([b"no"] * N)), "dtype", "it must hold numbers"),
        (put("timeouts", 2, True), None, ""),
        (
            replace(terminals=np.arange(N) / 2.0),
            "flag value",
            "terminals: rows 1, 3, 4, 5, 6 and 5 more are neither",
        ),
        (lambda v: v.pop("rewards"), "missing key", "no key 'rewards'"),
        (rename("rewards", "reward"), "misnamed key", "there is 'reward': rename it to 'rewards'"),
        (
            rename("timeouts", "truncations"),
            "misnamed key",
            "there is 'truncations': rename it to 'timeouts'",
        ),
        (rename("next_observations", "next_obs"), "misnamed key", "rename it to 'next_observations'"),
        (
            replace(terminals=np.zeros(N), timeouts=np.zeros(N)),
            "no episode ends",
            "terminals and timeouts are all",
        ),
    ],
)
def test_each_defect_is_found_and_said(tmp_path, change, kind, words):
    path = write(tmp_path / "x.npz", defect(change))
    if kind is None:
        assert load(path).timeout[2]
        return
    assert words in refusal(path)
    assert kind in [found.kind for found in check(path)]


def test_no_episode_ends_without_timeouts_needs_a_limit(tmp_path):
    values = {k: v for k, v in arrays().items() if k != "timeouts"} | {"terminals": np.zeros(N)}
    path = write(tmp_path / "x.hdf5", values)
    assert "max_episode_steps=" in refusal(path)
    assert [len(range(N)[part]) for part in load(path, max_episode_steps=5).episodes()] == [5, 5, 2]
    for limit in (-1, 0, 2.7, np.nan):
        assert f"max_episode_steps is {limit}" in refusal(path, max_episode_steps=limit)


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
def test_whole_numbers_of_a_file_are_whole(tmp_path, suffix):
    def stored(name, fields):
        path = write(tmp_path / f"{name}{suffix}", arrays() | ({} if suffix == ".hdf5" else fields))
        if suffix == ".hdf5":
            with h5py.File(path, "a") as file:
                file.attrs.update(fields)
        return path

    for number, limit in enumerate((2.7, np.inf, "many", [1, 2])):
        assert "max_episode_steps" in refusal(stored(f"x{number}", {"max_episode_steps": limit}))
    data = load(stored("y", {"max_episode_steps": 5.0}))
    assert data.max_episode_steps == 5 and isinstance(data.max_episode_steps, int)
    assert "action_n is 3.5" in refusal(stored("z", {"action_n": 3.5}))


def test_rows_out_of_order_are_refused(tmp_path, capsys):
    values = arrays()
    mixed = np.random.Generator(np.random.PCG64(2)).permutation(N)
    shuffled = {key: value[mixed] for key, value in values.items()}
    text = refusal(write(tmp_path / "x.npz", shuffled))
    assert "are not the next row's observation" in text and "sort the rows by time" in text
    (found,) = check(tmp_path / "x.npz")
    inside = ~(shuffled["terminals"] | shuffled["timeouts"])[:-1]
    wrong = [i for i in range(N - 1) if inside[i] and mixed[i + 1] != mixed[i] + 1]
    assert found.kind == "row order" and found.count == len(wrong) and found.rows == tuple(wrong[:5])
    assert f"of {inside.sum()} inside episodes" in text
    assert main(["data", "check", str(tmp_path / "x.npz")]) == 2
    assert capsys.readouterr().out.startswith("defect: ")

    names = ("observations", "actions", "rewards", "terminals")
    with pytest.raises(BadInput, match="sort the rows by time"):
        Dataset.from_arrays(
            *(shuffled[key] for key in names),
            timeout=shuffled["timeouts"],
            next_obs=shuffled["next_observations"],
            action_space=Box((-1.0, -1.0), (1.0, 1.0)),
        )


@pytest.mark.parametrize(("count", "fatal"), [(5, False), (6, True)])
def test_more_than_half_of_the_rows_inside_episodes_decide(tmp_path, count, fatal):
    values = arrays()
    inside = [i for i in range(N - 1) if i != 4]  # ten of them: row 4 is an end, the last has no next row
    values["next_observations"] = values["next_observations"] + np.isin(np.arange(N), inside[:count])[:, None]
    path = write(tmp_path / "x.hdf5", values)
    assert [(x.count, x.fatal) for x in check(path)] == [(count, fatal)]
    if fatal:
        assert "rows 0, 1, 2, 3, 5 and 1 more (of 10" in refusal(path)
    else:
        assert load(path).next_obs is not None


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows(tmp_path, rows):
    path = write(tmp_path / "x.hdf5", {key: value[:rows] for key, value in arrays().items()})
    assert "no rows" in refusal(path) or "single row" in refusal(path)


def test_check_finds_all_defects_in_one_pass(tmp_path):
    values = arrays()
    values["rewards"][3] = np.nan
    values["actions"][[1, 6], 0] = 7
    values["terminals"] = values["terminals"] * 2.0
    del values["observations"]
    found = {x.kind: x for x in check(write(tmp_path / "x.hdf5", values))}
    assert set(found) == {"missing key", "not finite", "action bounds", "flag value"}
    assert found["action bounds"].rows == (1, 6) and found["action bounds"].count == 2
    assert found["not finite"].rows == (3,)
    assert "(and 3 more" in refusal(tmp_path / "x.hdf5")


def test_check_finds_what_is_odd_but_loads(tmp_path):
    values = arrays()
    values["timeouts"][4] = True
    values["next_observations"] = values["next_observations"].copy()
    values["next_observations"][7] += 1
    values["next_observations"][4] += 1  # at an end: no defect
    values["observations"][:, 1] = 3
    values["next_observations"][:, 1] = 3
    for key in arrays():  # the first episode again
        values[key] = np.concatenate([values[key], values[key][:5]])
    found = {x.kind: x for x in check(write(tmp_path / "x.hdf5", values))}
    assert not any(x.fatal for x in found.values())
    assert found.pop("terminal and timeout").rows == (4, 16)
    assert found.pop("next_obs").rows == (7,)
    assert found.pop("constant observation").count == 1
    assert found.pop("duplicate rows").rows == (12, 13, 14, 15, 16)
    assert found.pop("duplicate episodes").rows == (12,)
    assert not found
    load(tmp_path / "x.hdf5")


def test_check_against_a_task(tmp_path):
    path = write(tmp_path / "x.hdf5", arrays())
    assert check(path, spec=Spec(3, Box((-1.0, -1.0), (1.0, 1.0)))) == []
    (found,) = check(path, spec=Spec(11, Box((-1.0,) * 3, (1.0,) * 3)))
    assert found.kind == "task" and "the task 11 and 3" in str(found)
    (found,) = check(load(path), spec=Spec(3, Box((-2.0, -2.0), (2.0, 2.0))))
    assert "the task's Box(-2 to 2" in str(found)
    assert check(path, spec=Spec(3, Box((-np.inf,) * 2, (np.inf,) * 2))) == []
    (found,) = check(path, spec=Spec(3, Discrete(2)))
    assert "the task's Discrete(2)" in str(found)


def test_the_command_checks_against_a_task(tmp_path, capsys):
    def run(*words):
        parser = Parser(prog="leashrl data check")
        commands.source_arguments(parser)
        parser.add_argument("--json", action="store_true")
        return commands.check(parse(parser, [str(path), "--json", *words]))

    path = write(tmp_path / "x.hdf5", arrays())
    with pytest.raises(BadInput, match="3 dimensions and actions 2, the task 11 and 3"):
        run("--task", "hopper")
    (found,) = json.loads(capsys.readouterr().out)["defects"]
    assert found["kind"] == "task"
    with pytest.raises(BadInput, match="did you mean 'hopper'"):
        run("--task", "hoper")
    path = make("pendulum-medium", tmp_path / "p.hdf5", steps=400)
    assert run("--task", "pendulum") == 0  # its bounds are ±2


def test_action_spaces_are_given_or_read():
    values = list(arrays().values())[:4]
    for space, words in [
        (Box((-1.0,), (1.0,)), "2 dimensions, the action space 1"),
        (Box((-1.0, 1.0), (1.0, 1.0)), "is empty"),
        (Box((-np.inf, -1.0), (1.0, 1.0)), "is unbounded"),
        (Box((-1.0, -1.0), (1.0,)), "2 lower and 1 upper bounds"),
        (Discrete(3), "must be (N,)"),
        (Discrete(0), "must be (N,)"),
        (Box(-1.0, 1.0), "needs a tuple of lower"),
        ("box", "must be a leashrl.types.Box or Discrete, not builtins.str"),
    ]:
        with pytest.raises(BadInput) as caught:
            Dataset.from_arrays(*values, action_space=space)
        assert words in str(caught.value)
    with pytest.raises(BadInput, match=r"rows 2 lie outside 0\.\.2"):
        Dataset.from_arrays(values[0][:3], [0, 2, 3], [0, 0, 0], [0, 0, 1], action_space=Discrete(3))


def test_npz_without_a_space_says_how_to_give_it(tmp_path):
    np.savez(tmp_path / "x.npz", **arrays())
    text = refusal(tmp_path / "x.npz")
    assert "give action_space=" in text and "data convert FILE OUT --action-low LIST --action-high" in text
    assert load(tmp_path / "x.npz", action_space=Box((-1.0, -1.0), (1.0, 1.0))).spec.obs_dim == 3


def test_bounds_that_only_d4rls_convention_gives_are_said_to_be(tmp_path, capsys):
    path, bounds = write(tmp_path / "x.hdf5", arrays()), Box((-1.0, -1.0), (1.0, 1.0))
    data = load(path)
    assert data.action_space == bounds and data.action_space_assumed and data.top(0.5).action_space_assumed
    assert not load(path, action_space=bounds).action_space_assumed
    assert info(data).action_space_assumed is True
    assert main(["data", "info", str(path)]) == 0
    assert "[-1, 1] is D4RL's convention" in capsys.readouterr().out
    (said,) = convert(path, tmp_path / "y.hdf5")
    assert "[-1, 1] were assumed" in said and not load(tmp_path / "y.hdf5").action_space_assumed


LONG = "x" * 300


@pytest.mark.parametrize("name", [LONG, f"{LONG}.npz", "a/" * 3000, f"minari:mine/{LONG}-v0"])
def test_names_that_no_disk_takes(tmp_path, monkeypatch, name):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    (tmp_path / "mine").mkdir()
    source = write(tmp_path / "x.hdf5", arrays())
    for act in (
        lambda: load(name),
        lambda: check(name),
        lambda: convert(name, tmp_path / "y.npz"),
        lambda: convert(source, name),
        lambda: make("pendulum-medium", f"{LONG}.hdf5", steps=400),
    ):
        with pytest.raises(BadInput, match="cannot look for") as caught:
            act()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_a_home_that_nobody_has():
    with pytest.raises(BadInput, match="cannot look for '~nobody-here"):
        load("~nobody-here/x.npz")


def test_what_is_not_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    base = "http://rail.eecs.berkeley.edu/datasets/offline_rl"
    for source, *words in [
        (
            "hopper-medium-v2",
            f"{tmp_path}/d4rl/hopper_medium-v2.hdf5",
            f"{base}/gym_mujoco_v2/hopper_medium-v2.hdf5",
        ),
        ("walker2d-medium-replay-v0", "/d4rl/walker_mixed.hdf5", f"{base}/gym_mujoco/walker_mixed.hdf5"),
        ("pen-cloned-v0", f"{base}/hand_dapg/pen-demos-v0-bc-combined.hdf5"),
        ("kitchen-mixed-v0", f"{base}/kitchen/kitchen_microwave_kettle_bottomburner_light-v0.hdf5"),
        ("antmaze-large-play-v2", "hardest-maze_noisy_multistart_True_multigoal_False_sparse_fixed.hdf5"),
        ("D4RL/door/human-v2", f"{tmp_path}/minari/D4RL/door/human-v2", "minari download D4RL/door/human-v2"),
        ("minari:mujoco/hopper/expert-v0", "minari download mujoco/hopper/expert-v0"),
        ("hoper-medium-v2", "did you mean 'hopper-medium-v2'"),
        ("pendulum-meduim", "did you mean 'pendulum-medium'"),
        ("", "no data set"),
        (tmp_path, "without a Minari data set"),
        (tmp_path / "fil.hdf5", "no file"),
        ("minari:a\nb", "not a Minari id"),
    ]:
        for act in (load, check):
            with pytest.raises(BadInput) as caught:
                act(source)
            assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)
    (tmp_path / "d4rl").mkdir()
    write(tmp_path / "d4rl" / "hopper_medium-v2.hdf5", arrays())
    assert load("hopper-medium-v2").name == "hopper-medium-v2"
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(BadInput, match=r"not '\.txt'"):
        load(tmp_path / "notes.txt")
    with pytest.raises(BadInput, match=r"did you mean 'file\.hdf5'"):
        write(tmp_path / "file.hdf5", arrays())
        load(tmp_path / "fil.hdf5")


@pytest.mark.parametrize("name", ["x.hdf5", "x.npz"])
def test_text_under_a_data_suffix(tmp_path, name):
    (tmp_path / name).write_text("obs,action\n1,2\n" * 100)
    assert "is not" in refusal(tmp_path / name)
    (tmp_path / name).write_bytes(b"")
    assert "empty" in refusal(tmp_path / name)


# --- What people have at hand --------------------------------------------------------


def test_gymnasiums_spaces_are_spaces():
    values = list(arrays().values())[:4]
    box = gymnasium.spaces.Box(np.float32([-1, -2]), np.float32([1, 2]))
    assert Dataset.from_arrays(*values, action_space=box).action_space == Box((-1.0, -2.0), (1.0, 2.0))
    values[1] = np.arange(N) % 3
    assert Dataset.from_arrays(*values, action_space=gymnasium.spaces.Discrete(3)).action_space == Discrete(3)
    for space in (
        gymnasium.spaces.Discrete(3, start=1),
        gymnasium.spaces.MultiDiscrete([2, 3]),
        gymnasium.spaces.MultiBinary(2),
        gymnasium.spaces.Box(-1, 1, (2, 2)),
        gymnasium.spaces.Dict({"a": gymnasium.spaces.Discrete(2)}),
    ):
        with pytest.raises(BadInput, match=r"actions of gymnasium's .* are not supported"):
            Dataset.from_arrays(*values, action_space=space)


def test_discrete_actions_as_floats_and_one_hot():
    values, wanted = list(arrays().values())[:4], np.arange(N) % 3
    for actions in (wanted.astype(np.float32), wanted[:, None].astype(np.float64), np.eye(3)[wanted]):
        values[1] = actions
        data = Dataset.from_arrays(*values, action_space=Discrete(3))
        np.testing.assert_array_equal(data.action, wanted)
        assert data.action.dtype == np.int32
    for actions, words in (
        (wanted + 0.5, "not whole numbers"),
        (np.full(N, np.nan), "not whole numbers"),
        (np.full(N, 1e12), "do not fit int32"),
        (np.eye(3)[wanted] * 0.9, "must be \\(N,\\)"),
        (np.eye(4)[wanted], "must be \\(N,\\)"),
    ):
        values[1] = actions
        with pytest.raises(BadInput, match=words):
            Dataset.from_arrays(*values, action_space=Discrete(3))


def test_one_dimension_may_be_flat():
    flat = np.linspace(-1, 1, N)
    after = np.append(flat[1:], 2.0)
    data = Dataset.from_arrays(
        flat, flat, np.zeros(N), np.arange(N) == N - 1, next_obs=after, action_space=Box((-1.0,), (1.0,))
    )
    assert data.obs.shape == data.action.shape == data.next_obs.shape == (N, 1)


@pytest.mark.parametrize("offset", [4.65e6, -4.65e6, 1e5])
def test_numbers_that_float32_cannot_tell_apart_are_odd(offset):
    values = list(arrays().values())[:4]
    values[0] = np.add(values[0], np.array([offset, 0.0, 0.0]))
    bounds = Box((-1.0, -1.0), (1.0, 1.0))
    found = [d for d in check(Dataset.from_arrays(*values, action_space=bounds)) if "float32" in str(d)]
    assert len(found) == 1 and not found[0].fatal and "dimension 0 lies about" in str(found[0])


@pytest.mark.parametrize(
    "names",
    [
        ["observations_0", "actions_0", "rewards_0", "terminated_0"],  # d3rlpy's ReplayBuffer.dump
        ["data/demo_0/actions", "data/demo_0/obs/eef", "data/demo_0/dones"],  # robomimic
        ["episode_12/observations", "episode_12/actions"],
        ["traj_0/obs/state", "traj_0/actions"],  # ManiSkill
        ["0/observations", "0/actions"],
    ],
)
def test_a_file_that_keeps_episodes_apart_is_told_as_such(names, tmp_path):
    text = refusal(write(tmp_path / "log.h5", {name: np.zeros((4, 2)) for name in names}))
    assert "keeps each episode apart" in text and "Dataset.from_arrays" in text and "rename" not in text


def test_names_in_capitals(tmp_path):
    for name in ("a.HDF5", "b.H5", "c.Npz"):
        path = write(tmp_path / f"x{Path(name).suffix.lower()}", arrays()).rename(tmp_path / name)
        assert load(path).name == name[0]
    assert convert(tmp_path / "a.HDF5", tmp_path / "d.H5") and len(load(tmp_path / "d.H5")) == N
