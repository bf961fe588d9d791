"""Kill -9 a run at random moments, resume it, compare its bits with those of a run that was never stopped.

    python benchmarks/kill_resume.py [--moments 20] [--algorithm misa] [--precision bfloat16] [--online]

Each run is killed twice, the second time while it is resumed, and then left to end. The moments lie in random
phases: while it starts, compiles, trains, writes a checkpoint or evaluates. What its folder showed just
before the kill is printed beside. Exit status 1 if anything differs.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

STEPS = 3000
EVERY = 600  # updates an evaluation; each is followed by a checkpoint
HIDDEN = {"float32": "8", "bfloat16": "32,32"}
"""Layers of each precision: bfloat16 rounds no narrower ones."""


def command(algorithm: str, online: bool, precision: str, out: str) -> list[str]:
    options = [f"hidden={HIDDEN[precision]}", "batch_size=16", f"precision={precision}"]
    return [
        *(sys.executable, "-m", "leashrl", "train", algorithm, "--task", "pendulum"),
        *(() if online else ("--data", "data.hdf5")),
        *("--seeds", "2", "--steps", str(STEPS), "--set", *options, "--out", out),
        *("--episodes", "1", "--eval-every", str(EVERY), "--log-every", "100"),
    ]


def digest(run: Path) -> str:
    """SHA-256 over metrics, episodes, evaluations, result, policies, and the last checkpoint's arrays."""
    last = max((run / "checkpoint").glob("step-*")) / "arrays.safetensors"
    files = [run / "metrics.jsonl", run / "evaluations.jsonl", run / "result.json", last]
    files += sorted((run / "policy").iterdir())
    files += [path for path in [run / "episodes.jsonl"] if path.exists()]
    both = hashlib.sha256()
    for file in files:
        both.update(f"{file.relative_to(run)}\n".encode() + hashlib.sha256(file.read_bytes()).digest())
    return both.hexdigest()


# --- Moments -----------------------------------------------------------------


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def newest(run: Path) -> int:
    return max((int(p.name[5:]) for p in (run / "checkpoint").glob("step-*")), default=-1)


def writing(run: Path) -> bool:
    return any((run / "checkpoint").glob(".writing-*"))


def evaluating(run: Path) -> bool:
    """The log has reached an evaluation's step, and the checkpoint after it is not there."""
    done = lines(run / "metrics.jsonl") // 2 * 100
    return done > 0 and done % EVERY == 0 and newest(run) < done


PHASES = {"start": 2.0, "compile": 1.0, "train": 0.1, "checkpoint": 0.0, "evaluate": 0.1}
"""The longest random wait after each phase was reached, in seconds."""


def reached(phase: str, run: Path, at: int) -> bool:
    """Whether the run is in that phase, beyond update `at`."""
    if phase == "start":
        return True
    if phase == "compile":
        return (run / "config.json").exists()
    if phase == "train":
        return lines(run / "metrics.jsonl") // 2 * 100 > at
    return newest(run) >= at and (writing(run) if phase == "checkpoint" else evaluating(run))


def shows(run: Path) -> str:
    """What the folder says of the moment."""
    if not (run / "config.json").exists():
        return "before the plan"
    if writing(run):
        return "writing a checkpoint"
    if newest(run) < 0 or not lines(run / "metrics.jsonl"):
        return "compiling"
    return "evaluating" if evaluating(run) else "training"


def kill_once(argv: list[str], run: Path, phase: str, rng: random.Random) -> dict[str, Any]:
    """Start, wait for the moment, kill. `killed` is false where the run was through before."""
    at, wait = rng.choice([-1, *range(0, STEPS - EVERY, EVERY)]), rng.uniform(0, PHASES[phase])
    process = subprocess.Popen(argv, cwd=run.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not reached(phase, run, at):
        time.sleep(0 if phase == "checkpoint" else 0.001)  # a checkpoint is written in some milliseconds
    if wait:
        time.sleep(wait)
    found = shows(run)
    process.kill()
    process.wait()
    return {"phase": phase, "killed": process.returncode == -9, "found": found, "step": max(newest(run), 0)}


# --- The table ---------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill a run at random moments and compare what resumes.")
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--algorithm", default="misa")
    parser.add_argument("--online", action="store_true", help="learn in the environment, without data")
    parser.add_argument("--precision", choices=HIDDEN, default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ["LEASHRL_CACHE"] = str(home / "cache")
        say = lambda text: print(text, file=sys.stderr, flush=True)
        leashrl = [sys.executable, "-m", "leashrl"]
        make = ["data", "make", "pendulum-medium", "--steps", "400", "--out", "data.hdf5"]
        subprocess.run([*leashrl, *make], cwd=home, check=True, capture_output=True)
        start = time.perf_counter()
        asked = partial(command, args.algorithm, args.online, args.precision)
        subprocess.run(asked("whole"), cwd=home, check=True, capture_output=True)
        wanted = digest(home / "whole")
        say(f"uninterrupted: {time.perf_counter() - start:.1f} s, {wanted[:16]}")
        while len(rows) < args.moments:
            name = f"run-{len(rows)}"
            run, argv, mine = home / name, asked(name), []
            for phase in rng.sample(list(PHASES), k=min(2, args.moments - len(rows))):
                mine.append(kill_once(argv, run, phase, rng))
                if (run / "config.json").exists():  # else there is nothing to resume: `train` once more
                    argv = [*leashrl, "resume", name]
            mine = [row for row in mine if row["killed"]]
            process = subprocess.run(argv, cwd=home, capture_output=True, text=True)
            failed = f"status {process.returncode}: {process.stderr}"
            found = failed if process.returncode else digest(run)
            for row in mine:
                row |= {"run": name, "sha256": found, "equal": found == wanted}
                shown = f"{row['phase']:<10}  {row['found']:<20}  step {row['step']:<5}"
                say(f"{name:<6}  {shown}  {found[:16]}  {'equal' if found == wanted else 'DIFFERENT'}")
            rows += mine
            shutil.rmtree(run)
    equal = sum(row["equal"] for row in rows)
    if args.json:
        found = {
            "algorithm": args.algorithm,
            "online": args.online,
            "precision": args.precision,
            "sha256": wanted,
            "equal": equal,
            "moments": rows,
        }
        print(json.dumps(found, indent=1))
    say(f"{equal} of {len(rows)} kills ended with the uninterrupted run's bits")
    return 0 if equal == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
