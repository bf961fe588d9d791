"""Single transitions in no order become rows that every algorithm can read."""

import numpy as np
import pytest

import leashrl
from leashrl.cli import main
from leashrl.data import Dataset, load
from leashrl.errors import BadInput
from leashrl.types import Box
from support.files import write

BOUNDS = Box((-1.0, -1.0), (1.0, 1.0))


def sampled(n=60, seed=0):
    """Rows of a buffer: nothing follows anything."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(n, 3)).astype(np.float32)
    return {
        "observations": obs,
        "actions": rng.uniform(-1, 1, (n, 2)).astype(np.float32),
        "rewards": rng.normal(size=n).astype(np.float32),
        "next_observations": obs + 0.1,
        "terminals": rng.random(n) < 0.2,
    }


def test_every_transition_is_a_row_with_its_own_next_observation():
    values = sampled()
    data = Dataset.from_transitions(*values.values(), action_space=BOUNDS)
    rows = data.transitions()
    over = values["terminals"][:-1] if values["terminals"][-1] else values["terminals"]
    n = len(over)  # the very last row has no row behind it
    for name, key in (("obs", "observations"), ("action", "actions"), ("reward", "rewards")):
        np.testing.assert_array_equal(rows[name], values[key][:n])
    np.testing.assert_array_equal(rows["terminal"], over)
    np.testing.assert_array_equal(rows["next_obs"][~over], values["next_observations"][:n][~over])
    known = data.transitions("dynamics")
    np.testing.assert_array_equal(known["known"], ~over if n == len(values["terminals"]) else known["known"])


def test_a_file_of_transitions_is_told_and_converted(tmp_path, capsys):
    path, out = write(tmp_path / "buffer.hdf5", sampled() | {"priority": np.ones(60)}), tmp_path / "log.hdf5"
    with pytest.raises(BadInput, match=r"single transitions in no order are read another way.*--transitions"):
        load(path)
    assert main(["data", "convert", str(path), str(out), "--transitions"]) == 0
    assert "left behind: priority" in capsys.readouterr().out
    wanted = Dataset.from_transitions(*sampled().values(), action_space=BOUNDS)
    assert load(out).hash == wanted.hash
    result = leashrl.train(
        "td3-bc", out, task="none", steps=3, seeds=1, options={"hidden": (8,), "batch_size": 8},
        out=tmp_path / "run",
    )  # fmt: skip
    assert not result.diverged


def test_what_is_missing_is_named(tmp_path):
    values = sampled()
    del values["next_observations"]
    path = write(tmp_path / "buffer.hdf5", values)
    assert main(["data", "convert", str(path), str(tmp_path / "log.hdf5"), "--transitions"]) == 2
    with pytest.raises(BadInput, match="differ in length: observations 2"):
        Dataset.from_transitions(
            np.zeros((2, 3)),
            np.zeros((3, 2)),
            np.zeros(3),
            np.zeros((3, 3)),
            np.zeros(3),
            action_space=BOUNDS,
        )
