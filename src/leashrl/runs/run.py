"""A plan carried out: the hooks around the one loop, and what they leave in a run's folder.

`disk.folder` lists the files. What reads a run reads these files alone.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from leashrl.core import Algorithm, Data, hyper, override, to_json
from leashrl.data import Dataset, Normaliser, prepare
from leashrl.disk.checkpoint import restore, save_checkpoint, to_bytes
from leashrl.disk.files import versions
from leashrl.disk.folder import RunFolder, rows_of, write_policies
from leashrl.errors import BadInput
from leashrl.evaluate.statistics import summary
from leashrl.runs.plan import ONLINE, Plan, describe_space, find_algorithm, member_name
from leashrl.tasks import Task
from leashrl.tasks import task as find_task
from leashrl.training import loop
from leashrl.training.interrupts import Interrupts
from leashrl.training.simulator import Offline, Simulator, recent, spec_of
from leashrl.types import Episodes, Spec, Transitions

CHECKPOINT_SECONDS = 10.0
BUFFER = 1_000_000
"""Rows that a fine-tuned run keeps of each member, as SAC does."""
Report = Callable[[str, dict[str, Any]], None]
"""Called with (event, details) as a run goes on.

Events: start, step, evaluation, diverged, saved, end; and interrupt, at a Ctrl-C, from a signal handler.
`rows` of step and evaluation hold what the files get, with the member's name as `member`.
"""


@dataclass(frozen=True)
class Run:
    """A plan made ready: the algorithm built; the data on the device, or the simulator at its start."""

    plan: Plan
    task: Task | None
    spec: Spec
    algorithm: Any
    source: Transitions | Episodes | Simulator
    normaliser: Normaliser
    keys: jax.Array
    hp: dict[str, jax.Array]

    @staticmethod
    def build(plan: Plan, dataset: Dataset | None) -> "Run":
        """`dataset` is None for a run that is online from the start."""
        task = find_task(plan.task) if plan.task else None
        columns = [override(plan.config, {k: v for k, v in m.items() if k != "seed"}) for m in plan.members]
        keys = jax.vmap(jax.random.key)(jnp.asarray([m["seed"] for m in plan.members], jnp.uint32))
        hp = jax.tree.map(lambda *x: jnp.stack(x), *map(hyper, columns))
        entry = find_algorithm(plan.algorithm)
        if dataset is None:
            assert task is not None
            spec = spec_of(task)
            algorithm = entry.build(plan.config, spec)
            pace = {name: getattr(plan.config, name) for name in ("steps", "buffer", "warmup", "every")}
            source = Simulator(task, spec, algorithm.policy, plan.members, keys, **pace)
            normaliser = Normaliser(np.zeros(spec.obs_dim, np.float32), np.ones(spec.obs_dim, np.float32))
        else:
            # Cal-QL's bound: with the discount of the Config, so that members cannot differ in it.
            gamma = plan.config.gamma if getattr(plan.config, "calibrated", False) else None
            if gamma is not None and "gamma" in plan.members[0]:
                raise BadInput("'gamma' cannot vary between members with option 'calibrated'")
            rows, normaliser = prepare(dataset, plan.config.preprocess, entry.view, gamma)
            if not len(rows["reward"]):
                raise BadInput(f"'{dataset.name}' has no whole transition to learn from")
            spec = dataset.spec
            algorithm = entry.build(plan.config, spec)
            kind = Episodes if entry.view == "episodes" else Transitions
            source = kind(**{name: jnp.asarray(x) for name, x in rows.items()})
            if switch := plan.switch:
                assert task is not None and isinstance(source, Transitions)
                before = entry.build(override(plan.config, {"steps": switch.step}), spec)
                algorithm = go_on(before, switch.step, plan.config.steps)
                keys = loop.fold_in(keys, 2**32 - 2)  # no update's key, nor the simulator's
                pace = {"steps": plan.config.steps, "warmup": switch.warmup, "every": switch.every}
                offline = Offline(source, switch.offline_share, normaliser, switch.noise, gamma)
                source = Simulator(
                    task, spec, before.policy, plan.members, keys, buffer=BUFFER, offline=offline,
                    updates=switch.updates_per_step, **pace,
                )  # fmt: skip
        # What cannot be built fails here, before a folder is made.
        jax.eval_shape(jax.vmap(algorithm.init), keys, hp)
        return Run(plan, task, spec, algorithm, source, normaliser, keys, hp)

    @property
    def simulator(self) -> Simulator | None:
        return self.source if isinstance(self.source, Simulator) else None

    @property
    def data(self) -> Data:
        return self.source.data if isinstance(self.source, Simulator) else self.source

    def execute(self, folder: Path, checkpoint: tuple | None, report: Report | None) -> "Result":
        """The hooks around the one loop: log, evaluate, checkpoint, stop."""
        plan, say, files = self.plan, report or (lambda event, details: None), RunFolder(folder)
        total = sum(stage.steps for stage in self.algorithm.stages)
        # Pre-training is not evaluated; what offline training has left is.
        training = -1 if plan.switch else total - self.algorithm.stages[-1].steps
        restored, done, meta = None, -1, {}
        if checkpoint:
            done, flat, meta = checkpoint
            like = loop.blank(self.algorithm, self.data, self.keys, self.hp, done)
            restored = (done, restore(like, flat, str(files.checkpoint)))
        if self.simulator:
            # Up to the checkpoint; what a kill has left beyond it is dropped, and will come again.
            self.simulator.load(files.replay, meta["rows"] if checkpoint else 0)
        metrics = files.metrics_to(done)
        # A visit to the simulator comes after the checkpoint of the same step.
        episodes = files.episodes_to(done - 1) if self.simulator else None
        # A kill among one evaluation's lines leaves some of them: only a checkpoint says that all are there.
        evaluations = files.evaluations_to(done if meta.get("evaluated") else done - 1)
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
                self.source,
                self.keys,
                self.hp,
                log_every=plan.log_every,
                stop_every=plan.eval_every if self.task else 0,
                resume=restored,
            ):
                step, last = snapshot.step, snapshot.step == total
                fallen = snapshot.fallen
                tell(fallen)
                rows = []
                for i, member in enumerate(plan.members if snapshot.logged is not None else ()):
                    if i not in fallen:
                        values = {name: float(x[i]) for name, x in (snapshot.logged or {}).items()}
                        row = {"step": step, "stage": snapshot.stage} | member | values
                        metrics.write(row)
                        rows.append(self.named(row))
                say("step", {"step": step, "total": total, "stage": snapshot.stage, "rows": rows})
                for row in self.simulator.take_ended() if self.simulator else ():
                    assert episodes is not None
                    episodes.write(row)
                lost = len(fallen) == len(plan.members)
                finished = last or lost
                due = self.task and step > training and not lost and (last or step % plan.eval_every == 0)
                if due and step not in evaluations.steps and not interrupts.pending:
                    number = (plan.final_episodes if last else None) or plan.episodes
                    found = self.evaluate(snapshot.state, range(len(plan.members)), number)
                    rows = [{"step": step} | row for i, row in found.items() if i not in fallen]
                    for row in rows:
                        evaluations.write(row)
                    say("evaluation", {"step": step, "rows": [self.named(row) for row in rows]})
                    if plan.snapshots:
                        self.save_policies(files.snapshot(step), snapshot.state, fallen)
                waited = time.monotonic() - saved_at
                if step != saved_step and (
                    step == 0 or finished or due or interrupts.pending or waited > CHECKPOINT_SECONDS
                ):
                    arrays = {"state": snapshot.state, "tally": snapshot.tally}
                    about = {"stage": snapshot.stage, "evaluated": step in evaluations.steps}
                    if self.simulator:
                        about["rows"] = self.simulator.save(files.replay)
                    save_checkpoint(files.checkpoint, step, arrays, about)
                    saved_at, saved_step = time.monotonic(), step
                    say("saved", {"step": step})
                if interrupts.pending:
                    raise KeyboardInterrupt
                if finished:
                    fallen |= self.unevaluated(folder, step, fallen)
                    tell(fallen)
                    self.save_policies(files.policy, snapshot.state, fallen)
                    # They stand still at their last finite state: one evaluation says all.
                    finite = [i for i in sorted(fallen) if fallen[i][1] != "action"]
                    ends = self.evaluate(snapshot.state, finite, plan.final_episodes or plan.episodes)
                    result = outcome(plan, folder, step, fallen, ends)
                    break
        files.write_result(result.values)
        if self.simulator:
            self.simulator.close()
        say("end", {"result": result})
        return result

    def named(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row of metrics or of an evaluation with its member's name in front."""
        return {"member": member_name({k: row[k] for k in self.plan.members[0]})} | row

    def evaluate(self, state: Any, members: Sequence[int], episodes: int) -> dict[int, dict[str, Any]]:
        """Of these members, a row each whose actions are finite: returns and normalised scores."""
        from leashrl.evaluate.rollout import evaluate

        if self.task is None or not members:
            return {}
        params = self.algorithm.policy.params(state)
        if len(members) < len(self.plan.members):
            params = jax.tree.map(lambda x: x[np.asarray(members)], params)
        found = evaluate(
            self.algorithm.policy,
            jax.device_put(params, jax.local_devices()[0]),  # from all devices, where there are several
            self.task,
            obs_mean=self.normaliser.mean,
            obs_std=self.normaliser.std,
            action_space=self.spec.action,
            episodes=episodes,
            seed=self.plan.eval_seed,
        )
        return {
            i: dict(self.plan.members[i])
            | {
                "return": float(found.returns[n].mean()),
                "score": None if found.scores is None else float(found.scores[n].mean()),
                "returns": found.returns[n].tolist(),
                "lengths": found.lengths[n].tolist(),
            }
            for n, i in enumerate(members)
            if not found.failed[n]
        }

    def unevaluated(self, folder: Path, step: int, fallen: Mapping[int, Any]) -> dict[int, tuple[int, str]]:
        """Members that trained to the end, and whose policy then gave an action that is not finite."""
        if self.task is None:
            return {}
        rows = RunFolder(folder).evaluations(step)
        return {
            i: (step, "action")
            for i, member in enumerate(self.plan.members)
            if i not in fallen and not rows_of(member, rows)
        }

    def save_policies(self, folder: Path, state: Any, fallen: Mapping[int, tuple[int, str]]) -> None:
        """What is needed to act, of every member."""
        params, names = self.algorithm.policy.params(state), [member_name(m) for m in self.plan.members]
        norm = {"obs_mean": self.normaliser.mean, "obs_std": self.normaliser.std}
        arrays = {
            name: to_bytes({"params": jax.tree.map(lambda x, i=i: x[i], params)} | norm)
            for i, name in enumerate(names)
        }
        about = {
            "algorithm": self.plan.algorithm,
            "config": to_json(self.plan.config),
            "obs_dim": self.spec.obs_dim,
            "action_space": describe_space(self.spec.action),
            "task": self.plan.task,
            "members": names,
            "diverged": [names[i] for i in sorted(fallen)],
        }
        write_policies(folder, about, arrays)


def go_on(algorithm: Algorithm, done: int, steps: int) -> Algorithm:
    """The algorithm's last stage alone, from its update number `done` on, for `steps` more."""
    last = algorithm.stages[-1]
    update = lambda state, batch, key, step: last.update(state, batch, key, step + done)
    return algorithm._replace(stages=(last._replace(steps=steps, update=update),))


def outcome(
    plan: Plan,
    folder: Path,
    step: int,
    fallen: Mapping[int, tuple[int, str]],
    ends: Mapping[int, Mapping[str, Any]] | None = None,
) -> "Result":
    """Final and last-ten mean score of each member; the best is never reported alone.

    A member that diverged has no final score: what its last finite policy gets (`ends`, rows of `evaluate`)
    stands where it says that it diverged, and nowhere else.

    Where all have diverged, the last of them says how many steps the run took: when the loop noticed
    depends on the clock.
    """
    if len(fallen) == len(plan.members):
        step = max(at for at, _ in fallen.values())
    files = RunFolder(folder)
    rows, episodes = files.evaluations(), files.episodes()
    members = []
    for i, member in enumerate(plan.members):
        mine = rows_of(member, rows)
        out: dict[str, Any] = {"name": member_name(member)} | dict(member) | {"diverged": None}
        if i in fallen:
            end = (ends or {}).get(i, {})
            out["diverged"] = {"step": fallen[i][0], "metric": fallen[i][1]}
            out["diverged"] |= {what: end.get(what) for what in ("return", "score")}
        for what in ("return", "score"):
            values = [row[what] for row in mine if row[what] is not None]
            final = next((row[what] for row in mine if row["step"] == step and i not in fallen), None)
            out[what] = {"final": final, "last_10_mean": float(np.mean(values[-10:])) if values else None}
        if plan.data == ONLINE or plan.switch:
            out["online"] = recent(episodes, member)
        members.append(out)
    finals = [m["score"]["final"] for m in members if m["score"]["final"] is not None]
    values = {
        "algorithm": plan.algorithm,
        "preset": plan.preset,
        "task": plan.task,
        "data": plan.data,
        **({"switch": dataclasses.asdict(plan.switch)} if plan.switch else {}),
        "steps": step,
        "episodes": plan.final_episodes or plan.episodes,
        "evaluated": plan.task is not None,
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
        return Result(Path(folder), RunFolder(Path(folder)).result())

    @property
    def score(self) -> dict[str, Any] | None:
        """Mean, IQM and 95 % interval of the members' final normalised scores; None if not evaluated.

        Of one member there is no interval: `low`, `high` and `std` are None.
        """
        return self.values["score"]

    @property
    def diverged(self) -> list[str]:
        """Names of the members that went non-finite."""
        return [m["name"] for m in self.values["members"] if m["diverged"]]
