"""D4RL's HDF5 layout: flat arrays of N rows, groups `infos/` and `metadata/`.

D4RL stores no action space. Files written here keep it in the root's attributes `action_low`,
`action_high` (or `action_n`) and `max_episode_steps`, which D4RL's own loader ignores. Attributes
other than these are not carried by a conversion.
"""

from pathlib import Path

import h5py
import numpy as np

from leashrl.data.raw import (
    KEYS,
    SPACE_FIELDS,
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
            names: list[str] = []

            def note(name: str | bytes, item: object) -> None:
                if isinstance(item, h5py.Dataset):  # a damaged name comes as bytes
                    names.append(name.decode(errors="replace") if isinstance(name, bytes) else name)

            file.visititems(note)
            fields = {k: file.attrs[k] for k in SPACE_FIELDS if k in file.attrs}
        space, limit = space_from_fields(fields, str(path))
    except BadInput:
        raise
    except Exception as error:  # a damaged file makes h5py raise almost anything
        hint = "it is truncated or damaged, copy it again"
        raise BadInput(f"{path} cannot be read as HDF5 ({line(error)}): {hint}") from None
    extras = Lazy([n for n in names if n not in KEYS], lambda name: _read_extra(path, name))
    return Raw(str(path), arrays, extras, space, limit, tuple(defects))


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
        for name, value in space_to_fields(raw.action_space, raw.max_episode_steps).items():
            file.attrs[name] = value
