"""BRAC+ (Zhang et al. 2020, ICLR 2021 submission; arXiv 2110.00894): figures 2, 3, 6, 7 and 8, from runs.

    leashrl train brac-plus --data hopper-medium-replay-v0 --out runs/brac-plus/state-wise
    leashrl train brac-plus --data hopper-medium-replay-v0 --set state_wise=false --out runs/brac-plus/global
    leashrl paper brac-plus --figure 3 --set runs=runs/brac-plus

All runs of brac-plus below the folder are read, whatever their names and presets; they must have ended. Names
of curves come from the options themselves. Members (seeds, and values that vary within a run) of one data set
and with the same options are pooled; where options differ that a figure does not compare, the names say so.
Members that diverged count in figures 2 and 8 until then, and a cross stands at what their last finite policy
scores. In the others they are left out while a member of the same label has ended, and else shown at their
last finite state, under a label that says where they were stopped.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from leashrl import nn
from leashrl.algos.brac_plus import Config, State, networks
from leashrl.algos.common import share
from leashrl.disk.folder import RunFolder, rows_of
from leashrl.dist import Normal
from leashrl.errors import BadInput
from leashrl.evaluate.statistics import summary
from leashrl.ops import slope
from leashrl.papers.brac_plus_members import (
    Member,
    Pools,
    by_state,
    by_variant,
    collect,
    flat,
    pools,
    variant,
)
from leashrl.papers.brac_plus_panels import (
    AtStates,
    draw_curves,
    draw_distances,
    draw_episodes,
    draw_slopes,
    picture,
)
from leashrl.report.plots import Point, need_matplotlib
from leashrl.runs.experiment import last_state
from leashrl.runs.plan import Plan
from leashrl.runs.run import Run
from leashrl.tasks.making import borrow, env_seed, give_back
from leashrl.types import Array, Box, Spec, TimeStep, Transitions

STATES = 20_000
CHUNK = 1000  # states at a time
Found = tuple[dict[str, Any], list[Path]]


@dataclasses.dataclass(frozen=True)
class Curves:
    """Options of figures 2 and 8.

    Args:
      runs: the folder below which the runs lie.
    """

    runs: str = "runs"


@dataclasses.dataclass(frozen=True)
class Histograms:
    """Options of figures 3 and 6.

    Args:
      runs: the folder below which the runs lie.
      states: how many of the data's, evenly spaced; 0 for all.
    """

    runs: str = "runs"
    states: int = STATES


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Options of figure 7.

    Args:
      runs: the folder below which the runs lie.
      episodes: of each policy.
      seed: of the episodes; 0 has those that the run was evaluated on.
    """

    runs: str = "runs"
    episodes: int = 1
    seed: int = 1


# --- Figures 2 and 8: learning curves ------------------------------------------


def figure_2(out: Path, options: Curves) -> Found:
    """What divergence, multiplier and slope penalty do to learning."""
    return learning(by_variant(evaluated(options)), out / "brac-plus-figure-2.png")


def figure_8(out: Path, options: Curves) -> Found:
    """What the policy's largest entropy does to learning."""
    members = evaluated(options)
    caps = entropy_caps(members)
    one = len({variant(member.config) for member in members}) == 1
    name = lambda m: f"H₀ = {caps[m.data, m.config]:.3g}" + ("" if one else f", {variant(m.config)}")
    pooled = pools(members, name, lambda m: caps[m.data, m.config])
    return learning(pooled, out / "brac-plus-figure-8.png", caps)


def evaluated(options: Curves) -> list[Member]:
    need_matplotlib()  # before the work
    return collect(options.runs, "that were evaluated", lambda plan: plan.task is not None)


def entropy_caps(members: Sequence[Member]) -> dict[tuple[str, Config], float]:
    """H_0 of each data set and Config; where pre-training measured it, the mean over members."""
    measured = {m.folder: None for m in members if m.config.measured}
    states = {folder: last_state(folder)[1].entropy_cap for folder in measured}
    found: dict[tuple[str, Config], list[float]] = {}
    for m in members:
        height = float(states[m.folder][m.i]) if m.config.measured else m.config.entropy_cap
        found.setdefault((m.data, m.config), []).append(height)
    return {place: float(np.mean(heights)) for place, heights in found.items()}


def learning(pooled: Pools, file: Path, caps: Mapping | None = None) -> Found:
    """The curves, and rows that say where they end."""
    curves = {data: {label: curve(mine) for label, mine in by.items()} for data, by in pooled.items()}
    rows = []
    for data, label, mine in flat(pooled):
        measure, points, stops = curves[data][label]
        updates, final, low, high = points[-1] if points else (None,) * 4
        row = {"data": data, "variant": label} | ({"entropy_cap": caps[data, mine[0].config]} if caps else {})
        row |= {"runs": len({m.folder for m in mine}), "members": len(mine)}
        row |= {"diverged": sum(bool(m.end) for m in mine), "updates": updates, "measure": measure}
        row |= {"final": final, "low": low, "high": high}
        rows.append(row | {"last finite policy": float(np.mean([x for _, x in stops])) if stops else None})
    return {"rows": rows}, [picture(file, curves, draw_curves, "gradient updates after pre-training")]


def curve(members: Sequence[Member]) -> tuple[str, list[Point], list[tuple[int, float]]]:
    """`curves.curve` of these members alone, which have one Config, and what the last finite policies of
    those that diverged get; steps count from pre-training's end."""
    lines = {folder: RunFolder(folder).evaluations() for folder in {m.folder for m in members}}
    rows = [row for m in members for row in rows_of(m.row, lines[m.folder])]
    scored = {row["score"] is not None for row in rows}
    if not scored:  # all were stopped before the first evaluation
        scored = {m.end["score"] is not None for m in members if m.end and "score" in m.end}
    if len(scored) > 1:
        raise BadInput(f"some runs on '{members[0].data}' have scores, some only returns: keep them apart")
    measure, c = "return" if scored == {False} else "score", members[0].config
    before = sum(share(c.steps, p) for p in (c.behaviour_percent, c.clone_percent, c.value_percent))
    steps: dict[int, list[float]] = {}
    for row in rows:
        steps.setdefault(row["step"] - before, []).append(row[measure])
    found = [(step, summary(values)) for step, values in sorted(steps.items())]
    stops = [(m.end["step"] - before, m.end.get(measure)) for m in members if m.end]
    points = [(step, s.mean, s.low, s.high) for step, s in found]
    return measure, points, [(step, value) for step, value in stops if value is not None]


# --- Figures 3 and 6: states of the data ---------------------------------------


def figure_3(out: Path, options: Histograms) -> Found:
    """How far the policy is from the behaviour, by state."""
    found = at_states(options, "with divergence=kl", lambda plan: plan.config.divergence == "kl")
    rows = []
    for data, label, mine in flat(found):
        d, above = (np.concatenate([getattr(x, name) for x in mine]) for name in ("distance", "above"))
        row = {"data": data, "variant": label, "members": len(mine), "mean": d.mean(), "std": d.std()}
        row |= {"threshold": np.mean([x.threshold for x in mine]), "above": above.mean()}
        rows.append(plain(row | {f"{q} %": np.quantile(d, q / 100) for q in (1, 50, 99)}))
    marks = {"threshold": {"linestyle": ":"}}
    file = out / "brac-plus-figure-3.png"
    return {"rows": rows}, [picture(file, found, draw_distances, "D(s)", "share of states", marks)]


def figure_6(out: Path, options: Histograms) -> Found:
    """How steep the critics are at the policy's actions, and `outside`, where D is above epsilon_gp."""
    found = at_states(options, "that have ended", lambda plan: True)
    rows = []
    for data, label, mine in flat(found):
        norm, outside = (np.concatenate([getattr(x, k) for x in mine]) for k in ("steepness", "outside"))
        row = {"data": data, "variant": label, "members": len(mine), "mean": norm.mean()}
        row |= {"median": np.median(norm), "99 %": np.quantile(norm, 0.99), "outside": outside.mean()}
        rows.append(plain(row | {"mean outside": norm[outside].mean() if outside.any() else None}))
    x, marks = "|∇ₐ minᵢ Qᵢ(s, a)|, a ~ π(s)", {"states with D above ε_gp": {"linewidth": 6, "alpha": 0.4}}
    file = out / "brac-plus-figure-6.png"
    return {"rows": rows}, [picture(file, found, draw_slopes, x, "share of states", marks)]


def at_states(
    options: Histograms, wanted: str, keep: Callable[[Plan], bool]
) -> dict[str, dict[str, list[AtStates]]]:
    need_matplotlib()  # before the work
    members = collect(options.runs, wanted, keep)
    found = {}
    for folder in {member.folder: None for member in members}:
        run, state = last_state(folder)
        distance, steepness = at_actions(run, state, spaced(run, options.states))
        threshold, slope_from = (np.asarray(x)[:, None] for x in (state.threshold, state.slope_from))
        table = zip(distance, steepness, distance > threshold, distance > slope_from, strict=True)
        for i, row in enumerate(table):
            found[folder, i] = AtStates(*row, float(threshold[i, 0]))
    pooled = by_state(members)
    return {data: {s: [found[m[:2]] for m in mine] for s, mine in by.items()} for data, by in pooled.items()}


def spaced(run: Run, states: int) -> Array:
    """That many of the data's observations, evenly spaced; all for 0, or where there are fewer."""
    assert isinstance(run.data, Transitions)
    obs = jnp.asarray(run.data.obs)
    return obs[np.linspace(0, len(obs) - 1, min(states or len(obs), len(obs))).astype(int)]


def at_actions(run: Run, state: State, obs: Array) -> tuple[np.ndarray, np.ndarray]:
    """D and |grad_a min_i Q_i| at an action of the policy, (members, states); all members share the noise."""
    chunk, key = compiled(run.plan.config, run.spec), jax.random.key(0)
    starts = range(0, len(obs), CHUNK)
    parts = [chunk(state, obs[i : i + CHUNK], jax.random.fold_in(key, i)) for i in starts]
    distance, steepness = (np.concatenate(each, axis=1) for each in zip(*parts, strict=True))
    return distance, steepness


@functools.lru_cache(maxsize=8)  # runs that differ in their seeds alone share what is compiled
def compiled(config: Config, spec: Spec) -> Callable[[State, Array, Array], tuple[Array, Array]]:
    n = networks(config, spec)

    def one(state: State, obs: Array, key: Array) -> tuple[Array, Array]:
        key_distance, key_action = jax.random.split(key)
        pi = Normal(*n.policy.apply(state.policy, obs))
        distance = n.behaviour.distance(state.behaviour, pi, obs, key_distance, state.hp["sigma"])
        least = functools.partial(nn.least, n.critic, state.critic, obs)
        return distance, slope.norm(slope.squared_slope(least, jnp.tanh(pi.sample(key_action))))

    return jax.jit(lambda state, obs, key: jax.lax.map(lambda s: one(s, obs, key), state))


# --- Figure 7: states of episodes ----------------------------------------------


def figure_7(out: Path, options: Episodes) -> Found:
    """How far the policy is from the behaviour along its own episodes; of each label's first member."""
    need_matplotlib()  # before the work
    if options.episodes < 1:
        raise BadInput(f"figure 7 takes episodes >= 1, not {options}")
    has = lambda plan: plan.task is not None and plan.config.divergence == "kl"
    pooled = by_state(collect(options.runs, "with divergence=kl and a task", has))
    found: dict[str, dict[str, list[np.ndarray]]] = {data: {} for data in pooled}
    rows = []
    for data, label, mine in flat(pooled):
        run, state = last_state(mine[0].folder)
        state = jax.tree.map(lambda x, i=mine[0].i: x[i : i + 1], state)
        on_data = at_actions(run, state, spaced(run, STATES))[0].mean()
        for n in range(options.episodes):
            obs, total = episode(run, state, options.seed, n)
            d = at_actions(run, state, jnp.asarray(obs))[0][0]
            found[data].setdefault(label, []).append(d)
            row = {"data": data, "variant": label, "episode": n, "length": len(d), "return": total}
            rows.append(plain(row | {"mean": d.mean(), "largest": d.max(), "mean on data": on_data}))
    file = out / "brac-plus-figure-7.png"
    return {"rows": rows}, [picture(file, found, draw_episodes, "step of the episode", "D(s)")]


def episode(run: Run, state: State, seed: int, n: int) -> tuple[np.ndarray, float]:
    """The normalised observations (steps, obs_dim) and the return of what `evaluate` has as episode n."""
    task, space = run.task, run.spec.action
    assert task is not None and isinstance(space, Box)
    [env] = borrow(task, 1)
    bounds: Any = env.action_space
    policy = run.algorithm.policy
    act = jax.jit(functools.partial(policy.act, mode=policy.modes[0]))
    params = jax.tree.map(lambda x: x[0], policy.params(state))
    carry, seen, rewards, over = policy.init(params), [], [0.0], False
    key = jax.random.fold_in(jax.random.key(env_seed(seed, 2**32 - 1)), n)
    obs, _ = env.reset(seed=env_seed(seed, n))
    while not over:
        seen.append((np.asarray(obs, np.float32) - run.normaliser.mean) / run.normaliser.std)
        now = TimeStep(seen[-1], jnp.float32(rewards[-1]), jnp.asarray(len(seen) == 1))
        raw, carry = act(params, carry, now, jax.random.fold_in(key, len(seen) - 1))
        if not np.isfinite(raw).all():
            raise BadInput(f"a policy for '{task.name}' gave an action that is not finite: leave its run out")
        action = space.executed(np.asarray(raw), bounds)
        obs, reward, terminated, truncated, _ = env.step(action)
        rewards.append(float(reward))
        over = terminated or truncated
    give_back(task, [env])
    return np.array(seen), sum(rewards)


# --- Rows ----------------------------------------------------------------------


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """numpy's numbers as Python's."""
    return {name: x.item() if isinstance(x, np.generic) else x for name, x in row.items()}
