"""What went wrong, in plain words: seeds that diverged, runs that stopped, values beyond belief."""

import shlex
import statistics
from collections.abc import Sequence

from leashrl.report.reading import Line, Member, Row, finite

CRITIC = ("q_", "target", "td_loss", "critic", "value")
"""How the names of a critic's metrics begin."""
WINDOW, GROWTH, BEYOND = 5, 10.0, 10.0
"""Logged lines that are looked back on; what counts as growth in them; how far from the others is too far."""


def notes(lines: Sequence[Line], problems: Sequence[str] = ()) -> list[Row]:
    """`kind` (failed, unfinished, strange, unreadable), `text` and perhaps `command`, the worst first."""
    found = [note(lines, line, member) for line in lines for member in line.members]
    return [
        *(row for row in found if row and row["kind"] == "failed"),
        *unfinished(lines),
        *strange(lines),
        *({"kind": "unreadable", "text": f"Left out: {problem}."} for problem in problems),
    ]


def note(lines: Sequence[Line], line: Line, member: Member) -> Row | None:
    """The sentences on a member that diverged, from its last logged lines."""
    if not member.diverged:
        return None
    step, metric = member.diverged["step"], str(member.diverged["metric"])
    if metric == "action":
        what = "its policy gave an action that is not finite"
    elif metric == "state":
        what = "its parameters became non-finite"
    else:
        what = f"{metric} became non-finite, or larger than any reward allows"
    others = [m for m in line.members if m is not member and not m.diverged]
    rest = "No seed of it is left." if not others else f"The other {count(len(others), 'seed')} went on."
    who = f"Seed {member.seed} of {line.label}{on(lines, line)}"
    text = f"{who} stopped at step {step:,}: {what}{history(member, step, metric)} {rest}"
    return {"kind": "failed", "text": text}


def history(member: Member, step: int, metric: str) -> str:
    """How the metric, or else the fastest-growing one, moved before; and what that says."""
    rows = [row for row in member.metrics if row["step"] <= step][-WINDOW:]
    if len(rows) < 2:
        return (
            f"; {'one line was' if rows else 'nothing was'} logged before (a smaller --log-every shows more)."
        )
    growth = {
        name: finite([rows[0].get(name), rows[-1].get(name)])
        for name in rows[-1]
        if name not in member.values and name not in ("step", "stage")
    }
    ratio = {n: abs(v[1]) / max(abs(v[0]), 1e-9) for n, v in growth.items() if len(v) == 2 and abs(v[1]) > 1}
    grown = [name for name, r in ratio.items() if r >= GROWTH]
    if not grown:
        return f". In the {len(rows)} lines logged before, nothing had grown tenfold: it came suddenly."
    name = metric if metric in grown else max(grown, key=lambda n: ratio[n])
    before, after = growth[name]
    whose = "the critic" if any(n.startswith(CRITIC) for n in (metric, name)) else "training"
    said = f"{'it' if name == metric else name} had gone from {short(before)} to {short(after)}"
    return f". In the {len(rows)} lines logged before, {said}: {whose} diverged."


def unfinished(lines: Sequence[Line]) -> list[Row]:
    """A line a run that has no result yet."""
    found = {}
    for line in lines:
        for run in (m.run for m in line.members if m.run.result is None):
            steps = run.config["config"].get("steps")
            whole = f" of {steps:,}" if isinstance(steps, int) and steps >= run.step else ""
            last = (
                "its last evaluation stands in for the final one"
                if run.evaluations
                else "nothing was evaluated yet"
            )
            text = f"{line.label}{on(lines, line)} stands at step {run.step:,}{whole}; {last}. To go on:"
            command = f"leashrl resume {shlex.quote(str(run.folder))}"
            found[run.folder] = {"kind": "unfinished", "text": text, "command": command}
    return list(found.values())


def strange(lines: Sequence[Line]) -> list[Row]:
    """Members that did not fail, but whose Q-values lie far from those of the others on the same data."""
    found = []
    for place in dict.fromkeys(line.place for line in lines):
        here = [line for line in lines if line.place == place]
        last = {id(m): q for line in here for m in line.members if (q := last_q(m)) is not None}
        if len(last) < 4:
            continue
        usual = statistics.median(map(abs, last.values()))
        for line in here:
            odd = [m for m in line.members if not m.diverged and abs(last.get(id(m), 0.0)) > BEYOND * usual]
            if odd:
                who = (
                    f"Seed{'s' if len(odd) > 1 else ''} {listed([str(m.seed) for m in odd])} of {line.label}"
                )
                values = listed([short(last[id(m)]) for m in odd])
                text = (
                    f"{who}{on(lines, line)} finished, but with Q-values of {values} for the data's actions, "
                )
                text += (
                    f"where half of all seeds stay below {short(usual)}: the critic probably overestimates."
                )
                found.append({"kind": "strange", "text": text})
    return found


def last_q(member: Member) -> float | None:
    return next(iter(finite(row.get("q_data") for row in reversed(member.metrics))), None)


# --- Words -------------------------------------------------------------------


def on(lines: Sequence[Line], line: Line) -> str:
    """Where, if there is more than one place."""
    return f" on {line.place}" if len({x.place for x in lines}) > 1 else ""


def listed(names: Sequence[str]) -> str:
    """
    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def count(n: int, what: str) -> str:
    """
    >>> count(1, "seed"), count(2, "seed")
    ('1 seed', '2 seeds')
    """
    return f"{n} {what}{'' if n == 1 else 's'}"


def short(value: float) -> str:
    """
    >>> short(24630.266), short(0.123456), short(-21835674550.272)
    ('24,630', '0.123', '-2.18e+10')
    """
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"
