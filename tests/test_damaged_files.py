"""Damaged files: each is read as it was, or refused by a declared error that names it.

Bits are flipped, files are cut, bytes are put in, taken out or overwritten, by a fixed seed. Run
with ``-s`` for the counts. JPEG, WebP, and idx files and safetensors without a record have no
checksum: other pixels or weights may come out of them, but no undeclared error.
"""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from eval.datasets import FashionMNIST
from eval.images import open_images
from eval.reference import load_reference, read_stored_moments, save_reference
from models.checkpoint import read_tensors
from models.errors import InputError
from models.weights import recorded_sha256, save_tensors
from stitch.runs.leases import Leases
from stitch.runs.records import ResultStore
from stitch.runs.shards import ShardFolder, open_folder, read_shard
from tests.eval.test_datasets import write
from tests.models.test_checkpoint import in_parts, lightning

FILES = 350  # of each kind


def damaged(data: bytes, choice: random.Random) -> bytes:
    """``data`` with one fault."""
    at, length = choice.randrange(len(data)), choice.choice((1, 4, 50))
    noise = choice.randbytes(length)
    fault = choice.choice(("flip", "flip", "flips", "cut", "insert", "remove", "overwrite"))
    if fault in ("flip", "flips"):
        changed = bytearray(data)
        for _ in range(1 if fault == "flip" else 5):
            changed[choice.randrange(len(data))] ^= 1 << choice.randrange(8)
        return bytes(changed)
    if fault == "cut":
        return data[:at]
    kept = {"insert": at, "remove": at + length, "overwrite": at + length}[fault]
    return data[:at] + (b"" if fault == "remove" else noise) + data[kept:]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def weights():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(3, 4, generator=generator) for name in ("a.weight", "b.bias", "c")}


def everything(path):
    """The images that ``scripts.evaluate`` would measure."""
    images = open_images(path)
    images.require(images.count)
    return np.concatenate([*images.read(0, images.count)])


def npz_of_images(folder):
    np.savez(folder / "x.npz", noise(5, 6, 7, 3))
    return folder / "x.npz", lambda: everything(folder / "x.npz")


def compressed_npz_of_images(folder):
    np.savez_compressed(folder / "x.npz", noise(5, 6, 7, 3) // 64, np.arange(5))
    return folder / "x.npz", lambda: everything(folder / "x.npz")


def npz_of_moments(folder):
    features = np.random.default_rng(0).normal(size=(50, 6))
    np.savez(folder / "x.npz", mu=features.mean(0), sigma=np.cov(features.T))
    path = folder / "x.npz"
    # Without moments it is looked at for images.
    return path, lambda: read_stored_moments(path) or everything(path)


def run_folder(folder):
    run = ShardFolder(folder / "run", {"zoo": "fashion", "seed": 7}, 4)
    run.mark(8)
    for shard in (0, 1):
        run.write(shard, noise(4, 6, 7, 1, seed=shard), np.arange(4))
    return run


def shard(folder):
    path = run_folder(folder).shard_path(1)
    return path, lambda: [*read_shard(path)]


def run_json(folder):
    path = run_folder(folder).path / "run.json"

    def read():
        opened = open_folder(path.parent)
        opened.require(opened.count())
        return opened.run, opened.count(), [image for image, _ in opened.batches(8)]

    return path, read


def record(folder):
    content = {"run": {"seed": 0}, "protocol": {"num_images": 50}, "metrics": {"fid": 9.125}}
    store = ResultStore(folder)
    path = store.add({**content, "provenance": {"commit": "0123456789ab"}})
    return path, lambda: store.get(content["run"], content["protocol"])


def provenance_record(folder):
    save_tensors(weights(), folder / "x.safetensors", {"recipe": "tiny"})
    return folder / "x.json", lambda: recorded_sha256(folder / "x.safetensors")


def picture(suffix, **options):
    def make(folder):
        (folder / "pictures").mkdir()
        path = folder / "pictures" / f"0.{suffix}"
        Image.fromarray(noise(20, 30, 3) // 4).save(path, **options)
        return path, lambda: everything(path.parent)

    make.__name__ = suffix
    return make


def safetensors_with_record(folder):
    path = folder / "x.safetensors"
    save_tensors(weights(), path, {})
    return path, lambda: read_tensors(path)


def safetensors_without_record(folder):
    path = folder / "x.safetensors"
    save_file(weights(), path)
    return path, lambda: read_tensors(path)


def pickle_of_tensors(folder):
    path = folder / "x.pt"
    torch.save({"model": weights(), "ema": {k: v + 1 for k, v in weights().items()}}, path)
    return path, lambda: read_tensors(path)


def pickle_of_foreign_objects(folder):
    path = lightning(torch.nn.Linear(3, 4), folder)
    return path, lambda: read_tensors(path)


def index_of_weights(folder):
    path = in_parts(folder / "parts", weights())
    return path, lambda: read_tensors(path)


def reference(folder):
    path = folder / "x.safetensors"
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 6))).float()
    save_reference(path, {"features": features}, 9, {"extractor_sha256": "x"})
    return path, lambda: load_reference(path).features


def idx(name, zipped):
    def make(folder):
        path = write(folder / "data", zipped) / (name + (".gz" if zipped else ""))

        def read():
            data = FashionMNIST("train", root=str(path.parent))
            return data.images, data.labels

        return path, read

    make.__name__ = f"idx {name}{' zipped' if zipped else ''}"
    return make


def alike(one, other):
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, np.ndarray | torch.Tensor):
        one, other = np.asarray(one), np.asarray(other)
        return one.dtype == other.dtype and np.array_equal(one, other)
    return one == other


CHECKED = [
    npz_of_images, compressed_npz_of_images, npz_of_moments, shard, run_json, record,
    provenance_record, picture("png"), safetensors_with_record, pickle_of_tensors,
    pickle_of_foreign_objects, index_of_weights, reference, idx("train-images-idx3-ubyte", True),
]  # fmt: skip
UNCHECKED = [
    picture("jpg"), picture("webp", lossless=True), picture("gif"), picture("bmp"),
    safetensors_without_record, idx("train-labels-idx1-ubyte", False),
]  # fmt: skip


def outcome(read):
    """What is read, or the declared error."""
    try:
        return read()
    except (InputError, OSError) as error:
        return error


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", CHECKED + UNCHECKED, ids=lambda make: make.__name__)
def test_a_damaged_file_is_read_as_it_was_or_refused_by_name(make, tmp_path):
    path, read = make(tmp_path)
    data, choice = path.read_bytes(), random.Random(make.__name__)
    expected = read()
    # Whether shards or run.json are of another run, nobody can tell: the folder is named.
    name = str(path.parent if make is run_json else path.parent / path.name.split(".")[0])
    counts = dict.fromkeys(("refused", "read as it was", "read otherwise"), 0)
    for _ in range(FILES):
        path.write_bytes(damaged(data, choice))
        found = outcome(read)
        if isinstance(found, Exception):
            assert name in str(found)
            counts["refused"] += 1
        else:
            same = alike(found, expected)
            assert same or make in UNCHECKED
            counts["read as it was" if same else "read otherwise"] += 1
    print(f"{make.__name__}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    assert counts["refused"] > FILES // 10
    path.write_bytes(data)
    assert alike(read(), expected)


def test_damaged_leases_and_timings_stop_nobody(tmp_path):
    run, choice = run_folder(tmp_path), random.Random(0)
    run.log_timing(shard=0, seconds=1.5)
    timings = run.path / "timing.jsonl"
    with Leases(run.path) as owner:
        owner.take(5)
        owner.report(5, 2)
        lease, log = owner.path(5).read_bytes(), timings.read_bytes()
    other = Leases(run.path)
    for _ in range(FILES):
        owner.path(5).write_bytes(damaged(lease, choice))
        timings.write_bytes(damaged(log, choice))
        assert isinstance(other.progress()[5], int)
        other.remove_abandoned(5)
        assert all(isinstance(timing, dict) for timing in run.timings())
    (run.path / "shard-x.lease").write_text("{}")
    assert set(other.progress()) <= {5}
