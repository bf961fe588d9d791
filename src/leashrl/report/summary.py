"""The first screen, which is the answer: a sentence, and a table whose rows show every seed."""

import math
from collections.abc import Callable, Mapping, Sequence

from leashrl.evaluate.significance import ALPHA, LEAST_RUNS, PairComparison
from leashrl.report.markup import Markup, folded, heads, join, scrolled, tag
from leashrl.report.reading import Line, Row, finite
from leashrl.report.tables import UNITS, comparisons, summaries
from leashrl.report.words import interval, number, p_value, seeds


def section(lines: Sequence[Line], looks: dict[str, Row]) -> Markup:
    """A sentence and a table a place."""
    rows, parts, compared = summaries(lines), [], comparisons(lines)
    where = list(dict.fromkeys(row["data"] for row in rows))
    for place in where:
        here = [row for row in rows if row["data"] == place]
        members = {line.label: line for line in lines if line.place == place}
        title = tag("h2", place) if len(where) > 1 else None
        parts.append(tag("div", title, answer(here, compared), table(here, members, looks), data_place=place))
    note = (
        "Each dot is a seed at its last evaluation, never at its best; the bar is the mean, the shade its "
        "95 % t interval over seeds, cut off where the axis ends; one seed has none. IQM: the mean of the "
        "middle half of the seeds. Last ten: the mean of the last ten evaluations."
    )
    return join([*parts, tag("p", note, class_="note")])


def answer(rows: Sequence[Row], compared: Mapping[tuple[str, str, str], PairComparison]) -> Markup:
    """Who ends highest, by how much, and from which of the others a test tells it."""
    strong = lambda text: tag("b", text)
    ranked = [row for row in rows if row["mean"] is not None]
    if not ranked:
        return tag(
            "p",
            "Nothing was evaluated here, or no seed reached its last evaluation. Without a simulator, --fqe "
            "estimates values from the data.",
            class_="answer",
        )
    best = ranked[0]
    ends = "ends highest, with a mean" if len(ranked) > 1 else "ends at a mean"
    said = [strong(best["label"]), f" {ends} {UNITS[best['unit']]} of ", strong(number(best["mean"]))]
    said.append(f" over {seeds(best['n'])}")
    if best["n"] == 1:
        return tag("p", said, ". One seed says little: train more.", class_="answer")
    said.append(
        f" (95 % interval {interval(best['low'], best['high'])})." if best["low"] is not None else "."
    )
    against = lambda row: compared[best["data"], best["label"], row["label"]]
    open_ = [row for row in ranked[1:] if not against(row).decided]
    if open_:
        names: list[str] = [strong(row["label"]) for row in open_[:3]]
        names += [f"{len(open_) - 3} more"] if len(open_) > 3 else []
        said += [" Whether it is ahead of ", listed(names), " is not decided: ", why([best, *open_], against)]
    elif len(ranked) > 1:
        worst = max(p for row in ranked[1:] if (p := against(row).p_holm) is not None)
        others, second = "the other" if len(ranked) == 2 else "every other", strong(ranked[1]["label"])
        said.append(f" It is ahead of {others} (Welch's t test, which takes scores as normal, corrected for ")
        said += [f"all pairs: p {at_most(worst)}); ", second, f" comes next at {number(ranked[1]['mean'])}."]
    return tag("p", said, class_="answer")


def why(rows: Sequence[Row], against: Callable[[Row], PairComparison]) -> str:
    """What stands in the way of a decision: too few seeds, or a p-value. The first row is the best."""
    few = min(row["n"] for row in rows)
    if few < LEAST_RUNS:
        return f"that takes {seeds(LEAST_RUNS)} of each, and one of them has {seeds(few)}."
    tests = [against(row) for row in rows[1:]]
    least = min((t.p_holm for t in tests if t.p_holm is not None), default=None)
    if least is None:
        return "no seed differs from another of its setting, so that there is nothing to test with."
    said = f"with {seeds(few)} Welch's t test, corrected for all pairs, gives p {at_least(least, len(tests))}"
    reach = min(t.least_p for t in tests)
    if reach > ALPHA:
        said += f" (a permutation test cannot give less than {p_value(reach)})"
    return f"{said}."


def at_most(p: float) -> str:
    return p_value(p) if p < 0.001 else f"≤ {p_value(p)}"


def at_least(p: float, tests: int) -> str:
    return f"{'=' if tests == 1 else '≥'} {p_value(p)}"


def table(rows: Sequence[Row], members: dict[str, Line], looks: dict[str, Row]) -> Markup:
    """A row a label; the strips in the middle share one scale."""
    values = [value for line in members.values() for value in line.finals] or [0.0, 1.0]
    low = min(values) if rows[0]["unit"] == "return" else min(0.0, *values)
    scale = Scale(low, max(values))
    names = ("mean", "95 % interval", "IQM", "last ten", "seeds")
    axis = tag("th", scale.axis(UNITS.get(rows[0]["unit"], "")), scope="col", class_="strip")
    head = [tag("th", "setting", scope="col"), axis, heads(names, names)]
    body = [row_of(row, members[row["label"]], scale, looks) for row in rows]
    return tag("table", tag("thead", tag("tr", head)), tag("tbody", body), class_="summary")


def row_of(row: Row, line: Line, scale: "Scale", looks: dict[str, Row]) -> Markup:
    badges = [f"{len(row['diverged'])} diverged"] if row["diverged"] else []
    badges += [] if row["finished"] else ["not finished"]
    name = [
        swatch(row["label"], looks),
        row["label"],
        [(" ", tag("span", b, class_="badge")) for b in badges],
    ]
    count = row["n"] if row["n"] == row["of"] else f"{row['n']} of {row['of']}"
    small = lambda text, name=None: tag("td", text, class_="number soft small", data_name=name)
    return tag(
        "tr",
        tag("th", name, scope="row"),
        tag("td", scale.strip(row, line), class_="strip"),
        tag("td", number(row["mean"]), class_="number mean"),
        small(interval(row["low"], row["high"])),
        small(number(row["iqm"]), "IQM"),
        small(number(row["last_10_mean"]), "last ten"),
        small(count, "seeds"),
        class_=style_of(row["label"], looks) + ("" if row["n"] else " empty"),
        data_label=row["label"],
    )


class Scale:
    """Where a value stands on the strips, in per cent of their width."""

    def __init__(self, low: float, high: float):
        step = nice((high - low) / 5 or 1.0)
        self.ticks = [step * i for i in range(math.floor(low / step), math.ceil(high / step) + 1)]
        self.low, self.high = self.ticks[0], max(self.ticks[-1], self.ticks[0] + step)

    def at(self, value: float) -> str:
        return f"{1 + 98 * (value - self.low) / (self.high - self.low):.2f}%"

    def axis(self, unit: str) -> Markup:
        ends = {0: "start", len(self.ticks) - 1: "end"}
        marks = [
            tag("text", f"{tick:,.6g}", x=self.at(tick), y=11, text_anchor=ends.get(i, "middle"))
            for i, tick in enumerate(self.ticks)
        ]
        return tag("svg", marks, height=14, role="img", aria_label=f"{unit}, {self.low:g} to {self.high:g}")

    def strip(self, row: Row, line: Line) -> Markup:
        """Gridlines, the interval, the mean and a dot a seed."""
        vertical = lambda x, y1, y2, look: tag("line", class_=look, x1=x, x2=x, y1=y1, y2=y2)
        parts = [vertical(self.at(tick), 0, 26, "rule") for tick in self.ticks]
        if row["mean"] is not None:
            if row["low"] is not None:
                low, high = (self.at(min(max(row[name], self.low), self.high)) for name in ("low", "high"))
                parts.append(tag("line", class_="interval", x1=low, x2=high, y1=13, y2=13))
            parts.append(vertical(self.at(row["mean"]), 4, 22, "mid"))
        ended = [(m.name, m.final) for m in line.members if m.final is not None]
        for name, value in ended:
            parts.append(tag("circle", tag("title", f"{name}: {value:.1f}"), cx=self.at(value), cy=13, r=4))
        spoken = ", ".join(f"{value:.1f}" for _, value in ended) or "none"
        return tag("svg", parts, height=26, role="img", aria_label=f"seeds at {spoken}")


def nice(step: float) -> float:
    """1, 2, 2.5 or 5 times a power of ten, not below `step`.

    >>> nice(23.0), nice(0.3)
    (25.0, 0.5)
    """
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= step * 0.999)


# --- Every seed --------------------------------------------------------------


def members(lines: Sequence[Line], looks: dict[str, Row]) -> Markup:
    """All members in one table: final, last ten, the last evaluation's episodes."""
    body, several = [], len({line.place for line in lines}) > 1
    for line in lines:
        for m in line.members:
            episodes = finite(m.episodes)
            spread = f"{min(episodes):,.0f} to {max(episodes):,.0f}" if episodes else "–"
            end = f"diverged at step {m.diverged['step']:,} ({m.diverged['metric']})" if m.diverged else ""
            end = end or ("" if m.run.result else f"not finished, at step {m.run.step:,}")
            cells = [
                tag("td", swatch(line.label, looks), line.label),
                tag("td", line.place, class_="soft") if several else None,
                tag("td", m.name),
                tag("td", number(m.final), class_="number"),
                tag("td", number(m.last_ten), class_="number"),
                tag("td", spread, class_="number soft"),
                tag("td", end, class_="badge"),
            ]
            body.append(tag("tr", cells, data_label=line.label, data_place=line.place))
    names = (
        "setting",
        *(["data"] if several else []),
        "seed",
        "final",
        "last ten",
        "returns of its last episodes",
        "",
    )
    about = "final and last-ten values, returns of the last episodes"
    return folded("Every seed", about, scrolled(heads(names, names[-4:]), body))


# --- Words and looks ---------------------------------------------------------


def listed(names: Sequence[str]) -> Markup:
    """
    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    if len(names) == 1:
        return join(names)
    return join([names[0], *((", ", name) for name in names[1:-1]), " and ", names[-1]])


def style_of(label: str, looks: dict[str, Row]) -> str:
    return f"c{looks[label]['colour']} d{looks[label]['dash']}"


def swatch(label: str, looks: dict[str, Row]) -> Markup:
    line = tag("line", x1=0, x2=20, y1=2, y2=2)
    return tag("svg", line, class_=f"swatch {style_of(label, looks)}", width=20, height=4, aria_hidden="true")
