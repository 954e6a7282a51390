"""The commands end to end, on the shipped zoo: alone, under torchrun, killed, and misused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import models
import samplers
import stitch
from stitch.runs.shards import folder_digest, open_folder, read_shard
from tests import ROOT
from tests.commands import refusal

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SMALL = [
    "sampler.steps=4", "allocation.denoisers=[DiT-S,DiT-B]", "allocation.small=0.5",
    "num_images=40", "batch_size=5", "shard_size=10",
]  # fmt: skip


def command(name, *overrides, processes=None):
    launcher = [sys.executable, "-m"]
    if processes:
        launcher += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    return [*launcher, f"scripts.{name}", *overrides]


def run(name, *overrides, processes=None):
    return subprocess.run(
        command(name, *overrides, processes=processes),
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip


def succeed(name, *overrides, processes=None):
    result = run(name, *overrides, processes=processes)
    assert result.returncode == 0, result.stderr
    return result


def digest(samples, num_images=40):
    return folder_digest(open_folder(samples), num_images)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Samples of the small run by one process."""
    folder = tmp_path_factory.mktemp("alone") / "samples"
    succeed("sample", *SMALL, f"samples={folder}")
    return folder


def test_exactly_the_images_asked_for_are_there(alone):
    assert open_folder(alone).count() == 40
    images, labels = read_shard(alone / "shard-000003.npz")
    assert images.shape == (10, 28, 28, 1)
    assert images.dtype == np.uint8
    assert set(labels.tolist()) <= set(range(10))


def test_two_processes_make_the_same_images_as_one(alone, tmp_path):
    succeed("sample", *SMALL, f"samples={tmp_path / 'two'}", processes=2)
    assert digest(tmp_path / "two") == digest(alone)


def test_a_run_with_a_killed_rank_is_finished_by_the_same_command_alone(alone, tmp_path):
    samples = tmp_path / "killed"
    process = subprocess.Popen(
        command("sample", *SMALL, f"samples={samples}", processes=2),
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    leases = []
    while not leases and process.poll() is None:  # a lease is made first, and then written
        time.sleep(0.001)
        leases = [text for path in samples.glob("*.lease") if (text := path.read_text())]
    assert leases, "the run ended before a claim was seen"
    killed = json.loads(leases[0])["pid"]
    os.kill(killed, signal.SIGKILL)
    assert process.wait() != 0
    folder = open_folder(samples)
    finished = [folder.shard_path(shard) for shard in range(4) if folder.length(shard) == 10]
    times = [path.stat().st_mtime_ns for path in finished]
    assert len(finished) < 4
    succeed("sample", *SMALL, f"samples={samples}")
    assert digest(samples) == digest(alone)
    assert [path.stat().st_mtime_ns for path in finished] == times
    assert not list(samples.glob("*.lease"))


def test_sampling_again_makes_nothing_and_says_so(alone):
    result = succeed("sample", *SMALL, f"samples={alone}")
    assert "all already existed" in result.stdout


def test_another_batch_size_changes_rounding_only(alone, tmp_path):
    succeed("sample", *SMALL, "batch_size=2", f"samples={tmp_path / 'batch'}")
    paths = sorted(alone.glob("shard-*.npz"))
    assert len(paths) == 4
    for path in paths:
        images, labels = read_shard(path)
        others, other_labels = read_shard(tmp_path / "batch" / path.name)
        assert (labels == other_labels).all()
        assert np.abs(images.astype(int) - others.astype(int)).max() <= 2


@pytest.mark.usefixtures("one_thread")
def test_the_python_surface_gives_the_images_of_the_command(alone):
    zoo = models.load_zoo("fashion")
    sampler = samplers.create("ddim", steps=4, schedule=zoo.schedule)
    allocation = stitch.Allocation.from_fractions({"DiT-S": 0.5, "DiT-B": 0.5}, steps=4)
    images, labels = read_shard(alone / "shard-000000.npz")
    made = stitch.sample(zoo, sampler, allocation, labels=labels[:5], seed=0, guidance_scale=1.5)
    assert (made == images[:5]).all()


def test_a_folder_of_another_run_is_refused_and_left_alone(alone):
    before = {path: path.read_bytes() for path in alone.iterdir()}
    message = refusal("sample", *SMALL, "seed=1", f"samples={alone}")
    assert "seed is 0 there and 1 here" in message
    assert before == {path: path.read_bytes() for path in alone.iterdir()}


def test_evaluation_writes_one_record_of_metrics_protocol_and_cost(alone, tmp_path):
    result = succeed("evaluate", f"samples={alone}", f"runs={tmp_path}")
    (path,) = (tmp_path / "records").glob("*.json")
    assert str(path) in result.stdout
    record = json.loads(path.read_text())
    assert record["metrics"].keys() == {"fid", "is", "precision", "recall"}
    assert record["protocol"]["num_images"] == 40
    assert record["provenance"]["images_sha256"] == digest(alone)
    assert record["cost"]["ms_per_image"] > 0
    content = path.read_bytes()
    succeed("evaluate", f"samples={alone}", f"runs={tmp_path}")
    assert path.read_bytes() == content


def test_two_processes_give_the_record_of_one(alone, tmp_path):
    evaluate = ["evaluate", f"samples={alone}", "eval.batch_size=10"]
    records = []
    for processes in (None, 2):
        succeed(*evaluate, f"runs={tmp_path / str(processes)}", processes=processes)
        (path,) = (tmp_path / str(processes) / "records").glob("*.json")
        records.append(json.loads(path.read_text()))
    one, two = records
    assert two["metrics"] == one["metrics"]
    hashes = [record["provenance"]["image_hashes_sha256"] for record in records]
    assert hashes[0] == hashes[1]
    assert one["provenance"]["images_sha256"] == digest(alone)
    assert "images_sha256" not in two["provenance"]  # neither has seen all of them
    damaged = shutil.copytree(alone, tmp_path / "damaged")
    path = damaged / "shard-000001.npz"
    path.write_bytes(path.read_bytes().replace(b"\x00\x01", b"\x01\x01"))
    words = [*evaluate[:1], f"samples={damaged}", f"runs={tmp_path / 'no'}", evaluate[2]]
    result = run(*words, processes=2)
    assert result.returncode != 0
    assert f"samples={damaged} lacks a shard with 10 of 40 images: {path} is" in result.stderr
    assert not (tmp_path / "no" / "records").exists()


def test_evaluation_of_more_images_than_there_are_is_refused(alone, tmp_path):
    message = refusal("evaluate", f"samples={alone}", f"runs={tmp_path}", "num_images=41")
    assert "num_images=41, but there are 40 images" in message


def test_a_sweep_records_every_point_and_skips_those_it_has(tmp_path):
    points = ["-m", *SMALL, f"runs={tmp_path}", "num_images=10", "allocation.small=0,1"]
    succeed("sweep", *points)
    assert len(list((tmp_path / "records").glob("*.json"))) == 2
    result = succeed("sweep", *points, "guidance.scale=1,1.5")
    assert result.stdout.count("is recorded already") == 2
    assert len(list((tmp_path / "records").glob("*.json"))) == 4


@pytest.mark.parametrize("shard_size", [10, 30])
def test_two_processes_that_store_no_images_give_the_records_of_one_that_does(shard_size, tmp_path):
    points = [
        "-m",
        *SMALL,
        f"shard_size={shard_size}",
        "eval.batch_size=15",
        "allocation.small=0,1",
    ]
    succeed("sweep", *points, f"runs={tmp_path / 'one'}")
    succeed("sweep", *points, f"runs={tmp_path / 'two'}", "store_images=false", processes=2)
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["records"]
    records = sorted((tmp_path / "one" / "records").iterdir())
    assert len(records) == 2
    for path in records:
        one = json.loads(path.read_text())
        two = json.loads((tmp_path / "two" / "records" / path.name).read_text())
        assert two["metrics"] == one["metrics"]
        hashes = [record["provenance"]["image_hashes_sha256"] for record in (one, two)]
        assert hashes[0] == hashes[1]
    if shard_size == 10:  # compared with what one process has stored, by two
        shutil.copytree(tmp_path / "one", tmp_path / "both")
        path = tmp_path / "both" / "records" / records[0].name
        path.write_bytes((tmp_path / "two" / "records" / path.name).read_bytes())
        result = succeed("sweep", *points, f"runs={tmp_path / 'both'}", processes=2)
        assert result.stdout.count("is recorded already") == 2


FIGURES = [
    "figure=[demo,demo_frontier,demo_grid]", "sampler.steps=2", "num_images=10", "batch_size=10",
    "shard_size=10", "figure.demo.series.0.allocations.resolution=2",
    "figure.demo_frontier.series.0.allocations.resolution=2",
    "figure.demo_grid.series.0.allocations.resolution=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A runs folder with three figures of three tiny runs."""
    runs = tmp_path_factory.mktemp("drawn")
    message = refusal("figures", *FIGURES, f"runs={runs}")
    assert "demo lacks 3 records" in message
    assert "run=true" in message
    assert not list(runs.rglob("*.json"))
    succeed("figures", *FIGURES, f"runs={runs}", "run=true")
    return runs


def test_figures_are_drawn_from_records_that_their_json_names(drawn):
    folder = drawn / "figures" / "fashion" / "cpu"
    shutil.rmtree(folder)
    said = succeed("figures", *FIGURES, f"runs={drawn}").stdout
    assert said.count("FID") == 1  # in the head of a table; two figures are of the same runs
    for name in ("demo", "demo_frontier", "demo_grid"):
        assert str(folder / f"{name}.png") in said
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    about = json.loads((folder / "demo.json").read_text())
    rows = (folder / "demo.csv").read_text().splitlines()
    assert len(about["points"]) == len(rows) - 1 == 3
    for point in about["points"]:
        record = json.loads(Path(point["source"]).read_text())
        assert record["metrics"]["fid"] == point["fid"]
        assert record["run"]["allocation"] == point["allocation"]


def test_a_plan_says_what_is_there_and_what_is_missing_and_makes_nothing(drawn):
    before = sorted(drawn.rglob("*"))
    result = succeed("figures", *FIGURES, f"runs={drawn}", "dry_run=true", "num_images=20")
    total = next(line for line in result.stdout.splitlines() if line.startswith("all "))
    points, done, missing, nfe = total.split("every run once")[1].split()[:4]
    assert (points, done, missing) == ("3", "0", "3")
    assert float(nfe) == 3 * 20 * 2 * 2  # runs, images, steps, guidance
    assert sorted(drawn.rglob("*")) == before


def test_records_of_another_number_of_images_are_named_and_not_drawn(drawn):
    message = refusal("figures", *FIGURES, f"runs={drawn}", "num_images=5")
    assert "3 records of the same runs are of 10 images and not of the 5 of this" in message


@pytest.mark.parametrize(
    "name, overrides, message",
    [
        ("sample", ["zoo=mnist"], "Could not find 'zoo/mnist' Available options in 'zoo': fashion"),
        ("sample", ["sampler=euler"], "Available options in 'sampler': ddim ddpm dpm_solver"),
        ("sample", ["sampler.stepz=3"], "'sampler.stepz'. known: name, steps, eta"),
        ("sample", ["allocation.fractions=[0.4,0.4]"], "sum to 0.8"),
        ("sample", ["allocation.fractions=[-0.4,1.4]"], "fraction of DiT-S is -0.4"),
        ("sample", ["allocation.denoisers=[DiT-S,DiT-L]"], "has no DiT-L; known: DiT-S, DiT-B"),
        ("sample", ["labels=[3,10]"], "labels [10] are not classes"),
        ("sample", ["labels=[3,cat]"], "labels ['cat'] are not classes of this zoo; its classes"),
        ("sample", ["labels=[0.5]"], "labels=[0.5] must be random | balanced | classes"),
        ("sample", ["sampler.steps=1001"], "sampler.steps=1001"),
        ("sample", ["num_images=0"], "num_images=0"),
        ("sample", ["guidance.scale=high"], "guidance.scale=high must be a number"),
        ("evaluate", [], "samples is not set"),
        ("evaluate", ["samples=nothing"], "is not a sample folder"),
        ("figures", ["figure=fig99"], "fig05"),
        ("figures", [], "figure is not set"),
        ("figures", ["figure=demo", "protocol=gpu"], "protocol=gpu is unknown; choose one of cpu"),
        ("figures", ["figure=demo", "figure.demo.kind=pie"], "figure.demo.kind=pie is unknown"),
        ("train", ["train=fashion/DiT-Q"], "DiT-S"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(name, overrides, message, tmp_path):
    assert message in refusal(name, *overrides, f"runs={tmp_path}")
    assert not list(tmp_path.iterdir())


def test_a_tampered_checkpoint_is_refused_before_sampling(tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(ROOT / "checkpoints" / "fashion", folder)
    file = folder / "DiT-S.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    message = refusal("sample", *SMALL, f"zoo.checkpoints={folder}", f"samples={tmp_path / 's'}")
    assert "SHA-256" in message
    assert not (tmp_path / "s").exists()


def test_a_checkpoint_of_another_architecture_names_the_first_keys_that_differ(tmp_path):
    message = refusal("sample", *SMALL, "zoo.denoisers.DiT-S.depth=3", f"samples={tmp_path / 's'}")
    assert "blocks.2." in message
    assert not (tmp_path / "s").exists()
