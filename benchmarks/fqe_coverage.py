"""Do FQE's intervals hold the truth, and is a policy that leaves the data flagged? With known values.

    python benchmarks/fqe_coverage.py --out benchmarks/results/fqe-coverage.json

Coverage: s' = 0.8 s + 0.2 a + noise, r = -(s^2 + 0.1 a^2) + noise, random actions; policies a = k s, whose
value is known in closed form and whose states the data cover; many data sets, with a number of seeds.
Shift: s' = s + 0.1 a, data from 20 random steps; policies a = k walk to where rewards are others.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

import numpy as np

from leashrl.data import Dataset
from leashrl.disk.files import versions, write_json
from leashrl.ope import estimator, reliability
from leashrl.ope import fits as fitting
from leashrl.types import Box

GAINS = (-0.5, 0.5)
SEEDS = (2, 3, 5)
DRIFTS = (-1.0, 0.0, 0.1, 0.2, 0.4, 0.6, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a .json")
    parser.add_argument("--sets", type=int, default=200, help="data sets whose intervals are counted")
    parser.add_argument("--shifts", type=int, default=5, help="data sets with policies that walk away")
    args = parser.parse_args()
    found = {"coverage": coverage(args.sets) if args.sets else [], "shift": shift(args.shifts)}
    about = {"command": shlex.join(["python", *sys.argv]), "versions": versions()}
    write_json(args.out, about | found)


def dataset(obs: np.ndarray, action: np.ndarray, reward: np.ndarray) -> Dataset:
    """(steps, episodes) each; every episode is cut, none ends."""
    flat = lambda x: x.T.reshape(-1, 1).astype(np.float32)
    cut = np.arange(obs.size) % len(obs) == len(obs) - 1
    unit = Box((-1.0,), (1.0,))
    return Dataset.from_arrays(
        flat(obs), flat(action), flat(reward)[:, 0], np.zeros(obs.size, bool), timeout=cut, action_space=unit
    )


def evaluate(data: Dataset, policies: list, config: estimator.Config, seeds: int):
    """The fits, and the rows of `policies`."""
    split = estimator.split(data)
    asked = fitting.Asked.of(split, len(data), 0)
    actions = np.stack([data.action[asked.rows], *(policy(data.obs[asked.rows]) for policy in policies)])
    logged = estimator.logged_values(data, config.gamma)
    fits = fitting.fit(data, split, asked, actions, config, range(seeds), logged)
    return fits, split, fitting.judge(fits, data, split, asked, actions, config.gamma)[1:]


# --- Coverage ----------------------------------------------------------------

EPISODES, STEPS, NOISE, SHAKE = 50, 20, 2.0, 0.2


def noisy(seed: int) -> Dataset:
    rng = np.random.default_rng([seed, 1])
    action = rng.uniform(-1, 1, (STEPS, EPISODES))
    obs = np.empty_like(action)
    obs[0] = rng.uniform(-1, 1, EPISODES)
    for t in range(STEPS - 1):
        obs[t + 1] = 0.8 * obs[t] + 0.2 * action[t] + SHAKE * rng.normal(size=EPISODES)
    return dataset(obs, action, -(obs**2 + 0.1 * action**2) + NOISE * rng.normal(size=obs.shape))


def known(gain: float, gamma: float) -> float:
    """E V over starts in [-1, 1]: E s_t^2 = rho^2t / 3 + SHAKE^2 (1 - rho^2t) / (1 - rho^2)."""
    rho, t = 0.8 + 0.2 * gain, np.arange(2000)
    squares = rho ** (2 * t) / 3 + SHAKE**2 * (1 - rho ** (2 * t)) / (1 - rho**2)
    return float(-(1 + 0.1 * gain**2) * (gamma**t * squares).sum())


def coverage(sets: int) -> list[dict]:
    config = estimator.Config(steps=500, batch_size=64, hidden=(16,), gamma=0.9, critic_rate=3e-3, polyak=0.1)
    policies = [lambda obs, k=k: (k * obs).astype(np.float32) for k in GAINS]
    truth = np.array([known(k, config.gamma) for k in GAINS])
    hits = {n: [] for n in SEEDS}
    widths = {n: [] for n in SEEDS}
    off = []
    for i in range(sets):
        fits, split, _ = evaluate(noisy(i), policies, config, max(SEEDS))
        for n in SEEDS:
            found = reliability.intervals(fits.values[1:, :n], len(split.train_starts))
            hits[n].append((found["low"] <= truth) & (truth <= found["high"]))
            widths[n].append(found["high"] - found["low"])
        off.append(fits.values[1:].mean((1, 2)) - truth)
        if i % 10 == 9:
            print(i + 1, {n: round(float(np.mean(x)), 3) for n, x in hits.items()}, flush=True)
    return [
        {
            "seeds": n,
            "coverage": np.mean(hits[n], axis=0).tolist(),
            "coverage_of_all": float(np.mean(hits[n])),
            "width": float(np.mean(widths[n])),
            "gains": GAINS,
            "truth": truth.tolist(),
            "bias": np.mean(off, axis=0).tolist(),
            "deviation": np.std(off, axis=0).tolist(),
            "data_sets": sets,
        }
        for n in SEEDS
    ]


# --- Shift -------------------------------------------------------------------


def pays(obs: np.ndarray) -> np.ndarray:
    """More to the right, until 2, where the data never come; there it is -1."""
    return np.where(obs < 2, np.clip(1 + obs / 2, 0, 2), -1.0)


def walk(seed: int, episodes: int = 100, steps: int = 20) -> Dataset:
    rng = np.random.default_rng(seed)
    action = rng.uniform(-1, 1, (steps, episodes))
    obs = rng.uniform(-1, 1, episodes) + 0.1 * np.cumsum(
        np.roll(action, 1, 0) * (np.arange(steps) > 0)[:, None], 0
    )
    return dataset(obs, action, pays(obs))


def shift(sets: int) -> list[dict]:
    """Truth, estimate, and how much of the discounted visits lies beyond the outermost logged state."""
    config = estimator.Config(
        steps=1200, batch_size=64, hidden=(32,), gamma=0.95, critic_rate=3e-3, polyak=0.1
    )
    policies = [lambda obs, k=k: np.full_like(obs, k) for k in DRIFTS]
    rows = []
    for i in range(sets):
        data = walk(i)
        began = time.process_time()
        _, _, found = evaluate(data, policies, config, 5)
        print(f"data set {i}: {time.process_time() - began:.0f} s of CPU time", flush=True)
        start, t = np.linspace(-1, 1, 2001), np.arange(800)[:, None]
        for k, row in zip(DRIFTS, found, strict=True):
            path, weight = start + 0.1 * k * t, config.gamma**t
            beyond = (path > data.obs.max()) | (path < data.obs.min())
            names = ("value", "low", "high", "strange", "outside", "ess", "flags")
            told = {name: row.to_json()[name] for name in names}
            exact = {
                "data_set": i,
                "drift": k,
                "truth": float((weight * pays(path)).sum(0).mean()),
                "beyond_the_data": float(((1 - config.gamma) * weight * beyond).sum(0).mean()),
            }
            rows.append(exact | told)
            print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    main()
