"""`leashrl report`."""

import sys
from argparse import Namespace

from leashrl.cli.arguments import Parser, whole
from leashrl.cli.fqe import progress
from leashrl.cli.tables import columns, show
from leashrl.errors import BadInput
from leashrl.training.compilation import use_compilation_cache


def arguments(parser: Parser) -> None:
    parser.add_argument("folders", nargs="+", metavar="DIR", help="runs, or folders that hold some")
    parser.add_argument(
        "--out",
        metavar="FILE.html",
        help="the page; report.html in the run's folder, or here for several runs",
    )
    parser.add_argument(
        "--format", default="html", metavar="F[,F]", help="of html, png, pdf, csv, latex; html by default"
    )
    parser.add_argument("--title", help="of the page; the data set's name by default")
    parser.add_argument(
        "--diagnose",
        action="store_true",
        help="first hold the policies against their data, and leave diagnostics.json in each run",
    )

    parser.add_argument(
        "--fqe",
        type=whole,
        nargs="?",
        const=10_000,
        metavar="N",
        help="first estimate the policies' values from their data, by N updates of fitted Q evaluation, and "
        "leave fqe.json in each run; 10000",
    )


def run(args: Namespace) -> int:
    from leashrl.report import report

    formats = [name for name in args.format.split(",") if name]
    if args.diagnose:
        diagnose(args.folders)
    if args.fqe is not None:
        estimate(args.folders, args.fqe)
    found = report(args.folders, args.out, formats=formats, title=args.title)
    for problem in found.problems:
        print(f"leashrl: warning: left out: {problem}", file=sys.stderr)
    head = ["setting", "data", "mean", "low", "high", "last 10", "seeds"]
    rows = [
        [r.label, r.data, r.mean, r.low, r.high, r.last_10_mean, f"{r.n} of {r.of}"] for r in found.summary
    ]
    show(args, found.to_json(), [*columns([head, *rows]), *map(str, found.files)])
    return 0


def diagnose(folders: list[str]) -> None:
    """Measure every run that has finished; a line for each that cannot be."""
    from leashrl.ope.diagnostics import diagnose as measure
    from leashrl.report.reading import read_runs

    for run in read_runs(folders)[0]:
        if run.result is None:
            print(f"'{run.folder}' has not finished: no diagnostics yet", file=sys.stderr)
            continue
        try:
            found = measure(run.folder)
        except BadInput as error:
            print(f"leashrl: warning: no diagnostics of '{run.folder}': {error}", file=sys.stderr)
            continue
        skipped = f": {found.skipped}" if found.skipped else ""
        print(f"{run.folder}/diagnostics.json{skipped}", file=sys.stderr)


def estimate(folders: list[str], steps: int) -> None:
    """Fitted Q evaluation of every finished run, those on the same data together."""
    from leashrl.disk.folder import RunFolder
    from leashrl.ope.fqe import fqe
    from leashrl.report.reading import read_runs

    use_compilation_cache()
    groups: dict[str, list] = {}
    for run in read_runs(folders)[0]:
        if run.result is None:
            print(f"'{run.folder}' has not finished: no values yet", file=sys.stderr)
        else:
            groups.setdefault(str(run.config["data"].get("hash")), []).append(run.folder)
    for together in groups.values():
        names = ", ".join(str(folder) for folder in together)
        print(f"estimating the values of {names} ...", file=sys.stderr, flush=True)
        try:
            found = fqe(together, options={"steps": steps}, report=progress()).to_json()
        except BadInput as error:
            print(f"leashrl: warning: no values of {names}: {error}", file=sys.stderr)
            continue
        for left in found["left_out"]:
            print(f"leashrl: warning: no value of {left['policy']}: {left['why']}", file=sys.stderr)
        for folder in together:
            own = [row for row in found["policies"] if row["folder"] == str(folder)]
            RunFolder(folder).write_fqe(found | {"policies": own})
