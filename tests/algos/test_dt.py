"""Decision Transformer: its network, its windows, its protocol of acting."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leashrl import nn
from leashrl.algos import REGISTRY, dt
from leashrl.core import override
from leashrl.data import Dataset, prepare
from leashrl.errors import BadInput
from leashrl.nn.mlp import kept
from leashrl.nn.transformer import attention
from leashrl.runs.plan import configure
from leashrl.tasks import task
from leashrl.types import Box, Spec, TimeStep
from support import algorithms
from support.algorithms import episodes_of
from support.draws import normal

SPEC = Spec(3, Box((-1.0, -1.0), (1.0, 1.0)))
TINY = {"context": 4, "width": 8, "layers": 2, "heads": 2, "max_steps": 50, "batch_size": 16, "steps": 40}
built = functools.partial(algorithms.built, "dt", spec=SPEC, **TINY)
rows = functools.partial(episodes_of, spec=SPEC)


# --- The network ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_transformer_against_numpy():
    """One block, two heads of width 4, token by token and head by head."""
    net = nn.transformer(8, layers=1, heads=2)
    (block,) = params = net.init(jax.random.key(0))
    x = normal(5, 8)
    p = jax.tree.map(lambda w: np.asarray(w, np.float64), block)
    dense = lambda name, x: x @ p[name]["kernel"] + p[name]["bias"]
    unit = lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)

    h = np.asarray(x, np.float64)
    q, k, v = np.split(unit(h) @ p["qkv"], 3, axis=-1)
    mixed = np.zeros((5, 8))
    for head in (slice(0, 4), slice(4, 8)):
        for t in range(5):
            score = np.array([q[t, head] @ k[s, head] / 2.0 for s in range(t + 1)])
            weight = np.exp(score) / np.exp(score).sum()
            mixed[t, head] = sum(w * v[s, head] for s, w in enumerate(weight))
    h = h + dense("mix", mixed)
    h = h + dense("down", np.maximum(dense("up", unit(h)), 0))
    np.testing.assert_allclose(net.apply(params, x), unit(h), atol=1e-4)


def test_a_token_sees_the_past_alone():
    net = nn.transformer(8, layers=2, heads=1)
    params, x = net.init(jax.random.key(0)), normal(3, 6, 8)
    changed = net.apply(params, x.at[:, 4].set(normal(3, 8))) - net.apply(params, x)
    assert not np.any(changed[:, :4])
    assert np.abs(changed[:, 4:]).max() > 0.01


@pytest.mark.parametrize("dropped", [False, True])
def test_attentions_own_derivative_is_that_of_its_formula(dropped):
    """The last three of five tokens ask, with two heads; against jax's derivative in float64."""
    q, k, v = normal(4, 3, 2, 6), normal(4, 5, 2, 6), normal(4, 5, 2, 6)
    past = jnp.broadcast_to((jnp.arange(5)[:, None] >= jnp.arange(5)[None])[2:], (4, 2, 3, 5))
    share = jnp.asarray(kept(jax.random.key(0), 30, past.shape)) if dropped else None
    slope = normal(4, 3, 2, 6)

    def formula(q, k, v):
        scores = jnp.where(past, jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(6.0), -jnp.inf)
        weights = jnp.exp(scores) / jnp.exp(scores).sum(-1, keepdims=True)
        return jnp.einsum("bhqk,bkhd->bqhd", weights if share is None else weights * share, v)

    value, pull = jax.vjp(lambda *x: attention(*x, past, share), q, k, v)
    found = value, *pull(slope)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        exact = [jnp.asarray(np.asarray(x, np.float64)) for x in (q, k, v, slope)]
        value, pull = jax.vjp(formula, *exact[:3])
        wanted = value, *pull(exact[3])
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_tokens_that_are_asked_for_are_what_all_of_them_give():
    net = nn.transformer(8, layers=2, heads=2)
    params, x, asked = net.init(jax.random.key(0)), normal(3, 6, 8), slice(1, None, 3)
    found = net.apply(params, x, None, asked)
    np.testing.assert_allclose(found, net.apply(params, x)[:, asked], rtol=1e-4, atol=1e-5)


def test_dropout_keeps_the_share_and_the_mean():
    """0 or the one factor that keeps the mean, 10 % of them 0, an odd number of places too."""
    found = np.asarray(kept(jax.random.key(0), 10, (333, 301)))
    keep = round(0.9 * 2**16) / 2**16
    assert set(np.unique(found)) == {np.float32(0), np.float32(1 / keep)}
    assert (found == 0).mean() == pytest.approx(0.1, abs=4 * np.sqrt(0.09 / found.size))
    assert found.mean() == pytest.approx(1.0, abs=0.005)
    across = np.corrcoef(found[:, :-1].ravel(), found[:, 1:].ravel())[0, 1]
    assert abs(across) < 4 / np.sqrt(found.size)  # neighbours share 32 bits, and nothing else


def test_dropout_needs_a_key_and_keeps_the_mean_of_what_it_drops():
    net = nn.transformer(8, layers=1, heads=1, dropout_percent=50)
    params, x = net.init(jax.random.key(0)), normal(6, 8)
    np.testing.assert_array_equal(net.apply(params, x), net.apply(params, x))
    keys = jax.random.split(jax.random.key(1), 3)
    drawn = [net.apply(params, x, key) for key in keys]
    assert np.abs(drawn[0] - drawn[1]).max() > 0.01


def test_dropout_of_the_tokens_that_come_in():
    """Alone, without a block: each number is doubled or gone, and what is left is normalised."""
    net = nn.transformer(64, layers=0, heads=1, input_dropout_percent=50)
    x, key = normal(200, 64), jax.random.key(1)
    found = np.asarray(net.apply([], x, key))
    gone = np.abs(found - np.median(found, axis=1, keepdims=True)) < 1e-6  # zeros share one value, the median
    assert gone.mean() == pytest.approx(0.5, abs=0.02)
    left = np.where(gone, 0.0, 2 * np.asarray(x))
    wanted = (left - left.mean(1, keepdims=True)) / left.std(1, keepdims=True)
    clear = gone.sum(1) > 16  # where zeros are common enough to be the median
    np.testing.assert_allclose(found[clear], wanted[clear], atol=1e-4)
    np.testing.assert_allclose(net.apply([], x), nn.transformer(64, layers=0, heads=1).apply([], x))


def preset_of(preset, **options):
    entry = REGISTRY["dt"]
    config = override(override(entry.config(), entry.presets[preset].values), options)
    network = dt.model(config, 11, 3)
    return config, network, network.init(jax.random.key(0))


def test_the_authors_weights_and_dropout():
    """GPT-2's blocks at N(0, 0.02^2); PyTorch's own layers around them, times at N(0, 1)."""
    config, _, params = preset_of("authors")
    assert (config.dropout_percent, config.embedding_dropout_percent, config.initial) == (10, 10, "authors")
    assert (config.policy_rate, config.decay, config.clip, config.batch_size) == (1e-4, 1e-4, 0.25, 64)
    assert (config.context, config.width, config.layers, config.heads) == (20, 128, 3, 1)
    assert (config.steps, config.warmup_percent, config.scale) == (100_000, 10, 1000)
    for block in params["body"]:
        kernels = [block["qkv"]] + [block[name]["kernel"] for name in ("mix", "up", "down")]
        for kernel in kernels:
            x = np.asarray(kernel).ravel() / 0.02
            assert (x.mean(), x.std()) == (pytest.approx(0, abs=0.03), pytest.approx(1, abs=0.02))
            assert (np.abs(x) > 2).mean() == pytest.approx(0.0455, abs=0.01)  # a normal's, not a uniform's
        assert not np.any(np.asarray(block["up"]["bias"]))
    assert float(jnp.std(params["step"])) == pytest.approx(1.0, abs=0.01)
    for name, fan_in in (("obs", 11), ("out", 128), ("action", 3)):
        assert float(jnp.max(jnp.abs(params[name]["kernel"]))) == pytest.approx(fan_in**-0.5, rel=0.03)
        assert np.any(np.asarray(params[name]["bias"]))


def test_the_summed_embeddings_drop_out_while_it_trains():
    rows = normal(4, 20), normal(4, 20, 11), normal(4, 20, 3), jnp.zeros((4, 20), jnp.int32)
    for percent, changes in ((0, False), (10, True)):
        _, network, params = preset_of("authors", dropout_percent=0, embedding_dropout_percent=percent)
        told = network.apply(params, *rows, jax.random.key(1))
        assert bool(jnp.any(told != network.apply(params, *rows))) == changes


# --- Windows -------------------------------------------------------------------------------------


def test_rows_know_their_place_and_what_is_to_come():
    data = Dataset.from_arrays(
        obs=np.arange(7.0)[:, None],
        action=np.linspace(-2, 2, 7)[:, None],
        reward=[1.0, 2.0, 0.0, 4.0, -1.0, 4.0, 5.0],
        terminal=[0, 1, 0, 0, 0, 0, 0],
        timeout=[0, 0, 0, 0, 1, 0, 0],
        action_space=Box((-2.0,), (2.0,)),
    )
    found, normaliser = prepare(data, dt.Config().preprocess, "episodes")
    np.testing.assert_array_equal(found["to_go"], [3, 2, 3, 3, -1, 9, 5])  # the open tail is an episode
    np.testing.assert_array_equal(found["step"], [0, 1, 0, 1, 2, 0, 1])
    np.testing.assert_array_equal(found["end"], [2, 2, 5, 5, 5, 7, 7])
    np.testing.assert_allclose(found["action"][:, 0], np.linspace(-1, 1, 7), atol=1e-6)
    np.testing.assert_allclose(found["obs"][:, 0], (np.arange(7) - 3) / (2 + 1e-3), rtol=1e-6)
    assert normaliser.mean.tolist() == [3.0]
    np.testing.assert_array_equal(data.obs[:, 0], np.arange(7))  # the data set itself is as it was
    best, _ = prepare(data, dataclasses.replace(dt.Config().preprocess, best_percent=34), "episodes")
    np.testing.assert_array_equal(best["to_go"], [9, 5])


def test_windows_begin_anywhere_and_end_with_the_episode():
    config, _, state, _ = built(batch_size=4000, scale=2)
    data = rows([1, 3, 7])
    window = dt.windows(config, data, state, jax.random.key(0))
    first = np.asarray(window.obs)[:, 0, 0].astype(int)
    counts = np.bincount(first, minlength=11)
    assert np.abs(counts - 4000 / 11).max() < 5 * np.sqrt(4000 / 11)
    inside = np.arange(4)[None] < (np.asarray(data.end)[first] - first)[:, None]
    np.testing.assert_array_equal(window.inside, inside)
    row = np.minimum(first[:, None] + np.arange(4), 10)
    np.testing.assert_array_equal(window.step, np.asarray(data.step)[row])
    np.testing.assert_allclose(window.to_go, np.asarray(data.to_go)[row] / 2)
    np.testing.assert_array_equal(window.action, np.asarray(data.action)[row])


def test_the_loss_is_of_the_rows_inside():
    guess = nn.Network(
        lambda key: None, lambda params, to_go, obs, action, step, key: jnp.full_like(action, 0.5)
    )
    action = jnp.float32([[[0.5, 0.0], [9.0, 9.0]], [[1.0, 0.5], [0.5, -0.5]]])
    inside = jnp.asarray([[True, False], [True, True]])
    window = dt.Window(None, None, action, None, inside)
    # squared errors, a mean over two dimensions: 0.125, outside, 0.125, 0.5
    assert float(dt.imitation_loss(None, guess, window, None)) == pytest.approx(0.75 / 3)


# --- Training ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_rate_rises_and_weights_decay_beside_adam():
    _, algorithm, state, _ = built(clip=0.0, decay=0.5, policy_rate=0.1, warmup_percent=10)
    (stage,) = algorithm.stages
    window = stage.sample(rows([20, 20]), state, jax.random.key(0))
    for step, rate in ((0, 0.025), (1, 0.05), (3, 0.1), (30, 0.1)):
        after, _ = stage.update(state, window, jax.random.key(1), jnp.int32(step))  # no gradient is left
        for old, new in zip(jax.tree.leaves(state.policy), jax.tree.leaves(after.policy), strict=True):
            np.testing.assert_allclose(new, old * (1 - rate * 0.5), rtol=1e-5, atol=1e-8)


def test_it_learns_the_highest_return_of_the_data():
    _, algorithm, state, _ = built(scale=10)
    data = rows([2, 3])
    data = dataclasses.replace(data, to_go=jnp.float32([3.0, 90.0, 7.0, 8.0, 9.0]))  # 3 and 7 are returns
    (stage,) = algorithm.stages
    assert stage.every == 40 and float(stage.refresh(state, data, None).best) == pytest.approx(0.7)


# --- Acting --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_acts_as_it_was_trained():
    """An episode of 7 steps through the policy: the network on the last 4 rows, returns less rewards."""
    config, algorithm, state, _ = built(targets=(50, 20), scale=10)
    policy = algorithm.policy
    assert policy.modes == ("return-50", "return-20")
    params = policy.params(state)
    obs, reward = normal(7, 3), np.array([0.0, 1.0, 2.0, -1.0, 3.0, 0.5, 4.0], np.float32)
    network = dt.model(config, 3, 2)
    act = jax.jit(policy.act, static_argnums=4)
    for mode, target in (("return-50", 5.0), ("return-20", 2.0)):
        carry, actions = policy.init(params), []
        to_go = target - np.cumsum(reward) / 10
        for t in range(7):
            step = TimeStep(obs[t], jnp.float32(reward[t]), jnp.asarray(t == 0))
            action, carry = act(params, carry, step, jax.random.key(0), mode)
            past = slice(max(0, t - 3), t + 1)
            known = jnp.stack([*actions, jnp.full(2, 77.0)])[
                past
            ]  # its own action, still to come, is not seen
            when = jnp.arange(t + 1, dtype=jnp.int32)[past]
            wanted = network.apply(state.policy, jnp.float32(to_go[past]), obs[past], known, when)[-1]
            np.testing.assert_allclose(action, wanted, atol=1e-5)
            actions.append(action)
    assert np.abs(np.asarray(actions)).max() < 1


def test_without_targets_it_asks_for_the_best_of_the_data():
    _, algorithm, state, _ = built()
    policy = algorithm.policy
    assert policy.modes == ("best",)
    step = TimeStep(normal(3), jnp.zeros(()), jnp.asarray(True))
    act = lambda best: policy.act(
        policy.params(dataclasses.replace(state, best=jnp.float32(best))),
        policy.init(None), step, jax.random.key(0), "best",
    )  # fmt: skip
    assert float(act(0.7)[1]["to_go"][0]) == pytest.approx(0.7)
    assert not np.array_equal(act(0.7)[0], act(9.0)[0])


# --- Options -------------------------------------------------------------------------------------


def test_targets_come_with_the_task():
    assert configure("dt", "default", task("walker2d"), {}, "walker2d-medium").targets == (5000, 2500)
    assert configure("dt", "default", None, {}).targets == ()
    assert REGISTRY["dt"].view == "episodes"


@pytest.mark.parametrize(
    "options",
    [{"heads": 3}, {"context": 0}, {"preprocess.reward": "unit"}, {"dropout_percent": 100}],
)
def test_options_that_make_no_sense(options):
    with pytest.raises(BadInput):
        override(dt.Config(), options)
