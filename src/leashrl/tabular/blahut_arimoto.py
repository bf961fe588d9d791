"""Mutual-information-regularised value iteration (Leibfried & Grau-Moya 2019, arXiv 1909.05950, section 3.2).

    B* V(s) = max_pi E_pi[q(s,a) - (1/beta) log(pi(a|s) / prior(a))],   prior(a) = sum_s p(s) pi(a|s)

where q(s,a) = R(s,a) + gamma E[V(s')]. The prior ties the states together, so that B* has no closed form;
Blahut and Arimoto's iteration applies it. With a prior that is held, B* is the soft Bellman operator.

Probabilities are logarithms throughout: at beta = 1e6 some are e^-1e7. Where beta is small, values differ by
beta times what they are, and a plain log of a sum would round that away; hence `soft_maximum`.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from leashrl.errors import nearest
from leashrl.tabular.model import Model
from leashrl.types import Array

RULES = ("gap", "policy", "held")

# --- One step ----------------------------------------------------------------


def soft_maximum(x: Array, log_weight: Array, beta: Array | float) -> Array:
    """(1/beta) log sum_i w_i e^(beta x_i) over the last axis: from the mean (beta -> 0) to the maximum.

    Args:
      x: (..., n).
      log_weight: broadcasts against x; the weights sum to 1.
      beta: positive.

    >>> x, log_half = jnp.array([1.0, 3.0]), jnp.log(jnp.array([0.5, 0.5]))
    >>> [round(float(soft_maximum(x, log_half, beta)), 4) for beta in (1e-6, 1.0, 1e6)]
    [2.0, 2.4338, 3.0]
    """
    top = jnp.max(x, axis=-1)
    below = beta * (x - top[..., None])
    # sum w e^b = 1 + sum w (e^b - 1): the right-hand side keeps the digits where the sum is near 1
    lost = jnp.sum(jnp.exp(log_weight) * jnp.expm1(below), axis=-1)
    near = jnp.log1p(jnp.maximum(lost, -0.5))
    far = jax.nn.logsumexp(log_weight + below, axis=-1)
    return top + jnp.where(lost > -0.5, near, far) / beta


def bellman(q: Array, log_prior: Array, beta: Array | float) -> Array:
    """The value of a prior with the policy that is best for it: the concise Bellman operator.

    (1/beta) log sum_a prior(a) e^(beta q(s,a))

    Args:
      q: (S, A) from `Model.q`.
      log_prior: (A,).

    Returns:
      (S,).

    Leibfried & Grau-Moya 2019, arXiv 1909.05950, equation 16.

    >>> float(bellman(jnp.array([[0.0, jnp.log(3.0)]]), jnp.log(jnp.array([0.5, 0.5])), 1.0)[0])
    0.693147
    """
    return soft_maximum(q, log_prior[None, :], beta)


def policy_step(q: Array, log_prior: Array, beta: Array | float) -> Array:
    """The best policy for a prior.

    pi(a|s) = prior(a) e^(beta q(s,a)) / sum_a' prior(a') e^(beta q(s,a'))

    Args:
      q: (S, A) from `Model.q`.
      log_prior: (A,).

    Returns:
      log pi, (S, A).

    Leibfried & Grau-Moya 2019, arXiv 1909.05950, equation 12.

    >>> jnp.exp(policy_step(jnp.array([[0.0, jnp.log(3.0)]]), jnp.log(jnp.array([0.5, 0.5])), 1.0)).tolist()
    [[0.25, 0.75]]
    """
    below = q - jnp.max(q, axis=-1, keepdims=True)  # exact between near numbers, where beta q would round
    return jax.nn.log_softmax(log_prior[None, :] + beta * below, axis=-1)


def prior_step(log_policy: Array, p: Array) -> Array:
    """The best prior for a policy: its marginal.

    prior(a) = sum_s p(s) pi(a|s)

    Args:
      log_policy: (S, A).
      p: (S,).

    Returns:
      log prior, (A,).

    Leibfried & Grau-Moya 2019, arXiv 1909.05950, equation 11.

    >>> jnp.exp(prior_step(jnp.log(jnp.array([[0.2, 0.8], [0.6, 0.4]])), jnp.array([0.5, 0.5]))).tolist()
    [0.4, 0.6]
    """
    log_prior = jax.nn.logsumexp(log_policy + jnp.log(p)[:, None], axis=0)
    return jax.nn.log_softmax(log_prior)  # 1 in sum, whatever 40,000 summands have rounded away


def evaluate(q: Array, log_prior: Array, log_policy: Array, beta: Array | float) -> Array:
    """The value of any prior with any policy: the evaluation operator.

    E_pi[q(s,a) - (1/beta) log(pi(a|s) / prior(a))]

    Args:
      q: (S, A) from `Model.q`.
      log_prior: (A,).
      log_policy: (S, A); -inf where the policy never acts so.

    Returns:
      (S,).

    Leibfried & Grau-Moya 2019, arXiv 1909.05950, equation 13.

    >>> log_half = jnp.log(jnp.array([0.5, 0.5]))
    >>> float(evaluate(jnp.array([[0.0, 2.0]]), log_half, jnp.array([[-jnp.inf, 0.0]]), 1.0)[0])
    1.306853
    """
    policy, prior = jnp.exp(log_policy), jnp.exp(log_prior)[None, :]
    ratio = jnp.where(policy > 0, log_policy - log_prior[None, :], 0.0)
    # KL = sum pi log(pi/prior) - (pi - prior): the brackets sum to 0, but with them each summand is of second
    # order in a small ratio, so that the division by a small beta finds digits left.
    excess = jnp.where(ratio < 1.0, prior * jnp.expm1(jnp.minimum(ratio, 1.0)), policy - prior)
    excess = jnp.where(policy > 0, excess, -prior)
    return jnp.sum(policy * q, axis=-1) - jnp.sum(policy * ratio - excess, axis=-1) / beta


def optimality_gap(q: Array, log_prior: Array, p: Array, beta: Array | float) -> Array:
    """How far a prior can be from the best one: E_p[B* V] - E_p[bellman(q, log_prior)] is at most this.

    (1/beta) log max_a sum_s p(s) e^(beta (q(s,a) - v(s))),   v = bellman(q, log_prior)

    The sum over s is what the next prior step multiplies prior(a) with, so the gap is 0 at the fixed point.
    For any prior r, E_p[(1/beta) log sum_a r(a) e^(beta (q - v))] is below it by Jensen's inequality.

    Args:
      q: (S, A) from `Model.q`.
      log_prior: (A,).
      p: (S,).

    Returns:
      (), in units of the value.

    Blahut 1972, "Computation of channel capacity and rate-distortion functions", theorem 6.

    >>> q, p = jnp.array([[0.0, 2.0]]), jnp.array([1.0])  # one state: the best prior is the best action
    >>> float(optimality_gap(q, jnp.array([-200.0, 0.0]), p, 1.0))
    0.0
    """
    advantage = q - bellman(q, log_prior, beta)[:, None]
    return jnp.max(soft_maximum(advantage.T, jnp.log(p)[None, :], beta))


# --- The operator ------------------------------------------------------------


class Fit(NamedTuple):
    """A prior, and how good it is."""

    log_prior: Array  # (A,)
    iterations: Array  # () int32, prior steps taken
    gap: Array  # () what E_p of the value may lack, by `optimality_gap`; also where the prior is held
    converged: Array  # () bool, whether the rule was met


def fit_prior(
    q: Array,
    p: Array,
    beta: Array | float,
    log_prior: Array,
    *,
    rule: str,
    tolerance: Array | float,
    max_iterations: Array | int,
) -> Fit:
    """Policy steps and prior steps in turn, until the rule is met; arguments as in `apply`."""
    if rule not in RULES:
        raise ValueError(f"no rule {rule!r}: {nearest(rule, RULES)}")

    def unfinished(carry):
        _, _, iterations, left = carry
        return (left >= tolerance) & (iterations < max_iterations)

    def iterate(carry):
        log_prior, log_policy, iterations, _ = carry
        new_policy = policy_step(q, log_prior, beta)
        new_prior = prior_step(new_policy, p)
        if rule == "gap":
            left = optimality_gap(q, new_prior, p, beta)
        else:
            left = jnp.max(jnp.abs(jnp.exp(new_policy) - jnp.exp(log_policy)))
        return new_prior, new_policy, iterations + 1, left

    none = jnp.zeros((), jnp.int32)
    if rule == "held":
        return Fit(log_prior, none, optimality_gap(q, log_prior, p, beta), jnp.ones((), bool))
    start = log_prior, jnp.broadcast_to(log_prior, q.shape), none, jnp.array(jnp.inf, q.dtype)
    log_prior, _, iterations, left = jax.lax.while_loop(unfinished, iterate, start)
    gap = left if rule == "gap" else optimality_gap(q, log_prior, p, beta)
    return Fit(log_prior, iterations, gap, left < tolerance)


class Application(NamedTuple):
    """B* V, with the policy and the prior that have it."""

    value: Array  # (S,)
    log_policy: Array  # (S, A)
    prior: Fit


@partial(jax.jit, static_argnames="rule")
def apply(
    model: Model,
    V: Array,
    beta: Array | float,
    log_prior: Array | None = None,
    *,
    rule: str = "gap",
    tolerance: float = 5e-3,
    max_iterations: int = 1000,
) -> Application:
    """B* V, by Blahut and Arimoto's iteration.

    Args:
      V: (S,) values.
      beta: positive; the smaller, the dearer a nat of information.
      log_prior: (A,) where to begin, `prior_step` of the paper's initial policy; uniform without it
        (appendix D). Where it has support the result does not depend on it; the time does.
      rule: when the prior is good enough. `gap`: E_p[value] is within `tolerance` of its maximum, by
        `optimality_gap`. `policy`, the paper's: no probability changes by `tolerance` or more in an
        iteration; an iteration's change is of beta's size, so that a small beta ends it too early.
        `held`: as it is, without a step. That is the soft Bellman operator.
      tolerance: of the rule.
      max_iterations: at most so many prior steps.

    Leibfried & Grau-Moya 2019, arXiv 1909.05950, equation 10 and theorem 1.

    >>> from leashrl.tabular.gridworld import gridworld
    >>> found = apply(gridworld(4, 4), jnp.zeros(16), 1.0)
    >>> bool(found.prior.converged), jnp.exp(found.prior.log_prior).round(2).tolist()  # left and down
    (True, [0.5, 0.0, 0.0, 0.5, 0.0])
    """
    q = model.q(V)
    start = uniform(q) if log_prior is None else log_prior
    fit = fit_prior(q, model.p, beta, start, rule=rule, tolerance=tolerance, max_iterations=max_iterations)
    return Application(bellman(q, fit.log_prior, beta), policy_step(q, fit.log_prior, beta), fit)


# --- Value iteration ---------------------------------------------------------


class Solution(NamedTuple):
    """What value iteration has come to."""

    value: Array  # (S,)
    log_policy: Array  # (S, A)
    prior: Fit  # at the last application
    iterations: Array  # () int32, applications of the operator
    inner_iterations: Array  # () int32, prior steps in all of them
    change: Array  # () max_s |B* V(s) - V(s)| at the last application
    converged: Array  # () bool, the change is below the tolerance and the last prior converged


@partial(jax.jit, static_argnames="rule")
def value_iteration(
    model: Model,
    beta: Array | float,
    log_prior: Array | None = None,
    *,
    rule: str = "gap",
    tolerance: float = 5e-3,
    inner_tolerance: float = 5e-3,
    max_iterations: int = 1000,
    max_inner_iterations: int = 1000,
) -> Solution:
    """V <- B* V from V = 0 until max_s |B* V(s) - V(s)| < tolerance; the tolerances are appendix E's.

    With a `held` prior it is soft value iteration, a contraction: it ends within
    tolerance * gamma / (1 - gamma) of its limit. With a fitted one there is no such law, and where beta is
    small B* can go round in circles, as V moves the best prior and the prior moves V. Each application begins
    with the last one's prior, so that `max_inner_iterations=1` takes prior steps and value steps in turn: the
    fixed points are the same, and it has converged on every grid tried.

    Args:
      beta, log_prior, rule: as in `apply`.
      tolerance, max_iterations: of the values.
      inner_tolerance, max_inner_iterations: of the prior in each application.

    >>> from leashrl.tabular.gridworld import gridworld
    >>> found = value_iteration(gridworld(3, 1), 1e3)
    >>> bool(found.converged), round(float(found.value[2]), 2)
    (True, 7.1)
    """

    def improve(V: Array, log_prior: Array) -> tuple[Array, Fit]:
        q = model.q(V)
        fit = fit_prior(
            q,
            model.p,
            beta,
            log_prior,
            rule=rule,
            tolerance=inner_tolerance,
            max_iterations=max_inner_iterations,
        )
        return bellman(q, fit.log_prior, beta), fit

    def unfinished(carry):
        _, fit, iterations, _, change = carry
        return ((change >= tolerance) | ~fit.converged) & (iterations < max_iterations)

    def iterate(carry):
        V, fit, iterations, inner, _ = carry
        new, fit = improve(V, fit.log_prior)
        return new, fit, iterations + 1, inner + fit.iterations, jnp.max(jnp.abs(new - V))

    V = jnp.zeros(model.reward.shape[0], model.reward.dtype)
    none, infinite = jnp.zeros((), jnp.int32), jnp.array(jnp.inf, V.dtype)
    unfit = Fit(
        uniform(model.reward) if log_prior is None else log_prior, none, infinite, jnp.zeros((), bool)
    )
    V, fit, iterations, inner, change = jax.lax.while_loop(
        unfinished, iterate, (V, unfit, none, none, infinite)
    )
    return Solution(
        value=V,
        log_policy=policy_step(model.q(V), fit.log_prior, beta),
        prior=fit,
        iterations=iterations,
        inner_iterations=inner,
        change=change,
        converged=(change < tolerance) & fit.converged,
    )


def uniform(q: Array) -> Array:
    """log 1/A for each of the A actions, (A,)."""
    return jnp.full(q.shape[1], -math.log(q.shape[1]), q.dtype)
