"""How a paper's runs are trained and evaluated: what was published on each column, or a budget of ours.

    leashrl paper misa --table 2 --protocol

prints what every column of a table resolves to, for every task, and trains nothing. `experiments` trains by
the same `setup_of`.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from leashrl.algos import REGISTRY
from leashrl.core import override, to_json
from leashrl.errors import BadInput, nearest
from leashrl.papers.printed import PAPERS, Printed, load, tasks_of_row
from leashrl.papers.printed import protocol as published
from leashrl.runs.peers import PEERS
from leashrl.runs.plan import configure, parse_run
from leashrl.tasks import TASKS
from leashrl.tasks import task as find_task
from leashrl.types import Box, Discrete, Spec

# --- How much of it ----------------------------------------------------------


class Scale(NamedTuple):
    """A budget of ours, the same for every run."""

    steps: int
    seeds: int
    evaluations: int
    episodes: int
    """An evaluation and seed."""
    rows: int
    """Of a recipe's data."""
    options: Mapping[str, Any] = {}
    online_steps: int = 0
    """Online at least so many, so that an episode ends."""


FULL = "full"
"""The scale at which every run follows what was published on it: `printed.protocol`."""
SCALES = {
    "smoke": Scale(20, 2, 2, 1, 2_000, {"hidden": (8, 8), "batch_size": 8}, 1_200),
    "cpu": Scale(5_000, 2, 10, 10, 100_000),
}
"""`cpu` is what two cores do in an evening."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of all tables and figures that are made of runs.

    Args:
      scale: `smoke` sees that it works, `cpu` is 5,000 updates of two seeds, `full` is as published on each
        column: `leashrl paper NAME --protocol` shows it.
      tasks: the paper's tasks to run, with commas, or beginnings of their names; all whose data are at hand.
      columns: the columns or curves to run, with commas; all.
      runs: the folder of the runs.
      minutes: stop after so long; the same command goes on. 0: not before the end.
      steps, seeds: in place of the scale's; 0: the scale's.
    """

    scale: str = "cpu"
    tasks: str = ""
    columns: str = ""
    runs: str = "runs/papers"
    minutes: float = 0.0
    steps: int = 0
    seeds: int = 0


def check(options: Options) -> None:
    """BadInput where they make no sense."""
    if options.scale not in (*SCALES, FULL):
        raise BadInput(f"no scale '{options.scale}': {nearest(options.scale, [*SCALES, FULL])}")
    if min(options.minutes, options.steps, options.seeds) < 0:
        raise BadInput(f"minutes, steps and seeds cannot be negative: {options}")


def in_words(options: Options) -> str:
    """The scale in words."""
    check(options)
    asked = {"updates": options.steps, "seeds": options.seeds}
    if options.scale == FULL:
        changed = "".join(f", but {n:,} {what}" for what, n in asked.items() if n)
        return f"scale full, as published on each column (`leashrl paper --protocol`){changed}"
    scale = SCALES[options.scale]
    steps, seeds = asked["updates"] or scale.steps, asked["seeds"] or scale.seeds
    return f"scale {options.scale}, {steps:,} updates, {seeds} seeds"


# --- Trials ------------------------------------------------------------------


class Trial(NamedTuple):
    task: str
    run: str
    """`ALGORITHM[:PRESET][+OPTION=VALUE]...`, see `plan.parse_run`; or one of `peers.PEERS`."""
    online: bool = False
    """It learns in the task's environment, without data."""
    paper: str = ""
    """Whose protocol it follows at scale `full`."""


class Setup(NamedTuple):
    """How a trial is trained and evaluated."""

    algorithm: str
    preset: str
    options: dict[str, Any]
    """Over the preset, `steps` among them."""
    seeds: int
    eval_every: int
    episodes: int
    final_episodes: int | None
    """Of the last evaluation, where it has another number."""
    sources: tuple[str, ...]
    """Where these are published; none at a scale of ours."""

    @property
    def steps(self) -> int:
        return self.options["steps"]

    def config(self, task: str, data: str) -> Any:
        """The resolved Config on that task; `data` is the data set's name."""
        if self.algorithm in PEERS:
            return override(PEERS[self.algorithm].config(), self.options)
        return configure(self.algorithm, self.preset, find_task(task), self.options, data)


def setup_of(trial: Trial, options: Options) -> Setup:
    """What the scale makes of a trial; at `full` the published protocol of its column and task."""
    check(options)
    if trial.run in PEERS:
        algorithm, preset, given = trial.run, "default", {}
    else:
        algorithm, preset, given = parse_run(trial.run)
    if options.scale == FULL:
        found = published(trial.paper, algorithm, trial.task)
        values = {**found.options, **given, "steps": options.steps or found.updates}
        seeds, every = options.seeds or found.seeds, min(found.evaluate_every, values["steps"])
        lengths = found.episodes, found.final_episodes
        return Setup(algorithm, preset, values, seeds, every, *lengths, found.sources)
    scale = SCALES[options.scale]
    steps = max(options.steps or scale.steps, scale.online_steps if trial.online else 0)
    known = {} if trial.run in PEERS else vars(REGISTRY[algorithm].config())  # a transformer has no `hidden`
    values = {name: value for name, value in scale.options.items() if name in known}
    values |= {"warmup": 20} if trial.online and values else {}
    every = max(1, steps // scale.evaluations)
    seeds = options.seeds or scale.seeds
    return Setup(algorithm, preset, values | given | {"steps": steps}, seeds, every, scale.episodes, None, ())


# --- What they resolve to --------------------------------------------------------


class Resolved(NamedTuple):
    """A column on a task, as it would run."""

    item: str
    """`table 2`."""
    column: str
    trial: Trial
    setup: Setup
    stages: tuple[tuple[str, int], ...]
    """Names and updates; online, steps of the environment."""
    config: dict[str, Any]
    """All options, JSON-ready; `preprocess.obs` and the like by these names."""

    def to_json(self) -> dict[str, Any]:
        setup = self.setup
        return {
            "item": self.item,
            "column": self.column,
            "task": self.trial.task,
            "run": self.trial.run,
            "seeds": setup.seeds,
            "stages": dict(self.stages),
            "eval_every": setup.eval_every,
            "episodes": setup.episodes,
            "final_episodes": setup.final_episodes or setup.episodes,
            "options": self.config,
            "sources": list(setup.sources),
        }


def resolve(paper: str, kind: str = "", number: str = "", options: Options | None = None) -> list[Resolved]:
    """Every column and task of a paper's tables and figures, or of one of them. Nothing is trained or read.

    >>> row = resolve("misa", "table", "2")[0]
    >>> row.column, row.trial.task, row.stages, row.setup.seeds
    ('BC', 'halfcheetah-medium-v2', (('train', 1000000),), 5)
    """
    options = options or Options(scale=FULL)
    found = []
    for (k, n), item in load(paper).items():
        if k == "text" or not item.runs or (number and (k, n) != (kind, number)):
            continue
        for column, run in item.runs_at(options.scale).items():
            for task in tasks_of(item):
                trial = Trial(task, run, item.online, paper)
                setup = setup_of(trial, options)
                config = setup.config(task, task)
                stages = stages_of(setup.algorithm, config, task)
                found.append(Resolved(f"{k} {n}", column, trial, setup, stages, flat(to_json(config))))
    if not found:
        raise BadInput(f"{kind} {number} of '{paper}' is worked out on the spot: it has no runs")
    return found


def tasks_of(item: Printed) -> list[str]:
    """All its tasks: a table has them as rows, or rows are means over them; of a choice, both."""
    of_rows = [task for row in item.rows for task in tasks_of_row(row)]
    return of_rows or [*item.tasks, *item.instead]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """
    >>> flat({"k": 5, "preprocess": {"obs": "none"}})
    {'k': 5, 'preprocess.obs': 'none'}
    """
    found = {}
    for name, value in values.items():
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


@functools.cache
def stages_of(algorithm: str, config: Any, task: str) -> tuple[tuple[str, int], ...]:
    """The stages that `build` makes of the Config, those of no length left out."""
    if algorithm in PEERS:
        return (("train", config.steps),)
    place = find_task(task)
    one = (1.0,) * place.action_dim
    space = Discrete(place.action_dim) if place.discrete else Box((-1.0,) * place.action_dim, one)
    built = REGISTRY[algorithm].build(config, Spec(place.obs_dim, space))
    return tuple((stage.name, stage.steps) for stage in built.stages if stage.steps)


# --- As Markdown -----------------------------------------------------------------


def listing(papers: Iterable[str] = PAPERS) -> str:
    """All papers' resolved configurations at scale `full`, as `leashrl paper --protocol` prints them."""
    lines = [
        "# What every column runs at scale `full`",
        "",
        "Made by `leashrl paper --protocol > benchmarks/results/protocols.md` from what the runs themselves",
        "read. Stages in front of the last are pre-training. Below each table stands where its values were",
        "published, then every option of every run.",
    ]
    for paper in papers:
        lines += ["", f"## {paper}", "", *markdown(resolve(paper))]
    return "\n".join(lines)


def markdown(found: list[Resolved]) -> list[str]:
    """A row for each column, several where its tasks differ; the sources; the options of each run."""
    rows: dict[tuple, list[str]] = {}
    for row in found:
        setup = row.setup
        final = setup.final_episodes or setup.episodes
        lengths = " + ".join(f"{name} {steps:,}" for name, steps in row.stages)
        evaluated = f"{setup.eval_every:,}", f"{setup.episodes:,}", f"{final:,}"
        key = (row.item, row.column, f"`{row.trial.run}`", lengths, str(setup.seeds), *evaluated)
        rows.setdefault(key, []).append(row.trial.task)
    tasks = {
        item: [r.trial.task for r in found if r.item == item] for item in dict.fromkeys(r.item for r in found)
    }
    head = ["item", "column", "run", "tasks", "updates", "seeds", "evaluated every", "episodes", "at the end"]
    body = [[*key[:3], named(mine, tasks[key[0]]), *key[3:]] for key, mine in rows.items()]
    return [*grid([head, *body]), "", *sources(found), "", *options_of(found)]


def sources(found: Iterable[Resolved]) -> list[str]:
    """Where the values were published, by algorithm; the paper's own words once."""
    said: dict[str, dict[str, None]] = {}
    for row in found:
        for words in row.setup.sources:
            said.setdefault(words, {})[row.setup.algorithm] = None
    everyone = {row.setup.algorithm for row in found}
    whose = lambda names: "" if set(names) == everyone else f"{', '.join(names)}: "
    return [f"- {whose(names)}{words}" for words, names in said.items()]


def options_of(found: Iterable[Resolved]) -> list[str]:
    """Every option of every run: what all its tasks share, then what a task has of its own."""
    configs: dict[str, dict[str, dict[str, Any]]] = {}
    for row in found:
        configs.setdefault(row.trial.run, {})[row.trial.task] = row.config
    lines = []
    for run, by_task in configs.items():
        first = next(iter(by_task.values()))
        shared = {k: v for k, v in first.items() if all(c[k] == v for c in by_task.values())}
        lines.append(f"- `{run}`: {assignments(shared)}")
        groups: dict[str, list[str]] = {}
        for task, config in by_task.items():
            own = assignments({k: v for k, v in config.items() if k not in shared})
            groups.setdefault(own, []).append(task)
        lines += [f"    - {named(mine, list(by_task))}: {own}" for own, mine in groups.items() if own]
    return lines


def assignments(config: Mapping[str, Any]) -> str:
    return f"`{' '.join(f'{name}={text(value)}' for name, value in config.items())}`" if config else ""


def text(value: Any) -> str:
    """As `--set` takes it.

    >>> text([256, 256]), text(True), text(1e-4), text(float("inf"))
    ('256,256', 'true', '0.0001', 'inf')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def named(tasks: Iterable[str], of: Iterable[str]) -> str:
    """Some tasks of an item: `all`, whole domains by their names, else each.

    >>> named(["pen-human-v0", "hopper-medium-v2"], ["pen-human-v0", "hopper-medium-v2", "hopper-random-v2"])
    'adroit, hopper-medium-v2'
    """
    tasks, of = list(dict.fromkeys(tasks)), list(dict.fromkeys(of))
    if set(tasks) == set(of):
        return "all" if len(of) > 1 else of[0]
    words = []
    for domain in dict.fromkeys(TASKS[task].domain for task in tasks):
        mine = [task for task in tasks if TASKS[task].domain == domain]
        whole = [task for task in of if TASKS[task].domain == domain]
        words += [domain] if mine == whole else mine
    return ", ".join(words)


def grid(rows: list[list[str]]) -> list[str]:
    """Rows as an aligned Markdown table, the first of them its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    line = lambda cells: f"| {' | '.join(c.ljust(w) for c, w in zip(cells, widths, strict=True))} |"
    return [line(rows[0]), line(["-" * w for w in widths]), *map(line, rows[1:])]
