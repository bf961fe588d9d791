"""How fast all algorithms train on this machine: a table, each row of a process of its own."""

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from leashrl.algos import REGISTRY
from leashrl.algos.common import choice
from leashrl.bench import Speed, bench, matmul_rate
from leashrl.errors import BadInput
from leashrl.nn import PRECISIONS
from leashrl.runs.plan import configure


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What algorithms are timed on."""

    device: str
    platform: str
    """cpu, gpu or tpu."""
    jax: str
    matmul_gflops: dict[str, float]
    """The best product per second, by precision."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class Row:
    """An algorithm in a precision: its speed, or why there is none."""

    algorithm: str
    precision: str
    speed: Speed | None
    failure: str | None

    def to_json(self) -> dict[str, Any]:
        """The speed's own keys beside the failure, which is null where there is a speed."""
        own = {"algorithm": self.algorithm, "precision": self.precision, "failure": self.failure}
        return own | (self.speed.to_json() if self.speed else {})


@dataclass(frozen=True, kw_only=True)
class Table:
    """All algorithms on a machine."""

    machine: Machine | None
    """None where it was interrupted before that was known."""
    rows: tuple[Row, ...]
    left: tuple[tuple[str, str], ...]
    """Algorithms and precisions that an interrupt has left out."""

    def to_json(self) -> dict[str, Any]:
        return {
            "machine": self.machine and self.machine.to_json(),
            "rows": [row.to_json() for row in self.rows],
            "left": [{"algorithm": algorithm, "precision": precision} for algorithm, precision in self.left],
        }


def bench_all(
    *,
    algorithms: Sequence[str] = tuple(REGISTRY),
    seeds: int = 1,
    preset: str = "default",
    options: Mapping[str, Any] | None = None,
    seconds: float = 10.0,
    report: Callable[[Machine | Row], None] = lambda event: None,
) -> Table:
    """Time the last stage of each algorithm, in both precisions or in the one that `options` name.

    Each has a process of its own, so that peak memory and compilation are its own, and a crash is a row.
    Ctrl-C ends it early: the table then says what is left.

    Args:
      report: called with the machine once its products are timed, and with each row as it comes.
    """
    options = dict(options or {})
    precisions = (options.pop("precision"),) if "precision" in options else PRECISIONS
    for algorithm in algorithms:  # a mistake is found before the first is timed
        configure(algorithm, preset, None, options)
    for precision in precisions:
        choice("precision", precision, ("auto", *PRECISIONS))
    wanted = [(algorithm, precision) for algorithm in algorithms for precision in precisions]
    on, rows = None, []
    try:
        on = machine(PRECISIONS if "auto" in precisions else precisions)
        report(on)
        settings = {"seeds": seeds, "preset": preset, "options": options, "seconds": seconds}
        for algorithm, precision in wanted:
            row = bench_apart(algorithm, precision, on=on, **settings)
            rows.append(row)  # first, so that an interrupted report loses nothing
            report(row)
    except KeyboardInterrupt:
        pass
    return Table(machine=on, rows=tuple(rows), left=tuple(wanted[len(rows) :]))


def bench_apart(
    algorithm: str,
    precision: str,
    *,
    on: Machine,
    options: Mapping[str, Any] | None = None,
    timeout: float | None = None,
    **settings: Any,
) -> Row:
    """`bench` in a process of its own; a crash becomes the row's `failure`.

    Args:
      on: this machine, as `machine` measured it.
      timeout: seconds after which the process is ended and TimeoutError raised.
      settings: further arguments of `bench`.
    """
    settings |= {"options": dict(options or {}) | {"precision": precision}}
    try:
        found = _apart("bench", timeout, algorithm=algorithm, matmul_gflops=on.matmul_gflops, **settings)
    except Crashed as crash:
        return Row(algorithm=algorithm, precision=precision, speed=None, failure=str(crash))
    speed = Speed.from_json(found)
    return Row(algorithm=algorithm, precision=speed.precision, speed=speed, failure=None)


def machine(precisions: Sequence[str] = PRECISIONS, timeout: float | None = None) -> Machine:
    """Time products in each precision, in a process of its own: a GPU's memory is free again afterwards."""
    try:
        return Machine(**_apart("machine", timeout, precisions=list(precisions)))
    except Crashed as crash:
        raise BadInput(f"no device can be timed: {crash}") from None


# --- Processes ---------------------------------------------------------------


class Crashed(Exception):
    """A process ended without a result; one line says why."""


def _apart(call: str, timeout: float | None, **arguments: Any) -> Any:
    """What a function of CALLS gives in a process of its own."""
    command = [sys.executable, "-m", "leashrl.benches", call, json.dumps(arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    if done.returncode < 0:
        raise Crashed(f"ended by {signal.Signals(-done.returncode).name}")
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise Crashed(said[-1][:200] if said else f"exit status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def _machine(precisions: Sequence[str]) -> Machine:
    device = jax.devices()[0]
    return Machine(
        device=device.device_kind,
        platform=device.platform,
        jax=jax.__version__,
        matmul_gflops={name: matmul_rate(name) / 1e9 for name in precisions},
    )


CALLS: dict[str, Callable] = {"bench": bench, "machine": _machine}


def _answer(call: str, arguments: str) -> int:
    """The other end of `_apart`: JSON on stdout, or one line on stderr."""
    try:
        print(json.dumps(CALLS[call](**json.loads(arguments)).to_json()))
    except Exception as error:  # whatever it is, the table goes on
        line = " ".join(str(error).split())
        print(line if isinstance(error, BadInput) else f"{type(error).__name__}: {line}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_answer(*sys.argv[1:]))
