"""Products in bfloat16: what is rounded, and what never is."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leashrl import nn
from leashrl.algos import bc
from leashrl.core import override
from leashrl.errors import BadInput
from leashrl.nn.hidden import layer_norm, product
from leashrl.types import Box, Spec
from support.algorithms import built, random_batch, same
from support.draws import normal

SPEC = Spec(5, Box((-1.0, -1.0), (1.0, 1.0)))


def rounded(x):
    """To the nearest bfloat16, by hand: the upper half of the bits, ties to even."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def test_forward_and_both_gradients_are_products_of_rounded_numbers():
    x, w, g = normal(3, 7, 40), normal(40, 33), normal(3, 7, 33)
    with nn.precision("bfloat16"):
        y, pull = jax.vjp(product, x, w)
        dx, dw = pull(g)
    assert y.dtype == dx.dtype == dw.dtype == jnp.float32
    rows, slopes = rounded(x).reshape(-1, 40), rounded(g).reshape(-1, 33)
    np.testing.assert_allclose(y, (rows @ rounded(w)).reshape(3, 7, 33), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dx, (slopes @ rounded(w).T).reshape(3, 7, 40), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dw, rows.T @ slopes, rtol=1e-5, atol=1e-5)
    assert not np.allclose(y, np.asarray(x) @ np.asarray(w), rtol=1e-5, atol=1e-5)  # it did round


def test_members_side_by_side_are_as_alone():
    x, w = normal(2, 9, 40), normal(2, 40, 33)
    with nn.precision("bfloat16"):
        both = jax.vmap(product)(x, w)
        alone = [product(x[i], w[i]) for i in range(2)]
    np.testing.assert_allclose(both, alone, rtol=1e-6, atol=1e-6)


def test_slopes_of_slopes_are_near_those_of_float32():
    """A penalty on a critic's slope differentiates twice."""
    x, w = normal(4, 32), normal(32, 32)

    def penalty(w):
        slope = jax.grad(lambda x: jnp.sum(jnp.tanh(product(x, w))))(x)
        return jnp.sum(slope**2)

    exact = jax.grad(penalty)(w)
    with nn.precision("bfloat16"):
        found = jax.grad(penalty)(w)
    np.testing.assert_allclose(found, exact, atol=0.1 * float(jnp.abs(exact).max()))


# --- All shapes --------------------------------------------------------------

ROWS, WIDTHS = (1, 2, 31, 33, 256), (32, 33, 48, 64, 256)
ROUNDING = 1.02 * 2.0**-7
"""Two operands of relative error 2^-8 each, relative to the product of absolute values; 2 % for the sums."""


def within(found, wanted, size, roundings=1):
    """`found` is off by no more than so many roundings of both operands of products of that size."""
    error = np.abs(np.asarray(found, np.float64) - wanted)
    assert (error <= roundings * ROUNDING * size + 1e-30).all(), (error / size).max()


@jax.jit
def products(x, w, g):
    """A product, its two derivatives, and the derivatives of half of their squares."""
    with nn.precision("bfloat16"):
        inner = lambda x, w: jnp.sum(g * product(x, w))
        of_x = jax.grad(lambda w: 0.5 * jnp.sum(jax.grad(inner, 0)(x, w) ** 2))(w)
        of_w = jax.grad(lambda x: 0.5 * jnp.sum(jax.grad(inner, 1)(x, w) ** 2))(x)
        return product(x, w), *jax.grad(inner, (0, 1))(x, w), of_x, of_w


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("inputs", "outputs"), [*zip(WIDTHS, WIDTHS, strict=True), (33, 256), (256, 48)])
def test_products_of_all_shapes_are_within_two_roundings(rows, inputs, outputs):
    """XLA's CPU has no bfloat16 product for some forms, and says so when it runs."""
    draws = normal(rows, inputs), normal(inputs, outputs), normal(rows, outputs)
    y, dx, dw, of_x, of_w = products(*draws)
    x, w, g = (np.asarray(a, np.float64) for a in draws)
    within(y, x @ w, abs(x) @ abs(w))
    within(dx, g @ w.T, abs(g) @ abs(w).T)
    within(dw, x.T @ g, abs(x).T @ abs(g))
    # the slopes are g w^T and x^T g: half their squares have these derivatives, of two products each
    within(of_x, (g @ w.T).T @ g, (abs(g) @ abs(w).T).T @ abs(g), 2)
    within(of_w, g @ (x.T @ g).T, abs(g) @ (abs(x).T @ abs(g)).T, 2)


def network(kind, sizes):
    """`(first parameters, function of (parameters, observations, actions) -> values, shape of an action)`."""
    key = jax.random.key(0)
    if kind == "mlp":
        net = nn.mlp(5, 3, sizes, activation="elu")
        return net.init(key), lambda params, obs, action: net.apply(params, obs + action), (5,)
    net = nn.critic(5, 2, sizes, activation="tanh")
    if kind == "two members of a run":
        members = jax.vmap(net.init)(jax.random.split(key))
        return members, jax.vmap(net.apply, (0, None, None)), (2,)
    return net.init(key), net.apply, (3, 2) if kind == "k actions" else (2,)


def derivatives(apply, params, obs, action):
    """Values, their slopes in parameters and actions, and those of a penalty on the slope in actions."""
    loss = lambda params, action: jnp.mean(jnp.sin(apply(params, obs, action)))
    penalty = lambda params: jnp.mean(jax.grad(loss, 1)(params, action) ** 2)
    return apply(params, obs, action), jax.grad(loss, (0, 1))(params, action), jax.grad(penalty)(params)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlp", "ensemble", "k actions", "two members of a run"])
@pytest.mark.parametrize(("rows", "width"), [*zip(ROWS, WIDTHS[3:] + WIDTHS[:3], strict=True)])
def test_networks_of_all_shapes_are_near_those_of_float64(kind, rows, width):
    params, apply, shape = network(kind, (width, 33, width))
    given = params, normal(rows, 5), normal(rows, *shape)

    @jax.jit
    def rounded(*given):
        with nn.precision("bfloat16"):
            return derivatives(apply, *given)

    found = jax.tree.map(lambda x: np.asarray(x, np.float64), rounded(*given))
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda x: np.asarray(x, np.float64), given)
        wanted = jax.tree.map(np.asarray, jax.jit(partial(derivatives, apply))(*exact))
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(wanted))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert np.linalg.norm(a - b) <= 0.06 * np.linalg.norm(b)
    # All together. The mlp's elu bends at 0: a unit that a rounding turns has another second derivative.
    bounds = (0.01, 0.01, 0.06 if kind == "mlp" else 0.02)
    for one, other, bound in zip(found, wanted, bounds, strict=True):
        a, b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (one, other))
        assert np.linalg.norm(a - b) <= bound * np.linalg.norm(b)


# --- What is not rounded -----------------------------------------------------


def test_narrow_products_and_closed_contexts_are_not_rounded():
    x, w = normal(4, 40), normal(40, 31)
    with nn.precision("bfloat16"):
        np.testing.assert_array_equal(product(x, w), jnp.matmul(x, w))
    wide = normal(40, 32)
    np.testing.assert_array_equal(product(x, wide), jnp.matmul(x, wide))


def test_an_unknown_precision_is_one_line():
    with pytest.raises(BadInput, match="option 'precision' cannot be 'half'"):
        built("bc", spec=SPEC, precision="half")


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_what_is_not_asked_for_changes_no_bit(precision):
    _, _, state, stages = built("bc", spec=SPEC, hidden=(32, 32), precision=precision)
    batch = random_batch(SPEC)
    found = stages["train"].update(state, batch, jax.random.key(1), jnp.int32(0))
    plain = bc.ENTRY["bc"].build(override(bc.Config(), {"hidden": (32, 32)}), SPEC)
    assert same(found, plain.stages[0].update(state, batch, jax.random.key(1), jnp.int32(0)))


def test_layer_norms_own_derivatives_are_those_of_its_formula():
    def formula(x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)

    x, g = normal(5, 33), normal(5, 33)
    loss = lambda f, x: jnp.sum(jnp.sin(f(x)) * g.astype(x.dtype))
    slope = lambda f, x: jax.grad(partial(loss, f))(x)
    squared = lambda f, x: jnp.sum(slope(f, x) ** 2)
    found = slope(layer_norm, x), jax.grad(partial(squared, layer_norm))(x)
    with jax.enable_x64(True):
        exact = jnp.asarray(np.asarray(x), jnp.float64)
        wanted = slope(formula, exact), jax.grad(partial(squared, formula))(exact)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
