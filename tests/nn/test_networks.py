"""Networks against the same formulas in plain numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leashrl import nn
from leashrl.ops.blocks import BLOCK_ROWS, sweep, sweep_grad
from support.draws import normal

OBS, DIM, HIDDEN, ENSEMBLE = 3, 2, (6, 5), 2


def start(network, seed=0):
    """Initial parameters, in one program."""
    return jax.jit(network.init)(jax.random.key(seed))


def shaken(network):
    """Parameters with biases that are not zero, so that a forgotten one shows."""
    return jax.tree.map(lambda x: x + 0.1 * normal(*x.shape), start(network))


def numpy_mlp(layers, x, activation):
    """layers: (kernel, bias) pairs; the last is linear."""
    for kernel, bias in layers[:-1]:
        x = activation(x @ kernel + bias)
    return x @ layers[-1][0] + layers[-1][1]


def numpy_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


NUMPY = {
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "tanh": np.tanh,
}


def numpy_critic(params, member, obs, action, activation):
    """One member as a plain MLP on the concatenation of observation and action."""
    p = jax.tree.map(lambda x: np.asarray(x[member], np.float64), params)
    first = (np.concatenate([p["first"]["obs"], p["first"]["action"]]), p["first"]["bias"])
    layers = [first, *((x["kernel"], x["bias"]) for x in p["hidden"]), (p["out"]["kernel"], p["out"]["bias"])]
    return numpy_mlp(layers, np.concatenate([obs, action], -1), activation)[..., 0]


@pytest.mark.parametrize(("activation", "norm"), [("relu", False), ("elu", False), ("tanh", True)])
def test_critic_is_an_mlp_of_state_and_action(activation, norm):
    critic = nn.critic(OBS, DIM, HIDDEN, ensemble=ENSEMBLE, activation=activation, norm=norm)
    params = shaken(critic)
    obs, action = normal(4, OBS), normal(4, DIM)
    act = NUMPY[activation]
    unit = (lambda x: act(numpy_norm(x))) if norm else act
    expected = [numpy_critic(params, i, np.asarray(obs), np.asarray(action), unit) for i in range(ENSEMBLE)]
    got = jax.jit(critic.apply)(params, obs, action)
    assert got.shape == (ENSEMBLE, 4)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


CRITIC = nn.critic(OBS, DIM, HIDDEN, ensemble=ENSEMBLE, activation="elu")
PARAMS = shaken(CRITIC)
apply = jax.jit(CRITIC.apply)


def test_many_actions_equal_one_at_a_time():
    obs, action = normal(4, OBS), normal(4, 3, DIM)
    together = apply(PARAMS, obs, action)
    assert together.shape == (ENSEMBLE, 4, 3)
    each = np.stack([apply(PARAMS, obs, action[:, j]) for j in range(3)], axis=-1)
    np.testing.assert_allclose(together, each, rtol=1e-5, atol=1e-6)


def test_members_may_look_at_actions_of_their_own():
    obs, action = normal(4, OBS), normal(ENSEMBLE, 4, 3, DIM)
    own = apply(PARAMS, obs, action)
    each = np.stack([apply(PARAMS, obs, action[i])[i] for i in range(ENSEMBLE)])
    np.testing.assert_allclose(own, each, rtol=1e-5, atol=1e-6)


def test_members_are_independent():
    """They start apart, and the second's values do not move with the first's parameters."""
    obs, action = normal(4, OBS), normal(4, DIM)
    fresh = apply(start(CRITIC), obs, action)
    assert not np.allclose(fresh[0], fresh[1])
    slopes = jax.jit(jax.grad(lambda p: jnp.sum(CRITIC.apply(p, obs, action)[1])))(PARAMS)
    for leaf in jax.tree.leaves(slopes):
        assert not np.any(leaf[0])
        assert np.any(leaf[1])


def test_sweep_in_blocks_equals_the_whole():
    """Values, and gradients in parameters and actions, at a size that is cut into blocks on a CPU."""
    batch, k = 16, BLOCK_ROWS // 4  # four blocks
    obs, action, cotangent = normal(batch, OBS), normal(batch, k, DIM), normal(ENSEMBLE, batch, k)
    assert "scan" in str(jax.make_jaxpr(lambda a: sweep(CRITIC.apply, PARAMS, obs, a))(action))

    @jax.jit
    def both(params, action):
        results = []
        for function in (CRITIC.apply, lambda *args: sweep(CRITIC.apply, *args)):
            f = lambda p, a, function=function: function(p, obs, a)
            values, pull = jax.vjp(f, params, action)
            results.append((values, pull(cotangent)))
        return results

    whole, blocks = both(PARAMS, action)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(blocks), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4)


def test_sweep_of_few_rows_is_the_critic():
    obs, action = normal(4, OBS), normal(4, 3, DIM)
    np.testing.assert_array_equal(sweep(apply, PARAMS, obs, action), apply(PARAMS, obs, action))


def test_sweep_grad_equals_the_gradient():
    """Of a mean over states, with the auxiliary values in the states' order."""
    batch, k = 16, BLOCK_ROWS // 4
    rows = (normal(batch, OBS), normal(batch, 3, DIM))

    def loss(params, rows):
        values = CRITIC.apply(params, *rows)
        return jnp.mean(values**2), (values[..., 0], values)

    gradients = jax.jit(lambda p: (jax.grad(loss, has_aux=True)(p, rows), sweep_grad(loss, p, rows, k)))
    assert "scan" in str(jax.make_jaxpr(lambda p: sweep_grad(loss, p, rows, k))(PARAMS))
    whole, blocks = gradients(PARAMS)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(blocks), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_elu_equals_its_definition():
    x = np.concatenate([np.linspace(-100, 5, 400), [-1e-6, 1e-6]]).astype(np.float32)
    x, elu = x[x != 0], nn.ACTIVATIONS["elu"]
    np.testing.assert_allclose(elu(jnp.asarray(x)), NUMPY["elu"](x), rtol=1e-6, atol=2e-7)
    assert float(elu(jnp.zeros(()))) == 0.0
    slope = jax.vmap(jax.grad(elu))(jnp.asarray(x))
    np.testing.assert_allclose(slope, np.where(x > 0, 1.0, np.exp(np.minimum(x, 0))), rtol=1e-5, atol=1e-7)


def test_mlp_is_numpys():
    network = nn.mlp(3, 2, (4, 5), activation="tanh")
    params = shaken(network)
    layers = [*params["hidden"], params["out"]]
    pairs = [(np.asarray(x["kernel"], np.float64), np.asarray(x["bias"], np.float64)) for x in layers]
    x = normal(7, 3)
    np.testing.assert_allclose(
        jax.jit(network.apply)(params, x), numpy_mlp(pairs, np.asarray(x), np.tanh), rtol=1e-5, atol=1e-6
    )


def numpy_gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("which", ["mlp", "critic"])
def test_a_learnt_normalisation_follows_the_activation(which):
    """scale * normalised(gelu(x W + b)) + shift in each hidden layer, as flax's networks have it."""
    style = {"activation": "gelu", "learnt_norm": True}
    member = lambda tree: tree
    if which == "mlp":
        network, inputs = nn.mlp(OBS, 1, (4, 5), **style), (normal(7, OBS),)
    else:
        network = nn.critic(OBS, DIM, (4, 5), ensemble=2, **style)
        inputs, member = (normal(7, OBS), normal(7, DIM)), lambda tree: jax.tree.map(lambda x: x[1], tree)
    params = shaken(network)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), member(params))
    x = np.concatenate([np.asarray(part, np.float64) for part in inputs], -1)
    layers = p["hidden"]
    if which == "critic":
        first = {**p["first"], "kernel": np.concatenate([p["first"]["obs"], p["first"]["action"]])}
        layers = [first, *layers]
    for layer in layers:
        x = numpy_norm(numpy_gelu(x @ layer["kernel"] + layer["bias"]))
        x = layer["norm"]["scale"] * x + layer["norm"]["shift"]
    wanted = (x @ p["out"]["kernel"] + p["out"]["bias"])[..., 0]
    found = jax.jit(network.apply)(params, *inputs)
    np.testing.assert_allclose(found[..., 0] if which == "mlp" else found[1], wanted, rtol=1e-4, atol=1e-5)


def test_the_velocity_of_a_flow_sees_state_place_and_time():
    body, timed = nn.mlp(OBS + DIM + 1, DIM, HIDDEN), nn.velocity(OBS, DIM, HIDDEN)
    params, obs, x, t = shaken(timed), normal(4, OBS), normal(4, DIM), normal(4, 1)
    np.testing.assert_array_equal(
        timed.apply(params, obs, x, t), body.apply(params, jnp.concatenate([obs, x, t], -1))
    )
    one_step = nn.velocity(OBS, DIM, HIDDEN, timed=False)
    assert one_step.apply(shaken(one_step), obs, x).shape == (4, DIM)


def test_glorots_kernels_have_variance_two_over_both_fans():
    params = start(nn.mlp(50, 40, (300,), initial="glorot-small"))
    first, out = params["hidden"][0], params["out"]
    assert np.var(first["kernel"]) == pytest.approx(2 / 350, rel=0.05)
    assert np.abs(first["kernel"]).max() <= math.sqrt(6 / 350)
    assert np.var(out["kernel"]) == pytest.approx(0.01 * 2 / 340, rel=0.05)
    assert not np.any(first["bias"]) and not np.any(out["bias"])


def test_initial_kernels_have_variance_one_over_fan_in():
    """U(±sqrt(3/n)) has variance 1/n; `out_scale` multiplies the last layer's; biases are zero."""
    params = start(nn.mlp(50, 40, (300,), out_scale=0.01))
    first, out = params["hidden"][0], params["out"]
    assert np.var(first["kernel"]) == pytest.approx(1 / 50, rel=0.05)
    assert np.abs(first["kernel"]).max() <= math.sqrt(3 / 50)
    assert np.var(out["kernel"]) == pytest.approx(0.01 / 300, rel=0.05)
    assert not np.any(first["bias"])
    critic = start(nn.critic(40, 10, (300,), ensemble=2))["first"]
    assert np.var(critic["obs"]) == pytest.approx(1 / 50, rel=0.1)  # the fan-in of both parts together
    assert np.var(critic["action"]) == pytest.approx(1 / 50, rel=0.1)


def test_gaussian_head():
    """log_std = multiplier * raw + offset, both clipped; a new policy has std e^-1 almost everywhere."""
    network = nn.gaussian(3, 2, (8,))
    params, apply = start(network), jax.jit(network.apply)
    mean, log_std = apply(params, normal(100, 3))
    assert mean.shape == log_std.shape == (100, 2)
    np.testing.assert_allclose(log_std, -1.0, atol=0.5)
    zeros = jax.tree.map(jnp.zeros_like, params)
    zeros["out"]["bias"] = jnp.asarray([20.0, -0.5, 3.0, -7.0])
    mean, log_std = network.apply(
        zeros | {"multiplier": jnp.float32(0.5), "offset": jnp.float32(0.25)}, jnp.ones(3)
    )
    np.testing.assert_allclose(mean, [9.0, -0.5])
    np.testing.assert_allclose(log_std, [1.75, -3.25])
    mean, log_std = network.apply(
        zeros | {"multiplier": jnp.float32(1.0), "offset": jnp.float32(0.0)}, jnp.ones(3)
    )
    np.testing.assert_allclose(log_std, [2.0, -5.0])


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(7, DIM), (7, 4, DIM)])
def test_the_least_q_is_the_ensembles_minimum(shape):
    critic = nn.critic(OBS, DIM, HIDDEN, ensemble=3)
    params, obs, action = shaken(critic), normal(7, OBS), normal(*shape)
    each = np.asarray(critic.apply(params, obs, action))
    assert len({int(i) for i in each.argmin(0).ravel()}) > 1  # not always the same critic
    np.testing.assert_array_equal(nn.least(critic, params, obs, action), each.min(0))
    table = nn.table_critic(OBS, 5, HIDDEN, ensemble=2)
    params = shaken(table)
    np.testing.assert_array_equal(nn.least(table, params, obs), np.asarray(table.apply(params, obs)).min(0))
