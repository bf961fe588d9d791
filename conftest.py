"""Settings of all tests: no silent promotion of dtypes or ranks, and the CPU unless told otherwise.

Warnings become errors in pyproject.toml, where the reasons for exceptions stand too.
"""

import ctypes.util
import os
import shutil
import zlib
from importlib.metadata import version
from typing import NoReturn

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax is imported, and for child processes too
if version("jaxlib").startswith("0.10."):
    # Tests compile far more than they compute, and XLA's older code generator needs two thirds of the
    # time. Later versions do not have it, and abort on flags that they do not know.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True)
def _own_draws(request: pytest.FixtureRequest) -> None:
    """Give each test its own draws from its module's RNG, whichever tests ran before it in the same process."""
    module = getattr(request.node, "module", None)
    if hasattr(module, "RNG"):
        module.RNG = np.random.default_rng(zlib.crc32(request.node.name.encode()))


def lacking(what: str) -> NoReturn:
    """More of the system than `make` brings: skipped and told, but a failure where .ci/run installs it."""
    if os.environ.get("LEASHRL_TESTS_NEED") == "all":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a browser."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    return found or lacking("pages are looked at in a real browser: apt install chromium")


@pytest.fixture(scope="session")
def egl() -> None:
    """OpenGL without a display."""
    if ctypes.util.find_library("EGL") is None:
        lacking("films need OpenGL: apt install libegl1 libegl-mesa0 libgl1-mesa-dri")
