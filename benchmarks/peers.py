"""Other implementations' own training steps timed beside ours, in turn, on this machine.

    python benchmarks/peers.py FOLDER --results benchmarks/results/peers [--only NAME...] [--times 2]

FOLDER is outside of the repository and holds checkouts of unifloral and JAX-CORL and a `harness.py` of your
own: nothing of theirs is here. `python FOLDER/harness.py CASE` imports their file with its data and logging
modules stubbed, times their train step as they call it and with their networks, batch 256, hopper's shapes
(11, 3), 100,000 rows of noise, after compilation, the median of five rounds of two seconds, and prints one
JSON document:

    implementation, algorithm, commit   whose it is, and which version
    work, shape                         what one of their steps holds; how many of them a call holds
    updates_per_second                  gradient steps of the critics: a step of theirs may hold two
    cpu_ms_per_update                   by `time.process_time`, all threads together
    gflop_per_update                    matrix products, counted in the compiled program
    versions                            of the packages that it ran with

Ours is `leashrl bench` with the options nearest to the same work, in float32 and in bfloat16. Each case runs
theirs, float32, bfloat16, and the same again, each in a process of its own. On a shared machine run it when
nothing else does; CPU time suffers less than the clock does.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import leashrl
from leashrl.disk.files import versions, write_atomically, write_json
from leashrl.errors import BadInput

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Case:
    theirs: str
    """The harness's name of it."""
    ours: tuple[str, ...]
    """Arguments of `leashrl bench`, without the precision."""
    differs: str
    """What is left of a difference in work."""


TWO_BATCHES = "ours draws a batch for each step of the critics, theirs one for two"
DEEP = ("hidden=256,256,256", "ensemble=10", "k=1", "resample=0", "form=rho", "backup_entropy=true")
CASES = {
    "iql, unifloral": Case(
        "unifloral_iql", ("iql", "--set", "fresh_value=false"), "none: both take the advantage from one pass"
    ),
    "iql, unifloral, ours as by default": Case(
        "unifloral_iql", ("iql",), "ours asks the value once more, after its step, as the authors' code does"
    ),
    "td3-bc, unifloral": Case(
        "unifloral_td3_bc",
        ("td3-bc",),
        f"{TWO_BATCHES}; their policy's step runs both critics, ours the first",
    ),
    "cql, 10 critics of 3 x 256, unifloral": Case(
        "unifloral_cql", ("cql", "--set", *DEEP), "theirs runs its policy once more, for the temperature"
    ),
    "rebrac, 3 x 256, unifloral": Case("unifloral_rebrac", ("rebrac",), TWO_BATCHES),
    "td3-bc, JAX-CORL": Case("jaxcorl_td3bc", ("td3-bc", "--set", "critic_norm=true"), "none that is known"),
    "iql, JAX-CORL": Case("jaxcorl_iql", ("iql",), "theirs normalises the value's layers, ours none"),
    "iql, JAX-CORL, ours all normalised": Case(
        "jaxcorl_iql", ("iql", "--set", "critic_norm=true"), "ours normalises the critics' layers too"
    ),
    "cql, n = 10, JAX-CORL": Case(
        "jaxcorl_cql", ("cql", "--set", "resample=0"), "ours goes backward on all 30 actions, as theirs does"
    ),
    "cql, n = 10, JAX-CORL, ours as by default": Case(
        "jaxcorl_cql", ("cql",), "less work: ours goes backward on 4 of the 30 actions, theirs on all"
    ),
    "awac, policy of 2 x 256, JAX-CORL": Case(
        "jaxcorl_awac_2x256",
        ("awac", "--set", "critic_norm=true"),
        "their targets take the policy's actions in s, not in s', so one pass less; by default their "
        "policy is 4 x 256, but ours has one size for all networks",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What one process found, of theirs or of ours."""

    updates_per_second: float
    cpu_ms_per_update: float
    gflop_per_update: float
    matmul_gflops: float | None
    """The best product in ours' precision per second; theirs does not time it."""
    found: dict[str, Any]
    """All that it printed."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A case in one precision of ours; numbers are means over the times that it ran."""

    case: str
    precision: str
    ours: list[Timing]
    theirs: list[Timing]
    float32_gflops: float
    """The machine's rate of float32 products while this case ran."""

    def mean(self, whose: str, what: str) -> float:
        return statistics.fmean(getattr(timing, what) for timing in getattr(self, whose))

    @property
    def times_by_clock(self) -> float:
        """Ours over theirs."""
        return self.mean("ours", "updates_per_second") / self.mean("theirs", "updates_per_second")

    @property
    def times_by_cpu(self) -> float:
        """Updates per CPU second, ours over theirs."""
        return self.mean("theirs", "cpu_ms_per_update") / self.mean("ours", "cpu_ms_per_update")

    def share(self, whose: str) -> float:
        """Of the machine's float32 product rate, whatever the precision."""
        rates = [timing.updates_per_second * timing.gflop_per_update for timing in getattr(self, whose)]
        return statistics.fmean(rates) / self.float32_gflops

    def to_json(self) -> dict[str, Any]:
        found = {"times_by_clock": self.times_by_clock, "times_by_cpu": self.times_by_cpu}
        found |= {f"share_{whose}": self.share(whose) for whose in ("ours", "theirs")}
        return dataclasses.asdict(self) | found


# --- Running -----------------------------------------------------------------


def timed(command: list[str]) -> Timing:
    """The JSON document that a command prints, or BadInput with the last line of what it said."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing was said"]
        raise BadInput(f"`{' '.join(command[1:])}` failed: {said[-1]}")
    found = json.loads(done.stdout)
    numbers = {name: found[name] for name in ("updates_per_second", "cpu_ms_per_update", "gflop_per_update")}
    return Timing(**numbers, matmul_gflops=found.get("matmul_gflops"), found=found)


def theirs(folder: Path, case: Case) -> list[str]:
    return [sys.executable, str(folder / "harness.py"), case.theirs]


def ours(case: Case, precision: str) -> list[str]:
    more = [] if "--set" in case.ours else ["--set"]
    return [sys.executable, "-m", "leashrl", "bench", *case.ours, *more, f"precision={precision}", "--json"]


def compare(name: str, folder: Path, times: int) -> list[Row]:
    """A row of each precision; theirs and ours take turns."""
    case = CASES[name]
    commands = {"theirs": theirs(folder, case)} | {kind: ours(case, kind) for kind in PRECISIONS}
    found: dict[str, list[Timing]] = {who: [] for who in commands}
    for _ in range(times):
        for who, command in commands.items():
            found[who].append(timed(command))
            last = found[who][-1]
            rates = f"{last.updates_per_second:8.1f} updates/s  {last.cpu_ms_per_update:8.2f} CPU ms"
            print(f"{name:<42}  {who:<8}  {rates}", file=sys.stderr, flush=True)
    rate = statistics.fmean(timing.matmul_gflops or 0.0 for timing in found["float32"])
    return [
        Row(case=name, precision=kind, ours=found[kind], theirs=found["theirs"], float32_gflops=rate)
        for kind in PRECISIONS
    ]


# --- What is written ---------------------------------------------------------


def processor() -> str:
    """Its name and the number of its cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return f"{name}, {os.cpu_count()} cores"


def commit_of(package: Path) -> str:
    """Of the checkout that the package lies in; empty where it lies in none."""
    git = ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    return subprocess.run(git, capture_output=True, text=True).stdout.strip()


def span(values: list[float], digits: int) -> str:
    """Their mean, with the lowest and the highest where there are several.

    >>> span([2.0, 4.0], 1), span([3.0], 0)
    ('3.0 (2.0 to 4.0)', '3')
    """
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else mean


def line(row: Row) -> str:
    cells = [row.case, row.precision]
    for what, digits, times in (
        ("updates_per_second", 1, row.times_by_clock),
        ("cpu_ms_per_update", 2, row.times_by_cpu),
    ):
        cells += [span([getattr(t, what) for t in side], digits) for side in (row.ours, row.theirs)]
        cells.append(f"{times:.2f}")
    cells += [f"{row.mean(whose, 'gflop_per_update'):.2f}" for whose in ("ours", "theirs")]
    cells += [f"{row.share(whose):.0%}" for whose in ("ours", "theirs")]
    return f"| {' | '.join(cells)} |"


def page(rows: list[Row], about: dict[str, Any]) -> str:
    """The Markdown file: a line on the machine, the table, what each step holds."""
    head = (
        "case", "ours in", "updates/s, ours", "theirs", "times theirs", "CPU ms/update, ours", "theirs",
        "times theirs", "GFLOP/update, ours", "theirs", "of the float32 rate, ours", "theirs",
    )  # fmt: skip
    rates = {
        kind: [t.matmul_gflops for row in rows if row.precision == kind for t in row.ours if t.matmul_gflops]
        for kind in PRECISIONS
    }
    products = "; ".join(f"{kind} {min(seen):.0f} to {max(seen):.0f}" for kind, seen in rates.items() if seen)
    text = [
        f"`{about['command']}`, {about['began']} to {about['ended']} UTC, leashrl {about['commit']}.",
        f"{about['machine']}; products, GFLOP/s while it ran: {products}.",
        "Means over the processes, lowest and highest in brackets. An update is one gradient step of the",
        "critics. Times theirs: above 1 ours is faster; of CPU time, updates per CPU second.",
        "",
        f"| {' | '.join(head)} |",
        "|" + " --- |" * len(head),
        *map(line, rows),
        "",
        "| case | theirs | a step of theirs | called as | ours | what differs |",
        "|" + " --- |" * 6,
    ]
    for row in (row for row in rows if row.precision == PRECISIONS[0]):
        peer, case = row.theirs[0].found, CASES[row.case]
        whose = f"{peer['implementation']} {peer['commit'][:10]}"
        cells = [row.case, whose, peer["work"], peer["shape"], f"`{' '.join(case.ours)}`", case.differs]
        text.append(f"| {' | '.join(cells)} |")
    packages = sorted((rows[0].theirs[0].found["versions"] | about["versions"]).items())
    text += ["", f"Versions: {', '.join(f'{name} {number}' for name, number in packages)}."]
    return "\n".join(text) + "\n"


def now() -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds harness.py and their checkouts")
    parser.add_argument("--results", type=Path, required=True, help="prefix of the .json and .md files")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases; by default all")
    parser.add_argument("--times", type=int, default=2, help="processes of each; 2")
    args = parser.parse_args()
    if unknown := set(args.only or ()) - set(CASES):
        parser.error(f"--only {sorted(unknown)[0]!r}: there are {', '.join(map(repr, CASES))}")
    if args.times < 1:
        parser.error(f"--times must be at least 1, not {args.times}")
    if not (args.folder / "harness.py").is_file():
        parser.error(f"no harness.py in '{args.folder}': the head of benchmarks/peers.py says what it prints")
    package = Path(leashrl.__file__).parent
    about: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/peers.py", *sys.argv[1:]]),
        "commit": commit_of(package),
        "machine": processor(),
        "versions": versions(),
        "began": now(),
    }
    rows: list[Row] = []
    try:
        for name in args.only or CASES:
            rows += compare(name, args.folder, args.times)
            about["ended"] = now()  # written as it goes: a later case that fails loses nothing
            write_json(args.results.with_suffix(".json"), about | {"rows": [row.to_json() for row in rows]})
            write_atomically(args.results.with_suffix(".md"), page(rows, about).encode())
    except BadInput as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
