"""A run that is stopped, in whatever way and at whatever moment, ends with the bits of one that never was."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import leashrl
from leashrl.cli import main
from leashrl.data import make

STEPS = 9000
OPTIONS = {"hidden": (8,), "batch_size": 16}
TRAIN = ["train", "bc", "--data", "data.hdf5", "--task", "pendulum", "--seeds", "2", "--steps", str(STEPS)]
TRAIN += [
    "--set",
    "hidden=8",
    "batch_size=16",
    "--episodes",
    "1",
    "--eval-every",
    "3000",
    "--log-every",
    "500",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with the data and `whole`, the uninterrupted run."""
    folder = tmp_path_factory.mktemp("resume")
    make("pendulum-medium", folder / "data.hdf5", steps=400)
    return folder


@pytest.fixture(scope="module")
def whole(home) -> dict[str, str]:
    before = Path.cwd()
    os.chdir(home)
    try:
        assert main([*TRAIN, "--out", "whole"]) == 0
    finally:
        os.chdir(before)
    return digest(home / "whole")


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEASHRL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


def digest(run: Path) -> dict[str, str]:
    """SHA-256 of all that a finished run has found: files by their bytes."""
    last = max((run / "checkpoint").glob("step-*"))
    files = [
        "metrics.jsonl",
        "evaluations.jsonl",
        "result.json",
        *(f"policy/{p.name}" for p in run.glob("policy/*")),
    ]
    files += [f"checkpoint/{last.name}/arrays.safetensors"]
    assert len(files) == 7  # two policies and their description
    return {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in files}


def start(home: Path, out: str) -> subprocess.Popen:
    # The same compiler settings as in this process (conftest.py), or the bits are others.
    plain = str(jax.config.read("jax_disable_most_optimizations"))
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": plain}
    command = [sys.executable, "-m", "leashrl", *TRAIN, "--out", out]
    return subprocess.Popen(command, cwd=home, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(process: subprocess.Popen, condition: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, "the moment to stop it was missed"
        time.sleep(0.002)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


# --- Ctrl-C and kill ---------------------------------------------------------


def test_ctrl_c_leaves_a_checkpoint_and_resume_the_same_bits(home, whole, monkeypatch, capsys):
    process = start(home, "stopped")
    wait_for(process, lambda: lines(home / "stopped" / "metrics.jsonl") >= 2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=90)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "leashrl: interrupted: go on with `leashrl resume stopped`"
    last = max((home / "stopped" / "checkpoint").glob("step-*"))
    assert 500 <= int(last.name[5:]) < STEPS
    assert not (home / "stopped" / "result.json").exists()
    monkeypatch.chdir(home)
    assert main(["resume", "stopped"]) == 0
    assert digest(home / "stopped") == whole


MOMENTS = {
    "while it compiles": lambda run: (run / "config.json").exists(),
    "while it trains": lambda run: lines(run / "metrics.jsonl") >= 4,
    "while it evaluates": lambda run: lines(run / "evaluations.jsonl") >= 2,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_9_at_a_random_moment(moment, home, whole, monkeypatch):
    out = home / moment.replace(" ", "-")
    process = start(home, out.name)
    wait_for(process, lambda: MOMENTS[moment](out))
    time.sleep(random.Random().uniform(0, 0.15))
    process.kill()
    process.communicate(timeout=90)
    assert process.returncode == -signal.SIGKILL
    monkeypatch.chdir(home)
    assert main(["resume", out.name]) == 0
    assert digest(out) == whole


# --- Stopped where it hurts --------------------------------------------------


def stop_at(event: str, step: int):
    """A report that presses Ctrl-C at that event."""

    def report(name: str, details: dict) -> None:
        if name == event and details["step"] >= step:
            os.kill(os.getpid(), signal.SIGINT)

    return report


def stopped(home: Path, out: str, event: str, step: int) -> Path:
    """A run of the same plan that was interrupted there."""
    settings = {"task": "pendulum", "seeds": 2, "steps": STEPS, "options": OPTIONS, "episodes": 1}
    settings |= {"eval_every": 3000, "log_every": 500, "out": home / out}
    with pytest.raises(KeyboardInterrupt):
        leashrl.train("bc", home / "data.hdf5", **settings, report=stop_at(event, step))
    return home / out


def test_half_an_evaluation_is_done_again(home, whole):
    """The checkpoint is at step 3000, before its evaluation, of which a kill left one line and a half."""
    run = stopped(home, "half", "step", 3000)
    assert max((run / "checkpoint").glob("step-*")).name == "step-0000003000"
    with open(run / "evaluations.jsonl", "a") as file:
        file.write('{"step": 3000, "seed": 0, "return": 1.0, "score": 1.0}\n{"step": 3000, "se')
    leashrl.resume(run)
    assert digest(run) == whole


def test_a_damaged_newest_checkpoint_is_passed_over(home, whole):
    run = stopped(home, "damaged", "evaluation", 6000)
    old, new = sorted((run / "checkpoint").glob("step-*"))
    data = bytearray((new / "arrays.safetensors").read_bytes())
    data[-3] ^= 64
    (new / "arrays.safetensors").write_bytes(data)
    seen = []
    leashrl.resume(run, report=lambda event, details: seen.append((event, details.get("step"))))
    assert seen[0] == ("start", int(old.name[5:]))
    assert digest(run) == whole


def test_what_a_kill_leaves_half_written_is_not_in_the_way(home, whole):
    run = stopped(home, "litter", "evaluation", 3000)
    (run / "checkpoint" / ".writing-1").mkdir()
    (run / "checkpoint" / ".writing-1" / "arrays.safetensors").write_bytes(b"half")
    (run / ".metrics.jsonl.1").write_text('{"step": 1')
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 3500, "stage": "tr')
    leashrl.resume(run)
    assert digest(run) == whole


def test_no_checkpoint_yet(home, whole, monkeypatch):
    run = stopped(home, "early", "step", 1)
    shutil.rmtree(run / "checkpoint")
    leashrl.resume(run)
    assert digest(run) == whole


def test_a_kill_before_the_plan_is_written_leaves_a_folder_that_can_be_used(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    Path("begun").mkdir()
    Path("begun/.config.json.1").write_text("{")
    argv = ["train", "bc", "--data", "data.hdf5", "--task", "none", "--steps", "2", "--out", "begun"]
    argv += ["--set", "hidden=8"]
    assert main(argv) == 0


def test_a_finished_run_is_left_alone(home, whole):
    seen = []
    result = leashrl.resume(home / "whole", report=lambda event, details: seen.append(event))
    assert seen == [] and digest(home / "whole") == whole
    assert result.values == json.loads((home / "whole" / "result.json").read_text())


def test_resume_from_another_folder_and_with_moved_data(home, whole, tmp_path, monkeypatch):
    run = stopped(home, "moved", "evaluation", 6000)
    shutil.move(run, tmp_path / "moved")
    shutil.copy(home / "data.hdf5", tmp_path / "elsewhere.hdf5")
    config = json.loads((tmp_path / "moved" / "config.json").read_text())
    assert Path(config["data"]["source"]).is_absolute()
    config["data"]["source"] = "gone.hdf5"
    (tmp_path / "moved" / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    assert main(["resume", "moved"]) == 2
    assert main(["resume", "moved", "--data", "elsewhere.hdf5"]) == 0
    mine, theirs = digest(tmp_path / "moved"), dict(whole)
    assert mine.pop("result.json") != theirs.pop("result.json")  # it names the data's path
    assert mine == theirs


# --- Where the host looks in changes nothing ---------------------------------


@pytest.mark.parametrize(("log_every", "eval_every"), [(7, 3000), (9000, 2222)])
def test_log_lines_and_evaluations_change_no_bit(log_every, eval_every, home, whole, tmp_path):
    leashrl.train(
        "bc",
        home / "data.hdf5",
        task="pendulum",
        seeds=2,
        steps=STEPS,
        options=OPTIONS,
        episodes=1,
        log_every=log_every,
        eval_every=eval_every,
        out=tmp_path / "run",
    )
    mine = digest(tmp_path / "run")
    assert {k: v for k, v in mine.items() if "policy" in k} == {
        k: v for k, v in whole.items() if "policy" in k
    }


def test_the_log_is_the_mean_over_its_updates(home, tmp_path):
    """Lines of every step, averaged by hand, are the lines of every ten."""
    for every in (1, 10):
        leashrl.train(
            "bc", home / "data.hdf5", task="none", seeds=1, steps=20, options=OPTIONS, log_every=every,
            out=tmp_path / str(every),
        )  # fmt: skip
    rows = {
        n: [json.loads(x) for x in (tmp_path / n / "metrics.jsonl").read_text().splitlines()]
        for n in ("1", "10")
    }
    assert [row["step"] for row in rows["10"]] == [10, 20]
    by_hand = np.mean([row["policy_loss"] for row in rows["1"][10:]])
    assert rows["10"][1]["policy_loss"] == pytest.approx(by_hand, rel=1e-5)


def test_members_do_not_share_their_random_numbers(home, whole):
    first, second = (load_file(home / "whole" / "policy" / f"seed-{i}.safetensors") for i in (0, 1))
    assert not np.array_equal(first["params/out/kernel"], second["params/out/kernel"])
