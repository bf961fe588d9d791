"""The rooms of the package: a module imports its own room and lower ones, nothing else.

Read from the source by `ast`, so imports inside functions count too and nothing needs to be installed.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import ROOT

SRC = ROOT / "src"

ROOMS = (
    ("errors", "types"),
    ("core", "dist", "optim", "tabular", "disk"),
    ("nn", "ops"),
    ("tasks",),
    ("data", "models"),
    ("algos", "training", "evaluate"),
    ("information", "runs"),
    ("ope",),  # above runs: what it judges are policies that runs have left
    ("report", "export", "sweep", "bench"),
    ("papers", "demo", "benches"),  # above report: they draw with its plots; above bench
    ("cli",),
    ("__main__", "__init__"),  # the public names, imported lazily
)
"""The rooms from the lowest up: a module imports its own room and those of lower rows."""
LAYER = {room: row for row, rooms in enumerate(ROOMS) for room in rooms}
NOT_ALGORITHMS = {"leashrl.algos.common", "leashrl.algos.presets"}
"""Modules of `algos` that algorithms share; anything larger belongs in `ops`."""

AT_IMPORT = {"argv", "environ", "environb", "getenv", "parse_args"} | {
    "devices",
    "local_devices",
    "device_count",
    "local_device_count",
    "default_backend",
}
"""Names that read the command line, the environment or the devices."""


def part(module: str) -> str:
    """The row of the table that a module belongs to: `leashrl.ops.mi` is of `ops`."""
    return [*module.split("."), "__init__"][1]


def imported(module: str, tree: ast.AST, is_package: bool) -> Iterator[str]:
    """Dotted names of all that a module imports, relative imports resolved."""
    here = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) + 1 - node.level]) if node.level else ""
            source = ".".join(filter(None, [base, node.module]))
            deeper = source == "leashrl" or source == "leashrl.algos"
            yield from (f"{source}.{alias.name}" if deeper else source for alias in node.names)


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: all but the bodies of functions and of `__main__`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            outside = [*child.decorator_list, *child.args.defaults, *filter(None, child.args.kw_defaults)]
            for expression in outside:
                yield expression
                yield from at_import(expression)
        elif isinstance(child, ast.If) and "__main__" in ast.unparse(child.test):
            continue
        elif not isinstance(child, ast.Lambda):
            yield child
            yield from at_import(child)


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    """All that is wrong with one module, a line each."""
    tree, own, wrong = ast.parse(source), part(module), []
    if own not in LAYER:
        return [f"{module}: '{own}' has no layer: add it to the table of tests/project/test_layers.py"]
    for name in sorted(set(imported(module, tree, is_package))):
        root, other = name.split(".")[0], part(name)
        if root == "flax" or (root in {"jax", "jaxlib"} and own == "report"):
            wrong.append(f"{module} imports {name}")
        if root != "leashrl":
            continue
        if other not in LAYER:
            wrong.append(f"{module} imports {name}, which has no layer")
        elif other == own == "algos" and module != "leashrl.algos" and name not in NOT_ALGORITHMS:
            wrong.append(f"{module} imports {name}: no algorithm imports another")
        elif other != own and LAYER[other] >= LAYER[own]:
            wrong.append(f"{module} imports {name}, which is not below it")
        elif own == "algos" and other in {"data", "disk", "tasks"}:
            wrong.append(f"{module} imports {name}: algorithms know arrays, not where they come from")
        elif own == "report" and other == "algos":
            wrong.append(f"{module} imports {name}: reports are made from files alone")
    for node in at_import(tree):
        name = getattr(node, "attr", None) or getattr(node, "id", None)
        if name in AT_IMPORT:
            wrong.append(f"{module} reads '{name}' when it is imported")
    return wrong


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=lambda p: str(p.relative_to(SRC)))
def test_layers(path: Path):
    parts = path.relative_to(SRC).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if is_package else parts)
    assert violations(module, path.read_text(), is_package) == []


@pytest.mark.parametrize(
    ("module", "source", "count"),
    [
        ("leashrl.ops.mi", "import jax\nfrom leashrl.types import Array", 0),
        ("leashrl.ops.mi", "from leashrl.ops.td import huber", 0),
        ("leashrl.algos.misa", "from leashrl import ops, core", 0),
        ("leashrl.algos.misa", "from leashrl.algos.common import choice", 0),
        ("leashrl.cli", "import os, sys\ndef main():\n    return sys.argv, os.environ", 0),
        ("leashrl.bench", "import sys\nif __name__ == '__main__':\n    sys.exit(sys.argv)", 0),
        ("leashrl.ops.mi", "import leashrl.algos.misa", 1),
        ("leashrl.ops.mi", "def f():\n    from leashrl.training import loop", 1),
        ("leashrl.ops.mi", "from leashrl.nn import mlp", 1),
        ("leashrl.ops.mi", "from ..algos import bc", 1),
        ("leashrl.ops.mi", "import leashrl", 1),
        ("leashrl.algos.misa", "from leashrl import data", 1),
        ("leashrl.algos.misa", "from leashrl.algos.bc import Config", 1),
        ("leashrl.algos.misa", "from leashrl.algos import bc", 1),
        ("leashrl.algos.misa", "from . import bc", 1),
        ("leashrl.algos.misa", "from .bc import Config", 1),
        ("leashrl.report", "from leashrl.algos import REGISTRY", 1),
        ("leashrl.report.page", "import jax.numpy as jnp", 1),
        ("leashrl.nn.mlp", "from flax import linen", 1),
        ("leashrl.helpers", "import numpy", 1),
        ("leashrl.training.loop", "from leashrl.helpers import x", 1),
        ("leashrl.training.loop", "import jax\nCPU = jax.devices('cpu')", 1),
        ("leashrl.training.loop", "import os\ndef f(home=os.environ['HOME']): ...", 1),
        ("leashrl.training.loop", "from os import environ\nclass A:\n    home = environ['HOME']", 1),
        ("leashrl.cli", "import argparse\nargs = argparse.ArgumentParser().parse_args()", 1),
    ],
)
def test_a_planted_violation_is_found(module, source, count):
    assert len(violations(module, source)) == count


def test_the_registry_may_import_the_algorithms():
    assert violations("leashrl.algos", "from leashrl.algos import bc, misa", is_package=True) == []
    assert violations("leashrl.algos", "from . import bc", is_package=True) == []


# --- A run's folder ------------------------------------------------------------------------------

RUN_FILES = {
    *("config.json", "result.json", "diagnostics.json", "policy.json"),
    *("metrics.jsonl", "evaluations.jsonl", "episodes.jsonl"),
    *("checkpoint", "policy", "replay", "snapshots"),
}


def opened(source: str) -> list[str]:
    """Paths `folder / NAME` of a run's files, and lines of JSON that are parsed without `disk.folder`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            name = getattr(node.right, "value", None)
            if isinstance(name, str) and name.split("/")[0] in RUN_FILES:
                found.append(name)
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "Lines":
            found.append(f"Lines.{node.attr}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=lambda p: str(p.relative_to(SRC)))
def test_only_disk_opens_the_files_of_a_runs_folder(path: Path):
    if path.parent.name != "disk":
        assert opened(path.read_text()) == []


def test_a_planted_reader_of_a_runs_folder_is_found():
    planted = (
        'a = read(folder / "result.json")\nb = Lines.read(x)\nc = x / "policy" / "policy.json"\nd = 4 / 2'
    )
    assert sorted(opened(planted)) == ["Lines.read", "policy", "policy.json", "result.json"]
