"""MIRACLE (Leibfried & Grau-Moya 2019, arXiv 1909.05950): figures 2 to 5, from the folders of online runs.

    leashrl train miracle --task swimmer --seeds 5 --out runs/miracle/swimmer
    leashrl train miracle --preset sac --task swimmer --seeds 5 --out runs/miracle/swimmer-sac
    leashrl paper miracle --figure 2 --set runs=runs/miracle

All runs below the folder are read, whatever their names; members of runs that are of one task and preset are
pooled. Figures 4 and 5 are 2 and 3 with the marginal of appendix F's variational autoencoder. Bands are
standard errors over seeds, as in the text; its "Pendulum" may be `pendulum` or `inverted-pendulum`:

    leashrl paper miracle --figure 2 --scale full --set tasks=inverted-pendulum
"""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leashrl.disk.files import write_atomically
from leashrl.errors import BadInput
from leashrl.papers.experiments import below
from leashrl.report.plots import COLOURS, FAINT, INK, band, need_matplotlib
from leashrl.tasks import MIRACLE, TASKS
from leashrl.training.simulator import running_mean

METHODS = {
    ("miracle", "default"): "MIRACLE",
    ("miracle", "vae"): "MIRACLE (VAE)",
    ("miracle", "mixture"): "MIRACLE (log-mean-exp)",
    ("miracle", "sac"): "SAC",
    ("ddpg", "default"): "DDPG",
    ("ppo", "default"): "PPO",
}
ORDER = [
    *("pendulum", "inverted-pendulum", "inverted-double-pendulum", "swimmer", "reacher"),
    *("hopper", "walker2d", "ant", "humanoid"),
]
"""The text's, both readings of its "Pendulum" among them: the small ones in its upper row."""
READINGS = {"pendulum": 'the text\'s "Pendulum"?', "inverted-pendulum": 'the text\'s "Pendulum"?'}
POINTS = 100
"""Environment steps at which curves are compared."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of figures 2 to 5.

    Args:
      runs: the folder below which the runs lie.
    """

    runs: str = "runs"


def figure_2(out: Path, options: Options) -> tuple[dict[str, Any], list[Path]]:
    """Mean return over the last 100 episodes."""
    return figure(out, options, "2", best=False, without="vae")


def figure_3(out: Path, options: Options) -> tuple[dict[str, Any], list[Path]]:
    """The best that this mean has been so far."""
    return figure(out, options, "3", best=True, without="vae")


def figure_4(out: Path, options: Options) -> tuple[dict[str, Any], list[Path]]:
    """Figure 2 with the variational autoencoder."""
    return figure(out, options, "4", best=False, without="default")


def figure_5(out: Path, options: Options) -> tuple[dict[str, Any], list[Path]]:
    """Figure 3 with the variational autoencoder."""
    return figure(out, options, "5", best=True, without="default")


# --- Numbers -----------------------------------------------------------------


def figure(
    out: Path, options: Options, number: str, best: bool, without: str
) -> tuple[dict[str, Any], list[Path]]:
    """Curves of every task and method that has runs; the final values and who is ahead of SAC."""
    figure_class = need_matplotlib()
    found, lost = collect(options.runs, without)
    curves = {task: {m: on_grid(members, best) for m, members in by.items()} for task, by in found.items()}
    rows = [row for task in curves for row in compare(task, curves[task])]
    rows = [row | {"diverged": lost.get((row["task"], row["method"]), 0)} for row in rows]
    file = out / f"miracle-figure-{number}.png"
    what = "best mean return of 100 episodes so far" if best else "mean return of the last 100 episodes"
    draw(figure_class, curves, what, file)
    return {"rows": rows}, [file]


Series = tuple[np.ndarray, np.ndarray]
"""A member's environment steps at its episodes' ends, and the running mean of their returns there."""


Lost = dict[tuple[str, str], int]
"""Members that diverged, by task and method. They go on acting as they were, and count in the curves."""


def collect(runs: str, without: str) -> tuple[dict[str, dict[str, list[Series]]], Lost]:
    """`{task: {method: [a series a member]}}`, in the text's order."""
    lost: Lost = {}
    found: dict[str, dict[str, list[Series]]] = {}
    for files in below(runs):
        config, episodes = files.config(), files.episodes()
        method = METHODS.get((config["algorithm"], config["preset"]))
        if (
            not episodes
            or method is None
            or (config["preset"] == without and config["algorithm"] == "miracle")
        ):
            continue
        for member in member_series(episodes):
            found.setdefault(config["task"], {}).setdefault(method, []).append(member)
        if files.finished:
            ends = [member["diverged"] for member in files.result()["members"]]
            place = config["task"], method
            lost[place] = lost.get(place, 0) + sum(map(bool, ends))
    if not found:
        raise BadInput(
            f"no online runs of {', '.join(sorted({name for name, _ in METHODS}))} below '{runs}': "
            "--set runs=FOLDER names another"
        )
    order = list(dict.fromkeys([*ORDER, *TASKS])).index
    methods = list(METHODS.values())
    return {
        task: {m: found[task][m] for m in sorted(found[task], key=methods.index)}
        for task in sorted(found, key=order)
    }, lost


def member_series(rows: Sequence[Mapping[str, Any]]) -> list[Series]:
    """The rows of one `episodes.jsonl`, member by member."""
    members: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in rows:
        name = tuple(sorted((k, v) for k, v in row.items() if k not in ("step", "return", "length")))
        members.setdefault(name, []).append(row)
    return [
        (np.cumsum([row["length"] for row in mine]), running_mean([row["return"] for row in mine]))
        for mine in members.values()
    ]


def on_grid(members: Sequence[Series], best: bool) -> tuple[np.ndarray, np.ndarray]:
    """Steps (POINTS,) that all members have reached, and values (members, POINTS): the last one before."""
    steps = np.linspace(max(s[0] for s, _ in members), min(s[-1] for s, _ in members), POINTS)
    values = [np.maximum.accumulate(v) if best else v for _, v in members]
    table = [v[np.searchsorted(s, steps, "right") - 1] for (s, _), v in zip(members, values, strict=True)]
    return steps, np.array(table)


def compare(task: str, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> list[dict[str, Any]]:
    """Each method's final value, its mean over training, and its lead over SAC, with standard errors."""
    rows = []
    for method, (steps, values) in curves.items():
        final, error = float(values[:, -1].mean()), standard_error(values[:, -1])
        row = {"task": task, "method": method, "seeds": len(values), "steps": int(steps[-1])}
        row |= {"mean over training": float(values.mean()), "final": final, "standard error": error}
        row["finals"] = values[:, -1].tolist()  # what the standard errors are computed from
        row |= {"lead over SAC": None, "standard error of the lead": None}
        if method != "SAC" and "SAC" in curves:
            theirs = curves["SAC"][1][:, -1]
            row["lead over SAC"] = final - float(theirs.mean())
            errors = error, standard_error(theirs)
            row["standard error of the lead"] = None if None in errors else float(np.hypot(*errors))
        rows.append(row)
    return rows


def standard_error(values: np.ndarray) -> Any:
    """Of the mean over seeds, the first axis: the sample's deviation (n - 1) over the root of n; None of one.

    >>> standard_error(np.array([1.0, 3.0]))
    1.0
    """
    if len(values) < 2:
        return None
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    return error if error.ndim else float(error)


# --- Picture -----------------------------------------------------------------


def draw(figure_class: Any, curves: Mapping[str, Any], what: str, file: Path) -> None:
    """A panel a task; means with standard errors over seeds, as the text draws them."""
    columns = min(4, len(curves))
    lines = -(-len(curves) // columns)
    figure = figure_class(figsize=(2.9 * columns, 2.5 * lines + 0.5), dpi=150, layout="constrained")
    colours = dict(zip(METHODS.values(), COLOURS, strict=True))
    handles: dict[str, Any] = {}
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in panels[len(curves) :]:
        axes.set_axis_off()
    for axes, task in zip(panels, curves, strict=False):
        for method, (steps, values) in curves[task].items():
            middle, error, colour = values.mean(0), standard_error(values), colours[method]
            if error is not None:
                band(axes, steps, middle - error, middle + error, color=colour, alpha=0.18)
            (handles[method],) = axes.plot(steps, middle, color=colour, linewidth=1.6)
        known = READINGS.get(task, "" if task in MIRACLE else "not in the text")
        star = f" ({known})" if known else ""
        axes.set_title(f"{TASKS[task].env_id}{star}", loc="left", fontsize=9.5, color=INK)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k")
        axes.tick_params(colors=INK, labelsize=8, length=3)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(FAINT)
    figure.supxlabel("environment steps", fontsize=9.5, color=INK)
    figure.supylabel(f"{what}, ± standard error of the seeds", fontsize=9.5, color=INK)
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=6, fontsize=9, frameon=False,
        labelcolor=INK,
    )  # fmt: skip
    image = io.BytesIO()
    figure.savefig(image, format="png")
    write_atomically(file, image.getvalue())
