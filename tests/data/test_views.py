"""The views of a data set against plain loops and numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leashrl.core import Preprocess
from leashrl.data import Dataset, info, prepare
from leashrl.errors import BadInput
from leashrl.types import Box, Discrete, Spec

UNIT = Box((-1.0,), (1.0,))


def numbered(terminal, timeout=None, limit=None, next_obs=None, reward=None):
    """Row i has observation i and action i / 100, so that a row is known by its values."""
    n = len(terminal)
    return Dataset.from_arrays(
        np.arange(n, dtype=np.float64)[:, None],
        np.arange(n, dtype=np.float64)[:, None] / 100,
        np.arange(n) / 10 if reward is None else reward,
        terminal,
        timeout=timeout,
        next_obs=next_obs,
        action_space=UNIT,
        max_episode_steps=limit,
    )


def flags(text):
    return [c == "1" for c in text]


def d4rl_rows(terminal, timeout, limit):
    """The rows that D4RL keeps: its rules, one row at a time."""
    kept, counter = [], 0
    for i in range(len(terminal) - 1):
        final = timeout[i] if timeout is not None else counter + 1 == limit
        if final:
            counter = 0
            if terminal[i]:  # D4RL drops it, and with it what it says of the world
                kept.append(i)
            continue
        if terminal[i]:
            counter = 0
        kept.append(i)
        counter += 1  # also right after a terminal: the next row counts as 1
    return kept


def plain_episodes(terminal, timeout, limit):
    """Lists of rows, cut after each end; the counter starts at 0 in every episode."""
    parts, part = [], []
    for i in range(len(terminal)):
        part.append(i)
        cut = timeout[i] if timeout is not None else len(part) == limit
        if terminal[i] or cut:
            parts.append(part)
            part = []
    return [*parts, part] if part else parts


@st.composite
def episodes(draw):
    n = draw(st.integers(2, 40))
    bits = st.lists(st.sampled_from([False, False, False, True]), min_size=n, max_size=n)
    return draw(bits), draw(st.none() | bits), draw(st.none() | st.integers(1, 9))


@given(episodes())
def test_views_match_plain_loops(case):
    terminal, timeout, limit = case
    if not any(terminal) and not (limit if timeout is None else any(timeout)):
        with pytest.raises(BadInput, match="no episode ends"):
            numbered(terminal, timeout, limit)
        return
    data = numbered(terminal, timeout, limit)

    expected = d4rl_rows(terminal, timeout, limit)
    if expected:
        view = data.transitions()
        np.testing.assert_array_equal(view["obs"][:, 0], expected)
        np.testing.assert_array_equal(view["next_obs"][:, 0], np.array(expected) + 1)
        np.testing.assert_array_equal(view["terminal"], np.array(terminal)[expected])
        np.testing.assert_array_equal(view["action"][:, 0], np.float32(np.array(expected) / 100))
        np.testing.assert_array_equal(view["reward"], np.float32(np.array(expected) / 10))
    else:
        with pytest.raises(BadInput, match="no rows"):
            data.transitions()

    parts = plain_episodes(terminal, timeout, limit)
    inside = {i for part in parts for i in part[:-1]}
    seen = [i for i in range(len(terminal)) if terminal[i] or i in inside]
    if seen:
        view = data.transitions("dynamics")
        np.testing.assert_array_equal(view["obs"][:, 0], seen)
        np.testing.assert_array_equal(view["known"], [i in inside for i in seen])
        # Never another episode's start: where what followed is unknown, a row has its own observation.
        np.testing.assert_array_equal(view["next_obs"][:, 0], [i + (i in inside) for i in seen])
        np.testing.assert_array_equal(view["terminal"], np.array(terminal)[seen])

    assert [list(range(s.start, s.stop)) for s in data.episodes()] == parts
    np.testing.assert_allclose(data.returns(), [sum(i / 10 for i in part) for part in parts], rtol=1e-6)


def test_the_counter_stands_at_one_after_a_terminal_as_in_d4rl():
    data = numbered(flags("01000000"), limit=3)
    # By hand: 0, 1 (terminal), then counts 1, 2: row 3 is cut; 4, 5 count 0, 1; row 6 is cut; 7 is last.
    assert data.transitions()["obs"][:, 0].tolist() == [0, 1, 2, 4, 5]
    assert data.episodes() == [slice(0, 2), slice(2, 5), slice(5, 8)]


def test_a_time_out_row_and_the_last_row_are_left_out():
    data = numbered(flags("00010000"), timeout=flags("01000011"))
    view = data.transitions()
    assert view["obs"][:, 0].tolist() == [0, 2, 3, 4, 5]
    assert view["terminal"].tolist() == flags("00100")


def test_dynamics_view_uses_stored_next_observations_for_every_row():
    after = np.array([[1.0], [50.0], [3.0], [60.0]])
    data = numbered(flags("0100"), timeout=flags("0001"), next_obs=after)
    view = data.transitions("dynamics")
    np.testing.assert_array_equal(view["next_obs"], after)
    assert view["terminal"].tolist() == flags("0100") and view["known"].all()
    bellman = data.transitions()
    np.testing.assert_array_equal(bellman["next_obs"][:, 0], [1, 2, 3])  # row i + 1, as in D4RL
    assert "known" not in bellman


def test_the_whole_has_what_followed_where_the_next_row_does_not():
    after = np.array([[1.0], [50.0], [3.0], [60.0]])
    whole = numbered(flags("0100"), timeout=flags("0001"), next_obs=after).whole()
    assert whole["gap"].tolist() == [1, 3] and whole["gap_obs"].tolist() == [[50], [60]]
    assert "gap" not in numbered(flags("0100"), timeout=flags("0001")).whole()


def test_unknown_view_names_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'bellman'"):
        numbered(flags("01")).transitions("belman")


def test_top_keeps_the_best_episodes_whole_and_in_order():
    #          episode 0   1    2      3 (open tail)
    data = numbered(flags("01001000"), reward=[1.0, 1, 5, 5, 5, 0, 9, 0], timeout=flags("00000100"))
    assert data.returns().tolist() == [2, 15, 0, 9]
    best = data.top(0.5)
    assert best.obs[:, 0].tolist() == [2, 3, 4, 6, 7]
    assert best.terminal.tolist() == flags("00100")
    assert best.timeout is not None and best.timeout.tolist() == flags("00001")
    assert best.returns().tolist() == [15, 9]
    assert best.transitions()["obs"][:, 0].tolist() == [2, 3, 4, 6]
    assert data.top(0.1).returns().tolist() == [15]  # at least one
    assert data.top(1).obs[:, 0].tolist() == list(range(8))
    for share in (0, -1, 1.01, float("nan")):
        with pytest.raises(BadInput, match="share"):
            data.top(share)


def test_top_never_pairs_rows_of_different_episodes():
    data = numbered(flags("000000000"), limit=3, reward=[9.0, 0, 0, 0, 0, 0, 5, 0, 0])
    best = data.top(2 / 3)
    assert best.obs[:, 0].tolist() == [0, 1, 2, 6, 7, 8]
    view = best.transitions()
    assert list(zip(view["obs"][:, 0], view["next_obs"][:, 0], strict=True)) == [
        (0, 1),
        (1, 2),
        (6, 7),
        (7, 8),
    ]


def test_hash_knows_every_array_and_its_shape():
    base = numbered(flags("0101"), timeout=flags("0010"))
    again = numbered(flags("0101"), timeout=flags("0010"))
    assert base.hash == again.hash and len(base.hash) == 64
    others = [
        numbered(flags("0001"), timeout=flags("0010")),
        numbered(flags("0101"), timeout=flags("0000")),
        numbered(flags("0101")),
        numbered(flags("0101"), timeout=flags("0010"), next_obs=np.ones((4, 1))),
        numbered(flags("0101"), timeout=flags("0010"), reward=[0, 0.1, 0.2, 0.30001]),
    ]
    assert len({base.hash, *(other.hash for other in others)}) == 6


def test_prepare_maps_actions_rewards_and_observations():
    data = Dataset.from_arrays(
        [[0.0, 5.0], [4.0, 5.0], [8.0, 5.0]],
        [[-2.0, 0.0], [0.0, 5.0], [2.0, 10.0]],
        [-10.0, 0.0, 30.0],
        [False, False, True],
        action_space=Box((-2.0, 0.0), (2.0, 10.0)),
    )
    rows, same = prepare(data, Preprocess())
    np.testing.assert_array_equal(rows["action"], [[-1, -1], [0, 0]])
    np.testing.assert_array_equal(rows["reward"], [-10, 0])
    np.testing.assert_array_equal(same(rows["obs"]), data.obs[:2])
    assert same.mean.tolist() == [0, 0] and same.std.tolist() == [1, 1]

    rows, normaliser = prepare(data, Preprocess("standardise", "unit"))
    # The view's observations are rows 0 and 1: mean (2, 5), standard deviation (2, 0).
    np.testing.assert_array_equal(normaliser.mean, [2, 5])
    np.testing.assert_allclose(normaliser.std, [2.001, 1.0], rtol=1e-6)  # 1 where nothing changes
    np.testing.assert_allclose(rows["obs"], [[-2 / 2.001, 0], [2 / 2.001, 0]], rtol=1e-6)
    np.testing.assert_allclose(rows["next_obs"], [[2 / 2.001, 0], [6 / 2.001, 0]], rtol=1e-6)
    np.testing.assert_allclose(rows["reward"], [-1, -0.5])  # -10..30 is the range over the data set
    assert {key: x.dtype.name for key, x in rows.items()} == {
        **dict.fromkeys(("obs", "action", "reward", "next_obs", "next_action"), "float32"),
        "terminal": "bool",
    }
    np.testing.assert_array_equal(data.obs[:, 0], [0, 4, 8])  # the data set itself is as it was

    rows, _ = prepare(data, Preprocess(reward="antmaze"))
    np.testing.assert_array_equal(rows["reward"], [-42, -2])


def test_prepare_refuses_what_it_cannot_do():
    data = numbered(flags("001"), reward=[1.0, 1, 1])
    with pytest.raises(BadInput, match="every reward is 1"):
        prepare(data, Preprocess(reward="unit"))
    with pytest.raises(BadInput, match="did you mean 'standardise'"):
        prepare(data, Preprocess(obs="standardize"))
    with pytest.raises(BadInput, match="no reward preprocessing"):
        prepare(data, Preprocess(reward="half"))


def test_discrete_actions_stay_integers():
    data = Dataset.from_arrays(
        np.zeros((3, 2)), [[2], [0], [1]], [0, 0, 1], [0, 0, 1], action_space=Discrete(3)
    )
    assert data.action.dtype == np.int32 and data.action.tolist() == [2, 0, 1]
    assert data.spec == Spec(2, Discrete(3))
    rows, _ = prepare(data, Preprocess())
    assert rows["action"].tolist() == [2, 0]


def test_data_without_a_transition_is_described_but_not_trained_on():
    data = numbered(flags("00"), timeout=flags("11"))
    assert info(data).transitions == 0 and info(data).episodes == 2
    with pytest.raises(BadInput, match="the bellman view has no rows"):
        data.transitions()


def test_info_counts_by_hand():
    data = Dataset.from_arrays(
        np.zeros((5, 2)),
        [[1.0, 0.2], [-1.0, 1.0], [0.0, 0.5], [0.999, 0.0], [0.0, 0.0]],
        [1.0, 2, 3, 4, 5],
        flags("01000"),
        timeout=flags("00010"),
        action_space=Box((-1.0, -1.0), (1.0, 1.0)),
    )
    found = info(data)
    assert found.boundary_action_share == 0.3
    assert (found.rows, found.episodes, found.terminals, found.timeouts) == (5, 3, 1, 1)
    assert found.transitions == 3  # row 3 is cut, row 4 the last
    assert (found.reward.min, found.reward.max) == (1, 5)
    assert (found.returns.mean, found.returns.min, found.returns.median) == (5, 3, 5)
    assert (found.lengths.mean, found.lengths.max) == (5 / 3, 2)
    assert found.hash == data.hash and found.metadata == {}


def test_a_dimension_that_never_changes_is_not_blown_up(tmp_path):
    """By 1e-3 it would be: a sensor that drifts by 0.01 at run time would be ten deviations away."""
    obs = np.stack([np.linspace(-1, 1, 20), np.full(20, 0.3), np.full(20, 4.65e6)], 1)
    data = Dataset.from_arrays(obs, np.zeros((20, 1)), np.zeros(20), np.arange(20) == 19, action_space=UNIT)
    rows, normaliser = prepare(data, Preprocess("standardise"))
    np.testing.assert_array_equal(normaliser.std[1:], 1.0)
    np.testing.assert_array_equal(rows["obs"][:, 1:], 0.0)
    np.testing.assert_allclose(normaliser.std[0], obs[:-1, 0].std() + 1e-3, rtol=1e-6)
