"""A run carried out: the hooks around the one loop. Log, evaluate, checkpoint, stop."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from leashrl.disk.checkpoint import restore, save_checkpoint
from leashrl.disk.files import versions
from leashrl.disk.folder import Row, RunFolder, member_name, rows_of
from leashrl.evaluate.statistics import summary
from leashrl.runs.events import (
    Ended,
    Evaluated,
    Interrupted,
    MemberDiverged,
    Report,
    Saved,
    Started,
    Stepped,
    silent,
)
from leashrl.runs.plan import ONLINE, Plan
from leashrl.runs.results import Divergence, Ends, MemberResult, OnlineReturns, Result
from leashrl.runs.run import Run
from leashrl.training import loop
from leashrl.training.interrupts import Interrupts
from leashrl.training.simulator import recent

CHECKPOINT_SECONDS = 10.0
Fallen = Mapping[int, tuple[int, str]]
"""The members that diverged: the update, and what was not finite."""


def execute(run: Run, folder: Path, checkpoint: tuple | None, report: Report | None) -> Result:
    """Train from a checkpoint or from the start, and leave the files in `folder`.

    Args:
      checkpoint: what `load_checkpoint` gives; None for a new run.
      report: called as the run goes on.
    """
    hooks = Hooks(run, RunFolder(folder), checkpoint, report or silent)
    say, plan, result = hooks.say, run.plan, None
    say(Started(plan, folder, run.task, max(hooks.saved_step, 0), hooks.total))
    with Interrupts(lambda: say(Interrupted())) as interrupts:
        for snapshot in loop.run(
            run.algorithm,
            run.source,
            run.keys,
            run.hp,
            log_every=plan.log_every,
            stop_every=plan.eval_every if run.task or plan.snapshots else 0,
            resume=hooks.restored,
        ):
            hooks.log(snapshot)
            due = hooks.is_due(snapshot)
            if due and not interrupts.pending:
                hooks.evaluate(snapshot)
            hooks.save(snapshot, due or interrupts.pending)
            if interrupts.pending:
                raise KeyboardInterrupt
            if hooks.is_last(snapshot):
                result = hooks.end(snapshot)
                break
    assert result is not None
    hooks.files.write_result(result.to_json())
    if run.simulator:
        run.simulator.close()
    say(Ended(result))
    return result


class Hooks:
    """What happens between two pieces of the loop, and what must be remembered from one to the next."""

    def __init__(self, run: Run, files: RunFolder, checkpoint: tuple | None, say: Report):
        self.run, self.files, self.say = run, files, say
        self.total = sum(stage.steps for stage in run.algorithm.stages)
        # Pre-training is not evaluated; what offline training has left is.
        self.before_training = -1 if run.plan.switch else self.total - run.algorithm.stages[-1].steps
        self.restored, done, meta = None, -1, {}
        if checkpoint:
            done, flat, meta = checkpoint
            like = loop.blank(run.algorithm, run.data, run.keys, run.hp, done)
            self.restored = (done, restore(like, flat, str(files.checkpoint)))
        if run.simulator:
            # Up to the checkpoint; what a kill has left beyond it is dropped, and will come again.
            run.simulator.load(files.replay, meta["rows"] if checkpoint else 0)
        self.metrics = files.metrics_to(done)
        # The simulator is stepped after the checkpoint of the same step.
        self.episodes = files.episodes_to(done - 1) if run.simulator else None
        # A kill among one evaluation's lines leaves some of them: only a checkpoint says that all are there.
        self.evaluations = files.evaluations_to(done if meta.get("evaluated") else done - 1)
        self.told: set[int] = set()
        self.saved_at, self.saved_step = time.monotonic(), done

    def tell(self, fallen: Fallen) -> None:
        """Report the members that diverged since the last time."""
        for i in fallen.keys() - self.told:
            self.told.add(i)
            self.say(MemberDiverged(member_name(self.run.plan.members[i]), *fallen[i]))

    def log(self, snapshot: loop.Snapshot) -> None:
        self.tell(snapshot.fallen)
        rows = []
        for i, member in enumerate(self.run.plan.members if snapshot.logged is not None else ()):
            if i not in snapshot.fallen:
                values = {name: float(x[i]) for name, x in (snapshot.logged or {}).items()}
                row = {"step": snapshot.step, "stage": snapshot.stage} | member | values
                self.metrics.write(row)
                rows.append(self.run.named(row))
        self.say(Stepped(snapshot.step, self.total, snapshot.stage, rows))
        for row in self.run.simulator.take_ended() if self.run.simulator else ():
            assert self.episodes is not None
            self.episodes.write(row)

    def is_last(self, snapshot: loop.Snapshot) -> bool:
        return snapshot.step == self.total or self.are_all_lost(snapshot)

    def are_all_lost(self, snapshot: loop.Snapshot) -> bool:
        return len(snapshot.fallen) == len(self.run.plan.members)

    def is_due(self, snapshot: loop.Snapshot) -> bool:
        """Whether an evaluation or a snapshot belongs to this step."""
        step = snapshot.step
        wanted = self.run.task or self.run.plan.snapshots
        if not wanted or step <= self.before_training or self.are_all_lost(snapshot):
            return False
        return step == self.total or step % self.run.plan.eval_every == 0

    def evaluate(self, snapshot: loop.Snapshot) -> None:
        """Unless the run that is resumed has done so; keep the policies, where they are wanted."""
        run, step = self.run, snapshot.step
        if step in self.evaluations.steps:
            return
        if run.plan.snapshots:
            run.save_policies(self.files.snapshot(step), snapshot.state, snapshot.fallen)
        if not run.task:
            return
        number = (run.plan.final_episodes if step == self.total else None) or run.plan.episodes
        found = run.evaluate(snapshot.state, range(len(run.plan.members)), number)
        rows = [{"step": step} | row for i, row in found.items() if i not in snapshot.fallen]
        for row in rows:
            self.evaluations.write(row)
        self.say(Evaluated(step, [run.named(row) for row in rows]))

    def save(self, snapshot: loop.Snapshot, now: bool) -> None:
        """A checkpoint at the start and the end, when it is asked for, and every few seconds."""
        step, waited = snapshot.step, time.monotonic() - self.saved_at
        now = now or step == 0 or self.is_last(snapshot) or waited > CHECKPOINT_SECONDS
        if step == self.saved_step or not now:
            return
        arrays = {"state": snapshot.state, "tally": snapshot.tally}
        about = {"stage": snapshot.stage, "evaluated": step in self.evaluations.steps}
        if self.run.simulator:
            about["rows"] = self.run.simulator.save(self.files.replay)
        save_checkpoint(self.files.checkpoint, step, arrays, about)
        self.saved_at, self.saved_step = time.monotonic(), step
        self.say(Saved(step))

    def end(self, snapshot: loop.Snapshot) -> Result:
        """Keep the policies, and say what the run has found."""
        run, fallen = self.run, dict(snapshot.fallen)
        fallen |= self.unevaluated(snapshot.step, fallen)
        self.tell(fallen)
        run.save_policies(self.files.policy, snapshot.state, fallen)
        # They stand still at their last finite state: one evaluation says all.
        finite = [i for i in sorted(fallen) if fallen[i][1] != "action"]
        ends = run.evaluate(snapshot.state, finite, run.plan.final_episodes or run.plan.episodes)
        return outcome(run.plan, self.files, snapshot.step, fallen, ends)

    def unevaluated(self, step: int, fallen: Fallen) -> dict[int, tuple[int, str]]:
        """Members that trained to the end, and whose policy then gave an action that is not finite."""
        if self.run.task is None:
            return {}
        rows = self.files.evaluations(step)
        return {
            i: (step, "action")
            for i, member in enumerate(self.run.plan.members)
            if i not in fallen and not rows_of(member, rows)
        }


def outcome(
    plan: Plan, files: RunFolder, step: int, fallen: Fallen, ends: Mapping[int, Row] | None = None
) -> Result:
    """Final and last-ten mean score of each member; the best is never reported alone.

    A member that diverged has no final score: what its last finite policy gets (`ends`, rows of `evaluate`)
    stands where it says that it diverged, and nowhere else.

    Where all have diverged, the last of them says how many steps the run took: when the loop noticed
    depends on the clock.
    """
    if len(fallen) == len(plan.members):
        step = max(at for at, _ in fallen.values())
    evaluations, episodes, members = files.evaluations(), files.episodes(), []
    for i, member in enumerate(plan.members):
        mine = rows_of(member, evaluations)
        end = (ends or {}).get(i, {})
        members.append(
            MemberResult(
                name=member_name(member),
                values=dict(member),
                diverged=Divergence(*fallen[i], end.get("return"), end.get("score")) if i in fallen else None,
                returns=ends_of(mine, "return", None if i in fallen else step),
                score=ends_of(mine, "score", None if i in fallen else step),
                online=OnlineReturns(**recent(episodes, member))
                if plan.data == ONLINE or plan.switch
                else None,
            )
        )
    finals = [m.score.final for m in members if m.score.final is not None]
    return Result(
        folder=files.path,
        algorithm=plan.algorithm,
        preset=plan.preset,
        task=plan.task,
        data=plan.data,
        switch=dataclasses.asdict(plan.switch) if plan.switch else None,
        steps=step,
        episodes=plan.final_episodes or plan.episodes,
        evaluated=plan.task is not None,
        members=tuple(members),
        score=summary(np.array(finals)[:, None]) if finals else None,
        versions=versions(),
    )


def ends_of(rows: list[Row], what: str, last: int | None) -> Ends:
    """A measure at the step `last`, and over the last ten evaluations."""
    values = [row[what] for row in rows if row[what] is not None]
    final = next((row[what] for row in rows if row["step"] == last), None)
    return Ends(final, float(np.mean(values[-10:])) if values else None)
