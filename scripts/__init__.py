"""The commands: ``python -m scripts.NAME``."""

import sys

from scripts.cli import prepare

prepare(sys.orig_argv)
