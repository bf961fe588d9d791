"""I(S;A), the mutual information of a data set's states and actions."""

from leashrl.information.estimate import information, meaning

__all__ = ["information", "meaning"]
