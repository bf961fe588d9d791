"""`precision=auto` takes bfloat16 for the algorithms whose scores were shown equal, and for no others."""

from pathlib import Path

import pytest

from leashrl.algos import REGISTRY
from leashrl.disk.files import read_json
from leashrl.nn import hidden
from leashrl.runs import plan

FILES = sorted((Path(__file__).parents[2] / "benchmarks" / "results" / "precision").glob("*.json"))
CELLS = [read_json(file) for file in FILES]


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_the_row_says_what_the_measurement_said(name):
    found = [cell["difference"] for cell in CELLS if cell["algorithm"] == name]
    equal = bool(found) and all(d["low"] <= 0 <= d["high"] for d in found)
    assert REGISTRY[name].bfloat16 == equal


def test_the_measurement_has_the_algorithms_and_places_that_decide():
    places = {(cell["algorithm"], cell["place"]) for cell in CELLS}
    offline = ("misa", "td3-bc", "iql", "cql", "brac-plus")
    assert places >= {(name, place) for name in offline for place in ("pendulum", "hopper")} | {
        ("sac", "online")
    }
    assert all(len(scores) >= 5 for cell in CELLS for scores in cell["scores"].values())


@pytest.mark.parametrize("fast", [True, False])
def test_auto_is_bfloat16_where_the_machine_and_the_row_say_so(fast, monkeypatch):
    monkeypatch.setattr(hidden, "fast_bfloat16", lambda: fast)
    for name, entry in REGISTRY.items():
        if hasattr(entry.config, "precision"):
            chosen = plan.chosen(name, entry.config()).precision
            assert chosen == ("bfloat16" if fast and entry.bfloat16 else "float32"), name
