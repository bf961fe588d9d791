"""A run's folder: JSON, lines of JSON, atomic writes. Knows disks, not algorithms."""

import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from leashrl.errors import BadInput

PACKAGES = ("leashrl", "jax", "jaxlib", "numpy", "gymnasium", "mujoco", "gymnasium-robotics")
OURS = (
    "config.json",
    "metrics.jsonl",
    "episodes.jsonl",
    "evaluations.jsonl",
    "replay/rows-*.safetensors",
    "snapshots/step-*/policy.json",
    "snapshots/step-*/*.safetensors",
    "checkpoint/step-*",
    "checkpoint/.writing-*",
    "policy/policy.json",
    "policy/*.safetensors",
    "result.json",
    "diagnostics.json",
    "report.html",
    "report.png",
    "report.pdf",
    "report.csv",
    "report.tex",
    "export/*",
    "tensorboard/*/events.*",
    "wandb/*",
)
"""All files that a run, its trackers and its report write: what --overwrite may delete."""
TOPS = {pattern.partition("/")[0] for pattern in OURS}
LEFTOVER = re.compile(r"(^|/)\.([^/]+)\.\d+(?=/|$)")
"""What a kill leaves of NAME while it is written or deleted: `.NAME.PID`."""


def versions(*more: str) -> dict[str, str]:
    """Installed versions of all that can change a result, Python, the machine's kind and `more` included."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in (*PACKAGES, *more):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


# --- The folder --------------------------------------------------------------


@contextmanager
def claim_folder(folder: Path, overwrite: bool) -> Iterator[None]:
    """Hold `folder` for a new run; an existing run is refused, or deleted when told to.

    Only what leashrl writes is deleted, and nothing at all where something else lies beside it. Names with
    a dot in front that are not ours (`.git`, `.DS_Store`) are not in the way, and stay.
    """
    make_folder(folder)
    earlier_run(folder, overwrite)  # refused before so much as a lock is left in somebody's folder
    with hold(folder):
        delete(folder, earlier_run(folder, overwrite))
        yield


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to `folder`. The lock is the system's: a kill lets go of it."""
    path = folder / ".lock"
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        if not locked(descriptor):
            raise BadInput(
                f"'{folder}' is being written by another process: wait for it, or choose another folder"
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def locked(descriptor: int) -> bool:
    """Lock an open file, or see that another process has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: better trained without than not at all
        return True
    return os.fstat(descriptor).st_nlink > 0  # none: its holder ended between our opening and locking


def earlier_run(folder: Path, overwrite: bool) -> list[Path]:
    """What is to be deleted from the top of `folder` before a new run may use it."""
    try:
        found = [path for path in folder.iterdir() if not path.name.startswith(".")]
        if not found:
            return []
        if not is_run(folder):
            raise BadInput(f"'{folder}' exists and is not a run: choose another --out")
        if not overwrite:
            raise BadInput(
                f"'{folder}' holds a run: continue it with `leashrl resume {folder}`, or --overwrite it"
            )
        inside = [Path(parent, name) for top in found for parent, _, names in os.walk(top) for name in names]
        for path in [*(path for path in found if not path.is_dir() or path.name not in TOPS), *inside]:
            name = LEFTOVER.sub(r"\1\2", path.relative_to(folder).as_posix())
            if not any(fnmatchcase(name, pattern) for pattern in OURS):
                raise BadInput(
                    f"--overwrite deletes runs only, and leashrl did not write '{path}': "
                    "move it, or choose another --out"
                )
        return found
    except OSError as error:
        raise unwritable(folder, error) from None


def is_run(folder: Path) -> bool:
    """Whether `config.json` is one of ours; that of an older version is too, and many libraries have one."""
    try:
        values = json.loads((folder / "config.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    keys = {"algorithm", "preset", "config", "data", "members", "versions"}
    return isinstance(values, dict) and values.keys() >= keys


def check_ours(folder: Path, values: Any) -> None:
    """BadInput where `config.json` says that another library trained here: it left no state and no policy."""
    if isinstance(values, dict) and "library" in values:
        raise BadInput(
            f"'{folder}' was trained by {values['library']}, which leaves no checkpoint and no policy: "
            f"start again with `leashrl train {values['algorithm']} ... --overwrite`"
        )


def delete(folder: Path, run: list[Path]) -> None:
    """Delete a run, and what kills have left, in an order that a kill may cut anywhere.

    The result goes first, then all checkpoints by one rename: without them `resume` starts again, whatever
    the other files hold. config.json, the plan to start again with, goes last.
    """
    order = ("result.json", "checkpoint", "", "config.json")
    try:
        for path in folder.glob(".*"):
            if LEFTOVER.match(path.name) and LEFTOVER.sub(r"\2", path.name) in TOPS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in sorted(run, key=lambda p: order.index(p.name if p.name in order else "")):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path.rename(path.with_name(f".{path.name}.{os.getpid()}")))
            else:
                path.unlink()
    except OSError as error:
        raise unwritable(folder, error) from None


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from None


# --- Files that are whole or absent ------------------------------------------


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
