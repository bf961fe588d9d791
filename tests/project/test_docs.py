"""The documentation: what `docs/generate.py` takes from the code, and the site as a whole."""

import dataclasses
import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from leashrl.algos import REGISTRY
from leashrl.core import Algorithm, Entry, Policy, Preprocess, Preset, override
from leashrl.types import Box, Discrete
from support import ROOT, script

generate, doctests = script("docs/generate.py"), script("docs/doctests.py")


@dataclasses.dataclass(frozen=True)
class Config:
    r"""Toy: nothing at all.

    $$y = x_1$$

    Args:
      steps: how many; steps * batch_size
        rows in all.
      beta, rate: E[log pi(a|s)] and `a|b`.
      preprocess: of the data.

    References:
      Nobody (2020).
    """

    steps: int = 7
    beta: float = 0.5
    rate: float = 1e-3
    preprocess: Preprocess = dataclasses.field(default_factory=Preprocess)


MODES = {Box: ("mean", "sample"), Discrete: ("greedy",)}
ENTRY = Entry(
    Config,
    lambda config, spec: Algorithm(None, (), Policy(None, None, None, MODES[type(spec.action)])),  # type: ignore
    paper="Nobody, A Toy",
    presets={
        "paper": Preset("the text", {"beta": 0.5, "preprocess.obs": "standardise"}),
        "authors": Preset("the code", {"beta": 2.0}, {"adroit": {"rate": 2e-3}}),
    },
    domains={"adroit": {"rate": 3e-4}},
    discrete=True,
)


def row(page: str, first: str) -> list[str]:
    """The cells of the one table row that starts with `first`."""
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in re.split(r"(?<!`a)\|", line)[1:-1]]


def test_an_algorithms_page_holds_all_of_its_config():
    page = generate.algorithm("toy", ENTRY)
    assert "*Nobody, A Toy*" in page and "$$y = x_1$$" in page and "leashrl train toy" in page
    assert row(page, "`steps`") == ["`steps`", "`7`", r"how many; steps \* batch_size rows in all."]
    assert row(page, "`beta` ∗, `rate` ∗")[1:] == ["`0.5`, `0.001`", "E[log pi(a&#124;s)] and `a|b`."]
    assert row(page, "`preprocess`")[1:] == ["`obs=none, reward=none, best_percent=100`", "of the data."]
    assert "## References\n\nNobody (2020)." in page
    assert row(page, "`paper`, `authors`")[1:] == ["`mean`, `sample`; of discrete actions `greedy`"]


def test_presets_and_domains_show_what_they_change():
    page = generate.algorithm("toy", ENTRY)
    assert row(page, "option | default | paper | authors")
    assert row(page, "`beta`") == ["`beta`", "`0.5`", "–", "`2.0`"]
    assert row(page, "`preprocess.obs`") == ["`preprocess.obs`", "`none`", "`standardise`", "–"]
    of_all, of_authors = page.split("In its place, for `authors`:")
    assert row(of_all, "`rate`") == ["`rate`", "`0.001`", "`0.0003`"]
    assert row(of_authors, "`rate`") == ["`rate`", "`0.001`", "`0.002`"]
    assert row(page, "`authors`") == ["`authors`", "the code"]


def test_an_option_that_is_not_explained_fails_the_build():
    config = dataclasses.make_dataclass("Config", [("steps", int, 7), ("secret", int, 1)], frozen=True)
    config.__doc__ = "Toy.\n\nArgs:\n  steps: how many."
    with pytest.raises(generate.PluginError, match=r"toy: .* does not explain secret$"):
        generate.algorithm("toy", ENTRY._replace(config=config))


def test_sections_and_arguments_of_a_docstring():
    doc = "One line.\n\nArgs:\n  a, b: rates,\n    both.\n  c: a size.\n\nRaises:\n  Never."
    text, sections = generate.split(doc)
    assert text == "One line." and list(sections) == ["Args", "Raises"] and sections["Raises"] == "Never."
    assert generate.arguments(sections["Args"]) == {"a": "rates, both.", "b": "rates, both.", "c": "a size."}


def test_doctests_stand_in_fences():
    assert doctests.fence("One.\n\n>>> 1 + 1\n2\n\nTwo.") == "One.\n\n```pycon\n>>> 1 + 1\n2\n```\n\nTwo."
    assert doctests.fence(">>> a\n\n>>> b\n1") == "```pycon\n>>> a\n\n>>> b\n1\n```"
    assert doctests.fence("No doctest > here.") == "No doctest > here."


def test_the_config_that_the_contributing_page_shows_is_one():
    page = (ROOT / "docs" / "contributing.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    (block,) = [text for text in blocks if "class Config" in text]
    names: dict[str, Any] = {"__name__": "ours"}
    exec(compile(block, "contributing.md", "exec"), names)
    assert "Ours" in generate.algorithm("ours", Entry(names["Config"], ENTRY.build, "", presets={}))
    # as the laws need it
    tiny = {"hidden": (8, 8), "batch_size": 8, "steps": 12, "policy_rate": 1e-3}
    assert override(names["Config"](), tiny).hidden == (8, 8)


def test_no_placeholder_is_left():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    left = [
        f"{page.relative_to(ROOT)}:{number}: {line}"
        for page in pages
        for number, line in enumerate(page.read_text().splitlines(), 1)
        if "@@" in line
    ]
    assert not left, "a figure is still to be written:\n" + "\n".join(left)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stdout + process.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_with_a_page_for_each_algorithm(site):
    index = (site / "algorithms" / "index.html").read_text()
    for name, entry in REGISTRY.items():
        page = (site / "algorithms" / f"{name}.html").read_text()
        assert f'href="{name}.html"' in index
        assert all(f"<code>{field.name}</code>" in page for field in dataclasses.fields(entry.config))


@pytest.mark.slow
def test_the_site_fetches_nothing_and_has_no_raw_formulas(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 5
    for page in pages:
        text = page.read_text()
        assert not re.findall(r'(?:src|data)="(?:https?:)?//', text), page.name
        assert not re.findall(r'<link(?![^>]*rel="canonical")[^>]*href="(?:https?:)?//', text), page.name
        assert 'class="arithmatex"' not in text and generate.MARK not in text, page.name
    assert any("<math " in page.read_text() for page in pages)


def table_after(page: str, section: str) -> list[list[str]]:
    """The cells of the first table after `section`, without its head."""
    lines = (ROOT / "docs" / page).read_text().split(section)[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|---"))
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 1 :])
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]


def codes(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_every_algorithm_is_in_the_table_of_what_each_assumes():
    online = {
        name: cells[-1] for cells in table_after("choose.md", "What each assumes") for name in codes(cells[0])
    }
    lost = sorted(REGISTRY.keys() ^ online.keys())
    assert not lost, f"a row too few or too many in docs/choose.md, 'What each assumes': {', '.join(lost)}"
    for name, entry in REGISTRY.items():
        assert online[name].startswith("no" if entry.offline_only else "yes"), (
            f"docs/choose.md: finetune of {name}"
        )


def test_the_advice_names_algorithms_that_exist():
    advice = {cells[0]: set(codes(cells[1])) for cells in table_after("choose.md", "# Which algorithm")}
    assert set().union(*advice.values()) <= REGISTRY.keys()
    assert advice["actions are discrete"] == {name for name, entry in REGISTRY.items() if entry.discrete}


def test_shipping_explains_every_mode():
    explained = {
        mode for cells in table_after("shipping.md", "## Policies that draw") for mode in codes(cells[0])
    }
    modes = {
        mode for entry in REGISTRY.values() for _, cell in generate.acting(entry) for mode in codes(cell)
    }
    assert modes and modes <= explained
