"""What a command imports before it needs it: seconds that its user waits for."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "torchvision", "diffusers", "torch_fidelity", "scipy", "matplotlib", "wandb"}


def imported(*arguments: str) -> tuple[str, set[str]]:
    """Output of ``python ARGUMENTS``, and every module that was imported."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]
    times = [line for line in result.stderr.splitlines() if line.startswith("import time:")]
    return result.stdout, {line.rsplit("|", 1)[1].strip() for line in times}


@pytest.mark.parametrize("question", ["--help", "--cfg=job"])
def test_a_question_about_the_settings_needs_no_torch(question):
    output, modules = imported("-m", "scripts.sample", question, "sampler.steps=7")
    assert "steps: 7" in output
    assert "scripts.cli" in modules
    assert not HEAVY & modules


def test_help_names_the_command():
    output, _ = imported("-m", "scripts.sample", "--help")
    assert output.startswith("sample is powered by Hydra")


def test_denoisers_are_loaded_without_the_libraries_they_do_not_need():
    _, modules = imported(
        "-c", "import models; zoo = models.load_zoo('fashion'); zoo.denoisers['DiT-S']"
    )
    assert "torch" in modules
    assert not (HEAVY - {"torch"} | {"torch._dynamo"}) & modules
