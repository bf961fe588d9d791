"""What the documentation takes from the code: algorithm pages, the API's pages, formulas as MathML.

mkdocs runs it as a hook. A page under `algorithms/` or `api/` shows what is generated for it where it says
`<!-- generated -->`. A page that nobody wrote by hand is a title and that line; so to add a section to an
algorithm's page, write `docs/algorithms/NAME.md` around the line.
"""

import dataclasses
import functools
import html
import inspect
import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import latex2mathml.converter
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

from leashrl.algos import REGISTRY
from leashrl.core import EXPLAINED, Entry, Preprocess, override
from leashrl.types import Box, Discrete, Spec

MARK = "<!-- generated -->"
ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "leashrl"

# --- Algorithms --------------------------------------------------------------


def algorithm(name: str, entry: Entry) -> str:
    """The page of one algorithm: paper, equations, options, presets, domains.

    Raises:
      PluginError: a field of the Config that its docstring does not explain.
    """
    about, sections = split(inspect.getdoc(entry.config) or "")
    meaning = EXPLAINED | arguments(sections.pop("Args", ""))
    fields = dataclasses.fields(entry.config)
    if lost := [f.name for f in fields if f.name not in meaning]:
        raise PluginError(f"{name}: the docstring of its Config does not explain {', '.join(lost)}")
    default = flat(dataclasses.asdict(entry.config()))
    rows = []
    for text, group in itertools.groupby(fields, key=lambda f: meaning[f.name]):  # explained together
        names, values = zip(
            *((code(f.name) + " ∗" * (f.type is float), show(f.name, default)) for f in group), strict=True
        )
        rows.append([", ".join(names), ", ".join(values), text])

    parts = [f"*{entry.paper}*", f"```\nleashrl train {name} --data FILE --task TASK --out DIR\n```", about]
    parts += [
        "## Options",
        "Those marked ∗ are carried in the state as scalars: one compiled program trains many values of them "
        "at once. The others are built into the program.",
        table(["option", "default", "meaning"], rows),
    ]
    if any(f.name == "precision" for f in fields):
        parts += ["## Precision", precision(name, entry)]
    if modes := acting(entry):
        parts += ["## Modes", "How a trained policy acts (`--mode`); the first is the algorithm's own."]
        parts += [table(["presets", "modes"], modes)]
    presets = {preset: flat(row.values) for preset, row in entry.presets.items()}
    if presets:
        parts += ["## Presets", "Chosen with `--preset NAME`. A dash is the default above."]
        parts += [
            table(["preset", "where it comes from"], [[code(n), p.about] for n, p in entry.presets.items()])
        ]
        parts += [differences(presets, default)]
    if entry.domains:
        overlay = lambda domains: differences({d: flat(values) for d, values in domains.items()}, default)
        parts += ["## Domains", "Laid over the preset, by the task's domain.", overlay(entry.domains)]
        own = [(code(n), row.domains) for n, row in entry.presets.items() if row.domains is not None]
        for i, (_, domains) in enumerate(own):
            if domains not in [d for _, d in own[:i]]:
                names = ", ".join(name for name, d in own if d == domains)
                parts += [f"In its place, for {names}:", overlay(domains)]
    parts += [f"## {title}\n\n{body}" for title, body in sections.items()]
    return "\n\n".join(parts)


def precision(name: str, entry: Entry) -> str:
    """What `precision=auto` does, and by what measurement."""
    found = sorted((ROOT / "benchmarks" / "results" / "precision").glob("*.json"))
    compared = any(json.loads(file.read_text())["algorithm"] == name for file in found)
    if entry.bfloat16:
        return (
            "`precision=auto` takes bfloat16 where the machine gains by it: the scores of five seeds were "
            "compared with float32's, and differ by no more than chance (`benchmarks/results/precision.md`)."
        )
    why = "differed by more than chance" if compared else "were not compared"
    return (
        f"`precision=auto` is float32: scores in bfloat16 {why} (`benchmarks/results/precision.md`). "
        "`--set precision=bfloat16` takes it all the same."
    )


def acting(entry: Entry) -> list[list[str]]:
    """The presets that act alike, and their modes."""
    found: dict[str, list[str]] = {}
    actions = [Box((-1.0,), (1.0,)), Discrete(2)] if entry.discrete else [Box((-1.0,), (1.0,))]
    for preset, row in entry.presets.items():
        config = override(entry.config(), row.values)
        by_space = (entry.build(config, Spec(2, action)).policy.modes for action in actions)
        modes = "; of discrete actions ".join(", ".join(map(code, modes)) for modes in by_space)
        found.setdefault(modes, []).append(code(preset))
    return [[", ".join(presets), modes] for modes, presets in found.items()]


def algorithms() -> str:
    """The table of all algorithms."""
    rows = [
        [f"[{name}]({name}.md)", entry.paper, ", ".join(map(code, entry.presets))]
        for name, entry in sorted(REGISTRY.items())
    ]
    return table(["name", "paper", "presets"], rows)


def split(doc: str) -> tuple[str, dict[str, str]]:
    """A docstring as its text and its sections, `Word:` lines with an indented block below them.

    >>> split("One line.\\n\\nArgs:\\n  x: a number.\\n    Really.\\n\\nReferences:\\n  Ma (2023).")
    ('One line.', {'Args': 'x: a number.\\n  Really.', 'References': 'Ma (2023).'})
    """
    text, *rest = re.split(r"^([A-Z]\w+):\n(?=[ ]+\S)", doc, flags=re.MULTILINE)
    return text.strip(), {
        title: inspect.cleandoc(body) for title, body in zip(rest[::2], rest[1::2], strict=True)
    }


def arguments(block: str) -> dict[str, str]:
    """`Args` by name; one line may explain several.

    >>> arguments("a, b: rates,\\n  both.\\nc: a size.")
    {'a': 'rates, both.', 'b': 'rates, both.', 'c': 'a size.'}
    """
    found = {}
    for names, meaning in re.findall(r"^(\w[\w, ]*): *(.*(?:\n+[ ].*)*)", block, flags=re.MULTILINE):
        found |= dict.fromkeys(re.split(r", *", names), " ".join(meaning.split()))
    return found


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names.

    >>> flat({"k": 50, "preprocess": {"obs": "none"}})
    {'k': 50, 'preprocess.obs': 'none'}
    """
    result = {}
    for name, value in values.items():
        nested: Any = vars(value) if isinstance(value, Preprocess) else value
        result |= flat(nested, f"{prefix}{name}.") if isinstance(nested, Mapping) else {prefix + name: value}
    return result


def show(name: str, default: Mapping[str, Any]) -> str:
    """A default, or the defaults of a nested option's parts."""
    parts = [
        f"{key.removeprefix(name + '.')}={value}"
        for key, value in default.items()
        if key.startswith(name + ".")
    ]
    return code(", ".join(parts) if parts else default[name])


def differences(columns: Mapping[str, Mapping[str, Any]], default: Mapping[str, Any]) -> str:
    """A table of named sets of values, a row for each option that one of them sets."""
    names = [name for name in default if any(name in values for values in columns.values())]
    rows = [
        [code(name), code(default[name])]
        + [
            code(values[name]) if values.get(name, default[name]) != default[name] else "–"
            for values in columns.values()
        ]
        for name in names
    ]
    return table(["option", "default", *columns], rows) if rows else "They set nothing but defaults."


def code(value: Any) -> str:
    return f"`{value}`" if str(value) else "–"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table. Outside of code, `|` and `*` in a cell are the papers' signs, not Markdown's."""

    def cell(text: str) -> str:
        spans = re.split(r"(`[^`]*`)", text)
        return "".join(
            s if s.startswith("`") else s.replace("|", "&#124;").replace("*", r"\*") for s in spans
        )

    lines = [head, ["---"] * len(head), *[[cell(text) for text in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- API ---------------------------------------------------------------------


def api() -> dict[str, list[str]]:
    """The modules by part of the house, in the order of the alphabet: {"ops": ["leashrl.ops.mi", ...]}."""
    parts: dict[str, list[str]] = {}
    for path in sorted(SRC.rglob("*.py")):
        names = path.relative_to(SRC).with_suffix("").parts
        names = names[:-1] if names[-1] == "__init__" else names
        if names and not names[-1].startswith("_"):
            parts.setdefault(names[0], []).append(".".join(["leashrl", *names]))
    return parts


# --- Hooks -------------------------------------------------------------------


@functools.cache
def generated() -> dict[str, str]:
    """What replaces the mark, by page."""
    pages = {f"algorithms/{name}.md": algorithm(name, entry) for name, entry in REGISTRY.items()}
    pages["algorithms/index.md"] = algorithms()
    parts = api()
    pages["api/index.md"] = "\n".join(f"- [leashrl.{part}]({part}.md)" for part in parts)
    return pages | {
        f"api/{part}.md": "\n\n".join(f"::: {module}" for module in modules)
        for part, modules in parts.items()
    }


def on_config(config: Any) -> Any:
    """The generated pages' places in the navigation."""
    for item in config.nav:
        for folder, pages in item.items() if isinstance(item, dict) else ():
            if isinstance(pages, list):
                below = sorted(page for page in generated() if page.startswith(pages[0].split("/")[0] + "/"))
                item[folder] = [*pages, *({Path(page).stem: page} for page in below if page not in pages)]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Pages that nobody wrote by hand."""
    for page in generated():
        if files.get_file_from_path(page) is None:
            title = Path(page).stem if page.startswith("algorithms/") else f"leashrl.{Path(page).stem}"
            files.append(File.generated(config, page, content=f"# {title}\n\n{MARK}\n"))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The mark, replaced."""
    text = generated().get(page.file.src_uri)
    if text is None:
        return markdown
    if MARK not in markdown:
        raise PluginError(f"docs/{page.file.src_uri} needs a line '{MARK}': there its generated part is put")
    return markdown.replace(MARK, text)


def on_page_content(text: str, **_: Any) -> str:
    r"""Formulas as MathML, which browsers draw by themselves: no script, no font, nothing fetched.

    >>> on_page_content('<span class="arithmatex">\\(x_1 &lt; 2\\)</span>')[:46]
    '<math xmlns="http://www.w3.org/1998/Math/MathM'
    """

    def mathml(match: re.Match[str]) -> str:
        display = "block" if match[1] == "div" else "inline"
        return latex2mathml.converter.convert(html.unescape(match[2]), display=display)

    return re.sub(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', mathml, text, flags=re.DOTALL)
