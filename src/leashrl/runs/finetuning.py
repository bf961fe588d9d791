"""From offline to online: a finished run goes on in its task's environment.

The algorithm's last stage goes on from the checkpoint: same loss, same moments of Adam. What changes are the
rows: part of each batch stays the data set's, the rest comes from the member's own steps in the environment,
after a warm-up by the offline policy. So the leash stays on, and the first updates see where it leads.
Rates that were annealed go on small, and those alone: at full rate, policies that scored 109 score 48 after
300 updates (IQL, `benchmarks/finetune.py`).
The run's folder begins with that state as its checkpoint at step 0, and is from there on like any other.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from leashrl.algos import REGISTRY
from leashrl.core import State, hyper, override
from leashrl.data import Dataset
from leashrl.disk.checkpoint import load_checkpoint, restore, save_checkpoint
from leashrl.disk.claim import claim_folder
from leashrl.disk.files import versions
from leashrl.disk.folder import RunFolder
from leashrl.errors import BadInput, nearest
from leashrl.runs.events import Report
from leashrl.runs.execute import execute
from leashrl.runs.experiment import read_plan, same_data, source_of
from leashrl.runs.plan import ONLINE, Plan, Switch, at_least_one, chosen, find_algorithm, find_place
from leashrl.runs.results import Result
from leashrl.runs.run import Run
from leashrl.tasks import Task, of_environment
from leashrl.training import loop
from leashrl.training.compilation import in_float32

ANNEALED = 0.1
"""Rates that ended at 0 by a schedule go on at this part of where they began, and stay there."""

SCHEDULED = {"iql": ("policy_rate",), "misa": ("policy_rate", "critic_rate")}
"""The rates that an algorithm's `schedule` anneals: all others were never small, and go on as they were."""


@in_float32
def finetune(
    folder: str | Path,
    steps: int,
    *,
    env: str | None = None,
    data: str | Path | Dataset | None = None,
    options: Mapping[str, Any] | None = None,
    offline_share: float = 0.5,
    warmup: int = 1000,
    every: int = 50,
    updates_per_step: int = 1,
    noise: float = 0.1,
    out: str | Path | None = None,
    overwrite: bool = False,
    log_every: int = 1000,
    eval_every: int | None = None,
    episodes: int | None = None,
    snapshots: bool = False,
    report: Report | None = None,
) -> Result:
    """Go on online with a run that was trained on data; members that had diverged are left out.

    Args:
      folder: the offline run's, finished; it stays as it is.
      steps: updates; each member takes one in `updates_per_step` of them in the environment.
      env: where (`leashrl tasks`), or a Gymnasium id that a task has; by default the run's own task.
      data: the data set, where the run was started from arrays in memory, or its file has moved.
      options: fields of the Config, laid over the run's; such as rates. Without `precision` among them it is
        chosen for this machine, whatever the offline run had.
      offline_share: of each batch, from the data set.
      warmup: environment steps of the offline policy before the first update.
      every: environment steps between two looks at the policy; the updates come after them.
      updates_per_step: updates per environment step.
      noise: standard deviation of the Gaussian noise on the actions of a policy that draws none.
      out: the new run's folder; `FOLDER-finetuned` by default.
      overwrite, log_every, eval_every, episodes, snapshots, report: as in `train`. The first evaluation is
        that of the offline policy, at step 0.

    Returns:
      What `result.json` holds.

    Raises:
      BadInput: anything about the arguments, the run, the data or the disk, before anything is written.
    """
    folder = Path(folder).expanduser()
    old, _ = read_plan(folder)
    kept = trained(folder, old)
    place = place_of(folder, old, env)
    to = Path(out).expanduser() if out else folder.with_name(f"{folder.name}-finetuned")
    if to.resolve() == folder.resolve():
        raise BadInput(f"'{folder}' stays as it is: choose another --out")
    config, rows = configured(old, steps, options or {})
    arrays, meta = last_checkpoint(folder)
    dataset = same_data(folder, old, data)
    find_place(place.name, dataset)  # its sizes fit
    switch = Switch(
        folder=str(folder.absolute()),
        step=old.config.steps,
        checkpoint=meta["sha256"],
        offline_share=offline_share,
        warmup=warmup,
        every=every,
        updates_per_step=updates_per_step,
        noise=noise,
    )
    plan = dataclasses.replace(
        old,
        config=config,
        data=old.data if data is None else old.data | {"source": source_of(data)},
        task=place.name,
        members=tuple(rows[i] for i in kept),
        log_every=log_every,
        eval_every=max(1, steps // 10) if eval_every is None else eval_every,
        episodes=place.episodes if episodes is None else episodes,
        snapshots=snapshots,
        switch=switch,
    )
    at_least_one(log_every=log_every, eval_every=plan.eval_every, episodes=plan.episodes)
    run = Run.build(plan, dataset)
    state = carried_over(folder, len(rows), kept, arrays, run)
    return start(run, state, to, overwrite, report)


def place_of(folder: Path, plan: Plan, env: str | None) -> Task:
    """The task that is asked for, or the run's own; its environment is one to learn in."""
    name = env or plan.task
    if name is None:
        raise BadInput(f"'{folder}' was trained without a task: name one with --env (`leashrl tasks`)")
    place = of_environment(name)
    if place.env_id is None:
        raise BadInput(f"task '{place.name}' has no environment to learn in")
    if place.domain in ("kitchen", "ogbench"):
        raise BadInput(f"task '{place.name}' pays online for other things than its data did: {place.note}")
    return place


def trained(folder: Path, plan: Plan) -> list[int]:
    """Which members of a run can go on online, or BadInput with the reason why none can."""
    if reason := find_algorithm(plan.algorithm).offline_only:
        known = ", ".join(sorted(name for name, entry in REGISTRY.items() if not entry.offline_only))
        raise BadInput(f"{plan.algorithm} cannot be fine-tuned online: {reason}; these can: {known}")
    if plan.data == ONLINE:
        raise BadInput(f"'{folder}' has learnt online from the start: train it longer with `leashrl train`")
    if plan.switch:
        begun = plan.switch.folder
        raise BadInput(f"'{folder}' is fine-tuned already: start again from '{begun}', with more --steps")
    if not RunFolder(folder).finished:
        raise BadInput(f"'{folder}' has not finished: `leashrl resume {folder}` goes on with it")
    kept = [i for i, member in enumerate(Result.read(folder).members) if not member.diverged]
    if not kept:
        raise BadInput(f"every member of '{folder}' diverged: nothing is left to fine-tune")
    return kept


def configured(plan: Plan, steps: int, options: Mapping[str, Any]) -> tuple[Any, list[dict[str, float]]]:
    """The offline run's Config and members for the steps to come.

    Raises:
      BadInput: an option that the state's shape or the offline data depend on, or in which members differ.
    """
    config, rows = plan.config, [dict(member) for member in plan.members]
    if getattr(config, "schedule", "constant") != "constant":
        scheduled = SCHEDULED[plan.algorithm]
        smaller = lambda values: {k: v * ANNEALED for k, v in values.items() if k in scheduled}
        fields = {name: getattr(config, name) for name in hyper(config)}
        config = override(config, smaller(fields) | {"schedule": "constant"})
        rows = [row | smaller(row) for row in rows]
    # What the offline run took may have been its machine's choice: this one may have another.
    again = {"precision": "auto"} if hasattr(config, "precision") else {}
    config = chosen(plan.algorithm, override(config, again | dict(options)))
    allowed = {"batch_size", *again, *hyper(config)}
    if fixed := sorted(options.keys() - allowed):
        raise BadInput(
            f"option '{fixed[0]}' cannot change after offline training: {nearest(fixed[0], allowed)}"
        )
    if varied := sorted(options.keys() & plan.members[0].keys()):
        raise BadInput(f"option '{varied[0]}' varies between the run's members, and stays as each has it")
    if steps < 1 or config.batch_size < 1:
        raise BadInput(f"'steps' and 'batch_size' must be at least 1, not {steps} and {config.batch_size}")
    return override(config, {"steps": steps}), rows


def last_checkpoint(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the metadata of the offline run's checkpoint."""
    found = load_checkpoint(RunFolder(folder).checkpoint)
    if found is None:
        raise BadInput(f"'{folder}' has no checkpoint to go on from")
    _, arrays, meta = found
    return arrays, meta


def carried_over(
    folder: Path, members: int, kept: list[int], arrays: dict[str, np.ndarray], run: Run
) -> State:
    """The offline state of the members that are kept, with the new run's hyper-parameters."""
    keys, hp = jax.tree.map(lambda x: x[jnp.zeros(members, int)], (run.keys, run.hp))
    like = jax.eval_shape(jax.vmap(run.algorithm.init), keys, hp)
    state = restore({"state": like}, arrays, str(RunFolder(folder).checkpoint))["state"]
    return dataclasses.replace(jax.tree.map(lambda x: x[np.array(kept)], state), hp=run.hp)


def start(run: Run, state: State, folder: Path, overwrite: bool, report: Report | None) -> Result:
    """Claim the folder, put the offline state there as the checkpoint at step 0, and go on from it."""
    with claim_folder(folder, overwrite):
        new = RunFolder(folder)
        new.write_config(run.plan.to_json() | {"versions": versions()})
        tally = loop.empty_tally(run.algorithm.stages[0], run.data, state, run.keys, None)
        save_checkpoint(new.checkpoint, 0, {"state": state, "tally": tally}, {"rows": 0})
        return execute(run, folder, load_checkpoint(new.checkpoint), report)
