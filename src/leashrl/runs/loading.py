"""Trained policies read back from a run's `policy/` folder, and evaluated again.

    policy = load_policy("runs/misa")
    action = policy(obs)                       # the environment's units in, the environment's units out

The folder is whole by itself: it may be copied anywhere without the rest of the run.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from leashrl.core import override
from leashrl.data.columns import Columns
from leashrl.disk.checkpoint import restore
from leashrl.disk.folder import RunFolder, read_policies, read_policy
from leashrl.errors import BadInput, nearest
from leashrl.runs.plan import find_algorithm
from leashrl.runs.policies import LoadedPolicy, evaluate_members, layout
from leashrl.runs.results import EvaluatedRun
from leashrl.training.compilation import in_float32
from leashrl.types import Box, Discrete, Space, Spec


@in_float32
def load_policy(folder: str | Path, member: str | None = None) -> LoadedPolicy:
    """A trained policy, ready to act.

    Args:
      folder: a run's folder, or its `policy/` alone, wherever it was copied to.
      member: which one, such as `seed-1`; by default the first that did not diverge.

    Raises:
      BadInput: no policy there, a damaged file, or an unknown member.
    """
    folder, about = _read_about(folder)
    if member is None:
        member = next((name for name in about["members"] if name not in about["diverged"]), None)
        if member is None:
            raise BadInput(f"every member of '{folder}' diverged: name the one you want all the same")
    return _read_member(folder, about, _known_member(folder, about, member))


@in_float32
def load_members(folder: str | Path) -> tuple[dict[str, Any], list[LoadedPolicy]]:
    """What `policy.json` says, and all policies of a run or snapshot that did not diverge.

    Raises:
      BadInput: no policy there, or a damaged file.
    """
    folder, about = _read_about(folder)
    names = [name for name in about["members"] if name not in about["diverged"]]
    return about, [_read_member(folder, about, name) for name in names]


@in_float32
def evaluate_run(
    folder: str | Path,
    *,
    task: Any = None,
    episodes: int | None = None,
    seed: int = 1,
    mode: str | None = None,
    member: str | None = None,
) -> EvaluatedRun:
    """Evaluate all members of a run side by side, those that diverged left out.

    Args:
      folder: a run's folder, or its `policy/` alone.
      task: where: a name (`leashrl tasks`), a registered Gymnasium id, `module:id`, or an environment of your
        own; by default where the run was evaluated.
      episodes: per member; the task's own number by default.
      seed: of the environments and of sampled actions. Training evaluates with seed 0, so that the
        default looks at episodes that no choice was made by.
      mode: one of the policy's modes; the algorithm's own by default.
      member: this one alone, such as `seed-1`.

    Raises:
      BadInput: no policy there, an unknown member, no or an unfitting task, a missing simulator.
    """
    folder, about = _read_about(folder)
    names = [name for name in about["members"] if name not in about["diverged"]]
    if member is not None:
        names = [_known_member(folder, about, member)]
    elif not names:
        raise BadInput(f"every member of '{folder}' diverged: nothing is left to evaluate")
    members = [_read_member(folder, about, name) for name in names]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *(m.params for m in members))
    found = evaluate_members(members[0], stacked, names, task, episodes, seed, mode)
    return dataclasses.replace(found, folder=folder, diverged=tuple(about["diverged"]))


def _read_about(folder: str | Path) -> tuple[Path, dict[str, Any]]:
    """The folder that holds `policy.json`, and what it says."""
    return read_policies(Path(folder).expanduser())


def _known_member(folder: Path, about: Mapping[str, Any], member: str) -> str:
    if member not in about["members"]:
        raise BadInput(f"no member '{member}' in '{folder}': {nearest(member, about['members'])}")
    return member


def _read_member(folder: Path, about: Mapping[str, Any], member: str) -> LoadedPolicy:
    entry = find_algorithm(about["algorithm"], about.get("module"))
    config = override(entry.config(), about["config"])
    spec = Spec(about["obs_dim"], _space(folder, about["action_space"]))
    policy, like = layout(about["algorithm"], config, spec)
    flat, path = read_policy(folder, member)
    found = restore(like, flat, str(path))
    norm = (np.asarray(found["obs_mean"]), np.asarray(found["obs_std"]))
    columns = Columns.from_json(about["columns"]) if "columns" in about else None
    task, name = about.get("task"), about["algorithm"]
    return LoadedPolicy(member, name, config, spec, task, policy, found["params"], *norm, columns)


def _space(folder: Path, values: Mapping[str, Any]) -> Space:
    try:
        if values["kind"] == "Discrete":
            return Discrete(int(values["n"]))
        return Box(tuple(map(float, values["low"])), tuple(map(float, values["high"])))
    except (KeyError, TypeError, ValueError):
        raise RunFolder(folder).malformed("policy.json", "look at 'action_space'") from None
