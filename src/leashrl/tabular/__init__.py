"""Finite worlds, solved exactly: mutual-information-regularised value iteration, and the paper's grid."""

from leashrl.tabular.blahut_arimoto import Application, Fit, Solution, apply, value_iteration
from leashrl.tabular.gridworld import gridworld
from leashrl.tabular.model import Model, dense

__all__ = ["Application", "Fit", "Model", "Solution", "apply", "dense", "gridworld", "value_iteration"]
