"""Random arrays, the same ones whenever a test runs."""

import jax.numpy as jnp
import numpy as np

RNG = np.random.default_rng(0)
"""conftest.py seeds it anew before each test, by the test's name."""


def reseed(seed: int) -> None:
    RNG.bit_generator.state = np.random.default_rng(seed).bit_generator.state


def f32(x):
    return jnp.asarray(x, jnp.float32)


def normal(*shape, rng=RNG):
    return jnp.asarray(rng.standard_normal(shape, np.float32))
