"""The laws that every algorithm of the registry obeys.

Tiny networks and data: what is checked is the contract of `core.py`, not learning (the probe at the end
does that). Laws about shapes run over every preset; laws that compile run over every distinct program.
"""

import dataclasses
import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from leashrl.algos import REGISTRY
from leashrl.core import from_json, hyper, override, to_json
from leashrl.data import Normaliser
from leashrl.data.preprocessing import to_go
from leashrl.disk.checkpoint import flatten, load_checkpoint, restore, save_checkpoint
from leashrl.runs.loading import load_policy
from leashrl.runs.plan import Plan
from leashrl.runs.run import Run
from leashrl.training import loop
from leashrl.types import Box, Discrete, Episodes, Spec, TimeStep, Transitions
from support.programs import equations_in, multiplies, narrow_sums

SPEC = Spec(4, Box((-2.0, 0.0), (2.0, 1.0)))  # algorithms act in [-1, 1] whatever the bounds
SPEC_DISCRETE = Spec(4, Discrete(3))
DISCRETE = {  # bc-10 is bc, but for its data
    f"{name}, discrete": name for name, entry in REGISTRY.items() if entry.discrete and name != "bc-10"
}
ENTRIES = REGISTRY | {case: REGISTRY[name] for case, name in DISCRETE.items()}
STEPS = 12
TINY = {"hidden": (8, 8), "batch_size": 8, "steps": STEPS}
# What else makes an algorithm quick to compile.
NETS = ("critic_hidden", "behaviour_hidden", "alpha_hidden")
SHORT = {
    "misa": {"k": 4, "chain_samples": 3, "burn_in": 1},
    "fql": {"flow_steps": 2},
    "ifql": {"flow_steps": 2, "samples": 3},
    "bear": {"behaviour_hidden": (8, 8), "candidates": 3, "samples": 3, "best_of": 3},
    "brac-p": {"critic_hidden": (8, 8), "samples": 2, "policy_only_percent": 10},
    "brac-v": {"critic_hidden": (8, 8), "samples": 2, "policy_only_percent": 10, "divergence": "kl-dual"},
    "brac-plus": dict.fromkeys(NETS, (8, 8)) | {"latents": 2, "samples": 2, "epoch": 5, "components": 1},
    "dt": {"context": 3, "width": 8, "layers": 1, "max_steps": 10},
    "cql": {"k": 3, "resample": 2, "warmup_percent": 50},
    "fisher-brc": {"behaviour_hidden": (8, 8), "components": 3},
    "mbop": {"members": 2, "horizon": 3, "samples": 4},
    "mopo": {"model_hidden": (8, 8), "members": 3, "elites": 2, "check": 3, "rollouts": 5}
    | {"horizon": 2, "every": 5, "model_percent": 100},
    "onestep": {"samples": 3},
}

PRESETS = [(name, preset) for name, entry in REGISTRY.items() for preset in entry.presets]
# Every default, and each further preset or set of options that makes another program.
DEFAULTS = [(name, "default", ()) for name in REGISTRY if name != "bc-10"]  # bc, but for its data
PROGRAMS = [
    *DEFAULTS,
    ("bc", "deterministic", ()),
    ("brac-p", "w", (("entropy", True), ("tune", True))),
    ("brac-plus", "paper", (("components", 2),)),
    ("miracle", "mixture", ()),
    ("miracle", "vae", ()),
    ("miracle", "sac", ()),
    ("misa", "paper", (("lagrange", True),)),
    ("misa", "ba", ()),
    ("misa", "dv", (("estimator", "hmc"), ("critic_resample", 2))),
    ("misa", "f", (("estimator", "reparam"), ("critic_norm", True), ("barber_agakov", False))),
    ("misa", "t", (("critic_resample", 2), ("estimator", "snis"))),
    *((name, "default", ()) for name in DISCRETE),
]
QUICK = ("bc-default", "misa-default", "td3-bc-default")
"""The programs whose laws are not marked slow: one without a critic, the main one, the simplest critic."""
# Further branches of a program, which are run once through every stage.
VARIANTS = [
    ("bear", "authors", ()),
    ("brac-p", "mmd", (("tune", True),)),
    ("brac-plus", "authors", (("divergence", "mmd"),)),
    ("brac-plus", "authors", (("divergence", "cross-entropy"), ("evaluation", "mean"))),
    ("cql", "corl", (("lagrange", "gap"), ("backup", "max"), ("backup_entropy", True), ("resample", 0))),
    ("cql", "rho", (("lagrange", "weighted"),)),
    ("cql, discrete", "rho", (("lagrange", "weighted"), ("backup", "max"), ("backup_entropy", True))),
    ("fisher-brc", "no-representation", ()),
    ("fql", "authors", (("target", "min"),)),
    ("iql", "authors", (("dropout_percent", 50), ("schedule", "constant"))),
    ("misa, discrete", "f", (("estimator", "none"), ("lagrange", True), ("schedule", "cosine"))),
    ("misa, discrete", "t", ()),
    ("misa, discrete", "ba", ()),
    ("onestep", "easy-bcq", ()),
    ("onestep", "exp-weight", ()),
]


def config_of(name, preset="default", options=()):
    config = override(ENTRIES[name].config(), ENTRIES[name].presets[preset].values)
    tiny = {key: value for key, value in TINY.items() if hasattr(config, key)}
    return override(config, tiny | SHORT.get(name, {}) | dict(options))


@functools.cache
def _build(config, name):
    return ENTRIES[name].build(config, SPEC_DISCRETE if name in DISCRETE else SPEC)


def build(name, preset="default", options=()):
    """The same object for the same case: its compiled loop serves several tests."""
    config = config_of(name, preset, options)
    return config, _build(config, name)


def toy_data(rows=40):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape, np.float32))

    return Transitions(
        obs=normal(rows, 4),
        action=jnp.tanh(normal(rows, 2)),
        reward=normal(rows),
        terminal=jnp.asarray(rng.random(rows) < 0.1),
        next_obs=normal(rows, 4),
        next_action=jnp.tanh(normal(rows, 2)),
    )


def in_episodes(data, length):
    """The same rows as episodes of so many."""
    row = np.arange(len(data.reward), dtype=np.int32)
    end = row // length * length + length
    return Episodes(
        data.obs, data.action, data.reward, to_go(np.asarray(data.reward), end), row % length, end
    )


def seen_by(name, data, length=8):
    return in_episodes(data, length) if REGISTRY[name].view == "episodes" else data


def with_discrete_actions(data):
    push, following = (jnp.asarray(x[:, 0] > 0, jnp.int32) for x in (data.action, data.next_action))
    return dataclasses.replace(data, action=2 * push, next_action=2 * following)


DATA = {name: seen_by(name, toy_data()) for name in REGISTRY}
DATA |= {case: with_discrete_actions(toy_data()) for case in DISCRETE}


def slow_unless_quick(name):
    return () if name in QUICK else (pytest.mark.slow,)


def grouped(case):
    """All laws of a program on one test worker, which then compiles it once."""
    label = f"{case[0]}-{case[1]}"
    marks = (pytest.mark.xdist_group(label), *slow_unless_quick(label))
    return pytest.param(case, id=label, marks=marks)


each_preset = pytest.mark.parametrize(
    "case",
    [pytest.param(case, id="-".join(case), marks=slow_unless_quick("-".join(case))) for case in PRESETS],
)
each_program = pytest.mark.parametrize("case", [grouped(case) for case in PROGRAMS])


def members(config, seeds):
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
    return keys, jax.tree.map(lambda x: jnp.broadcast_to(x, (len(seeds),)), hyper(config))


def final(case, seeds, **kwargs):
    """State and log lines after the whole run."""
    config, algorithm = build(*case)
    keys, hp = members(config, seeds)
    logged = {}
    for snapshot in loop.run(algorithm, DATA[case[0]], keys, hp, **({"log_every": 4} | kwargs)):
        if snapshot.logged is not None:
            logged[snapshot.step] = snapshot.logged
    assert not snapshot.fallen
    return jax.tree.map(np.asarray, snapshot.state), logged


def stages_of(case):
    """All stages that have updates."""
    return [stage for stage in build(*case)[1].stages if stage.steps]


@functools.cache
def step_of(case, number=-1):
    """One update of one member, number t of all, as the loop keys it, outside the loop; of its last stage."""
    stages = stages_of(case)
    stage = stages[number]
    start = sum(s.steps for s in stages[: stages.index(stage)])

    def step(state, t):
        key_sample, key_update = jax.random.split(jax.random.fold_in(jax.random.key(5), t))
        return stage.update(state, stage.sample(DATA[case[0]], state, key_sample), key_update, t - start)

    return step, jax.jit(step)


def python_steps(case):
    """`(stage, state, metrics)` after every update of the whole run, by a loop in Python."""
    state, t = start_of(case), 0
    for number, stage in enumerate(stages_of(case)):
        for own in range(stage.steps):
            if stage.refresh and own % stage.every == 0:
                key = jax.random.fold_in(jax.random.key(5), jnp.uint32(t + 2**31))
                state = jax.jit(stage.refresh)(state, DATA[case[0]], key)
            state, metrics = step_of(case, number)[1](state, jnp.int32(t))
            t += 1
            yield stage, state, metrics


def start_of(case):
    config, algorithm = build(*case)
    state = loop.initial(algorithm.init)(*members(config, [5]))
    return jax.tree.map(lambda x: x[0], state)


def assert_same_bits(a, b):
    a, b = flatten(a), flatten(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def assert_close(a, b):
    """Equal up to the rounding of differently ordered sums, which Adam's division enlarges."""
    a, b = flatten(a), flatten(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=2e-3, atol=2e-5, err_msg=name)


@each_preset
def test_update_keeps_the_tree(case):
    config, algorithm = build(*case)
    before = jax.eval_shape(algorithm.init, jax.random.key(0), hyper(config))

    def same(after):
        assert jax.tree.structure(before) == jax.tree.structure(after)
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            # A weak type that changes would compile the program a second time.
            assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)

    for stage in algorithm.stages:

        def update(state, key, stage=stage):
            return stage.update(state, stage.sample(DATA[case[0]], state, key), key, jnp.int32(0))

        after, metrics = jax.eval_shape(update, before, jax.random.key(1))
        same(after)
        assert all(m.shape == () and m.dtype == jnp.float32 for m in metrics.values())
        if stage.refresh:
            refresh = stage.refresh
            same(jax.eval_shape(lambda s, k, f=refresh: f(s, DATA[case[0]], k), before, jax.random.key(1)))


@each_preset
def test_bfloat16_is_multiplied_and_nothing_else(case):
    """A product takes bfloat16 and gives float32; no sum, no loss and no other function sees it."""
    wide = dict.fromkeys(("hidden", *NETS, "model_hidden"), (32, 32)) | {"width": 32, "precision": "bfloat16"}
    fields = {field.name for field in dataclasses.fields(ENTRIES[case[0]].config)}
    config, algorithm = build(*case, tuple((name, value) for name, value in wide.items() if name in fields))
    state = jax.eval_shape(algorithm.init, jax.random.key(0), hyper(config))
    products = 0
    for stage in algorithm.stages:

        def update(state, key, stage=stage):
            return stage.update(state, stage.sample(DATA[case[0]], state, key), key, jnp.int32(0))

        program = jax.make_jaxpr(update)(state, jax.random.key(1)).jaxpr
        assert narrow_sums(program) == []
        products += sum(map(multiplies, equations_in(program)))
    assert products


def shapes_in(jaxpr):
    """Of everything computed in a program, its loops and branches included."""
    for equation in jaxpr.eqns:
        yield from (var.aval.shape for var in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from shapes_in(inner)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, *_ in DEFAULTS])
def test_updates_copy_no_data(name):
    """Seeds side by side read one data set: nothing that an update computes is as long as the data."""
    rows = 1009  # a prime, to be known by
    data = seen_by(name, toy_data(rows), rows)
    config, algorithm = build(name)
    keys, hp = members(config, [0, 1, 2])
    state = jax.eval_shape(jax.vmap(algorithm.init), keys, hp)
    for stage in algorithm.stages:

        def update(data, state, key, stage=stage):
            return stage.update(state, stage.sample(data, state, key), key, jnp.int32(0))

        program = jax.make_jaxpr(jax.vmap(update, in_axes=(None, 0, 0)))(data, state, keys)
        assert not [shape for shape in shapes_in(program.jaxpr) if rows in shape], stage.name


@each_preset
def test_config_survives_json(case):
    config = config_of(*case)
    assert from_json(type(config), to_json(config)) == config


@pytest.mark.parametrize("case", [grouped(case) for case in [*PROGRAMS, *VARIANTS]])
def test_update_changes_every_network(case):
    before = start_of(case)
    for _, after, metrics in python_steps(case):  # noqa: B007
        assert all(np.isfinite(m) for m in metrics.values())
    for name in ("policy", "critic", "energy", "value", "marginal", "behaviour", "model"):
        old, new = (jax.tree.leaves(getattr(state, name, {})) for state in (before, after))
        if name == "behaviour" and case[1] == "no-representation":
            continue
        still = [a.shape for a, b in zip(old, new, strict=True) if np.array_equal(a, b)]
        # Wasserstein's distance is of differences, so its critic's last bias has no slope.
        assert still == ([(1, 1)] if name == "energy" and "w" in case else []), name
    assert_same_bits(before.hp, after.hp)


@pytest.mark.parametrize("case", [grouped(case) for case in DEFAULTS])
def test_jit_equals_no_jit(case):
    step, compiled = step_of(case)
    state = start_of(case)
    fast, fast_metrics = compiled(state, jnp.int32(0))
    with jax.disable_jit():
        plain, metrics = step(state, jnp.int32(0))
    assert_close(fast, plain)
    assert_close(fast_metrics, metrics)


@each_program
def test_loop_equals_python_steps(case):
    """Member 5 of a run of two is what it is by itself, updated by a loop in Python."""
    looped, logged = final(case, [3, 5])
    seen: dict[str, list] = {}
    for done, (stage, state, metrics) in enumerate(python_steps(case), 1):  # noqa: B007
        seen.setdefault(stage.name, []).append(metrics)
        if done in logged:  # a line has the means since the line before, or since its stage began
            mine, seen[stage.name] = seen[stage.name], []
            assert logged[done].keys() == mine[0].keys()
            for name in mine[0]:
                mean = np.mean([float(m[name]) for m in mine])
                found = logged[done][name][1]
                np.testing.assert_allclose(found, mean, rtol=1e-2, atol=1e-3, err_msg=name)
    assert_close(jax.tree.map(lambda x: x[1], looped), state)


@pytest.mark.parametrize("case", [grouped(case) for case in DEFAULTS])
def test_member_among_others_equals_member_alone(case):
    """Of every program the test before says so too; this one has the loop with a single member."""
    together, _ = final(case, [3, 5])
    single, _ = final(case, [5])
    assert_close(jax.tree.map(lambda x: x[1:], together), single)


@each_program
def test_save_restore_goes_on_bit_for_bit(case, tmp_path):
    """Stopped in the middle of each stage and at its end."""
    config, algorithm = build(*case)
    keys, hp = members(config, [0, 1])
    ends = np.cumsum([stage.steps for stage in stages_of(case)]).tolist()
    moments = [5, *(moment for end in ends[:-1] for moment in (end, end + 1))]
    whole, _ = final(case, [0, 1], stop_every=1)
    for snapshot in loop.run(algorithm, DATA[case[0]], keys, hp, log_every=4, stop_every=1):
        if snapshot.step in moments:
            about = {"stage": snapshot.stage}
            folder = tmp_path / str(snapshot.step)
            save_checkpoint(folder, snapshot.step, {"state": snapshot.state, "tally": snapshot.tally}, about)
    for moment in set(moments):
        step, flat, _ = load_checkpoint(tmp_path / str(moment))
        assert step == moment
        arrays = restore(loop.blank(algorithm, DATA[case[0]], keys, hp, step), flat, str(tmp_path))
        resumed, _ = final(case, [0, 1], resume=(step, arrays))
        assert_same_bits(whole, resumed)


@each_program
def test_hyper_parameters_are_per_member(case):
    """Two members that differ in one rate only: the program is one, the results are two."""
    config, algorithm = build(*case)
    keys, hp = members(config, [0, 0])
    hp = hp | {"policy_rate": jnp.asarray([1e-3, 1e-2], jnp.float32)}
    *_, snapshot = loop.run(algorithm, DATA[case[0]], keys, hp, log_every=STEPS)
    for leaf in jax.tree.leaves(snapshot.state.policy):
        assert not np.array_equal(leaf[0], leaf[1])


@each_program
def test_policy_acts_inside_the_space(case):
    _, algorithm = build(*case)
    policy = algorithm.policy
    params = policy.params(start_of(case))
    timestep = TimeStep(jnp.full(4, 3.0), jnp.zeros(()), jnp.asarray(True))
    for mode in policy.modes:
        action, _ = policy.act(params, policy.init(params), timestep, jax.random.key(0), mode)
        if case[0] in DISCRETE:
            assert action.shape == () and action.dtype == jnp.int32 and 0 <= action < 3
        else:
            assert action.shape == (2,) and np.all(np.abs(action) <= 1)


@pytest.mark.parametrize(
    "case",
    [grouped(case) for case in PROGRAMS if case[1] == "default" and build(case[0])[1].policy.weighed],
)
def test_probabilities_are_those_of_the_draws(case):
    """`log_prob` sums or integrates to one over the actions, and gives the moments of what `act` draws."""
    policy = build(*case)[1].policy
    for mode in policy.weighed:
        assert policy.log_prob is not None and mode in policy.modes
        params = policy.params(start_of(case))
        obs = jnp.array([0.3, -1.0, 0.5, 2.0])
        step = TimeStep(obs, jnp.zeros(()), jnp.ones((), bool))
        draw = lambda key, p=params, s=step, m=mode: policy.act(p, policy.init(p), s, key, m)[0]
        drawn = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(0), 4000)), np.float64)
        if case[0] in DISCRETE:
            points, area = jnp.arange(3), 1.0
            moments = lambda a: np.eye(3)[np.asarray(a, int)]
        else:
            line = np.linspace(-1, 1, 402)[1:-1]  # midpoints of 400 pieces, nearly
            points = jnp.asarray(np.stack(np.meshgrid(line, line), -1).reshape(-1, 2), jnp.float32)
            area = float(line[1] - line[0]) ** 2
            moments = lambda a: np.stack([a[:, 0], a[:, 1], a[:, 0] ** 2, a[:, 0] * a[:, 1]], 1)
        log_prob = jax.vmap(lambda a, p=params, o=obs, m=mode: policy.log_prob(p, o, a, m))(points)
        weight = np.exp(np.asarray(log_prob, np.float64)) * area
        assert weight.sum() == pytest.approx(1.0, abs=0.01)
        found = moments(drawn)
        error = found.std(0) / np.sqrt(len(found))
        expected = weight @ moments(np.asarray(points, np.float64))
        assert np.all(np.abs(found.mean(0) - expected) <= 5 * error + 0.005)


@pytest.mark.parametrize("case", [grouped(case) for case in DEFAULTS])
def test_exported_policy_equals_the_trained_one(case, tmp_path):
    """What `load_policy` gives is the last state's policy, from and to the environment's units."""
    config, algorithm = build(*case)
    keys, hp = members(config, [0, 1])
    state, _ = final(case, [0, 1])
    mean, std = np.float32([1, 2, 3, 4]), np.float32([1, 2, 0.5, 3])
    seeds = tuple({"seed": seed} for seed in (0, 1))
    plan = Plan(case[0], case[1], config, {}, None, seeds, log_every=4, eval_every=4, episodes=0)
    Run(plan, None, SPEC, algorithm, DATA[case[0]], Normaliser(mean, std), keys, hp).save_policies(
        tmp_path, state, {}
    )

    policy = algorithm.policy
    mode = "mean" if "mean" in policy.modes else policy.modes[0]
    obs = mean + std * np.random.default_rng(0).standard_normal((5, 4), np.float32)

    @jax.jit
    def act(params, obs, key):
        timestep = TimeStep((obs - mean) / std, jnp.zeros(()), jnp.asarray(True))
        return policy.act(params, policy.init(params), timestep, key, mode)[0]

    for i in (0, 1):
        params = jax.tree.map(lambda x, i=i: x[i], policy.params(state))
        exported = load_policy(tmp_path, f"seed-{i}")
        assert_same_bits(exported.params, params)
        keys = jax.random.split(jax.random.key(0), len(obs))  # of seed 0, where the mode draws
        wanted = SPEC.action.from_unit(np.stack([act(params, *each) for each in zip(obs, keys, strict=True)]))
        found = exported(obs, mode=mode)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
        assert np.ptp(wanted, axis=0).min() > 1e-4  # it looks at what it is given


# --- A problem whose solution is known ------------------------------------------------------------


def bandit(rows=2000):
    """One step, reward 1 - |a - (s, -s)|^2, the data's actions around half of the best, (s, -s)."""
    rng = np.random.default_rng(1)
    s = rng.uniform(-0.6, 0.6, (rows, 1)).astype(np.float32)
    best = np.concatenate([s, -s], axis=1)
    action = np.clip(0.5 * best + 0.25 * rng.standard_normal((rows, 2)), -0.99, 0.99).astype(np.float32)
    obs = np.concatenate([s, np.zeros((rows, 3), np.float32)], axis=1)
    reward = (1 - np.sum((action - best) ** 2, axis=1)).astype(np.float32)
    return Transitions(*map(jnp.asarray, (obs, action, reward, np.ones(rows, bool), obs, action)))


OPTIMUM = {
    "awac": 1.0,
    "bc": 0.5,
    "bc-10": 0.5,
    "bear": 1.0,
    "brac-p": 1.0,
    "brac-plus": 1.0,
    "brac-v": 1.0,
    "cql": 1.0,
    "dt": 0.9,  # of the few rows near the best return it makes a mean
    "fisher-brc": 1.0,
    "fql": 1.0,
    "ifql": 1.0,
    "iql": 1.0,
    "miracle": 1.0,
    "mbop": 1.0,
    "misa": 1.0,
    "mopo": 1.0,
    "onestep": 1.0,
    "rebrac": 1.0,
    "sac": 1.0,
    "td3-bc": 1.0,
}  # what each algorithm must reach, in units of the best action
# Where the default is for larger problems: options with which 1500 updates are enough.
BRAC_LOOSE = {"alpha": 1e-3, "critic_rate": 3e-3, "critic_hidden": (32, 32), "policy_only_percent": 2}
LOOSE = {
    "awac": {"temperature": 0.02, "critic_rate": 1e-2, "polyak": 0.05, "policy_rate": 1e-2},
    "bear": {"threshold": 10.0, "policy_only_percent": 2, "behaviour_hidden": (32, 32)},
    "brac-p": BRAC_LOOSE,
    "brac-v": BRAC_LOOSE,
    "brac-plus": dict.fromkeys(NETS, (32, 32))
    | {"alpha": 1e-3, "alpha_rate": 1e-5, "beta": 1e-3, "beta_rate": 1e-4, "slack": 100.0}
    | {"slope_weight": "none", "critic_rate": 1e-3, "policy_rate": 1e-3},  # at 3e-3 seeds differ by 0.12
    "dt": {"context": 1, "width": 64, "layers": 1, "scale": 1, "dropout_percent": 0, "batch_size": 128},
    "cql": {"weight": 0.01, "warmup_percent": 0, "critic_rate": 3e-3},
    "fisher-brc": {"penalty": 0.0, "critic_rate": 3e-3, "behaviour_hidden": (32, 32)},
    "fql": {"alpha": 1e-3, "critic_rate": 3e-3, "learnt_norm": False},
    "ifql": {"samples": 1000, "critic_rate": 3e-3, "learnt_norm": False},
    "iql": {"expectile": 0.95, "temperature": 50.0, "critic_rate": 3e-3, "value_rate": 3e-3, "polyak": 0.05},
    "miracle": {"beta": 30.0, "critic_rate": 1e-2, "marginal_rate": 3e-3},
    "mbop": {"horizon": 1, "samples": 2000, "bootstrap": False, "beta": 0.0, "sigma": 0.3, "kappa": 50.0},
    "mopo": {"model_hidden": (32, 32), "rollouts": 200, "horizon": 1, "gamma": 0.0, "penalty": 1.0},
    "onestep": {"alpha": 1e-3, "critic_rate": 3e-3},
    "rebrac": {"policy_penalty": 1e-3, "critic_rate": 3e-3},
    "sac": {"critic_rate": 3e-3},
    "td3-bc": {"alpha": 100.0, "critic_rate": 3e-3},
    "misa": {
        "gamma_1": 0.05,
        "gamma_2": 0.02,
        "gamma_2_correction": 0.02,
        "critic_rate": 3e-3,
        "schedule": "constant",
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REGISTRY)
def test_probe_is_solved(name):
    """Cloning finds the data's mean action, half the best one; what learns values finds the best."""
    assert name in OPTIMUM, f"add '{name}' to OPTIMUM in tests/algos/test_laws.py: 0.5 if it clones, else 1.0"
    entry = REGISTRY[name]
    values = {"hidden": (32, 32), "batch_size": 64, "steps": 1500, "policy_rate": 3e-3} | LOOSE.get(name, {})
    config = override(entry.config(), entry.presets["default"].values)
    config = override(config, {key: value for key, value in values.items() if hasattr(config, key)})
    algorithm = entry.build(config, SPEC)
    keys, hp = members(config, [0, 1])
    *_, snapshot = loop.run(algorithm, seen_by(name, bandit(), 1), keys, hp, log_every=500)
    states = np.linspace(-0.5, 0.5, 11).astype(np.float32)
    policy = algorithm.policy

    def act(params, s):
        obs = jnp.zeros(4).at[0].set(s)
        step = TimeStep(obs, jnp.zeros(()), jnp.asarray(True))
        return policy.act(params, policy.init(params), step, jax.random.key(0), policy.modes[0])[0]

    params = policy.params(snapshot.state)
    actions = jax.vmap(jax.vmap(act, in_axes=(None, 0)), in_axes=(0, None))(params, jnp.asarray(states))
    slopes = np.polynomial.polynomial.polyfit(states, np.asarray(actions[..., 0]).T, 1)[1]
    np.testing.assert_allclose(slopes, OPTIMUM[name], atol=0.15)
