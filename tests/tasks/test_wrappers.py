"""Corrected environments: D4RL's rewards, ends, observations and limits."""

from typing import Any

import numpy as np
import pytest

from leashrl.tasks import TASKS, task
from leashrl.tasks.making import env_seed, make_one
from support import ROOT

DEMOS = ROOT / "tests" / "data" / "door-demos.npz"
# OGBench's worlds are all looked at in tests/data/test_ogbench.py; here is one of each kind.
OGBENCH = {"cube-single", "scene", "puzzle-3x3", "pointmaze-medium", "antmaze-medium", "antsoccer-arena"}
OGBENCH = {f"{world}-singletask-v0" for world in OGBENCH}
DISTINCT = list(
    {row.env_id: row for row in TASKS.values() if row.domain != "ogbench" or row.env_id in OGBENCH}.values()
)


def made(name: str) -> Any:
    env = make_one(task(name))
    env.reset(seed=env_seed(3, 0))
    return env


@pytest.mark.slow
@pytest.mark.parametrize("row", DISTINCT, ids=lambda row: row.env_id)
def test_sizes_and_one_random_episode(row):
    env: Any = make_one(row)
    assert env.observation_space.shape == (row.obs_dim,)
    if row.discrete:
        assert env.action_space.n == row.action_dim
    else:
        assert env.action_space.shape == (row.action_dim,)
    env.action_space.seed(0)
    obs, _ = env.reset(seed=0)
    steps, ended = 0, False
    while not ended:
        assert obs.shape == (row.obs_dim,)
        obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        assert np.isfinite(obs).all()
        assert np.isfinite(float(reward))
        steps += 1
        ended = terminated or truncated
    assert steps <= row.max_episode_steps
    assert not truncated or steps == row.max_episode_steps


# --- Adroit ------------------------------------------------------------------


def test_door_pays_what_the_demonstrations_store():
    demos = np.load(DEMOS)
    stored = demos["reward"]
    env = made("door-human-v0")
    own, paid, distance = np.zeros((3, len(stored)))
    for i in range(len(stored)):
        state = {key: demos[key][i].astype(np.float64) for key in ("qpos", "qvel", "door_body_pos")}
        env.unwrapped.set_env_state(state)
        obs, paid[i], *_ = env.step(demos["action"][i])
        distance[i] = np.linalg.norm(obs[35:38])  # palm - handle
        env.unwrapped.set_env_state(state)
        own[i] = np.squeeze(env.unwrapped.step(demos["action"][i])[1])
    # states are stored as float32, and contacts magnify the rounding
    assert np.abs(paid - stored).max() < 5e-4
    assert np.abs(paid - stored).mean() < 5e-6
    assert stored.max() > 19.9  # all three bonuses are among the steps
    # the environment's own reward is D4RL's too (fixed versions) or more by 0.2 times the distance
    assert np.allclose(own, stored, atol=5e-4) or np.allclose(own, stored + 0.2 * distance, atol=5e-4)


def lifted(env: Any, rng: np.random.Generator, joints: tuple[str, ...]) -> None:
    """Puts the task's object and goal joints at random places, the object high or low."""
    base, data = env.unwrapped, env.unwrapped.data
    qpos = data.qpos.copy()
    for joint in joints:
        qpos[base.model.joint(joint).qposadr[0]] += rng.uniform(0.0, 0.25)
    base.set_state(qpos, rng.normal(0, 0.3, data.qvel.shape))


@pytest.mark.parametrize(
    ("name", "joints", "hand_to_object", "bonuses"),
    [
        # observation: [qpos 27, qvel 6, palm 3, hammer 3, ...]
        ("hammer", ("OBJTz", "nail_dir"), lambda obs: obs[33:36] - obs[36:39], (2.0, 25.0, 75.0)),
        # observation: [qpos 30, palm - ball 3, ...]
        ("relocate", ("OBJTz",), lambda obs: obs[30:33], (1.0, 10.0, 20.0)),
    ],
)
def test_hand_to_object_term_is_a_cost(name, joints, hand_to_object, bonuses):
    env = made(name)
    rng = np.random.default_rng(0)
    differences, distances, rewards = [], [], []
    for _ in range(200):
        env.reset()
        lifted(env, rng, joints)
        if name == "relocate":  # the target within reach of the ball
            base = env.unwrapped
            base.model.site("target").pos[:] = base.data.body("Object").xpos + rng.normal(0, 0.05, 3)
        obs, paid, *_ = env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
        env.unwrapped.do_simulation = lambda *_: None  # the same state once more, rewarded by the original
        own = env.unwrapped.step(np.zeros(env.action_space.shape))[1]
        del env.unwrapped.do_simulation
        differences.append(float(own) - paid)
        distances.append(np.linalg.norm(hand_to_object(obs)))
        rewards.append(paid)
    assert np.allclose(differences, 0, atol=1e-9) or np.allclose(
        differences, 0.2 * np.array(distances), atol=1e-9
    )
    assert max(rewards) > sum(bonuses) - 4.0  # all bonuses in one step, less the distances
    assert min(rewards) < 0


def test_pen_ends_when_dropped_and_after_100_steps():
    env = made("pen")
    still = np.zeros(24, np.float32)
    env.reset(seed=0)
    base = env.unwrapped
    start = base.data.qpos.copy()
    # the pen's joint axes are turned: its x joint points down, its z joint to the side
    down, aside = (base.model.joint(name).qposadr[0] for name in ("OBJTx", "OBJTz"))
    height = base.data.body("Object").xpos[2]
    assert height > 0.075
    assert env.step(still)[2] is False
    dropped = start.copy()
    dropped[down] += height - 0.05
    dropped[aside] += 0.5
    base.set_state(dropped, np.zeros_like(base.data.qvel))
    _, reward, terminated, _, _ = env.step(still)
    assert terminated is True
    assert reward < -3.0  # the penalty of 5 on top of at most +1 and the distance

    env.reset(seed=0)
    for step in range(1, 101):
        base.set_state(start, np.zeros_like(base.data.qvel))
        _, _, terminated, truncated, _ = env.step(still)
        assert not terminated
        assert truncated == (step == 100)


# --- Kitchen -----------------------------------------------------------------

GOALS = {  # D4RL's slots of the 30 positions, written out
    "microwave": {22: -0.75},
    "kettle": {23: -0.23, 24: 0.75, 25: 1.62, 26: 0.99, 27: 0.0, 28: 0.0, 29: -0.06},
    "light switch": {17: -0.69, 18: -0.05},
    "slide cabinet": {19: 0.37},
    "bottom burner": {11: -0.88, 12: -0.01},
}
WANTED = {
    "complete": ("microwave", "kettle", "light switch", "slide cabinet"),
    "partial": ("microwave", "kettle", "light switch", "slide cabinet"),
    "mixed": ("microwave", "kettle", "bottom burner", "light switch"),
}


@pytest.mark.parametrize("kind", WANTED)
def test_kitchen_observation_is_d4rls_60(kind: str):
    env = made(f"kitchen-{kind}-v0")
    obs, _ = env.reset(seed=0)
    goal = np.zeros(30)
    for name in WANTED[kind]:
        for slot, value in GOALS[name].items():
            goal[slot] = value
    assert np.array_equal(obs[30:], goal)
    obs = env.step(np.full(9, 0.5))[0]
    # the simulator's 30 positions up to the noise: 10 % of amplitudes of 0.1 at most
    error = np.abs(obs[:30] - env.unwrapped.data.qpos)
    assert error.max() <= 0.01
    assert error[:9].max() > 1e-4


def test_kitchen_pays_each_subtask_once_and_ends_after_the_fourth():
    env = made("kitchen-mixed")
    base = env.unwrapped
    env.reset(seed=0)
    rewards, ends = [], []
    for name in WANTED["mixed"]:
        qpos = base.data.qpos.copy()
        for slot, value in GOALS[name].items():
            qpos[slot] = value
        for _ in range(2):
            base.robot_env.set_state(qpos, np.zeros_like(base.data.qvel))
            _, reward, terminated, _, _ = env.step(np.zeros(9))
            rewards.append(reward)
            ends.append(terminated)
            if terminated:
                break
    assert rewards == [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    assert ends == [False] * 6 + [True]


# --- Ant ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "way"),
    [
        # from start to goal in cells of 4 m: columns to the right, rows down (y points up)
        ("antmaze-umaze", (0, -8)),
        ("antmaze-medium-play-v0", (20, -20)),
        ("antmaze-large-diverse-v2", (32, -24)),
    ],
)
def test_antmaze_starts_and_ends_where_d4rl_does(name: str, way: tuple[float, float]):
    env = made(name)
    obs, _ = env.reset(seed=0)
    base = env.unwrapped
    assert obs.shape == (29,)
    assert np.allclose(obs[:2], base.data.qpos[:2])
    assert np.allclose(obs[2:15], base.data.qpos[2:15])
    assert np.allclose(obs[15:], base.data.qvel, atol=1e-9)
    # cells are 4 m wide; start and goal are moved by up to 1 m each way
    assert np.all(np.abs(base.goal - obs[:2] - way) <= 2.0)
    still = np.zeros(8, np.float32)
    _, reward, terminated, *_ = env.step(still)
    assert (float(reward), bool(terminated)) == (0.0, False)
    qpos = base.data.qpos.copy()
    qpos[:2] = base.goal
    base.ant_env.set_state(qpos, np.zeros(14))
    _, reward, terminated, *_ = env.step(still)
    assert (float(reward), bool(terminated)) == (1.0, True)


def test_ant_has_d4rls_contact_forces():
    env = made("ant-medium-v2")
    obs, _ = env.reset(seed=0)
    for _ in range(30):
        obs, *_ = env.step(np.zeros(8, np.float32))
    assert np.allclose(obs[:13], env.unwrapped.data.qpos[2:])
    assert np.abs(obs[27:]).max() > 0  # it stands on the floor
    assert np.abs(obs[27:]).max() <= 1  # clipped, as in Ant-v2
