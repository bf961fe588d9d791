"""One run: a plan carried out, and what it leaves on disk. Layer 4.

    DIR/config.json         the plan: everything that decides the bits of the result, and all versions
    DIR/metrics.jsonl       one line a logged step and member
    DIR/evaluations.jsonl   one line an evaluation and member
    DIR/checkpoint/         the last two; `resume` continues from the newest, bit for bit
    DIR/policy/             one safetensors file a member, and policy.json to read them with
    DIR/result.json         final and last-ten mean score of each member

The seam between compute and presentation: what reads a run reads these files.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from leashrl.core import hyper, override, to_json
from leashrl.data import Dataset, Normaliser, load, prepare
from leashrl.errors import BadInput
from leashrl.evaluate.statistics import summary
from leashrl.plan import (
    DECISIVE,
    Plan,
    configure,
    describe,
    describe_space,
    find_algorithm,
    find_place,
    make_members,
    member_name,
)
from leashrl.tasks import Task
from leashrl.tasks import task as find_task
from leashrl.training import loop
from leashrl.training.artefacts import (
    Lines,
    claim_folder,
    hold,
    make_folder,
    read_json,
    versions,
    write_atomically,
    write_json,
)
from leashrl.training.checkpoint import load_checkpoint, restore, save_checkpoint, to_bytes
from leashrl.training.interrupts import Interrupts
from leashrl.types import Spec, Transitions

CHECKPOINT_SECONDS = 10.0
Report = Callable[[str, dict[str, Any]], None]
"""Called with (event, details) as a run goes on.

Events: start, step, evaluation, diverged, saved, end; and interrupt, at a Ctrl-C, from a signal handler.
`rows` of step and evaluation hold what the files get, with the member's name as `member`.
"""


# --- Entry points ------------------------------------------------------------


def train(
    algorithm: str,
    data: str | Path | Dataset,
    *,
    task: str | None = None,
    preset: str = "default",
    options: Mapping[str, Any] | None = None,
    vary: Mapping[str, Sequence[float]] | None = None,
    seeds: int | Sequence[int] = 3,
    steps: int | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    log_every: int = 1000,
    eval_every: int | None = None,
    episodes: int | None = None,
    report: Report | None = None,
) -> "Result":
    """Train all members in one compiled program, evaluate them, and leave the artefacts in `out`.

    Args:
      algorithm: a name of the registry (`leashrl algos`).
      data: a file, an id, or a `Dataset`.
      task: where to evaluate (`leashrl tasks`); by default what the data's name says; `none` for nowhere.
      preset: named values of the algorithm's Config.
      options: single fields of the Config, laid over the preset.
      vary: hyper-parameters (float fields) with several values each: every seed trains with every one.
      seeds: how many (0, 1, ...), or which.
      steps: gradient updates; the Config's own number by default.
      out: the run's folder; `runs/ALGORITHM-DATA` by default.
      overwrite: delete the run in `out` first. Without it an existing run is left alone and refused;
        other files are never deleted.
      log_every: updates a line of metrics.
      eval_every: updates an evaluation; ten a run by default.
      episodes: per evaluation and member; the task's own number by default.
      report: called as the run goes on.

    Returns:
      The result, as `result.json` holds it.

    Raises:
      BadInput: anything about the arguments, the data or the disk, before anything is written.
    """
    configure(algorithm, preset, None, options or {})  # a typo is told before a large file is read
    dataset = data if isinstance(data, Dataset) else load(data)
    place = find_place(task, dataset)
    options = dict(options or {}) | ({} if steps is None else {"steps": steps})
    config = configure(algorithm, preset, place.domain if place else None, options)
    eval_every = max(1, config.steps // 10) if eval_every is None else eval_every
    episodes = (place.episodes if place else 0) if episodes is None else episodes
    for name, value in {
        "steps": config.steps,
        "batch_size": config.batch_size,
        "log_every": log_every,
        "eval_every": eval_every,
        "episodes": episodes if place else 1,
    }.items():
        if value < 1:
            raise BadInput(f"'{name}' must be at least 1, not {value}")
    plan = Plan(
        algorithm=algorithm,
        preset=preset,
        config=config,
        data={"source": None if isinstance(data, Dataset) else _absolute(data)} | describe(dataset),
        task=place.name if place else None,
        members=make_members(config, seeds, vary or {}),
        log_every=log_every,
        eval_every=eval_every,
        episodes=episodes if place else 0,
    )
    run = Run.build(plan, dataset)
    if place:
        from leashrl.evaluate.environments import borrow, give_back

        give_back(place, borrow(place, 1))  # a missing simulator is told now, not after the first tenth
    folder = Path(out) if out else Path("runs") / f"{algorithm}-{dataset.name}"
    with claim_folder(folder, overwrite):
        write_json(folder / "config.json", plan.to_json() | {"versions": versions()})
        return run.execute(folder, None, report)


def resume(
    folder: str | Path, *, data: str | Path | Dataset | None = None, report: Report | None = None
) -> "Result":
    """Continue a run from its newest checkpoint; the result has the uninterrupted run's bits.

    A run that was killed before its first checkpoint starts again; a finished one gives its result.

    Args:
      folder: the run's folder.
      data: the data set, where the run was started from arrays in memory, or its file has moved.
      report: called as the run goes on.

    Raises:
      BadInput: no run, broken files, other data than the run was started on, or a run that goes on already.
    """
    folder = Path(folder)
    values = read_json(folder / "config.json")
    try:
        plan = Plan.from_json(values)
        source, _ = plan.data["source"], plan.data["hash"]
        before = dict(values["versions"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = error if isinstance(error, BadInput) else f"{type(error).__name__} {error}"
        raise BadInput(f"'{folder / 'config.json'}' is not what leashrl wrote: {reason}") from None
    if (folder / "result.json").exists():
        return Result.read(folder)
    if data is None and source is None:
        raise BadInput(f"'{folder}' was trained on arrays in memory: pass them to `resume(..., data=...)`")
    dataset = data if isinstance(data, Dataset) else load(data or source)
    found = describe(dataset)
    # Older versions stored the hash alone.
    other = [name for name in DECISIVE if name in plan.data and plan.data[name] != found[name]]
    if other:
        what = " and ".join(f"the {name.replace('_', ' ')} differs" for name in other)
        raise BadInput(
            f"'{dataset.name}' is not the data '{folder}' was trained on: {what}; name the right one"
        )
    run = Run.build(plan, dataset)
    with hold(folder):
        warn_of_versions(folder, before)
        return run.execute(folder, load_checkpoint(folder / "checkpoint"), report)


def warn_of_versions(folder: Path, before: Mapping[str, str]) -> None:
    """One line where XLA may round otherwise than when the run was started."""
    now = versions()
    names = [name for name in ("jax", "jaxlib") if name in before and before[name] != now.get(name)]
    if names:
        logging.getLogger("leashrl").warning(
            "leashrl: warning: '%s' was started with %s: its bits may differ from an uninterrupted run's",
            folder,
            ", ".join(f"{name} {before[name]} (now {now.get(name)})" for name in names),
        )


def _absolute(source: str | Path) -> str:
    """A path that holds wherever `resume` is called from; ids and recipes stay as they are."""
    path = Path(source).expanduser()
    # Links are not followed: a file's name says what kind it is, and a store's names may say nothing.
    return str(path.absolute()) if path.exists() else str(source)


# --- The run -----------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A plan made ready: the algorithm built, the data on the device."""

    plan: Plan
    task: Task | None
    spec: Spec
    algorithm: Any
    data: Transitions
    normaliser: Normaliser
    keys: jax.Array
    hp: dict[str, jax.Array]

    @staticmethod
    def build(plan: Plan, dataset: Dataset) -> "Run":
        rows, normaliser = prepare(dataset, plan.config.preprocess)
        if not len(rows["reward"]):
            raise BadInput(f"'{dataset.name}' has no whole transition to learn from")
        algorithm = find_algorithm(plan.algorithm).build(plan.config, dataset.spec)
        columns = [override(plan.config, {k: v for k, v in m.items() if k != "seed"}) for m in plan.members]
        keys = jax.vmap(jax.random.key)(jnp.asarray([m["seed"] for m in plan.members], jnp.uint32))
        hp = jax.tree.map(lambda *x: jnp.stack(x), *map(hyper, columns))
        # What cannot be built fails here, before a folder is made.
        jax.eval_shape(jax.vmap(algorithm.init), keys, hp)
        return Run(
            plan=plan,
            task=find_task(plan.task) if plan.task else None,
            spec=dataset.spec,
            algorithm=algorithm,
            data=Transitions(**{name: jnp.asarray(x) for name, x in rows.items()}),
            normaliser=normaliser,
            keys=keys,
            hp=hp,
        )

    def execute(self, folder: Path, checkpoint: tuple | None, report: Report | None) -> "Result":
        """The hooks around the one loop: log, evaluate, checkpoint, stop."""
        plan, say = self.plan, report or (lambda event, details: None)
        total = sum(stage.steps for stage in self.algorithm.stages)
        restored, done = None, -1
        evaluated = False
        if checkpoint:
            done, flat, meta = checkpoint
            evaluated = bool(meta.get("evaluated"))
            like = loop.blank(self.algorithm, self.data, self.keys, self.hp, done)
            restored = (done, restore(like, flat, str(folder / "checkpoint")))
        metrics = Lines(folder / "metrics.jsonl", keep_to=done)
        # A kill among one evaluation's lines leaves some of them: only a checkpoint says that all are there.
        evaluations = Lines(folder / "evaluations.jsonl", keep_to=done if evaluated else done - 1)
        say(
            "start", {"plan": plan, "task": self.task, "step": max(done, 0), "total": total, "folder": folder}
        )
        known = set()

        def tell(fallen: Mapping[int, tuple[int, str]]) -> None:
            for i in fallen.keys() - known:
                known.add(i)
                at, metric = fallen[i]
                say("diverged", {"member": member_name(plan.members[i]), "step": at, "metric": metric})

        saved_at, saved_step = time.monotonic(), done
        with Interrupts(say) as interrupts:
            for snapshot in loop.run(
                self.algorithm,
                self.data,
                self.keys,
                self.hp,
                log_every=plan.log_every,
                stop_every=plan.eval_every if self.task else 0,
                resume=restored,
            ):
                step, last = snapshot.step, snapshot.step == total
                fallen = loop.diverged(snapshot.tally)
                tell(fallen)
                rows = []
                for i, member in enumerate(plan.members if snapshot.logged is not None else ()):
                    if i not in fallen:
                        values = {name: float(x[i]) for name, x in (snapshot.logged or {}).items()}
                        row = {"step": step, "stage": snapshot.stage} | member | values
                        metrics.write(row)
                        rows.append(self.named(row))
                say("step", {"step": step, "total": total, "stage": snapshot.stage, "rows": rows})
                lost = len(fallen) == len(plan.members)
                finished = last or lost
                due = self.task and step and not lost and (last or step % plan.eval_every == 0)
                if due and step not in evaluations.steps and not interrupts.pending:
                    rows = [{"step": step} | row for row in self.evaluate(snapshot.state, fallen)]
                    for row in rows:
                        evaluations.write(row)
                    say("evaluation", {"step": step, "rows": [self.named(row) for row in rows]})
                waited = time.monotonic() - saved_at
                if step != saved_step and (
                    step == 0 or finished or due or interrupts.pending or waited > CHECKPOINT_SECONDS
                ):
                    arrays = {"state": snapshot.state, "tally": snapshot.tally}
                    about = {"stage": snapshot.stage, "evaluated": step in evaluations.steps}
                    save_checkpoint(folder / "checkpoint", step, arrays, about)
                    saved_at, saved_step = time.monotonic(), step
                    say("saved", {"step": step})
                if interrupts.pending:
                    raise KeyboardInterrupt
                if finished:
                    fallen |= self.unevaluated(folder, step, fallen)
                    tell(fallen)
                    self.save_policies(folder, snapshot.state, fallen)
                    result = self.result(folder, step, fallen)
                    break
        write_json(folder / "result.json", result.values)
        say("end", {"result": result})
        return result

    def named(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row of metrics or of an evaluation with its member's name in front."""
        return {"member": member_name({k: row[k] for k in self.plan.members[0]})} | row

    def evaluate(self, state: Any, fallen: Mapping[int, Any]) -> list[dict[str, Any]]:
        """One row a member that is still up: its returns and normalised scores."""
        from leashrl.evaluate.rollout import evaluate

        assert self.task is not None
        found = evaluate(
            self.algorithm.policy,
            self.algorithm.policy.params(state),
            self.task,
            obs_mean=self.normaliser.mean,
            obs_std=self.normaliser.std,
            action_space=self.spec.action,
            episodes=self.plan.episodes,
            seed=self.plan.eval_seed,
        )
        return [
            dict(member)
            | {
                "return": float(found.returns[i].mean()),
                "score": None if found.scores is None else float(found.scores[i].mean()),
                "returns": found.returns[i].tolist(),
                "lengths": found.lengths[i].tolist(),
            }
            for i, member in enumerate(self.plan.members)
            if i not in fallen and not found.failed[i]
        ]

    def unevaluated(self, folder: Path, step: int, fallen: Mapping[int, Any]) -> dict[int, tuple[int, str]]:
        """Members that trained to the end, and whose policy then gave an action that is not finite."""
        if self.task is None:
            return {}
        rows = [row for row in Lines.read(folder / "evaluations.jsonl") if row["step"] == step]
        return {
            i: (step, "action")
            for i, member in enumerate(self.plan.members)
            if i not in fallen and not any(member.items() <= row.items() for row in rows)
        }

    def save_policies(self, folder: Path, state: Any, fallen: Mapping[int, tuple[int, str]]) -> None:
        """`policy/NAME.safetensors` for each member, and `policy/policy.json` to rebuild them."""
        params = self.algorithm.policy.params(state)
        make_folder(folder / "policy")
        for i, member in enumerate(self.plan.members):
            arrays = {
                "params": jax.tree.map(lambda x, i=i: x[i], params),
                "obs_mean": self.normaliser.mean,
                "obs_std": self.normaliser.std,
            }
            write_atomically(folder / "policy" / f"{member_name(member)}.safetensors", to_bytes(arrays))
        write_json(
            folder / "policy" / "policy.json",
            {
                "algorithm": self.plan.algorithm,
                "config": to_json(self.plan.config),
                "obs_dim": self.spec.obs_dim,
                "action_space": describe_space(self.spec.action),
                "task": self.plan.task,
                "members": [member_name(m) for m in self.plan.members],
                "diverged": [member_name(self.plan.members[i]) for i in sorted(fallen)],
            },
        )

    def result(self, folder: Path, step: int, fallen: Mapping[int, tuple[int, str]]) -> "Result":
        """Final and last-ten mean score of each member; the best is never reported alone.

        Where all have diverged, the last of them says how many steps the run took: when the loop noticed
        depends on the clock.
        """
        if len(fallen) == len(self.plan.members):
            step = max(at for at, _ in fallen.values())
        rows = Lines.read(folder / "evaluations.jsonl")
        members = []
        for i, member in enumerate(self.plan.members):
            mine = [row for row in rows if all(row[k] == v for k, v in member.items())]
            out: dict[str, Any] = {"name": member_name(member)} | dict(member) | {"diverged": None}
            if i in fallen:
                out["diverged"] = {"step": fallen[i][0], "metric": fallen[i][1]}
            for what in ("return", "score"):
                values = [row[what] for row in mine if row[what] is not None]
                final = next((row[what] for row in mine if row["step"] == step and i not in fallen), None)
                out[what] = {"final": final, "last_10_mean": float(np.mean(values[-10:])) if values else None}
            members.append(out)
        finals = [m["score"]["final"] for m in members if m["score"]["final"] is not None]
        values = {
            "algorithm": self.plan.algorithm,
            "preset": self.plan.preset,
            "task": self.plan.task,
            "data": self.plan.data,
            "steps": step,
            "episodes": self.plan.episodes,
            "evaluated": self.task is not None,
            "members": members,
            "score": summary(np.array(finals)[:, None]) if finals else None,
            "versions": versions(),
        }
        return Result(folder, values)


@dataclass(frozen=True)
class Result:
    """What a run found. `values` is `result.json`; `folder` holds the rest."""

    folder: Path
    values: dict[str, Any]

    @staticmethod
    def read(folder: str | Path) -> "Result":
        return Result(Path(folder), read_json(Path(folder) / "result.json"))

    @property
    def score(self) -> dict[str, float] | None:
        """Mean, IQM and 95 % interval of the members' final normalised scores; None if not evaluated."""
        return self.values["score"]

    @property
    def diverged(self) -> list[str]:
        """Names of the members that went non-finite."""
        return [m["name"] for m in self.values["members"] if m["diverged"]]
