"""What `leashrl report --fqe` left in the runs: every policy's value, estimated from the data alone."""

from collections.abc import Sequence
from typing import Any

from leashrl.report.markup import Markup, heads, join, tag
from leashrl.report.reading import Line, Member, Row
from leashrl.report.summary import Scale, style_of, swatch

FLAGGED = "Flagged values rest on guesses: do not choose by them."


def estimated(lines: Sequence[Line]) -> list[tuple[str, Member, Row]]:
    """(label, member, what FQE says of it) of every policy that was judged, the best estimate first."""
    found = [(line.label, m, m.estimate) for line in lines for m in line.members if m.estimate]
    return sorted(found, key=lambda one: -(one[2]["value"] if one[2]["value"] is not None else float("-inf")))


def section(lines: Sequence[Line], looks: dict[str, Row]) -> Markup | None:
    """A sentence and a table a data set; None where nothing was judged."""
    parts = []
    where = list(dict.fromkeys(line.place for line in lines))
    for place in where:
        here = [line for line in lines if line.place == place]
        rows = estimated(here)
        if rows:
            title = tag("h3", place) if len(where) > 1 else None
            parts.append(tag("div", title, answer(rows), table(rows, looks), data_place=place))
    if not parts:
        return None
    about = (
        "Discounted sums of rewards, estimated by fitted Q evaluation from the logs; no simulator was asked. "
        "Bars are 95 % intervals over other data of the same kind. Values are not scores, and their order "
        "may be wrong: the data do not say what happens where they have not been."
    )
    return join([*parts, tag("p", about, class_="note")])


def answer(rows: Sequence[tuple[str, Member, Row]]) -> Markup:
    """Which policy is worth most, and what speaks against it."""
    label, member, best = rows[0]
    if best["value"] is None:
        return tag("p", "No critic of fitted Q evaluation stayed finite.", class_="answer")
    known = best["low"] is not None
    ends = f" (95 % interval {worth(best['low'])} to {worth(best['high'])})" if known else ""
    said: list[Any] = [tag("b", f"{label}, {member.name}"), " has the highest estimate, "]
    said += [
        tag("b", worth(best["value"])),
        f"{ends}; the logged behaviour is worth {worth(logged(member))}.",
    ]
    rivals = [
        one for _, _, one in rows[1:] if known and one["high"] is not None and one["high"] > best["low"]
    ]
    if rivals:
        many = "One other interval reaches" if len(rivals) == 1 else f"{len(rivals)} other intervals reach"
        said.append(f" {many} into it.")
    if any(row["flags"] for _, _, row in rows):
        said.append(f" {FLAGGED}")
    return tag("p", said, class_="answer")


def table(rows: Sequence[tuple[str, Member, Row]], looks: dict[str, Row]) -> Markup:
    """A row a policy and one for the log; the strips share one scale."""
    ends = [row[k] for _, _, row in rows for k in ("value", "low", "high") if row[k] is not None]
    floor = logged(rows[0][1])
    scale = Scale(min([floor, *ends]), max([floor, *ends]))
    axis = tag("th", scale.axis("estimated value"), scope="col", class_="strip")
    names = ("value", "95 % interval", "rank")
    head = [tag("th", "policy", scope="col"), axis, heads((*names, "flags"), names)]
    body = [row_of(*one, scale, looks) for one in rows]
    log: Row = {"value": floor, "low": None, "high": None, "flags": []}
    cells = [tag("td", strip(log, scale), class_="strip"), tag("td", worth(floor), class_="number mean")]
    nothing = tag("td", "–", class_="number soft small")
    body.append(
        tag(
            "tr",
            tag("th", "the log itself", scope="row", class_="whole"),
            *cells,
            nothing,
            nothing,
            tag("td"),
        )
    )
    return tag("table", tag("thead", tag("tr", head)), tag("tbody", body), class_="summary")


def row_of(label: str, member: Member, row: Row, scale: Scale, looks: dict[str, Row]) -> Markup:
    known = row["low"] is not None
    small = lambda text, name=None: tag("td", text, class_="number soft small", data_name=name)
    rank = "–" if not row["rank"] else str(row["rank"])
    if row["rank"] and known:
        rank += f" ({row['rank_low']} to {row['rank_high']})"
    return tag(
        "tr",
        tag("th", swatch(label, looks), f"{label}, {member.name}", scope="row", class_="whole"),
        tag("td", strip(row, scale), class_="strip"),
        tag("td", worth(row["value"]), class_="number mean"),
        small(f"{worth(row['low'])} to {worth(row['high'])}" if known else "–"),
        small(rank, "rank"),
        tag("td", "; ".join(row["flags"]), class_="soft small"),
        class_=style_of(label, looks),
        data_label=label,
    )


def strip(row: Row, scale: Scale) -> Markup:
    """Gridlines, the interval and the value."""
    vertical = lambda x, look: tag("line", class_=look, x1=x, x2=x, y1=0, y2=26)
    parts = [vertical(scale.at(tick), "rule") for tick in scale.ticks]
    if row["low"] is not None:
        parts.append(
            tag("line", class_="interval", x1=scale.at(row["low"]), x2=scale.at(row["high"]), y1=13, y2=13)
        )
    if row["value"] is not None:
        parts.append(tag("circle", cx=scale.at(row["value"]), cy=13, r=4))
    return tag("svg", parts, height=26, role="img", aria_label=f"value {worth(row['value'])}")


def logged(member: Member) -> float:
    """The logged behaviour's value on the data that the member was judged on."""
    assert member.run.fqe is not None
    return member.run.fqe["data"]["value"]["held_out"]


def worth(value: float | None) -> str:
    """Four digits: values may be far below 1.

    >>> worth(-447.1407), worth(0.012345), worth(None)
    ('−447.1', '0.01235', '–')
    """
    if value is None:
        return "–"
    return (f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:#.4g}").replace("-", "−")
