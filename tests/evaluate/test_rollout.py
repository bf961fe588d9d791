"""The evaluator against plain Python loops over the same environments."""

import dataclasses
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leashrl.core import Policy
from leashrl.errors import BadInput
from leashrl.evaluate import evaluate, rollout
from leashrl.tasks import Task, task
from leashrl.tasks.making import borrow, env_seed
from leashrl.types import Box, Discrete

# --- A toy environment -------------------------------------------------------


class Echo(gym.Env):
    """Pays action[0] + 10 action[1]; ends by itself after 3, 4, ... steps as the seed says."""

    observation_space = gym.spaces.Box(-10, 10, (2,), np.float32)
    action_space = gym.spaces.Box(-1.5, 1.5, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(3, 9))
        self.paid: list[float] = []
        return np.array([self.left, 0.0]), {}

    def step(self, action: Any) -> Any:
        assert self.left > 0, "stepped after its end"
        self.left -= 1
        reward = float(action[0] + 10 * action[1])
        return np.array([self.left, reward]), reward, self.left == 0, False, {}


gym.register("LeashEcho-v0", entry_point=lambda **_: Echo())
ECHO = dataclasses.replace(
    task("swimmer"), name="echo", env_id="LeashEcho-v0", obs_dim=2, action_dim=2, max_episode_steps=6
)
CARTPOLE = dataclasses.replace(ECHO, name="cartpole", env_id="CartPole-v1", obs_dim=4, action_dim=2)


def lengths_of(spec: Task, seed: int, episodes: int) -> np.ndarray:
    """Echo's lengths by its own rule, cut at the task's limit."""
    draws = [np.random.Generator(np.random.PCG64(env_seed(seed, i))).integers(3, 9) for i in range(episodes)]
    return np.minimum(np.array(draws), spec.max_episode_steps)


def constant(value: list[float]) -> Policy:
    return policy_of(lambda state, carry, timestep, key, mode: (state * jnp.array(value), carry))


def run(policy: Policy, states: Any, spec: Task = ECHO, **options: Any) -> Any:
    options = {
        "obs_mean": np.zeros(2),
        "obs_std": np.ones(2),
        "action_space": Box((-4.0, -1.0), (4.0, 1.0)),
    } | (options)
    return evaluate(policy, states, spec, **options)


def policy_of(act: Any, init: Any = lambda params: (), modes: tuple[str, ...] = ("mean", "sample")) -> Policy:
    return Policy(params=lambda state: state, init=init, act=act, modes=modes)


# --- What the policy sees and does -------------------------------------------


def test_returns_by_hand_one_episode_each_and_time_limit():
    # member 0 acts (0.25, 0.5) -> (1, 0.5) in the Box -> 6 a step; member 1 the double -> (1.5 clipped, 1)
    found = run(constant([0.25, 0.5]), jnp.array([1.0, 2.0]), episodes=13, seed=5)
    lengths = lengths_of(ECHO, 5, 13)
    assert len(set(lengths)) > 2
    assert lengths.max() == 6
    assert np.array_equal(found.lengths, [lengths, lengths])
    assert np.allclose(found.returns, [6.0 * lengths, 11.5 * lengths], rtol=1e-6)
    assert found.env_steps == 2 * lengths.sum()
    assert found.scores is None
    assert not found.failed.any()
    assert found.versions["env_id"] == "LeashEcho-v0"
    assert found.versions["gymnasium"] == gym.__version__
    assert found.seconds > 0


def test_default_number_of_episodes_is_the_tasks():
    assert run(constant([0.0, 0.0]), jnp.ones(1)).returns.shape == (1, 10)


def test_timestep_and_carry():
    """The carry counts steps, sums the previous rewards and counts first-step flags, per episode."""

    def act(params, carry, timestep, key, mode):
        steps, rewards, firsts = carry
        carry = (steps + 1, rewards + timestep.reward, firsts + timestep.first.astype(jnp.float32))
        return jnp.stack([carry[0] / 16, carry[1] * carry[2] / 1024]) + 0 * params, carry

    policy = policy_of(act, lambda params: (jnp.float32(0), jnp.float32(0), jnp.float32(0)))
    found = run(policy, jnp.zeros(2), action_space=Box((-1.0, -1.0), (1.0, 1.0)), episodes=11, seed=1)
    for i, length in enumerate(lengths_of(ECHO, 1, 11)):
        total = reward = seen = 0.0
        for step in range(1, length + 1):
            seen += reward
            reward = step / 16 + 10 * seen / 1024
            total += reward
        assert np.allclose(found.returns[:, i], total, rtol=1e-6)


def test_a_carry_keeps_what_the_policy_saw():
    """Pay 1/4 in the first step, then a quarter more than the reward before the last one."""

    def act(params, carry, timestep, key, mode):
        return jnp.stack([carry + 0.25, 0 * params]), timestep.reward

    policy = policy_of(act, lambda params: jnp.float32(0))
    found = run(policy, jnp.zeros(1), action_space=Box((-2.0, -1.0), (2.0, 1.0)), episodes=8)
    for i, length in enumerate(lengths_of(ECHO, 0, 8)):
        # in [-1, 1]: a_t = r_{t-2} + 1/4 with r = 2 a, cut at 1.5 (the environment's bound)
        rewards = [0.0, 0.0]
        for _ in range(length):
            rewards.append(min(2 * (rewards[-2] + 0.25), 1.5))
        assert found.returns[0, i] == pytest.approx(sum(rewards))


def test_every_episode_draws_its_own_noise():
    policy = policy_of(
        lambda params, carry, timestep, key, mode: (jax.random.uniform(key, (2,)) + 0 * params, carry)
    )
    box = Box((-1.0, -1.0), (1.0, 1.0))
    spec = dataclasses.replace(ECHO, max_episode_steps=1)
    found = run(policy, jnp.zeros(1), spec, action_space=box, episodes=25, mode="sample")
    assert len(set(found.returns[0])) == 25


def test_observations_are_normalised():
    policy = policy_of(lambda state, carry, timestep, key, mode: (timestep.obs / 16 + 0 * state, carry))
    found = run(
        policy,
        jnp.zeros(1),
        obs_mean=np.array([1.0, 0.0]),
        obs_std=np.array([2.0, 1e6]),
        action_space=Box((-1.0, -1.0), (1.0, 1.0)),
        episodes=1,
    )
    left = np.random.Generator(np.random.PCG64(env_seed(0, 0))).integers(3, 9)
    seen = [left - step for step in range(min(left, 6))]
    assert found.returns[0, 0] == pytest.approx(sum((x - 1) / 2 / 16 for x in seen), abs=1e-4)


def test_mode_reaches_the_policy():
    def act(state, carry, timestep, key, mode):
        return state * {"mean": 0.25, "best": 0.5}[mode] * jnp.ones(2), carry

    policy = policy_of(act, modes=("mean", "best"))
    box = Box((-1.0, -1.0), (1.0, 1.0))
    default = run(policy, jnp.ones(1), episodes=3, action_space=box)
    best = run(policy, jnp.ones(1), episodes=3, action_space=box, mode="best")
    assert np.allclose(best.returns, 2 * default.returns)
    assert default.returns.min() > 0


def test_discrete_actions():
    """CartPole pushed towards the side it falls to, against a plain loop."""
    policy = policy_of(
        lambda state, carry, timestep, key, mode: ((timestep.obs[2] > 0).astype(jnp.int32), carry),
    )
    spec = dataclasses.replace(CARTPOLE, max_episode_steps=60)
    found = run(
        policy,
        jnp.ones(2),
        spec,
        obs_mean=np.zeros(4),
        obs_std=np.ones(4),
        action_space=Discrete(2),
        episodes=4,
    )
    env = gym.make("CartPole-v1")
    for i in range(4):
        obs, _ = env.reset(seed=env_seed(0, i))
        steps, ended = 0, False
        while not ended and steps < 60:
            obs, _, ended, _, _ = env.step(int(obs[2] > 0))
            steps += 1
        assert found.returns[:, i].tolist() == [steps, steps]


# --- A network in a real environment -----------------------------------------


def network(key: jax.Array) -> dict[str, jax.Array]:
    first, second = jax.random.split(key)
    return {"w": jax.random.normal(first, (3, 64)), "v": jax.random.normal(second, (64, 1)) / 8}


def act(state, carry, timestep, key, mode):
    mean = jnp.tanh(timestep.obs @ state["w"]) @ state["v"]
    noise = jax.random.normal(key, mean.shape) if mode == "sample" else jnp.zeros_like(mean)
    return jnp.tanh(mean + 0.3 * noise), carry


NETWORK = policy_of(act)
MEMBERS = jax.vmap(network)(jax.random.split(jax.random.key(0), 3))
PENDULUM = {"obs_mean": np.full(3, 0.1), "obs_std": np.full(3, 1.5), "action_space": Box((-2.0,), (2.0,))}


def swing(members: Any, steps: int = 200, **options: Any) -> Any:
    row = dataclasses.replace(task("pendulum"), max_episode_steps=steps)
    return evaluate(NETWORK, members, row, **PENDULUM, **options)


def member(j: int) -> Any:
    return jax.tree.map(lambda x: x[j : j + 1], MEMBERS)


def test_pendulum_equals_a_plain_loop():
    found = swing(MEMBERS, episodes=2, seed=7)
    env = gym.make("Pendulum-v1")
    for j in range(3):
        w, v = (np.asarray(MEMBERS[name][j], np.float64) for name in ("w", "v"))
        for i in range(2):
            obs, _ = env.reset(seed=env_seed(7, i))
            total = 0.0
            for _ in range(200):
                raw = np.tanh(np.tanh((obs - 0.1) / 1.5 @ w) @ v)
                obs, reward, *_ = env.step(2 * raw)
                total += float(reward)
            assert found.returns[j, i] == pytest.approx(total, rel=1e-3)
    assert found.lengths.tolist() == [[200, 200]] * 3
    # (R - random) / (expert - random) with the table's two pendulum scores
    assert np.allclose(found.scores, 100 * (found.returns + 1228.7) / (1228.7 - 150.0))


def test_same_bits_whatever_runs_beside():
    def noisy(members: Any, episodes: int, seed: int = 3, mode: str = "sample") -> np.ndarray:
        return swing(members, steps=50, episodes=episodes, seed=seed, mode=mode).returns

    whole = noisy(MEMBERS, 12)
    assert len(set(whole[0])) == 12
    assert np.array_equal(whole, noisy(MEMBERS, 12))
    assert np.array_equal(whole[:, :3], noisy(MEMBERS, 3))
    for j in range(3):
        assert np.array_equal(whole[j], noisy(member(j), 12)[0])
    assert not np.array_equal(whole, noisy(MEMBERS, 12, seed=4))
    assert not np.array_equal(whole, noisy(MEMBERS, 12, mode="mean"))


def test_many_members_go_in_groups(monkeypatch):
    """Environments of many megabytes are not held all at once; the bits are the same."""
    members = dict(MEMBERS, v=MEMBERS["v"].at[2].set(jnp.nan))
    together = swing(members, episodes=11, steps=20)
    monkeypatch.setitem(rollout.MOST_ENVIRONMENTS, "pendulum", 20)
    made = []
    monkeypatch.setattr(rollout, "borrow", lambda row, n: made.append(n) or borrow(row, n))
    grouped = swing(members, episodes=11, steps=20)
    assert made == [20]
    assert np.array_equal(grouped.returns, together.returns, equal_nan=True)
    assert grouped.failed.tolist() == together.failed.tolist() == [False, False, True]


def test_members_share_starts_and_noise():
    twins = jax.tree.map(lambda x: jnp.stack([x[0], x[0]]), MEMBERS)
    found = swing(twins, episodes=2, mode="sample")
    assert np.array_equal(found.returns[0], found.returns[1])


@pytest.mark.parametrize("name", ["hopper", "door", "kitchen-mixed"])
def test_environments_can_be_used_again(name: str):
    """An environment that an earlier episode has left in disorder gives a fresh one's episode."""
    row = dataclasses.replace(task(name), max_episode_steps=25)
    space = Box((-1.0,) * row.action_dim, (1.0,) * row.action_dim)
    policy = policy_of(
        lambda state, carry, timestep, key, mode: (jnp.tanh(state * timestep.obs[: row.action_dim]), carry),
    )
    options = {"obs_mean": np.zeros(row.obs_dim), "obs_std": np.ones(row.obs_dim), "action_space": space}
    first = evaluate(policy, jnp.ones(1), row, episodes=1, seed=1, **options)
    evaluate(policy, -jnp.ones(1), row, episodes=1, seed=2, **options)
    again = evaluate(policy, jnp.ones(1), row, episodes=1, seed=1, **options)
    assert np.array_equal(first.returns, again.returns)


def test_one_compilation_serves_a_run():
    traces = []

    def counted(state, carry, timestep, key, mode):
        traces.append(mode)
        return act(state, carry, timestep, key, mode)

    policy = policy_of(counted)
    for seed, episodes in enumerate((1, 10, 11)):
        row = dataclasses.replace(task("pendulum"), max_episode_steps=20)
        evaluate(policy, MEMBERS, row, **PENDULUM, seed=seed, episodes=episodes)
    assert traces == ["mean"]


def test_a_member_gone_non_finite_is_marked_and_the_others_go_on():
    broken = dict(MEMBERS, v=MEMBERS["v"].at[1, 0, 0].set(jnp.nan))
    found = swing(broken, episodes=2)
    assert found.failed.tolist() == [False, True, False]
    assert np.isnan(found.returns[1]).all()
    assert found.scores is not None
    assert np.isnan(found.scores[1]).all()
    assert np.array_equal(found.returns[[0, 2]], swing(MEMBERS, episodes=2).returns[[0, 2]])
    assert found.lengths[1].tolist() == [0, 0]


def test_a_member_may_go_non_finite_in_mid_episode():
    policy = policy_of(
        lambda state, carry, timestep, key, mode: (
            jnp.where(carry == state, jnp.nan, 0.1) * jnp.ones(2),
            carry + 1,
        ),
        lambda params: jnp.float32(0),
    )
    found = run(policy, jnp.array([2.0, 100.0]), episodes=12)
    assert found.failed.tolist() == [True, False]
    assert found.lengths[0].tolist() == [2] * 10 + [0, 0]  # the second wave is not begun
    assert np.isfinite(found.returns[1]).all()


# --- What is refused ---------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"episodes": 0}, "at least 1"),
        ({"episodes": 2.5}, "episodes must be"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 0.5}, "seed must be"),
        ({"mode": "maen"}, "did you mean 'mean'"),
        ({"obs_mean": np.zeros(11)}, "3 numbers, but obs_mean has shape (11,)"),
        ({"obs_std": np.zeros(3)}, "positive"),
        ({"obs_mean": np.full(3, np.nan)}, "finite"),
        ({"action_space": Box((-1.0,) * 3, (1.0,) * 3)}, "actions of (1,) numbers"),
        ({"action_space": Discrete(3)}, "Discrete(n=3)"),
        ({"task": dataclasses.replace(task("hopper"), env_id=None)}, "'hopper' has no environment"),
        ({"task": dataclasses.replace(task("hopper"), env_id="Hoper-v4")}, "cannot make Hoper-v4"),
        ({"params": ()}, "no arrays"),
    ],
)
def test_bad_calls_are_refused_in_one_line(options, words):
    arguments = {"policy": NETWORK, "params": MEMBERS, "task": task("pendulum"), **PENDULUM} | options
    with pytest.raises(BadInput) as caught:
        evaluate(**arguments)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
