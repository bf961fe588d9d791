"""Tests that are named somewhere exist: in documents, comments and messages."""

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


def test_tests_that_are_mentioned_exist():
    inside = [
        path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in (".md", ".py")
    ]
    files = {ROOT / "Makefile", *ROOT.glob("*.md"), *inside} - {Path(__file__)}
    assert {ROOT / "README.md", ROOT / "benchmarks/results/audit.md", ROOT / "src/leashrl/core.py"} <= files
    found = {str(path.relative_to(ROOT)): lost(path.read_text()) for path in sorted(files)}
    assert {path: names for path, names in found.items() if names} == {}


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
