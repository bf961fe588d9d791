"""Mutual-information-regularised value iteration against float64 numpy, closed forms and exhaustive search.

Nothing here takes a reference from `leashrl.tabular`: tables are solved by scipy, grids are walked one move
at a time, policies are evaluated by linear algebra.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from leashrl import tabular
from leashrl.tabular import blahut_arimoto as ba
from leashrl.tabular import dense, gridworld
from leashrl.tabular.gridworld import distance, optimum
from support.draws import f32

GAMMA = 0.9
BETAS = (0.1, 1.0, 10.0)
bellman, policy_step, prior_step, evaluate, optimality_gap = map(
    jax.jit, (ba.bellman, ba.policy_step, ba.prior_step, ba.evaluate, ba.optimality_gap)
)


def value_iteration(world, beta, log_prior=None, **options):
    """With all options given, so that one program a shape and rule is compiled: a default is its constant."""
    given = {"rule": "gap", "tolerance": 5e-3, "inner_tolerance": 5e-3}
    given |= {"max_iterations": 1000, "max_inner_iterations": 1000}
    return tabular.value_iteration(world, beta, log_prior, **(given | options))


def apply(world, V, beta, log_prior=None, **options):
    given = {"rule": "gap", "tolerance": 5e-3, "max_iterations": 1000}
    start = f32(np.full(world.reward.shape[1], -math.log(world.reward.shape[1])))
    return tabular.apply(world, V, beta, start if log_prior is None else log_prior, **(given | options))


# --- Independent methods -----------------------------------------------------


class Table:
    """A random MDP, float64: reward (S, A), transition (S, A, S), p (S,) not uniform."""

    def __init__(self, seed: int, states: int = 4, actions: int = 3):
        rng = np.random.default_rng(seed)
        self.reward = rng.normal(size=(states, actions))
        self.transition = rng.dirichlet(np.full(states, 0.5), size=(states, actions))
        self.p = rng.dirichlet(np.full(states, 2.0))
        self.V = 3 * rng.normal(size=states)
        self.policy = rng.dirichlet(np.ones(actions), size=states) + 1e-3  # with support everywhere
        self.policy /= self.policy.sum(1, keepdims=True)
        self.model = dense(f32(self.reward), f32(self.transition), GAMMA, f32(self.p))

    def q(self, V):
        return self.reward + GAMMA * self.transition @ V


def mean_value(q, p, beta, prior):
    """E_p[(1/beta) log sum_a prior(a) e^(beta q)], what the best prior maximises."""
    return float(p @ logsumexp(beta * q, b=prior, axis=1)) / beta


def best_prior(q, p, beta):
    """The largest mean value of all priors: by scipy, then Blahut and Arimoto until it lacks 1e-6 at most.

    What it lacks is bounded by Kuhn and Tucker's condition, so that no trust in either method is needed.
    """

    def loss(x):
        prior = softmax(x)
        return -mean_value(q, p, beta, prior) * beta, prior - p @ softmax(beta * q + np.log(prior), axis=1)

    x = minimize(loss, np.zeros(q.shape[1]), jac=True, method="BFGS").x
    log_prior = x - logsumexp(x)
    for _ in range(100_000):
        v = logsumexp(beta * q + log_prior, axis=1)
        log_ratio = np.log(p @ np.exp(beta * q - v[:, None]))
        if log_ratio.max() / beta < 1e-6:
            return float(p @ v) / beta
        log_prior = log_prior + log_ratio
    raise AssertionError("the independent method did not converge")


def walk(width, height, goal_reward=9.0):
    """The grid of appendix E written down move by move: reward (S, A), successor (S, A); the goal is 0."""
    reward, successor = np.zeros((width * height, 5)), np.zeros((width * height, 5), int)
    for y, x, (a, (dx, dy)) in itertools.product(
        range(height), range(width), enumerate([(-1, 0), (1, 0), (0, 1), (0, -1), (0, 0)])
    ):
        to_x, to_y = x + dx, y + dy
        if not (0 <= to_x < width and 0 <= to_y < height):
            to_x, to_y = x, y
        s = y * width + x
        successor[s, a] = to_y * width + to_x if s else 0
        reward[s, a] = 0.0 if s == 0 else goal_reward if (to_x, to_y) == (0, 0) else -1.0
    return reward, successor


def q_of_grid(width, height, V):
    reward, successor = walk(width, height)
    return reward + GAMMA * np.where(successor == 0, 0.0, V[successor])


def value_of(width, height, prior):
    """V of a state-independent policy, by linear algebra."""
    reward, successor = walk(width, height)
    states = len(reward)
    P = np.zeros((states, states))
    for a in range(5):
        P[np.arange(states), successor[:, a]] += GAMMA * prior[a]
    P[:, 0] = 0.0  # the goal ends the episode
    return np.linalg.solve(np.eye(states) - P, reward @ prior)


def away_from_goal(width, height):
    p = np.full(width * height, 1.0 / (width * height - 1))
    p[0] = 0.0
    return p


def simplex(parts: int, n: int):
    """All probability vectors of n entries that are multiples of 1/parts."""
    for bars in itertools.combinations(range(parts + n - 1), n - 1):
        counts = np.diff([-1, *bars, parts + n - 1]) - 1
        yield counts / parts


# --- Single steps ------------------------------------------------------------


@pytest.mark.parametrize("beta", [1e-3, 0.1, 1.0, 30.0])
def test_each_equation_is_numpys(beta):
    t = Table(0)
    q, prior = t.q(t.V), t.policy.mean(0)
    np.testing.assert_allclose(t.model.q(f32(t.V)), q, atol=1e-5)
    policy = np.exp(beta * q) * prior
    policy /= policy.sum(1, keepdims=True)
    log_policy = policy_step(f32(q), f32(np.log(prior)), beta)
    np.testing.assert_allclose(np.exp(log_policy), policy, rtol=2e-5)
    np.testing.assert_allclose(np.exp(prior_step(f32(np.log(policy)), f32(t.p))), t.p @ policy, rtol=1e-5)
    value = logsumexp(beta * q, b=prior, axis=1) / beta
    np.testing.assert_allclose(bellman(f32(q), f32(np.log(prior)), beta), value, atol=2e-6)
    # equation 13 at equation 12's policy is equation 16; with another policy it is the plain sum
    np.testing.assert_allclose(evaluate(f32(q), f32(np.log(prior)), log_policy, beta), value, atol=1e-4)
    plain = (t.policy * (q - np.log(t.policy / prior) / beta)).sum(1)
    got = evaluate(f32(q), f32(np.log(prior)), f32(np.log(t.policy)), beta)
    np.testing.assert_allclose(got, plain, rtol=1e-5, atol=1e-5)


def test_the_gap_bounds_what_a_prior_lacks():
    """By hand: one state, q = (0, ln 3), beta = 1, uniform: v = ln 2, the best is ln 3, and so is v + gap."""
    q, p = f32([[0.0, math.log(3.0)]]), f32([1.0])
    assert float(optimality_gap(q, f32(np.log([0.5, 0.5])), p, 1.0)) == pytest.approx(math.log(1.5), rel=1e-6)
    for seed, beta in itertools.product(range(5), BETAS):
        t = Table(seed)
        q, prior = t.q(t.V), t.policy.mean(0)
        best = best_prior(q, t.p, beta)
        gap = float(optimality_gap(f32(q), f32(np.log(prior)), f32(t.p), beta))
        assert best <= mean_value(q, t.p, beta, prior) + gap + 1e-5


# --- Theorem 1 ---------------------------------------------------------------


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(("states", "actions"), [(4, 3), (12, 6)])
@pytest.mark.parametrize("seed", range(3))
def test_lemma_4_holds_at_every_m_and_the_iterates_improve(seed, states, actions, beta):
    t = Table(seed, states, actions)
    q = t.q(t.V)
    best = best_prior(q, t.p, beta)
    bound = float(t.p @ -np.log(t.policy).min(axis=1)) / beta  # E_p max_a log 1/pi_0, over beta
    log_policy, values = f32(np.log(t.policy)), []
    for m in range(1, 61):
        log_prior = prior_step(log_policy, t.model.p)
        log_policy = policy_step(f32(q), log_prior, beta)
        values.append(mean_value(q, t.p, beta, np.exp(np.asarray(log_prior, float))))
        assert float(np.abs(np.exp(log_policy).sum(1) - 1).max()) < 1e-5
        assert abs(float(np.exp(log_prior).sum()) - 1) < 1e-5
        assert np.mean(best - np.array(values)) <= bound / m + 2e-6  # equation 19
        assert best - values[-1] <= bound / m + 2e-6  # as the last is the best of them
        assert values[-1] >= values[max(0, m - 2)] - 1e-6


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.sampled_from(BETAS))
def test_any_initial_policy_leads_to_the_same_value(seed, beta):
    t = Table(seed)
    best = best_prior(t.q(t.V), t.p, beta)
    options = {"tolerance": 1e-4, "max_iterations": 1_000_000}
    uniform = apply(t.model, f32(t.V), beta, **options)
    other = apply(t.model, f32(t.V), beta, prior_step(f32(np.log(t.policy)), t.model.p), **options)
    assert uniform.prior.converged and other.prior.converged
    for found in (uniform, other):
        assert float(t.p @ np.asarray(found.value, float)) == pytest.approx(best, abs=1.2e-4)
        assert float(jnp.sum(jnp.exp(found.prior.log_prior))) == pytest.approx(1.0, abs=1e-5)
        np.testing.assert_allclose(np.exp(found.log_policy).sum(1), 1.0, atol=1e-5)


def test_the_papers_rule_and_where_it_ends_too_early():
    t = Table(1)
    best = best_prior(t.q(t.V), t.p, 10.0)
    found = apply(t.model, f32(t.V), 10.0, rule="policy", tolerance=1e-5, max_iterations=100_000)
    assert float(t.p @ np.asarray(found.value, float)) == pytest.approx(best, abs=1e-4)
    early = apply(t.model, f32(t.V), 1e-3, rule="policy")
    assert early.prior.converged and int(early.prior.iterations) == 1 and float(early.prior.gap) > 0.1
    with pytest.raises(ValueError, match="did you mean 'policy'"):
        apply(t.model, f32(t.V), 1.0, rule="polic")


# --- Both ends of beta -------------------------------------------------------


def test_small_beta_is_the_best_state_independent_policy_of_one_application():
    """E_p E_prior q is linear in the prior, so that one action is the best: all are tried."""
    for seed in range(5):
        t = Table(seed)
        q, beta = t.q(t.V), 1e-3
        found = apply(t.model, f32(t.V), beta, tolerance=1e-4, max_iterations=400_000)
        assert found.prior.converged
        best = max(t.p @ q @ prior for prior in np.eye(3))
        variance = float(t.p @ q.var(axis=1)) * 3  # the next order in beta is at most beta/2 of it
        assert best - 2e-4 <= float(t.p @ np.asarray(found.value, float)) <= best + beta * variance + 1e-5


@pytest.mark.parametrize("side", [4, 16])
def test_small_beta_on_a_square_grid_is_the_best_state_independent_policy(side):
    """Left as often as down: by symmetry a fixed point, and by exhaustive search the best there is."""
    p, half = away_from_goal(side, side), np.array([0.5, 0.0, 0.0, 0.5, 0.0])
    V = value_of(side, side, half)
    if side < 16:
        every = [p @ value_of(side, side, prior) for prior in simplex(10, 5) if prior[0] + prior[3] > 0]
        assert p @ V >= max(every) - 1e-12
    found = value_iteration(gridworld(side, side), 0.01, tolerance=1e-4, inner_tolerance=1e-3,
                            max_inner_iterations=1, max_iterations=10_000)  # fmt: skip
    assert found.converged
    np.testing.assert_allclose(np.exp(found.prior.log_prior), half, atol=3e-3)
    np.testing.assert_allclose(found.value, V, atol=0.05)  # beta, and 1e-3 / (1 - gamma)


def test_where_the_operator_goes_round_in_circles_it_says_so_and_turns_converge():
    """3 x 5, beta = 0.01: the best prior for V is one action, for whose V another is better."""
    world, p = gridworld(3, 5), away_from_goal(3, 5)
    found = value_iteration(world, 0.01, inner_tolerance=1e-3, max_inner_iterations=20_000, max_iterations=60)
    assert not found.converged and float(found.change) > 1.0 and int(found.iterations) == 60
    turns = value_iteration(world, 0.01, inner_tolerance=1e-3, max_inner_iterations=1, max_iterations=10_000)
    assert turns.converged
    # that is a fixed point: V of its prior, for which no action has a larger E_p q by more than the gap
    prior = np.exp(np.asarray(turns.prior.log_prior, float))
    V = value_of(3, 5, prior)
    q = q_of_grid(3, 5, V)
    assert (p @ q).max() - p @ q @ prior < 0.01
    np.testing.assert_allclose(turns.value, V, atol=0.1)
    # ... but not the best state-independent policy, since p is not where the policy goes: by search
    best = max(p @ value_of(3, 5, np.array([x, 0, 0, 1 - x, 0])) for x in np.linspace(0.01, 0.99, 99))
    assert 1e-5 < best - p @ V < 0.02


@pytest.mark.parametrize(("width", "height"), [(16, 16), (3, 5)])
def test_large_beta_is_the_optimum(width, height):
    V = np.zeros(width * height)
    for _ in range(300):
        V = q_of_grid(width, height, V).max(axis=1)
    d = np.array([x + y for y in range(height) for x in range(width)])
    closed = -(1 - GAMMA ** (d - 1.0)) / (1 - GAMMA) + GAMMA ** (d - 1.0) * 9.0
    np.testing.assert_allclose(V[1:], closed[1:], atol=1e-12)
    np.testing.assert_allclose(optimum(width, height), V, atol=1e-12)
    assert distance(width, height).tolist() == d.tolist()
    world = gridworld(width, height)
    for rule in ("gap", "policy", "held") if width == 16 else ("gap",):
        found = value_iteration(world, 1e6, rule=rule)
        assert found.converged and float(found.value[0]) == 0.0
        np.testing.assert_allclose(found.value, V, atol=3e-5)
    assert float(value_iteration(gridworld(2, 1, goal_reward=8.0), 1e6).value[1]) == pytest.approx(
        8.0, abs=1e-4
    )


def test_large_beta_is_the_optimum_of_a_random_world():
    t = Table(3)
    V = np.zeros(4)
    for _ in range(400):
        V = t.q(V).max(axis=1)
    found = value_iteration(t.model, 1e5, tolerance=1e-5)
    assert found.converged
    np.testing.assert_allclose(found.value, V, atol=5e-4)


# --- Soft value iteration ----------------------------------------------------


@pytest.mark.parametrize("beta", [0.01, 1.0, 30.0])
def test_a_held_prior_is_soft_value_iteration(beta):
    """numpy's log-sum-exp, with the uniform prior and with another; and E_prior q where beta is tiny."""
    t = Table(5)
    for prior in (np.full(3, 1 / 3), t.policy.mean(0)):
        V = np.zeros(4)
        for _ in range(400):
            V = logsumexp(beta * t.q(V), b=prior, axis=1) / beta
        found = value_iteration(t.model, beta, f32(np.log(prior)), rule="held", tolerance=1e-5)
        assert found.converged and int(found.inner_iterations) == 0
        np.testing.assert_allclose(found.value, V, atol=3e-4)
        np.testing.assert_allclose(np.exp(found.prior.log_prior), prior, rtol=1e-6)
    uniform = value_of(16, 16, np.full(5, 0.2))
    found = value_iteration(gridworld(), 1e-6, rule="held", tolerance=1e-5)
    np.testing.assert_allclose(found.value, uniform, atol=2e-3)  # beta times the variance of q, and 1e-5 * 9


# --- Honesty -----------------------------------------------------------------


@pytest.mark.parametrize("rule", ["gap", "policy", "held"])
@pytest.mark.parametrize("beta", [1e-6, 1e-3, 1.0, 1e3, 1e6])
def test_extreme_betas_stay_finite(rule, beta):
    world = gridworld()
    found = value_iteration(world, beta, rule=rule, max_inner_iterations=50, max_iterations=100)
    assert bool(jnp.all(jnp.isfinite(found.value)))
    assert not any(bool(jnp.any(jnp.isnan(x))) for x in jax.tree.leaves(found))
    assert float(found.value.min()) > -10.001 and float(found.value.max()) < 9.001
    np.testing.assert_allclose(np.exp(found.log_policy).sum(1), 1.0, atol=1e-5)
    value = evaluate(world.q(found.value), found.prior.log_prior, found.log_policy, beta)
    again = bellman(world.q(found.value), found.prior.log_prior, beta)
    np.testing.assert_allclose(value, again, atol=2e-4)  # equations 13 and 16, whatever beta


def test_what_has_not_converged_says_so():
    t = Table(2)
    short = apply(t.model, f32(t.V), 1.0, tolerance=1e-6, max_iterations=2)
    assert not short.prior.converged and int(short.prior.iterations) == 2 and float(short.prior.gap) > 1e-6
    cut = value_iteration(t.model, 1.0, max_iterations=3)
    assert not cut.converged and int(cut.iterations) == 3 and float(cut.change) > 5e-3
    # values that stand still with a prior that does not fit are not converged either
    tiny = value_iteration(gridworld(4, 4), 1e-6, max_iterations=300, max_inner_iterations=1)
    assert not tiny.converged and float(tiny.change) < 5e-3 and float(tiny.prior.gap) > 0.1


# --- The grid ----------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(16, 16), (3, 2), (1, 4)])
def test_the_grid_is_the_one_walked(width, height):
    world = gridworld(width, height)
    reward, successor = walk(width, height)
    np.testing.assert_array_equal(world.reward, reward)
    np.testing.assert_array_equal(world.successor[1:, :, 0], successor[1:])
    V = np.random.default_rng(0).normal(size=width * height)
    expected = q_of_grid(width, height, V)
    expected[0] = 0.0
    np.testing.assert_allclose(world.q(f32(V)), expected, atol=1e-5)
    np.testing.assert_allclose(world.p, away_from_goal(width, height), rtol=1e-6)


def test_a_world_as_lists_is_the_world_as_a_table():
    """The grid with its transitions written out gives the same q."""
    reward, successor = walk(4, 4)
    transition = np.zeros((16, 5, 16))
    for s, a in itertools.product(range(16), range(5)):
        transition[s, a, successor[s, a]] = 1.0
    table = dense(
        f32(reward), f32(transition), GAMMA, f32(away_from_goal(4, 4))
    )  # the goal absorbs, with reward 0
    V = f32(np.random.default_rng(0).normal(size=16)).at[0].set(0.0)
    np.testing.assert_allclose(table.q(V), gridworld(4, 4).q(V), atol=1e-6)
    assert dense([[1.0], [2.0]], transition[:2, :1, :2], GAMMA).p.tolist() == [0.5, 0.5]
