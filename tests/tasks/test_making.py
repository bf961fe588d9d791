"""Making environments: seeds, missing packages, silence."""

import subprocess
import sys

import numpy as np
import pytest

from leashrl.errors import BadInput
from leashrl.tasks import task
from leashrl.tasks.making import env_seed, make_one


def test_an_environment_is_decided_by_its_seed():
    start = lambda seed, i: make_one(task("hopper-medium-v2")).reset(seed=env_seed(seed, i))[0]
    first = start(1, 0)
    assert first.shape == (11,) and np.array_equal(first, start(1, 0))
    assert len({start(seed, i).tobytes() for seed in (1, 2) for i in range(3)}) == 6
    with pytest.raises(BadInput, match="seed"):
        env_seed(-3, 0)


@pytest.mark.parametrize(
    ("package", "name"), [("gymnasium", "pendulum"), ("mujoco", "hopper"), ("gymnasium_robotics", "door")]
)
def test_missing_packages_name_the_extra(package: str, name: str):
    """In a process of its own, where the package cannot be imported."""
    script = f"""
import sys
sys.modules[{package!r}] = None
from leashrl.errors import BadInput
from leashrl.tasks.making import make_one
from leashrl.tasks import task
try:
    make_one(task({name!r}))
except BadInput as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install 'leashrl[mujoco]'" in found.stdout
    assert len(found.stdout.splitlines()) == 1
    assert found.stderr == ""


def test_tasks_and_statistics_import_without_jax_or_a_simulator():
    script = """
import sys
import leashrl.tasks, leashrl.evaluate.statistics
print({"jax", "gymnasium"} & set(sys.modules))
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_nothing_is_printed_when_environments_are_made(capfd):
    for name in ("door", "hopper", "kitchen-mixed", "antmaze-umaze"):
        make_one(task(name))
    assert capfd.readouterr() == ("", "")
