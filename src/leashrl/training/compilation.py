"""How programs are compiled: in which numbers, and kept on disk for the next process."""

import functools
import hashlib
import platform
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable)


def in_float32(function: F) -> F:
    """Call it with jax's 32-bit types, whatever JAX_ENABLE_X64 says: files and bits are those of float32."""

    @functools.wraps(function)
    def called(*args: Any, **options: Any) -> Any:
        import jax

        with jax.enable_x64(False):
            return function(*args, **options)

    return cast(F, called)


def use_compilation_cache() -> None:
    """Keep compiled programs on disk: a second start of MISA takes 6 s of CPU time in place of 28 (2 cores).

    The same bits come out. One folder a kind of processor, since jax's own key knows the word `cpu` only.
    """
    import jax

    from leashrl.data.recipes import cache_folder

    if jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]  (somebody's choice)
        return
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        processor = "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features")))
    except OSError:
        processor = platform.processor()
    kind = hashlib.sha256(processor.encode()).hexdigest()[:12]
    folder = cache_folder() / "jax" / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written: compile each time
        return
    warnings.filterwarnings("ignore", message=".*persistent compilation cache.*")  # a kill may cut an entry
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
