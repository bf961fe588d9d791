"""Policies judged from data alone: fitted Q evaluation, importance sampling and diagnostics."""

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
    OpeData,
    OpeResult,
    OpeRow,
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
    "OpeData",
    "OpeResult",
    "OpeRow",
    "SplitCounts",
    "SplitValues",
]
