"""Who may write to a run's folder, and what may be deleted from it."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from leashrl.disk.files import make_folder, unwritable
from leashrl.disk.folder import RunFolder
from leashrl.errors import BadInput

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
    "fqe.json",
    "selection.json",
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
        if not RunFolder(folder).ours:
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
