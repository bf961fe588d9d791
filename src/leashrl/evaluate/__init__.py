"""Evaluation: roll-outs of trained policies, and the statistics of their scores.

`statistics` and `budget` need numpy alone; the roll-out needs jax and is imported when first used.
"""

from typing import TYPE_CHECKING, Any

from leashrl.evaluate.budget import expected_score, next_candidate
from leashrl.evaluate.statistics import (
    improvement_interval,
    interquartile_mean,
    mean,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap_interval,
    summary,
)

if TYPE_CHECKING:
    from leashrl.evaluate.rollout import Evaluation, evaluate

__all__ = [
    "Evaluation",
    "evaluate",
    "expected_score",
    "improvement_interval",
    "interquartile_mean",
    "mean",
    "next_candidate",
    "performance_profile",
    "probability_of_improvement",
    "stratified_bootstrap_interval",
    "summary",
]


def __getattr__(name: str) -> Any:
    if name in ("Evaluation", "evaluate"):
        from leashrl.evaluate import rollout

        return getattr(rollout, name)
    raise AttributeError(f"module 'leashrl.evaluate' has no attribute '{name}'")
