"""Processes beside this one: the same bits in them, and the moment to stop them at."""

import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

import jax


def as_here(**more: str) -> dict[str, str]:
    """An environment with this process's settings of the compiler (conftest.py), or the bits are others."""
    plain = str(jax.config.read("jax_disable_most_optimizations"))
    return os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": plain} | more


def wait_for(process: subprocess.Popen, condition: Callable[[], Any], seconds: float = 240) -> Any:
    """What `condition` gives, once that is true and while the process lives."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None and time.monotonic() < end, "the moment was missed"
        time.sleep(0.005)
    return found
