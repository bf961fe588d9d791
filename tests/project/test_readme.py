"""README.md: its Python runs, its commands parse, what it lists is what there is."""

import re
from pathlib import Path

import numpy as np
import pytest

from leashrl.algos import REGISTRY
from leashrl.disk.files import read_json
from leashrl.errors import BadInput
from support import ROOT
from support.commands import read_command

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def shown_commands() -> list[str]:
    """Every `leashrl ...` of a shell block or between backticks."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [
        line for line in [*lines, *re.findall(r"`(leashrl [^`]+)`", README)] if line.startswith("leashrl ")
    ]


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> tuple[Path, dict]:
    """All Python blocks, run from top to bottom in one empty folder, as a reader would."""
    folder = tmp_path_factory.mktemp("readme")
    names: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LEASHRL_CACHE", str(folder / "cache"))
        for block in blocks("python"):
            exec(compile(block, "README.md", "exec"), names)
    return folder, names


@pytest.mark.slow
def test_the_example_trains_and_acts(ran):
    folder, names = ran
    members = names["result"].members
    assert [m.seed for m in members] == [0, 1] and names["result"].steps == 200
    assert names["result"].score.mean == pytest.approx(np.mean([m.score.final for m in members]))
    action = names["policy"]([1.0, 0.0, 0.5])
    assert action.shape == (1,) and abs(action[0]) <= 2  # the pendulum's torque
    assert read_json(folder / "runs" / "logs" / "result.json")["evaluated"] is False


@pytest.mark.slow
def test_a_run_leaves_what_the_table_says(ran):
    table = README.split("## What a run leaves on disk")[1].split("##")[0]
    listed = set(re.findall(r"^\| `([^`]+?)/?` \|", table, flags=re.MULTILINE))
    assert listed == {path.name for path in (ran[0] / "runs" / "first").iterdir()}


def test_the_commands_parse():
    lines = shown_commands()
    assert len(lines) >= 10
    for line in lines:
        if line != "leashrl --help":
            read_command(line)


@pytest.mark.parametrize("line", ["leashrl trian x", "leashrl eval", "leashrl eval runs/mine --episode 5"])
def test_a_stale_command_would_be_found(line):
    with pytest.raises(BadInput):
        read_command(line)


def test_all_algorithms_and_presets_are_listed():
    table = README.split("## Algorithms so far")[1].split("##")[0]
    rows = dict(re.findall(r"^\| `([\w-]+)` \|(.*)\|$", table, flags=re.MULTILINE))
    lost = sorted(REGISTRY.keys() ^ rows.keys())
    assert not lost, f"a row too few or too many in README.md's table 'Algorithms so far': {', '.join(lost)}"
    for name, entry in REGISTRY.items():
        lost = sorted(set(re.findall(r"`([\w-]+)`", rows[name])) ^ entry.presets.keys())
        assert not lost, f"presets too few or too many in README.md's row of '{name}': {', '.join(lost)}"


def test_links_lead_to_files():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    inside = [link for link in links if not link.startswith("https://")]
    assert len(inside) >= 8
    assert [link for link in inside if not (ROOT / link).is_file()] == []


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"\bmake (\w+)(?=[`\n])", README))
    assert targets >= {"demo", "test"}
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, flags=re.MULTILINE)] == []
