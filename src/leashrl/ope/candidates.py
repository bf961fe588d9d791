"""The policies that are to be put in order, and the data on which they are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from leashrl.data import Dataset, load
from leashrl.disk.folder import RunFolder
from leashrl.errors import BadInput
from leashrl.ope.results import FqeRow, LeftOut
from leashrl.runs.experiment import read_plan, same_data
from leashrl.runs.loading import load_members
from leashrl.runs.plan import ONLINE
from leashrl.runs.policies import LoadedPolicy

PIECE = 8192
"""Rows that a policy looks at together."""

# --- The policies ------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Candidate:
    """A policy, and where it was found."""

    policy: LoadedPolicy
    folder: Path
    step: int | None  # of a snapshot
    gamma: float | None  # the discount that it was trained with, where it has one

    @property
    def title(self) -> str:
        return f"{self.folder} {self.policy.name}"

    def named(self, row: FqeRow) -> FqeRow:
        """What FQE says of it, with its names."""
        return replace(
            row,
            policy=self.title,
            folder=str(self.folder),
            member=self.policy.name,
            algorithm=self.policy.algorithm,
            step=self.step,
        )

    def actions(self, obs: np.ndarray, mode: str | None, seed: int = 0) -> np.ndarray:
        """Its actions in all these states, in the environment's units; found in equal pieces."""
        pieces = []
        for i, first in enumerate(range(0, len(obs), PIECE)):
            here = obs[first : first + PIECE]
            padded = np.pad(here, ((0, min(PIECE, len(obs)) - len(here)), (0, 0)))
            pieces.append(self.policy(padded, mode=mode, seed=i + 2**16 * seed)[: len(here)])
        found = np.concatenate(pieces)
        if not np.isfinite(found).all():
            raise BadInput(f"{self.title} gives an action that is not finite: train it again")
        return found


def read(
    folders: Sequence[str | Path], snapshots: bool, mode: str | None
) -> tuple[list[Candidate], list[LeftOut]]:
    """The policies that FQE can evaluate, and why it cannot evaluate the others."""
    candidates, left_out = [], []
    for top in folders:
        for step, folder in snapshots_of(Path(top)) if snapshots else [(None, Path(top))]:
            about, policies = load_members(folder)
            left_out += [
                LeftOut(f"{folder} {name}", "it diverged when it was trained") for name in about["diverged"]
            ]
            for policy in policies:
                policy.known_mode(mode)
                if jax.tree.leaves(policy.policy.init(policy.params)):
                    why = f"{policy.algorithm} acts by what it remembers of an episode, and FQE looks at rows"
                    left_out.append(LeftOut(f"{folder} {policy.name}", why))
                else:
                    candidates.append(Candidate(policy, folder, step, about["config"].get("gamma")))
    if not candidates:
        raise BadInput(f"no policy to evaluate: {left_out[0].policy}: {left_out[0].why}")
    return candidates, left_out


def snapshots_of(folder: Path) -> list[tuple[int, Path]]:
    found = RunFolder(folder).snapshots()
    if not found:
        raise BadInput(f"no snapshots in '{folder}': `leashrl train ... --snapshots` keeps them")
    return found


def common_gamma(candidates: Sequence[Candidate], gamma: float | None) -> float:
    """The discount asked for, or the one that all policies were trained with; 0.99 where none has one."""
    if gamma is not None:
        return gamma
    own = sorted({one.gamma for one in candidates if one.gamma is not None})
    if len(own) > 1:
        values = ", ".join(f"{value:g}" for value in own)
        raise BadInput(
            f"the policies were trained with different discounts ({values}): give one with --gamma"
        )
    return own[0] if own else 0.99


# --- The data ----------------------------------------------------------------


def find_data(folders: Sequence[str | Path], data: str | Path | Dataset | None) -> Dataset:
    """The data set that is given, or the one that all runs were trained on."""
    if data is not None:
        return data if isinstance(data, Dataset) else load(data, task=common_task(folders))
    plans = {}
    for folder in map(Path, folders):
        if not RunFolder(folder).begun:
            raise BadInput(f"'{folder}' does not say what it was trained on: name the data with --data")
        plan, _ = read_plan(folder)
        if plan.data == ONLINE or plan.data["source"] is None:
            what = "online" if plan.data == ONLINE else "on arrays in memory"
            raise BadInput(f"'{folder}' was trained {what}: name the data to evaluate on with --data")
        plans.setdefault(plan.data["hash"], (folder, plan))
    if len(plans) > 1:
        (one, first), (other, second), *_ = plans.values()
        names = f"'{one}' on {first.data['name']}, '{other}' on {second.data['name']}"
        raise BadInput(f"the runs were trained on different data ({names}): choose one with --data")
    ((folder, plan),) = plans.values()
    return same_data(folder, plan, None)


def common_task(folders: Sequence[str | Path]) -> str | None:
    """The task of all runs, for data whose rewards are a task's; None where there are several."""
    begun = [Path(folder) for folder in folders if RunFolder(Path(folder)).begun]
    tasks = {read_plan(folder)[0].task for folder in begun}
    return tasks.pop() if len(tasks) == 1 else None


def check_fit(candidate: Candidate, dataset: Dataset) -> None:
    """BadInput where a policy's observations or actions are not the data's."""
    mine, theirs = candidate.policy.spec, dataset.spec
    sizes = {"observations": (mine.obs_dim, theirs.obs_dim), "actions": (mine.action, theirs.action)}
    for what, (own, other) in sizes.items():
        if own != other:
            raise BadInput(
                f"{candidate.title} knows {what} {own}, '{dataset.name}' has {other}: "
                "name the data that fit with --data"
            )
