"""Recipes: data sets made here from a seed, never downloaded.

A family of recipes is one function `(kind, steps, seed) -> arrays` in a module of its own, and one
loop below that enters its kinds into `RECIPES`.
"""

import hashlib
import importlib.metadata
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from leashrl.data import cartpole, locomotion, oracles, pendulum
from leashrl.data.hdf5 import write_hdf5
from leashrl.data.raw import KEYS, Raw, atomically, looked_up
from leashrl.errors import BadInput, nearest
from leashrl.tasks.table import GYM
from leashrl.types import Box, Discrete, Space

Report = Callable[[int], None]
"""Told how many rows there are so far."""


@dataclass(frozen=True)
class Recipe:
    """How to make a data set.

    Attributes:
      about: one line for people.
      task: the task on which a policy trained on it is evaluated.
      generate: `(steps, seed, report) -> arrays` in D4RL's names; the same bits for the same arguments.
        `report(rows)` may be called on the way.
      action_space, max_episode_steps: the environment's.
      default_steps: rows, if nobody says otherwise.
      version: part of the cached file's name; raised when `generate` changes what it makes.
      metadata: `(steps) -> arrays` below `metadata/` that say how the rows were made.
      simulated: by a simulator, whose version decides the bits too.
    """

    about: str
    task: str
    generate: Callable[[int, int, Report], dict[str, np.ndarray]]
    action_space: Space
    max_episode_steps: int
    default_steps: int = 50_000
    version: int = 1
    metadata: Callable[[int], Mapping[str, np.ndarray]] = lambda steps: {}
    simulated: bool = False


RECIPES: dict[str, Recipe] = {}

for _kind, _about in pendulum.KINDS.items():
    RECIPES[f"pendulum-{_kind}"] = Recipe(
        about=f"Pendulum-v1: {_about}",
        task="pendulum",
        generate=lambda steps, seed, report, kind=_kind: pendulum.pendulum(kind, steps, seed),
        action_space=Box((-pendulum.TORQUE,), (pendulum.TORQUE,)),
        max_episode_steps=pendulum.LIMIT,
    )

for _kind, _about in cartpole.KINDS.items():
    RECIPES[f"cartpole-{_kind}"] = Recipe(
        about=f"CartPole-v1: {_about}",
        task="cartpole",
        generate=lambda steps, seed, report, kind=_kind: cartpole.cartpole(kind, steps, seed),
        action_space=Discrete(2),
        max_episode_steps=cartpole.LIMIT,
    )


def locomotion_recipe(env: str, kind: str) -> Recipe:
    family = GYM[env]
    return Recipe(
        about=f"{family.env_id}: {locomotion.KINDS[kind]}",
        task=env,
        generate=lambda steps, seed, report: locomotion.locomotion(env, kind, steps, seed, report),
        action_space=Box((-1.0,) * family.action_dim, (1.0,) * family.action_dim),
        max_episode_steps=family.max_episode_steps,
        default_steps=locomotion.default_steps(env, kind),
        version=2,
        metadata=lambda steps: locomotion.metadata(env, kind, steps),
        simulated=True,
    )


RECIPES |= {
    f"{env}-{kind}": locomotion_recipe(env, kind)
    for env in locomotion.ENVIRONMENTS
    for kind in locomotion.kinds(env)
}


def cache_folder() -> Path:
    """`$LEASHRL_CACHE`, else `~/.cache/leashrl`."""
    return Path(os.environ.get("LEASHRL_CACHE") or Path.home() / ".cache" / "leashrl")


def make(
    recipe: str,
    out: str | Path | None = None,
    *,
    steps: int | None = None,
    seed: int = 0,
    report: Report = lambda rows: None,
    episodes: int | None = None,
    processes: int | None = None,
) -> Path:
    """The file of a recipe: D4RL's HDF5 layout, or for OGBench's recipes `.npz`, a `-val.npz` beside it.

    Args:
      recipe: a key of `RECIPES` or of `oracles.RECIPES`.
      out: where to write. An existing file is replaced only if a recipe made it. None: the cache,
        where a file is made once and reused if its SHA-256 is still the one noted beside it.
      steps: rows, 2 or more.
      seed: 0 or more.
      report: called with the number of rows so far, where it takes long.
      episodes: of an OGBench recipe, in place of `steps`; the validation part has a tenth as many.
      processes: that make an OGBench recipe's episodes; as many as there are cores by default.

    Raises:
      BadInput: an unknown recipe, a bad number, a file that cannot be written or should not be.
    """
    if recipe not in RECIPES and recipe not in oracles.RECIPES:
        raise BadInput(f"no recipe '{recipe}': {nearest(recipe, [*RECIPES, *oracles.RECIPES])}")
    if not 0 <= seed < 2**32:
        raise BadInput(f"a recipe's seed is in 0..2^32-1, not {seed}")
    if recipe in oracles.RECIPES:
        if steps is not None:
            raise BadInput(f"recipe '{recipe}' makes whole episodes: give their number, not steps")
        return _make_ogbench(oracles.RECIPES[recipe], out, episodes, seed, processes, report)
    if episodes is not None or processes is not None:
        raise BadInput(
            f"recipe '{recipe}' takes steps, not episodes or processes: those are OGBench's recipes'"
        )
    entry = RECIPES[recipe]
    steps = entry.default_steps if steps is None else steps
    if steps < 2 or steps != int(steps):
        raise BadInput(f"a recipe makes a whole number of steps, 2 or more, not {steps}")
    steps = int(steps)  # 1e5 is a number of steps too

    if out is not None:
        with looked_up(out):
            target = Path(out).expanduser()
            if target.suffix not in (".hdf5", ".h5"):
                raise BadInput(f"recipes are written as HDF5: name the file {target.name}.hdf5")
            if target.exists() and not _made_by_recipe(target):
                raise BadInput(f"{target} exists and no recipe made it: remove it or give another name")
        write_hdf5(_raw(recipe, steps, seed, report), target)
        return target

    target = cache_folder() / f"{recipe}-seed{seed}-steps{steps}-v{entry.version}.hdf5"
    if not _is_whole(target):  # made from the seed again: nothing can be lost
        write_hdf5(_raw(recipe, steps, seed, report), target)
        _note(target)
    return target


def _is_whole(target: Path) -> bool:
    """Whether a file of the cache is the one that was noted when it was made."""
    try:
        return target.with_name(f"{target.name}.sha256").read_text().split()[0] == _sha256(target)
    except (OSError, IndexError, UnicodeDecodeError):
        return False


def _note(target: Path) -> None:
    with atomically(target.with_name(f"{target.name}.sha256")) as temporary:
        temporary.write_text(f"{_sha256(target)}  {target.name}\n")


# --- OGBench's ---------------------------------------------------------------

OGBENCH_VERSION = 1
"""Raised when `oracles` changes what it makes."""


def ogbench_cache(recipe: oracles.Recipe, episodes: int, seed: int) -> Path:
    """Where a made data set is kept, under OGBench's own name."""
    folder = f"seed{seed}-episodes{episodes}-v{OGBENCH_VERSION}"
    return cache_folder() / "ogbench" / folder / f"{recipe.name}-v0.npz"


def _make_ogbench(
    recipe: oracles.Recipe, out: str | Path | None, episodes: int | None, seed: int, processes: int | None,
    report: Report,
) -> Path:  # fmt: skip
    episodes = recipe.episodes if episodes is None else episodes
    for name, value in (("episodes", episodes), ("processes", processes)):
        if value is not None and value < 1:
            raise BadInput(f"a recipe's {name} must be at least 1, not {value}")
    oracles.require()
    with looked_up(out or ""):
        target = ogbench_cache(recipe, episodes, seed) if out is None else Path(out).expanduser()
        if target.suffix != ".npz":
            raise BadInput(f"OGBench's data are .npz files: name the file {target.name}.npz")
        parts = {target: False, target.with_name(f"{target.stem}-val.npz"): True}
        for file in parts if out is not None else ():
            if file.exists() and not made_by_oracles(file):
                raise BadInput(f"{file} exists and no recipe made it: remove it or give another name")
    if out is None and all(_is_whole(file) for file in parts):
        return target
    versions = {name: importlib.metadata.version(name) for name in ("ogbench", "mujoco", "numpy")}
    about = {"recipe": recipe.name, "expert": recipe.expert, "seed": seed, "versions": versions}
    done = 0
    for file, validation in parts.items():
        count = oracles.validation_episodes(episodes) if validation else episodes
        before = done
        card = json.dumps(about | {"episodes": count, "validation": validation}, sort_keys=True)
        with atomically(file) as temporary:  # first of all: where nothing can be written, nothing is made
            arrays = oracles.generate(
                recipe, count, seed, validation=validation, processes=processes,
                report=lambda rows, before=before: report(before + rows),
            )  # fmt: skip
            done += len(arrays["terminals"])
            np.savez_compressed(temporary, **{**arrays, MADE: np.asarray(card.encode())})  # pyright: ignore
        if out is None:
            _note(file)
    return target


MADE = "metadata/made"
"""The array of a made `.npz` that says how it was made, JSON."""


def made_by_oracles(path: Path) -> bool:
    """Whether an `.npz` is one that a recipe made."""
    try:
        with zipfile.ZipFile(path) as file:
            return f"{MADE}.npy" in file.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _raw(recipe: str, steps: int, seed: int, report: Report) -> Raw:
    entry = RECIPES[recipe]
    rows = entry.generate(steps, seed, report)
    extras = {name: value for name, value in rows.items() if name not in KEYS}
    extras |= {
        "metadata/recipe": np.asarray(recipe.encode()),
        "metadata/seed": np.asarray(seed, np.int64),
        "metadata/steps": np.asarray(steps, np.int64),
        "metadata/version": np.asarray(entry.version, np.int64),
        **{f"metadata/{name}": np.asarray(x.encode()) for name, x in made_with(entry).items()},
        **entry.metadata(steps),
    }
    return Raw(
        recipe,
        {name: rows[name] for name in KEYS if name in rows},
        extras,
        action_space=entry.action_space,
        max_episode_steps=entry.max_episode_steps,
    )


def made_with(entry: Recipe) -> dict[str, str]:
    """Versions of all that decides a recipe's bits."""
    packages = ("numpy", "gymnasium", "mujoco") if entry.simulated else ("numpy",)
    return {name: importlib.metadata.version(name) for name in packages}


def compare_with_card(recipe: str, steps: int, seed: int, found: str) -> str | None:
    """Whether a data set's hash is the one on the recipe's card, in a line; None where no card can say.

    A card is of one size and seed, and of the versions that it was made with.
    """
    card = locomotion.cards().get(recipe)
    if card is None or (card["steps"], card["seed"]) != (steps, seed):
        return None
    if card["hash"] == found:
        return "its hash is the card's"
    now = made_with(RECIPES[recipe])
    then = card["made_with"]
    other = [f"{name} {then[name]} (now {now[name]})" for name in now if then[name] != now[name]]
    why = f"it was made with {', '.join(other)}" if other else "the versions are the same: another processor?"
    return f"its hash is not the card's: {why}"


def _made_by_recipe(path: Path) -> bool:
    try:
        with h5py.File(path, "r") as file:
            return "metadata/recipe" in file
    except OSError:
        return False


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
