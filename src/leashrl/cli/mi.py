"""`leashrl mi`: how much the actions of a data set depend on its states, and what this means for MISA."""

import sys
import time
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING

from leashrl.cli.arguments import Parser, whole
from leashrl.cli.data import reading, source_arguments
from leashrl.cli.tables import columns, show
from leashrl.training.compilation import use_compilation_cache

if TYPE_CHECKING:
    from leashrl.information import Bound, Information

ABOUT = {
    "misa": "MISA's bound (equation 10)",
    "dv": "Donsker-Varadhan (equation 9)",
    "f": "f-divergence (equation 8)",
    "ba": "Barber-Agakov (equation 7), the policy alone",
}


def arguments(parser: Parser) -> None:
    source_arguments(parser)
    parser.add_argument(
        "--rows", type=whole, default=100_000, metavar="N", help="use at most so many; 100,000 by default"
    )
    parser.add_argument(
        "--steps", type=whole, metavar="N", help="updates of the policy; 3 for each 100 rows, at least 3,000"
    )
    parser.add_argument("--seed", type=whole, default=0, metavar="S", help="0 by default")
    parser.add_argument(
        "--precision",
        default="auto",
        metavar="P",
        help="of products in training: float32, bfloat16, or auto, as this machine and what was shown allow",
    )


def run(args: Namespace) -> int:
    use_compilation_cache()
    from leashrl.data import load
    from leashrl.information.estimate import information, meaning

    data = load(args.source, **reading(args))
    settings = {"rows": args.rows, "steps": args.steps, "seed": args.seed, "precision": args.precision}
    found = information(data, **settings, report=progress())
    values = {"source": args.source, "hash": data.hash} | found.to_json() | {"meaning": meaning(found)}
    show(args, values, [*table(found), "", meaning(found)])
    return 0


def table(found: "Information") -> list[str]:
    rows = [["", "nats", "95 % interval", ""]]
    rows += [[name, *number(getattr(found, name)), about] for name, about in ABOUT.items()]
    if len(found.dimensions) > 1:
        rows += [[f"action {i}", *number(d), "by itself"] for i, d in enumerate(found.dimensions)]
    used = f"{found.rows_used} of {found.rows} rows, {found.folds} folds of whole episodes"
    if found.blocks != found.episodes and found.rows_used == found.rows:
        used = f"{found.rows} rows, {found.folds} folds of pieces of the {found.episodes} episodes"
    limit = f"lower bounds, of which none can exceed {found.ceiling:.1f} nats"
    return [*columns(rows), "", f"{used}; {found.precision} products; {limit}"]


def number(bound: "Bound") -> list[str]:
    """
    >>> from leashrl.information import Bound
    >>> number(Bound(0.5, 0.25, 10.0))
    ['  0.500', ' 0.250 to 10.000']
    """
    return [f"{bound.estimate:7.3f}", f"{bound.low:6.3f} to {bound.high:6.3f}"]


def progress(every: float = 10.0) -> Callable[[str, int, int], None]:
    """Tells on stderr, at a new phase and now and then, how far the estimate has come."""
    last, phase_before = time.monotonic(), ""

    def report(phase: str, done: int, total: int) -> None:
        nonlocal last, phase_before
        now = time.monotonic()
        if phase != phase_before or now - last >= every:
            last, phase_before = now, phase
            print(f"{phase}: {done} of {total}", file=sys.stderr, flush=True)

    return report
