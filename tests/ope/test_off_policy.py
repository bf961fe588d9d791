"""Policies judged on logs whose truth is a sum or an integral: bandits, and a walk of a few steps."""

import dataclasses
import json

import numpy as np
import pytest

import leashrl
from leashrl.data import Dataset
from leashrl.data.propensity import log_propensities
from leashrl.errors import BadInput
from leashrl.ope.importance import METHODS
from leashrl.types import Box, Discrete

ROWS = 2000
LOGGED = np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])  # b(a | which of two contexts)
PAID = np.array([[1.0, 0.0, 3.0], [2.0, 1.0, -1.0]])
QUICK = {"steps": 300, "hidden": (16, 16)}


def bandit(rows=ROWS, seed=0, propensity=True, factor=1.0):
    rng = np.random.default_rng(seed)
    context = rng.integers(2, size=rows)
    action = (rng.random(rows)[:, None] > np.cumsum(LOGGED, 1)[context]).sum(1)
    reward = PAID[context, action] + 0.1 * rng.standard_normal(rows)
    return Dataset.from_arrays(
        np.eye(2)[context],
        action,
        reward,
        np.ones(rows, bool),
        propensity=np.minimum(1.0, factor * LOGGED[context, action]) if propensity else None,
        action_space=Discrete(3),
        name="bandit",
    )


@pytest.fixture(scope="module")
def cloned(tmp_path_factory):
    """A run of behaviour cloning on another log, so that its policy draws unlike the judged one's."""
    rng, folder = np.random.default_rng(5), tmp_path_factory.mktemp("cloned") / "bc"
    context = rng.integers(2, size=500)
    action = np.where(rng.random(500) < 0.4, rng.integers(3, size=500), 2 * (context == 0))
    data = Dataset.from_arrays(
        np.eye(2)[context], action, np.ones(500), np.ones(500, bool), action_space=Discrete(3)
    )
    options = {"hidden": (8, 8), "policy_rate": 3e-3}
    leashrl.train("bc", data, task="none", seeds=1, steps=300, options=options, out=folder)
    return folder


def truth(folder, data, mode="sample"):
    """E over the logged contexts of sum_a pi(a | s) r(s, a)."""
    policy = leashrl.load_policy(folder)
    every = [policy.log_prob(data.obs, np.full(len(data), a), mode=mode) for a in range(3)]
    pi = np.exp(np.array(every).T)
    np.testing.assert_allclose(pi.sum(1), 1.0, rtol=1e-6)
    return float(np.mean(np.sum(pi * PAID[data.obs.argmax(1)], 1)))


@pytest.mark.slow
def test_a_bandit_is_judged_as_it_pays(cloned):
    data = bandit()
    found = leashrl.off_policy([cloned], data, methods=("fqe", *METHODS), mode="sample", options=QUICK)
    rows, known = {row.method: row for row in found.rows}, truth(cloned, data)
    assert set(rows) == {"fqe", *METHODS} and found.propensities == "logged" and not found.left_out
    assert abs(found.data.value - known) > 0.3  # the log itself is no answer
    for method, row in rows.items():
        assert row.low < known < row.high, method
        assert row.flags == () and row.mode == "sample" and row.member == "seed-0"
    width = {method: row.high - row.low for method, row in rows.items()}
    assert width["dr"] < width["wis"] < width["is"]  # what a model and a normaliser buy
    assert rows["is"].value == pytest.approx(rows["pdis"].value) and rows["wis"].value == rows["wpdis"].value
    assert 500 < rows["is"].ess < ROWS and rows["fqe"].ess is None
    switched = leashrl.off_policy(
        [cloned], data, methods=["switch-dr"], mode="sample", switch=1.0, options=QUICK
    )
    (row,) = switched.rows
    assert row.clipped > 0.1 and row.bias > 0 and row.low < known < row.high


@pytest.mark.slow
def test_a_policy_that_never_draws_is_judged_where_its_action_was_logged(cloned):
    data = bandit(seed=1)
    found = leashrl.off_policy([cloned], data, methods=["is", "wis"])
    assert [row.mode for row in found.rows] == ["greedy"] * 2
    known = truth(cloned, data, "greedy")
    assert all(row.low < known < row.high for row in found.rows)


@pytest.mark.slow
def test_unknown_propensities_are_cloned_and_wrong_ones_are_told(cloned):
    data = bandit(propensity=False)
    found = leashrl.off_policy([cloned], data, methods=["wis"], mode="sample")
    assert found.propensities == "estimated"
    (row,) = found.rows
    assert row.value == pytest.approx(truth(cloned, data), abs=0.1)
    (row,) = leashrl.off_policy([cloned], bandit(factor=0.5), methods=["is"], mode="sample").rows
    assert any("ratios average 2" in flag for flag in row.flags), row.flags


def line(rows=600, steps=3, seed=0):
    """Uniform actions in [-2, 2], of density 1/4; each step pays -(a - s)^2, s never moves."""
    rng = np.random.default_rng(seed)
    s = np.repeat(rng.uniform(-1, 1, rows), steps)
    a = rng.uniform(-2, 2, rows * steps)
    cut = np.arange(rows * steps) % steps == steps - 1
    return Dataset.from_arrays(
        s, a, -((a - s) ** 2), np.zeros(len(s), bool), timeout=cut, propensity=np.full(len(s), 0.25),
        action_space=Box((-2.0,), (2.0,)), name="line",
    )  # fmt: skip


@pytest.mark.slow
def test_densities_are_of_the_environments_units(tmp_path):
    data, gamma = line(), 0.9
    for name in ("bc", "td3-bc"):
        leashrl.train(
            name, data, task="none", seeds=1, steps=200, options={"hidden": (8, 8)}, out=tmp_path / name
        )
    policy, grid = leashrl.load_policy(tmp_path / "bc"), np.linspace(-1.9999, 1.9999, 2001, dtype=np.float32)
    states = data.obs[:: 3 * 60]
    paid = []
    for s in states[:, 0]:
        density = np.exp(policy.log_prob(np.full((2001, 1), s), grid[:, None], mode="sample"))
        assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=0.01)
        paid.append(np.trapezoid(density * -((grid - s) ** 2), grid))
    found = leashrl.off_policy(
        [tmp_path / "bc", tmp_path / "td3-bc"],
        data,
        methods=["fqe", "pdis", "wdr"],
        gamma=gamma,
        options=QUICK,
    )
    known = np.mean(paid) * (1 + gamma + gamma**2)
    mine = {row.method: row for row in found.rows if row.algorithm == "bc"}
    for method in ("pdis", "wdr"):  # the ten states are a sample of those logged
        assert mine[method].value == pytest.approx(known, rel=0.15), method
        assert mine[method].mode == "sample" and mine[method].flags == ()
    assert [row.method for row in found.rows if row.algorithm == "td3-bc"] == ["fqe"]
    (left,) = found.left_out
    assert "td3-bc" in left.policy and left.why.startswith("pdis, wdr: its actions have no probability")
    with pytest.raises(BadInput, match=r"no policy to judge.*td3-bc"):
        leashrl.off_policy([tmp_path / "td3-bc"], data, methods=["wis"])
    with pytest.raises(BadInput, match="has no mode 'best'"):
        leashrl.off_policy([tmp_path / "bc"], data, methods=["wis"], mode="best")
    with pytest.raises(BadInput, match="no probability or density in mode 'mean': sample"):
        policy.log_prob(states, states, mode="mean")
    with pytest.raises(BadInput, match=r"shape \(10, 1\)"):
        policy.log_prob(states, states[:, 0], mode="sample")


@pytest.mark.slow
def test_a_policy_beyond_the_log_has_no_interval(cloned):
    """Forty steps that greedy actions never follow to the end."""
    rng = np.random.default_rng(0)
    context, cut = rng.integers(2, size=400), np.arange(400) % 40 == 39
    action = rng.integers(3, size=400)
    data = Dataset.from_arrays(
        np.eye(2)[context], action, np.ones(400), np.zeros(400, bool), timeout=cut,
        propensity=np.full(400, 1 / 3), action_space=Discrete(3),
    )  # fmt: skip
    wis, dr = leashrl.off_policy([cloned], data, methods=["wis", "dr"], options=QUICK).rows
    assert wis.value is None and wis.low is None and wis.ess == 0
    assert dr.value is not None and dr.low is None
    assert any("no logged episode does what it does beyond step" in flag for flag in dr.flags)


def test_what_cannot_be_judged_is_one_line(cloned):
    data = bandit(rows=50)
    for options, says in (
        ({"methods": ["wiss"]}, "no method 'wiss'.*wis"),
        ({"methods": []}, "at least one method"),
        ({"clip": 0.0}, "above 0"),
        ({"gamma": 1.5}, "from 0 to 1"),
        ({"gamma": 1.0, "methods": ["dr"]}, "from 0 to below 1"),
        ({"propensity": "pscores"}, "holds no array 'pscores'.*propensity"),
    ):
        with pytest.raises(BadInput, match=says):
            leashrl.off_policy([cloned], data, **options)
    with pytest.raises(BadInput, match="at least 4 episodes, and the data have 3"):
        leashrl.off_policy([cloned], bandit(rows=3))
    assert leashrl.off_policy([cloned], data, methods=["is"], gamma=1.0).gamma == 1.0


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([0.5, 0.0], "propensity of row 1 is 0, and must be a probability"),
        ([1.5, 0.5], "propensity of row 0 is 1.5, and must be a probability"),
        ([0.5, np.nan], "row 1 is nan"),
        ([0.5], "one propensity per row"),
        (["a", "b"], "must be numbers"),
    ],
)
def test_what_is_no_propensity_is_refused(values, says):
    with pytest.raises(BadInput, match=says):
        Dataset.from_arrays(
            [[0.0]] * 2, [0, 1], [0.0] * 2, [1, 1], propensity=values, action_space=Discrete(2)
        )


def test_propensities_come_by_every_way(tmp_path):
    data = bandit(rows=20)
    known = np.log(LOGGED[data.obs.argmax(1), data.action])
    np.testing.assert_allclose(log_propensities(data), known)
    for name in ("a.hdf5", "a.npz"):
        data.save(tmp_path / name)
        np.testing.assert_allclose(log_propensities(leashrl.load(tmp_path / name)), known)
    frame = {"s": data.obs[:, 0], "a": data.action, "r": data.reward, "p": np.exp(known)}
    frame["e"] = np.arange(20)
    options = {"episode": "e", "obs": ["s"], "action": ["a"], "reward": "r", "action_space": Discrete(3)}
    found = Dataset.from_frame(frame, propensity="p", **options)
    np.testing.assert_allclose(log_propensities(found), known)
    with pytest.raises(BadInput, match="propensity of row 0 is -"):
        Dataset.from_frame(frame | {"p": -frame["p"]}, propensity="p", **options)
    with pytest.raises(BadInput, match="'p' is missing in 1 rows"):
        Dataset.from_frame(frame | {"p": np.append(np.nan, frame["p"][1:])}, propensity="p", **options)


def test_logarithms_are_told_by_their_name():
    data = bandit(rows=10, propensity=False)
    assert log_propensities(data) is None
    for name in ("infos/action_log_probs", "action_log_prob", "my/log_b"):
        there = dataclasses.replace(data, extras={name: np.full(10, -0.5)})
        found = log_propensities(there, name)
        assert found is not None and found.tolist() == [-0.5] * 10


@pytest.mark.slow
def test_the_command_line(cloned, tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    bandit().save("log.hdf5")
    argv = ["ope", str(cloned), "--data", "log.hdf5", "--mode", "sample", "--steps", "200"]
    out, _ = cli(*argv, "--clip", "1.2", "--method", "wis,is,dr", "--out", "found.json")
    assert "2000 episodes of up to 1 steps" in out and "the log itself" in out
    assert out.count("seed-0") == 3 and "clipping moved it by at most" in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["method"] for row in found["rows"]] == ["wis", "is", "dr"]
    assert found["propensities"] == "logged" and found["clip"] == 1.2
    _, err = cli(*argv, "--out", "found.json", status=2)
    assert "exists already" in err
    _, err = cli(*argv, "--set", "gamma=0.5", status=2)
    assert "--set does not take 'gamma': give --gamma" in err
    _, err = cli(*argv, "--method", "dm", status=2)
    assert "no method 'dm'" in err
    bandit(propensity=False).save("bare.hdf5")
    out, _ = cli(*argv[:3], "bare.hdf5", "--method", "wis", "--mode", "sample")
    assert "warning: the data hold no propensities" in out
