"""How cost grows (`benchmarks/growth.py`): what is counted, computed and shown on the page."""

import dataclasses
import json

import jax
import pytest

from support import ROOT, script

growth = script("benchmarks/growth.py")
Setting = growth.Setting


@pytest.mark.parametrize(
    "setting",
    [
        Setting(),
        Setting(k=3, batch=8, width=32, precision="bfloat16"),
        Setting(batch=4, width=64, ensemble=4),
    ],
    ids=lambda s: s.name,
)
def test_products_by_hand_are_those_of_the_program(setting, monkeypatch):
    """The formula and the traced update agree to the last operation."""
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda self: Compiled())
    cost = growth.count(dataclasses.replace(setting, rows=100))
    assert cost.product_flop == cost.by_hand


class Compiled:
    """In place of a compiled program, which takes seconds."""

    def cost_analysis(self):
        return {"flops": 1.0, "bytes accessed": 1.0}

    def as_text(self):
        return "ENTRY %main {\n  ROOT %sum = f32[] add(%a, %b)\n}"


def test_a_machines_bounds_by_hand():
    cost = growth.Cost(
        product_flop=2e9, by_hand=2e9, xla_flop=3e9, xla_bytes=9e6, least_bytes=4e6, kernels=10
    )
    machine = growth.Machine(
        about="", float32=1e12, bfloat16=4e12, bandwidth=1e9, launch=1e-5, devices=2, source=""
    )
    assert machine.seconds(cost, "float32") == pytest.approx((2e-3, 4e-3, 1e-4))
    # Five seeds are three on the device that has most of them; its kernels are as many as for one.
    assert machine.seconds(cost, "bfloat16", 5) == pytest.approx((1.5e-3, 12e-3, 1e-4))


def test_what_is_there_is_not_measured_again_and_what_failed_is(tmp_path, monkeypatch):
    done, failed = Setting(k=1), Setting(k=3)
    for setting, cell in ((done, {"speed": {"updates_per_second": 1.0}}), (failed, {"error": "no memory"})):
        text = json.dumps({"setting": dataclasses.asdict(setting)} | cell)
        (tmp_path / f"{setting.name}.json").write_text(text)
    asked = []

    def run(command, **kwargs):
        asked.append(json.loads(command[3])["k"])
        return growth.subprocess.CompletedProcess(command, 1, "", "Traceback\nMemoryError: again")

    monkeypatch.setattr(growth.subprocess, "run", run)
    growth.measure([done, failed, failed], tmp_path, 1.0)
    assert asked == [3]
    assert json.loads((tmp_path / f"{failed.name}.json").read_text())["error"] == "MemoryError: again"
    assert list(growth.found(tmp_path)) == [done]


def test_the_page_shows_what_was_measured(tmp_path):
    pytest.importorskip("matplotlib")
    cell = {"matmul_gflops": 100.0, "device": "a device", "jax": "1.2", "slowest_and_fastest": [9.0, 44.0]}
    (tmp_path / "cells").mkdir()
    for precision, speed in (("float32", 10.0), ("bfloat16", 42.5)):
        setting = Setting(k=30, precision=precision)
        text = json.dumps(
            {"setting": dataclasses.asdict(setting), "speed": cell | {"updates_per_second": speed}}
        )
        (tmp_path / "cells" / f"{setting.name}.json").write_text(text)
    costs = json.loads((ROOT / "benchmarks/results/growth.json").read_text())["costs"]
    (tmp_path / "growth.json").write_text(json.dumps({"costs": costs}))
    growth.page(tmp_path / "cells", tmp_path, tmp_path / "growth", tiny=False)
    shown = (tmp_path / "growth.md").read_text()
    assert "| 30 | 10.0 | 42.5 | 4.25 |" in shown
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_the_published_page_is_made_from_what_is_on_disk(tmp_path):
    """Nobody types a number into `benchmarks/results/growth.md`."""
    results = ROOT / "benchmarks/results"
    (tmp_path / "growth.json").write_text((results / "growth.json").read_text())
    growth.page(results / "growth", tmp_path, tmp_path / "growth", tiny=False)
    assert (tmp_path / "growth.md").read_text() == (results / "growth.md").read_text()
