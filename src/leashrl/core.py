"""The five words of the library: Config, State, Stage, Policy, Algorithm.

An algorithm is one file in `algos/` that holds

* a `Config`: a frozen dataclass with fields named as in the paper. Its **float** fields are the
  hyper-parameters that a person tunes; they travel as scalars in `State.hp`, so that one compiled
  program trains many values at once. Every other field (int, bool, str, tuple) is static.
* a `State`: arrays only, one tree structure for the whole life of a run;
* losses: module-level functions whose first argument is the one differentiated;
* `build(config, spec) -> Algorithm`.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar, get_args, get_origin

import jax
import jax.numpy as jnp

from leashrl.errors import BadInput, nearest
from leashrl.types import Array, Batch, Episodes, Metrics, Mixed, Replay, Spec, TimeStep, Transitions

State = Any  # a `types.pytree` dataclass with a field `hp: dict[str, Array]`
HP = dict[str, Array]
Carry = Any


class Stage(NamedTuple):
    """A named phase of training.

    Attributes:
      name: as it appears in metrics and checkpoints.
      steps: how many updates the phase lasts.
      sample: `(data, state, key) -> batch`, on the device.
      update: `(state, batch, key, step) -> (state, metrics)`. `step` is the loop's own counter within
        the stage, shared by all members of a run, so that a `lax.cond` on it stays a branch. Metrics named
        `*_loss` have a limit beyond which a run counts as diverged; the others must only be finite.
      refresh: `(state, data, key) -> state` every `every` updates at a chunk's edge, or None.
    """

    name: str
    steps: int
    sample: Callable[[Any, State, Array], Any]
    update: Callable[[State, Any, Array, Array], tuple[State, Metrics]]
    refresh: Callable[[State, Any, Array], State] | None = None
    every: int = 0


class Policy(NamedTuple):
    """How a trained state acts: one interface for networks, sequence models and planners.

    Attributes:
      params: `(state) -> params`, the part of a state that acting needs: what `policy/` on disk holds.
      init: `(params) -> carry`, the memory at the start of an episode (`()` for most).
      act: `(params, carry, timestep, key, mode) -> (action, carry)`, unbatched; `action` in [-1, 1]
        or an integer.
      modes: what `mode` may be; the first is the algorithm's own evaluation action.
      log_prob: `(params, obs, action, mode) -> log pi(action | obs)`, of one action as `act` gives it: a
        probability of discrete ones, a density in [-1, 1]; None where it has none.
      weighed: the modes that `log_prob` knows.
    """

    params: Callable[[State], Any]
    init: Callable[[Any], Carry]
    act: Callable[[Any, Carry, TimeStep, Array, str], tuple[Array, Carry]]
    modes: tuple[str, ...]
    log_prob: Callable[[Any, Array, Array, str], Array] | None = None
    weighed: tuple[str, ...] = ()


class Algorithm(NamedTuple):
    """What `build(config, spec)` returns: `(init, stages, policy)`."""

    init: Callable[[Array, HP], State]
    stages: tuple[Stage, ...]
    policy: Policy


class Preset(NamedTuple):
    """Named values of a Config, and one line on where they come from."""

    about: str
    values: Mapping[str, Any]
    domains: Mapping[str, Mapping[str, Any]] | None = None
    """In place of the algorithm's domains."""


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """What is done to a data set once, before training; the policy file stores the observation part.

    Args:
      obs: `none`, or `standardise`: (obs - mean) / (std + 1e-3), per dimension, over the data set; a
        dimension that never changes is divided by 1.
      reward: `none`; `zero-one`: (r - min) / (max - min) over the data set; `unit`: that times 2, less 1;
        `return`: 1000 r / (highest return of an episode - lowest); `antmaze`: 4 (r - 0.5);
        `minus-one`: r - 1; `ten-minus-five`: 10 r - 5; `hundredfold`: 100 r.
      best_percent: the percentage of episodes, those of highest return, that are learnt from.
    """

    obs: str = "none"
    reward: str = "none"
    best_percent: int = 100


class Entry(NamedTuple):
    """A row of the registry: all that the library knows of an algorithm before building it."""

    config: type
    build: Callable[[Any, Spec], Algorithm]
    paper: str
    presets: Mapping[str, Preset]
    domains: Mapping[str, Mapping[str, Any]] = {}
    """Values per task domain (`gym`), task, or environment and kind of data (`hopper-medium-expert`), laid
    over every preset that has none of its own. `tasks.places` has the names."""
    discrete: bool = False
    """Whether it can learn from discrete actions, beside continuous ones."""
    view: str = "bellman"
    """How it sees a data set: a view of `Dataset.transitions` (`bellman`, `dynamics`), or its `episodes`."""
    bfloat16: bool = False
    """Whether it was shown to score in bfloat16 as in float32: then `precision=auto` may choose it."""
    online: bool = False
    """Whether it can learn without a data set; its Config then has `buffer`, `warmup` and `every`."""
    offline_only: str = ""
    """Why a trained run cannot go on online, said of the algorithm; empty where it can (`finetune`)."""

    def overlay(self, preset: str, *places: str) -> dict[str, Any]:
        """What `tasks.places` lay over the preset, the most general first."""
        own = self.presets[preset].domains
        table = self.domains if own is None else own
        return {name: value for place in places for name, value in table.get(place, {}).items()}


class Config(Protocol):
    """Every Config has these fields beside its own."""

    steps: int
    batch_size: int
    preprocess: Preprocess
    precision: str


EXPLAINED = {
    "precision": "of hidden layers' products in training: `float32`; `bfloat16`, summed in float32; `auto`: "
    "bfloat16 where this machine is faster with it and the algorithm was shown to score as well."
}
"""What no docstring of a Config repeats."""


# --- Config helpers ----------------------------------------------------------

C = TypeVar("C")


def hyper(config: Any) -> HP:
    """The float fields of a Config as scalars, ready to be carried in `State.hp`.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Toy:
    ...     gamma: float = 0.5
    ...     k: int = 3
    >>> {name: float(x) for name, x in hyper(Toy()).items()}
    {'gamma': 0.5}
    """
    return {name: jnp.asarray(getattr(config, name), jnp.float32) for name in tunable(config)}


def tunable(config: Any) -> list[str]:
    """The names of the float fields: what may differ between the members of a run. Touches no device."""
    return [f.name for f in dataclasses.fields(config) if f.type is float]


def override(config: C, values: Mapping[str, Any]) -> C:
    """`config` with some fields changed, each checked against its field's type.

    `preprocess.obs` style names reach into nested dataclasses. Strings are read as the field's type,
    so that values from a command line work as well as values from Python.

    Raises:
      BadInput: an unknown field (the nearest one is named) or a value of the wrong type.
    """
    names = {f.name: f.type for f in dataclasses.fields(config)}  # pyright: ignore[reportArgumentType]
    changed: dict[str, Any] = {}  # all at once, since some options are checked against each other
    for name, value in values.items():
        head, _, rest = name.partition(".")
        if head not in names:
            raise BadInput(f"no option '{name}': {nearest(head, names)}")
        old = changed.get(head, getattr(config, head))
        if rest:
            if not dataclasses.is_dataclass(old):
                raise BadInput(f"option '{head}' has no part '{rest}': give '{head}' a value")
            new = override(old, {rest: value})
        elif dataclasses.is_dataclass(old):
            if not isinstance(value, Mapping | type(old)):
                parts = " or ".join(f"{head}.{f.name}" for f in dataclasses.fields(old))
                raise BadInput(f"option '{head}' has parts: give {parts} a value")
            new = override(old, value) if isinstance(value, Mapping) else value
        else:
            new = _read(head, names[head], value)
        changed[head] = new
    return dataclasses.replace(config, **changed) if changed else config  # pyright: ignore[reportArgumentType]


def _read(name: str, kind: Any, value: Any) -> Any:
    """`value` as `kind` (bool, int, float, str, or a tuple of ints), or BadInput."""
    try:
        if kind is bool:
            if isinstance(value, bool):
                return value
            return {"true": True, "false": False, "1": True, "0": False}[str(value).lower()]
        if kind is int:
            number = float(value)  # "1e6" is an integer too
            if number != int(number) or number < 0:  # sizes and counts
                raise ValueError
            return int(number)
        if kind is float:
            if not abs(float(value)) <= float(jnp.finfo(jnp.float32).max):  # NaN compares false
                raise ValueError
            return float(value)
        if get_origin(kind) is tuple:
            items = value.strip("()[] ").split(",") if isinstance(value, str) else value
            sizes = tuple(get_args(kind)[0](item) for item in items if str(item).strip())
            if any(size < 1 for size in sizes):
                raise ValueError
            return sizes
        return str(value)
    except (KeyError, TypeError, ValueError, OverflowError):
        wanted = {float: "a finite float32 number", int: "a whole number, 0 or more", bool: "true or false"}
        wanted = wanted.get(kind, "whole numbers of at least 1, such as 256,256")
        raise BadInput(f"option '{name}' must be {wanted}, not {value!r}") from None


def to_json(config: Any) -> dict[str, Any]:
    """A Config as a JSON-ready dictionary.

    >>> to_json(Preprocess())
    {'obs': 'none', 'reward': 'none', 'best_percent': 100}
    """
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_json(cls: type[C], values: Mapping[str, Any]) -> C:
    """The inverse of `to_json`.

    >>> from_json(Preprocess, {"obs": "standardise", "reward": "none"})
    Preprocess(obs='standardise', reward='none', best_percent=100)
    """
    return override(cls(), values)


# --- Sampling ----------------------------------------------------------------


Data = Transitions | Episodes | Replay | Mixed
"""What `Stage.sample` draws from: a data set, what a member has seen of its environment so far, or both."""


def uniform(batch_size: int, next_action: bool = False) -> Callable[[Data, State, Array], Batch]:
    """Sample rows with replacement: the `sample` of most stages.

    Args:
      next_action: with the data's action in s' as well; after a terminal it means nothing.
    """

    def sample(data: Data, state: State, key: Array) -> Batch:
        rows = draw(data, key, batch_size)
        return Batch(
            obs=rows.obs,
            action=rows.action,
            reward=rows.reward,
            discount=jnp.where(rows.terminal, 0.0, state.hp["gamma"]),
            next_obs=rows.next_obs,
            next_action=rows.next_action if next_action else None,
        )

    return sample


def draw(data: Data, key: Array, n: int, newest: int | None = None) -> Any:
    """n rows drawn uniformly, as `Transitions`; of a replay's `newest` rows alone where that is given.

    Of `Mixed`, the first round(share n) rows are the data set's and the others the replay's, as in the
    symmetric sampling of RLPD (Ball et al. 2023, section 4.1, arXiv 2302.02948), whose share is a half.
    """
    assert not isinstance(data, Episodes)
    if isinstance(data, Mixed):
        keys, old = jax.random.split(key), round(data.share * n)
        parts = draw(data.offline, keys[0], old), draw(data.replay, keys[1], n - old, newest)
        return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
    if isinstance(data, Transitions):
        rows, index = data, jax.random.randint(key, (n,), 0, data.reward.shape[0])
    else:
        first, capacity, count = map(jnp.asarray, (data.first, data.capacity, data.count))
        held = jnp.minimum(count, capacity if newest is None else jnp.minimum(newest, capacity))
        row = count - 1 - jax.random.randint(key, (n,), 0, held)
        rows, index = data.rows, first + row % capacity
    return jax.tree.map(lambda x: jnp.asarray(x)[index], rows)
