"""Members dealt out over several devices: forced host devices, in a process of their own."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import leashrl
from support.processes import as_here

DEVICES = """
import json, sys
import jax
import leashrl
from leashrl.training import loop

from leashrl.runs.events import Saved

devices, shares, run = set(), set(), loop.run

def watched(*args, **named):
    for snapshot in run(*args, **named):
        for x in jax.tree.leaves((snapshot.state, snapshot.tally)):
            devices.add(len(x.sharding.device_set))
            shares.add(x.addressable_shards[0].data.shape[0] / x.shape[0])
        yield snapshot

def stop(event):
    if event == Saved(10):
        raise KeyboardInterrupt

loop.run = watched
try:
    leashrl.train(**json.loads(sys.argv[1]), report=stop)
except KeyboardInterrupt:
    pass
leashrl.resume("four")
leashrl.train(**json.loads(sys.argv[1]) | {"out": "whole"})
meshes = [loop.mesh_for(n).size if loop.mesh_for(n) else 1 for n in (1, 2, 3, 4, 6, 7, 8)]
print(json.dumps([len(jax.devices()), sorted(devices), sorted(shares), meshes]))
"""


@pytest.mark.slow
def test_members_lie_on_four_devices(place):
    named = {"algorithm": "iql", "data": "data.hdf5", "task": "pendulum", "seeds": 4, "steps": 20}
    named |= {"eval_every": 10, "episodes": 1, "options": {"hidden": [4], "batch_size": 4}}
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    command = [sys.executable, "-W", "error", "-c", DEVICES, json.dumps(named | {"out": "four"})]
    done = subprocess.run(command, env=as_here(XLA_FLAGS=flags), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [4, [4], [0.25], [1, 2, 3, 4, 3, 1, 4]]
    leashrl.train(**named, out="one")
    assert len(jax.devices()) == 1
    for file in ("metrics.jsonl", "evaluations.jsonl", *(f"policy/seed-{i}.safetensors" for i in range(4))):
        assert (place / "four" / file).read_bytes() == (place / "whole" / file).read_bytes()
    for i in range(4):  # a device's one member compiles otherwise than four in turn: up to rounding
        four, one = (load_file(place / out / "policy" / f"seed-{i}.safetensors") for out in ("four", "one"))
        assert four.keys() == one.keys()
        for name in one:
            np.testing.assert_allclose(four[name], one[name], rtol=1e-4, atol=1e-6)
