"""Densities of actions given a state: mixtures, and conditional variational autoencoders."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from leashrl.dist import Mixture, Normal
from leashrl.nn.mlp import Network, Params, bounded, gaussian, mlp
from leashrl.types import Array

Obs = Float[Array, "*batch obs_dim"]
Points = Float[Array, "*batch dim"]
Latents = Float[Array, "*batch latent"]


def mixture(
    inputs: int,
    dim: int,
    components: int,
    hidden: Sequence[int],
    *,
    independent: bool = False,
    bound: str = "clip",
    log_std_range: tuple[float, float] = (-5.0, 2.0),
    out_scale: float = 1.0,
) -> Network:
    """`(..., inputs) -> Mixture` over u.

    `independent` gives each of the `dim` dimensions a mixture of its own: logits (..., dim, components),
    mean and log_std (..., dim, components, 1). Otherwise components are diagonal Gaussians over all of u:
    logits (..., components), mean and log_std (..., components, dim). `bound` as in `gaussian`, without
    its learnt scalars.
    """
    shape = (dim, components, 1) if independent else (components, dim)
    weights = shape[:-1]
    n = dim * components
    body = mlp(inputs, 2 * n + (n if independent else components), hidden, out_scale=out_scale)

    def apply(params: Params, x: Float[Array, "*batch inputs"]) -> Mixture:
        mean, raw, logits = jnp.split(body.apply(params, x), (n, 2 * n), axis=-1)
        lead = x.shape[:-1]
        log_std = bounded(raw.reshape(*lead, *shape), bound, log_std_range)
        return Mixture(logits.reshape(*lead, *weights), mean.reshape(*lead, *shape), log_std)

    return Network(body.init, apply)


class Vae(NamedTuple):
    """A conditional variational autoencoder (Kingma & Welling 2014, arXiv 1312.6114) of x given a state.

    `encode(params, obs, x)` is q(z|s, x), a Normal (..., latent); `decode(params, obs, z)` is p(x|s, z):
    a Normal or a Mixture, or a plain array (..., dim) where it is deterministic.
    """

    init: Callable[[PRNGKeyArray], Params]
    encode: Callable[[Params, Obs, Points], Normal]
    decode: Callable[[Params, Obs, Latents], Any]
    latent: int


def vae(
    obs_dim: int,
    dim: int,
    latent: int,
    hidden: Sequence[int],
    *,
    components: int = 1,
    bound: str = "softplus",
    log_std_range: tuple[float, float] = (-4.0, 15.0),
    min_std: float = 0.0,
) -> Vae:
    """Encoder and decoder with the same widths; `components` 0 makes the decoder deterministic.

    `min_std` is added to the decoder's standard deviations: a floor beside which no gradient dies.
    """
    encoder = gaussian(
        obs_dim + dim, latent, hidden, out_scale=1.0, mean_limit=jnp.inf, bound=bound,
        log_std_range=log_std_range, log_std_offset=0.0,
    )  # fmt: skip
    inputs = obs_dim + latent
    if components > 1:
        decoder = mixture(inputs, dim, components, hidden, bound="softplus")
    elif components == 1:
        decoder = gaussian(inputs, dim, hidden, out_scale=1.0, mean_limit=jnp.inf, bound="softplus")
    else:
        decoder = mlp(inputs, dim, hidden)

    def init(key: PRNGKeyArray) -> Params:
        keys = jax.random.split(key)
        return {"encoder": encoder.init(keys[0]), "decoder": decoder.init(keys[1])}

    def encode(params: Params, obs: Obs, x: Points) -> Normal:
        return Normal(*encoder.apply(params["encoder"], jnp.concatenate([obs, x], axis=-1)))

    def decode(params: Params, obs: Obs, z: Latents) -> Any:
        out = decoder.apply(params["decoder"], jnp.concatenate([obs, z], axis=-1))
        out = Normal(*out) if components == 1 else out
        if min_std and components:
            out = dataclasses.replace(out, log_std=jnp.log(jnp.exp(out.log_std) + min_std))
        return out

    return Vae(init, encode, decode, latent)
