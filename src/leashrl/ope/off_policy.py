"""Policies judged by importance sampling and doubly robust estimates, where the log knows its propensities.

    found = off_policy(["runs/bc", "runs/misa"], "logs.hdf5", methods=["fqe", "wis", "dr"])
    for row in found.rows:
        print(row.policy, row.method, row.value, row.low, row.high, row.ess, row.flags)

A value is the discounted sum of rewards over an episode as the log has them, up to a cut where it was cut.
`leashrl.ope.importance` has the estimators. Episodes are dealt into two halves: what is fitted (the model of
`fqe` and `dr`, the behaviour where its propensities are unknown) judges the half that it did not see.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leashrl.core import override
from leashrl.data import Dataset
from leashrl.data.propensity import log_propensities
from leashrl.disk.files import versions
from leashrl.errors import BadInput, nearest
from leashrl.nn import resolved
from leashrl.ope import estimator, fits, importance, reliability
from leashrl.ope.candidates import Candidate, check_fit, common_gamma, find_data, read
from leashrl.ope.halves import Judged, Model, Places, cloned, halves, modelled
from leashrl.ope.results import LeftOut, OpeData, OpeResult, OpeRow
from leashrl.training.compilation import in_float32

__all__ = ["off_policy"]

METHODS = ("fqe", *importance.METHODS)
FEW = 10.0
"""Effective episodes below which nothing is to be concluded."""
MOST = 80.0
"""Of a log ratio: products of larger ones are no numbers."""

# --- The call ----------------------------------------------------------------


@in_float32
def off_policy(
    folders: Sequence[str | Path],
    data: str | Path | Dataset | None = None,
    *,
    methods: Sequence[str] = ("fqe", "wis", "dr"),
    propensity: str | None = None,
    mode: str | None = None,
    gamma: float | None = None,
    clip: float = math.inf,
    switch: float = 10.0,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    report: fits.Report | None = None,
) -> OpeResult:
    """Estimate what every policy in some runs is worth, from episodes that another policy logged.

    Args:
      folders: runs' folders, or copies of their `policy/`.
      data: to judge on; by default what the runs were trained on, where that is one data set.
      methods: of `fqe`, `is`, `wis`, `pdis`, `wpdis`, `dr`, `wdr`, `switch-dr`.
      propensity: the array in the data that holds the logged actions' propensities; by default the one with
        a name that `leashrl.data.propensity` knows. Where there is none, the behaviour is cloned.
      mode: how the policies act; by default each one's own way if that gives actions a probability or a
        density, else `sample`.
      gamma: the discount, at most 1, and below it for methods with a model; by default the policies' own.
      clip: the largest weight; unlimited by default.
      switch: the weight above which `switch-dr` trusts the model.
      seed: of the halves and of the fits.
      options: fields of `leashrl.ope.estimator.Config`, for the model.
      report: called as the model is fitted.

    Raises:
      BadInput: an unknown method, no policy whose actions have a probability, unfitting or too few data.
    """
    for method in methods:
        if method not in METHODS:
            raise BadInput(f"no method '{method}': {nearest(method, METHODS)}")
    if not methods or not clip > 0 or not switch > 0:
        raise BadInput("at least one method is needed, and limits of weights must be above 0")
    candidates, unread = read(folders, False, mode)
    judged, unjudged = judged_of(candidates, mode, methods)
    dataset = find_data(folders, data)
    for one in judged:
        check_fit(one.candidate, dataset)
    gamma = common_gamma([one.candidate for one in judged], gamma)
    if not 0 <= gamma <= 1:
        raise BadInput(f"a discount lies from 0 to 1, not {gamma:g}")
    places = Places.of(dataset)
    halves(places, seed)  # too few episodes are told before anything is fitted

    logs = None
    weighing = [method for method in methods if method != "fqe"]
    if weighing:
        logs = log_propensities(dataset, propensity)
    estimated = bool(weighing) and logs is None
    if estimated:
        logs = cloned(dataset, places, seed)
    model = None
    if {"fqe", *importance.MODELLED} & {*methods}:
        config = override(estimator.Config(), dict(options or {}) | {"gamma": gamma})
        config = override(config, {"precision": resolved(config.precision, estimator.BFLOAT16)})
        model = modelled(dataset, places, judged, config, seed, report)
    limits = {"clip": clip, "limit": switch}
    rows = [
        row
        for i, one in enumerate(judged)
        for row in estimates(one, methods, dataset, places, logs, model and model.of(i), gamma, limits)
    ]
    return OpeResult(
        rows=tuple(rows),
        left_out=(*unread, *unjudged),
        data=logged(dataset, places, gamma),
        propensities=None if logs is None else "estimated" if estimated else "logged",
        gamma=gamma,
        clip=None if math.isinf(clip) else clip,
        switch=switch if "switch-dr" in methods else None,
        seed=seed,
        versions=versions(),
    )


def logged(dataset: Dataset, places: Places, gamma: float) -> OpeData:
    """What the log itself is worth: the mean of its episodes."""
    returns = places.table(dataset.reward) @ gamma ** np.arange(places.longest)
    (low, high), mean = importance.skewed_interval(returns), float(returns.mean())
    return OpeData(dataset.name, dataset.hash, len(returns), places.longest, mean, mean + low, mean + high)


# --- Who is judged -----------------------------------------------------------


def judged_of(
    candidates: Sequence[Candidate], mode: str | None, methods: Sequence[str]
) -> tuple[list[Judged], list[LeftOut]]:
    """The policies that some method can judge, and what is left out."""
    found, left_out = [], []
    weighing = [method for method in methods if method != "fqe"]
    for one in candidates:
        known = one.policy.policy.weighed
        first = one.policy.known_mode(mode)
        if mode is None and weighing and first not in known and "sample" in known:
            first = "sample"
        weighed = first in known
        if weighing and not weighed:
            other = f": mode {known[0]} has" if known else ""
            why = f"{', '.join(weighing)}: its actions have no probability or density in mode {first}{other}"
            left_out.append(LeftOut(one.title, why))
        if weighed or "fqe" in methods:
            found.append(Judged(one, first, weighed))
    if not found:
        raise BadInput(f"no policy to judge: {left_out[0].policy}: {left_out[0].why}")
    return found, left_out


# --- The estimates -----------------------------------------------------------


def estimates(
    one: Judged, methods: Sequence[str], dataset: Dataset, places: Places, logs: np.ndarray | None,
    model: Model | None, gamma: float, limits: Mapping[str, float],
) -> list[OpeRow]:  # fmt: skip
    """A row for each method that can judge the policy."""
    rows, flags = [], []
    policy = one.candidate.policy
    name: dict[str, Any] = {"policy": one.candidate.title, "folder": str(one.candidate.folder)}
    name |= {"member": policy.name, "algorithm": policy.algorithm, "mode": one.mode}
    if model is not None and "fqe" in methods:
        found = reliability.intervals(model.starts[None], len(places.starts) // 2)
        value, low, high = (float(found[end][0]) for end in ("mean", "low", "high"))
        rows.append(OpeRow(**name, method="fqe", value=value, low=low, high=high))
    if logs is None or not one.weighed:
        return rows
    ratio = np.exp(np.minimum(policy.log_prob(dataset.obs, dataset.action, mode=one.mode) - logs, MOST))
    if not_one := unfitting(ratio, places):
        flags.append(not_one)
    tables = [] if model is None else [places.table(model.q), places.table(model.v)]
    there, reward = places.table(np.ones(len(dataset))) > 0, places.table(dataset.reward)
    episodes = importance.Episodes(there, places.table(ratio, 1.0), reward, *tables)
    for method in methods:
        if method == "fqe":
            continue
        found = importance.estimate(method, episodes, gamma, **limits)
        few, value, (low, high) = [], found.value, found.interval()
        if found.ess < FEW:  # no interval holds its coverage there
            few, low, high = [f"rests on {found.ess:.2g} effective episodes"], None, None
        if found.followed < places.longest:
            few.append(f"no logged episode does what it does beyond step {found.followed}")
            value, low, high = value if method in importance.MODELLED else None, None, None
        rows.append(
            OpeRow(
                **name, method=method, value=value, low=low, high=high, ess=found.ess,
                clipped=found.clipped, bias=found.bias, flags=(*few, *flags),
            )
        )  # fmt: skip
    return rows


def unfitting(ratio: np.ndarray, places: Places) -> str | None:
    """A flag where the ratios do not average 1, as they do for the right propensities, beyond chance."""
    sums = np.bincount(places.episode, ratio - 1.0)
    mean = float(ratio.mean())
    error = float(np.sqrt(np.sum(sums**2))) / len(ratio)  # of rows that hang together in episodes
    if abs(mean - 1) <= max(5 * error, 0.02):
        return None
    return f"ratios average {mean:.2g}, not 1: wrong propensities, or actions that the log hardly has"
