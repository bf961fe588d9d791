"""Settings of all tests: no silent promotion of dtypes or ranks, and the CPU unless told otherwise.

Warnings become errors in pyproject.toml, where the reasons for exceptions stand too.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax is imported, and for child processes too

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)  # tests compile far more than they compute
