"""The summary as numbers: rows for the page, CSV for programs, LaTeX for papers."""

import csv as csv_format
import io
from collections.abc import Sequence
from typing import Any

from leashrl.evaluate.significance import PairComparison, compare_all
from leashrl.evaluate.statistics import summary
from leashrl.report.reading import Line, Row

UNITS = {"score": "normalised score", "return": "return"}
HEAD = ("data", "task", "label", "algorithm", "folder", "seed", "member", "measure", "value")


def summaries(lines: Sequence[Line]) -> list[Row]:
    """A row a line, the highest mean first within each place; None where nothing was evaluated.

    Members that diverged have no final value: `n` counts those that the mean stands on, `of` all.
    """
    rows = []
    for line in lines:
        final = (
            summary(line.finals).to_json()
            if line.finals
            else dict.fromkeys(("mean", "iqm", "low", "high", "std"), None)
        )
        last_ten = sum(line.last_tens) / len(line.last_tens) if line.last_tens else None
        row: Row = {"label": line.label, "data": line.place, "unit": line.unit, "finished": line.finished}
        row |= final | {"n": len(line.finals), "of": len(line.members), "last_10_mean": last_ten}
        row["diverged"] = [m.name for m in line.members if m.diverged]
        rows.append(row)
    order = {place: i for i, place in enumerate(dict.fromkeys(line.place for line in lines))}
    return sorted(rows, key=lambda r: (order[r["data"]], r["mean"] is None, -(r["mean"] or 0.0), r["label"]))


def comparisons(lines: Sequence[Line]) -> dict[tuple[str, str, str], PairComparison]:
    """What `compare_all` finds of each pair of labels, by their place and names in either order."""
    found: dict[tuple[str, str, str], PairComparison] = {}
    for place in dict.fromkeys(line.place for line in lines):
        here = {line.label: line.finals for line in lines if line.place == place and line.finals}
        for row in compare_all(here):
            found[place, row.a, row.b] = found[place, row.b, row.a] = row
    return found


def csv(lines: Sequence[Line]) -> str:
    """One value a line: members' final and last-ten means, and where they diverged; labels' mean, IQM, ..."""
    out = io.StringIO()
    write = csv_format.writer(out, lineterminator="\n").writerow
    write(HEAD)
    for line in lines:
        for m in line.members:
            about = (line.place, m.run.config.get("task"), line.label, m.run.config["algorithm"])
            values: Row = {"final": m.final, "last_10_mean": m.last_ten}
            values["diverged_at"] = m.diverged["step"] if m.diverged else None
            for measure, value in values.items():
                if value is not None:
                    name = f"{line.unit}_{measure}" if measure != "diverged_at" else measure
                    write((*about, m.run.folder, m.seed, m.name, name, value))
    tasks = {(line.label, line.place): line.members[0].run.config for line in lines}
    for row in summaries(lines):
        config = tasks[row["label"], row["data"]]
        for measure in ("mean", "iqm", "low", "high", "std", "n", "last_10_mean"):
            if row[measure] is not None:
                about = (row["data"], config.get("task"), row["label"], config["algorithm"])
                name = f"{row['unit']}_{measure}" if measure != "n" else "n"
                write((*about, "", "", "all", name, row[measure]))
    return out.getvalue()


def latex(lines: Sequence[Line]) -> str:
    r"""A plain `tabular`: labels down, data sets across, `$74.2\pm 6.1$` a mean and its interval.

    The best mean of each column is bold, and so is every other that a test does not tell from it.
    """
    rows = summaries(lines)
    where = list(dict.fromkeys(row["data"] for row in rows))
    labels = list(dict.fromkeys(row["label"] for row in rows))
    found = {(row["label"], row["data"]): row for row in rows}
    best = {p: next((r["label"] for r in rows if r["data"] == p and r["n"]), "") for p in where}
    compared = comparisons(lines)
    first = lambda r: r["label"] == best[r["data"]]
    bold = lambda r: first(r) or not compared[r["data"], best[r["data"]], r["label"]].decided
    body = []
    for label in labels:
        cells = [found.get((label, place)) for place in where]
        numbers = [number(r, bold(r)) if r and r["n"] else "--" for r in cells]
        body.append(" & ".join([escaped(label), *numbers]) + r" \\")
    units = sorted({UNITS[row["unit"]] for row in rows if row["unit"]})
    return "\n".join(
        [
            f"% Mean {' or '.join(units)} at the last evaluation of the seeds that did not diverge,",
            "% 95 % t intervals over seeds (halved tail), none for one seed; bold: the best of a column, and",
            "% what is not told from it (Welch's t test, 5 %, Holm's correction over all pairs of a column,",
            "% three seeds or more).",
            rf"\begin{{tabular}}{{l{'r' * len(where)}}}",
            r"\hline",
            " & ".join(["", *(escaped(place) for place in where)]) + r" \\",
            r"\hline",
            *body,
            r"\hline",
            r"\end{tabular}",
            "",
        ]
    )


def number(row: Row, bold: bool) -> str:
    mean = f"\\mathbf{{{fixed(row['mean'])}}}" if bold else fixed(row["mean"])
    half = "" if row["low"] is None else f"\\pm {fixed(row['high'] - row['mean'])}"
    return f"${mean}{half}$"


def fixed(value: float) -> str:
    """One decimal, and no negative zero.

    >>> fixed(-0.02), fixed(74.25)
    ('0.0', '74.2')
    """
    return f"{round(value, 1) + 0.0:.1f}"


SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def escaped(text: Any) -> str:
    r"""
    >>> print(escaped("100% of a_b & {c}"))
    100\% of a\_b \& \{c\}
    """
    return "".join(SPECIAL.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in str(text))
