"""Settings of all tests: no silent promotion of dtypes or ranks, and the CPU unless told otherwise.

Warnings become errors in pyproject.toml, where the reasons for exceptions stand too.
"""

import os
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax is imported, and for child processes too
if version("jaxlib").startswith("0.10."):
    # Tests compile far more than they compute, and XLA's older code generator needs two thirds of the
    # time. Later versions do not have it, and abort on flags that they do not know.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)
