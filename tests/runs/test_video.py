"""Films: the evaluation's own episode, decoded again; and what is said where something is missing.

They need OpenGL without a display: on Debian, apt install libegl1 libegl-mesa0 libgl1-mesa-dri. Where that is
missing they fail, with this line.
"""

import dataclasses
import gc
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

import leashrl
from leashrl.cli import main
from leashrl.errors import BadInput
from leashrl.runs.video import close, film, without_display
from leashrl.tasks import TASKS
from leashrl.tasks.making import env_seed, make_one


@pytest.fixture(autouse=True, scope="module")
def short():
    """Episodes of ten steps: a picture takes a tenth of a second."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("hopper", "pendulum"):
            patch.setitem(TASKS, name, dataclasses.replace(TASKS[name], max_episode_steps=10))
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Hoppers that fall at once: `bc` of two seeds, and `dt`, whose policy has a memory."""
    rng = np.random.default_rng(0)
    logs = leashrl.Dataset.from_arrays(
        obs=rng.normal(size=(200, 11)),
        action=rng.uniform(-1, 1, size=(200, 3)),
        reward=rng.normal(size=200),
        terminal=np.arange(200) % 20 == 19,
        action_space=leashrl.Box(low=(-1.0,) * 3, high=(1.0,) * 3),
    )
    folder = tmp_path_factory.mktemp("video")
    tiny = {"bc": {"hidden": (8, 8)}, "dt": {"width": 8, "layers": 1, "context": 4}}
    for name, options in tiny.items():
        options |= {"batch_size": 8}
        settings = {"task": "hopper", "seeds": 2, "steps": 2, "episodes": 1, "out": folder / name}
        leashrl.train(name, logs, options=options, **settings)
    return folder


def decoded(file: str) -> tuple[str, np.ndarray]:
    """What ffmpeg says of the file, and its pictures, (frames, height, width, 3)."""
    take = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", file, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    process = subprocess.run(take, capture_output=True, check=True)
    (about,) = re.findall(r"Stream .*Video: (h264.*)", process.stderr.decode().partition("Output")[0])
    width, height = map(int, re.findall(r", (\d+)x(\d+)", about)[0])
    return about, np.frombuffer(process.stdout, np.uint8).reshape(-1, height, width, 3)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["bc", "dt"])
def test_the_film_is_of_the_evaluations_first_episode(algorithm, runs, tmp_path):
    made = film(leashrl.load_policy(runs / algorithm), tmp_path / "film.mp4").to_json()
    evaluated = leashrl.evaluate_run(runs / algorithm, episodes=2).members[0]
    assert made["return"] == evaluated.returns[0] and made["length"] == evaluated.lengths[0]
    assert (made["member"], made["seed"], made["episode"]) == ("seed-0", 1, 0)
    assert made["frames"] == made["length"] + 1 > 5
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]

    about, pictures = decoded(made["file"])
    assert "125 fps" in about and made["fps"] == 125 and made["width"] == made["height"] == 480
    assert pictures.shape == (made["frames"], 480, 480, 3)
    assert all((a != b).any() for a, b in itertools.pairwise(pictures))
    # the first picture is of the episode's start, but for what compression loses
    env = make_one(TASKS["hopper"], render_mode="rgb_array")
    try:
        env.reset(seed=env_seed(1, 0))  # 1 is what `evaluate_run` takes by default
        start = np.asarray(env.render(), float)
    finally:
        close(env)
    assert np.abs(pictures[0] - start).mean() < 5 < start.std() / 5


@pytest.mark.slow
def test_what_a_film_drew_with_does_not_spoil_the_next():
    """Gymnasium leaves MuJoCo's drawing context to the garbage collector, which may come in the next film."""
    without_display()
    first, second = (make_one(TASKS["hopper"], render_mode="rgb_array") for _ in range(2))
    for env in (first, second):
        env.reset(seed=0)
    before = np.asarray(first.render())
    close(first)
    try:
        assert np.array_equal(second.render(), before) and before.std() > 10
        del first, env
        gc.collect()
        assert np.array_equal(second.render(), before)
    finally:
        close(second)


def test_the_command_films_a_member_and_a_mode(runs, tmp_path, capsys):
    argv = [
        "eval",
        str(runs / "bc"),
        "--member",
        "seed-1",
        "--mode",
        "sample",
        "--episodes",
        "2",
        "--seed",
        "4",
    ]
    assert main([*argv, "--video", str(tmp_path / "films"), "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    (member,), (made,) = found["members"], found["videos"]
    assert member["name"] == made["member"] == "seed-1" and made["mode"] == "sample" and made["seed"] == 4
    assert made["return"] == member["returns"][0] != member["returns"][1]
    assert made["file"] == str(tmp_path / "films" / "seed-1-sample.mp4") and Path(made["file"]).is_file()
    assert said.err == ""
    assert found["score"]["n"] == 1


def test_the_command_without_a_film_has_no_such_key(runs, capsys):
    assert main(["eval", str(runs / "bc"), "--episodes", "1", "--json"]) == 0
    assert "videos" not in json.loads(capsys.readouterr().out)


def test_the_table_names_the_film(runs, tmp_path, capsys):
    assert main(["eval", str(runs / "bc"), "--episodes", "1", "--video", str(tmp_path / "a.mp4")]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(f"{tmp_path}/a.mp4: seed-0, mode mean, episode 0 of seed 1, return ")
    assert line.endswith("480 x 480, 125 frames a second")


def test_classic_control_needs_pygame(tmp_path):
    """With it there is a film; without it the extra is named."""
    leashrl.train(
        "bc", "pendulum-random", task="pendulum", seeds=1, steps=2, episodes=1, out=tmp_path / "run"
    )
    policy = leashrl.load_policy(tmp_path / "run")
    if importlib.util.find_spec("pygame"):
        made = film(policy, tmp_path / "pendulum.mp4")
        assert made.frames == len(decoded(str(made.file))[1]) == 11
    else:
        with pytest.raises(BadInput, match=r"cannot draw task 'pendulum'.*pygame.*leashrl\[video\]"):
            film(policy, tmp_path / "pendulum.mp4")


# --- What is missing ---------------------------------------------------------


def test_what_cannot_be_filmed_is_one_line(runs, tmp_path, monkeypatch, refused):
    run, file = str(runs / "bc"), str(tmp_path / "a.mp4")
    assert "a.mp4, or give a folder" in refused("eval", run, "--video", str(tmp_path / "a.avi"))
    assert "give --video a folder" in refused("eval", run, "--video", file, "--mode", "all")
    assert "did you mean 'seed-1'" in refused("eval", run, "--video", file, "--member", "seed-9")
    assert "did you mean 'seed-1'" in refused("eval", run, "--member", "seed-9")
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused("eval", run, "--video", str(tmp_path / "file" / "a.mp4"))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "imageio_ffmpeg", None)
        assert "pip install 'leashrl[video]'" in refused("eval", run, "--video", file)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_film_that_ffmpeg_cannot_write_leaves_nothing(runs, tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\nhead -c 1000 > /dev/null\necho No space left on device >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(program))
    with pytest.raises(BadInput, match=r"ffmpeg could not write.*No space left on device"):
        film(leashrl.load_policy(runs / "bc"), tmp_path / "a.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["ffmpeg"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"__EGL_VENDOR_LIBRARY_FILENAMES": "/none"}, "apt install libegl1 libegl-mesa0 libgl1-mesa-dri"),
        ({"MUJOCO_GL": "agl"}, "unset MUJOCO_GL"),
    ],
    ids=["no driver", "a typo"],
)
def test_no_opengl_is_one_line(variables, words, runs, tmp_path):
    plain = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL")}
    argv = [sys.executable, "-m", "leashrl", "eval", str(runs / "bc"), "--video", str(tmp_path / "a.mp4")]
    process = subprocess.run(argv, env=plain | variables, capture_output=True, text=True, timeout=120)
    assert process.returncode == 2 and process.stdout == ""
    assert process.stderr.count("\n") == 1 and words in process.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere MuJoCo draws without a display by itself")
def test_egl_is_chosen_where_nobody_chose(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "SDL_VIDEODRIVER", "PYGAME_HIDE_SUPPORT_PROMPT"):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("DISPLAY", ":0")
    without_display()
    assert "MUJOCO_GL" not in os.environ
    monkeypatch.delenv("DISPLAY")
    without_display()
    assert os.environ["MUJOCO_GL"] == "egl"
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    without_display()
    assert os.environ["MUJOCO_GL"] == "osmesa"
