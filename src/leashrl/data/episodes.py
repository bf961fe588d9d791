"""A list of episodes joined into rows, and a data set written to a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leashrl.data.hdf5 import write_hdf5
from leashrl.data.npz import write_npz
from leashrl.data.raw import Raw, looked_up
from leashrl.errors import BadInput, nearest

if TYPE_CHECKING:
    from leashrl.data.dataset import Dataset

KEYS = ("obs", "action", "reward", "terminal")


def joined(episodes: Sequence[Mapping[str, Any]], names: Mapping[str, str], where: str) -> dict[str, Any]:
    """The arguments of `Dataset.from_arrays` for a list of episodes; `names` are others of their keys."""
    unknown = next((name for name in names if name not in KEYS), None)
    if unknown is not None:
        raise BadInput(f"an episode has no '{unknown}': {nearest(unknown, KEYS)}")
    parts: dict[str, list[np.ndarray]] = {key: [] for key in (*KEYS, "timeout", "next_obs")}
    for i, episode in enumerate(episodes):
        for key, rows in rows_of(episode, {key: names.get(key, key) for key in KEYS}, f"{where} {i}").items():
            parts[key].append(rows)
    if not parts["obs"]:
        raise BadInput(f"{where}: no episodes")
    whole = {
        key: rows for key, rows in parts.items() if len(rows) == len(parts["obs"])
    }  # next_obs of all, or none
    try:
        return {key: np.concatenate(rows) for key, rows in whole.items()}
    except ValueError as error:
        raise BadInput(f"{where}: the episodes do not go together: {' '.join(str(error).split())}") from None


def rows_of(episode: Mapping[str, Any], names: Mapping[str, str], where: str) -> dict[str, np.ndarray]:
    """One episode's rows, its last one marked."""
    if not isinstance(episode, Mapping):
        raise BadInput(f"episode {where} is a {type(episode).__name__}, not a dict of arrays")
    missing = next((names[key] for key in KEYS[:3] if names[key] not in episode), None)
    if missing is not None:
        raise BadInput(f"episode {where} has no '{missing}': {nearest(missing, [*map(str, episode)])}")
    try:
        obs, action, reward = (np.atleast_1d(np.asarray(episode[names[key]])) for key in KEYS[:3])
    except ValueError:
        raise BadInput(f"episode {where} holds rows of different lengths") from None
    n = len(reward)
    if not n:
        raise BadInput(f"episode {where} has no rows")
    if len(action) != n or len(obs) not in (n, n + 1):
        raise BadInput(f"episode {where} has {n} rewards, {len(obs)} observations and {len(action)} actions")
    found = {"obs": obs[:n], "action": action, "reward": reward.reshape(n, -1)[:, 0]}
    if len(obs) == n + 1:
        found["next_obs"] = obs[1:]
    flag = np.asarray(episode.get(names["terminal"], False))
    last = np.arange(n) == n - 1
    terminal = last & bool(flag) if flag.ndim == 0 else flag.astype(bool).reshape(-1)
    if len(terminal) != n:
        raise BadInput(f"episode {where} has {n} rewards and {len(terminal)} flags")
    return found | {"terminal": terminal, "timeout": last & ~terminal}


def write(data: "Dataset", path: str | Path) -> None:
    """A data set as a file of D4RL's names; its extras go along."""
    with looked_up(path):
        target = Path(path).expanduser()
        if target.exists():
            raise BadInput(f"{target} exists already: remove it or give another name")
    writers = {".hdf5": write_hdf5, ".h5": write_hdf5, ".npz": write_npz}
    if target.suffix.lower() not in writers:
        raise BadInput(f"a data set is saved as .hdf5, .h5 or .npz: name the file {target.name}.hdf5")
    if data.continues:
        raise BadInput("episodes go on behind their task's end here, which only OGBench's files can say")
    arrays = {
        "observations": data.obs,
        "actions": data.action,
        "rewards": data.reward,
        "terminals": data.terminal,
        "timeouts": data.timeout,
        "next_observations": data.next_obs,
    }
    raw = Raw(
        str(target), {name: x for name, x in arrays.items() if x is not None}, data.extras,
        action_space=data.action_space, max_episode_steps=data.max_episode_steps,
    )  # fmt: skip
    writers[target.suffix.lower()](raw, target)
