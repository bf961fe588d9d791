"""What a sweep has found: the rows of `sweep.json` with types."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from leashrl.runs.results import Divergence, Ends
from leashrl.sweep.space import Point, Space, plain


@dataclass(frozen=True, kw_only=True)
class SweepTrial:
    """One algorithm with all its values on one data set with one seed."""

    id: str
    """A hash of all that decides its numbers."""
    run: str
    """The name of the run that trains it."""
    algorithm: str
    """As the file says it, perhaps with a preset: `misa:authors`."""
    data: str | None
    """None for runs that learn online."""
    values: Point
    """Of the options that are searched."""
    seed: int
    status: Literal["waiting", "done", "diverged", "failed"]
    diverged: Divergence | None
    score: Ends | None
    """Normalised; None while there is no result."""
    returns: Ends | None

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> "SweepTrial":
        end, score, returns = row["diverged"], row["score"], row["return"]
        names = ("id", "run", "algorithm", "data", "values", "seed", "status")
        return SweepTrial(
            **{name: row[name] for name in names},
            # Older runs did not evaluate what diverged.
            diverged=end and Divergence(end["step"], end["metric"], end.get("return"), end.get("score")),
            score=score and Ends(**score),
            returns=returns and Ends(**returns),
        )

    def to_json(self) -> dict[str, Any]:
        row = asdict(self) | {"diverged": self.diverged and self.diverged.to_json()}
        row["return"] = row.pop("returns")
        return row


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """The trials that differ in their seeds alone."""

    algorithm: str
    data: str | None
    values: Point
    seeds: int
    """How many trials."""
    done: int
    diverged: int
    measure: Literal["score", "return"]
    last_10_mean: float | None
    final: float | None
    """Means over the trials that are done; None while none is."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """Trials that one compiled program trains."""

    name: str
    """Of its folder in `runs`."""
    trials: tuple[str, ...]
    """Their ids, in the order of the members."""
    train: dict[str, Any]
    """What `leashrl.train` takes."""
    status: Literal["waiting", "done", "failed"]
    attempts: int
    error: str | None

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> "SweepRun":
        return SweepRun(**{**row, "trials": tuple(row["trials"])})

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"trials": list(self.trials)}


@dataclass(frozen=True)
class Searched:
    """What a search draws from."""

    space: Mapping[str, Space]
    """By algorithm and option."""
    seed: int

    def to_json(self) -> dict[str, Any]:
        return plain({"space": self.space, "seed": self.seed})


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """All trials of a sweep, and what they have found so far."""

    folder: Path
    spec: Path
    """The specification."""
    spec_sha256: str
    kind: Literal["grid", "random", "search"]
    search: Searched | None
    """None for the other kinds."""
    trials: tuple[SweepTrial, ...]
    runs: tuple[SweepRun, ...]
    points: tuple[SweepPoint, ...]
    """The best first within each algorithm and data set; empty of a plan that nothing was trained for."""
    versions: dict[str, str]

    @staticmethod
    def from_json(row: Mapping[str, Any], folder: Path) -> "SweepResult":
        """Of what the folder's `sweep.json` holds."""
        return SweepResult(
            folder=folder,
            spec=Path(row["spec"]),
            spec_sha256=row["spec_sha256"],
            kind=row["kind"],
            search=row["search"] and Searched(**row["search"]),
            trials=tuple(map(SweepTrial.from_json, row["trials"])),
            runs=tuple(map(SweepRun.from_json, row["runs"])),
            points=tuple(SweepPoint(**point) for point in row["points"]),
            versions=row["versions"],
        )

    def to_json(self) -> dict[str, Any]:
        """What `sweep.json` holds."""
        return {
            "spec": str(self.spec),
            "spec_sha256": self.spec_sha256,
            "kind": self.kind,
            "search": self.search and self.search.to_json(),
            "trials": [trial.to_json() for trial in self.trials],
            "runs": [run.to_json() for run in self.runs],
            "points": [point.to_json() for point in self.points],
            "versions": self.versions,
        }
