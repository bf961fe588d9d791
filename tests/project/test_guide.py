"""The documentation's code blocks run, page by page, as a reader would type them.

Blocks of a page marked `sh` and `python` run from top to bottom in one empty folder; `console` blocks take
too long or need what a test has not, so their commands are parsed only. Blocks without a mark hold none.
Files that a page includes are run by themselves.
"""

import re
import shlex
import subprocess
import sys

import pytest

from leashrl.cli import main
from support import ROOT
from support.commands import read_command

PAGES = {
    str(path.relative_to(ROOT)): re.findall(
        r"^```(\w*)[^\n]*\n(.*?)^```$", path.read_text(), flags=re.MULTILINE | re.DOTALL
    )
    for path in [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]
}
RUNNING = [page for page, blocks in PAGES.items() if any(kind in ("sh", "python") for kind, _ in blocks)]
SHOWN = [(page, text) for page, blocks in PAGES.items() for kind, text in blocks if kind == "console"]


def lines_of(text: str) -> list[str]:
    """Commands, continued lines joined, comments dropped."""
    joined = re.sub(r"\\\n\s*", "", text)
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def shell(text: str) -> None:
    """One block; leashrl's own commands in this process, which has jax and its programs at hand."""
    if all(re.fullmatch(r"leashrl [^>|&;$]+", line) for line in lines_of(text)):
        for line in lines_of(text):
            assert main(shlex.split(line, comments=True)[1:]) == 0, line
        return
    script = f'set -e\nleashrl() {{ "{sys.executable}" -m leashrl "$@"; }}\n{text}'
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNING)
def test_the_blocks_of_a_page_run(page, tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEASHRL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    names: dict = {"__name__": page}
    for kind, text in PAGES[page]:
        if kind == "sh":
            shell(text)
        elif kind == "python" and "--8<--" not in text:
            exec(compile(text, page, "exec"), names)


@pytest.mark.parametrize(("page", "text"), SHOWN, ids=[f"{page}-{i}" for i, (page, _) in enumerate(SHOWN)])
def test_what_is_only_shown_parses(page, text):
    for line in lines_of(text):
        words = shlex.split(line, comments=True)
        if words[:1] == ["leashrl"]:
            read_command(line)
        elif words[:1] == ["python"] and words[1].startswith(("benchmarks/", "examples/")):
            assert (ROOT / words[1]).is_file(), line


@pytest.mark.slow
def test_the_examples_tests_pass():
    included = re.findall(r"--8<--\n(examples/.+)\n--8<--", (ROOT / "docs" / "contributing.md").read_text())
    assert included == ["examples/ours.py", "examples/test_ours.py"]
    assert len((ROOT / "examples" / "ours.py").read_text().splitlines()) < 100
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "examples/test_ours.py",
    ]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0 and "2 passed" in found.stdout, found.stdout + found.stderr


@pytest.mark.parametrize("page", PAGES)
def test_commands_stand_in_marked_blocks(page):
    bare = [text for kind, text in PAGES[page] if kind == ""]
    commands = [line for text in bare for line in lines_of(text) if re.match(r"(leashrl|python|pip) ", line)]
    assert not commands, "a block with commands is marked sh, python or console"
