"""How likely the logging policy was to do what it did, where the log says so.

A propensity is the probability of a logged discrete action, or the density of a continuous one in the
environment's units, given the observation that it answered. Off-policy estimators divide by it.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from leashrl.errors import BadInput, nearest

if TYPE_CHECKING:
    from leashrl.data.dataset import Dataset

KEY = "propensity"
"""Under which extra ours are kept."""
NAMES = (KEY, "propensities", "action_prob", "action_probs", "behavior_prob", "behaviour_prob", "pscore")
LOGARITHMS = ("log_propensity", "action_log_prob", "action_log_probs", "infos/action_log_probs", "logprob")
"""Names whose values are logarithms; the fourth is D4RL's."""


def checked(values: Any, n: int, discrete: bool, where: str, logarithm: bool = False) -> np.ndarray:
    """(n,) float64 log propensities of what a source holds.

    Raises:
      BadInput: another length, no numbers, or a value that is no probability or density, with its row.
    """
    try:
        found = np.asarray(values, np.float64).reshape(np.shape(values)[0] if np.ndim(values) else 1, -1)
    except (TypeError, ValueError):
        raise BadInput(f"{where}: propensities must be numbers") from None
    if found.shape != (n, 1):
        raise BadInput(f"{where}: one propensity per row is needed, ({n},), not {np.shape(values)}")
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = found[:, 0] if logarithm else np.log(found[:, 0])
    wrong = ~np.isfinite(logs) | ((logs > 1e-6) if discrete else False)
    if wrong.any():
        row = int(np.argmax(wrong))
        what = "a probability, above 0 and at most 1" if discrete else "a density above 0"
        raise BadInput(f"{where}: the propensity of row {row} is {found[row, 0]:g}, and must be {what}")
    return logs


def log_propensities(data: "Dataset", name: str | None = None) -> np.ndarray | None:
    """(n,) float64 log propensities of the logged actions; None where the data say nothing of them.

    Args:
      name: of the array in the data that holds them; those of `LOGARITHMS`, and all that begin or end in
        `log`, hold logarithms. By default the first of `NAMES` and `LOGARITHMS` that is there.

    Raises:
      BadInput: no such array, or values that are no propensities.
    """
    from leashrl.types import Discrete

    if name is None:
        name = next((known for known in (*NAMES, *LOGARITHMS) if known in data.extras), None)
        if name is None:
            return None
    elif name not in data.extras:
        raise BadInput(f"{data.name} holds no array '{name}': {nearest(name, [*data.extras])}")
    last = name.rpartition("/")[2]
    logarithm = name in LOGARITHMS or last.startswith("log") or last.endswith("log")
    where = f"{data.name}, {name}"
    return checked(data.extras[name], len(data), isinstance(data.action_space, Discrete), where, logarithm)
