"""Policies judged from data alone: fitted Q evaluation and diagnostics."""

from leashrl.ope.results import (
    ActionHistogram,
    Behaviour,
    Diagnostics,
    FqeData,
    FqeResult,
    FqeRow,
    Histogram,
    LeftOut,
    MemberDiagnostics,
    SplitCounts,
    SplitValues,
)

__all__ = [
    "ActionHistogram",
    "Behaviour",
    "Diagnostics",
    "FqeData",
    "FqeResult",
    "FqeRow",
    "Histogram",
    "LeftOut",
    "MemberDiagnostics",
    "SplitCounts",
    "SplitValues",
]
