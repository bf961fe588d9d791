"""Minari data sets (HDF5 storage), local ones only: nothing here downloads.

Minari keeps one group an episode, with T + 1 observations and T of everything else. What it has no
place for (`metadata/*`, other extras, HDF5's attributes, whether the source had `timeouts` and
`next_observations` at all) is kept beside its own file in `leashrl.hdf5`, so that a round trip loses
nothing. What changes: flags become bool, (N, 1) becomes (N,), structured observations become one vector
(leaves in the order and form of `gymnasium.spaces.flatten`). Reset options are not carried.

Reading needs h5py only; writing goes through the `minari` package, so that its files are its own.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from leashrl.data.dataset import Dataset
from leashrl.data.hdf5 import read_hdf5, write_hdf5
from leashrl.data.raw import (
    ATTRIBUTES,
    Lazy,
    Raw,
    attributes_from_field,
    attributes_to_field,
    line,
    looked_up,
)
from leashrl.errors import BadInput
from leashrl.types import Box, Discrete, Space

BESIDE = "leashrl.hdf5"
ID = re.compile(r"([-_\w][-_\w/]*[-_\w]/)?[-_\w]+-v\d+")

# Entries of metadata.json that describe the storage itself and are written anew.
STRUCTURE = {
    *("total_episodes", "total_steps", "data_format", "jpeg_encoding", "dataset_size"),
    *("observation_space", "action_space", "dataset_id", "minari_version"),
}


def minari_folder(name: str) -> Path:
    """Where Minari keeps the data set of this id."""
    root = os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets"
    return Path(root) / name


def minari_data(folder: Path) -> Path | None:
    """The folder that holds `metadata.json`: `folder` or its `data/`; None if it is no Minari data set."""
    return next((f for f in (folder / "data", folder) if (f / "metadata.json").is_file()), None)


# --- Reading ------------------------------------------------------------------------


def read_minari(folder: Path) -> Raw:
    """`observations` are each episode's first T, `next_observations` its last T.

    Infos of length T + 1 are split into `infos/NAME` (the first T) and `final_infos/NAME` (one row an
    episode); those of other lengths are `odd_infos/EPISODE/NAME`. The rest of `metadata.json` is
    `metadata/minari`, as JSON.

    Raises:
      BadInput: the data set cannot be read.
    """
    data = minari_data(folder)
    if data is None:
        raise BadInput(f"{folder} is not a Minari data set: it has no metadata.json")
    main = data / "main_data.hdf5"
    try:
        metadata = json.loads((data / "metadata.json").read_text())
        if metadata.get("data_format", "hdf5") != "hdf5":
            raise BadInput(
                f"{folder} is stored as {line(metadata['data_format'])}: only Minari's hdf5 is read"
            )
        space = _our_space(metadata, str(folder))
        spec = metadata.get("env_spec")
        limit = json.loads(spec).get("max_episode_steps") if isinstance(spec, str) else None
        with h5py.File(main, "r") as file:
            episodes = [file[f"episode_{i}"] for i in range(int(metadata["total_episodes"]))]
            if not episodes:
                raise BadInput(f"{folder} holds no episodes: nothing to train on")
            of_obs = json.loads(metadata["observation_space"]) if "observation_space" in metadata else None
            arrays, names = _arrays(episodes, of_obs, str(folder)), _info_names(episodes)
            seeds = [int(group.attrs.get("seed", -1)) for group in episodes]
            options = any(key.startswith("options") for group in episodes for key in group.attrs)
        beside = read_hdf5(data / BESIDE) if (data / BESIDE).exists() else None
        # Episodes added by Minari since then make what lies beside stale.
        stale = beside is not None and int(beside.extras["rows"]) != len(arrays["rewards"])
        kept: Mapping[str, np.ndarray] = beside.extras if beside and not stale else {}
        attributes = attributes_from_field(kept.get(ATTRIBUTES))
    except BadInput:
        raise
    except Exception as error:  # a damaged data set makes json and h5py raise almost anything
        raise BadInput(f"{folder} cannot be read as a Minari data set ({line(error)})") from None

    small: dict[str, np.ndarray] = {}
    text = {key: value for key, value in metadata.items() if key not in STRUCTURE}
    if text:
        small["metadata/minari"] = np.asarray(json.dumps(text, sort_keys=True).encode())
    if max(seeds) >= 0:
        small["episode_seeds"] = np.asarray(seeds, np.int64)
    if beside is not None and kept:
        limit = beside.max_episode_steps
        for key in ("timeouts", "next_observations"):
            if f"without_{key}" in kept:
                arrays.pop(key)
        arrays.update(beside.arrays)
    files = {name.removeprefix("file/"): name for name in kept if name.startswith("file/")}

    def read(name: str) -> np.ndarray:
        if name in files:
            return kept[files[name]]
        return small[name] if name in small else _read_info(main, name)

    left = ["the episodes' reset options"] if options else []
    left += [f"{BESIDE} (its rows are not those of the episodes any more)"] if stale else []
    return Raw(
        str(folder),
        arrays,
        Lazy(dict.fromkeys([*names, *small, *files]), read),
        action_space=space,
        max_episode_steps=limit,
        attributes=attributes,
        left_behind=tuple(left),
    )


def _arrays(episodes: list[Any], space: dict[str, Any] | None, where: str) -> dict[str, np.ndarray]:
    """Concatenated over episodes, in D4RL's names; `space` is the observations', as Minari writes it."""
    parts: dict[str, list[np.ndarray]] = {}
    for number, group in enumerate(episodes):
        steps = len(group["rewards"])
        obs = np.concatenate(list(_columns(group["observations"], space, f"{where}, observations")), 1)
        if len(obs) != steps + 1:
            raise ValueError(f"episode_{number} has {len(obs)} observations for {steps} rewards")
        actions = np.asarray(group["actions"][()])
        values = (
            obs[:-1],
            actions,
            *(group[k][()] for k in ("rewards", "terminations", "truncations")),
            obs[1:],
        )
        names = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
        for name, value in zip(names, values, strict=True):
            parts.setdefault(name, []).append(value)
    return {name: np.concatenate(values) for name, values in parts.items()}


def _columns(item: Any, space: dict[str, Any] | None, path: str) -> Iterator[np.ndarray]:
    """(n, dim) of every leaf, flattened in the order and form of `gymnasium.spaces.flatten`."""
    if not isinstance(item, h5py.Dataset):
        below = (space or {}).get("subspaces")
        for key in sorted(item, key=_place):
            name = _place(key)[1]
            inner = None if below is None else below[name] if isinstance(below, list) else below.get(key)
            yield from _columns(item[key], inner, f"{path}/{key}")
        return
    kind = (space or {}).get("type")
    values = np.asarray(item[()])
    if values.dtype.kind not in "fiub":
        what = f"an image that is kept as {space['shape']} JPEG" if space and kind == "Box" else "no number"
        what = f"text (a {kind} space)" if kind == "Text" else what
        raise BadInput(f"{path} is {what}: only numbers are read; write a data set without it")
    if space is not None and kind == "Discrete":
        values = _one_hot(values - space.get("start", 0), int(space["n"]))
    elif space is not None and kind == "MultiDiscrete":
        sizes, starts = np.ravel(space["nvec"]), np.ravel(space.get("start", 0))
        flat = values.reshape(len(values), -1) - starts
        values = np.concatenate([_one_hot(flat[:, i], int(n)) for i, n in enumerate(sizes)], 1)
    yield values.reshape(len(values), -1)


def _place(key: str) -> tuple[str, int]:
    """What a group's entries are sorted by: the leaves of a Tuple by their numbers, all others by name."""
    number = re.fullmatch(r"_index_(\d+)", key)
    return ("_index_", int(number[1])) if number else (key, 0)


def _one_hot(values: np.ndarray, n: int) -> np.ndarray:
    values = np.reshape(values, -1)
    if (values < 0).any():  # numpy would take the last one
        raise ValueError(f"an observation of {values.min()} where 0 to {n - 1} are possible")
    return np.eye(n, dtype=np.float32)[values]


def _info_names(episodes: list[Any]) -> list[str]:
    lengths: dict[str, list[int | None]] = {}
    for number, group in enumerate(episodes):
        found: dict[str, int] = {}
        if "infos" in group:
            group["infos"].visititems(
                lambda name, item, found=found: (
                    found.update({name: item.shape[0] if item.shape else -1})
                    if isinstance(item, h5py.Dataset)
                    else None
                )
            )
        for name, length in found.items():
            steps = len(group["rewards"])
            lengths.setdefault(name, [None] * len(episodes))[number] = length - steps
    names = []
    for name, extra in lengths.items():
        if set(extra) <= {0}:
            names.append(f"infos/{name}")
        elif set(extra) <= {1}:
            names += [f"infos/{name}", f"final_infos/{name}"]
        else:
            names += [f"odd_infos/{i}/{name}" for i, length in enumerate(extra) if length is not None]
    return names


def _read_info(main: Path, name: str) -> np.ndarray:
    kind, _, rest = name.partition("/")
    with h5py.File(main, "r") as file:
        if kind == "odd_infos":
            number, _, rest = rest.partition("/")
            return np.asarray(file[f"episode_{number}/infos/{rest}"][()])  # pyright: ignore[reportIndexIssue]
        parts = []
        for number in range(len(file)):
            group: Any = file[f"episode_{number}"]
            steps, item = len(group["rewards"]), group[f"infos/{rest}"]
            parts.append(item[:steps] if kind == "infos" else item[steps:])
        return np.concatenate(parts)


def _our_space(metadata: dict[str, Any], where: str) -> Space | None:
    """The action space of metadata.json; None where it is not written out."""
    if "action_space" not in metadata:
        return None
    space = json.loads(metadata["action_space"])
    if space["type"] == "Discrete" and space.get("start", 0) == 0:
        return Discrete(int(space["n"]))
    if space["type"] == "Box" and len(space["shape"]) == 1:
        return Box(tuple(map(float, space["low"])), tuple(map(float, space["high"])))
    kind = line(space["type"])
    raise BadInput(
        f"{where}: its actions are a {kind} space: only flat Box, and Discrete from 0, are supported"
    )


# --- Writing ------------------------------------------------------------------------


def write_minari(raw: Raw, data: Dataset, name: str) -> None:
    """`raw` as the Minari data set `name`; `data` is the same, checked, and gives the episodes.

    Where the source has no next observation, an episode's last observation is repeated.

    Raises:
      BadInput: Minari is not installed, the name is not an id, the data set exists already.
    """
    try:
        from gymnasium import spaces
        from minari import __version__ as version
        from minari.dataset.minari_storage import MinariStorage
        from minari.namespace import create_namespace, list_local_namespaces
    except ImportError as error:
        raise BadInput(f"writing Minari needs {error.name}: pip install 'leashrl[minari]'") from None
    if not ID.fullmatch(name):
        raise BadInput(
            f"'{name}' is no Minari id: give minari:NAMESPACE/NAME-v0, the namespace of 2 letters or more"
        )
    target = minari_folder(name)
    with looked_up(name):
        if target.exists():
            raise BadInput(f"{target} exists already: give another name or version, or remove it")

    carried = _carried(raw, data)
    beside = _beside(raw, data, {*carried, "metadata/minari"})
    obs = raw.arrays["observations"]
    space: Any = spaces.Discrete(data.action_space.n) if isinstance(data.action_space, Discrete) else None
    if isinstance(data.action_space, Box):
        low, high = (np.asarray(x, np.float32) for x in (data.action_space.low, data.action_space.high))
        space = spaces.Box(low, high, dtype=np.float32)
    dtype: Any = obs.dtype if obs.dtype.kind == "f" else np.float32
    obs_space = spaces.Box(-np.inf, np.inf, obs.shape[1:], dtype)

    text = json.loads(raw.extras["metadata/minari"].item()) if "metadata/minari" in raw.extras else {}
    text |= {key: set(text[key]) for key in ("author", "author_email") if key in text}
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        temporary.chmod(0o755)
        storage = MinariStorage.new(temporary / "data", obs_space, space, data_format="hdf5")
        storage.update_metadata({**text, "dataset_id": name, "minari_version": version})
        storage.update_episodes(_episode_buffers(raw, data, carried))
        write_hdf5(beside, temporary / "data" / BESIDE)
        os.rename(temporary, target)
        namespace = name.rpartition("/")[0]
        if namespace and namespace not in list_local_namespaces():
            create_namespace(namespace)
    except BadInput:
        raise
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise BadInput(f"cannot write {target}: {line(getattr(error, 'strerror', None) or error)}") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _carried(raw: Raw, data: Dataset) -> dict[str, np.ndarray]:
    """The extras that Minari has a place for: infos, a row a step or an episode, and the episodes' seeds."""
    count = len(data.episodes())

    def same_length(key: str, count: int) -> bool:
        value = raw.extras[key]
        return value.ndim >= 1 and len(value) == count and value.dtype.kind in "fiub"

    infos = [k for k in raw.extras if k.startswith("infos/") and same_length(k, len(data))]
    finals = [k for k in raw.extras if k.startswith("final_infos/") and same_length(k, count)]
    finals = [k for k in finals if k[len("final_") :] in infos]
    carried = {k: raw.extras[k] for k in [*infos, *finals]}
    seeds = raw.extras.get("episode_seeds")
    return carried if seeds is None or len(seeds) != count else carried | {"episode_seeds": seeds}


def _episode_buffers(raw: Raw, data: Dataset, carried: Mapping[str, np.ndarray]) -> Iterator[Any]:
    """Every episode as Minari takes it, with the extras of `_carried`."""
    from minari.data_collector import EpisodeBuffer

    obs, after = raw.arrays["observations"], raw.arrays.get("next_observations")
    discrete = isinstance(data.action_space, Discrete)
    actions = raw.arrays["actions"].reshape(len(obs)) if discrete else raw.arrays["actions"]
    rewards = raw.arrays["rewards"].reshape(len(obs))
    timeout = np.zeros(len(obs), bool) if data.timeout is None else data.timeout
    seeds = carried.get("episode_seeds")
    for number, part in enumerate(data.episodes()):
        last = (obs if after is None else after)[part.stop - 1 : part.stop]
        nested: dict[str, Any] = {}
        for key in (k for k in carried if k.startswith("infos/")):
            value = carried[key][part]
            if (final := f"final_{key}") in carried:
                value = np.concatenate([value, carried[final][number : number + 1]])
            *groups, leaf = key.split("/")[1:]
            place = nested
            for group in groups:
                place = place.setdefault(group, {})
            place[leaf] = value
        yield EpisodeBuffer(
            seed=int(seeds[number]) if seeds is not None and seeds[number] >= 0 else None,
            observations=np.concatenate([obs[part], last]),  # pyright: ignore[reportArgumentType]
            actions=actions[part],  # pyright: ignore[reportArgumentType]
            rewards=rewards[part],  # pyright: ignore[reportArgumentType]
            terminations=data.terminal[part],  # pyright: ignore[reportArgumentType]
            truncations=timeout[part],  # pyright: ignore[reportArgumentType]
            infos=nested or None,
        )


def _beside(raw: Raw, data: Dataset, elsewhere: set[str]) -> Raw:
    """What goes into `BESIDE`: extras that are not `elsewhere`, and what says how to undo the conversion.

    Next observations are kept whole where they are not the observations of the following rows.
    """
    obs, after = raw.arrays["observations"], raw.arrays.get("next_observations")
    extras: dict[str, np.ndarray] = {f"file/{k}": v for k, v in raw.extras.items() if k not in elsewhere}
    extras |= attributes_to_field(raw.attributes)
    extras["rows"] = np.asarray(len(obs))
    exact: dict[str, np.ndarray] = {}
    if data.timeout is None:
        extras["without_timeouts"] = np.asarray(True)
    if after is None:
        extras["without_next_observations"] = np.asarray(True)
    elif not np.array_equal(after[:-1][~data.ends[:-1]], obs[1:][~data.ends[:-1]]):
        exact["next_observations"] = after
    return Raw("", exact, extras, action_space=data.action_space, max_episode_steps=data.max_episode_steps)
