"""`import leashrl` is quick and needs none of the extras: measured by what it loads, not by a clock."""

import importlib
import importlib.util
import inspect
import re
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    present(
        *(
            f"leashrl.{name}"
            for name in ["algos", "data", "training", "evaluate", "runs", "ope", "report", "cli"]
        )
    ),
)
def test_each_part_imports_without_the_extras(module):
    assert "leashrl" in loaded(module, EXTRAS)


def test_the_block_blocks():
    with pytest.raises(AssertionError, match="No module named 'jax'"):
        loaded("leashrl.types", ["jax"])


PUBLIC = ["", "bench", "benches", "data", "evaluate", "export", "information", "ope.diagnostics", "ope.fqe"]
PUBLIC += ["papers", "report", "sweep.driver", "tasks"]


@pytest.mark.parametrize("module", PUBLIC)
def test_public_functions_return_types_and_not_dictionaries(module):
    """What one calls completes in an editor. `prepare` returns arrays by field, which is a batch."""
    home = importlib.import_module(f"leashrl.{module}".rstrip("."))
    own = [name for name, value in vars(home).items() if getattr(value, "__module__", "") == home.__name__]
    names = getattr(home, "__all__", [name for name in own if not name.startswith("_")])
    names = ["sweep"] if module == "sweep.driver" else names  # the others there are steps of it
    functions = [value for name in names if inspect.isfunction(value := getattr(home, name))]
    assert functions, "no public function was looked at"
    returned = {f.__name__: str(inspect.signature(f).return_annotation) for f in functions}
    loose = {name for name, text in returned.items() if re.search(r"\b(dict|Mapping|Any|_empty)\b", text)}
    assert loose <= {"prepare"}
