"""A sweep whose workers and driver are killed: every trial has one result, with the bits of a calm one."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from leashrl.disk.files import Lines
from leashrl.sweep.driver import sweep
from support.files import spec
from support.processes import as_here, wait_for

LONG = """
algorithms = ["bc"]
data = "data.hdf5"
task = "pendulum"
seeds = 2
steps = 20000
log_every = 500
eval_every = 10000
episodes = 1

[options]
batch_size = 4

[grid]
policy_rate = [1e-2, 1e-3]
hidden = [[4], [8]]

[ray]
num_cpus = 2
retries = 2
"""


def holder(run: Path) -> int | None:
    """The process that holds a run's lock."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) == str(run / ".lock"):
                return int(link.parts[2])
        except OSError:
            continue
    return None


@pytest.mark.slow
def test_a_killed_driver_and_a_worker_killed_twice(place):
    environment = as_here(LEASHRL_CACHE=str(place / "cache"))  # kills may cut its entries
    command = [sys.executable, "-m", "leashrl", "sweep", spec(LONG), "--out", "out"]
    driver = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    book = wait_for(
        driver, lambda: Path("out/sweep.json").exists() and json.loads(Path("out/sweep.json").read_text())
    )
    run = (Path("out/runs") / book["runs"][0]["name"]).absolute()
    killed = set()
    for _ in range(2):
        pid = wait_for(driver, lambda: (run / "checkpoint").exists() and holder(run))
        assert pid not in killed | {driver.pid}
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
        wait_for(driver, lambda pid=pid: holder(run) not in (pid, None))
    driver.kill()
    printed, said = driver.communicate(timeout=240)
    assert printed == ""
    assert "attempt 1 failed, once more: the worker died" in said and "attempt 2 failed" in said
    assert not (run / "result.json").exists()

    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=480)
    assert again.returncode == 0, again.stderr
    book = json.loads(Path("out/sweep.json").read_text())
    assert Counter(row["status"] for row in book["trials"]) == {"done": 8}
    assert len({row["id"] for row in book["trials"]}) == 8
    assert book["runs"][0]["attempts"] == 4
    for folder in Path("out/runs").iterdir():  # no line twice, none lost
        rows = Lines.read(folder / "evaluations.jsonl")
        assert Counter((r["step"], r["seed"], r["policy_rate"]) for r in rows) == {
            (step, seed, rate): 1 for step in (10000, 20000) for seed in (0, 1) for rate in (1e-2, 1e-3)
        }
    assert book["trials"] == sweep("s.toml", out="here", workers=0).to_json()["trials"]  # to the bit


@pytest.mark.slow
def test_ray_has_not_what_a_run_needs():
    # a process of its own: Ray forks, and jax warns of forks once it has computed something
    command = [sys.executable, "-m", "leashrl", "sweep", spec(LONG + "gpus_per_run = 64"), "--out", "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2
    assert "[ray] gpus_per_run is 64, and Ray has 0" in done.stderr.splitlines()[-1]
