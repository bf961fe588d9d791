"""The GPU's half of the speed page, in one run that may be stopped and goes on where it was.

    python benchmarks/accelerator.py --minutes 8 --out results/accelerator.json
    python benchmarks/accelerator.py --minutes 8 --out results/accelerator.json   (the rest)
    python benchmarks/accelerator.py --small --minutes 2 --out small.json         (tried on a CPU)

Install leashrl with jax for the GPU (`pip install -e . 'jax[cuda12]'`), and run the first line when nothing
else uses the GPU. It needs no data and no simulator. MISA's default (hopper's shapes, batch 256, 2 x 256,
k = 10) is varied one way at a time, in both precisions: seeds in one program, k, batch, width. Each cell is a
process of its own, so that peak memory and compilation are the cell's own and a crash costs one cell. Then
come the operations of an update by time (`benchmarks/ops.py`), for MISA, CQL, IQL, TD3+BC and DT. The most
telling cells come first.

FILE is rewritten whole after each cell, and FILE with the suffix `.md` holds the tables. A cell that is there
is not run again, and a failed one only with `--retry`. When the minutes are over the cell that runs is ended,
and what is left is named; the same command does it. No setting of the device is changed. Float32 products on
a GPU are jax's default there, TF32 since Ampere; `JAX_DEFAULT_MATMUL_PRECISION=highest` changes both sides.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leashrl.benches import Machine, bench_apart, machine
from leashrl.disk.files import make_folder, read_json, versions, write_json
from leashrl.errors import BadInput
from leashrl.training.interrupts import interruptible

SECONDS = 2.0
"""Of measuring a cell."""

WHOLE_GRAPHS_APART = "--xla_gpu_enable_command_buffer="
"""For the profiler alone: else XLA starts many kernels as one, and they cannot be told apart."""


@dataclass(frozen=True)
class Cell:
    """One measurement: updates of an algorithm per second, or where their time goes."""

    axis: str
    """seeds, k, batch or width; or profile."""
    value: str
    precision: str
    algorithm: str = "misa"
    seeds: int = 1
    options: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.axis} {self.value}, {self.precision}"


# --- Which -------------------------------------------------------------------

BASE = {"batch_size": "256", "hidden": "256,256", "k": "10"}
SMALL = {"batch_size": "8", "hidden": "32,32", "k": "3"}


def cells(small: bool) -> list[Cell]:
    """All cells, the cheapest and most telling first."""
    base, both = (SMALL, ("bfloat16",)) if small else (BASE, ("bfloat16", "float32"))
    seeds = (2,) if small else (4, 20, 100)
    values = {"batch": ("16",)} if small else {}
    values = values or {"k": ("50", "1"), "batch": ("1024", "4096"), "width": ("512", "1024")}
    profiled = ("td3-bc",) if small else ("misa", "td3-bc", "iql", "cql", "dt")
    every = lambda precision: [
        Cell("profile", name, precision, name, options=base if name == "misa" else {}) for name in profiled
    ]
    found = [Cell("seeds", "1", name, options=base) for name in ("bfloat16", "float32")]
    found += [Cell("seeds", str(n), name, seeds=n, options=base) for n in seeds for name in both]
    found += every("bfloat16")
    option = {"k": "k", "batch": "batch_size", "width": "hidden"}
    for axis, those in values.items():
        for value in those:
            changed = {option[axis]: f"{value},{value}" if axis == "width" else value}
            found += [Cell(axis, value, name, options=base | changed) for name in both]
    return found if small else found + every("float32")


# --- One cell ----------------------------------------------------------------


def measure(cell: Cell, on: Machine, small: bool, timeout: float) -> dict[str, Any]:
    """A cell's row for FILE; TimeoutError where `timeout` seconds do not do."""
    about = {"axis": cell.axis, "value": cell.value, "precision": cell.precision, "algorithm": cell.algorithm}
    if cell.axis == "profile":
        return about | profiled(cell, on, small, timeout)
    settings = {"seeds": cell.seeds, "options": cell.options, "seconds": 0.2 if small else SECONDS}
    row = bench_apart(cell.algorithm, cell.precision, on=on, timeout=timeout, **settings)
    if row.speed is None:
        return about | {"failure": row.failure}
    return about | row.to_json() | {"peak_mb": row.speed.peak_mb}


def profiled(cell: Cell, on: Machine, small: bool, timeout: float) -> dict[str, Any]:
    """Where an update's time goes, from `benchmarks/ops.py` in a process of its own."""
    options = cell.options | {"precision": cell.precision}
    if small:
        options |= {"hidden": "32,32", "batch_size": "8"}
    words = [f"{name}={value}" for name, value in options.items()]
    script = [sys.executable, str(Path(__file__).with_name("ops.py"))]
    environment = dict(os.environ)
    if on.platform == "gpu":
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {WHOLE_GRAPHS_APART}"
    command = [*script, cell.algorithm, "--json", "--top", "10", "--set", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return {"failure": said[-1][:200] if said else f"exit status {done.returncode}"}
    return {"failure": None} | json.loads(done.stdout.splitlines()[-1])


# --- All of them -------------------------------------------------------------


def opened(out: Path, small: bool, retry: bool, timeout: float) -> dict[str, Any]:
    """What FILE holds, or its beginning: the machine, its products timed once."""
    if not out.exists():
        on = machine(timeout=timeout)
        return {"versions": versions(), "small": small, "machine": on.to_json(), "cells": {}}
    found = read_json(out)
    try:
        Machine(**found["machine"])
        kept = {name: row for name, row in found["cells"].items() if not (retry and row["failure"])}
        same = found["small"] == small and found["versions"] == versions()
    except (KeyError, TypeError, AttributeError):
        raise BadInput(f"'{out}' is no file of this program: give another --out") from None
    if not same:
        raise BadInput(f"'{out}' was begun with other versions or another --small: give another --out")
    return found | {"cells": kept}


def run(out: Path, *, minutes: float, small: bool, retry: bool) -> list[Cell]:
    """Measure what FILE lacks until the minutes are over: what is left."""
    end = time.monotonic() + 60 * minutes
    wanted = cells(small)
    try:
        found = opened(out, small, retry, 60 * minutes)
    except TimeoutError:
        return wanted
    on = Machine(**found["machine"])
    if on.platform == "cpu":
        print("no GPU or TPU here: these are this CPU's numbers", flush=True)
    try:
        for cell in wanted:
            timeout = end - time.monotonic()
            if cell.name in found["cells"]:
                continue
            if timeout <= 0:
                break
            found["cells"][cell.name] = measure(cell, on, small, timeout)
            keep(out, found)
            print(line(cell.name, found["cells"][cell.name]), flush=True)
    except (TimeoutError, KeyboardInterrupt):
        pass
    keep(out, found)
    return [cell for cell in wanted if cell.name not in found["cells"]]


def keep(out: Path, found: dict[str, Any]) -> None:
    write_json(out, found)
    out.with_suffix(".md").write_text(tables(found))


# --- The page ----------------------------------------------------------------

HEAD = ("MISA", "updates/s", "member updates/s", "GFLOP/update", "share of the product rate", "peak MB")
HEAD += ("compile s",)


def line(name: str, row: dict[str, Any]) -> str:
    """A cell as a row of Markdown."""
    if row["failure"]:
        return f"| {name} | failed: {row['failure']} |"
    if row["axis"] == "profile":
        return f"| {row['algorithm']}, {row['precision']} | {row['update_ms']:.2f} | {row['obstacle']} |"
    return (
        f"| {name} | {row['updates_per_second']:.1f} | {row['member_updates_per_second']:.1f} "
        f"| {row['gflop_per_update']:.3g} | {row['share_of_matmul_rate']:.1%} | {row['peak_mb']:.0f} "
        f"| {row['compile_s']:.1f} |"
    )


def tables(found: dict[str, Any]) -> str:
    """The speeds, then where the time goes."""
    on = Machine(**found["machine"])
    rates = ", ".join(f"{rate:,.0f} GFLOP/s in {name}" for name, rate in on.matmul_gflops.items())
    speeds = {name: row for name, row in found["cells"].items() if row["axis"] != "profile"}
    others = {name: row for name, row in found["cells"].items() if row["axis"] == "profile"}
    top = [f"{on.device} ({on.platform}), jax {on.jax}. Products: {rates}.", ""]
    top += [f"| {' | '.join(HEAD)} |", "|" + " --- |" * len(HEAD)]
    below = ["", "| algorithm | ms/update | largest obstacle |", "| --- | --- | --- |"]
    rows = lambda those: [line(name, row) for name, row in those.items()]
    return "\n".join([*top, *rows(speeds), *below, *rows(others), ""])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="after which it stops; 8")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON; tables in .md")
    parser.add_argument("--small", action="store_true", help="tiny sizes, for a try on a CPU")
    parser.add_argument("--retry", action="store_true", help="run failed cells again")
    args = parser.parse_args(argv)
    if not args.minutes > 0:
        parser.error(f"--minutes must be more than 0, not {args.minutes:g}")
    try:
        make_folder(args.out.parent)
        with interruptible():
            left = run(args.out, minutes=args.minutes, small=args.small, retry=args.retry)
    except BadInput as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        return 130
    if left:
        names = "; ".join(cell.name for cell in left)
        print(f"{len(left)} cells are left, the same command goes on: {names}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
