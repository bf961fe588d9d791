"""Sweeps: algorithms, data, hyper-parameters and seeds, folded into few programs.

spec.py     the file that says what to sweep
space.py    where values come from: grid, random draws, Optuna
trials.py   trials, folded into runs
workers.py  runs carried out: here, or by Ray
driver.py   what is due, what was found; goes on after a kill
results.py  what was found, with types
"""

from leashrl.sweep.results import Searched, SweepPoint, SweepResult, SweepRun, SweepTrial

__all__ = ["Searched", "SweepPoint", "SweepResult", "SweepRun", "SweepTrial"]
