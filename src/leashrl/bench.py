"""How fast an algorithm trains on this machine, and how near that is to what the machine can do."""

import dataclasses
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from leashrl.core import Stage, hyper, to_json
from leashrl.runs.plan import chosen, configure, find_algorithm
from leashrl.training import loop
from leashrl.types import Box, Episodes, Spec, Transitions

ROWS = 100_000

# --- One algorithm -----------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast an algorithm trains on this machine."""

    algorithm: str
    preset: str
    config: dict[str, Any]
    seeds: int
    obs_dim: int
    action_dim: int
    updates_per_second: float
    """An update of all seeds counts as one: the median over the rounds."""
    member_updates_per_second: float
    """An update of each seed counts."""
    slowest_and_fastest: tuple[float, float]
    """Updates per second of these rounds."""
    cpu_ms_per_update: float
    gflop_per_update: float
    """Matrix products of all seeds."""
    precision: str
    """Of hidden layers' products."""
    matmul_gflops: float
    """The best product in that precision per second, timed in the same process."""
    share_of_matmul_rate: float
    peak_rss_mb: float
    peak_device_mb: float | None
    """Of the device's own memory, where it counts that: not of a CPU."""
    compile_s: float
    device: str
    jax: str

    @property
    def peak_mb(self) -> float:
        """On the device where that is known, else of the process."""
        return self.peak_rss_mb if self.peak_device_mb is None else self.peak_device_mb

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"slowest_and_fastest": list(self.slowest_and_fastest)}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Speed":
        """The inverse of `to_json`; other keys are left out, a missing one raises KeyError."""
        fields: dict[str, Any] = {f.name: values[f.name] for f in dataclasses.fields(Speed)}
        fields["slowest_and_fastest"] = tuple(values["slowest_and_fastest"])
        return Speed(**fields)


@dataclass
class Ready:
    """A stage of an algorithm and random data for it; `begin` makes the members' first state."""

    config: Any
    init: Callable
    stage: Stage
    data: Transitions | Episodes
    keys: Any
    hp: Any
    advance: Any
    """`training.loop`'s compiled updates."""
    state: Any = None
    tally: Any = None
    done: int = 0

    def begin(self) -> None:
        mesh = loop.mesh_for(len(self.keys))
        self.state = loop.initial(self.init, mesh)(self.keys, self.hp)
        self.tally = loop.put(loop.empty_tally(self.stage, self.data, self.state, self.keys, None), mesh)

    def arguments(self, updates: int) -> tuple[Any, ...]:
        """What `advance` takes for so many more updates."""
        return (
            *(self.state, self.tally, self.data, self.keys),
            *(np.int32(self.done), np.int32(self.done + updates), np.int32(0)),
        )

    def go(self, updates: int) -> float:
        """Do so many more updates: the seconds that they took."""
        start = time.perf_counter()
        self.state, self.tally = self.advance(*self.arguments(updates))
        jax.block_until_ready(self.tally.count)
        self.done += updates
        return time.perf_counter() - start


def ready(
    algorithm: str,
    *,
    seeds: int = 1,
    preset: str = "default",
    options: Mapping[str, Any] | None = None,
    obs_dim: int = 11,
    action_dim: int = 3,
    stage: int = -1,
    rows: int = ROWS,
) -> Ready:
    """Build an algorithm for random data of these sizes; arguments are as `bench` has them."""
    config = chosen(algorithm, configure(algorithm, preset, None, options or {}))
    entry = find_algorithm(algorithm)
    built = entry.build(config, Spec(obs_dim, Box((-1.0,) * action_dim, (1.0,) * action_dim)))
    mesh = loop.mesh_for(seeds)
    timed = built.stages[stage]
    return Ready(
        config=config,
        init=built.init,
        stage=timed,
        data=loop.put(random_data(obs_dim, action_dim, entry.view, rows), mesh, loop.ALL),
        keys=loop.put(jax.vmap(jax.random.key)(jnp.arange(seeds, dtype=jnp.uint32)), mesh),
        hp=loop.put(jax.tree.map(lambda x: jnp.broadcast_to(x, (seeds,)), hyper(config)), mesh),
        advance=loop.compiled(timed, mesh),
    )


def bench(
    algorithm: str,
    *,
    seeds: int = 1,
    preset: str = "default",
    options: dict[str, Any] | None = None,
    obs_dim: int = 11,
    action_dim: int = 3,
    seconds: float = 10.0,
    rounds: int = 5,
    stage: int = -1,
    matmul_gflops: Mapping[str, float] | None = None,
    rows: int = ROWS,
) -> Speed:
    """Time `rounds` equal pieces of training on random data (hopper's shapes by default).

    Seeds are dealt out to the devices that there are, as in training.

    Args:
      rows: of the data.
      stage: the index of what is timed of the algorithm's stages, the last one by default.
      matmul_gflops: the rate of products by precision, where it is known; else it is measured here.
    """
    made = ready(
        algorithm,
        seeds=seeds,
        preset=preset,
        options=options,
        obs_dim=obs_dim,
        action_dim=action_dim,
        stage=stage,
        rows=rows,
    )
    before = time.perf_counter()
    made.begin()
    made.go(1)
    compile_s = time.perf_counter() - before

    updates, took = 1, 0.0
    while took < seconds / rounds / 2:  # how many updates fill a round
        updates *= 2
        took = made.go(updates)
    walls, cpus = [], []
    for _ in range(rounds):
        cpu = time.process_time()
        walls.append(made.go(updates) / updates)
        cpus.append((time.process_time() - cpu) / updates)
    wall = statistics.median(walls)
    flop = update_flop(made.stage, made.data, made.state, made.keys)
    precision = getattr(made.config, "precision", "float32")
    device_mb = peak_device_mb()  # before products of other sizes
    rate = matmul_gflops[precision] * 1e9 if matmul_gflops else matmul_rate(precision)
    return Speed(
        algorithm=algorithm,
        preset=preset,
        config=to_json(made.config),
        seeds=seeds,
        obs_dim=obs_dim,
        action_dim=action_dim,
        updates_per_second=1 / wall,
        member_updates_per_second=seeds / wall,
        slowest_and_fastest=(1 / max(walls), 1 / min(walls)),
        cpu_ms_per_update=1e3 * statistics.median(cpus),
        gflop_per_update=flop / 1e9,
        precision=precision,
        matmul_gflops=rate / 1e9,
        share_of_matmul_rate=flop / wall / rate,
        peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        peak_device_mb=device_mb,
        compile_s=compile_s,
        device=jax.devices()[0].device_kind,
        jax=jax.__version__,
    )


def random_data(obs_dim: int, action_dim: int, view: str, rows: int = ROWS) -> Transitions | Episodes:
    """Rows of noise, on the device; in episodes of 1,000 where whole ones are asked for."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape, np.float32)
    obs, action = jnp.asarray(normal(rows, obs_dim)), jnp.asarray(np.tanh(normal(rows, action_dim)))
    reward = jnp.asarray(normal(rows))
    if view == "episodes":
        row = jnp.arange(rows, dtype=jnp.int32)
        return Episodes(obs, action, reward, reward, row % 1000, row // 1000 * 1000 + 1000)
    terminal, next_obs = jnp.asarray(rng.random(rows) < 0.01), jnp.asarray(normal(rows, obs_dim))
    return Transitions(obs, action, reward, terminal, next_obs, jnp.roll(action, -1, axis=0))


def peak_device_mb() -> float | None:
    """The most memory that was in use on the device, where it counts that."""
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return None if peak is None else peak / 2**20


def matmul_rate(precision: str = "float32", rounds: int = 15) -> float:
    """The best rate of matrix products (FLOP/s) seen on this device, over a few sizes; they give float32.

    A GPU's float32 products are what jax makes of them there, since Ampere of TF32's 19 bits.
    """
    sizes, flop = ((2048, 2048, 2048), (12800, 256, 256), (1600, 256, 256)), 1e10
    if jax.default_backend() != "cpu":  # small products would time how fast they are started
        sizes, flop = ((4096, 4096, 4096), (8192, 8192, 8192)), 4e12
    best = 0.0
    for m, k, n in sizes:
        a, b = jnp.ones((m, k), precision), jnp.ones((k, n), precision)
        f = jax.jit(partial(jnp.matmul, preferred_element_type=jnp.float32))
        jax.block_until_ready(f(a, b))
        for _ in range(rounds):
            repeat = max(1, int(flop / (2 * m * k * n)))
            start = time.perf_counter()
            jax.block_until_ready([f(a, b) for _ in range(repeat)])
            best = max(best, repeat * 2 * m * k * n / (time.perf_counter() - start))
    return best


def update_flop(stage: Stage, data: Any, state: Any, keys: Any) -> float:
    """Floating-point operations of all members' matrix products in an update, the mean over six.

    Not every update does the same: TD3's policy has a turn every second time. Without jit a branch on the
    step is taken instead of traced, and six are whole rounds of one, two, three and six.
    """
    total = 0.0
    with jax.disable_jit():
        for step in range(6):
            update = partial(_update, stage, data, np.int32(step))
            total += matmul_flop(needed(jax.make_jaxpr(jax.vmap(update))(state, keys).jaxpr)) / 6
    return total


def needed(jaxpr: Jaxpr) -> Jaxpr:
    """The jaxpr without what none of its results depends on: XLA does not compute that either.

    A derivative of our own gives the slopes of a product's inputs and kernel, whichever are asked for.
    """
    return dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def matmul_flop(jaxpr: Any) -> float:
    """Multiplications and additions of all matrix products in a jaxpr; loops count each of their turns.

    >>> f = jax.make_jaxpr(lambda a, b: jax.lax.fori_loop(0, 3, lambda i, x: x @ b, a))
    >>> matmul_flop(f(jnp.ones((2, 4)), jnp.ones((4, 4))).jaxpr)
    192.0
    """
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            contract = eqn.params["dimension_numbers"][0][0]
            depth = np.prod([eqn.invars[0].aval.shape[d] for d in contract])
            total += 2.0 * float(np.prod(eqn.outvars[0].aval.shape) * depth)
        inner = [
            getattr(x, "jaxpr", x)
            for value in eqn.params.values()
            for x in (value if isinstance(value, tuple | list) else (value,))
            if hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ]
        costs = [matmul_flop(x) for x in inner]
        if eqn.primitive.name == "cond":  # one branch runs, the platform's
            total += max(costs, default=0.0)
        else:
            total += eqn.params.get("length", 1) * sum(costs)
    return total


def _update(stage, data, step, state, key):
    return stage.update(state, stage.sample(data, state, key), key, step)
