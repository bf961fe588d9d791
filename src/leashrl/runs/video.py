"""A policy's episode as an mp4: the first one of its evaluation, frame by frame.

Pictures come from the simulator's own renderer (OpenGL; EGL where there is no display) and go to the ffmpeg
that the extra `video` brings. Both are looked for when a film is made.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from leashrl.disk.files import make_folder, write_atomically
from leashrl.errors import BadInput
from leashrl.runs.policies import LoadedPolicy
from leashrl.tasks import Task
from leashrl.tasks import task as find_task
from leashrl.tasks.making import make_one


@dataclass(frozen=True, kw_only=True)
class Film:
    """An episode as an mp4, and what one needs to find it again."""

    file: Path
    member: str
    mode: str
    seed: int
    episode: int
    mean_return: float
    """Of the episode."""
    score: float | None
    """Normalised; None without reference scores."""
    length: int
    """Steps."""
    frames: int
    """One more than steps: the start is one."""
    fps: float
    """The environment's own, so that time passes as it does there."""
    width: int
    height: int

    def to_json(self) -> dict[str, Any]:
        row = {("return" if name == "mean_return" else name): x for name, x in vars(self).items()}
        return row | {"file": str(self.file)}


def film(
    policy: LoadedPolicy,
    out: str | Path,
    *,
    task: str | None = None,
    seed: int = 1,
    mode: str | None = None,
) -> Film:
    """Episode 0 of `policy.evaluate(task, seed=seed, mode=mode)`, with the same actions, as an mp4.

    Args:
      policy: of one member.
      out: a file whose name ends in `.mp4`, or a folder that gets `MEMBER-MODE.mp4`.
      task: where; by default where the policy was evaluated while it trained.
      seed: of the evaluation.
      mode: one of the policy's modes; the algorithm's own by default.

    Raises:
      BadInput: no ffmpeg, no OpenGL, a name that is no mp4, an unwritable disk; and as `policy.evaluate`.
    """
    ffmpeg = need_ffmpeg()
    mode = policy.known_mode(mode)
    file = target(out, policy.name, mode)
    name = task or policy.task
    if name is None:
        raise BadInput("this policy was trained without a task: give one (`leashrl tasks` lists them)")
    place = find_task(name)
    env = make_one(place, render_mode="rgb_array")
    without_display()
    try:
        height, width, _ = first_picture(env, place).shape
        fps, frames = env.metadata["render_fps"], 0
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder) / "film.mp4"
            with encoder(ffmpeg, draft, width, height, fps) as pipe:

                def add(env: Any) -> None:
                    nonlocal frames
                    pipe.write(env.render().tobytes())
                    frames += 1

                from leashrl.tasks.wrappers import Watched

                found = policy.evaluate(name, episodes=1, seed=seed, mode=mode, envs=[Watched(env, add)])
            write_atomically(file, draft.read_bytes())
    finally:
        close(env)
    return Film(
        file=file,
        member=policy.name,
        mode=mode,
        seed=seed,
        episode=0,
        mean_return=found.mean_return,
        score=found.score,
        length=found.lengths[0],
        frames=frames,
        fps=fps,
        width=width,
        height=height,
    )


@contextmanager
def encoder(ffmpeg: str, file: Path, width: int, height: int, fps: float) -> Iterator[IO[bytes]]:
    """A pipe that takes pictures, (height, width, 3) uint8, and leaves an mp4 with as many frames."""
    take = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    # What players take: colours at half the resolution, so an even number of pixels each way.
    give = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-c:v", "libx264", "-pix_fmt", "yuv420p"]
    log = file.with_suffix(".log")
    with open(log, "wb") as said:
        # A session of its own: a Ctrl-C is ours to handle.
        process = subprocess.Popen(
            [ffmpeg, "-v", "error", *take, *give, str(file)],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    assert process.stdin is not None
    try:
        yield process.stdin
        process.stdin.close()
        whole = process.wait() == 0
    except BrokenPipeError:  # it has ended early
        whole = process.wait() == 0
    finally:
        process.kill()
        process.wait()
        with suppress(BrokenPipeError):
            process.stdin.close()
    if not whole:
        reason = " ".join(log.read_text(errors="replace").split())[-150:]
        raise BadInput(
            f"ffmpeg could not write the video in '{file.parent}' ({reason}): is there space left?"
        )


def target(out: str | Path, member: str, mode: str) -> Path:
    """The file that is asked for; its folder stands when this returns."""
    path = Path(out).expanduser()
    if path.suffix and path.suffix.lower() != ".mp4" and not path.is_dir():
        raise BadInput(f"videos are mp4: name '{path}' {path.stem}.mp4, or give a folder")
    file = path if path.suffix.lower() == ".mp4" and not path.is_dir() else path / f"{member}-{mode}.mp4"
    make_folder(file.parent)
    if not os.access(file.parent, os.W_OK):
        raise BadInput(f"cannot write '{file}': '{file.parent}' is not writable")
    return file


# --- What drawing needs ------------------------------------------------------


def need_ffmpeg() -> str:
    """Where the program is."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return get_ffmpeg_exe()
    except (ImportError, RuntimeError):  # the package; the program in it, or what IMAGEIO_FFMPEG_EXE names
        raise BadInput("videos need imageio-ffmpeg: pip install 'leashrl[video]'") from None


def without_display() -> None:
    """MuJoCo draws with EGL where there is no display, unless somebody chose otherwise; pygame is kept quiet.

    To be called after mujoco is imported, which fails under this choice where there is no EGL.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("MUJOCO_GL", "egl")
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def close(env: Any) -> None:
    """Close an environment that has drawn, with MuJoCo's drawing context while OpenGL's is still current.

    Gymnasium leaves the former to the garbage collector, which takes it from whatever is drawn with by then:
    the next film would be black.
    """
    inner = env.unwrapped
    for place in (inner, getattr(inner, "robot_env", None), getattr(inner, "ant_env", None)):
        viewer = getattr(getattr(place, "mujoco_renderer", None), "viewer", None)
        if viewer is not None:
            viewer.make_context_current()
            viewer.con.free()
    env.close()


def first_picture(env: Any, task: Task) -> np.ndarray:
    """(height, width, 3) uint8, or in a line what is missing: drivers and libraries fail in many ways."""
    env.reset(seed=0)
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None  # a viewer half made complains at its end
    try:
        return env.render()
    except Exception as error:
        reason = " ".join(str(error).split())[:150]
    finally:
        sys.unraisablehook = hook
    if task.domain in ("pendulum", "cartpole"):
        raise BadInput(f"cannot draw task '{task.name}' ({reason}): pip install 'leashrl[video]'")
    raise BadInput(
        f"cannot draw task '{task.name}' with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')} ({reason}): "
        "on Debian, apt install libegl1 libegl-mesa0 libgl1-mesa-dri, and set MUJOCO_GL=egl"
    )
