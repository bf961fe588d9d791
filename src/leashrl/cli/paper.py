"""`leashrl paper`: the papers' figures and tables."""

import dataclasses
import sys
from argparse import Namespace
from typing import Any

from leashrl.cli.arguments import Parser, pairs
from leashrl.cli.tables import assignments, columns, show
from leashrl.errors import BadInput


def arguments(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="the paper; without it, all are listed")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--figure", metavar="N", help="make this figure")
    what.add_argument("--table", metavar="N", help="make this table")
    what.add_argument("--list", action="store_true", help="what the paper has; so too without a number")
    parser.add_argument(
        "--scale",
        choices=("smoke", "cpu", "full"),
        help="train what it is made of: 20 updates, 5,000, or as published on each column; a table takes cpu",
    )
    parser.add_argument(
        "--protocol",
        action="store_true",
        help="what its runs resolve to at --scale, by column and task (full by default); trains nothing",
    )
    parser.add_argument(
        "--out", default="figures", metavar="DIR", help="folder of pictures and tables; figures by default"
    )
    parser.add_argument("--set", nargs="+", metavar="NAME=VALUE", help="options of the figure or table")


def run(args: Namespace) -> int:
    from leashrl.papers import PAPERS, find_paper, make

    if args.protocol:
        return show_protocol(args)
    if args.name is None:
        if args.figure or args.table or args.list or args.set or args.scale:
            raise BadInput(f"of which paper? `leashrl paper NAME ...`: {', '.join(sorted(PAPERS))}")
        rows = [[name, paper.about, describe(paper)] for name, paper in sorted(PAPERS.items())]
        values = [{"name": name} | numbers(paper) for name, paper in sorted(PAPERS.items())]
        show(args, {"papers": values}, columns([["name", "paper", "has"], *rows]))
        return 0
    paper = find_paper(args.name)
    if not args.figure and not args.table:
        if args.set or args.scale:
            raise BadInput(f"{'--set' if args.set else '--scale'} needs --figure or --table")
        rows = [[f"  --{kind} {n}", item.about, options(item)] for kind, n, item in items(paper)]
        show(args, numbers(paper), [paper.about, *columns(rows), *of_runs()])
        return 0
    kind, number = ("figure", args.figure) if args.figure else ("table", args.table)
    say = lambda line: print(line, file=sys.stderr, flush=True)
    made = make(args.name, kind, number, args.out, pairs("--set", args.set), scale=args.scale, say=say)
    files = [str(file) for file in made.files]
    values = {"paper": args.name, kind: number} | made.values | {"files": files}
    lines = made.values["markdown"].splitlines() if "markdown" in made.values else table(made.values["rows"])
    # Below full scale these are not the paper's own settings.
    lines += [f"from {run}" for run in made.values.get("runs", ())]
    show(args, values, [*lines, *files])
    return 0


def show_protocol(args: Namespace) -> int:
    from leashrl.papers import protocol
    from leashrl.papers.printed import PAPERS
    from leashrl.papers.protocols import FULL, listing

    if args.name is None:
        if args.figure or args.table or args.list or args.set or args.scale:
            raise BadInput(
                f"of which paper? `leashrl paper NAME --protocol ...`: {', '.join(sorted(PAPERS))}"
            )
        show(args, {"papers": [protocol(name).to_json() for name in PAPERS]}, listing().splitlines())
        return 0
    kind, number = ("figure", args.figure) if args.figure else ("table", args.table or "")
    found = protocol(args.name, kind, number, pairs("--set", args.set), scale=args.scale or FULL)
    show(args, found.to_json(), found.markdown.splitlines())
    return 0


# --- What there is -----------------------------------------------------------


def items(paper: Any) -> list[tuple[str, str, Any]]:
    found = [("table", number, item) for number, item in paper.tables.items()]
    return found + [("figure", number, item) for number, item in paper.figures.items()]


def numbers(paper: Any) -> dict[str, list[str]]:
    return {"tables": list(paper.tables), "figures": list(paper.figures)}


def describe(paper: Any) -> str:
    return ", ".join(f"{kind} {number}" for kind, number, _ in items(paper))


def options(item: Any) -> str:
    """What it takes."""
    own = f"--set {assignments(dataclasses.asdict(item.options))}" if item.options else ""
    return " ".join(filter(None, ["--scale S" if item.trials else "", own]))


def of_runs() -> list[str]:
    """What `--scale` means, and what else an item that is made of runs takes."""
    from leashrl.papers.protocols import FULL, SCALES, Options

    scales = [f"{name} ({scale.steps:,} updates, {scale.seeds} seeds)" for name, scale in SCALES.items()]
    scales.append(f"{FULL} (as published on each column: --protocol shows it)")
    values = {k: v for k, v in dataclasses.asdict(Options()).items() if k != "scale"}
    return ["", f"S, how much to train: {', '.join(scales)}", f"with it, --set {assignments(values)}"]


# --- Printing ----------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Aligned columns with four digits, where `columns` would keep one decimal.

    >>> table([{"beta": 0.01, "mean": -9.81712}, {"beta": 100.0, "mean": 4.0}])
    ['beta    mean', '0.01  -9.817', ' 100       4']
    """
    cells = [list(rows[0]), *([text(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in cells]


def text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
