"""From a path or an id to a Dataset, and what can be said of one: load, info, check, convert."""

import dataclasses
import logging
from pathlib import Path

import numpy as np

from leashrl.data import oracles
from leashrl.data.checks import FIRST, load_defects, to_dataset
from leashrl.data.dataset import Dataset
from leashrl.data.ends import ends_of, kind_of
from leashrl.data.hdf5 import read_hdf5, write_hdf5
from leashrl.data.minari import ID, minari_data, minari_folder, read_minari, write_minari
from leashrl.data.npz import read_npz, write_npz
from leashrl.data.oddities import oddities
from leashrl.data.ogbench import ogbench_file, with_rewards, without_rewards
from leashrl.data.raw import Defect, Raw, as_space, line, looked_up
from leashrl.data.recipes import RECIPES, make, ogbench_cache
from leashrl.data.transitions import rows_of
from leashrl.errors import BadInput, nearest
from leashrl.tasks import D4RL, LIMIT_OF_FILE, d4rl_file, ogbench
from leashrl.types import Box, Space, Spec

SUFFIXES = (".hdf5", ".h5", ".npz")
OGBENCH = {name: ogbench.parse(name) for name in ogbench.names()}


def load(
    source: str | Path,
    *,
    action_space: Space | None = None,
    max_episode_steps: int | None = None,
    ends: str | None = None,
    task: str | None = None,
) -> Dataset:
    """A data set from disk, strictly checked.

    Args:
      source: a `.hdf5`, `.h5` (D4RL layout) or `.npz` file; a Minari data set's folder or id
        (`minari:` in front is allowed); a D4RL id (`hopper-medium-v2`), looked up by file name in
        `$D4RL_DATASET_DIR` or `~/.d4rl/datasets`; an OGBench task or data set (`cube-single-play-v0`), in
        `$OGBENCH_DATASET_DIR` or `~/.ogbench/data`; or a recipe (`pendulum-medium`), made and cached.
        Nothing is ever downloaded.
      action_space: for files that do not say; it goes before what the file says. A D4RL file holds no
        bounds: its format's are [-1, 1] in every dimension, and those are taken
        (`Dataset.action_space_assumed`). `.npz` must say.
      max_episode_steps: the time limit, where neither the file nor its D4RL name tells. It is used
        only for data without `timeouts`.
      ends: the array of the source that says where episodes end, in place of `timeouts`: flags, an episode's
        number, a step counter (`data.ends` has the forms).
      task: whose rewards OGBench's files are given, which hold none: by default the source's own task. Other
        files have their own rewards.

    Actions beyond a bound by no more than 1e-4 of the range are rounding: they are clipped. float64 is
    rounded to float32, (N, 1) rewards and flags become (N,).

    Raises:
      BadInput: no such source, or anything in it that makes training wrong, with row numbers.
    """
    asked = (action_space, max_episode_steps, ends, _task(source, task))
    return to_dataset(_read(*_find(source), *asked), _name(source))


def check(
    source: str | Path | Dataset,
    *,
    action_space: Space | None = None,
    max_episode_steps: int | None = None,
    ends: str | None = None,
    task: str | None = None,
    spec: Spec | None = None,
) -> list[Defect]:
    """Every defect that can be found in one pass; arguments as in `load`.

    `spec` is a task's, to compare shapes and action space with; bounds that are not finite are not
    compared. What is merely odd (`Defect.fatal` false) is looked for only in data that load.

    Raises:
      BadInput: there is no such source.
    """
    if isinstance(source, Dataset):
        return list(oddities(source, source.name, spec))
    kind, path = _find(source)
    try:
        raw = _read(kind, path, action_space, max_episode_steps, ends, _task(source, task))
    except BadInput as error:
        return [Defect("unreadable", str(path), (), str(error))]
    found, data = load_defects(raw, _name(source))
    return found if found or data is None else list(oddities(data, raw.where, spec))


def convert(
    source: str | Path,
    target: str | Path,
    *,
    action_space: Space | None = None,
    max_episode_steps: int | None = None,
    ends: str | None = None,
    task: str | None = None,
    transitions: bool = False,
) -> list[str]:
    """Any source of `load` into a `.hdf5`, `.h5` or `.npz` file, or `minari:NAMESPACE/NAME-v0`.

    Arrays keep the dtypes they were stored with, and everything else that a file holds goes along, so
    that a round trip gives the same `Dataset.hash`. What changes its form is said in a format's module.

    With `transitions` each row is a transition of its own, in no order (`data.transitions`).

    Returns:
      What a person should know, a line each: what was left behind, bounds that nobody gave.

    Raises:
      BadInput: the source does not load, the target exists, is of no known kind or cannot be written.
    """
    text = str(target)
    with looked_up(text):
        path = Path(text).expanduser()
        exists = path.exists()
    minari = text.startswith("minari:")
    if not minari and path.suffix.lower() not in SUFFIXES:
        raise BadInput(
            f"cannot convert to '{text}': give a .hdf5, .h5 or .npz file or minari:NAMESPACE/NAME-v0"
        )
    if not minari and exists:
        raise BadInput(f"{path} exists already: remove it or give another name")
    asked = (action_space, max_episode_steps, ends, _task(source, task))
    raw, notes = _read(*_find(source), *asked), []
    if transitions:
        known = {key: np.asarray(x) for key, x in raw.arrays.items()}
        kept = {name: raw.extras[name] for name in raw.extras if name.startswith("metadata/")}
        left = (*raw.left_behind, *(name for name in raw.extras if name not in kept))
        raw = dataclasses.replace(raw, arrays=rows_of(known, raw.where), extras=kept, left_behind=left)
    if raw.continues:
        raw = dataclasses.replace(raw, continues=False)
        notes.append("episodes are cut where their task is done: only OGBench's files let them go on")
    data = to_dataset(raw, _name(source))
    if minari:
        write_minari(raw, data, text.removeprefix("minari:"))
    elif path.suffix.lower() == ".npz":
        write_npz(raw, path)
    else:
        write_hdf5(raw, path)

    if raw.left_behind:
        more = f" and {len(raw.left_behind) - FIRST} more" if len(raw.left_behind) > FIRST else ""
        notes.append(f"left behind: {', '.join(raw.left_behind[:FIRST])}{more}")
    if raw.action_space_assumed:
        notes.append("the source holds no action bounds: D4RL's [-1, 1] were assumed and written")
    return notes


def _task(source: str | Path, task: str | None) -> str | None:
    """The task for a source's rewards: the one asked for, else the source where it is a task's name."""
    return task or (str(source) if str(source) in OGBENCH else None)


def from_recipe(recipe: str) -> Path:
    """A recipe's file in the cache; where it takes minutes to make, that is said once, before them."""

    def tell(rows: int) -> None:
        if rows and not said:
            said.append(rows)
            text = "leashrl: making %s, once: it may take minutes; `leashrl data make %s` shows how far it is"
            logging.getLogger("leashrl").warning(text, recipe, recipe)

    said: list[int] = []
    return make(recipe, report=tell)


# --- Where a source is ------------------------------------------------------------------


def _name(source: str | Path) -> str:
    """What people call it: an id as it is, a file without folder and suffix."""
    text = str(source)
    return (
        Path(text).stem if Path(text).suffix.lower() in SUFFIXES else text.removeprefix("minari:").rstrip("/")
    )


def _find(source: str | Path) -> tuple[str, Path]:
    """(`hdf5`, `npz` or `minari`; the path), or BadInput with where it was expected and how to get it."""
    with looked_up(source):
        return _find_file(str(source))


def _find_file(text: str) -> tuple[str, Path]:
    path = Path(text).expanduser()
    if text.startswith("minari:"):
        return "minari", _minari(text.removeprefix("minari:"))
    if text and path.is_dir():
        if minari_data(path) is None:
            raise BadInput(f"{path} is a folder without a Minari data set (metadata.json): give a file in it")
        return "minari", path
    if path.suffix.lower() in SUFFIXES:
        if not path.exists():
            beside = sorted(f.name for f in path.parent.glob("*") if f.suffix.lower() in SUFFIXES)
            hint = "there is no data file in that folder"
            if beside:
                close, _, _ = nearest(path.name, beside).partition(" (known:")  # the whole list may be long
                hint = (
                    close if close.startswith("did you mean") else f"that folder has {', '.join(beside[:3])}"
                )
            raise BadInput(f"no file {line(path)}; {hint}")
        return ("npz" if path.suffix.lower() == ".npz" else "hdf5"), path
    if path.is_file():
        hint = "read it yourself and use Dataset.from_arrays"
        raise BadInput(f"{path}: data set files end in .hdf5, .h5 or .npz, not '{path.suffix}': {hint}")
    if text in RECIPES:
        return "hdf5", from_recipe(text)
    if text in D4RL:
        file = d4rl_file(text)
        if not file.is_file():
            get = f"curl -fL --create-dirs -o {file} {D4RL[text].url}"
            raise BadInput(f"{text} is not on this disk: expected at {file}; get it with: {get}")
        return "hdf5", file
    if text in oracles.RECIPES:
        return "npz", from_recipe(text)
    name = ogbench.parse(text)
    if name is not None and name.kind:
        return "npz", _ogbench(name)
    if "/" in text and ID.fullmatch(text):
        return "minari", _minari(text)
    known = (
        nearest(text, [*RECIPES, *oracles.RECIPES, *D4RL, *OGBENCH]).split(" (known:")[0]
        if text
        else "give a name"
    )
    known = known if known.startswith("did you mean") else f"recipes: {', '.join(RECIPES)}"
    raise BadInput(
        f"no data set '{line(text)}': neither a file, a recipe, a D4RL id nor a Minari id; {known}"
    )


def _ogbench(name: ogbench.Name) -> Path:
    """The file of a data set: OGBench's own, or the one that was made here with default settings."""
    file, recipe = ogbench_file(name.data), oracles.RECIPES.get(name.data.removesuffix("-v0"))
    if file.is_file():
        return file
    made = recipe and ogbench_cache(recipe, recipe.episodes, 0)
    if made and made.is_file():
        return made
    get = f"get it with: curl -fL --create-dirs -o {file} {ogbench.URL}/{name.data}.npz"
    make = f", or make it with: leashrl data make {recipe.name}" if recipe else ""
    raise BadInput(f"{name.data} is not on this disk: expected at {file}; {get}{make}")


def _minari(name: str) -> Path:
    if not ID.fullmatch(name):
        raise BadInput(f"'{line(name)}' is not a Minari id: they look like D4RL/door/human-v2")
    folder = minari_folder(name)
    if not folder.is_dir():
        raise BadInput(
            f"{name} is not on this disk: expected at {folder}; get it with: minari download {name}"
        )
    return folder


def _read(
    kind: str, path: Path, action_space: Space | None, max_episode_steps: int | None, ends: str | None,
    task: str | None,
) -> Raw:  # fmt: skip
    """The container's contents; what the caller says goes before what it says."""
    try:
        if kind != "minari":
            path.open("rb").close()
    except OSError as error:
        raise BadInput(f"{path} cannot be opened: {line(error.strerror or error)}") from None
    raw = {"hdf5": read_hdf5, "npz": read_npz, "minari": read_minari}[kind](path)
    if without_rewards(raw):
        raw = with_rewards(raw, task)
    if ends is not None:
        raw = _with_ends(raw, ends)
    space = raw.action_space if action_space is None else as_space(action_space)
    limit = raw.max_episode_steps if max_episode_steps is None else max_episode_steps
    assumed = False
    if kind == "hdf5":
        actions = raw.arrays.get("actions")
        if space is None and actions is not None and actions.ndim == 2 and actions.shape[1]:
            # D4RL's convention, part of its format: its environments act on [-1, 1].
            assumed = True
            space = Box((-1.0,) * actions.shape[1], (1.0,) * actions.shape[1])
        limit = LIMIT_OF_FILE.get(path.name) if limit is None else limit
    return dataclasses.replace(raw, action_space=space, action_space_assumed=assumed, max_episode_steps=limit)


def _with_ends(raw: Raw, name: str) -> Raw:
    """The ends of episodes by an array of the source's own, as its time-outs."""
    if name not in raw.extras:
        raise BadInput(f"{raw.where} has no array '{line(name)}': {nearest(name, list(raw.extras))}")
    found = ends_of(kind_of(name) or "flags", raw.extras[name])
    if found is None:
        raise BadInput(
            f"{raw.where}, {line(name)} does not say where episodes end: it must hold a flag, an episode's "
            "number or a step counter for each row"
        )
    terminal = raw.arrays.get("terminals")
    if terminal is not None and terminal.size == found.size:
        found = found & (terminal.reshape(-1) == 0)
    return dataclasses.replace(raw, arrays=raw.arrays | {"timeouts": found})
