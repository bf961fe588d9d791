"""Algorithms with small networks, and rows for them to learn from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from leashrl.algos import REGISTRY
from leashrl.core import hyper, override
from leashrl.data.preprocessing import to_go
from leashrl.types import Batch, Episodes
from support.draws import RNG, normal

SMALL = dict.fromkeys(("hidden", "behaviour_hidden", "critic_hidden", "alpha_hidden", "model_hidden"), (8, 8))
SMALL |= {"batch_size": 8, "k": 3, "samples": 2, "candidates": 2, "best_of": 2, "components": 2, "latents": 2}
SMALL |= {"epoch": 7, "resample": 2, "context": 3, "width": 8, "layers": 1, "max_steps": 10, "horizon": 3}
SMALL |= {"members": 3, "elites": 2}


def small(name: str) -> dict:
    """Options that make an algorithm quick to compile, as far as it has them."""
    fields = {field.name for field in dataclasses.fields(REGISTRY[name].config)}
    return {option: value for option, value in SMALL.items() if option in fields}


def built(name, preset="default", *, spec, **options):
    """An algorithm's config, itself, its first state, and its stages by name."""
    entry = REGISTRY[name]
    config = override(override(entry.config(), entry.presets[preset].values), options)
    algorithm = entry.build(config, spec)
    state = jax.jit(algorithm.init)(jax.random.key(0), hyper(config))
    return config, algorithm, state, {stage.name: stage for stage in algorithm.stages}


def random_batch(spec, n=16, rng=RNG):
    """Random rows, none of which ends an episode."""
    draw = lambda *shape: normal(n, *shape, rng=rng)
    dim = len(spec.action.low)
    return Batch(draw(spec.obs_dim), jnp.tanh(draw(dim)), draw(), jnp.full(n, 0.9), draw(spec.obs_dim))


def episodes_of(lengths, spec):
    """Episodes of so many rows, their observations numbered."""
    n = sum(lengths)
    end = np.repeat(np.cumsum(lengths), lengths).astype(np.int32)
    step = np.arange(n, dtype=np.int32) - np.repeat(np.cumsum(lengths) - lengths, lengths).astype(np.int32)
    obs = jnp.broadcast_to(jnp.arange(n, dtype=jnp.float32)[:, None], (n, spec.obs_dim))
    reward = normal(n)
    action = jnp.tanh(normal(n, len(spec.action.low)))
    return Episodes(obs, action, reward, to_go(np.asarray(reward), end), step, end)


def same(a, b):
    """Whether two trees hold the same bits."""
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
