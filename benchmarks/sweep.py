"""A sweep of 24 trials on Ray, its driver killed once and one run's worker twice; and one by one instead.

    python benchmarks/sweep.py [--steps 2000] [--rounds 3] [--json]

24 trials: behaviour cloning and TD3+BC on pendulum-medium, two widths, two learning rates, three seeds. They
fold into four runs of six members. Three ways are timed, each in fresh processes and folders, with compiled
programs on disk, as they are from the second use of leashrl on (round 0 puts them there, and is not counted):

  swept      `leashrl sweep`, folded, by Ray with as many workers as there are cores
  disturbed  the same; a worker is killed (SIGKILL) twice in the same run, then the driver once, and the same
             command is given again: the time of both commands together
  one by one 24 times `leashrl train ... --seeds I,`

Exit status 1 unless every sweep ends with 24 results, none twice, none lost, and the same numbers each time.
"""

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

LEASHRL = [sys.executable, "-m", "leashrl"]
RATES, WIDTHS, SEEDS = (1e-3, 3e-4), ("32", "64,64"), (0, 1, 2)
SPEC = """
algorithms = ["bc", "td3-bc"]
data = "data.hdf5"
task = "pendulum"
seeds = 3
steps = {steps}
log_every = {log_every}
episodes = 5

[grid]
policy_rate = [1e-3, 3e-4]
hidden = [[32], [64, 64]]

[ray]
retries = 2
"""


def sweep_alone(home: Path, out: str) -> float:
    began = time.perf_counter()
    subprocess.run([*LEASHRL, "sweep", "s.toml", "--out", out], cwd=home, check=True, capture_output=True)
    return time.perf_counter() - began


def sweep_disturbed(home: Path, out: str) -> float:
    """Both commands' wall time, without what lies between them."""
    command = [*LEASHRL, "sweep", "s.toml", "--out", out]
    began = time.perf_counter()
    driver = subprocess.Popen(command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(driver, (home / out / "sweep.json").exists)
    book = json.loads((home / out / "sweep.json").read_text())
    run, killed = home / out / "runs" / book["runs"][0]["name"], []
    for _ in range(2):
        killed.append(wait_for(driver, lambda: (run / "checkpoint").exists() and holder(run)))
        os.kill(killed[-1], signal.SIGKILL)
        wait_for(driver, lambda: holder(run) not in (None, killed[-1]))
    driver.kill()
    driver.wait()
    took = time.perf_counter() - began
    left = json.loads((home / out / "sweep.json").read_text())
    assert any(row["status"] == "waiting" for row in left["trials"]), "the driver was killed too late"
    return took + sweep_alone(home, out)


def one_by_one(home: Path, out: str, steps: int, rates=RATES, seeds=SEEDS) -> float:
    began = time.perf_counter()
    for algorithm, width, rate, seed in itertools.product(("bc", "td3-bc"), WIDTHS, rates, seeds):
        name = f"{out}/{algorithm}-{width}-{rate:g}-{seed}"
        command = ["train", algorithm, "--data", "data.hdf5", "--task", "pendulum", "--out", name]
        command += ["--seeds", f"{seed},", "--steps", str(steps), "--episodes", "5"]
        command += ["--log-every", str(steps // 20), "--set", f"hidden={width}", f"policy_rate={rate:g}"]
        subprocess.run([*LEASHRL, *command], cwd=home, check=True, capture_output=True)
    return time.perf_counter() - began


# --- Killing -----------------------------------------------------------------


def holder(run: Path) -> int | None:
    """The process that holds a run's lock."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) == str(run / ".lock"):
                return int(link.parts[2])
        except OSError:
            continue
    return None


def wait_for(driver: subprocess.Popen, condition: Callable[[], Any]) -> Any:
    while not (found := condition()):
        assert driver.poll() is None, "the driver ended before its moment"
        time.sleep(0.01)
    return found


# --- What was found ----------------------------------------------------------


def check(home: Path, out: str) -> dict[str, Any]:
    """Whether all 24 trials have one result each, in the sweep's table and in the folders."""
    book = json.loads((home / out / "sweep.json").read_text())
    rows = {row["id"]: row["score"] for row in book["trials"]}
    results = [json.loads(p.read_text()) for p in (home / out / "runs").glob("*/result.json")]
    lines = [
        json.loads(line)
        for p in (home / out / "runs").glob("*/evaluations.jsonl")
        for line in p.read_text().splitlines()
    ]
    last = [row for row in lines if row["step"] == max(r["step"] for r in lines)]
    return {
        "rows": len(book["trials"]),
        "different": len(rows),
        "done": Counter(row["status"] for row in book["trials"])["done"],
        "members": sum(len(result["members"]) for result in results),
        "last_evaluations": len(last),
        "attempts": [run["attempts"] for run in book["runs"]],
        "scores": rows,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    say = lambda text: print(text, file=sys.stderr, flush=True)
    seconds: dict[str, list[float]] = {"swept": [], "disturbed": [], "one by one": []}
    checks = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder).resolve()
        os.environ["LEASHRL_CACHE"] = str(home / "cache")
        make = ["data", "make", "pendulum-medium", "--out", "data.hdf5"]
        subprocess.run([*LEASHRL, *make], cwd=home, check=True, capture_output=True)
        (home / "s.toml").write_text(SPEC.format(steps=args.steps, log_every=args.steps // 20))
        sweep_alone(home, "swept-0")
        one_by_one(home, "alone-0", args.steps, RATES[:1], SEEDS[:1])
        for i in range(1, args.rounds + 1):
            ways = {
                "swept": lambda i=i: sweep_alone(home, f"swept-{i}"),
                "disturbed": lambda i=i: sweep_disturbed(home, f"disturbed-{i}"),
                "one by one": lambda i=i: one_by_one(home, f"alone-{i}", args.steps),
            }
            for name, way in ways.items():
                seconds[name].append(way())
                say(f"round {i}  {name:<10}  {seconds[name][-1]:6.1f} s")
                if name != "one by one":
                    checks.append({"way": name, "round": i} | check(home, f"{name}-{i}"))
    scores = [found.pop("scores") for found in checks]
    whole = all(
        found[what] == 24
        for found in checks
        for what in ("rows", "different", "done", "members", "last_evaluations")
    )
    equal = all(found == scores[0] for found in scores)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        say(f"{name:<10}  median {value:.1f} s")
    say(f"24 results, none twice, none lost: {whole}; the same numbers in all sweeps: {equal}")
    if args.json:
        from leashrl.disk.files import versions

        found = {
            "command": f"python benchmarks/sweep.py --steps {args.steps} --rounds {args.rounds} --json",
            "cores": os.cpu_count(),
            "seconds": seconds,
            "median_seconds": medians,
            "one_by_one_over_swept": medians["one by one"] / medians["swept"],
            "one_by_one_over_disturbed": medians["one by one"] / medians["disturbed"],
            "sweeps": checks,
            "same_numbers": equal,
            "versions": versions("ray", "optuna"),
        }
        print(json.dumps(found, indent=1))
    return 0 if whole and equal else 1


if __name__ == "__main__":
    sys.exit(main())
