"""The members of BRAC+'s runs, pooled under the labels that the figures from runs show."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from leashrl.algos.brac_plus import Config
from leashrl.core import override, to_json
from leashrl.errors import BadInput
from leashrl.papers.experiments import below
from leashrl.runs.experiment import read_plan
from leashrl.runs.plan import Plan

DIVERGENCES = {"mmd": "MMD", "cross-entropy": "cross-entropy", "kl": "KL"}


class Member(NamedTuple):
    """One row of a run that has ended."""

    folder: Path
    i: int
    row: dict[str, float]  # its seed and what varies, as its lines of evaluations.jsonl have them
    config: Config
    data: str
    end: dict[str, Any] | None
    """Where it diverged, as `result.json` says it."""


Pools = dict[str, dict[str, list[Member]]]
"""`{data set: {label: members}}`."""


def collect(runs: str, wanted: str, keep: Callable[[Plan], bool]) -> list[Member]:
    """The members of all runs that `keep` keeps."""
    members = []
    for files in below(runs):
        here = files.path
        if files.config()["algorithm"] != "brac-plus":
            continue
        plan, _ = read_plan(here)
        if not keep(plan):
            continue
        if not files.finished:
            raise BadInput(f"'{here}' has not ended: `leashrl resume {here}` goes on with it")
        ends = files.result()["members"]
        for i, (row, end) in enumerate(zip(plan.members, ends, strict=True)):
            config = override(plan.config, {name: x for name, x in row.items() if name != "seed"})
            members.append(Member(here, i, row, config, plan.data["name"], end["diverged"]))
    if not members:
        raise BadInput(f"no runs of brac-plus {wanted} below '{runs}': --set runs=FOLDER names another")
    return members


def variant(config: Config) -> str:
    """What the text's ablations change."""
    multiplier = "state-wise" if config.state_wise else "one multiplier"
    penalty = "no slope penalty" if config.slope_weight == "none" else "slope penalty"
    return f"{DIVERGENCES[config.divergence]}, {multiplier}, {penalty}"


def ended(members: Sequence[Member]) -> list[Member]:
    """Those that did not diverge, and all of a data set and Config that has none of them."""
    fine = {(m.data, m.config) for m in members if not m.end}
    return [m for m in members if not m.end or (m.data, m.config) not in fine]


def stop_of(member: Member) -> str:
    return f", stopped at update {member.end['step']:,}" if member.end else ""


def by_variant(members: Sequence[Member]) -> Pools:
    kinds = list(DIVERGENCES)
    order = lambda c: (kinds.index(c.divergence), c.state_wise, c.slope_weight != "none")
    return pools(members, lambda m: variant(m.config), lambda m: order(m.config))


def by_state(members: Sequence[Member]) -> Pools:
    """The same of members whose state is looked into; what diverged is labelled."""
    found: Pools = {}
    for data, label, mine in flat(by_variant(ended(members))):
        for member in mine:
            found.setdefault(data, {}).setdefault(label + stop_of(member), []).append(member)
    return found


def pools(members: Sequence[Member], name: Callable[[Member], str], order: Callable[[Member], Any]) -> Pools:
    """Members of one data set and one Config together; labels in `order`, data sets by name.

    Where `name` calls different Configs alike, what differs is added; if that is much, a number and the name
    of a folder.
    """
    found: Pools = {}
    for member in sorted(members, key=lambda m: (m.data, order(m))):
        label = name(member)
        alike = [m for m in members if m.data == member.data and name(m) == label]
        others = [to_json(m.config) for m in alike]
        more = [f"{k}={x}" for k, x in to_json(member.config).items() if any(o[k] != x for o in others)]
        if len(more) > 3:
            configs = [m.config for m in alike]
            i = list(dict.fromkeys(configs)).index(member.config)
            more = [f"{i + 1}: {alike[configs.index(member.config)].folder.name}"]
        found.setdefault(member.data, {}).setdefault(", ".join([label, *more]), []).append(member)
    return found


def flat(found: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, Any]]:
    return [(data, label, x) for data, by in found.items() for label, x in by.items()]
