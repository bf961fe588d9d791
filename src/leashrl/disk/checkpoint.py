"""Checkpoints: arrays as safetensors, the rest as JSON, made visible by one rename.

    checkpoint/step-0000001000/{arrays.safetensors, checkpoint.json}

A kill at any moment leaves either the old checkpoint or the new one, never half of one. The last two
are kept: should a disk lose the newest, the one before it still resumes.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from leashrl.disk.files import unwritable, write_atomically
from leashrl.errors import BadInput

KEEP = 2


def save_checkpoint(folder: Path, step: int, arrays: Any, meta: dict[str, Any]) -> Path:
    """Write `arrays` (a pytree) and `meta` (JSON) as `folder/step-...`, then drop all but the last two."""
    final = folder / f"step-{step:010d}"
    partial = folder / f".writing-{os.getpid()}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        data = to_bytes(arrays)
        meta = meta | {"step": step, "sha256": hashlib.sha256(data).hexdigest()}
        write_atomically(partial / "arrays.safetensors", data)
        write_atomically(partial / "checkpoint.json", json.dumps(meta, indent=1).encode())
        if final.exists():  # one that could not be read, since the run was resumed from the one before it
            shutil.rmtree(final)
        os.rename(partial, final)
        _sync(folder)
        for old in steps(folder)[:-KEEP]:
            shutil.rmtree(folder / f"step-{old:010d}", ignore_errors=True)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise unwritable(folder, error) from None
    return final


def steps(folder: Path) -> list[int]:
    """The steps of all whole checkpoints in `folder`, ascending."""
    return sorted(int(p.name[5:]) for p in folder.glob("step-*") if (p / "checkpoint.json").exists())


def load_checkpoint(folder: Path) -> tuple[int, dict[str, np.ndarray], dict[str, Any]] | None:
    """The newest whole checkpoint, `(step, flat arrays, meta)`; None where none was ever written.

    Raises:
      BadInput: there are some, and none has the bytes that were written.
    """
    for step in reversed(steps(folder)):
        path = folder / f"step-{step:010d}"
        try:
            meta = json.loads((path / "checkpoint.json").read_bytes())
            data = (path / "arrays.safetensors").read_bytes()
            if hashlib.sha256(data).hexdigest() == meta["sha256"]:
                return step, load(data), meta
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            continue
    if steps(folder):
        raise BadInput(f"every checkpoint in '{folder}' is damaged: start the run again with --overwrite")
    return None


# --- Arrays and files --------------------------------------------------------


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """A pytree of arrays as `{"state/critic/out/bias": array}`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x) for path, x in leaves}


def to_bytes(tree: Any) -> bytes:
    """safetensors bytes: the same for the same bits, whatever the order of the dictionary."""
    return save({name: np.asarray(x, order="C") for name, x in sorted(flatten(tree).items())})


def restore(like: Any, flat: dict[str, np.ndarray], where: str) -> Any:
    """`flat` in the tree structure of `like`, shapes and dtypes checked."""

    def one(path, x):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        value = flat.get(name)
        if value is None or value.shape != x.shape or value.dtype != x.dtype:
            found = "nothing" if value is None else f"{value.dtype}{list(value.shape)}"
            raise BadInput(
                f"'{where}' holds {found} for '{name}', not {x.dtype}{list(x.shape)}: another version?"
            )
        return jax.numpy.asarray(value)

    return jax.tree_util.tree_map_with_path(one, like)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
