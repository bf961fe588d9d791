"""What a person is told when something they gave us is wrong."""

import difflib
from collections.abc import Iterable

SHOWN = 5
"""Names that an error lists."""


class BadInput(ValueError):
    """A file, option or array that cannot be used: one line that says what, where and how to mend it.

    The command line prints the line and exits with status 2.
    """


class Diverged(RuntimeError):
    """Every member of a run went non-finite. The command line exits with status 3."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error line: the nearest known name, and what else is known: of many the nearest five.

    >>> nearest("miza", ["misa", "bc"])
    "did you mean 'misa'? (known: bc, misa)"
    >>> nearest("fig", ["apple", "cherry", "grape", "lemon", "orange", "pear", "plum"])
    'known: grape, lemon, orange, pear, plum, and 2 more'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    near = difflib.get_close_matches(name, names, n=SHOWN, cutoff=0.0) if len(names) > SHOWN else names
    listing = ", ".join(sorted(near)) + (f", and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    return f"did you mean '{close[0]}'? (known: {listing})" if close else f"known: {listing}"
