"""Ends of episodes under other names: found, told, and read on demand."""

import numpy as np
import pytest

from leashrl.cli import main
from leashrl.data import check, convert, load
from leashrl.data.ends import ends_of, kind_of
from leashrl.errors import BadInput
from support.files import write

N = 120
ENDS = np.arange(N) % 20 == 19
"""Where episodes end; terminals tell every second of them."""
PLACE = np.arange(N) % 20
FORMS = {
    "flags": ENDS,
    "starts": PLACE == 0,
    "masks": ~ENDS,
    "numbers": np.arange(N) // 20,
    "counters": PLACE,
}


def arrays(**more):
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(N, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (N, 2)).astype(np.float32),
        "rewards": rng.normal(size=N).astype(np.float32),
        "terminals": np.arange(N) % 40 == 39,
    } | more


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("episode_terminals", "flags"),
        ("is_last", "flags"),
        ("trunc", "flags"),
        ("truncateds", "flags"),
        ("ends", "flags"),
        ("episode_end", "flags"),
        ("dones", "flags"),
        ("dones_float", "flags"),
        ("infos/TimeLimit.truncated", "flags"),
        ("infos/timeLimitReached", "flags"),
        ("traj_done", "flags"),
        ("is_first", "starts"),
        ("episode_starts", "starts"),
        ("masks", "masks"),
        ("not_done", "masks"),
        ("discount", "masks"),
        ("episode_id", "numbers"),
        ("Episode Index", "numbers"),
        ("traj_ids", "numbers"),
        ("run-number", "numbers"),
        ("timesteps", "counters"),
        ("t", "counters"),
        ("frame_index", "counters"),
        ("infos/elapsed_steps", "counters"),
    ],
)
def test_ends_that_terminals_do_not_tell_are_told(name, kind, tmp_path):
    path = write(tmp_path / "log.hdf5", arrays(**{name: FORMS[kind]}))
    assert kind_of(name) == kind
    with pytest.raises(BadInput) as caught:
        load(path)
    text = str(caught.value)
    assert "rows 19, 59, 99 end an episode" in text and f"--ends {name}" in text
    (defect,) = check(path)
    assert defect.kind == "other ends" and defect.rows == (19, 59, 99) and defect.fatal

    data = load(path, ends=name)
    np.testing.assert_array_equal(data.ends, ENDS if kind in ("flags", "masks") else [*ENDS[:-1], True])
    np.testing.assert_array_equal(data.timeout & data.terminal, False)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("qpos", PLACE),  # of no such name
        ("step_reward", np.linspace(1, 0, N)),  # a name of another thing
        ("episode_return", np.arange(N) // 20),
        ("steps", np.arange(N)),  # of the whole log
        ("timestamp", np.linspace(0, 9, N)),
        ("is_last", np.arange(N) % 40 == 39),  # the same as terminals
        ("discounts", np.full(N, 0.99)),
        ("done", np.full(N, 2)),  # neither 0 nor 1
        ("t", np.zeros(N)),  # would end an episode on every row
        ("episode_id", np.zeros((N, 2))),
        ("episode_id", np.zeros(N - 1)),
    ],
)
def test_what_is_no_such_array_is_passed_over(name, values, tmp_path):
    assert len(load(write(tmp_path / "log.hdf5", arrays(**{name: values}))).episodes()) == 3


def test_time_outs_of_the_files_own_go_before(tmp_path):
    timeouts = ENDS & ~arrays()["terminals"]
    data = load(write(tmp_path / "log.hdf5", arrays(timeouts=timeouts, episode_id=np.arange(N) // 10)))
    assert len(data.episodes()) == 6


def test_a_converted_file_says_where_episodes_end(tmp_path, capsys):
    path = write(
        tmp_path / "log.hdf5", arrays(episode_id=np.array([f"run {i // 20}" for i in range(N)], "S"))
    )
    out = tmp_path / "out.hdf5"
    assert main(["data", "convert", str(path), str(out), "--ends", "episode_id"]) == 0
    assert len(load(out).episodes()) == 6 and load(out).terminal.sum() == 3
    with pytest.raises(BadInput, match="has no array 'episode_ids': did you mean 'episode_id'"):
        convert(path, tmp_path / "again.hdf5", ends="episode_ids")
    flags = write(tmp_path / "two.hdf5", arrays(odd=np.full(N, 2.5)))
    with pytest.raises(BadInput, match="odd does not say where episodes end"):
        load(flags, ends="odd")


def test_forms_by_hand():
    assert ends_of("numbers", np.array([7, 7, 3, 3])).tolist() == [False, True, False, False]
    assert ends_of("counters", np.array([5, 6, 5, 6])).tolist() == [False, True, False, False]
    assert ends_of("masks", np.array([1.0, 0.0])).tolist() == [False, True]
    assert ends_of("flags", np.array([[0.0], [1.0]])).tolist() == [False, True]
    assert ends_of("flags", np.array(["a", "b"])) is None


# --- A terminal is a terminal ------------------------------------------------


def test_a_terminal_at_the_time_limit_stays_one(tmp_path):
    """D4RL's rule drops such rows: gymnasium's TimeLimit sets both flags."""
    data = load(write(tmp_path / "both.hdf5", arrays(terminals=ENDS, timeouts=ENDS)))
    assert data.transitions()["terminal"].sum() == ENDS[:-1].sum() == 5
    only = load(write(tmp_path / "cut.hdf5", arrays(terminals=ENDS & False, timeouts=ENDS)))
    assert len(only.transitions()["reward"]) == N - 6


@pytest.mark.parametrize(
    ("terminals", "odd"),
    [
        (ENDS, True),
        (np.arange(N) % 40 == 39, True),
        ((np.arange(N) % 20 == 19) | (np.arange(N) == 50), False),  # one ends sooner
        (np.arange(N) % 60 == 59, False),  # two of them prove nothing
    ],
)
def test_a_time_limit_among_terminals_is_odd(terminals, odd, tmp_path):
    found = check(write(tmp_path / "log.hdf5", arrays(terminals=terminals)))
    assert [d.kind for d in found if not d.fatal] == ["time limit as terminal"] * odd and not any(
        d.fatal for d in found
    )


def test_data_of_time_outs_alone_are_refused_by_check_as_by_train(tmp_path):
    path = write(tmp_path / "log.hdf5", arrays(terminals=np.zeros(N, bool), timeouts=np.ones(N, bool)))
    assert [(d.kind, d.fatal) for d in check(path) if d.fatal] == [("nothing to train on", True)]
