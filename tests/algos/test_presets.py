"""Presets as data: what a file means, and one line with file and line number where it is wrong."""

import dataclasses

import pytest

from leashrl.algos import REGISTRY, presets
from leashrl.core import Preprocess
from leashrl.errors import BadInput


@dataclasses.dataclass(frozen=True)
class Config:
    steps: int = 10
    hidden: tuple[int, ...] = (256, 256)
    preprocess: Preprocess = dataclasses.field(default_factory=Preprocess)
    gamma: float = 0.99
    form: str = "plain"


GOOD = """# A comment.

[default]
about = "ours"

[default.values]
gamma = 0.9
preprocess.obs = "standardise"

[paper]
about = "the text's"
like = "default"

[paper.values]
hidden = [512, 512, 512]

[paper.places]
antmaze = { gamma = 0.99 }
hopper-medium = { steps = 20 }

[wide]
about = "like the text's, wider"
like = "paper"

[wide.values]
gamma = 0.8

[places]
adroit = { preprocess.reward = "unit" }
"""


def parsed(tmp_path, text):
    file = tmp_path / "ours.toml"
    file.write_text(text)
    return presets.parse(file, Config)


def test_what_a_file_means(tmp_path):
    found, places = parsed(tmp_path, GOOD)
    assert places == {"adroit": {"preprocess.reward": "unit"}}
    assert found["default"] == ("ours", {"gamma": 0.9, "preprocess.obs": "standardise"}, None)
    assert found["paper"].values == {**found["default"].values, "hidden": (512, 512, 512)}
    assert found["paper"].domains == {"antmaze": {"gamma": 0.99}, "hopper-medium": {"steps": 20}}
    assert found["wide"].values == {**found["paper"].values, "gamma": 0.8}
    assert found["wide"].domains == found["paper"].domains  # `like` takes both


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("gamma = 0.9\n", "gama = 0.9\n", 7, "no option 'gama': did you mean 'gamma'"),
        ('preprocess.obs = "standardise"', 'preprocess.ops = "x"', 8, "no option 'ops'"),
        ("hidden = [512, 512, 512]", 'hidden = ["a"]', 15, "'hidden' must be whole numbers"),
        ("{ gamma = 0.99 }", '{ gamma = "high" }', 18, "'gamma' must be a finite float32 number"),
        ("steps = 20", "step = 20", 19, "no option 'step'"),
        ('like = "default"', 'like = "deflaut"', 12, "no preset 'deflaut' above"),
        ('about = "the text\'s"\n', "", 10, "preset 'paper' has no 'about'"),
        ("[wide.values]", "[wide.vales]", 25, "no key 'vales'"),
        ("preprocess.reward", "preprocess.rewards", 29, "no option 'rewards'"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path, old, new, line, words):
    assert GOOD.count(old) == 1
    with pytest.raises(BadInput) as error:
        parsed(tmp_path, GOOD.replace(old, new))
    assert words in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 'ours.toml'}:{line}: ")


@pytest.mark.parametrize(
    ("text", "words"),
    [("[default\n", "line 1"), ('[paper]\nabout = "x"\n', "there is no preset 'default'")],
)
def test_files_that_are_none_of_ours(tmp_path, text, words):
    with pytest.raises(BadInput, match=words):
        parsed(tmp_path, text)


def test_no_file_is_of_an_unknown_algorithm():
    folder = presets.Path(presets.__file__).parent
    assert {path.stem for path in folder.glob("*.toml")} <= set(REGISTRY)
