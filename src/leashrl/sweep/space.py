"""Where values come from: every combination of a grid, random draws, or Optuna's proposals.

A *point* is one value for each option that is searched, `{name: value}`; the seeds come on top.
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from leashrl.errors import BadInput

Point = dict[str, Any]


class Range(NamedTuple):
    """All numbers from `low` to `high`, both included; `log` spreads their logarithms evenly."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


Dimension = tuple | Range
"""A list of values, or a range."""
Space = Mapping[str, Dimension]


def key(point: Point) -> str:
    """Equal for equal points.

    >>> key({"k": 5, "hidden": (8, 8)}) == key({"hidden": [8, 8], "k": 5})
    True
    """
    return json.dumps(point, sort_keys=True)


def plain(point: Point) -> Point:
    """A point as JSON gives it back: lists for tuples."""
    return json.loads(json.dumps(point))


def distinct(points: Sequence[Point]) -> list[Point]:
    """The same points in the same order, none twice."""
    return list({key(point): point for point in points}.values())


# --- Grid and random search --------------------------------------------------


def grid(space: Space) -> list[Point]:
    """Every combination of the values; the last name's changes fastest.

    >>> grid({"k": (1, 2), "gamma": (0.9,)})
    [{'k': 1, 'gamma': 0.9}, {'k': 2, 'gamma': 0.9}]
    """
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


def draw(space: Space, trials: int, seed: int) -> list[Point]:
    """`trials` independent draws, fewer where lists alone are drawn from and some come twice.

    Each name has a stream of its own: more trials, or another name, change no value that was drawn before.
    """
    columns = {}
    for name, dimension in space.items():
        stream = np.random.default_rng([seed, *name.encode()])
        columns[name] = [at(dimension, u) for u in stream.uniform(size=trials)]
    return distinct([{name: column[i] for name, column in columns.items()} for i in range(trials)])


def at(dimension: Dimension, u: float) -> Any:
    """The value at u in [0, 1).

    >>> at(("a", "b"), 0.7), at(Range(1e-4, 1e-2, log=True), 0.5), at(Range(1, 6, whole=True), 0.99)
    ('b', 0.001, 6)
    """
    if not isinstance(dimension, Range):
        return dimension[int(u * len(dimension))]
    low, high = dimension.low, dimension.high + dimension.whole
    value = low * (high / low) ** u if dimension.log else low + (high - low) * u
    return min(math.floor(value), int(dimension.high)) if dimension.whole else rounded(dimension, value)


def rounded(dimension: Range, value: float) -> float:
    """Four digits: a member's name, and with it its file's, shows them all."""
    return min(max(float(f"{value:.4g}"), dimension.low), dimension.high)


# --- Search ------------------------------------------------------------------


def propose(
    space: Space, history: Sequence[tuple[Point, float | None]], n: int, *, seed: Sequence[int], startup: int
) -> list[Point]:
    """The n points to try next, by the tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011).

    A function of its arguments alone: no study is kept anywhere.

    Args:
      space: what is searched.
      history: all points tried so far with what they reached, to be made large; None for those that
        diverged, which rank below all others.
      seed: of the proposals; another one each time, or the random first points come again.
      startup: how many points are drawn at random before the estimator begins.

    Returns:
      Points that are not in the history; fewer than n where (nearly) all of a small space has been tried.
    """
    try:
        import optuna
    except ImportError:
        raise BadInput("[search] needs optuna: pip install 'leashrl[sweep]'") from None
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    where = {name: distribution(optuna.distributions, dimension) for name, dimension in space.items()}
    sampler = optuna.samplers.TPESampler(
        seed=int(np.random.SeedSequence(seed).generate_state(1)[0]),
        n_startup_trials=startup,
        constant_liar=True,  # what was proposed a moment ago counts as bad: n proposals are not all alike
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for point, value in history:
        params = {name: encode(space[name], x) for name, x in point.items()}
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        study.add_trial(create_trial(params=params, distributions=where, value=value, state=state))
    tried, found = {key(point) for point, _ in history}, []
    for _ in range(20 * n):
        params = study.ask(where).params
        point = {name: decode(dimension, params[name]) for name, dimension in space.items()}
        if key(point) not in tried:
            tried.add(key(point))
            found.append(point)
        if len(found) == n:
            break
    return found


def distribution(kinds: Any, dimension: Dimension) -> Any:
    """Optuna's word for a dimension; of a list, for its indices."""
    if not isinstance(dimension, Range):
        return kinds.CategoricalDistribution(range(len(dimension)))
    if dimension.whole:
        return kinds.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return kinds.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def encode(dimension: Dimension, value: Any) -> Any:
    if isinstance(dimension, Range):
        return value
    return [key({"": x}) for x in dimension].index(key({"": value}))  # JSON makes lists of tuples


def decode(dimension: Dimension, value: Any) -> Any:
    if not isinstance(dimension, Range):
        return dimension[value]
    return value if dimension.whole else rounded(dimension, value)
