"""Evaluation: roll-outs of trained policies, and the statistics of their scores.

`statistics`, `significance` and `budget` need numpy alone; the roll-out needs jax and is imported when
first used.
"""

from typing import TYPE_CHECKING, Any

from leashrl.evaluate.budget import ExpectedScore, expected_score, next_candidate
from leashrl.evaluate.significance import (
    Comparison,
    PairComparison,
    compare,
    compare_all,
    difference_interval,
    holm,
    least_p,
    permutation_test,
    t_test,
)
from leashrl.evaluate.statistics import (
    bounded_interval,
    improvement_interval,
    interquartile_mean,
    iqm_interval,
    mean,
    mean_interval,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap_interval,
    summary,
)

if TYPE_CHECKING:
    from leashrl.evaluate.rollout import Evaluation, evaluate

__all__ = [
    "Comparison",
    "Evaluation",
    "ExpectedScore",
    "PairComparison",
    "bounded_interval",
    "compare",
    "compare_all",
    "difference_interval",
    "evaluate",
    "expected_score",
    "holm",
    "improvement_interval",
    "interquartile_mean",
    "iqm_interval",
    "least_p",
    "mean",
    "mean_interval",
    "next_candidate",
    "performance_profile",
    "permutation_test",
    "probability_of_improvement",
    "stratified_bootstrap_interval",
    "summary",
    "t_test",
]


def __getattr__(name: str) -> Any:
    if name in ("Evaluation", "evaluate"):
        from leashrl.evaluate import rollout

        return getattr(rollout, name)
    raise AttributeError(f"module 'leashrl.evaluate' has no attribute '{name}'")
