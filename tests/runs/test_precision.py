"""Which precision a run trains in: chosen once, when it begins, and kept on any machine."""

import json
import os
import signal
from pathlib import Path

import pytest

import leashrl
from leashrl.algos import REGISTRY
from leashrl.errors import BadInput
from leashrl.nn import hidden
from leashrl.runs import finetuning
from leashrl.runs.events import Event, Stepped
from leashrl.runs.experiment import read_plan
from support.files import edited

WIDE = {"hidden": (32, 32), "batch_size": 16}  # products with narrower kernels are never rounded


@pytest.fixture
def machine(place, monkeypatch):
    """Says whether this machine is fast in bfloat16; `bc` and `sac` were shown to score as well in it."""
    for name in ("bc", "sac"):
        monkeypatch.setitem(REGISTRY, name, REGISTRY[name]._replace(bfloat16=True))
    return lambda fast: monkeypatch.setattr(hidden, "fast_bfloat16", lambda: fast)


def begun(out: str, algorithm: str = "bc", data: str | None = "data.hdf5", task: str = "none", **more) -> str:
    """The precision in `config.json` of a run that is stopped before anything is compiled."""

    def stop(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leashrl.train(algorithm, data, task=task, seeds=1, steps=6, options=more, out=out, report=stop)
    return json.loads((Path(out) / "config.json").read_text())["config"]["precision"]


def test_auto_is_bfloat16_where_it_is_fast_and_was_shown_to_be_as_good(machine):
    machine(True)
    assert begun("fast") == "bfloat16"
    assert begun("not-shown", "awac") == "float32"
    assert begun("asked", precision="float32") == "float32"
    assert begun("online", "sac", None, "pendulum") == "bfloat16"
    machine(False)
    assert begun("slow") == "float32"
    assert begun("slow-but-asked", precision="bfloat16") == "bfloat16"
    with pytest.raises(BadInput, match="option 'precision' cannot be 'half'"):
        begun("unknown", precision="half")
    assert not Path("unknown").exists()


def test_a_resumed_run_keeps_bfloat16_on_any_machine(machine):
    def stop(event: Event) -> None:
        if isinstance(event, Stepped) and event.step >= 2:
            os.kill(os.getpid(), signal.SIGINT)

    plan = {"task": "none", "seeds": 1, "steps": 8, "log_every": 2}
    bits = lambda run: [
        (Path(run) / name).read_bytes() for name in ("metrics.jsonl", "policy/seed-0.safetensors")
    ]
    machine(True)
    leashrl.train("bc", "data.hdf5", **plan, options=WIDE, out="whole")
    with pytest.raises(KeyboardInterrupt):
        leashrl.train("bc", "data.hdf5", **plan, options=WIDE, out="cut", report=stop)
    assert not Path("cut/result.json").exists()
    machine(False)
    leashrl.resume("cut")
    assert read_plan(Path("cut"))[0].config.precision == "bfloat16"
    assert bits("cut") == bits("whole")
    leashrl.train("bc", "data.hdf5", **plan, options=WIDE, out="plain")
    assert bits("plain")[1] != bits("whole")[1]  # something was rounded


def test_finetune_chooses_again_unless_it_is_told(machine):
    machine(True)
    begun("run")
    plan, _ = read_plan(Path("run"))
    chosen = lambda **options: finetuning.configured(plan, 5, options)[0].precision
    assert plan.config.precision == chosen() == "bfloat16" and chosen(precision="float32") == "float32"
    machine(False)
    assert chosen() == "float32" and chosen(precision="bfloat16") == "bfloat16"


def test_runs_from_before_there_was_a_precision_are_of_float32(machine):
    machine(True)
    begun("run")
    with edited(Path("run/config.json")) as config:
        del config["config"]["precision"]
    assert read_plan(Path("run"))[0].config.precision == "float32"
