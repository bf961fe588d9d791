"""What several algorithms share besides `ops` and `nn`: option checks and the usual policy."""

import math
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp

from leashrl.core import Policy
from leashrl.dist import Normal
from leashrl.errors import BadInput, nearest
from leashrl.nn import Network
from leashrl.types import Array, Box, Spec, TimeStep


def choice(name: str, value: str, known: Iterable[str]) -> None:
    """BadInput unless `value` is one of `known`."""
    if value not in known:
        raise BadInput(f"option '{name}' cannot be '{value}': {nearest(value, known)}")


def positive(config: Any, *names: str) -> None:
    """BadInput unless these sizes and counts are at least 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise BadInput(f"option '{name}' must be at least 1, not {getattr(config, name)}")


def within(config: Any, low: float, high: float, *names: str) -> None:
    """BadInput unless low <= value <= high."""
    for name in names:
        if not low <= (value := getattr(config, name)) <= high:
            limits = f"at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
            raise BadInput(f"option '{name}' must be {limits}, not {value:g}")


def continuous(algorithm: str, spec: Spec) -> Box:
    """The action space, or BadInput where actions are discrete."""
    if not isinstance(spec.action, Box):
        raise BadInput(
            f"{algorithm} needs continuous actions; this data set has {spec.action.dim} discrete ones"
        )
    return spec.action


def tanh_gaussian(network: Network) -> Policy:
    """tanh(mean), or tanh of a sample, of the network in `state.policy`."""

    def act(params, carry, timestep: TimeStep, key: Array, mode: str):
        pi = Normal(*network.apply(params, timestep.obs))
        return jnp.tanh(pi.mean if mode == "mean" else pi.sample(key)), carry

    return Policy(lambda state: state.policy, lambda params: (), act, ("mean", "sample"))
