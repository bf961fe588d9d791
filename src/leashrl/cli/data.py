"""`leashrl data info | check | make | convert`."""

import dataclasses
import math
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from leashrl.cli.arguments import Parser, numbers, whole
from leashrl.cli.progress import rows_made
from leashrl.cli.tables import cell, columns, show
from leashrl.errors import BadInput

if TYPE_CHECKING:
    from leashrl.tasks import Task

# --- Arguments ---------------------------------------------------------------

TASK = "whose rewards an OGBench file is given; its default one by default"


def source_arguments(parser: Parser) -> None:
    parser.add_argument(
        "source", metavar="FILE_OR_ID", help="a file, a D4RL or Minari id on this disk, or a recipe"
    )
    reading_arguments(parser)


def reading_arguments(parser: Parser) -> None:
    """What a file may fail to say."""
    what = "bounds of each action dimension, where the file does not hold them: -2,-2"
    parser.add_argument("--action-low", type=numbers, metavar="LIST", help=f"lower {what}")
    parser.add_argument("--action-high", type=numbers, metavar="LIST", help=f"upper {what}")
    parser.add_argument("--actions", type=whole, metavar="N", help="the number of discrete actions")
    parser.add_argument("--limit", type=whole, metavar="N", help="the time limit of an episode in steps")
    parser.add_argument(
        "--ends", metavar="KEY", help="the array that says where episodes end, where that is not timeouts"
    )
    parser.add_argument("--task", metavar="NAME", help=TASK)


def reading(args: Namespace) -> dict[str, Any]:
    """Keyword arguments of `load`."""
    space = space_of(args)
    return {"action_space": space, "max_episode_steps": args.limit, "ends": args.ends, "task": args.task}


def space_of(args: Namespace) -> Any:
    """The action space that the options say; None where they say none."""
    low, high, n = args.action_low, args.action_high, args.actions
    if (low is None) != (high is None) or (low is not None and (n or len(low) != len(high))):
        raise BadInput(
            "give --action-low and --action-high with a number a dimension each, or --actions alone"
        )
    if n is not None and n < 1:
        raise BadInput(f"--actions must be at least 1, not {n}")
    from leashrl.types import Box, Discrete

    return Discrete(n) if n else Box(tuple(low), tuple(high)) if low else None


def make_arguments(parser: Parser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="such as pendulum-medium")
    parser.add_argument(
        "--steps", type=whole, metavar="N", help="rows; each recipe has its own number by default"
    )
    parser.add_argument(
        "--episodes", type=whole, metavar="N", help="of OGBench's recipes, instead of --steps; as published"
    )
    parser.add_argument(
        "--processes", type=whole, metavar="N", help="of OGBench's recipes; one per core by default"
    )
    parser.add_argument("--seed", type=whole, default=0, metavar="S", help="0 by default")
    parser.add_argument("--out", metavar="FILE", help="the .hdf5 or .npz file; without it, one in the cache")


def import_arguments(parser: Parser) -> None:
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="CSV, Parquet or JSON lines, or folders of them; one row a step",
    )
    for name, what in (("obs", "observations"), ("action", "actions")):
        parser.add_argument(
            f"--{name}",
            required=True,
            metavar="COLS",
            help=f"columns of {what}: a,b or patterns such as 'x_*'",
        )
    parser.add_argument("--reward", required=True, metavar="COL")
    parser.add_argument("--episode", metavar="COL", help="the same within an episode; without it a file each")
    parser.add_argument("--time", metavar="COL", help="to sort each episode by; the rows' order by default")
    parser.add_argument("--terminal", metavar="COL", help="true on the last row of an episode that ended")
    parser.add_argument("--timeout", metavar="COL", help="true on the last row of an episode that was cut")
    parser.add_argument(
        "--propensity", metavar="COL", help="the logged action's probability, or density, where it is known"
    )
    parser.add_argument("--bandit", action="store_true", help="each row is an episode that ends there")
    parser.add_argument(
        "--missing", default="refuse", metavar="RULE", help="of missing values: refuse, drop, fill, indicator"
    )
    what = "bounds of each action column: -2,-2"
    parser.add_argument("--action-low", type=numbers, metavar="LIST", help=f"lower {what}")
    parser.add_argument("--action-high", type=numbers, metavar="LIST", help=f"upper {what}")
    parser.add_argument("--actions", type=whole, metavar="N", help="the number of discrete actions")
    parser.add_argument("--limit", type=whole, metavar="N", help="the time limit of an episode in steps")
    parser.add_argument("--out", required=True, metavar="FILE", help="a new .hdf5, .h5 or .npz file")


def convert_arguments(parser: Parser) -> None:
    source_arguments(parser)
    parser.add_argument(
        "target", metavar="TARGET", help="a new .hdf5, .h5 or .npz file, or minari:NAMESPACE/NAME-v0"
    )
    parser.add_argument(
        "--transitions", action="store_true", help="each row is a transition of its own, in no order"
    )


# --- Commands ----------------------------------------------------------------


def info(args: Namespace) -> int:
    from leashrl.data import info as describe
    from leashrl.data import load

    found = describe(load(args.source, **reading(args))).to_json()
    lines = []
    for name, value in found.items():
        if isinstance(value, dict) and {"mean", "min", "max"} <= value.keys():
            value = ", ".join(f"{k} {v:.6g}" for k, v in value.items())
        elif isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        elif isinstance(value, float):
            value = f"{value:.4g}"
        elif name == "action_space_assumed":
            value = "yes: the file holds no bounds, [-1, 1] is D4RL's convention" if value else "no"
        if value != "":
            lines.append([name.replace("_", " "), cell(value)])
    show(args, found, columns(lines))
    return 0


def check(args: Namespace) -> int:
    from leashrl.data import check as find
    from leashrl.tasks import task as find_task
    from leashrl.types import Box, Discrete, Spec

    spec, name = None, args.task
    if name is not None:
        task = find_task(name)
        box = Box(*bounds_of(task))
        spec = Spec(task.obs_dim, Discrete(task.action_dim) if task.discrete else box)
    found = find(args.source, spec=spec, **reading(args))
    fatal = [defect for defect in found if defect.fatal]
    lines = [f"{'defect' if d.fatal else 'odd'}: {' '.join(str(d).split())}" for d in found]
    values = {"source": args.source, "ok": not fatal, "defects": [dataclasses.asdict(d) for d in found]}
    show(args, values, lines or [f"{args.source}: no defect found"])
    if fatal:
        first = " ".join(str(fatal[0]).split())
        raise BadInput(first if len(fatal) == 1 else f"{len(fatal)} defects, the first: {first}")
    return 0


def bounds_of(task: "Task") -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of its actions; infinite ones, which are not compared, where its environment cannot be made here."""
    from leashrl.tasks.making import action_bounds

    unknown = (math.inf,) * (task.action_dim or 1)
    try:
        found = action_bounds(task) if task.env_id else None
    except BadInput:
        found = None
    return found or (tuple(-x for x in unknown), unknown)


def make(args: Namespace) -> int:
    from leashrl.data import RECIPES, load
    from leashrl.data import make as write
    from leashrl.data.oracles import RECIPES as ORACLES
    from leashrl.data.recipes import compare_with_card

    settings = {"steps": args.steps, "episodes": args.episodes, "processes": args.processes}
    total = ORACLES[args.recipe].total(args.episodes) if args.recipe in ORACLES else None
    with rows_made(total) as report:
        path = write(args.recipe, args.out, seed=args.seed, report=report, **settings)
    ours = RECIPES.get(args.recipe) or ORACLES[args.recipe]
    data = load(path, task=ours.task)
    values = {
        "recipe": args.recipe,
        "file": str(path),
        "seed": args.seed,
        "rows": len(data),
        "hash": data.hash,
        "task": ours.task,
    }
    lines = [f"{path}: {len(data)} rows of {ours.about}"]
    verdict = compare_with_card(args.recipe, len(data), args.seed, data.hash)
    if verdict is not None:
        values["card"] = verdict
        lines.append(verdict)
    show(args, values, lines)
    return 0


def import_tables(args: Namespace) -> int:
    from leashrl.data import Dataset
    from leashrl.data.tables import FILE, read_files

    taken = ("reward", "time", "terminal", "timeout", "propensity", "bandit", "missing")
    options = {name: getattr(args, name) for name in taken}
    columns = {name: getattr(args, name).split(",") for name in ("obs", "action")}
    # a file each is an episode each, where nothing else says
    own = None if args.episode or args.terminal or args.timeout or args.bandit else FILE
    data = Dataset.from_frame(
        read_files(args.files, with_file=own is not None), name=args.files[0], episode=args.episode or own,
        action_space=space_of(args), max_episode_steps=args.limit, **columns, **options,
    )  # fmt: skip
    data.save(args.out)
    made = data.columns.obs_names
    values = {"file": args.out, "rows": len(data), "episodes": len(data.episodes()), "hash": data.hash}
    values |= {"observations": made, "actions": [column.name for column in data.columns.action]}
    lines = [f"{args.out}: {len(data)} rows, {len(data.episodes())} episodes, {len(made)} observations"]
    show(args, values, [*lines, f"observations: {', '.join(made)}"])
    return 0


def convert(args: Namespace) -> int:
    from leashrl.data import convert as write

    notes = write(args.source, args.target, **reading(args), transitions=args.transitions)
    values = {"source": args.source, "target": args.target} | ({"notes": notes} if notes else {})
    show(args, values, [f"{args.source} -> {args.target}", *notes])
    return 0
