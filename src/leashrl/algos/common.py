"""What several algorithms share besides `ops` and `nn`: option checks, usual policies, SAC's update."""

import math
from collections.abc import Callable, Iterable
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp

from leashrl.core import Algorithm, Data, Policy, draw
from leashrl.dist import Categorical, Normal, squash_log_prob, unsquash
from leashrl.errors import BadInput, nearest
from leashrl.nn import PRECISIONS, Network, least, precision
from leashrl.ops import dual, soft, td
from leashrl.optim import descend
from leashrl.types import Array, Batch, Box, Discrete, Metrics, Space, Spec, TimeStep

EDGE = 1e-6
"""How near to its bounds an action's density is asked for: at them atanh is infinite."""


def in_precision(build: Callable[[Any, Spec], Algorithm]) -> Callable[[Any, Spec], Algorithm]:
    """`build`, whose stages are traced with the products that the Config's `precision` names.

    Acting stays in float32, and so an exported policy is the trained one. `auto`, where nobody has chosen yet
    (`runs.plan.chosen`), is float32.
    """

    @wraps(build)
    def built(config: Any, spec: Spec) -> Algorithm:
        name = getattr(config, "precision", "float32")
        choice("precision", name, ("auto", *PRECISIONS))
        algorithm = build(config, spec)
        inside = partial(under, "float32" if name == "auto" else name)
        stages = (
            stage._replace(update=inside(stage.update), refresh=stage.refresh and inside(stage.refresh))
            for stage in algorithm.stages
        )
        return algorithm._replace(stages=tuple(stages))

    return built


def under(name: str, function: Callable) -> Callable:
    """The function, traced with products in a precision."""

    def traced(*args: Any) -> Any:
        with precision(name):
            return function(*args)

    return traced


def choice(name: str, value: str, known: Iterable[str]) -> None:
    """BadInput unless `value` is one of `known`."""
    if value not in known:
        raise BadInput(f"option '{name}' cannot be '{value}': {nearest(value, known)}")


def positive(config: Any, *names: str) -> None:
    """BadInput unless these sizes and counts are at least 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise BadInput(f"option '{name}' must be at least 1, not {getattr(config, name)}")


def share(steps: int, percent: int) -> int:
    """`percent` of `steps`, at least one where it is not 0: the length of a pre-training stage.

    >>> share(1000, 50), share(10, 1), share(1000, 0)
    (500, 1, 0)
    """
    return max(1, steps * percent // 100) if percent else 0


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
            f"{algorithm} needs continuous actions; this data set has {spec.action.dim} discrete ones: "
            "`leashrl algos` names the algorithms that take them"
        )
    return spec.action


def with_returns(batch_size: int) -> Callable[[Data, Any, Array], Batch]:
    """`core.uniform`, with the data's return to go from each row."""

    def sample(data: Data, state: Any, key: Array) -> Batch:
        rows = draw(data, key, batch_size)
        discount = jnp.where(rows.terminal, 0.0, state.hp["gamma"])
        return Batch(rows.obs, rows.action, rows.reward, discount, rows.next_obs, to_go=rows.to_go)

    return sample


def entropy_target(action: Space, per_dimension: Array | float, share: Array | float) -> Array | float:
    """The temperature's target in nats: so many per dimension, or a share of log n of n discrete actions.

    A categorical's entropy is never below 0, so a target below 0, as continuous actions have, is met by every
    policy: the temperature would only fall. The most that it can be is log n.

    >>> entropy_target(Box((-1.0,) * 3, (1.0,) * 3), -1.0, 0.5)
    -3.0
    >>> round(entropy_target(Discrete(4), -1.0, 0.5), 4)
    0.6931
    """
    if isinstance(action, Discrete):
        return share * math.log(action.n)
    return action.dim * per_dimension


def soft_update(
    state: Any, batch: Batch, key: Array, policy: Network, critic: Network, target_entropy: Array
) -> tuple[Any, Metrics, Array]:
    """One update of SAC (Haarnoja et al. 2018, arXiv 1812.05905): the new state, metrics, Q of the batch.

    Args:
      state: with `policy`, `critic`, `target_critic`, `log_alpha` and their `optimiser`.
      target_entropy: the temperature's, in nats for all action dimensions together.
    """
    hp, alpha = state.hp, jnp.exp(state.log_alpha)
    key_next, key_pi = jax.random.split(key)

    pi_next = Normal(*policy.apply(state.policy, batch.next_obs))
    u_next = pi_next.sample(key_next)
    next_q = least(critic, state.target_critic, batch.next_obs, jnp.tanh(u_next))
    y = td.target(batch.reward, batch.discount, next_q - alpha * squash_log_prob(pi_next, u_next))
    (loss, values), grads = jax.value_and_grad(td.critic_loss, has_aux=True)(
        state.critic, critic.apply, batch, y
    )
    new = descend(state, {"critic": grads}, {"critic": hp["critic_rate"]})

    # The policy sees the critics from after their step, as in the public codes.
    min_q = partial(least, critic, new.critic, batch.obs)
    policy_grads, entropy = jax.grad(soft.policy_loss, has_aux=True)(
        state.policy, policy.apply, min_q, batch.obs, key_pi, alpha
    )
    grads = {
        "policy": policy_grads,
        "log_alpha": jax.grad(dual.temperature_loss)(state.log_alpha, entropy, target_entropy),
    }
    new = descend(new, grads, dict.fromkeys(grads, hp["policy_rate"]))
    metrics = {
        "critic_loss": loss,
        "q_data": jnp.mean(values),
        "target": jnp.mean(y),
        "entropy": entropy,
        "alpha": alpha,
    }
    return dual.follow(new, "critic"), metrics, values


def row_of(x: Array, i: Array) -> Array:
    """x[i] of x (n, ...) by a comparison: a gather at a computed place has no counterpart in ONNX exports.

    >>> row_of(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array(1)).tolist()
    [3.0, 4.0]
    """
    return jnp.sum(jnp.where(_is_row(x, i), x, jnp.zeros((), x.dtype)), axis=0, dtype=x.dtype)


def with_row(x: Array, i: Array, value: Array) -> Array:
    """x (n, ...) with `value` as row i, by a comparison too.

    >>> with_row(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array(1), jnp.array([5.0, 6.0])).tolist()
    [[1.0, 2.0], [5.0, 6.0]]
    """
    return jnp.where(_is_row(x, i), value[None], x)


def _is_row(x: Array, i: Array) -> Array:
    return (jnp.arange(x.shape[0]) == i).reshape(-1, *(1,) * (x.ndim - 1))


def tanh_gaussian(network: Network) -> Policy:
    """tanh(mean), or tanh of a sample, of the network in `state.policy`."""

    def act(params, carry, timestep: TimeStep, key: Array, mode: str):
        pi = Normal(*network.apply(params, timestep.obs))
        return jnp.tanh(pi.mean if mode == "mean" else pi.sample(key)), carry

    log_prob = partial(tanh_log_prob, network)
    return Policy(
        lambda state: state.policy, lambda params: (), act, ("mean", "sample"), log_prob, ("sample",)
    )


def tanh_log_prob(network: Network, params: Any, obs: Array, action: Array, mode: str) -> Array:
    """log density of one action under tanh of the network's Gaussian; at the bounds, just inside them."""
    return squash_log_prob(Normal(*network.apply(params, obs)), unsquash(action, EDGE))


def tanh_of(network: Network, bend: Callable[[Array], Array] = jnp.tanh) -> Policy:
    """tanh of the network in `state.policy`: deterministic."""

    def act(params, carry, timestep: TimeStep, key: Array, mode: str):
        return bend(network.apply(params, timestep.obs)), carry

    return Policy(lambda state: state.policy, lambda params: (), act, ("mean",))


def cut_off(network: Network) -> Policy:
    """The network in `state.policy`, cut off at the action space: deterministic."""
    return tanh_of(network, lambda x: jnp.clip(x, -1.0, 1.0))


def clipped_gaussian(network: Network) -> Policy:
    """The mean, or a sample, of the unsquashed Gaussian in `state.policy`, cut off at the action space."""

    def act(params, carry, timestep: TimeStep, key: Array, mode: str):
        pi = Normal(*network.apply(params, timestep.obs))
        return jnp.clip(pi.mean if mode == "mean" else pi.sample(key), -1.0, 1.0), carry

    return Policy(lambda state: state.policy, lambda params: (), act, ("mean", "sample"))


def categorical(network: Network) -> Policy:
    """The likeliest action, or a sample, of the logits that the network in `state.policy` gives."""

    def act(params, carry, timestep: TimeStep, key: Array, mode: str):
        logits = network.apply(params, timestep.obs)
        action = jnp.argmax(logits) if mode == "greedy" else jax.random.categorical(key, logits)
        return action.astype(jnp.int32), carry

    def log_prob(params: Any, obs: Array, action: Array, mode: str) -> Array:
        logits = network.apply(params, obs)
        if mode == "greedy":
            return jnp.where(action == jnp.argmax(logits), 0.0, -jnp.inf)
        return Categorical(logits).log_prob(action)

    modes = ("greedy", "sample")
    return Policy(lambda state: state.policy, lambda params: (), act, modes, log_prob, modes)


def best_of(
    policy: Network,
    critic: Network,
    n: int,
    *,
    modes: tuple[str, ...],
    spread: float = 0.0,
    score: str = "first",
    squash: Callable[[Array], Array] = jnp.tanh,
) -> Policy:
    """`tanh_gaussian` with a third mode, `best`: of n samples the one with the highest Q.

    Args:
      policy, critic: of `state.policy` and `state.critic`.
      modes: the order of `mean`, `sample` and `best`; the first is how the algorithm is evaluated.
      spread: standard deviations from the mean at which samples are cut off; 0 leaves them.
      score: Q of the `first` critic, or the critics' `mean` or `min`.
      squash: of what the Gaussian draws, to actions.
    """

    scores = {"first": lambda q: q[0], "mean": lambda q: jnp.mean(q, 0), "min": lambda q: jnp.min(q, 0)}

    def act(params, carry, timestep: TimeStep, key: Array, mode: str):
        pi = Normal(*policy.apply(params["policy"], timestep.obs))
        if mode == "mean":
            return squash(pi.mean), carry
        if mode == "sample":
            return squash(pi.sample(key)), carry
        noise = jax.random.normal(key, (n, *pi.mean.shape))
        if spread:
            noise = jnp.clip(noise, -spread, spread)
        a = squash(pi.mean[None] + jnp.exp(pi.log_std)[None] * noise)
        q = critic.apply(params["critic"], timestep.obs[None], a[None])[:, 0]  # (ensemble, n)
        return row_of(a, jnp.argmax(scores[score](q))), carry

    def log_prob(params: Any, obs: Array, action: Array, mode: str) -> Array:
        return tanh_log_prob(policy, params["policy"], obs, action, mode)

    weighed = ("sample",) if squash is jnp.tanh and "sample" in modes else ()
    kept = lambda state: {"policy": state.policy, "critic": state.critic}
    return Policy(kept, lambda params: (), act, modes, log_prob, weighed)
