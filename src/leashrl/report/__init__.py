"""Reports: runs' folders in, one page or a paper's table out.

    from leashrl.report import report
    found = report(["runs/misa", "runs/iql"], "report.html")
    print(found.summary[0].label, found.summary[0].mean)

Made from files alone, so that it works where neither jax nor the data are: `reading` finds and labels runs,
`failures` says what went wrong, `comparison` and `charts` compute, `html` writes the page, `tables` the rest.
"""

from collections.abc import Sequence
from pathlib import Path

from leashrl.disk.files import make_folder, write_atomically
from leashrl.disk.folder import RunFolder
from leashrl.errors import BadInput, nearest
from leashrl.report.reading import Line, lines_of, read_runs
from leashrl.report.results import ReportFiles, SummaryRow

__all__ = ["FORMATS", "ReportFiles", "SummaryRow", "report"]

FORMATS = {"html": ".html", "png": ".png", "pdf": ".pdf", "csv": ".csv", "latex": ".tex"}


def report(
    folders: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    formats: Sequence[str] = ("html",),
    title: str | None = None,
) -> ReportFiles:
    """Compare runs, finished or not, and write what was found.

    Args:
      folders: of runs, or folders that hold some at any depth.
      out: the page; by default `report.html` in the run's folder, or in this one if there are several.
        Other formats get its name with their own ending; pictures of several data sets are numbered.
      formats: of `html`, `png`, `pdf` (learning curves), `csv` (one value a line), `latex`.
      title: of the page; by default the data sets' names.

    Returns:
      The files, how many runs and members were read, and the summary: a row a label and data set.

    Raises:
      BadInput: no readable run, an unknown format, a missing matplotlib, an unwritable disk.
    """
    from leashrl.report import html, tables

    for name in formats:
        if name not in FORMATS:
            raise BadInput(f"no format '{name}' of a report: {nearest(name, FORMATS)}")
    runs, problems = read_runs(folders)
    lines = lines_of(runs)
    alone = len(folders) == 1 and RunFolder(Path(folders[0]).expanduser()).ours
    page = (
        Path(out).expanduser()
        if out
        else (Path(folders[0]).expanduser() if alone else Path()) / "report.html"
    )
    if page.suffix != ".html":
        raise BadInput(f"--out names the page, so it must end in .html, not '{page.name}'")
    make_folder(page.parent)
    files: list[Path] = []
    for name in dict.fromkeys(formats):
        file = page.with_suffix(FORMATS[name])
        if name in ("png", "pdf"):
            files += pictures(lines, file)
            continue
        text = {"html": lambda: html.page(runs, lines, problems, title), "csv": lambda: tables.csv(lines)}
        text["latex"] = lambda: tables.latex(lines)
        write_atomically(file, text[name]().encode())
        files.append(file)
    return ReportFiles(
        files=tuple(files),
        runs=len(runs),
        problems=tuple(problems),
        summary=tuple(map(SummaryRow.from_json, tables.summaries(lines))),
        members=sum(len(line.members) for line in lines),
    )


def pictures(lines: Sequence[Line], file: Path) -> list[Path]:
    """Learning curves, one picture a data set."""
    from leashrl.report.charts import curves
    from leashrl.report.plots import draw_points

    charts, made = curves(lines), []
    for i, chart in enumerate(charts):
        name = file if len(charts) == 1 else file.with_stem(f"{file.stem}-{i + 1}")
        points = {s["label"]: [tuple(point) for point in s["points"]] for s in chart["series"]}
        levels = {level["label"]: level["y"] for level in chart["levels"]}
        made.append(draw_points(points, name, chart["title"], chart["y"], levels=levels))
    if not made:
        raise BadInput("no run was evaluated, so there are no curves to draw: leave --format png and pdf out")
    return made
