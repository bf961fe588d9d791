"""`leashrl ope`: policies judged by importance sampling and doubly robust estimates."""

import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from leashrl.cli.arguments import Parser, whole
from leashrl.cli.fqe import check_out, critics_options, digits, progress, share
from leashrl.cli.tables import columns, show
from leashrl.training.compilation import use_compilation_cache

if TYPE_CHECKING:
    from leashrl.ope import OpeResult, OpeRow


def arguments(parser: Parser) -> None:
    parser.add_argument("folders", nargs="+", metavar="DIR", help="runs' folders, or copies of their policy/")
    parser.add_argument(
        "--method",
        default="fqe,wis,dr",
        metavar="M,M",
        help="of fqe, is, wis, pdis, wpdis, dr, wdr, switch-dr; fqe,wis,dr",
    )
    parser.add_argument(
        "--data", metavar="FILE_OR_ID", help="to judge on; by default what the runs were trained on"
    )
    parser.add_argument(
        "--propensity",
        metavar="NAME",
        help="the data's array of the logged actions' propensities; without one the behaviour is cloned",
    )
    parser.add_argument("--mode", metavar="M", help="how the policies act, such as sample")
    parser.add_argument(
        "--gamma", type=float, metavar="G", help="discount, at most 1; the policies' own, or 0.99"
    )
    parser.add_argument("--clip", type=float, default=math.inf, metavar="W", help="the largest weight; none")
    parser.add_argument(
        "--switch",
        type=float,
        default=10.0,
        metavar="W",
        help="weight above which switch-dr trusts the model; 10",
    )
    parser.add_argument("--seed", type=whole, default=0, metavar="S", help="of the halves and the fits; 0")
    parser.add_argument("--steps", type=whole, metavar="N", help="gradient updates of the model; 10000")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        metavar="NAME=VALUE",
        help="batch_size, hidden and so on of the model",
    )
    parser.add_argument(
        "--out", metavar="FILE.json", help="write there what --json prints; nothing is by default"
    )


def run(args: Namespace) -> int:
    options = critics_options(args)
    out = check_out(args.out)
    use_compilation_cache()
    from leashrl.disk.files import write_json
    from leashrl.ope.off_policy import off_policy

    print("judging the policies on logged episodes ...", file=sys.stderr, flush=True)
    found = off_policy(
        args.folders,
        args.data,
        methods=[method for method in args.method.split(",") if method],
        propensity=args.propensity,
        mode=args.mode,
        gamma=args.gamma,
        clip=args.clip,
        switch=args.switch,
        seed=args.seed,
        options=options,
        report=progress(),
    )
    if out is not None:
        write_json(out, found.to_json())
    show(args, found.to_json(), [*lines(found), *([f"written: {out}"] if out else [])])
    return 0


# --- Printing ----------------------------------------------------------------


def lines(found: "OpeResult") -> list[str]:
    data = found.data
    titles = ["policy", "mode", "method", "value", "95 % interval", "ESS", "clipped", ""]
    logged = [
        "the log itself",
        "",
        "",
        digits(data.value),
        interval(data.low, data.high),
        str(data.episodes),
        "",
        "",
    ]
    notes = []
    if found.propensities == "estimated":
        notes = [
            "warning: the data hold no propensities, so the behaviour was cloned: its error biases the "
            "estimates with weights, and is in no interval"
        ]
    return [
        f"discounted values of an episode (gamma {found.gamma:g}) in the rewards' units: not scores",
        f"on {data.name}: {data.episodes} episodes of up to {data.longest} steps",
        "",
        *columns([titles, *map(cells, found.rows), logged]),
        "",
        "ESS: effective number of episodes. Below some tens an estimate by weights says little: prefer fqe",
        "or dr, or judge a policy nearer to the log.",
        *notes,
        *[f"left out: {row.policy}: {row.why}" for row in found.left_out],
    ]


def cells(row: "OpeRow") -> list[str]:
    flags: Sequence[str] = row.flags
    if row.bias:
        flags = (f"clipping moved it by at most {digits(row.bias)} on average", *flags)
    known = row.ess is not None
    return [
        row.policy,
        row.mode,
        row.method,
        "-" if row.value is None else digits(row.value),
        interval(row.low, row.high),
        f"{row.ess:.1f}" if known else "-",
        share(row.clipped or 0.0) if known else "-",
        "; ".join(flags),
    ]


def interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{digits(low)} to {digits(high)}"
