"""What is odd in a data set that loads: it trains, perhaps not as meant. A wrong task, and data without a
transition, are fatal all the same: `check` says so before `train` does."""

import hashlib

import numpy as np

from leashrl.data.checks import FIRST, Found, in_words, of_rows, out_of_order
from leashrl.data.dataset import Dataset
from leashrl.data.raw import Defect
from leashrl.types import Box, Discrete, Space, Spec


def oddities(data: Dataset, where: str, spec: Spec | None = None) -> Found:
    """Defects of a data set that loads. `spec` is a task's; bounds that are not finite are not compared."""
    if spec is not None:
        found = data.spec
        known = isinstance(spec.action, Discrete) or np.all(np.isfinite([spec.action.low, spec.action.high]))
        if found.obs_dim != spec.obs_dim or found.action.dim != spec.action.dim:
            text = (
                f"{where}: observations have {found.obs_dim} dimensions and actions {found.action.dim}, "
                f"the task {spec.obs_dim} and {spec.action.dim}: wrong task or wrong file"
            )
            yield Defect("task", where, (), text)
        elif type(found.action) is not type(spec.action) or (known and not _same(found.action, spec.action)):
            text = (
                f"{where}: the action space is {in_words(found.action)}, the task's {in_words(spec.action)}"
            )
            yield Defect("task", where, (), text)
    if data.timeout is not None and not data.continues and (both := data.terminal & data.timeout).any():
        text = "are both terminal and time-out: they are taken for terminals"
        yield of_rows("terminal and timeout", f"{where}, timeouts", both, text, fatal=False)
    yield from _nothing(data, where)
    yield from _limit_as_terminal(data, where)
    yield from _rounded(data, where)
    if (foreign := out_of_order(data)).any():
        text = "are not the next row's observation, though no episode ends there: is a time-out not marked?"
        yield of_rows("next_obs", f"{where}, next_observations", foreign, text, fatal=False)
    constant = np.flatnonzero([np.all(column == column[0]) for column in data.obs.T])
    if constant.size:
        listing = ", ".join(map(str, constant[:FIRST])) + (", ..." if constant.size > FIRST else "")
        text = f"{where}: {constant.size} observation dimensions never change, as float32: {listing}"
        yield Defect("constant observation", f"{where}, observations", (), text, int(constant.size), False)
    yield from _duplicates(data, where)


def _same(one: Space, other: Space) -> bool:
    if isinstance(one, Box) and isinstance(other, Box):
        return bool(np.allclose((one.low, one.high), (other.low, other.high)))
    return one == other


def _limit_as_terminal(data: Dataset, where: str) -> Found:
    """Every episode is a terminal's, all of one length: that is what a time limit does."""
    lengths = [part.stop - part.start for part in data.episodes()]
    whole = lengths if data.ends[-1] else lengths[:-1]
    if (
        len(whole) < 3
        or len(set(whole)) > 1
        or whole[0] < 2
        or data.continues
        or data.terminal.sum() < len(whole)
    ):
        return
    text = (
        f"{where}: every episode ends as a terminal after exactly {whole[0]} steps: if that is a time limit, "
        "store those flags as timeouts, for a terminal says that nothing is earned behind it"
    )
    yield Defect("time limit as terminal", f"{where}, terminals", (), text, len(whole), False)


def _rounded(data: Dataset, where: str) -> Found:
    """Columns that lie so far from 0 that float32 hardly tells their values apart."""
    for i, column in enumerate(data.obs.T):
        spread, step = float(column.std(dtype=np.float64)), float(np.spacing(np.abs(column).max()))
        if spread > 0 and step > 1e-3 * spread:
            mean = float(column.mean(dtype=np.float64))
            text = (
                f"{where}: observation dimension {i} lies about {mean:.4g} and varies by {spread:.3g}, where "
                f"float32 knows steps of {step:.2g}: subtract an offset before it is stored"
            )
            yield Defect("float32 precision", f"{where}, observations", (), text, 1, False)


def _duplicates(data: Dataset, where: str) -> Found:
    """Rows, then whole episodes, whose observations, actions and rewards occurred before, bit for bit."""
    columns = [*data.obs.T, data.reward]
    columns += list(data.action.T) if data.action.ndim == 2 else [data.action]
    # A linear hash with random odd 64-bit multipliers: rows that differ collide with chance about 2^-63.
    factors = np.random.Generator(np.random.PCG64(0)).integers(0, 2**63, len(columns), np.uint64) * 2 + 1
    mark = np.zeros(len(data.reward), np.uint64)
    for column, factor in zip(columns, factors, strict=True):
        mark += np.ascontiguousarray(column).view(np.uint32).astype(np.uint64) * factor
    _, first = np.unique(mark, return_index=True)
    again = np.ones(len(mark), bool)
    again[first] = False
    if not again.any():
        return
    yield of_rows("duplicate rows", where, again, "repeat earlier rows", fatal=False)
    seen: set[bytes] = set()
    episodes = np.zeros(len(mark), bool)
    for part in data.episodes():
        digest = hashlib.blake2b(mark[part].tobytes()).digest()
        episodes[part.start] = digest in seen
        seen.add(digest)
    if episodes.any():
        text = "begin episodes that repeat an earlier one whole"
        yield of_rows("duplicate episodes", where, episodes, text, fatal=False)


def _nothing(data: Dataset, where: str) -> Found:
    if not data.rows("bellman").size:
        text = f"{where}: every row is cut off by a time-out: there is no whole transition to learn from"
        yield Defect("nothing to train on", where, (), text)
