"""Recipes on gymnasium's CartPole-v1: pushes left (0) or right (1) that keep a pole upright on a cart.

With the cart at x, the pole at theta from upright, force F = ±10, g = 9.8, a cart of mass 1, a pole of mass
m = 0.1 and half-length l = 0.5, total mass M = 1.1 and dt = 0.02,

    f       = (F + m l theta_dot^2 sin theta) / M
    theta'' = (g sin theta - f cos theta) / (l (4/3 - m cos^2 theta / M))
    x''     = f - m l theta'' cos theta / M

by Euler's explicit rule. Each step pays 1; the episode ends when |x| > 2.4 or |theta| > 12 degrees.
The arrays hold the same bits on every machine, as `pendulum`'s do and for the same reasons.
"""

import numpy as np

from leashrl.data.pendulum import Random, sin_cos

LIMIT = 500
"""Steps an episode, if the pole stands so long."""

KINDS = {
    "random": "pushes at random",
    "medium": "towards the side it leans, however it turns, and three pushes of ten at random",
    "expert": "a controller of all four numbers, and one push of ten at random",
}
NOISE = {"random": 1.0, "medium": 0.3, "expert": 0.1}
WAVE = 256  # episodes simulated together


def step(state: np.ndarray, push: np.ndarray) -> np.ndarray:
    """One step of many carts: states (n, 4) as x, x', theta, theta'; pushes (n,) of 0 and 1."""
    x, speed, theta, turn = state.T
    sin, cos = sin_cos(theta)
    f = ((20.0 * push - 10.0) + 0.05 * turn * turn * sin) / 1.1
    turning = (9.8 * sin - cos * f) / (0.5 * (4.0 / 3.0 - 0.1 * cos * cos / 1.1))
    pushed = f - 0.05 * turning * cos / 1.1
    after = [x + 0.02 * speed, speed + 0.02 * pushed, theta + 0.02 * turn, turn + 0.02 * turning]
    return np.stack(after, 1)


def fallen(state: np.ndarray) -> np.ndarray:
    """(n,) whether the pole lies or the cart has left the track."""
    return (np.abs(state[:, 0]) > 2.4) | (np.abs(state[:, 2]) > 12 * 2 * np.pi / 360)


def behave(kind: str, state: np.ndarray, random: Random) -> np.ndarray:
    """(n,) pushes."""
    x, speed, theta, turn = state.T
    lean = theta
    if kind == "expert":
        lean = theta + 0.3 * turn + 0.05 * x + 0.1 * speed
    anything, which = random.uniform((2, len(state)))
    return np.where(anything < NOISE[kind], which < 0.5, lean > 0).astype(np.int32)


def cartpole(kind: str, steps: int, seed: int) -> dict[str, np.ndarray]:
    """`steps` rows of D4RL arrays, whole episodes but for the last, which is cut by a time-out."""
    random, parts, rows = Random(seed), [], 0
    while rows < steps:
        parts.append(_wave(kind, random))
        rows += len(parts[-1]["rewards"])
    data = {name: np.concatenate([part[name] for part in parts])[:steps] for name in parts[0]}
    data["timeouts"][-1] = not data["terminals"][-1]
    return data


def _wave(kind: str, random: Random) -> dict[str, np.ndarray]:
    """The rows of `WAVE` whole episodes, one after the other."""
    state = 0.1 * random.uniform((WAVE, 4)) - 0.05
    alive = np.ones(WAVE, bool)
    states, pushes, ends, lived = [state], [], [], []
    for _ in range(LIMIT):
        push = behave(kind, state, random)
        state = np.where(alive[:, None], step(state, push), state)
        lived.append(alive)
        alive = alive & ~fallen(state)
        states.append(state)
        pushes.append(push)
        ends.append(~alive)
    kept = np.stack(lived, 1)  # (episode, step)
    seen = np.stack(states, 1).astype(np.float32)
    terminal = np.stack(ends, 1)[kept]
    timeout = np.zeros_like(kept)
    timeout[:, -1] = True
    return {
        "observations": seen[:, :-1][kept],
        "actions": np.stack(pushes, 1)[kept],
        "rewards": np.ones(kept.sum(), np.float32),
        "terminals": terminal,
        "timeouts": timeout[kept] & ~terminal,
        "next_observations": seen[:, 1:][kept],
    }
