"""Recipes on gymnasium's Pendulum-v1: an analytic swing-up controller with several kinds of noise.

With theta = 0 upright, torque u in [-2, 2], g = 10, m = l = 1 and dt = 0.05,

    theta_dot' = clip(theta_dot + (15 sin theta + 3 u) dt, -8, 8),   theta' = theta + theta_dot' dt,
    reward     = -(theta^2 + 0.1 theta_dot^2 + 0.001 u^2),           theta wrapped to [-pi, pi).

The controller pumps energy towards that of the upright rest, u = k (E* - E) sign(theta_dot) with
E = theta_dot^2 / 2 + 15 cos theta and E* = 15, and switches to u = -(kp theta + kd theta_dot) near it.

The arrays hold the same bits on every machine: sine and cosine are made of sums and products, which
IEEE 754 rounds in one way only, and random numbers are the bit generator's raw integers. (A platform
whose numpy fuses multiply and add would differ; none is known.)
"""

import numpy as np

LIMIT = 200
"""Steps an episode; it ends by time-out only."""

TORQUE = 2.0

KINDS = {
    "random": "uniform random torque",
    "medium": "a swing-up controller that overshoots the top, and broad noise",
    "expert": "energy shaping and a PD controller near the top, little noise",
    "medium-expert": "half medium, half expert",
    "medium-replay": "from random to medium: episodes with ever less random torque",
}


# --- Dynamics -------------------------------------------------------------------------


def sin_cos(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sine and cosine of |angle| <= 4 to about 1e-15: Taylor series at angle / 8, doubled three times."""
    x = angle / 8
    square = x * x
    sin, one_minus_cos = np.zeros_like(x), np.zeros_like(x)
    for k in range(7, 0, -1):
        sin = (1 - sin) * square / ((2 * k) * (2 * k + 1))
        one_minus_cos = (1 - one_minus_cos) * square / ((2 * k - 1) * (2 * k))
    sin, cos = x * (1 - sin), 1 - one_minus_cos
    for _ in range(3):
        sin, cos = 2 * sin * cos, 1 - 2 * sin * sin
    return sin, cos


def wrap(angle: np.ndarray) -> np.ndarray:
    """To [-pi, pi)."""
    return angle - 2 * np.pi * np.floor((angle + np.pi) / (2 * np.pi))


def step(
    theta: np.ndarray, speed: np.ndarray, torque: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One step of many pendulums: (n,) each, theta in [-pi, pi). Returns theta', theta_dot', reward."""
    reward = -(theta * theta + 0.1 * (speed * speed) + 0.001 * (torque * torque))
    speed = np.clip(speed + (15 * sin_cos(theta)[0] + 3 * torque) * 0.05, -8, 8)
    return wrap(theta + speed * 0.05), speed, reward


def observe(theta: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """(n, 3) float32: cos theta, sin theta, theta_dot."""
    sin, cos = sin_cos(theta)
    return np.stack([cos, sin, speed], 1).astype(np.float32)


# --- Controllers ------------------------------------------------------------------------


class Random:
    """Uniform numbers from PCG64's raw integers: numpy keeps these streams, not its distributions."""

    def __init__(self, seed: int):
        self.bits = np.random.PCG64(seed)

    def uniform(self, shape: tuple[int, ...]) -> np.ndarray:
        """In [0, 1), 53 random bits."""
        raw = self.bits.random_raw(int(np.prod(shape))).reshape(shape)
        return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def bell(self, n: int) -> np.ndarray:
        """(n,) of mean 0 and variance 1, nearly normal: the sum of twelve uniforms, less six."""
        total = np.zeros(n)
        for part in self.uniform((12, n)):
            total += part
        return total - 6


def controller(theta: np.ndarray, speed: np.ndarray, kp: float, kd: float) -> np.ndarray:
    """Torque of energy shaping, or of the PD law where that is small enough to hold the pendulum."""
    cos = sin_cos(theta)[1]
    energy = speed * speed / 2 + 15 * cos
    pump = (15 - energy) * np.where(speed >= 0, 1.0, -1.0)
    hold = -(kp * theta + kd * speed)
    near = (cos > 0.7) & (np.abs(speed) < 4) & (np.abs(5 * theta + 1.3 * speed) < 3)
    return np.clip(np.where(near, hold, pump), -TORQUE, TORQUE)


def behave(kind: str, theta: np.ndarray, speed: np.ndarray, skill: np.ndarray, random: Random) -> np.ndarray:
    """(n,) torques within bounds, float32. `skill` in [0, 1] is `medium-replay`'s, one an episode.

    `medium` damps too little: it passes the top again and again, and its own mean action (what cloning
    finds) returns no more than the data do. Its noise, half the torque range wide, holds the actions
    that would have stayed, so that an algorithm that weighs actions by value can do far better.
    """
    if kind == "expert":
        torque = controller(theta, speed, kp=7.0, kd=1.5) + 0.1 * random.bell(len(theta))
    else:
        torque = controller(theta, speed, kp=3.0, kd=0.3) + random.bell(len(theta))
        anything = TORQUE * (2 * random.uniform(theta.shape) - 1)
        torque = np.where(random.uniform(theta.shape) < skill, torque, anything)
    return np.clip(torque, -TORQUE, TORQUE).astype(np.float32)


# --- The data set -----------------------------------------------------------------------


def pendulum(kind: str, steps: int, seed: int) -> dict[str, np.ndarray]:
    """`steps` rows of D4RL arrays, float32 and bool; the last row ends the last episode by a time-out."""
    if kind == "medium-expert":
        halves = [pendulum("medium", steps - steps // 2, seed), pendulum("expert", steps // 2, seed + 2**32)]
        return {key: np.concatenate([half[key] for half in halves]) for key in halves[0]}
    episodes = -(-steps // LIMIT)
    random = Random(seed)
    # Each episode's share of the medium controller's actions, the rest being random torque.
    skill = np.full(episodes, 0.0 if kind == "random" else 1.0)
    if kind == "medium-replay":
        skill = np.arange(episodes) / max(1, episodes - 1)
    theta = np.pi * (2 * random.uniform((episodes,)) - 1)
    speed = 2 * random.uniform((episodes,)) - 1

    obs = np.zeros((episodes, LIMIT + 1, 3), np.float32)
    action = np.zeros((episodes, LIMIT, 1), np.float32)
    reward = np.zeros((episodes, LIMIT), np.float32)
    obs[:, 0] = observe(theta, speed)
    for t in range(LIMIT):
        torque = behave(kind, theta, speed, skill, random)
        # The dynamics see the torque as stored, so that the rows replay exactly.
        theta, speed, cost = step(theta, speed, torque.astype(np.float64))
        action[:, t, 0], reward[:, t], obs[:, t + 1] = torque, cost, observe(theta, speed)

    timeouts = np.zeros((episodes, LIMIT), bool)
    timeouts[:, -1] = True
    timeouts.reshape(-1)[steps - 1] = True
    return {
        "observations": obs[:, :-1].reshape(-1, 3)[:steps],
        "actions": action.reshape(-1, 1)[:steps],
        "rewards": reward.reshape(-1)[:steps],
        "terminals": np.zeros(steps, bool),
        "timeouts": timeouts.reshape(-1)[:steps],
        "next_observations": obs[:, 1:].reshape(-1, 3)[:steps],
    }
