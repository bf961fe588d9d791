"""Each estimator of equation 15 against quadrature, in one dimension: relative error by number of samples.

The term is the gradient of log Z = log E_pi[e^T] in the policy's mean and log std; by equation 15 it is
E_p[grad log pi] under p(a) ~ pi(a) e^{T(a)}. The library's own estimators run on a batch of replicate
states, each of which sees the same policy, the same energy and samples of its own.

    python benchmarks/estimators.py [--replicates 1000] [--json FILE]
"""

import argparse
import json
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from leashrl.dist import Normal
from leashrl.ops import mi
from leashrl.ops.correction import Chain, importance, in_action_space, whitened
from leashrl.types import Array

COUNTS = (5, 20, 50, 200, 1000)


class Problem(NamedTuple):
    """A Gaussian policy over u, actions a = tanh(u), and the energy T(a) = slope a + curvature a^2."""

    mean: float
    std: float
    slope: float
    curvature: float

    def energy(self, a):
        return self.slope * a + self.curvature * a**2


PROBLEMS = {
    "modest": Problem(0.3, 0.3, 2.0, -1.0),  # p lies a third of a policy std from the policy
    "steep": Problem(0.0, 0.3, 10.0, 0.0),  # two of them
}
DATA_MEAN, DATA_STD = -0.1, 0.2  # of the data's atanh(action), where `hmc-action` starts
STEPS = {  # name: (estimator, HMC's step size); leapfrog 2, burn-in 5, adaptation 4: the authors' values
    "snis": ("snis", 0.0),
    "hmc, step 0.3": ("hmc", 0.3),
    "hmc, step 0.8 (default)": ("hmc", 0.8),
    "hmc-action, step 1.0 (authors)": ("hmc-action", 1.0),
    "hmc-action, step 0.1": ("hmc-action", 0.1),
    "reparam": ("reparam", 0.0),
}


def exact(problem: Problem) -> np.ndarray:
    """d log Z / d (mean, log std) = (E_p[z] / std, E_p[z^2] - 1), z = (u - mean) / std, by quadrature."""
    z = np.linspace(-12.0, 12.0, 200_001)
    log_p = -0.5 * z**2 + problem.energy(np.tanh(problem.mean + problem.std * z))
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    return np.array([p @ z / problem.std, p @ z**2 - 1.0])


@partial(jax.jit, static_argnames=("estimator", "n", "replicates"))
def estimates(
    key: Array, estimator: str, step_size: float, problem: Problem, n: int, replicates: int
) -> tuple[Array, Array]:
    """Gradients (replicates, 2) of log Z in (mean, log std), from n samples each, and the acceptance rate."""
    key_k, key_data, key_chain = jax.random.split(key, 3)
    shape = (replicates, 1)
    pi = Normal(jnp.full(shape, problem.mean), jnp.full(shape, jnp.log(problem.std)))
    u = jnp.moveaxis(pi.sample(key_k, (n,)), 0, 1)  # (replicates, n, 1)

    def energy(_: Array, action: Array) -> Array:
        return problem.energy(action[..., 0])

    energies = energy(pi.mean, jnp.tanh(u))
    chain = Chain(n, burn_in=5, leapfrog=2, adapt=4, step_size=jnp.asarray(step_size))
    points = None
    if estimator == "snis":
        points = importance("misa", u, energies)
    elif estimator == "hmc":
        points = whitened("misa", pi, pi.mean, u, energies, energy, key_chain, chain)
    elif estimator == "hmc-action":
        start = jnp.tanh(DATA_MEAN + DATA_STD * jax.random.normal(key_data, shape))
        points = in_action_space("misa", pi, pi.mean, energies, energy, start, key_chain, chain)

    def log_z(mean: Array, log_std: Array) -> Array:
        """As in `ops/correction.py`: a scalar whose gradient is that of log Z, a mean over the replicates."""
        new = Normal(mean[:, None], log_std[:, None])
        if points is not None:
            return jnp.sum(points.weight * new.log_prob(points.u))
        noise = (u - pi.mean[:, None]) * jnp.exp(-pi.log_std)[:, None]
        return mi.log_partition("misa", energy(new.mean, jnp.tanh(new.mean + jnp.exp(new.log_std) * noise)))

    gradient = jax.grad(log_z, argnums=(0, 1))(pi.mean, pi.log_std)
    acceptance = jnp.ones(()) if points is None else points.acceptance
    return jnp.concatenate(gradient, axis=1) * replicates, acceptance


def measure(name: str, problem: Problem, n: int, replicates: int, seed: int = 0) -> dict[str, float]:
    """RMS error and bias of the gradient as shares of the exact gradient's length."""
    truth = exact(problem)
    gradients, acceptance = estimates(jax.random.key(seed), *STEPS[name], problem, n, replicates)
    error = np.asarray(gradients, np.float64) - truth
    length = np.linalg.norm(truth)
    return {
        "rms": float(np.sqrt((error**2).sum(axis=1).mean()) / length),
        "bias": float(np.linalg.norm(error.mean(axis=0)) / length),
        "acceptance": float(acceptance),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Estimators of equation 15 against quadrature.")
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    options = parser.parse_args()
    rows = []
    for case, problem in PROBLEMS.items():
        for name in STEPS:
            for n in COUNTS:
                figures = measure(name, problem, n, options.replicates)
                rows.append({"energy": case, "estimator": name, "samples": n, **figures})
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"replicates": options.replicates, "rows": rows}, file, indent=1)
            file.write("\n")
    print("| energy | estimator | " + " | ".join(f"n = {n}" for n in COUNTS) + " | accepted |")
    print("|---|---|" + "---|" * (len(COUNTS) + 1))
    for i in range(0, len(rows), len(COUNTS)):
        group = rows[i : i + len(COUNTS)]
        cells = [f"{r['rms']:.3f} ({r['bias']:.3f})" for r in group]
        walks = group[0]["estimator"].startswith("hmc")
        accepted = f"{group[-1]['acceptance']:.0%}" if walks else "–"
        print(f"| {group[0]['energy']} | {group[0]['estimator']} | {' | '.join(cells)} | {accepted} |")


if __name__ == "__main__":
    main()
