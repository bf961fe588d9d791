"""The first five minutes: make data, train two algorithms on it, compare them.

    python -m leashrl.demo [--quick] [--out DIR]

The data are logs of a swing-up controller that overshoots, with broad noise. Behaviour cloning (bc) imitates
their mean action and so returns what the data do; MISA weighs actions by their value while it stays close
to the data, and swings the pendulum up.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from leashrl.disk.folder import RunFolder
from leashrl.errors import BadInput, Diverged, nearest
from leashrl.evaluate.statistics import Score
from leashrl.runs.events import Evaluated, Event, MemberDiverged, Started
from leashrl.training.interrupts import interruptible

RECIPE = "pendulum-medium"
FILE = f"demo-{RECIPE}.hdf5"
"""Also the mark of a folder that the demo may write over."""
ALGORITHMS: dict[str, dict[str, Any]] = {
    # Small networks: the pendulum is easy, and a demo should be short.
    "bc": {"hidden": (64, 64)},
    # Poor logs want a policy that may leave them: gamma_2 is a fortieth of the default.
    "misa": {"hidden": (64, 64), "gamma_2": 0.5, "schedule": "constant"},
}


class Size(NamedTuple):
    seeds: int
    steps: int
    evaluations: int
    episodes: int


FULL = Size(seeds=3, steps=4000, evaluations=8, episodes=10)
QUICK = Size(seeds=2, steps=300, evaluations=3, episodes=2)


# --- The demo ----------------------------------------------------------------


def demo(folder: Path, size: Size) -> list[str]:
    """All of it; what is printed at the end. `folder` gets the data, one run an algorithm and curves.png."""
    from leashrl.data import load
    from leashrl.data.recipes import make
    from leashrl.evaluate.statistics import summary
    from leashrl.report import plots
    from leashrl.runs.experiment import train
    from leashrl.tasks import guess, normalise

    plots.need_matplotlib()  # told now, not after two minutes of training
    claim(folder)
    say(f"data: {RECIPE}, made here from a seed")
    dataset = load(make(RECIPE, folder / FILE))
    task = guess(RECIPE)
    assert task is not None
    behaviour = summary(normalise(task, dataset.returns()))
    say(f"      {len(dataset)} rows, {behaviour.n} episodes, mean score {behaviour.mean:.1f}")

    rows = [("behaviour (the data)", behaviour, f"{behaviour.n} episodes")]
    for name, options in ALGORITHMS.items():
        try:
            result = train(
                name,
                folder / FILE,
                task=task.name,
                options=options,
                seeds=size.seeds,
                steps=size.steps,
                eval_every=size.steps // size.evaluations,
                episodes=size.episodes,
                out=folder / name,
                overwrite=True,
                report=Progress(name),
            )
        except KeyboardInterrupt:
            begun = RunFolder(folder / name).begun
            raise KeyboardInterrupt(
                f"`leashrl resume {folder / name}` goes on, or" if begun else ""
            ) from None
        if result.score is None:
            raise Diverged(f"every seed of {name} diverged: {result.folder}/metrics.jsonl says where")
        rows.append((name, result.score, f"{result.score.n} seeds"))

    picture = plots.draw(
        {name: [folder / name] for name in ALGORITHMS},
        folder / "curves.png",
        f"{RECIPE}: mean of {size.seeds} seeds and its 95 % interval",
        levels={"behaviour (the data)": behaviour.mean},
    )
    return [
        f"{'':22}{'score':>6}   {'95 % interval':<16}over",
        *(f"{n:22}{s.mean:6.1f}   {ends(s)} {o:>13}" for n, s, o in rows),
        "",
        f"Score: 0 is a random policy, 100 an expert. Mean over seeds after {size.steps} updates"
        f"{', too few to learn' if size == QUICK else ''}; {size.episodes} episodes each.",
        f"Learning curves: {picture}",
        "",
        "What to do next:",
        f"  leashrl resume {folder / 'misa'}    goes on with a run that was stopped",
        f"  leashrl eval {folder / 'misa'} --episodes 50    looks at its policies again, on other episodes",
        "  leashrl train misa --data YOURS.hdf5 --task none    trains on your file: see README.md",
    ]


def ends(score: Score) -> str:
    """The interval; of one seed left, or of seeds that score the same, there is none."""
    if score.low is None:
        return f"{'–':^15}"
    return f"{score.low:6.1f} to {score.high:5.1f}"


def claim(folder: Path) -> None:
    """Make `folder`, or take it over where an earlier demo made it; what is not ours is refused."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A dot in front: what a kill left of a file that was being written.
        found = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        if found and FILE not in found:
            raise BadInput(f"'{folder}' holds something else than a demo: choose another --out")
    except OSError as error:
        reason = error.strerror or error
        raise BadInput(f"cannot make the folder '{folder}': {reason}; choose another --out") from None


class Progress:
    """One plain line an evaluation, the same on a terminal and in a log."""

    def __init__(self, name: str):
        self.name = name
        self.total, self.began = 0, time.monotonic()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self.total = event.total
            say(f"{self.name}: compiling ...")
        elif isinstance(event, Evaluated):
            scores = ", ".join(f"{row['score']:.0f}" for row in event.rows)
            took = time.monotonic() - self.began
            say(f"{self.name}: update {event.step} of {self.total}, {took:.0f} s: scores {scores}")
        elif isinstance(event, MemberDiverged):
            say(f"{self.name}: {event.member} diverged at update {event.step}")


def say(line: str) -> None:
    """Progress goes to stderr, so that stdout holds the table alone."""
    print(line, file=sys.stderr, flush=True)


# --- The command -------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0, 2 after bad input, 3 if an algorithm diverged, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m leashrl.demo",
        description=f"Make the {RECIPE} data, train {' and '.join(ALGORITHMS)}, print a table, draw curves.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="only to see that all works: too few updates to learn"
    )
    parser.add_argument("--out", default="runs/demo", metavar="DIR", help="data, runs and picture; runs/demo")
    try:
        args = read(parser, argv)
        folder = Path(args.out).expanduser()
        began = time.monotonic()
        with interruptible():
            lines = demo(folder, QUICK if args.quick else FULL)
        print("\n" + "\n".join(lines), flush=True)
        say(f"\n{time.monotonic() - began:.0f} s in all")
        return 0
    except (BadInput, Diverged) as error:
        say(f"leashrl.demo: error: {' '.join(str(error).split())}")
        return 2 if isinstance(error, BadInput) else 3
    except KeyboardInterrupt as stopped:
        say(f"leashrl.demo: interrupted: {stopped} the same command starts again".replace("  ", " "))
        return 130


def read(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; a mistake is one line that names the nearest option."""

    def refuse(message: str) -> None:
        raise BadInput(f"{message} (see `{parser.prog} --help`)")

    parser.error = refuse  # pyright: ignore[reportAttributeAccessIssue]  (argparse prints its usage as well)
    args, rest = parser.parse_known_args(argv)
    if rest:
        raise BadInput(f"no option '{rest[0]}': {nearest(rest[0], ['--quick', '--out'])}")
    return args


if __name__ == "__main__":
    sys.exit(main())
