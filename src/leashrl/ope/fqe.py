"""Trained policies put in order without a simulator, by fitted Q evaluation.

    found = fqe(["runs/bc", "runs/misa"])          # the data that they were trained on
    for row in found.policies:                     # the best estimate first
        print(row.policy, row.value, row.low, row.high, row.flags)

`leashrl.ope.estimator` has the estimator; this module asks the policies, fits, and says what came out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leashrl.core import override
from leashrl.data import Dataset
from leashrl.disk.files import versions
from leashrl.errors import BadInput
from leashrl.nn import resolved
from leashrl.ope import estimator, reliability
from leashrl.ope.candidates import check_fit, common_gamma, find_data, read
from leashrl.ope.fits import Asked, Report, fit, judge, to_unit
from leashrl.ope.results import FqeData, FqeResult, FqeRow, SplitCounts, SplitValues
from leashrl.training.compilation import in_float32

__all__ = ["fqe"]


@in_float32
def fqe(
    folders: Sequence[str | Path],
    data: str | Path | Dataset | None = None,
    *,
    snapshots: bool = False,
    mode: str | None = None,
    gamma: float | None = None,
    seeds: int | Sequence[int] = 5,
    held_percent: float = 20.0,
    split_seed: int = 0,
    rows: int = 200_000,
    options: Mapping[str, Any] | None = None,
    report: Report | None = None,
) -> FqeResult:
    """Estimate the discounted value of every policy in some runs, and rank them.

    Args:
      folders: runs' folders, or copies of their `policy/`.
      data: to evaluate on; by default what the runs were trained on, where that is one data set.
      snapshots: the policies in the runs' `snapshots/`, in place of the final ones.
      mode: how the policies act; each one's own by default. Modes that draw draw once a row, for good.
      gamma: the discount; by default the policies' own, where they agree.
      seeds: of FQE, how many or which: each fits a critic to training episodes that it resamples. One alone
        gives no interval.
      held_percent: the share of episodes that is held out.
      split_seed: which ones.
      rows: the most that are kept on each side.
      options: fields of `leashrl.ope.estimator.Config`.
      report: called as it goes on.

    Returns:
      `policies`, the best estimate first and those without one last; `data`, with the logged behaviour's
      value as it is and as FQE finds it; `left_out`, with reasons; what was asked.

    Raises:
      BadInput: no policy there, none that can be evaluated, data that are missing or of other sizes.
    """
    config = override(estimator.Config(), options or {})  # a typo is told before anything is read
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not chosen or min(chosen) < 0 or max(chosen) >= 2**32 or len(set(chosen)) < len(chosen):
        raise BadInput(f"seeds must be at least one, different and within 0..2^32-1, not {seeds}")
    candidates, left_out = read(folders, snapshots, mode)
    dataset = find_data(folders, data)
    for one in candidates:
        check_fit(one, dataset)
    chosen_here = {"precision": resolved(config.precision, estimator.BFLOAT16)}
    config = override(config, {"gamma": common_gamma(candidates, gamma)} | chosen_here)
    split = estimator.split(dataset, held_percent, split_seed, rows)

    # The behaviour is a policy as well, whose value the data show: FQE must find that first.
    asked = Asked.of(split, len(dataset), split_seed)
    raw = [dataset.action[asked.rows], *(one.actions(dataset.obs[asked.rows], mode) for one in candidates)]
    actions = np.stack([to_unit(dataset, action) for action in raw])
    logged = estimator.logged_values(dataset, config.gamma)
    limits = estimator.bounds(dataset, config.gamma)
    fits = fit(dataset, split, asked, actions, config, chosen, logged, report)
    judged = judge(fits, dataset, split, asked, actions, config.gamma)
    behaviour, rest = judged[0], judged[1:]
    named = [one.named(row) for one, row in zip(candidates, rest, strict=True)]
    return FqeResult(
        policies=tuple(sorted(named, key=lambda row: row.rank or len(named) + 1)),  # without a value: last
        left_out=tuple(left_out),
        data=judged_data(dataset, split, logged, limits, behaviour, fits.scale),
        mode=mode,
        seeds=tuple(chosen),
        held_percent=held_percent,
        split_seed=split_seed,
        config=config,
        versions=versions(),
    )


def judged_data(
    dataset: Dataset,
    split: estimator.Split,
    logged: np.ndarray,
    limits: tuple[float, float],
    behaviour: FqeRow,
    scale: float,
) -> FqeData:
    """What the data are, and the one value that they show beside what FQE finds of it."""
    held, trained = split.held_starts, split.train_starts
    value = SplitValues(float(logged[held].mean()), float(logged[trained].mean()))
    return FqeData(
        name=dataset.name,
        hash=dataset.hash,
        episodes=SplitCounts(len(held), len(trained)),
        rows=SplitCounts(len(split.held), len(split.train)),
        value=value,
        fqe=behaviour,
        off=reliability.calibration(behaviour.value, value.held_out, scale),
        possible=limits,
        spread=scale,
    )
