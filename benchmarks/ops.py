"""Where the time of an update goes: its compiled operations by time, from jax's profiler.

    python benchmarks/ops.py ALGO [--preset P] [--set NAME=VALUE ...] [--seeds N] [--top 20] [--json]

The last stage on random data, as `leashrl bench` times it. `between` is the time in which no operation
runs: on a GPU the host then starts kernels more slowly than they end. On a CPU operations overlap, and their
sum may exceed the update. On a GPU give `XLA_FLAGS=--xla_gpu_enable_command_buffer=` beside it, or operations
that are started together are shown as one.
"""

import argparse
import collections
import gzip
import json
import re
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax

from leashrl.bench import Ready, ready
from leashrl.cli.arguments import pairs
from leashrl.errors import BadInput

SECONDS, MOST = 0.5, 200
"""Of training under the profiler, and the most updates in it."""

CONTROL = {"while", "call", "conditional"}
"""Their time is that of the operations within."""

KINDS = (  # the first whose words are among an operation's decides
    ("products", {"dot", "custom-call", "convolution"}),
    ("sorts", {"sort", "topk"}),
    ("gathers", {"gather", "scatter", "dynamic-slice", "dynamic-update-slice"}),
    ("random bits", {"rng-bit-generator", "shift-right-logical"}),
    ("reductions", {"reduce", "reduce-window"}),
)
COPIES = {"copy", "transpose", "concatenate", "copy-start", "copy-done", "pad", "slice", "reshape", "fusion"}
COPIES |= {"bitcast", "parameter", "constant", "broadcast", "tuple", "get-tuple-element"}
"""Operations with nothing else in them move numbers alone; what is left is element-wise."""

INSTRUCTION = re.compile(r"\s+(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(")


@dataclass(frozen=True)
class Op:
    """An operation of the compiled update."""

    name: str
    kind: str
    ms: float
    """Per update, all of its runs."""
    runs: float
    """Per update."""
    about: str
    """Its result's shape, and where it comes from."""


@dataclass(frozen=True)
class Profile:
    """Milliseconds per update."""

    algorithm: str
    precision: str
    update_ms: float
    """Without the profiler."""
    between_ms: float
    kinds: dict[str, float]
    """The most first; `between` is one."""
    ops: tuple[Op, ...]
    """The most first, cut to the first few."""

    @property
    def obstacle(self) -> str:
        """The largest kind in words.

        >>> kinds = {"products": 6.0, "between": 2.0}
        >>> first = Op("dot.1", "products", 3.0, 2.0, "f32[8]")
        >>> Profile("misa", "float32", 8.0, 2.0, kinds, (first,)).obstacle
        'products 75 %; first dot.1 (f32[8]) 38 %'
        """
        kind, ms = next(iter(self.kinds.items()))
        total = sum(self.kinds.values())
        largest = next((op for op in self.ops if op.kind == kind), None)
        more = f"; first {largest.name} ({largest.about}) {largest.ms / total:.0%}" if largest else ""
        return f"{kind} {ms / total:.0%}{more}".replace("%", " %")


# --- The compiled text -------------------------------------------------------


def described(text: str) -> dict[str, tuple[str, str]]:
    """Kind and description of each instruction of a compiled module, by name."""
    inside: dict[str, set[str]] = collections.defaultdict(set)
    lines, computation = [], ""
    for line in text.splitlines():
        if begun := re.match(r"(?:ENTRY )?%([\w.\-]+) .*\{\s*$", line):
            computation = begun[1]
        elif found := INSTRUCTION.match(line):
            inside[computation].add(found[3])
            lines.append((found, line))
    known = {}
    for found, line in lines:
        name, shape, word = found.groups()
        if word in CONTROL:
            continue
        called = re.search(r"calls=%([\w.\-]+)", line)
        words = {word} | (inside[called[1]] if called else set())
        kind = next((kind for kind, own in KINDS if words & own), None)
        kind = kind or ("copies" if words <= COPIES else "element-wise")
        origin = re.search(r'op_name="([^"]*)"', line)
        place = "/".join(origin[1].split("/")[-2:]) if origin else word
        known[name] = kind, f"{shape.partition('{')[0]} {place}"[:100]
    return known


# --- The trace ---------------------------------------------------------------


def traced(made: Ready, advance: Any, updates: int) -> list[dict[str, Any]]:
    """The profiler's events of so many updates."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=True):
            turn(made, advance, updates)
        (file,) = Path(folder).rglob("perfetto_trace.json.gz")
        found = json.loads(gzip.decompress(file.read_bytes()))
    events = found["traceEvents"] if isinstance(found, dict) else found
    return [event for event in events if event.get("ph") == "X" and "dur" in event]


def turn(made: Ready, advance: Any, updates: int) -> float:
    made.advance = advance  # the one whose text is read
    return made.go(updates)


def profile(algorithm: str, *, seeds: int, preset: str, options: dict[str, str], top: int) -> Profile:
    """Time the operations of an algorithm's last stage."""
    made = ready(algorithm, seeds=seeds, preset=preset, options=options)
    made.begin()
    advance = made.advance.lower(*made.arguments(1)).compile()
    known = described(advance.as_text())
    turn(made, advance, 1)
    once = turn(made, advance, 5) / 5
    updates = max(5, min(MOST, int(SECONDS / once)))
    wall = turn(made, advance, updates) / updates * 1e3
    total: dict[str, float] = collections.defaultdict(float)
    runs = collections.Counter()
    for event in traced(made, advance, updates):
        name = str(event.get("args", {}).get("hlo_op", event["name"]))
        if name in known:
            total[name] += event["dur"]
            runs[name] += 1
    largest = sorted(total, key=lambda name: -total[name])
    ops = [
        Op(name, known[name][0], total[name] / updates / 1e3, runs[name] / updates, known[name][1])
        for name in largest
    ]
    kinds = {"between": max(0.0, wall - sum(op.ms for op in ops))}
    for op in ops:
        kinds[op.kind] = kinds.get(op.kind, 0.0) + op.ms
    precision = getattr(made.config, "precision", "float32")
    ordered = dict(sorted(kinds.items(), key=lambda row: -row[1]))
    return Profile(algorithm, precision, wall, kinds["between"], ordered, tuple(ops[:top]))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("algorithm", metavar="ALGO")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--set", nargs="+", action="extend", metavar="NAME=VALUE")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--top", type=int, default=20, help="how many operations are shown")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    try:
        options = pairs("--set", args.set)
        found = profile(args.algorithm, seeds=args.seeds, preset=args.preset, options=options, top=args.top)
    except BadInput as error:
        parser.error(str(error))
    if args.json:
        print(json.dumps(asdict(found) | {"obstacle": found.obstacle}))
        return 0
    print(f"{found.algorithm}, {found.precision}: {found.update_ms:.3f} ms per update; {found.obstacle}")
    for kind, ms in found.kinds.items():
        print(f"  {kind:<12}  {ms:8.3f} ms")
    for op in found.ops:
        print(f"{op.ms:8.3f} ms  {op.runs:6.1f} runs  {op.kind:<12}  {op.name:<28}  {op.about}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
