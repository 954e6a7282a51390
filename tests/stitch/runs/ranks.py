"""Ranks for tests: processes that share nothing with the one that runs the tests.

A fork of that one would share the lock of its progress bars, which a killed rank never gives back,
and would keep whatever its threads held at that moment.
"""

import multiprocessing

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["stitch.runs.fill", "pytest", "hypothesis"])  # imported once
