"""The algorithms, one file each, the plain dictionary that names them, and how yours gets into it."""

import os
import sys
from importlib import import_module
from importlib.metadata import entry_points

from leashrl.algos.common import in_precision
from leashrl.core import Entry
from leashrl.errors import BadInput

FILES = (
    *("awac", "bc", "bear", "brac", "brac_plus", "cql", "dt", "fisher_brc", "fql"),
    *("ifql", "iql", "mbop", "miracle", "misa", "mopo", "onestep", "sac", "td3_bc"),
)
ENTRIES = [import_module(f"leashrl.algos.{file}").ENTRY for file in FILES]
REGISTRY: dict[str, Entry] = {
    name: entry._replace(build=in_precision(entry.build))
    for name, entry in sorted(row for entries in ENTRIES for row in entries.items())
}

# --- Algorithms of one's own -------------------------------------------------

IMPORTS = "LEASHRL_IMPORT"
"""The variable that names modules with algorithms of their own, with commas between; `--import` sets it."""
GROUP = "leashrl.algorithms"
"""The entry points by which an installed package offers `NAME = "module:ENTRY"`."""


def bring_in(name: str, module: str | None = None) -> None:
    """Enter an algorithm of somebody's own into the registry, where there is one of that name.

    It is looked for in the modules of LEASHRL_IMPORT, in the one that a run names, and among the entry points
    of installed packages.

    Raises:
      BadInput: such a module cannot be imported.
    """
    asked = os.environ.get(IMPORTS, "").split(",")
    for other in filter(None, [*asked, module]):
        import_own(other)
        if name in REGISTRY:
            return
    for point in entry_points(group=GROUP, name=name):
        REGISTRY[name] = point.load()


def import_own(module: str) -> None:
    """Import a module that enters its algorithms into the registry, from the present folder too."""
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    try:
        import_module(module)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise BadInput(
            f"cannot import '{module}', which holds an algorithm ({reason}): run where it lies"
        ) from None


def home_of(config: object) -> str | None:
    """The module of an algorithm of one's own, for whoever reads its files; None for the library's."""
    module = type(config).__module__
    return None if module.startswith("leashrl.") or module == "__main__" else module
