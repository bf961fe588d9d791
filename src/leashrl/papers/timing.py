"""Fisher-BRC (Kostrikov et al. 2021, arXiv 2103.08050), section 5.2: hours of a million updates."""

import dataclasses
from pathlib import Path
from typing import Any

from leashrl.bench import bench
from leashrl.disk.files import versions, write_json
from leashrl.papers.printed import printed
from leashrl.runs.plan import parse_run

UPDATES = 1_000_000


@dataclasses.dataclass(frozen=True)
class Time:
    """Options of the time comparison.

    Args:
      seconds: of measuring each.
    """

    seconds: float = 10.0


def make(out: Path, options: Time) -> tuple[dict[str, Any], list[Path]]:
    """Hours of a million updates of one seed, at the speed that is measured here; cloning is a stage."""
    text, rows = printed("fisher-brc", "text", "training-time"), []
    for column, run in text.runs.items():
        algorithm, preset, _ = parse_run(run)
        stage = 0 if column.endswith("cloning") else -1
        found = bench(algorithm, preset=preset, seconds=options.seconds, stage=stage)
        rate = found.updates_per_second
        row = {"": column, "paper, hours": text.cell("hours", column), "hours": UPDATES / rate / 3600}
        rows.append(row | {"updates per second": rate, "device": found.device})
    fisher = sum(row["hours"] for row in rows[:-1])
    values = {"source": text.source, "claim": text.claim, "rows": rows}
    file = out / "fisher-brc-table-time.json"
    write_json(file, values | {"CQL over F-BRC": rows[-1]["hours"] / fisher, "versions": versions()})
    return values, [file]
