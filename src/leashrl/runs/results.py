"""What a run has found, as `result.json` holds it, and what an evaluation finds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from leashrl.disk.folder import Row, RunFolder
from leashrl.evaluate.statistics import Score


@dataclass(frozen=True)
class Ends:
    """A measure of one member over training; None where it has no value."""

    final: float | None
    """At the last step; of a member that diverged there is none."""
    last_10_mean: float | None
    """Mean of its last ten evaluations."""


@dataclass(frozen=True)
class Divergence:
    """Where a member diverged, and what its last finite policy gets where that was evaluated."""

    step: int
    metric: str
    mean_return: float | None = None
    score: float | None = None

    def to_json(self) -> Row:
        return {
            "step": self.step,
            "metric": self.metric,
            "return": self.mean_return,
            "score": self.score,
        }


@dataclass(frozen=True)
class OnlineReturns:
    """Of a member's episodes of training: how many, the mean of the last 100, and the best that mean was."""

    episodes: int
    return_last_100: float | None
    best_last_100: float | None


@dataclass(frozen=True)
class MemberResult:
    """One trained policy: a seed, and its values of the hyper-parameters that vary within the run."""

    name: str
    values: Mapping[str, float]
    """`seed`, and what varies."""
    diverged: Divergence | None
    returns: Ends
    score: Ends
    """Normalised; empty where the task has no reference scores."""
    online: OnlineReturns | None = None

    @property
    def seed(self) -> int:
        return int(self.values["seed"])

    def to_json(self) -> Row:
        row = {"name": self.name} | dict(self.values)
        row |= {"diverged": self.diverged.to_json() if self.diverged else None}
        row |= {"return": asdict(self.returns), "score": asdict(self.score)}
        return row | ({"online": asdict(self.online)} if self.online else {})

    @staticmethod
    def from_json(row: Row) -> "MemberResult":
        end, known = row["diverged"], {"name", "diverged", "return", "score", "online"}
        return MemberResult(
            name=row["name"],
            values={name: value for name, value in row.items() if name not in known},
            # Older runs did not evaluate what diverged.
            diverged=end and Divergence(end["step"], end["metric"], end.get("return"), end.get("score")),
            returns=Ends(**row["return"]),
            score=Ends(**row["score"]),
            online=OnlineReturns(**row["online"]) if "online" in row else None,
        )


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run has found; `folder` holds the rest."""

    folder: Path
    algorithm: str
    preset: str
    task: str | None
    data: Row
    """Source, name, hash and sizes of the data set; of an online run that it is one."""
    switch: Row | None = None
    """How a run that was fine-tuned went online."""
    steps: int
    episodes: int
    """Per member, of the last evaluation."""
    evaluated: bool
    members: tuple[MemberResult, ...]
    score: Score | None
    """Over the members' final normalised scores; None if there are none."""
    versions: dict[str, str]

    @property
    def diverged(self) -> list[str]:
        """Names of the members that went non-finite."""
        return [member.name for member in self.members if member.diverged]

    @staticmethod
    def read(folder: str | Path) -> "Result":
        """The result of a finished run.

        Raises:
          BadInput: it has not finished, or its result is not what leashrl wrote.
        """
        files = RunFolder(Path(folder))
        row = files.result()
        try:
            names = ("algorithm", "preset", "task", "data", "steps", "episodes", "evaluated", "versions")
            return Result(
                folder=files.path,
                members=tuple(map(MemberResult.from_json, row["members"])),
                score=row["score"] and Score(**row["score"]),
                switch=row.get("switch"),
                **{name: row[name] for name in names},
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise files.malformed("result.json", error) from None

    def to_json(self) -> Row:
        """What `result.json` holds."""
        row: dict[str, Any] = {name: getattr(self, name) for name in ("algorithm", "preset", "task", "data")}
        row |= {"switch": self.switch} if self.switch else {}
        row |= {"steps": self.steps, "episodes": self.episodes, "evaluated": self.evaluated}
        row["members"] = [member.to_json() for member in self.members]
        return row | {"score": self.score and self.score.to_json(), "versions": self.versions}


# --- An evaluation -----------------------------------------------------------


@dataclass(frozen=True)
class EvaluatedMember:
    """Whole episodes of one policy in the real environment."""

    name: str
    mean_return: float
    score: float | None
    """Mean normalised score; None where the task has no reference scores."""
    returns: tuple[float, ...]
    """Of each episode."""
    lengths: tuple[int, ...]

    def __getitem__(self, name: str) -> Any:
        """By its name in JSON: `found["return"]`."""
        return self.to_json()[name]

    def to_json(self) -> Row:
        return {
            "name": self.name,
            "return": self.mean_return,
            "score": self.score,
            "returns": list(self.returns),
            "lengths": list(self.lengths),
        }


@dataclass(frozen=True, kw_only=True)
class EvaluatedRun:
    """All members of a run, evaluated side by side."""

    folder: Path | None = None
    algorithm: str
    task: str
    episodes: int
    seed: int
    mode: str
    members: tuple[EvaluatedMember, ...]
    score: Score | None
    """Over the members; None without reference scores."""
    versions: dict[str, str]
    diverged: tuple[str, ...] = ()
    """Names of the members that were left out."""

    def to_json(self) -> Row:
        row: dict[str, Any] = {"folder": str(self.folder)} if self.folder else {}
        names = ("algorithm", "task", "episodes", "seed", "mode")
        row |= {name: getattr(self, name) for name in names}
        row["members"] = [member.to_json() for member in self.members]
        row |= {"score": self.score and self.score.to_json(), "versions": self.versions}
        return row | ({"diverged": list(self.diverged)} if self.folder else {})
