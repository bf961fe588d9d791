"""Files written and read without the library, so that a test does not trust what it tests."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from safetensors.numpy import load_file

# --- JSON ----------------------------------------------------------------------------------------


def read_lines(path: Path | str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def write_lines(path: Path, rows: Iterable[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@contextmanager
def edited(path: Path) -> Iterator[Any]:
    """The value of a JSON file, to be changed in place."""
    value = json.loads(path.read_text())
    yield value
    path.write_text(json.dumps(value))


def spec(text: str) -> str:
    """A sweep's file in the present folder."""
    Path("s.toml").write_text(text)
    return "s.toml"


# --- Data sets -----------------------------------------------------------------------------------

N = 12


def arrays() -> dict[str, np.ndarray]:
    """A valid data set of two episodes: a terminal after row 4, a time-out after row 11."""
    random = np.random.Generator(np.random.PCG64(1))
    obs = random.standard_normal((N + 1, 3)).astype(np.float32)
    terminals, timeouts = np.zeros(N, bool), np.zeros(N, bool)
    terminals[4] = timeouts[-1] = True
    return {
        "observations": obs[:-1],
        "actions": random.uniform(-1, 1, (N, 2)).astype(np.float32),
        "rewards": random.standard_normal(N).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
        "next_observations": obs[1:],
    }


def write(path: Path, values: dict, **attributes: Any) -> Path:
    """A data set's file by its suffix. A dictionary becomes a group, which HDF5 alone has, and attributes."""
    if path.suffix == ".npz":
        bounds = {"action_low": [-1.0, -1.0], "action_high": [1.0, 1.0]}
        np.savez(path, **{**bounds, **values})
        return path
    with h5py.File(path, "w") as file:
        for key, value in values.items():
            if isinstance(value, dict):
                file.create_group(key)
            else:
                file[key] = value
        file.attrs.update(attributes)
    return path


# --- Online runs ---------------------------------------------------------------------------------


def replay_of(run: Path) -> dict[str, np.ndarray]:
    """The rows of `replay/`, put together."""
    parts = [load_file(path) for path in sorted((run / "replay").iterdir())]
    return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


def online_bits(run: Path) -> dict[str, bytes]:
    """All that must not depend on stops: files by their bytes, and the rows of `replay/`."""
    files = [run / name for name in ("episodes.jsonl", "evaluations.jsonl", "metrics.jsonl")]
    files += sorted((run / "policy").iterdir())
    rows = {name: value.tobytes() for name, value in replay_of(run).items()}
    return {str(file.relative_to(run)): file.read_bytes() for file in files} | rows
