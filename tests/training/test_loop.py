"""When the loop calls a member diverged: on losses and on what is not finite, never on a large diagnostic."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import leashrl
from leashrl.core import Algorithm, Policy, Stage
from leashrl.training import loop
from leashrl.types import Array, Transitions, pytree

STEPS, AT = 20, 7


@pytree
class State:
    x: Array
    hp: dict


def run(metric: str, value: float):
    """`{member: (step, metric)}` of a run whose `metric` is `value` in update AT alone, and its last x."""

    def update(state: State, batch, key, step):
        now = step == AT - 1
        metrics = {"td_loss": jnp.ones(())} | {metric: jnp.where(now, value, 1.0)}
        return State(state.x + 1.0, state.hp), metrics

    def init(key, hp):
        return State(jnp.zeros(()), hp)

    stage = Stage("train", STEPS, lambda data, state, key: data.reward[0], update)
    policy = Policy(lambda s: s.x, lambda p: (), lambda p, c, t, k, m: (p, c), ("mean",))
    rows = np.zeros((4, 1), np.float32)
    data = Transitions(rows, rows, rows[:, 0], rows[:, 0] > 0, rows, rows)
    keys = jax.random.split(jax.random.key(0), 1)
    for snapshot in loop.run(Algorithm(init, (stage,), policy), data, keys, {}, log_every=STEPS):
        fallen, x = snapshot.fallen, float(snapshot.state.x[0])
    return fallen, x


@pytest.mark.parametrize("value", [1e13, -1e37])
def test_a_large_diagnostic_is_no_divergence(value):
    assert run("bound_f", value) == ({}, STEPS)


def test_a_large_loss_is_no_divergence_while_float32_holds_its_square_root():
    """Q of 3e12, as the text's BA column has, leaves a squared error of 1e25."""
    assert run("td_loss", 1e25) == ({}, STEPS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "value"), [("td_loss", 1e31), ("bound_f", np.inf), ("bound_f", np.nan), ("td_loss", np.nan)]
)
def test_a_loss_that_overflows_and_what_is_not_finite_stop_a_member_where_they_came_from(metric, value):
    assert run(metric, value) == ({0: (AT, metric)}, AT - 1)


@pytest.mark.slow
def test_a_healthy_misa_with_large_values_trains_to_its_end(tmp_path):
    """Rewards of 300 at gamma 0.9 have Q = 3,000; the f-bound, only logged, passes 1e12 from Q = 2,081 on."""
    rng = np.random.default_rng(0)
    data = leashrl.Dataset.from_arrays(
        obs=rng.normal(size=(500, 2)).astype(np.float32),
        action=rng.uniform(-0.9, 0.9, (500, 1)).astype(np.float32),
        reward=np.full(500, 300.0, np.float32),
        terminal=np.zeros(500, bool),
        timeout=np.arange(500) % 50 == 49,
        action_space=leashrl.Box(low=(-1.0,), high=(1.0,)),
    )
    options = {"hidden": (16, 16), "batch_size": 32, "k": 2, "gamma": 0.9, "critic_rate": 0.03}
    result = leashrl.train(
        "misa", data, seeds=1, steps=2000, log_every=100, options=options, out=tmp_path / "run"
    )
    assert not result.diverged
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 2000 and last["bound_f"] < -1e12 and 2500 < last["q_data"] < 3500
