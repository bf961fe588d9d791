"""Whether a file acts as the policy does: both are run on the same observations, and compared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from leashrl.data import Dataset, load
from leashrl.disk.folder import RunFolder
from leashrl.disk.replay import newest_rows
from leashrl.errors import BadInput
from leashrl.export.formats import Made
from leashrl.export.program import Program
from leashrl.export.results import Check
from leashrl.runs.plan import ONLINE
from leashrl.runs.policies import LoadedPolicy
from leashrl.types import Box

ROWS = 1000
TOLERANCE = 1e-4
"""Largest difference of an action, in halves of the distance between its bounds."""
TIES = 0.005
"""The share of rows in which a policy that takes the best of several may take another as good."""


class Rows(NamedTuple):
    """Observations in the environment's units, in the order in which they were made."""

    obs: np.ndarray  # (n, obs_dim) float32
    reward: np.ndarray  # (n,) float32, what the row before was paid
    first: np.ndarray  # (n,) bool
    source: str
    hash: str | None


# --- Observations ------------------------------------------------------------


def observations(
    policy: LoadedPolicy, data: str | Path | Dataset | None, run: RunFolder | None, plan: Mapping[str, Any]
) -> Rows:
    """Observations that the policy was trained on.

    Of `data` where it is given; else of the data set that the run's plan names, or the rows that an online
    run has kept; and where there is none of them any more, drawn around the policy's normaliser.
    """
    if data is None and plan.get("source") == ONLINE["source"] and run is not None:
        rows = seen_online(run.replay, policy)
        return rows if rows is not None else drawn(policy)
    if data is None and plan.get("source") is None:
        return drawn(policy)
    try:
        found = data if isinstance(data, Dataset) else load(data or plan["source"], task=policy.task)
    except BadInput:
        if data is not None:
            raise
        return drawn(policy)
    if found.spec.obs_dim != policy.spec.obs_dim:
        raise BadInput(
            f"the policy sees {policy.spec.obs_dim} numbers, '{found.name}' has observations of "
            f"{found.spec.obs_dim}: give the right --data"
        )
    first = np.concatenate([[True], found.ends[:-1]])
    reward = np.where(first, 0.0, np.concatenate([[0.0], found.reward[:-1]])).astype(np.float32)
    return Rows(found.obs, reward, first, found.name, found.hash)


def seen_online(folder: Path, policy: LoadedPolicy) -> Rows | None:
    """What an online run's first member has seen."""
    found = newest_rows(folder)
    if found is None:
        return None
    name, rows = found
    obs, ends = rows["obs"][0], (rows["terminal"] | rows["timeout"])[0]
    first = np.concatenate([[True], ends[:-1]])
    reward = np.where(first, 0.0, np.concatenate([[0.0], rows["reward"][0][:-1]])).astype(np.float32)
    return Rows(obs, reward, first, f"the run's own {name}", None)


def drawn(policy: LoadedPolicy) -> Rows:
    noise = np.random.default_rng(0).standard_normal((ROWS, policy.spec.obs_dim))
    obs = (policy.obs_mean + policy.obs_std * noise).astype(np.float32)
    first = np.arange(ROWS) % 100 == 0
    return Rows(obs, np.zeros(ROWS, np.float32), first, "drawn around the normaliser: no data found", None)


# --- Comparison --------------------------------------------------------------


def compare(program: Program, made: Made, policy: LoadedPolicy, mode: str, rows: Rows) -> Check:
    """What the card says of the check.

    A policy without memory sees rows from all over the data at once. One with memory acts through the first
    rows in their order, a row at a time, from the start of each episode.

    Raises:
      BadInput: the file acts otherwise.
    """
    pick = np.linspace(0, len(rows.obs) - 1, min(ROWS, len(rows.obs))).astype(int)
    pick = np.arange(len(pick)) if program.stateful else pick
    rows = rows._replace(obs=rows.obs[pick], reward=rows.reward[pick], first=rows.first[pick])
    side_by_side = steps if program.stateful else at_once
    wanted, found = side_by_side(program, made, policy, mode, rows)
    space = policy.spec.action
    unit = (np.asarray(space.high) - np.asarray(space.low)) / 2 if isinstance(space, Box) else np.float64(1)
    apart = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
    worst = (apart / unit).reshape(len(pick), -1).max(1)
    other = int((~(worst <= TOLERANCE)).sum())  # NaN is not below it
    if other > (TIES * len(pick) if program.chooses else 0):
        raise BadInput(
            f"the file does not act as the policy does: {other} of {len(pick)} actions differ, by up to "
            f"{np.max(apart):.3g}; nothing was written"
        )
    close = apart[worst <= TOLERANCE]
    return Check(
        observations=len(pick),
        source=rows.source,
        hash=rows.hash,
        max_difference=float(close.max()),
        chose_another=other,
        tolerance=TOLERANCE,
    )


def at_once(program: Program, made: Made, policy: LoadedPolicy, mode: str, rows: Rows) -> tuple:
    """Actions of `policy(obs)`, and of the file given the same draws."""
    wanted = policy(rows.obs, mode=mode, seed=0)
    keys = jax.random.split(jax.random.key(0), len(rows.obs))
    noise = [np.asarray(x) for x in jax.jit(jax.vmap(program.noise))(keys)]
    return wanted, made.run([rows.obs, *noise])[0]


def steps(program: Program, made: Made, policy: LoadedPolicy, mode: str, rows: Rows) -> tuple:
    """The same of `policy.episode()`, the file's memory its own."""
    draw, given = jax.jit(program.noise), {"obs": rows.obs, "reward": rows.reward, "first": rows.first}
    wanted, found, act, carry, key = [], [], None, {}, jax.random.key(0)
    carried = [port.name for port in program.inputs if port.initial is not None]
    for t in range(len(rows.obs)):
        if rows.first[t] or act is None:
            act, key = policy.episode(mode=mode, seed=t), jax.random.key(t)
            carry = {p.name: p.initial[None] for p in program.inputs if p.initial is not None}
        key, now = jax.random.split(key)
        noise = iter([np.asarray(x)[None] for x in draw(now)])
        row = {name: x[t : t + 1] for name, x in given.items()} | carry
        out = made.run([next(noise) if port.draw else row[port.name] for port in program.inputs])
        wanted.append(act(rows.obs[t], float(rows.reward[t])))
        found.append(out[0][0])
        carry = dict(zip(carried, out[1:], strict=True))
    return np.stack(wanted), np.stack(found)
