"""BRAC+'s figures 2, 3, 6, 7 and 8 from two tiny runs, against numbers worked out in other ways."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import leashrl
from leashrl.algos.brac_plus import Config, networks
from leashrl.cli import main
from leashrl.dist import Normal
from leashrl.evaluate.rollout import evaluate
from leashrl.papers.brac_plus_members import Member, by_variant, variant
from leashrl.runs.experiment import last_state
from support.files import edited, read_lines, write_lines

pytest.importorskip("matplotlib")

TINY = dict.fromkeys(("hidden", "critic_hidden", "behaviour_hidden", "alpha_hidden"), (8,))
TINY |= {"batch_size": 16, "latents": 1, "samples": 2, "policy_rate": 1e-2}
PLAN = {"steps": 30, "episodes": 1, "eval_every": 15, "log_every": 30}
STATES = 40
EXTRA = {"3": [f"states={STATES}"], "6": [f"states={STATES}"], "7": ["episodes=2"]}
LOCAL, SCALE_1, SCALE_4 = (
    "KL, state-wise, no slope penalty",
    "KL, one multiplier, slope penalty, std_scale=1.0",
    "KL, one multiplier, slope penalty, std_scale=4.0",
)


pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("brac-plus-runs")]  # one worker trains the runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """One run of two seeds, not pre-trained, and one of two values."""
    folder = tmp_path_factory.mktemp("runs")
    local = TINY | {"slope_weight": "none", "behaviour_percent": 0, "clone_percent": 0, "measured": False}
    local |= {"threshold_of": "mean"}
    leashrl.train("brac-plus", "pendulum-medium", **PLAN, seeds=2, options=local, out=folder / "local")
    one = TINY | {"slope_weight": "hard", "state_wise": False}
    scales = {"std_scale": (1.0, 4.0)}
    leashrl.train(
        "brac-plus", "pendulum-medium", **PLAN, seeds=1, options=one, vary=scales, out=folder / "deep" / "one"
    )
    (folder / "else").mkdir()
    (folder / "else" / "config.json").write_text('{"algorithm": "brac-plus"}')  # another library's
    return folder


@pytest.fixture
def draw(runs, tmp_path, capsys):
    """`draw(number)`: the rows by variant, and the picture's bytes looked at."""

    def draw(number, folder=runs):
        argv = ["paper", "brac-plus", "--figure", number, "--out", str(tmp_path), "--json"]
        assert main([*argv, "--set", f"runs={folder}", *EXTRA.get(number, [])]) == 0
        found = json.loads(capsys.readouterr().out)
        file = tmp_path / f"brac-plus-figure-{number}.png"
        assert found["files"] == [str(file)] and file.read_bytes().startswith(b"\x89PNG")
        rows = found["rows"]
        assert all(row["data"] == "pendulum-medium" and row.keys() == rows[0].keys() for row in rows)
        return rows

    return draw


@pytest.fixture(scope="module")
def states(runs):
    """Each label's members: (run, state), without a leading axis."""
    local, one = last_state(runs / "local"), last_state(runs / "deep" / "one")
    take = lambda found, i: (found[0], jax.tree.map(lambda x: x[i], found[1]))
    return {LOCAL: [take(local, 0), take(local, 1)], SCALE_1: [take(one, 0)], SCALE_4: [take(one, 1)]}


def at_actions(run, state):
    """D, and slopes by differences, at the actions that the figures take too."""
    policy, critic, behaviour, *_ = networks(run.plan.config, run.spec)
    n = len(run.data.obs)
    obs = run.data.obs[np.array([i * (n - 1) // (STATES - 1) for i in range(STATES)])]
    key_distance, key_action = jax.random.split(jax.random.fold_in(jax.random.key(0), 0))
    pi = Normal(*policy.apply(state.policy, obs))
    action, h = jnp.tanh(pi.sample(key_action)), 1e-3
    least = lambda a: critic.apply(state.critic, obs, a).min(axis=0)
    slopes = jnp.abs(least(action + h) - least(action - h)) / (2 * h)  # actions have one number
    return behaviour.distance(state.behaviour, pi, obs, key_distance, state.hp["sigma"]), slopes


def finals(folder):
    return [
        member["score"]["final"] for member in json.loads((folder / "result.json").read_text())["members"]
    ]


# --- What the figures say ------------------------------------------------------


def test_figure_2_ends_where_the_runs_end(runs, draw):
    rows = draw("2")
    assert [row["variant"] for row in rows] == [SCALE_1, SCALE_4, LOCAL]
    assert [(row["runs"], row["members"], row["diverged"]) for row in rows] == [
        (1, 1, 0),
        (1, 1, 0),
        (1, 2, 0),
    ]
    assert {(row["updates"], row["measure"]) for row in rows} == {(30, "score")}  # not 75
    assert [row["final"] for row in rows[:2]] == finals(runs / "deep" / "one")
    assert rows[2]["final"] == pytest.approx(np.mean(finals(runs / "local")))
    a, b = finals(runs / "local")  # t of 1 degree of freedom: 25.452
    half = 25.452 * abs(a - b) / 2
    assert (rows[2]["low"], rows[2]["high"]) == pytest.approx(
        ((a + b) / 2 - half, (a + b) / 2 + half), rel=1e-4
    )
    assert (rows[0]["low"], rows[0]["high"]) == (None, None)  # one member


def test_figure_3_is_the_members_divergence(draw, states):
    for row in draw("3"):
        members = states[row["variant"]]
        d = np.concatenate([at_actions(*member)[0] for member in members])
        limits = np.repeat([float(state.threshold) for _, state in members], STATES)
        assert row["members"] == len(members) and len(d) == STATES * len(members)
        assert row["mean"] == pytest.approx(d.mean(), rel=1e-4)
        assert row["std"] == pytest.approx(d.std(), rel=1e-3)
        assert row["threshold"] == pytest.approx(limits.mean())
        assert row["above"] == np.mean(d > limits)
        assert row["1 %"] <= row["50 %"] <= row["99 %"]
        assert row["50 %"] == pytest.approx(np.median(d), rel=1e-4)


def test_figure_6_is_the_critics_slope(draw, states):
    for row in draw("6"):
        found = [at_actions(*member) for member in states[row["variant"]]]
        d, slopes = (np.concatenate(x) for x in zip(*found, strict=True))
        outside = d > np.repeat([float(state.slope_from) for _, state in states[row["variant"]]], STATES)
        # ReLU's kinks: a difference across one is off
        assert row["mean"] == pytest.approx(slopes.mean(), rel=0.02)
        assert row["median"] == pytest.approx(np.median(slopes), rel=0.02)
        assert row["outside"] == outside.mean() and outside.any()
        assert row["mean outside"] == pytest.approx(slopes[outside].mean(), rel=0.05)


def test_figure_7_is_on_the_evaluations_episodes(draw, states):
    rows = draw("7")
    assert [(row["variant"], row["episode"]) for row in rows] == [
        (label, n) for label in (SCALE_1, SCALE_4, LOCAL) for n in (0, 1)
    ]
    for label, members in states.items():
        run, state = members[0]
        policy, norm = run.algorithm.policy, run.normaliser
        params = jax.tree.map(lambda x: x[None], policy.params(state))
        found = evaluate(
            policy, params, run.task, obs_mean=norm.mean, obs_std=norm.std, action_space=run.spec.action,
            episodes=2, seed=1,
        )  # fmt: skip
        mine = [row for row in rows if row["variant"] == label]
        assert [row["length"] for row in mine] == found.lengths[0].tolist() == [200, 200]
        assert [row["return"] for row in mine] == pytest.approx(found.returns[0].tolist(), rel=1e-3)
        assert all(0 < row["mean"] < row["largest"] for row in mine)
        assert mine[0]["mean on data"] == mine[1]["mean on data"] > 0
        assert mine[0]["mean"] != mine[1]["mean"]


def test_figure_8_is_by_entropy(draw, states):
    rows = {row["variant"].partition(",")[2].strip(): row for row in draw("8")}  # the last of equals
    low, high = sorted(row["entropy_cap"] for row in draw("8") if "one multiplier" in row["variant"])
    assert high - low == pytest.approx(math.log(4.0), abs=1e-5)  # d log std_scale of one action
    local = rows[LOCAL]
    assert local["entropy_cap"] == pytest.approx(np.mean([s.entropy_cap for _, s in states[LOCAL]]))
    assert local["variant"] == f"H₀ = {local['entropy_cap']:.3g}, {LOCAL}" and local["updates"] == 30


def test_who_diverged_counts_until_then(runs, draw, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    edit(tmp_path / "runs/local/result.json", lambda x: x["members"][1].update(diverged={"step": 70}))
    lines = tmp_path / "runs/local/evaluations.jsonl"
    rows = [row for row in read_lines(lines) if row["seed"] == 0]
    write_lines(lines, rows)
    row = draw("2", tmp_path / "runs")[2]
    assert (row["members"], row["diverged"], row["final"]) == (2, 1, finals(runs / "local")[0])
    assert draw("3", tmp_path / "runs")[2]["members"] == 1
    lines.write_text("")
    row = draw("2", tmp_path / "runs")[2]
    assert row["final"] is None and row["updates"] is None


def test_what_diverged_by_design_is_drawn_and_labelled(runs, draw, tmp_path):
    """All seeds of a variant have diverged: their last finite state is shown, under a name that says so."""
    shutil.copytree(runs, tmp_path / "runs")
    end = {"step": 20, "metric": "td_loss", "return": -1e3, "score": 12.5}
    change = lambda x: [member.update(diverged=end) for member in x["members"]]
    edit(tmp_path / "runs/local/result.json", change)
    for number in ("3", "6", "7"):
        rows = [row for row in draw(number, tmp_path / "runs") if row["variant"].startswith(LOCAL)]
        assert {row["variant"] for row in rows} == {f"{LOCAL}, stopped at update 20"}, number
    row = draw("2", tmp_path / "runs")[2]
    assert (row["diverged"], row["last finite policy"]) == (2, 12.5)


# --- Names ---------------------------------------------------------------------


def test_names_are_of_options():
    assert variant(Config(divergence="mmd", slope_weight="none")) == "MMD, one multiplier, no slope penalty"
    assert variant(Config(divergence="cross-entropy", state_wise=True)) == (
        "cross-entropy, state-wise, slope penalty"
    )


def test_seeds_of_several_folders_are_pooled_and_other_options_told():
    base = Config(slope_weight="none")
    other = dataclasses.replace(base, gamma=0.9)
    far = dataclasses.replace(base, alpha=1.0, beta=1.0, epoch=1, best_of=1)
    penalty = Config()
    members = [
        Member(Path("runs", name), 0, {"seed": 0}, config, data, None)
        for name, config, data in (
            *(("a", penalty, "x"), ("b", base, "x"), ("c", other, "x"), ("d", base, "x")),
            *(("e", base, "y"), ("f", far, "z"), ("h", far, "z"), ("f", base, "z")),
        )
    ]
    found = by_variant(members)
    names = {data: {s: [m.folder.name for m in mine] for s, mine in by.items()} for data, by in found.items()}
    label = "KL, one multiplier, no slope penalty"
    assert names == {
        "x": {
            f"{label}, gamma=0.99": ["b", "d"],
            f"{label}, gamma=0.9": ["c"],
            label.replace("no ", ""): ["a"],
        },
        "y": {label: ["e"]},
        "z": {f"{label}, 1: f": ["f", "h"], f"{label}, 2: f": ["f"]},
    }
    assert list(found["x"])[-1] == label.replace("no ", "")


# --- Bad input -----------------------------------------------------------------


def edit(path, change):
    with edited(path) as values:
        change(values)


def unfinished(folder):
    (folder / "result.json").unlink()


def without_checkpoint(folder):
    shutil.rmtree(folder / "checkpoint")


def without_data(folder):
    edit(folder / "config.json", lambda x: x["data"].update(source=str(folder / "gone.hdf5")))


def without_task(folder):
    edit(folder / "config.json", lambda x: x.update(task=None))


def measured_without_checkpoint(folder):
    edit(folder / "config.json", lambda x: x["config"].update(measured=True))
    without_checkpoint(folder)


def with_mmd(folder):
    edit(folder / "config.json", lambda x: x["config"].update(divergence="mmd"))


def of_another_algorithm(folder):
    edit(folder / "config.json", lambda x: x.update(algorithm="bc"))


@pytest.mark.parametrize(
    ("number", "damage", "option", "words"),
    [
        ("2", shutil.rmtree, "", "no runs of brac-plus that were evaluated below"),
        ("3", of_another_algorithm, "", "no runs of brac-plus with divergence=kl below"),
        ("2", unfinished, "", "has not ended: `leashrl resume"),
        ("6", unfinished, "", "has not ended: `leashrl resume"),
        ("3", without_checkpoint, "", "has no checkpoint yet"),
        ("8", measured_without_checkpoint, "", "has no checkpoint yet"),
        ("6", without_data, "", "gone.hdf5"),
        ("8", without_task, "", "no runs of brac-plus that were evaluated below"),
        ("7", without_task, "", "no runs of brac-plus with divergence=kl and a task below"),
        ("3", with_mmd, "", "no runs of brac-plus with divergence=kl below"),
        ("7", None, "episodes=0", "episodes >= 1"),
        ("7", None, "seed=-1", "option 'seed' must be a whole number"),
        ("3", None, "states=-1", "option 'states' must be a whole number"),
        ("3", None, "state=1", "did you mean 'states'?"),
    ],
)
def test_bad_input_is_one_line(number, damage, option, words, runs, tmp_path, refused):
    folder = tmp_path / "runs" / "local"
    shutil.copytree(runs / "local", folder)
    if damage:
        damage(folder)
    argv = ["paper", "brac-plus", "--figure", number, "--out", str(tmp_path / "out")]
    assert words in refused(*argv, "--set", f"runs={tmp_path / 'runs'}", *filter(None, [option]))
