"""Recipes on MuJoCo: rows are steps of the simulator, the same bits each time, D4RL's layout.

The policies here are small random networks, so that nothing depends on which ones are shipped; those in the
package have tests of their own at the end.
"""

import json
from importlib.resources import files

import gymnasium
import numpy as np
import pytest
from scipy.stats import norm

from leashrl.data import check, load, make, recipes
from leashrl.data import locomotion as L  # noqa: N812
from leashrl.tasks import normalise, task

SHIPPED = L.runs(), L.weights
RUN = {"warmup": 100, "medium": 300, "expert": 500, "snapshots": [100, 200, 300, 500], "made_with": "a test"}


def weights(env: str, step: int) -> dict[str, np.ndarray]:
    row, rng = task(env), np.random.default_rng(step)
    sizes = {"fc0": (16, row.obs_dim), "fc1": (16, 16)}
    sizes |= dict.fromkeys(("last_fc", "last_fc_log_std"), (row.action_dim, 16))
    found = {}
    for name, shape in sizes.items():
        found[f"{name}/weight"] = (0.1 * rng.standard_normal(shape)).astype(np.float32)
        found[f"{name}/bias"] = (0.1 * rng.standard_normal(shape[0])).astype(np.float32)
    return found


@pytest.fixture(autouse=True)
def policies(monkeypatch, tmp_path):
    monkeypatch.setenv("LEASHRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(L, "runs", lambda: dict.fromkeys(L.ENVIRONMENTS, RUN))
    monkeypatch.setattr(L, "weights", weights)


def by_hand(env: str, step: int, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation before tanh, one row at a time, without the library."""
    w = {name: value.astype(float) for name, value in weights(env, step).items()}
    x = obs.astype(float)
    for name in ("fc0", "fc1"):
        x = np.maximum(0, w[f"{name}/weight"] @ x + w[f"{name}/bias"])
    heads = [w[f"{name}/weight"] @ x + w[f"{name}/bias"] for name in ("last_fc", "last_fc_log_std")]
    return heads[0], np.exp(heads[1])


# --- Rows ------------------------------------------------------------------------------


@pytest.mark.parametrize("env", L.ENVIRONMENTS)
def test_every_row_is_a_step_of_the_simulator(env):
    rows = L.locomotion(env, "medium", 150, 3)
    with pytest.warns(DeprecationWarning):
        sim = gymnasium.make(task(env).env_id).unwrapped
    sim.reset(seed=0)
    for t in range(0, 150, 7):
        sim.set_state(rows["infos/qpos"][t].astype(float), rows["infos/qvel"][t].astype(float))
        np.testing.assert_allclose(sim._get_obs(), rows["observations"][t], atol=1e-5)
        obs, reward, terminal, *_ = sim.step(rows["actions"][t])
        np.testing.assert_allclose(obs, rows["next_observations"][t], atol=2e-2)  # contacts start anew
        assert abs(reward - rows["rewards"][t]) < 2e-2
        assert terminal == rows["terminals"][t]
    sim.close()


@pytest.mark.parametrize("env", L.ENVIRONMENTS)
def test_a_step_is_gymnasiums(env):
    """From the same states in float64, on the way to a fall and beyond it."""
    rng, falls = np.random.default_rng(0), 0
    with pytest.warns(DeprecationWarning):
        sim = gymnasium.make(task(env).env_id).unwrapped
    sim.reset(seed=0)
    with L.Simulators(env) as simulators:
        states = np.stack([simulators.reset(seed) for seed in range(4)])
        for _ in range(40):
            action = rng.uniform(-1, 1, (4, simulators.action_dim)).astype(np.float32)
            after, reward, terminal = simulators.step(states, action)
            for i, (qpos, qvel) in enumerate(zip(*simulators.split(states), strict=True)):
                sim.set_state(qpos, qvel)
                obs, *wanted = sim.step(action[i])
                np.testing.assert_allclose(simulators.observe(after)[i], obs, rtol=1e-4, atol=1e-4)
                assert abs(wanted[0] - reward[i]) < 1e-4 and wanted[1] == terminal[i]
            states, falls = after, falls + terminal.sum()
    sim.close()
    assert (falls > 20) == (env != "halfcheetah")


def test_actions_are_the_policys():
    rows = L.locomotion("hopper", "medium", 3000, 0)
    z = []
    for t in range(3000):
        mean, std = by_hand("hopper", RUN["medium"], rows["observations"][t])
        u = np.arctanh(rows["actions"][t].astype(float))
        z.append((u - mean) / std)
        wanted = (norm.logpdf(u, mean, std) - np.log1p(-(np.tanh(u) ** 2))).sum()
        assert abs(rows["infos/action_log_probs"][t] - wanted) < 0.02  # means lie on a grid of 2^-12
    z = np.array(z)
    assert abs(z.mean()) < 0.05 and abs(z.std() - 1) < 0.03 and abs(np.corrcoef(z.T)[0, 1]) < 0.06


def test_random_actions_fill_the_cube():
    rows = L.locomotion("halfcheetah", "random", 3000, 0)
    assert abs(rows["actions"].mean()) < 0.02 and abs(rows["actions"].std() - 3**-0.5) < 0.01
    np.testing.assert_allclose(rows["infos/action_log_probs"], -6 * np.log(2), rtol=1e-6)


def test_episodes_end_as_the_simulators_do():
    rows = L.locomotion("halfcheetah", "random", 2500, 0)
    assert not rows["terminals"].any()
    np.testing.assert_array_equal(np.flatnonzero(rows["timeouts"]), [999, 1999, 2499])  # the last is a cut
    rows = L.locomotion("hopper", "random", 500, 0)
    ends = np.flatnonzero(rows["terminals"])
    assert len(ends) > 5 and not (rows["terminals"] & rows["timeouts"]).any()
    assert rows["terminals"][-1] or rows["timeouts"][-1]
    # inside an episode the next row begins where the last one ended, and nowhere else
    joined = (rows["next_observations"][:-1] == rows["observations"][1:]).all(1)
    np.testing.assert_array_equal(joined, ~(rows["terminals"] | rows["timeouts"])[:-1])


# --- Bits ------------------------------------------------------------------------------


def test_a_longer_set_begins_with_the_shorter_one():
    """An episode depends on its number, whatever runs beside it."""
    short, long = (L.locomotion("hopper", "medium", n, 1) for n in (300, 900))
    for name in short:
        keep = slice(0, 299) if name == "timeouts" else slice(0, 300)
        np.testing.assert_array_equal(short[name][keep], long[name][:300][keep], err_msg=name)


def test_neither_copies_nor_threads_change_a_bit(monkeypatch):
    wide = L.locomotion("hopper", "medium", 3000, 1)
    monkeypatch.setattr(L, "TOGETHER", 1)
    monkeypatch.setattr(L, "threads", lambda: 1)
    narrow = L.locomotion("hopper", "medium", 3000, 1)
    for name in wide:
        np.testing.assert_array_equal(wide[name], narrow[name], err_msg=name)


def test_seeds_and_kinds_differ():
    a, b, c = (
        L.locomotion("hopper", k, 60, s)["actions"] for k, s in [("medium", 0), ("medium", 1), ("expert", 0)]
    )
    assert not np.array_equal(a, b) and not np.array_equal(a, c)


def test_a_grid_hides_the_order_of_a_sum():
    """Another order of additions moves a float64 sum by 1e-15; after rounding almost no number moves."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20_000, 64))
    a, b = x.sum(1), x[:, ::-1].cumsum(1)[:, -1]
    assert np.any(a != b)
    np.testing.assert_array_equal(L.grid(a, 12), L.grid(b, 12))


# --- Parts -----------------------------------------------------------------------------


def test_which_policy_makes_which_rows():
    parts = lambda kind, n: [tuple(part) for part in L.parts("hopper", kind, n)]
    assert parts("random", 10) == [(None, 10)]
    assert parts("medium", 10) == [(300, 10)]
    assert parts("medium-expert", 11) == [(300, 5), (500, 6)]
    # 100 random steps, then the run's 300: those up to 150 are nearest to the snapshot at 100, and so on
    assert parts("medium-replay", 400) == [(None, 100), (100, 150), (200, 100), (300, 50)]
    assert parts("medium-replay", 40) == [(None, 10), (100, 15), (200, 10), (300, 5)]
    assert parts("full-replay", 600) == [(None, 100), (100, 150), (200, 100), (300, 150), (500, 100)]
    assert L.default_steps("hopper", "medium-replay") == 400
    assert L.default_steps("hopper", "full-replay") == 600
    assert L.default_steps("hopper", "medium-expert") == 2_000_000
    assert L.default_steps("hopper", "medium") == 1_000_000


def test_the_parts_stand_one_behind_the_other():
    rows = L.locomotion("hopper", "medium-expert", 200, 0)
    assert len(rows["rewards"]) == 200 and (rows["terminals"] | rows["timeouts"])[99]
    for t, step in [(0, 300), (99, 300), (100, 500), (199, 500)]:
        mean, std = by_hand("hopper", step, rows["observations"][t])
        assert np.abs((np.arctanh(rows["actions"][t].astype(float)) - mean) / std).max() < 4.5


# --- Files -----------------------------------------------------------------------------


def recipe(monkeypatch, kind):
    """The recipe as it is where the environment's policies are shipped."""
    env = "hopper"
    entry = recipes.locomotion_recipe(env, kind)
    monkeypatch.setitem(recipes.RECIPES, f"{env}-{kind}", entry)
    return f"{env}-{kind}"


def test_a_file_in_d4rls_layout(monkeypatch, tmp_path):
    path = make(recipe(monkeypatch, "medium"), tmp_path / "a.hdf5", steps=120)
    assert [defect for defect in check(path) if defect.fatal] == []
    data = load(path)
    assert data.obs.shape == (120, 11) and data.action.shape == (120, 3) and data.next_obs is not None
    assert data.timeout is not None and data.max_episode_steps == 1000
    extras = data.extras
    assert extras["infos/qpos"].shape == (120, 6) and extras["infos/qvel"].shape == (120, 6)
    assert extras["infos/action_log_probs"].shape == (120,)
    assert extras["metadata/algorithm"].item() == b"SAC" and extras["metadata/iteration"].item() == 300
    assert extras["metadata/policy/fc0/weight"].shape == (16, 11)
    assert extras["metadata/policy/last_fc_log_std/bias"].shape == (3,)
    assert extras["metadata/policy/nonlinearity"].item() == b"relu"
    assert extras["metadata/policy/output_distribution"].item() == b"tanh_gaussian"
    assert extras["metadata/gymnasium"].item() == gymnasium.__version__.encode()
    assert extras["metadata/rows"].item() == b"120 by 300" and "metadata/mujoco" in extras
    assert json.loads(extras["metadata/run"].item()) == RUN
    assert load(make(recipe(monkeypatch, "medium"), tmp_path / "b.hdf5", steps=120)).hash == data.hash
    assert (tmp_path / "a.hdf5").read_bytes() == (tmp_path / "b.hdf5").read_bytes()


def test_a_replay_says_how_it_was_made(monkeypatch, tmp_path):
    extras = load(make(recipe(monkeypatch, "medium-replay"), tmp_path / "a.hdf5", steps=40)).extras
    assert b"rolled from snapshots" in extras["metadata/replay"].item()
    assert extras["metadata/rows"].item().startswith(b"10 by uniformly random actions, 15 by 100")
    assert not any(name.startswith("metadata/policy") for name in extras)


@pytest.mark.parametrize("env", L.ENVIRONMENTS)
def test_random_needs_no_policy(env, monkeypatch, tmp_path):
    monkeypatch.setattr(L, "runs", dict)
    assert L.kinds(env) == ["random"]
    data = load(make(f"{env}-random", tmp_path / "a.hdf5", steps=50))
    assert data.spec.obs_dim == task(env).obs_dim and len(data) == 50
    assert "metadata/algorithm" not in data.extras


def test_the_hash_is_compared_with_the_card(monkeypatch):
    now = recipes.made_with(recipes.locomotion_recipe("hopper", "random"))
    card = {"steps": 50, "seed": 0, "hash": "abc", "made_with": now}
    monkeypatch.setattr(L, "cards", lambda: {"hopper-random": card})
    compare = lambda *given: recipes.compare_with_card("hopper-random", *given)
    assert compare(50, 0, "abc") == "its hash is the card's"
    assert compare(60, 0, "abc") is None and compare(50, 1, "abc") is None
    assert compare(50, 0, "def").endswith("the versions are the same: another processor?")
    card["made_with"] = now | {"mujoco": "2.3.3"}
    wanted = f"its hash is not the card's: it was made with mujoco 2.3.3 (now {now['mujoco']})"
    assert compare(50, 0, "def") == wanted
    assert recipes.compare_with_card("pendulum-random", 50, 0, "abc") is None


# --- What is shipped -------------------------------------------------------------------


@pytest.fixture
def shipped(monkeypatch):
    monkeypatch.setattr(L, "runs", lambda: SHIPPED[0])
    monkeypatch.setattr(L, "weights", SHIPPED[1])
    return SHIPPED[0]


def test_every_policy_is_there_and_none_else(shipped):
    folder = files("leashrl.data") / "policies"
    assert set(shipped) == set(L.ENVIRONMENTS)
    for env, run in shipped.items():
        steps = run["snapshots"]
        assert steps == sorted({*steps, run["medium"], run["expert"]}) and run["medium"] < run["expert"]
        assert {path.name for path in (folder / env).iterdir()} == {f"{n:07d}.safetensors" for n in steps}
        for step in steps:
            shapes = {name: value.shape for name, value in L.weights(env, step).items()}
            obs, action = task(env).obs_dim, task(env).action_dim
            assert shapes["fc0/weight"] == (256, obs) and shapes["last_fc_log_std/bias"] == (action,)
    assert set(recipes.RECIPES) >= {f"{env}-{kind}" for env in shipped for kind in L.KINDS}


@pytest.mark.slow
@pytest.mark.parametrize("env", L.ENVIRONMENTS)
def test_policies_are_as_good_as_they_claim(env, shipped):
    """Few episodes, wide bounds; benchmarks/results/policies.json has thirty."""
    scores = {}
    for kind in ("medium", "expert"):
        *whole, _cut = L.roll(env, L.Actor(env, shipped[env][kind]), 5000, 3)
        scores[kind] = normalise(task(env), [x["rewards"].sum(dtype=float) for x in whole]).mean()
    assert 15 < scores["medium"] < 60 and scores["expert"] > 70


@pytest.mark.slow
@pytest.mark.parametrize("name", ["halfcheetah-medium-replay"])
def test_a_card_holds(name, shipped, tmp_path):
    """On this machine too, where the versions are the card's; else it is the versions that are named."""
    card, entry = L.cards()[name], recipes.locomotion_recipe(*name.split("-", 1))
    data = load(make(name, tmp_path / "a.hdf5", steps=card["steps"], seed=card["seed"]))
    verdict = recipes.compare_with_card(name, card["steps"], card["seed"], data.hash)
    same = recipes.made_with(entry) == card["made_with"]
    assert verdict == "its hash is the card's" if same else "it was made with" in str(verdict)


def test_every_recipe_has_a_card(shipped):
    assert set(L.cards()) == {f"{env}-{kind}" for env in L.ENVIRONMENTS for kind in L.KINDS}
    for name, card in L.cards().items():
        assert card["seed"] == 0 and len(card["hash"]) == 64 and sum(card["histogram"]["counts"]) > 0, name
