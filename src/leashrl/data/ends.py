"""Where episodes end, under the names that other libraries and people's own logs have for it.

    flags      true on an episode's last row        episode_terminals, is_last, truncated, dones_float
    starts     true on its first row                is_first, episode_starts
    masks      0 on its last row                    masks, not_done, discounts
    numbers    the same within an episode           episode_id, traj, run_number
    counters   growing within an episode            timesteps, step, t, frame_index

A file without `timeouts` that has such an array, and says by it that an episode ends where `terminals` does
not, would be trained on across the seams.
"""

import re
from collections.abc import Mapping

import numpy as np

EPISODE = r"(is_|episode_|episodes_|ep_|traj_|trajectory_|rollout_|step_|infos?_)*"
NAMES = {
    "flags": (
        rf"{EPISODE}(last|ends?|finals?|dones?|finished|over|terminals?|terminat\w+|trunc\w*|time_?outs?"
        r"|time_?limits?\w*|boundar\w+|cuts?)(_float|_flags?|_mask)?"
    ),
    "starts": rf"{EPISODE}(first|starts?|begins?|initials?|resets?)(_flags?)?",
    "masks": rf"{EPISODE}(masks?|(not|non)_?(dones?|last|terminals?|ends?|over)|continu\w+|discounts?|alive)",
    "numbers": (
        r"(episodes?|ep|trajs?|trajector(y|ies)|runs?|rollouts?|demos?|sessions?)"
        r"(_(ids?|index|indices|idx|numbers?|num|nr|no))?"
    ),
    "counters": (
        rf"{EPISODE}(t|time_?steps?|steps?|elapsed_steps?|frames?)(_(ids?|index|idx|numbers?|num|count))?"
    ),
}
"""A regular expression per kind, for the last part of a name in lower case, other signs as `_`."""


def kind_of(name: str) -> str | None:
    """Which of `NAMES` an array's name is of, by its last part; None for all other names.

    >>> kind_of("infos/TimeLimit.truncated"), kind_of("Episode-ID"), kind_of("qpos")
    ('flags', 'numbers', None)
    """
    last = re.sub(r"[^a-z0-9]+", "_", name.rsplit("/", 1)[-1].lower()).strip("_")
    return next((kind for kind, pattern in NAMES.items() if re.fullmatch(pattern, last)), None)


def ends_of(kind: str, array: np.ndarray) -> np.ndarray | None:
    """(n,) bool: an episode's last rows by an array of this kind; None where it does not have that form.

    >>> ends_of("counters", np.array([0, 1, 2, 0, 1])).tolist()
    [False, False, True, False, False]
    >>> ends_of("starts", np.array([1, 0, 1, 0])).tolist()
    [False, True, False, False]
    """
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    numeric = array.dtype.kind in "fiub"
    if array.ndim != 1 or not array.size or not (numeric or (kind == "numbers" and array.dtype.kind in "SU")):
        return None
    open_end = lambda within: np.append(within, False)  # what follows the last row is not known
    if kind == "numbers":
        return open_end(array[1:] != array[:-1])
    if kind == "counters":
        return open_end(array[1:] <= array[:-1])
    if kind == "masks":
        return array == 0 if np.all((array >= 0) & (array <= 1)) else None
    if not np.all((array == 0) | (array == 1)):
        return None
    marked = array.astype(bool)
    return marked if kind == "flags" else open_end(marked[1:])


def unmarked(extras: Mapping[str, np.ndarray], known: np.ndarray) -> tuple[str, np.ndarray] | None:
    """The first array that ends episodes on rows where `known`, (n,) bool, has no end: its name, those rows.

    An array that ends an episode on every other row or more is no such thing, and is passed over.
    """
    for name in extras:
        kind = kind_of(name)
        if kind is None or name.startswith("metadata/"):
            continue
        ends = ends_of(kind, extras[name])
        if ends is None or len(ends) != len(known) or 2 * ends.sum() > len(ends):
            continue
        more = ends & ~known
        more[-1:] = False
        if more.any():
            return name, more
    return None
