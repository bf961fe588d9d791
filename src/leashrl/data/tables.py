"""Tables of logs, a row per step, into a Dataset: pandas, polars, Arrow, arrays by name; and files of them.

    data = Dataset.from_frame(frame, obs=["sensor_*", "mode"], action=["valve"], reward="reward",
                              episode="batch", time="t", action_space=Box((0.0,), (1.0,)))

Rows are put together by episode, in the order of their time; an episode's last row is a terminal where the
table says so, else it was cut there. Text and categories become one 0 or 1 each, and column names travel with
the data set and every policy (`data.columns`).
"""

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leashrl.data.columns import CATEGORY, KEY, MISSING, NUMBER, Column, Columns, missing, text_of
from leashrl.data.propensity import KEY as PROPENSITY
from leashrl.data.raw import Raw, as_space, line, looked_up
from leashrl.errors import BadInput, nearest
from leashrl.types import Discrete, Space

RULES = ("refuse", "drop", "fill", "indicator")
"""What becomes of missing values: an error; the row is left out and its episode cut there; the value before
in the same episode; 0, with a column that says so."""
SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")
MOST_CATEGORIES = 100
FILE = "file of the row"
"""The column that `read_files` adds where each file is an episode."""


# --- Columns of a frame ------------------------------------------------------


def arrays_of(frame: Any) -> dict[str, np.ndarray]:
    """Every column as a numpy array, by name: of pandas, polars, Arrow, or a mapping of arrays.

    Raises:
      BadInput: it is no table, or its columns differ in length.
    """
    if isinstance(frame, Mapping):
        found = {str(name): np.asarray(values) for name, values in frame.items()}
    elif hasattr(frame, "column_names") and hasattr(frame, "column"):  # Arrow
        names = frame.column_names
        found = {name: frame.column(name).to_numpy(zero_copy_only=False) for name in names}
    elif hasattr(frame, "columns") and hasattr(frame, "__getitem__"):  # pandas, polars
        found = {str(name): np.asarray(frame[name].to_numpy()) for name in frame.columns}
    else:
        raise BadInput(f"{type(frame).__name__} is no table: give pandas, polars, Arrow or a dict of arrays")
    wrong = next((name for name, x in found.items() if x.ndim != 1), None)
    if wrong is not None:
        raise BadInput(f"column '{line(wrong)}' has shape {found[wrong].shape}: a column is one value a row")
    lengths = {len(x) for x in found.values()}
    if len(lengths) != 1 or not found:
        raise BadInput("the table has no columns" if not found else "the table's columns differ in length")
    return found


def named(patterns: str | Sequence[str], known: Sequence[str], what: str) -> list[str]:
    """The columns that names and patterns such as `sensor_*` stand for, in this order, none twice."""
    found: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        mine = [pattern] if pattern in known else fnmatch.filter(known, pattern)
        if not mine:
            others = [name for name in map(str, known) if name != FILE]
            raise BadInput(f"no column '{line(pattern)}' for {what}: {nearest(pattern, others)}")
        found += [name for name in mine if name not in found]
    if not found:
        raise BadInput(f"no column for {what}: name at least one")
    return found


def column_of(name: str, values: np.ndarray) -> Column:
    """A column's kind, by what it holds."""
    there = values[~missing(values)]
    if there.dtype.kind in "fiub" or all(isinstance(x, int | float | np.number | np.bool_) for x in there):
        return Column(name, NUMBER)
    if there.dtype.kind in "mM":
        raise BadInput(f"column '{line(name)}' holds times: give seconds since something as numbers")
    categories = sorted({text_of(value) for value in there})
    if len(categories) > MOST_CATEGORIES:
        raise BadInput(
            f"column '{line(name)}' holds {len(categories)} different texts, such as "
            f"'{line(categories[0])[:30]}': at most {MOST_CATEGORIES} can be told apart"
        )
    words = [category for category in categories if not is_number(category)]
    if 2 * len(words) < len(categories):
        what = f"numbers, and texts such as '{line(words[0])[:30]}'" if words else "numbers as text"
        raise BadInput(
            f"column '{line(name)}' holds {what}: leave empty what is no number, convert the others"
        )
    return Column(name, CATEGORY, tuple(categories))


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# --- Rows --------------------------------------------------------------------


def to_raw(
    frame: Any,
    *,
    obs: str | Sequence[str],
    action: str | Sequence[str],
    reward: str,
    episode: str | None = None,
    time: str | None = None,
    terminal: str | None = None,
    timeout: str | None = None,
    propensity: str | None = None,
    bandit: bool = False,
    missing_values: str = "refuse",
    action_space: Space | None = None,
    max_episode_steps: int | None = None,
    name: str = "table",
) -> Raw:
    """What `Dataset.from_frame` checks: arguments as there."""
    if missing_values not in RULES:
        raise BadInput(
            f"missing values cannot be treated by '{missing_values}': {nearest(missing_values, RULES)}"
        )
    table = arrays_of(frame)
    known = list(table)
    observed, acted = named(obs, known, "observations"), named(action, known, "actions")
    marks = {"episode": episode, "time": time, "terminal": terminal, "timeout": timeout}
    if bandit and (said := [what for what, column in marks.items() if column is not None]):
        raise BadInput(f"{name}: in a bandit's log every row is an episode: leave out {', '.join(said)}")
    single = {"reward": reward, "propensity": propensity} | marks
    single = {what: named([column], known, what)[0] for what, column in single.items() if column is not None}
    order, starts = sorted_rows(table, single.get("episode"), single.get("time"), name)
    table = {column: values[order] for column, values in table.items()}
    needed = [*observed, *acted, *(single[what] for what in ("reward", "propensity") if what in single)]
    table, starts = without_gaps(table, needed, starts, missing_values, observed, name)
    if not len(starts):
        raise BadInput(f"{name}: no row is left without a missing value")

    columns = Columns(
        tuple(c for n in observed for c in observation_columns(n, table[n], missing_values)),
        tuple(column_of(n, table[n]) for n in acted),
    )
    where = f"{name}, "
    actions, space = action_arrays(columns.action, table, as_space(action_space), where)
    last = np.append(starts[1:], True)
    ended = flags(table, single.get("terminal"), where) | bandit
    arrays = {
        "observations": np.concatenate([c.encoded(table[c.name], where) for c in columns.obs], 1),
        "actions": actions,
        "rewards": Column(reward).encoded(table[single["reward"]], where)[:, 0],
        "terminals": ended,
    }
    if single.keys() & {"episode", "timeout"} or starts.sum() > 1:
        cut = flags(table, single.get("timeout"), where)
        arrays["timeouts"] = (cut | last) & ~ended
    extras = {KEY: columns.to_array()}
    if (column := single.get("propensity")) is not None:
        extras[PROPENSITY] = Column(column).encoded(table[column], where)[:, 0]
    return Raw(name, arrays, extras, action_space=space, max_episode_steps=max_episode_steps)


def sorted_rows(
    table: Mapping[str, np.ndarray], episode: str | None, time: str | None, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) row numbers, episodes together as they first appear, each in the order of its time; and (n,) bool,
    whether an episode begins there."""
    n = len(next(iter(table.values())))
    number = np.zeros(n, int)
    for what in filter(None, (episode, time)):
        if (lost := missing(table[what])).any():
            raise BadInput(f"{name}, '{line(what)}' is missing in row {int(np.argmax(lost))}")
    if episode is not None:
        words = table[episode].astype(str)
        _, first, inverse = np.unique(words, return_index=True, return_inverse=True)
        number = np.argsort(np.argsort(first, kind="stable"), kind="stable")[inverse]
    keys = [number]
    if time is not None:
        if table[time].dtype.kind not in "fiumM":
            raise BadInput(f"{name}, '{line(time)}' holds no times: it must hold numbers or time stamps")
        keys = [table[time], number]
    order = np.lexsort(keys)
    number = number[order]
    if time is not None:
        again = (table[time][order][1:] == table[time][order][:-1]) & (number[1:] == number[:-1])
        if again.any():
            row = int(order[1:][again][0])
            raise BadInput(
                f"{name}: row {row} has the time of another row of its episode: which comes first?"
            )
    return order, np.append(True, number[1:] != number[:-1])


def without_gaps(
    table: dict[str, np.ndarray], needed: Sequence[str], starts: np.ndarray, rule: str,
    observed: Sequence[str], name: str,
) -> tuple[dict[str, np.ndarray], np.ndarray]:  # fmt: skip
    """The rows whose values are there, by the rule for those that are not."""
    lost = {column: missing(table[column]) for column in dict.fromkeys(needed)}
    if rule == "refuse":
        for column, rows in lost.items():
            if rows.any():
                raise BadInput(
                    f"{name}: '{line(column)}' is missing in {int(rows.sum())} rows, the first "
                    f"{int(np.argmax(rows))} in order: say what to do with them, missing='drop', 'fill' "
                    "or 'indicator' (--missing)"
                )
        return table, starts
    if rule == "fill":
        for column in observed:
            if lost[column].any():
                table[column] = filled(table[column], lost[column], starts)
                lost[column] = missing(table[column])
    ignored = set(observed) if rule == "indicator" else set()
    gone = np.any(
        [rows for column, rows in lost.items() if column not in ignored] or [np.zeros(len(starts), bool)], 0
    )
    number = np.cumsum(starts)[~gone]
    # what was next to a row that is gone is not next to the row behind it
    pieces = np.cumsum(gone)[~gone]
    starts = np.append(True, (number[1:] != number[:-1]) | (pieces[1:] != pieces[:-1]))[: len(number)]
    return {column: values[~gone] for column, values in table.items()}, starts


def filled(values: np.ndarray, lost: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Forward within each episode; what is missing at its start stays so."""
    place = np.where(lost, -1, np.arange(len(values)))
    place = np.maximum.accumulate(place)
    begin = np.maximum.accumulate(np.where(starts, np.arange(len(values)), 0))
    return np.where(place >= begin, values[np.maximum(place, 0)], values)


def observation_columns(name: str, values: np.ndarray, rule: str) -> list[Column]:
    column = column_of(name, values)
    if rule != "indicator" or not missing(values).any():
        return [column]
    return [Column(name, column.kind, column.categories, optional=True), Column(name, MISSING)]


def action_arrays(
    columns: Sequence[Column], table: Mapping[str, np.ndarray], space: Space | None, where: str
) -> tuple[np.ndarray, Space | None]:
    """(n, dim) numbers, or (n,) numbers of categories with the Discrete space of their count."""
    if len(columns) == 1 and columns[0].kind == CATEGORY:
        return columns[0].encoded(table[columns[0].name], where).argmax(1), Discrete(
            len(columns[0].categories)
        )
    words = next((column.name for column in columns if column.kind == CATEGORY), None)
    if words is not None:
        raise BadInput(f"{where}'{line(words)}' holds categories: several actions must all be numbers")
    actions = np.concatenate([c.encoded(table[c.name], where) for c in columns], 1)
    if space is None:
        low, high = (",".join(f"{x:g}" for x in side) for side in (actions.min(0), actions.max(0)))
        raise BadInput(
            f"{where}the bounds of '{', '.join(line(c.name) for c in columns)}' are never guessed (here "
            f"the values lie from {low} to {high}): give action_space=Box(low, high), or Discrete(n) "
            "(--action-low and --action-high, or --actions)"
        )
    return (actions[:, 0] if isinstance(space, Discrete) else actions), space


def flags(table: Mapping[str, np.ndarray], column: str | None, where: str) -> np.ndarray:
    """(n,) bool of a column of 0 and 1; a missing value is no."""
    n = len(next(iter(table.values())))
    if column is None:
        return np.zeros(n, bool)
    values = np.where(missing(table[column]), 0, table[column])
    try:
        numbers = values.astype(np.float64)
    except (TypeError, ValueError):
        raise BadInput(f"{where}'{line(column)}' must hold 0 and 1, or true and false") from None
    if not np.all((numbers == 0) | (numbers == 1)):
        raise BadInput(f"{where}'{line(column)}' must hold 0 and 1, or true and false")
    return numbers.astype(bool)


# --- Files -------------------------------------------------------------------


def read_files(paths: Sequence[str | Path], *, with_file: bool = False) -> Any:
    """One Arrow table of files, one below the other; of a folder, all that it holds in order of their names.

    Args:
      with_file: add the column `FILE`.

    Raises:
      BadInput: pyarrow is missing, no such file, one that cannot be read, or files with other columns.
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise BadInput("tables are read by pyarrow: pip install 'leashrl[tables]'") from None
    files: list[Path] = []
    for path in map(Path, paths):
        with looked_up(path):
            inside = (
                sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
            )
        if not inside:
            raise BadInput(f"{path} holds no file that ends in {', '.join(SUFFIXES)}")
        files += inside
    tables = [read_file(file) for file in files]
    for file, table in zip(files, tables, strict=True):
        if set(table.column_names) != set(tables[0].column_names):
            other = sorted(set(table.column_names) ^ set(tables[0].column_names))[0]
            raise BadInput(f"{file} and {files[0]} have other columns: '{line(other)}' is in one alone")
    tables = [table.select(tables[0].column_names) for table in tables]
    if with_file:
        tables = [
            table.append_column(FILE, pa.array([str(file)] * len(table)))
            for file, table in zip(files, tables, strict=True)
        ]
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise BadInput(f"the files' columns do not go together: {line(error)[:200]}") from None


def read_file(path: Path) -> Any:
    """One file as an Arrow table, by its suffix."""
    import pyarrow as pa
    from pyarrow import csv, json, parquet

    readers = {".parquet": parquet.read_table, ".jsonl": json.read_json, ".ndjson": json.read_json}
    separated = lambda path: csv.read_csv(path, parse_options=csv.ParseOptions(delimiter=delimiter(path)))
    reader = (readers | {".csv": separated, ".tsv": separated}).get(path.suffix.lower())
    if reader is None:
        raise BadInput(f"{path}: tables end in {', '.join(SUFFIXES)}, not '{path.suffix}'")
    try:
        if path.stat().st_size == 0:
            raise BadInput(f"{path} is empty (0 bytes): copy or make it again")
        table = reader(path)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {line(error.strerror or error)[:200]}") from None
    except (pa.ArrowException, ValueError) as error:
        raise BadInput(f"{path} cannot be read as {path.suffix}: {line(error)[:200]}") from None
    twice = [name for name in table.column_names if table.column_names.count(name) > 1]
    if twice:
        raise BadInput(f"{path} has two columns '{line(twice[0])}': rename one")
    return table


def delimiter(path: Path) -> str:
    """What separates the names in a file's first line: of comma, semicolon and tab the most frequent."""
    with open(path, "rb") as file:
        first = file.readline(100_000).decode("utf-8", "replace")
    return max(",;\t", key=first.count)
