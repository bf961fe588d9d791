"""Long runs in the background, over days: a list of sweeps, what they found so far, and what is missing.

    python benchmarks/campaign.py --out DIR [SPEC.toml ...] [--minutes M]
    python benchmarks/campaign.py --out DIR --collect
    python benchmarks/campaign.py --missing

The specs are those of `leashrl sweep`, by default all of `benchmarks/campaign/`, in the order of their names.
Ctrl-C or a kill at any time loses at most ten seconds: the same command goes on. One process a core, low
priority. A *cell* is an algorithm on a data set, all its seeds. Whenever a run ends, and at the end, what the
folders hold is written to `--results`, a small JSON a cell, unfinished runs too, and a page of them all.
"""

import argparse
import os
import signal
import statistics
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from leashrl.data import load
from leashrl.disk.files import read_json, write_atomically, write_json
from leashrl.disk.folder import RunFolder, rows_of
from leashrl.evaluate.statistics import mean_interval
from leashrl.papers.printed import printed
from leashrl.sweep.driver import sweep
from leashrl.sweep.spec import Spec, read_spec

HERE = Path(__file__).parent
SPECS, RESULTS = HERE / "campaign", HERE / "results" / "campaign"
RATES = HERE / "results" / "speed-precision.json"
PRINTED = {
    **{"bc": "BC", "bc-10": "10%BC", "dt": "DT", "awac": "AWAC", "onestep": "OneStep RL"},
    **{"td3-bc": "TD3+BC", "cql": "CQL", "iql": "IQL", "misa": "MISA"},
}
"""The columns of MISA's table 2."""


class Cell(NamedTuple):
    """An algorithm on a data set."""

    spec: Spec
    label: str
    data: str

    @property
    def file(self) -> str:
        return f"{self.data}--{self.label.replace(':', '-')}.json"

    @property
    def steps(self) -> int:
        return self.spec.train["steps"]


def cells(specs: list[Path]) -> Iterator[Cell]:
    for path in specs:
        spec = read_spec(path)
        yield from (Cell(spec, label, data) for label in spec.labels for data in spec.data if data)


# --- Running -----------------------------------------------------------------


def carry_out(specs: list[Path], out: Path, results: Path, workers: int | None) -> None:
    """One sweep after another; Ctrl-C ends it, and the results so far are written."""

    def report(event: str, details: dict[str, Any]) -> None:
        if event in ("end", "failed"):
            print(f"{event}: {details['run']['name']}", flush=True)
            collect(specs, out, results)

    os.nice(10)
    try:
        for spec in specs:
            for data in filter(None, read_spec(spec).data):
                print(f"{spec.stem}: {data}", flush=True)
                load(data)  # a recipe is made here, in minutes: a sweep would say nothing meanwhile
            sweep(spec, out=out / spec.stem, workers=workers, report=report)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", flush=True)
    collect(specs, out, results)


# --- What was found ----------------------------------------------------------


def collect(specs: list[Path], out: Path, results: Path) -> None:
    results.mkdir(parents=True, exist_ok=True)
    for cell in cells(specs):
        found = found_of(cell, out)
        if found["seeds"]:
            write_json(results / cell.file, found)
    write_atomically(results.with_suffix(".md"), page(specs, results).encode())


def found_of(cell: Cell, out: Path) -> dict[str, Any]:
    """Every evaluation of every seed, from the folders of the runs that hold them."""
    book = out / cell.spec.path.stem / "sweep.json"
    rows = read_json(book)["trials"] if book.exists() else []
    seeds, about = {}, {}
    for trial in rows:
        files = RunFolder(book.parent / "runs" / trial["run"])
        if (trial["algorithm"], trial["data"]) != (cell.label, cell.data) or not files.begun:
            continue
        plan = files.config()
        member = next(member for member in plan["members"] if member["seed"] == trial["seed"])
        curve = [
            {name: row[name] for name in ("step", "score", "return")}
            for row in rows_of(member, files.evaluations())
        ]
        if curve:
            seeds[str(trial["seed"])] = {"status": trial["status"], "evaluations": curve}
        data = {name: plan["data"][name] for name in ("name", "hash", "rows")}
        about = {"task": plan["task"], "data": data, "episodes": plan["episodes"]}
        about |= {"config": plan["config"], "versions": plan["versions"]}
    return {"run": cell.label, "recipe": cell.data, "steps": cell.steps, "seeds": seeds} | about


def finals(found: dict[str, Any]) -> list[float]:
    """The scores at the last update of the seeds that are done."""
    last = [seed["evaluations"][-1] for seed in found["seeds"].values()]
    return [row["score"] for row in last if row["step"] == found["steps"]]


def missing(specs: list[Path], results: Path) -> list[Cell]:
    """The cells of which a seed is not done."""
    found = lambda cell: read_json(results / cell.file) if (results / cell.file).exists() else {"seeds": {}}
    return [
        cell
        for cell in cells(specs)
        if len(finals(found(cell) | {"steps": cell.steps})) < len(cell.spec.seeds)
    ]


def hours(cell: Cell) -> float | None:
    """Of all seeds of a cell on this machine's two cores, by the updates per second of `speed.py`."""
    case = next((row for row in read_json(RATES)["rows"] if row["case"] == cell.label), None)
    if case is None:
        return None
    rate = statistics.median(one["updates_per_second"] for one in case["bfloat16"] or case["float32"])
    return cell.steps * len(cell.spec.seeds) / rate / 3600


# --- The page ----------------------------------------------------------------


def page(specs: list[Path], results: Path) -> str:
    everything = list(cells(specs))
    lines = [
        "# Scores after long training, on recipes of ours",
        "",
        "Made by `python benchmarks/campaign.py`, which says how to fill it. The last checkpoint's score,",
        "mean over seeds with Student's 95 % interval; three seeds prove little. Printed: Ma et al. 2023,",
        "table 2, after a million updates **on D4RL's files, which these are not**: our recipes are rolled",
        "from other policies, so that no row can be compared with a printed one as it stands.",
    ]
    for data in dict.fromkeys(cell.data for cell in everything):
        files = {cell.label: results / cell.file for cell in everything if cell.data == data}
        there = {label: read_json(file) for label, file in files.items() if file.exists()}
        rows = [row(label, found, data) for label, found in there.items() if finals(found)]
        if rows:
            head = [
                "| run | score | 95 % interval | each seed | updates | printed |",
                "|---|--:|--:|--:|--:|--:|",
            ]
            lines += ["", f"## {data}", "", *head, *rows]
    left = missing(specs, results)
    if left:
        lines += ["", "## Not there yet", "", "Fill them by these commands, in the order of the specs.", ""]
        lines += ["| run | data | hours | command |", "|---|---|--:|---|", *map(left_row, left)]
    return "\n".join([*lines, ""])


def row(label: str, found: dict[str, Any], data: str) -> str:
    scores = finals(found)
    interval = mean_interval(scores) if len(scores) > 1 else None
    between = f"{interval[0]:.1f} to {interval[1]:.1f}" if interval else "-"
    table, name = printed("misa", "table", "2"), f"{data}-v2"
    column = PRINTED.get(label.partition(":")[0])
    known = column is not None and name in table.rows
    paper = f"{table.rows[name][table.columns.index(column)]:.1f}" if known else "-"
    each = ", ".join(f"{score:.1f}" for score in scores)
    return (
        f"| `{label}` | {statistics.mean(scores):.1f} | {between} | {each} | {found['steps']:,} | {paper} |"
    )


def left_row(cell: Cell) -> str:
    expected = hours(cell)
    command = f"python benchmarks/campaign.py --out DIR benchmarks/campaign/{cell.spec.path.name}"
    return (
        f"| `{cell.label}` | {cell.data} | {'?' if expected is None else f'{expected:.2f}'} | `{command}` |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("specs", nargs="*", type=Path, help="of sweeps; all of benchmarks/campaign/")
    parser.add_argument("--out", type=Path, help="folder of the sweeps")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of the cells; its .md is the page"
    )
    parser.add_argument("--workers", type=int, help="processes; one a core")
    parser.add_argument("--minutes", type=float, help="stop after so long, resumably")
    parser.add_argument("--collect", action="store_true", help="train nothing, read what is there")
    parser.add_argument("--missing", action="store_true", help="name the cells that are not there, and stop")
    args = parser.parse_args()
    specs = args.specs or sorted(SPECS.glob("*.toml"))
    if args.missing:
        for cell in missing(specs, args.results):
            print(left_row(cell))
        return
    if args.out is None:
        parser.error("--out is needed")
    if args.collect:
        collect(specs, args.out, args.results)
        return
    if args.minutes:  # the same as a Ctrl-C: checkpoints, then out
        threading.Timer(60 * args.minutes, os.kill, (os.getpid(), signal.SIGINT)).start()
    carry_out(specs, args.out, args.results, args.workers)
    os._exit(0)  # the timer, if any, must not hold us


if __name__ == "__main__":
    main()
