"""A run's folder: the names of its files, their one reader and their one writer.

config.json         the plan: everything that decides the bits of the result, and all versions
metrics.jsonl       one line per logged step and member
episodes.jsonl      one line per episode of training, where the run is online
evaluations.jsonl   one line per evaluation and member
replay/             the rows that an online run has seen
checkpoint/         the last two states; `resume` continues from the newest, bit for bit
snapshots/          the policies of every evaluation, where they are asked for
policy/             one safetensors file per member, and policy.json to read them with
result.json         final and last-ten mean score of each member; of one that diverged where, and what
                    its last finite policy scores
diagnostics.json    what `leashrl report --diagnose` measured
fqe.json            what `leashrl report --fqe` estimated of each member
selection.json      which snapshots became the policy, and what FQE said of all
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from leashrl.disk.files import Lines, make_folder, read_json, write_atomically, write_json
from leashrl.errors import BadInput

Row = dict[str, Any]


def member_name(member: Mapping[str, float]) -> str:
    """`seed-0`, or `seed-0,gamma_1=5` where hyper-parameters vary.

    >>> member_name({"seed": 0, "gamma_1": 5.0})
    'seed-0,gamma_1=5'
    """
    return ",".join([f"seed-{member['seed']}", *(f"{k}={v:g}" for k, v in member.items() if k != "seed")])


def rows_of(member: Mapping[str, float], rows: list[Row]) -> list[Row]:
    """The rows that are a member's: they hold its seed and its values."""
    return [row for row in rows if member.items() <= row.items()]


@dataclass(frozen=True)
class RunFolder:
    """The files of one run. Readers give JSON as it stands; a missing or broken file is BadInput."""

    path: Path

    # --- How far it is ---

    @property
    def begun(self) -> bool:
        return (self.path / "config.json").exists()

    @property
    def finished(self) -> bool:
        return (self.path / "result.json").exists()

    @property
    def ours(self) -> bool:
        """Whether `config.json` is one of ours, of an older version too: many libraries write such a file."""
        try:
            values = json.loads((self.path / "config.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return False
        keys = {"algorithm", "preset", "config", "data", "members", "versions"}
        return isinstance(values, dict) and values.keys() >= keys

    # --- Where things are ---

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def policy(self) -> Path:
        return self.path / "policy"

    @property
    def replay(self) -> Path:
        return self.path / "replay"

    def snapshot(self, step: int) -> Path:
        return self.path / "snapshots" / f"step-{step:010d}"

    def snapshots(self) -> list[tuple[int, Path]]:
        """The steps whose policies were kept, ascending, and their folders."""
        found = sorted(self.path.glob("snapshots/step-*"))
        return [(int(path.name.removeprefix("step-")), path) for path in found if is_policy(path)]

    # --- Reading ---

    def config(self) -> Row:
        """The plan and the versions.

        Raises:
          BadInput: none there.
        """
        return read_json(self.path / "config.json")

    def own_config(self) -> Row:
        """`config`, or BadInput where another library trained here: it left no state and no policy."""
        values = self.config()
        if isinstance(values, dict) and "library" in values:
            raise BadInput(
                f"'{self.path}' was trained by {values['library']}, which leaves no checkpoint and no "
                f"policy: start again with `leashrl train {values['algorithm']} ... --overwrite`"
            )
        return values

    def result(self) -> Row:
        return read_json(self.path / "result.json")

    def selection(self) -> Row | None:
        path = self.path / "selection.json"
        return read_json(path) if path.exists() else None

    def fqe(self) -> Row | None:
        path = self.path / "fqe.json"
        return read_json(path) if path.exists() else None

    def diagnostics(self) -> Row | None:
        path = self.path / "diagnostics.json"
        return read_json(path) if path.exists() else None

    def metrics(self) -> list[Row]:
        return Lines.read(self.path / "metrics.jsonl")

    def evaluations(self, step: int | None = None) -> list[Row]:
        """All of them, or those of one step."""
        rows = Lines.read(self.path / "evaluations.jsonl")
        return rows if step is None else [row for row in rows if row["step"] == step]

    def episodes(self) -> list[Row]:
        return Lines.read(self.path / "episodes.jsonl")

    def newest_step(self) -> int | None:
        """The last step that was logged, from the end of a file that may be long; None before the first."""
        try:
            with open(self.path / "metrics.jsonl", "rb") as file:
                file.seek(max(0, file.seek(0, 2) - 10_000))
                return json.loads(file.read().splitlines()[-1])["step"]
        except (OSError, IndexError, ValueError):  # nothing yet, or half a line
            return None

    def malformed(self, name: str, reason: object) -> BadInput:
        """The one line for a file of ours with other contents."""
        if isinstance(reason, Exception) and not isinstance(reason, BadInput):
            reason = f"{type(reason).__name__} {' '.join(str(reason).split())}"
        return BadInput(f"'{self.path / name}' is not what leashrl wrote: {reason}")

    # --- Writing ---

    def write_config(self, values: Row) -> None:
        write_json(self.path / "config.json", values)

    def write_result(self, values: Row) -> None:
        write_json(self.path / "result.json", values)

    def write_diagnostics(self, values: Row) -> None:
        write_json(self.path / "diagnostics.json", values)

    def write_fqe(self, values: Row) -> None:
        write_json(self.path / "fqe.json", values)

    def write_selection(self, values: Row) -> None:
        write_json(self.path / "selection.json", values)

    def keep_snapshots(self, steps: Mapping[str, int]) -> None:
        """Make `policy/` hold the snapshots of these steps, by member; others stay as they are."""
        arrays = {}
        for name, step in steps.items():
            file = self.snapshot(step) / f"{name}.safetensors"
            try:
                arrays[name] = file.read_bytes()
            except OSError as error:
                raise BadInput(f"cannot read '{file}': {error.strerror or error}") from None
        _, about = read_policies(self.policy)
        write_policies(self.policy, about | {"steps": dict(steps)}, arrays)

    def metrics_to(self, step: int) -> Lines:
        """`metrics.jsonl`, to be written to; rows beyond a step are dropped."""
        return Lines(self.path / "metrics.jsonl", keep_to=step)

    def evaluations_to(self, step: int) -> Lines:
        return Lines(self.path / "evaluations.jsonl", keep_to=step)

    def episodes_to(self, step: int) -> Lines:
        return Lines(self.path / "episodes.jsonl", keep_to=step)


def runs_below(top: Path) -> Iterator[RunFolder]:
    """Our runs at or below a folder, in order of their names; what lies inside a run is not searched."""
    been = set()
    for parent, inside, _ in os.walk(top, followlinks=True):
        here = os.path.realpath(parent)
        if here in been:  # a link back up
            inside.clear()
            continue
        been.add(here)
        if (run := RunFolder(Path(parent))).ours:
            inside.clear()
            yield run
        inside.sort()


# --- Policies ----------------------------------------------------------------


def is_policy(folder: Path) -> bool:
    """Whether policies were written to this folder itself."""
    return (folder / "policy.json").exists()


def write_policies(folder: Path, about: Row, arrays: Mapping[str, bytes]) -> None:
    """`NAME.safetensors` for each member, then `policy.json` to rebuild them."""
    make_folder(folder)
    for name, data in arrays.items():
        write_atomically(folder / f"{name}.safetensors", data)
    write_json(folder / "policy.json", about)


def read_policies(folder: Path) -> tuple[Path, Row]:
    """The folder that holds `policy.json`, this one or its `policy/`, and what that says.

    Raises:
      BadInput: a run that has not finished, no policy at all, or a damaged file.
    """
    run = RunFolder(folder)
    if not is_policy(run.policy) and not is_policy(folder):
        if run.begun:
            run.own_config()
            raise BadInput(
                f"the run in '{folder}' has not finished: `leashrl resume {folder}` goes on with it"
            )
        raise BadInput(f"no policy in '{folder}': give a run's folder, or its policy/")
    folder = run.policy if is_policy(run.policy) else folder
    about = read_json(folder / "policy.json")
    wanted = {"algorithm": str, "config": dict, "obs_dim": int, "action_space": dict}
    wanted |= {"members": list, "diverged": list}
    is_fit = lambda name, kind: isinstance(about, dict) and isinstance(about.get(name), kind)
    wrong = [name for name, kind in wanted.items() if not is_fit(name, kind)]
    if wrong or not about["members"]:
        raise RunFolder(folder).malformed("policy.json", f"look at '{wrong[0] if wrong else 'members'}'")
    return folder, about


def read_policy(folder: Path, member: str) -> tuple[dict[str, np.ndarray], Path]:
    """The arrays of one member by name, and their file."""
    path = folder / f"{member}.safetensors"
    try:
        return load(path.read_bytes()), path
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise BadInput(f"cannot read '{path}': {reason}") from None


def run_of(folder: Path) -> RunFolder | None:
    """The run that a policy's folder belongs to; None where `policy/` was copied alone."""
    run = RunFolder(folder.parent if is_policy(folder) else folder)
    whole = run.begun and run.policy.exists()
    return run if whole and (run.path == folder or run.policy.samefile(folder)) else None
