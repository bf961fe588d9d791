"""The one loop: every algorithm, every stage, all members of a run in one compiled program.

A *member* is a seed with its hyper-parameters; members are the rows of a leading axis. `_advance` is one
member's loop. The step counter is the same for all, so that a `lax.cond` on it stays a branch under `vmap`.
The key of member i at step t is `fold_in(key_i, t)`, and running sums of the metrics travel with the
state: where the host cuts the loop (for a log line, a checkpoint, a Ctrl-C) changes no bit of anything.

Where there are several devices, the members of an offline run are dealt out evenly, each device with its own
copy of the data: they never talk to one another.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from leashrl.core import HP, Algorithm, Data, Stage, State
from leashrl.types import Array, Episodes, Mixed, Replay, Transitions, pytree

LIMIT = 1e30
"""A loss beyond it counts as diverged, like NaN or infinity in any metric: its gradient's square, in Adam's
second moment, is about to pass float32's end at 3e38. A large value by itself is no divergence."""

MEMBER, ALL = PartitionSpec("member"), PartitionSpec()
"""How an array lies on the devices: its rows, the members, dealt out; or all of it on each."""

SLICE_SECONDS = 1.0
"""How long the host leaves the device alone: it bounds the wait after a Ctrl-C."""


@pytree
class Tally:
    """What the loop knows of each member besides its state; all arrays (members,)."""

    total: dict[str, Array]  # sums of the metrics since the last log line
    count: Array  # int32, how many updates they hold
    diverged_at: Array  # int32, the step whose metrics were not finite; -1 while all is well
    diverged_in: Array  # int32, index of that metric in its stage's sorted names; one beyond is the state


class Source(Protocol):
    """Rows that come while a run goes on, in place of a data set: see `leashrl.training.simulator`."""

    every: int

    @property
    def data(self) -> Replay | Mixed: ...

    def visit(self, state: State, step: int) -> None:
        """Add `every` rows a member to `data`; called before the updates `step` to `step + every`."""
        ...


class Snapshot(NamedTuple):
    """The loop at rest. `state` and `tally` may be kept only until the next iteration (donated)."""

    state: State  # leading member axis
    tally: Tally
    step: int  # updates done, over all stages
    stage: str
    logged: dict[str, np.ndarray] | None  # mean metrics (members,), NaN for diverged ones; None between lines
    fallen: dict[
        int, tuple[int, str]
    ]  # (step, metric) of each diverged member; `state` where no metric shows it


def run(
    algorithm: Algorithm,
    source: Transitions | Episodes | Source,
    keys: Array,
    hp: HP,
    *,
    log_every: int,
    stop_every: int = 0,
    resume: tuple[int, dict] | None = None,
) -> Iterator[Snapshot]:
    """Train, yielding a `Snapshot` at the start, about once a second, at every log line and at the end.

    Args:
      source: a data set, the same for all members, or what adds rows for each member as it goes.
      keys: typed PRNG keys (members,).
      hp: hyper-parameters, each (members,).
      log_every: updates a log line.
      stop_every: yield at every multiple of it too.
      resume: `(step, arrays)` of a checkpoint, arrays as `blank` lays them out.
    """
    step = 0
    online = None if isinstance(source, Transitions | Episodes) else source
    data = source if isinstance(source, Transitions | Episodes) else source.data
    mesh = None if online else mesh_for(len(keys))
    keys, hp, data = put(keys, mesh), put(hp, mesh), put(data, mesh, ALL)
    if resume is None:
        state = initial(algorithm.init, mesh)(keys, hp)
        tally = None
    else:
        step, arrays = resume
        state, tally = put(arrays["state"], mesh), put(arrays["tally"], mesh)
    start, fresh, fallen = 0, True, {}
    for stage in algorithm.stages:
        end = start + stage.steps
        if step > end or (step == end and stage is not algorithm.stages[-1]):
            start = end
            continue
        if tally is None or step == start:
            tally = put(empty_tally(stage, data, state, keys, tally), mesh)
        names = sorted(tally.total)
        advance = compiled(stage, mesh)
        refresh = refreshed(stage, mesh) if stage.refresh else None
        if fresh:  # later stages go on where the one before has yielded
            fallen = decode(tally, fallen, algorithm, data, state, keys)
            yield Snapshot(state, tally, step, stage.name, None, fallen)
            fresh = False
        piece = 1  # updates a call: doubled or halved until a call takes about SLICE_SECONDS
        while step < end:
            own = step - start
            if online and own % online.every == 0:
                online.visit(state, step)
                data = online.data
            if refresh is not None and own % stage.every == 0:
                state = refresh(state, data, fold_in(keys, step + 2**31))
            stop = min(end, step + piece, _next_multiple(step, log_every), _next_multiple(step, stop_every))
            if refresh is not None:
                stop = min(stop, start + _next_multiple(own, stage.every))
            if online:
                stop = min(stop, start + _next_multiple(own, online.every))
            began = time.perf_counter()
            state, tally = advance(state, tally, data, keys, np.int32(step), np.int32(stop), np.int32(start))
            jax.block_until_ready(tally.count)
            faster = time.perf_counter() - began < SLICE_SECONDS * (stop - step) / piece / 1.5
            piece = piece * 2 if faster else max(1, piece // 2)
            step = stop
            if step == end and stage is algorithm.stages[-1]:
                tally = _last_look(state, tally, step)
            logged = None
            if step % log_every == 0 or step == end:
                logged = _means(tally, names)
                tally = put(_reset(tally), mesh)
            fallen = decode(tally, fallen, algorithm, data, state, keys)
            yield Snapshot(state, tally, step, stage.name, logged, fallen)
        start = end


def blank(algorithm: Algorithm, data: Data, keys: Array, hp: HP, step: int) -> dict:
    """Shapes and dtypes of a checkpoint at `step`: `{"state": ..., "tally": ...}`."""
    state = jax.eval_shape(jax.vmap(algorithm.init), keys, hp)
    stage = stage_at(algorithm, step)
    return {
        "state": state,
        "tally": jax.eval_shape(lambda s, k: empty_tally(stage, data, s, k, None), state, keys),
    }


@lru_cache(maxsize=8)
def initial(init: Callable[[Array, HP], State], mesh: Mesh | None = None):
    """`(keys, hp) -> state` of all members."""
    return jax.jit(spread(jax.vmap(init), mesh, (MEMBER, MEMBER)))


@lru_cache(maxsize=8)  # one compilation a stage and shape, however often it is run
def compiled(stage: Stage, mesh: Mesh | None = None):
    """`(state, tally, data, keys, begin, end, stage_start) -> (state, tally)`, the first two donated."""
    specs = (MEMBER, MEMBER, ALL, MEMBER, ALL, ALL, ALL)
    return jax.jit(spread(partial(_advance_all, stage), mesh, specs), donate_argnums=(0, 1))


def refreshed(stage: Stage, mesh: Mesh | None):
    """`(state, data, keys) -> state`"""
    assert stage.refresh
    return jax.jit(spread(jax.vmap(stage.refresh, in_axes=(0, None, 0)), mesh, (MEMBER, ALL, MEMBER)))


@lru_cache(maxsize=8)  # one trace a stage and shape: a resumed run asks several times
def metrics_of(stage: Stage):
    """`(state, data, keys) -> metrics` of one update of all members, to ask for shapes."""

    def once(state: State, data: Data, key: Array) -> dict[str, Array]:
        return stage.update(state, stage.sample(data, state, key), key, jnp.int32(0))[1]

    return jax.jit(jax.vmap(once, in_axes=(0, None, 0)))


def decode(tally: Tally, known: dict, algorithm: Algorithm, data: Data, state: State, keys: Array) -> dict:
    """`{member: (step, metric)}` of the members that went non-finite; `known` are those told before."""
    steps, metrics = np.asarray(tally.diverged_at), np.asarray(tally.diverged_in)
    found = dict(known)
    for i in set(np.flatnonzero(steps >= 0).tolist()) - known.keys():
        stage = stage_at(algorithm, int(steps[i]))
        names = [*sorted(empty_tally(stage, data, state, keys, None).total), "state"]
        found[i] = (int(steps[i]), names[int(metrics[i])])
    return found


def stage_at(algorithm: Algorithm, step: int) -> Stage:
    """The stage that update number `step` (from 1; 0 too) belongs to."""
    start, stage = 0, algorithm.stages[0]
    for stage in algorithm.stages:
        if step <= start + stage.steps and stage.steps:
            break
        start += stage.steps
    return stage


def fold_in(keys: Array, step: int | Array) -> Array:
    """The keys (members,) of one step."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, jnp.asarray(step, jnp.uint32))


# --- Several devices ---------------------------------------------------------


def mesh_for(members: int) -> Mesh | None:
    """As many devices as share the members evenly, in a row; None where that is one."""
    devices = jax.local_devices()
    shares = max(n for n in range(1, len(devices) + 1) if members % n == 0)
    return Mesh(np.array(devices[:shares]), ("member",)) if shares > 1 else None


def put(tree: Any, mesh: Mesh | None, spec: PartitionSpec = MEMBER) -> Any:
    """`tree` on the devices of the mesh; where it is without one."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, spec))


def spread(function: Callable, mesh: Mesh | None, specs: tuple) -> Callable:
    """`function` of all members, run by each device on its share of them."""
    if mesh is None:
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=MEMBER, check_vma=False)


# --- Inside the compiled program ---------------------------------------------


def _advance(stage: Stage, data, begin, end, stage_start, state: State, tally: Tally, key: Array):
    """Updates `begin` to `end` of one member; the tally's arrays are scalars here."""

    def body(t, carry):
        state, tally = carry
        key_sample, key_update = jax.random.split(jax.random.fold_in(key, jnp.asarray(t, jnp.uint32)))
        batch = stage.sample(data, state, key_sample)
        new, metrics = stage.update(state, batch, key_update, t - stage_start)
        names = sorted(metrics)
        values = jnp.stack([metrics[name] for name in names])
        # Losses have a limit; all else only describes the run, and may be as large as float32 goes.
        limits = np.array([LIMIT if name.endswith("_loss") else np.inf for name in names], np.float32)
        bad = ~(jnp.abs(values) < limits)  # NaN compares false
        well = tally.diverged_at < 0
        ok = well & ~jnp.any(bad)
        fell = well & ~ok
        # A member that diverges stays for ever where its bad metrics came from; the others do not notice.
        return jax.tree.map(lambda n, o: jnp.where(ok, n, o), new, state), Tally(
            total={name: tally.total[name] + jnp.where(ok, x, 0.0) for name, x in metrics.items()},
            count=tally.count + ok.astype(jnp.int32),
            diverged_at=jnp.where(fell, t + 1, tally.diverged_at),
            diverged_in=jnp.where(fell, jnp.argmax(bad).astype(jnp.int32), tally.diverged_in),
        )

    return jax.lax.fori_loop(begin, end, body, (state, tally))


def _advance_all(stage: Stage, state, tally: Tally, data, keys, begin, end, stage_start):
    """Updates `begin` to `end` of all members: side by side, or on a CPU, whose caches hold one, in turn."""
    replay = data.replay if isinstance(data, Mixed) else data
    first = replay.first if isinstance(replay, Replay) else jnp.zeros(keys.shape, jnp.int32)

    def one(state, tally, key, first):
        return _advance(stage, seen_by(data, first), begin, end, stage_start, state, tally, key)

    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda member: one(*member), (state, tally, keys, first))
    return jax.vmap(one)(state, tally, keys, first)


def seen_by(data: Data, first: Array) -> Data:
    """`data` as one member sees them, whose ring begins at `first` where there are rings."""
    if isinstance(data, Mixed):
        return dataclasses.replace(data, replay=seen_by(data.replay, first))
    return dataclasses.replace(data, first=first) if isinstance(data, Replay) else data


def empty_tally(stage: Stage, data, state, keys, before: Tally | None) -> Tally:
    """An empty tally for a stage's metrics; members that fell earlier stay fallen."""
    shapes = metrics_of(stage).eval_shape(state, seen_by(data, jnp.int32(0)), keys)
    nothing = jnp.full(keys.shape, -1, jnp.int32)
    return Tally(
        total={name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()},
        count=jnp.zeros(keys.shape, jnp.int32),
        diverged_at=nothing if before is None else before.diverged_at,
        diverged_in=jnp.zeros(keys.shape, jnp.int32) if before is None else before.diverged_in,
    )


def _last_look(state: State, tally: Tally, step: int) -> Tally:
    """The tally with those members fallen whose state is not finite after the last step.

    Metrics come from before their step, so nothing else sees what the last one did; a look at every step
    would cost as much as behaviour cloning itself.
    """
    lost = (tally.diverged_at < 0) & ~_finite(state)
    return Tally(
        total=tally.total,
        count=tally.count,
        diverged_at=jnp.where(lost, jnp.int32(step), tally.diverged_at),
        diverged_in=jnp.where(lost, jnp.int32(len(tally.total)), tally.diverged_in),
    )


@jax.jit
def _finite(state: State) -> Array:
    """(members,) bool: no NaN and no infinity in any array of a member's state."""
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(x).all(tuple(range(1, x.ndim))) for x in floats]).all(0)


def _means(tally: Tally, names: list[str]) -> dict[str, np.ndarray]:
    count = np.asarray(tally.count)
    fallen = np.asarray(tally.diverged_at) >= 0
    totals = {name: np.asarray(tally.total[name]) for name in names}
    return {name: np.where(fallen, np.nan, x / np.maximum(count, 1)) for name, x in totals.items()}


def _reset(tally: Tally) -> Tally:
    zeros = {name: jnp.zeros_like(x) for name, x in tally.total.items()}
    return Tally(zeros, jnp.zeros_like(tally.count), tally.diverged_at, tally.diverged_in)


def _next_multiple(step: int, period: int) -> int:
    return (step // period + 1) * period if period else sys.maxsize
