"""`leashrl bench`: one algorithm, or a table of all."""

import math
import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from leashrl.cli.arguments import Parser, pairs, whole
from leashrl.cli.tables import columns, show
from leashrl.errors import BadInput

if TYPE_CHECKING:
    from leashrl.benches import Machine, Row


def arguments(parser: Parser) -> None:
    parser.add_argument("algorithm", nargs="?", metavar="ALGO", help="`leashrl algos` lists them")
    parser.add_argument(
        "--all",
        action="store_true",
        help="a table of all algorithms, in both precisions unless --set precision=... names one; each in a "
        "process of its own, its last stage alone",
    )
    parser.add_argument("--seeds", type=whole, default=1, metavar="N", help="members side by side; 1")
    parser.add_argument("--preset", default="default", help="named options (`leashrl algos ALGO`)")
    parser.add_argument("--set", nargs="+", action="extend", metavar="NAME=VALUE", help="single options")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="of measuring each; 10")


def run(args: Namespace) -> int:
    if args.seeds < 1:
        raise BadInput(f"--seeds must be at least 1, not {args.seeds}")
    if not 0 < args.seconds < math.inf:
        raise BadInput(f"--seconds must be more than 0, not {args.seconds:g}")
    if args.all and args.algorithm:
        raise BadInput(f"`leashrl bench` takes '{args.algorithm}' or --all, not both")
    if not args.all and not args.algorithm:
        raise BadInput("`leashrl bench` needs an algorithm (`leashrl algos` lists them), or --all")
    settings = {"seeds": args.seeds, "preset": args.preset, "seconds": args.seconds}
    settings |= {"options": pairs("--set", args.set)}
    return table(args, settings) if args.all else single(args, settings)


def single(args: Namespace, settings: dict[str, Any]) -> int:
    from leashrl.bench import bench

    found = bench(args.algorithm, **settings).to_json()
    plain = {k: v for k, v in found.items() if v is not None and not isinstance(v, dict | list)}
    rows = [[k.replace("_", " "), f"{v:.4g}" if isinstance(v, float) else str(v)] for k, v in plain.items()]
    show(args, found, columns(rows))
    return 0


# --- All of them -------------------------------------------------------------

HEAD = ("algorithm", "precision", "updates/s", "slowest to fastest", "CPU ms", "GFLOP", "of rate")
HEAD += ("compile s", "peak MB")
WIDTHS = (10, 9, -9, -18, -7, -7, -7, -9, -7)
"""Of the columns, which are printed before all rows are known; below 0 to the right."""


def table(args: Namespace, settings: dict[str, Any]) -> int:
    """Rows as they come: on stdout, or on stderr where stdout takes JSON."""
    from leashrl.benches import Row, bench_all

    def report(event: "Machine | Row") -> None:
        lines = [row_line(event)] if isinstance(event, Row) else machine_lines(event)
        print("\n".join(lines), file=sys.stderr if args.json else sys.stdout, flush=True)

    found = bench_all(**settings, report=report)
    if args.json:
        show(args, found.to_json(), [])
    if found.left:
        count = len(found.rows)
        raise KeyboardInterrupt(f"{count} of {count + len(found.left)} rows are done")
    if not any(row.speed for row in found.rows):
        raise BadInput(f"no algorithm could be timed: {found.rows[0].failure}")
    return 0


def machine_lines(machine: "Machine") -> list[str]:
    rates = ", ".join(f"{rate:.0f} GFLOP/s in {name}" for name, rate in machine.matmul_gflops.items())
    about = "updates/s are medians, CPU ms and GFLOP per update, of rate: the share of that rate"
    return [f"{machine.device}, jax {machine.jax}; products: {rates}", about, aligned(HEAD)]


def row_line(row: "Row") -> str:
    if row.speed is None:
        return f"{aligned((row.algorithm, row.precision))}  failed: {row.failure}"
    speed = row.speed
    spread = " to ".join(f"{rate:.4g}" for rate in speed.slowest_and_fastest)
    cells = (f"{speed.updates_per_second:.4g}", spread, f"{speed.cpu_ms_per_update:.4g}")
    cells += (f"{speed.gflop_per_update:.3g}", f"{speed.share_of_matmul_rate:.0%}")
    cells += (f"{speed.compile_s:.1f}", f"{speed.peak_mb:.0f}")
    return aligned((row.algorithm, row.precision, *cells))


def aligned(cells: tuple[str, ...]) -> str:
    """Cells padded to WIDTHS.

    >>> aligned(("misa", "float32", "80.1"))
    'misa        float32         80.1'
    """
    parts = [
        text.ljust(width) if width > 0 else text.rjust(-width)
        for text, width in zip(cells, WIDTHS, strict=False)
    ]
    return "  ".join(parts).rstrip()
