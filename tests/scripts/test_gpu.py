"""scripts/gpu.sh with an interpreter that only notes what it is asked for, and what it asks for."""

import collections
import os
import re
import shlex
import subprocess

import pytest

from eval.overrides import expand
from tests import ROOT
from tests.commands import compose
from tests.measure.end_to_end import merged

STEPS = [
    "machine", "tests", "one", "again", "killed", "cpu", "batches", "network", "walk-8", "walk-64",
    "peers", "metrics", "whole",
]  # fmt: skip
PYTHON = """#!/usr/bin/env bash
printf '%s\\x1f' "$@" >> "$CALLS"
echo >> "$CALLS"
case " $* " in
    *torch.cuda.device_count*) echo "$GPUS"; exit ;;
    *" $BROKEN "*) echo "it | broke"; exit 3 ;;
    *" $ENDLESS "*) echo "begun"; sleep 20 ;;
esac
for word in "$@"; do
    case "$word" in results=*) mkdir -p "${word#*=}"; echo "a page" > "${word#*=}/page.md" ;; esac
done
echo fine
"""
# Stops what takes longer than a moment, whatever the limit.
TIMEOUT = """#!/usr/bin/env bash
shift 2
exec "$(PATH=$BEFORE command -v timeout)" 0.3 "$@"
"""


@pytest.fixture
def check(tmp_path):
    """Run gpu.sh; gives exit code, table, errors, and the arguments of every call of python."""
    (tmp_path / "bin").mkdir()
    for name, text in (("fake-python", PYTHON), ("timeout", TIMEOUT)):
        path = tmp_path / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
    calls = tmp_path / "calls"

    def run(*arguments, broken="-", endless="-", gpus=2):
        path = os.environ["PATH"]
        if endless != "-":
            path = f"{tmp_path / 'bin'}:{path}"
        environment = {
            **os.environ, "PYTHON": str(tmp_path / "bin" / "fake-python"), "CALLS": str(calls),
            "BROKEN": broken, "ENDLESS": endless, "GPUS": str(gpus), "PATH": path,
            "BEFORE": os.environ["PATH"],
        }  # fmt: skip
        environment.pop("CUDA_VISIBLE_DEVICES", None)
        result = subprocess.run(
            ["bash", ROOT / "scripts" / "gpu.sh", *arguments],
            cwd=tmp_path, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        table = tmp_path / "out" / "table.md"
        asked = [line.split("\x1f")[:-1] for line in calls.read_text().splitlines() if line]
        return (
            result.returncode,
            table.read_text() if table.exists() else "",
            result.stderr,
            asked,
        )

    return run


def results(table: str) -> dict[str, str]:
    """Step -> result."""
    rows = re.findall(r"^\| ([\w-]+): [^|]+ \| ([^|]*) \| \d+ \|$", table, re.MULTILINE)
    return dict(rows)


def test_every_step_is_in_the_table_with_the_last_line_that_it_printed(check):
    code, table, _, _ = check("out")
    found = results(table)
    assert list(found) == STEPS
    assert set(found.values()) - {found["machine"]} == {"fine"}
    assert table.count("a page") == 5
    assert code == 0


def test_a_step_that_fails_is_in_the_table_and_stops_no_other(check):
    code, table, _, _ = check("out", broken="tests.measure.difference")
    found = results(table)
    assert list(found) == STEPS
    failed = [name for name, result in found.items() if "FAILED" in result]
    assert failed == ["again", "cpu", "batches"]
    assert found["again"] == "FAILED with exit code 3: it / broke"
    assert code == 1


def test_a_step_without_end_is_stopped_at_its_limit(check):
    code, table, _, _ = check("out", "one", "metrics", endless="scripts.sample")
    assert results(table) == {"one": "FAILED: not done after 60 s; begun", "metrics": "fine"}
    assert code == 1


def test_without_a_gpu_nothing_is_started_but_a_rehearsal(check):
    code, table, errors, asked = check("out", gpus=0)
    assert code == 2
    assert errors == "error: torch sees no GPU here; device=cpu rehearses without one\n"
    assert len(asked) == 1 and not table
    code, table, _, _ = check("device=cpu", "out", gpus=0)
    assert code == 0
    assert list(results(table)) == STEPS


def test_a_step_that_there_is_not_is_refused(check):
    code, _, errors, _ = check("out", "machine", "netwrok")
    assert code == 2
    assert errors.endswith("error: there is no step netwrok\n")


def settings_of(words: list[str]) -> tuple[str, list[str]] | None:
    """Command and settings of a call of python, if it is one of ours."""
    if words[:1] != ["-m"] or words[1].startswith(("pip", "pytest", "tests.measure.difference")):
        return None
    name, *settings = words[1:]
    if name == "tests.measure.launch":
        return "sample", settings[3:]
    if name == "tests.measure.end_to_end":
        return "sweep", merged(*settings[1:])
    if name == "scripts.bench":
        return "bench", [f"bench={settings[0]}", *settings[1:]]
    return name.removeprefix("scripts."), [word for word in settings if word != "-m"]


@pytest.mark.parametrize("device", [[], ["device=cpu"]], ids=["gpu", "cpu"])
def test_what_it_starts_has_settings_that_there_are(check, device):
    _, _, _, asked = check(*device, "out")
    commands = [found for words in asked if (found := settings_of(words))]
    assert collections.Counter(name for name, _ in commands) == {
        "sample": 6,
        "bench": 5,
        "sweep": 1,
    }
    folders = "samples=", "results="
    for name, *settings in {
        (name, *(word for word in words if not word.startswith(folders)))
        for name, words in commands
    }:
        config = compose(name, *settings)
        assert config.shard_size % config.batch_size == 0 or name == "bench"
    (tests,) = [words for words in asked if "pytest" in words]
    files = [word for word in tests if word.endswith(".py")]
    assert files and all((ROOT / file).is_file() for file in files)


def test_the_commands_of_the_page_that_it_fills_have_settings_that_there_are():
    text = (ROOT / "docs" / "bench" / "h100.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"python -m (\S+) ([^`\n]*)", text)
    found = [settings_of(["-m", name, *shlex.split(words)]) for name, words in commands]
    assert len(found) >= 8
    for name, settings in filter(None, found):
        for point in list(expand(settings))[:1]:
            assert compose(name, *point)
