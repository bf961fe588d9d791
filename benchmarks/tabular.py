"""Seconds of mutual-information-regularised value iteration on the paper's grid and on a large one.

    python benchmarks/tabular.py [--json benchmarks/results/tabular.json]

Compilation is timed apart. Seconds are the CPU's (of all threads), which a busy machine changes least.
"""

import argparse
import json
import time
from pathlib import Path

import jax

from leashrl.disk.files import versions, write_json
from leashrl.tabular import gridworld, value_iteration

SIZES = (16, 200)
RULES = ("gap", "policy", "held")
BETAS = (0.1, 1.0, 10.0, 100.0)


def measure(size: int, rule: str) -> list[dict]:
    """A row for each beta, all from one compiled program."""
    world = gridworld(size, size)
    began = time.process_time()
    compiled = value_iteration.lower(world, BETAS[0], rule=rule).compile()
    compile_s = time.process_time() - began
    rows = []
    for beta in BETAS:
        began, wall = time.process_time(), time.perf_counter()
        found = jax.block_until_ready(compiled(world, beta))
        rows.append(
            {
                "grid": f"{size} x {size}",
                "rule": rule,
                "beta": beta,
                "cpu_s": round(time.process_time() - began, 4),
                "wall_s": round(time.perf_counter() - wall, 4),
                "compile_cpu_s": round(compile_s, 2),
                "iterations": int(found.iterations),
                "inner_iterations": int(found.inner_iterations),
                "converged": bool(found.converged),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    args = parser.parse_args()
    rows = [row for size in SIZES for rule in RULES for row in measure(size, rule)]
    found = {"versions": versions(), "rows": rows}
    if args.json:
        write_json(args.json, found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
