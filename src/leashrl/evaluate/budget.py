r"""What a choice among finished policies is worth when episodes in the real environment are few. Plain numpy.

Picking hyper-parameters by the simulator's scores spends episodes that the published number does not count.
Here they are counted: a bandit gets a budget of $B$ episodes, runs one candidate (a policy: one setting and
seed of an algorithm) an episode, and hands over the one with the best mean. Over budgets that gives a curve,
from a candidate picked blindly to the best of all.

Kurenkov and Kolesnikov (2022), "Showing Your Offline Reinforcement Learning Work: Online Evaluation Budget
Matters", arXiv 2110.04156, count deployed policies; Jackson et al. (2025), "A Clean Slate for Offline
Reinforcement Learning", arXiv 2504.11453, count episodes of a UCB bandit.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from leashrl.errors import BadInput, nearest

RULES = ("ucb", "uniform")
"""`ucb` spends more episodes on what looks good; `uniform` gives all candidates the same, in turns."""


@dataclass(frozen=True)
class ExpectedScore:
    """Of the candidate that is chosen with a budget of episodes."""

    budget: int
    mean: float
    low: float
    high: float
    """Between `low` and `high` lie the middle 95 % of the choices (`level`): how much one choice may miss the
    mean by, not how well the mean is known. With a large budget it has no width."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def expected_score(
    returns: Sequence[Any],
    budgets: Sequence[int],
    *,
    rule: str = "ucb",
    exploration: float = math.sqrt(2),
    candidates: int | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[ExpectedScore]:
    r"""The expected score of the candidate that is chosen with each budget of episodes.

    A resample is one choice as somebody would make it: the candidates in a random order, each episode drawn
    with replacement from the candidate's own. After a first episode each, `ucb` runs the candidate with the
    largest index (UCB1: Auer, Cesa-Bianchi and Fischer 2002, "Finite-time Analysis of the Multiarmed Bandit
    Problem", figure 1; there scores lie in [0, 1], so here they are measured in units of their spread)

    $$\bar x_i + c\,s\,\sqrt{\ln t / n_i}$$

    $\bar x_i$ the mean of its $n_i$ episodes so far, $t$ all episodes so far, $s$ the standard deviation of
    all $t$ scores and $c$ `exploration`. What is handed over is the largest $\bar x_i$; what it is worth is
    the candidate's mean over all its episodes. Without any episode it is any candidate.

    Args:
      returns: a candidate an entry: the returns or normalised scores of its evaluation episodes, (episodes,).
      budgets: episodes in all, 0 and more.
      rule: one of `RULES`.
      exploration: $c$ above.
      candidates: how many are in the choice, drawn anew for each resample; all of them by default. It makes
        curves of algorithms with different numbers of settings comparable.
      resamples: how many choices are made.
      level: of the interval, between 0 and 1.
      seed: of the resampling.

    Returns:
      One per budget, in the order asked.

    Raises:
      BadInput: fewer than one candidate or episode, numbers that are not finite, settings without sense.

    Two candidates that always score the same: one episode cannot tell, two can.

    >>> [row.mean for row in expected_score([[0.0], [10.0]], [0, 2])]
    [5.0, 10.0]
    """
    arms = [_scores(i, x) for i, x in enumerate(returns)]
    if not arms:
        raise BadInput("no candidates to choose from: give at least one")
    count = len(arms) if candidates is None else candidates
    _check(len(arms), budgets, rule, exploration, count, resamples, level)

    rng = np.random.default_rng(seed)
    # A random order of the candidates for each resample: it says which are in the choice, which is run
    # first, and which wins a tie.
    order = rng.permuted(np.tile(np.arange(len(arms)), (resamples, 1)), axis=1)[:, :count]
    outcomes = _outcomes(arms, order, budgets, rule, exploration, rng)
    ends = [(1 - level) / 2, (1 + level) / 2]
    table = []
    for budget in budgets:
        low, high = np.quantile(outcomes[budget], ends, method="inverted_cdf")  # values that do occur
        table.append(ExpectedScore(int(budget), float(outcomes[budget].mean()), float(low), float(high)))
    return table


def next_candidate(scores: Sequence[Sequence[float]], *, exploration: float = math.sqrt(2)) -> int:
    """Which candidate to run for the next episode, by the rule `ucb` of `expected_score`.

    Args:
      scores: a candidate an entry: what its episodes so far have scored; empty where there are none yet.
      exploration: as in `expected_score`.

    Raises:
      BadInput: no candidates, or a score that is not finite.

    >>> next_candidate([[3.0], []]), next_candidate([[3.0, 3.1], [0.0], [0.2]])
    (1, 0)
    """
    if not scores:
        raise BadInput("no candidates to choose from: give at least one")
    for i, mine in enumerate(scores):
        if not len(mine):
            return i
        _scores(i, mine)
    shift = np.mean(np.concatenate([np.asarray(x, np.float64) for x in scores]))
    centred = [np.asarray(x, np.float64) - shift for x in scores]
    total = np.array([[x.sum() for x in centred]])
    n = np.array([[float(len(x)) for x in centred]])
    square = np.array([sum((x**2).sum() for x in centred)])
    return int(_index(total, n, square, exploration).argmax())


def _outcomes(
    arms: Sequence[np.ndarray],
    order: np.ndarray,
    budgets: Sequence[int],
    rule: str,
    exploration: float,
    rng: np.random.Generator,
) -> dict[int, np.ndarray]:
    """Run the bandit in all resamples at once: what is handed over may be worth, each value equally likely.

    Args:
      arms: the scores (episodes,) of each candidate.
      order: (resamples, candidates in the choice), which they are.

    Returns:
      For each budget, and for 0, the mean scores of the candidates that are handed over.
    """
    resamples, count = order.shape
    values = np.array([x.mean() for x in arms])
    worth = values[order]
    episodes, flat = np.array([len(x) for x in arms]), np.concatenate(arms)
    first = np.concatenate([[0], np.cumsum(episodes)[:-1]])
    flat -= flat.mean()  # far from zero the spread would drown in rounding

    rows = np.arange(resamples)
    total, n = np.zeros((resamples, count)), np.zeros((resamples, count))
    square = np.zeros(resamples)  # of all scores so far, for their spread
    outcomes = {0: values}
    for t in range(max(budgets, default=0)):
        if t < count or rule == "uniform":
            column = np.full(resamples, t % count)
        else:
            column = _index(total, n, square, exploration).argmax(1)
        arm = order[rows, column]
        score = flat[first[arm] + rng.integers(episodes[arm])]
        total[rows, column] += score
        n[rows, column] += 1
        square += score**2
        if t + 1 in budgets:
            means = np.divide(total, n, out=np.full_like(total, -np.inf), where=n > 0)
            outcomes[t + 1] = worth[rows, means.argmax(1)]
    return outcomes


def _index(total: np.ndarray, n: np.ndarray, square: np.ndarray, exploration: float) -> np.ndarray:
    """UCB1's index (resamples, candidates) of sums of scores, counts, and sums of squares (resamples,)."""
    t = n.sum(1)
    variance = np.maximum(square / t - (total.sum(1) / t) ** 2, 0)
    return total / n + exploration * np.sqrt((variance * np.log(t))[:, None] / n)


def _scores(i: int, values: Any) -> np.ndarray:
    """(episodes,) float64, at least one and all finite."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise BadInput(f"the scores of candidate {i} must be numbers, one an episode") from None
    if array.ndim != 1 or not len(array):
        raise BadInput(f"the scores of candidate {i} must be (episodes,), at least one, not {array.shape}")
    if not np.isfinite(array).all():
        raise BadInput(f"candidate {i} has a score that is not finite: leave it out, and say so")
    return array


def _check(
    arms: int,
    budgets: Sequence[int],
    rule: str,
    exploration: float,
    candidates: int,
    resamples: int,
    level: float,
) -> None:
    if rule not in RULES:
        raise BadInput(f"no rule '{rule}': {nearest(rule, RULES)}")
    for budget in budgets:
        if not isinstance(budget, int | np.integer) or budget < 0:
            raise BadInput(f"a budget is a number of episodes, 0 or more, not {budget!r}")
    if not 1 <= candidates <= arms:
        raise BadInput(f"a choice among {candidates} of {arms} candidates: it must be 1 to {arms}")
    if not (math.isfinite(exploration) and exploration >= 0):
        raise BadInput(f"exploration must be 0 or more, not {exploration}: sqrt(2) is UCB1's")
    if not isinstance(resamples, int) or resamples < 1:
        raise BadInput(f"resamples must be an integer of at least 1, not {resamples!r}: 1000 is usual")
    if not 0 < level < 1:
        raise BadInput(f"level must lie between 0 and 1, not {level}: 0.95 is usual")
