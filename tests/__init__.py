"""Tests, in folders like the rooms that they are of; ``measure`` holds programs that measure."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
