"""Fashion-MNIST from idx files."""

import gzip
import re
import struct

import numpy as np
import pytest
import torch

from eval import datasets
from eval.datasets import FashionMNIST
from models.errors import InputError

COUNTS = {"train": 5, "t10k": 3}


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def contents(prefix: str) -> tuple[np.ndarray, np.ndarray]:
    generator, count = np.random.default_rng(COUNTS[prefix]), COUNTS[prefix]
    images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    return images, generator.integers(0, 10, count, dtype=np.uint8)


def write(folder, zipped: bool = False):
    folder.mkdir(parents=True, exist_ok=True)
    for prefix in COUNTS:
        for kind, array in zip(("images-idx3", "labels-idx1"), contents(prefix), strict=True):
            data, name = idx(array), f"{prefix}-{kind}-ubyte"
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("split, prefix", [("train", "train"), ("test", "t10k")])
def test_images_and_labels_are_those_of_the_files(tmp_path, zipped, split, prefix):
    data = FashionMNIST(split, root=str(write(tmp_path, zipped)))
    images, labels = contents(prefix)
    assert data.images.dtype == torch.uint8 and data.labels.dtype == torch.int64
    assert torch.equal(data.images, torch.from_numpy(images)[:, None])
    assert data.labels.tolist() == labels.tolist()


def test_the_hash_is_of_the_content_not_of_the_files(tmp_path):
    plain, zipped = write(tmp_path / "plain"), write(tmp_path / "zipped", zipped=True)
    hashes = {split: FashionMNIST(split, str(plain)).sha256 for split in ("train", "test")}
    assert hashes["train"] != hashes["test"]
    assert FashionMNIST("train", str(zipped)).sha256 == hashes["train"]


def test_a_folder_that_torchvision_filled_is_found(tmp_path):
    write(tmp_path / "FashionMNIST" / "raw")
    assert len(FashionMNIST("train", str(tmp_path)).labels) == 5


def test_without_a_folder_debians_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", write(tmp_path, zipped=True))
    assert len(FashionMNIST("test").labels) == 3


@pytest.mark.parametrize("given_root", [True, False])
def test_missing_data_names_the_places_and_three_ways_to_get_it(tmp_path, monkeypatch, given_root):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", tmp_path)
    with pytest.raises(InputError) as error:
        FashionMNIST("train", str(tmp_path) if given_root else None)
    for part in (str(tmp_path), "apt-get install", "data.root=FOLDER", "data.download=true"):
        assert part in str(error.value)


@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_a_folder_that_lacks_one_of_the_four_files_counts_as_missing(tmp_path, name):
    (write(tmp_path) / name).unlink()
    for split in ("train", "test"):
        with pytest.raises(InputError, match="Three ways to get it"):
            FashionMNIST(split, str(tmp_path))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("keep", [0, 3, 4, 9, 16, 100, -1])
def test_a_truncated_file_is_named(tmp_path, zipped, keep):
    path = write(tmp_path, zipped) / f"train-images-idx3-ubyte{'.gz' * zipped}"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=re.escape(str(path))):
        FashionMNIST("train", str(tmp_path))


def test_truncated_values_in_a_whole_gzip_file_are_found(tmp_path):
    path = write(tmp_path, zipped=True) / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))
    with pytest.raises(InputError, match=r"train-labels-idx1-ubyte.gz is truncated: 4 values"):
        FashionMNIST("train", str(tmp_path))


@pytest.mark.parametrize("magic", [b"\0\0\x0d\3", b"\0\0\x08\1", b"GIF8"])
def test_another_kind_of_file_is_named(tmp_path, magic):
    path = write(tmp_path) / "train-images-idx3-ubyte"
    path.write_bytes(magic + path.read_bytes()[4:])
    with pytest.raises(InputError, match="train-images-idx3-ubyte is not an idx file of 3-dim"):
        FashionMNIST("train", str(tmp_path))


def test_bytes_that_are_not_gzip_are_named(tmp_path):
    path = write(tmp_path, zipped=True) / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.decompress(path.read_bytes()))
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte.gz is truncated or damaged"):
        FashionMNIST("train", str(tmp_path))


@pytest.mark.parametrize(
    "images, labels, message",
    [
        (np.zeros((5, 28, 28), np.uint8), np.zeros(4, np.uint8), "for 4 labels in train-labels"),
        (np.zeros((5, 27, 28), np.uint8), np.zeros(5, np.uint8), r"is \(5, 1, 27, 28\) for 5"),
        (np.zeros((5, 28, 28), np.uint8), np.full(5, 10, np.uint8), "has a label 10; labels are"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_named(images, labels, message, tmp_path):
    write(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(images))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    with pytest.raises(InputError, match=message):
        FashionMNIST("train", root=str(tmp_path))
