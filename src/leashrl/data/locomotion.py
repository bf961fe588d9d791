"""Recipes on MuJoCo's hopper, walker2d and halfcheetah, by D4RL's protocol, from policies in this package.

`policies/ENV/STEP.safetensors` are the policies of one run of our own SAC after so many updates, one a step
in the environment, and `policies/runs.json` says which of them is `medium` (stopped at about a third of the
expert's score), which is `expert`, and how the run was made. Roll-outs draw their actions; an episode ends at
a fall or after 1000 steps.

What decides an action is computed in float64 and rounded to a grid far coarser than its rounding errors, so
that the order in which a processor adds up a product changes no bit. MuJoCo's own bits depend on its version.
"""

import functools
import itertools
import json
import math
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load

from leashrl import tasks
from leashrl.environments import borrow, env_seed, give_back

ENVIRONMENTS = ("hopper", "walker2d", "halfcheetah")
LIMIT = 1000
TOGETHER = 20
"""Episodes side by side: their policies' products are then large enough to be fast."""

KINDS = {
    "random": "uniformly random actions",
    "medium": "SAC stopped at about a third of the expert's score",
    "expert": "SAC at the end of its training",
    "medium-expert": "half medium, half expert",
    "medium-replay": "what SAC did until it was medium: rolled from snapshots of the run",
    "full-replay": "what SAC did until it was expert: rolled from snapshots of the run",
}

STEPS = {"medium-expert": 2_000_000}
"""D4RL's numbers of rows; replays have as many as the run had steps, the rest 1,000,000."""


# --- Policies --------------------------------------------------------------------------


@functools.cache
def runs() -> dict[str, Any]:
    """`policies/runs.json`: `{env: {"warmup", "medium", "expert", "snapshots", "made_with"}}`, in steps."""
    return json.loads((files("leashrl.data") / "policies" / "runs.json").read_text())


@functools.cache
def cards() -> dict[str, Any]:
    """`policies/cards.json`: `{recipe: {"steps", "seed", "hash", "made_with", ...}}`, as it was made here."""
    return json.loads((files("leashrl.data") / "policies" / "cards.json").read_text())


def kinds(env: str) -> list[str]:
    """What can be made: without policies in this package, random actions alone."""
    return list(KINDS) if env in runs() else ["random"]


@functools.cache
def weights(env: str, step: int) -> dict[str, np.ndarray]:
    """D4RL's names and layout, (out, in): fc0, fc1, last_fc, last_fc_log_std, float16 in the file."""
    path = files("leashrl.data") / "policies" / env / f"{step:07d}.safetensors"
    return {name: value.astype(np.float32) for name, value in sorted(load(path.read_bytes()).items())}


def grid(x: np.ndarray, bits: int) -> np.ndarray:
    """`x` rounded to multiples of 2^-bits.

    >>> grid(np.array([0.3]), 2).tolist()
    [0.25]
    """
    return np.rint(x * 2.0**bits) * 2.0**-bits


class Actor:
    """A tanh-Gaussian policy in numpy; `step` None acts uniformly at random."""

    def __init__(self, env: str, step: int | None):
        self.step = step
        if step is not None:
            w = {name: value.astype(np.float64) for name, value in weights(env, step).items()}
            heads = ("last_fc", "last_fc_log_std")
            self.hidden = [(w[f"{name}/weight"].T, w[f"{name}/bias"]) for name in ("fc0", "fc1")]
            self.heads = [(w[f"{name}/weight"].T, w[f"{name}/bias"]) for name in heads]

    def draw(self, rng: np.random.Generator, dim: int) -> np.ndarray:
        """The noise of an episode."""
        return (
            rng.uniform(-1.0, 1.0, (LIMIT, dim)) if self.step is None else rng.standard_normal((LIMIT, dim))
        )

    def act(self, obs: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Actions in [-1, 1] (n, dim) and the logarithms of their densities (n,)."""
        if self.step is None:
            return grid(noise, 20).astype(np.float32), np.full(len(obs), -noise.shape[1] * math.log(2.0))
        x = obs.astype(np.float64)
        for kernel, bias in self.hidden:
            x = np.maximum(x @ kernel + bias, 0.0)
        mean, log_std = (grid(x @ kernel + bias, 12) for kernel, bias in self.heads)
        log_std = np.clip(log_std, -5.0, 2.0)
        u = np.clip(mean, -9.0, 9.0) + np.exp(log_std) * noise
        # log(1 - tanh(u)^2) in the form that keeps its digits far out
        log_det = 2.0 * (math.log(2.0) - u - np.logaddexp(0.0, -2.0 * u))
        log_prob = np.sum(-0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi) - log_det, axis=1)
        return grid(np.tanh(u), 20).astype(np.float32), log_prob


# --- Rolling ---------------------------------------------------------------------------


class Part(NamedTuple):
    """So many rows by one policy."""

    step: int | None
    rows: int


def parts(env: str, kind: str, steps: int) -> list[Part]:
    """Which policies make `steps` rows of a data set, in order.

    In a replay every step of the run is made by the snapshot that is nearest to it, after the warm-up's
    random ones; fewer or more `steps` than the run's shrink or stretch all parts alike.
    """
    run = runs()[env] if kind != "random" else {}
    if kind == "random":
        return [Part(None, steps)]
    if kind in ("medium", "expert"):
        return [Part(run[kind], steps)]
    if kind == "medium-expert":
        return [Part(run["medium"], steps // 2), Part(run["expert"], steps - steps // 2)]
    end = run["medium" if kind == "medium-replay" else "expert"]
    chosen = [step for step in run["snapshots"] if step <= end]
    edges = [0, *((a + b) // 2 for a, b in itertools.pairwise(chosen)), end]
    ends = [run["warmup"], *(run["warmup"] + edge for edge in edges[1:])]
    cuts = [round(edge * steps / ends[-1]) for edge in [0, *ends]]
    sizes = np.diff(cuts)
    return [Part(step, int(n)) for step, n in zip([None, *chosen], sizes, strict=True) if n]


def default_steps(env: str, kind: str) -> int:
    if kind.endswith("replay"):
        run = runs()[env]
        return run["warmup"] + run["medium" if kind == "medium-replay" else "expert"]
    return STEPS.get(kind, 1_000_000)


def locomotion(env: str, kind: str, steps: int, seed: int) -> dict[str, np.ndarray]:
    """The arrays of a recipe, D4RL's names, float32: `steps` rows; the last of each part ends an episode."""
    episodes = [
        episode
        for i, part in enumerate(parts(env, kind, steps))
        for episode in roll(env, Actor(env, part.step), part.rows, env_seed(seed, i))
    ]
    return {name: np.concatenate([episode[name] for episode in episodes]) for name in episodes[0]}


def roll(env: str, actor: Actor, rows: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Whole episodes in order, the last one cut, `rows` rows in all.

    Episode i depends on (env, actor, seed, i) alone, whatever runs beside it.
    """
    task = tasks.task(env)
    slots = [Slot(x) for x in borrow(task, min(TOGETHER, rows))]
    for i, slot in enumerate(slots):
        slot.begin(actor, seed, i)
    following, done, ended = len(slots), 0, {}
    while True:
        obs = np.stack([slot.obs for slot in slots])
        action, log_prob = actor.act(obs, np.stack([slot.noise[slot.length] for slot in slots]))
        for slot, a, p in zip(slots, action, log_prob, strict=True):
            if slot.take(a, p):
                ended[slot.number] = slot.episode()
                slot.begin(actor, seed, following)
                following += 1
        # Episodes leave in the order of their numbers: those before the first that still runs, and that one
        # too as soon as it is long enough to be the last.
        running = min(slots, key=lambda slot: slot.number)
        ready = [ended.pop(i) for i in sorted(ended) if i < running.number]
        if running.length >= rows - done - sum(len(episode["rewards"]) for episode in ready):
            ready.append(running.episode())
        for episode in ready:
            if done < rows:
                yield cut(episode, rows - done)
                done += len(episode["rewards"])
        if done >= rows:
            break
    give_back(task, [slot.env for slot in slots])


def cut(episode: dict[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """Its first `rows` rows at most; where it did not end by itself, that is a time-out."""
    episode = {name: value[:rows].copy() for name, value in episode.items()}
    episode["timeouts"][-1] |= not episode["terminals"][-1]
    return episode


class Slot:
    """One environment and the episode that runs in it."""

    def __init__(self, env: Any):
        self.env = env

    def begin(self, actor: Actor, seed: int, number: int) -> None:
        self.number, self.length = number, 0
        obs, _ = self.env.reset(seed=env_seed(seed, number))
        self.obs = obs.astype(np.float32)
        dim = self.env.action_space.shape[0]
        self.noise = actor.draw(np.random.Generator(np.random.PCG64([seed, number])), dim)
        state = self.env.unwrapped.data
        width = {"observations": len(obs), "actions": dim, "next_observations": len(obs)}
        width |= {"infos/qpos": len(state.qpos), "infos/qvel": len(state.qvel)}
        self.rows = {name: np.zeros((LIMIT, n), np.float32) for name, n in width.items()}
        self.rows |= {name: np.zeros(LIMIT, np.float32) for name in ("rewards", "infos/action_log_probs")}
        self.rows |= {name: np.zeros(LIMIT, bool) for name in ("terminals", "timeouts")}

    def take(self, action: np.ndarray, log_prob: float) -> bool:
        """One step; whether it was the episode's last."""
        t, state = self.length, self.env.unwrapped.data
        row = {"observations": self.obs, "actions": action, "infos/action_log_probs": log_prob}
        row |= {"infos/qpos": state.qpos, "infos/qvel": state.qvel}
        for name, value in row.items():
            self.rows[name][t] = value
        obs, reward, terminal, timeout, _ = self.env.step(action)
        self.obs = obs.astype(np.float32)
        self.rows["next_observations"][t], self.rows["rewards"][t] = self.obs, reward
        self.rows["terminals"][t], self.rows["timeouts"][t] = terminal, timeout and not terminal
        self.length += 1
        return terminal or timeout

    def episode(self) -> dict[str, np.ndarray]:
        return {name: value[: self.length].copy() for name, value in self.rows.items()}


# --- What a file says of itself ------------------------------------------------------------


def metadata(env: str, kind: str, steps: int) -> dict[str, np.ndarray]:
    """D4RL's `metadata/`: the policy itself for files of one policy; and which policies made the rows."""
    made = parts(env, kind, steps)
    text = ", ".join(f"{part.rows} by {part.step or 'uniformly random actions'}" for part in made)
    found: dict[str, np.ndarray] = {"rows": np.asarray(text.encode())}
    if kind != "random":
        found |= {"algorithm": np.asarray(b"SAC"), "run": np.asarray(json.dumps(runs()[env]).encode())}
    if kind.endswith("replay"):
        how = b"rolled from snapshots of the run; its own buffer is not shipped"
        found["replay"] = np.asarray(how)
    if len(made) == 1 and made[0].step is not None:
        step = made[0].step
        found |= {"iteration": np.asarray(step, np.int32), "policy/nonlinearity": np.asarray(b"relu")}
        found["policy/output_distribution"] = np.asarray(b"tanh_gaussian")
        found |= {f"policy/{name}": value for name, value in weights(env, step).items()}
    return {f"metadata/{name}": value for name, value in found.items()}
