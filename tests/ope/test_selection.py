"""Which snapshot a run keeps: the rule by hand, and the whole way without a simulator."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import leashrl
from leashrl.disk.folder import RunFolder
from leashrl.errors import BadInput
from leashrl.ope import selection
from leashrl.ope.results import FqeRow
from leashrl.ope.selection import choose

TINY = {"steps": 20, "hidden": (8,), "batch_size": 16}


def row(step, *seeds, flags=()):
    value = float(np.mean(seeds)) if seeds else None
    known = {"value": value, "low": None, "high": None, "rank": None, "rank_low": None, "rank_high": None}
    known |= {"strange": 0.05, "outside": 0.02, "ess": 0.5}
    return FqeRow(member="seed-0", step=step, **known, seeds=seeds or None, flags=flags)


# --- The rule ----------------------------------------------------------------


def test_a_lead_beyond_chance_is_kept():
    """Differences 1.0, 1.2, 0.8, 1.1, 0.9: mean 1, s = 0.158114, t of 4 degrees 2.776445."""
    last = (5.0, 6.0, 4.0, 5.5, 4.5)
    kept = choose([row(300, *last), row(100, 4, 4, 4, 4, 4), row(200, 6.0, 7.2, 4.8, 6.6, 5.4)])
    assert (kept.step, kept.last, kept.value, kept.last_value) == (200, 300, 6.0, 5.0)
    assert kept.lead == pytest.approx(1.0)
    assert kept.lead_low == pytest.approx(1 - 0.158114 * 1.2**0.5 * 2.776445, abs=1e-5)
    assert kept.why == "better than the last one beyond chance"


def test_a_lead_that_may_be_chance_is_not():
    """Differences 3, -1, 1, 2, 0: mean 1, s = 1.58, so that the lower end is far below 0."""
    kept = choose([row(1, 8.0, 5.0, 5.0, 7.5, 4.5), row(2, 5.0, 6.0, 4.0, 5.5, 4.5)])
    assert kept.step == 2 and kept.lead == pytest.approx(1.0) and kept.lead_low < 0


def test_the_last_one_is_kept_where_none_is_better():
    kept = choose([row(1, 1.0, 1.0), row(2, 2.0, 2.0)])
    assert (kept.step, kept.lead) == (2, 0.0) and "none is better" in kept.why


@pytest.mark.parametrize("flag", ["extrapolates: x", "off the data: x", "leaves the data: x"])
def test_what_leaves_the_data_is_not_kept(flag):
    """However good it seems; and where the last one does, the best of the others takes its place."""
    kept = choose([row(1, 9.0, 9.0, flags=(flag,)), row(2, 2.0, 2.0)])
    assert kept.step == 2
    kept = choose([row(1, 1.0, 1.0), row(2, 1.5, 1.5), row(3, 9.0, 9.0, flags=(flag,))])
    assert kept.step == 2 and flag.split(":")[0] in kept.why
    kept = choose([row(1, 1.0, 1.0, flags=(flag,)), row(2, 9.0, 9.0, flags=(flag,))])
    assert kept.step == 2 and "no snapshot stays near the data" in kept.why


def test_a_snapshot_without_a_value_is_not_kept():
    kept = choose([row(1, 1.0, 1.0), row(2, flags=("diverged: a critic of FQE left every scale",))])
    assert (kept.step, kept.last_value, kept.lead, kept.lead_low) == (1, None, None, None)
    kept = choose([row(1, flags=("diverged: x",)), row(2, 1.0, 1.0)])
    assert kept.step == 2


# --- The whole way -----------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "bc --data pendulum-medium --task none --seeds 2 --steps 30 --set hidden=8,8 batch_size=16"
    return words.split()


@pytest.fixture
def quick(monkeypatch):
    """FQE of a few updates; what it was asked for."""
    asked, whole = [], selection.fqe

    def brief(folders, data, **options):
        asked.append(folders)
        return whole(folders, data, **options | {"options": TINY, "seeds": 2, "rows": 500})

    monkeypatch.setattr(selection, "fqe", brief)
    return asked


def first_ones(rows):
    """A rule for tests: whatever the values, the first snapshot."""
    rows = sorted(rows, key=lambda row: row.step)
    return selection.Kept(rows[0].member, rows[0].step, rows[-1].step, 1.0, 0.0, 1.0, 0.5, "first")


def test_training_without_a_simulator_keeps_the_snapshot_that_is_chosen(run, quick, cli, monkeypatch):
    monkeypatch.setattr(selection, "choose", first_ones)
    out, _ = cli("train", *run, "--eval-every", "10", "--select", "fqe", "--out", "run", "--json")
    found, files = json.loads(out), RunFolder(Path("run"))
    assert [step for step, _ in files.snapshots()] == [10, 20, 30]
    assert [(kept["member"], kept["step"]) for kept in found["selection"]["members"]] == [
        ("seed-0", 10),
        ("seed-1", 10),
    ]
    assert json.loads((files.policy / "policy.json").read_text())["steps"] == {"seed-0": 10, "seed-1": 10}
    obs = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    acts = lambda folder: leashrl.load_policy(folder, "seed-1")(obs)
    np.testing.assert_array_equal(acts("run"), acts(files.snapshot(10)))
    assert not np.array_equal(acts("run"), acts(files.snapshot(30)))
    assert files.selection() == found["selection"]


def test_a_selection_that_was_stopped_is_made_by_resume(run, quick, cli, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(selection, "fqe", stopped)
        _, err = cli("train", *run, "--select", "fqe", "--out", "run", status=130)
    assert "go on with `leashrl resume run`" in err
    out, _ = cli("resume", "run")
    assert "keeps step" in out and len(quick) == 1
    out, _ = cli("resume", "run")  # once is enough
    assert "keeps step" not in out and len(quick) == 1


def test_a_run_is_selected_from_afterwards(run, quick, cli):
    cli("train", *run, "--snapshots", "--eval-every", "15", "--out", "run")
    out, _ = cli("select", "run")
    assert "seed-1" in out and "kept: run" in out
    assert len(leashrl.select("run").members) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "bc", "--data", "pendulum-medium", "--select", "fqee"], "'select' cannot be 'fqee'.*fqe"),
        (["train", "sac", "--task", "pendulum", "--select", "fqe"], "an online run has none"),
        (["train", "dt", "--data", "pendulum-medium", "--select", "fqe"], "remembers its episode"),
        (["train", "ddpg", "--task", "pendulum", "--select", "fqe"], "no use for --select"),
        (["select", "nowhere"], "has not finished|no "),
        (["select", "nowhere", "--seeds", "1"], "at least two seeds"),
    ],
)
def test_what_cannot_be_selected_is_one_line(words, said, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, err = cli(*words, status=2)
    assert re.search(said, err) and not list(tmp_path.iterdir())


def test_a_run_without_snapshots_cannot_be_selected_from(run, cli):
    cli("train", *run, "--out", "run")
    _, err = cli("select", "run", status=2)
    assert "no snapshots in 'run'" in err
    with pytest.raises(BadInput, match="at least two seeds"):
        leashrl.select("run", seeds=[3])
