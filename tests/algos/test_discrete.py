"""Discrete actions: sums in place of samples, checked by closed forms; and who takes them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leashrl import nn
from leashrl.algos import REGISTRY, cql, misa
from leashrl.cli import main
from leashrl.core import hyper, override
from leashrl.data import Dataset
from leashrl.dist import Categorical
from leashrl.errors import BadInput
from leashrl.ops import advantage, conservative
from leashrl.runs.plan import find_place
from leashrl.training import loop
from leashrl.types import Batch, Box, Discrete, Spec, TimeStep, Transitions

N = 3


def batch_of(q, actions):
    """One state a row, so that a table is a critic: `q` (batch, n) are the values of two equal members."""
    rows = len(actions)
    states = jnp.eye(rows)
    return (
        Batch(states, jnp.asarray(actions), jnp.zeros(rows), jnp.zeros(rows), states),
        jnp.stack([jnp.asarray(q, jnp.float32)] * 2),
        lambda params, obs, action=None: jnp.einsum("bs,esn->ebn", obs, params),
    )


# --- Losses ---------------------------------------------------------------------------------------


def test_cql_by_hand():
    """Q = log(1, 2, 5), the data's action the second: log 8 - log 2 = log 4, and an error of log 2 - 1."""
    batch, q, apply = batch_of(np.log([[1.0, 2.0, 5.0]]), [1])
    loss, (values, energies) = conservative.exact_loss(
        q, apply, "misa", batch, jnp.zeros((1, N)), jnp.ones(1), 3.0, 0.5
    )
    each = 3.0 * np.log(4.0) + 0.5 * (np.log(2.0) - 1.0) ** 2
    np.testing.assert_allclose(loss, 2 * each, rtol=1e-6)
    np.testing.assert_allclose(values, np.full((2, 1), np.log(2.0)), rtol=1e-6)
    np.testing.assert_allclose(np.mean(np.exp(energies), -1), np.full((2, 1), 8.0), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("bound", ["misa", "dv", "f"])
def test_log_z_is_the_samples_limit(bound):
    """Of a million actions drawn from the policy, `loss` finds what `exact_loss` sums."""
    rng = np.random.default_rng(0)
    q, pi = rng.standard_normal((2, N)), rng.dirichlet(np.ones(N), 2)
    batch, table, apply = batch_of(q, [0, 2])
    args = (jnp.zeros(2), 1.0, 0.0)
    exact, _ = conservative.exact_loss(table, apply, bound, batch, jnp.log(pi), *args)
    draws = np.stack([rng.choice(N, 1_000_000, p=p) for p in pi])
    chosen = lambda params, obs, a: jnp.take_along_axis(apply(params, obs), a[None, ..., 0], axis=-1)
    batch = Batch(batch.obs, batch.action[:, None], batch.reward, batch.discount, batch.next_obs)
    sampled, _ = conservative.loss(table, chosen, bound, batch, jnp.asarray(draws)[..., None], None, *args)
    np.testing.assert_allclose(exact, sampled, atol=0.02)


@pytest.mark.parametrize("estimator", ["snis", "none"])
def test_misas_policy_gradient_by_hand(estimator):
    """In the logits: d/dl sum pi f = pi (f - E f), and of log sum pi e^Q it is p - pi, p ~ pi e^Q."""
    q, logits = np.array([0.3, -1.0, 0.8]), np.array([0.1, 0.5, -0.7])
    pi = np.exp(logits) / np.exp(logits).sum()
    p = pi * np.exp(q) / np.sum(pi * np.exp(q))
    entropy = -np.sum(pi * np.log(pi))
    wanted = -pi * (q - pi @ q) - 2.0 * (np.eye(N)[1] - pi) + 2.0 * 0.4 * pi * (np.log(pi) + entropy)
    if estimator != "none":
        wanted += 0.7 * (p - pi)
    config = misa.Config(estimator=estimator, gamma_2=2.0, gamma_2_correction=0.7)
    network = nn.Network(lambda key: None, lambda params, obs: params[None])
    batch = Batch(jnp.zeros((1, 1)), jnp.array([1]), jnp.zeros(1), jnp.zeros(1), jnp.zeros((1, 1)))
    row = jnp.asarray(q, jnp.float32)[None]
    found, _ = jax.grad(misa.exact_policy_loss, has_aux=True)(
        jnp.asarray(logits, jnp.float32), network, row, row, batch, jnp.float32(0.4), hyper(config), config
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cloning", [True, False])
def test_cqls_policy_gradient_by_hand(cloning):
    q, logits = np.array([0.3, -1.0, 0.8]), np.array([0.1, 0.5, -0.7])
    pi = np.exp(logits) / np.exp(logits).sum()
    entropy = -np.sum(pi * np.log(pi))
    wanted = 0.4 * pi * (np.log(pi) + entropy) - (np.eye(N)[1] - pi if cloning else pi * (q - pi @ q))
    network = nn.Network(lambda key: None, lambda params, obs: params[None])
    batch = Batch(jnp.zeros((1, 1)), jnp.array([1]), jnp.zeros(1), jnp.zeros(1), jnp.zeros((1, 1)))
    found, _ = jax.grad(cql.exact_policy_loss, has_aux=True)(
        jnp.asarray(logits, jnp.float32),
        network,
        jnp.asarray(q, jnp.float32)[None],
        batch,
        jnp.float32(0.4),
        jnp.asarray(cloning),
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_weighted_likelihood_by_hand():
    """Two states, softmax(0, log 3): -(2 log 1/4 + 1 log 3/4) / 2 of weights 2 and 1."""
    pi = lambda params, obs: Categorical(jnp.log(jnp.array([[1.0, 3.0], [1.0, 3.0]])) + params)
    batch = Batch(jnp.zeros((2, 1)), jnp.array([0, 1]), jnp.zeros(2), jnp.zeros(2), jnp.zeros((2, 1)))
    loss, mean = advantage.weighted_likelihood(jnp.zeros(()), pi, batch, jnp.array([2.0, 1.0]))
    np.testing.assert_allclose(loss, -(2 * np.log(1 / 4) + np.log(3 / 4)) / 2, rtol=1e-6)
    np.testing.assert_allclose(mean, (np.log(1 / 4) + np.log(3 / 4)) / 2, rtol=1e-6)


def test_a_table_critic_is_one_network_a_member():
    critic = nn.table_critic(2, N, (5,), ensemble=2)
    params = critic.init(jax.random.key(0))
    obs = jnp.asarray(np.random.default_rng(0).standard_normal((4, 2)), jnp.float32)
    values = np.asarray(critic.apply(params, obs))
    for i in range(2):
        hidden, out = params["hidden"][0], params["out"]
        x = np.maximum(np.asarray(obs) @ np.asarray(hidden["kernel"][i]) + np.asarray(hidden["bias"][i]), 0)
        wanted = x @ np.asarray(out["kernel"][i]) + np.asarray(out["bias"][i])
        np.testing.assert_allclose(values[i], wanted, rtol=1e-5, atol=1e-6)
    action = jnp.array([0, 1, 2, 1])
    found = critic.apply(params, obs, action)
    np.testing.assert_array_equal(found, values[:, np.arange(4), action])


def test_categorical():
    pi = Categorical(jnp.log(jnp.array([[1.0, 1.0, 2.0]])))
    np.testing.assert_allclose(pi.entropy(), [1.5 * np.log(2.0)], rtol=1e-6)
    np.testing.assert_allclose(pi.expect(jnp.array([[4.0, 0.0, 2.0]])), [2.0], rtol=1e-6)


# --- Problems whose solution is known -------------------------------------------------------------


def trained(name, data, **options):
    """Two members' states after 1,500 updates of small networks, and the algorithm."""
    entry = REGISTRY[name]
    values = {"hidden": (32, 32), "batch_size": 64, "steps": 1500, "policy_rate": 3e-3, "critic_rate": 3e-3}
    values |= {"schedule": "constant"} | options
    config = override(entry.config(), entry.presets["default"].values)
    config = override(config, {k: v for k, v in values.items() if hasattr(config, k)})
    algorithm = entry.build(config, Spec(2, Discrete(N)))
    keys = jax.vmap(jax.random.key)(jnp.arange(2, dtype=jnp.uint32))
    hp = jax.tree.map(lambda x: jnp.broadcast_to(x, (2,)), hyper(config))
    *_, snapshot = loop.run(algorithm, data, keys, hp, log_every=500)
    return snapshot.state, algorithm


COUNTS, REWARDS = np.array([500, 300, 200]), np.array([0.0, 1.0, 0.5], np.float32)


def one_state(rows=1000):
    """A bandit of three arms: the data pull the worst one most."""
    action = np.repeat(np.arange(N), COUNTS).astype(np.int32)
    obs = np.ones((rows, 2), np.float32)
    return Transitions(*map(jnp.asarray, (obs, action, REWARDS[action], np.ones(rows, bool), obs, action)))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["h", "rho", "misa"])
def test_the_critic_settles_where_its_loss_has_no_slope(form):
    """2 p_D (Q - r) + w (p - p_D) = 0 in every arm, with p ~ e^Q for CQL(H), p ~ pi e^Q for the others."""
    if form == "misa":
        state, _ = trained("misa", one_state(), gamma_1=0.4, gamma_2=0.1)
    else:
        state, _ = trained("cql", one_state(), form=form, weight=0.4)
    obs, data = jnp.ones((1, 2)), COUNTS / COUNTS.sum()
    for i in range(2):
        params = jax.tree.map(lambda x, i=i: x[i], (state.policy, state.critic))
        log_pi = np.asarray(Categorical(nn.mlp(2, N, (32, 32)).apply(params[0], obs)).log_probs[0])
        for q in np.asarray(nn.table_critic(2, N, (32, 32)).apply(params[1], obs))[:, 0]:
            weights = np.exp(q + (0.0 if form == "h" else log_pi))
            slope = 2 * data * (q - REWARDS) + 0.4 * (weights / weights.sum() - data)
            np.testing.assert_allclose(slope, 0.0, atol=0.06)
            if form == "h":  # far from the unregularised optimum, which has q = r
                assert np.abs(q - REWARDS).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_the_temperature_holds_a_share_of_the_uniform_policys_entropy(share):
    """A target of -1 nat is met by every categorical: the temperature fell for ever, and tuned nothing."""
    state, _ = trained("cql", one_state(), weight=0.4, warmup_percent=0, entropy_share=share)
    logits = jax.vmap(lambda p: nn.mlp(2, N, (32, 32)).apply(p, jnp.ones((1, 2))))(state.policy)
    np.testing.assert_allclose(Categorical(logits).entropy()[:, 0], share * np.log(N), atol=0.1)
    assert np.all(np.asarray(state.log_alpha) > np.log(0.02))


def corridor(rows=3000):
    """Two steps: 0 goes on from the left room to the right at a cost, where 1 pays; most of the data do 2."""
    rng = np.random.default_rng(0)
    right = rng.random(rows) < 0.5
    action = rng.choice(N, rows, p=[0.2, 0.2, 0.6]).astype(np.int32)
    on = ~right & (action == 0)
    reward = np.where(right, np.where(action == 1, 2.0, 0.0), np.where(on, -0.5, 0.0)).astype(np.float32)
    rooms = np.eye(2, dtype=np.float32)
    after = np.where(on[:, None], rooms[1], rooms[0])
    return Transitions(*map(jnp.asarray, (rooms[right.astype(int)], action, reward, ~on, after, action)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    [
        ("bc", {}, [2, 2]),
        ("iql", {"expectile": 0.95, "temperature": 20.0}, [0, 1]),
        ("cql", {"weight": 0.05, "warmup_percent": 0}, [0, 1]),
        ("cql", {"weight": 0.05, "form": "rho", "backup": "max"}, [0, 1]),
        ("misa", {"gamma_1": 0.05, "gamma_2": 0.05}, [0, 1]),
        ("misa", {"gamma_1": 0.05, "gamma_2": 0.05, "bound": "f"}, [0, 1]),
        ("misa", {"gamma_1": 0.05, "gamma_2": 0.05, "bound": "dv"}, [0, 1]),
    ],
)
def test_probe_is_solved(name, options, wanted):
    """Cloning repeats the data; what learns values pays first to be paid later."""
    state, algorithm = trained(name, corridor(), gamma=0.9, **options)
    policy = algorithm.policy
    params = policy.params(state)
    for i in range(2):
        one = jax.tree.map(lambda x, i=i: x[i], params)
        step = lambda obs: TimeStep(obs, jnp.zeros(()), jnp.asarray(True))
        greedy = [policy.act(one, (), step(obs), jax.random.key(0), "greedy")[0] for obs in jnp.eye(2)]
        assert np.asarray(greedy).tolist() == wanted


# --- Who takes them ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REGISTRY)
def test_the_registry_says_who_takes_discrete_actions(name):
    entry = REGISTRY[name]
    config = override(entry.config(), entry.presets["default"].values)
    if entry.discrete:
        assert entry.build(config, Spec(4, Discrete(2))).policy.modes == ("greedy", "sample")
    else:
        with pytest.raises(BadInput, match=r"needs continuous actions; this data set has 2 discrete ones: "):
            entry.build(config, Spec(4, Discrete(2)))


def test_a_task_with_actions_of_the_other_kind():
    """Four observations and two numbers, as CartPole has four and two pushes."""
    space = Box((-1.0, -1.0), (1.0, 1.0))
    rows = {"obs": np.zeros((9, 4)), "reward": np.zeros(9), "terminal": np.arange(9) == 8}
    data = Dataset.from_arrays(action=np.zeros((9, 2)), action_space=space, name="levers", **rows)
    with pytest.raises(BadInput, match="task 'cartpole' has discrete actions, 'levers' continuous ones"):
        find_place("cartpole", data)


@pytest.mark.slow
def test_command_line(tmp_path, refused):
    """Train, score and explain by name; an algorithm for continuous actions says so in a line."""
    out = str(tmp_path / "run")
    options = ["--steps", "60", "--seeds", "2", "--episodes", "2", "--set", "hidden=8,8"]
    assert main(["train", "misa", "--data", "cartpole-medium", "--out", out, *options]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert config["gamma_2"] == 0.5  # cartpole's own
    assert main(["eval", out, "--episodes", "2", "--mode", "sample"]) == 0
    assert main(["data", "check", "cartpole-medium", "--task", "cartpole"]) == 0
    said = refused("train", "td3-bc", "--data", "cartpole-medium", "--out", str(tmp_path / "x"))
    assert "td3-bc needs continuous actions; this data set has 2 discrete ones" in said
