"""Hashes of what every algorithm computes, to hold two checkouts against each other.

    PYTHONPATH=/path/to/the/old/checkout/src python benchmarks/bits.py --write old.json
    python benchmarks/bits.py --against old.json

For every algorithm and preset: the configuration that each task resolves to; the state and metrics after 20
updates of each stage; the policy's parameters; the actions of each mode. With discrete actions too where the
algorithm takes them. `--runs`: instead, what a whole run of 20 updates leaves behind: its metrics, the state
in its last checkpoint, the policy's file, and the file that `export` makes of it for ONNX. A compiled program
is one program for both checkouts only where its operations are the same, so that equal hashes say that a
rewriting changed no bit on this machine. `--small` makes all layers 16 wide (compiles faster), `--only NAME
...` takes some algorithms.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save

import leashrl
from leashrl.algos import REGISTRY
from leashrl.core import hyper, override, to_json
from leashrl.data import Dataset, prepare
from leashrl.errors import BadInput
from leashrl.tasks import TASKS, places
from leashrl.types import Box, Discrete, Episodes, TimeStep, Transitions

UPDATES = 20
SMALL = ("hidden", "critic_hidden", "behaviour_hidden", "alpha_hidden", "model_hidden", "marginal_hidden")


def logged(discrete: bool) -> Dataset:
    """Twelve episodes of 40 rows, the last cut off by time."""
    rng, rows = np.random.default_rng(0), 480
    ends = np.arange(1, rows + 1) % 40 == 0
    timeout = ends & (np.arange(rows) > 400)
    action = rng.integers(0, 3, rows) if discrete else np.tanh(rng.standard_normal((rows, 2)))
    return Dataset.from_arrays(
        obs=rng.standard_normal((rows, 4)).astype(np.float32),
        action=action.astype(np.int32) if discrete else action.astype(np.float32),
        reward=rng.uniform(0, 1, rows).astype(np.float32),
        terminal=ends & ~timeout,
        timeout=timeout,
        action_space=Discrete(3) if discrete else Box((-1.0, -1.0), (1.0, 1.0)),
    )


def digest(tree: Any) -> str:
    """Of every array in a tree, under its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    flat = {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x) for path, x in leaves}
    flat = {name or "_": np.asarray(x, order="C") for name, x in sorted(flat.items())}
    return hashed(save(flat))


def hashed(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def configuration(name: str, preset: str, task: str | None, small: bool) -> Any:
    entry = REGISTRY[name]
    config = override(entry.config(), entry.presets[preset].values)
    if task is not None:
        config = override(config, entry.overlay(preset, *places(TASKS[task], task)))
    if small:
        sizes = {field: (16,) * len(getattr(config, field)) for field in SMALL if hasattr(config, field)}
        config = override(config, sizes)
    return config


def computed(name: str, preset: str, discrete: bool, small: bool) -> dict[str, str]:
    """Hashes by what was hashed."""
    entry = REGISTRY[name]
    config = configuration(name, preset, None, small)
    config = override(config, {"batch_size": 32, "steps": 1000})
    dataset = logged(discrete)
    gamma = config.gamma if getattr(config, "calibrated", False) else None
    rows, _ = prepare(dataset, config.preprocess, entry.view, gamma)
    kind = Episodes if entry.view == "episodes" else Transitions
    data = kind(**{field: jnp.asarray(x) for field, x in rows.items()})
    algorithm = entry.build(config, dataset.spec)
    state = jax.jit(algorithm.init)(jax.random.key(0), hyper(config))
    found = {"init": digest(state)}
    for stage in algorithm.stages:
        if not stage.steps:
            continue

        def step(i, carry, stage=stage):
            state, _ = carry
            key_batch, key = jax.random.split(jax.random.fold_in(jax.random.key(1), i))
            state, metrics = stage.update(state, stage.sample(data, state, key_batch), key, i)
            return state, metrics

        first = jax.eval_shape(lambda s, step=step: step(jnp.int32(0), (s, None)), state)
        blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first[1])
        run = jax.jit(lambda s, m, step=step: jax.lax.fori_loop(0, UPDATES, step, (s, m)))
        state, metrics = run(state, blank)
        if stage.refresh is not None:
            state = jax.jit(stage.refresh)(state, data, jax.random.key(2))
        found[stage.name] = digest(state)
        found[f"{stage.name} metrics"] = digest(metrics)
    params = algorithm.policy.params(state)
    found["policy"] = digest(params)
    for mode in algorithm.policy.modes:

        def act(params, obs, mode=mode):
            first = TimeStep(obs, jnp.zeros(()), jnp.asarray(True))
            return algorithm.policy.act(params, algorithm.policy.init(params), first, jax.random.key(3), mode)

        actions = jax.jit(jax.vmap(act, in_axes=(None, 0)))(params, dataset.obs[:5])
        found[f"mode {mode}"] = digest(actions)
    return found


def left_by_a_run(name: str, preset: str, discrete: bool, small: bool) -> dict[str, str]:
    """Hashes of a run's files, by what they hold."""
    config = configuration(name, preset, None, small)
    values = {field: getattr(config, field) for field in SMALL if hasattr(config, field)} | {"batch_size": 32}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        leashrl.train(
            name, logged(discrete), task="none", preset=preset, options=values, steps=UPDATES, seeds=1,
            log_every=UPDATES // 2, out=run,
        )  # fmt: skip
        found = {
            "run metrics": hashed((run / "metrics.jsonl").read_bytes()),
            "run state": hashed(max(run.glob("checkpoint/*/arrays.safetensors")).read_bytes()),
            "run policy": hashed((run / "policy/seed-0.safetensors").read_bytes()),
        }
        try:
            leashrl.export_policy(run, "onnx", out=run / "policy.onnx")
            found["onnx"] = hashed((run / "policy.onnx").read_bytes())
        except BadInput as error:
            found["onnx"] = str(error)
    return found


def resolved(name: str, preset: str) -> str:
    """Of the configurations of all tasks."""
    found = {task: to_json(configuration(name, preset, task, False)) for task in TASKS}
    found.pop("ant-random-expert-v0", None)  # came with tasks/table.py
    return hashed(json.dumps(found, sort_keys=True).encode())


def table(names: list[str], small: bool, runs: bool) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for name in names:
        for preset in REGISTRY[name].presets:
            found[f"{name}:{preset}"] = {"resolved": resolved(name, preset)}
            for discrete in (False, True) if REGISTRY[name].discrete else (False,):
                label = f"{name}:{preset}" + (" discrete" if discrete else "")
                try:
                    rows = (left_by_a_run if runs else computed)(name, preset, discrete, small)
                except BadInput as error:
                    rows = {"refused": str(error)}
                found[label] = found.get(label, {}) | rows
            print(f"{name}:{preset}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", type=Path, help="a JSON file of all hashes")
    parser.add_argument("--against", type=Path, help="such a file: what differs is printed, exit status 1")
    parser.add_argument("--only", nargs="+", default=list(REGISTRY), help="algorithms; by default all")
    parser.add_argument("--small", action="store_true", help="layers of 16")
    parser.add_argument("--runs", action="store_true", help="the files of whole runs")
    args = parser.parse_args()
    how = {"small": args.small, "runs": args.runs}
    found = {"package": str(Path(leashrl.__file__).parent), "how": how}
    rows = table(args.only, args.small, args.runs)
    if args.write:
        args.write.write_text(json.dumps(found | {"rows": rows}, indent=1) + "\n")
    if args.against:
        old = json.loads(args.against.read_text())
        if old["how"] != how:
            sys.exit(f"{args.against} was written with {old['how']}, this is {how}: give the same options")
        known = {label: row for label, row in old["rows"].items() if label.split(":")[0] in args.only}
        wrong = [
            f"{label}: {what}"
            for label in known.keys() | rows.keys()
            for what in known.get(label, {}).keys() | rows.get(label, {}).keys()
            if known.get(label, {}).get(what) != rows.get(label, {}).get(what)
        ]
        print("\n".join(sorted(wrong)) or f"{len(rows)} rows, the same bits")
        sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
