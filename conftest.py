"""Settings of all tests: no silent promotion of dtypes or ranks, and the CPU unless told otherwise.

Warnings become errors in pyproject.toml, where the reasons for exceptions stand too.
"""

import ctypes.util
import json
import os
import shutil
import signal
import threading
import zlib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax is imported, and for child processes too
if version("jaxlib").startswith("0.10."):
    # Tests compile far more than they compute, and XLA's older code generator needs two thirds of the
    # time. Later versions do not have it, and abort on flags that they do not know.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

import jax
import pytest

from support import draws

if threading.current_thread() is threading.main_thread():
    # Tests press Ctrl-C, also where a shell's background, which ignores it, runs them and their processes.
    signal.signal(signal.SIGINT, signal.default_int_handler)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True)
def _own_draws(request: pytest.FixtureRequest) -> None:
    """Give each test its own draws, whichever tests ran before it in the same process."""
    draws.reseed(zlib.crc32(request.node.name.encode()))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither read nor fill the user's cache: one for all tests of this process, empty at its start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEASHRL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


# --- Data and commands: leashrl is imported where it is used, so that its coverage is measured ---


@pytest.fixture(scope="session")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of two episodes of the pendulum, to be read; `place` has one that may be changed."""
    from leashrl.data import make

    return make("pendulum-medium", tmp_path_factory.mktemp("pendulum") / "data.hdf5", steps=400)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pendulum: Path) -> Path:
    """A folder to stand in, with `data.hdf5` and nothing else in it."""
    shutil.copy(pendulum, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """Run a command: gives (stdout, stderr) once the exit status is as expected."""
    from leashrl.cli import main

    def run(*argv: str, status: int = 0) -> tuple[str, str]:
        capsys.readouterr()
        found = main(argv)
        said = capsys.readouterr()
        assert found == status, said.err
        return said.out, said.err

    return run


@pytest.fixture
def document(cli: Callable) -> Callable[..., dict]:
    """Run a command with `--json`: gives the one document that it prints."""
    return lambda *argv, status=0: json.loads(cli(*argv, "--json", status=status)[0])


@pytest.fixture
def refused(cli: Callable) -> Callable[..., str]:
    """Run a command that is refused: gives its one line on stderr."""

    def run(*argv: str) -> str:
        out, err = cli(*argv, status=2)
        assert out == "" and err.startswith("leashrl: error: ") and err.count("\n") == 1, err
        return err

    return run


# --- What not every system has -------------------------------------------------------------------


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
