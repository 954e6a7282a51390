"""Evaluation end to end: of folders and npz files, by any number of processes, and misused."""

import errno
import functools
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from eval import metrics
from eval.evaluator import Evaluator
from eval.export import write_pngs
from eval.extraction import as_batch
from eval.features import create_extractor, extract, find_weights
from eval.images import open_images
from eval.own_images import own_images
from eval.published import selftest
from eval.reference import load_reference, save_reference
from models.errors import InputError
from models.weights import CheckpointError
from stitch.runs.records import ResultStore
from stitch.runs.shards import ShardFolder
from stitch.runs.tracking import log_record
from tests import ROOT
from tests.commands import compose, refusal
from tests.inception import save_random_inception

CPU = torch.device("cpu")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


config = functools.partial(compose, "evaluate")


def pictures(count, size, channels, seed, contrast=60):
    """Smooth random images, (N, H, W, C) uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, channels, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")
    return (128 + contrast * smooth).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def save_pngs(path, images):
    write_pngs(path, [(images, np.zeros(len(images), np.int64))])
    return path


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    save_random_inception(path)
    return path


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    """Two folders of PNG files."""
    folder = tmp_path_factory.mktemp("colour")
    one, other = pictures(12, 40, 3, seed=0), pictures(10, 40, 3, seed=1, contrast=90)
    return save_pngs(folder / "one", one), save_pngs(folder / "other", other)


@pytest.mark.usefixtures("one_thread")
def test_folders_are_measured_as_by_torch_fidelitys_command(inception, colour, tmp_path):
    sample, reference = map(str, colour)
    settings = [
        "eval=imagenet", "eval.distances=float32", f"eval.weights={inception}",
        f"eval.cache={tmp_path / 'cache'}", "eval.batch_size=4",
    ]  # fmt: skip
    processes = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    ours = run(
        *processes, "scripts.evaluate", f"samples={sample}", f"reference={reference}",
        f"runs={tmp_path}", *settings,
    )  # fmt: skip
    assert ours.returncode == 0, ours.stderr
    (path,) = (tmp_path / "records").glob("*.json")
    record = json.loads(path.read_text())
    output = run(
        "torch_fidelity.fidelity", "--feature-extractor", "inception-v3-compat",
        "--input1", sample, "--input2", reference, "--fid", "--isc",
        "--kid", "--prc", "--isc-splits", "1", "--no-samples-shuffle", "--kid-subset-size", "10",
        "--feature-extractor-weights-path", str(inception), "--batch-size", "4", "--cpu", "--json",
        "--no-cache", "--silent",
    )  # fmt: skip
    assert output.returncode == 0, output.stderr[-2000:]
    theirs = json.loads(output.stdout)
    found = record["metrics"]
    assert list(found) == ["fid", "sfid", "is", "precision", "recall", "kid"]
    assert found["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert found["is"] == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    assert found["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)
    assert found["precision"] == pytest.approx(theirs["precision"], abs=1e-6)
    assert found["recall"] == pytest.approx(theirs["recall"], abs=1e-6)
    # One process finds the two processes' features of the reference and gives the same numbers.
    alone = evaluator(tmp_path, reference, *settings)
    assert record["provenance"]["processes"] == 2
    assert alone.protocol(12) == record["protocol"]
    assert alone.measure(open_images(sample), 12) == pytest.approx(found, rel=1e-12)


def test_spatial_features_are_seven_channels_of_mixed_6_last(inception):
    extractor = create_extractor("inception-v3-compat", inception)
    maps = []
    extractor.Mixed_6d.branch1x1.register_forward_hook(lambda *call: maps.append(call[2]))
    gray = torch.from_numpy(pictures(2, 40, 1, seed=0)).permute(0, 3, 1, 2)
    found = extract(extractor, [gray])
    assert {kind: rows.shape[1] for kind, rows in found.items()} == {
        "features": 2048, "logits": 1008, "spatial": 2023,
    }  # fmt: skip
    assert maps[0].shape == (2, 192, 17, 17)
    position = found["spatial"].view(2, 17, 17, 7)
    assert torch.equal(position[1, 3, 11], maps[0][1, :7, 3, 11])
    assert torch.equal(position, maps[0][:, :7].permute(0, 2, 3, 1))
    # The logits have no bias, and gray is three equal channels.
    weight = extractor.fc.weight
    torch.testing.assert_close(found["logits"], found["features"] @ weight.T)
    again = extract(extractor, [gray.repeat(1, 3, 1, 1)], ["features"])
    assert torch.equal(again["features"], found["features"])


def test_weights_are_found_where_given_or_in_the_hubs_cache_or_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    path, cached = tmp_path / "net.pth", tmp_path / "hub" / "checkpoints" / "net.pth"
    with pytest.raises(CheckpointError) as error:
        find_weights(path, "https://host/net.pth")
    for text in (f"eval.weights={path}", str(cached), "download https://host/net.pth"):
        assert text in str(error.value)
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"cached")
    assert find_weights(path) == cached
    path.write_bytes(b"given")
    assert find_weights(path) == path


def test_weights_that_do_not_have_the_hash_in_their_name_are_refused(tmp_path):
    path = tmp_path / "net-6726825d.pth"
    path.write_bytes(b"other")
    with pytest.raises(CheckpointError, match="does not begin with 6726825d"):
        find_weights(path)


class Code:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_weights_with_code_or_of_another_network_are_refused(tmp_path):
    path = tmp_path / "bad.pth"
    torch.save({"conv.weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="not torch-fidelity's Inception: Missing key"):
        create_extractor("inception-v3-compat", path)
    torch.save({"conv.weight": Code(tmp_path / "executed")}, path)
    with pytest.raises(CheckpointError, match="bad.pth is not a state dict"):
        create_extractor("inception-v3-compat", path)
    assert not (tmp_path / "executed").exists()


HUB = """
import torch
class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
    def forward(self, x):
        return self.scale * x.mean((2, 3))
def dinov2_vits14(pretrained=True):
    return Tiny()
"""


def test_dinov2_is_read_by_torch_fidelity_from_a_hub_folder(tmp_path):
    weights = tmp_path / "checkpoints" / "dinov2_vits14_pretrain.pth"
    with pytest.raises(CheckpointError, match="DINOv2's code is missing: put https://github.com"):
        create_extractor("dinov2-vit-s-14", weights)
    with pytest.raises(CheckpointError, match="must be in a folder named checkpoints"):
        create_extractor("dinov2-vit-s-14", tmp_path / "dinov2_vits14_pretrain.pth")
    code = tmp_path / "facebookresearch_dinov2_main" / "hubconf.py"
    code.parent.mkdir()
    code.write_text(HUB)
    before = torch.hub.get_dir()
    extractor = create_extractor("dinov2-vit-s-14", weights)
    assert torch.hub.get_dir() == before
    found = extract(extractor, [torch.full((2, 1, 20, 20), 255, dtype=torch.uint8)])
    expected = [(1 - mean) / std for mean, std in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    torch.testing.assert_close(found["features"], torch.tensor([expected] * 2))


# The fashion zoo's classifier is small: what follows is quick.


@pytest.fixture(scope="module")
def gray(tmp_path_factory):
    """Two npz files of images, and the classifier's features of each."""
    folder = tmp_path_factory.mktemp("gray")
    extractor = create_extractor("fashion-classifier", config().eval.weights)
    paths, found = [], []
    for seed, count in ((0, 40), (1, 50)):
        images = pictures(count, 28, 1, seed)
        paths.append(folder / f"{seed}.npz")
        np.savez(paths[-1], images)
        found.append(extract(extractor, [as_batch(images)]))
    return paths, found


def evaluator(tmp_path, reference, *overrides):
    words = [f"reference={reference}", f"eval.reference={reference}", f"eval.cache={tmp_path}/c"]
    return Evaluator(config(*words, *overrides).eval, CPU)


def test_any_images_are_a_reference_and_their_features_are_kept(gray, tmp_path):
    (sample, reference), (one, other) = gray
    for _ in range(2):
        values = evaluator(tmp_path, reference).measure(open_images(sample), 40)
        assert values["fid"] == metrics.frechet_distance(one["features"], other["features"])
        pair = metrics.precision_recall(one["features"], other["features"])
        assert (values["precision"], values["recall"]) == pair
    (kept,) = (tmp_path / "c").glob("*.safetensors")
    assert torch.equal(load_reference(kept).features, other["features"])


def save_adm(path, images, features, **others):
    """An npz as ADM's references are: moments of other images than those it holds."""
    moments = metrics.moments(features)
    np.savez(path, arr_0=images, mu=moments.mean, sigma=moments.covariance, **others)


def test_an_adm_reference_gives_its_stored_moments_and_the_features_of_its_images(gray, tmp_path):
    (sample, reference), (one, other) = gray
    path = tmp_path / "VIRTUAL.npz"
    save_adm(path, np.load(reference)["arr_0"], 2 * other["features"])
    values = evaluator(tmp_path, path).measure(open_images(sample), 40)
    assert values["fid"] == metrics.frechet_distance(one["features"], 2 * other["features"])
    pair = metrics.precision_recall(one["features"], other["features"])
    assert (values["precision"], values["recall"]) == pair


def test_stored_moments_alone_do_for_fid_and_for_nothing_else(gray, tmp_path):
    (sample, _), (one, other) = gray
    moments = metrics.moments(other["features"])
    path = tmp_path / "moments.npz"
    np.savez(path, mu=moments.mean, sigma=moments.covariance)
    values = evaluator(tmp_path, path, "eval.metrics=[fid,is]").measure(open_images(sample), 40)
    assert values["fid"] == metrics.frechet_distance(one["features"], other["features"])
    assert not (tmp_path / "c").exists()
    with pytest.raises(InputError, match="has moments but no images .*precision, recall need"):
        evaluator(tmp_path, path)


def test_a_record_has_what_is_needed_to_repeat_it_and_is_made_once(gray, tmp_path):
    (sample, reference), _ = gray
    store, images = ResultStore(tmp_path / "records"), open_images(sample)
    made = evaluator(tmp_path, reference).record(images, 30, store)
    assert made["run"] == {"images_sha256": images.sha256(30)}
    assert made["protocol"]["num_images"] == 30
    assert made["protocol"]["reference_sha256"] == open_images(reference).sha256(50)
    assert {"torch", "torch-fidelity", "numpy", "commit", "evaluation_seconds"} <= set(
        made["provenance"]
    )
    assert evaluator(tmp_path, reference).record(images, 30, store) == made
    with pytest.raises(InputError, match="has no kid, and records are immutable"):
        evaluator(tmp_path, reference, "eval.metrics=[fid,kid]").record(images, 30, store)
    half = evaluator(tmp_path, reference, "eval.distances=float16").record(images, 30, store)
    assert half["protocol"]["distances"] == "float16"
    assert len(list(store.all())) == 2


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["eval.metrics=[fid,fod]"], "eval.metrics: fod unknown to .*known: fid, is, precision"),
        (["eval.metrics=[sfid]"], "sfid unknown to the extractor fashion-classifier"),
        (["eval.extractor=inception"], "unknown feature extractor 'inception'; known: fashion"),
        (["eval.distances=float8"], r"eval.distances=float8 must be float32 \| float16"),
        (["eval.rows=0"], "eval.rows=0 must be a whole number, 1 or more"),
        (["eval.weights=nothing.pth"], "eval.weights=nothing.pth does not exist"),
    ],
)
def test_unfit_settings_are_refused_before_anything_is_read(gray, tmp_path, overrides, message):
    with pytest.raises(InputError, match=message):
        evaluator(tmp_path, gray[0][1], *overrides)


def test_more_images_than_there_are_and_too_few_for_the_neighbours_are_refused(gray, tmp_path):
    (sample, reference), _ = gray
    measure = evaluator(tmp_path, reference).measure
    with pytest.raises(InputError, match="num_images=41, but there are 40 images"):
        measure(open_images(sample), 41)
    with pytest.raises(InputError, match="num_images=3 .*too few for precision, recall with"):
        measure(open_images(sample), 3)


def test_references_of_another_extractor_or_dimension_are_refused(gray, tmp_path):
    (sample, reference), (_, other) = gray
    save_reference(tmp_path / "r.safetensors", other, 50, {"extractor_sha256": "another"})
    with pytest.raises(InputError, match="was made with another extractor"):
        evaluator(tmp_path, tmp_path / "r.safetensors")
    save_adm(tmp_path / "r.npz", np.load(reference)["arr_0"], other["features"][:, :100])
    with pytest.raises(InputError, match="has 100 features dimensions, the extractor .* gives 128"):
        evaluator(tmp_path, tmp_path / "r.npz").measure(open_images(sample), 40)
    np.savez(tmp_path / "s.npz", mu=np.zeros(4), sigma=np.zeros((4, 3)))
    with pytest.raises(InputError, match="are no mean .* and covariance"):
        evaluator(tmp_path, tmp_path / "s.npz")
    np.savez(tmp_path / "p.npz", mu=np.array([None]), sigma=np.zeros((4, 4)))
    with pytest.raises(InputError, match="mu of .*p.npz holds pickled objects"):
        evaluator(tmp_path, tmp_path / "p.npz")
    with pytest.raises(InputError, match="reference=.*nothing is not a sample folder"):
        evaluator(tmp_path, tmp_path / "nothing")


def test_images_of_a_size_that_the_extractor_does_not_read_are_refused(gray, tmp_path):
    np.savez(tmp_path / "large.npz", pictures(10, 32, 1, seed=0))
    with pytest.raises(InputError, match="images are 32x32x1, the extractor .* reads 28x28x1"):
        evaluator(tmp_path, gray[0][1]).measure(open_images(tmp_path / "large.npz"), 10)


def test_features_that_are_not_finite_are_named(gray):
    extractor = create_extractor("fashion-classifier", config().eval.weights)
    next(extractor.parameters()).fill_(torch.nan)
    batches = torch.zeros(20, 1, 28, 28, dtype=torch.uint8).split(10)
    with pytest.raises(FloatingPointError, match="features of the 10 images after the first 0"):
        extract(extractor, batches)


def few_pictures(path, count):
    np.savez(path, pictures(count, 28, 1, seed=0))
    return path


@pytest.mark.parametrize(
    "wanted, samples, reference, message",
    [
        ("kid", 1, 9, "num_images=1 of .*too few for kid, which need 2"),
        ("fid", 1, 9, "num_images=1 of .*too few for fid"),
        ("kid", 9, 1, "reference=.*r.npz has 1 images: too few for kid"),
        ("fid", 9, 1, "reference=.*r.npz has 1 images: too few for fid"),
        ("precision", 9, 3, "r.npz has 3 images: too few for precision with eval.neighbours=3"),
    ],
)
def test_what_cannot_be_computed_is_refused(wanted, samples, reference, message, tmp_path):
    there = open_images(few_pictures(tmp_path / "s.npz", samples))
    few_pictures(tmp_path / "r.npz", reference)
    store = ResultStore(tmp_path / "records")

    def measure():
        measuring = evaluator(tmp_path, tmp_path / "r.npz", f"eval.metrics=[{wanted}]")
        measuring.record(there, samples, store)

    with pytest.raises(InputError, match=message):
        measure()
    assert list(store.all()) == []


@pytest.mark.parametrize("wanted", ["fid", "kid", "is"])
def test_a_value_that_is_no_number_is_never_recorded(wanted, gray, tmp_path, monkeypatch):
    name = {"fid": "frechet_distance", "kid": "kernel_distance", "is": "inception_score"}[wanted]
    monkeypatch.setattr(metrics, name, lambda *_: float("nan"))
    (sample, reference), _ = gray
    store = ResultStore(tmp_path / "records")
    measuring = evaluator(tmp_path, reference, f"eval.metrics=[{wanted}]")
    with pytest.raises(InputError, match=f"{wanted} of 40 images .* is nan: it cannot be computed"):
        measuring.record(open_images(sample), 40, store)
    assert list(store.all()) == []


def skewed(sigma):
    sigma[0, 1] += sigma.trace()


def negative(sigma):
    sigma[:, 3] = sigma[3] = 0
    sigma[3, 3] = -1


@pytest.mark.parametrize(
    "harm, message",
    [
        (lambda mu, sigma: mu.fill(np.nan), "mu has 128 values that are NaN or infinite"),
        (lambda mu, sigma: sigma.__setitem__((3, 4), np.inf), "sigma has 1 values that are NaN"),
        (lambda mu, sigma: skewed(sigma), "sigma is no covariance, it is not symmetric"),
        (lambda mu, sigma: negative(sigma), "sigma is no covariance, some .* are negative"),
        (lambda mu, sigma: sigma.__imul__(-1), "sigma is no covariance"),
    ],
)
def test_moments_that_are_none_are_refused(harm, message, gray, tmp_path):
    moments = metrics.moments(gray[1][1]["features"])
    mean, covariance = moments.mean.numpy().copy(), moments.covariance.numpy().copy()
    np.savez(tmp_path / "good.npz", mu=mean, sigma=covariance.astype(np.float32))
    evaluator(tmp_path, tmp_path / "good.npz", "eval.metrics=[fid]")
    harm(mean, covariance)
    np.savez(tmp_path / "bad.npz", mu=mean, sigma=covariance)
    with pytest.raises(InputError, match=f"reference=.*bad.npz: {message}"):
        evaluator(tmp_path, tmp_path / "bad.npz", "eval.metrics=[fid]")


def test_identical_images_are_a_reference(tmp_path):
    np.savez(tmp_path / "same.npz", mu=np.ones(128), sigma=np.zeros((128, 128)))
    evaluator(tmp_path, tmp_path / "same.npz", "eval.metrics=[fid]")


def test_a_reference_that_is_a_web_page_or_truncated_is_named(gray, tmp_path):
    (tmp_path / "page.npz").write_text("<!DOCTYPE html><html>quota exceeded</html>")
    (tmp_path / "cut.npz").write_bytes(gray[0][0].read_bytes()[:-400])
    with pytest.raises(
        InputError, match="page.npz is a web page, not an npz file: .*download it again"
    ):
        evaluator(tmp_path, tmp_path / "page.npz")
    with pytest.raises(InputError, match="cut.npz is not an npz file, or is damaged"):
        evaluator(tmp_path, tmp_path / "cut.npz")


def test_numbers_that_cannot_be_stored_are_said(gray, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (sample, reference), _ = gray
    measuring = evaluator(tmp_path, reference, "eval.metrics=[is]")
    expected = measuring.measure(open_images(sample), 40)["is"]
    monkeypatch.setattr(ResultStore, "add", full)
    with pytest.raises(
        InputError, match=r"No space left on device.*make room.* It is: is \d"
    ) as error:
        measuring.record(open_images(sample), 40, ResultStore(tmp_path / "records"))
    assert f"is {expected:.6g}" in str(error.value)


def test_a_doubtful_subset_is_noted_in_the_record(gray, tmp_path):
    images, reference = pictures(20, 28, 1, seed=0), gray[0][1]
    np.savez(tmp_path / "sorted.npz", images, np.arange(20) // 4)
    measuring = evaluator(tmp_path, reference, "eval.metrics=[is]", "eval.chunk=5")
    store = ResultStore(tmp_path / "records")
    record = measuring.record(open_images(tmp_path / "sorted.npz"), 10, store)
    subset, chunks = record["provenance"]["warnings"]
    assert "the first 10 of 20 images are of 3 of 5 classes" in subset
    assert "chunks of eval.chunk=5 images" in chunks
    whole = measuring.record(open_images(reference), 50, store)
    assert "warnings" not in whole["provenance"]


def test_a_run_that_lacks_images_is_not_measured(gray, tmp_path):
    images = pictures(40, 28, 1, seed=0)
    folder = ShardFolder(tmp_path / "samples", {"seed": 0}, 10)
    folder.mark(40)
    for shard in (0, 2, 3):
        folder.write(shard, images[10 * shard : 10 * shard + 10], np.zeros(10, np.int64))
    measuring = evaluator(tmp_path, gray[0][1], "eval.metrics=[is]")
    store, opened = ResultStore(tmp_path / "records"), open_images(folder.path)
    assert opened.count == 40
    with pytest.raises(InputError, match="lacks a shard with 10 of 40 images: .*000001.npz is not"):
        measuring.record(opened, 40, store)
    assert measuring.record(opened, 10, store)["protocol"]["num_images"] == 10


def test_a_recorded_time_is_of_the_machine_and_the_batches_it_is_recorded_with(gray, tmp_path):
    folder = ShardFolder(tmp_path / "samples", {"seed": 0}, 40)
    folder.mark(40)
    folder.write(0, pictures(40, 28, 1, seed=0), np.zeros(40, np.int64))
    for device, size, seconds in (("slow", 8, 9), ("fast", 8, 2), ("fast", 4, 5), ("fast", 8, 3),
                                  ("slow", 8, 8)):  # fmt: skip
        folder.log_timing(
            device=device, batch_size=size, images=10, seconds=seconds, commit=f"by-{device}"
        )
    measuring = evaluator(tmp_path, gray[0][1], "eval.metrics=[is]")
    record = measuring.record(open_images(folder.path), 40, ResultStore(tmp_path / "records"))
    assert record["cost"] == {
        "ms_per_image": 200, "ms_per_image_slowest": 300, "batch_size": 8, "device": "fast",
    }  # fmt: skip
    assert record["provenance"]["sampled_by"] == ["by-fast", "by-slow"]


# ---- references of one's own pictures ----


def make_reference(tmp_path, *overrides):
    return own_images(
        compose("reference", f"reference={tmp_path}/r.safetensors", *overrides).images
    )


def test_pictures_of_all_sizes_are_brought_to_one_and_the_record_says_how(tmp_path, caplog):
    caplog.set_level("INFO")
    folder = tmp_path / "own"
    folder.mkdir()
    for i, (size, mode) in enumerate([((40, 60), "RGB"), ((31, 29), "L"), ((90, 70), "CMYK")]):
        if i == 2:
            with pytest.raises(InputError, match="0.jpg is 40x60, .*1.jpg is 31x29.*images.resize"):
                make_reference(tmp_path, f"images.path={folder}")
        Image.fromarray(pictures(1, size, 3, i)[0]).convert(mode).save(folder / f"{i}.jpg")
    images, facts = make_reference(tmp_path, f"images.path={folder}", "images.resize=32")
    (found,) = images.read(0, 3)
    assert found.shape == (3, 32, 32, 3)
    assert facts == {"data": str(folder), "resize": 32, "exif": "ignore", "turned_by_exif": 0}
    assert "centre-cropped and resized to 32x32 RGB; 0 have an EXIF orientation" in caplog.text


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["images.resize=0"], "images.resize=0 must be a whole number, 1 or more"),
        (["images.resize=big"], "images.resize=big"),
        (["images.exif=turn"], "images.exif=turn must be ignore | apply"),
        (["images.resize=8", "images.path=x.npz"], "images.resize=8 .* folder of pictures, not x"),
        (["images.exif=apply"], "images.exif=apply turns pictures that images.resize=SIZE reads"),
    ],
)
def test_unfit_ways_of_resizing_are_refused(overrides, message, colour, tmp_path):
    with pytest.raises(InputError, match=message):
        make_reference(tmp_path, f"images.path={colour[0]}", *overrides)


def test_features_kept_of_images_class_by_class_are_of_all_classes(gray, tmp_path):
    features = {"features": torch.arange(20.0)[:, None].expand(20, 128)}
    for spread, expected in ((False, [0, 1, 2, 3]), (True, [0, 5, 10, 15])):
        path = tmp_path / f"{spread}.safetensors"
        save_reference(path, features, 4, {"extractor_sha256": "x"}, spread=spread)
        assert load_reference(path).features[:, 0].tolist() == expected


def published(gray, tmp_path, **expected):
    """A config whose published values are of the npz files."""
    (sample, reference), _ = gray
    found = config(f"reference={reference}", f"eval.cache={tmp_path}/c", f"runs={tmp_path}")
    limits = {"fid": 0.05, "is": 1.0, "precision": 0.01, "recall": 0.01}
    batch = {"path": str(sample), "url": "https://host/0.npz", "expected": expected}
    values = {
        "source": "a table", "limits": limits, "reference_url": "https://host/1.npz",
        "batches": [batch, {**batch, "path": "nothing.npz"}],
    }  # fmt: skip
    evaluation = {"reference": str(reference), "published": values}
    return OmegaConf.merge(OmegaConf.create({"eval": evaluation}), found, {"eval": evaluation})


def test_the_selftest_compares_with_published_values(gray, tmp_path, caplog):
    caplog.set_level("INFO")
    _, (one, other) = gray
    fid = metrics.frechet_distance(one["features"], other["features"])
    recall = metrics.precision_recall(one["features"], other["features"])[1]
    selftest(published(gray, tmp_path, fid=fid + 0.04, recall=recall))
    assert caplog.text.count(" good") == 2
    assert "skipped: download https://host/0.npz and put it at nothing.npz" in caplog.text
    with pytest.raises(SystemExit) as exit:
        selftest(published(gray, tmp_path, fid=fid + 0.06, recall=recall))
    assert exit.value.code == 1
    assert caplog.text.count("OFF") == 1


def test_the_selftest_says_what_to_download_and_where_to_put_it(tmp_path):
    message = refusal("evaluate", "selftest=true", f"runs={tmp_path}")
    for name in (
        "weights-inception-2015-12-05-6726825d.pth",
        "VIRTUAL_imagenet256_labeled.npz",
        "admnet_guided_upsampled_imagenet256.npz",
    ):
        assert f"/{name} and put it at checkpoints/imagenet256/{name}" in message


def test_records_are_logged_to_wandb_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    record = {"run": {"seed": 0}, "protocol": {"num_images": 7}, "metrics": {"fid": 9.5}}
    log_record(record, OmegaConf.create({"project": "t-stitch", "mode": "offline"}))
    (log,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    # wandb's own process may write the last of it later.
    texts, deadline = (b"fid", b"9.5", b"num_images"), time.monotonic() + 60
    while time.monotonic() < deadline and not all(text in log.read_bytes() for text in texts):
        time.sleep(0.1)
    assert [text for text in texts if text not in log.read_bytes()] == []
