"""A finite Markov decision process: rewards, discounts, and successors as lists.

A dense table of transitions has S x A x S' entries, 8e9 for a 200 x 200 grid; a list holds the K successors
that a state and an action really have, K = 1 where the world is deterministic.
"""

import jax.numpy as jnp

from leashrl.types import Array, ArrayLike, pytree


@pytree
class Model:
    """A finite MDP, and the distribution p of states that a prior over actions averages.

    An absorbing state has discount 0, so that its value is the reward there.
    """

    reward: Array  # (S, A)
    discount: Array  # (S, A) gamma * (1 - terminal)
    successor: Array  # (S, A, K) int32, the states that may follow
    probability: Array  # (S, A, K), 1 in sum over K
    p: Array  # (S,), 1 in sum

    def q(self, V: Array) -> Array:
        """R(s,a) + gamma E[V(s')], the exponent's part in brackets of equations 12 and 16.

        Args:
          V: (S,) values.

        Returns:
          (S, A).

        >>> world = dense([[1.0], [2.0]], [[[0.5, 0.5]], [[0.0, 1.0]]], 0.5)
        >>> world.q(jnp.array([4.0, 8.0])).tolist()
        [[4.0], [6.0]]
        """
        return self.reward + self.discount * jnp.sum(self.probability * V[self.successor], axis=-1)


def dense(
    reward: ArrayLike | list, transition: ArrayLike | list, gamma: float, p: ArrayLike | list | None = None
) -> Model:
    """A Model from a whole table of transitions.

    Args:
      reward: (S, A).
      transition: (S, A, S') probabilities of the next state.
      gamma: discount.
      p: (S,) the states' distribution; uniform without it.
    """
    reward, probability = jnp.asarray(reward), jnp.asarray(transition)
    states = reward.shape[0]
    successor = jnp.broadcast_to(jnp.arange(states, dtype=jnp.int32), probability.shape)
    uniform = jnp.full(states, 1.0 / states, reward.dtype)
    discount = jnp.full_like(reward, gamma)
    return Model(reward, discount, successor, probability, uniform if p is None else jnp.asarray(p))
