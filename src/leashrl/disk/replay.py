"""The rows that an online run has seen: `replay/rows-N.safetensors`, N the number of its first row."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from leashrl.disk.checkpoint import to_bytes
from leashrl.disk.files import make_folder, write_atomically
from leashrl.errors import BadInput

Rows = dict[str, np.ndarray]
"""(members, rows, ...) each."""


def write_rows(folder: Path, first: int, rows: Rows) -> None:
    make_folder(folder)
    write_atomically(_file(folder, first), to_bytes(rows))


def read_rows(folder: Path, first: int) -> Rows:
    """One file.

    Raises:
      BadInput: it is missing or damaged.
    """
    return _read(_file(folder, first))


def newest_rows(folder: Path) -> tuple[str, Rows] | None:
    """The name of the last file and what it holds; None where there is none."""
    files = sorted(folder.glob("rows-*.safetensors"))
    return (files[-1].name, _read(files[-1])) if files else None


def drop_rows(folder: Path, count: int) -> None:
    """Delete the files that begin at row `count` or later: a kill left them, and they will come again."""
    for path in folder.glob("rows-*.safetensors"):
        if int(path.stem[5:]) >= count:
            path.unlink()


def _file(folder: Path, first: int) -> Path:
    return folder / f"rows-{first:010d}.safetensors"


def _read(path: Path) -> Rows:
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise BadInput(f"cannot read '{path}', which the run needs to go on: {reason}") from None
