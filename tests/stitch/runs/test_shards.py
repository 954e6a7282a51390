"""Sample folders: complete, resumable, and true to their content."""

import errno
import itertools
import json
import os
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stitch.runs.shards import ShardError, ShardFolder, folder_digest, open_folder, read_shard

derandomized = settings(derandomize=True, deadline=None)
RUN = {"zoo": "fashion", "seed": 0, "allocation": "S*5+L*5"}


def content(indices) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels that are functions of their indices."""
    images = [np.random.default_rng(i).integers(0, 256, (4, 3, 1), dtype=np.uint8) for i in indices]
    return np.stack(images), np.array([i % 10 for i in indices])


def fill(folder: ShardFolder, num_images: int) -> list[int]:
    """Do what is missing, and tell which shards that were."""
    folder.mark(num_images)
    missing = folder.missing(num_images)
    for shard in missing:
        folder.write(shard, *content(folder.indices(shard, num_images)))
    return missing


def files(path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def folder(tmp_path):
    return ShardFolder(tmp_path / "samples", RUN, shard_size=4)


@derandomized
@given(st.integers(0, 500), st.integers(1, 60))
def test_shards_cover_every_index_once_and_in_order(num_images, shard_size):
    folder = ShardFolder("absent", RUN, shard_size)
    shards = folder.missing(num_images)
    covered = itertools.chain.from_iterable(folder.indices(s, num_images) for s in shards)
    assert list(covered) == list(range(num_images))
    assert all(0 < len(folder.indices(s, num_images)) <= shard_size for s in shards)


@pytest.mark.parametrize("num_images", [1, 4, 10, 12])
def test_batches_give_exactly_the_images_wanted_in_order(folder, num_images):
    fill(folder, num_images)
    images, labels = map(np.concatenate, zip(*folder.batches(num_images), strict=True))
    expected = content(range(num_images))
    assert images.dtype == np.uint8 and labels.dtype == np.int64
    assert np.array_equal(images, expected[0]) and np.array_equal(labels, expected[1])


def test_more_images_later_make_only_what_is_missing(folder):
    assert fill(folder, 10) == [0, 1, 2]
    first = files(folder.path)
    assert fill(folder, 10) == []
    assert fill(folder, 18) == [2, 3, 4]  # shard 2 held two images of four
    after = files(folder.path)
    kept = ["shard-000000.npz", "shard-000001.npz"]
    assert [after[name] for name in kept] == [first[name] for name in kept]
    assert sum(len(images) for images, _ in folder.batches(18)) == 18


def test_fewer_images_later_read_less(folder):
    fill(folder, 12)
    for num_images in (12, 9, 8, 1):
        assert folder.missing(num_images) == []
        images = np.concatenate([images for images, _ in folder.batches(num_images)])
        assert np.array_equal(images, content(range(num_images))[0])


def test_absent_truncated_and_flipped_shards_are_missing(folder):
    fill(folder, 20)
    folder.shard_path(0).unlink()
    whole = folder.shard_path(2).read_bytes()
    folder.shard_path(2).write_bytes(whole[: len(whole) // 2])
    image = content([12])[0].tobytes()
    data = bytearray(folder.shard_path(3).read_bytes())
    data[data.index(image)] ^= 1
    folder.shard_path(3).write_bytes(data)
    folder.shard_path(4).write_bytes(b"")
    assert folder.missing(20) == [0, 2, 3, 4]
    with pytest.raises(ShardError, match="lacks 4 shards with 16 of 20 .*000000.npz is not there"):
        next(folder.batches(20))
    assert fill(folder, 20) == [0, 2, 3, 4]
    assert folder.missing(20) == []


def test_one_flipped_bit_anywhere_is_found_or_harmless(folder):
    fill(folder, 1)
    path, expected = folder.shard_path(0), content([0])
    whole = path.read_bytes()
    errors = []
    for position in range(len(whole)):
        data = bytearray(whole)
        data[position] ^= 1 << position % 8
        path.write_bytes(data)
        try:
            images, labels = read_shard(path)
        except ShardError as error:
            errors.append(str(error))
        else:  # a date, a flag or padding of the zip format
            assert np.array_equal(images, expected[0]) and np.array_equal(labels, expected[1])
    assert len(errors) > len(whole) / 2
    assert all(str(path) in error for error in errors)


def test_a_truncated_shard_is_missing(folder):
    fill(folder, 1)
    whole = folder.shard_path(0).read_bytes()
    for length in [*range(0, len(whole), 20), len(whole) - 1]:
        folder.shard_path(0).write_bytes(whole[:length])
        assert folder.missing(1) == [0]


def test_another_run_is_refused_with_what_differs_and_the_files_are_untouched(folder):
    fill(folder, 6)
    before = files(folder.path)
    with pytest.raises(ShardError) as error:
        ShardFolder(folder.path, {**RUN, "seed": 1, "dtype": "bfloat16"}, 4)
    assert "seed is 0 there and 1 here" in str(error.value)
    assert "dtype is None there and bfloat16 here" in str(error.value)
    assert "allocation" not in str(error.value)
    assert files(folder.path) == before


def test_another_shard_size_is_refused(folder):
    fill(folder, 6)
    with pytest.raises(ShardError, match="shards of 4 images, not shard_size=8"):
        ShardFolder(folder.path, RUN, 8)


def test_a_folder_is_opened_by_what_it_holds(folder, tmp_path):
    with pytest.raises(ShardError, match=r"is not a sample folder: it has no run\.json"):
        open_folder(tmp_path)
    fill(folder, 6)
    opened = open_folder(folder.path)
    assert (opened.run, opened.shard_size) == (RUN, 4)
    assert opened.missing(6) == []


def test_equal_content_is_stored_in_identical_bytes_at_any_time(folder, tmp_path, monkeypatch):
    other = ShardFolder(tmp_path / "other", RUN, 4)
    fill(folder, 6)
    later = time.time() + 1e8
    monkeypatch.setattr(time, "time", lambda: later)
    fill(other, 6)
    assert files(folder.path) == files(other.path)


def test_the_digest_does_not_depend_on_the_shard_size(tmp_path):
    digests = set()
    for shard_size in (1, 3, 4, 50):
        folder = ShardFolder(tmp_path / str(shard_size), RUN, shard_size)
        fill(folder, 13)
        digests.add(folder_digest(folder, 10))
    assert len(digests) == 1
    assert folder_digest(folder, 9) not in digests


def test_the_digest_sees_every_image_and_label(tmp_path):
    x, y = content(range(4))
    digests = set()
    for k, (images, labels) in enumerate([(x, y), (x[::-1], y), (x, y[::-1])]):
        folder = ShardFolder(tmp_path / str(k), RUN, 4)
        folder.write(0, images, labels)
        digests.add(folder_digest(folder, 4))
    assert len(digests) == 3


@pytest.mark.parametrize("cut", [1, 2, 9])
def test_timings_survive_a_line_cut_short_by_a_kill(folder, cut):
    folder.mark(4)
    assert folder.timings() == []
    folder.log_timing(shard=0, seconds=1.5)
    folder.log_timing(shard=1, device={"name": "CPU"})
    log = folder.path / "timing.jsonl"
    log.write_bytes(log.read_bytes()[:-cut])
    assert folder.timings() == [{"shard": 0, "seconds": 1.5}]
    folder.log_timing(shard=2, seconds=0.5)
    assert folder.timings() == [{"shard": 0, "seconds": 1.5}, {"shard": 2, "seconds": 0.5}]


def test_the_folder_says_how_many_images_the_run_is_meant_to_have(folder):
    assert folder.count() == 0
    for asked, meant in ((10, 10), (4, 10), (12, 12)):
        fill(folder, asked)
        assert folder.count() == open_folder(folder.path).count() == meant
        folder.require(meant)


def remove(path):
    path.unlink()


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-30])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("shard", [0, 1, 2])
@pytest.mark.parametrize("harm", [remove, flip, cut, empty])
def test_a_shard_that_is_gone_or_damaged_is_never_the_end_of_a_run(folder, harm, shard, stated):
    fill(folder, 10)
    if not stated:  # as folders of before
        write_run(folder, num_images=None)
    harm(folder.shard_path(shard))
    if harm is remove and shard == 2 and not stated:
        assert folder.count() == 8  # nothing tells that there was more
        return
    assert folder.count() >= 9
    with pytest.raises(ShardError, match=f"lacks a shard .*shard-00000{shard}.npz") as error:
        folder.require(folder.count())
    way = f"num_images={4 * shard}"
    assert (way in str(error.value)) == (shard > 0)
    folder.require(4 * shard)


def write_run(folder, **changes):
    file = folder.path / "run.json"
    owner = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in owner.items() if value is not None}))


def test_a_shard_that_is_short_or_of_another_run_or_place_is_named(folder, tmp_path):
    fill(folder, 12)
    short = content(range(4, 6))
    folder.shard_path(1).unlink()
    folder.write(1, *short)
    with pytest.raises(ShardError, match="shard-000001.npz holds 2 images instead of 4"):
        folder.require(12)
    folder.shard_path(1).write_bytes(folder.shard_path(0).read_bytes())
    with pytest.raises(ShardError, match="shard-000001.npz holds 4 images of index 0 and up"):
        folder.require(12)
    other = ShardFolder(tmp_path / "other", {**RUN, "seed": 1}, 4)
    other.write(1, *content(range(4, 8)))
    folder.shard_path(1).write_bytes(other.shard_path(1).read_bytes())
    with pytest.raises(ShardError, match="shard-000001.npz is of run"):
        folder.require(12)


@pytest.mark.parametrize(
    "text", ["", "{", "\x00", '{"run": {}}', '{"run": {}, "shard_size": 0}',
             '{"run": 5, "shard_size": 4}', '{"run": {"w": NaN}, "shard_size": 4}',
             '{"run": {}, "shard_size": true}',
             '{"run": {}, "shard_size": 4, "batch_size": 3}',
             '{"run": {}, "shard_size": 4, "batch_size": 0}',
             '{"run": {}, "shard_size": 4, "num_imagez": 4}'],
)  # fmt: skip
def test_a_damaged_run_json_is_named(folder, text):
    fill(folder, 6)
    (folder.path / "run.json").write_text(text)
    for use in (lambda: open_folder(folder.path), lambda: ShardFolder(folder.path, RUN, 4)):
        with pytest.raises(ShardError, match=r"run\.json is damaged"):
            use()


def test_a_json_of_somebody_else_is_no_sample_folder_and_is_left_alone(folder):
    folder.path.mkdir()
    file = folder.path / "run.json"
    file.write_text('{"learning_rate": 0.1}')
    with pytest.raises(ShardError, match="is not a sample folder"):
        open_folder(folder.path)
    with pytest.raises(ShardError, match=r"run\.json is not of scripts\.sample"):
        folder.mark(6)
    assert file.read_text() == '{"learning_rate": 0.1}'


@pytest.mark.parametrize("line", ["[]", "5", '"seconds"', "\x00", '{"seconds": 1.5}}'])
def test_a_damaged_line_of_timings_is_left_out(folder, line):
    folder.mark(4)
    folder.log_timing(shard=0, seconds=1.5)
    with open(folder.path / "timing.jsonl", "a") as file:
        file.write("\n" + line)
    assert folder.timings() == [{"shard": 0, "seconds": 1.5}]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_a_file_system_without_hard_links_holds_one_run_too(folder, monkeypatch, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", fail)
    other = ShardFolder(folder.path, {**RUN, "seed": 1}, 4)
    fill(folder, 6)
    with pytest.raises(ShardError, match="seed is 0 there and 1 here"):
        other.mark(6)
    assert open_folder(folder.path).count() == 6
    assert not list(folder.path.glob(".*"))
