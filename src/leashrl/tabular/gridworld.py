"""The grid world of figure 1 (Leibfried & Grau-Moya 2019, arXiv 1909.05950, appendix E), of any size.

State `y * width + x`, counted from the bottom left, where the goal is.
"""

import jax.numpy as jnp
import numpy as np

from leashrl.tabular.model import Model

ACTIONS = ("left", "right", "up", "down", "stay")
MOVES = ((-1, 0), (1, 0), (0, 1), (0, -1), (0, 0))
GOAL = 0


def gridworld(
    width: int = 16,
    height: int = 16,
    *,
    goal_reward: float = 9.0,
    step_reward: float = -1.0,
    gamma: float = 0.9,
) -> Model:
    """The model: deterministic moves, a wall around, an end in the bottom left.

    Args:
      width, height: of the grid.
      goal_reward: of the step that enters the goal.
      step_reward: of every other step, one into a wall included.
      gamma: discount.

    >>> world = gridworld(3, 2)
    >>> world.successor[4, :, 0].tolist()  # from the middle of the upper row: left, right, up, down, stay
    [3, 5, 4, 1, 4]
    >>> world.reward[1].tolist()
    [9.0, -1.0, -1.0, -1.0, -1.0]
    """
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    dx, dy = np.array(MOVES).T
    to_x = np.clip(x.ravel()[:, None] + dx, 0, width - 1)
    to_y = np.clip(y.ravel()[:, None] + dy, 0, height - 1)
    successor = to_y * width + to_x  # (S, A)
    enters = successor == GOAL
    # "Reaching the goal is rewarded with +9 ... whereas each step is penalized with -1": read as +9 in place
    # of the -1. With both, the step is worth 8: goal_reward=8.
    reward = np.where(enters, goal_reward, step_reward)
    discount = np.where(enters, 0.0, gamma)
    # The goal ends the episode; it stays a state, so that values are a grid, and is worth 0 whatever is done.
    reward[GOAL] = discount[GOAL] = 0.0
    # The paper does not give p(s). Uniform over the states in which an action is chosen, so without the goal.
    p = np.full(width * height, 1.0 / (width * height - 1))
    p[GOAL] = 0.0
    return Model(
        reward=jnp.asarray(reward, jnp.float32),
        discount=jnp.asarray(discount, jnp.float32),
        successor=jnp.asarray(successor[:, :, None], jnp.int32),
        probability=jnp.ones((*successor.shape, 1), jnp.float32),
        p=jnp.asarray(p, jnp.float32),
    )


def distance(width: int = 16, height: int = 16) -> np.ndarray:
    """Steps to the goal, (S,)."""
    return np.add.outer(np.arange(height), np.arange(width)).ravel()


def optimum(
    width: int = 16,
    height: int = 16,
    *,
    goal_reward: float = 9.0,
    step_reward: float = -1.0,
    gamma: float = 0.9,
) -> np.ndarray:
    """Values (S,) without any regularisation, which all values approach as beta grows.

    $$V(s) = r_{step} (1 - \\gamma^{d-1}) / (1 - \\gamma) + \\gamma^{d-1} r_{goal},\\quad V(goal) = 0$$

    at distance d. It holds where the way to the goal pays, as it does in the paper's grid.

    >>> optimum(3, 1)
    array([0. , 9. , 7.1])
    """
    ahead = gamma ** (distance(width, height) - 1.0)
    values = step_reward * (1.0 - ahead) / (1.0 - gamma) + ahead * goal_reward
    values[GOAL] = 0.0
    return values
