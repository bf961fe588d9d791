"""Scores on OGBench's tasks beside FQL's printed ones: a JSON for each run, a table and curves of all.

    leashrl train iql --preset ogbench --data cube-single-play-singletask-task2-v0 --seeds 0, --steps 1000000
        --eval-every 50000 --out RUNS/iql-task2-seed0
    python benchmarks/ogbench_scores.py [RUNS/...] [--results benchmarks/results/ogbench]

reads runs, finished or not, and writes what their evaluations found so far to RESULTS/CELL.json; a run that
went on is read anew. Then the table of all cells to RESULTS.md, and their curves. A cell of the table is the
last evaluation of each seed, never the best; its interval is Clopper and Pearson's for all episodes of all
seeds together, which is too narrow where seeds differ: of that two seeds say little.
"""

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leashrl.core import to_json
from leashrl.disk.files import read_json, write_atomically, write_json
from leashrl.evaluate.student import share_interval
from leashrl.papers.printed import printed
from leashrl.papers.protocols import flat
from leashrl.report.plots import COLOURS, need_matplotlib
from leashrl.runs.plan import configure
from leashrl.tasks import ogbench
from leashrl.tasks import task as find_task

RESULTS = Path(__file__).parent / "results" / "ogbench"
COLUMNS = {
    **{("bc", "ogbench"): "BC", ("iql", "ogbench"): "IQL", ("rebrac", "ogbench"): "ReBRAC"},
    **{("ifql", "authors"): "IFQL", ("fql", "authors"): "FQL"},
}


def cell_of(run: Path) -> dict[str, Any]:
    """What a run's evaluations found so far."""
    plan = read_json(run / "config.json")
    lines = (run / "evaluations.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    (member,) = plan["members"]
    curve = [{"step": r["step"], "wins": round(sum(r["returns"])), "of": len(r["returns"])} for r in rows]
    return {
        "algorithm": plan["algorithm"],
        "preset": plan["preset"],
        "task": plan["task"],
        "seed": member["seed"],
        "evaluations": curve,
        "data": {name: plan["data"][name] for name in ("name", "hash", "rows")},
        "config": plan["config"],
        "versions": plan["versions"],
        "run": run.name,
    }


def written(runs: list[Path], results: Path) -> None:
    for run in runs:
        if (run / "evaluations.jsonl").exists() and (run / "evaluations.jsonl").stat().st_size:
            write_json(results / f"{run.name}.json", cell_of(run))
        else:
            print(f"{run}: no evaluation yet")


def label(cell: dict[str, Any]) -> str:
    """`ALGORITHM:PRESET+OPTION=VALUE`, the options that are not the preset's on this task."""
    preset = configure(cell["algorithm"], cell["preset"], find_task(cell["task"]), {}, cell["data"]["name"])
    usual = flat(to_json(preset)) | {"steps": None, "precision": None}
    own = {k: v for k, v in flat(cell["config"]).items() if usual.get(k, v) not in (v, None)}
    return f"{cell['algorithm']}:{cell['preset']}" + "".join(f"+{k}={v}" for k, v in own.items())


def paper(cell: dict[str, Any]) -> str:
    """The printed score and its standard deviation."""
    column, task = COLUMNS.get((cell["algorithm"], cell["preset"])), cell["task"]
    parts = ogbench.parse(task)
    table = printed("fql", "table", "3")
    if parts is not None and parts.task is None:
        task = parts.task_name(ogbench.WORLDS[parts.world].default)
    if column is None or task not in table.rows:
        return ""
    at = table.columns.index(column)
    return f"{table.rows[task][at]:.0f} ± {table.std[task][at]:.0f}"


def grouped(results: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Cells of one task, algorithm and preset, by seed."""
    found = defaultdict(list)
    for file in sorted(results.glob("*.json")):
        cell = read_json(file)
        found[cell["task"], label(cell)].append(cell)
    return {key: sorted(cells, key=lambda cell: cell["seed"]) for key, cells in sorted(found.items())}


def rows(cells: list[dict[str, Any]]) -> Iterator[str]:
    """A row for seeds that went equally far; seeds that went farther have one of their own."""
    for step in sorted({cell["evaluations"][-1]["step"] for cell in cells}):
        yield row([cell for cell in cells if cell["evaluations"][-1]["step"] == step])


def row(cells: list[dict[str, Any]]) -> str:
    """The last evaluation of each seed, all after as many updates."""
    last = [cell["evaluations"][-1] for cell in cells]
    step = last[0]["step"]
    wins, episodes = sum(e["wins"] for e in last), sum(e["of"] for e in last)
    low, high = share_interval(wins, episodes)
    each = ", ".join(f"{100 * e['wins'] / e['of']:.0f}" for e in last)
    mean = statistics.mean(100 * e["wins"] / e["of"] for e in last)
    precision = "/".join(dict.fromkeys(cell["config"]["precision"] for cell in cells))
    return (
        f"| `{label(cells[0])}` | {paper(cells[0])} | {mean:.0f} | {100 * low:.0f} to {100 * high:.0f} | "
        f"{each} | {step:,} | {precision} |"
    )


def markdown(groups: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    lines = [
        "# OGBench: success rates beside FQL's printed ones",
        "",
        "Made by `python benchmarks/ogbench_scores.py`, which says how to read it. Printed: Park et al.",
        "2025, table 3, eight seeds after a million updates. Ours: the last evaluation, 50 episodes a seed,",
        "after as many updates as are in the table, those of pre-training (Fisher-BRC, BRAC+) included, on",
        "data made here by the package's oracles.",
    ]
    for task in dict.fromkeys(task for task, _ in groups):
        lines += [
            "",
            f"## {task}",
            "",
            "| run | printed | success, % | 95 % of episodes | each seed | updates | precision |",
            "|---|---:|---:|---:|---:|---:|---|",
            *(line for (of, _), cells in groups.items() if of == task for line in rows(cells)),
        ]
    return "\n".join([*lines, ""])


def draw(groups: dict[tuple[str, str], list[dict[str, Any]]], path: Path) -> None:
    """Curves of every seed, but of no changed option where the preset itself is there."""
    groups = {
        (of, name): cells
        for (of, name), cells in groups.items()
        if (of, name.partition("+")[0]) not in groups or "+" not in name
    }
    tasks = list(dict.fromkeys(task for task, _ in groups))
    names = list(dict.fromkeys(name for _, name in groups))  # of one colour in all panels
    figure = need_matplotlib()(figsize=(4.2 * len(tasks), 4.2), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        mine = {name: cells for (of, name), cells in groups.items() if of == task}
        for name, cells in mine.items():
            i = names.index(name)
            style = {"color": COLOURS[i % len(COLOURS)], "linestyle": ("-", "--", ":")[i // len(COLOURS) % 3]}
            for n, cell in enumerate(cells):
                points = [
                    (0, 0),
                    *((e["step"] / 1000, 100 * e["wins"] / e["of"]) for e in cell["evaluations"]),
                ]
                axes.plot(*zip(*points, strict=True), label=name if n == 0 else None, linewidth=1.4, **style)
        axes.set_title(task, loc="left", fontsize=8)
        axes.set_xlabel("thousand updates")
        axes.set_ylim(-3, 103)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7, ncol=3, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    figure.axes[0].set_ylabel("success, %")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description="Scores on OGBench's tasks beside FQL's printed ones.")
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    written(options.runs, options.results)
    groups = grouped(options.results)
    text = markdown(groups)
    write_atomically(options.results.with_suffix(".md"), text.encode())
    draw(groups, options.results.with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    main()
