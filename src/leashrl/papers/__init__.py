"""The papers' figures and tables, one module a paper. An entry of `PAPERS` is all that a new one needs."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from leashrl.core import override
from leashrl.errors import BadInput, nearest
from leashrl.papers import brac_plus, brac_plus_runs, fisher_brc, miracle, miracle_online
from leashrl.training.artefacts import make_folder


class Made(NamedTuple):
    """What a figure or a table has come to."""

    values: dict[str, Any]
    """JSON-ready; `rows`, a list of dictionaries with equal keys, is what people are shown."""
    files: list[Path]


class Item(NamedTuple):
    """A figure or a table."""

    about: str
    make: Callable[[Path, Any], tuple[dict[str, Any], list[Path]]]
    """A folder and the options to `Made`: training curves, say, would be read from the artefacts of runs."""
    options: Any
    """A frozen dataclass with the defaults; `--set NAME=VALUE` changes its fields."""


class Paper(NamedTuple):
    about: str
    tables: Mapping[str, Item]
    figures: Mapping[str, Item]


PAPERS: dict[str, Paper] = {
    "brac-plus": Paper(
        "Zhang et al. 2020, ICLR 2021 submission; arXiv 2110.00894",
        tables={},
        figures={
            "2": Item("learning curves of your runs", brac_plus_runs.figure_2, brac_plus_runs.Curves()),
            "3": Item("their divergences, by state", brac_plus_runs.figure_3, brac_plus_runs.Histograms()),
            "4": Item("regression with a penalty on slopes", brac_plus.figure_4, brac_plus.Figure4()),
            "5": Item("divergences from a behaviour", brac_plus.figure_5, brac_plus.Figure5()),
            "6": Item("slopes of runs' critics", brac_plus_runs.figure_6, brac_plus_runs.Histograms()),
            "7": Item("divergences along episodes", brac_plus_runs.figure_7, brac_plus_runs.Episodes()),
            "8": Item("learning curves by H₀", brac_plus_runs.figure_8, brac_plus_runs.Curves()),
        },
    ),
    "fisher-brc": Paper(
        "Kostrikov et al. 2021, arXiv 2103.08050",
        tables={},
        figures={
            "1": Item(
                "what a bandit's policy climbs, by coefficient", fisher_brc.figure_1, fisher_brc.Figure1()
            ),
        },
    ),
    "miracle": Paper(
        "Leibfried & Grau-Moya 2019, arXiv 1909.05950",
        tables={},
        figures={
            "1": Item("beta's effect on state values in a grid world", miracle.figure_1, miracle.Figure1()),
            "2": Item("online returns of your runs", miracle_online.figure_2, miracle_online.Options()),
            "3": Item("their best so far", miracle_online.figure_3, miracle_online.Options()),
            "4": Item("figure 2 with the autoencoder", miracle_online.figure_4, miracle_online.Options()),
            "5": Item("figure 3 with the autoencoder", miracle_online.figure_5, miracle_online.Options()),
        },
    ),
}


def find_paper(name: str) -> Paper:
    """The paper's entry, or BadInput that names the nearest one."""
    if name not in PAPERS:
        raise BadInput(f"no paper '{name}': {nearest(name, PAPERS)}")
    return PAPERS[name]


def make(
    paper: str, kind: str, number: str, out: str | Path, options: Mapping[str, Any] | None = None
) -> Made:
    """Make one figure or table.

    Args:
      paper: a key of `PAPERS`.
      kind: `figure` or `table`.
      number: the paper's.
      out: the folder for pictures.
      options: replace the item's own, by name.

    Raises:
      BadInput: an unknown paper, number or option; no matplotlib; an unwritable folder.
    """
    entry = find_paper(paper)
    items = entry.figures if kind == "figure" else entry.tables
    if number not in items:
        raise BadInput(
            f"'{paper}' has no {kind} '{number}': {nearest(number, items) if items else 'it has none'}"
        )
    item = items[number]
    chosen = override(item.options, options or {})
    folder = Path(out).expanduser()
    make_folder(folder)
    values, files = item.make(folder, chosen)
    return Made({"options": dataclasses.asdict(chosen)} | values, files)
