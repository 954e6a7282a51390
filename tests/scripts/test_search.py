"""``python -m scripts.search`` on a small space, and what it refuses."""

import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest

from tests import ROOT, commands

FEW = [
    "space=quick", "tries=3", "generations=1", "images=[20,40]", "batch_size=20", "shard_size=20",
    "repetitions=1", 'space.axes.steps=["sampler.steps=6","sampler.steps=3"]', "precision=auto",
]  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    runs = tmp_path_factory.mktemp("search")
    code, output, errors = commands.run("search", *FEW, f"runs={runs}")
    assert code == 0, errors
    return runs, json.loads((runs / "search" / "fashion" / "frontier.json").read_text()), output


def test_every_try_is_a_record_and_the_last_round_has_times_and_errors(found):
    runs, result, output = found
    records = [json.loads(path.read_text()) for path in (runs / "records").glob("*.json")]
    by_images = {images: [] for images in (20, 40)}
    for record in records:
        by_images[record["protocol"]["num_images"]].append(record)
    assert [one["settings"] for one in result["rounds"]] == [len(by_images[20]), len(by_images[40])]
    assert len(result["points"]) == len(by_images[40]) >= 3
    fids = {record["metrics"]["fid"] for record in by_images[40]}
    for point in result["points"]:
        assert point["fid"] in fids and point["fid_error"] > 0
        assert 0 < point["ms_per_image_fastest"] <= point["ms_per_image"]
    (base,) = [point for point in result["points"] if point["base"]]
    assert base["allocation"] == "DiT-XL*6" and base["above_base"] == base["above_base_error"] == 0
    assert set(base["methods"]) == {"fewer steps", "stitching", "cache", "everything"}
    page = (runs / "search" / "fashion" / "frontier.md").read_text()
    assert "DiT-XL*6" in page
    table, *_ = output.split("FID (lower is better")
    assert "the frontier of" in table and "run" in table
    best = [point for point in result["points"] if point["run"] in table]
    fids = [point["fid"] for point in best]  # by ascending time
    assert len(best) > 1 and fids == sorted(fids, reverse=True)
    assert max(map(len, output.split("FID (lower is better")[1].splitlines()[1:-1])) <= 80
    assert output.splitlines()[-1].endswith("frontier.md")


def test_the_command_of_a_point_finds_its_record_again(found):
    _, result, _ = found
    point = max(result["points"], key=lambda one: len(one["command"]))
    words = shlex.split(point["command"])
    assert words[:3] == ["python", "-m", "scripts.sweep"]
    code, output, errors = commands.run("sweep", *words[3:])
    assert code == 0, errors
    assert "is recorded already" in output and point["run"] in output


def test_the_same_search_again_samples_nothing(found):
    runs, result, _ = found
    before = sorted((runs / "records").iterdir())
    code, _, errors = commands.run("search", *FEW, f"runs={runs}", f"results={runs / 'again'}")
    assert code == 0, errors
    assert sorted((runs / "records").iterdir()) == before
    again = json.loads((runs / "again" / "frontier.json").read_text())
    key = [(point["run"], point["fid"]) for point in result["points"]]
    assert sorted((point["run"], point["fid"]) for point in again["points"]) == sorted(key)


def test_images_that_were_deleted_or_mixed_up_since_are_sampled_again(found, tmp_path):
    runs, result, _ = found
    other = shutil.copytree(runs, tmp_path / "runs")
    base, mixed_up, *_ = (point["run"] for point in result["points"])
    shard = "shard-000000.npz"
    shutil.copy(other / "samples" / base / shard, other / "samples" / mixed_up / shard)
    shutil.rmtree(other / "samples" / base)
    code, _, errors = commands.run("search", *FEW, f"runs={other}", f"results={tmp_path}")
    assert code == 0, errors
    again = json.loads((tmp_path / "frontier.json").read_text())["points"]
    errors_of = {point["run"]: point["fid_error"] for point in result["points"]}
    assert {point["run"]: point["fid_error"] for point in again} == pytest.approx(errors_of)


def test_a_try_that_fails_is_left_out_and_the_search_says_why(found, tmp_path):
    runs, result, _ = found
    other = shutil.copytree(runs, tmp_path / "runs")
    (broken, *_) = (point for point in result["points"] if not point["base"])
    for path in (other / "records").glob("*.json"):
        if json.loads(path.read_text())["metrics"]["fid"] == broken["fid"]:
            path.unlink()
    (other / "samples" / broken["run"] / "run.json").write_text("{}")
    code, output, errors = commands.run("search", *FEW, f"runs={other}", f"results={tmp_path}")
    assert code == 0, errors
    assert f"left out: {broken['allocation']}" in output + errors
    points = json.loads((tmp_path / "frontier.json").read_text())["points"]
    assert broken["run"] not in [point["run"] for point in points] and len(points) > 1


def test_a_budget_below_the_base_leaves_a_frontier_that_a_plan_reads(found):
    runs, result, _ = found
    (base,) = [point for point in result["points"] if point["base"]]
    limit, folder = 0.9 * base["predicted_ms"], runs / "within a budget"
    words = ["images=[20]", f"budget={limit:.6f}ms", f"results={folder}"]
    code, _, errors = commands.run("search", *FEW, *words, f"runs={runs}")
    assert code == 0, errors
    points = json.loads((folder / "frontier.json").read_text())["points"]
    assert len(points) > 3
    for point in points:
        assert (point["predicted_ms"] > limit) == point["base"]
    code, output, errors = commands.run("plan", f"search={folder / 'frontier.json'}", "budget=9s")
    assert code == 0, errors
    assert "python -m scripts.sweep" in output


# A rank of a search; times of its own would be others than those of the main one.
RANK = """
from eval.speed import latency
from scripts import search
from stitch.runs import distributed

measure = latency.measure_costs

def measured(*arguments):
    assert distributed.is_main()
    return measure(*arguments)

latency.measure_costs = measured
search.main()
"""


def test_two_processes_search_by_the_same_times_and_write_the_frontier(tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    result = subprocess.run(
        [sys.executable, "-m", *launcher, tmp_path / "rank.py", *FEW, f"runs={tmp_path}",
         "tries=1", "generations=0", "images=[4,8]", "batch_size=4", "shard_size=4"],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "search" / "fashion"
    assert {".json", ".csv", ".md", ".png"} <= {path.suffix for path in folder.iterdir()}
    points = json.loads((folder / "frontier.json").read_text())["points"]
    records = [json.loads(path.read_text()) for path in (tmp_path / "records").glob("*.json")]
    last = [one for one in records if one["protocol"]["num_images"] == 8]
    assert len(points) == len(last) >= 2
    assert {one["provenance"]["processes"] for one in records} == {2}


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["space=quick", "sampler.steps=3"], "sampler.steps=3: the space varies it"),
        (["space=quick", "allocation.small=0.3"], "allocation.small=0.3: the space varies it"),
        (["space=none"], "Available options in 'space': default fitted quick"),
        (["space=quick", "budget=0ms"], "budget=0ms must be a time above 0"),
        (["space=quick", "space.axes.steps=[]"], "space.axes.steps"),
        (["space=quick", 'space.axes.steps=["sampler.stepz=3"]'], "sampler.stepz"),
        (
            ["space=fitted", "zoo=fashion", "zoo.name=other"],
            "sampler.spacing=docs/timesteps/other-ddim-5.json is not a file here",
        ),
        (["space=quick", "images=[]"], "images=[]"),
        (["space=quick", "kept=2"], "kept=2"),
        (["eval=dinov2"], "eval.metrics=[fd_dinov2,precision,recall,kid] lacks fid, which"),
        (["space=quick", "batch_size=auto"], "batch_size=auto must be a whole number, 1 or more"),
    ],
)
def test_unfit_searches_are_refused(overrides, message, tmp_path):
    assert message in commands.refusal("search", *overrides, f"runs={tmp_path}")


def test_a_budget_below_the_fastest_setting_is_refused_naming_it(found):
    runs, *_ = found
    line = commands.refusal("search", *FEW, f"runs={runs}", "budget=0.01ms")
    assert "budget=0.01ms is below the fastest setting, which takes" in line


def test_a_plan_lists_what_was_found_within_a_budget(found):
    runs, result, _ = found
    file = runs / "search" / "fashion" / "frontier.json"
    _, second, third, *_ = sorted(point["ms_per_image"] for point in result["points"])
    limit = (second + third) / 2  # a measured time itself may be lost in the units' rounding
    code, output, errors = commands.run("plan", f"search={file}", f"budget={limit}ms", "top=9")
    assert code == 0, errors
    head, *lines = output.splitlines()
    assert "fashion" in head and len(lines) == 2
    fids = [point["fid"] for point in result["points"] if point["ms_per_image"] <= limit]
    assert f"FID {min(fids):.3f}" in lines[0] and "python -m scripts.sweep" in lines[0]
    line = commands.refusal("plan", f"search={file}", "budget=0.001ms")
    assert "below the fastest setting of search=" in line
    line = commands.refusal("plan", "search=docs/fashion/fig05.json", "budget=1s")
    assert "is no result of scripts.search" in line
