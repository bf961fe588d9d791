"""Reading arguments: argparse, but a mistake is one line that names the nearest right word."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from leashrl.errors import BadInput, nearest


class Parser(argparse.ArgumentParser):
    """argparse prints its usage and exits; here a mistake is a BadInput as everywhere else."""

    def __init__(self, **settings: Any):
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message} (see `{self.prog} --help`)")


def parse(parser: Parser, argv: Sequence[str]) -> argparse.Namespace:
    """The arguments, unknown options looked for first: they explain best what is missing."""
    words: list[str] = []
    for word in argv:
        # argparse takes "-2,2" for an option; "--action-low=-2,2" it understands
        value = words and words[-1].startswith("--") and "=" not in words[-1] and re.match(r"-\.?\d", word)
        words[-1:] = [f"{words[-1]}={word}"] if value else [*words[-1:], word]
    known = [name for action in parser._actions for name in action.option_strings]
    for word in words:
        if re.match(r"-\D", word) and word.partition("=")[0] not in known:
            listing = nearest(word.partition("=")[0], [n for n in known if n.startswith("--")])
            raise BadInput(f"`{parser.prog}` has no option '{word.partition('=')[0]}': {listing}")
    namespace, rest = parser.parse_known_args(words)
    if rest:
        raise BadInput(f"`{parser.prog}` has no use for '{rest[0]}' (see `{parser.prog} --help`)")
    return namespace


# --- Values ------------------------------------------------------------------


def whole(text: str) -> int:
    """`3000`, `1e6`.

    >>> whole("1e6")
    1000000
    """
    try:
        if float(text) == int(float(text)):
            return int(float(text))
    except (ValueError, OverflowError):
        pass
    raise argparse.ArgumentTypeError(f"must be a whole number, not '{text}'")


def seeds(text: str) -> int | list[int]:
    """`3` is how many, `0,3,7` or `0..4` which ones; `5,` is seed 5 alone.

    >>> seeds("3"), seeds("0,3,7"), seeds("5,"), seeds("40..42,7")
    (3, [0, 3, 7], [5], [40, 41, 42, 7])
    """
    if "," not in text and ".." not in text:
        if (n := whole(text)) > DOZEN:
            raise argparse.ArgumentTypeError(
                f"{n} trains {n} seeds, 0 to {n - 1}: write 0..{n - 1} if you mean that, or '{n},' for seed "
                f"{n} alone"
            )
        return n
    found: list[int] = []
    for item in filter(None, (item.strip() for item in text.split(","))):
        first, dots, last = item.partition("..")
        several = range(whole(first), whole(last) + 1) if dots else [whole(item)]
        if len(several) > MOST:
            raise argparse.ArgumentTypeError(f"'{item}' are {len(several)} seeds: at most {MOST} at once")
        found += several
    return found


DOZEN = 12
"""More seeds than that are asked for one by one: `--seeds 42` is often meant as seed 42."""
MOST = 10_000


def numbers(text: str) -> list[float]:
    """`-2,2.5`

    >>> numbers("-2,2.5")
    [-2.0, 2.5]
    """
    try:
        return [float(item) for item in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers with commas between, not '{text}'") from None


def pairs(option: str, words: Sequence[str] | None) -> dict[str, str]:
    """`["k=10", "gamma=0.9"]` as a dictionary.

    >>> pairs("--set", ["k=10", "hidden=8,8"])
    {'k': '10', 'hidden': '8,8'}
    """
    found: dict[str, str] = {}
    for word in words or ():
        name, equals, value = word.partition("=")
        if not name or not equals or not value:
            raise BadInput(f"{option} takes NAME=VALUE, not '{word}'")
        if name in found:
            raise BadInput(f"{option} gives '{name}' twice")
        found[name] = value
    return found
