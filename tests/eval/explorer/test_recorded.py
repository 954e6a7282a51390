"""Records as points: those whose runs the controls make, under one protocol."""

import dataclasses
import json
import shutil

import pytest

from eval.explorer import drawn
from eval.explorer.recorded import recorded
from models.errors import InputError
from stitch.runs.records import ResultStore
from tests import ROOT


@pytest.fixture(scope="module")
def found(studio, records):
    return recorded(studio, [str(records)])


def test_every_point_is_of_the_run_of_its_record(studio, found):
    assert len(found.points) == 16 == found.found and found.images == 2000
    for point in found.points:
        record = json.loads(point.source.read_text())
        made = studio.run(point.setting).settings
        by_the_way = {name: record["run"][name] for name in ("labels", "seed")}
        assert {**made, **by_the_way} == record["run"]
        assert point.fid == record["metrics"]["fid"]
        assert point.gmacs * 1e9 == pytest.approx(record["cost"]["macs_per_image"])


def test_the_frontier_is_what_nothing_beats_in_both(found):
    for index, point in enumerate(found.points):
        beaten = any(other.gmacs <= point.gmacs and other.fid < point.fid for other in found.points)
        assert (index in found.frontier) == (not beaten)


def test_a_setting_is_found_whatever_its_class_seed_and_precision(studio, found):
    point = found.points[3]
    same = dataclasses.replace(point.setting, label="bag", seed=5, precision="fp32")
    assert found.place(studio.run(same).settings) == 3
    other = dataclasses.replace(point.setting, guidance=1.7)
    assert found.place(studio.run(other).settings) is None


def test_other_weights_protocols_and_settings_are_no_points(studio, found, tmp_path):
    store = ResultStore(tmp_path)
    record = json.loads(found.points[0].source.read_text())
    record.pop("sha256", None)
    run, protocol = record["run"], record["protocol"]
    changes = [
        {"run": {**run, "weights": {**run["weights"], "DiT-XL": "0" * 64}}},
        {"run": {**run, "guidance": {**run["guidance"], "log_snr": [-4.0, 2.0]}}},
        {"run": {**run, "allocation": "DiT-XL*10+DiT-S*10"}},
        {"run": {**run, "allocation": "LDM*20"}},
        {"run": {**run, "sampler": {**run["sampler"], "spacing": "karras"}}},
        {"run": {"zoo": "fashion", "images": "elsewhere.npz"}},
        {"run": {**run, "zoo": "imagenette64"}},
        {"metrics": {"is": 5.0}},
    ]
    for change in changes:
        store.add({**record, **change})
    alone = recorded(studio, [str(tmp_path)])
    assert alone.points == [] and alone.found == 6
    # One of few images beside two of many: the two count.
    store.add({**record, "protocol": {**protocol, "num_images": 100}})
    for point in found.points[:2]:
        shutil.copy(point.source, tmp_path / point.source.name)
    both = recorded(studio, [str(tmp_path), str(tmp_path / "not there")])
    assert [point.source.name for point in both.points] == [
        point.source.name for point in found.points[:2]
    ]
    assert both.images == 2000


def test_the_picture_has_a_point_for_every_record_and_says_what_is_not_recorded(studio, found):
    known, pure = studio.run(found.points[5].setting), studio.run(found.points[5].setting.pure)
    svg = drawn.frontier(found, known, pure, "fashion")
    assert svg.count("data-point=") == 16
    assert svg.count('role="button"') == len(found.frontier)
    assert f"{known.allocation}: {found.points[5].gmacs:.3g} GMACs, FID " in svg
    assert "not recorded" not in svg
    unknown = studio.run(dataclasses.replace(found.points[5].setting, guidance=1.7))
    assert f"{unknown.allocation}: " in (svg := drawn.frontier(found, unknown, pure, "fashion"))
    assert "FID not recorded" in svg


def test_a_zoo_without_records_is_told_how_they_are_made(studio_of, tmp_path):
    studio = studio_of("zoo=imagenette64", "sampler.steps=4")
    none = recorded(studio, [str(tmp_path)])
    run = studio.run(studio.first)
    page = drawn.frontier(none, run, run, "imagenette64")
    assert "There are no records of imagenette64 yet" in page
    assert "python -m scripts.sweep -m zoo=imagenette64" in page
    assert "svg" not in page


def test_a_click_on_a_point_keeps_class_and_seed(desk, studio):
    here = dataclasses.replace(studio.first, label="coat", seed=3)
    chosen = desk.point(2, here)
    assert (chosen.label, chosen.seed) == ("coat", 3)
    assert chosen.shares == desk.records.points[2].setting.shares
    for wrong in (-1, 16, 2.0, None, "0", True, {"path": "/etc/passwd"}):
        with pytest.raises(InputError, match="no such point"):
            desk.point(wrong, here)


def test_shipped_records_are_what_the_page_looks_for_by_default(studio_of):
    config = studio_of("sampler.steps=4")._config
    assert [folder for folder in config.records if (ROOT / folder).is_dir()] == [
        "docs/fashion/records", "docs/search/fashion/records",
    ]  # fmt: skip
