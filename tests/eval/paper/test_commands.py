"""The commands that a report shows make the very runs that it shows them for."""

import json
import shlex

import hydra
import pytest

import models
from eval.paper import commands
from scripts import cli
from stitch.runs import build, devices
from stitch.runs.records import content_hash
from tests import ROOT

VARIED = ("schedule", "alignment", "labels", "seed", "dtype", "quantisation", "cache")


def kinds(folder):
    """A shipped run of every kind of setting: numbers of steps and allocations are alike."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text())["run"]
        sampler = {key: value for key, value in run["sampler"].items() if key != "steps"}
        if isinstance(sampler["spacing"], list):
            sampler["spacing"] = "numbers"
        kind = [sampler, run["guidance"], "preview" in run["weights"], *map(run.get, VARIED)]
        found.setdefault(json.dumps(kind), run)
    return list(found.values())


FASHION = kinds(ROOT / "docs" / "fashion" / "records")
SEARCHED = kinds(ROOT / "docs" / "search" / "fashion" / "records")
# Of a search, whose runs are of many kinds, those with a cache or with timesteps of their own.
UNUSUAL = [r for r in SEARCHED if "cache" in r or isinstance(r["sampler"]["spacing"], list)]


@pytest.fixture(scope="module")
def made():
    """Words of a command -> the run that it makes."""
    with hydra.initialize_config_dir(str(cli.CONFIGS.resolve()), version_base="1.3"):

        def make(words):
            config = cli.compose("sample", words)
            return build.create(config, build.load_zoo(config, devices.start("cpu")))

        yield make


@pytest.mark.parametrize("run", [*FASHION, *UNUSUAL[::8]], ids=content_hash)
def test_the_command_of_a_record_samples_its_run(run, made):
    command = commands.sample(run, models.load_zoo("fashion"))
    python, option, module, *words = shlex.split(command)
    assert (python, option, module) == ("python", "-m", "scripts.sample")
    again = made(words)
    assert again.settings == run and again.id == content_hash(run)
    assert again.num_images == commands.SHOWN


def test_there_are_runs_of_every_kind():
    assert len(FASHION) > 10 and len(UNUSUAL) > 8
