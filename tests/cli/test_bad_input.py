"""What a user gives wrong: status 2, one line on stderr that says what and how to mend it, nothing kept."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from leashrl.cli import main
from leashrl.disk import claim
from support.files import edited

TINY = ["--set", "hidden=8", "batch_size=16", "--seeds", "1", "--steps", "20"]


# --- Data files --------------------------------------------------------------


def edit(name: str, change):
    """An edit of one array of the file."""

    def apply(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            array = np.asarray(file[name])
            del file[name]
            file[name] = change(array)

    return apply


def put(row: int, value: float):
    def change(array: np.ndarray) -> np.ndarray:
        array[row] = value
        return array

    return change


def every(change):
    """The same edit of all arrays with a row a step."""

    def apply(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            for name in [n for n in file if isinstance(file[n], h5py.Dataset) and file[n].ndim]:
                array = np.asarray(file[name])
                del file[name]
                file[name] = change(array)

    return apply


def rename(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.move("rewards", "reward")


def remove(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["terminals"]


def endless(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["timeouts"], file.attrs["max_episode_steps"]


BROKEN = {
    "not HDF5": (lambda p: p.write_text("obs,action\n1,2\n"), "not an HDF5 file"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), "truncated"),
    "no bytes": (lambda p: p.write_bytes(b""), "data.hdf5"),
    "missing key": (remove, "terminals"),
    "misnamed key": (rename, "rewards.*'reward'|'reward'.*rewards"),
    "wrong rank": (edit("rewards", lambda a: np.stack([a, a], 1)), "rewards.*shape"),
    "wrong length": (edit("rewards", lambda a: a[:-1]), "rewards.*399.*400|400.*399"),
    "NaN": (edit("observations", put(17, np.nan)), r"observations.*17\b"),
    "infinity": (edit("rewards", put(399, np.inf)), r"rewards.*399\b"),
    "action outside": (edit("actions", put(5, 2.5)), r"actions.*\b5\b"),
    "integer actions": (edit("actions", lambda a: a.astype(np.int64)), "integer"),
    "empty": (every(lambda a: a[:0]), "empty|no rows"),
    "one row": (every(lambda a: a[:1]), "a single row"),
    "no episode ends": (endless, "no episode ends"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused(kind, place, refused):
    damage, words = BROKEN[kind]
    damage(place / "data.hdf5")
    line = refused("train", "bc", "--data", "data.hdf5", "--task", "pendulum", "--out", "run", *TINY)
    assert re.search(words, line), line
    assert sorted(p.name for p in place.iterdir()) == ["data.hdf5"]


def test_check_names_every_defect_on_stdout_and_the_count_on_stderr(place, cli):
    edit("observations", put(17, np.nan))(place / "data.hdf5")
    edit("rewards", put(3, np.inf))(place / "data.hdf5")
    out, err = cli("data", "check", "data.hdf5", status=2)
    assert [line.split(":")[0] for line in out.splitlines()] == ["defect", "defect"]
    assert err.count("\n") == 1 and "2 defects" in err


# --- Names -------------------------------------------------------------------

TRAIN = ["train", "bc", "--data", "data.hdf5"]
TYPOS = {
    "command": (["trian", "bc"], "did you mean 'train'"),
    "data command": (["data", "inof", "data.hdf5"], "did you mean 'data info'"),
    "option": ([*TRAIN, "--sedes", "3"], "did you mean '--seeds'"),
    "algorithm": (["train", "msia", "--data", "data.hdf5"], "did you mean 'misa'"),
    "preset": ([*TRAIN, "--preset", "defualt"], "did you mean 'default'"),
    "hyper-parameter": ([*TRAIN, "--set", "hiden=8"], "did you mean 'hidden'"),
    "part": ([*TRAIN, "--set", "preprocess.ob=none"], "did you mean 'obs'"),
    "task": ([*TRAIN, "--task", "pendulm"], "did you mean 'pendulum'"),
    "recipe": (["data", "make", "pendulum-meduim", "--out", "x.hdf5"], "did you mean 'pendulum-medium'"),
    "file": (["data", "info", "dta.hdf5"], "did you mean 'data.hdf5'"),
    "what varies": ([*TRAIN, "--vary", "gama=0.9,0.99"], "did you mean 'gamma'"),
    "tracker": ([*TRAIN, "--track", "tensorbord"], "did you mean 'tensorboard'"),
}


@pytest.mark.parametrize("kind", TYPOS)
def test_the_nearest_name_is_named(kind, place, refused):
    argv, words = TYPOS[kind]
    assert words in refused(*argv)
    assert sorted(p.name for p in place.iterdir()) == ["data.hdf5"]


VALUES = {
    "task of other sizes": ([*TRAIN, "--task", "hopper"], "size 11.*size 3"),
    "no data": (["train", "bc"], "--data"),
    "not a number": ([*TRAIN, "--steps", "many"], "'many'"),
    "half a step": ([*TRAIN, "--steps", "1.5"], "'1.5'"),
    "no steps": ([*TRAIN, "--steps", "0"], "steps.*at least 1"),
    "negative": ([*TRAIN, "--steps", "-5"], "steps.*-5"),
    "no log": ([*TRAIN, "--log-every", "0"], "log_every"),
    "no evaluation": ([*TRAIN, "--task", "pendulum", "--eval-every", "0"], "eval_every"),
    "no episodes": ([*TRAIN, "--task", "pendulum", "--episodes", "0"], "episodes"),
    "seed 42": ([*TRAIN, "--seeds", "42"], "42 trains 42 seeds, 0 to 41: write 0..41"),
    "a range of seeds": ([*TRAIN, "--seeds", "0..1e9"], "are 1000000001 seeds"),
    "no seeds": ([*TRAIN, "--seeds", "0"], "seeds"),
    "a seed twice": ([*TRAIN, "--seeds", "1,1"], "seeds"),
    "a value twice": ([*TRAIN, "--vary", "gamma=0.9,0.9"], "twice"),
    "a word that varies": ([*TRAIN, "--vary", "gamma=high"], "gamma.*'high'"),
    "no value": ([*TRAIN, "--set", "gamma"], "NAME=VALUE"),
    "option twice": ([*TRAIN, "--set", "gamma=1", "--set", "gamma=0"], "twice"),
    "steps twice": ([*TRAIN, "--set", "steps=1", "--steps", "2"], "twice"),
    "a network without width": ([*TRAIN, "--set", "hidden=8,0"], "hidden.*'8,0'"),
    "no actions": (["train", "misa", "--data", "data.hdf5", "--set", "k=0"], "'k'.*at least 1"),
    "unknown activation": (
        ["train", "misa", "--data", "data.hdf5", "--set", "policy_activation=rely"],
        "did you mean 'relu'",
    ),
    "infinite": ([*TRAIN, "--set", "gamma=inf"], "gamma.*finite"),
    "infinite in float32": ([*TRAIN, "--set", "policy_rate=1e39"], "policy_rate.*finite float32.*'1e39'"),
    "infinite for a member": ([*TRAIN, "--vary", "policy_rate=0.1,-1e39"], "policy_rate.*finite float32"),
    "a whole with parts": ([*TRAIN, "--set", "preprocess=none"], "preprocess.obs"),
    "unknown choice": ([*TRAIN, "--set", "preprocess.obs=whiten"], "'whiten'"),
    "too much": (["data", "info", "data.hdf5", "other.hdf5"], "other.hdf5"),
    "one bound": (["data", "info", "data.hdf5", "--action-low", "-2"], "--action-high"),
}


@pytest.mark.parametrize("kind", VALUES)
def test_a_bad_value_is_named(kind, place, refused):
    argv, words = VALUES[kind]
    assert re.search(words, refused(*argv))
    assert sorted(p.name for p in place.iterdir()) == ["data.hdf5"]


# --- Disks -------------------------------------------------------------------


def test_an_output_folder_that_cannot_be(place, refused):
    line = refused(*TRAIN, "--task", "none", "--out", "data.hdf5/run", *TINY)
    assert "data.hdf5/run" in line and "--out" in line
    (place / "mine").mkdir()
    (place / "mine" / "thesis.tex").write_text("years of work")
    assert "not a run" in refused(*TRAIN, "--task", "none", "--out", "mine", "--overwrite", *TINY)
    assert (place / "mine" / "thesis.tex").read_text() == "years of work"


def test_an_existing_run_is_left_alone_unless_told(place, refused, cli):
    argv = [*TRAIN, "--task", "none", "--out", "run", *TINY]
    cli(*argv)
    before = {p: p.read_bytes() for p in (place / "run").rglob("*") if p.is_file()}
    line = refused(*argv)
    assert "leashrl resume run" in line and "--overwrite" in line
    assert {p: p.read_bytes() for p in (place / "run").rglob("*") if p.is_file()} == before
    assert main([*argv, "--overwrite", "--set", "gamma=0.5"]) == 0
    assert '"gamma": 0.5' in (place / "run" / "config.json").read_text()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("thesis.tex", "thesis.tex"),
        ("data.hdf5", "data.hdf5"),
        ("notes/day-1.md", "notes"),
        ("policy/notes.md", "policy/notes.md"),
        ("checkpoint/old.npz", "checkpoint/old.npz"),
    ],
)
def test_overwriting_deletes_nothing_where_something_else_lies(name, told, place, refused, cli):
    argv = [*TRAIN, "--task", "none", "--out", "run", *TINY]
    cli(*argv)
    mine = place / "run" / name
    mine.parent.mkdir(exist_ok=True)
    shutil.copy(place / "data.hdf5", mine)
    before = contents(place)
    assert f"'run/{told}'" in refused(*argv, "--overwrite")
    assert contents(place) == before


@pytest.mark.parametrize("text", ["{}", '{"model_type": "bert", "config": {}}', "[1]", "\0", ""])
def test_a_config_of_others_makes_no_run(text, place, refused):
    (place / "model").mkdir()
    (place / "model" / "config.json").write_text(text)
    line = refused(*TRAIN, "--task", "none", "--out", "model", "--overwrite", *TINY)
    assert "not a run" in line
    assert contents(place / "model") == {place / "model" / "config.json": text.encode()}


def test_overwriting_deletes_all_that_a_run_and_its_trackers_leave(place):
    argv = [*TRAIN, "--task", "none", "--out", "run", *TINY]
    assert main(argv) == 0
    fresh = {path.relative_to(place) for path in contents(place / "run")}
    run = place / "run"
    old = ["tensorboard/seed-0/events.out.tfevents.1.x.0", "wandb/run-1/files/config.yaml", "wandb/id"]
    old += [
        ".metrics.jsonl.77",
        "policy/.policy.json.77",
        "policy/seed-9.safetensors",
        ".checkpoint.77/step-1/x",
    ]
    old += ["checkpoint/.writing-77/arrays.safetensors"]
    for name in [*old, ".git/config"]:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("old")
    assert main([*argv, "--overwrite"]) == 0
    # Names with a dot that are not ours are not in the way.
    assert {path.relative_to(place) for path in contents(run)} == fresh | {Path("run/.git/config")}
    assert not (run / "wandb").exists() and not (run / ".checkpoint.77").exists()


def test_an_algorithm_that_cannot_be_built_leaves_no_folder(place, monkeypatch):
    from leashrl.algos import REGISTRY, bc

    def build(config, spec):
        def init(key, hp):
            raise IndexError("an option that nobody thought of")

        return bc.build(config, spec)._replace(init=init)

    monkeypatch.setitem(REGISTRY, "bc", REGISTRY["bc"]._replace(build=build))
    with pytest.raises(IndexError):
        main([*TRAIN, "--task", "none", "--out", "run", *TINY])
    assert not (place / "run").exists()


def test_a_file_in_the_place_of_the_policies(place, capsys, monkeypatch):
    """Put there while it trains: one line, and once it is gone, `resume` finishes."""
    from leashrl.training import loop

    means = loop._means
    monkeypatch.setattr(loop, "_means", lambda *x: (place / "run" / "policy").touch() or means(*x))
    assert main([*TRAIN, "--task", "none", "--out", "run", *TINY]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("leashrl: error: cannot write 'run/policy'")
    monkeypatch.setattr(loop, "_means", means)
    (place / "run" / "policy").unlink()
    assert main(["resume", "run"]) == 0


def test_a_disk_that_fills_up(place, capsys, monkeypatch):
    """The third file that is brought to disk meets a full one; with space again, `resume` goes on."""
    sync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) >= 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert main([*TRAIN, "--task", "none", "--out", "run", *TINY]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "no space left" in last and "leashrl resume" in last
    monkeypatch.setattr(os, "fsync", sync)
    assert [p for p in (place / "run").rglob("*") if p.name.startswith(".")] == []
    assert main(["resume", "run"]) == 0
    assert (place / "run" / "policy" / "seed-0.safetensors").exists()


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from leashrl.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_file_that_may_not_grow(place, tmp_path):
    """The kernel itself refuses the checkpoint's bytes: one line, and no half of a file stays behind."""
    argv = [*TRAIN, "--task", "none", "--out", "run", "--set", "hidden=64,64", "--seeds", "2", "--steps", "9"]
    # Compiled programs would meet the limit too: there is no cache where its folder cannot be.
    # Nor is coverage measured there: its own file meets the limit as well.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    environment |= {"LEASHRL_CACHE": str(place / "data.hdf5" / "cache")}
    process = subprocess.run(
        [sys.executable, "-c", LIMITED, *argv], capture_output=True, text=True, env=environment, timeout=120
    )
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stderr
    assert process.stderr.splitlines()[-1].startswith("leashrl: error: cannot write 'run/checkpoint/")
    assert sorted(p.name for p in (place / "run").rglob("*") if p.is_file()) == [
        "config.json",
        "evaluations.jsonl",
        "metrics.jsonl",
    ]


def test_standard_output_on_a_full_disk():
    full = Path("/dev/full")
    target = full if full.exists() else Path(os.devnull)  # only Linux has one
    with open(target, "w") as out:
        process = subprocess.run(
            [sys.executable, "-m", "leashrl", "tasks"],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert process.returncode == (2 if target == full else 0)
    assert process.stderr.count("\n") == (1 if target == full else 0), process.stderr


# --- A run's own files -------------------------------------------------------


@pytest.fixture
def run(place, cli) -> Path:
    cli(*TRAIN, "--task", "none", "--out", "run", *TINY)
    return place / "run"


def test_resume_of_what_is_no_run(place, refused):
    assert "config.json" in refused("resume", "nowhere")
    assert "config.json" in refused("resume", ".")
    assert "data.hdf5" in refused("resume", "data.hdf5")
    assert "no policy in 'nowhere'" in refused("eval", "nowhere")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '"misa"', '{"algorithm": "bc"}', '{"algorithm": "bcc"}', "\0\0\0"]
)
def test_a_damaged_config(text, run, refused):
    (run / "config.json").write_text(text)
    (run / "result.json").unlink()
    assert "config.json" in refused("resume", "run")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"algorithm": "bc", "config": {}, "obs_dim": 3, "action_space": {}}']
)
def test_a_damaged_policy_description(text, run, refused):
    (run / "policy" / "policy.json").write_text(text)
    assert "policy.json" in refused("eval", "run")


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_damaged_policy(keep, run, refused):
    path = run / "policy" / "seed-0.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "seed-0.safetensors" in refused("eval", "run", "--task", "pendulum")


def test_every_checkpoint_damaged(run, refused):
    (run / "result.json").unlink()
    for path in (run / "checkpoint").glob("*/arrays.safetensors"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1  # one bit
        path.write_bytes(data)
    assert "every checkpoint" in refused("resume", "run")


def test_other_data_than_the_run_was_started_on(run, refused):
    (run / "result.json").unlink()
    edit("rewards", put(0, -1.0))(run.parent / "data.hdf5")
    assert "hash differs" in refused("resume", "run")


def test_other_data_with_the_same_arrays(run, refused):
    """What the hash does not cover: the bounds that actions are scaled by, and where episodes are cut."""
    (run / "result.json").unlink()
    other = run.parent / "other.hdf5"
    shutil.copy(run.parent / "data.hdf5", other)
    with h5py.File(other, "r+") as file:
        for name in ("action_low", "action_high"):
            where = file.attrs if name in file.attrs else file["metadata"].attrs
            where[name] = 2 * np.asarray(where[name])
    line = refused("resume", "run", "--data", "other.hdf5")
    assert "the action space differs" in line and "hash" not in line
    # A run of an older version knows the hash alone.
    with edited(run / "config.json") as config:
        for name in ("action_space", "max_episode_steps", "transitions"):
            del config["data"][name]
    assert main(["resume", "run", "--data", "other.hdf5"]) == 0


def test_a_run_that_goes_on_already(run, refused):
    """Another holder of the lock: both commands are refused, and nothing of the run is touched."""
    (run / "result.json").unlink()
    before = contents(run)
    with claim.hold(run):
        for argv in (["resume", "run"], [*TRAIN, "--task", "none", "--out", "run", "--overwrite", *TINY]):
            assert "'run' is being written by another process" in refused(*argv)
    assert contents(run) == before
    (run / ".lock").touch()  # as a kill leaves it, or a copy of the folder: nobody holds it
    assert main(["resume", "run"]) == 0
    assert not (run / ".lock").exists()


def test_an_evaluation_where_nothing_fits(run, refused):
    assert "leashrl tasks" in refused("eval", "run")  # trained with --task none
    assert "hopper" in refused("eval", "run", "--task", "hopper")
    assert "'mean'" in refused("eval", "run", "--task", "pendulum", "--mode", "meen")
    assert "'mean'" in refused("eval", "run", "--task", "pendulum", "--mode", "sample,meen")
    assert "episodes" in refused("eval", "run", "--task", "pendulum", "--episodes", "0")
