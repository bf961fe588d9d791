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
import os
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load

from leashrl.tasks import task as find_task
from leashrl.tasks.making import borrow, env_seed, give_back

ENVIRONMENTS = ("hopper", "walker2d", "halfcheetah")
LIMIT = 1000
TOGETHER = 64
"""Episodes side by side, at most."""

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
    """A tanh-Gaussian policy in numpy; `step` None acts uniformly at random.

    `own` weights take the place of those in the package.
    """

    def __init__(self, env: str, step: int | None, own: dict[str, np.ndarray] | None = None):
        self.step = step
        if step is not None:
            w = {name: value.astype(np.float64) for name, value in (own or weights(env, step)).items()}
            heads = ("last_fc", "last_fc_log_std")
            self.hidden = [(w[f"{name}/weight"].T, w[f"{name}/bias"]) for name in ("fc0", "fc1")]
            self.heads = [(w[f"{name}/weight"].T, w[f"{name}/bias"]) for name in heads]

    def draw(self, rng: np.random.Generator, dim: int) -> np.ndarray:
        """The noise of an episode."""
        return (
            rng.uniform(-1.0, 1.0, (LIMIT, dim)) if self.step is None else rng.standard_normal((LIMIT, dim))
        )

    def gaussian(self, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and log standard deviation (n, dim) of atanh of the action."""
        x = obs.astype(np.float64)
        for kernel, bias in self.hidden:
            x = np.maximum(x @ kernel + bias, 0.0)
        mean, log_std = (grid(x @ kernel + bias, 12) for kernel, bias in self.heads)
        return np.clip(mean, -9.0, 9.0), np.clip(log_std, -5.0, 2.0)

    def act(self, obs: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Actions in [-1, 1] (n, dim) and the logarithms of their densities (n,)."""
        if self.step is None:
            return grid(noise, 20).astype(np.float32), np.full(len(obs), -noise.shape[1] * math.log(2.0))
        mean, log_std = self.gaussian(obs)
        u = mean + np.exp(log_std) * noise
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


def locomotion(
    env: str, kind: str, steps: int, seed: int, report: Callable[[int], None] = lambda rows: None
) -> dict[str, np.ndarray]:
    """The arrays of a recipe, D4RL's names, float32: `steps` rows; the last of each part ends an episode."""
    episodes, rows = [], 0
    for i, part in enumerate(parts(env, kind, steps)):
        for found in roll(env, Actor(env, part.step), part.rows, env_seed(seed, i)):
            episodes.append(found)
            rows += len(found["rewards"])
            report(rows)
    return {name: np.concatenate([found[name] for found in episodes]) for name in episodes[0]}


def roll(env: str, actor: Actor, rows: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Whole episodes in order, the last one cut, `rows` rows in all.

    Episode i depends on (env, actor, seed, i) alone, whatever runs beside it.
    """
    n = min(TOGETHER, math.ceil(rows / LIMIT))  # no more than are needed where all are long
    with Simulators(env) as simulators:
        states = np.stack([simulators.reset(env_seed(seed, i)) for i in range(n)])
        noise = np.stack([episode_noise(actor, seed, i, simulators.action_dim) for i in range(n)])
        number, length, following = np.arange(n), np.zeros(n, int), n
        table: dict[str, np.ndarray] = {}  # name -> (n, LIMIT, ...), the rows of running episodes
        done, ended = 0, {}
        while True:
            obs = simulators.observe(states)
            action, log_prob = actor.act(obs, noise[np.arange(n), length])
            after, reward, terminal = simulators.step(states, action)
            qpos, qvel = simulators.split(states)
            row = {
                "observations": obs,
                "actions": action,
                "next_observations": simulators.observe(after),
                "rewards": reward.astype(np.float32),
                "terminals": terminal,
                "timeouts": (length == LIMIT - 1) & ~terminal,
                "infos/action_log_probs": log_prob.astype(np.float32),
                "infos/qpos": qpos.astype(np.float32),
                "infos/qvel": qvel.astype(np.float32),
            }
            for name, value in row.items():
                if name not in table:
                    table[name] = np.zeros((n, LIMIT, *value.shape[1:]), value.dtype)
                table[name][np.arange(n), length] = value
            states, length = after, length + 1
            for i in np.flatnonzero(terminal | (length == LIMIT)).tolist():
                ended[number[i]] = episode(table, i, length[i])
                states[i] = simulators.reset(env_seed(seed, following))
                noise[i] = episode_noise(actor, seed, following, simulators.action_dim)
                number[i], length[i], following = following, 0, following + 1
            # Episodes leave in the order of their numbers: those before the first that still runs, and that
            # one too as soon as it is long enough to be the last.
            first = int(np.argmin(number))
            ready = [ended.pop(i) for i in sorted(ended) if i < number[first]]
            if length[first] >= rows - done - sum(len(x["rewards"]) for x in ready):
                ready.append(episode(table, first, length[first]))
            for x in ready:
                if done < rows:
                    yield cut(x, rows - done)
                    done += len(x["rewards"])
            if done >= rows:
                return


def episode_noise(actor: Actor, seed: int, number: int, dim: int) -> np.ndarray:
    return actor.draw(np.random.Generator(np.random.PCG64([seed, number])), dim)


def episode(table: dict[str, np.ndarray], slot: int, length: int) -> dict[str, np.ndarray]:
    return {name: value[slot, :length].copy() for name, value in table.items()}


def cut(episode: dict[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """Its first `rows` rows at most; where it did not end by itself, that is a time-out."""
    episode = {name: value[:rows].copy() for name, value in episode.items()}
    episode["timeouts"][-1] |= not episode["terminals"][-1]
    return episode


# --- The simulator ---------------------------------------------------------------------------


class Body(NamedTuple):
    """The constants of gymnasium's -v4 environments."""

    control_cost: float
    alive: float
    """The reward of a step without a fall."""
    max_speed: float
    """Observed velocities are clipped there."""
    height: tuple[float, float]
    angle: float
    """A fall: the torso's height or angle leaves these bounds, or any number but the first two this one:"""
    bound: float


BODIES = {
    "hopper": Body(1e-3, 1.0, 10.0, (0.7, math.inf), 0.2, 100.0),
    "walker2d": Body(1e-3, 1.0, 10.0, (0.8, 2.0), 1.0, math.inf),
    "halfcheetah": Body(0.1, 0.0, math.inf, (-math.inf, math.inf), math.inf, math.inf),
}


def threads() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Simulators:
    """Any number of copies of one environment, stepped together in MuJoCo's own threads.

    A state is MuJoCo's: time, positions, velocities. A gymnasium environment gives the model and the first
    states; what it computes around MuJoCo one copy at a time in Python, which takes as long again as MuJoCo,
    is done here for all copies at once.
    """

    def __init__(self, env: str):
        from mujoco import rollout

        self.task, self.body = find_task(env), BODIES[env]
        (self.env,) = borrow(self.task, 1)
        inner: Any = self.env.unwrapped
        self.model, self.dt, self.frame_skip = inner.model, inner.dt, inner.frame_skip
        self.action_dim = self.task.action_dim
        self.pool = rollout.Rollout(nthread=threads())
        self.data = [type(inner.data)(self.model) for _ in range(threads())]

    def __enter__(self) -> "Simulators":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()
        give_back(self.task, [self.env])

    def reset(self, seed: int) -> np.ndarray:
        """The state that gymnasium's reset draws."""
        self.env.reset(seed=seed)
        unwrapped: Any = self.env.unwrapped
        data = unwrapped.data
        return np.concatenate([[data.time], data.qpos, data.qvel])

    def split(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities."""
        return states[:, 1 : 1 + self.model.nq], states[:, 1 + self.model.nq :]

    def observe(self, states: np.ndarray) -> np.ndarray:
        """All but how far it has come; float32."""
        qpos, qvel = self.split(states)
        seen = np.clip(qvel, -self.body.max_speed, self.body.max_speed)
        return np.concatenate([qpos[:, 1:], seen], axis=1).astype(np.float32)

    def step(self, states: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """States after `frame_skip` steps of MuJoCo, rewards, and who fell."""
        control = np.repeat(action[:, None].astype(np.float64), self.frame_skip, axis=1)
        visited, _ = self.pool.rollout(self.model, self.data, states, control)  # every step of MuJoCo
        after = np.array(visited)[:, -1]
        qpos, qvel = self.split(after)
        moved = (qpos[:, 0] - states[:, 1]) / self.dt
        cost = np.square(action.astype(np.float64)).sum(1)
        low, high = self.body.height
        standing = (low < qpos[:, 1]) & (qpos[:, 1] < high) & (np.abs(qpos[:, 2]) < self.body.angle)
        within = np.abs(np.concatenate([qpos[:, 2:], qvel], axis=1)) < self.body.bound
        return after, moved + self.body.alive - self.body.control_cost * cost, ~(standing & within.all(1))


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
