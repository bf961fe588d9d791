"""The task table: scores, names, files and sizes, against numbers written out here by hand."""

import numpy as np
import pytest

from leashrl.errors import BadInput
from leashrl.tasks import BARE, TASKS, guess, normalise, task

GYM = ("halfcheetah", "hopper", "walker2d")
ADROIT = ("pen", "hammer", "door", "relocate")
MAZES = ("umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse")
REPORTED = {
    "MISA": {f"{e}-{k}-v2" for e in GYM for k in ("medium", "medium-replay", "medium-expert")}
    | {f"kitchen-{k}-v0" for k in ("complete", "partial", "mixed")}
    | {f"{e}-{k}-v0" for e in ADROIT for k in ("human", "cloned")}
    | {f"antmaze-{k}-v0" for k in MAZES},
    "MISA (ICLR text)": {f"{e}-random-v2" for e in GYM},
    "BRAC+": {f"{e}-{k}-v0" for e in GYM for k in ("random", "medium", "medium-replay", "medium-expert")}
    | {f"{e}-human-v0" for e in ADROIT},
    "Fisher-BRC": {
        f"{e}-{k}-v0" for e in GYM for k in ("random", "medium", "expert", "medium-replay", "medium-expert")
    },
    "MIRACLE": {
        *("pendulum", "inverted-double-pendulum", "swimmer", "reacher"),
        *("hopper", "walker2d", "ant", "humanoid"),
    },
}


@pytest.mark.parametrize("paper", REPORTED)
def test_every_task_of_the_papers_is_there(paper: str):
    assert {name for name, row in TASKS.items() if paper in row.papers} == REPORTED[paper]


def test_misa_has_26_tasks():
    assert sum("MISA" in row.papers for row in TASKS.values()) == 26


@pytest.mark.parametrize(
    ("name", "returns", "score"),
    [
        ("halfcheetah-medium-v2", 12135.0, 100.0),
        ("halfcheetah-random-v0", -280.178953, 0.0),
        ("hopper-expert-v0", 1607.0138475, 50.0),  # the middle of -20.272305 and 3234.3
        ("walker2d-medium-replay-v1", 1149.3, 25.0000266),  # (1149.3 - 1.629008) / 4590.670992
        ("pen-human-v0", 3076.8331017826877, 100.0),
        ("hammer-cloned-v1", -274.856578, 0.0),
        ("door-human-v0", 2880.5693087298737, 100.0),
        ("relocate-expert-v1", 4233.877797728884, 100.0),
        ("kitchen-mixed-v0", 3.0, 75.0),
        ("antmaze-large-play-v2", 1.0, 100.0),
        ("ant-medium-v2", 3879.7, 100.0),
        ("pendulum-medium", -150.0, 100.0),
    ],
)
def test_normalised_scores(name: str, returns: float, score: float):
    assert normalise(task(name), returns) == pytest.approx(score, abs=2e-4)


def test_normalise_keeps_the_shape_and_refuses_tasks_without_scores():
    assert normalise(task("kitchen-mixed"), np.zeros((3, 10))).shape == (3, 10)
    with pytest.raises(BadInput, match="no reference scores"):
        normalise(task("humanoid"), [1.0])


def test_pendulum_random_score_is_a_uniform_policys_return():
    """Gymnasium's pendulum equations again, 20,000 episodes: standard error 2."""
    rng = np.random.default_rng(3)
    angle, speed = rng.uniform(-np.pi, np.pi, 20_000), rng.uniform(-1, 1, 20_000)
    total = np.zeros(20_000)
    for _ in range(200):
        torque = rng.uniform(-2, 2, 20_000)
        wrapped = (angle + np.pi) % (2 * np.pi) - np.pi
        total -= wrapped**2 + 0.1 * speed**2 + 0.001 * torque**2
        speed = np.clip(speed + 0.05 * (15 * np.sin(angle) + 3 * torque), -8, 8)
        angle = angle + 0.05 * speed
    assert total.mean() == pytest.approx(task("pendulum").min_score, abs=8)


@pytest.mark.parametrize(
    ("name", "limit", "episodes"),
    [
        ("pen-human-v0", 100, 10),
        ("door-cloned-v0", 200, 10),
        ("kitchen-partial-v0", 280, 10),
        ("antmaze-umaze-diverse-v0", 700, 100),
        ("antmaze-large-diverse-v0", 1000, 100),
        ("walker2d-medium-v2", 1000, 10),
        ("reacher", 50, 10),
    ],
)
def test_limits_and_episodes(name: str, limit: int, episodes: int):
    assert (task(name).max_episode_steps, task(name).episodes) == (limit, episodes)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("hopper-medium-v2", "gym_mujoco_v2/hopper_medium-v2.hdf5"),
        ("hopper-medium-expert-v0", "gym_mujoco/hopper_medium_expert.hdf5"),
        ("walker2d-medium-replay-v0", "gym_mujoco/walker_mixed.hdf5"),
        ("halfcheetah-medium-replay-v0", "gym_mujoco/halfcheetah_mixed.hdf5"),
        ("walker2d-full-replay-v1", "gym_mujoco_v1/walker2d_full_replay-v1.hdf5"),
        ("pen-human-v0", "hand_dapg/pen-v0_demos_clipped.hdf5"),
        ("door-cloned-v0", "hand_dapg/door-demos-v0-bc-combined.hdf5"),
        ("relocate-expert-v1", "hand_dapg_v1/relocate-expert-v1.hdf5"),
        ("kitchen-complete-v0", "kitchen/mini_kitchen_microwave_kettle_light_slider-v0.hdf5"),
        ("kitchen-mixed-v0", "kitchen/kitchen_microwave_kettle_bottomburner_light-v0.hdf5"),
        (
            "antmaze-medium-play-v0",
            "ant_maze_new/Ant_maze_big-maze_noisy_multistart_True_multigoal_False_sparse.hdf5",
        ),
        (
            "antmaze-umaze-v2",
            "ant_maze_v2/Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse_fixed.hdf5",
        ),
    ],
)
def test_files(name: str, path: str):
    row = task(name)
    assert row.url == "http://rail.eecs.berkeley.edu/datasets/offline_rl/" + path
    assert row.data_file == path.split("/")[-1]


def test_file_names_are_unique():
    files = [row.data_file for row in TASKS.values() if row.data_file]
    assert len(files) == len(set(files))


@pytest.mark.parametrize("row", TASKS.values(), ids=lambda row: row.name)
def test_rows_guess_themselves(row):
    assert TASKS[row.name] is row
    assert guess(row.name) is row
    if row.data_file:
        assert guess("/data/" + row.data_file) is row


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hopper-medium-like-sb3-v4.hdf5", "hopper"),
        ("some/where/door-human-dapg-replayed.hdf5", "door"),
        ("D4RL/door/human-v2", "door"),
        ("minari:D4RL/kitchen/complete-v2", "kitchen-complete"),
        ("D4RL/antmaze/large-play-v1", "antmaze-large"),
        ("mujoco/halfcheetah/expert-v0", "halfcheetah"),
        ("hopper-mixed", "hopper-medium-replay-v0"),
        ("Hopper-Medium-v2.HDF5", "hopper-medium-v2"),
        ("pendulum-expert.npz", "pendulum-expert"),
    ],
)
def test_guess(name: str, expected: str):
    found = guess(name)
    assert found is not None
    assert found.name == expected


@pytest.mark.parametrize("name", ["", "my-logs.hdf5", "penguin.npz", "ants.hdf5", "acrobot", "/", "."])
def test_guess_says_none_rather_than_anything(name: str):
    assert guess(name) is None


@pytest.mark.parametrize(
    ("name", "suggestion"), [("hoper-medium-v2", "hopper-medium-v2"), ("Pen-human-v0", "pen-human-v0")]
)
def test_unknown_task_names_the_nearest(name: str, suggestion: str):
    with pytest.raises(BadInput) as caught:
        task(name)
    assert f"did you mean '{suggestion}'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bare_tasks_have_no_data():
    assert all(row.data_file is None and row.url is None for row in BARE.values())
