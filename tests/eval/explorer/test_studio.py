"""The page's runs are those of its command and of its Python, to the pixel."""

import dataclasses
import shlex
import threading

import numpy as np
import pytest

from eval.explorer.walking import Walker
from models.errors import InputError
from stitch.runs.shards import open_folder
from tests import commands

CHANGES = {
    "as it begins": {},
    "cached": {"interval": 2, "steps": 8},
    "bf16, three denoisers": {"precision": "bf16", "shares": (50, 25, 25), "label": "ankle boot"},
    "another solver": {"sampler": "heun", "seed": 2**53 - 1, "guidance": 1.0},
    "the largest alone": {"sampler": "dpm_solver", "shares": (0, 0, 100), "guidance": 4.0},
}


@pytest.fixture(params=CHANGES)
def setting(request, studio):
    return dataclasses.replace(studio.first, **CHANGES[request.param])


@pytest.fixture
def images(studio, setting):
    *_, last = Walker(lambda: studio.preview).views(studio.run(setting), threading.Event())
    assert last.done
    return last.images


def test_the_command_samples_the_same_pixels(studio, setting, images, runs):
    program, *words = shlex.split(studio.command(setting).removeprefix("python -m scripts."))
    code, _, errors = commands.run(program, *words)
    assert code == 0, errors
    folder = runs / "samples" / studio.run(setting).id
    (stored,) = [images for images, _ in open_folder(folder).batches(4)]
    np.testing.assert_array_equal(images, stored)


def test_the_python_lines_sample_the_same_pixels(studio, setting, images):
    found = {}
    exec(studio.python(setting), found)
    np.testing.assert_array_equal(images, found["images"])


def test_the_page_begins_with_what_the_command_line_says(studio_of):
    first = studio_of(
        "sampler=unipc", "sampler.steps=7", "guidance.scale=2", "labels=[bag]", "seed=9",
        "precision=bf16", "cache=forecast", "cache.interval=4",
        "allocation.fractions=[0.5,0.2,0.3]",
    ).first  # fmt: skip
    # 0.5 and 0.7 of 7 steps are 4 and 5 of them.
    assert first.values == ["bag", 9, 2.0, "unipc", 7, 4, "bf16", 57, 14, 29]


@pytest.mark.parametrize(
    "words, named",
    [
        (["sampler.eta=0.5"], "sampler is"),
        (["guidance=interval"], "guidance is"),
        (["decoder=preview"], "weights is"),
        (["quantisation=int8"], "quantisation is"),
        (["labels=random"], "labels is random"),
        (["allocation=interleave"], "DiT-S"),
        (["allocation.denoisers=[LDM-S,LDM]", "schedule=ldm"], "LDM"),
        (["compile=true"], "compile"),
        (["sampler=ldm_ddim"], "sampler is"),
        (["num_images=5", "batch_size=5", "shard_size=5"], "num_images"),
    ],
)
def test_what_the_page_has_no_control_for_is_refused(studio_of, words, named):
    with pytest.raises(InputError, match="its controls can set") as error:
        studio_of("sampler.steps=4", *words)
    assert named in str(error.value)


def test_a_zoo_without_class_names_is_set_by_number(studio_of):
    studio = studio_of("sampler.steps=4", "~zoo.classes", "labels=[3]")
    assert studio.offer.classes == tuple(range(10))
    assert studio.first.label == 3
    assert "~zoo.classes" in studio.command(studio.first)
    assert "labels=[3]" in studio.command(studio.first)
    assert studio.python(studio.first).startswith("# models.load_zoo knows nothing of ~zoo.classes")


def test_parts_that_do_not_fit_are_refused_in_one_line(studio):
    heun = dataclasses.replace(studio.first, sampler="heun", steps=1)
    with pytest.raises(InputError, match="steps"):
        studio.run(heun)
