"""Products in bfloat16: what is rounded, and what never is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leashrl import nn
from leashrl.algos import bc
from leashrl.core import override
from leashrl.errors import BadInput
from leashrl.nn.hidden import product
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
