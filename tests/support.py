"""What several test files share and no fixture needs to make."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The repository."""
