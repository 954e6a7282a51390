"""What scripts/demo.sh runs, without running it."""

import json
import os
import shutil
import subprocess

import pytest

from tests import ROOT


@pytest.fixture
def demo(tmp_path):
    """The modules that the demo starts, given what is in ``runs/latency``: zoo and allocation."""
    for name in ("scripts", "bin", "runs/latency"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "demo.sh", tmp_path / "scripts")
    (tmp_path / "scripts" / "environment.sh").write_text("set -euo pipefail\n")
    python = tmp_path / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$2"\n')  # python -m MODULE
    python.chmod(0o755)

    def start(*measured):
        for i, (zoo, allocation) in enumerate(measured):
            content = {"zoo": zoo, "points": [{"allocation": allocation}]}
            (tmp_path / f"runs/latency/{i}.json").write_text(json.dumps(content, indent=2) + "\n")
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        result = subprocess.run(
            ["bash", "scripts/demo.sh"], cwd=tmp_path, env={**os.environ, "PATH": path},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert result.stderr == ""
        return result.stdout.split()

    return start


def test_the_demo_measures_time_once(demo):
    figures = ["scripts.figures", "scripts.figures"]
    assert demo() == ["scripts.latency", *figures]
    others = [("imagenette64", "DiT-S*2+DiT-XL*18"), ("fashion", "DiT-S*10+DiT-XL*90")]
    assert demo(*others) == ["scripts.latency", *figures]
    assert demo(*others, ("fashion", "DiT-S*2+DiT-XL*18")) == figures
