"""What the law of bfloat16 looks with: every way to sum a loss in it is found, hidden layers are not."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from leashrl import nn
from support.programs import equations_in, multiplies, narrow_sums

ROWS, WIDTH = 8, 64
X = jnp.ones((ROWS, WIDTH))


def rounded(x):
    return x.astype(jnp.bfloat16)


def product_of(x, kind=jnp.bfloat16):
    return lax.dot_general(rounded(x), rounded(x).T, (((1,), (0,)), ((), ())), preferred_element_type=kind)


WAYS = {
    "reduce_sum": lambda x: lax.reduce_sum(rounded(x), (0, 1)).astype(jnp.float32),
    "reduce": lambda x: lax.reduce(rounded(x), np.zeros((), jnp.bfloat16), lax.add, (0, 1)),
    # These two sum in float32 and round what comes out.
    "jnp.sum": lambda x: jnp.sum(rounded(x), axis=1).astype(jnp.float32),
    "jnp.mean": lambda x: jnp.mean(rounded(x)).astype(jnp.float32),
    "the parts of a mean": lambda x: jnp.sum(rounded(x) / jnp.bfloat16(x.size), dtype=jnp.float32),
    "a rounded loss per row": lambda x: jnp.mean(rounded(jnp.sum(x**2, axis=1)).astype(jnp.float32)),
    "a product that gives bfloat16": lambda x: product_of(x).astype(jnp.float32),
    "a product of two types": lambda x: lax.dot(rounded(x), x.T, preferred_element_type=jnp.float32),
    "a product by an algorithm": lambda x: lax.dot(
        x, x.T, precision=lax.DotAlgorithmPreset.BF16_BF16_F32, preferred_element_type=jnp.float32
    ),
    "cumsum": lambda x: lax.cumsum(rounded(x), 1).astype(jnp.float32),
    "scatter-add": lambda x: jnp.zeros((4, WIDTH), jnp.bfloat16).at[0].add(rounded(x)[0]),
    "segment_sum": lambda x: jax.ops.segment_sum(rounded(x), jnp.zeros(ROWS, jnp.int32), 2),
    "a window": lambda x: lax.reduce_window(
        rounded(x), np.zeros((), jnp.bfloat16), lax.add, (1, 2), (1, 2), "VALID"
    ),
    "float16": lambda x: lax.reduce_sum(x.astype(jnp.float16), (0, 1)).astype(jnp.float32),
    "in a loop": lambda x: lax.fori_loop(0, 3, lambda i, total: total + total, rounded(x)),
    "in a branch": lambda x: lax.cond(x[0, 0] > 0, operator.neg, lambda y: y, rounded(x)),
    "in a compiled function": lambda x: jax.jit(lambda y: lax.reduce_sum(rounded(y), (0, 1)))(x),
    "in a block of a backward pass": jax.grad(lambda x: jax.checkpoint(lambda y: jnp.sum(rounded(y)))(x)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_sum_in_bfloat16_is_found(way):
    assert narrow_sums(jax.make_jaxpr(WAYS[way])(X).jaxpr)


def test_products_of_hidden_layers_are_not():
    """A loss of a network with two hidden layers, forward and backward: its products, and nothing found."""
    network = nn.mlp(4, 1, (WIDTH, WIDTH))

    def loss(params, x):
        with nn.precision("bfloat16"):
            return jnp.mean(network.apply(params, x) ** 2)

    params = network.init(jax.random.key(0))
    program = jax.make_jaxpr(jax.grad(loss))(params, jnp.ones((ROWS, 4))).jaxpr
    assert narrow_sums(program) == []
    # Of the layer between the hidden ones: forward, the slope of its inputs and that of its kernel.
    assert sum(map(multiplies, equations_in(program))) == 3


def test_a_product_with_float32_sums_is_not():
    assert narrow_sums(jax.make_jaxpr(lambda x: product_of(x, jnp.float32))(X).jaxpr) == []


def test_a_product_of_float32_that_no_device_rounds_is_not():
    assert narrow_sums(jax.make_jaxpr(lambda x: lax.dot(x, x.T, precision="highest"))(X).jaxpr) == []
