"""`leashrl sweep`: a live table on a terminal, plain lines everywhere else."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leashrl.cli.arguments import Parser, whole
from leashrl.cli.tables import assignments, columns, show
from leashrl.disk.folder import RunFolder
from leashrl.errors import BadInput

if TYPE_CHECKING:
    from leashrl.sweep import SweepPoint, SweepResult, SweepRun

ROWS = 30
"""Of the live table: those that are done give way first."""


def arguments(parser: Parser) -> None:
    parser.add_argument("spec", metavar="SPEC.toml", help="what to sweep; docs/sweeps.md explains it")
    parser.add_argument("--out", metavar="DIR", help="the sweep's folder; the file's `out`, or runs/SPEC")
    parser.add_argument(
        "--workers", type=whole, metavar="N", help="processes; 0: one run after the other in this one"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be trained, and train nothing")


def run(args: Namespace) -> int:
    if args.workers is not None and args.workers < 0:
        raise BadInput(f"--workers must be at least 0, not {args.workers}")
    from leashrl.sweep.driver import sweep

    if args.dry_run:
        result = sweep(args.spec, out=args.out, workers=args.workers, dry=True)
        show(args, result.to_json(), planned(result))
        return 0
    screen = Screen()
    try:
        result = sweep(args.spec, out=args.out, workers=args.workers, report=screen)
    except KeyboardInterrupt:
        screen.close()
        raise KeyboardInterrupt(
            f"the same command goes on with '{screen.folder}'" if screen.folder else ""
        ) from None
    finally:
        screen.close()
    show(args, result.to_json(), found(result))
    return 1 if any(run.status == "failed" for run in result.runs) else 0


# --- What is printed at the end ----------------------------------------------


def planned(result: "SweepResult") -> list[str]:
    rows = [[run.name, len(run.trials), run.status, describe(run)] for run in result.runs]
    lines = columns([["run", "members", "status", "what all have"], *rows])
    more = "; later ones follow from their scores" if result.kind == "search" else ""
    return [*lines, f"{folded(len(result.trials), len(result.runs))}{more}"]


def folded(trials: int, runs: int) -> str:
    """
    >>> folded(12, 2), folded(1, 1)
    ('12 trials in 2 runs', '1 trial in 1 run')
    """
    return " in ".join(f"{n} {what}{'s' * (n != 1)}" for n, what in ((trials, "trial"), (runs, "run")))


def describe(run: "SweepRun") -> str:
    return assignments(run.train["options"])


def found(result: "SweepResult") -> list[str]:
    """Every point, the best first within its algorithm and data; then what went wrong."""
    rows = [
        [
            p.algorithm,
            p.data or "online",
            assignments(p.values) or "-",
            p.last_10_mean,
            p.final,
            seeds(p),
        ]
        for p in result.points
    ]
    measures = {p.measure for p in result.points if p.last_10_mean is not None}
    head = ["algorithm", "data", "values", "last 10", "final", "seeds"]
    lines = columns([head, *rows])
    lines.append(
        f"{' or '.join(sorted(measures)) or 'nothing'}: means over seeds; the best of many is partly luck"
    )
    for run in result.runs:
        if run.status == "failed":
            lines.append(f"failed: {run.name}: {run.error}")
    return lines


def seeds(point: "SweepPoint") -> str:
    lost = point.seeds - point.done - point.diverged
    parts = [f"{point.done}", *([f"{point.diverged} diverged"] if point.diverged else [])]
    return ", ".join([*parts, *([f"{lost} failed"] if lost else [])])


# --- What is seen while it goes on -------------------------------------------


class Screen:
    """Takes the driver's events; `close` leaves the terminal as it was."""

    def __init__(self):
        self.folder: Path | None = None
        self.live = None
        self.runs: list[dict[str, Any]] = []

    def __call__(self, event: str, details: dict[str, Any]) -> None:
        if event == "start":
            self.start(details)
            return
        run = details["run"]
        name = run["name"]
        if event == "retry":
            self.line(f"{name}: attempt {details['tries']} failed, once more: {run['error']}")
        elif event == "failed":
            self.line(f"{name}: failed for good after {details['tries']} attempts: {run['error']}")
        elif event == "end" and self.live is None:
            done = sum(other["status"] == "done" for other in self.runs)
            self.line(f"{name}: done ({done} of {len(self.runs)}) {score(self.folder, run)}".rstrip())

    def start(self, details: dict[str, Any]) -> None:
        book, first = details["book"], self.folder is None
        self.folder, self.runs = details["folder"], book["runs"]
        where = "by Ray" if details["ray"] else "in this process"
        waiting = sum(len(run["trials"]) for run in details["waiting"])
        if first:
            self.line(f"sweep      {book['kind']}, {folded(len(book['trials']), len(self.runs))}")
            self.line(f"folder     {self.folder}")
        self.line(f"training   {folded(waiting, len(details['waiting']))}, {where}")
        if sys.stderr.isatty() and self.live is None:
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True)
            self.live = Live(console=console, get_renderable=self.table, refresh_per_second=1, transient=True)
            self.live.start()

    def table(self):
        """All runs, with what their folders show at this moment."""
        from rich.table import Table

        table = Table("run", "members", "status", "step", "score", "attempts", box=None)
        order = {"failed": 0, "waiting": 1, "done": 2}
        for run in sorted(self.runs, key=lambda run: order[run["status"]])[:ROWS]:
            step = newest(self.folder, run)
            status = "training" if step is not None and run["status"] == "waiting" else run["status"]
            cells = [run["name"], len(run["trials"]), status, "" if step is None else step]
            table.add_row(*map(str, [*cells, score(self.folder, run), run["attempts"]]))
        done = sum(run["status"] == "done" for run in self.runs)
        table.caption = f"{done} of {len(self.runs)} runs done"
        return table

    def line(self, text: str) -> None:
        if self.live is not None:
            self.live.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None


def newest(folder: Path | None, run: dict[str, Any]) -> int | None:
    """The last step that a run has logged; None before the first."""
    assert folder is not None
    return RunFolder(folder / "runs" / run["name"]).newest_step()


def score(folder: Path | None, run: dict[str, Any]) -> str:
    """`score 52.1`: the members' mean at the last evaluation; empty before the first."""
    assert folder is not None
    rows = RunFolder(folder / "runs" / run["name"]).evaluations()
    rows = [row for row in rows if row["step"] == rows[-1]["step"]]
    if not rows:
        return ""
    what = "return" if rows[0]["score"] is None else "score"
    return f"{what} {sum(row[what] for row in rows) / len(rows):.1f}"
