"""Every test of sweeps stands in a folder of its own beside `data.hdf5`."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _beside_data(place: Path) -> None:
    pass
