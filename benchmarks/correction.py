"""How large MISA's correction term (equation 15) is in a trained run, and what each sampler makes of it.

    python benchmarks/correction.py RUN [--batches 20] [--results PREFIX]

Takes the last checkpoint of a MISA run and, for every member and a number of batches, the gradient in the
policy's parameters of each term of its objective: E[min Q], E_D[log pi], and log Z as `snis`, `hmc` and
`hmc-action` estimate it. The reference for log Z is `snis` with 2,000 actions a state, where the effective
sample size says whether to trust it. No weight is applied: multiply by gamma_2 and gamma_2'.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from leashrl import nn
from leashrl.algos.misa import ACTION_MARGIN
from leashrl.core import uniform
from leashrl.data import load
from leashrl.disk.checkpoint import load_checkpoint, restore
from leashrl.disk.files import read_json, versions, write_json
from leashrl.dist import Normal, squash_log_prob, unsquash
from leashrl.ops import mi
from leashrl.ops.blocks import sweep
from leashrl.ops.correction import Chain, Points, importance, in_action_space, whitened
from leashrl.runs.experiment import Run
from leashrl.runs.plan import Plan
from leashrl.training import loop
from leashrl.types import Array, Batch

SAMPLERS = {  # estimator, samples a state, HMC's step
    "snis, k = 10": ("snis", 10, 0.0),
    "snis, k = 50": ("snis", 50, 0.0),
    "hmc, 10 samples": ("hmc", 10, 0.8),
    "hmc, 50 samples": ("hmc", 50, 0.8),
    "hmc-action, 50 samples, step 1.0 (authors)": ("hmc-action", 50, 1.0),
    "hmc-action, 50 samples, step 0.1": ("hmc-action", 50, 0.1),
}
REFERENCE = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--results", type=Path, help="prefix of the .json and .md files to write")
    args = parser.parse_args()
    plan, state, run = restored(args.run)
    members = [
        measure(plan.config, run, jax.tree.map(lambda x, i=i: x[i], state), args.batches)
        for i in range(len(plan.members))
    ]
    rows = {
        name: {k: float(np.mean([m[name][k] for m in members])) for k in members[0][name]}
        for name in members[0]
    }
    table = "\n".join(table_of(rows))
    print(table)
    if args.results:
        args.results.with_suffix(".md").write_text(table + "\n")
        about = {
            "run": args.run.name,
            "options": plan.config,
            "batches": args.batches,
            "members": len(members),
        }
        about["options"] = read_json(args.run / "config.json")["config"]
        write_json(args.results.with_suffix(".json"), about | {"versions": versions(), "rows": rows})


def restored(folder: Path) -> tuple[Plan, Any, Run]:
    """The plan, the state of all members at the last checkpoint, and the run they belong to."""
    plan = Plan.from_json(read_json(folder / "config.json"))
    run = Run.build(plan, load(plan.data["source"]))
    found = load_checkpoint(folder / "checkpoint")
    if found is None:
        raise SystemExit(f"'{folder}' has no checkpoint")
    step, flat, _ = found
    like = loop.blank(run.algorithm, run.data, run.keys, run.hp, step)
    return plan, restore(like, flat, str(folder))["state"], run


def measure(config: Any, run: Run, state: Any, batches: int) -> dict[str, dict[str, float]]:
    """Means over batches: norm of each gradient, its error against the reference and its cosine with it."""
    sample = uniform(config.batch_size)
    dim = run.spec.action.dim  # type: ignore[union-attr]
    found: list[dict[str, tuple[Array, Array]]] = []
    one = jax.jit(partial(gradients, config, run.spec.obs_dim, dim, state))
    for i in range(batches):
        key = jax.random.fold_in(jax.random.key(0), i)
        found.append(jax.device_get(one(sample(run.data, state, key), jax.random.fold_in(key, 1))))
    names = list(found[0])
    grads = {name: np.stack([f[name][0] for f in found]) for name in names}
    truth = grads["log Z, reference"]
    scale = np.linalg.norm(truth, axis=1)
    cosine = lambda a, b: (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return {
        name: {
            "norm": float(np.linalg.norm(g, axis=1).mean()),
            "error": float((np.linalg.norm(g - truth, axis=1) / scale).mean()),
            "bias": float(np.linalg.norm((g - truth).mean(0)) / np.linalg.norm(truth.mean(0))),
            "cosine": float(cosine(g, truth).mean()),
            "cosine with E_D[log pi]": float(cosine(g, grads["E_D[log pi]"]).mean()),
            "acceptance or ESS": float(np.mean([f[name][1] for f in found])),
        }
        for name, g in grads.items()
    }


def gradients(
    config: Any, obs_dim: int, dim: int, state: Any, batch: Batch, key: Array
) -> dict[str, tuple[Array, Array]]:
    """Of each term, flat, and the sampler's acceptance (HMC) or effective share of its samples (snis)."""
    policy = nn.gaussian(obs_dim, dim, config.hidden, activation=config.policy_activation)
    critic = nn.critic(
        obs_dim, dim, config.hidden, ensemble=config.ensemble, activation=config.critic_activation
    )
    pi = Normal(*policy.apply(state.policy, batch.obs))
    key_q, key_k, key_chain = jax.random.split(key, 3)

    def energy(obs: Array, action: Array) -> Array:
        return jnp.min(critic.apply(state.critic, obs, action), axis=0)

    def draw(k: int) -> tuple[Array, Array]:
        u = jnp.moveaxis(pi.sample(key_k, (k,)), 0, 1)
        return u, jnp.min(sweep(critic.apply, state.critic, batch.obs, jnp.tanh(u)), axis=0)

    def of(loss: Any) -> Array:
        return ravel_pytree(jax.grad(lambda p: loss(Normal(*policy.apply(p, batch.obs))))(state.policy))[0]

    def log_z(points: Points) -> Array:
        return of(
            lambda new: jnp.sum(
                points.weight * Normal(new.mean[:, None], new.log_std[:, None]).log_prob(points.u)
            )
        )

    nothing = jnp.zeros(())
    data = unsquash(batch.action, ACTION_MARGIN)
    u, energies = draw(REFERENCE)
    share = mi.effective_sample_size(mi.weights("misa", energies)) / REFERENCE
    found = {
        "E[min Q]": (of(lambda new: jnp.mean(energy(batch.obs, jnp.tanh(new.sample(key_q))))), nothing),
        "E_D[log pi]": (of(lambda new: jnp.mean(squash_log_prob(new, data))), nothing),
        "log Z, reference": (log_z(importance("misa", u, energies)), share),
    }
    for name, (estimator, n, step) in SAMPLERS.items():
        chain = Chain(n, burn_in=5, leapfrog=2, adapt=4, step_size=jnp.asarray(step))
        u, energies = draw(n)
        if estimator == "snis":
            points = importance("misa", u, energies)
            about = mi.effective_sample_size(mi.weights("misa", energies)) / n
        elif estimator == "hmc":
            points = whitened("misa", pi, batch.obs, u, energies, energy, key_chain, chain)
            about = points.acceptance
        else:
            start = jnp.tanh(data)
            points = in_action_space("misa", pi, batch.obs, energies, energy, start, key_chain, chain)
            about = points.acceptance
        found[name] = (log_z(points), about)
    return found


def table_of(rows: dict[str, dict[str, float]]) -> list[str]:
    head = "| gradient of | norm | error | bias | cosine | cosine with E_D[log π] | acceptance or ESS |"
    lines = [head, "|" + " --- |" * 7]
    for name, row in rows.items():
        plain = name in ("E[min Q]", "E_D[log pi]")
        shown = [
            f"{row['norm']:.3g}",
            "–" if plain else f"{100 * row['error']:.0f}%",
            "–" if plain else f"{100 * row['bias']:.0f}%",
            f"{row['cosine']:.2f}",
            f"{row['cosine with E_D[log pi]']:.2f}",
            "–" if plain else f"{100 * row['acceptance or ESS']:.1f}%",
        ]
        lines.append(f"| {name.replace(' pi]', ' π]')} | " + " | ".join(shown) + " |")
    return lines


if __name__ == "__main__":
    main()
