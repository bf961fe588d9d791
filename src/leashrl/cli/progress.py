"""What is seen of a run while it goes on, on stderr: a bar on a terminal, plain lines everywhere else."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

from leashrl.cli.tables import assignments
from leashrl.runs.events import (
    Ended,
    Evaluated,
    Event,
    Interrupted,
    MemberDiverged,
    Started,
    Stepped,
)

ASSUMED = "taken for D4RL's [-1, 1]: the file says no bounds; `leashrl data convert` writes yours into a copy"


class Screen:
    """Takes a run's events; `close` leaves the terminal as it was."""

    def __init__(self, why_no_task: str):
        self.why_no_task = why_no_task
        self.folder = self.bar = None
        self.step = self.begin = self.total = 0
        self.members = self.eval_every = 0
        self.score = ""
        self.train_seconds = self.eval_seconds = 0.0  # of all updates since the first; of the last evaluation
        self.mark = time.monotonic()

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        took, self.mark = now - self.mark, now
        match event:
            case Started():
                self.start(event)
            case Stepped():
                self.advance(event, took)
            case Evaluated():
                self.evaluated(event, took)
            case MemberDiverged():
                limit = " or beyond 1e30" if event.metric.endswith("_loss") else ""
                self.line(
                    f"{event.member} diverged at step {event.step}: {event.metric} is not finite{limit}"
                )
            case Interrupted() if sys.stderr.isatty():
                # from a signal handler: nothing that locks
                os.write(2, b"\nstopping at the next checkpoint; Ctrl-C again stops at once\n")
            case Ended():
                self.close()
        self.mark = time.monotonic()

    def evaluated(self, event: Evaluated, took: float) -> None:
        self.eval_seconds = took
        values = [row["return" if row["score"] is None else "score"] for row in event.rows]
        if not values:
            return
        what = "return" if event.rows[0]["score"] is None else "score"
        self.score = f"{what} {sum(values) / len(values):.1f}"
        if self.bar is None:
            each = ", ".join(f"{v:.1f}" for v in values)
            self.line(f"step {event.step}: {self.score}{f' ({each})' if len(values) > 1 else ''}")

    def start(self, event: Started) -> None:
        from leashrl.algos import REGISTRY
        from leashrl.runs.plan import ONLINE
        from leashrl.tasks import places

        plan, task = event.plan, event.task
        self.folder, self.total = event.folder, event.total
        self.step = self.begin = event.step
        self.members, self.eval_every = len(plan.members), plan.eval_every if task else 0
        entry = REGISTRY[plan.algorithm]
        data = plan.data
        domain = entry.overlay(plan.preset, *places(task, data.get("name", "")))
        evaluation = f"{plan.task}, {plan.episodes} episodes every {plan.eval_every} updates"
        self.line(f"algorithm  {plan.algorithm}, preset {plan.preset}: {entry.presets[plan.preset].about}")
        if domain and task:
            self.line(f"domain     {task.name} sets {assignments(domain)}")
        if data == ONLINE and task:
            self.line(f"data       what each member sees of {task.env_id}, one update a step")
        else:
            self.line(f"data       {data['name']}, {data['rows']} rows, hash {data['hash'][:12]}")
        if plan.switch:
            after = f"from update {plan.switch.step} of {plan.switch.folder}"
            share = f"{100 * plan.switch.offline_share:g} % of each batch stays the data's"
            self.line(f"online     {after}; {share}")
        if data.get("action_space_assumed"):
            self.line(f"actions    {ASSUMED}")
        self.line(f"task       {evaluation if task else f'not evaluated: {self.why_no_task}'}")
        if precision := getattr(plan.config, "precision", ""):
            sums = ", summed in float32" if precision == "bfloat16" else ""
            self.line(f"precision  {precision}{sums}")
        names = ", ".join(f"seed {m['seed']}" if len(m) == 1 else assignments(m) for m in plan.members[:8])
        self.line(f"members    {self.members}: {names}{', ...' if self.members > 8 else ''}")
        self.line(f"folder     {self.folder}" + (f", from step {self.step}" if self.step else ""))
        if sys.stderr.isatty():
            self.bar, self.row = _bar(self.total, self.step)
            self.bar.start()
        else:
            self.line("compiling ...")

    def advance(self, event: Stepped, took: float) -> None:
        if self.begin < self.step < event.step:  # the first call compiles: it tells nothing of the rate
            self.train_seconds += took
        if self.step == self.begin < event.step:
            self.begin_rate = event.step
        self.step = event.step
        rate = (self.step - self.begin_rate) / self.train_seconds if self.train_seconds else 0.0
        pace, left = "", ""
        if rate:
            seconds = (self.total - self.step) / rate
            if self.eval_every:
                seconds += (self.total // self.eval_every - self.step // self.eval_every) * self.eval_seconds
            pace, left = f"{rate:.3g}/s" if rate < 100 else f"{rate:.0f}/s", clock(seconds)
        if self.bar is not None:
            doing = event.stage if self.step > self.begin else "compiling ..."
            if self.eval_every and self.step > self.begin:
                due = self.step % self.eval_every == 0 or self.step == self.total
                doing = "evaluating" if due else doing
            pace += f" x{self.members}" if pace and self.members > 1 else ""
            self.bar.update(
                self.row, completed=self.step, description=doing, pace=pace, left=left, score=self.score
            )
        elif event.rows:
            every = f"{rate:.4g} updates/s" if rate else ""
            if rate and self.members > 1:
                every += f" ({rate * self.members:.4g} over {self.members} members)"
            parts = [f"step {self.step}/{self.total}", every, f"{left} left" if left else ""]
            self.line(", ".join(filter(None, parts)))

    def line(self, text: str) -> None:
        if self.bar is not None:
            self.bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


@contextlib.contextmanager
def rows_made(total: int | None = None, every: float = 10.0) -> Iterator[Callable[[int], None]]:
    """Tells on stderr how many rows a recipe has made: a bar where the total is known, else lines."""
    began = last = time.monotonic()
    if total is not None and sys.stderr.isatty():
        bar, row = _bar(total, 0)

        def advance(rows: int) -> None:
            rate = rows / (time.monotonic() - began)
            left = clock((total - rows) / rate)
            bar.update(row, completed=rows, description="rows", pace=f"{rate:.0f}/s", left=left)

        with bar:
            yield advance
        return

    def report(rows: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= every:
            last = now
            print(f"{rows} rows, {rows / (now - began):.0f}/s", file=sys.stderr, flush=True)

    yield report


def _bar(total: int, step: int):
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        *(TextColumn(f"{{task.{field}}}") for field in ("completed", "fields[pace]", "fields[left]")),
        TextColumn("{task.fields[score]}"),
        console=Console(stderr=True),
        expand=True,
    )
    return bar, bar.add_task("compiling ...", total=total, completed=step, pace="", left="", score="")


def clock(seconds: float) -> str:
    """
    >>> clock(75), clock(3700)
    ('1:15', '1:01:40')
    """
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
