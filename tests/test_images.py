"""Images from sample folders, PNG folders and npz files, and back: export."""

import json
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eval.export import write_npz, write_pngs
from eval.images import ImageError, blocks, open_images, share
from eval.shards import ShardFolder, folder_digest


def pictures(count=23, height=6, width=5, channels=3, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def shard_folder(path, images, size=10):
    folder = ShardFolder(path, {"seed": 0}, size)
    folder.claim(len(images))
    labels = np.arange(len(images))
    for shard in range(-(-len(images) // size)):
        part = slice(shard * size, (shard + 1) * size)
        folder.write(shard, images[part], labels[part])
    return folder


def stored(kind, path, images):
    """The images as one kind of source."""
    if kind == "shards":
        return shard_folder(path / "shards", images).path
    if kind == "npz":
        np.savez(path / "images.npz", images)
        return path / "images.npz"
    if kind == "compressed npz":
        np.savez_compressed(path / "images.npz", arr_1=np.arange(3), arr_0=images)
        return path / "images.npz"
    write_pngs(path / "png", [(images, np.arange(len(images)))])
    return path / "png"


KINDS = ["shards", "npz", "compressed npz", "png"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_any_range_in_blocks(kind, channels, tmp_path):
    images = pictures(channels=channels)
    source = open_images(stored(kind, tmp_path, images))
    assert source.count == 23
    for start, stop, size in ((0, 23, 4), (7, 21, 10), (20, 23, 50), (0, 1, 1), (5, 5, 3)):
        found = list(blocks(source, start, stop, size))
        assert all(len(block) == size for block in found[:-1])
        assert np.array_equal(np.concatenate([images[:0], *found]), images[start:stop])


@pytest.mark.parametrize("kind", KINDS)
def test_the_hash_tells_images_apart(kind, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = open_images(stored(kind, tmp_path / "a", pictures()))
    other = open_images(stored(kind, tmp_path / "b", pictures(seed=1)))
    assert one.sha256(23) == one.sha256(23) != other.sha256(23)


def test_a_folder_is_read_in_the_order_of_paths_with_its_subfolders(tmp_path):
    images = pictures(4)
    for name, image in zip(("b/0.png", "a/1.PNG", "a/0.jpg", "c.jpeg"), images, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        # Without colour and contrast, JPEG keeps what it is given.
        Image.fromarray(np.full_like(image, image[0, 0, 0])).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (found,) = blocks(open_images(tmp_path), 0, 4, 4)
    expected = [images[i, 0, 0, 0] for i in (2, 1, 0, 3)]
    assert np.abs(found[:, 0, 0, 0].astype(int) - np.array(expected).astype(int)).max() <= 1


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 500), st.integers(1, 60), st.integers(1, 20))
def test_shares_are_whole_blocks_and_cover_everything_once(count, size, ranks):
    shares = [share(count, size, rank, ranks) for rank in range(ranks)]
    assert [start for start, _ in shares] == [0, *(stop for _, stop in shares[:-1])]
    assert shares[-1][1] == count
    assert all(start % size == 0 for start, stop in shares if start < stop)
    lengths = [-(-(stop - start) // size) for start, stop in shares]
    assert max(lengths) - min(lengths) <= 1
    assert lengths[0] > 0  # the main rank knows the features' dimensions


def test_npz_export_is_read_by_numpy_and_by_us(tmp_path):
    images = pictures()
    folder = shard_folder(tmp_path / "shards", images)
    write_npz(tmp_path / "export.npz", folder.batches(17), 17)
    with np.load(tmp_path / "export.npz") as file:
        assert file.files == ["arr_0", "arr_1"]
        assert np.array_equal(file["arr_0"], images[:17])
        assert np.array_equal(file["arr_1"], np.arange(17)) and file["arr_1"].dtype == np.int64
    assert open_images(tmp_path / "export.npz").count == 17


def test_png_export_holds_the_same_images_and_labels(tmp_path):
    images = pictures(channels=1)
    write_pngs(tmp_path / "png", shard_folder(tmp_path / "shards", images).batches(12))
    assert len(list((tmp_path / "png").glob("*.png"))) == 12
    labels = json.loads((tmp_path / "png" / "dataset.json").read_text())["labels"]
    assert labels == [[f"{i:06d}.png", i] for i in range(12)]
    (found,) = blocks(open_images(tmp_path / "png"), 0, 12, 12)
    assert np.array_equal(found, images[:12])


def broken(batches):
    yield next(iter(batches))
    raise KeyboardInterrupt


def test_an_interrupted_export_leaves_nothing(tmp_path):
    folder = shard_folder(tmp_path / "shards", pictures())
    for write in (lambda b: write_npz(tmp_path / "a.npz", b, 23),
                  lambda b: write_pngs(tmp_path / "png", b)):  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            write(broken(folder.batches(23)))
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


def test_export_and_reading_never_hold_all_images(tmp_path):
    batch, total = pictures(100, 64, 64), 64 * 64 * 3 * 6000
    batches = ((batch, np.zeros(100, np.int64)) for _ in range(60))
    tracemalloc.start()
    write_npz(tmp_path / "large.npz", batches, 6000)
    written = sum(len(block) for block in blocks(open_images(tmp_path / "large.npz"), 0, 6000, 50))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert written == 6000
    assert peak < total / 1.2 < 74e6


def save_objects(path):
    np.savez(path, np.array([{"a": 1}, None], dtype=object))


def save_text(path):
    path.write_text("no zip file")


def save_truncated(path):
    np.savez(path, pictures())
    path.write_bytes(path.read_bytes()[:-30])


def save_pickle(path):
    path.write_bytes(pickle.dumps(pictures()))


@pytest.mark.parametrize(
    "save, message",
    [
        (lambda path: np.savez(path, images=pictures()), "has no arr_0 .*; it has images"),
        (lambda path: np.savez(path, pictures().astype(np.float32)), "arr_0 .* is float32"),
        (lambda path: np.savez(path, pictures(channels=4)), r"is uint8 \(23, 6, 5, 4\)"),
        (lambda path: np.savez(path, pictures()[0]), r"is uint8 \(6, 5, 3\)"),
        (save_objects, "pickled objects.*refused"),
        (save_text, "is no npz file, or truncated"),
        (save_truncated, "is no npz file, or truncated"),
        (save_pickle, "is no npz file, or truncated"),
    ],
)
def test_an_unfit_npz_is_refused_with_its_reason(save, message, tmp_path):
    save(tmp_path / "bad.npz")
    with pytest.raises(ImageError, match=message) as error:
        open_images(tmp_path / "bad.npz")
    assert "bad.npz" in str(error.value)


def test_a_damaged_npz_is_found_when_it_is_read(tmp_path):
    path = stored("npz", tmp_path, pictures())
    data = bytearray(path.read_bytes())
    data[400] ^= 1
    path.write_bytes(data)
    with pytest.raises(ImageError, match="is damaged"):
        list(blocks(open_images(path), 0, 23, 5))


@pytest.mark.parametrize(
    "image, message",
    [
        (Image.new("RGB", (5, 7)), "mixed: .*000.png is 6x5x3, .*bad.png is 7x5x3"),
        (Image.new("L", (5, 6)), "is 6x5x3, .*bad.png is 6x5x1"),
        (Image.new("RGBA", (5, 6)), "bad.png is an image of mode RGBA"),
        (Image.new("I;16", (5, 6)), "bad.png is an image of mode I;16"),
        (b"no image", "bad.png cannot be read as an image"),
    ],
)
def test_an_unfit_file_among_images_is_named(image, message, tmp_path):
    write_pngs(tmp_path / "png", [(pictures(3), np.arange(3))])
    bad = tmp_path / "png" / "bad.png"
    bad.write_bytes(image) if isinstance(image, bytes) else image.save(bad)
    with pytest.raises(ImageError, match=message):
        open_images(tmp_path / "png")


def test_a_truncated_png_is_named_when_it_is_read(tmp_path):
    write_pngs(tmp_path / "png", [(pictures(3, 40, 40), np.arange(3))])
    file = tmp_path / "png" / "000001.png"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ImageError, match="000001.png cannot be read"):
        list(blocks(open_images(tmp_path / "png"), 0, 3, 3))


def test_a_path_without_images_says_what_is_read(tmp_path):
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "nothing.npz"):
        with pytest.raises(ImageError, match="is not a sample folder .*png.*npz"):
            open_images(path)


def test_the_hash_of_shards_is_the_folders(tmp_path):
    folder = shard_folder(tmp_path / "shards", pictures())
    assert open_images(folder.path).sha256(20) == folder_digest(folder, 20)
    assert open_images(folder.path).run == {"seed": 0}
