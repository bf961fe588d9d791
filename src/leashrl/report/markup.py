"""HTML as nested calls, so that nothing is left unescaped by mistake."""

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

VOID = {"input", "line", "circle"}


class Markup(str):
    """Text that is HTML already; any other string is escaped on its way in."""


def tag(name: str, *inner: Any, **attributes: Any) -> Markup:
    """One element. A trailing underscore of an attribute's name is dropped, others become hyphens.

    Args:
      name: of the element.
      inner: strings, numbers, Markup, or iterables of them; None is left out.
      attributes: True stands alone; None and False are left out.

    >>> tag("td", "a < b", class_="number", data_label='"x"', hidden=True)
    '<td class="number" data-label="&quot;x&quot;" hidden>a &lt; b</td>'
    """
    parts = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(key)
        elif value is not None and value is not False:
            parts.append(f'{key}="{html.escape(str(value))}"')
    start = " ".join(parts)
    return Markup(f"<{start}/>" if name in VOID and not inner else f"<{start}>{join(inner)}</{name}>")


def join(inner: Iterable[Any]) -> Markup:
    """All of them, one after the other."""
    out = []
    for item in inner:
        if isinstance(item, Markup):
            out.append(item)
        elif isinstance(item, str | int | float):
            out.append(html.escape(str(item)))
        elif item is not None:
            out.append(join(item))
    return Markup("".join(out))


def embedded(value: Any) -> Markup:
    """JSON that no script tag is ended by.

    >>> embedded("</script>")
    '"\\\\u003c/script>"'
    """
    return Markup(json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))


# --- What several sections need ----------------------------------------------


def scrolled(head: Sequence[Any], body: Iterable[Any], class_: str | None = None) -> Markup:
    """A table that scrolls by itself where it is too wide, by keyboard too."""
    rows = tag("table", tag("thead", tag("tr", head)) if head else None, tag("tbody", body), class_=class_)
    return tag("div", rows, class_="scroll", tabindex=0)


def heads(names: Iterable[str], numbers: Iterable[str] = ()) -> list[Markup]:
    """The head of a table: names, those in `numbers` to the right."""
    right = set(numbers)
    return [tag("th", name, scope="col", class_="number" if name in right else None) for name in names]


def keys(rows: dict[str, Any]) -> Markup:
    """A table of names and values."""
    body = [tag("tr", tag("th", name, scope="row"), tag("td", str(value))) for name, value in rows.items()]
    return tag("table", tag("tbody", body), class_="keys")


def folded(title: str, about: str, *inner: Any, open_: bool = False) -> Markup:
    """What is shown when it is asked for, and in print."""
    head = tag("summary", title, tag("span", about) if about else None)
    return tag("details", head, *inner, open=open_)
