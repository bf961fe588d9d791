"""How MISA's cost grows: measured here, and computed for machines that are not at hand; the page on speed.

    python benchmarks/growth.py measure [--only AXIS...] [--seconds 10] [--cells DIR] [--tiny]
    python benchmarks/growth.py count
    python benchmarks/growth.py page [--cells DIR] [--docs DIR] [--results PREFIX]

`measure` times a cell a process, hopper's shapes, one setting at a time away from the default, in float32 and
in bfloat16; each leaves a small JSON, and one that is there is not measured again. `count` counts operations
and bytes of one update, and `page` makes the pictures and the tables that `docs/speed.md` shows. Let nothing
else run beside `measure`.
"""

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from leashrl.disk.files import read_json, versions, write_json
from leashrl.nn import PRECISIONS
from leashrl.report.plots import COLOURS, INK, dress, legend_below, need_matplotlib, save

OBS, ACTION = 11, 3
RESAMPLED = 1
"""Actions a state that the default's critics are differentiated at, beside the data's."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What one cell measures."""

    precision: str = "float32"
    k: int = 10
    batch: int = 256
    width: int = 256
    ensemble: int = 2
    seeds: int = 1
    rows: int = 100_000
    devices: int = 1

    @property
    def name(self) -> str:
        return "-".join(f"{key}-{value}" for key, value in dataclasses.asdict(self).items())

    @property
    def options(self) -> dict[str, Any]:
        """MISA's own."""
        return {
            "precision": self.precision,
            "k": self.k,
            "batch_size": self.batch,
            "hidden": (self.width, self.width),
            "ensemble": self.ensemble,
        }


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One setting that is varied."""

    about: str
    values: tuple[int, ...]
    seeds: int = 1

    def settings(self, name: str, base: Setting) -> list[Setting]:
        at = replace(base, seeds=max(base.seeds, self.seeds))
        return [replace(at, **{name: v}, precision=p) for v in self.values for p in PRECISIONS]


AXES = {
    "k": Axis(about="actions a state, k", values=(1, 3, 10, 30, 100)),
    "batch": Axis(about="batch size", values=(64, 128, 256, 512, 1024, 2048, 4096)),
    "width": Axis(about="width of the hidden layers", values=(64, 128, 256, 512, 1024)),
    "ensemble": Axis(about="critics", values=(2, 4, 10)),
    "seeds": Axis(about="seeds in one program", values=(1, 2, 4, 8)),
    "rows": Axis(about="rows of the data set", values=(10_000, 100_000, 1_000_000, 2_000_000)),
    "devices": Axis(about="devices, for 4 seeds", values=(1, 2, 4), seeds=4),
}
TINY = {
    "k": (1, 3), "batch": (32, 64), "width": (32, 64), "ensemble": (2, 3), "seeds": (1, 2),
    "rows": (1000, 2000), "devices": (1, 2),
}  # fmt: skip
SMALL = Setting(k=2, batch=32, width=32, rows=1000)
"""What `--tiny` varies around: to see that everything runs."""

# --- Measured ----------------------------------------------------------------


def axes_of(tiny: bool) -> tuple[dict[str, Axis], Setting]:
    """The axes, and the setting from which each of them departs."""
    if not tiny:
        return AXES, Setting()
    return {name: replace(axis, values=TINY[name]) for name, axis in AXES.items()}, SMALL


def measure(settings: Iterable[Setting], cells: Path, seconds: float) -> None:
    """A process and a file each; what is on disk is kept, what failed is tried again."""
    cells.mkdir(parents=True, exist_ok=True)
    for setting in dict.fromkeys(settings):
        file = cells / f"{setting.name}.json"
        if file.exists() and "speed" in read_json(file):
            continue
        command = [sys.executable, __file__, "one", json.dumps(dataclasses.asdict(setting)), str(seconds)]
        flags = f"--xla_force_host_platform_device_count={setting.devices}"
        environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        cell: dict[str, Any] = {"setting": dataclasses.asdict(setting), "versions": versions()}
        if done.returncode:
            cell["error"] = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        else:
            cell["speed"] = json.loads(done.stdout.splitlines()[-1])
        write_json(file, cell)
        print(setting.name, cell.get("error") or f"{cell['speed']['updates_per_second']:.1f}/s", flush=True)


def one(setting: Setting, seconds: float) -> dict[str, Any]:
    from leashrl.bench import bench

    return bench(
        "misa", seeds=setting.seeds, options=setting.options, seconds=seconds, rows=setting.rows
    ).to_json()


# --- Counted -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one update of one seed takes."""

    product_flop: float
    """Of all matrix products, counted in the traced program."""
    by_hand: float
    """The same from the sizes: `products`."""
    xla_flop: float
    """XLA's count of the compiled update."""
    xla_bytes: float
    """What XLA's fused loops and products read and write, nothing kept in a cache."""
    least_bytes: float
    """From the sizes: `traffic`."""
    kernels: int
    """Fused loops, products and other instructions of the compiled program."""


def products(s: Setting) -> float:
    """Floating-point operations of an update's matrix products, counted by hand.

    Policy: forward on s and s', and in its loss forward and backward. Critics: forward on s' and k actions;
    forward and backward on the data's and the resampled actions; forward on the policy's action, and backward
    to it. XLA's own count is a little lower: it runs the policy on s once.

    >>> products(Setting()) / 1e9
    1.485
    """
    w, m = s.width, RESAMPLED + 1
    state = OBS * w
    policy = state + w * w + w * 2 * ACTION
    inner = w * w + w  # where slopes go back through
    pair = ACTION * w + inner
    of_policy = 2 * policy + policy + (2 * policy - state)
    forward = (state + pair) + (state + s.k * pair)
    learning = (state + m * pair) + (state + m * pair) + m * inner
    improving = (state + pair) + pair
    return 2.0 * s.batch * (of_policy + s.ensemble * (forward + learning + improving))


def traffic(s: Setting) -> float:
    """Bytes that must move at least: parameters, moments, gradients, targets, hidden units, the batch.

    A parameter's value, gradient and two moments are read and written once, a target's value too. Hidden
    units are written and read forward; where there is a backward pass, read again, their slopes written and
    read. They are of the precision's size, all else is float32. Kernels are taken to stay in a cache.
    """
    w, m = s.width, RESAMPLED + 1
    policy = (OBS + 1) * w + (w + 1) * w + (w + 1) * 2 * ACTION + 2
    critics = s.ensemble * ((OBS + ACTION + 1) * w + (w + 1) * w + w + 1)
    forward = 2 * s.batch + s.ensemble * s.batch * (1 + s.k)
    backward = s.batch + s.ensemble * s.batch * (m + 1)
    units = 2 * w * (2 * forward + 5 * backward) * (2 if s.precision == "bfloat16" else 4)
    return 4.0 * (8 * (policy + critics) + 2 * critics + s.batch * (2 * OBS + ACTION + 2)) + units


def count(setting: Setting) -> Cost:
    """Compile one update of one seed in one piece, as a GPU runs it, and count."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from leashrl.algos import REGISTRY
    from leashrl.bench import matmul_flop, needed, random_data
    from leashrl.core import hyper, override
    from leashrl.ops import blocks
    from leashrl.types import Box, Spec

    entry = REGISTRY["misa"]
    config = override(entry.config(), dict(entry.presets["default"].values) | setting.options)
    built = entry.build(config, Spec(OBS, Box((-1.0,) * ACTION, (1.0,) * ACTION)))
    stage, data = built.stages[0], random_data(OBS, ACTION, entry.view, setting.rows)
    state = jax.eval_shape(built.init, jax.random.key(0), hyper(config))

    def update(data: Any, state: Any, key: Any) -> Any:
        return stage.update(state, stage.sample(data, state, key), key, jnp.int32(0))

    # XLA counts a loop's body once, and a CPU walks through actions in blocks.
    with mock.patch.object(blocks, "BLOCK_ROWS", np.inf):
        args = (data, state, jax.random.key(0))
        flop = matmul_flop(needed(jax.make_jaxpr(update)(*args).jaxpr))
        compiled = jax.jit(update).lower(*args).compile()
    known: Any = compiled.cost_analysis()
    return Cost(
        product_flop=flop,
        by_hand=products(setting),
        xla_flop=float(known["flops"]),
        xla_bytes=float(known["bytes accessed"]),
        least_bytes=traffic(setting),
        kernels=kernels(str(compiled.as_text())),
    )


FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "call", "reshape", "iota"}


def kernels(hlo: str) -> int:
    """Instructions of a compiled program's main part that compute or move something.

    >>> kernels("ENTRY %main {\\n %a = f32[2] parameter(0)\\n ROOT %b = f32[2]{0} add(%a, %a)\\n}")
    1
    """
    main = hlo[hlo.index("ENTRY") :].split("\n}")[0]
    names = re.findall(r"^\s*(?:ROOT )?%?[\w.-]+ = .*? ([a-z][\w-]*)\(", main, flags=re.MULTILINE)
    return sum(name not in FREE for name in names)


# --- Computed for other machines ---------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Published rates: operations per second by precision, bytes per second, seconds a launched kernel."""

    about: str
    float32: float
    bfloat16: float
    bandwidth: float
    launch: float
    devices: int
    source: str

    def seconds(self, cost: Cost, precision: str, seeds: int = 1) -> tuple[float, float, float]:
        """Of products, memory and launches: an update of all seeds takes the longest of them at least."""
        each = -(-seeds // self.devices)
        rate = getattr(self, precision)
        return (
            each * cost.product_flop / rate,
            each * cost.least_bytes / self.bandwidth,
            cost.kernels * self.launch,
        )


NVIDIA_LAUNCH = 3.8e-6
"""Gray, "Getting started with CUDA graphs", NVIDIA's blog 2019: a short kernel launched without waiting."""
MACHINES = {
    "laptop": Machine(
        about="a laptop with 8 cores (AMD Ryzen 7 7840U)",
        float32=8 * 3.3e9 * 32,
        bfloat16=8 * 3.3e9 * 64,
        bandwidth=89.6e9,
        launch=0.0,
        devices=1,
        source="8 cores at 3.3 GHz and two channels of DDR5-5600 (AMD's product page); 32 float32 and, by "
        "AVX-512's bfloat16 products, 64 bfloat16 operations per cycle and core (AMD's optimisation guide "
        "for Zen 4, 57647)",
    ),
    "server": Machine(
        about="a server with 64 cores and AMX (Intel Xeon Platinum 8592+)",
        float32=64 * 1.9e9 * 64,
        bfloat16=64 * 1.9e9 * 1024,
        bandwidth=358.4e9,
        launch=0.0,
        devices=1,
        source="64 cores at 1.9 GHz and eight channels of DDR5-5600 (Intel's product page); 64 float32 "
        "operations per cycle and core by AVX-512, 1,024 bfloat16 by AMX (Intel's optimisation manual)",
    ),
    "a100": Machine(
        about="one A100 (SXM, 80 GB)",
        float32=156e12,
        bfloat16=312e12,
        bandwidth=2.039e12,
        launch=NVIDIA_LAUNCH,
        devices=1,
        source="NVIDIA's A100 data sheet, without sparsity; float32 products are TF32, as JAX has them there",
    ),
    "h100": Machine(
        about="one H100 (SXM, 80 GB)",
        float32=494.7e12,
        bfloat16=989.4e12,
        bandwidth=3.35e12,
        launch=NVIDIA_LAUNCH,
        devices=1,
        source="NVIDIA's H100 data sheet, without sparsity; float32 products are TF32, as JAX has them there",
    ),
}
MACHINES["h100s"] = replace(
    MACHINES["h100"],
    about="eight H100",
    devices=8,
    source="eight times one H100: seeds never talk to one another",
)
TOGETHER = (1, 8, 64, 512)
"""Seeds in one program, of which the page computes."""

# --- The page ----------------------------------------------------------------


def found(cells: Path) -> dict[Setting, dict[str, Any]]:
    """All cells that were measured."""
    every = (read_json(file) for file in sorted(cells.glob("*.json")))
    return {Setting(**cell["setting"]): cell["speed"] for cell in every if "speed" in cell}


def measured(cells: dict[Setting, dict[str, Any]], axes: dict[str, Axis], base: Setting) -> list[str]:
    """A table an axis."""
    if not cells:
        return ["Not measured yet: `python benchmarks/growth.py measure`, then `page`."]
    lines = []
    for name, axis in axes.items():
        rows = [s for s in axis.settings(name, base) if s in cells]
        if not rows:
            continue
        lines += [f"| {axis.about} | " + " | ".join(f"{p}, updates/s" for p in PRECISIONS) + " | ratio |"]
        lines += ["|--:|--:|--:|--:|"]
        for value in dict.fromkeys(getattr(s, name) for s in rows):
            speeds = [
                cells.get(replace(s, precision=p), {}).get("updates_per_second")
                for s in [next(s for s in rows if getattr(s, name) == value)]
                for p in PRECISIONS
            ]
            shown = [f"{x:.1f}" if x else "" for x in speeds]
            first, second = speeds
            ratio = f"{second / first:.2f}" if first and second else ""
            lines.append(f"| {value:,} | {' | '.join(shown)} | {ratio} |")
        lines.append("")
    speed = next(iter(cells.values()))
    rates = {s.precision: cell["matmul_gflops"] for s, cell in cells.items()}
    rates = ", ".join(f"{rates[p]:.0f} GFLOP/s in {p}" for p in PRECISIONS if p in rates)
    return [*lines, f"Device: {speed['device']}, jax {speed['jax']}; its best products: {rates}."]


def counted(costs: dict[str, Cost]) -> list[str]:
    head = "| | " + " | ".join(costs) + " |"
    rows = {
        "GFLOP of products, by the traced program": [f"{c.product_flop / 1e9:.3f}" for c in costs.values()],
        "the same, by hand": [f"{c.by_hand / 1e9:.3f}" for c in costs.values()],
        "GFLOP of everything, by XLA": [f"{c.xla_flop / 1e9:.3f}" for c in costs.values()],
        "MB read and written, by XLA": [f"{c.xla_bytes / 1e6:.0f}" for c in costs.values()],
        "MB at least, by hand": [f"{c.least_bytes / 1e6:.0f}" for c in costs.values()],
        "kernels": [str(c.kernels) for c in costs.values()],
    }
    return [head, "|---|--:|--:|", *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())]


def computed(costs: dict[str, Cost]) -> list[str]:
    """What the rates allow: the longest of products, memory and launches, by machine."""
    head = ["machine", "precision", "products, ms", "memory, ms", "launches, ms"]
    head += [f"{n} seeds: member updates/s at most" if n > 1 else "updates/s at most" for n in TOGETHER]
    lines = [f"| {' | '.join(head)} |", "|---|---|" + "--:|" * (len(head) - 2)]
    for machine in MACHINES.values():
        for precision, cost in costs.items():
            parts = machine.seconds(cost, precision)
            most = [n / max(machine.seconds(cost, precision, n)) for n in TOGETHER]
            cells = [
                machine.about,
                precision,
                *(f"{1e3 * t:.3f}" for t in parts),
                *(f"{x:,.0f}" for x in most),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Computed, not measured, from published rates:", ""]
    return lines + [f"- {machine.about}: {machine.source}." for machine in MACHINES.values()]


def advice(costs: dict[str, Cost]) -> list[str]:
    """What bounds each machine, and from how many seeds on launches no longer do."""
    lines = [
        "| machine | precision | what bounds one seed | seeds until launches no longer do |",
        "|---|---|---|--:|",
    ]
    names = ("products", "memory", "launches")
    for machine in MACHINES.values():
        for precision, cost in costs.items():
            parts = machine.seconds(cost, precision)
            bound = names[parts.index(max(parts))]
            enough = machine.devices * max(1, -(-parts[2] // max(parts[:2])))
            lines.append(f"| {machine.about} | {precision} | {bound} | {enough:.0f} |")
    return lines


def picture(cells: dict[Setting, dict[str, Any]], axes: dict[str, Axis], base: Setting, file: Path) -> None:
    """Updates per second along each axis, a panel each."""
    figure = need_matplotlib()(figsize=(11, 5.4), layout="constrained")
    panels = figure.subplots(2, 4, sharey=True).ravel()
    begun = {name: axis for name, axis in axes.items() if any(s in cells for s in axis.settings(name, base))}
    for panel, (name, axis) in zip(panels, begun.items(), strict=False):
        for precision, colour in zip(PRECISIONS, COLOURS, strict=False):
            rows = [s for s in axis.settings(name, base) if s.precision == precision and s in cells]
            x, y = [getattr(s, name) for s in rows], [cells[s]["updates_per_second"] for s in rows]
            ends = [cells[s]["slowest_and_fastest"] for s in rows]
            error = [[max(0.0, m - e[0]) for m, e in zip(y, ends, strict=True)],
                     [max(0.0, e[1] - m) for m, e in zip(y, ends, strict=True)]]  # fmt: skip
            panel.errorbar(x, y, yerr=error, marker="o", markersize=4, color=colour, label=precision)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_title(axis.about, loc="left", fontsize=9.5, color=INK)
        panel.set_xticks(axis.values, [short(v) for v in axis.values])
        panel.yaxis.set_major_formatter("{x:g}")
        dress(panel)
        panel.tick_params(axis="x", labelsize=7)
    for panel in panels[len(begun) :]:
        panel.set_visible(False)
    for panel in panels[::4]:
        panel.set_ylabel("updates per second", color=INK, fontsize=9)
    legend_below(figure, panels[0])
    save(figure, file)


def short(value: int) -> str:
    """
    >>> short(256), short(100_000), short(2_000_000)
    ('256', '100k', '2M')
    """
    for size, unit in ((1_000_000, "M"), (1000, "k")):
        if value >= 10 * 1000 and value % size == 0:
            return f"{value // size}{unit}"
    return str(value)


def page(cells_at: Path, docs: Path, results: Path, tiny: bool) -> None:
    """The pictures, and the tables in sections that `docs/speed.md` includes."""
    (axes, base), cells = axes_of(tiny), found(cells_at)
    costs = {p: Cost(**c) for p, c in read_json(results.with_suffix(".json"))["costs"].items()}
    shown = measured(cells, axes, base)
    if cells:
        picture(cells, axes, base, docs / "speed.png")
        about = "Updates per second against each setting, on logarithmic axes"
        shown = [f"![{about}](speed.png)", "", *shown]
    sections = {
        "measured": shown,
        "counted": counted(costs),
        "computed": computed(costs),
        "advice": advice(costs),
    }
    text = [
        line
        for name, lines in sections.items()
        for line in (f"<!-- --8<-- [start:{name}] -->", *lines, f"<!-- --8<-- [end:{name}] -->", "")
    ]
    results.with_suffix(".md").write_text("\n".join(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("do", choices=("measure", "count", "page", "one"), help="`one` is a cell's process")
    parser.add_argument("cell", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", choices=AXES)
    parser.add_argument("--seconds", type=float, default=10.0, help="of timing, a cell")
    parser.add_argument("--tiny", action="store_true", help="small sizes: to see that it runs")
    parser.add_argument("--cells", type=Path, default=Path("benchmarks/results/growth"), metavar="DIR")
    parser.add_argument("--docs", type=Path, default=Path("docs"), metavar="DIR")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/growth"), metavar="PREFIX")
    args = parser.parse_args()
    if args.do == "one":
        print(json.dumps(one(Setting(**json.loads(args.cell[0])), float(args.cell[1]))))
    elif args.do == "measure":
        axes, base = axes_of(args.tiny)
        settings = [s for name in args.only or axes for s in axes[name].settings(name, base)]
        measure(settings, args.cells, args.seconds)
    elif args.do == "count":
        costs = {p: dataclasses.asdict(count(Setting(precision=p))) for p in PRECISIONS}
        write_json(args.results.with_suffix(".json"), {"versions": versions(), "costs": costs})
        print(json.dumps(costs, indent=1))
    else:
        page(args.cells, args.docs, args.results, args.tiny)


if __name__ == "__main__":
    main()
