"""Single transitions (s, a, r, s', terminal) in no order, as buffers keep them, made rows of a log.

Each becomes an episode of its own: the row of s, and behind it a row of s' at a time-out, which lends its
observation and is never learnt from. A terminal needs no s'. What an episode tells is lost with the order:
returns, returns to go, and the action that was taken in s'.
"""

from collections.abc import Mapping

import numpy as np

from leashrl.errors import BadInput

WANTED = ("observations", "actions", "rewards", "terminals", "next_observations")


def rows_of(arrays: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """The rows, in D4RL's names, of arrays that hold a transition each.

    Raises:
      BadInput: an array is missing, or they differ in length.

    >>> one = {"observations": [[1.0]], "actions": [[0.5]], "rewards": [2.0], "next_observations": [[3.0]]}
    >>> rows = rows_of({k: np.array(v) for k, v in one.items()} | {"terminals": np.array([False])}, "log")
    >>> rows["observations"].tolist(), rows["rewards"].tolist(), rows["timeouts"].tolist()
    ([[1.0], [3.0]], [2.0, 0.0], [False, True])
    """
    missing = [name for name in WANTED if name not in arrays]
    if missing:
        raise BadInput(f"{where}: transitions need '{missing[0]}'")
    found = {name: arrays[name] for name in WANTED}
    sizes = {name: len(x) if x.ndim else 0 for name, x in found.items()}
    if len(set(sizes.values())) > 1:
        raise BadInput(f"{where}: arrays differ in length: {', '.join(f'{k} {n}' for k, n in sizes.items())}")
    over = found["terminals"].reshape(len(found["terminals"]), -1)[:, :1].ravel() != 0
    which = np.repeat(np.arange(len(over)), np.where(over, 1, 2))
    behind = np.zeros(len(which), bool)
    behind[1:] = which[1:] == which[:-1]
    rows = {name: found[name][which] for name in ("observations", "actions", "rewards", "terminals")}
    rows["observations"][behind] = found["next_observations"][which[behind]]
    rows["rewards"][behind] = 0
    return rows | {"timeouts": behind}
