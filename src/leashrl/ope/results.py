"""What fitted Q evaluation and diagnostics find, as JSON keeps it too."""

from dataclasses import asdict, dataclass, field
from typing import Any

from leashrl.core import to_json
from leashrl.data.describe import DataInfo
from leashrl.ope.estimator import Config

# --- Fitted Q evaluation -----------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FqeRow:
    """What FQE says of one policy; values are discounted sums, in the rewards' units.

    From `value` to `rank_high`, and from `seeds` to `beyond`, all is None where a critic diverged; the ends
    of intervals are too where nothing can be compared: with one seed, or one episode on a side.
    """

    policy: str = ""
    """Folder and member; empty of the data's own behaviour, as are the next three."""
    folder: str = ""
    member: str = ""
    algorithm: str = ""
    step: int | None = None
    """Of a snapshot."""
    value: float | None
    low: float | None
    high: float | None
    """The ends of the value's 95 % interval."""
    rank: int | None
    """From 1, the best, among the policies; the behaviour stands alone."""
    rank_low: int | None
    rank_high: int | None
    """The ends of the rank's 95 % interval."""
    strange: float
    """Share of its actions that no logged ones lie near; 0.05 is as near as held-out ones lie."""
    outside: float
    """Share of its discounted visits that no weights of the logged rows reproduce."""
    ess: float
    """Effective sample size of the best weights, as a share of the rows."""
    seeds: tuple[float, ...] | None = None
    """The value by each seed."""
    trained_on: float | None = None
    """The value at the first states of the episodes that are trained on."""
    drift: float | None = None
    """What the value moved by in the last fifth of the training."""
    error: float | None = None
    """Bellman error on held-out rows, root mean square."""
    train_error: float | None = None
    """The same on rows that are trained on."""
    beyond: float | None = None
    """Share of its Q in held-out rows beyond what the data's rewards can add up to."""
    flags: tuple[str, ...]
    """What speaks against the value, a few words each."""

    def to_json(self) -> dict[str, Any]:
        row = asdict(self) | {"flags": list(self.flags)}
        unknown = [] if self.policy else ["policy", "folder", "member", "algorithm", "step"]
        if self.seeds is None:
            unknown += ["seeds", "trained_on", "drift", "error", "train_error", "beyond"]
        else:
            row["seeds"] = list(self.seeds)
        return {name: value for name, value in row.items() if name not in unknown}


@dataclass(frozen=True)
class LeftOut:
    """A policy that cannot be evaluated, and a sentence that says why."""

    policy: str
    why: str


@dataclass(frozen=True)
class SplitCounts:
    """Numbers of episodes or rows on each side of the split."""

    held_out: int
    trained_on: int


@dataclass(frozen=True)
class SplitValues:
    """Means over the first states of the episodes on each side of the split."""

    held_out: float
    trained_on: float


@dataclass(frozen=True, kw_only=True)
class FqeData:
    """The data that policies were evaluated on, and how well FQE finds the one value that these show."""

    name: str
    hash: str
    episodes: SplitCounts
    rows: SplitCounts
    value: SplitValues
    """Of the logged behaviour: its discounted rewards as they are."""
    fqe: FqeRow
    """Of the logged behaviour, as FQE finds it."""
    off: str | None
    """A warning, where FQE misses the logged behaviour's value."""
    possible: tuple[float, float]
    """The least and the highest value that the logged rewards can add up to."""
    spread: float
    """Standard deviation of the logged values."""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "hash": self.hash,
            "episodes": asdict(self.episodes),
            "rows": {"trained_on": self.rows.trained_on, "held_out": self.rows.held_out},
            "value": asdict(self.value),
            "fqe": self.fqe.to_json(),
            "off": self.off,
            "possible": list(self.possible),
            "spread": self.spread,
        }


@dataclass(frozen=True, kw_only=True)
class FqeResult:
    """Policies in the order of their estimated values, and what was asked."""

    policies: tuple[FqeRow, ...]
    """The best estimate first, those without one last."""
    left_out: tuple[LeftOut, ...]
    data: FqeData
    mode: str | None
    """How the policies act; None for each one's own way."""
    seeds: tuple[int, ...]
    held_percent: float
    split_seed: int
    config: Config
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return {
            "policies": [row.to_json() for row in self.policies],
            "left_out": [asdict(row) for row in self.left_out],
            "data": self.data.to_json(),
            "mode": self.mode,
            "seeds": list(self.seeds),
            "held_percent": self.held_percent,
            "split_seed": self.split_seed,
            "config": to_json(self.config),
            "versions": self.versions,
        }


# --- Off-policy evaluation ---------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OpeRow:
    """What one method says of one policy; a value is an episode's discounted sum, in the rewards' units."""

    policy: str
    """Folder and member."""
    folder: str
    member: str
    algorithm: str
    mode: str
    """How it acts."""
    method: str
    value: float | None
    """None where no logged episode follows the policy to its end, and no model stands in."""
    low: float | None
    high: float | None
    """The ends of the value's 95 % interval; None where too few episodes carry the weight."""
    ess: float | None = None
    """Effective number of episodes; None for `fqe`, as are the next two."""
    clipped: float | None = None
    """Share of the weights that were cut off."""
    bias: float | None = None
    """The most by which cutting them off can have moved the value on average; None where it is not known."""
    flags: tuple[str, ...] = ()
    """What speaks against the value."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"flags": list(self.flags)}


@dataclass(frozen=True)
class OpeData:
    """The episodes that policies were judged on."""

    name: str
    hash: str
    episodes: int
    longest: int
    """Steps of the longest episode."""
    value: float
    """Of the logged episodes themselves: the behaviour's."""
    low: float
    high: float
    """The ends of its 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class OpeResult:
    """What each method says of each policy, and what was asked."""

    rows: tuple[OpeRow, ...]
    left_out: tuple[LeftOut, ...]
    data: OpeData
    propensities: str | None
    """`logged`, or `estimated` by cloning; None where `fqe` alone was asked."""
    gamma: float
    clip: float | None
    switch: float | None
    seed: int
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "rows": [row.to_json() for row in self.rows],
            "left_out": [asdict(row) for row in self.left_out],
        }


# --- Diagnostics -------------------------------------------------------------


@dataclass(frozen=True)
class Histogram:
    """`counts` between `edges`, of which there is one more; what lies outside is in the bins at the ends."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    median: float
    """Of the values themselves."""

    def to_json(self) -> dict[str, Any]:
        return {"edges": list(self.edges), "counts": list(self.counts), "median": self.median}


@dataclass(frozen=True)
class ActionHistogram:
    """Of one dimension of the logged actions, or of the discrete ones."""

    name: str
    edges: tuple[float, ...]
    data: tuple[int, ...]
    """Counts of the logged actions."""

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "edges": list(self.edges), "data": list(self.data)}


@dataclass(frozen=True)
class MemberDiagnostics:
    """One policy beside the logged actions."""

    actions: tuple[tuple[int, ...], ...]
    """Counts of its actions, a tuple for each of `Diagnostics.actions` and between the same edges."""
    distance: Histogram
    """Of its action from the logged one, in parts of the action's range."""
    kl: Histogram | None
    """Of the estimated KL divergence from the behaviour, in nats; None for a policy that does not draw."""

    def to_json(self) -> dict[str, Any]:
        return {
            "actions": [list(counts) for counts in self.actions],
            "distance": self.distance.to_json(),
            "kl": self.kl and self.kl.to_json(),
        }


@dataclass(frozen=True)
class Behaviour:
    """Of the data's episodes."""

    mean_return: float
    score: float | None = None
    """Normalised; None where the task has no reference scores."""

    def to_json(self) -> dict[str, Any]:
        return {"return": self.mean_return} | ({} if self.score is None else {"score": self.score})


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    """A run's policies held against their data: what `diagnostics.json` holds."""

    data: DataInfo | None = None
    """None for a run that learnt online, as is `behaviour`."""
    behaviour: Behaviour | None = None
    skipped: str | None = None
    """A sentence, where the policies cannot be held against single rows; what follows is then empty."""
    mode: str | None = None
    """How the policies act."""
    actions: tuple[ActionHistogram, ...] = ()
    members: dict[str, MemberDiagnostics] = field(default_factory=dict)
    """By name."""
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return {
            "data": self.data and self.data.to_json(),
            "behaviour": self.behaviour and self.behaviour.to_json(),
            "skipped": self.skipped,
            "mode": self.mode,
            "actions": [one.to_json() for one in self.actions],
            "members": {name: member.to_json() for name, member in self.members.items()},
            "versions": self.versions,
        }
