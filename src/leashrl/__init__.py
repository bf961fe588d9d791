"""Policies from logged data, kept on a leash.

    import leashrl

    result = leashrl.train("misa", "pendulum-medium", seeds=3, steps=5000, out="runs/misa")
    print(result.score)                             # mean, IQM, 95 % interval over the seeds
    policy = leashrl.load_policy("runs/misa")
    action = policy(obs)                            # in the environment's units

Every name below is imported when it is first used, so `import leashrl` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leashrl.algos import REGISTRY
    from leashrl.data import Dataset, load
    from leashrl.errors import BadInput, Diverged
    from leashrl.export import export_policy
    from leashrl.ope.fqe import fqe
    from leashrl.ope.off_policy import off_policy
    from leashrl.ope.selection import select
    from leashrl.runs.experiment import resume, train
    from leashrl.runs.finetuning import finetune
    from leashrl.runs.loading import evaluate_run, load_policy
    from leashrl.runs.policies import LoadedPolicy
    from leashrl.runs.results import Result
    from leashrl.tasks import TASKS
    from leashrl.types import Box, Discrete

    __version__: str

_HOME = {
    "REGISTRY": "algos",
    "fqe": "ope.fqe",
    "off_policy": "ope.off_policy",
    "select": "ope.selection",
    "Dataset": "data",
    "load": "data",
    "BadInput": "errors",
    "Diverged": "errors",
    "Result": "runs.results",
    "resume": "runs.experiment",
    "train": "runs.experiment",
    "export_policy": "export",
    "finetune": "runs.finetuning",
    "LoadedPolicy": "runs.policies",
    "evaluate_run": "runs.loading",
    "load_policy": "runs.loading",
    "TASKS": "tasks",
    "Box": "types",
    "Discrete": "types",
}
"""Which module a public name lives in."""

__all__ = [
    "REGISTRY",
    "TASKS",
    "BadInput",
    "Box",
    "Dataset",
    "Discrete",
    "Diverged",
    "LoadedPolicy",
    "Result",
    "__version__",
    "evaluate_run",
    "export_policy",
    "finetune",
    "fqe",
    "load",
    "load_policy",
    "off_policy",
    "resume",
    "select",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"leashrl.{_HOME[name]}"), name)
    elif name == "__version__":
        from importlib.metadata import version

        value = version("leashrl")
    else:
        raise AttributeError(f"module 'leashrl' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
