"""Files that are whole or absent: JSON, lines of JSON, bytes; and one line for a disk that refuses."""

import errno
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

from leashrl.errors import BadInput

PACKAGES = ("leashrl", "jax", "jaxlib", "numpy", "gymnasium", "mujoco", "gymnasium-robotics", "ogbench")


def versions(*more: str) -> dict[str, str]:
    """Installed versions of all that can change a result, Python, the machine's kind and `more` included."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in (*PACKAGES, *more):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write, flush to disk, rename: `path` holds the old bytes or the new ones, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise unwritable(path, error) from None


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The parsed file, or BadInput naming what is missing or broken."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise BadInput(
            f"no '{path.name}' in '{path.parent}': is it a run's folder, and has it got that far?"
        ) from None
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read '{path}': {error}") from None


def unwritable(path: Path, error: OSError) -> BadInput:
    """The one line for a disk that does not take our bytes."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BadInput(
            f"no space left for '{path}': free some; `leashrl resume` then goes on where it stopped"
        )
    return BadInput(f"cannot write '{path}': {error.strerror or error}; choose another --out")


# --- Lines of JSON -----------------------------------------------------------


class Lines:
    """An append-only file of JSON objects with a `step`, cut back to a checkpoint when a run resumes."""

    def __init__(self, path: Path, keep_to: int):
        """Lines beyond step `keep_to`, and a last line that a kill cut short, are dropped."""
        self.path = path
        kept = [row for row in self.read(path) if row["step"] <= keep_to] if path.exists() else []
        self.steps = {row["step"] for row in kept}
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept).encode())

    def write(self, row: dict[str, Any]) -> None:
        try:
            with open(self.path, "a") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
        except OSError as error:
            raise unwritable(self.path, error) from None
        self.steps.add(row["step"])

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """All whole lines."""
        rows = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                rows.append(json.loads(line))
            except ValueError:  # only a kill in the middle of a write leaves such a line
                continue
        return rows
