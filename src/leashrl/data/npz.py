"""`.npz`: the same names as the HDF5 layout, one member an array (`infos/qpos` included).

The action space is in the members `action_low`, `action_high` (or `action_n`), the episode limit in
`max_episode_steps`, HDF5's attributes as JSON in `hdf5_attributes`. Text is held as bytes. Pickled
members are refused.
"""

import zipfile
from pathlib import Path

import numpy as np

from leashrl.data.raw import (
    ATTRIBUTES,
    KEYS,
    SPACE_FIELDS,
    Defect,
    Lazy,
    Raw,
    atomically,
    attributes_from_field,
    attributes_to_field,
    line,
    space_from_fields,
    space_to_fields,
)
from leashrl.errors import BadInput


def read_npz(path: Path) -> Raw:
    """The arrays of `KEYS` as stored; all else lazily.

    Raises:
      BadInput: no file, not a zip archive, truncated. Damage inside a single array becomes a defect
        of the result instead.
    """
    arrays, defects = {}, []
    try:
        if path.stat().st_size == 0:
            raise BadInput(f"{path} is empty (0 bytes): copy or make it again")
        if not zipfile.is_zipfile(path):
            raise BadInput(f"{path} is not a whole .npz file (a zip archive): copy it again, or use np.savez")
        # Opened here: numpy leaves the file open when the archive turns out to be damaged.
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as file:
            for key in KEYS:
                if key in file.files:
                    try:
                        arrays[key] = np.asarray(file[key])
                    except Exception as error:
                        where = f"{path}, {key}"
                        text = f"{where} cannot be read ({line(error)}): it must be an array of numbers"
                        defects.append(Defect("unreadable", where, (), text))
            names = [n for n in file.files if n not in (*KEYS, *SPACE_FIELDS, ATTRIBUTES)]
            fields = {k: file[k] for k in SPACE_FIELDS if k in file.files}
            attributes = attributes_from_field(file[ATTRIBUTES] if ATTRIBUTES in file.files else None)
        space, limit = space_from_fields(fields, str(path))
    except BadInput:
        raise
    except Exception as error:  # a damaged archive makes zipfile and numpy raise almost anything
        hint = "it is truncated or damaged, copy it again"
        raise BadInput(f"{path} cannot be read as .npz ({line(error)}): {hint}") from None
    return Raw(
        str(path),
        arrays,
        Lazy(names, lambda name: _read_extra(path, name)),
        action_space=space,
        max_episode_steps=limit,
        attributes=attributes,
        defects=tuple(defects),
    )


def _read_extra(path: Path, name: str) -> np.ndarray:
    try:
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as file:
            return np.asarray(file[name])
    except Exception as error:
        raise BadInput(f"{path}, {name} cannot be read ({line(error)})") from None


def write_npz(raw: Raw, target: Path) -> None:
    """All arrays with their dtypes; variable-length text becomes fixed-length bytes."""
    fields = space_to_fields(raw.action_space, raw.max_episode_steps)
    members = {**raw.arrays, **raw.extras, **fields, **attributes_to_field(raw.attributes)}
    with atomically(target) as temporary, zipfile.ZipFile(temporary, "w") as file:
        for name, value in members.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                plain = np.asarray(value.tolist(), np.bytes_) if value.dtype.kind == "O" else value
                np.lib.format.write_array(member, plain, allow_pickle=False)
