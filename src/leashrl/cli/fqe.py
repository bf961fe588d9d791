"""`leashrl fqe`: policies put in order without a simulator."""

import os
import sys
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leashrl.cli.arguments import Parser, pairs, whole
from leashrl.cli.arguments import seeds as which
from leashrl.cli.progress import clock
from leashrl.cli.tables import columns, show
from leashrl.errors import BadInput
from leashrl.training.compilation import use_compilation_cache

if TYPE_CHECKING:
    from leashrl.ope import FqeResult, FqeRow


def arguments(parser: Parser) -> None:
    parser.add_argument("folders", nargs="+", metavar="DIR", help="runs' folders, or copies of their policy/")
    parser.add_argument(
        "--data", metavar="FILE_OR_ID", help="to evaluate on; by default what the runs were trained on"
    )
    parser.add_argument(
        "--snapshots", action="store_true", help="the policies in snapshots/, in place of the final ones"
    )
    parser.add_argument("--mode", metavar="M", help="how the policies act, such as sample; each one's own")
    parser.add_argument("--gamma", type=float, metavar="G", help="discount; the policies' own, or 0.99")
    parser.add_argument(
        "--seeds",
        type=which,
        default=5,
        metavar="N or 0,3,7",
        help="of FQE, each on its own resample of the training episodes; 5, at least 2 for an interval",
    )
    parser.add_argument("--steps", type=whole, metavar="N", help="gradient updates; 10000")
    parser.add_argument("--held-out", type=float, default=20.0, metavar="PERCENT", help="of the episodes; 20")
    parser.add_argument("--split-seed", type=whole, default=0, metavar="S", help="of their draw; 0")
    parser.add_argument(
        "--rows", type=whole, default=200_000, metavar="N", help="the most that are used on each side; 200000"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        metavar="NAME=VALUE",
        help="batch_size, hidden, polyak, critic_rate or precision of FQE's critics",
    )
    parser.add_argument(
        "--out", metavar="FILE.json", help="write there what --json prints; nothing is by default"
    )


def critics_options(args: Namespace) -> dict[str, Any]:
    """What `--steps` and `--set` say of the critics that are fitted."""
    options: dict[str, Any] = dict(pairs("--set", args.set))
    for name in ("steps", "gamma"):
        if name in options:
            raise BadInput(f"--set does not take '{name}': give --{name}")
    return options if args.steps is None else options | {"steps": args.steps}


def run(args: Namespace) -> int:
    options = critics_options(args)
    out = check_out(args.out)
    use_compilation_cache()
    from leashrl.disk.files import write_json
    from leashrl.ope.fqe import fqe

    found = fqe(
        args.folders,
        args.data,
        snapshots=args.snapshots,
        mode=args.mode,
        gamma=args.gamma,
        seeds=args.seeds,
        held_percent=args.held_out,
        split_seed=args.split_seed,
        rows=args.rows,
        options=options,
        report=progress(),
    )
    if out is not None:
        write_json(out, found.to_json())
    show(args, found.to_json(), [*lines(found), *([f"written: {out}"] if out else [])])
    return 0


def check_out(name: str | None) -> Path | None:
    """Whether the file can be written is asked before minutes are spent."""
    if name is None:
        return None
    out = Path(name).expanduser()
    if out.suffix != ".json":
        raise BadInput(f"--out is written as JSON: name the file {out.name}.json")
    if out.exists():
        raise BadInput(f"{out} exists already: remove it or give another name")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise BadInput(f"cannot write into '{out.parent}': make the folder, or choose another --out")
    return out


def progress(every: float = 10.0):
    """Tells on stderr, now and then, how far it is."""
    first = None  # step and time of the first report behind the compilation

    def report(step: int, total: int) -> None:
        nonlocal first, last
        now = time.monotonic()
        if step and first is None:
            first = last = now
        elif first is not None and now - last >= every:
            last = now
            left = clock((total - step) * (now - first) / step)
            print(f"step {step}/{total}, {left} left", file=sys.stderr, flush=True)

    last = 0.0
    return report


NO_INTERVAL = "No intervals: they take two seeds (--seeds), and two episodes on each side (--held-out)."

# --- Printing ----------------------------------------------------------------


def lines(found: "FqeResult") -> list[str]:
    data, config = found.data, found.config
    episodes, seeds = data.episodes, ", ".join(map(str, found.seeds))
    head = [
        f"discounted values (gamma {config.gamma:g}) in the rewards' units: not returns, and not scores",
        f"on {data.name}: starts of {episodes.held_out} held-out episodes of "
        f"{episodes.held_out + episodes.trained_on}, FQE's seeds {seeds} (each on its own resample of the "
        f"other episodes), {config.steps} updates, {config.precision} products",
        "",
    ]
    titles = ["rank", "(95 %)", "policy", "value", "95 % interval", "error", "strange", "outside", "ESS", ""]
    table = [titles, *(cells(row, row.policy) for row in found.policies)]
    table.append(cells(replace(data.fqe, rank=None), "the data's behaviour, by FQE"))
    table.append(["", "", "the data's behaviour, as logged", digits(data.value.held_out), *[""] * 6])
    notes = []
    if data.off:
        notes.append(f"warning: {data.off}")
    left = [f"left out: {row.policy}: {row.why}" for row in found.left_out]
    first = found.policies[0]
    no_interval = [NO_INTERVAL] if first.value is not None and first.low is None else []
    return [
        *head,
        *columns([[str(cell) for cell in row] for row in table]),
        "",
        "error: of Bellman's equation on held-out rows (root mean square); strange: share of actions that no",
        "logged ones lie near (5 % is usual); outside: share of what the policy would meet, discounted, that",
        "no weights of the logged rows reproduce; ESS: effective sample size of the best weights, % of rows.",
        *no_interval,
        "Intervals hold the chance in the data and in the seeds, not what all seeds get wrong alike: do not",
        "rely on them where a row is flagged.",
        *notes,
        *left,
    ]


def cells(row: "FqeRow", name: str) -> list[str]:
    flags, shares = "; ".join(row.flags), [share(x) for x in (row.strange, row.outside, row.ess)]
    if row.value is None or row.error is None:
        return ["", "", name, "-", "", "", *shares, flags]
    interval, rank = "-", ["", ""]
    if row.low is not None and row.high is not None:
        interval = f"{digits(row.low)} to {digits(row.high)}"
    if row.rank:
        rank = [str(row.rank), "-" if row.low is None else f"{row.rank_low} to {row.rank_high}"]
    return [*rank, name, digits(row.value), interval, digits(row.error), *shares, flags]


def share(value: float) -> str:
    """
    >>> share(0.236), share(0.0061)
    ('24%', '0.6%')
    """
    return f"{value:.0%}" if value >= 0.0095 or not value else f"{value:.1%}"


def digits(value: float) -> str:
    """
    >>> digits(-447.1407), digits(0.012345)
    ('-447.1', '0.01235')
    """
    return f"{value:.0f}" if abs(value) >= 1e4 else f"{value:#.4g}"
