"""Every shipped number is in the file that it names, and every file is of a clean commit."""

import csv
import functools
import json
import re
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

import models
from eval.paper import claims, tables
from eval.paper.tradeoffs import tradeoffs
from models import variants
from stitch.runs.records import content_hash
from tests import ROOT

DOCS = ROOT / "docs"
FOLDER = DOCS / "fashion"
ZOOS = ["fashion", "imagenette64"]
CLAIMS = [DOCS / zoo / "claims.json" for zoo in ZOOS]
FIGURES = [path for zoo in [*ZOOS, "fashion-text"] for path in sorted((DOCS / zoo).glob("*.json"))]
FIGURES = [path for path in FIGURES if path not in CLAIMS]
TABLES = [path for path in FIGURES if path.with_suffix(".md").is_file()]
SETTINGS = {"steps", "guidance", "images"}


@functools.cache
def zoo_of(name):
    return models.load_zoo(name)


def named(path):
    """The name of a test of a figure."""
    return f"{path.parent.name}-{path.stem}"


@pytest.mark.parametrize("claimed", CLAIMS, ids=ZOOS)
def test_the_shipped_claims_are_those_of_their_page(claimed):
    found = json.loads(claimed.read_text())
    assert claimed.with_suffix(".md").read_text() == claims.page(found)
    assert re.fullmatch("[0-9a-f]{12}", found["commit"])
    for claim in found["claims"]:
        assert ("value" in claim) is (claim["holds"] in ("yes", "no"))


def points_of(path):
    return json.loads(path.read_text())["points"]


def of_source(point):
    """What the record says, or for pictures of samples and trajectories the names of files."""
    path = ROOT / point["source"]
    if path.parent.name != "records":
        assert path.parent.name in ("samples", "trajectories")
        return {"run": path.name} if path.parent.name == "samples" else {}
    record = json.loads(path.read_text())
    run = record["run"]
    return {
        **record["metrics"],
        "gmacs_per_image": record["cost"]["macs_per_image"] / 1e9,
        "run": content_hash(run),
        "allocation": run["allocation"],
        "sampler": run["sampler"]["name"],
        "steps": run["sampler"]["steps"],
        "guidance": run["guidance"]["scale"],
        "images": record["protocol"]["num_images"],
        "dtype": run["dtype"],
    }


def of_timing(point, name):
    """What a latency file says of the point's allocation, or its record of its sampling."""
    content = json.loads((ROOT / point[name]).read_text())
    if point[name] == point.get("source"):
        return {key: content["cost"][key] for key in ("ms_per_image", "device")}
    bases = variants.bases(point["allocation"])  # other weights of a network take its time
    (entry,) = (one for one in content["points"] if one["allocation"] == bases)
    compiled = ", compiled" if content["compile"] else ""
    if "source" in point:
        run = json.loads((ROOT / point["source"]).read_text())["run"]
        # Pipelines have sizes, and no quantisation and channels.
        for setting in ("zoo", "sampler", "dtype", "quantisation", "size", "call"):
            assert content.get(setting) == run.get(setting)
        for setting in ("channels", "guide", "steps", "log_snr", "embedding"):
            assert content["guidance"].get(setting) == run["guidance"].get(setting)
    facts = {
        "allocation": entry["allocation"],
        "sampler": content["sampler"]["name"],
        "steps": content["sampler"]["steps"],
        "dtype": content["dtype"],
        "device": content["device"] + compiled,
    }
    return entry | facts


def of_networks(point):
    """What the networks of the point's allocation are."""
    paths = [ROOT / path for path in point["network_sources"]]
    zoo = zoo_of(paths[0].parent.name)
    names = [path.stem for path in paths]
    assert names == [part.split("*")[0] for part in point["allocation"].split("+")]
    parts = json.loads(paths[0].with_suffix(".json").read_text())["parts"]
    return {
        "params": sum(p.numel() for name in names for p in zoo.skeleton(name).parameters()),
        "macs": sum(zoo.macs(name) for name in names),
        "storage": sum(path.stat().st_size for path in paths),
        "iterations": sum(part["images"] // part["recipe.batch_size"] for part in parts),
    }


def said_by_files(point):
    """All that the files say which a point names."""
    found = {}
    if "source" in point:
        found |= of_source(point)
    if "memory_source" in point:
        found["peak_rss_mb"] = of_timing(point, "memory_source")["peak_rss_mb"]
    if "timing_source" in point:
        found |= {k: v for k, v in of_timing(point, "timing_source").items() if k not in found}
    if "network_sources" in point:
        found |= of_networks(point)
    return found


def test_every_figure_and_table_of_the_paper_is_there():
    files = (ROOT / "configs" / "figure").glob("*.yaml")
    figures = {path.stem: yaml.safe_load(path.read_text()) for path in files}
    wanted = {name: one["kind"] for name, one in figures.items() if one["set"] == "paper"}
    assert len(wanted) > 20
    there = [path for path in FIGURES if path.parent == FOLDER]
    assert wanted.keys() <= {path.stem for path in there}
    shown = {path.stem for path in there if path in TABLES}
    assert {name for name, kind in wanted.items() if kind == "table"} <= shown


@pytest.mark.parametrize("path", FIGURES, ids=named)
def test_every_number_of_a_figure_is_in_the_file_that_it_names(path):
    points = points_of(path)
    assert points
    for point in points:
        found = said_by_files(point)
        recorded = "records" in point.get("source", "")
        for name, value in point.items():
            if name in found:
                assert value == found[name], name
            elif isinstance(value, int | float):
                assert not recorded and name in SETTINGS, name  # of a picture, or what is timed


@pytest.mark.parametrize("path", FIGURES, ids=named)
def test_the_csv_beside_a_figure_has_the_same_numbers(path):
    with open(path.with_suffix(".csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    points = points_of(path)
    assert len(rows) == len(points)
    for row, point in zip(rows, points, strict=True):
        expected = {name: point.get(name) for name in row}
        assert row == {k: "" if v is None else str(v) for k, v in expected.items()}


@pytest.mark.parametrize("path", TABLES, ids=named)
def test_a_table_shows_the_numbers_of_its_json(path):
    """Key of a point, and the unit, by the heading of a column."""
    columns = {
        "fid": ("fid", 1), "is": ("is", 1), "precision": ("precision", 1), "recall": ("recall", 1),
        "agreement": ("agreement", 1), "time": ("ms_per_image", 1), "gmacs": ("gmacs_per_image", 1),
        "memory": ("peak_rss_mb", 1), "latency": ("ms_per_8_images", 1e3),
        **{column: (column, unit) for column, unit in tables.OF_NETWORKS.items()},
    }  # fmt: skip
    lines = [line for line in path.with_suffix(".md").read_text().splitlines() if "|" in line]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    points, checked = points_of(path), 0
    assert len(rows) == len(points)
    for column, (key, unit) in columns.items():
        if tables.heading(column) not in head:
            continue
        digits = tables.decimals(column)
        for row, point in zip(rows, points, strict=True):
            value = point[key] if unit == 1 else point[key] / unit
            shown = (
                "-" if value is None else str(value) if digits is None else f"{value:.{digits}f}"
            )
            assert row[head.index(tables.heading(column))] == shown
            checked += 1
    assert checked >= len(rows)


def test_what_is_shipped_is_of_clean_commits():
    unclean = []
    for path in sorted(DOCS.rglob("*.json")):
        content = json.loads(path.read_text())
        facts = content.get("provenance") or content.get("machine") or content
        commits = [facts["commit"], *facts.get("sampled_by", [])]
        if not all(re.fullmatch("[0-9a-f]{7,40}", commit) for commit in commits):
            unclean.append(str(path))
    assert unclean == []


@pytest.mark.parametrize(
    "folder, least", [("fashion", 100), ("search/fashion", 100), ("imagenette64", 30)]
)
def test_points_of_one_setting_of_the_report_differ_in_their_allocations(folder, least):
    zoo = zoo_of(Path(folder).name)
    points = tradeoffs(OmegaConf.create({"runs": f"{DOCS / folder}"}), zoo)["points"]
    keys = [(point["setting"], point["protocol"], point["allocation"]) for point in points]
    assert len(keys) == len(set(keys)) > least
