"""Tasks: one table of names, files and reference scores, and their environments as D4RL's were."""

from leashrl.tasks.lookup import KINDS, guess, of_environment, places, task
from leashrl.tasks.table import (
    BARE,
    D4RL,
    LIMIT_OF_FILE,
    MIRACLE,
    TASKS,
    Family,
    Task,
    d4rl_file,
    normalise,
)

__all__ = [
    "BARE",
    "D4RL",
    "KINDS",
    "LIMIT_OF_FILE",
    "MIRACLE",
    "TASKS",
    "Family",
    "Task",
    "d4rl_file",
    "guess",
    "normalise",
    "of_environment",
    "places",
    "task",
]
