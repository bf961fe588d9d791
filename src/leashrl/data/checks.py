"""Every defect that a data set can have, found in one pass. `load` raises on the fatal ones."""

import difflib
import numbers
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from leashrl.data import ends
from leashrl.data.dataset import Dataset
from leashrl.data.raw import KEYS, REQUIRED, Defect, Raw, line
from leashrl.errors import BadInput, nearest
from leashrl.types import Box, Discrete, Space

TOLERANCE = 1e-4
"""Actions beyond a bound by at most this share of the range are rounding, and are clipped on load."""

FIRST = 5
"""How many row numbers a defect names."""

# Names in use elsewhere for these arrays: a file that has one of them, and not ours, is misnamed.
ALIASES = {
    "observations": ("obs", "observation", "states", "state"),
    "actions": ("action", "acts", "act"),
    "rewards": ("reward", "rews"),
    "terminals": ("terminal", "dones", "done", "terminations", "terminated"),
    "timeouts": ("timeout", "truncations", "truncated", "truncation"),
    "next_observations": ("next_obs", "next_observation", "next_states"),
}

APART = re.compile(r"(\w+_\d+|(.*/)?[A-Za-z]*_?\d+/.*)")
"""The name of an array that is one episode's: `observations_4`, `data/demo_0/actions`."""

Found = Iterator[Defect]


def load_defects(raw: Raw, name: str) -> tuple[list[Defect], Dataset | None]:
    """What makes training wrong; and the data set, if its arrays are whole.

    Only of whole arrays can be said whether their rows are in order.
    """
    found = list(raw.defects)
    found += _names(raw)
    arrays: dict[str, np.ndarray] = {}
    for key in KEYS:
        if key in raw.arrays:
            array, defects = _cast(raw, key, raw.arrays[key])
            found += defects
            if array is not None:
                arrays[key] = array
    found += _lengths(raw, arrays)
    if "actions" in arrays:
        found += _bounds(raw, arrays["actions"])
        if not found and isinstance(raw.action_space, Box):
            low, high = (np.asarray(x, np.float32) for x in (raw.action_space.low, raw.action_space.high))
            if np.any(arrays["actions"] < low) or np.any(arrays["actions"] > high):
                arrays["actions"] = np.clip(arrays["actions"], low, high)
    if "terminals" in arrays:
        # A timeouts key that could not be read is reported as such, not as missing.
        found += _ends(raw, arrays, damaged=any(d.where == f"{raw.where}, timeouts" for d in found))
    if found:
        return found, None
    assert raw.action_space is not None
    data = Dataset(
        obs=arrays["observations"],
        action=arrays["actions"],
        reward=arrays["rewards"],
        terminal=arrays["terminals"],
        timeout=arrays.get("timeouts"),
        next_obs=arrays.get("next_observations"),
        action_space=raw.action_space,
        name=name,
        max_episode_steps=None if raw.max_episode_steps is None else int(raw.max_episode_steps),
        extras=raw.extras,
        action_space_assumed=raw.action_space_assumed,
        continues=raw.continues,
    )
    return [*_other_ends(raw, data), *_order(data, raw.where)], data


def to_dataset(raw: Raw, name: str) -> Dataset:
    """The checked Dataset of a Raw.

    Raises:
      BadInput: the first defect's line, and how many more there are.
    """
    found, data = load_defects(raw, name)
    if found or data is None:
        more = f" (and {len(found) - 1} more: see `leashrl data check`)" if len(found) > 1 else ""
        raise BadInput(line(found[0].message) + more)
    return data


# --- What makes training wrong ------------------------------------------------------


def _names(raw: Raw) -> Found:
    """A required key that is missing, or an optional one under a name that would be passed over."""
    if (other := _other_layout(raw)) is not None:
        yield other
        return
    tops = [name for name in raw.extras if "/" not in name]
    unread = {defect.where for defect in raw.defects}
    for key in KEYS:
        if key in raw.arrays or f"{raw.where}, {key}" in unread:
            continue
        other = next((name for name in ALIASES[key] if name in tops), None)
        other = other or next(iter(difflib.get_close_matches(key, tops, n=1, cutoff=0.8)), None)
        if other is not None:
            text = f"{raw.where}: no key '{key}', but there is '{line(other)}': rename it to '{key}'"
            yield Defect("misnamed key", f"{raw.where}, {line(other)}", (), text)
        elif key in REQUIRED:
            known = [line(name) for name in [*raw.arrays, *tops]]
            hint = nearest(key, known) if known else "the file holds no arrays"
            yield Defect("missing key", f"{raw.where}, {key}", (), f"{raw.where}: no key '{key}'; {hint}")


def _other_layout(raw: Raw) -> Defect | None:
    """A file that keeps each episode apart, in arrays or groups with its number."""
    if any(key in raw.arrays for key in REQUIRED):
        return None
    apart = next((m for m in map(APART.fullmatch, raw.extras) if m), None)
    if apart is None:
        return None
    text = (
        f"{raw.where} keeps each episode apart ('{line(apart[0])}'), as d3rlpy, robomimic and others do: "
        "join the episodes, one array of N rows each, and give them to Dataset.from_arrays, the last row of "
        "each marked in terminal or timeout"
    )
    return Defect("other layout", raw.where, (), text)


def _cast(raw: Raw, key: str, array: np.ndarray) -> tuple[np.ndarray | None, list[Defect]]:
    """One array with the rank and dtype of `Dataset`, or None; and the defects met on the way."""
    where = f"{raw.where}, {key}"

    def bad(kind: str, text: str) -> tuple[None, list[Defect]]:
        return None, [Defect(kind, where, (), f"{where} {text}")]

    if array.dtype.kind not in "fiub":
        return bad("dtype", f"holds {line(array.dtype)}: it must hold numbers")
    space, discrete = raw.action_space, key == "actions" and isinstance(raw.action_space, Discrete)
    if isinstance(space, Discrete) and discrete and array.shape[1:] == (space.n,) != (1,) and _one_hot(array):
        array = array.argmax(1)
    flat = key in ("observations", "next_observations") or _one_dimension(space)
    if flat and key not in ("rewards", "terminals", "timeouts") and array.ndim == 1:
        array = array[:, None]  # of one dimension
    if key in ("rewards", "terminals", "timeouts") or discrete:
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]  # some files hold (N, 1)
        if array.ndim != 1:
            return bad("rank", f"has shape {array.shape}: it must be (N,)")
    elif array.ndim != 2 or array.shape[1] == 0:
        return bad("rank", f"has shape {array.shape}: it must be (N, dim)")

    if key == "actions":
        integer = array.dtype.kind in "iub"
        if discrete:
            if not integer and not np.all(np.mod(array, 1) == 0):
                return bad("dtype", "are not whole numbers, though the action space is Discrete")
            info = np.iinfo(np.int32)
            outside = (array < info.min) | (array > info.max)
            if outside.any():
                return None, [of_rows("action bounds", where, outside, "do not fit int32")]
            return array.astype(np.int32, copy=False), []
        if integer:
            return bad(
                "integer action",
                "are integers, in a Box: give action_space=Discrete(n) (--actions N), or store floats",
            )
    if key in ("terminals", "timeouts"):
        wrong = np.zeros(0, bool) if array.dtype.kind == "b" else (array != 0) & (array != 1)
        if wrong.any():
            return None, [of_rows("flag value", where, wrong, "are neither 0 nor 1")]
        return array.astype(bool, copy=False), []

    with np.errstate(over="ignore"):  # a float64 too large for float32 is reported as infinite below
        array = array.astype(np.float32, copy=False)
    finite = np.isfinite(array)
    if not finite.all():
        rows = ~finite if array.ndim == 1 else ~finite.all(1)
        return None, [of_rows("not finite", where, rows, "hold NaN or infinity: remove or mend them")]
    return array, []


def _one_dimension(space: Space | None) -> bool:
    return isinstance(space, Box) and isinstance(space.low, tuple) and space.dim == 1


def _one_hot(array: np.ndarray) -> bool:
    return bool(np.all((array == 0) | (array == 1)) and np.all(array.sum(1) == 1))


def _lengths(raw: Raw, arrays: dict[str, np.ndarray]) -> Found:
    """Equal lengths, at least two rows, next observations shaped as observations."""
    if not arrays:
        return
    n = next(iter(arrays.values())).shape[0]
    if any(len(x) != n for x in arrays.values()):
        lengths = ", ".join(f"{key} {len(x)}" for key, x in arrays.items())
        yield Defect("length", raw.where, (), f"{raw.where}: arrays differ in length: {lengths}")
    elif n == 0:
        yield Defect("empty", raw.where, (), f"{raw.where} holds no rows: nothing to train on")
    elif n == 1:
        text = f"{raw.where} holds a single row: a transition needs the row after it"
        yield Defect("one row", raw.where, (0,), text, 1)
    obs, after = arrays.get("observations"), arrays.get("next_observations")
    if obs is not None and after is not None and obs.shape[1] != after.shape[1]:
        where = f"{raw.where}, next_observations"
        text = f"{where} have {after.shape[1]} dimensions, observations {obs.shape[1]}"
        yield Defect("length", where, (), text)


def _bounds(raw: Raw, action: np.ndarray) -> Found:
    """A usable action space, and actions within it."""
    where, space = f"{raw.where}, actions", raw.action_space
    if space is None:
        text = (
            f"{raw.where}: the action space is not in the file and is never guessed: write a file that "
            "says it, `leashrl data convert FILE OUT --action-low LIST --action-high LIST` (or --actions N), "
            "or in Python give action_space=Box(low, high) or Discrete(n)"
        )
        yield Defect("action space", where, (), text)
        return
    problem = space_problem(space)
    if problem is not None:
        yield Defect("action space", where, (), f"{raw.where}: the action space {problem}")
    elif isinstance(space, Discrete):
        outside = (action < 0) | (action >= space.n)
        if outside.any():
            yield of_rows("action bounds", where, outside, f"lie outside 0..{space.n - 1}")
    elif space.dim != action.shape[1]:
        text = f"{where} have {action.shape[1]} dimensions, the action space {space.dim}"
        yield Defect("action space", where, (), text)
    else:
        low, high = np.asarray(space.low), np.asarray(space.high)
        # The tolerance is at least float32's own rounding of the bound.
        slack = np.maximum(TOLERANCE * (high - low), 1e-6 * np.maximum(abs(low), abs(high)))
        low, high = (low - slack).astype(np.float32), (high + slack).astype(np.float32)
        outside = ((action < low) | (action > high)).any(1)
        if outside.any():
            text = (
                f"lie outside the action space {in_words(space)}: clip them, or give the right action_space"
            )
            yield of_rows("action bounds", where, outside, text)


def space_problem(space: Space) -> str | None:
    """What is wrong with an action space, or None."""
    if not isinstance(space, Box | Discrete):
        return f"must be a leashrl.types.Box or Discrete, not {type(space).__module__}.{type(space).__name__}"
    if isinstance(space, Discrete):
        return None if space.n >= 1 else f"Discrete({space.n}) has no action"
    if not isinstance(space.low, tuple) or not isinstance(space.high, tuple):
        return "needs a tuple of lower and one of upper bounds, as Box((-1.0, -1.0), (1.0, 1.0))"
    if len(space.low) != len(space.high) or not space.low:
        return (
            f"has {len(space.low)} lower and {len(space.high)} upper bounds: give one of each per dimension"
        )
    if not np.all(np.isfinite([space.low, space.high])):
        return f"{in_words(space)} is unbounded: give action_space=Box(low, high) with finite bounds"
    if not np.all(np.asarray(space.low, np.float32) < np.asarray(space.high, np.float32)):
        return f"{in_words(space)} is empty: each low must be below its high"
    return None


def _ends(raw: Raw, arrays: dict[str, np.ndarray], damaged: bool) -> Found:
    """At least one place where an episode ends, or a limit from which to know."""
    limit = raw.max_episode_steps
    whole = isinstance(limit, numbers.Real) and float(limit).is_integer()
    if limit is not None and (not whole or limit < 1):
        text = f"{raw.where}: max_episode_steps is {line(limit)}: give a whole number, 1 or more"
        yield Defect("no episode ends", raw.where, (), text)
        return
    terminal, timeout = arrays["terminals"], arrays.get("timeouts")
    if terminal.any() or damaged or terminal.size < 2:
        return
    if timeout is None and limit is None:
        hint = (
            "write a file that says where they are cut, `leashrl data convert FILE OUT --limit N`, or in "
            "Python give timeout= or max_episode_steps="
        )
        text = f"{raw.where}: no episode ends: terminals are all false and there is no timeouts key: {hint}"
        yield Defect("no episode ends", raw.where, (), text)
    elif timeout is not None and not timeout.any():
        hint = "mark each episode's last row"
        text = f"{raw.where}: no episode ends: terminals and timeouts are all false: {hint}"
        yield Defect("no episode ends", raw.where, (), text)


def _other_ends(raw: Raw, data: Dataset) -> Found:
    """Ends of episodes that the source knows under another name, and the data set does not."""
    if data.timeout is not None or (other := ends.unmarked(raw.extras, data.ends)) is None:
        return
    name, rows = other
    text = (
        f"end an episode by '{line(name)}', and not by terminals: write a file that says so, `leashrl data "
        f"convert FILE OUT --ends {line(name)}` (in Python ends='{line(name)}'), or remove that array"
    )
    yield of_rows("other ends", f"{raw.where}, {line(name)}", rows, text)


def _order(data: Dataset, where: str) -> Found:
    """Rows that follow one another in time: the `bellman` view takes the next row's observation.

    Single rows that do not are odd (`oddities`): a time-out may not be marked. More than half of those
    inside episodes are shuffled or sampled.
    """
    foreign, inside = out_of_order(data), int(np.sum(~data.ends[:-1]))
    if 2 * np.sum(foreign) > inside:
        text = (
            f"(of {inside} inside episodes) are not the next row's observation: sort the rows by time "
            "and mark each episode's end in terminals or timeouts; if they are sorted, leave "
            "next_observations out; single transitions in no order are read another way, `leashrl data "
            "convert FILE OUT --transitions`, in Python Dataset.from_transitions"
        )
        yield of_rows("row order", f"{where}, next_observations", foreign, text)


def out_of_order(data: Dataset) -> np.ndarray:
    """(n - 1,) bool: no episode ends there, yet the stored next observation is not the next row's."""
    if data.next_obs is None:
        return np.zeros(len(data) - 1, bool)
    return np.any(data.next_obs[:-1] != data.obs[1:], axis=1) & ~data.ends[:-1]


def of_rows(kind: str, where: str, mask: Any, text: str, fatal: bool = True) -> Defect:
    """A defect of the rows where `mask`, (n,) bool, is true: `WHERE: rows 3, 8 TEXT`."""
    rows = np.flatnonzero(mask)
    first = tuple(rows[:FIRST].tolist())
    more = f" and {len(rows) - len(first)} more" if len(rows) > len(first) else ""
    listing = ", ".join(map(str, first))
    return Defect(kind, where, first, f"{where}: rows {listing}{more} {text}", len(rows), fatal)


def in_words(space: Space) -> str:
    if isinstance(space, Discrete):
        return f"Discrete({space.n})"
    low, high = sorted(set(space.low)), sorted(set(space.high))
    if len(low) == 1 and len(high) == 1:
        return f"Box({low[0]:g} to {high[0]:g}, {space.dim} dimensions)"
    return f"Box({', '.join(f'{x:g} to {y:g}' for x, y in zip(space.low, space.high, strict=True))})"
