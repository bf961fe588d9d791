"""A run that is stopped, in whatever way and at whatever moment, ends with the bits of one that never was."""

import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import leashrl
from leashrl.algos import REGISTRY
from leashrl.cli import main
from leashrl.data import Dataset, load
from leashrl.disk import claim
from leashrl.errors import BadInput
from leashrl.runs.events import Evaluated, Event, Started, Stepped
from leashrl.types import Box
from support.files import edited, read_lines
from support.processes import as_here, wait_for

STEPS = 9000
OPTIONS = {"hidden": (8,), "batch_size": 16}
TRAIN = ["train", "bc", "--data", "data.hdf5", "--task", "pendulum", "--seeds", "2", "--steps", str(STEPS)]
TRAIN += ["--episodes", "1", "--eval-every", "3000", "--log-every", "500", "--set", "batch_size=16"]
WIDTHS = {"float32": ["hidden=8"], "bfloat16": ["hidden=32,32", "precision=bfloat16"]}
"""Further options of each precision: bfloat16 rounds no narrower layers."""


@pytest.fixture(scope="module")
def home(tmp_path_factory, pendulum) -> Path:
    """A folder with the data and `whole`, the uninterrupted run."""
    folder = tmp_path_factory.mktemp("resume")
    shutil.copy(pendulum, folder)
    return folder


@pytest.fixture(scope="module")
def whole(home) -> dict[str, str]:
    return uninterrupted(home, "whole", "float32")


@pytest.fixture(scope="module")
def whole_in_bfloat16(home) -> dict[str, str]:
    return uninterrupted(home, "whole-in-bfloat16", "bfloat16")


def uninterrupted(home: Path, out: str, precision: str) -> dict[str, str]:
    before = Path.cwd()
    os.chdir(home)
    try:
        assert main([*TRAIN, *WIDTHS[precision], "--out", out]) == 0
    finally:
        os.chdir(before)
    return digest(home / out)


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


def start(home: Path, out: str, precision: str = "float32") -> subprocess.Popen:
    environment = as_here(LEASHRL_CACHE=str(home / "cache"))  # kills may cut its entries
    command = [sys.executable, "-m", "leashrl", *TRAIN, *WIDTHS[precision], "--out", out]
    return subprocess.Popen(command, cwd=home, stderr=subprocess.PIPE, text=True, env=environment)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


# --- Ctrl-C and kill ---------------------------------------------------------


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_and_resume_the_same_bits(home, whole, monkeypatch):
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "precision"), [*((moment, "float32") for moment in MOMENTS), ("while it trains", "bfloat16")]
)
def test_kill_9_at_a_random_moment(moment, precision, home, request, monkeypatch):
    wanted = request.getfixturevalue("whole_in_bfloat16" if precision == "bfloat16" else "whole")
    out = home / f"{moment.replace(' ', '-')}-{precision}"
    process = start(home, out.name, precision)
    wait_for(process, lambda: MOMENTS[moment](out))
    time.sleep(random.Random().uniform(0, 0.15))
    process.kill()
    process.communicate(timeout=90)
    assert process.returncode == -signal.SIGKILL
    monkeypatch.chdir(home)
    assert main(["resume", out.name]) == 0
    assert digest(out) == wanted


# --- Stopped where it hurts --------------------------------------------------


def stop_at(event: type, step: int):
    """A report that presses Ctrl-C at that event."""

    def report(told: Event) -> None:
        if isinstance(told, event) and told.step >= step:
            os.kill(os.getpid(), signal.SIGINT)

    return report


def stopped(home: Path, out: str, event: type, step: int) -> Path:
    """A run of the same plan that was interrupted there."""
    settings = {"task": "pendulum", "seeds": 2, "steps": STEPS, "options": OPTIONS, "episodes": 1}
    settings |= {"eval_every": 3000, "log_every": 500, "out": home / out}
    with pytest.raises(KeyboardInterrupt):
        leashrl.train("bc", home / "data.hdf5", **settings, report=stop_at(event, step))
    return home / out


def test_half_an_evaluation_is_done_again(home, whole):
    """The checkpoint is at step 3000, before its evaluation, of which a kill left one line and a half."""
    run = stopped(home, "half", Stepped, 3000)
    assert max((run / "checkpoint").glob("step-*")).name == "step-0000003000"
    with open(run / "evaluations.jsonl", "a") as file:
        file.write('{"step": 3000, "seed": 0, "return": 1.0, "score": 1.0}\n{"step": 3000, "se')
    leashrl.resume(run)
    assert digest(run) == whole


def test_a_damaged_newest_checkpoint_is_passed_over(home, whole):
    run = stopped(home, "damaged", Evaluated, 6000)
    old, new = sorted((run / "checkpoint").glob("step-*"))
    data = bytearray((new / "arrays.safetensors").read_bytes())
    data[-3] ^= 64
    (new / "arrays.safetensors").write_bytes(data)
    seen = []
    leashrl.resume(run, report=seen.append)
    assert isinstance(seen[0], Started) and seen[0].step == int(old.name[5:])
    assert digest(run) == whole


def test_what_a_kill_leaves_half_written_is_not_in_the_way(home, whole):
    run = stopped(home, "litter", Evaluated, 3000)
    (run / "checkpoint" / ".writing-1").mkdir()
    (run / "checkpoint" / ".writing-1" / "arrays.safetensors").write_bytes(b"half")
    (run / ".metrics.jsonl.1").write_text('{"step": 1')
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 3500, "stage": "tr')
    leashrl.resume(run)
    assert digest(run) == whole


def test_no_checkpoint_yet(home, whole, monkeypatch):
    run = stopped(home, "early", Stepped, 1)
    shutil.rmtree(run / "checkpoint")
    leashrl.resume(run)
    assert digest(run) == whole


def test_a_kill_before_the_plan_is_written_leaves_a_folder_that_can_be_used(home, monkeypatch):
    monkeypatch.chdir(home)
    Path("begun").mkdir()
    Path("begun/.config.json.1").write_text("{")
    argv = ["train", "bc", "--data", "data.hdf5", "--task", "none", "--steps", "2", "--out", "begun"]
    argv += ["--set", "hidden=8"]
    assert main(argv) == 0


def test_a_finished_run_is_left_alone(home, whole):
    seen = []
    result = leashrl.resume(home / "whole", report=seen.append)
    assert seen == [] and digest(home / "whole") == whole
    assert result.to_json() == json.loads((home / "whole" / "result.json").read_text())


def test_resume_from_another_folder_and_with_moved_data(home, whole, tmp_path, monkeypatch):
    run = stopped(home, "moved", Evaluated, 6000)
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


def test_a_kill_while_it_is_overwritten(home, monkeypatch, tmp_path):
    """Cut after each single deletion, what is left is whole, or has no checkpoint and starts again."""
    source = leashrl.train(
        "bc", home / "data.hdf5", task="none", seeds=2, steps=4, log_every=2, options=OPTIONS,
        out=tmp_path / "source",
    ).folder  # fmt: skip
    wanted = digest(source)
    for cut in range(20):
        run = tmp_path / f"cut-{cut}"
        shutil.copytree(source, run)
        allowed = iter(range(cut))

        def step(do, *args, allowed=allowed, **kwargs):
            if next(allowed, None) is None:
                raise KeyboardInterrupt
            return do(*args, **kwargs)

        with monkeypatch.context() as patch:
            for owner, name in ((Path, "unlink"), (Path, "rename"), (claim.shutil, "rmtree")):
                do = getattr(owner, name)
                patch.setattr(owner, name, lambda *args, do=do, step=step, **kw: step(do, *args, **kw))
            try:
                claim.delete(run, claim.earlier_run(run, overwrite=True))
            except KeyboardInterrupt:
                pass
            else:
                break
        left = {path.name for path in run.iterdir()}
        assert "config.json" in left and ("result.json" not in left or cut == 0)
        if "checkpoint" in left:
            assert left >= {"metrics.jsonl", "evaluations.jsonl", "policy"}
        elif cut in (2, 6):  # the checkpoints just gone; the metrics gone as well
            leashrl.resume(run)
            assert digest(run) == wanted
    assert cut == 8 and list(run.iterdir()) == []


def test_a_data_file_behind_a_link(home, tmp_path):
    """A store names its files by their hash; the link says what kind it is."""
    (tmp_path / "store").mkdir()
    shutil.copy(home / "data.hdf5", tmp_path / "store" / "ab12cd")
    (tmp_path / "pend.hdf5").symlink_to("store/ab12cd")
    arguments = {"task": "none", "seeds": 1, "steps": 2, "options": OPTIONS, "out": tmp_path / "run"}
    leashrl.train("bc", tmp_path / "pend.hdf5", **arguments)
    (tmp_path / "run" / "result.json").unlink()
    leashrl.resume(tmp_path / "run")
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
def test_the_limit_of_episodes_belongs_to_the_data_where_they_have_no_time_outs(home, tmp_path):
    rows = load(home / "data.hdf5")

    def limited(limit: int, timeout=None) -> Dataset:
        return Dataset.from_arrays(
            rows.obs, rows.action, rows.reward, rows.terminal, timeout=timeout,
            action_space=Box((-2.0,), (2.0,)), max_episode_steps=limit,
        )  # fmt: skip

    arguments = {"task": "none", "seeds": 1, "steps": 2, "options": OPTIONS}
    run = leashrl.train("bc", limited(200), **arguments, out=tmp_path / "run").folder
    (run / "result.json").unlink()
    with pytest.raises(BadInput, match="max episode steps differs and the transitions differs"):
        leashrl.resume(run, data=limited(100))
    assert leashrl.resume(run, data=limited(200)).data["transitions"] == 398

    run = leashrl.train("bc", limited(200, rows.timeout), **arguments, out=tmp_path / "marked").folder
    (run / "result.json").unlink()
    leashrl.resume(run, data=limited(100, rows.timeout))  # where cuts are marked, it decides nothing


def test_other_versions_are_told_in_a_line(home, whole, tmp_path, caplog):
    run = tmp_path / "run"
    shutil.copytree(home / "whole", run)
    (run / "result.json").unlink()
    leashrl.resume(run)
    assert caplog.messages == []
    (run / "result.json").unlink()
    with edited(run / "config.json") as config:
        config["versions"]["jaxlib"] = "0.1"
    leashrl.resume(run)
    (line,) = caplog.messages
    assert "jaxlib 0.1 (now " in line and "bits may differ" in line


# --- What goes wrong at the end ----------------------------------------------


def break_at(monkeypatch, step: int, break_policy: bool) -> None:
    """`bc`, of whose members with policy_rate 0.5 the last array becomes infinite at that update."""
    entry = REGISTRY["bc"]

    def build(config, spec):
        whole = entry.build(config, spec)
        (stage,) = whole.stages

        def update(state, batch, key, t):
            state, metrics = stage.update(state, batch, key, t)
            broken = (t == step - 1) & (state.hp["policy_rate"] == 0.5)
            tree = state.policy if break_policy else state.optimiser["mean"]
            tree = jax.tree.map(lambda x: jax.numpy.where(broken, jax.numpy.inf, x), tree)
            name = {"policy": tree} if break_policy else {"optimiser": state.optimiser | {"mean": tree}}
            return dataclasses.replace(state, **name), metrics

        return whole._replace(stages=(stage._replace(update=update),))

    monkeypatch.setitem(REGISTRY, "bc", entry._replace(build=build))


@pytest.mark.parametrize("break_policy", [True, False])
def test_the_last_step_is_looked_at_too(break_policy, home, monkeypatch, tmp_path, capsys):
    """Its parameters are in no metric; nor would an evaluation see Adam's moments."""
    break_at(monkeypatch, 7, break_policy)
    monkeypatch.chdir(home)
    argv = ["train", "bc", "--data", "data.hdf5", "--task", "pendulum", "--seeds", "1", "--steps", "7"]
    argv += ["--episodes", "1", "--eval-every", "3", "--vary", "policy_rate=0.001,0.5"]
    argv += ["--set", "hidden=8", "batch_size=16", "--out", str(tmp_path / "run")]
    assert main(argv) == 3
    assert "policy_rate=0.5 diverged at step 7: state is not finite" in capsys.readouterr().err
    values = json.loads((tmp_path / "run" / "result.json").read_text())
    fine, broken = (m["diverged"] for m in values["members"])
    assert fine is None and (broken["step"], broken["metric"]) == (7, "state")
    assert (
        (broken["score"] is None) == (broken["return"] is None) == break_policy
    )  # Adam's moments do not act
    assert values["score"]["n"] == 1 and values["steps"] == 7
    assert values["members"][1]["score"]["final"] is None
    about = json.loads((tmp_path / "run" / "policy" / "policy.json").read_text())
    assert about["diverged"] == ["seed-0,policy_rate=0.5"]
    # A kill before the result stood: the checkpoint knows.
    before = digest_of_result(tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    assert main(["resume", str(tmp_path / "run")]) == 3
    assert digest_of_result(tmp_path / "run") == before


def digest_of_result(run: Path) -> bytes:
    return (run / "result.json").read_bytes() + (run / "metrics.jsonl").read_bytes()


def test_a_final_evaluation_that_fails_leaves_no_earlier_score_as_the_final_one(home, monkeypatch, tmp_path):
    from leashrl.evaluate import rollout

    evaluate, calls = rollout.evaluate, []

    def failing(policy, params, *args, **kwargs):
        found = evaluate(policy, params, *args, **kwargs)
        calls.append(found)
        if len(calls) == 2:
            found.failed[1] = True
            found.returns[1] = np.nan
        return found

    monkeypatch.setattr(rollout, "evaluate", failing)
    monkeypatch.chdir(home)
    run = tmp_path / "run"
    argv = ["train", "bc", "--data", "data.hdf5", "--task", "pendulum", "--seeds", "2", "--steps", "6"]
    argv += ["--episodes", "1", "--eval-every", "3", "--set", "hidden=8", "batch_size=16", "--out", str(run)]
    assert main(argv) == 3
    values = json.loads((run / "result.json").read_text())
    first, second = values["members"]
    assert first["diverged"] is None and first["return"]["final"] == calls[1].returns[0].mean()
    assert second["diverged"] == {"step": 6, "metric": "action", "return": None, "score": None}
    assert second["score"] == {"final": None, "last_10_mean": pytest.approx(calls[0].scores[1].mean())}
    assert values["score"]["n"] == 1
    assert json.loads((run / "policy" / "policy.json").read_text())["diverged"] == ["seed-1"]


def test_the_last_evaluation_may_have_more_episodes(home, tmp_path):
    given = {"task": "pendulum", "seeds": 2, "steps": 6, "eval_every": 3, "options": OPTIONS}
    found = leashrl.train("bc", home / "data.hdf5", **given, episodes=1, final_episodes=2, out=tmp_path / "a")
    rows = read_lines(tmp_path / "a" / "evaluations.jsonl")
    assert [(row["step"], len(row["returns"])) for row in rows] == [(3, 1), (3, 1), (6, 2), (6, 2)]
    assert found.episodes == 2
    assert found.members[0].returns.final == pytest.approx(np.mean(rows[2]["returns"]))
    with pytest.raises(BadInput, match="'final_episodes' must be at least 1"):
        leashrl.train("bc", home / "data.hdf5", **given, final_episodes=0, out=tmp_path / "b")


@pytest.mark.parametrize("log_every", [10, 64])
def test_the_steps_of_a_run_that_diverged_do_not_depend_on_where_the_host_looked(
    log_every, home, monkeypatch, tmp_path
):
    break_at(monkeypatch, 20, True)
    result = leashrl.train(
        "bc", home / "data.hdf5", task="none", seeds=2, steps=200, log_every=log_every,
        options=OPTIONS | {"policy_rate": 0.5}, out=tmp_path / "run",
    )  # fmt: skip
    assert [m.diverged.step for m in result.members] == [21, 21]
    assert result.steps == 21 and result.score is None


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
