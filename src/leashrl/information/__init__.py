"""I(S;A), the mutual information of a data set's states and actions."""

from leashrl.information.estimate import Bound, Information, information, meaning

__all__ = ["Bound", "Information", "information", "meaning"]
