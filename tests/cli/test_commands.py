"""The command line as people and scripts use it: documents, tables, exit status, progress."""

import importlib.machinery
import importlib.metadata
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

from leashrl.algos import REGISTRY
from leashrl.cli import COMMANDS, SHORT, main
from leashrl.cli.progress import Screen
from leashrl.data import load
from leashrl.runs.events import Started
from leashrl.runs.peers import PEERS
from leashrl.runs.plan import Plan
from leashrl.tasks import TASKS
from leashrl.tasks.ogbench import parse
from support import ROOT

TINY = ["--set", "hidden=8", "batch_size=16"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with data and a finished run of two seeds, both made by the command line."""
    folder, before = tmp_path_factory.mktemp("cli"), Path.cwd()
    os.chdir(folder)
    try:
        assert main(["data", "make", "pendulum-medium", "--steps", "400", "--out", "data.hdf5"]) == 0
        argv = ["train", "bc", "--data", "data.hdf5", "--task", "pendulum", "--seeds", "2", "--steps", "200"]
        assert main([*argv, *TINY, "--episodes", "1", "--eval-every", "100", "--out", "run"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def cli(home, monkeypatch, cli):
    """Commands run in `home`."""
    monkeypatch.chdir(home)
    return cli


# --- Help --------------------------------------------------------------------


def test_alone_it_shows_the_five_most_useful_commands(cli):
    out, _ = cli()
    shown = [line.split()[:2] for line in out.splitlines() if line.startswith("  leashrl")]
    assert [words[1] for words in shown] == ["data", "train", "resume", "eval", "algos"]


INDEX = (ROOT / "docs" / "index.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("text", [SHORT, INDEX], ids=["leashrl", "docs/index.md"])
def test_the_first_commands_work_as_they_are_written(text, tmp_path, monkeypatch):
    """Run in their order in an empty folder; what is appended makes them small, and changes nothing else."""
    tiny = ["--set", "hidden=8", "batch_size=8", "k=4", "--steps", "4", "--seeds", "1", "--episodes", "1"]
    small = {"data": ["--steps", "400"], "train": tiny, "eval": ["--episodes", "1"]}
    monkeypatch.chdir(tmp_path)
    lines = [line.partition("#")[0].split() for line in text.splitlines()]
    commands = [words[1:] for words in lines if words[:1] == ["leashrl"]]
    assert [argv[0] for argv in commands if argv[0] in small] == ["data", "train", "eval"]
    for argv in commands:
        assert argv[0] != "train" or "--steps" in argv, "the default is the papers' number: half a day"
        assert main([*argv, *small.get(argv[0], [])]) == 0


def test_help_names_all_commands_and_each_has_its_own(cli, capsys):
    out, _ = cli("--help")
    for name in COMMANDS:
        assert f"\n  {name} " in out
        with pytest.raises(SystemExit) as end:
            main([*name.split(), "--help"])
        assert end.value.code == 0
        said = capsys.readouterr().out
        assert f"usage: leashrl {name}" in said and "--json" in said


def test_version(cli):
    assert cli("--version")[0] == f"leashrl {importlib.metadata.version('leashrl')}\n"


# --- Looking up --------------------------------------------------------------


def test_algos(document, cli):
    rows = document("algos")["algorithms"]
    assert [row["name"] for row in rows] == [*sorted(REGISTRY), *PEERS]
    for row in rows[: len(REGISTRY)]:
        entry = REGISTRY[row["name"]]
        assert set(row) == {"name", "paper", "discrete", "online", "presets"}
        assert row["presets"] == list(entry.presets) and row["discrete"] == entry.discrete
    out, _ = cli("algos")
    assert [line.split()[0] for line in out.splitlines()] == ["name", *sorted(REGISTRY), *PEERS]


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_algos_of_a_name_explains_every_option(name, document, cli):
    found = document("algos", name)["algorithm"]
    for option in found["options"]:
        assert option["about"], f"{option['name']} is not explained"
        assert option["type"] in ("bool", "int", "float", "str", "int,int,...")
        assert set(option["presets"]) == set(REGISTRY[name].presets)
        assert option["default"] == option["presets"]["default"]
        assert option["varies"] == (option["type"] == "float")
    out, _ = cli("algos", name)
    assert all(f"\n  {preset}" in out for preset in REGISTRY[name].presets)


def test_values_of_a_preset(document):
    options = {o["name"]: o for o in document("algos", "bc")["algorithm"]["options"]}
    assert options["preprocess.obs"]["presets"] == {
        "default": "standardise",
        "deterministic": "standardise",
        "raw": "none",
        "ogbench": "none",
    }
    assert options["hidden"]["default"] == [256, 256] and options["policy_rate"]["default"] == 1e-3


def test_tasks(document, cli):
    rows = {row["name"]: row for row in document("tasks")["tasks"]}
    assert set(rows) == set(TASKS)
    assert rows["hopper-medium-v2"]["max_score"] == 3234.3
    one = document("tasks", "antmaze-umaze-v0")["task"]
    assert one["episodes"] == 100 and one["note"]
    assert one["domain_defaults"]["misa"]["tau"] == 10.0
    out, _ = cli("tasks")
    listed = {line.split()[0] for line in out.splitlines() if line.split()[:1]} & set(TASKS)
    # of OGBench's data sets the default task stands for its five
    others = {name for name, task in TASKS.items() if task.domain == "ogbench"} - listed
    assert listed | others == set(TASKS) and "cube-single-play-singletask-v0" in listed
    assert all("-task" in name or parse(name).kind is None for name in others)


# --- Data --------------------------------------------------------------------


def test_data_make_is_repeatable(document, home):
    first = document("data", "make", "pendulum-medium", "--steps", "400", "--out", "data.hdf5")
    assert first["rows"] == 400 and first["hash"] == load(home / "data.hdf5").hash
    other = document(
        "data", "make", "pendulum-medium", "--steps", "400", "--seed", "1", "--out", "other.hdf5"
    )
    assert other["hash"] != first["hash"]
    cached = document("data", "make", "pendulum-random", "--steps", "400")
    assert Path(cached["file"]).is_file() and os.environ["LEASHRL_CACHE"] in cached["file"]


def test_data_info_and_check(document, cli, home):
    found = document("data", "info", "data.hdf5")
    data = load(home / "data.hdf5")
    assert found["rows"] == 400 and found["hash"] == data.hash
    assert found["return"]["mean"] == pytest.approx(float(data.reward.astype(np.float64).sum()) / 2)
    assert document("data", "check", "data.hdf5") == {"source": "data.hdf5", "ok": True, "defects": []}
    assert "400" in cli("data", "info", "data.hdf5")[0]
    assert cli("data", "check", "data.hdf5")[0] == "data.hdf5: no defect found\n"


def test_data_check_of_a_broken_file_still_prints_its_document(document, home):
    (home / "broken.hdf5").write_bytes((home / "data.hdf5").read_bytes()[:5000])
    found = document("data", "check", "broken.hdf5", status=2)
    assert found["ok"] is False and len(found["defects"]) == 1
    assert found["defects"][0]["message"]


def test_data_convert_and_bounds_that_the_file_does_not_hold(document, cli, home):
    assert document("data", "convert", "data.hdf5", "data.npz") == {
        "source": "data.hdf5",
        "target": "data.npz",
    }
    assert load(home / "data.npz").hash == load(home / "data.hdf5").hash
    np.savez(
        home / "mine.npz",
        observations=np.zeros((4, 2), np.float32),
        actions=np.array([[-2.0, 0.5], [2.0, 0], [0, 0], [0, 0]], np.float32),
        rewards=np.zeros(4, np.float32),
        terminals=np.array([0, 1, 0, 1], bool),
    )
    assert "action space" in cli("data", "info", "mine.npz", status=2)[1]
    bounds = ["--action-low", "-2,-1", "--action-high", "2,1"]
    found = document("data", "info", "mine.npz", *bounds)
    assert found["action_space"] == {"kind": "Box", "low": [-2.0, -1.0], "high": [2.0, 1.0]}
    cli("data", "convert", "mine.npz", "bounded.npz", *bounds)
    assert document("data", "info", "bounded.npz")["action_space"] == found["action_space"]


# --- Runs --------------------------------------------------------------------


def test_train_leaves_its_artefacts_and_prints_them(home, document, cli):
    found = document("resume", "run")  # it has finished: the same document as `train` printed
    assert found["folder"] == "run" and found["steps"] == 200 and found["evaluated"]
    assert [m["name"] for m in found["members"]] == ["seed-0", "seed-1"]
    rows = [json.loads(x) for x in (home / "run" / "evaluations.jsonl").read_text().splitlines()]
    assert [(row["step"], row["seed"]) for row in rows] == [(100, 0), (100, 1), (200, 0), (200, 1)]
    finals = [row["score"] for row in rows[2:]]
    assert [m["score"]["final"] for m in found["members"]] == finals
    assert found["members"][0]["score"]["last_10_mean"] == pytest.approx(
        (rows[0]["score"] + rows[2]["score"]) / 2
    )
    assert found["score"]["mean"] == pytest.approx(sum(finals) / 2) and found["score"]["n"] == 2
    out, err = cli("resume", "run")
    assert "finished already" in err
    table = out.splitlines()
    assert table[0].split() == ["member", "score", "last", "10", "return", "last", "10"]
    assert table[1].split()[:2] == ["seed-0", f"{finals[0]:.1f}"]
    assert "mean" in table[3] and "IQM" in table[3] and "95 % interval" in table[3]
    assert "run" in table[4]


def test_train_says_what_it_does_in_plain_lines(cli):
    argv = ["train", "bc", "--data", "data.hdf5", "--task", "pendulum", "--seeds", "0,7", "--steps", "40"]
    argv += [*TINY, "--episodes", "1", "--eval-every", "20", "--log-every", "10", "--out", "plain"]
    out, err = cli(*argv)
    assert "\x1b" not in err + out and "\r" not in err
    lines = err.splitlines()
    head = {line.split()[0]: line for line in lines[:6]}
    assert "bc, preset default" in head["algorithm"]
    assert "400 rows" in head["data"] and "pendulum, 1 episodes every 20" in head["task"]
    assert "seed 0, seed 7" in head["members"] and "plain" in head["folder"]
    assert head["precision"].split()[1].strip(",") in ("float32", "bfloat16")
    assert lines[6] == "compiling ..."
    assert [x.split(",")[0].split(":")[0] for x in lines[7:]] == [
        "step 10/40", "step 20/40", "step 20", "step 30/40", "step 40/40", "step 40"
    ]  # fmt: skip
    assert "updates/s" in lines[7] and "over 2 members" in lines[7]


@pytest.mark.parametrize("assumed", [True, False])
def test_assumed_bounds_of_actions_are_told(assumed, capsys):
    data = {"name": "logs", "rows": 9, "hash": "0" * 64, "action_space_assumed": assumed}
    members = ({"seed": 0},)
    plan = Plan("bc", "default", None, data, None, members, log_every=1, eval_every=1, episodes=0)
    Screen("")(Started(plan, Path("run"), total=1))
    assert capsys.readouterr().err.count("D4RL's [-1, 1]: the file says no bounds") == assumed


def test_no_task_means_not_evaluated(cli, document):
    argv = ["train", "bc", "--data", "mystery.hdf5", "--seeds", "1", "--steps", "5", *TINY]
    shutil.copy("data.hdf5", "mystery.hdf5")
    out, err = cli(*argv, "--out", "blind")
    assert "not evaluated: the data's name says no task" in err
    assert "not evaluated" in out and "blind" in out
    found = document(*argv, "--out", "blind", "--overwrite")
    assert found["evaluated"] is False and found["score"] is None


def test_seeds_and_values_on_one_axis(document, home):
    argv = ["train", "bc", "--data", "data.hdf5", "--task", "none", "--seeds", "3,5", "--steps", "20", *TINY]
    found = document(*argv, "--vary", "policy_rate=0.001,0.01", "--out", "varied")
    names = [m["name"] for m in found["members"]]
    assert names == [f"seed-{s},policy_rate={v}" for v in ("0.001", "0.01") for s in (3, 5)]
    assert sorted(p.stem for p in (home / "varied" / "policy").glob("*.safetensors")) == sorted(names)
    alone = ["train", "bc", "--data", "data.hdf5", "--task", "none", "--seeds", "5,", "--steps", "20"]
    document(*alone, *TINY, "policy_rate=0.01", "--out", "alone")
    from safetensors.numpy import load_file

    mine = load_file(home / "varied" / "policy" / "seed-5,policy_rate=0.01.safetensors")
    theirs = load_file(home / "alone" / "policy" / "seed-5.safetensors")
    for name in theirs:
        np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-4, atol=1e-6)


def test_a_member_that_diverges_is_told_and_the_status_is_3(cli, document, home):
    argv = [
        "train",
        "bc",
        "--data",
        "data.hdf5",
        "--task",
        "pendulum",
        "--seeds",
        "1",
        "--steps",
        "60",
        *TINY,
    ]
    argv += ["--episodes", "1", "--vary", "policy_rate=0.001,1e30", "--out", "fallen"]
    out, err = cli(*argv, status=3)
    told = [line for line in err.splitlines() if "diverged" in line]
    assert len(told) == 1 and "seed-0,policy_rate=1e+30" in told[0]
    assert "at step" in told[0] and "policy_loss" in told[0]
    assert "diverged at step" in out and "over 1 members" in out
    found = document("resume", "fallen", status=3)
    fine, fallen = found["members"]
    assert fine["diverged"] is None and fine["score"]["final"] is not None
    assert fallen["diverged"]["metric"] == "policy_loss" and fallen["score"]["final"] is None
    assert [m["name"] for m in document("eval", "fallen")["members"]] == ["seed-0,policy_rate=0.001"]


def test_eval(document, cli):
    found = document("eval", "run", "--episodes", "2")
    assert found["task"] == "pendulum" and found["episodes"] == 2 and found["seed"] == 1
    assert [len(m["returns"]) for m in found["members"]] == [2, 2]
    again = document("eval", "run/policy", "--episodes", "2", "--seed", "1", "--mode", "mean")
    assert again["members"] == found["members"]
    out, _ = cli("eval", "run", "--episodes", "2")
    assert out.splitlines()[1].split() == ["member", "score", "return", "length"]
    assert out.splitlines()[2].split()[-1] == "200.0"


def test_eval_of_several_modes_at_once(document, cli):
    """Each is what it is by itself; one that is mistyped stops all before the first."""
    ways = [document("eval", "run", "--episodes", "2", "--mode", mode) for mode in ("mean", "sample")]
    both = document("eval", "run", "--episodes", "2", "--mode", "mean,sample")["modes"]
    assert [one["members"] for one in both] == [one["members"] for one in ways]
    out, _ = cli("eval", "run", "--episodes", "2", "--mode", "all")
    assert [line.split("mode ")[1] for line in out.splitlines() if "mode " in line] == ["mean", "sample"]


# --- Trackers ----------------------------------------------------------------


def shown(folder: Path) -> list[tuple[int, str, float]]:
    """The points that TensorBoard shows of a folder: at a START, those from its step on are purged."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    points: list[tuple[int, str, float]] = []
    for path in sorted(folder.iterdir()):
        left = path.read_bytes()
        while left:  # a record: length, checksum, event, checksum
            end = 12 + int.from_bytes(left[:8], "little")
            event, left = Event.FromString(left[12:end]), left[end + 4 :]
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                points = [point for point in points if point[0] < event.step]
            points += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return sorted(points)


def test_tensorboard_shows_the_rows_of_the_files_and_after_a_resume_each_once(cli, home):
    argv = ["train", "bc", "--data", "data.hdf5", "--task", "pendulum", "--seeds", "2", "--steps", "30"]
    argv += [*TINY, "--episodes", "1", "--eval-every", "10", "--log-every", "5"]
    run = home / "tracked"
    cli(*argv, "--track", "tensorboard", "--out", "tracked")

    def assert_shown():
        files = [run / "metrics.jsonl", run / "evaluations.jsonl"]
        rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        names = ("policy_loss", "policy_std", "return", "score")
        for seed in (0, 1):
            mine = [row for row in rows if row["seed"] == seed]
            wanted = sorted((r["step"], k, float(np.float32(r[k]))) for r in mine for k in names if k in r)
            assert len(wanted) == 18
            deadline = time.monotonic() + 60  # a thread writes
            while shown(run / "tensorboard" / f"seed-{seed}") != wanted and time.monotonic() < deadline:
                time.sleep(0.2)
            assert shown(run / "tensorboard" / f"seed-{seed}") == wanted

    assert_shown()
    # as a kill between steps 20 and 30 leaves it, the lines of 25 written
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoint" / "step-0000000030")
    cli("resume", "tracked", "--track", "tensorboard")
    assert_shown()
    # as a kill before the first checkpoint leaves it: it starts again, and all is purged
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoint")
    cli("resume", "tracked", "--track", "tensorboard")
    assert_shown()


def test_a_stand_in_for_wandb_stays_offline_and_a_resume_goes_on_in_its_run(cli, home, monkeypatch):
    opened, logged = [], []

    class Run:
        id = "k3x9"

        def log(self, values, step):
            logged.append((step, sorted(values)))

    module = types.ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    module.init = lambda **given: opened.append(given) or Run()  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    argv = ["train", "bc", "--data", "data.hdf5", "--task", "none", "--seeds", "1", "--steps", "10", *TINY]
    cli(*argv, "--track", "wandb", "--out", "watched")
    names = ["seed-0/policy_loss", "seed-0/policy_std"]
    assert opened[0]["mode"] == "offline" and opened[0]["config"]["algorithm"] == "bc"
    assert opened[0]["id"] is None and logged == [(10, names)]
    (home / "watched" / "result.json").unlink()
    shutil.rmtree(home / "watched" / "checkpoint")
    cli("resume", "watched", "--track", "wandb")
    assert (opened[1]["id"], opened[1]["resume"]) == ("k3x9", "allow") and logged[1:] == [(10, names)]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_tracker_is_told_before_the_run(name, cli, home, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    argv = ["train", "bc", "--data", "data.hdf5", "--steps", "5", "--out", "untracked", "--track", name]
    assert f"pip install 'leashrl[{name}]'" in cli(*argv, status=2)[1]
    assert not (home / "untracked").exists()


# --- Terminals and pipes -----------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", ["60", "200"])
def test_a_bar_on_a_terminal(width, cli, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("TERM", "xterm")
    argv = [
        "train",
        "bc",
        "--data",
        "data.hdf5",
        "--task",
        "pendulum",
        "--seeds",
        "2",
        "--steps",
        "40",
        *TINY,
    ]
    cli(*argv, "--episodes", "1", "--eval-every", "20", "--log-every", "10", "--out", f"bar-{width}")
    seen = screen.getvalue()
    assert "compiling ..." in seen and "score" in seen
    assert seen.count("\x1b[?25l") == seen.count("\x1b[?25h") == 1  # the cursor is hidden, and comes back


def test_a_reader_that_has_seen_enough(home):
    command = f"set -o pipefail; '{sys.executable}' -m leashrl tasks | head -1"
    process = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=home, timeout=120)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.split()[0] == "name"


def test_ctrl_c_before_anything_began(cli, monkeypatch):
    # A shell that starts the tests in the background has them ignore the signal; a person's does not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the signal did not arrive")

    monkeypatch.setattr("leashrl.runs.experiment.load", interrupt)
    argv = ["train", "bc", "--data", "data.hdf5", "--out", "never"]
    try:
        assert cli(*argv, status=130)[1] == "leashrl: interrupted\n"
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("where", ["at work", "in an import"])
def test_a_signal_is_one_line_from_the_start(name, where, tmp_path):
    """In an import it must not become an exception: jaxlib's ends in an abort or an ImportError then."""
    signalled = f"import os, signal, time; os.kill(os.getpid(), signal.{name}); time.sleep(30)"
    swallowed = f"try:\n    {signalled}\nexcept BaseException:\n    raise ImportError"
    (tmp_path / "compiled.py").write_text(swallowed)
    work = "import compiled" if where == "in an import" else signalled
    code = f"""if True:
        import signal, sys
        import leashrl.cli as cli
        signal.signal(signal.SIGINT, signal.default_int_handler)
        cli.dispatch = lambda argv: exec({work!r})
        sys.exit(cli.main([]))
    """
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert (process.returncode, process.stderr) == (130, "leashrl: interrupted\n")


def test_looking_up_needs_no_jax(home):
    code = (
        "import sys; from leashrl.cli import main; main(['tasks', '--json']); assert 'jax' not in sys.modules"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
