"""Fisher-BRC (Kostrikov et al. 2021, arXiv 2103.08050), section 5.2: what a million updates take, beside CQL."""

import dataclasses
from pathlib import Path
from typing import Any

from leashrl.bench import bench
from leashrl.papers.printed import Printed
from leashrl.training.artefacts import write_json

UPDATES = 1_000_000


@dataclasses.dataclass(frozen=True)
class Time:
    """Options of the time comparison.

    Args:
      preset: of both algorithms; `authors` has the text's sizes.
      seconds: of measuring each.
    """

    preset: str = "authors"
    seconds: float = 10.0


def make(table: Printed, out: Path, options: Time) -> tuple[dict[str, Any], list[Path]]:
    """Hours of a million updates of training, one seed, at the speed that is measured here.

    Pre-training is left out here, and named by itself in the text.
    """
    rows = []
    for column, run in table.runs.items():
        found = bench(run, preset=options.preset, seconds=options.seconds)
        rate = found["updates_per_second"]
        row = {"method": column, "paper, hours": table.cell("training", column)}
        row |= {"hours": UPDATES / rate / 3600, "updates per second": rate, "device": found["device"]}
        rows.append(row)
    slow, fast = max(rows, key=lambda r: r["hours"]), min(rows, key=lambda r: r["hours"])
    values = {"source": table.source, "rows": rows, "ratio": slow["hours"] / fast["hours"]}
    file = out / "fisher-brc-table-time.json"
    write_json(file, values)
    return values, [file]
