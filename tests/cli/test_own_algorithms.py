"""An algorithm of one's own in all tools: by `--import`, from a run's files, by an installed package."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys

import pytest

from leashrl import algos
from leashrl.errors import BadInput
from leashrl.runs.plan import find_algorithm
from support import ROOT

SMALL = ["--set", "hidden=8", "batch_size=8"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with `ours.py`, data, and a run that was trained there."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(ROOT / "examples/ours.py", folder)
    leashrl(folder, "data", "make", "pendulum-medium", "--steps", "400", "--out", "data.hdf5")
    words = ["--data", "data.hdf5", "--task", "pendulum", "--steps", "4", "--seeds", "1", "--episodes", "1"]
    leashrl(folder, "train", "ours", *words, *SMALL, "--import", "ours", "--out", "run")
    return folder


def leashrl(folder, *words, status=0):
    """The command in a process of its own, whose registry is as it comes: (stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-m", "leashrl", *words], cwd=folder, capture_output=True, text=True, check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


def test_a_run_says_where_its_algorithm_lives(home):
    assert json.loads((home / "run/config.json").read_text())["module"] == "ours"
    assert json.loads((home / "run/policy/policy.json").read_text())["module"] == "ours"


def test_its_files_are_enough_for_other_commands(home):
    out, _ = leashrl(home, "eval", "run", "--episodes", "1", "--json")
    assert json.loads(out)["algorithm"] == "ours"


def test_a_sweep_trains_it(home):
    text = 'algorithms = ["ours"]\ndata = "data.hdf5"\ntask = "none"\nseeds = 1\nsteps = 4\nout = "sweep"\n'
    (home / "sweep.toml").write_text(f"{text}[options]\nhidden = [8]\nbatch_size = 8\n")
    out, _ = leashrl(home, "sweep", "sweep.toml", "--workers", "0", "--import=ours", "--json")
    assert [trial["status"] for trial in json.loads(out)["trials"]] == ["done"]


def test_without_its_module_the_line_says_so(home, tmp_path):
    shutil.copytree(home / "run", tmp_path / "run")
    _, err = leashrl(tmp_path, "eval", "run", "--task", "pendulum", status=2)
    assert "cannot import 'ours', which holds an algorithm" in err and err.count("\n") == 1
    _, err = leashrl(tmp_path, "train", "ours", "--data", "pendulum-medium", status=2)
    assert "no algorithm 'ours'" in err and "--import MODULE" in err
    _, err = leashrl(tmp_path, "algos", "--import", status=2)
    assert "--import needs the name of a module" in err


def test_an_installed_package_offers_its_own(monkeypatch):
    """By the entry points `leashrl.algorithms`."""
    entry = algos.REGISTRY["bc"]
    point = importlib.metadata.EntryPoint("theirs", "json:dumps", algos.GROUP)
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda self: entry)
    monkeypatch.setattr(algos, "entry_points", lambda group, name: [point] * (name == "theirs"))
    monkeypatch.setattr(algos, "REGISTRY", dict(algos.REGISTRY))
    algos.bring_in("theirs")
    assert algos.REGISTRY["theirs"] is entry
    with pytest.raises(BadInput, match="no algorithm 'hers'"):
        find_algorithm("hers")
