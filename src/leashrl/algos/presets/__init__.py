"""Presets as data: `misa.toml` holds the named values of MISA's Config.

    [paper]                                 # a preset
    about = "the NeurIPS 2023 text's values"
    like = "authors"                        # optional: begin with another preset's values and places

    [paper.values]                          # fields of the Config
    gamma_2 = 0.5
    preprocess.obs = "standardise"

    [paper.places]                          # laid over the values where a task or its data has this name
    antmaze = { lagrange = true, tau = 10.0 }

    [places]                                # the algorithm's own, for every preset that has none
    adroit = { lagrange = true }

`tasks.places` has the names, the most general first.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leashrl.core import Preset, override
from leashrl.errors import BadInput

Places = dict[str, dict[str, Any]]


def read(name: str, config: type) -> tuple[dict[str, Preset], Places]:
    """`parse` of the file of this folder that has an algorithm's name."""
    return parse(Path(__file__).parent / f"{name}.toml", config)


def parse(path: Path, config: type) -> tuple[dict[str, Preset], Places]:
    """The presets of a file, and the values that places lay over them.

    Args:
      config: the algorithm's Config, whose fields may be named.

    Raises:
      BadInput: not TOML, an unknown key or field, a value of the wrong kind: with the file and the line.
    """
    text = path.read_text()
    try:
        file = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{path}: {error}") from None

    def wrong(problem: object, *words: str) -> BadInput:
        return BadInput(f"{path}:{_line(text, *words)}: {problem}")

    def checked(values: Mapping[str, Any], *words: str) -> dict[str, Any]:
        values = _flat(values)
        try:
            override(config(), values)
        except BadInput as error:
            names = (name.rpartition(".")[2] for name in values)
            name = next((name for name in names if f"'{name}" in str(error)), "")
            raise wrong(error, *words, name) from None
        return values

    def places_of(table: Mapping[str, Any], heading: str) -> Places:
        return {place: checked(values, heading, place) for place, values in table.items()}

    own = places_of(file.pop("places", {}), "[places")
    presets: dict[str, Preset] = {}
    for name, row in file.items():
        heading = f"[{name}]"
        for key in row.keys() - {"about", "like", "values", "places"}:
            raise wrong(f"a preset has no key '{key}'", heading, key)
        if "about" not in row:
            raise wrong(f"preset '{name}' has no 'about'", heading)
        if "like" in row and row["like"] not in presets:
            raise wrong(f"there is no preset '{row['like']}' above", heading, "like")
        base = presets[row["like"]] if "like" in row else Preset("", {})
        values = {**base.values, **checked(row.get("values", {}), f"[{name}.values")}
        places = places_of(row["places"], f"[{name}.places") if "places" in row else base.domains
        presets[name] = Preset(row["about"], values, places)
    if "default" not in presets:
        raise BadInput(f"{path}: there is no preset 'default'")
    return presets, own


def _flat(values: Mapping[str, Any], head: str = "") -> dict[str, Any]:
    """Fields under dotted names, lists as tuples.

    >>> _flat({"preprocess": {"obs": "standardise"}, "hidden": [256, 256]})
    {'preprocess.obs': 'standardise', 'hidden': (256, 256)}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{head}{name}.")
        else:
            found[head + name] = tuple(value) if isinstance(value, list) else value
    return found


def _line(text: str, *words: str) -> int:
    """The number of the line that holds the last word, each looked for from the one before it on.

    >>> _line("[a]\\nx = 1\\n[b]\\nx = 2", "[b]", "x")
    4
    """
    lines, at = text.splitlines(), 0
    for word in words:
        at = next((i for i in range(at, len(lines)) if word in lines[i]), at)
    return at + 1
