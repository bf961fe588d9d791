"""The file that says what to sweep: read, checked to the last key, and explained where it is wrong."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from leashrl.algos import REGISTRY
from leashrl.core import override
from leashrl.errors import BadInput, nearest
from leashrl.runs.plan import configure
from leashrl.sweep.space import Dimension, Range, Space

KINDS = ("grid", "random", "search")


@dataclass(frozen=True)
class Spec:
    """What `SPEC.toml` says. A *label* is an algorithm as it is written there: `misa` or `misa:authors`."""

    path: Path
    labels: tuple[str, ...]
    data: tuple[str | None, ...]
    """(None,) for runs that learn online."""
    seeds: tuple[int, ...]
    task: str | None
    train: dict[str, Any]
    """Those of `steps`, `eval_every`, `log_every` and `episodes` that are given, for `experiment.train`."""
    options: dict[str, dict[str, Any]]
    """By label: what is the same in all its trials."""
    kind: str
    """`grid`, `random` or `search`."""
    space: dict[str, Space]
    """By label: what differs between trials, apart from seeds."""
    trials: int
    """Points a label and data set, of random and search."""
    seed: int
    at_once: int
    startup: int
    members: int | None
    """The most that one run takes: what fits into memory."""
    out: Path
    num_cpus: int | None
    address: str | None
    cpus_per_run: int
    gpus_per_run: float
    retries: int


def read_spec(path: str | Path) -> Spec:
    """Raises BadInput: one line that names the table, the key and what would be right."""
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise BadInput(f"no file '{path}'") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"cannot read '{path}': {error}") from None
    try:
        return from_table(path, table)
    except BadInput as error:
        raise BadInput(f"'{path}': {error}") from None


def from_table(path: Path, table: Mapping[str, Any]) -> Spec:
    top = checked("", table, TOP)
    labels = top.get("algorithms", ())
    if not labels:
        raise BadInput('algorithms must name at least one, such as ["bc", "misa:authors"]')
    given = [kind for kind in KINDS if kind in table]
    if len(given) > 1:
        raise BadInput(f"[{given[0]}] and [{given[1]}] exclude each other: keep one")
    kind = given[0] if given else "grid"
    own = {name: value for name, value in top.get(kind, {}).items() if name in SEARCHES[kind]}
    own = checked(kind, own, SEARCHES[kind])
    if kind != "grid" and "trials" not in own:
        raise BadInput(f"[{kind}] trials must say how many")
    configs = {label: preset_of(label) for label in labels}
    options, spaces = {}, {}
    for label in labels:
        fixed, free = (mine(t, top.get(t, {}), label, configs) for t in ("options", kind))
        free = {name: value for name, value in free.items() if name not in own}
        options[label] = {n: read_value(f"[options] {n}", configs, label, n, v) for n, v in fixed.items()}
        spaces[label] = {n: read_dimension(f"[{kind}] {n}", configs, label, n, v) for n, v in free.items()}
        names = [*options[label], *spaces[label], *(["steps"] if "steps" in top else [])]
        if twice := [name for name in names if names.count(name) > 1]:
            raise BadInput(f"'{twice[0]}' is given twice for {label}")
        if kind != "grid" and not spaces[label]:
            raise BadInput(f"[{kind}] names nothing to search for {label}")
        if kind == "grid" and any(isinstance(d, Range) for d in spaces[label].values()):
            raise BadInput("[grid] takes lists of values; ranges are for [random] and [search]")
    seeds = top.get("seeds", 3)
    ray = checked("ray", top.get("ray", {}), RAY)
    return Spec(
        path=path,
        labels=labels,
        data=top.get("data", (None,)),
        seeds=tuple(range(seeds)) if isinstance(seeds, int) else seeds,
        task=top.get("task"),
        train={name: top[name] for name in ("steps", "eval_every", "log_every", "episodes") if name in top},
        options=options,
        kind=kind,
        space=spaces,
        trials=own.get("trials", 0),
        seed=own.get("seed", 0),
        at_once=own.get("at_once", 4),
        startup=own.get("startup", 10),
        members=top.get("members"),
        out=Path(top.get("out", f"runs/{path.stem}")),
        num_cpus=ray.get("num_cpus"),
        address=ray.get("address"),
        cpus_per_run=ray.get("cpus_per_run", 1),
        gpus_per_run=ray.get("gpus_per_run", 0.0),
        retries=ray.get("retries", 2),
    )


# --- Options and what is searched --------------------------------------------


def preset_of(label: str) -> Any:
    """The Config that a label begins with."""
    name, _, preset = label.partition(":")
    try:
        return configure(name, preset or "default", None, {})
    except BadInput as error:
        raise BadInput(f"algorithms: {error}") from None


def mine(where: str, table: Mapping[str, Any], label: str, configs: Mapping[str, Any]) -> dict[str, Any]:
    """One label's rows of [options], [grid], [random] or [search]: all labels', its algorithm's, its own.

    `preprocess.obs = ...` is a table in TOML and one option here.
    """
    names = {*configs, *(other.partition(":")[0] for other in configs)}
    for name in table.keys() - names:
        if name.partition(":")[0] in REGISTRY:
            raise BadInput(f"[{where}.{name}] is for none of the algorithms: {nearest(name, names)}")
    found: dict[str, Any] = {}
    for part in (table, table.get(label.partition(":")[0], {}), table.get(label, {})):
        for name, value in part.items():
            if name in names and part is table:
                if not isinstance(value, Mapping):
                    raise BadInput(f"[{where}] {name} is an algorithm: it takes a table, [{where}.{name}]")
                continue
            nested = is_dataclass(getattr(configs[label], name, None)) and isinstance(value, Mapping)
            found |= {f"{name}.{k}": v for k, v in value.items()} if nested else {name: value}
    return found


def read_value(where: str, configs: Mapping[str, Any], label: str, name: str, value: Any) -> Any:
    """A value as the Config's field has it."""
    try:
        if isinstance(value, Mapping):
            raise BadInput(f"'{name}' takes one value, not a table")
        return reduce(getattr, name.split("."), override(configs[label], {name: value}))
    except BadInput as error:
        has = lambda other: hasattr(configs[other], name.partition(".")[0])
        others = [other for other in configs if has(other) and not has(label)]
        table = f"{where.partition(']')[0]}.{others[0]}]" if others else ""
        hint = f"; {others[0]} has it: put it into {table}" if others else ""
        raise BadInput(f"{where}: {label}: {error}{hint}") from None


def read_dimension(where: str, configs: Mapping[str, Any], label: str, name: str, value: Any) -> Dimension:
    """A list of values; or `{low = ..., high = ..., log = true}`."""
    if isinstance(value, list):
        values = tuple(read_value(where, configs, label, name, item) for item in value)
        if not values or len(set(values)) < len(values):
            raise BadInput(f"{where} needs at least one value, and none twice")
        return values
    if not isinstance(value, Mapping):
        raise BadInput(f"{where} must be a list of values or {{low = ..., high = ...}}, not {value!r}")
    entries = checked(where, value, {"low": number, "high": number, "log": flag})
    if not {"low", "high"} <= entries.keys():
        raise BadInput(f"{where} needs both low and high")
    low, high = (read_value(where, configs, label, name, entries[end]) for end in ("low", "high"))
    if isinstance(low, bool) or not isinstance(low, int | float):
        raise BadInput(f"{where} is no number in {label}: give a list of values")
    log = entries.get("log", False)
    if not low < high or (log and low <= 0):
        raise BadInput(f"{where}: low must be below high{', and above 0 where log is true' if log else ''}")
    return Range(low, high, log, isinstance(low, int))


# --- What may stand where ----------------------------------------------------


def checked(where: str, table: Any, known: Mapping[str, Callable]) -> dict[str, Any]:
    """A table with each value read by its key's own function; an unknown key is told with the nearest one."""
    place = where if not where or " " in where else f"[{where}]"
    if not isinstance(table, Mapping):
        raise BadInput(f"{place} must be a table")
    found = {}
    for name, value in table.items():
        here = f"{place} {name}".strip()
        if name not in known:
            raise BadInput(f"no key '{name}'{f' in {place}' if place else ''}: {nearest(name, known)}")
        found[name] = known[name](here, value)
    return found


def whole(least: int) -> Callable[[str, Any], int]:
    def read(where: str, value: Any) -> int:
        number = not isinstance(value, bool) and isinstance(value, int | float)
        if not number or value != value // 1 or value < least:
            raise BadInput(f"{where} must be a whole number of at least {least}, not {value!r}")
        return int(value)

    return read


def number(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInput(f"{where} must be a number, not {value!r}")
    return value


def share(where: str, value: Any) -> float:
    if not number(where, value) >= 0 or (value > 1 and value != value // 1):
        raise BadInput(f"{where} must be a part of one, or a whole number, not {value!r}")
    return float(value)


def flag(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadInput(f"{where} must be true or false, not {value!r}")
    return value


def text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise BadInput(f"{where} must be a text, not {value!r}")
    return value


def texts(where: str, value: Any) -> tuple[str, ...]:
    """One, or several that differ."""
    found = tuple(text(where, item) for item in (value if isinstance(value, list) else [value]))
    if len(set(found)) < len(found):
        raise BadInput(f"{where} names one twice: {', '.join(found)}")
    return found


def seeds(where: str, value: Any) -> int | tuple[int, ...]:
    if not isinstance(value, list):
        return whole(1)(where, value)
    found = tuple(whole(0)(where, item) for item in value)
    if not found or len(set(found)) < len(found):
        raise BadInput(f"{where} must be how many, or a list of different ones, not {value!r}")
    return found


def table(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadInput(f"{where} must be a table, [{where}]")
    return value


TOP = {
    "algorithms": texts,
    "data": texts,
    "task": text,
    "seeds": seeds,
    "steps": whole(1),
    "eval_every": whole(1),
    "log_every": whole(1),
    "episodes": whole(1),
    "members": whole(1),
    "out": text,
    "options": table,
    "grid": table,
    "random": table,
    "search": table,
    "ray": table,
}
SEARCHES = {
    "grid": {},
    "random": {"trials": whole(1), "seed": whole(0)},
    "search": {"trials": whole(1), "seed": whole(0), "at_once": whole(1), "startup": whole(1)},
}
RAY = {
    "num_cpus": whole(0),
    "address": text,
    "cpus_per_run": whole(1),
    "gpus_per_run": share,
    "retries": whole(0),
}
