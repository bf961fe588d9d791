"""Gradients of one update against float64's, by `benchmarks/numerics.py`, whose table is published."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leashrl.optim import adam, adam_init
from leashrl.types import pytree
from support import script

benchmark = script("benchmarks/numerics.py")
SMALL = {"hidden": (64, 64), "batch_size": 32}


@pytree
class Toy:
    policy: jax.Array
    optimiser: dict


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bc", "td3-bc"])
def test_gradients_are_near_float64s(name):
    found = benchmark.measure(name, SMALL, updates=20, batches=3)
    assert {(e.part, e.precision) for e in found} == {
        (part, precision)
        for part in (("policy",) if name == "bc" else ("critic", "policy"))
        for precision in ("float32", "bfloat16")
    }
    for each in found:
        if each.precision == "float32":
            assert each.error < 1e-4, each
        else:
            assert 1e-4 < each.error < 0.2, each
        assert each.cosine > 0.98, each


def test_gradients_are_read_from_adams_moments():
    """Of 0.5 |x|^2 the gradient is x, in whatever way Adam has moved before."""
    x = jnp.asarray([3.0, -4.0])
    _, optimiser = adam(jnp.ones(2), adam_init(x), x, jnp.float32(0.1))

    def update(state, batch, key, step):
        params, optimiser = adam(state.policy, state.optimiser, state.policy, jnp.float32(0.1))
        return Toy(params, optimiser), {}

    found = benchmark.gradients(update, benchmark.at_rest(Toy(x, optimiser)), None, None, 0)
    np.testing.assert_allclose(found["policy"], [3.0, -4.0], rtol=1e-6)


def test_errors_by_hand():
    """Against (3, 4): (3, 4.5) is off by 0.5 of 5, and its cosine is 27 / (5 sqrt(29.25))."""
    true, off = np.array([3.0, 4.0]), np.array([3.0, 4.5])
    found = benchmark.row("train", "policy", "bfloat16", [true] * 3, [true, off, off])
    assert (found.norm, found.error, found.largest) == (5.0, 0.1, 0.1)
    np.testing.assert_allclose(found.cosine, 27 / (5 * 29.25**0.5))


def test_a_part_without_a_gradient_is_named_and_not_divided_by():
    zero = np.zeros(2)
    found = benchmark.row("train", "energy", "float32", [zero], [zero])
    assert (found.norm, found.error, found.cosine) == (0.0, None, None)


DRAWS = {
    "normal": lambda key: jax.random.normal(key, (5,)),
    "uniform": lambda key: jax.random.uniform(key, (5,), minval=-1.0, maxval=1.0),
    "randint": lambda key: jax.random.randint(key, (5,), 0, 1000),
    "bernoulli": lambda key: jax.random.bernoulli(key, 0.3, (50,)),
    "categorical": lambda key: jax.random.categorical(key, jnp.zeros((50, 3))),
}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_in_float64_are_those_of_float32(name):
    key = jax.random.key(3)
    narrow = np.asarray(DRAWS[name](key))
    with benchmark.in_float64():
        wide = np.asarray(DRAWS[name](key))
    np.testing.assert_array_equal(wide, narrow)
    assert wide.dtype == (np.float64 if narrow.dtype == np.float32 else wide.dtype)
