"""A causal transformer over tokens: what a sequence model is made of."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, PRNGKeyArray

from leashrl.nn.hidden import layer_norm, product
from leashrl.nn.initial import Layer, dense
from leashrl.nn.mlp import Network, Params, affine, dropped, kept
from leashrl.types import Array

Tokens = Float[Array, "*batch tokens width"]
EACH = slice(None)


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
    come in; with `asked` it gives those tokens alone, and computes no more of the last block. `layer` draws
    the weights.
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

    def attend(params: Params, x: Tokens, asked: slice, key: PRNGKeyArray | None) -> Tokens:
        tokens, depth = x.shape[-2], width // heads
        kernel = params["qkv"]
        if asked == EACH:
            q, k, v = jnp.split(product(x, kernel), 3, axis=-1)
        else:
            q = product(x[..., asked, :], kernel[:, :width])
            k, v = jnp.split(product(x, kernel[:, width:]), 2, axis=-1)
        q, k, v = (y.reshape(*y.shape[:-1], heads, depth) for y in (q, k, v))
        past = (jnp.arange(tokens)[:, None] >= jnp.arange(tokens)[None])[asked]
        shape = (*x.shape[:-2], heads, *past.shape)
        share = kept(key, dropout_percent, shape) if dropout_percent and key is not None else None
        mixed = attention(q, k, v, jnp.broadcast_to(past, shape), share)
        return affine(params["mix"], mixed.reshape(*q.shape[:-2], width))

    def apply(params: Params, x: Tokens, key: PRNGKeyArray | None = None, asked: slice = EACH) -> Tokens:
        drop = partial(dropped, percent=dropout_percent)
        at = lambda i: None if key is None else jax.random.fold_in(key, i)
        x = dropped(x, at(3 * len(params)), input_dropout_percent)
        for i, block in enumerate(params):
            last = asked if i == len(params) - 1 else EACH  # who is not asked need not be known there
            x = x[..., last, :] + drop(attend(block, layer_norm(x), last, at(3 * i)), at(3 * i + 1))
            hidden = jax.nn.relu(affine(block["up"], layer_norm(x)))
            x = x + drop(affine(block["down"], hidden), at(3 * i + 2))
        return layer_norm(x if params else x[..., asked, :])

    return Network(init, apply)


# --- Attention ---------------------------------------------------------------


@jax.custom_vjp
def attention(
    q: Float[Array, "*batch asked heads depth"],
    k: Float[Array, "*batch tokens heads depth"],
    v: Float[Array, "*batch tokens heads depth"],
    past: Bool[Array, "*batch heads asked tokens"],
    share: Float[Array, "*batch heads asked tokens"] | None,
) -> Float[Array, "*batch asked heads depth"]:
    """softmax(q k^T / sqrt(depth)) over the tokens in `past`, times `share` (of dropout), times v."""
    return _attention(q, k, v, past, share)[0]


def _attention(q: Array, k: Array, v: Array, past: Array, share: Array | None) -> tuple[Array, tuple]:
    scores = jnp.einsum("...qhd,...khd->...hqk", q, k) / math.sqrt(q.shape[-1])
    weights = jax.nn.softmax(jnp.where(past, scores, -jnp.inf), axis=-1)
    left = weights if share is None else weights * share
    mixed = jnp.einsum("...hqk,...khd->...qhd", left, v)
    return mixed, (q, k, v, weights, share, mixed)


def _attention_backward(known: tuple, slope: Array) -> tuple[Array, Array, Array, None, None]:
    q, k, v, weights, share, mixed = known
    dv = jnp.einsum("...hqk,...qhd->...khd", weights if share is None else weights * share, slope)
    by_weight = jnp.einsum("...qhd,...khd->...hqk", slope, v)
    by_weight = by_weight if share is None else by_weight * share
    # softmax's derivative needs sum_k weights * by_weight, which is slope . mixed: fewer numbers to sum.
    total = jnp.moveaxis(jnp.sum(slope * mixed, axis=-1), -1, -2)
    by_score = weights * (by_weight - total[..., None]) / math.sqrt(q.shape[-1])
    dq = jnp.einsum("...hqk,...khd->...qhd", by_score, k)
    dk = jnp.einsum("...hqk,...qhd->...khd", by_score, q)
    return dq, dk, dv, None, None


attention.defvjp(_attention, _attention_backward)
