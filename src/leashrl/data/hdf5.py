"""D4RL's HDF5 layout: flat arrays of N rows, groups `infos/` and `metadata/`.

D4RL stores no action space. Files written here keep it in the root's attributes `action_low`,
`action_high` (or `action_n`) and `max_episode_steps`, which D4RL's own loader ignores. All other
attributes of numbers or text are carried, a link becomes a copy of what it leads to, and chunks and
compression are not kept.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from leashrl.data.raw import (
    KEYS,
    SPACE_FIELDS,
    Attributes,
    Defect,
    Lazy,
    Raw,
    atomically,
    line,
    space_from_fields,
    space_to_fields,
)
from leashrl.errors import BadInput


def read_hdf5(path: Path) -> Raw:
    """The arrays of `KEYS` as stored; all else lazily.

    Raises:
      BadInput: no file, no permission, not HDF5, truncated. Damage inside a single array becomes a
        defect of the result instead.
    """
    arrays, defects = {}, []
    names: list[str] = []
    left: list[str] = []
    attributes: Attributes = {}
    try:
        if path.stat().st_size == 0:
            raise BadInput(f"{path} is empty (0 bytes): copy or make it again")
        if not h5py.is_hdf5(path):
            raise BadInput(f"{path} is not an HDF5 file: its first bytes are not HDF5's")
        with h5py.File(path, "r") as file:
            for key in KEYS:
                if key in file:
                    try:
                        arrays[key] = _read(file, key)
                    except Exception as error:
                        where = f"{path}, {key}"
                        text = (
                            f"{where} cannot be read ({line(error)}): it must be an HDF5 data set of numbers"
                        )
                        defects.append(Defect("unreadable", where, (), text))
            for name, item in [("", file), *_below(file)]:
                if isinstance(item, str):
                    left.append(f"{line(name)} ({item})")
                    continue
                if isinstance(item, h5py.Dataset) and name not in KEYS:
                    names.append(name)
                attributes[name] = {}
                for key in item.attrs:
                    if not name and key in SPACE_FIELDS:
                        continue
                    value = _attribute(item, key)
                    if value is None:
                        left.append(f"{line(f'{name}@{key}')} (neither numbers nor text)")
                    else:
                        attributes[name][key] = value
            fields = {k: file.attrs[k] for k in SPACE_FIELDS if k in file.attrs}
        space, limit = space_from_fields(fields, str(path))
    except BadInput:
        raise
    except Exception as error:  # a damaged file makes h5py raise almost anything
        hint = "it is truncated or damaged, copy it again"
        raise BadInput(f"{path} cannot be read as HDF5 ({line(error)}): {hint}") from None
    return Raw(
        str(path),
        arrays,
        Lazy(names, lambda name: _read_extra(path, name)),
        action_space=space,
        max_episode_steps=limit,
        attributes={name: named for name, named in attributes.items() if named},
        left_behind=tuple(left),
        defects=tuple(defects),
    )


def _below(group: Any, path: str = "", above: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(path, data set or group) of all that a group holds, links followed; or why it cannot be carried."""
    for key in group:
        name = f"{path}/{key}" if path else key
        try:
            item = group[key]
        except (KeyError, OSError):
            if isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise  # damage, and no link to what is not there
            yield name, "a link that leads nowhere"
            continue
        if isinstance(item, h5py.Group):
            if item in (*above, group):
                yield name, "a link to a group around it"
                continue
            yield name, item
            yield from _below(item, name, (*above, group))
        elif not isinstance(item, h5py.Dataset):
            yield name, "a named type"
        elif item.dtype.hasobject and h5py.check_string_dtype(item.dtype) is None:
            yield name, "neither numbers nor text"
        else:
            yield name, item


def _attribute(item: Any, key: str) -> np.ndarray | None:
    """Numbers, bytes or text; None for all else that an attribute may hold, such as references."""
    try:
        value = np.asarray(item.attrs[key])
    except (OSError, TypeError, ValueError):  # a type that numpy does not have
        return None
    if value.dtype.kind == "O" and all(isinstance(x, str) for x in value.reshape(-1)):
        value = value.astype(str)
    # JSON, which carries them where a container has no attributes, knows no longer reals.
    return value if value.dtype.kind in "biufSU" and value.dtype.char != "g" else None


def _read(file: h5py.File, name: str) -> np.ndarray:
    item = file[name]
    if not isinstance(item, h5py.Dataset):
        raise ValueError("it is a group")
    if item.shape is None:
        raise ValueError("it has no data")
    return np.asarray(item[()])


def _read_extra(path: Path, name: str) -> np.ndarray:
    try:
        with h5py.File(path, "r") as file:
            item = file[name]
            if isinstance(item, h5py.Dataset) and item.shape is None:
                return np.zeros((0,), np.float32)
            return np.asarray(item[()])  # pyright: ignore[reportIndexIssue]
    except Exception as error:
        raise BadInput(f"{path}, {name} cannot be read ({line(error)})") from None


def write_hdf5(raw: Raw, target: Path) -> None:
    """All arrays with their dtypes; unicode text becomes UTF-8 bytes, the form D4RL uses."""
    with atomically(target) as temporary, h5py.File(temporary, "w") as file:
        for name, value in {**raw.arrays, **raw.extras}.items():
            file.create_dataset(
                name, data=np.char.encode(value, "utf-8") if value.dtype.kind == "U" else value
            )
        fields = space_to_fields(raw.action_space, raw.max_episode_steps)
        for path, named in [*raw.attributes.items(), ("", fields)]:
            place = file[path] if path in file else file.require_group(path or "/")
            for name, value in named.items():
                text = value.dtype.kind == "U"
                place.attrs.create(name, value.astype(object) if text else value)
