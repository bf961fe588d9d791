"""The named columns that observations and actions are made of: how raw values become numbers, and back.

A data set that came from a table carries them as `metadata/columns`, and so does every policy that is trained
on it: `policy.act_on({"pressure": 3.1, "mode": "auto"})` takes values as the table had them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from leashrl.errors import BadInput, nearest

KEY = "metadata/columns"
NUMBER, CATEGORY, MISSING = "number", "category", "missing"
"""Kinds of columns: a number or a flag as it is; one 0 or 1 for each category; 1 where a value is missing."""


@dataclass(frozen=True)
class Column:
    """One column of a table, and what it becomes."""

    name: str
    kind: str = NUMBER
    categories: tuple[str, ...] = ()
    optional: bool = False
    """A missing value becomes 0: its `missing` column says so."""

    @property
    def names(self) -> list[str]:
        """Of the numbers that it becomes: `mode=auto`, `mode=off`; `pressure is missing`."""
        if self.kind == CATEGORY:
            return [f"{self.name}={category}" for category in self.categories]
        return [f"{self.name} is missing" if self.kind == MISSING else self.name]

    def encoded(self, values: np.ndarray, where: str = "") -> np.ndarray:
        """(n, len(names)) float64 of raw values (n,).

        Raises:
          BadInput: a category that the data did not have, a missing value, or no number, with its row.
        """
        lost = missing(values)
        if self.kind == MISSING:
            return lost[:, None].astype(np.float64)
        if lost.any() and not self.optional:
            raise BadInput(f"{where}'{self.name}' is missing in row {int(np.argmax(lost))}")
        if self.kind == CATEGORY:
            place = {category: i for i, category in enumerate(self.categories)}
            found = np.zeros((len(values), len(self.categories)))
            for row, value in enumerate(values):
                if not lost[row] and (category := text_of(value)) not in place:
                    known = nearest(category, self.categories)
                    raise BadInput(f"{where}'{self.name}' has no category '{category}' (row {row}): {known}")
                found[row, place[text_of(value)]] = 1.0
            return found
        try:
            return np.where(lost, 0, values).astype(np.float64)[:, None]
        except (TypeError, ValueError) as error:
            raise BadInput(
                f"{where}'{self.name}' does not hold numbers: {' '.join(str(error).split())}"
            ) from None


@dataclass(frozen=True)
class Columns:
    """Of observations and actions, in their order."""

    obs: tuple[Column, ...]
    action: tuple[Column, ...]

    @property
    def obs_names(self) -> list[str]:
        return [name for column in self.obs for name in column.names]

    def to_json(self) -> dict[str, Any]:
        return {side: [asdict(column) for column in getattr(self, side)] for side in ("obs", "action")}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Columns":
        read = lambda row: Column(**row | {"categories": tuple(row["categories"])})
        return Columns(tuple(map(read, values["obs"])), tuple(map(read, values["action"])))

    def to_array(self) -> np.ndarray:
        """As the extra `metadata/columns` holds them."""
        return np.asarray(json.dumps(self.to_json()).encode())

    @staticmethod
    def of(extras: Mapping[str, np.ndarray]) -> "Columns | None":
        """Those of a data set's extras; None where it came from no table.

        Raises:
          BadInput: they are not what leashrl wrote.
        """
        if KEY not in extras:
            return None
        try:
            return Columns.from_json(json.loads(np.asarray(extras[KEY]).item()))
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{KEY} is not what leashrl wrote: {' '.join(str(error).split())}") from None

    def observations(self, rows: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> np.ndarray:
        """(n, obs_dim) float32 of rows of raw values by column name; others than these are passed over.

        Raises:
          BadInput: a column is not there, or a value is not what its column can be.
        """
        rows = [rows] if isinstance(rows, Mapping) else list(rows)
        parts = []
        for column in self.obs:
            absent = next((i for i, row in enumerate(rows) if column.name not in row), None)
            if absent is not None:
                known = nearest(column.name, [str(name) for name in rows[absent]])
                raise BadInput(f"row {absent} has no '{column.name}': {known}")
            parts.append(column.encoded(np.array([row[column.name] for row in rows], object)))
        return np.concatenate(parts, 1).astype(np.float32)

    def actions(self, values: np.ndarray) -> list[dict[str, Any]]:
        """Rows of named actions: a category's own word, numbers as they are.

        Args:
          values: (n, action_dim), or (n,) where actions are discrete.
        """
        if len(self.action) == 1 and self.action[0].kind == CATEGORY:
            (column,) = self.action
            return [{column.name: column.categories[int(value)]} for value in values]
        names = [column.name for column in self.action]
        return [dict(zip(names, np.ravel(row).tolist(), strict=True)) for row in values]


def missing(values: np.ndarray) -> np.ndarray:
    """(n,) bool: None, NaN, NaT and the missing values of other libraries.

    >>> missing(np.array([1.0, None, float("nan"), "x"], object)).tolist()
    [False, True, True, False]
    """
    if values.dtype.kind in "iub":
        return np.zeros(len(values), bool)
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind in "mM":
        return np.isnat(values)
    return np.array(
        [value is None or type(value).__name__ == "NAType" or value != value for value in values], bool
    )


def text_of(value: Any) -> str:
    """A category's name: `True` and `1.0` read as a table writes them."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    return str(value)
