"""The commands: ``python -m scripts.NAME``."""

import sys

from scripts.cli import answer_question

answer_question(sys.orig_argv)
