"""Images from sample folders, PNG folders and npz files, and back: export."""

import json
import os
import pickle
import tracemalloc
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eval.export import write_npz, write_pngs
from eval.images import (
    FolderImages,
    ImageError,
    blocks,
    open_images,
    share,
    warn_if_held_out,
    warnings,
)
from eval.pictures import centre_crop
from models.errors import InputError
from stitch.runs.shards import ShardFolder


def pictures(count=23, height=6, width=5, channels=3, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def shard_folder(path, images, size=10):
    folder = ShardFolder(path, {"seed": 0}, size)
    folder.mark(len(images))
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


def test_what_a_killed_export_left_does_not_stop_the_next(tmp_path):
    images = pictures(3)
    for name in (f".png.{os.getpid()}.tmp", ".png.tmp"):
        (tmp_path / name).mkdir()
    write_pngs(tmp_path / "png", [(images, np.arange(3))])
    assert open_images(tmp_path / "png").count == 3


def test_export_and_reading_never_hold_all_images(tmp_path):
    batch, total = pictures(100, 64, 64), 64 * 64 * 3 * 6000
    batches = ((batch, np.zeros(100, np.int64)) for _ in range(60))
    tracemalloc.start()
    write_npz(tmp_path / "large.npz", batches, 6000)
    written = sum(len(block) for block in blocks(open_images(tmp_path / "large.npz"), 0, 6000, 50))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert written == 6000
    assert peak < total / 1.2


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
        (lambda path: np.savez(path, images=pictures()), "has no arr_0; it has images"),
        (lambda path: np.savez(path, pictures().astype(np.float32)), "arr_0 .* is float32"),
        (lambda path: np.savez(path, pictures(channels=4)), r"is uint8 \(23, 6, 5, 4\)"),
        (lambda path: np.savez(path, pictures()[0]), r"is uint8 \(6, 5, 3\)"),
        (save_objects, "pickled objects.*refused"),
        (save_text, "is not an npz file, or is damaged"),
        (save_truncated, "is not an npz file, or is damaged"),
        (save_pickle, "is not an npz file, or is damaged"),
    ],
)
def test_an_unfit_npz_is_refused_with_its_reason(save, message, tmp_path):
    save(tmp_path / "bad.npz")
    with pytest.raises(InputError, match=message) as error:
        open_images(tmp_path / "bad.npz")
    assert "bad.npz" in str(error.value)


def test_a_damaged_npz_is_found_when_it_is_read(tmp_path):
    path = stored("npz", tmp_path, pictures(23, 50, 50))
    data = bytearray(path.read_bytes())
    data[100_000] ^= 1  # far behind what is read to know the size of the images
    path.write_bytes(data)
    images = open_images(path)
    with pytest.raises(InputError, match="images.npz is .*damaged"):
        list(blocks(images, 0, 23, 5))
    with pytest.raises(InputError, match="images.npz is .*damaged"):
        images.require(5)  # a part is not compared with the checksum when it is read


@pytest.mark.parametrize(
    "image, message",
    [
        (Image.new("RGB", (5, 7)), "mixed: .*000.png is 6x5, .*bad.png is 7x5; metrics need one"),
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
    images = open_images(tmp_path / "png")
    with pytest.raises(ImageError, match="000001.png cannot be read"):
        list(blocks(images, 0, 3, 3))


def test_a_path_without_images_says_what_is_read(tmp_path):
    for path in (tmp_path / "nothing", tmp_path / "nothing.npz"):
        with pytest.raises(ImageError, match="is not a sample folder .*png.*npz"):
            open_images(path)
    with pytest.raises(ImageError, match="samples=.* is a folder without pictures"):
        open_images(tmp_path)


def test_the_hash_of_shards_is_of_the_images_asked_for_whatever_the_shards(tmp_path):
    folder = shard_folder(tmp_path / "shards", pictures())
    smaller = shard_folder(tmp_path / "smaller", pictures(), size=7)
    images = open_images(folder.path)
    assert images.sha256(20) == open_images(smaller.path).sha256(20)
    assert images.sha256(20) != images.sha256(19)
    assert images.run == {"seed": 0}


# ---- folders as people have them ----


def save_gray(folder, names, **options):
    """One-colour pictures, each of its own gray."""
    for gray, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (5, 6), 10 * gray).save(folder / name, **options)


def grays(path):
    images = open_images(path)
    return [int(image[0, 0, 0]) for part in images.read(0, images.count) for image in part]


def test_links_to_folders_and_files_are_followed(tmp_path):
    save_gray(tmp_path / "elsewhere", ["b/0.png", "b/1.png", "2.png"])
    folder = tmp_path / "folder"
    save_gray(folder, ["a/0.png"])
    (folder / "b").symlink_to(tmp_path / "elsewhere" / "b")
    (folder / "c.png").symlink_to(tmp_path / "elsewhere" / "2.png")
    assert grays(folder) == [0, 0, 10, 20]
    (tmp_path / "link").symlink_to(folder)
    assert grays(tmp_path / "link") == [0, 0, 10, 20]


def test_a_folder_reached_twice_is_read_once_and_said(tmp_path, caplog):
    save_gray(tmp_path, ["a/0.png", "a/b/1.png"])
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "latest").symlink_to(tmp_path / "a" / "b")
    assert grays(tmp_path) == [0, 10]
    assert f"{tmp_path / 'latest'} is a link to a folder that is read already" in caplog.text
    assert "up is a link to a folder that is read already" in caplog.text


def test_a_link_to_nothing_is_named(tmp_path):
    save_gray(tmp_path, ["a/0.png"])
    (tmp_path / "class7").symlink_to(tmp_path / "absent")
    with pytest.raises(ImageError, match="class7 is a link to nothing"):
        open_images(tmp_path)


def test_hidden_files_and_notes_are_no_samples(tmp_path):
    save_gray(tmp_path, ["0.png", ".ipynb_checkpoints/0-checkpoint.png", "._0.png", "a/.b/1.png"])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "Thumbs.db").write_bytes(b"")
    assert grays(tmp_path) == [0]


@pytest.mark.parametrize("name", ["1.npy", "1", "1.heic", "1.eps", "1.png.part"])
def test_a_file_that_is_not_read_is_named(name, tmp_path):
    save_gray(tmp_path, ["0.png"])
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(ImageError, match=f"/{name} is no picture that is read here"):
        open_images(tmp_path)


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpe", "tif", "TIFF", "webp", "ppm"])
def test_other_formats_are_read_beside_png(suffix, tmp_path):
    options = {"lossless": True} if suffix == "webp" else {}
    save_gray(tmp_path, [f"1.{suffix}"], **options)
    save_gray(tmp_path, ["0.png"])
    assert open_images(tmp_path).count == len(grays(tmp_path)) == 2


def test_gray_among_colour_becomes_colour_and_palettes_their_colours(tmp_path):
    image = pictures(1)[0]
    Image.fromarray(image).save(tmp_path / "0.png")
    Image.fromarray(image[..., 0]).save(tmp_path / "1.png")
    Image.fromarray(image).quantize(256).save(tmp_path / "2.png")
    Image.fromarray(image[..., 0] > 99).save(tmp_path / "3.png")
    (found,) = blocks(open_images(tmp_path), 0, 4, 4)
    assert np.array_equal(found[0], image) and np.array_equal(found[2], image)
    assert np.array_equal(found[1], image[..., :1].repeat(3, 2))
    assert np.array_equal(found[3], 255 * (image[..., :1] > 99).repeat(3, 2))


def test_several_pictures_in_one_file_are_refused(tmp_path):
    frames = [Image.new("L", (5, 6), gray) for gray in (0, 99)]
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(ImageError, match=f"{name} has 2 pictures"):
            open_images(tmp_path)
        (tmp_path / name).unlink()


def test_transparent_colours_are_refused(tmp_path):
    Image.new("P", (5, 6)).save(tmp_path / "a.png", transparency=0)
    with pytest.raises(ImageError, match="a.png is an image of mode P with transparency"):
        open_images(tmp_path)


# ---- references from one's own pictures ----


def slow_centre_crop(pixels, size):
    """As guided-diffusion says it: halve by 2x2 means, resize bicubically, cut the middle."""
    image = Image.fromarray(pixels)
    while min(*image.size) >= 2 * size:
        image = image.resize(tuple(x // 2 for x in image.size), resample=Image.BOX)
    scale = size / min(*image.size)
    image = image.resize(tuple(round(x * scale) for x in image.size), resample=Image.BICUBIC)
    array = np.array(image)
    top, left = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
    return array[top : top + size, left : left + size]


@pytest.mark.parametrize("height, width", [(8, 8), (9, 30), (37, 16), (70, 65), (5, 4), (16, 33)])
def test_the_middle_is_cut_and_resized_as_in_adms_references(height, width):
    pixels = pictures(1, height, width)[0]
    found = centre_crop(Image.fromarray(pixels), 8)
    assert found.shape == (8, 8, 3)
    assert np.array_equal(found, slow_centre_crop(pixels, 8))


def test_halving_is_by_means_of_four():
    pixels = pictures(1, 16, 16)[0].astype(float)
    means = pixels.reshape(8, 2, 8, 2, 3).mean((1, 3))
    found = centre_crop(Image.fromarray(pixels.astype(np.uint8)), 8)
    assert np.abs(found - means).max() <= 1  # rounded along either axis


def test_pictures_of_all_sizes_and_modes_become_one(tmp_path):
    image = pictures(1, 20, 30)[0]
    modes = ["RGB", "L", "RGBA", "CMYK", "P", "1", "LA"]
    for i, mode in enumerate(modes):
        suffix = "tif" if mode == "CMYK" else "png"
        Image.fromarray(image[: 20 - i]).convert(mode).save(tmp_path / f"{i}.{suffix}")
    images = FolderImages(tmp_path, partial(centre_crop, size=8))
    (found,) = blocks(images, 0, 7, 7)
    assert found.shape == (7, 8, 8, 3) and found.dtype == np.uint8
    assert np.array_equal(found[0], slow_centre_crop(image, 8))
    assert images.turned == 0


def test_pictures_are_turned_as_exif_says_if_it_is_asked_for(tmp_path):
    image = pictures(1, 8, 12)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(image).save(tmp_path / "0.png", exif=exif)
    Image.fromarray(image).save(tmp_path / "1.png")
    for upright in (False, True):
        images = FolderImages(tmp_path, partial(centre_crop, size=8), upright)
        assert images.turned == 1
        (found,) = blocks(images, 0, 2, 2)
        assert np.array_equal(found[1], image[:, 2:10])
        expected = np.rot90(image, -1)[2:10] if upright else image[:, 2:10]
        assert np.array_equal(found[0], expected)


# ---- what is doubtful is said ----


def test_a_part_of_images_that_lie_class_by_class_is_said(tmp_path):
    save_gray(tmp_path, [f"class{c}/{i}.png" for c in range(5) for i in range(4)])
    images = open_images(tmp_path)
    assert warnings(images, 20, chunk=None) == warnings(images, 20, chunk=20) == []
    (found,) = warnings(images, 10, chunk=20)
    assert "the first 10 of 20 images are of 3 of 5 classes" in found
    (found,) = warnings(images, 20, chunk=8)
    assert "eval.chunk=8 images, one of them with 1 of 5 classes" in found
    assert len(warnings(images, 10, chunk=8)) == 2


def test_labels_of_an_npz_tell_whether_it_lies_class_by_class(tmp_path):
    images, labels = pictures(20), np.arange(20) // 4
    np.savez(tmp_path / "sorted.npz", images, labels)
    np.savez(tmp_path / "mixed.npz", images, labels[::-1] % 3)
    np.savez(tmp_path / "one.npz", images, 0 * labels)
    np.savez(tmp_path / "none.npz", images)
    np.savez(tmp_path / "other.npz", images, labels[:7])
    assert len(warnings(open_images(tmp_path / "sorted.npz"), 10, chunk=5)) == 2
    for name in ("mixed", "one", "none", "other"):
        assert warnings(open_images(tmp_path / f"{name}.npz"), 10, chunk=5) == []


@pytest.mark.parametrize(
    "name, warned", [("val", True), ("Test", True), ("test.npz", True), ("train", False)]
)
def test_references_named_as_held_out_images_are_warned_of(name, warned, caplog):
    warn_if_held_out(f"imagenet/{name}", "reference")
    assert ("held-out images by its name" in caplog.text) == warned
