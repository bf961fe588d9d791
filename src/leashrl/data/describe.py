"""What can be said of a data set in numbers: `leashrl data info`."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from leashrl.data.dataset import Dataset
from leashrl.types import Box, Space


@dataclass(frozen=True)
class Range:
    min: float
    max: float


@dataclass(frozen=True)
class Spread:
    """How values are distributed."""

    mean: float
    std: float
    min: float
    max: float
    q10: float
    q25: float
    median: float
    q75: float
    q90: float


@dataclass(frozen=True)
class DataInfo:
    """Counts and figures of a data set. Returns are sums of the logged rewards, in their own units."""

    name: str
    hash: str
    rows: int
    transitions: int
    """Rows whose next observation is known."""
    obs_dim: int
    action_space: Space
    action_space_assumed: bool
    """The file has no bounds: [-1, 1], D4RL's convention, was taken."""
    boundary_action_share: float | None
    """Of action coordinates that lie on a bound; None for discrete actions."""
    episodes: int
    max_episode_steps: int | None
    terminals: int
    timeouts: int | None
    """None where the data do not say what ended an episode."""
    has_next_obs: bool
    reward: Range
    returns: Spread
    lengths: Spread
    metadata: Mapping[str, Any]
    """The file's single values; a policy's weights are passed over."""

    def to_json(self) -> dict[str, Any]:
        renamed = {"returns": "return", "lengths": "length"}
        found = {renamed.get(name, name): value for name, value in dataclasses.asdict(self).items()}
        found["action_space"] = {"kind": type(self.action_space).__name__, **found["action_space"]}
        return found


def info(dataset: Dataset) -> DataInfo:
    """Count and measure a data set."""
    lengths = np.array([part.stop - part.start for part in dataset.episodes()])
    space = dataset.action_space
    boundary = None
    if isinstance(space, Box):
        low, high = np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)
        at = (dataset.action == low) | (dataset.action == high)
        boundary = float(at.mean())
    return DataInfo(
        name=dataset.name,
        hash=dataset.hash,
        rows=len(dataset),
        transitions=len(dataset.rows("bellman")),
        obs_dim=dataset.spec.obs_dim,
        action_space=space,
        action_space_assumed=dataset.action_space_assumed,
        boundary_action_share=boundary,
        episodes=len(lengths),
        max_episode_steps=dataset.max_episode_steps,
        terminals=int(dataset.terminal.sum()),
        timeouts=None if dataset.timeout is None else int(dataset.timeout.sum()),
        has_next_obs=dataset.next_obs is not None,
        reward=Range(float(dataset.reward.min()), float(dataset.reward.max())),
        returns=spread(dataset.returns()),
        lengths=spread(lengths),
        metadata=_metadata(dataset.extras),
    )


def spread(values: np.ndarray) -> Spread:
    quantiles = np.quantile(values, (0.1, 0.25, 0.5, 0.75, 0.9)).tolist()
    moments = (float(getattr(values, name)()) for name in ("mean", "std", "min", "max"))
    return Spread(*moments, *quantiles)


def _metadata(extras: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Single values below `metadata/`; a policy's weights are passed over."""
    found: dict[str, Any] = {}
    for name in extras:
        if name.startswith("metadata/"):
            value = extras[name]
            if value.size == 1:
                item = value.reshape(-1)[0]
                item = item.item() if isinstance(item, np.generic) else item
                known = isinstance(item, (str, int, float, bool))
                text = item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)
                found[name.removeprefix("metadata/")] = item if known else text
    return found
