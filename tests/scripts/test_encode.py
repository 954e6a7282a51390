"""Latents encoded once: by any number of processes, and as training would encode them itself."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import models
from models.training.objectives import posteriors
from models.weights import save_checkpoint
from stitch.runs.latents import LatentFolder
from stitch.runs.leases import Leases
from stitch.runs.owner import read_owner
from tests import ROOT, commands
from tests.measure.recipe_weights import write_card
from tests.scripts.test_train import data, exported  # noqa: F401  the idx files
from tests.threads import threads

STAGE = "zoo.first_stage.block_out_channels=[8,8,8]"
SIZES = [
    "zoo=fashion", STAGE, "zoo.denoisers.DiT-S.width=16", "zoo.denoisers.DiT-S.depth=2",
    "zoo.denoisers.DiT-XL.width=24", "zoo.denoisers.DiT-XL.depth=3", "zoo.stitched.cuts=[[1,2]]",
    "zoo.stitched.rank=2",
]  # fmt: skip
SHARDS = [f"shard-{shard:06d}.safetensors" for shard in range(4)]


@pytest.fixture(scope="module", autouse=True)
def on_one_thread():
    """As in the processes that are started here."""
    with threads(1):
        yield


def save_stage(folder, seed):
    torch.manual_seed(seed)
    card = commands.compose("encode", STAGE).zoo
    sizes = {key: value for key, value in card.first_stage.items() if key != "file"}
    save_checkpoint(models.create(**sizes), folder / "first-stage.safetensors", {})


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A folder with a first stage."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save_stage(folder, 0)
    return folder


def arguments(data, checkpoints, latents, *more):  # noqa: F811
    return [
        "zoo=fashion", STAGE, f"data.root={data}", f"zoo.checkpoints={checkpoints}",
        f"latents={latents}", "batch_size=8", "shard_size=64", *more,
    ]  # fmt: skip


def encode(*args):
    code, output, errors = commands.run("encode", *arguments(*args))
    assert code == 0, errors
    return output


@pytest.fixture(scope="module")
def encoded(data, checkpoints, tmp_path_factory):  # noqa: F811
    """The latents of 200 images in four shards, the last one short; mirrored ones too."""
    folder = tmp_path_factory.mktemp("latents")
    encode(data, checkpoints, folder, "+zoo.flips=true")
    return folder


def files(folder):
    return {name: (folder / name).read_bytes() for name in SHARDS}


def test_latents_are_those_of_the_first_stage_and_mirrored_ones_too(data, checkpoints, encoded):  # noqa: F811
    from eval.datasets import open_dataset

    card = commands.compose("encode", STAGE).zoo
    sizes = {key: value for key, value in card.first_stage.items() if key != "file"}
    stage = models.create(**sizes).eval()
    models.load_checkpoint(stage, checkpoints / "first-stage.safetensors")
    images = open_dataset("fashion-mnist", "train", root=data)
    owner = read_owner(encoded)
    folder = LatentFolder(encoded, owner["run"], owner["shard_size"])
    found = [folder.read(shard) for shard in range(4)]
    latents = torch.from_numpy(np.concatenate([latents for latents, _ in found])).float()
    assert np.concatenate([labels for _, labels in found]).tolist() == images.labels.tolist()
    for version, pictures in enumerate((images.images, images.images.flip(-1))):
        for part, expected in enumerate(posteriors(stage, pictures)):
            torch.testing.assert_close(latents[:, part, version], expected, rtol=1e-3, atol=1e-4)


def test_what_was_lost_is_encoded_again_and_is_the_same(data, checkpoints, encoded, tmp_path):  # noqa: F811
    folder = tmp_path / "latents"
    shutil.copytree(encoded, folder)
    (folder / SHARDS[0]).unlink()
    damaged = bytearray((folder / SHARDS[2]).read_bytes())
    damaged[-9] ^= 1
    (folder / SHARDS[2]).write_bytes(damaged)
    output = encode(data, checkpoints, folder, "+zoo.flips=true")
    assert "(128 encoded now)" in output
    assert files(folder) == files(encoded)


def test_an_encoding_that_was_killed_goes_on(data, checkpoints, encoded, tmp_path):  # noqa: F811
    folder = tmp_path / "latents"
    words = arguments(data, checkpoints, folder, "+zoo.flips=true")
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.encode", *words],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not (folder / SHARDS[0]).exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / SHARDS[0]).exists()
    encode(data, checkpoints, folder, "+zoo.flips=true")
    assert files(folder) == files(encoded)


def test_two_ranks_encode_what_one_does(data, checkpoints, encoded, tmp_path):  # noqa: F811
    folder = tmp_path / "latents"
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    words = arguments(data, checkpoints, folder, "+zoo.flips=true")
    result = subprocess.run(
        [sys.executable, "-m", *launcher, "scripts.encode", *words],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert files(folder) == files(encoded)


def test_a_shard_that_another_process_has_just_finished_is_left_as_it_is(
    data,  # noqa: F811
    checkpoints,
    encoded,
    tmp_path,
    monkeypatch,
):
    """This one has seen that it is missing, and leases it when it is there."""
    folder, take = tmp_path / "latents", Leases.take

    def taken(leases, shard, free):
        shutil.copy(encoded / SHARDS[1], folder)
        return take(leases, shard, free)

    monkeypatch.setattr(Leases, "take", taken)
    encode(data, checkpoints, folder, "+zoo.flips=true")
    assert files(folder) == files(encoded)


def test_a_folder_of_other_latents_is_refused(data, checkpoints, encoded):  # noqa: F811
    line = commands.refusal("encode", *arguments(data, checkpoints, encoded))
    assert f"latents={encoded} belongs to another run: flips is True there and False here" in line


# ---- training reads them ----


def train(data, checkpoints, runs, recipe, *more):  # noqa: F811
    """The command, with a folder of exports that has the first stage."""
    exported(runs).mkdir(parents=True, exist_ok=True)
    for name in ("first-stage.safetensors", "first-stage.json"):
        shutil.copy(checkpoints / name, exported(runs) / name)
    return commands.run("train", *words_of(runs, recipe, *more))


def words_of(runs, recipe, *more):
    return [
        *SIZES, f"train=fashion/{recipe}", f"runs={runs}", f"export={exported(runs)}",
        "train.images=80", "train.batch_size=16", "train.warmup_steps=1", "precision=fp32", *more,
    ]  # fmt: skip


def weights(runs, name):
    return load_file(exported(runs) / f"{name}.safetensors")


@pytest.fixture(scope="module")
def plain(data, checkpoints, tmp_path_factory):  # noqa: F811
    """Encoded without mirrored images, as the fashion zoo is trained."""
    folder = tmp_path_factory.mktemp("plain")
    encode(data, checkpoints, folder)
    return folder


def test_training_on_latents_is_training_on_their_images(data, checkpoints, plain, tmp_path):  # noqa: F811
    for name, source in (("images", f"data.root={data}"), ("latents", f"data.latents={plain}")):
        code, _, errors = train(data, checkpoints, tmp_path / name, "DiT-S", source)
        assert code == 0, errors
    one, two = (weights(tmp_path / name, "DiT-S") for name in ("images", "latents"))
    assert max((one[key] - two[key]).abs().max() for key in one) < 2e-3  # latents are in float16
    images, latents = (
        json.loads((exported(tmp_path / name) / "DiT-S.json").read_text())
        for name in ("images", "latents")
    )
    same = ("network", "recipe", "data_sha256", "first_stage_sha256", "images_seen")
    assert [images[key] for key in same] == [latents[key] for key in same]
    assert latents["results"].keys() == {"mse"}


def test_stitches_are_trained_from_both_dits(data, checkpoints, plain, tmp_path):  # noqa: F811
    source = f"data.latents={plain}"
    for recipe in ("DiT-S", "DiT-XL", "stitched"):
        code, _, errors = train(data, checkpoints, tmp_path, recipe, source)
        assert code == 0, errors
    found = json.loads((exported(tmp_path) / "stitched.json").read_text())
    assert found["parts_sha256"].keys() == {"DiT-S", "DiT-XL"}
    assert len(found["results"]["mse_of_stitches"]) == 4
    trained, large = weights(tmp_path, "stitched"), weights(tmp_path, "DiT-XL")
    assert len(large) > 20
    moved = [key for key in large if not trained[f"parts.1.{key}"].equal(large[key])]
    assert 0 < len(moved) < len(large)  # position tables are fixed


def test_two_ranks_train_the_stitches_that_one_does(data, checkpoints, plain, tmp_path):  # noqa: F811
    source = f"data.latents={plain}"
    for recipe in ("DiT-S", "DiT-XL"):
        assert train(data, checkpoints, tmp_path, recipe, source)[0] == 0
    runs = [tmp_path / name for name in ("one", "two")]
    for folder in runs:
        shutil.copytree(exported(tmp_path), exported(folder))
    assert train(data, checkpoints, runs[0], "stitched", source)[0] == 0
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    result = subprocess.run(
        [sys.executable, "-m", *launcher, "scripts.train", *words_of(runs[1], "stitched", source)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    one, two = (weights(folder, "stitched") for folder in runs)
    assert all((one[name] - two[name]).abs().max() < 2e-3 for name in one)


def test_latents_of_another_first_stage_are_refused(data, plain, tmp_path):  # noqa: F811
    other = tmp_path / "other"
    other.mkdir()
    save_stage(other, 1)
    code, _, errors = train(data, other, tmp_path, "DiT-S", f"data.latents={plain}")
    assert (code, f"data.latents={plain} was encoded by another first stage" in errors) == (2, True)


def without_a_shard(folder):
    (folder / SHARDS[1]).unlink()


def with_a_damaged_shard(folder):
    content = bytearray((folder / SHARDS[1]).read_bytes())
    content[-9] ^= 1
    (folder / SHARDS[1]).write_bytes(content)


@pytest.mark.parametrize(
    "harm, complaint",
    [
        (without_a_shard, f"{SHARDS[1]} is not there; run scripts.encode again"),
        (with_a_damaged_shard, f"{SHARDS[1]} is damaged: its checksum differs"),
        (shutil.rmtree, "is not a folder of latents"),
    ],
)
def test_unfinished_or_damaged_latents_are_refused(
    data,  # noqa: F811
    checkpoints,
    plain,
    tmp_path,
    harm,
    complaint,
):
    folder = tmp_path / "latents"
    shutil.copytree(plain, folder)
    harm(folder)
    code, _, errors = train(data, checkpoints, tmp_path, "DiT-S", f"data.latents={folder}")
    assert (code, complaint in errors) == (2, True), errors


def test_what_needs_images_is_not_trained_on_latents(data, checkpoints, plain, tmp_path):  # noqa: F811
    code, _, errors = train(data, checkpoints, tmp_path, "classifier", f"data.latents={plain}")
    assert (code, "is for denoisers" in errors) == (2, True)


# ---- ImageNet, from photographs to the paper's recipes, in miniature ----

TINY = [
    "zoo=imagenet256-dit", "zoo.num_classes=3", "zoo.stitched.rank=2",
    "+zoo.first_stage.block_out_channels=[8,8,8,8]", "+zoo.first_stage.norm_num_groups=8",
    *(f"+zoo.denoisers.{name}.{key}={value}"
      for name, width, depth in (("DiT-S", 8, 2), ("DiT-B", 12, 2), ("DiT-XL", 16, 4))
      for key, value in dict(width=width, depth=depth, num_heads=2, num_classes=3).items()),
]  # fmt: skip


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """ImageNet's folders: three classes of four photographs of any size."""
    root = tmp_path_factory.mktemp("imagenet")
    generator = np.random.default_rng(0)
    for wnid in ("n01440764", "n01443537", "n01484850"):
        for number in range(4):
            folder = root / "train" / wnid
            folder.mkdir(parents=True, exist_ok=True)
            size = (256 + 16 * number, 280, 3)
            pixels = generator.integers(0, 256, size, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{wnid}_{number}.JPEG", "JPEG")
    return root


@pytest.fixture(scope="module")
def imagenet(photographs, tmp_path_factory):
    """A folder with weights of the tiny networks, and the overrides that name it."""
    folder = tmp_path_factory.mktemp("imagenet256")
    card = commands.compose("encode", *TINY).zoo
    card.checkpoints = str(folder)
    write_card(card)
    return folder


def imagenet_words(photographs, imagenet, latents):
    return [
        *TINY, f"zoo.checkpoints={imagenet}", f"data.root={photographs}", f"latents={latents}",
        "batch_size=2", "shard_size=4",
    ]  # fmt: skip


def test_the_papers_recipes_train_on_encoded_imagenet(photographs, imagenet, tmp_path):
    latents = tmp_path / "latents"
    code, output, errors = commands.run("encode", *imagenet_words(photographs, imagenet, latents))
    assert code == 0, errors
    assert "latents of 12 images" in output
    shard = load_file(latents / SHARDS[1])
    assert shard["mean"].shape == shard["std"].shape == (4, 2, 4, 32, 32)
    assert shard["labels"].tolist() == [1, 1, 1, 1]
    for recipe in ("DiT-B-interval", "DiT-XL-interval", "stitched"):
        code, _, errors = commands.run(
            "train", *TINY, f"zoo.checkpoints={imagenet}", f"train=imagenet256-dit/{recipe}",
            f"data.latents={latents}", f"runs={tmp_path}", "train.images=8", "train.batch_size=4",
        )  # fmt: skip
        assert code == 0, errors
    for name, interval in (("DiT-B", [200, 500]), ("DiT-XL", [0, 200])):
        file = imagenet / f"{name}@{interval[0]}-{interval[1] - 1}.json"
        assert json.loads(file.read_text())["recipe"]["interval"] == interval
    assert json.loads((imagenet / "stitched.json").read_text())["images_seen"] == 8


def test_a_damaged_photograph_is_named_and_can_be_replaced(photographs, imagenet, tmp_path):
    root = tmp_path / "imagenet"
    shutil.copytree(photographs, root)
    damaged = root / "train" / "n01484850" / "n01484850_2.JPEG"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:5000])
    words = imagenet_words(root, imagenet, tmp_path / "latents")
    code, _, errors = commands.run("encode", *words)
    assert (code, f"{damaged} cannot be read as an image" in errors) == (2, True), errors
    damaged.write_bytes(whole)
    code, output, errors = commands.run("encode", *words)
    assert code == 0, errors
    assert "(4 encoded now)" in output  # the shards before it were kept


def test_data_of_other_classes_are_refused(photographs, imagenet, tmp_path):
    root = tmp_path / "imagenet"
    shutil.copytree(photographs, root)
    shutil.rmtree(root / "train" / "n01484850")
    line = commands.refusal("encode", *imagenet_words(root, imagenet, tmp_path / "latents"))
    assert f"data.root={root} has 2 classes, zoo=imagenet256-dit has 3" in line
