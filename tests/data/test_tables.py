"""Tables of logs: every library's frame gives the same data, and what cannot be read is told in a line."""

import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import leashrl
from leashrl.cli import main
from leashrl.data import Dataset, load
from leashrl.data.columns import Columns
from leashrl.data.tables import read_files
from leashrl.errors import BadInput
from leashrl.types import Box, Discrete

UNIT = Box((-1.0,), (1.0,))
ROWS = {
    "run": ["b", "a", "b", "a", "b"],
    "t": [2.0, 10.0, 1.0, 11.0, 3.0],
    "x_1": [0.2, 1.0, 0.1, 1.1, 0.3],
    "x_2": [20, 100, 10, 110, 30],
    "mode": ["off", "auto", "auto", "off", "auto"],
    "on": [True, False, True, False, True],
    "valve": [0.5, -1.0, 0.25, 1.0, 0.75],
    "reward": [2.0, 10.0, 1.0, 11.0, 3.0],
    "done": [0, 0, 0, 1, 0],
}
NAMES = {"obs": ["x_*", "mode", "on"], "action": "valve", "reward": "reward", "episode": "run", "time": "t"}


def frame(**change):
    return pd.DataFrame(ROWS | change)


def read(table, **change):
    return Dataset.from_frame(table, **NAMES | {"terminal": "done", "action_space": UNIT} | change)


# --- By hand -----------------------------------------------------------------


def test_rows_by_hand():
    """Episode b comes first, in the order of its times; a ends as a terminal, b is cut."""
    data = read(frame())
    np.testing.assert_allclose(
        data.obs,
        [
            [0.1, 10, 1, 0, 1],
            [0.2, 20, 0, 1, 1],
            [0.3, 30, 1, 0, 1],
            [1.0, 100, 1, 0, 0],
            [1.1, 110, 0, 1, 0],
        ],
        rtol=1e-6,
    )
    np.testing.assert_array_equal(data.action[:, 0], [0.25, 0.5, 0.75, -1, 1])
    np.testing.assert_array_equal(data.reward, [1, 2, 3, 10, 11])
    assert data.terminal.tolist() == [False] * 4 + [True]
    assert data.timeout.tolist() == [False, False, True, False, False]
    assert data.columns.obs_names == ["x_1", "x_2", "mode=auto", "mode=off", "on"]


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame(ROWS).astype({"mode": "category", "x_2": "Int64"}),
        pl.DataFrame(ROWS),
        pl.DataFrame(ROWS).with_columns(pl.col("mode").cast(pl.Categorical)),
        pa.table(ROWS),
        {name: np.array(values) for name, values in ROWS.items()},
        ROWS,
    ],
    ids=["pandas", "polars", "polars categories", "arrow", "arrays", "lists"],
)
def test_every_librarys_frame_gives_the_same_data(table):
    assert read(table).hash == read(frame()).hash


def test_a_bandits_rows_are_episodes_of_their_own():
    table = {"s": [0.0, 1.0, 2.0], "a": [0, 1, 1], "r": [1.0, 2.0, 3.0], "t": [0, 1, 2]}
    names = {"obs": ["s"], "action": "a", "reward": "r", "action_space": Discrete(2)}
    data = Dataset.from_frame(table, bandit=True, **names)
    assert data.terminal.tolist() == [True] * 3 and len(data.episodes()) == 3
    with pytest.raises(BadInput, match="every row is an episode: leave out time"):
        Dataset.from_frame(table, bandit=True, time="t", **names)


def test_text_actions_are_discrete():
    data = read(frame(), action="mode", obs="x_*", action_space=None)
    assert data.action_space == Discrete(2) and data.action.tolist() == [0, 1, 0, 0, 1]
    assert data.columns.actions(np.array([1, 0])) == [{"mode": "off"}, {"mode": "auto"}]
    whole = read(frame(), action="x_2", obs="x_1", action_space=Discrete(200))
    assert whole.action.tolist() == [10, 20, 30, 100, 110]


def test_without_episodes_ends_are_the_flags():
    data = read(frame(done=[0, 1, 0, 0, 0]), episode=None, time=None)
    assert [(part.start, part.stop) for part in data.episodes()] == [(0, 2), (2, 5)] and data.timeout is None
    cut = read(frame(cut=[0, 0, 1, 0, 0]), episode=None, time=None, terminal=None, timeout="cut")
    assert cut.timeout.tolist() == [False, False, True, False, True]


# --- Missing values ----------------------------------------------------------

HOLES = {"x_1": [0.2, np.nan, np.nan, 1.1, 0.3]}  # b is 0.1?, 0.2, 0.3 in time; a is ?, 1.1


def test_missing_values_are_refused_unless_told_otherwise():
    with pytest.raises(BadInput, match=r"'x_1' is missing in 2 rows, the first 0 in order.*--missing"):
        read(frame(**HOLES))


def test_rows_that_lack_something_are_dropped_and_their_episode_is_cut():
    middle = frame(x_1=[np.nan, 1.0, 0.1, 1.1, 0.3])
    data = read(middle, missing="drop")
    np.testing.assert_allclose(data.obs[:, 0], [0.1, 0.3, 1.0, 1.1], rtol=1e-6)
    assert data.ends.tolist() == [True, True, False, True]  # 0.3 did not follow 0.1
    alone = read(frame(x_1=[0.2, 1.0, np.nan, 1.1, 0.3], done=0), missing="drop", episode=None, time=None)
    assert alone.timeout.tolist() == [False, True, False, True]


def test_missing_values_are_filled_from_before_in_the_same_episode():
    data = read(
        frame(x_1=[np.nan, 1.0, 0.1, np.nan, 0.3], mode=["off", "auto", "auto", None, "off"]), missing="fill"
    )
    np.testing.assert_allclose(data.obs[:, 0], [0.1, 0.1, 0.3, 1.0, 1.0], rtol=1e-6)
    np.testing.assert_array_equal(data.obs[:, 2], [1, 0, 0, 1, 1])
    # nothing lies before the first row of an episode: it is left out
    np.testing.assert_allclose(read(frame(**HOLES), missing="fill").obs[:, 0], [0.2, 0.3, 1.1], rtol=1e-6)


def test_a_column_says_what_is_missing():
    data = read(frame(**HOLES), missing="indicator")
    assert data.columns.obs_names[:3] == ["x_1", "x_1 is missing", "x_2"]
    np.testing.assert_allclose(data.obs[:, :2], [[0, 1], [0.2, 0], [0.3, 0], [0, 1], [1.1, 0]], rtol=1e-6)
    for lost in ({"reward": [np.nan, 1, 1, 1, 1]}, {"valve": [0, 0, np.nan, 0, 0]}):
        assert len(read(frame(**lost), missing="indicator")) == 4  # what is learnt cannot be made up


# --- What cannot be read -----------------------------------------------------


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({}, {"obs": "y_*"}, r"no column 'y_\*' for observations"),
        ({}, {"reward": "rewrd"}, "no column 'rewrd' for reward: did you mean 'reward'"),
        ({}, {"obs": []}, "no column for observations"),
        ({}, {"action_space": None}, "never guessed .here the values lie from -1 to 1.*--action-low"),
        ({}, {"action": ["valve", "mode"]}, "'mode' holds categories: several actions must all be numbers"),
        ({}, {"missing": "dropp"}, "did you mean 'drop'"),
        ({}, {"terminal": "t"}, "'t' must hold 0 and 1"),
        ({}, {"terminal": "mode"}, "'mode' must hold 0 and 1"),
        ({}, {"time": "mode"}, "'mode' holds no times"),
        ({"t": [1, 1, 2, 1, 2]}, {}, "row 4 has the time of another row of its episode"),
        ({"run": ["a", None, "b", "b", "b"]}, {}, "'run' is missing in row 1"),
        ({"reward": list("abcde")}, {}, "'reward' does not hold numbers"),
        ({"x_1": [np.inf, 0, 0, 0, 0]}, {}, "hold NaN or infinity"),
        ({"x_1": [np.nan] * 5}, {"missing": "drop"}, "no row is left"),
        ({"x_1": ["1", "2", "3", "ERR", "5"]}, {}, "'x_1' holds numbers, and texts such as 'ERR'"),
        ({"x_1": list("12345")}, {}, "'x_1' holds numbers as text"),
        ({"x_1": pd.to_datetime([0, 1, 2, 3, 4])}, {}, "'x_1' holds times"),
    ],
)
def test_what_cannot_be_read_is_one_line(change, options, words):
    with pytest.raises(BadInput, match=words) as caught:
        read(frame(**change), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (7, "int is no table"),
        ({}, "no columns"),
        ({"a": [1], "b": [1, 2]}, "differ in length"),
        ({"a": np.zeros((2, 2))}, "has shape"),
        ({**ROWS, "mode": [f"word {i}" for i in range(5)], "x": 1}, "has shape|differ"),
    ],
)
def test_what_is_no_table_is_one_line(table, words):
    with pytest.raises(BadInput, match=words):
        read(table)


def test_texts_that_are_no_categories(tmp_path):
    table = {name: values * 40 for name, values in ROWS.items()} | {"mode": [f"text {i}" for i in range(200)]}
    with pytest.raises(BadInput, match="holds 200 different texts"):
        read(table | {"t": np.arange(200)})


cells = st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=3)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[cells] * 6), min_size=0, max_size=6),
    st.sampled_from(["refuse", "drop", "fill", "indicator"]),
)
def test_any_table_is_read_or_refused(rows, rule):
    columns = {
        name: np.array([row[i] for row in rows] + [None], object)[:-1] for i, name in enumerate("eotard")
    }
    try:
        data = Dataset.from_frame(
            columns, obs=["o"], action="a", reward="r", episode="e", time="t", terminal="d", missing=rule,
            action_space=UNIT,
        )  # fmt: skip
    except BadInput as error:
        assert "\n" not in str(error)
    else:
        assert np.isfinite(data.obs).all() and data.ends[-1]


# --- Files -------------------------------------------------------------------


def write_parts(folder, suffix):
    """Two files, one episode each."""
    folder.mkdir()
    for run in ("b", "a"):
        part = frame()[lambda rows, run=run: rows.run == run].drop(columns="run")
        path = folder / f"{'12'['ba'.index(run)]}{suffix}"
        if suffix == ".parquet":
            parquet.write_table(pa.Table.from_pandas(part, preserve_index=False), path)
        elif suffix == ".csv":
            part.to_csv(path, index=False)
        else:
            part.to_json(path, orient="records", lines=True)
    return folder


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl", ".ndjson"])
def test_a_folder_of_a_file_an_episode(suffix, tmp_path, document):
    folder, out = write_parts(tmp_path / "logs", suffix), tmp_path / "logs.hdf5"
    words = "--obs x_*,mode,on --action valve --reward reward --time t --terminal done --episode run"
    plain = words.replace(" --terminal done --episode run", "").split()
    found = document(
        "data", "import", str(folder), *plain, "--action-low=-1", "--action-high=1", "--out", str(out)
    )
    assert (found["rows"], found["episodes"], found["actions"]) == (5, 2, ["valve"])
    data = load(out)
    np.testing.assert_array_equal(data.obs, read(frame()).obs)
    assert data.timeout.tolist() == [False, False, True, False, True]
    assert data.columns == read(frame()).columns


def test_one_file_with_all_episodes(tmp_path):
    frame().to_csv(tmp_path / "log.csv", index=False)
    words = "--obs x_* --action mode --reward reward --episode run --time t --terminal done --out"
    assert main(["data", "import", str(tmp_path / "log.csv"), *words.split(), str(tmp_path / "log.npz")]) == 0
    data = load(tmp_path / "log.npz")
    assert data.action_space == Discrete(2) and data.terminal.sum() == 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.csv", None, "cannot be read: No such file"),
        ("log.txt", b"a,b\n1,2\n", "tables end in .csv"),
        ("empty.csv", b"", "is empty"),
        ("bad.parquet", b"PAR1 no", "cannot be read as .parquet"),
        ("bad.jsonl", b"{]", "cannot be read as .jsonl"),
        ("ragged.csv", b"a,b\n1,2\n1,2,3\n", "cannot be read as .csv"),
        ("twice.csv", b"a,a\n1,2\n", "has two columns 'a'"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(name, content, words, tmp_path, refused):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    more = ["--obs", "a", "--action", "b", "--reward", "c", "--out", str(tmp_path / "out.hdf5")]
    assert words in refused("data", "import", str(tmp_path / name), *more)
    assert not (tmp_path / "out.hdf5").exists()


@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_separators_are_seen(between, tmp_path):
    for suffix in (".csv", ".tsv"):
        frame().to_csv(tmp_path / f"log{suffix}", index=False, sep=between)
        table = read_files([tmp_path / f"log{suffix}"])
        assert read(table).hash == read(frame()).hash


def test_files_of_other_columns_are_refused(tmp_path, refused):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "b.csv").write_text("x,z\n1,2\n")
    columns = ["--obs", "x", "--action", "x", "--reward", "x"]
    said = refused("data", "import", str(tmp_path), *columns, "--out", "o.hdf5")
    assert "other columns: 'y' is in one alone" in said


# --- Policies ----------------------------------------------------------------


def test_a_policy_acts_on_raw_values(tmp_path):
    data = read(frame(**HOLES), missing="indicator")
    data.save(tmp_path / "log.npz")
    leashrl.train("bc", tmp_path / "log.npz", task="none", steps=2, seeds=1, out=tmp_path / "run",
                  options={"hidden": (8,), "batch_size": 4})  # fmt: skip
    policy = leashrl.load_policy(tmp_path / "run")
    raw = {"x_1": None, "x_2": 20, "mode": "off", "on": True, "unknown": "passed over"}
    by_hand = np.array([0, 1, 20, 0, 1, 1], np.float32)
    assert policy.act_on(raw) == {"valve": float(policy(by_hand)[0])}
    first, second = policy.act_on([raw, raw | {"mode": "auto"}])
    assert first["valve"] == pytest.approx(policy.act_on(raw)["valve"], rel=1e-5) and first != second
    about = json.loads((tmp_path / "run/policy/policy.json").read_text())
    assert Columns.from_json(about["columns"]) == data.columns
    for change, words in (
        ({"mode": "of"}, "'mode' has no category 'of' .row 0.: did you mean 'off'"),
        ({"x_2": None}, "'x_2' is missing in row 0"),
        ({"x_2": "many"}, "'x_2' does not hold numbers"),
    ):
        with pytest.raises(BadInput, match=words):
            policy.act_on(raw | change)
    del raw["on"]
    with pytest.raises(BadInput, match="row 0 has no 'on'"):
        policy.act_on(raw)


def test_a_policy_of_arrays_has_no_columns(tmp_path):
    data = Dataset.from_arrays([[0.0]] * 4, [[0.0]] * 4, [0.0] * 4, [0, 0, 0, 1], action_space=UNIT)
    leashrl.train(
        "bc", data, steps=1, seeds=1, out=tmp_path / "run", options={"hidden": (8,), "batch_size": 4}
    )
    with pytest.raises(BadInput, match="had no named columns"):
        leashrl.load_policy(tmp_path / "run").act_on({"x": 1})


# --- Episodes, and files of one's own ----------------------------------------


def test_episodes_are_joined():
    episodes = [
        {"obs": [[0.0], [1.0], [2.0]], "act": [[0.1], [0.2]], "reward": [1.0, 2.0], "terminal": True},
        {"obs": [[5.0], [6.0]], "act": [[0.3]], "reward": [3.0]},
    ]
    data = Dataset.from_episodes(episodes, action_space=UNIT, action="act")
    assert data.obs[:, 0].tolist() == [0, 1, 5] and data.next_obs[:, 0].tolist() == [1, 2, 6]
    assert data.terminal.tolist() == [False, True, False] and data.timeout.tolist() == [False, False, True]
    flags = [{"obs": [[0.0], [1.0]], "action": [[0.1], [0.2]], "reward": [1.0, 2.0], "terminal": [0, 1]}]
    assert Dataset.from_episodes(flags, action_space=UNIT).terminal.tolist() == [False, True]


@pytest.mark.parametrize(
    ("episode", "words"),
    [
        ({"obs": [[0.0]], "action": [[0.0]]}, "episode episodes 1 has no 'reward'"),
        ({"obs": [[0.0]], "action": [[0.0]], "reward": []}, "has no rows"),
        ({"obs": [[0.0]] * 4, "action": [[0.0]], "reward": [1.0]}, "1 rewards, 4 observations and 1 actions"),
        (
            {"obs": [[0.0]] * 2, "action": [[0.0]] * 2, "reward": [1.0]},
            "1 rewards, 2 observations and 2 actions",
        ),
        ({"obs": [[0.0], [0.0, 1.0]], "action": [[0.0]], "reward": [1.0]}, "rows of different lengths"),
        ([[0.0], [0.0], [1.0]], "episode episodes 1 is a list"),
        ({"obs": [[0.0, 1.0]], "action": [[0.0]], "reward": [1.0]}, "do not go together"),
        ({"obs": [[0.0]], "action": [[0.0]], "reward": [1.0], "terminal": [0, 1]}, "1 rewards and 2 flags"),
    ],
)
def test_episodes_that_do_not_fit_are_named(episode, words):
    good = {"obs": [[0.0]], "action": [[0.0]], "reward": [1.0]}
    with pytest.raises(BadInput, match=words):
        Dataset.from_episodes([good, episode], action_space=UNIT)


@pytest.mark.parametrize("suffix", [".hdf5", ".h5", ".npz"])
def test_a_saved_data_set_is_the_same(suffix, tmp_path):
    data = read(frame())
    data.save(tmp_path / f"log{suffix}")
    again = load(tmp_path / f"log{suffix}")
    assert (
        again.hash == data.hash and again.action_space == data.action_space and again.columns == data.columns
    )
    with pytest.raises(BadInput, match="exists already"):
        data.save(tmp_path / f"log{suffix}")
    with pytest.raises(BadInput, match=r"name the file log\.txt\.hdf5"):
        data.save(tmp_path / "log.txt")
