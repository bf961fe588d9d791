"""Damaged files: whatever is done to a valid one, it loads or is refused in one line."""

import contextlib
import json
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leashrl.data import check, info, load
from leashrl.errors import BadInput
from support.files import N, arrays, write

KEY = st.sampled_from([*arrays()])
CHANGE = st.one_of(
    st.tuples(st.just("drop"), KEY, st.none()),
    st.tuples(
        st.just("rename"), KEY, st.text(st.characters(codec="ascii", exclude_characters="/\0"), min_size=1)
    ),
    st.tuples(st.just("dtype"), KEY, st.sampled_from(["f2", "f8", "i1", "i8", "u8", "?", "c8", "S3", ">f4"])),
    st.tuples(st.just("value"), KEY, st.sampled_from([np.nan, np.inf, -2.0, 0.5, 1.0001, 1e30])),
    st.tuples(st.just("length"), KEY, st.integers(0, N)),
    st.tuples(st.just("all lengths"), KEY, st.integers(0, N)),
    st.tuples(st.just("shape"), KEY, st.sampled_from([(N, 1), (1, N), (N, 1, 1), (0,), (N, 0), ()])),
    st.tuples(st.just("group"), KEY, st.none()),
)


def mutate(values, how, key, what):
    value = values.get(key)
    if how == "all lengths":
        values.update({k: v[:what] for k, v in values.items() if isinstance(v, np.ndarray) and v.ndim})
    elif not isinstance(value, np.ndarray):
        return
    elif how == "drop":
        del values[key]
    elif how == "rename":
        values[what] = values.pop(key)
    elif how == "dtype":
        with np.errstate(invalid="ignore"), contextlib.suppress(ValueError):  # "Fal" is no number
            values[key] = value.real.astype(what)
    elif how == "value" and value.size and value.dtype.kind in "fb":
        value = value.astype(np.float64)
        value.flat[value.size // 2] = what
        values[key] = value
    elif how == "length" and value.ndim:
        values[key] = value[:what]
    elif how == "shape":
        values[key] = np.resize(value, what)
    elif how == "group":
        values[key] = {}


def outcome(path):
    """Whether it loads; anything but a whole Dataset or a one-line BadInput fails the test."""
    found = check(path)
    try:
        data = load(path)
    except BadInput as error:
        assert "\n" not in str(error) and len(str(error)) > 20
        assert any(x.fatal for x in found)
        return False
    assert not any(x.fatal for x in found)
    n = len(data.reward)
    assert (
        n >= 2 and data.obs.shape == (n, data.spec.obs_dim) and data.action.shape == (n, data.spec.action.dim)
    )
    assert all(np.isfinite(x).all() for x in (data.obs, data.action, data.reward))
    assert np.abs(data.action).max() <= 1
    assert data.terminal.shape == (n,) and (data.timeout is None or data.timeout.shape == (n,))
    json.dumps(info(data).to_json(), allow_nan=False)
    return True


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(CHANGE, min_size=1, max_size=3), st.sampled_from([".hdf5", ".npz"]))
def test_changed_files_load_or_are_refused_in_one_line(changes, suffix):
    values = arrays()
    for change in changes:
        mutate(values, *change)
    if suffix == ".npz":
        values = {k: v for k, v in values.items() if isinstance(v, np.ndarray)}
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = write(Path(folder) / f"x{suffix}", values)
        except (ValueError, KeyError, OSError):
            return  # a name that the container itself refuses
        outcome(path)


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.sampled_from([".hdf5", ".npz"]))
def test_truncated_files_are_refused_in_one_line(share, suffix):
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / f"x{suffix}", arrays())
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        assert not outcome(path)


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_npz_with_a_damaged_byte_loads_or_is_refused_in_one_line(place, mask):
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "x.npz", arrays())
        data = bytearray(path.read_bytes())
        data[int(place * len(data))] ^= mask
        path.write_bytes(data)
        outcome(path)
