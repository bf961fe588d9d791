"""Making environments: seeds, missing packages, silence."""

import subprocess
import sys

import numpy as np
import pytest

from leashrl.errors import BadInput
from leashrl.tasks import task
from leashrl.tasks.making import make_env, make_one


def test_make_env_is_decided_by_its_seed():
    first, same, other = (make_env(task("hopper-medium-v2"), n=3, seed=seed) for seed in (1, 1, 2))
    start = first.reset()[0]
    assert start.shape == (3, 11)
    assert np.array_equal(start, same.reset()[0])
    assert not np.array_equal(start, other.reset()[0])
    assert len(np.unique(start[:, 0])) == 3
    with pytest.raises(BadInput, match="at least 1"):
        make_env(task("hopper"), n=0, seed=0)
    with pytest.raises(BadInput, match="seed"):
        make_env(task("hopper"), n=1, seed=-3)


@pytest.mark.parametrize(
    ("package", "name"), [("gymnasium", "pendulum"), ("mujoco", "hopper"), ("gymnasium_robotics", "door")]
)
def test_missing_packages_name_the_extra(package: str, name: str):
    """In a process of its own, where the package cannot be imported."""
    script = f"""
import sys
sys.modules[{package!r}] = None
from leashrl.errors import BadInput
from leashrl.tasks.making import make_env
from leashrl.tasks import task
try:
    make_env(task({name!r}), n=1, seed=0)
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
