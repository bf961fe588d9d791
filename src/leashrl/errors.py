"""What a person is told when something they gave us is wrong."""

import difflib
from collections.abc import Iterable


class BadInput(ValueError):
    """A file, option or array that cannot be used: one line that says what, where and how to mend it.

    The command line prints the line and exits with status 2.
    """


class Diverged(RuntimeError):
    """Every member of a run went non-finite. The command line exits with status 3."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error line: the nearest known name, or all of them.

    >>> nearest("miza", ["misa", "bc"])
    "did you mean 'misa'? (known: bc, misa)"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    listing = ", ".join(names)
    return f"did you mean '{close[0]}'? (known: {listing})" if close else f"known: {listing}"
