"""How long `import leashrl` takes: the median of fresh processes, beside what Python alone takes.

python benchmarks/import_time.py
"""

import statistics
import subprocess
import sys
import time

RUNS = 7


def seconds(code: str) -> float:
    """Median wall time of `python -c code` over fresh processes, the first one (cold disk) left out."""
    times = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


if __name__ == "__main__":
    for name, code in [
        ("python alone", "pass"),
        ("import leashrl", "import leashrl"),
        ("import leashrl.algos", "import leashrl.algos"),
        ("import jax", "import jax"),
    ]:
        print(f"{name:22}{seconds(code):6.2f} s")
