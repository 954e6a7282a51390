"""Imported by a command that was started as a file: says how to start it, and exits."""

import sys
from pathlib import Path

print(f"error: start it as a module: python -m scripts.{Path(sys.argv[0]).stem}", file=sys.stderr)
sys.exit(2)
