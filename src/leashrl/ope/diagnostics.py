"""A run's policies held against their data: what `leashrl report --diagnose` measures.

On a sample of the logged states: histograms of the policy's actions beside the data's, how far the policy's
action is from the logged one, and an estimate of the KL divergence from the behaviour.

The behaviour's density is not known, and many policies cannot tell theirs. Both are therefore estimated by
moments, state by state: the policy's from `DRAWS` draws, the behaviour's from the logged actions of the
`NEIGHBOURS` nearest states in the sample; then, with a diagonal Gaussian for each, standard deviations not
below `FLOOR`,

    KL(pi || beta) = sum_d log(s_beta / s_pi) + (s_pi^2 + (m_pi - m_beta)^2) / (2 s_beta^2) - 1/2

and for discrete actions, with half a count added to each, KL = sum_a pi(a) log(pi(a) / beta(a)). Of equal
distributions the estimate is not 0 but about 0.03 a dimension, and it is coarse where states are far apart.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from leashrl.data import Dataset
from leashrl.data.describe import info
from leashrl.disk.files import versions
from leashrl.disk.folder import RunFolder, read_policies
from leashrl.errors import BadInput
from leashrl.ope.results import ActionHistogram, Behaviour, Diagnostics, Histogram, MemberDiagnostics
from leashrl.runs.experiment import read_plan, same_data
from leashrl.runs.loading import load_policy
from leashrl.runs.plan import ONLINE
from leashrl.runs.policies import LoadedPolicy
from leashrl.tasks import normalise
from leashrl.tasks import task as find_task
from leashrl.types import Box

ROWS, STATES = 10_000, 1000
"""Rows of data sampled; how many of their states the KL estimate is made at."""
DRAWS, NEIGHBOURS, FLOOR = 64, 100, 0.05
BINS = 40
KL_EDGES = np.geomspace(1e-2, 1e3, BINS + 1)


def diagnose(
    folder: str | Path, *, data: str | Path | Dataset | None = None, rows: int = ROWS
) -> Diagnostics:
    """Measure, and leave `diagnostics.json` in the run's folder.

    Args:
      folder: of a finished run.
      data: the data set, where its file has moved.
      rows: most rows of it that are looked at; they are drawn with a fixed seed.

    Returns:
      What the file holds: the data's figures, and histograms of each member.

    Raises:
      BadInput: an unfinished run, a missing or another data set, a damaged file, an unwritable disk.
    """
    folder = Path(folder)
    plan, _ = read_plan(folder)
    found = Diagnostics(versions=versions())
    policy = load_policy(folder, next(iter(read_policies(folder)[1]["members"]), None))
    if plan.data == ONLINE:
        found = replace(found, skipped="it learnt online, so there is no data set to hold it against")
    else:
        dataset = same_data(folder, plan, data)
        about = info(dataset)
        found = replace(found, data=about, behaviour=behaviour(about.returns.mean, plan.task))
        if policy.policy.init(policy.params) != ():
            why = "its policy remembers the episode so far, so single rows say nothing about it"
            found = replace(found, skipped=why)
        else:
            found = measure(found, folder, dataset, rows)
    RunFolder(folder).write_diagnostics(found.to_json())
    return found


def behaviour(mean: float, task: str | None) -> Behaviour:
    """The data's mean return, and its score where the task has reference scores for the data's rewards."""
    place = find_task(task) if task else None
    if place is None or place.min_score is None or not place.data_pays_returns:
        return Behaviour(mean)
    return Behaviour(mean, float(normalise(place, mean)))


def measure(found: Diagnostics, folder: Path, dataset: Dataset, rows: int) -> Diagnostics:
    """With `mode`, `actions` and `members` of a run whose policies look at one observation only."""
    random = np.random.default_rng(0)
    chosen = np.sort(random.choice(len(dataset), min(rows, len(dataset)), replace=False))
    _, about = read_policies(folder)
    obs, logged = dataset.obs[chosen], dataset.action[chosen]
    space, members = dataset.action_space, {}
    names = [f"action {i}" for i in range(space.dim)] if isinstance(space, Box) else ["action"]
    edges = [edges_of(space, i) for i in range(len(names))]
    mode = None
    for name in (name for name in about["members"] if name not in about["diverged"]):
        policy = load_policy(folder, name)
        mode = "sample" if "sample" in policy.modes else policy.modes[0]
        acted, drawn = policy(obs), policy(obs, mode=mode)
        near = random.choice(len(obs), min(STATES, len(obs)), replace=False)
        kl = kl_from_behaviour(policy, obs, logged, near) if mode == "sample" else None
        counts = [histogram(column, e).counts for column, e in zip(columns(drawn), edges, strict=True)]
        members[name] = MemberDiagnostics(
            actions=tuple(counts),
            distance=histogram(distance(space, acted, logged), np.linspace(0, 1, BINS + 1)),
            kl=None if kl is None else histogram(kl, KL_EDGES),
        )
    seen = [histogram(column, e) for column, e in zip(columns(logged), edges, strict=True)]
    actions = tuple(ActionHistogram(name, h.edges, h.counts) for name, h in zip(names, seen, strict=True))
    return replace(found, mode=mode, actions=actions, members=members)


# --- KL ----------------------------------------------------------------------


def kl_from_behaviour(
    policy: LoadedPolicy, obs: np.ndarray, logged: np.ndarray, chosen: np.ndarray
) -> np.ndarray:
    """(len(chosen),) the estimate above, at the chosen rows."""
    draws = np.stack([policy(obs[chosen], mode="sample", seed=1 + i) for i in range(DRAWS)])
    around = logged[neighbours(obs, chosen)].swapaxes(0, 1)  # (NEIGHBOURS, states, ...)
    space = policy.spec.action
    if isinstance(space, Box):
        return gaussian_kl(space.to_unit(draws), space.to_unit(around))
    return categorical_kl(draws, around, space.dim)


def neighbours(obs: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(len(chosen), k) the nearest rows to each chosen one, itself left out, per dimension standardised."""
    points = ((obs - obs.mean(0)) / (obs.std(0) + 1e-3)).astype(np.float64)
    k = min(NEIGHBOURS, len(obs) - 1)
    found = np.empty((len(chosen), k), np.int64)
    for start in range(0, len(chosen), 100):  # blocks that fit the cache
        block = chosen[start : start + 100]
        squared = (points**2).sum(1)[None] - 2 * points[block] @ points.T
        squared[np.arange(len(block)), block] = np.inf
        found[start : start + 100] = np.argpartition(squared, k - 1, axis=1)[:, :k]
    return found


def gaussian_kl(pi: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """(states,) from draws (draws, states, dim) of each, in [-1, 1]: the first equation above."""
    mean_pi, mean_beta = pi.mean(0), beta.mean(0)
    std_pi, std_beta = np.maximum(pi.std(0), FLOOR), np.maximum(beta.std(0), FLOOR)
    apart = (std_pi**2 + (mean_pi - mean_beta) ** 2) / (2 * std_beta**2)
    return (np.log(std_beta / std_pi) + apart - 0.5).sum(-1)


def categorical_kl(pi: np.ndarray, beta: np.ndarray, actions: int) -> np.ndarray:
    """(states,) from draws (draws, states) of each: the second equation above.

    >>> draws = np.zeros((3, 1), int)
    >>> categorical_kl(draws, draws, 2).tolist()
    [0.0]
    """
    share = lambda draws: (
        (np.stack([(draws == a).sum(0) for a in range(actions)], -1) + 0.5) / (len(draws) + 0.5 * actions)
    )
    p, q = share(pi), share(beta)
    return (p * np.log(p / q)).sum(-1)


# --- Histograms --------------------------------------------------------------


def distance(space: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,) in [0, 1]: root mean square over dimensions, in whole ranges; of discrete actions 0 or 1."""
    if not isinstance(space, Box):
        return (a != b).astype(np.float64)
    return np.clip(np.sqrt(((space.to_unit(a) - space.to_unit(b)) ** 2).mean(-1)) / 2, 0, 1)


def histogram(values: np.ndarray, edges: np.ndarray) -> Histogram:
    """Counts a bin, what lies outside in the bins at the ends; and the median."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()), float(np.median(values)))


def edges_of(space: Any, dim: int) -> np.ndarray:
    """Bins over an action's range: `BINS` of a number, one of each discrete action."""
    if isinstance(space, Box):
        return np.linspace(space.low[dim], space.high[dim], BINS + 1)
    return np.arange(space.dim + 1) - 0.5


def columns(actions: np.ndarray) -> np.ndarray:
    """(dim, n), one row for discrete actions."""
    if not np.isfinite(actions).all():
        raise BadInput("a policy gave an action that is not finite: train it again")
    return np.atleast_2d(actions.T)
