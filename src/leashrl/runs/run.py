"""A plan made ready: the algorithm built, the data on the device, or the simulator at its start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from leashrl.algos import home_of
from leashrl.core import Algorithm, Data, hyper, override, to_json
from leashrl.data import Dataset, Normaliser, prepare
from leashrl.disk.checkpoint import to_bytes
from leashrl.disk.folder import Row, member_name, write_policies
from leashrl.errors import BadInput
from leashrl.runs.plan import Plan, describe_space, find_algorithm
from leashrl.tasks import Task
from leashrl.tasks import task as find_task
from leashrl.training import loop
from leashrl.training.simulator import Offline, Simulator, spec_of
from leashrl.types import Episodes, Spec, Transitions

BUFFER = 1_000_000
"""Rows that a fine-tuned run keeps of each member, as SAC does."""


@dataclass(frozen=True)
class Run:
    """A plan made ready: the algorithm built; the data on the device, or the simulator at its start."""

    plan: Plan
    task: Task | None
    spec: Spec
    algorithm: Any
    source: Transitions | Episodes | Simulator
    normaliser: Normaliser
    keys: jax.Array
    hp: dict[str, jax.Array]

    @staticmethod
    def build(plan: Plan, dataset: Dataset | None) -> "Run":
        """`dataset` is None for a run that is online from the start."""
        task = find_task(plan.task) if plan.task else None
        columns = [override(plan.config, {k: v for k, v in m.items() if k != "seed"}) for m in plan.members]
        keys = jax.vmap(jax.random.key)(jnp.asarray([m["seed"] for m in plan.members], jnp.uint32))
        hp = jax.tree.map(lambda *x: jnp.stack(x), *map(hyper, columns))
        entry = find_algorithm(plan.algorithm)
        if dataset is None:
            assert task is not None
            spec = spec_of(task)
            algorithm = entry.build(plan.config, spec)
            pace = {name: getattr(plan.config, name) for name in ("steps", "buffer", "warmup", "every")}
            source = Simulator(task, spec, algorithm.policy, plan.members, keys, **pace)
            normaliser = Normaliser(np.zeros(spec.obs_dim, np.float32), np.ones(spec.obs_dim, np.float32))
        else:
            # Cal-QL's bound: with the discount of the Config, so that members cannot differ in it.
            gamma = plan.config.gamma if getattr(plan.config, "calibrated", False) else None
            if gamma is not None and "gamma" in plan.members[0]:
                raise BadInput("'gamma' cannot vary between members with option 'calibrated'")
            rows, normaliser = prepare(dataset, plan.config.preprocess, entry.view, gamma)
            if not len(rows["reward"]):
                raise BadInput(f"'{dataset.name}' has no whole transition to learn from")
            spec = dataset.spec
            algorithm = entry.build(plan.config, spec)
            kind = Episodes if entry.view == "episodes" else Transitions
            source = kind(**{name: jnp.asarray(x) for name, x in rows.items()})
            if switch := plan.switch:
                assert task is not None and isinstance(source, Transitions)
                before = entry.build(override(plan.config, {"steps": switch.step}), spec)
                algorithm = go_on(before, switch.step, plan.config.steps)
                keys = loop.fold_in(keys, 2**32 - 2)  # no update's key, nor the simulator's
                pace = {"steps": plan.config.steps, "warmup": switch.warmup, "every": switch.every}
                offline = Offline(source, switch.offline_share, normaliser, switch.noise, gamma)
                source = Simulator(
                    task, spec, before.policy, plan.members, keys, buffer=BUFFER, offline=offline,
                    updates=switch.updates_per_step, **pace,
                )  # fmt: skip
        # What cannot be built fails here, before a folder is made.
        jax.eval_shape(jax.vmap(algorithm.init), keys, hp)
        return Run(plan, task, spec, algorithm, source, normaliser, keys, hp)

    @property
    def simulator(self) -> Simulator | None:
        return self.source if isinstance(self.source, Simulator) else None

    @property
    def data(self) -> Data:
        return self.source.data if isinstance(self.source, Simulator) else self.source

    @property
    def remembers(self) -> bool:
        """Whether its policy acts by more than the row that it sees."""
        policy, init = self.algorithm.policy, jax.vmap(self.algorithm.init)
        first = lambda keys, hp: jax.vmap(policy.init)(policy.params(init(keys, hp)))
        return bool(jax.tree.leaves(jax.eval_shape(first, self.keys, self.hp)))

    def named(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row of metrics or of an evaluation with its member's name in front."""
        return {"member": member_name({k: row[k] for k in self.plan.members[0]})} | row

    def evaluate(self, state: Any, members: Sequence[int], episodes: int) -> dict[int, Row]:
        """Of these members, a row each whose actions are finite: returns and normalised scores."""
        from leashrl.evaluate.rollout import evaluate

        if self.task is None or not members:
            return {}
        params = self.algorithm.policy.params(state)
        if len(members) < len(self.plan.members):
            params = jax.tree.map(lambda x: x[np.asarray(members)], params)
        found = evaluate(
            self.algorithm.policy,
            jax.device_put(params, jax.local_devices()[0]),  # from all devices, where there are several
            self.task,
            obs_mean=self.normaliser.mean,
            obs_std=self.normaliser.std,
            action_space=self.spec.action,
            episodes=episodes,
            seed=self.plan.eval_seed,
        )
        return {
            i: dict(self.plan.members[i])
            | {
                "return": float(found.returns[n].mean()),
                "score": None if found.scores is None else float(found.scores[n].mean()),
                "returns": found.returns[n].tolist(),
                "lengths": found.lengths[n].tolist(),
            }
            for n, i in enumerate(members)
            if not found.failed[n]
        }

    def save_policies(self, folder: Path, state: Any, fallen: Mapping[int, tuple[int, str]]) -> None:
        """What is needed to act, of every member."""
        params, names = self.algorithm.policy.params(state), [member_name(m) for m in self.plan.members]
        norm = {"obs_mean": self.normaliser.mean, "obs_std": self.normaliser.std}
        arrays = {
            name: to_bytes({"params": jax.tree.map(lambda x, i=i: x[i], params)} | norm)
            for i, name in enumerate(names)
        }
        about = {
            "algorithm": self.plan.algorithm,
            "config": to_json(self.plan.config),
            "obs_dim": self.spec.obs_dim,
            "action_space": describe_space(self.spec.action),
            "task": self.plan.task,
            "members": names,
            "diverged": [names[i] for i in sorted(fallen)],
        }
        if module := home_of(self.plan.config):
            about["module"] = module
        if "columns" in self.plan.data:
            about["columns"] = self.plan.data["columns"]
        write_policies(folder, about, arrays)


def go_on(algorithm: Algorithm, done: int, steps: int) -> Algorithm:
    """The algorithm's last stage alone, from its update number `done` on, for `steps` more."""
    last = algorithm.stages[-1]
    update = lambda state, batch, key, step: last.update(state, batch, key, step + done)
    return algorithm._replace(stages=(last._replace(steps=steps, update=update),))
