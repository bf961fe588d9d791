"""What every container is read into and written from, before anything is checked.

The names are D4RL's: `observations, actions, rewards, terminals` always, `timeouts` and
`next_observations` where the source has them. Everything else a file holds (`infos/*`, `metadata/*`,
...) is an *extra*: carried through a conversion, never read for training.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from leashrl.errors import BadInput
from leashrl.types import Box, Discrete, Space

REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations")
KEYS = REQUIRED + OPTIONAL


@dataclass(frozen=True)
class Defect:
    """Something wrong or odd in a data set.

    Attributes:
      kind: a fixed word for programs, such as `not finite`.
      where: the file and key, or the Dataset's name and key.
      rows: the first few rows concerned; empty where the defect is not of single rows.
      message: one line for people: what, where, how to mend it.
      count: how many rows are concerned.
      fatal: `load` refuses the data; the others train, perhaps not as meant.
    """

    kind: str
    where: str
    rows: tuple[int, ...]
    message: str
    count: int = 0
    fatal: bool = True

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Raw:
    """A data set as its container holds it: dtypes as stored, nothing checked.

    Attributes:
      where: what messages call it, a path or a name.
      arrays: those of `KEYS` that are there.
      extras: all other arrays, by path (`infos/qpos`, `metadata/algorithm`), read when asked for.
      action_space_assumed: the container does not say; it is D4RL's convention.
      max_episode_steps: as stored, not yet known to be a whole number.
      continues: as in `Dataset`.
      attributes: HDF5's, numbers and text: `{path: {name: value}}`, the root's path is empty.
      left_behind: what the container holds and a Raw cannot, with the reason, for people.
      defects: what went wrong while reading.
    """

    where: str
    arrays: dict[str, np.ndarray]
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    action_space: Space | None = None
    action_space_assumed: bool = False
    max_episode_steps: int | None = None
    continues: bool = False
    attributes: "Attributes" = field(default_factory=dict)
    left_behind: tuple[str, ...] = ()
    defects: tuple[Defect, ...] = ()


class Lazy(Mapping[str, np.ndarray]):
    """A mapping whose values are read from disk each time they are asked for."""

    def __init__(self, names: Iterable[str], read: Callable[[str], np.ndarray]):
        self._names, self._read = tuple(names), read

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"Lazy({', '.join(self._names)})"


def line(text: object) -> str:
    """Any text as one line: messages of other libraries, and names found in files, may hold several."""
    return " ".join(str(text).split())


# --- The action space as a file holds it ------------------------------------------


def space_to_fields(space: Space | None, max_episode_steps: int | None) -> dict[str, np.ndarray]:
    """`action_low`/`action_high` or `action_n`, and `max_episode_steps`: our files store them by name."""
    fields: dict[str, np.ndarray] = {}
    if isinstance(space, Box):
        fields = {"action_low": np.asarray(space.low), "action_high": np.asarray(space.high)}
    elif isinstance(space, Discrete):
        fields = {"action_n": np.asarray(space.n)}
    if max_episode_steps is not None:
        fields["max_episode_steps"] = np.asarray(max_episode_steps)
    return fields


SPACE_FIELDS = ("action_low", "action_high", "action_n", "max_episode_steps")


def space_from_fields(fields: Mapping[str, object], where: str) -> tuple[Space | None, int | None]:
    """The inverse of `space_to_fields`; BadInput where the fields are not what they should be."""
    try:
        space: Space | None = None
        if "action_n" in fields:
            n = np.asarray(fields["action_n"]).item()
            if not float(n).is_integer():
                raise ValueError(f"action_n is {n}, not a whole number")
            space = Discrete(int(n))
        elif "action_low" in fields or "action_high" in fields:
            low, high = (np.asarray(fields[k], np.float64).reshape(-1) for k in ("action_low", "action_high"))
            space = Box(tuple(low.tolist()), tuple(high.tolist()))
        limit = fields.get("max_episode_steps")
        return space, None if limit is None else np.asarray(limit).item()
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        names = ", ".join(SPACE_FIELDS)
        raise BadInput(f"{where}: cannot read the action space from {names} ({line(error)})") from None


def as_space(space: Any) -> Any:
    """Gymnasium's flat `Box` and `Discrete` as ours; ours, and what is no space at all, as it is.

    Raises:
      BadInput: another of gymnasium's spaces.
    """
    kind = type(space)
    if kind.__module__.partition(".")[0] not in ("gymnasium", "gym"):
        return space
    if kind.__name__ == "Box" and len(space.shape) == 1:
        return Box(tuple(map(float, space.low)), tuple(map(float, space.high)))
    if kind.__name__ == "Discrete" and getattr(space, "start", 0) == 0:
        return Discrete(int(space.n))
    raise BadInput(
        f"actions of gymnasium's {line(space)} are not supported: a flat Box, or Discrete from 0 (subtract "
        "its start from the actions)"
    )


# --- Attributes where a file has none ----------------------------------------------

Attributes = dict[str, dict[str, np.ndarray]]

ATTRIBUTES = "hdf5_attributes"
"""The one array that holds all attributes in containers other than HDF5."""


def attributes_to_field(attributes: Attributes) -> dict[str, np.ndarray]:
    """One JSON text, bytes in Latin-1: no pickle, and dtypes and shapes come back as they were."""
    if not attributes:
        return {}

    def plain(value: np.ndarray) -> dict[str, Any]:
        flat = np.char.decode(value, "latin-1") if value.dtype.kind == "S" else value
        return {"dtype": value.dtype.str, "shape": value.shape, "values": flat.reshape(-1).tolist()}

    tree = {path: {name: plain(x) for name, x in named.items()} for path, named in attributes.items()}
    return {ATTRIBUTES: np.asarray(json.dumps(tree).encode())}


def attributes_from_field(text: np.ndarray | None) -> Attributes:
    """The inverse of `attributes_to_field`."""

    def array(plain: dict[str, Any]) -> np.ndarray:
        flat, dtype = plain["values"], np.dtype(plain["dtype"])
        flat = [x.encode("latin-1") for x in flat] if dtype.kind == "S" else flat
        return np.asarray(flat, dtype).reshape(plain["shape"])

    tree = {} if text is None else json.loads(text.item())
    return {path: {name: array(x) for name, x in named.items()} for path, named in tree.items()}


# --- Writing ----------------------------------------------------------------------


@contextmanager
def looked_up(name: object) -> Iterator[None]:
    """What the file system refuses while a name is looked for, as one line: too long, not permitted."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder for `~`
        text, reason = line(name), getattr(error, "strerror", None) or error
        text = text if len(text) <= 60 else f"{text[:60]}..."
        raise BadInput(f"cannot look for '{text}': {line(reason)}") from None


@contextmanager
def atomically(target: Path) -> Iterator[Path]:
    """A temporary name beside `target`, moved onto it once whole and on the disk, else removed.

    Raises:
      BadInput: the folder cannot be written to, or the disk is full.
    """
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=target.suffix, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes private files; what a person asked for gets the usual permissions.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, target)
    except BadInput:
        raise
    except (OSError, RuntimeError, ValueError, TypeError) as error:  # h5py's own failures included
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"cannot write {target}: {line(reason)}") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
