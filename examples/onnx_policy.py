"""An exported policy, run with numpy and onnxruntime alone: `python onnx_policy.py FILE.onnx`."""

import json
import sys

import numpy as np
import onnxruntime

onnxruntime.set_default_logger_severity(3)  # it would tell of every constant that it folds
with open(sys.argv[1] + ".json") as file:
    card = json.load(file)
session, rng, inputs = onnxruntime.InferenceSession(sys.argv[1]), np.random.default_rng(0), card["inputs"]
for port in inputs:
    port["size"] = [1, *port["shape"][1:]]  # one robot; the first axis may have any length
memory = {p["name"]: np.full(p["size"], p["initial"], p["dtype"]) for p in inputs if "next" in p}


def act(obs, reward=0.0):
    given = memory | {"obs": [obs], "reward": [reward]}
    given |= {p["name"]: getattr(rng, p["draw"])(size=p["size"]) for p in inputs if "draw" in p}
    action, *after = session.run(None, {p["name"]: np.asarray(given[p["name"]], p["dtype"]) for p in inputs})
    memory.update(zip(memory, after, strict=True))
    return action[0]


print(*(act(card["normalisation"]["obs_mean"]) for step in range(3)), sep="\n")
