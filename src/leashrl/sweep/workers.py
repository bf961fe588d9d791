"""Runs carried out: one after the other in this process, or side by side by Ray.

A run's folder is all of its state. Whoever dies, a worker or the driver, the next attempt goes on from the
newest checkpoint there, and a folder with a result is never trained again.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from leashrl.algos import IMPORTS
from leashrl.disk.claim import hold
from leashrl.disk.folder import RunFolder
from leashrl.errors import BadInput
from leashrl.sweep.spec import Spec
from leashrl.training.interrupts import SIGNALS

Say = Callable[[str, dict[str, Any]], None]
Attempt = tuple[str | None, bool]
"""What went wrong, None for nothing; and whether another attempt may help."""

ORPHAN_SECONDS = 60.0
"""A worker whose driver was killed may hold its run for some seconds more."""
STARTS = 3
"""How often Ray's start is tried: on a busy machine its parts may not wait long enough for one another."""
STOP_SECONDS = 30.0
"""How long stopped workers have for their checkpoints."""


def carry_out(train: dict[str, Any], folder: str, environment: dict[str, str]) -> str | None:
    """Train a run, or go on with it; what is wrong with its plan, where something is.

    Args:
      train: the arguments of `experiment.train`.
      folder: the run's.
      environment: variables to be set before jax is imported.
    """
    os.environ.update(environment)
    from leashrl.runs import experiment
    from leashrl.training.compilation import use_compilation_cache

    use_compilation_cache()
    path = Path(folder)
    try:
        wait_for(path)
        if RunFolder(path).begun:
            experiment.resume(path, data=train["data"])
        else:
            experiment.train(**train, out=path)
    except BadInput as error:
        return str(error)
    return None


def wait_for(folder: Path) -> None:
    """Until nobody else writes to the folder."""
    end = time.monotonic() + ORPHAN_SECONDS
    while (folder / ".lock").exists():
        try:
            with hold(folder):
                return
        except BadInput:
            if time.monotonic() > end:
                raise
        time.sleep(0.2)


def begin(run: dict[str, Any], say: Say) -> None:
    """Note an attempt before it starts."""
    run["attempts"] += 1
    run["error"] = None
    say("begin", {"run": run})


def settle(run: dict[str, Any], error: str | None, again: bool, retries: int, tries: int, say: Say) -> bool:
    """Note how an attempt has ended; whether there is to be another."""
    retry = error is not None and again and tries <= retries
    run["error"] = error
    say("retry" if retry else "failed" if error else "end", {"run": run, "tries": tries})
    return retry


def describe(error: BaseException) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


# --- One after the other -----------------------------------------------------


def here(runs: Sequence[dict[str, Any]], spec: Spec, folder: Path, say: Say) -> None:
    """In this process."""
    for run in runs:
        tries, again = 0, True
        while again:
            tries += 1
            begin(run, say)
            try:
                error, worth = carry_out(run["train"], str(folder / run["name"]), {}), False
            except Exception as problem:
                error, worth = describe(problem), True
            again = settle(run, error, worth, spec.retries, tries, say)


# --- Ray ---------------------------------------------------------------------


@contextmanager
def ray_cluster(spec: Spec, cpus: int) -> Iterator[None]:
    """Ray started here, or the one at `address`; stopped, or left, at the end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not spec.address:
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # its default, without a line that says so
    try:
        import ray
    except ImportError:
        raise BadInput(
            "runs side by side need Ray: pip install 'leashrl[sweep]', or --workers 0 for one after the other"
        ) from None
    source = str(Path(__file__).parents[2])  # workers import the very same package
    paths = [source, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    own = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": 80 * 2**20}
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    for left in reversed(range(1 if spec.address else STARTS)):
        try:
            ray.init(
                address=spec.address or "local",
                log_to_driver=False,
                configure_logging=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}},
                **({} if spec.address else own),
            )
            break
        except Exception as error:  # of many kinds, plain ones among them
            ray.shutdown()
            if not left:
                raise BadInput(
                    f"Ray at '{spec.address or 'local'}' does not start: {describe(error)}; "
                    "--workers 0 trains without it"
                ) from None
    for number, handler in handlers.items():
        signal.signal(number, handler)  # Ray's own for SIGTERM ends the driver at once
    try:
        have = ray.cluster_resources()
        for resource, need in {"CPU": spec.cpus_per_run, "GPU": spec.gpus_per_run}.items():
            if have.get(resource, 0) < need:
                raise BadInput(
                    f"'{spec.path}': [ray] {resource.lower()}s_per_run is {need:g}, and Ray has "
                    f"{have.get(resource, 0):g}: no run could ever start"
                )
        with redirect_stdout(sys.stderr):  # Ray tells of dead workers on stdout, where the result belongs
            yield
    finally:
        ray.shutdown()


def by_ray(runs: Sequence[dict[str, Any]], spec: Spec, folder: Path, say: Say) -> None:
    """Each run a task of Ray's; retried here, not there, so that every attempt is counted and told."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    task = ray.remote(max_retries=0, num_cpus=spec.cpus_per_run, num_gpus=spec.gpus_per_run)(carry_out)
    share = {"NPROC": str(spec.cpus_per_run)}  # XLA's threads
    share |= {name: os.environ[name] for name in (IMPORTS,) if name in os.environ}
    if 0 < spec.gpus_per_run < 1:  # jax takes three quarters of a GPU's memory where nobody says less
        share["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 * spec.gpus_per_run:.3f}"
    pending: dict[Any, tuple[dict[str, Any], int]] = {}

    def submit(run: dict[str, Any], tries: int) -> None:
        begin(run, say)
        pending[task.remote(run["train"], str((folder / run["name"]).absolute()), share)] = run, tries

    try:
        for run in runs:
            submit(run, 1)
        while pending:
            ready, _ = ray.wait(list(pending), timeout=1.0)
            for reference in ready:
                run, tries = pending.pop(reference)
                try:
                    error, worth = ray.get(reference), False
                except RayTaskError as problem:
                    error, worth = describe(getattr(problem, "cause", None) or problem), True
                except RayError as problem:
                    error, worth = f"the worker died ({type(problem).__name__})", True
                if settle(run, error, worth, spec.retries, tries, say):
                    submit(run, tries + 1)
    except KeyboardInterrupt:
        for reference in pending:
            ray.cancel(reference)  # a KeyboardInterrupt in the worker, which writes its checkpoint
        if pending:
            ray.wait(list(pending), num_returns=len(pending), timeout=STOP_SECONDS)
        raise
