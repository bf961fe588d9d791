"""`leashrl choose`: what a choice among finished runs is worth, by how many episodes it may take."""

import argparse
import math
from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from leashrl.cli.arguments import Parser, whole
from leashrl.cli.tables import columns, show
from leashrl.disk.files import read_json, versions
from leashrl.disk.folder import RunFolder, rows_of
from leashrl.errors import BadInput
from leashrl.evaluate.budget import expected_score
from leashrl.tasks import Task, normalise
from leashrl.tasks import task as find_task

FEW = 20
"""Episodes a candidate below which the best of several looks clearly better than it is."""
WANTED = "give a run's folder, or a file that `leashrl eval ... --json > FILE` made"
LEVEL, RESAMPLES, SEED = 0.95, 1000, 0


class Candidate(NamedTuple):
    """One policy that may be chosen."""

    source: str
    """The folder or file that was given."""
    member: str
    mode: str | None
    """How it acted, where a file of `leashrl eval` says so."""
    task: Task
    returns: np.ndarray
    """(episodes,)"""

    @property
    def name(self) -> str:
        return " ".join([self.source, self.member, *([self.mode] if self.mode else [])])


def arguments(parser: Parser) -> None:
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a finished run's folder, or a file that `eval --json` printed"
    )
    parser.add_argument(
        "--budget",
        type=budgets,
        default=[0, 1, 2, 5, 10, 20, 50, 100],
        metavar="B[,B]",
        help="episodes that the choice may take, all candidates together; 0,1,2,5,10,20,50,100",
    )
    parser.add_argument(
        "--rule", default="ucb", help="ucb: more episodes for what looks good; uniform: the same for all"
    )
    parser.add_argument(
        "--candidates", type=whole, metavar="K", help="choose among K of them, drawn at random; all"
    )


def budgets(text: str) -> list[int]:
    """`0,5,10`"""
    found = [whole(item) for item in text.split(",")]
    if min(found) < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not '{text}'")
    return found


def run(args: Namespace) -> int:
    found = [candidate for source in args.runs for candidate in read(source)]
    check_comparable(found)
    task = found[0].task
    scored = task.min_score is not None
    scores = [normalise(task, x.returns) if scored else x.returns for x in found]
    rows = expected_score(
        scores,
        args.budget,
        rule=args.rule,
        candidates=args.candidates,
        resamples=RESAMPLES,
        level=LEVEL,
        seed=SEED,
    )
    about = [
        {"run": x.source, "member": x.member, "mode": x.mode, "episodes": len(x.returns), "mean": mean}
        for x, mean in zip(found, (float(x.mean()) for x in scores), strict=True)
    ]
    values = {
        "task": task.name,
        "unit": "score" if scored else "return",
        "rule": args.rule,
        "exploration": math.sqrt(2) if args.rule == "ucb" else None,
        "choice_among": args.candidates or len(found),
        "resamples": RESAMPLES,
        "level": LEVEL,
        "seed": SEED,
        "candidates": about,
        "budgets": [row.to_json() for row in rows],
        "versions": versions(),
    }
    show(args, values, lines(values))
    return 0


def lines(values: dict[str, Any]) -> list[str]:
    found, unit = values["candidates"], values["unit"]
    episodes = sorted({x["episodes"] for x in found})
    each = " to ".join(map(str, [episodes[0], *episodes[1:][-1:]]))
    among = values["choice_among"]
    which = f"{among} of {len(found)} candidates" if among < len(found) else f"{among} candidates"
    head = ["episodes", unit, "95 % of choices"]
    rows = [[x["budget"], x["mean"], f"{x['low']:.1f} to {x['high']:.1f}"] for x in values["budgets"]]
    best = max(found, key=lambda x: x["mean"])
    out = [
        f"a choice among {which} on {values['task']}, rule {values['rule']}, from {each} episodes of each",
        *columns([head, *rows]),
        f"best over all its episodes: {' '.join(filter(None, [best['run'], best['member'], best['mode']]))}, "
        f"{unit} {best['mean']:.1f}",
    ]
    if episodes[0] < FEW and len(found) > 1:
        out.append(
            f"from so few episodes the best looks better than it is: `leashrl eval RUN --episodes {5 * FEW} "
            "--json > FILE`, and choose among the FILEs"
        )
    return out


# --- Reading -----------------------------------------------------------------


def read(source: str) -> list[Candidate]:
    """The candidates of a run's folder, by its last evaluation, or of a file that `eval --json` printed."""
    path = Path(source).expanduser()
    return read_run(source, path) if path.is_dir() else read_file(source, path)


def read_run(source: str, folder: Path) -> list[Candidate]:
    """The members of a run at its end; those that diverged are no candidates."""
    files = RunFolder(folder)
    if not files.finished:
        if files.begun:
            raise BadInput(f"the run in '{source}' has not finished: `leashrl resume {source}` goes on")
        raise BadInput(f"no evaluations in '{source}': {WANTED}")
    plan, result = files.config(), files.result()
    found = []
    try:
        if result["task"] is None:
            raise BadInput(
                f"'{source}' was trained without a task: `leashrl eval {source} --task` evaluates it"
            )
        task = find_task(result["task"])
        last = files.evaluations(result["steps"])
        for labels, member in zip(plan["members"], result["members"], strict=True):
            mine = rows_of(labels, last)
            found += [Candidate(source, member["name"], None, task, returns(row)) for row in mine]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise unfit(folder, error) from None
    if not found:
        raise BadInput(f"no evaluation of the last step in '{source}': did every member diverge?")
    return found


def read_file(source: str, path: Path) -> list[Candidate]:
    """What `leashrl eval --json` printed, for one mode or several."""
    if not path.exists():
        raise BadInput(f"no run and no file '{source}'")
    document = read_json(path)
    found = []
    try:
        for one in document.get("modes", [document]):
            task = find_task(one["task"])
            found += [
                Candidate(source, member["name"], one["mode"], task, returns(member))
                for member in one["members"]
            ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise unfit(path, error) from None
    if not found:
        raise BadInput(f"'{source}' holds no evaluated policy")
    return found


def returns(row: dict[str, Any]) -> np.ndarray:
    found = np.asarray(row["returns"], np.float64)
    if found.ndim != 1 or not len(found):
        raise ValueError("returns of no episode")
    return found


def unfit(path: Path, error: Exception) -> BadInput:
    if isinstance(error, BadInput):
        return error
    return BadInput(f"'{path}' is not what leashrl wrote ({type(error).__name__} {error}): {WANTED}")


def check_comparable(found: list[Candidate]) -> None:
    """BadInput where two candidates are the same, or act in different environments."""
    seen: dict[tuple, str] = {}
    for x in found:
        key = (Path(x.source).expanduser().resolve(), x.member, x.mode)
        if key in seen:
            raise BadInput(f"'{x.source}' is given twice: once is enough")
        seen[key] = x.name
    first = found[0]
    for x in found:
        if place(x.task) != place(first.task):
            raise BadInput(
                f"'{first.source}' was evaluated on {first.task.name} and '{x.source}' on {x.task.name}: "
                "scores of different tasks are not comparable, so choose for each task by itself"
            )


def place(task: Task) -> tuple:
    """What makes two tasks one to act in, whatever data their policies come from."""
    kind = task.name.split("-")[1] if task.domain == "kitchen" else ""  # the kinds reward different sub-tasks
    return task.env_id, task.max_episode_steps, kind
