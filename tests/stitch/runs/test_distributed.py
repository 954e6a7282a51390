"""Ranks: how a process leaves its group."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

LEFT = """
import atexit, pathlib

def left():
    tasks = pathlib.Path("/proc/self/task").glob("*/comm")
    print(sorted(task.read_text().strip() for task in tasks))

atexit.register(left)  # what is registered first runs last

import torch
from stitch.runs import distributed

distributed.join(torch.device("cpu"))
parallel = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1))
parallel.itself = [parallel]  # a reference cycle
del parallel
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="lists threads as Linux does")
def test_no_thread_of_the_group_is_left_when_python_ends():
    """One that is can abort the process after its work is done."""
    rank = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    result = subprocess.run(
        [sys.executable, "-c", LEFT],
        cwd=ROOT, env={**os.environ, **rank}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "python" in result.stdout
    assert "gloo" not in result.stdout
