r"""Fitted Q evaluation: what a policy is worth, learnt from logged rows alone.

For a fixed policy $\pi$ a critic is fitted to its Bellman equation on the data (Le, Voloshin and Yue 2019,
algorithm 3, arXiv 1903.08738; with a network, a squared error and a slowly moving target as in Paine et al.
2020, section 3, arXiv 2007.09055):

$$\min_\theta\ E_D\,(r + \gamma\,\bar Q(s', \pi(s')) - Q_\theta(s,a))^2,\qquad
  \hat V(\pi) = E_{s_0}\,Q(s_0, \pi(s_0))$$

The policy enters through its actions in s' and s_0 only. They are found once, before training, so that any
policies, of whatever architecture, are members of one program. The s_0 are those of episodes that were
never trained on. Each seed fits to episodes of its own, drawn from the others with replacement (Hao et al.
2021, arXiv 2102.03607): what differs between seeds is what other data would have said. Here are the fit as
an `Algorithm`, and the rows and values that it takes; `leashrl.ope.fqe` runs it on policies, and
`leashrl.ope.reliability` says how far its values can be trusted. Needs no policy and no simulator.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from leashrl import nn
from leashrl.algos.common import choice, in_precision
from leashrl.core import HP, Algorithm, Policy, Stage
from leashrl.data import Dataset
from leashrl.errors import BadInput
from leashrl.ops import dual, td
from leashrl.optim import adam_init, descend
from leashrl.types import Array, ArrayLike, Batch, Discrete, Metrics, Spec, Transitions, pytree

BFLOAT16 = False
"""Whether values were shown to be the same in bfloat16 as in float32: then `precision=auto` may choose it."""

# --- The fit -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    """How the critics are fitted.

    Args:
      steps: gradient updates.
      batch_size: transitions an update, of each seed.
      hidden: widths of the critic's hidden layers.
      gamma: discount, below 1.
      polyak: rate of the target critic, which also gives the estimates: it is the smoother one.
      critic_rate: Adam's learning rate.
      precision: of hidden layers' products in training: `float32`; `bfloat16`, summed in float32; `auto`:
        bfloat16 where this machine is faster with it and values were shown to be the same.
    """

    steps: int = 10_000
    batch_size: int = 128
    hidden: tuple[int, ...] = (128, 128)
    gamma: float = 0.99
    polyak: float = 0.05
    critic_rate: float = 1e-3
    precision: str = "auto"

    def __post_init__(self) -> None:
        choice("precision", self.precision, ("auto", *nn.PRECISIONS))
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise BadInput(f"option '{name}' must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.gamma < 1:
            raise BadInput(f"a discounted value needs a discount from 0 to below 1, not {self.gamma:g}")
        if not 0 < self.polyak <= 1 or self.critic_rate <= 0:
            raise BadInput("'polyak' must be above 0 and at most 1, and 'critic_rate' above 0")


@pytree
class State:
    critic: dict  # an ensemble of one: the seeds of a policy are members of the loop
    target_critic: dict
    optimiser: dict
    hp: HP  # the Config's, `low` and `high`, and what `build` names


@pytree
class Rows(Transitions):
    """What the seeds fit to: `next_action` has a leading axis of policies, (policies, n, ...)."""

    drawn: ArrayLike | None = None  # (seeds, most) int32, from `resampled`


def network(config: Config, spec: Spec) -> nn.Network:
    """Q(s, a) of one critic, `(params, obs (batch, obs_dim), action) -> (1, batch)`.

    Normed layers keep its values bounded where no data lie.
    """
    build = nn.table_critic if isinstance(spec.action, Discrete) else nn.critic
    return build(spec.obs_dim, spec.action.dim, config.hidden, ensemble=1, norm=True)


@functools.lru_cache(maxsize=8)  # one compilation, however many data sets of one size are looked at
@in_precision
def build(config: Config, spec: Spec) -> Algorithm:
    """FQE as the one loop takes it.

    Its data are `Rows`. A member's `hp["policy"]` says which policy's actions are its own, `hp["seed"]` which
    line of `drawn`, of which `hp["count"]` entries count; `low` and `high` are the least and the highest
    value that is possible, in the data's rewards as they are.
    """
    critic = network(config, spec)

    def init(key: Array, hp: HP) -> State:
        params = critic.init(key)
        return State(params, jax.tree.map(jnp.copy, params), {"critic": adam_init(params)}, hp)

    def sample(data: Rows, state: State, key: Array) -> Batch:
        place = jax.random.randint(key, (config.batch_size,), 0, state.hp["count"])
        index = jnp.asarray(data.drawn)[state.hp["seed"], place]
        return Batch(
            obs=jnp.asarray(data.obs)[index],
            action=jnp.asarray(data.action)[index],
            reward=jnp.asarray(data.reward)[index],
            discount=jnp.where(jnp.asarray(data.terminal)[index], 0.0, state.hp["gamma"]),
            next_obs=jnp.asarray(data.next_obs)[index],
            next_action=jnp.asarray(data.next_action)[state.hp["policy"], index],
        )

    def update(state: State, batch: Batch, key: Array, step: Array) -> tuple[State, Metrics]:
        next_q = critic.apply(state.target_critic, batch.next_obs, batch.next_action)[0]
        # Not in the papers: a target that no rewards of the data can add up to is cut off there. Without
        # it a critic that overestimates a little feeds on itself, and leaves for good.
        y = jnp.clip(td.target(batch.reward, batch.discount, next_q), state.hp["low"], state.hp["high"])
        (loss, values), grads = jax.value_and_grad(td.critic_loss, has_aux=True)(
            state.critic, critic.apply, batch, y
        )
        state = descend(state, {"critic": grads}, {"critic": state.hp["critic_rate"]})
        averaged = dual.polyak(state.target_critic, state.critic, state.hp["polyak"])
        state = dataclasses.replace(state, target_critic=averaged)
        return state, {"td_loss": loss, "q_data": jnp.mean(values)}

    # an Algorithm has a policy; this one has no modes, so that nobody can ask it to act
    def act(*_: Any) -> Any:
        raise AssertionError("FQE judges policies and is none")

    policy = Policy(lambda state: state.target_critic, lambda params: (), act, ())
    return Algorithm(init, (Stage("evaluate", config.steps, sample, update),), policy)


# --- Rows and episodes -------------------------------------------------------


class Split(NamedTuple):
    """Row numbers of a data set, by episodes that are trained on and episodes that are held out."""

    train: np.ndarray  # rows whose successor is known: those that end nothing, and terminals
    held: np.ndarray
    train_starts: np.ndarray  # the first row of each episode
    held_starts: np.ndarray


def split(dataset: Dataset, held_percent: float = 20.0, seed: int = 0, most: int = 200_000) -> Split:
    """Whole episodes to one side or the other, so that no held-out row has a neighbour that is trained on.

    Args:
      held_percent: share of the episodes that is held out; at least one, and one stays.
      seed: of the draw.
      most: rows kept on each side, drawn evenly where there are more.

    Raises:
      BadInput: fewer than two episodes, or a side without rows.
    """
    parts = dataset.episodes()
    if len(parts) < 2:
        raise BadInput(
            f"{dataset.name} has {len(parts)} episode: holding one out takes two; where nothing in the data "
            "marks an episode's end, `leashrl data convert --limit N` writes it"
        )
    if not 0 < held_percent < 100:
        raise BadInput(
            f"the share of held-out episodes must be above 0 and below 100 %, not {held_percent:g}"
        )
    if most < 1:
        raise BadInput(f"at least one row must be kept, not {most}")
    rng = np.random.default_rng(seed)
    count = min(len(parts) - 1, max(1, round(len(parts) * held_percent / 100)))
    chosen = np.zeros(len(parts), bool)
    chosen[rng.permutation(len(parts))[:count]] = True

    starts = np.array([part.start for part in parts])
    held = np.repeat(chosen, [part.stop - part.start for part in parts])
    whole = dataset.terminal | ~last_rows(dataset)
    sides = []
    for what, side in (("trained on", ~held), ("held out", held)):
        rows = np.flatnonzero(side & whole)
        if not rows.size:
            raise BadInput(f"{dataset.name}: no row of the episodes {what} has a known successor")
        sides.append(np.sort(rng.choice(rows, most, replace=False)) if len(rows) > most else rows)
    return Split(sides[0], sides[1], starts[~chosen], starts[chosen])


def resampled(episode: np.ndarray, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Episodes drawn with replacement, as many as there are, for each seed: whole, as rows hang together.

    Args:
      episode: (n,) non-decreasing, each row's episode.

    Returns:
      (seeds, most) int32, the rows of the drawn episodes one behind the other, and (seeds,) how many these
      are; what fills a line up behind them is never drawn.

    >>> rows, counts = resampled(np.array([0, 0, 0, 4, 4, 7]), [0, 1])
    >>> [line[:count].tolist() for line, count in zip(rows, counts)]
    [[3, 4, 5, 5], [3, 4, 0, 1, 2, 5]]
    """
    firsts = np.unique(episode, return_index=True)[1]
    parts = np.split(np.arange(len(episode), dtype=np.int32), firsts[1:])
    lines = []
    for seed in seeds:
        chosen = np.random.default_rng([seed, len(parts)]).integers(len(parts), size=len(parts))
        lines.append(np.concatenate([parts[i] for i in chosen]))
    counts = np.array([len(line) for line in lines], np.int32)
    return np.stack([np.resize(line, counts.max()) for line in lines]), counts


def last_rows(dataset: Dataset) -> np.ndarray:
    """(n,) bool: the last row of each episode, an open tail's too."""
    last = np.zeros(len(dataset), bool)
    last[[part.stop - 1 for part in dataset.episodes()]] = True
    return last


def logged_values(dataset: Dataset, gamma: float) -> np.ndarray:
    """(n,) float64: the discounted sum of the logged rewards from each row on.

    Where an episode is cut, not ended, the rest is unknown: the mean value over all rows stands for it, so
    that these are values of an unlimited horizon, as the fitted ones are. With A_i the sum up to the cut
    and B_i the discount of what comes behind it (0 before a terminal), that mean is V = E A / (1 - E B).

    >>> from leashrl.types import Box
    >>> data = Dataset.from_arrays([[0.0]] * 4, [[0.0]] * 4, [1.0] * 4, [0, 0, 0, 1],
    ...                            timeout=[0, 1, 0, 0], action_space=Box((-1.0,), (1.0,)))
    >>> logged_values(data, 0.5)[2:].tolist()  # before the terminal: 1 + 1 / 2, then 1
    [1.5, 1.0]
    >>> logged_values(data, 0.5)[:2].tolist()  # the mean, 5 / 3.25, stands behind the cut
    [1.8846, 1.7692]
    """
    ends, terminal = last_rows(dataset).tolist(), dataset.terminal.tolist()
    sums, behind = np.empty(len(dataset)), np.empty(len(dataset))
    total = rest = 0.0
    for i, reward in zip(range(len(dataset) - 1, -1, -1), dataset.reward[::-1].tolist(), strict=True):
        if ends[i] or terminal[i]:  # where an episode goes on behind its task's end, its value does not
            total, rest = 0.0, 0.0 if terminal[i] else 1.0
        total, rest = reward + gamma * total, gamma * rest
        sums[i], behind[i] = total, rest
    return sums + behind * sums.mean() / (1 - behind.mean())


def bounds(dataset: Dataset, gamma: float) -> tuple[float, float]:
    """The least and the highest discounted value that the logged rewards allow, for ever the same one.

    An episode that ends pays nothing more, so with terminals 0 is among the rewards.
    """
    zero = [0.0] if dataset.terminal.any() else []
    low, high = min([dataset.reward.min(), *zero]), max([dataset.reward.max(), *zero])
    return float(low) / (1 - gamma), float(high) / (1 - gamma)


def scaled_rewards(
    reward: np.ndarray, terminal: np.ndarray, gamma: float, centre: float, scale: float
) -> np.ndarray:
    """Rewards under which (Q - centre) / scale solves the Bellman equation where Q did under `reward`.

    So the critic starts from the data's mean value, and its errors are in units of their spread:
    (r + d Q' - centre) / scale = (r - (1 - d) centre) / scale + d (Q' - centre) / scale.

    >>> scaled_rewards(np.float32([1.0, 1.0]), np.array([False, True]), 0.5, 2.0, 4.0).tolist()
    [0.0, -0.25]
    """
    discount = np.where(terminal, 0.0, gamma)
    return ((reward.astype(np.float64) - (1 - discount) * centre) / scale).astype(np.float32)
