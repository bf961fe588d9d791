"""Recipes: data sets made here from a seed, never downloaded.

A family of recipes is one function `(kind, steps, seed) -> arrays` in a module of its own, and one
loop below that enters its kinds into `RECIPES`.
"""

import hashlib
import importlib.metadata
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from leashrl.data import cartpole, locomotion, pendulum
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
) -> Path:
    """The file of a recipe, D4RL's HDF5 layout.

    Args:
      recipe: a key of `RECIPES`.
      out: where to write. An existing file is replaced only if a recipe made it. None: the cache,
        where a file is made once and reused if its SHA-256 is still the one noted beside it.
      steps: rows, 2 or more.
      seed: 0 or more.
      report: called with the number of rows so far, where it takes long.

    Raises:
      BadInput: an unknown recipe, a bad number, a file that cannot be written or should not be.
    """
    if recipe not in RECIPES:
        raise BadInput(f"no recipe '{recipe}': {nearest(recipe, RECIPES)}")
    entry = RECIPES[recipe]
    steps = entry.default_steps if steps is None else steps
    if steps < 2 or steps != int(steps):
        raise BadInput(f"a recipe makes a whole number of steps, 2 or more, not {steps}")
    steps = int(steps)  # 1e5 is a number of steps too
    if not 0 <= seed < 2**32:
        raise BadInput(f"a recipe's seed is in 0..2^32-1, not {seed}")

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
    note = target.with_suffix(".hdf5.sha256")
    try:
        whole = note.read_text().split()[0] == _sha256(target)
    except (OSError, IndexError, UnicodeDecodeError):
        whole = False
    if not whole:  # made from the seed again: nothing can be lost
        write_hdf5(_raw(recipe, steps, seed, report), target)
        with atomically(note) as temporary:
            temporary.write_text(f"{_sha256(target)}  {target.name}\n")
    return target


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
