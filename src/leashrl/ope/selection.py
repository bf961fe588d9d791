"""Early stopping without a simulator: of each member's snapshots, the one that FQE finds best is kept.

    leashrl.train("misa", "logs.hdf5", task="none", select="fqe", out="runs/misa")
    for kept in leashrl.select("runs/misa").members:
        print(kept.member, kept.step, kept.why)

A snapshot takes the last one's place only where its lead is beyond chance and it stays near the data: the
best of many estimates looks better than it is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leashrl.data import Dataset
from leashrl.disk.folder import Row, RunFolder, read_policies
from leashrl.errors import BadInput
from leashrl.evaluate.student import t_quantile
from leashrl.ope.fits import Report
from leashrl.ope.fqe import fqe
from leashrl.ope.reliability import FAR
from leashrl.ope.results import FqeResult, FqeRow

__all__ = ["Kept", "Selection", "select"]

LEVEL = 0.95
"""Of the interval that a lead must clear."""


@dataclass(frozen=True)
class Kept:
    """Which snapshot a member keeps, and why; values are discounted sums in the rewards' units."""

    member: str
    step: int
    last: int
    """The step of its last snapshot."""
    value: float | None
    last_value: float | None
    lead: float | None
    """Of the best snapshot that stays near the data over the last one; None where one has no value."""
    lead_low: float | None
    """The lower end of its 95 % interval, over FQE's seeds in pairs."""
    why: str


@dataclass(frozen=True)
class Selection:
    """What `selection.json` holds."""

    folder: Path
    members: tuple[Kept, ...]
    judged: FqeResult

    def to_json(self) -> Row:
        return {"members": [asdict(kept) for kept in self.members], "fqe": self.judged.to_json()}


def select(
    folder: str | Path,
    data: str | Path | Dataset | None = None,
    *,
    seeds: int | Sequence[int] = 5,
    options: Mapping[str, Any] | None = None,
    report: Report | None = None,
) -> Selection:
    """Judge a finished run's snapshots, and make the best of each member the run's policy.

    `policy/` then holds the chosen ones, and `policy.json` says of which steps; the last ones stay in
    `snapshots/`. Nothing else of the run changes: its result is that of the last state.

    Args:
      folder: a finished run's, trained with snapshots.
      data, seeds, options, report: as in `leashrl.fqe`; at least two seeds.

    Raises:
      BadInput: no snapshots, a run that has not finished, one seed, and what `leashrl.fqe` raises.
    """
    files = RunFolder(Path(folder))
    if (len(range(seeds)) if isinstance(seeds, int) else len(seeds)) < 2:
        raise BadInput("a lead beyond chance takes at least two seeds of FQE")
    if not files.finished:
        raise BadInput(f"the run in '{folder}' has not finished: `leashrl resume {folder}` goes on with it")
    judged = fqe([files.path], data, snapshots=True, seeds=seeds, options=options, report=report)
    _, about = read_policies(files.path)
    names = [name for name in about["members"] if name not in about["diverged"]]
    kept = tuple(choose([row for row in judged.policies if row.member == name]) for name in names)
    files.keep_snapshots({one.member: one.step for one in kept})
    found = Selection(files.path, kept, judged)
    files.write_selection(found.to_json())
    return found


def choose(rows: Sequence[FqeRow]) -> Kept:
    """The one to keep among a member's snapshots.

    The lead's error is that of a mean of paired differences between seeds that resample episodes, as in
    `reliability.intervals`: s sqrt(1 + 1 / n) t, Student's t of n - 1 degrees.
    """
    rows = sorted(rows, key=lambda row: row.step or 0)
    last = rows[-1]
    near = [row for row in rows if row.value is not None and not is_far(row)]
    best = max(near, key=lambda row: row.value or 0.0, default=last)
    lead = low = None
    if best.seeds is not None and last.seeds is not None:
        differences = np.subtract(best.seeds, last.seeds)
        n = len(differences)
        lead = float(differences.mean())
        low = lead - float(differences.std(ddof=1)) * math.sqrt(1 + 1 / n) * t_quantile(LEVEL, n - 1)
    if not near:
        one, why = last, "no snapshot stays near the data: the last one"
    elif best is last:
        one, why = last, "the last one, none is better"
    elif is_far(last) or last.value is None:
        one, why = best, f"the last one is flagged: {last.flags[0].split(':')[0]}"
    elif low is not None and low > 0:
        one, why = best, "better than the last one beyond chance"
    else:
        one, why = last, "the last one, no lead over it is beyond chance"
    assert one.step is not None and last.step is not None
    return Kept(one.member, one.step, last.step, one.value, last.value, lead, low, why)


def is_far(row: FqeRow) -> bool:
    """Whether a flag says that the policy leaves the data, so that its value is a guess."""
    return any(flag.startswith(FAR) for flag in row.flags)
