"""The page: sections as HTML, charts as JSON for `page.js`, all in one file."""

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

from leashrl.disk.files import versions
from leashrl.report import charts, estimates, failures, provenance, summary
from leashrl.report.comparison import compare
from leashrl.report.markup import Markup, embedded, folded, heads, join, scrolled, tag
from leashrl.report.reading import Line, Row, Run
from leashrl.report.words import interval, number, p_value

COLOURS, DASHES = 6, 4
"""As many as page.css has."""
MANY_SEEDS = 10
"""More than these are drawn all or none."""


def page(runs: Sequence[Run], lines: Sequence[Line], problems: Sequence[str], title: str | None) -> str:
    """The whole file."""
    where = list(dict.fromkeys(line.place for line in lines))
    learnt, groups, held = charts.curves(lines), charts.panels(lines), charts.against_data(lines)
    compared, looks = compare(lines), styles(lines)
    drawn = [*learnt, *(compared["charts"] if compared else [])]
    drawn += [chart for group in (*groups, *held) for chart in group["charts"]]
    wrong = failures.notes(lines, problems)

    judged = estimates.section(lines, looks)
    sections = [("answer", "Results", summary.section(lines, looks))]
    if judged and not any(line.unit for line in lines):  # nothing was evaluated: estimates are the answer
        sections = [("answer", "Estimates", judged)]
    elif judged:
        sections.append(("estimates", "Estimated from the data", judged))
    if wrong:
        sections.append(("wrong", "What went wrong", problem_list(wrong)))
    if learnt:
        sections.append(("curves", "Learning curves", join([filters(lines, looks), curves(learnt)])))
    if compared:
        sections.append(("comparison", "Comparison", comparison(compared, looks)))
    if groups:
        sections.append(("diagnostics", "Diagnostics", panels(groups, looks)))
    if held:
        sections.append(("policy", "Policy against data", against_data(held, looks)))
    sections.append(("seeds", "Seeds", summary.members(lines, looks)))
    sections += provenance.sections(runs, lines)

    labels, members = {line.label for line in lines}, sum(len(line.members) for line in lines)
    sizes = [failures.count(len(labels), "setting"), failures.count(members, "seed")]
    sizes += [failures.count(len(where), "data set")] if len(where) > 1 else []
    heading = title or (where[0] if len(where) == 1 else f"{sizes[0]} on {sizes[-1]}")
    read = lambda name: files("leashrl.report").joinpath(name).read_text("utf-8")
    script = read("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(read("page.html")).substitute(
        title=escape(heading),
        eyebrow=escape(" · ".join(["leashrl report", *sizes])),
        version=escape(versions().get("leashrl", "(from source)")),
        style=read("page.css"),
        script=script,
        script_hash=f"sha256-{digest}",
        navigation=join(tag("a", name, href=f"#{id}") for id, name, _ in sections),
        sections=join(
            tag("section", None if id == "answer" else tag("h2", name), body, id=id)
            for id, name, body in sections
        ).replace(" %", "\u00a0%"),
        data=embedded({"charts": {chart["id"]: chart for chart in drawn}, "styles": looks}),
    )


def styles(lines: Sequence[Line]) -> dict[str, Row]:
    """A colour and a dash for each label, the same in every chart."""
    labels = sorted({line.label for line in lines})
    return {label: {"colour": i % COLOURS, "dash": i // COLOURS % DASHES} for i, label in enumerate(labels)}


# --- Charts ------------------------------------------------------------------


def figure(chart: Row) -> Markup:
    """The place that `page.js` draws a chart in."""
    compressed = "The axis is compressed (asinh)." if chart.get("symlog") else ""
    about = " ".join(filter(None, [chart["about"], compressed]))
    spoken = f"{chart['title']}: {chart['y'] or 'value'} against {chart['x'] or 'value'}."
    plot = tag(
        "div",
        tag("svg", aria_hidden="true"),
        tag("div", class_="tip", role="status", hidden=True),
        class_="plot",
        tabindex=0,
        role="group",
        aria_label=f"{spoken} Arrow keys read the values.",
    )
    caption = tag("figcaption", chart["title"], tag("small", about) if about else None)
    look = "big" if chart.get("big") else None
    return tag("figure", caption, plot, data_chart=chart["id"], data_place=chart.get("place"), class_=look)


def grid(found: Sequence[Row]) -> Markup:
    return tag("div", map(figure, found), class_="grid-2")


# --- Sections ----------------------------------------------------------------

KINDS = {
    "failed": "Diverged.",
    "unfinished": "Not finished.",
    "strange": "Suspicious.",
    "unreadable": "Unreadable.",
}


def problem_list(notes: Sequence[Row]) -> Markup:
    code = lambda note: [" ", tag("code", note["command"])] if "command" in note else None
    items = [tag("li", tag("b", KINDS[note["kind"]]), " ", note["text"], code(note)) for note in notes]
    return tag("ul", items, class_="problems")


def filters(lines: Sequence[Line], looks: dict[str, Row]) -> Markup:
    """The legend, whose boxes show and hide; the data set; what to draw of the seeds."""
    labels, where = sorted({line.label for line in lines}), list(dict.fromkeys(line.place for line in lines))
    box = lambda **marks: tag("input", type="checkbox", autocomplete="off", **marks)
    legend = [
        tag("label", box(data_label=name, checked=True), summary.swatch(name, looks), name, data_name=name)
        for name in labels
    ]
    if len(labels) > 2:
        both = {"yes": "all", "no": "none"}
        legend += [tag("button", text, type="button", data_all=value) for value, text in both.items()]
    rows = [tag("fieldset", tag("legend", "Show"), legend)]
    if len(where) > 1:
        options = [tag("option", "all", value=""), *(tag("option", place, value=place) for place in where)]
        select = tag("select", options, id="place", autocomplete="off", aria_label="data set")
        rows.append(tag("fieldset", tag("legend", "Data"), tag("label", select, class_="pick")))
    names = list(dict.fromkeys(charts.seed_of(m) for line in lines for m in line.members if m.points))
    seeds = {f"seed {name}": [name] for name in names} if len(names) <= MANY_SEEDS else {"every seed": names}
    boxes = [tag("label", box(data_seed=json.dumps(group)), name) for name, group in seeds.items()]
    mean = tag("label", box(id="band", checked=True), "mean and interval")
    rows.append(tag("fieldset", tag("legend", "Draw"), mean, boxes))
    return tag("form", rows, id="filters")


def legend(found: Sequence[Row], looks: dict[str, Row]) -> Markup:
    """The looks of the lines in some charts, where the filters are out of sight."""
    names = sorted({s["label"] for chart in found for s in chart["series"]} & looks.keys())
    keys = [tag("span", summary.swatch(name, looks), name, data_key=name) for name in names]
    return tag("p", keys, class_="legend", aria_hidden="true")


def curves(found: Sequence[Row]) -> Markup:
    what = " or ".join(sorted({chart["y"] for chart in found})).capitalize()
    about = (
        f"{what} at each evaluation: mean over seeds and its 95 % t interval, wide where seeds are few, none "
    )
    about += "of one seed. The axis follows the means and may cut it off."
    script = tag("noscript", tag("p", "The curves need JavaScript; the tables do not."))
    return join([tag("p", about, class_="about"), script, map(figure, found)])


def comparison(found: Row, looks: dict[str, Row]) -> Markup:
    where = f"Over {', '.join(found['places'])}. " if len(found["places"]) > 1 else ""
    rows = [
        tag("tr", tag("th", label, scope="row"), map(chance, row))
        for label, row in zip(found["labels"], found["matrix"], strict=True)
    ]
    about = (
        "How often a seed of the row ends above a seed of the column, in per cent; 50 is a draw. Point at a "
    )
    about += "number for its 95 % interval (Newcombe's): with few seeds it is wide."
    return join(
        [
            tag("p", where + found["note"], class_="about") if where or found["note"] else None,
            aggregates(found) if len(found["places"]) > 1 else None,
            legend(found["charts"], looks),
            [figure(chart | {"big": True}) for chart in found["charts"]],
            tag("h3", "Probability of improvement"),
            tag("p", about, class_="about"),
            scrolled([tag("td"), *heads(found["labels"])], rows, class_="matrix"),
            differences(found["tests"]),
        ]
    )


def chance(cell: Row | None) -> Markup:
    if cell is None:
        return tag("td", "·", class_="self")
    p, known = 100 * cell["p"], cell["low"] is not None
    ends = (
        f"interval {100 * cell['low']:.0f} to {100 * cell['high']:.0f}"
        if known
        else "no interval of one seed"
    )
    said = f"{p:.0f} per cent, {ends}"
    return tag("td", f"{p:.0f}", style=f"--p:{0.45 * p:.0f}", title=said)


def differences(found: Sequence[Row]) -> Markup:
    """Is the first setting ahead of each other? Differences, and what four tests say."""
    about = (
        f"{found[0]['a']} against each other setting. p: Welch's t test, which takes scores as normal; "
        "corrected: for all pairs of settings, after Holm; permutations: of labels, with the least p that so "
        "few seeds can give; and the same two of seeds that both have, matched. Ahead: corrected p below 5 "
        "%, with three seeds or more of both."
    )
    names = ("difference", "95 % interval", "p", "corrected", "permutations", "least", "matched, t", "signs")
    rows = []
    for r in found:
        values = [number(r["difference"]), interval(r["low"], r["high"])]
        values += [p_value(r[k]) for k in ("p", "p_holm", "p_permutation", "least_p", "p_paired", "p_signs")]
        cells = [
            tag("td", value, class_="number") for value in [*values, "yes" if r["decided"] else "not decided"]
        ]
        rows.append(tag("tr", tag("th", r["b"], scope="row"), cells, data_label=r["b"]))
    head = [tag("td"), *heads([*names, "ahead"], [*names, "ahead"])]
    return join([tag("h3", "Differences"), tag("p", about, class_="about"), scrolled(head, rows)])


def aggregates(found: Row) -> Markup:
    """The table over all data sets."""
    rows = []
    for r in found["rows"]:
        cells = [
            (
                tag("td", f"{r[name]:.1f}", class_="number"),
                tag("td", interval(r[low], r[high]), class_="number soft"),
            )
            for name, low, high in (("iqm", "iqm_low", "iqm_high"), ("mean", "low", "high"))
        ]
        rows.append(tag("tr", tag("th", r["label"], scope="row"), cells, data_label=r["label"]))
    names = ("IQM", "95 % interval", "mean", "95 % interval")
    return scrolled([tag("td"), *heads(names, names)], rows)


def panels(groups: Sequence[Row], looks: dict[str, Row]) -> Markup:
    about = "Every logged metric against gradient updates: mean over seeds, the band from lowest to highest."
    closed = ("Losses", charts.OTHERS[0])
    shown = [
        folded(g["title"], g["about"], grid(g["charts"]), open_=g["title"] not in closed) for g in groups
    ]
    key = legend([chart for g in groups for chart in g["charts"]], looks)
    return join([tag("p", about, class_="about"), key, shown])


def against_data(held: Sequence[Row], looks: dict[str, Row]) -> Markup:
    about = (
        "On a sample of the logged states; grey is the data. Policies that can draw are shown as they draw, "
    )
    about += "their distance is that of the action they are evaluated with."
    key = legend([chart for found in held for chart in found["charts"]], looks)
    parts = [tag("p", about, class_="about"), key]
    for found in held:
        head = tag("h3", found["place"]) if len(held) > 1 else None
        notes = [tag("p", note, class_="note") for note in found["notes"]]
        parts.append(tag("div", head, notes, grid(found["charts"]), data_place=found["place"]))
    return join(parts)
