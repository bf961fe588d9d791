"""Other places to follow a run: TensorBoard and Weights & Biases, as plain functions of a row.

A row is what `metrics.jsonl` or `evaluations.jsonl` gets, with the member's name as `member`.
"""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leashrl.disk.files import write_atomically
from leashrl.errors import BadInput, nearest

Track = Callable[[dict[str, Any]], None]


def tensorboard(folder: Path, config: dict[str, Any], step: int) -> Track:
    """Event files in `folder/tensorboard/MEMBER`; a resumed run's replace the points beyond `step`."""
    from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]

    writers: dict[str, Any] = {}

    def track(row: dict[str, Any]) -> None:
        member = row["member"]
        if member not in writers:
            writers[member] = SummaryWriter(
                str(folder / "tensorboard" / member),
                purge_step=step + 1,  # the checkpoint's own step stays: it is not written again
                filename_suffix=f".{step}",  # or a resume within the same second truncates the file
                flush_secs=1,  # its own thread writes: `flush` here would come before the points
            )
        for name, value in scalars(row, config).items():
            writers[member].add_scalar(name, value, row["step"])

    return track


def wandb(folder: Path, config: dict[str, Any], step: int) -> Track:
    """One W&B run in `folder/wandb`, names as `MEMBER/METRIC`; offline unless `WANDB_MODE` says otherwise.

    Its id stands in `folder/wandb/id`, so that a resumed run goes on in it. Rows that are there already, W&B
    drops, and they have the same bits.
    """
    import wandb  # pyright: ignore[reportMissingImports]

    kept = folder / "wandb" / "id"
    known = kept.read_text().strip() if kept.exists() else None
    run = wandb.init(
        id=known,
        resume="allow" if known else None,
        project="leashrl",
        name=folder.name,
        dir=str(folder),
        config=config,
        mode=os.environ.get("WANDB_MODE", "offline"),
    )
    if not known:
        kept.parent.mkdir(exist_ok=True)
        write_atomically(kept, f"{run.id}\n".encode())

    def track(row: dict[str, Any]) -> None:
        run.log({f"{row['member']}/{k}": v for k, v in scalars(row, config).items()}, step=row["step"])

    return track


def scalars(row: dict[str, Any], config: dict[str, Any]) -> dict[str, float]:
    """The numbers of a row that are measurements: neither its step nor what tells its member apart.

    >>> row = {"member": "seed-0", "step": 9, "stage": "train", "seed": 0, "td_loss": 0.5, "returns": [1.0]}
    >>> scalars(row, {"members": [{"seed": 0}]})
    {'td_loss': 0.5}
    """
    given = {"step", *config["members"][0]}
    return {
        name: float(value)
        for name, value in row.items()
        if name not in given and isinstance(value, int | float) and not isinstance(value, bool)
    }


TRACKERS = {"tensorboard": (tensorboard, "tensorboardX"), "wandb": (wandb, "wandb")}


def find_tracker(name: str) -> Callable[[Path, dict[str, Any], int], Track]:
    """`(folder, config, step) -> track`.

    Raises:
      BadInput: an unknown name, or its package is missing.
    """
    if name not in TRACKERS:
        raise BadInput(f"no tracker '{name}': {nearest(name, TRACKERS)}")
    function, package = TRACKERS[name]
    if importlib.util.find_spec(package) is None:
        raise BadInput(f"--track {name} needs {package}: pip install 'leashrl[{name}]'")
    return function
