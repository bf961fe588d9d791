"""What can be looked up: `algos`, `tasks`; and how tables and JSON are printed."""

import dataclasses
import inspect
import json
import re
import shutil
import sys
import textwrap
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from leashrl.cli.arguments import Parser
from leashrl.errors import BadInput

# --- Printing ----------------------------------------------------------------


def show(args: Namespace, values: Any, lines: Sequence[str]) -> None:
    """The one document that `--json` asks for, or lines for people; on stdout."""
    text = json.dumps(values, indent=2, allow_nan=False) if args.json else "\n".join(lines)
    try:
        print(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise BadInput(f"cannot write to standard output: {error.strerror}") from None


def columns(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Aligned columns; numbers to the right. On a terminal the last column is wrapped to its width.

    >>> columns([["name", "score"], ["a", 1.25], ["bb", None]])
    ['name  score', 'a       1.2', 'bb        -']
    """
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    cells = [[cell(value) for value in row] for row in rows]
    number = [any(isinstance(row[i], int | float) for row in rows) for i in range(len(rows[0]))]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = []
    for row in cells:
        parts = [
            text.rjust(size) if right else text.ljust(size)
            for text, size, right in zip(row, widths, number, strict=True)
        ]
        head, last = "  ".join(parts[:-1]), parts[-1]
        room = width - len(head) - 2
        if width and len(last.rstrip()) > room >= 20:
            wrapped = textwrap.wrap(last, room)
            lines += [f"{head}  {wrapped[0]}", *(" " * (len(head) + 2) + line for line in wrapped[1:])]
        elif width and len(last.rstrip()) > room and head:
            lines += [
                head.rstrip(),
                *textwrap.wrap(last, width, initial_indent="    ", subsequent_indent="    "),
            ]
        else:
            lines.append(f"{head}  {last}".rstrip() if head else last.rstrip())
    return lines


def cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


# --- leashrl algos -----------------------------------------------------------


def algos_arguments(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="one algorithm, with all its options")


def algos(args: Namespace) -> int:
    from leashrl.algos import REGISTRY
    from leashrl.runs.peers import PEERS

    if args.name in PEERS:
        found = describe_peer(args.name)
        show(args, {"algorithm": found}, _peer_lines(found))
        return 0
    if args.name:
        found = describe(args.name)
        show(args, {"algorithm": found}, _describe_lines(found))
        return 0
    known = lambda entry: {"paper": entry.paper, "discrete": entry.discrete, "online": entry.online}
    rows = [
        {"name": name, **known(entry), "presets": list(entry.presets)}
        for name, entry in sorted(REGISTRY.items())
    ]
    rows += [
        {
            "name": name,
            "paper": peer.paper,
            "discrete": False,
            "online": True,
            "presets": [],
            "extra": "peers",
        }
        for name, peer in PEERS.items()
    ]
    head = ["name", "discrete", "online", "paper", "presets"]
    mark = lambda value: "yes" if value else ""
    presets = lambda row: ", ".join(row["presets"]) or f"with pip install 'leashrl[{row['extra']}]'"
    listing = [
        [row["name"], mark(row["discrete"]), mark(row["online"]), row["paper"], presets(row)] for row in rows
    ]
    show(args, {"algorithms": rows}, columns([head, *listing]))
    return 0


def describe(name: str) -> dict[str, Any]:
    """All that the registry knows of an algorithm; `default` is a value under the default preset."""
    from leashrl.core import override, to_json
    from leashrl.runs.plan import configure, find_algorithm

    entry = find_algorithm(name)
    presets = {preset: flat(to_json(configure(name, preset, None, {}))) for preset in entry.presets}
    default = presets["default"]
    doc = inspect.getdoc(entry.config) or ""
    about, kinds = explained(entry.config)
    options = []
    for option, value in default.items():
        kind = kinds[option]
        options.append(
            {
                "name": option,
                "type": getattr(kind, "__name__", "str")
                if kind in (bool, int, float, str)
                else "int,int,...",
                "varies": kind is float,
                "default": value,
                "presets": {preset: values[option] for preset, values in presets.items()},
                "about": about.get(option, ""),
            }
        )
    changed = {
        domain: flat(to_json(override(configure(name, "default", None, {}), values)))
        for domain, values in entry.domains.items()
    }
    return {
        "name": name,
        "paper": entry.paper,
        "discrete": entry.discrete,
        "online": entry.online,
        "about": " ".join(doc.split("\n\n")[0].split()),
        "presets": [{"name": preset, "about": row.about} for preset, row in entry.presets.items()],
        "domains": {
            domain: {k: v for k, v in values.items() if v != default[k]} for domain, values in changed.items()
        },
        "options": options,
    }


def describe_peer(name: str) -> dict[str, Any]:
    """The same of an algorithm that the extra `peers` brings: its library's pages explain the options."""
    from leashrl.core import to_json
    from leashrl.runs.peers import PEERS

    config, paper = PEERS[name]
    return {
        "name": name,
        "paper": paper,
        "extra": "peers",
        "about": inspect.getdoc(config),
        "options": [{"name": name, "default": value} for name, value in to_json(config()).items()],
    }


def _peer_lines(found: Mapping[str, Any]) -> list[str]:
    options = [[f"  {option['name']}", text(option["default"])] for option in found["options"]]
    where = "stable-baselines3's: pip install 'leashrl[peers]'"
    head = [found["about"], f"paper: {found['paper']}", where, "", "options (--set NAME=VALUE)"]
    return [*head, *columns(options)]


def _describe_lines(found: Mapping[str, Any]) -> list[str]:
    lines = [found["about"], f"paper: {found['paper']}", "", "options (--set NAME=VALUE; * may --vary)"]
    rows = [
        [f"  {o['name']}{'*' if o['varies'] else ''}", o["type"], text(o["default"]), o["about"]]
        for o in found["options"]
    ]
    lines += columns(rows)
    lines += ["", "presets (--preset NAME), with what they set differently from `default`"]
    rows = []
    for preset in found["presets"]:
        changed = {
            o["name"]: o["presets"][preset["name"]]
            for o in found["options"]
            if o["presets"][preset["name"]] != o["default"]
        }
        rows.append(
            [f"  {preset['name']}", f"{preset['about']}{': ' if changed else ''}{assignments(changed)}"]
        )
    lines += columns(rows)
    if found["domains"]:
        lines += ["", "laid over `default`, by the task's domain (other presets may have their own)"]
        lines += columns([[f"  {domain}", assignments(v)] for domain, v in found["domains"].items()])
    return lines


def assignments(values: Mapping[str, Any]) -> str:
    """`k=10 hidden=256,256`, as `--set` takes it."""
    return " ".join(f"{name}={text(value)}" for name, value in values.items())


def text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names.

    >>> flat({"k": 50, "preprocess": {"obs": "none"}})
    {'k': 50, 'preprocess.obs': 'none'}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def explained(config: type) -> tuple[dict[str, str], dict[str, Any]]:
    """What a Config's docstring says of each option, and the options' types, by dotted names."""
    from leashrl.core import EXPLAINED

    about, kinds = arguments(inspect.getdoc(config) or ""), {}
    for field in dataclasses.fields(config):
        about.setdefault(field.name, EXPLAINED.get(field.name, ""))
        if dataclasses.is_dataclass(kind := field.type):
            parts = explained(kind)  # pyright: ignore[reportArgumentType]
            for mine, found in zip((about, kinds), parts, strict=True):
                mine |= {f"{field.name}.{name}": value for name, value in found.items()}
        else:
            kinds[field.name] = kind
    return about, kinds


def arguments(doc: str) -> dict[str, str]:
    """The `Args` of a docstring by name; one line may explain several.

    >>> arguments("One line.\\n\\nArgs:\\n  a, b: rates,\\n    both.\\n  c: a size.\\n\\nMore:\\n  d: no.")
    {'a': 'rates, both.', 'b': 'rates, both.', 'c': 'a size.'}
    """
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)*)", doc, flags=re.MULTILINE)
    found: dict[str, str] = {}
    block = inspect.cleandoc(section[1]) if section else ""
    for names, meaning in re.findall(r"^(\w[\w, ]*): *(.*(?:\n+[ ].*)*)", block, flags=re.MULTILINE):
        found |= dict.fromkeys(re.split(r", *", names), " ".join(meaning.split()))
    return found


# --- leashrl tasks -----------------------------------------------------------


def tasks_arguments(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="one task, with all that is known of it")


def default_of_data(name: str) -> bool:
    """Whether an OGBench task is the default one of a data set, which stands for its five in the list."""
    from leashrl.tasks.ogbench import parse

    parts = parse(name)
    return parts is not None and parts.kind is not None and parts.task is None


def tasks(args: Namespace) -> int:
    from leashrl.tasks import TASKS
    from leashrl.tasks import task as find

    if args.name:
        from leashrl.algos import REGISTRY

        row = dataclasses.asdict(find(args.name))
        row["domain_defaults"] = {
            name: dict(entry.domains[row["domain"]])
            for name, entry in sorted(REGISTRY.items())
            if row["domain"] in entry.domains
        }
        listing = [[name, text(value)] for name, value in row.items() if name != "domain_defaults"]
        listing += [[f"{name} sets", assignments(v)] for name, v in row["domain_defaults"].items()]
        show(args, {"task": row}, columns(listing))
        return 0
    head = ["name", "environment", "steps", "min", "max", "episodes", "data file", "papers"]
    rows = [
        [
            t.name,
            t.env_id,
            t.max_episode_steps,
            t.min_score,
            t.max_score,
            t.episodes,
            t.data_file,
            ", ".join(t.papers),
        ]
        for t in TASKS.values()
        if t.domain != "ogbench" or default_of_data(t.name)
    ]
    lines = [
        *columns([head, *rows]),
        "",
        "OGBench's data sets serve five tasks each: cube-single-play-singletask-task1-v0 to -task5-v0.",
        "The name without a number is the default one; without a data type (cube-single-singletask-v0)",
        "it is for your own data.",
        "`leashrl tasks NAME` says what differs from the benchmark's environment.",
    ]
    show(args, {"tasks": [dataclasses.asdict(task) for task in TASKS.values()]}, lines)
    return 0
