"""The command line: `leashrl COMMAND ...`. Imports jax only inside the commands that need it.

Exit status: 0; 2 bad input, one line on stderr; 3 a member diverged; 130 after Ctrl-C or SIGTERM.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from leashrl.cli import (
    bench,
    choose,
    data,
    export,
    finetune,
    fqe,
    mi,
    ope,
    paper,
    report,
    runs,
    select,
    sweep,
    tables,
)
from leashrl.cli.arguments import Parser, parse
from leashrl.errors import BadInput, Diverged, nearest
from leashrl.training.interrupts import interruptible

# --- Commands ----------------------------------------------------------------


class Command(NamedTuple):
    about: str
    arguments: Callable[[Parser], None]
    run: Callable
    """The parsed arguments to an exit status."""


COMMANDS = {
    "algos": Command(
        "the algorithms; or one of them, with its options", tables.algos_arguments, tables.algos
    ),
    "tasks": Command("the tasks to evaluate on; or one of them", tables.tasks_arguments, tables.tasks),
    "data info": Command("what a data set holds", data.source_arguments, data.info),
    "data check": Command("every defect of a data set", data.source_arguments, data.check),
    "data make": Command("make a data set from a recipe", data.make_arguments, data.make),
    "data convert": Command(
        "D4RL's HDF5, npz and Minari into one another", data.convert_arguments, data.convert
    ),
    "data import": Command(
        "tables of logs, CSV, Parquet or JSON lines, into a data set",
        data.import_arguments,
        data.import_tables,
    ),
    "mi": Command("how much the data's actions depend on its states", mi.arguments, mi.run),
    "train": Command("train an algorithm on a data set", runs.train_arguments, runs.train),
    "resume": Command("go on with a run that was stopped", runs.resume_arguments, runs.resume),
    "finetune": Command("go on with a trained run online", finetune.arguments, finetune.run),
    "eval": Command("evaluate a run's policies again", runs.eval_arguments, runs.evaluate),
    "report": Command(
        "one page that compares runs, for the eye or for a paper", report.arguments, report.run
    ),
    "fqe": Command("put policies in order without a simulator", fqe.arguments, fqe.run),
    "ope": Command(
        "judge policies by importance sampling and doubly robust estimates", ope.arguments, ope.run
    ),
    "select": Command(
        "keep the best of a run's snapshots, chosen without a simulator", select.arguments, select.run
    ),
    "export": Command("a policy's file for other runtimes, and its card", export.arguments, export.run),
    "sweep": Command("train many: a grid, random draws, or a search", sweep.arguments, sweep.run),
    "choose": Command(
        "what a choice among runs is worth, by its budget of episodes", choose.arguments, choose.run
    ),
    "paper": Command("make a figure or a table of a paper", paper.arguments, paper.run),
    "bench": Command("how fast an algorithm, or each of them, trains here", bench.arguments, bench.run),
}

SHORT = """\
leashrl: policies from logged data, kept on a leash

  leashrl data make pendulum-medium --out logs.hdf5
      a first data set, in seconds
  leashrl train misa --data logs.hdf5 --task pendulum --steps 5000
      three seeds, trained and evaluated in minutes; all they leave is in runs/misa-logs
  leashrl resume runs/misa-logs
      go on where it was stopped
  leashrl eval runs/misa-logs
      evaluate the policies again
  leashrl algos
      what else there is to train

`leashrl --help` lists all commands, `leashrl COMMAND --help` their options."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # pyright: ignore  (a Greek letter on an ASCII terminal)
    try:
        with interruptible():
            status = dispatch(list(sys.argv[1:] if argv is None else argv))
            flush()
            return status
    except BadInput as error:
        return stop(f"leashrl: error: {error}", 2)
    except Diverged as error:
        return stop(f"leashrl: error: {error}", 3)
    except KeyboardInterrupt as error:
        return stop(f"leashrl: interrupted{f': {error}' if str(error) else ''}", 130)
    except BrokenPipeError:  # the reader has seen enough, as in `leashrl tasks | head -3`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def dispatch(argv: list[str]) -> int:
    """Find the command, parse its arguments, run it."""
    argv = own_imports(argv)
    if not argv:
        print(SHORT)
        return 0
    if argv[0] in ("-h", "--help", "help"):
        print("usage: leashrl COMMAND ...\n\ncommands:")
        print("\n".join(tables.columns([[f"  {name}", c.about] for name, c in COMMANDS.items()])))
        print(
            "\nEach takes --help, --json for one JSON document on stdout, and --import MODULE for an "
            "algorithm of your own. `leashrl --version` prints it."
        )
        return 0
    if argv[0] == "--version":
        from importlib.metadata import version

        print(f"leashrl {version('leashrl')}")
        return 0
    words = 2 if argv[0] == "data" else 1
    name = " ".join(argv[:words])
    if name not in COMMANDS:
        known = [c for c in COMMANDS if words == 1 or c.startswith("data ")]
        if argv[0] == "data" and len(argv) == 1:
            raise BadInput(f"`leashrl data` needs to know what: {', '.join(known)}")
        raise BadInput(f"no command '{name}': {nearest(name, known)}")
    command = COMMANDS[name]
    parser = Parser(prog=f"leashrl {name}", description=f"{command.about[0].upper()}{command.about[1:]}.")
    command.arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    return command.run(parse(parser, argv[words:]))


# --- The end -----------------------------------------------------------------


def own_imports(argv: list[str]) -> list[str]:
    """Import what `--import MODULE` names, wherever it stands, and leave the other arguments."""
    rest, modules, words = [], [], iter(argv)
    for word in words:
        option, _, value = word.partition("=")
        if option != "--import":
            rest.append(word)
        elif found := value or next(words, ""):
            modules.append(found)
        else:
            raise BadInput("--import needs the name of a module")
    if modules:
        from leashrl.algos import IMPORTS, import_own

        for module in modules:
            import_own(module)
        # for the processes of a sweep, which may start elsewhere
        os.environ[IMPORTS] = ",".join(modules)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    return rest


def stop(line: str, status: int) -> int:
    """Say why, in one line."""
    print(" ".join(line.split()), file=sys.stderr)
    return status


def flush() -> None:
    """Whatever is still buffered, so that a full disk or a closed pipe is noticed here."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python tries again while it shuts down
        raise BadInput(f"cannot write to standard output: {error.strerror}") from None
