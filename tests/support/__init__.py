"""What test files of several rooms share: plain functions. What has to be made lies in `conftest.py`."""

import importlib.util
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
"""The repository."""


def script(path: str) -> Any:
    """A module of the repository that lies in no package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
