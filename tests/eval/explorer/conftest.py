"""A studio of the fashion zoo with few records, which the tests of the explorer share."""

import json
import shutil

import pytest

from eval.explorer.desk import Desk
from eval.explorer.studio import Studio
from tests import ROOT, commands

SHIPPED = ROOT / "docs" / "fashion"


@pytest.fixture(scope="session")
def records(tmp_path_factory):
    """A folder with the records of one series of Figure 5, and of another sampler."""
    folder = tmp_path_factory.mktemp("records")
    points = [
        *json.loads((SHIPPED / "fig05.json").read_text())["points"],
        *json.loads((SHIPPED / "fig08.json").read_text())["points"],
    ]
    for point in points[:11] + [point for point in points if point["sampler"] == "dpm_solver"][:5]:
        shutil.copy(ROOT / point["source"], folder)
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def studio_of(runs):
    """Overrides -> the studio that the command makes of them."""

    def made(*words: str) -> Studio:
        words = (*words, f"runs={runs}")
        config = commands.compose("explore", *words)
        return Studio(config, lambda name, words: commands.compose(name, *words), words)

    return made


@pytest.fixture(scope="session")
def studio(studio_of):
    return studio_of("sampler.steps=4")


@pytest.fixture
def desk(studio, records):
    return Desk(studio, [str(records)])
