"""Policies for other runtimes: one file and a card of JSON beside it.

    leashrl export runs/misa --format onnx
    runs/misa/export/seed-0.onnx, runs/misa/export/seed-0.onnx.json

    exported = leashrl.export_policy("runs/misa", "onnx")
    print(exported.path, exported.check.max_difference)

The file takes observations and gives actions, both in the environment's units: the normaliser is in it. The
card says all that one needs to run it. Before either is written, the file's bytes are run beside the policy.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from leashrl.data import Dataset
from leashrl.disk.files import make_folder, versions, write_atomically, write_json
from leashrl.disk.folder import RunFolder, run_of
from leashrl.errors import BadInput, nearest
from leashrl.export.check import compare, observations
from leashrl.export.formats import FORMATS
from leashrl.export.names import names
from leashrl.export.program import Port, Program, trace
from leashrl.export.results import (
    Check,
    Exported,
    ExportedPort,
    ExportedScore,
    Normalisation,
    TrainedOn,
)
from leashrl.runs.loading import load_policy
from leashrl.runs.policies import LoadedPolicy
from leashrl.runs.results import Ends
from leashrl.training.compilation import in_float32
from leashrl.types import Box

__all__ = [
    "CARD",
    "Check",
    "Exported",
    "ExportedPort",
    "ExportedScore",
    "Normalisation",
    "TrainedOn",
    "export_policy",
]

CARD = 1
"""The card's own version: it grows where a field changes its meaning."""


@in_float32
def export_policy(
    folder: str | Path,
    format: str = "onnx",
    *,
    member: str | None = None,
    mode: str | None = None,
    data: str | Path | Dataset | None = None,
    out: str | Path | None = None,
) -> Exported:
    """Write a policy's file and its card, `FILE.json`, and return both: the file's path and the card.

    Args:
      folder: a run's folder, or its `policy/` alone.
      format: `onnx`, `stablehlo` or `numpy`.
      member: which one, such as `seed-1`; by default the first that did not diverge.
      mode: one of the policy's modes; the algorithm's own by default. What a mode draws is an input.
      data: where the check takes its observations; by default the data that the run was trained on.
      out: the file; by default `export/MEMBER` in the run's folder, with the format's ending.

    Raises:
      BadInput: no policy there, an unknown format, member or mode, a format that cannot hold this policy, a
        missing package, or a file that does not act as the policy does; nothing is written then.
    """
    if format not in FORMATS:
        raise BadInput(f"no format '{format}': {nearest(format, FORMATS)}")
    policy = load_policy(folder, member)
    mode = policy.known_mode(mode)
    ending, make = FORMATS[format]
    program = trace(policy, mode)
    made = make(program, policy)
    run, plan = find_run(Path(folder).expanduser())
    rows = observations(policy, data, run, plan.get("data") or {})
    check = compare(program, made, policy, mode, rows)
    path = (
        Path(out)
        if out
        else (run.path if run else Path(folder).expanduser()) / "export" / f"{policy.name}{ending}"
    )
    inputs, outputs = signature(program, policy)
    exported = Exported(
        path=path,
        card=CARD,
        file=path.name,
        format=format,
        sha256=hashlib.sha256(made.data).hexdigest(),
        **made.about,
        algorithm=policy.algorithm,
        member=policy.name,
        mode=mode,
        task=policy.task,
        stateful=program.stateful,
        inputs=inputs,
        outputs=outputs,
        normalisation=Normalisation(tuple(policy.obs_mean.tolist()), tuple(policy.obs_std.tolist())),
        data=TrainedOn(plan["data"].get("name"), plan["data"].get("hash")) if plan else None,
        score=score(run, policy),
        check=check,
        versions=versions("onnx", "jax2onnx", "onnxruntime"),
    )
    make_folder(path.parent)
    write_atomically(path, made.data)
    write_json(path.with_name(f"{path.name}.json"), exported.to_card())
    return exported


def find_run(folder: Path) -> tuple[RunFolder | None, dict[str, Any]]:
    """The run that a policy is of, and what its `config.json` says; None where `policy/` was copied alone."""
    run = run_of(folder)
    plan = run.config() if run else {}
    if run and (not isinstance(plan, dict) or not isinstance(plan.get("data"), dict)):
        raise run.malformed("config.json", "look at 'data'")
    return run, plan


# --- The card ----------------------------------------------------------------


def signature(
    program: Program, policy: LoadedPolicy
) -> tuple[tuple[ExportedPort, ...], tuple[ExportedPort, ...]]:
    """The inputs and outputs, each with a leading axis n of any length; names and bounds where there are."""
    obs, action = names(policy.task, policy.spec)
    inputs, outputs = ([port_of(port) for port in ports] for ports in (program.inputs, program.outputs))
    space = policy.spec.action
    bounds = {"low": tuple(space.low), "high": tuple(space.high)} if isinstance(space, Box) else {}
    inputs[0] = replace(inputs[0], names=tuple(obs))
    outputs[0] = replace(outputs[0], names=tuple(action), **bounds)
    return tuple(inputs), tuple(outputs)


def port_of(port: Port) -> ExportedPort:
    found = ExportedPort(
        name=port.name, shape=("n", *port.shape), dtype=port.dtype.name, draw=port.draw or None
    )
    if port.initial is None:
        return found
    initial = port.initial.tolist() if port.initial.any() else 0
    return replace(found, next=port.name.replace("carry_", "next_", 1), initial=initial)


def score(run: RunFolder | None, policy: LoadedPolicy) -> ExportedScore | None:
    """The member's final score and return, and the means of its last ten; None where it was not evaluated."""
    if run is None or not run.finished:
        return None
    result = run.result()
    try:
        if not result["evaluated"]:
            return None
        row = next(row for row in result["members"] if row["name"] == policy.name)
        return ExportedScore(
            task=result["task"],
            episodes=result["episodes"],
            mode=policy.modes[0],
            score=Ends(**row["score"]),
            returns=Ends(**row["return"]),
        )
    except (KeyError, TypeError, StopIteration):
        raise run.malformed("result.json", "look at 'members'") from None
