"""Normalised scores of algorithms on data files: trains what is missing, resumes what is not finished.

    python benchmarks/scores.py --data FILE... --runs bc misa:authors misa:paper misa --steps 20000 --out DIR

A run is ALGORITHM[:PRESET][+OPTION=VALUE]..., such as `misa:authors+k=5`; `--set` holds for all. Each (file,
run) trains all seeds in a folder of its own, so that a killed or time-limited call goes on where it stopped
(`--minutes` stops it in time). What is finished is evaluated
once more, on `--episodes` fresh episodes a seed, as the algorithm acts and with sampled actions; the
table, the JSON and one picture of the learning curves per file are written to `--results`.

    python benchmarks/scores.py --restate benchmarks/results/scores-*.json

computes what is derived from the seeds' scores in such JSON again, with today's statistics, and writes JSON,
table and pictures anew. It trains nothing.
"""

import argparse
import json
import os
import platform
import shlex
import signal
import sys
import threading
import time
from pathlib import Path

from leashrl.core import override, to_json
from leashrl.data import load
from leashrl.disk.files import Lines, read_json, versions, write_json
from leashrl.evaluate.statistics import summary
from leashrl.report.plots import curve, draw_points
from leashrl.runs import experiment
from leashrl.runs.events import Evaluated, Event, MemberDiverged
from leashrl.runs.loading import evaluate_run, load_policy
from leashrl.runs.plan import configure
from leashrl.tasks import guess, normalise
from leashrl.tasks import task as find_task

VALUES = ("step", "return", "score", "returns", "lengths")
"""Of a line of evaluations.jsonl, what does not name the member."""
FINAL = {None: "final.json", "sample": "final-sample.json"}  # the algorithm's own way to act, and samples


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--restate", nargs="+", type=Path, help="JSON of earlier calls; see above")
    parser.add_argument("--data", nargs="+", type=Path, default=[])
    parser.add_argument("--runs", nargs="+", default=["bc", "misa:authors", "misa:paper", "misa"])
    parser.add_argument("--out", type=Path, help="folder of the runs")
    parser.add_argument("--results", type=Path, help="prefix of the .json, .md and .png files to write")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--evaluations", type=int, default=5, help="a run, for the learning curve")
    parser.add_argument("--curve-episodes", type=int, default=5, help="a seed, at each of them")
    parser.add_argument("--episodes", type=int, default=30, help="a seed, of the final policies")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], help="options of the Config, NAME=VALUE")
    parser.add_argument("--vary", nargs="*", default=[], help="NAME=V1,V2")
    parser.add_argument("--minutes", type=float, help="stop after so long, resumably")
    args = parser.parse_args()
    if args.restate:
        for file in args.restate:
            restate(file)
        return
    if not args.data or not args.out:
        parser.error("--data and --out are needed, or --restate")
    if args.minutes:  # the same as a Ctrl-C: checkpoint, then out
        threading.Timer(60 * args.minutes, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        for data in args.data:
            for run in args.runs:
                train_one(data, run, args)
        for data in args.data:
            for run in args.runs:
                evaluate_one(folder_of(data, run, args), args.episodes)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", flush=True)
    if args.results:
        write_results(args)
    os._exit(0)  # the timer, if any, must not hold us


def folder_of(data: Path, run: str, args: argparse.Namespace) -> Path:
    """`OUT/DATA--ALGORITHM-PRESET+OPTION=VALUE...`."""
    return args.out / ("+".join([f"{data.stem}--{run.replace(':', '-')}", *args.set]))


def train_one(data: Path, run: str, args: argparse.Namespace) -> None:
    name, *options = run.split("+")
    algorithm, _, preset = name.partition(":")
    preset, options = preset or "default", dict(x.split("=", 1) for x in [*options, *args.set])
    folder = folder_of(data, run, args)
    finished, began = (folder / "result.json").exists(), time.monotonic()

    def report(event: Event) -> None:
        if isinstance(event, Evaluated):
            scores = [round(row["score"], 1) for row in event.rows]
            print(f"{folder.name} {event.step} {scores} {time.monotonic() - began:.0f} s", flush=True)
        elif isinstance(event, MemberDiverged):
            print(f"{folder.name} {event}", flush=True)

    try:
        if (folder / "config.json").exists():
            refuse_another(folder, algorithm, preset, options | {"steps": args.steps})
            experiment.resume(folder, report=report)
            return
        experiment.train(
            algorithm,
            data,
            preset=preset,
            options=options,
            vary={n: [float(v) for v in vs.split(",")] for n, vs in (x.split("=", 1) for x in args.vary)},
            seeds=args.seeds,
            steps=args.steps,
            eval_every=max(1, args.steps // args.evaluations),
            episodes=args.curve_episodes,
            log_every=max(1, min(1000, args.steps // 20)),
            out=folder,
            report=report,
        )
    finally:  # also of a call that is stopped
        if not finished and folder.exists():
            write_json(folder / "wall.json", {"seconds": wall(folder) + time.monotonic() - began})


def wall(folder: Path) -> float:
    """Seconds of a run's training so far, with compilation, pre-training and the curve's episodes."""
    return read_json(folder / "wall.json")["seconds"] if (folder / "wall.json").exists() else 0.0


def refuse_another(folder: Path, algorithm: str, preset: str, options: dict) -> None:
    """Stop where the folder holds a run of other options, such as an earlier default's."""
    found = read_json(folder / "config.json")
    place = find_task(found["task"]) if found["task"] else None
    config = configure(algorithm, preset, place, options, found["data"]["name"])
    wanted = to_json(config)
    there = to_json(override(type(config)(), found["config"]))  # options newer than the run at their defaults
    if other := [name for name, value in there.items() if value != wanted[name]]:
        sys.exit(f"'{folder}' holds a run with another {', '.join(other)}: remove it or choose another --out")


def evaluate_one(folder: Path, episodes: int) -> None:
    """Final policies on fresh episodes, once a mode; kept beside the run."""
    for mode, name in FINAL.items():
        if not (folder / name).exists() and (mode is None or mode in load_policy(folder).modes):
            found = evaluate_run(folder, episodes=episodes, mode=mode)
            write_json(folder / name, found.to_json())
            scores = [round(m.score, 1) for m in found.members if m.score is not None]
            print(f"{folder.name} {mode or 'own'} {scores}", flush=True)


# --- What is written ---------------------------------------------------------


def write_results(args: argparse.Namespace) -> None:
    rows = []
    for data in args.data:
        dataset = load(data)
        task = guess(dataset.name)
        assert task is not None
        level = float(normalise(task, dataset.returns()).mean())
        for run in args.runs:
            folder = folder_of(data, run, args)
            found = {
                mode: [m["score"] for m in read_json(folder / name)["members"]]
                for mode, name in FINAL.items()
                if (folder / name).exists()
            }
            if None not in found:
                continue
            result = read_json(folder / "result.json")
            points = curve([folder])[1]
            rows.append(
                {
                    "data": data.name,
                    "data_mean": level,
                    "run": run,
                    "config": read_json(folder / "config.json")["config"],
                    "steps": result["steps"],
                    "episodes": args.episodes,
                    "minutes": wall(folder) / 60 or None,
                    **derived(found[None], found.get("sample")),
                    "curve": points,
                    "curve_seeds": curve_seeds(folder),
                    "curve_mean": sum(mean for _, mean, _, _ in points) / len(points),
                    "versions": result["versions"],
                }
            )
    about = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": platform.processor() or platform.machine(),
    }
    write(args.results, about | {"versions": versions(), "rows": rows})


def derived(scores: list[float], sampled: list[float] | None) -> dict:
    """The seeds' scores and what follows from them."""
    more = {"scores": sampled, **summary(sampled).to_json()} if sampled else None
    return {"scores": scores, **summary(scores).to_json(), "sampled": more}


def curve_seeds(folder: Path) -> list[list[list[float]]]:
    """(step, score) of each member."""
    members: dict[str, list[list[float]]] = {}
    for row in Lines.read(folder / "evaluations.jsonl"):
        name = json.dumps({k: v for k, v in row.items() if k not in VALUES})
        members.setdefault(name, []).append([row["step"], row["score"]])
    return list(members.values())


def restate(file: Path) -> None:
    """Derived numbers anew. Files older than `curve_seeds` keep the means of their curves alone."""
    found = read_json(file)
    found["restated"] = versions()
    for row in found["rows"]:
        row |= derived(row["scores"], row["sampled"] and row["sampled"]["scores"])
        by_step: dict[int, list[float]] = {}
        for step, score in (point for seed in row.get("curve_seeds", []) for point in seed):
            by_step.setdefault(int(step), []).append(score)
        new = {step: summary(scores) for step, scores in by_step.items()}
        ends = lambda step, new=new: (new[step].low, new[step].high) if step in new else (None, None)
        row["curve"] = [[step, mean, *ends(step)] for step, mean, *_ in row["curve"]]
    write(file.with_suffix(""), found)


def write(results: Path, found: dict) -> None:
    """The JSON, the table, and a picture per data file."""
    rows = found["rows"]
    for data in dict.fromkeys(row["data"] for row in rows):
        mine, stem = [row for row in rows if row["data"] == data], data.removesuffix(".hdf5")
        draw_points(
            {row["run"]: row["curve"] for row in mine},
            results.with_name(f"{results.name}-{stem}.png"),
            f"{stem}, {max(row['n'] for row in mine)} seeds",
            "normalised score",
            levels={"behaviour (the data)": mine[0]["data_mean"]},
        )
    lines = [
        "| data | its mean | algorithm | updates + pre-training | score | 95 % interval | seeds "
        "| mean of the curve | actions sampled | minutes |",
        "|" + " --- |" * 10,
    ]
    lines += [
        f"| {r['data']} | {r['data_mean']:.1f} | {r['run']} | {updates(r)} | {r['mean']:.1f} "
        f"| {ends_of(r)} | {', '.join(f'{s:.1f}' for s in r['scores'])} "
        f"| {r['curve_mean']:.1f} | {interval(r['sampled'])} | {minutes(r)} |"
        for r in rows
    ]
    results.with_suffix(".md").write_text("\n".join(lines) + "\n")
    write_json(results.with_suffix(".json"), found)
    print(json.dumps({"rows": len(rows)}), "\n" + "\n".join(lines), flush=True)


def updates(row: dict) -> str:
    steps = row["config"]["steps"] if "config" in row else row["steps"]
    return f"{steps:,} + {row['steps'] - steps:,}" if row["steps"] > steps else f"{steps:,}"


def minutes(row: dict) -> str:
    return f"{row['minutes']:.1f}" if row.get("minutes") else "–"  # of a run older than `wall.json`: unknown


def ends_of(found: dict) -> str:
    return "–" if found["low"] is None else f"{found['low']:.1f} to {found['high']:.1f}"


def interval(found: dict | None) -> str:
    """`20.0 (10.0 to 30.0)`; of one seed the mean alone."""
    if found is None:
        return "–"
    return f"{found['mean']:.1f}" + (f" ({ends_of(found)})" if found["low"] is not None else "")


if __name__ == "__main__":
    main()
