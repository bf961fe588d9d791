"""The algorithms, one file each, and the plain dictionary that names them."""

from importlib import import_module

from leashrl.core import Entry

FILES = (
    *("awac", "bc", "bear", "brac", "brac_plus", "cql", "dt", "fisher_brc"),
    *("iql", "mbop", "miracle", "misa", "mopo", "onestep", "sac", "td3_bc"),
)
ENTRIES = [import_module(f"leashrl.algos.{file}").ENTRY for file in FILES]
REGISTRY: dict[str, Entry] = dict(sorted(row for entries in ENTRIES for row in entries.items()))
