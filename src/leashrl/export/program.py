"""A policy as a pure function of named arrays: what all formats are made from.

The policy's `act` is traced for one observation, with normalisation before it and the way back to the
environment's units behind it. What is random in it becomes an input: where the traced program draws, the draw
is cut out and its result is asked of the caller, who makes it with numpy and in whatever language the file is
run from. So a file is a function in every mode, and two runtimes given the same numbers must agree.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from leashrl.errors import BadInput
from leashrl.runs.policies import LoadedPolicy
from leashrl.types import Box, TimeStep

DRAWS = {"_normal": "standard_normal", "_gumbel": "gumbel"}
"""jax's names of what it draws in a traced program, and numpy's (`Generator.standard_normal`)."""


class Port(NamedTuple):
    """An input or an output of a program. Files add a leading axis, of as many rows as one likes."""

    name: str
    shape: tuple[int, ...]
    """Of one row."""
    dtype: np.dtype
    draw: str | None = None
    """Of a random input: the method of `numpy.random.Generator` that makes it."""
    initial: np.ndarray | None = None
    """Of an input that carries the memory of an episode: its value at the episode's first step."""


class Program(NamedTuple):
    """`call(*inputs) -> outputs` of one row; the first input is `obs`, the first output `action`.

    Outputs after the first are the memory for the next step, in the order of the inputs that have an
    `initial` value. `noise(key)` is what the policy itself would have drawn with that key.
    """

    call: Callable[..., Sequence[Any]]
    noise: Callable[[Any], Sequence[Any]]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    chooses: bool
    """Whether it takes the best of several: a rounding may then tip it to one that is as good."""

    @property
    def stateful(self) -> bool:
        return any(port.initial is not None for port in self.inputs)


def trace(policy: LoadedPolicy, mode: str) -> Program:
    """A policy's program in one of its modes.

    Raises:
      BadInput: the mode draws in a way that cannot become an input.
    """
    start = policy.policy.init(policy.params)
    memory, tree = jax.tree.flatten(start)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(start)]
    names = ["_".join(str(getattr(part, "key", part)) for part in path) for path in paths]

    def act(key, obs, reward, first, *carry):
        timestep = TimeStep((obs - policy.obs_mean) / policy.obs_std, reward, first)
        raw, after = policy.policy.act(policy.params, tree.unflatten(carry), timestep, key, mode)
        return (to_environment(policy, raw), *jax.tree.leaves(after))

    zero, yes = jnp.zeros(()), jnp.asarray(True)
    row = jnp.zeros(policy.spec.obs_dim)
    if not memory:  # an action as at the start of an episode, as `policy(obs)` gives it
        closed = jax.make_jaxpr(lambda key, obs: act(key, obs, zero, yes))(jax.random.key(0), row)
        given = ["obs"]
    else:
        closed = jax.make_jaxpr(act)(jax.random.key(0), row, zero, yes, *memory)
        given = ["obs", "reward", "first", *(f"carry_{name}" for name in names)]

    whole = closed.jaxpr
    key, *arguments = whole.invars
    draws = [eqn for eqn in whole.eqns if eqn.params.get("name") in DRAWS]
    rest = alive([eqn for eqn in whole.eqns if eqn not in draws], whole.outvars)
    used = {v for atoms in [whole.outvars, *(eqn.invars for eqn in rest)] for v in atoms if is_variable(v)}
    if key in used:
        raise BadInput(
            f"{policy.algorithm} in mode '{mode}' draws in a way that cannot become an input: choose another "
            f"--mode ({', '.join(policy.modes)})"
        )
    initial = {f"carry_{name}": np.asarray(value) for name, value in zip(names, memory, strict=True)}
    kept: dict[Any, tuple] = {
        v: (name,)
        for v, name in zip(arguments, given, strict=True)
        if v in used or name == "obs" or name in initial
    }
    drawn = {eqn.outvars[0]: DRAWS[eqn.params["name"]] for eqn in draws if eqn.outvars[0] in used}
    for i, (v, draw) in enumerate(drawn.items()):
        kept[v] = ("noise" if len(drawn) == 1 else f"noise_{i}", draw)

    def port(v: Any, name: str, draw: str | None = None) -> Port:
        return Port(name, v.aval.shape, np.dtype(v.aval.dtype), draw, initial.get(name))

    results = zip(whole.outvars, ["action", *(f"next_{name}" for name in names)], strict=True)
    return Program(
        call=function(closed, kept, rest, whole.outvars),
        noise=function(closed, [key], alive(whole.eqns, drawn), drawn),
        inputs=tuple(port(v, *about) for v, about in kept.items()),
        outputs=tuple(port(v, name) for v, name in results),
        chooses=any(eqn.primitive.name == "argmax" for eqn in rest),
    )


def to_environment(policy: LoadedPolicy, raw: Any) -> Any:
    """An action in the environment's units, within its bounds."""
    space: Any = policy.spec.action
    if not isinstance(space, Box):
        return raw
    return space.executed(raw)


def alive(eqns: Sequence[Any], wanted: Iterable[Any]) -> list[Any]:
    """The equations that `wanted` needs, in their order."""
    needed, kept = set(filter(is_variable, wanted)), []
    for eqn in reversed(eqns):
        if needed & set(eqn.outvars):
            needed |= set(filter(is_variable, eqn.invars))
            kept.append(eqn)
    return kept[::-1]


def is_variable(atom: Any) -> bool:
    return isinstance(atom, jax.extend.core.Var)


def function(closed: Any, inputs: Iterable[Any], eqns: list[Any], outputs: Iterable[Any]) -> Callable:
    """A part of a traced program as a function: from some of its variables to others."""
    jaxpr = closed.jaxpr.replace(invars=list(inputs), eqns=eqns, outvars=list(outputs))
    return jax.extend.core.jaxpr_as_fun(closed.replace(jaxpr=jaxpr))
