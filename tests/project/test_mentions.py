"""Tests, and modules with what is in them, that documents, comments or messages name exist."""

import importlib
import re
from pathlib import Path

import pytest

from support import ROOT

FOLDERS = ("src", "tests", "docs", "benchmarks", "examples")


def lost(text: str) -> list[str]:
    """Paths of tests, and tests in them, that do not exist; and `test_names` that no file has."""
    found = []
    for path, name in re.findall(r"\b((?:tests|examples)/[\w/]+\.py)(?:::(\w+))?", text):
        source = (ROOT / path).read_text() if (ROOT / path).is_file() else None
        if source is None or (name and f"\ndef {name}(" not in source):
            found.append(f"{path}::{name}" if name else path)
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    for name in re.findall(r"`(test_\w+)`", text):
        if not any(f"\ndef {name}(" in source for source in sources):
            found.append(name)
    return found


ROOMS = "|".join(
    sorted(
        path.stem for path in (ROOT / "src/leashrl").iterdir() if path.stem[0] not in "._" and path.is_dir()
    )
)


def unknown(text: str) -> list[str]:
    """Names such as `ops.mi` or `leashrl.ops.mi.log_partition`, in backticks, that lead to nothing."""
    named = re.findall(rf"`(?:leashrl\.)?((?:{ROOMS})(?:\.[A-Za-z]\w*)+)[`(]", text)
    return [
        name for name in dict.fromkeys(named) if not ENDINGS.search(name) and not resolves(name.split("."))
    ]


ENDINGS = re.compile(r"\.(py|md|json|jsonl|toml|hdf5)$")


def resolves(parts: list[str]) -> bool:
    """Whether a module, or what the longest module of that name holds, has the name."""
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(["leashrl", *parts[:cut]]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if part in getattr(found, "__annotations__", {}):  # a field
                return True
            found = getattr(found, part, None)
        return found is not None
    return False


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    """All texts by path, but for this file's, which names what is not there."""
    inside = [
        path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in (".md", ".py")
    ]
    found = {ROOT / "Makefile", *ROOT.glob("*.md"), *inside} - {Path(__file__)}
    assert {ROOT / "README.md", ROOT / "benchmarks/results/audit.md", ROOT / "src/leashrl/core.py"} <= found
    return {str(path.relative_to(ROOT)): path.read_text() for path in sorted(found)}


def test_tests_that_are_mentioned_exist(files):
    found = {path: lost(text) for path, text in files.items()}
    assert {path: names for path, names in found.items() if names} == {}


def test_modules_that_are_mentioned_exist(files):
    found = {
        path: unknown(text) for path, text in files.items() if path != "CHANGELOG.md"
    }  # it tells of old ones
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("`evaluate.channel.scores` and `leashrl.ops.nothing`", ["evaluate.channel.scores", "ops.nothing"]),
        (
            "`ops.mi.log_partition`, `leashrl.data`, `runs.results.Result.score`, `data.hdf5`, `os.path.no`",
            [],
        ),
    ],
)
def test_a_module_that_is_gone_would_be_found(text, names):
    assert unknown(text) == names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("`tests/test_tasks.py` runs some", ["tests/test_tasks.py"]),
        (
            "tests/project/test_mentions.py::test_gone[a-b], more",
            ["tests/project/test_mentions.py::test_gone"],
        ),
        ("tests/project/test_mentions.py::test_tests_that_are_mentioned_exist", []),
        ("tests/support/files.py and examples/ours.py", []),
        ("`test_tests_that_are_mentioned_exist` and `test_gone`", ["test_gone"]),
    ],
    ids=["a path", "a name in a path", "both exist", "no tests", "a bare name"],
)
def test_what_is_lost_would_be_found(text, names):
    assert lost(text) == names
