"""A causal transformer over tokens: what a sequence model is made of."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from leashrl.nn.hidden import layer_norm, product
from leashrl.nn.initial import Layer, dense
from leashrl.nn.mlp import Network, Params, affine
from leashrl.types import Array

Tokens = Float[Array, "*batch tokens width"]


def transformer(
    width: int,
    *,
    layers: int,
    heads: int,
    dropout_percent: int = 0,
    input_dropout_percent: int = 0,
    layer: Layer = dense,
) -> Network:
    """`(..., tokens, width)` to the same; token t sees tokens up to t alone.

    Pre-norm blocks (attention, then 4 * width ReLU units), normalised once more at the end. With a `key`,
    `apply` drops that share of attention weights and of each block's outputs, and another of the tokens that
    come in. `layer` draws the weights.
    """
    if width % heads:
        raise ValueError(f"width {width} is not a multiple of {heads} heads")

    def init(key: PRNGKeyArray) -> Params:
        def block(key: PRNGKeyArray) -> Params:
            keys = jax.random.split(key, 4)
            return {
                # Without a bias: the keys' has no gradient, which Adam would make a random walk of.
                "qkv": layer(keys[0], width, 3 * width)["kernel"],
                "mix": layer(keys[1], width, width),
                "up": layer(keys[2], width, 4 * width),
                "down": layer(keys[3], 4 * width, width),
            }

        return [block(key) for key in jax.random.split(key, layers)]

    def drop(x: Array, key: PRNGKeyArray | None, i: int, percent: int = dropout_percent) -> Array:
        if not percent or key is None:
            return x
        keep = 1.0 - percent / 100
        return jnp.where(jax.random.bernoulli(jax.random.fold_in(key, i), keep, x.shape), x / keep, 0.0)

    def attend(params: Params, x: Tokens, key: PRNGKeyArray | None, i: int) -> Tokens:
        tokens = x.shape[-2]
        qkv = product(x, params["qkv"]).reshape(*x.shape[:-1], 3, heads, width // heads)
        q, k, v = (qkv[..., j, :, :] for j in range(3))  # (..., tokens, heads, depth)
        scores = jnp.einsum("...qhd,...khd->...hqk", q, k) / math.sqrt(width // heads)
        past = jnp.arange(tokens)[:, None] >= jnp.arange(tokens)[None]
        past = past.reshape((1,) * (scores.ndim - 2) + (tokens, tokens))
        weights = drop(jax.nn.softmax(jnp.where(past, scores, -jnp.inf), axis=-1), key, i)
        mixed = jnp.einsum("...hqk,...khd->...qhd", weights, v).reshape(x.shape)
        return affine(params["mix"], mixed)

    def apply(params: Params, x: Tokens, key: PRNGKeyArray | None = None) -> Tokens:
        x = drop(x, key, 3 * len(params), input_dropout_percent)
        for i, block in enumerate(params):
            x = x + drop(attend(block, layer_norm(x), key, 3 * i), key, 3 * i + 1)
            hidden = jax.nn.relu(affine(block["up"], layer_norm(x)))
            x = x + drop(affine(block["down"], hidden), key, 3 * i + 2)
        return layer_norm(x)

    return Network(init, apply)
