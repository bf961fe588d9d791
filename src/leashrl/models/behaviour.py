"""The behaviour as an ensemble of conditional variational autoencoders, and how far a policy is from it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from leashrl import nn
from leashrl.dist import Mixture, Normal, kl_to_standard
from leashrl.ops import divergence
from leashrl.types import Array

LATENT_LIMIT = 0.5
"""Where samples of the latent are cut off, so that a decoder stays near its data (BEAR, BRAC+)."""


class Behaviour(NamedTuple):
    """`init(key) -> params`, with a leading member axis.

    `loss(params, obs, u, key)`: -ELBO of pre-tanh actions u (batch, dim), mean over members and batch: an
    upper bound of -log density. `distance(params, pi, obs, key, sigma)`: D(s) (batch,), the mean over
    the members in `params`.
    """

    init: Callable[[Array], nn.Params]
    loss: Callable[[nn.Params, Array, Array, Array], Array]
    distance: Callable[[nn.Params, Normal, Array, Array, Array], Array]


def autoencoders(
    vae: nn.Vae, *, members: int = 3, kind: str = "kl", latents: int = 5, samples: int = 5
) -> Behaviour:
    """BRAC+'s behaviour (Zhang et al. 2020, section 3.1.1 and appendix F).

    Args:
      vae: of pre-tanh actions, its decoder a Normal or a Mixture.
      members: autoencoders that are trained side by side.
      kind: D: `kl`, the bound of equation 7 with `latents` draws of z; `cross-entropy`, the same with
        -log p(u|s, z) in the first KL's place; `mmd`, with a Laplacian kernel between `samples` policy
        actions and as many decoded ones a member.
    """

    def init(key: Array) -> nn.Params:
        return jax.vmap(vae.init)(jax.random.split(key, members))

    def loss(params: nn.Params, obs: Array, u: Array, key: Array) -> Array:
        def one(params: nn.Params, key: Array) -> Array:
            posterior = vae.encode(params, obs, u)
            decoded = vae.decode(params, obs, posterior.sample(key))
            return jnp.mean(divergence.elbo_loss(decoded, posterior, u))

        return jnp.mean(jax.vmap(one)(params, jax.random.split(key, members)))

    def bound(params: nn.Params, pi: Normal, obs: Array, u: Array, key: Array) -> Array:
        """One member's D(s) by its posterior of a policy action u."""
        posterior = vae.encode(params, obs, u)
        decoded = vae.decode(params, repeat(obs, latents), posterior.sample(key, (latents,)))
        if kind == "cross-entropy":
            return jnp.mean(-decoded.log_prob(repeat(u, latents)), axis=0) + kl_to_standard(posterior)
        pi, posterior = (jax.tree.map(lambda x: repeat(x, latents), n) for n in (pi, posterior))
        return jnp.mean(divergence.kl_bound(pi, decoded, posterior), axis=0)

    def centres(params: nn.Params, obs: Array, key: Array) -> Array:
        """One member's actions (samples, batch, dim), decoded from the prior's middle."""
        z = jax.random.normal(key, (samples, obs.shape[0], vae.latent))
        decoded = vae.decode(params, repeat(obs, samples), jnp.clip(z, -LATENT_LIMIT, LATENT_LIMIT))
        if isinstance(decoded, Mixture):
            heaviest = jnp.argmax(decoded.logits, axis=-1)[..., None, None]
            return jnp.take_along_axis(decoded.mean, heaviest, axis=-2)[..., 0, :]
        return decoded.mean

    def distance(params: nn.Params, pi: Normal, obs: Array, key: Array, sigma: Array) -> Array:
        key_u, key_z = jax.random.split(key)
        keys = jax.random.split(key_z, jax.tree.leaves(params)[0].shape[0])
        if kind == "mmd":
            theirs = jax.vmap(centres, in_axes=(0, None, 0))(params, obs, keys)
            theirs = jnp.moveaxis(theirs.reshape(-1, *theirs.shape[2:]), 0, 1)
            own = jnp.moveaxis(pi.sample(key_u, (samples,)), 0, 1)
            return divergence.root(divergence.mmd(own, theirs, "laplacian", sigma))
        u = pi.sample(key_u)
        each = jax.vmap(bound, in_axes=(0, None, None, None, 0))(params, pi, obs, u, keys)
        return jnp.mean(each, axis=0)

    return Behaviour(init, loss, distance)


def one_of(params: nn.Params, key: Array) -> nn.Params:
    """A member drawn at random, its axis kept."""
    i = jax.random.randint(key, (), 0, jax.tree.leaves(params)[0].shape[0])
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i, 1), params)


def repeat(x: Array, n: int) -> Array:
    """(...) as (n, ...)."""
    return jnp.broadcast_to(x[None], (n, *x.shape))
