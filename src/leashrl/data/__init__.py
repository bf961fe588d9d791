"""Data sets: read, checked, converted and made. The only place with file input and output on data."""

from leashrl.data.checks import Defect
from leashrl.data.dataset import Dataset
from leashrl.data.describe import DataInfo, info
from leashrl.data.preprocessing import Normaliser, prepare
from leashrl.data.recipes import RECIPES, Recipe, make
from leashrl.data.sources import check, convert, load

__all__ = [
    "RECIPES",
    "DataInfo",
    "Dataset",
    "Defect",
    "Normaliser",
    "Recipe",
    "check",
    "convert",
    "info",
    "load",
    "make",
    "prepare",
]
