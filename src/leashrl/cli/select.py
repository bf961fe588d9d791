"""`leashrl select`, and what `train --select fqe` does at its end: each member's best snapshot is kept."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leashrl.cli.arguments import Parser, whole
from leashrl.cli.arguments import seeds as which
from leashrl.cli.fqe import digits, progress
from leashrl.cli.tables import columns, show
from leashrl.training.compilation import use_compilation_cache

if TYPE_CHECKING:
    from leashrl.ope.selection import Selection


def arguments(parser: Parser) -> None:
    parser.add_argument("folder", metavar="DIR", help="a finished run's, trained with --snapshots")
    parser.add_argument(
        "--data", metavar="FILE_OR_ID", help="to judge on; by default what the run was trained on"
    )
    parser.add_argument(
        "--seeds", type=which, default=5, metavar="N or 0,3,7", help="of FQE, at least two; 5"
    )
    parser.add_argument("--steps", type=whole, metavar="N", help="gradient updates of FQE; 10000")


def run(args: Namespace) -> int:
    options = {} if args.steps is None else {"steps": args.steps}
    found = select(args.folder, args.data, args.seeds, options)
    show(args, {"folder": str(found.folder)} | found.to_json(), lines(found))
    return 0


def select(
    folder: str | Path,
    data: str | None,
    seeds: int | Sequence[int] = 5,
    options: dict[str, Any] | None = None,
) -> "Selection":
    use_compilation_cache()
    from leashrl.ope import selection

    print("judging the snapshots by fitted Q evaluation ...", file=sys.stderr, flush=True)
    return selection.select(folder, data, seeds=seeds, options=options, report=progress())


def lines(found: "Selection") -> list[str]:
    """What each member keeps, and where."""
    titles = ["member", "keeps step", "of", "value", "last", "lead", "at least", ""]
    number = lambda value: "-" if value is None else digits(value)
    rows = [
        [
            kept.member,
            str(kept.step),
            str(kept.last),
            *map(number, (kept.value, kept.last_value, kept.lead, kept.lead_low)),
            kept.why,
        ]
        for kept in found.members
    ]
    off = found.judged.data.off
    return [
        "by FQE on the data, no simulator; values are discounted sums of the rewards, not scores",
        *columns([titles, *rows]),
        *([f"warning: {off}"] if off else []),
        *[f"left out: {row.policy}: {row.why}" for row in found.judged.left_out],
        f"kept: {found.folder} (policy/, selection.json; all of them in snapshots/)",
    ]
