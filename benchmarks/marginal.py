"""Can MIRACLE's marginal have two modes? Each objective on a bimodal action buffer, against the true density.

    python benchmarks/marginal.py [--steps 20000] [--results benchmarks/results/marginal]

Actions are tanh(u), u half from N(-1.2, 0.2^2) and half from N(1.2, 0.2^2), in each dimension by itself.
What is compared is E log pi_chi(a), the mean log likelihood of fresh actions in nats: of the estimate with 20
latents, which is what training uses, and of the density itself (20,000 latents). The true density's is known
up to one integral, and so is that of the one Gaussian (in u) with the data's moments.
"""

import argparse
import functools
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import quad

from leashrl import nn
from leashrl.algos import miracle
from leashrl.disk.files import versions, write_atomically, write_json
from leashrl.dist import Mixture, Normal, log_det_tanh, unsquash
from leashrl.optim import adam, adam_init
from leashrl.report.plots import COLOURS, need_matplotlib

MODES, STD = (-1.2, 1.2), 0.2
KINDS = ("gaussian", "mixture", "vae")
CONFIG = miracle.Config()
BUFFER, TEST, LATENTS = 10_000, 4_000, 20_000


def draw(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    u = rng.choice(MODES, (n, dim)) + STD * rng.standard_normal((n, dim))
    return np.tanh(u).astype(np.float32)


def density(u: float) -> float:
    """Of one pre-tanh coordinate."""
    return float(np.mean([np.exp(-0.5 * ((u - m) / STD) ** 2) for m in MODES]) / (STD * np.sqrt(2 * np.pi)))


def expected(f) -> float:
    """E f(u) under the true density of one coordinate."""
    return sum(quad(lambda u: density(u) * f(u), *side, epsabs=1e-10)[0] for side in ((-4, 0), (0, 4)))


def known(dim: int) -> dict[str, float]:
    """E log of the true density and of the best single Gaussian, in action space, by quadrature."""
    log_det = expected(lambda u: np.log1p(-(np.tanh(u) ** 2)))
    variance = MODES[1] ** 2 + STD**2
    gaussian = -0.5 * np.log(2 * np.pi * variance) - 0.5
    return {
        "true density": dim * (expected(lambda u: np.log(density(u))) - log_det),
        "one Gaussian, closed form": dim * (gaussian - log_det),
    }


def train(kind: str, dim: int, steps: int):
    """The trained parameters, and the decoder they belong to."""
    decoder = nn.gaussian(dim, dim, CONFIG.hidden, out_scale=1.0, **miracle.LOG_STD)
    encoder = nn.gaussian(dim, dim, CONFIG.hidden, **miracle.LOG_STD)
    key_d, key_e, key = jax.random.split(jax.random.key(0), 3)
    params = {"decoder": decoder.init(key_d)}
    if kind == "vae":
        params["encoder"] = encoder.init(key_e)
    actions = jnp.asarray(draw(np.random.default_rng(0), BUFFER, dim))

    def step(t, carry):
        params, optimiser = carry
        k1, k2, k3 = jax.random.split(jax.random.fold_in(key, t), 3)
        u = unsquash(actions[jax.random.randint(k1, (CONFIG.batch_size,), 0, BUFFER)], miracle.ACTION_MARGIN)
        latents = jax.random.normal(k2, (CONFIG.latents, dim))
        grads = jax.grad(miracle.marginal_loss)(params, kind, decoder, encoder, u, latents, k3)
        return adam(grads, optimiser, params, jnp.float32(CONFIG.marginal_rate))

    run = jax.jit(functools.partial(jax.lax.fori_loop, 0, steps, step))
    params, _ = run((params, adam_init(params)))
    return jax.block_until_ready(params), decoder


def likelihoods(params, decoder: nn.Network, dim: int) -> dict[str, float]:
    """Mean log likelihood of fresh actions: of the 20-latent estimate, and of the density itself."""
    u = unsquash(jnp.asarray(draw(np.random.default_rng(1), TEST, dim)), miracle.ACTION_MARGIN)
    log_det = log_det_tanh(u)

    @functools.partial(jax.jit, static_argnums=1)
    def log_prob(key, n):
        latents = jax.random.normal(key, (n, dim))
        return jnp.mean(
            Mixture.even(Normal(*decoder.apply(params["decoder"], latents))).log_prob(u) - log_det
        )

    few = [float(log_prob(jax.random.key(i), CONFIG.latents)) for i in range(100)]
    return {
        "20 latents": float(np.mean(few)),
        "density": float(log_prob(jax.random.key(0), LATENTS)),
    }


def picture(found: dict, path: Path) -> None:
    """The one-dimensional densities, in pre-tanh coordinates."""
    figure = need_matplotlib()(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    grid = np.linspace(-2.6, 2.6, 400)
    axes.fill_between(grid, [density(u) for u in grid], color="0.85", label="true density")
    for colour, (kind, (params, decoder)) in zip(COLOURS, found.items(), strict=False):
        latents = jax.random.normal(jax.random.key(0), (2000, 1))
        components = Normal(*decoder.apply(params["decoder"], latents))
        y = np.exp(Mixture.even(components).log_prob(jnp.asarray(grid, jnp.float32)[:, None]))
        axes.plot(grid, y, color=colour, label=kind)
    axes.set_xlabel("u, the action before tanh")
    axes.set_ylabel("density")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> int:
    parser = argparse.ArgumentParser(description="MIRACLE's marginal on a bimodal action buffer.")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--results", type=Path, help="PATH.json, PATH.md and PATH.png")
    args = parser.parse_args()
    rows, shown = [], {}
    for dim in (1, 3):
        for name, value in known(dim).items():
            rows.append({"dim": dim, "marginal": name, "20 latents": value, "density": value})
        for kind in KINDS:
            start = time.perf_counter()
            trained = train(kind, dim, args.steps)
            rows.append({"dim": dim, "marginal": kind} | likelihoods(*trained, dim))
            if dim == 1:
                shown[kind] = trained
            print(rows[-1], f"{time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    table = "| dimensions | marginal | 20 latents | the density itself |\n|---|---|---|---|\n"
    for r in rows:
        table += f"| {r['dim']} | {r['marginal']} | {r['20 latents']:.3f} | {r['density']:.3f} |\n"
    print(table)
    if args.results:
        write_json(
            args.results.with_suffix(".json"),
            {"steps": args.steps, "rows": rows, "versions": versions(), "command": " ".join(sys.argv)},
        )
        write_atomically(args.results.with_suffix(".md"), table.encode())
        picture(shown, args.results.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
