"""What is shown of the fashion zoo can be traced to shipped records."""

import json
from pathlib import Path

import pytest

from eval.results import content_hash

FOLDER = Path(__file__).parent.parent / "docs" / "fashion"
FIGURES = sorted(FOLDER.glob("*.json"))


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_every_number_of_a_figure_is_that_of_a_shipped_record(path):
    points = json.loads(path.read_text())["points"]
    assert points
    for point in points:
        source = Path(point["source"])
        if source.parent.name != "records":
            continue
        record = json.loads((FOLDER / "records" / source.name).read_text())
        assert content_hash(record["run"]) == point["run"]
        assert record["protocol"]["num_images"] == point["images"]
        assert {name: point[name] for name in record["metrics"]} == record["metrics"]
