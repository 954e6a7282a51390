"""Imagenette from folders and zips, pictures of any kind, and what is said about bad ones."""

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from eval.datasets import open_dataset
from eval.imagenette import CLASSES, Imagenette
from models.errors import InputError


def picture(seed: int, size=(80, 70), mode="RGB", kind="PNG", **options) -> bytes:
    """A file of smooth colours, so that lossy formats keep them."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    image = Image.fromarray(colours).resize(size, Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.convert(mode).save(file, kind, **options)
    return file.getvalue()


def contents() -> dict[str, bytes]:
    """Two training pictures and one test picture of every class, by name."""
    return {
        f"{split}/{wnid}/{wnid}_{number}.png": picture(number, size)
        for split, numbers in (("train", (1, 2)), ("val", (3,)))
        for wnid in CLASSES
        for number, size in ((number, (60 + 10 * number, 70)) for number in numbers)
    }


def write(folder, files: dict[str, bytes]):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def pack(path, files: dict[str, bytes]):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_pictures_are_squares_in_the_order_of_classes_and_names(tmp_path):
    data = Imagenette("train", str(write(tmp_path, contents())))
    assert data.images.shape == (20, 3, 64, 64) and data.images.dtype == torch.uint8
    assert data.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert data.count == 20
    with Image.open(tmp_path / "train/n01440764/n01440764_2.png") as image:
        expected = image.crop((5, 0, 75, 70)).resize((64, 64), Image.Resampling.LANCZOS)
    assert (data.images[1].permute(1, 2, 0).numpy() == np.asarray(expected)).all()
    (block,) = data.read(1, 3)
    assert (block[0] == np.asarray(expected)).all()


def test_a_zip_a_folder_within_and_the_folder_itself_are_the_same_data(tmp_path):
    files = contents()
    inside = {f"imagenette64/{name}": data for name, data in files.items()}
    places = [
        write(tmp_path / "plain", files),
        write(tmp_path / "within", inside),
        pack(tmp_path / "data.zip", inside),
        pack(tmp_path / "flat.zip", files),
    ]
    hashes = {Imagenette("test", str(place)).sha256 for place in places}
    assert len(hashes) == 1
    assert hashes != {Imagenette("train", str(places[0])).sha256}


@pytest.mark.parametrize(
    "mode, kind, options",
    [
        ("L", "PNG", {}),
        ("P", "GIF", {}),
        ("RGBA", "PNG", {}),
        ("LA", "PNG", {}),
        ("CMYK", "JPEG", {"quality": 95}),
        ("RGB", "WEBP", {"quality": 95}),
        ("RGB", "BMP", {}),
        ("1", "PNG", {}),
        ("I", "TIFF", {}),
    ],
)
def test_pictures_of_every_mode_and_format_are_read(tmp_path, mode, kind, options):
    files = contents()
    name = next(iter(files))
    files[name] = picture(7, mode=mode, kind=kind, **options)
    data = Imagenette("train", str(write(tmp_path, files)))
    with Image.open(io.BytesIO(files[name])) as image:
        expected = image.convert("RGB").resize((64, 64), Image.Resampling.LANCZOS, (5, 0, 75, 70))
    assert (data.images[0].permute(1, 2, 0).numpy() == np.asarray(expected)).all()


def test_hidden_and_foreign_files_are_no_photographs(tmp_path):
    files = contents()
    extra = {
        "train/n01440764/.DS_Store": b"x",
        "train/n99999999/a.png": b"x",
        "noisy.csv": b"x",
        "__MACOSX/train/n01440764/._a.png": b"x",
    }
    data = Imagenette("train", str(pack(tmp_path / "data.zip", files | extra)))
    assert data.count == 20


@pytest.mark.parametrize("split, folder", [("train", "train"), ("test", "val")])
def test_missing_classes_are_named(tmp_path, split, folder):
    files = {n: d for n, d in contents().items() if not n.startswith(f"{folder}/n03028079/")}
    with pytest.raises(InputError, match=rf"1 of the 10 classes in {folder}/: n03028079 \(church"):
        Imagenette(split, str(write(tmp_path, files)))


@pytest.mark.parametrize(
    "damaged, message",
    [
        (b"no picture", "cannot be read as an image"),
        (b"", "cannot be read as an image"),
        (picture(1)[:-300], "cannot be read as an image"),
        (picture(1, (63, 100)), "is 63x100, smaller than the 64x64"),
    ],
)
def test_a_picture_that_is_unreadable_or_tiny_is_named(tmp_path, damaged, message):
    files = contents()
    name = list(files)[5]
    with pytest.raises(InputError, match=rf"{name}.*{message}"):
        Imagenette("train", str(write(tmp_path, files | {name: damaged})))


def test_data_that_is_nowhere_names_the_ways_to_get_it(tmp_path):
    with pytest.raises(InputError, match=r"data.root=FOLDER.*data.download=true"):
        Imagenette("train", str(tmp_path / "nothing"))


def test_a_data_set_is_opened_by_its_name(tmp_path):
    folder = str(write(tmp_path, contents()))
    assert open_dataset("imagenette", "test", root=folder).count == 10
    with pytest.raises(InputError, match="'mnist' is unknown; known: fashion-mnist, imagenette"):
        open_dataset("mnist", "test")


def test_splits_that_look_swapped_are_warned_of(tmp_path, caplog):
    files = contents()
    Imagenette("train", str(write(tmp_path / "right", files)))
    assert not caplog.records
    names = {"train": "val", "val": "train"}
    swapped = {
        "/".join([names[split], *rest]): data
        for name, data in files.items()
        for split, *rest in [name.split("/")]
    }
    Imagenette("train", str(write(tmp_path / "wrong", swapped)))
    assert "10 photographs in train/ and 20 in val/; are they swapped" in caplog.text
