"""`import leashrl` is quick and needs none of the extras: measured by what it loads, not by a clock."""

import importlib.util
import subprocess
import sys

import pytest

EXTRAS = ["mujoco", "gymnasium", "gymnasium_robotics", "ray", "matplotlib", "minari", "wandb", "tensorboardX"]

BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)

sys.meta_path.insert(0, Block())
import {module}
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


def loaded(module: str, blocked: list[str]) -> set[str]:
    """Top-level names in `sys.modules` after `import module` in a fresh process."""
    code = BLOCK.format(module=module, blocked=set(blocked))
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    return set(process.stdout.split())


def present(*modules: str) -> list[str]:
    return [module for module in modules if importlib.util.find_spec(module)]


@pytest.mark.parametrize("module", present("leashrl", "leashrl.errors", "leashrl.report"))
def test_import_loads_neither_jax_nor_extras(module):
    assert loaded(module, EXTRAS) & {"jax", "jaxlib", *EXTRAS} == set()


@pytest.mark.parametrize(
    "module",
    present(*(f"leashrl.{name}" for name in ["algos", "data", "training", "evaluate", "experiment", "cli"])),
)
def test_each_part_imports_without_the_extras(module):
    assert "leashrl" in loaded(module, EXTRAS)


def test_the_block_blocks():
    with pytest.raises(AssertionError, match="No module named 'jax'"):
        loaded("leashrl.types", ["jax"])
