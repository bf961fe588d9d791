"""What an export leaves: where its file is, and the card that says all one needs to run it."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from leashrl.runs.results import Ends


@dataclass(frozen=True, kw_only=True)
class ExportedPort:
    """An input or an output of the file."""

    name: str
    shape: tuple[int | str, ...]
    """Its first axis is `"n"`, as many rows as one likes."""
    dtype: str
    """numpy's name."""
    draw: str | None = None
    """Of a random input: the method of `numpy.random.Generator` that makes it."""
    next: str | None = None
    """Of an input that carries an episode's memory: the output that is its value at the next step."""
    initial: float | list[Any] | None = None
    """And its value at the first step, of one row; a number fills the whole array."""
    names: tuple[str, ...] | None = None
    """Of observations and actions: what each number is."""
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    """(action_dim,) each, the bounds of a continuous action."""

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}
        for name in ("draw", "next", "initial", "names", "low", "high"):
            value = getattr(self, name)
            if value is not None:
                row[name] = list(value) if isinstance(value, tuple) else value
        return row


@dataclass(frozen=True)
class Normalisation:
    """How the policy sees observations: (obs - obs_mean) / obs_std."""

    obs_mean: tuple[float, ...]
    obs_std: tuple[float, ...]
    """(obs_dim,) each, in the environment's units."""
    inside: bool = True
    """The file does it itself."""

    def to_json(self) -> dict[str, Any]:
        return {"inside": self.inside, "obs_mean": list(self.obs_mean), "obs_std": list(self.obs_std)}


@dataclass(frozen=True)
class TrainedOn:
    """The data set of the run; both None where it learnt online."""

    name: str | None
    hash: str | None


@dataclass(frozen=True, kw_only=True)
class ExportedScore:
    """How the policy was evaluated in its run, and what it got."""

    task: str
    episodes: int
    mode: str
    score: Ends
    """Normalised; empty where the task has no reference scores."""
    returns: Ends

    def to_json(self) -> dict[str, Any]:
        row = asdict(self)
        row["return"] = row.pop("returns")
        return row


@dataclass(frozen=True, kw_only=True)
class Check:
    """How far the file's actions were from the policy's, in the environment's units."""

    observations: int
    """How many both were run on."""
    source: str
    """Where these are from."""
    hash: str | None
    """Of the data set that they are from."""
    max_difference: float
    chose_another: int
    """In how many rows it took another of several actions that are equally good."""
    tolerance: float
    """The largest difference that passes, in halves of the distance between an action's bounds."""

    def to_json(self) -> dict[str, Any]:
        return {
            "observations": self.observations,
            "from": self.source,
            "hash": self.hash,
            "max_difference": self.max_difference,
            "chose_another": self.chose_another,
            "tolerance": self.tolerance,
        }


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A policy's file, and its card. What only one format has is None in the others."""

    path: Path
    """The file; the card is beside it, `FILE.json`."""
    card: int
    """The card's own version."""
    file: str
    """Its name."""
    format: str
    sha256: str
    opset: int | None = None
    ir_version: int | None = None
    """Of onnx."""
    platforms: tuple[str, ...] | None = None
    calling_convention_version: int | None = None
    """Of stablehlo."""
    activation: str | None = None
    head: str | None = None
    layers: int | None = None
    """Of numpy: how to multiply the arrays."""
    algorithm: str
    member: str
    mode: str
    task: str | None
    stateful: bool
    """Whether it carries the memory of an episode."""
    inputs: tuple[ExportedPort, ...]
    outputs: tuple[ExportedPort, ...]
    normalisation: Normalisation
    data: TrainedOn | None
    """None where `policy/` was copied alone."""
    score: ExportedScore | None
    """None where the run was not evaluated, or is not there."""
    check: Check
    versions: dict[str, str]

    def to_card(self) -> dict[str, Any]:
        """What `FILE.json` holds."""
        row = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "path"}
        nulls = ("task", "data", "score")
        row = {name: value for name, value in row.items() if value is not None or name in nulls}
        if self.platforms is not None:
            row["platforms"] = list(self.platforms)
        return row | {
            "inputs": [port.to_json() for port in self.inputs],
            "outputs": [port.to_json() for port in self.outputs],
            "normalisation": self.normalisation.to_json(),
            "data": self.data and asdict(self.data),
            "score": self.score and self.score.to_json(),
            "check": self.check.to_json(),
            "versions": self.versions,
        }

    def to_json(self) -> dict[str, Any]:
        """The card with the file's path before it."""
        return {"path": str(self.path)} | self.to_card()
