"""Doctests as code blocks on the API's pages: Markdown takes `>>>` for a quotation, `[...]` for a link."""

import re

import griffe

DOCTEST = re.compile(r"^>>> .*(?:\n.*\S.*|\n\n>>> .*)*", flags=re.MULTILINE)


class Doctests(griffe.Extension):
    """Runs when griffe, which reads the source for mkdocstrings, meets an object."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring:
            obj.docstring.value = fence(obj.docstring.value)


def fence(doc: str) -> str:
    """A docstring with its doctests in fences; a doctest ends at a blank line that no other one follows."""
    return DOCTEST.sub(lambda match: f"```pycon\n{match[0]}\n```", doc)
