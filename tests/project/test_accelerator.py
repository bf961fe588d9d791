"""`benchmarks/accelerator.py`: it stops when the minutes are over, and the next run does what is left."""

import json
import signal
import subprocess
import sys

import pytest

from leashrl.benches import Machine
from support import ROOT, script
from support.processes import as_here, wait_for

accelerator = script("benchmarks/accelerator.py")
FIRST = "seeds 1, bfloat16"


@pytest.fixture
def ran(monkeypatch) -> list[str]:
    """Names of the cells that are run: each takes 25 seconds of a clock that nothing else moves."""
    now, names = [0.0], []

    def measure(cell, on, small, timeout):
        now[0] += 25
        if timeout < 25:
            raise TimeoutError
        names.append(cell.name)
        return {
            **{"axis": cell.axis, "algorithm": cell.algorithm, "precision": cell.precision},
            **{"failure": "ended by SIGKILL" if cell.axis == "batch" else None, "obstacle": "products 75 %"},
            **dict.fromkeys(("updates_per_second", "member_updates_per_second", "gflop_per_update"), 1.5),
            **dict.fromkeys(("share_of_matmul_rate", "peak_mb", "compile_s", "update_ms"), 0.25),
        }

    on = Machine(device="cpu", platform="cpu", jax="0", matmul_gflops={"float32": 2.0, "bfloat16": 8.0})
    monkeypatch.setattr(accelerator, "measure", measure)
    monkeypatch.setattr(accelerator, "machine", lambda timeout: on)
    monkeypatch.setattr(accelerator.time, "monotonic", lambda: now[0])
    return names


def test_a_second_run_does_what_the_first_has_left(ran, tmp_path, capsys):
    file, names = tmp_path / "new" / "a.json", [cell.name for cell in accelerator.cells(True)]
    argv = ["--small", "--out", str(file), "--minutes"]
    assert accelerator.main([*argv, "1"]) == 0
    assert ran == names[:2]  # of 25 seconds each; the third is ended after ten
    kept, said = json.loads(file.read_text())["cells"], capsys.readouterr().out
    assert list(kept) == names[:2]
    assert said.startswith("no GPU or TPU here") and said.count("no GPU") == 1
    assert f"{len(names) - 2} cells are left, the same command goes on: {'; '.join(names[2:])}" in said
    assert accelerator.main([*argv, "9"]) == 0
    assert ran == names and "are left" not in capsys.readouterr().out
    cells = json.loads(file.read_text())["cells"]
    assert list(cells) == names and {name: cells[name] for name in kept} == kept
    page = file.with_suffix(".md").read_text().splitlines()
    assert "| batch 16, bfloat16 | failed: ended by SIGKILL |" in page
    assert "| seeds 2, bfloat16 | 1.5 | 1.5 | 1.5 | 25.0% | 0 | 0.2 |" in page
    assert "| td3-bc, bfloat16 | 0.25 | products 75 % |" in page
    assert accelerator.main([*argv, "9"]) == 0 and ran == names  # nothing again, the failed one neither
    assert accelerator.main([*argv, "9", "--retry"]) == 0 and ran[len(names) :] == ["batch 16, bfloat16"]


def test_the_whole_covers_what_the_page_shows():
    found = accelerator.cells(False)
    assert len({cell.name for cell in found}) == len(found)
    for precision in ("float32", "bfloat16"):
        mine = [cell for cell in found if cell.precision == precision]
        of = lambda axis, mine=mine: {cell.value for cell in mine if cell.axis == axis}
        assert of("seeds") == {"1", "4", "20", "100"} and {cell.seeds for cell in mine} == {1, 4, 20, 100}
        assert of("k") | {"10"} == {"1", "10", "50"}
        assert of("batch") | {"256"} == {"256", "1024", "4096"}
        assert of("width") | {"256"} == {"256", "512", "1024"}
        assert of("profile") == {"misa", "cql", "iql", "td3-bc", "dt"}
        (wide,) = [cell for cell in mine if cell.value == "512"]
        assert wide.options == {"k": "10", "batch_size": "256", "hidden": "512,512"}


@pytest.mark.parametrize("text", ["{}", "[]", '{"small": false}', "no JSON"])
def test_another_file_is_refused(ran, tmp_path, text, capsys):
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(SystemExit) as end:
        accelerator.main(["--small", "--out", str(file)])
    assert end.value.code == 2 and str(file) in capsys.readouterr().err
    assert file.read_text() == text and ran == []


def test_sizes_are_not_mixed(ran, tmp_path, capsys):
    file = tmp_path / "a.json"
    assert accelerator.main(["--small", "--out", str(file)]) == 0
    with pytest.raises(SystemExit):
        accelerator.main(["--out", str(file)])
    assert "another --small" in capsys.readouterr().err


@pytest.mark.slow
def test_real_processes_stop_by_ctrl_c_and_go_on(tmp_path):
    file = tmp_path / "a.json"
    command = [sys.executable, "benchmarks/accelerator.py", "--small", "--out", str(file), "--minutes"]
    process = subprocess.Popen([*command, "9"], cwd=ROOT, env=as_here(), stdout=subprocess.PIPE, text=True)
    wait_for(process, file.exists, 400)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "cells are left" in out
    first = json.loads(file.read_text())["cells"]
    assert FIRST in first and len(first) < len(accelerator.cells(True))
    done = subprocess.run(
        [*command, "9"], cwd=ROOT, env=as_here(), capture_output=True, text=True, timeout=600
    )
    cells = json.loads(file.read_text())["cells"]
    assert done.returncode == 0 and "are left" not in done.stdout, done.stdout + done.stderr
    assert {name: cells[name] for name in first} == first
    assert [name for name, row in cells.items() if row["failure"]] == []
    assert list(cells) == [cell.name for cell in accelerator.cells(True)]
    profile = cells["profile td3-bc, bfloat16"]
    assert profile["ops"] and profile["kinds"]["products"] > 0
    assert cells["seeds 2, bfloat16"]["gflop_per_update"] == pytest.approx(
        2 * cells[FIRST]["gflop_per_update"]
    )
