"""Where the numbers come from: options that differ, the data, versions, folders."""

from collections.abc import Sequence
from typing import Any

from leashrl.report.markup import Markup, folded, heads, join, keys, scrolled, tag
from leashrl.report.reading import Line, Row, Run, text

PLAN = ("task", "episodes", "eval_every")
"""What of the plan, beside the algorithm's options, can make two runs hard to compare."""


def sections(runs: Sequence[Run], lines: Sequence[Line]) -> list[tuple[str, str, Markup]]:
    """(id, heading, body) of each."""
    return [
        ("configuration", "Configuration", configuration(lines)),
        ("data-card", "Data", data_cards(lines)),
        ("versions", "Versions", join([versions(runs), folders(lines)])),
    ]


# --- Options -----------------------------------------------------------------


def configuration(lines: Sequence[Line]) -> Markup:
    """The options that differ between the runs shown; the others folded away."""
    alone = len({line.place for line in lines}) == 1
    columns: dict[str, Row] = {}
    for line in lines:
        run, varied = line.members[0].run, line.members[0].values
        plan = {f"({name})": run.config.get(name) for name in PLAN}
        own = {name: value for name, value in varied.items() if name != "seed"}
        columns[line.label if alone else f"{line.label}, {line.place}"] = run.options | plan | own
    if len(columns) == 1:
        return keys({name: text(value) for column in columns.values() for name, value in column.items()})
    values: dict[str, list[str]] = {}
    for column in columns.values():
        for name, value in column.items():
            values.setdefault(name, []).append(text(value))
    differ = [name for name, found in values.items() if len(set(found)) > 1]
    same = {
        name: found[0] for name, found in values.items() if name not in differ and len(found) == len(columns)
    }
    some = [name for name in values if name not in differ and name not in same]
    about = "Options that differ between the settings; an empty cell: no such option."
    return join(
        [
            [tag("p", about, class_="about"), grid(differ, columns)] if differ else None,
            folded(f"{len(some)} options that only some algorithms have", "", grid(some, columns))
            if some
            else None,
            folded(f"{len(same)} options that all share", "", keys(same)) if same else None,
        ]
    )


def grid(names: Sequence[str], columns: dict[str, Row]) -> Markup:
    rows = [
        tag("tr", tag("th", label, scope="row"), [tag("td", text(row[n]) if n in row else "") for n in names])
        for label, row in columns.items()
    ]
    return scrolled([tag("td"), *heads(names)], rows, class_="options")


# --- Data --------------------------------------------------------------------


def data_cards(lines: Sequence[Line]) -> Markup:
    """A card a data set: what the runs' configuration says, and what `--diagnose` has counted."""
    parts, several = [], len({line.place for line in lines}) > 1
    for place in dict.fromkeys(line.place for line in lines):
        here = [m.run for line in lines if line.place == place for m in line.members]
        counted = next(
            (r.diagnostics["data"] for r in here if r.diagnostics and r.diagnostics.get("data")), {}
        )
        rows = card(here[0].config["data"], counted, here[0].config.get("task"))
        parts.append(tag("div", tag("h3", place) if several else None, keys(rows), data_place=place))
    return join(parts)


def card(data: Row, counted: Row, task: Any) -> Row:
    if data.get("source") == "online":
        return {"evaluated on": task, "data": "none: the members act in the task's environment"}
    rows: Row = {"name": data.get("name"), "evaluated on": task or "nothing"}
    rows["source"] = data.get("source") or "arrays in memory"
    for name in ("rows", "transitions"):
        rows[name] = f"{data[name]:,}" if isinstance(data.get(name), int) else None
    space = data.get("action_space") or {}
    assumed = " (assumed: the file does not say)" if data.get("action_space_assumed") else ""
    if space.get("kind") == "Discrete":
        rows["actions"] = f"{space['n']} discrete ones"
    elif space.get("kind") == "Box":
        ranges = sorted(
            {f"[{low:g}, {high:g}]" for low, high in zip(space["low"], space["high"], strict=False)}
        )
        rows["actions"] = f"{len(space['low'])} numbers in {', '.join(ranges)}{assumed}"
    if counted:
        lengths, returns = counted["length"], counted["return"]
        rows["episodes"] = f"{counted['episodes']:,}; lengths {lengths['min']:,.0f} to {lengths['max']:,.0f}"
        whole = f"{returns['min']:,.1f} to {returns['max']:,.1f}"
        rows["returns"] = f"mean {returns['mean']:,.1f}, median {returns['median']:,.1f}, {whole}"
        rows["rewards"] = f"{counted['reward']['min']:.4g} to {counted['reward']['max']:.4g}"
    rows["SHA-256"] = data.get("hash")
    return {name: value for name, value in rows.items() if value is not None}


# --- Versions and folders ----------------------------------------------------


def versions(runs: Sequence[Run]) -> Markup:
    """One value where all runs agree; where they do not, each with how many have it."""
    found: dict[str, dict[str, int]] = {}
    for run in runs:
        for name, value in run.config["versions"].items():
            counts = found.setdefault(str(name), {})
            counts[str(value)] = counts.get(str(value), 0) + 1
    differ = any(len(counts) > 1 for counts in found.values())
    note = tag("p", "The runs were not all made with the same versions.", class_="about") if differ else None
    several = lambda counts: ", ".join(f"{value} ({n} runs)" for value, n in counts.items())
    rows = {
        name: next(iter(counts)) if len(counts) == 1 else several(counts) for name, counts in found.items()
    }
    return join([note, keys(rows)])


def folders(lines: Sequence[Line]) -> Markup:
    rows = [
        (line, folder) for line in lines for folder in dict.fromkeys(str(m.run.folder) for m in line.members)
    ]
    body = [
        tag("tr", tag("td", line.label), tag("td", line.place, class_="soft"), tag("td", folder))
        for line, folder in rows
    ]
    return folded(f"{len({folder for _, folder in rows})} folders", "", scrolled([], body))
