"""What a report was made of and what it left: files, and the summary as numbers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """A label on one data set, over its members' values at the last evaluation.

    From `mean` to `std` all is None where nothing was evaluated; `low`, `high` and `std` of one member too.
    """

    label: str
    data: str
    unit: str
    """`score` (normalised), or `return` where the task has no reference scores; empty: not evaluated."""
    finished: bool
    mean: float | None
    iqm: float | None
    """Interquartile mean."""
    low: float | None
    high: float | None
    """The ends of the mean's 95 % interval."""
    std: float | None
    n: int
    """Members that the mean stands on: those that diverged have no last value."""
    of: int
    """All members."""
    last_10_mean: float | None
    """The mean of these members' means of their last ten evaluations."""
    diverged: tuple[str, ...]
    """Names of members."""

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> "SummaryRow":
        return SummaryRow(**{**row, "diverged": tuple(row["diverged"])})

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"diverged": list(self.diverged)}


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """What was written, and what it says."""

    files: tuple[Path, ...]
    runs: int
    """How many were read."""
    problems: tuple[str, ...]
    """A line for each run that could not be read."""
    summary: tuple[SummaryRow, ...]
    """The highest mean first within each data set."""
    members: int
    """How many all runs have."""

    def to_json(self) -> dict[str, Any]:
        return {
            "files": [str(file) for file in self.files],
            "runs": self.runs,
            "problems": list(self.problems),
            "summary": [row.to_json() for row in self.summary],
            "members": self.members,
        }
