"""What a run tells as it goes on: small records, each given to `report`.

`rows` hold what `metrics.jsonl` or `evaluations.jsonl` gets, with the member's name in front as `member`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line knows events before it knows jax
    from leashrl.disk.folder import Row
    from leashrl.runs.plan import Plan
    from leashrl.runs.results import Result
    from leashrl.tasks import Task


@dataclass(frozen=True)
class Started:
    plan: "Plan"
    folder: Path
    task: "Task | None" = None
    step: int = 0
    """Where it goes on; 0 for a new run."""
    total: int = 0
    """Updates of all stages."""
    library: str = ""
    """Whose loop it is, where it is not ours."""


@dataclass(frozen=True)
class Stepped:
    step: int
    total: int
    stage: str
    rows: "list[Row]"
    """Empty between two logged steps."""


@dataclass(frozen=True)
class Evaluated:
    step: int
    rows: "list[Row]"


@dataclass(frozen=True)
class MemberDiverged:
    member: str
    step: int
    metric: str
    """What was not finite, or beyond its limit."""


@dataclass(frozen=True)
class Saved:
    step: int


@dataclass(frozen=True)
class Interrupted:
    """A first Ctrl-C or SIGTERM; told from a signal handler, so that nothing may lock."""


@dataclass(frozen=True)
class Ended:
    result: "Result"


Event = Started | Stepped | Evaluated | MemberDiverged | Saved | Interrupted | Ended
Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """Tell nobody."""
