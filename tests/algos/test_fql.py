"""FQL and IFQL: an update by hand, and what their policies become on a behaviour with two modes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leashrl import nn
from leashrl.core import hyper
from leashrl.errors import BadInput
from leashrl.ops import flow
from leashrl.optim import adam, adam_init
from leashrl.training import loop
from leashrl.types import Box, Discrete, Spec, TimeStep, Transitions
from support.algorithms import built, random_batch

SPEC = Spec(3, Box((-1.0, -1.0), (1.0, 1.0)))
SIZES = {"hidden": (8, 8), "batch_size": 16}


def after(name, **options):
    config, _, state, stages = built(name, spec=SPEC, **SIZES | options)
    batch = random_batch(SPEC)
    new, metrics = jax.jit(stages["train"].update)(state, batch, jax.random.key(4), jnp.int32(0))
    return config, state, new, batch, {key: float(value) for key, value in metrics.items()}


@pytest.mark.parametrize(("target", "normalise"), [("mean", False), ("min", True)])
def test_an_update_of_fql_is_the_equations(target, normalise):
    """Every loss is written out anew, of the parameters from before the update."""
    options = {"target": target, "normalise": normalise, "alpha": 2.0, "flow_steps": 3}
    config, old, new, batch, metrics = after("fql", **options)
    style = {"activation": config.activation, "initial": config.initial}
    one_step = nn.velocity(3, 2, (8, 8), timed=False, **style)
    field = nn.velocity(3, 2, (8, 8), **style)
    critic = nn.critic(3, 2, (8, 8), learnt_norm=True, **style)
    key_next, key_flow, key_noise = jax.random.split(jax.random.key(4), 3)

    z = jax.random.normal(key_next, batch.action.shape)
    following = jnp.clip(one_step.apply(old.policy, batch.next_obs, z), -1, 1)
    q_next = getattr(jnp, target)(critic.apply(old.target_critic, batch.next_obs, following), axis=0)
    y = batch.reward + batch.discount * q_next
    of_critic = lambda p: sum(jnp.mean((q - y) ** 2) for q in critic.apply(p, batch.obs, batch.action))

    z = jax.random.normal(key_noise, batch.action.shape)
    x = z
    for i in range(3):
        x = x + field.apply(old.velocity, batch.obs, x, jnp.full((16, 1), i / 3)) / 3
    behaviour = jnp.clip(x, -1, 1)

    def of_policy(p):
        action = one_step.apply(p, batch.obs, z)
        q = jnp.mean(critic.apply(old.critic, batch.obs, jnp.clip(action, -1, 1)), axis=0)
        size = jax.lax.stop_gradient(jnp.mean(jnp.abs(q))) if normalise else 1.0
        return 2.0 * jnp.mean((action - behaviour) ** 2) - jnp.mean(q) / size

    def of_velocity(p):
        x, t, v = flow.lines(batch.action, key_flow)
        return jnp.mean((field.apply(p, batch.obs, x, t) - v) ** 2)

    for name, loss in (("critic", of_critic), ("policy", of_policy), ("velocity", of_velocity)):
        value, grads = jax.value_and_grad(loss)(getattr(old, name))
        rate = jnp.float32(getattr(config, "critic_rate" if name == "critic" else "policy_rate"))
        wanted, _ = adam(grads, adam_init(getattr(old, name)), getattr(old, name), rate)
        for a, b in zip(jax.tree.leaves(getattr(new, name)), jax.tree.leaves(wanted), strict=True):
            # Adam's first step is the gradient's sign: where that is 0 but for rounding, it may be either
            np.testing.assert_allclose(a, b, atol=1e-5) if np.size(a) > 2 else None
        if name == "velocity":
            assert metrics["flow_loss"] == pytest.approx(float(value), rel=1e-4)
    followed = jax.tree.map(lambda t, c: t + config.polyak * (c - t), old.target_critic, new.critic)
    for a, b in zip(jax.tree.leaves(new.target_critic), jax.tree.leaves(followed), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert metrics["target"] == pytest.approx(float(jnp.mean(y)), rel=1e-4)
    assert metrics["behaviour_error"] == pytest.approx(
        float(jnp.mean((one_step.apply(old.policy, batch.obs, z) - behaviour) ** 2)), rel=1e-4
    )


def test_ifqls_values_are_iqls():
    """Value and critics see what was before the update; the expectile's loss by hand."""
    config, old, _, batch, metrics = after("ifql", expectile=0.8)
    style = {"activation": config.activation, "initial": config.initial, "learnt_norm": True}
    value, critic = nn.mlp(3, 1, (8, 8), **style), nn.critic(3, 2, (8, 8), **style)
    q = np.min(critic.apply(old.target_critic, batch.obs, batch.action), axis=0)
    v = np.asarray(value.apply(old.value, batch.obs)[..., 0])
    weight = np.where(q > v, 0.8, 0.2)
    assert metrics["value_loss"] == pytest.approx(float(np.mean(weight * (q - v) ** 2)), rel=1e-4)
    y = batch.reward + batch.discount * value.apply(old.value, batch.next_obs)[..., 0]
    errors = (critic.apply(old.critic, batch.obs, batch.action) - y[None]) ** 2
    assert metrics["td_loss"] == pytest.approx(float(jnp.sum(jnp.mean(errors, axis=1))), rel=1e-4)


def test_ifql_takes_the_best_of_its_draws():
    config, algorithm, state, _ = built("ifql", spec=SPEC, **SIZES | {"samples": 7, "flow_steps": 2})
    params, obs = algorithm.policy.params(state), jnp.float32([0.1, -0.2, 0.3])
    key = jax.random.key(8)
    act = lambda mode: algorithm.policy.act(params, (), TimeStep(obs, jnp.zeros(()), True), key, mode)[0]
    style = {"activation": config.activation, "initial": config.initial}
    field = nn.velocity(3, 2, (8, 8), **style)
    many = jnp.broadcast_to(obs, (7, 3))
    draws = flow.carry(
        lambda x, t: field.apply(params["policy"], many, x, t), jax.random.normal(key, (7, 2)), 2
    )
    q = nn.critic(3, 2, (8, 8), learnt_norm=True, **style).apply(params["critic"], many, draws)
    np.testing.assert_allclose(act("best"), draws[int(np.argmax(np.min(q, axis=0)))], atol=1e-6)
    assert np.all(np.abs(act("sample")) <= 1)


def test_discrete_actions_are_refused():
    for name in ("fql", "ifql"):
        with pytest.raises(BadInput, match=f"{name} needs continuous actions"):
            built(name, spec=Spec(3, Discrete(2)))


# --- A behaviour with two modes ----------------------------------------------


def two_modes(rows=2000):
    """In every state the actions are (0.6, 0) or (-0.6, 0), more or less; only the first is rewarded."""
    rng = np.random.default_rng(0)
    right = rng.random(rows) < 0.5
    action = np.stack([np.where(right, 0.6, -0.6), np.zeros(rows)], 1) + 0.05 * rng.standard_normal((rows, 2))
    obs = rng.standard_normal((rows, 3))
    arrays = (obs, np.clip(action, -1, 1), right.astype(float))
    obs, action, reward = (jnp.asarray(x, jnp.float32) for x in arrays)
    return Transitions(obs, action, reward, jnp.ones(rows, bool), obs, action)


def trained(name, **options):
    """800 draws of the policy, one in each of as many states, after 2,000 updates."""
    values = {"hidden": (64, 64), "batch_size": 256, "steps": 2000, "policy_rate": 2e-3} | options
    config, algorithm, _, _ = built(name, spec=SPEC, **values)
    keys = jax.vmap(jax.random.key)(jnp.arange(1, dtype=jnp.uint32))
    hp = jax.tree.map(lambda x: x[None], hyper(config))
    *_, snapshot = loop.run(algorithm, two_modes(), keys, hp, log_every=1000)
    state = jax.tree.map(lambda x: x[0], snapshot.state)
    params, policy = algorithm.policy.params(state), algorithm.policy
    obs = jnp.asarray(np.random.default_rng(1).standard_normal((800, 3)), jnp.float32)

    def act(obs, key):
        return policy.act(params, (), TimeStep(obs, jnp.zeros(()), True), key, "sample")[0]

    return np.asarray(jax.jit(jax.vmap(act))(obs, jax.random.split(jax.random.key(2), 800)))


def near(action, sign):
    return np.mean(np.abs(action - np.array([0.6 * sign, 0.0])).max(axis=1) < 0.25)


@pytest.mark.slow
def test_a_behaviour_of_two_modes_is_learnt_as_two():
    """A Gaussian would put its mean, (0, 0), between them, where no action is."""
    drawn = trained("ifql")
    assert 0.35 < near(drawn, 1) < 0.6 and 0.35 < near(drawn, -1) < 0.6
    assert near(drawn, 1) + near(drawn, -1) > 0.85


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [1000.0, 0.03])
def test_alpha_holds_the_policy_at_the_behaviour_or_lets_it_climb(alpha):
    drawn = trained("fql", alpha=alpha, normalise=True)
    if alpha > 1:  # both modes, as the behaviour has them
        assert near(drawn, 1) > 0.3 and near(drawn, -1) > 0.3
    else:  # the rewarded one alone
        assert np.mean(drawn[:, 0] > 0.2) > 0.95


def test_the_presets_are_the_authors():
    entry = built("fql", "authors", spec=SPEC)[0]
    assert (entry.hidden, entry.activation, entry.initial, entry.learnt_norm) == (
        (512,) * 4,
        "gelu",
        "glorot",
        True,
    )
    assert (entry.gamma, entry.polyak, entry.alpha, entry.flow_steps) == (0.99, 0.005, 10.0, 10)
