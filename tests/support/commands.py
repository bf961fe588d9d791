"""Commands as documents show them."""

import shlex

from leashrl.cli import COMMANDS
from leashrl.cli.arguments import Parser, parse
from leashrl.errors import BadInput


def read_command(line: str) -> None:
    """Read a command's arguments as the command line would, without running it."""
    words = shlex.split(line, comments=True)[1:]
    if "--import" in words:  # of every command, and taken away before its own are read
        at = words.index("--import")
        words[at : at + 2] = []
    name = " ".join(words[: 2 if words[0] == "data" else 1])
    if name not in COMMANDS:
        raise BadInput(f"no command '{name}'")
    parser = Parser(prog=f"leashrl {name}")
    COMMANDS[name].arguments(parser)
    parse(parser, words[len(name.split()) :])
