"""Errors of one update's gradients in float32 and in bfloat16, against float64.

    python benchmarks/numerics.py [--only NAME...] [--updates 400] [--results benchmarks/results/numerics]

Each algorithm is trained in float32 on random data (hopper's shapes, batch 256, its own widths). At the end
of each of its stages one more update is done three times over: in float64, with jax's own derivatives and no
rounding anywhere; in float32; in bfloat16. State, batch and random numbers are the same. Adam's first moments
are set to 0 before it, so that they are (1 - B1) times the gradients after it.

Errors are |g - g64| / |g64| of all of a part's parameters together; of several batches the table has the
median, and the largest in brackets. An update chooses by what it has computed: which side of a ReLU's edge a
sum is on, which action is resampled, which proposal is accepted. It may choose otherwise in another
precision; that is in the error, so that a single ReLU can make float32's 1e-3. Cases that are on disk are not
run again unless `--only` names them.
"""

import argparse
import contextlib
import dataclasses
import functools
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from leashrl.algos import REGISTRY, common
from leashrl.bench import random_data
from leashrl.core import Stage, hyper, override
from leashrl.disk.files import read_json, versions, write_json
from leashrl.nn import PRECISIONS
from leashrl.optim import B1
from leashrl.training import loop
from leashrl.types import Box, Spec

SPEC = Spec(11, Box((-1.0,) * 3, (1.0,) * 3))
CASES: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in REGISTRY if name != "bc-10"}
CASES |= {  # bc-10 is bc, but for its data
    "misa, backward on all actions": ("misa", {"critic_resample": 0}),
    "misa, hmc": ("misa", {"estimator": "hmc"}),
    "cql, backward on all actions": ("cql", {"resample": 0}),
}
UPDATES, BATCHES = 400, 5
QUICKLY = {"xla_backend_optimization_level": 0}


@dataclass(frozen=True, kw_only=True)
class Error:
    """How far a part's gradients are from float64's, in one precision."""

    stage: str
    part: str
    precision: str
    norm: float
    """Of float64's gradient, the median; where it is 0 there is nothing to compare with."""
    error: float | None
    """The median over the batches."""
    largest: float | None
    cosine: float | None
    """The median."""


# --- Float64 -----------------------------------------------------------------


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """While it is open, what is traced is computed in float64, by jax's own derivatives.

    Draws keep the numbers that float32 draws: their bits depend on the type that is asked for.
    """
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),  # counters that are exact in float32 meet float64
        mock.patch.multiple(jax.random, **_draws()),
        mock.patch.object(common, "precision", lambda name: contextlib.nullcontext()),
    ):
        yield


def _draws() -> dict[str, Any]:
    """`jax.random`'s functions, as float32 and int32 draw, but in float64 where they give floats."""
    draw = jax.random
    normal, uniform, randint, bernoulli, gumbel = (
        draw.normal, draw.uniform, draw.randint, draw.bernoulli, draw.gumbel
    )  # fmt: skip

    def wide(x: Any) -> Any:
        return x.astype(jnp.float64)

    def categorical(key: Any, logits: Any) -> Any:
        return jnp.argmax(wide(gumbel(key, logits.shape, jnp.float32)) + logits, axis=-1)

    return {
        "normal": lambda key, shape=(): wide(normal(key, shape, jnp.float32)),
        "uniform": lambda key, shape=(), **ends: wide(uniform(key, shape, jnp.float32, **ends)),
        "randint": lambda key, shape, low, high: randint(key, shape, low, high, jnp.int32),
        "bernoulli": lambda key, p, shape: bernoulli(key, jnp.float32(p), shape),
        "categorical": categorical,
    }


def cast(tree: Any) -> Any:
    """A tree whose floats are float64, from one whose floats are float32; inside `in_float64`."""

    def one(x: Any) -> Any:
        return x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(one, tree)


# --- Gradients ---------------------------------------------------------------


def moments(state: Any) -> dict[str, Any]:
    """Adam's moments of each trained part by name; a state with one part has no names."""
    return {"policy": state.optimiser} if "mean" in state.optimiser else state.optimiser


def at_rest(state: Any) -> Any:
    """The state with all of Adam's first moments 0."""
    still = {
        name: part | {"mean": jax.tree.map(jnp.zeros_like, part["mean"])}
        for name, part in moments(state).items()
    }
    named = "mean" not in state.optimiser
    return dataclasses.replace(state, optimiser=still if named else still["policy"])


def gradients(
    update: Callable, state: Any, batch: Any, key: Any, step: int
) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """The gradients of an update that starts `at_rest`, of each part that it trains, flat."""
    before, after = moments(state), moments(update(state, batch, key, np.int32(step))[0])
    found = {}
    for name, part in after.items():
        leaves = jax.tree.leaves(part["mean"])
        if int(part["count"]) > int(before[name]["count"]) and leaves:
            found[name] = np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in leaves]) / (1 - B1)
    return found


def trained(algorithm: Any, data: Any, config: Any) -> Iterator[tuple[int, Any]]:
    """Each stage's index and the state at its end, of a run of one member."""
    keys = jax.vmap(jax.random.key)(jnp.zeros(1, jnp.uint32))
    hp = jax.tree.map(lambda x: x[None], hyper(config))
    ends = np.cumsum([stage.steps for stage in algorithm.stages])
    for snapshot in loop.run(algorithm, data, keys, hp, log_every=int(ends[-1])):
        assert not snapshot.fallen, snapshot.fallen
        index = [stage.name for stage in algorithm.stages].index(snapshot.stage)
        if snapshot.step == ends[index]:
            yield index, jax.tree.map(lambda x: jnp.copy(x[0]), snapshot.state)


def measure(
    algorithm: str, options: dict[str, Any], *, updates: int = UPDATES, batches: int = BATCHES
) -> list[Error]:
    """Errors of every part in every stage, after so many updates a stage."""
    entry = REGISTRY[algorithm]
    config = override(entry.config(), dict(entry.presets["default"].values) | {"steps": updates} | options)
    in_each = {
        name: entry.build(dataclasses.replace(config, precision=name), SPEC)
        for name in ("float32", "bfloat16")
    }
    data, rows = random_data(SPEC.obs_dim, SPEC.action.dim, entry.view), []
    for index, state in trained(in_each["float32"], data, config):
        stages = {name: built.stages[index] for name, built in in_each.items()}
        rows += compare(stages, data, at_rest(state), batches)
    return rows


def compare(stages: dict[str, Stage], data: Any, state: Any, batches: int) -> list[Error]:
    """Errors of one stage's update from a state."""
    like = stages["float32"]
    sample = jax.jit(functools.partial(like.sample, data))
    updates = {name: jax.jit(stage.update) for name, stage in stages.items()}
    # A function of its own, not the one that float32 traced; run a few times, it is mostly compilation.
    exact = jax.jit(lambda *args: like.update(*args), compiler_options=QUICKLY)
    true: list[dict[str, np.ndarray]] = []
    found: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in stages}
    for i in range(batches):
        key_sample, key = jax.random.split(jax.random.fold_in(jax.random.key(1), i))
        batch = sample(state, key_sample)
        for name, update in updates.items():
            found[name].append(gradients(update, state, batch, key, like.steps - 1))
        with in_float64():
            true.append(gradients(exact, cast(state), cast(batch), key, like.steps - 1))
    return [
        row(like.name, part, name, [g[part] for g in true], [g[part] for g in found[name]])
        for part in true[0]
        for name in stages
    ]


def row(stage: str, part: str, precision: str, true: list, found: list) -> Error:
    norms, errors, cosines = [float(np.linalg.norm(g)) for g in true], [], []
    for f, g, norm in zip(found, true, norms, strict=True):
        if norm:
            length = float(np.linalg.norm(f))
            errors.append(float(np.linalg.norm(f - g)) / norm)
            cosines.append(float(f @ g) / (norm * length) if length else 0.0)
    return Error(
        stage=stage,
        part=part,
        precision=precision,
        norm=statistics.median(norms),
        error=statistics.median(errors) if errors else None,
        largest=max(errors, default=None),
        cosine=statistics.median(cosines) if cosines else None,
    )


# --- Results -----------------------------------------------------------------


def table(cases: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A line a case, stage and part."""
    head = ["case", "stage", "part"]
    head += [f"{name}: {what}" for name in PRECISIONS for what in ("error", "cosine")]
    lines = [f"| {' | '.join(head)} |", "|---|---|---|--:|--:|--:|--:|"]
    for case in (name for name in CASES if name in cases):
        by_part: dict[tuple[str, str], dict[str, Any]] = {}
        for each in cases[case]:
            by_part.setdefault((each["stage"], each["part"]), {})[each["precision"]] = each
        for (stage, part), rows in by_part.items():
            cells = [cell for name in PRECISIONS for cell in shown(rows[name])]
            lines.append(f"| {case} | {stage} | {part} | {' | '.join(cells)} |")
    return lines


def shown(error: dict[str, Any]) -> list[str]:
    if error["error"] is None:
        return ["no gradient", ""]
    return [f"{error['error']:.1e} ({error['largest']:.1e})", f"{error['cosine']:.6f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="NAME")
    parser.add_argument("--updates", type=int, default=UPDATES, help="of each stage, before the comparison")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/numerics"))
    args = parser.parse_args()
    file = args.results.with_suffix(".json")
    results: dict[str, Any] = read_json(file) if file.exists() else {"cases": {}}
    results |= {"versions": versions(), "device": jax.devices()[0].device_kind}
    command = f"python benchmarks/numerics.py --updates {args.updates}"
    for name in args.only or [name for name in CASES if name not in results["cases"]]:
        algorithm, options = CASES[name]
        found = measure(algorithm, options, updates=args.updates)
        results["cases"][name] = [dataclasses.asdict(error) for error in found]
        results["command"] = command
        write_json(file, results)
        text = [f"`{command}`; {', '.join(f'{k} {v}' for k, v in results['versions'].items())}.", ""]
        args.results.with_suffix(".md").write_text("\n".join(text + table(results["cases"])) + "\n")
        print("\n".join(table({name: results["cases"][name]})[2:]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
