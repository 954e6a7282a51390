"""What a command imports before it needs it: seconds that its user waits for."""

import os
import signal
import subprocess
import sys

import pytest

from scripts import zoo
from tests import ROOT
from tests.commands import run

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


def test_the_table_of_zoos_is_answered_without_torch_until_something_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "CACHE", tmp_path)
    code, first, errors = run("zoo", "name=fashion")
    assert code == 0, errors
    start = "import sys; sys.argv = ['zoo', 'name=fashion']; from pathlib import Path; "
    start += f"from scripts import zoo; zoo.CACHE = Path({str(tmp_path)!r}); zoo.main()"
    again, modules = imported("-c", start)
    assert again == first
    assert not HEAVY & modules
    (kept,) = tmp_path.iterdir()
    kept.write_text(kept.read_text().replace("DiT-B", "of another time"))
    monkeypatch.setattr(zoo, "version", lambda library: "another")
    assert run("zoo", "name=fashion") == (0, first, "")
    kept.write_text("[]")
    assert run("zoo", "name=fashion") == (0, first, "")


def test_a_file_that_changes_is_looked_at_again(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "ROOT", tmp_path)
    before = zoo.state("fashion")
    assert zoo.state("fashion") == before != zoo.state("imagenette64")
    weights = tmp_path / "checkpoints" / "fashion" / "DiT-S.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"some")
    there = zoo.state("fashion")
    assert there != before
    os.utime(weights, ns=(0, 0))
    assert zoo.state("fashion") not in (before, there)


def started(*arguments, **environment):
    """Exit code and standard error of ``python ARGUMENTS``."""
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True,
    )  # fmt: skip
    return result.returncode, result.stderr


def test_the_backend_that_a_notebooks_processes_inherit_does_not_matter():
    backend = "module://not_installed.backend_inline"
    assert started("-c", "import eval.paper.plots", MPLBACKEND=backend) == (0, "")


def test_commands_that_are_started_as_files_say_how_they_are_started():
    files = sorted((ROOT / "scripts").glob("*.py"))
    commands = [f.stem for f in files if (ROOT / "configs" / f"{f.stem}.yaml").exists()]
    assert len(commands) > 15
    for name in commands:
        message = f"error: start it as a module: python -m scripts.{name}\n"
        assert started(f"scripts/{name}.py") == (2, message)


def test_a_bug_keeps_its_traceback_and_a_mistake_is_one_line():
    start = "import sys; sys.argv = ['zoo']; from scripts import zoo; zoo.names = {}; zoo.main()"
    code, errors = started("-c", start.replace("{}", "lambda: list(zip('a', '', strict=True))"))
    assert code == 1
    assert "Traceback" in errors and "zip() argument 2 is shorter" in errors
    code, errors = started("-m", "scripts.zoo", "name=cifar")
    assert code == 2
    assert errors.startswith("error: unknown zoo 'cifar'") and len(errors.splitlines()) == 1


def test_ctrl_c_ends_a_command_with_one_line():
    start = "import sys; sys.orig_argv = ['python', '-m', 'scripts.evaluate']; import scripts; "
    code, errors = started("-c", start + "raise KeyboardInterrupt")
    assert code == -signal.SIGINT
    assert errors == "\ninterrupted; finished work is kept, run it again to resume\n"
    code, errors = started("-c", start + "raise ValueError")
    assert code == 1 and errors.startswith("Traceback")
