"""Text to image as a command, on a tiny pipeline of random weights without network."""

import json
import logging
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from huggingface_hub import constants

from samplers.noise import generators
from stitch.pipelines import agreement
from stitch.runs.hub import Source
from stitch.runs.pipeline import LARGE, load_pipeline
from stitch.runs.shards import folder_digest, open_folder
from stitch.runs.text2image import create
from tests import ROOT, text_pipeline
from tests.commands import compose, refusal, run
from tests.scripts.test_commands import ENVIRONMENT, command
from tests.threads import threads


@pytest.fixture(scope="module", autouse=True)
def on_one_thread():
    with threads(1):
        yield


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return text_pipeline.save(tmp_path_factory.mktemp("pipeline") / "tiny")


@pytest.fixture(scope="module")
def small(pipeline):
    return text_pipeline.settings(pipeline)


@pytest.fixture(scope="module")
def alone(small, tmp_path_factory):
    """Samples of one process."""
    folder = tmp_path_factory.mktemp("alone") / "samples"
    succeed(*small, f"samples={folder}")
    return folder


def succeed(*settings, name="text2image"):
    code, output, errors = run(name, *settings)
    assert code == 0, errors
    return output


def pixels(folder, num_images=12):
    return np.concatenate([images for images, _ in open_folder(folder).batches(num_images)])


def digest(folder, num_images=12):
    return folder_digest(open_folder(folder), num_images)


def test_images_prompts_and_what_made_them_are_in_the_folder(alone):
    folder = open_folder(alone)
    images, labels = folder.read(2)
    assert images.shape == (4, 64, 64, 3) and images.std() > 0
    assert labels.tolist() == [2, 0, 1, 2]  # the numbers of the prompts
    assert (alone / "prompts.txt").read_text() == "a tench\na church\ntwo horns\n"
    assert folder.run["allocation"] == "small*2+large*3"  # PNDM: five calls for four steps
    assert folder.run["weights"].keys() == {"small", "large", "pipeline"}


def test_two_processes_make_the_same_images_as_one(small, alone, tmp_path):
    samples = tmp_path / "two"
    made = subprocess.run(
        command("text2image", *small, f"samples={samples}", processes=2),
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert digest(samples) == digest(alone)


def test_interrupted_it_exits_with_75_and_the_same_command_goes_on(small, alone, tmp_path):
    samples, many = tmp_path / "interrupted", ["num_images=4000", "shard_size=4"]
    process = subprocess.Popen(
        command("text2image", *small, *many, f"samples={samples}"),
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not list(samples.glob("shard-*.npz")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    assert len(list(samples.glob("shard-*.npz"))) < 1000
    succeed(*small, f"samples={samples}")
    assert digest(samples) == digest(alone)


def test_a_batch_size_changes_rounding_only(small, alone, tmp_path):
    succeed(*small, "batch_size=4", f"samples={tmp_path / 'batch'}")
    difference = pixels(tmp_path / "batch").astype(int) - pixels(alone).astype(int)
    assert np.abs(difference).max() <= 1


def test_more_images_are_added_to_those_that_are_there(small, alone, tmp_path):
    samples = shutil.copytree(alone, tmp_path / "more")
    before = {path.name: path.stat().st_mtime_ns for path in samples.glob("shard-*.npz")}
    succeed(*small, "num_images=14", f"samples={samples}")
    after = {path.name: path.stat().st_mtime_ns for path in samples.glob("shard-*.npz")}
    assert before.items() <= after.items() and len(after) == 4
    assert (pixels(samples) == pixels(alone)).all()


@pytest.mark.parametrize("share", [0, 1])
def test_a_share_of_0_or_1_is_the_pipeline_with_one_denoiser(share, pipeline, small, tmp_path):
    succeed(*small, f"shares={share}", f"samples={tmp_path / 'one'}", "batch_size=4")
    unet = UNet2DConditionModel.from_pretrained(pipeline / "unet-small") if share else None
    pipe = StableDiffusionPipeline.from_pretrained(pipeline, **({"unet": unet} if unet else {}))
    pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    made = pipe(
        ["a tench", "a church", "two horns", "a tench"], num_inference_steps=4, guidance_scale=3,
        generator=generators(0, range(4)), output_type="np",
    ).images  # fmt: skip
    assert (pixels(tmp_path / "one")[:4] == (made * 255).round().astype(np.uint8)).all()


@pytest.mark.parametrize("cache", ["deep", "tome"])
def test_a_cache_is_part_of_a_run_and_saves_what_it_costs(cache, small, alone, tmp_path):
    succeed(*small, f"cache={cache}", f"samples={tmp_path / cache}")
    assert open_folder(tmp_path / cache).run["cache"]["interval"] == (3 if cache == "deep" else 1)
    assert digest(tmp_path / cache) != digest(alone)


def test_a_deep_cache_begins_anew_at_the_switch(small, tmp_path):
    config = compose("text2image", *small, "cache=deep", "pipeline.steps=7", f"runs={tmp_path}")
    made = create(config, load_pipeline(config, torch.device("cpu")))
    assert str(made.allocation) == "small*3+large*5"
    calls = ["small", "small/deep", "small/deep", "large", "large/deep", "large/deep", "large",
             "large/deep"]  # fmt: skip
    assert made.calls == [(name, name) for name in calls]
    assert made.cost()["nfe"] == 16


@pytest.mark.parametrize(
    "scheduler, steps, full", [("DDIM", 10, 5), ("PNDM", 11, 5), ("HeunDiscrete", 19, 1)]
)
def test_what_a_deep_cache_costs_is_what_is_computed(scheduler, steps, full, small, tmp_path):
    """Also where the scheduler has timesteps twice."""
    words = [f"pipeline.scheduler.name={scheduler}Scheduler", "pipeline.steps=10", "shares=0"]
    if scheduler != "PNDM":
        words.append("~pipeline.scheduler.skip_prk_steps")
    config = compose(
        "text2image", *small, *words, "cache=deep", "cache.interval=2", f"runs={tmp_path}"
    )
    made = create(config, load_pipeline(config, torch.device("cpu")))
    computed = []
    block = made.zoo.denoisers["large"].mid_block
    hook = block.register_forward_hook(lambda *_: computed.append(1))
    made.images(range(1))
    hook.remove()
    called = [name for name, _ in made.calls]
    assert len(called) == steps and called.count("large") == len(computed) == full


def test_other_weights_are_another_run(pipeline, small, alone, tmp_path):
    other = shutil.copytree(pipeline, tmp_path / "other")
    text_pipeline.unet(4, 3, **text_pipeline.HEADS).save_pretrained(other / "unet-small")
    message = refusal("text2image", *small, f"pipeline.others.small.repo={other}",
                      f"samples={alone}")  # fmt: skip
    assert "belongs to another run: weights is" in message
    # Weights that take no part do not count.
    config = compose("text2image", *small, "shares=0", f"pipeline.others.small.repo={other}")
    one = create(config, load_pipeline(config, torch.device("cpu")))
    config = compose("text2image", *small, "shares=0")
    assert one.id == create(config, load_pipeline(config, torch.device("cpu"))).id


def test_the_class_and_the_slot_of_a_pipeline_are_part_of_a_run(small):
    ids = []
    for words in ([], ["pipeline.class=StableDiffusionPipeline"], ["pipeline.slot=transformer"]):
        config = compose("text2image", *small, "shares=1", *words)
        ids.append(create(config, load_pipeline(config, torch.device("cpu"))).id)
    assert len(set(ids)) == 3


def test_prompts_come_from_a_file_too(small, alone, tmp_path):
    lines, table = tmp_path / "prompts.txt", tmp_path / "metadata.csv"
    lines.write_text("a tench\na church\ntwo  horns\n")
    table.write_text('file_name,text\n1.jpg,a tench\n2.jpg,a church\n3.jpg,"two horns"\n')
    for file in (lines, table):
        output = succeed(*small, f"prompts={file}", f"samples={alone}")
        assert "all already existed" in output


def test_a_prompt_that_is_too_long_is_named_with_what_is_cut_off(small, tmp_path, caplog):
    words = "prompts=['a tench','a b c d e f g h i j k l m n']"
    output = succeed(*small, words, "num_images=2", f"samples={tmp_path / 'long'}")
    told = output + caplog.text
    assert "prompt 2 is longer than the 12 tokens that are read; left out: k l m n" in told
    assert "prompt 1" not in told


def test_a_dry_run_says_what_is_missing_and_what_it_costs(tmp_path):
    output = succeed("dry_run=true", "pipeline=sd14-bksdm", "precision=fp32", f"runs={tmp_path}")
    assert "sd14-bksdm: 2.78 GB of weights; pipeline.repo=CompVis/stable-diffusion-v1-4" in output
    assert "hf download CompVis/stable-diffusion-v1-4 --include '*model.fp16.safe" in output
    assert "assumed, 40 % of the 495 T MACs" in output and "PNDM 50 steps" in output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "settings, message",
    [
        (["prompts=nowhere.txt"], "prompts=nowhere.txt cannot be read: No such file"),
        (["prompts=[a,' ']"], "prompts: prompt 2 is empty"),
        (["shares=1.5"], "shares=1.5 must be a number from 0 to 1, or a list"),
        (["shares=[0.2,0.3,0.5]"], "shares=[0.2, 0.3, 0.5] must be 2, of small, large"),
        (["shares=[0.2,0.3]"], "sum to 0.5; they must sum to 1"),
        (["rule=ceil"], "rule=ceil must be floor | round"),
        (["cache=forecast"], "cache.order=1 is for scripts.sample"),
        (["shard_size=3"], "shard_size=3 must be a multiple of batch_size=2"),
        (["pipeline.scheduler.name=Best"], "pipeline.scheduler.name=Best is no scheduler"),
        (["pipeline.class=UNet2DModel"], "pipeline.class=UNet2DModel is no pipeline of diffusers"),
        (
            ["pipeline.scheduler.name=HeunDiscreteScheduler"],
            "is no option of HeunDiscreteScheduler; leave it out with ~pipeline.scheduler.",
        ),
        (["pipeline=sdxl-controlnet", "precision=fp32"], "pipeline.control=null is no file"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings, message, small, tmp_path):
    own = [] if "pipeline=sdxl-controlnet" in settings else small
    assert message in refusal("text2image", *own, *settings, f"runs={tmp_path}")
    assert not list(tmp_path.iterdir())


def test_weights_that_are_missing_offline_are_named_with_the_command_that_fetches_them(
    small, tmp_path, monkeypatch
):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refusal("text2image", *small, "pipeline.others.small.repo=nobody/nothing",
                      "pipeline.others.small.subfolder=unet", f"runs={tmp_path}")  # fmt: skip
    assert "pipeline.others.small.repo=nobody/nothing is no folder, and cannot be had" in message
    assert "hf download nobody/nothing --include 'unet/*model.safetensors'" in message


def test_nothing_is_unpickled(pipeline, small, tmp_path):
    folder = shutil.copytree(pipeline / "unet-small", tmp_path / "pickled" / "unet-small")
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "diffusion_pytorch_model.bin")
    message = refusal("text2image", *small, f"pipeline.others.small.repo={folder.parent}")
    assert "has no .safetensors in" in message and "nothing is unpickled" in message


def test_without_transformers_it_says_what_to_install(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    message = refusal("text2image", *small, "seed=1", "precision=bf16", f"runs={tmp_path}")
    assert "needs transformers: pip install -r requirements-pipelines.txt" in message


def test_the_own_denoiser_is_called_as_stitching_calls_it():
    assert LARGE == agreement.LARGE


def test_a_snapshot_of_the_hub_is_known_by_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    source = Source("a/b", "unet", None, "fp16")
    commit = "0123456789012345678901234567890123456789"
    folder = tmp_path / "models--a--b"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    weights = folder / "snapshots" / commit / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert source.identity() == f"a/b@{commit} fp16"


def test_records_and_figures_are_made_as_of_other_runs(small, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    settings = [*small, f"runs={tmp_path}"]
    succeed(*settings, "evaluate=true", "pipeline.steps=3", "shares=0.5")
    (record,) = (tmp_path / "records").glob("*.json")
    content = json.loads(record.read_text())
    assert content["metrics"].keys() == {"fid", "is", "agreement"}
    assert 0 <= content["metrics"]["agreement"] <= 1
    assert content["cost"]["nfe"] == 8 and content["run"]["allocation"] == "small*2+large*2"
    own = [word for word in settings if "num_images" not in word and "steps" not in word]
    figures = [*own, "pipeline=fashion-text", "num_images=6", "run=true", "pipeline.steps=3"]
    succeed(*figures, "figure=[fig19,fig25]", "protocol=cpu", name="figures")
    drawn = tmp_path / "figures" / "fashion-text" / "cpu"
    assert {path.name for path in drawn.glob("*.png")} == {"fig19.png", "fig25.png"}
    about = json.loads((drawn / "fig19.json").read_text())
    assert about["pipeline"] == "fashion-text" and len(about["points"]) == 12  # of 6 shares
    assert {"agreement", "fid", "is"} <= about["points"][0].keys()


def test_times_are_measured_apart_and_then_in_figures(small, tmp_path):
    settings = [*small, "pipeline=fashion-text", f"runs={tmp_path}", "pipeline.steps=2"]
    own = [word for word in settings if "num_images" not in word]
    succeed(*own, "shares=[0,1]", "repetitions=1", name="latency")
    (file,) = (tmp_path / "latency").glob("*.json")
    measured = json.loads(file.read_text())
    assert [point["allocation"] for point in measured["points"]] == ["large*3", "small*3"]
    assert all(point["ms_per_image"] > 0 for point in measured["points"])
    succeed(*own, "figure=fig16", "num_images=2", "run=true", name="figures")
    about = json.loads(next(tmp_path.glob("figures/*/*/fig16.json")).read_text())
    times = {point["allocation"]: point["ms_per_image"] for point in measured["points"]}
    assert {point["allocation"] for point in about["points"]} > times.keys()
    for point in about["points"]:
        known = point["allocation"] in times
        assert point.get("ms_per_image") == times.get(point["allocation"])
        assert point.get("timing_source") == (str(file) if known else None)
