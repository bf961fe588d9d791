"""The papers' figures and tables. An entry of `PAPERS` is all that a new one needs.

What is made of runs declares them: `experiments` trains what is missing, then the item draws or prints. The
papers' own numbers, and which runs stand for their columns, are data: `printed`.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from leashrl.core import override
from leashrl.disk.files import make_folder
from leashrl.errors import BadInput, nearest
from leashrl.papers import (
    brac_plus,
    brac_plus_runs,
    fisher_brc,
    miracle,
    miracle_online,
    misa,
    panels,
    tables,
    timing,
)
from leashrl.papers.experiments import finish
from leashrl.papers.printed import printed
from leashrl.papers.protocols import FULL, Options, Resolved, Trial, markdown, resolve


class Made(NamedTuple):
    """What a figure or a table has come to."""

    values: dict[str, Any]
    """JSON-ready; `rows`, a list of dictionaries with equal keys, is what people are shown."""
    files: list[Path]


@dataclass(frozen=True)
class Protocol:
    """What the runs of a table, a figure or a whole paper resolve to."""

    paper: str
    scale: str
    rows: tuple[Resolved, ...]
    """One for each column and task."""
    markdown: str
    """The same as tables for people."""

    def to_json(self) -> dict[str, Any]:
        rows = [row.to_json() for row in self.rows]
        return {"paper": self.paper, "scale": self.scale, "rows": rows, "markdown": self.markdown}


class Item(NamedTuple):
    """A figure or a table."""

    about: str
    make: Callable[..., tuple[dict[str, Any], list[Path]]]
    """A folder and the options to `Made`. Where it has no options of its own, `(folder, done, settings)`:
    what `experiments.finish` has done under `protocols.Options`."""
    options: Any = None
    """A frozen dataclass with the defaults; `--set NAME=VALUE` changes its fields."""
    trials: Callable[[Options], list[Trial]] | None = None
    """The runs that it is made of; None: it is worked out on the spot, and has one size."""


class Paper(NamedTuple):
    about: str
    tables: Mapping[str, Item]
    figures: Mapping[str, Item]


def table(paper: str, number: str, about: str) -> Item:
    """A table whose rows, columns and runs are in the paper's file."""
    found = printed(paper, "table", number)
    return Item(
        about,
        functools.partial(tables.make, found, f"{paper} table {number}"),
        trials=functools.partial(tables.trials, found),
    )


def curves(paper: str, number: str, about: str) -> Item:
    """A figure of learning curves, the same way."""
    found = printed(paper, "figure", number)
    return Item(
        about,
        functools.partial(panels.make, found, f"{paper} figure {number}"),
        trials=functools.partial(panels.trials, found),
    )


def of_runs(paper: str, number: str, about: str, make: Callable, options: Any) -> Item:
    """A figure of one's own runs, below `--set runs=FOLDER`; with a scale, of those in the paper's file."""
    found = printed(paper, "figure", number)
    return Item(about, make, options, functools.partial(panels.trials, found))


PAPERS: dict[str, Paper] = {
    "brac-plus": Paper(
        "Zhang et al. 2020, ICLR 2021 submission; arXiv 2110.00894",
        tables={
            "1": table("brac-plus", "1", "12 locomotion tasks by 6 methods"),
            "2": table("brac-plus", "2", "4 Adroit tasks by 6 methods"),
        },
        figures={
            "1": curves("brac-plus", "1", "with and without the penalty on slopes"),
            "2": of_runs("brac-plus", "2", "ablations", brac_plus_runs.figure_2, brac_plus_runs.Curves()),
            "3": of_runs(
                "brac-plus", "3", "divergences by state", brac_plus_runs.figure_3, brac_plus_runs.Histograms()
            ),
            "4": Item("regression with a penalty on slopes", brac_plus.figure_4, brac_plus.Figure4()),
            "5": Item("divergences from a behaviour", brac_plus.figure_5, brac_plus.Figure5()),
            "6": of_runs(
                "brac-plus", "6", "slopes of critics", brac_plus_runs.figure_6, brac_plus_runs.Histograms()
            ),
            "7": of_runs(
                "brac-plus",
                "7",
                "divergences along episodes",
                brac_plus_runs.figure_7,
                brac_plus_runs.Episodes(),
            ),
            "8": of_runs("brac-plus", "8", "curves by H₀", brac_plus_runs.figure_8, brac_plus_runs.Curves()),
        },
    ),
    "fql": Paper(
        "Park et al. 2025, ICML, arXiv 2502.02538",
        tables={
            "2": table("fql", "2", "7 OGBench data sets by 10 methods"),
            "3": table("fql", "3", "OGBench's tasks by 5 methods"),
        },
        figures={},
    ),
    "fisher-brc": Paper(
        "Kostrikov et al. 2021, arXiv 2103.08050",
        tables={
            "1": table("fisher-brc", "1", "15 locomotion tasks by 7 methods"),
            "time": Item("hours of a million updates", timing.make, timing.Time()),
        },
        figures={
            "1": Item(
                "what a bandit's policy climbs, by coefficient", fisher_brc.figure_1, fisher_brc.Figure1()
            ),
            "2": curves("fisher-brc", "2", "curves by gradient penalty"),
            "3": curves("fisher-brc", "3", "curves beside BRAC and CQL"),
            "4": curves("fisher-brc", "4", "figure 2 on all tasks"),
            "5": curves("fisher-brc", "5", "without the critic's form"),
        },
    ),
    "miracle": Paper(
        "Leibfried & Grau-Moya 2019, arXiv 1909.05950",
        tables={},
        figures={
            "1": Item("beta's effect on state values in a grid world", miracle.figure_1, miracle.Figure1()),
            "2": of_runs("miracle", "2", "online returns", miracle_online.figure_2, miracle_online.Options()),
            "3": of_runs(
                "miracle", "3", "their best so far", miracle_online.figure_3, miracle_online.Options()
            ),
            "4": of_runs(
                "miracle",
                "4",
                "figure 2 with the autoencoder",
                miracle_online.figure_4,
                miracle_online.Options(),
            ),
            "5": of_runs(
                "miracle",
                "5",
                "figure 3 with the autoencoder",
                miracle_online.figure_5,
                miracle_online.Options(),
            ),
        },
    ),
    "misa": Paper(
        "Ma et al. 2023, arXiv 2210.07484",
        tables={
            "1": table("misa", "1", "ablations: 9 locomotion tasks by 10 variants"),
            "2": table("misa", "2", "26 tasks by 9 methods"),
            "3": table("misa", "3", "random data, of the earlier text"),
        },
        figures={
            "1": Item(
                "t-SNE of Q's embeddings, BA and MISA",
                functools.partial(misa.figure_1, printed("misa", "figure", "1")),
                trials=functools.partial(misa.trials, printed("misa", "figure", "1")),
            )
        },
    ),
}


def find_paper(name: str) -> Paper:
    """The paper's entry, or BadInput that names the nearest one."""
    if name not in PAPERS:
        raise BadInput(f"no paper '{name}': {nearest(name, PAPERS)}")
    return PAPERS[name]


def find_item(paper: str, kind: str, number: str) -> Item:
    """One of its figures or tables, or BadInput that names the nearest one."""
    entry = find_paper(paper)
    items = entry.figures if kind == "figure" else entry.tables
    if number not in items:
        raise BadInput(
            f"'{paper}' has no {kind} '{number}': {nearest(number, items) if items else 'it has none'}"
        )
    return items[number]


def make(
    paper: str,
    kind: str,
    number: str,
    out: str | Path,
    options: Mapping[str, Any] | None = None,
    *,
    scale: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Made:
    """Make one figure or table, its runs first.

    Args:
      paper: a key of `PAPERS`.
      kind: `figure` or `table`.
      number: the paper's.
      out: the folder for pictures and tables.
      options: replace the item's own, by name, and those of its runs (`protocols.Options`).
      scale: `smoke`, `cpu` or `full`: trains what the item is made of, where it is missing. Without it a
        table takes `cpu`, and a figure that has options of its own reads the runs that are there.
      say: called with a line of progress.

    Raises:
      BadInput: an unknown paper, number or option; no matplotlib; an unwritable folder.
    """
    item, options, folder = find_item(paper, kind, number), dict(options or {}), Path(out).expanduser()
    if item.trials is None or (scale is None and item.options is not None):
        return on_the_spot(item, folder, options)
    return of_trials(item, f"{paper} {kind} {number}", folder, options, scale or "cpu", say)


def protocol(
    paper: str,
    kind: str = "",
    number: str = "",
    options: Mapping[str, Any] | None = None,
    *,
    scale: str = FULL,
) -> Protocol:
    """What the runs of a table or a figure resolve to, or those of a whole paper: nothing is trained.

    Args:
      paper: a key of `PAPERS`.
      kind, number: of one item; all of the paper's without them.
      options: `steps` and `seeds` of `protocols.Options`, in place of the published ones.
      scale: `full`, what was published on each column; `smoke` or `cpu`, a budget of ours.

    Raises:
      BadInput: an unknown paper, number, option or scale; an item without runs.
    """
    if number:
        find_item(paper, kind, number)
    find_paper(paper)
    found = resolve(paper, kind, number, override(Options(scale=scale), dict(options or {})))
    return Protocol(paper, scale, tuple(found), "\n".join(markdown(found)))


def on_the_spot(item: Item, folder: Path, options: Mapping[str, Any]) -> Made:
    """What is worked out now, or read from the user's own runs."""
    chosen = override(item.options, options)
    make_folder(folder)
    values, files = item.make(folder, chosen)
    return Made({"options": dataclasses.asdict(chosen)} | values, files)


def of_trials(
    item: Item, name: str, folder: Path, options: Mapping[str, Any], scale: str, say: Callable[[str], None]
) -> Made:
    """Its runs first. An option that `Options` does not have is the item's own."""
    shared = {field.name for field in dataclasses.fields(Options)}
    own = {} if item.options is None else {k: v for k, v in options.items() if k not in shared}
    settings = override(Options(scale=scale), {k: v for k, v in options.items() if k not in own})
    drawn = None if item.options is None else override(item.options, own)
    make_folder(folder)
    assert item.trials is not None
    done = finish(item.trials(settings), settings, say)
    if drawn is None:
        values, files = item.make(folder, done, settings)
    elif done.results:
        folders = os.pathsep.join(str(result.folder) for result in done.results.values())
        values, files = item.make(folder, dataclasses.replace(drawn, runs=folders))
        values = {"scale": settings.scale, "runs": sorted({trial.run for trial in done.results})} | values
    else:
        raise BadInput(f"{name} has no run that has ended: {panels.why(done)}")
    return Made({"options": dataclasses.asdict(settings) | own} | values, files)
