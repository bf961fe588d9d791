"""From offline to online: what is carried over, what is drawn, what is seen, and what is refused."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import leashrl
from leashrl.algos import REGISTRY
from leashrl.core import Algorithm, Stage, draw, hyper, override, uniform
from leashrl.data import load
from leashrl.disk.checkpoint import load_checkpoint
from leashrl.errors import BadInput
from leashrl.nn import PRECISIONS
from leashrl.runs import finetuning
from leashrl.runs.events import Saved, Stepped
from leashrl.runs.experiment import last_state, read_plan, rebuild
from leashrl.runs.results import Ends, MemberResult, Result
from leashrl.runs.run import go_on
from leashrl.types import Batch, Discrete, Mixed, Replay, Spec, Transitions
from support.algorithms import small
from support.files import edited, online_bits, read_lines, replay_of

TUNE = {"episodes": 1, "every": 5, "warmup": 5, "log_every": 5}
QUIET = TUNE | {"warmup": 210, "noise": 0.0, "log_every": 4}
CAN = [(name, "pendulum") for name, entry in REGISTRY.items() if not entry.offline_only]
CAN += [(name, "cartpole") for name, _ in CAN if REGISTRY[name].discrete]
CANNOT = [name for name, entry in REGISTRY.items() if entry.offline_only]


def offline(name: str, out: Path, task: str = "pendulum", seeds: int = 1, **more) -> Path:
    plan = {"options": small(name), "seeds": seeds, "steps": 4, "episodes": 1} | more
    return leashrl.train(name, f"{task}-medium", task=task, out=out, **plan).folder


def barely_begun(name: str, out: Path, task: str) -> Path:
    """The same with the state that training would have begun from: nothing is compiled for it."""

    def stop(event):
        if isinstance(event, Saved):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        offline(name, out, task, report=stop)
    member = MemberResult("seed-0", {"seed": 0}, None, Ends(None, None), Ends(None, None))
    result = Result(
        folder=out, algorithm=name, preset="default", task=task, data={}, steps=4, episodes=1, evaluated=True,
        members=(member,), score=None, versions={},
    )  # fmt: skip
    (out / "result.json").write_text(json.dumps(result.to_json()))
    return out


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> Path:
    """An offline run of two members."""
    return offline("td3-bc", tmp_path_factory.mktemp("offline") / "run", seeds=2)


# --- Every actor-critic ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("case", CAN, ids=" on ".join)
def test_an_actor_critic_goes_on(case, tmp_path):
    old = barely_begun(case[0], tmp_path / "run", case[1])
    result = leashrl.finetune(old, 10, **TUNE, eval_every=10)
    assert result.folder == tmp_path / "run-finetuned" and not result.diverged
    found = read_lines(result.folder / "evaluations.jsonl")
    assert [row["step"] for row in found] == [0, 10]
    run, before = last_state(old)
    again = run.evaluate(before, [0], run.plan.episodes)
    assert found[0]["returns"] == again[0]["returns"]  # nothing has happened yet
    metrics = [value for row in read_lines(result.folder / "metrics.jsonl") for value in row.values()]
    assert np.isfinite([value for value in metrics if not isinstance(value, str)]).all()
    assert replay_of(result.folder)["reward"].shape == (1, 15)
    _, after = last_state(result.folder)
    assert int(after.optimiser["critic"]["count"][0]) == 10
    changed = jax.tree.map(lambda x, y: bool((x != y).any()), before.policy, after.policy)
    assert any(jax.tree.leaves(changed))


@pytest.mark.slow
def test_it_begins_with_the_offline_run(before, quiet):
    """Its score, its weights, and the moments of Adam: 4 updates of the critics, and 10 more."""
    first = [row for row in read_lines(quiet / "evaluations.jsonl") if row["step"] == 0]
    last = [row for row in read_lines(before / "evaluations.jsonl") if row["step"] == 4]
    assert [row["returns"] for row in first] == [row["returns"] for row in last]
    _, arrays, meta = load_checkpoint(before / "checkpoint") or pytest.fail()
    _, after, _ = load_checkpoint(quiet / "checkpoint") or pytest.fail()
    count = "state/optimiser/critic/count"
    assert arrays[count].tolist() == [4, 4] and after[count].tolist() == [14, 14]
    switch = read_plan(quiet)[0].switch
    assert switch is not None and (switch.step, switch.checkpoint) == (4, meta["sha256"])
    assert read_plan(quiet)[0].config.precision in PRECISIONS  # not `auto`: a resumed run keeps it


@pytest.mark.slow
@pytest.mark.parametrize("name", CANNOT)
def test_what_is_no_actor_critic_is_refused(name, before, tmp_path, refused):
    shutil.copytree(before, tmp_path / "run")
    with edited(tmp_path / "run" / "config.json") as plan:
        plan |= {"algorithm": name, "config": {}}
    error = refused("finetune", str(tmp_path / "run"), "--steps", "5")
    assert f"{name} cannot be fine-tuned online: it" in error
    assert "these can: awac" in error and not (tmp_path / "run-finetuned").exists()


def test_the_last_stage_begins_where_it_ended():
    def seen(state, batch, key, step):
        return state, {"step": step}

    stages = (Stage("pretraining", 7, uniform(1), seen), Stage("train", 50, uniform(1), seen))
    algorithm = go_on(Algorithm(lambda key, hp: None, stages, None), 50, 20)  # pyright: ignore
    (stage,) = algorithm.stages
    assert (stage.name, stage.steps) == ("train", 20)
    assert [stage.update(None, None, None, t)[1]["step"] for t in (0, 19)] == [50, 69]


@pytest.mark.slow
def test_a_rate_that_fell_to_zero_goes_on_at_a_tenth_and_the_others_as_they_were(tmp_path):
    old = offline("iql", tmp_path / "run", options=small("iql") | {"preprocess.reward": "return"})
    plan, _ = read_plan(old)
    assert plan.config.schedule == "cosine" and plan.config.steps == 4
    folder = leashrl.finetune(old, 5, options={"value_rate": 5e-4}, **TUNE).folder
    now, _ = read_plan(folder)
    rates = [now.config.policy_rate, now.config.value_rate, now.config.critic_rate]
    assert (now.config.schedule, now.config.steps) == ("constant", 5)
    assert rates == pytest.approx([1e-4, 5e-4, 1e-3])  # IQL anneals its policy's alone
    assert now.switch.folder == str(old) and now.switch.step == 4 and now.data["hash"] == plan.data["hash"]
    _, state = last_state(folder)
    assert float(state.hp["value_rate"][0]) == np.float32(5e-4)
    # --- iql's rewards: 1000 r / (highest return - lowest)
    dataset = load("pendulum-medium")
    raw, ring = replay_of(folder), ring_of(folder)
    np.testing.assert_allclose(
        ring.reward[:10], raw["reward"][0] * 1000 / np.ptp(dataset.returns()), rtol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(finetuning.SCHEDULED))
def test_the_scheduled_rates_are_those_that_a_schedule_anneals(name):
    """The same update at the first step and near the last: what barely moves was annealed."""
    entry = REGISTRY[name]
    options = small(name) | {"schedule": "cosine", "steps": 1000, "batch_size": 16}
    config = override(entry.config(), options)
    algorithm = entry.build(config, Spec(3, leashrl.Box((-1.0,), (1.0,))))
    keys = jax.random.split(jax.random.key(0), 6)
    obs, action = jax.random.normal(keys[0], (16, 3)), jnp.tanh(jax.random.normal(keys[1], (16, 1)))
    batch = Batch(obs, action, obs[:, 0], jnp.full(16, 0.9), obs + 0.1)
    state = algorithm.init(keys[2], hyper(config))
    update = jax.jit(algorithm.stages[-1].update)
    moved = []
    for step in (0, 998):
        after, _ = update(state, batch, keys[3], jnp.int32(step))
        gone = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), vars(after), vars(state))
        parts = [part for part in ("policy", "value", "critic") if part in gone]
        moved.append({part: max(map(float, jax.tree.leaves(gone[part]))) for part in parts})
    assert all(moved[0].values())
    annealed = {f"{part}_rate" for part in moved[0] if moved[1][part] < 0.01 * moved[0][part]}
    assert annealed == set(finetuning.SCHEDULED[name])


def test_every_schedule_is_in_the_table():
    scheduled = {
        n for n, e in REGISTRY.items() if any(f.name == "schedule" for f in dataclasses.fields(e.config))
    }
    assert scheduled == set(finetuning.SCHEDULED)


# --- What is drawn ---------------------------------------------------------------------


def table(values, next_action=True) -> Transitions:
    column = jnp.asarray(values, jnp.float32)
    wide = column[:, None]
    return Transitions(wide, wide, column, column < 0, wide, wide if next_action else None)


@pytest.mark.slow
@pytest.mark.parametrize(("share", "old"), [(0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_a_batch_has_the_asked_share_of_the_data(share, old):
    rows = table([20, 21, 22, 0, 0, 30, 31, 32, 0, 0])
    member = Replay(rows, jnp.int32(5), jnp.int32(5), jnp.int32(3))
    data = Mixed(table([10, 11, 12, 13]), member, share)
    keys = jax.random.split(jax.random.key(0), 300)
    found = np.asarray(jax.vmap(lambda key: draw(data, key, 8).reward)(keys))
    assert ((found < 20).sum(1) == old).all()
    counts = dict(zip(*np.unique(found, return_counts=True), strict=True))
    expected = dict.fromkeys((10, 11, 12, 13), old / 4) | dict.fromkeys((30, 31, 32), (8 - old) / 3)
    assert set(counts) == {value for value, mean in expected.items() if mean}
    for value, count in counts.items():
        assert count / 300 == pytest.approx(expected[value], rel=0.2)


def test_a_member_draws_from_the_data_and_its_own_ring_in_the_loop():
    from leashrl.training import loop

    ring = Replay(table([30, 31, 40, 41]), jnp.int32([0, 2]), jnp.int32(2), jnp.int32(2))
    data = Mixed(table([10]), ring, 0.5)
    seen = [draw(loop.seen_by(data, first), jax.random.key(1), 40).reward for first in ring.first]
    assert [set(np.asarray(x).tolist()) for x in seen] == [{10, 30, 31}, {10, 40, 41}]


# --- What is seen ----------------------------------------------------------------------


def ring_of(folder: Path) -> Transitions:
    """The first member's rows as its learner reads them."""
    plan, _ = read_plan(folder)
    simulator = rebuild(folder, plan, None).simulator
    assert simulator is not None
    simulator.load(folder / "replay", replay_of(folder)["reward"].shape[1])
    return jax.tree.map(np.asarray, simulator.ring.rows)


@pytest.fixture(scope="module")
def quiet(before, tmp_path_factory) -> Path:
    """A fine-tuned run whose policy acts without noise, long enough for a time-out."""
    out = tmp_path_factory.mktemp("quiet") / "run"
    return leashrl.finetune(before, 10, out=out, **QUIET).folder


def test_the_first_rows_are_the_offline_policys(before, quiet):
    rows, in_units = replay_of(quiet), leashrl.Box((-2.0,), (2.0,))  # rounds as the run did
    env = gymnasium.make("Pendulum-v1", max_episode_steps=200)
    for member in range(2):
        policy = leashrl.load_policy(before, f"seed-{member}")
        first = slice(0, 210)
        torque = policy(rows["obs"][member, first])
        np.testing.assert_allclose(rows["action"][member, first], torque / 2, atol=1e-5)
        after = policy(rows["next_obs"][member, first])
        np.testing.assert_allclose(rows["next_action"][member, first], after / 2, atol=1e-5)
        seed = np.random.SeedSequence([member, 0, 1]).generate_state(1)[0]
        obs, _ = env.reset(seed=int(seed))
        for t in range(200):
            np.testing.assert_array_equal(rows["obs"][member, t], obs)
            obs, reward, _, _, _ = env.step(in_units.from_unit(rows["action"][member, t]))
            assert rows["reward"][member, t] == np.float32(reward)
    # a time-out is no end: its discount stays
    assert rows["timeout"][:, 199].all() and not rows["terminal"].any()


def test_online_rows_reach_the_learner_as_the_data_did(quiet):
    raw, ring = replay_of(quiet), ring_of(quiet)
    obs = load("pendulum-medium").transitions("bellman")["obs"].astype(np.float64)
    mean, std = obs.mean(0), obs.std(0) + 1e-3
    n = raw["reward"].shape[1]
    for name in ("obs", "next_obs"):
        value = getattr(ring, name)[:n]
        np.testing.assert_allclose(value, (raw[name][0] - mean) / std, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(ring.reward[:n], raw["reward"][0])
    np.testing.assert_array_equal(ring.next_action[:n], raw["next_action"][0])


@pytest.mark.slow
def test_noise_is_added_where_a_policy_draws_none(before, quiet, tmp_path):
    folder = leashrl.finetune(before, 5, out=tmp_path / "loud", noise=0.2, **TUNE | {"warmup": 210}).folder
    policy, rows = leashrl.load_policy(before, "seed-0"), replay_of(folder)
    noise = rows["action"][0, :210] - policy(rows["obs"][0, :210]) / 2
    inside = np.abs(rows["action"][0, :210]) < 1
    assert np.abs(rows["action"]).max() <= 1
    assert noise[inside].std() == pytest.approx(0.2, rel=0.2) and abs(noise[inside].mean()) < 0.05


@pytest.mark.slow
def test_updates_per_step(before, tmp_path):
    """Two visits of five steps, each with twenty updates behind it."""
    folder = leashrl.finetune(before, 40, out=tmp_path / "run", updates_per_step=4, **TUNE).folder
    assert replay_of(folder)["reward"].shape == (2, 5 + 2 * 5)
    _, state = last_state(folder)
    assert int(state.optimiser["critic"]["count"][0]) == 4 + 40
    assert read_plan(folder)[0].switch.updates_per_step == 4


@pytest.mark.slow
def test_calibrated_rows_know_what_their_episode_earned(tmp_path):
    """Cal-QL's bound online: the discounted return once an episode has ended, and none before."""
    calibrated = small("cql") | {"calibrated": True, "gamma": 0.9}
    old = offline("cql", tmp_path / "run", options=calibrated)
    folder = leashrl.finetune(old, 10, **QUIET).folder
    ring, raw = ring_of(folder), replay_of(folder)
    n = raw["reward"].shape[1]
    assert n == 220 and raw["timeout"][0, 199]  # one episode and the begin of another
    data = load("pendulum-medium")
    value = float(data.transitions("bellman")["reward"].min()) / (1 - 0.9)  # after the cut: the worst
    for t in reversed(range(200)):
        value = float(raw["reward"][0, t]) + 0.9 * value
        assert ring.to_go[t] == pytest.approx(value, rel=1e-5)
    assert np.isneginf(ring.to_go[200:]).all()
    rows = rebuild(folder, read_plan(folder)[0], None).source.offline.rows
    reward, ends = np.asarray(data.reward, np.float64), np.flatnonzero(data.ends)
    tail = min(0.0, reward.min()) / (1 - 0.9)
    t = int(ends[0])
    assert float(rows.to_go[t - 1]) == pytest.approx(reward[t - 1] + 0.9 * (reward[t] + 0.9 * tail), rel=1e-5)
    assert np.isfinite([row["td_loss"] for row in read_lines(folder / "metrics.jsonl")]).all()


def test_members_of_a_calibrated_run_share_a_discount(tmp_path):
    with pytest.raises(BadInput, match="'gamma' cannot vary between members with option 'calibrated'"):
        offline(
            "cql", tmp_path / "run", options=small("cql") | {"calibrated": True}, vary={"gamma": [0.9, 0.99]}
        )
    config = REGISTRY["cql"].config(calibrated=True)
    with pytest.raises(BadInput, match="'calibrated' and 'gap_floor' are of continuous actions"):
        REGISTRY["cql"].build(config, Spec(3, Discrete(2)))


# --- Stopping and going on -------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 5, 8])
def test_a_run_that_was_stopped_ends_with_the_same_bits(at, before, quiet, tmp_path):
    """At step 0 nothing but the offline state is there; step 8 lies between two visits."""

    def stop(event):
        if isinstance(event, Stepped) and event.step >= at:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        leashrl.finetune(before, 10, out=tmp_path / "cut", report=stop, **QUIET)
    with edited(tmp_path / "cut" / "config.json") as plan:
        plan["switch"]["folder"] = "gone"  # the offline run is not needed any more
    result = leashrl.resume(tmp_path / "cut")
    assert online_bits(tmp_path / "cut") == online_bits(quiet)
    assert result.members == leashrl.Result.read(quiet).members


def test_a_run_without_its_first_checkpoint_is_not_begun_from_nothing(quiet, tmp_path):
    shutil.copytree(quiet, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoint")
    with pytest.raises(BadInput, match="stopped before it held the offline state"):
        leashrl.resume(tmp_path / "run")


# --- Who goes on, and what is refused --------------------------------------------------


def test_a_member_that_diverged_is_left_out(before, tmp_path):
    shutil.copytree(before, tmp_path / "run")
    with edited(tmp_path / "run" / "result.json") as found:
        found["members"][0]["diverged"] = {"step": 3, "metric": "td_loss"}
    folder = leashrl.finetune(tmp_path / "run", 5, **TUNE).folder
    assert [m.name for m in leashrl.Result.read(folder).members] == ["seed-1"]
    row = read_lines(folder / "evaluations.jsonl")[0]
    assert row["returns"] == read_lines(before / "evaluations.jsonl")[-1]["returns"] and row["seed"] == 1
    with edited(tmp_path / "run" / "result.json") as found:
        found["members"][1]["diverged"] = found["members"][0]["diverged"]
    with pytest.raises(BadInput, match=r"every member .* diverged"):
        leashrl.finetune(tmp_path / "run", 5, out=tmp_path / "none")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: --steps"),
        (["--steps", "0"], "must be at least 1"),
        (["--steps", "5", "--env", "hopper"], "task 'hopper' has observations of size 11"),
        (["--steps", "5", "--env", "Hoper-v4"], "no task 'Hoper-v4'"),
        (["--steps", "5", "--env", "kitchen-mixed"], "pays online for other things"),
        (["--steps", "5", "--offline-share", "1.5"], "'offline_share' must be from 0 to 1"),
        (["--steps", "5", "--warmup", "0"], "'warmup' must be at least 1"),
        (["--steps", "5", "--noise", "-1"], "'noise' must be at least 0"),
        (["--steps", "5", "--updates-per-step", "0"], "'updates_per_step' must be at least 1"),
        (["--steps", "5", "--episodes", "0"], "'episodes' must be at least 1"),
        (["--steps", "5", "--set", "hidden=9,9"], "option 'hidden' cannot change after offline"),
        (["--steps", "5", "--set", "preprocess.obs=none"], "option 'preprocess.obs' cannot change after"),
        (["--steps", "5", "--set", "policy_rat=1"], "did you mean 'policy_rate'"),
        (["--steps", "5", "--data", "pendulum-random"], "is not the data"),
    ],
)
def test_bad_input_is_one_line(argv, message, before, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    assert message in refused("finetune", str(before), "--out", "new", *argv)
    assert not list(tmp_path.iterdir())


def test_runs_that_cannot_go_on_are_refused(before, quiet, tmp_path):
    with pytest.raises(BadInput, match="is fine-tuned already"):
        leashrl.finetune(quiet, 5)
    with pytest.raises(BadInput, match=r"no 'config.json'"):
        leashrl.finetune(tmp_path, 5)
    shutil.copytree(before, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(BadInput, match="has not finished"):
        leashrl.finetune(tmp_path / "run", 5)
    config = json.loads((before / "config.json").read_text())
    for change, why in (
        ({"data": {"source": "online", "hash": None}}, "has learnt online from the start"),
        ({"task": None}, "trained without a task"),
    ):
        shutil.copy(before / "result.json", tmp_path / "run")
        (tmp_path / "run" / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(BadInput, match=why):
            finetuning.finetune(tmp_path / "run", 5)


def test_the_offline_run_is_not_written_over(before):
    with pytest.raises(BadInput, match="stays as it is: choose another --out"):
        leashrl.finetune(before, 5, out=before.parent / "." / before.name, overwrite=True)
    assert (before / "result.json").exists()


def test_what_varies_between_members_is_not_set(before):
    members = tuple({"seed": 0, "policy_rate": rate} for rate in (1e-3, 1e-4))
    plan = dataclasses.replace(read_plan(before)[0], members=members)
    with pytest.raises(BadInput, match="'policy_rate' varies between the run's members"):
        finetuning.configured(plan, 5, {"policy_rate": 1e-5})
    config, rows = finetuning.configured(plan, 5, {"critic_rate": 1e-5})
    assert (config.critic_rate, rows) == (1e-5, list(members))  # nothing was annealed
    annealed = dataclasses.replace(
        plan, algorithm="misa", config=REGISTRY["misa"].config(schedule="cosine", gamma_1=7.0)
    )
    config, rows = finetuning.configured(annealed, 5, {})
    assert [row["policy_rate"] for row in rows] == pytest.approx([1e-4, 1e-5])
    assert (config.schedule, config.gamma_1) == ("constant", 7.0)


@pytest.mark.slow
def test_a_gymnasium_id_names_its_task(before, tmp_path):
    folder = leashrl.finetune(before, 5, env="Pendulum-v1", out=tmp_path / "run", **TUNE).folder
    assert read_plan(folder)[0].task == "pendulum"
