"""docs/extending.md does what it says: all that it adds is added to a copy and run."""

import re
import shutil
import subprocess
import sys

from tests import ROOT

ROOMS = ("configs", "eval", "models", "samplers", "scripts", "stitch")
# Runs commands in one process, which saves the seconds that each takes to start.
RUNNER = """
import runpy, sys
for command in sys.argv[1:]:
    words = command.split()
    module = words[1] == "-m"
    sys.argv = words[2:] if module else words[1:]
    sys.orig_argv = words
    try:
        (runpy.run_module if module else runpy.run_path)(sys.argv[0], run_name="__main__")
    except SystemExit as exit:
        assert not exit.code, command
"""


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of every fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def add(language: str, content: str, folder) -> None:
    """Do with a block what docs/extending.md says is done."""
    if language == "diff":
        subprocess.run(["git", "apply", "-"], cwd=folder, input=content, text=True, check=True)
        return
    head, _, body = content.partition("\n")
    name, _, how = head.removeprefix("# ").partition(" ")
    path = folder / name
    if how == "(appended)":
        path.write_text(path.read_text() + "\n\n" + body)
        return
    assert not path.exists(), name
    path.write_text(body)


def test_everything_that_the_page_adds_works(tmp_path):
    text = (ROOT / "docs" / "extending.md").read_text()
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    found = blocks(text)
    assert {language for language, _ in found} == {"python", "diff", "yaml"}
    for language, content in found:
        add(language, content, tmp_path)
    commands = re.findall(r"^    (python .*)$", text, re.MULTILINE)
    assert len(commands) == text.count("\n## ")
    result = subprocess.run(
        [sys.executable, "-c", RUNNER, *commands], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "ConvNet" in result.stdout
    (table,) = (tmp_path / "runs").rglob("ends.md")
    assert "sandwich" in table.read_text() and "interleave" in table.read_text()
    assert re.search(r"FID distance of means .*\n.* +\d+\.\d{3} +\d+\.\d{4} ", result.stdout)
    rules = subprocess.run(["ruff", "check", *ROOMS], cwd=tmp_path, capture_output=True, text=True)
    assert rules.returncode == 0, rules.stdout
