"""What a run is before it starts: algorithm, options, data, task, members; checked."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leashrl.algos import REGISTRY, bring_in, home_of
from leashrl.core import Entry, override, to_json, tunable
from leashrl.data import Dataset
from leashrl.disk.folder import member_name
from leashrl.errors import BadInput, nearest
from leashrl.nn import resolved
from leashrl.tasks import Task, guess, places
from leashrl.tasks import task as find_task
from leashrl.types import Discrete, Space


@dataclass(frozen=True)
class Switch:
    """Where a fine-tuned run goes from offline to online, and how it then acts."""

    folder: str
    """The offline run's."""
    step: int
    """Updates of the offline run's last stage."""
    checkpoint: str
    """sha256 of the arrays that it went on from."""
    offline_share: float = 0.5
    """Of each batch, from the data set; the rest is what the member has seen since."""
    warmup: int = 1000
    """Environment steps of the offline policy before the first update."""
    every: int = 50
    """Environment steps between two looks at the policy."""
    updates_per_step: int = 1
    """Updates per environment step."""
    noise: float = 0.1
    """Standard deviation of the Gaussian noise on the actions of a policy that draws none, in [-1, 1]."""

    def __post_init__(self) -> None:
        for name in ("warmup", "every", "updates_per_step"):
            if getattr(self, name) < 1:
                raise BadInput(f"'{name}' must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.offline_share <= 1:
            raise BadInput(f"'offline_share' must be from 0 to 1, not {self.offline_share:g}")
        if not 0 <= self.noise < math.inf:
            raise BadInput(f"'noise' must be at least 0, not {self.noise:g}")


@dataclass(frozen=True)
class Plan:
    """All that a run is, before it starts; `config.json` is this and the versions."""

    algorithm: str
    preset: str
    config: Any
    """The algorithm's Config, with preset, domain and options applied."""
    data: dict[str, Any]
    """`source` (path or id, None for arrays in memory), and what `describe` says."""
    task: str | None
    """Where it is evaluated; None trains without evaluation."""
    members: tuple[dict[str, float], ...]
    """One row a member: its `seed`, and its values of the hyper-parameters that vary."""
    log_every: int
    eval_every: int
    episodes: int
    eval_seed: int = 0
    snapshots: bool = False
    select: str = "last"
    """What becomes the run's policy: the `last` state's, or the snapshot that `fqe` finds best."""
    switch: Switch | None = None
    """Of a run that began offline and goes on online."""
    final_episodes: int | None = None
    """Of the last evaluation, where it has another number."""

    def to_json(self) -> dict[str, Any]:
        values = dataclasses.asdict(self) | {"config": to_json(self.config), "members": list(self.members)}
        module = home_of(self.config)
        return values | ({"module": module} if module else {})

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Plan":
        """The inverse of `to_json`; a key that is missing or of another kind raises KeyError or TypeError."""
        entry = find_algorithm(values["algorithm"], values.get("module"))
        # Older versions had none of these.
        older = {"snapshots": False, "select": "last", "switch": None, "final_episodes": None}
        values = older | dict(values)
        values["switch"] = values["switch"] and Switch(**values["switch"])
        fields = {f.name: values[f.name] for f in dataclasses.fields(Plan)}
        before = {"precision": "float32"} if hasattr(entry.config, "precision") else {}
        fields["config"] = override(entry.config(), before | dict(values["config"]))
        fields["members"] = tuple(dict(member) for member in values["members"])
        return Plan(**fields)


ONLINE: dict[str, Any] = {"source": "online", "hash": None}
"""`Plan.data` of a run that learns from what it sees of its task's environment."""

LONGEST_NAME = 200
"""Of a member: file systems take 255 bytes, and `.NAME.safetensors.PID` must fit."""

DECISIVE = ("hash", "action_space", "max_episode_steps", "transitions")
"""What of a data set decides the bits of a run."""


def describe(dataset: Dataset) -> dict[str, Any]:
    """A data set as `Plan.data` has it: JSON-ready, so that it equals what was stored."""
    return {
        "name": dataset.name,
        "hash": dataset.hash,
        "rows": len(dataset),
        "transitions": len(dataset.rows("bellman")),
        "action_space": describe_space(dataset.action_space),
        "action_space_assumed": dataset.action_space_assumed,
        # Where the data say themselves where episodes are cut, the limit decides nothing.
        "max_episode_steps": dataset.max_episode_steps if dataset.timeout is None else None,
        **({"columns": dataset.columns.to_json()} if dataset.columns else {}),
    }


def describe_space(space: Space) -> dict[str, Any]:
    """An action space in JSON: `kind` is `Box`, with `low` and `high`, or `Discrete`, with `n`."""
    if isinstance(space, Discrete):
        return {"kind": "Discrete", "n": int(space.n)}
    return {"kind": "Box", "low": [float(x) for x in space.low], "high": [float(x) for x in space.high]}


def find_algorithm(name: str, module: str | None = None) -> Entry:
    """The registry's entry, one's own brought in (from `module`); or BadInput with the nearest name."""
    if name not in REGISTRY:
        bring_in(name, module)
    if name not in REGISTRY:
        own = "; one of your own comes by --import MODULE"
        raise BadInput(f"no algorithm '{name}': {nearest(name, REGISTRY)}{own}")
    return REGISTRY[name]


def chosen(algorithm: str, config: Any) -> Any:
    """The Config with its precision chosen for this machine, where it says `auto`."""
    if not hasattr(config, "precision"):  # an algorithm of the user's own
        return config
    shown = find_algorithm(algorithm).bfloat16
    return dataclasses.replace(config, precision=resolved(config.precision, shown))


def parse_run(text: str) -> tuple[str, str, dict[str, str]]:
    """A run in short, `ALGORITHM[:PRESET][+OPTION=VALUE]...`: algorithm, preset, options.

    >>> parse_run("misa:authors+k=5+hidden=8,8")
    ('misa', 'authors', {'k': '5', 'hidden': '8,8'})
    """
    name, *words = text.split("+")
    algorithm, _, preset = name.partition(":")
    find_algorithm(algorithm)
    options = {option: value for option, _, value in (word.partition("=") for word in words)}
    if len(options) < len(words) or not all(options.values()) or "" in options:
        raise BadInput(
            f"'{text}' is not ALGORITHM[:PRESET][+OPTION=VALUE]...: each option once, with a value"
        )
    return algorithm, preset or "default", options


def configure(
    algorithm: str, preset: str, place: Task | None, options: Mapping[str, Any], data: str = ""
) -> Any:
    """The algorithm's Config: its defaults, the preset, what the task and its data set, the given options."""
    entry = find_algorithm(algorithm)
    if preset not in entry.presets:
        raise BadInput(f"{algorithm} has no preset '{preset}': {nearest(preset, entry.presets)}")
    config = override(entry.config(), entry.presets[preset].values)
    config = override(config, entry.overlay(preset, *places(place, data)))
    return override(config, options)


def at_least_one(**counts: int) -> None:
    """BadInput that names the first of these numbers that is less than 1."""
    for name, value in counts.items():
        if value < 1:
            raise BadInput(f"'{name}' must be at least 1, not {value}")


def make_members(config: Any, seeds: int | Sequence[int], vary: Mapping[str, Sequence[float]]) -> tuple:
    """All seeds times all combinations of the values that vary, each one row."""
    chosen = list(range(seeds)) if isinstance(seeds, int) else seeds
    if not chosen or len(set(chosen)) < len(chosen):
        raise BadInput(f"seeds must be at least one, and different, not {seeds}")
    combinations = [dict(zip(vary, values, strict=True)) for values in itertools.product(*vary.values())]
    return check_members(config, [{"seed": seed} | row for row in combinations for seed in chosen])


def check_members(config: Any, rows: Sequence[Mapping[str, float]]) -> tuple:
    """Rows of a `seed` and the same hyper-parameters each, with the values that the Config makes of them."""
    known, varying = tunable(config), [name for name in (rows[0] if rows else ()) if name != "seed"]
    for name in varying:
        if name not in known:
            raise BadInput(f"'{name}' cannot vary between members: {nearest(name, known)}")
    if any(row.keys() != {"seed", *varying} for row in rows):
        raise BadInput(f"all members need these: {', '.join(['seed', *varying])}")
    if any(row["seed"] != int(row["seed"]) or not 0 <= row["seed"] < 2**32 for row in rows):
        raise BadInput("seeds must be whole numbers within 0..2^32-1")
    read = lambda row: {name: getattr(override(config, {name: row[name]}), name) for name in varying}
    members = tuple({"seed": int(row["seed"])} | read(row) for row in rows)
    names = [member_name(member) for member in members]
    if not names or len(set(names)) < len(names):
        raise BadInput("each hyper-parameter that varies needs at least one value, and no value twice")
    if len(max(names, key=len)) > LONGEST_NAME:
        raise BadInput(f"too many hyper-parameters vary at once: no file can be named '{names[0]}'")
    return members


def find_place(name: str | None, dataset: Dataset) -> Task | None:
    """The task to evaluate on, its sizes checked against the data; None for no evaluation."""
    if name == "none":
        return None
    place = guess(dataset.name) if name is None else find_task(name)
    if place is None or place.env_id is None:
        return None
    sizes = {
        "observation": (place.obs_dim, dataset.spec.obs_dim),
        "action": (place.action_dim, dataset.spec.action.dim),
    }
    for what, (wanted, found) in sizes.items():
        if wanted is not None and wanted != found:
            raise BadInput(
                f"task '{place.name}' has {what}s of size {wanted}, '{dataset.name}' of size {found}: "
                "give the right --task, or --task none"
            )
    if place.discrete != isinstance(dataset.spec.action, Discrete):
        kinds = ("discrete", "continuous") if place.discrete else ("continuous", "discrete")
        raise BadInput(
            f"task '{place.name}' has {kinds[0]} actions, '{dataset.name}' {kinds[1]} ones: "
            "give the right --task, or --task none"
        )
    return place
