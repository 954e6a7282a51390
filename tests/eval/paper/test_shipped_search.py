"""Shipped results of searches: every quality is in a record, every page is of its numbers."""

import json

import pytest

from eval.paper import frontier
from stitch.runs.records import ResultStore, content_hash
from tests import ROOT

FOUND = sorted((ROOT / "docs" / "search").glob("*/frontier.json"))


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.parent.name)
def test_every_setting_of_a_shipped_search_has_its_record(path):
    found = json.loads(path.read_text())
    records = {
        content_hash(record["run"]): record for record in ResultStore(path.parent / "records").all()
    }
    assert len(found["points"]) == len(records) > 10
    for point in found["points"]:
        record = records[point["run"]]
        assert record["metrics"]["fid"] == point["fid"]
        assert record["run"]["allocation"] == point["allocation"]
        assert record["protocol"]["num_images"] == found["images"]
        assert record["cost"]["macs_per_image"] == point["macs_per_image"]


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.parent.name)
def test_the_page_of_a_shipped_search_is_of_its_numbers(path):
    assert path.with_suffix(".md").read_text() == frontier.page(json.loads(path.read_text()))
