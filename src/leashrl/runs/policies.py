"""Trained policies, to act and to be evaluated; `leashrl.runs.loading` reads them from a run's folder."""

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from leashrl.core import Policy, hyper
from leashrl.data.columns import Columns
from leashrl.errors import BadInput, nearest
from leashrl.evaluate.statistics import summary
from leashrl.runs.plan import find_algorithm
from leashrl.runs.results import EvaluatedMember, EvaluatedRun
from leashrl.tasks import own
from leashrl.tasks import task as find_task
from leashrl.training.compilation import in_float32
from leashrl.types import Box, Discrete, Spec, TimeStep

# --- Acting ------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LoadedPolicy:
    """One member's policy: call it with observations, get actions.

    Attributes:
      name: the member's, such as `seed-0`.
      algorithm: which one trained it.
      config: the algorithm's, that it was trained with.
      spec: size of its observations, and its actions' space.
      task: where it was evaluated while it trained, or None.
      policy: the algorithm's `Policy`.
      params: what acting needs, without a member axis.
      obs_mean, obs_std: (obs_dim,) the data's normaliser; zeros and ones where it is off.
      columns: the named columns that its observations and actions are made of, where the data had them.
    """

    name: str
    algorithm: str
    config: Any
    spec: Spec
    task: str | None
    policy: Policy
    params: Any
    obs_mean: np.ndarray
    obs_std: np.ndarray
    columns: Columns | None = None

    def __reduce__(self) -> tuple:
        """By what it was read from, so that worker processes can be handed one."""
        params = jax.tree.map(np.asarray, self.params)
        last = (self.obs_mean, self.obs_std, self.columns)
        return _rebuilt, (self.name, self.algorithm, self.config, self.spec, self.task, params, *last)

    @property
    def modes(self) -> tuple[str, ...]:
        """How it can act; the first is the default."""
        return self.policy.modes

    @in_float32
    def __call__(self, obs: Any, *, mode: str | None = None, seed: int = 0) -> np.ndarray:
        """Actions in the environment's units, each as at the start of an episode: see `episode`.

        Args:
          obs: (obs_dim,) one observation, or (n, obs_dim) several; numbers as the environment gives them.
          mode: one of `modes`.
          seed: of the draw, in modes that draw: the same one gives the same action, so pass the step. Any
            whole number.

        Returns:
          (action_dim,) or (n, action_dim) float32 within the space's bounds; () or (n,) int32 if discrete.

        Raises:
          BadInput: observations of another shape or not finite, an unknown mode.
        """
        mode, rows = self.known_mode(mode), self._rows(obs)
        raw = _compiled(self.policy, mode)(
            self.params, rows, self.obs_mean, self.obs_std, np.uint32(within_32_bits(seed))
        )
        action = self._to_environment(raw)
        return action[0] if np.ndim(obs) == 1 else action

    def act_on(
        self, rows: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, mode: str | None = None, seed: int = 0
    ) -> Any:
        """Named actions for raw values by column name, as the table had them that the policy learnt from.

        Args:
          rows: `{"pressure": 3.1, "mode": "auto"}`, or a list of such; other columns are passed over.
          mode, seed: as in a call.

        Returns:
          A dict of the action columns, or a list of them.

        Raises:
          BadInput: the data had no named columns; a column or a category that is not there.
        """
        if self.columns is None:
            raise BadInput("this policy's data had no named columns: call it with an array of observations")
        found = self(self.columns.observations(rows), mode=mode, seed=seed)
        named = self.columns.actions(found)
        return named[0] if isinstance(rows, Mapping) else named

    def episode(self, *, mode: str | None = None, seed: int = 0) -> Callable[..., np.ndarray]:
        """`act(obs, reward=0.0) -> action` for the steps of one episode, in their order.

        It remembers what the policy must: the rows of a Decision Transformer, the plan of MBOP. `reward` is
        what the step before paid, in the environment's units. A new episode takes a new `act`.

        Args:
          mode: one of `modes`.
          seed: of the draws, in modes that draw.

        Raises:
          BadInput: an unknown mode; from `act`, an observation of another shape or not finite.
        """
        mode = self.known_mode(mode)
        step, carry, first = _stepped(self.policy, mode), None, True
        key = jax.random.key(within_32_bits(seed))

        @in_float32
        def act(obs: Any, reward: float = 0.0) -> np.ndarray:
            nonlocal carry, first, key
            rows = self._rows(obs)
            if np.ndim(obs) != 1:
                raise BadInput(f"an episode has one observation a step, ({self.spec.obs_dim},)")
            carry = self.policy.init(self.params) if first else carry
            key, now = jax.random.split(key)
            norm = (self.obs_mean, self.obs_std)
            raw, carry = step(self.params, carry, rows[0], np.float32(reward), np.asarray(first), now, *norm)
            first = False
            return self._to_environment(raw)

        return act

    @in_float32
    def log_prob(self, obs: Any, action: Any, *, mode: str | None = None) -> np.ndarray:
        """log pi(a|s) of given actions, for importance weights.

        Args:
          obs: (n, obs_dim) numbers as the environment gives them.
          action: (n, action_dim) in the environment's units, or (n,) integers.
          mode: one of `modes` whose actions have a probability, or a density.

        Returns:
          (n,) float64; of continuous actions the density is per unit of the environment's actions.

        Raises:
          BadInput: observations or actions of another shape, a mode whose actions have neither.
        """
        mode, rows = self.known_mode(mode), self._rows(obs)
        if mode not in self.policy.weighed:
            known = ", ".join(self.policy.weighed) or "none has"
            raise BadInput(
                f"{self.algorithm}'s actions have no probability or density in mode '{mode}': {known}"
            )
        space, n = self.spec.action, len(rows)
        given = np.asarray(action, np.int32 if isinstance(space, Discrete) else np.float32)
        wanted = (n,) if isinstance(space, Discrete) else (n, space.dim)
        if given.shape != wanted:
            raise BadInput(f"actions must have shape {wanted}, not {given.shape}")
        volume = 0.0
        if isinstance(space, Box):
            given, volume = np.clip(space.to_unit(given), -1, 1), space.log_volume
        found = _weighed(self.policy, mode)(self.params, rows, given, self.obs_mean, self.obs_std)
        return np.asarray(found, np.float64) - volume

    def known_mode(self, mode: str | None) -> str:
        """`mode`, or the default one for None; BadInput where there is no such mode."""
        mode = self.modes[0] if mode is None else mode
        if mode not in self.modes:
            raise BadInput(f"{self.algorithm} has no mode '{mode}': {nearest(mode, self.modes)}")
        return mode

    def _rows(self, obs: Any) -> np.ndarray:
        """(n, obs_dim) float32."""
        try:
            rows = np.atleast_2d(np.asarray(obs, np.float32))
        except (TypeError, ValueError):
            raise BadInput(f"observations must be numbers, not {type(obs).__name__}") from None
        if rows.ndim != 2 or rows.shape[1] != self.spec.obs_dim:
            wanted = f"({self.spec.obs_dim},) or (n, {self.spec.obs_dim})"
            raise BadInput(f"observations must have shape {wanted}, not {np.shape(obs)}")
        if not np.isfinite(rows).all():
            raise BadInput(f"observation {int(np.argmin(np.isfinite(rows).all(1)))} is not finite")
        return rows

    def _to_environment(self, raw: Any) -> np.ndarray:
        raw = np.asarray(raw)
        if not isinstance(self.spec.action, Box):
            return raw
        return self.spec.action.executed(raw)

    @in_float32
    def evaluate(
        self,
        task: Any = None,
        *,
        episodes: int | None = None,
        seed: int = 1,
        mode: str | None = None,
        envs: Sequence[Any] | None = None,
    ) -> EvaluatedMember:
        """Whole episodes in the real environment.

        Args and errors as in `evaluate_run`; `envs` as in `leashrl.evaluate.evaluate`.
        """
        stacked = jax.tree.map(lambda x: x[None], self.params)
        found = evaluate_members(self, stacked, [self.name], task, episodes, seed, mode, envs)
        return found.members[0]


@functools.lru_cache(maxsize=32)
def _compiled(policy: Policy, mode: str) -> Callable:
    """`(params, obs (n, obs_dim), mean, std, seed) -> actions (n, ...)`, in [-1, 1] or integers."""

    def act(params, obs, mean, std, seed):
        keys = jax.random.split(jax.random.key(seed), obs.shape[0])

        def one(obs, key):
            timestep = TimeStep(obs=(obs - mean) / std, reward=jnp.zeros(()), first=jnp.ones((), bool))
            return policy.act(params, policy.init(params), timestep, key, mode)[0]

        return jax.vmap(one)(obs, keys)

    return jax.jit(act)


@functools.lru_cache(maxsize=32)
def _weighed(policy: Policy, mode: str) -> Callable:
    """`(params, obs (n, obs_dim), action, mean, std) -> (n,)` log probabilities of `act`'s actions."""
    one = policy.log_prob
    assert one is not None

    def log_prob(params, obs, action, mean, std):
        return jax.vmap(lambda o, a: one(params, (o - mean) / std, a, mode))(obs, action)

    return jax.jit(log_prob)


@functools.lru_cache(maxsize=32)
def _stepped(policy: Policy, mode: str) -> Callable:
    """`(params, carry, obs, reward, first, key, mean, std) -> (action, carry)` of one step."""

    def act(params, carry, obs, reward, first, key, mean, std):
        return policy.act(params, carry, TimeStep((obs - mean) / std, reward, first), key, mode)

    return jax.jit(act)


def evaluate_members(
    policy: LoadedPolicy, params, names: list[str], task, episodes, seed, mode, envs=None
) -> EvaluatedRun:
    from leashrl.evaluate.rollout import evaluate

    if task is not None and not isinstance(task, str):
        place, envs = own.of(task), [task]
    elif name := task or policy.task:
        place = find_task(name)
    else:
        raise BadInput("these policies were trained without a task: give one (`leashrl tasks` lists them)")
    found = evaluate(
        policy.policy,
        params,
        place,
        obs_mean=policy.obs_mean,
        obs_std=policy.obs_std,
        action_space=policy.spec.action,
        episodes=episodes,
        seed=seed,
        mode=mode,
        envs=envs,
    )
    if found.failed.any():
        broken = [name for name, failed in zip(names, found.failed, strict=True) if failed]
        raise BadInput(f"the policy of {', '.join(broken)} gave an action that is not finite: train it again")
    members = tuple(
        EvaluatedMember(
            name=name,
            mean_return=float(found.returns[i].mean()),
            score=None if found.scores is None else float(found.scores[i].mean()),
            returns=tuple(found.returns[i].tolist()),
            lengths=tuple(found.lengths[i].tolist()),
        )
        for i, name in enumerate(names)
    )
    return EvaluatedRun(
        algorithm=policy.algorithm,
        task=place.name,
        episodes=int(found.returns.shape[1]),
        seed=seed,
        mode=mode or policy.modes[0],
        members=members,
        score=None if found.scores is None else summary(found.scores.mean(1)),
        versions=found.versions,
    )


@in_float32
def _rebuilt(
    name: str, algorithm: str, config: Any, spec: Spec, task: str | None, params: Any, *rest: Any
) -> LoadedPolicy:
    policy, _ = layout(algorithm, config, spec)
    return LoadedPolicy(name, algorithm, config, spec, task, policy, params, *rest)


def within_32_bits(seed: int) -> int:
    """The seed itself where jax takes it, else a number drawn from its digits.

    >>> within_32_bits(7), within_32_bits(-1) == within_32_bits(2**32)
    (7, False)
    """
    return seed if 0 <= seed < 2**32 else zlib.crc32(str(int(seed)).encode())


@functools.lru_cache(maxsize=8)
def layout(algorithm: str, config: Any, spec: Spec) -> tuple[Policy, Any]:
    """The policy (one object for all members, so that it compiles once), and the shapes of its file."""
    built = find_algorithm(algorithm).build(config, spec)
    state = jax.eval_shape(built.init, jax.random.key(0), hyper(config))
    row = jax.ShapeDtypeStruct((spec.obs_dim,), jnp.float32)
    like = {"params": jax.eval_shape(built.policy.params, state), "obs_mean": row, "obs_std": row}
    return built.policy, like
