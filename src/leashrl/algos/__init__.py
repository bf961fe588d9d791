"""The algorithms, one file each, and the plain dictionary that names them."""

from importlib import import_module

from leashrl.algos.common import in_precision
from leashrl.core import Entry

FILES = (
    *("awac", "bc", "bear", "brac", "brac_plus", "cql", "dt", "fisher_brc", "fql"),
    *("ifql", "iql", "mbop", "miracle", "misa", "mopo", "onestep", "sac", "td3_bc"),
)
ENTRIES = [import_module(f"leashrl.algos.{file}").ENTRY for file in FILES]
REGISTRY: dict[str, Entry] = {
    name: entry._replace(build=in_precision(entry.build))
    for name, entry in sorted(row for entries in ENTRIES for row in entries.items())
}
