"""Metrics of images and their prompts: CLIP score, agreement, and images as BK-SDM has them."""

import io

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
)

import models
import samplers
import stitch
from eval import prepare
from eval.clip import Clip
from eval.evaluator import Evaluator
from eval.features import create_extractor
from eval.images import open_images
from eval.metrics import Inputs, compute
from eval.own_images import own_images
from eval.prompts import named_classes
from models.errors import InputError
from stitch.runs import prompts
from stitch.runs.records import ResultStore
from stitch.runs.shards import ShardFolder
from tests import text_pipeline
from tests.commands import compose, refusal, run
from tests.inception import save_random_inception

CPU = torch.device("cpu")
WORDS = OmegaConf.to_container(compose("evaluate", "eval=fashion-text").eval.words)


def pictures(count, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny CLIP with random weights."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    words = text_pipeline.tokenizer(folder / "words")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
             "num_attention_heads": 2}  # fmt: skip
    text = {**sizes, "vocab_size": len(words), "max_position_embeddings": 12, "bos_token_id": 0,
            "eos_token_id": 1, "pad_token_id": 1}  # fmt: skip
    vision = {**sizes, "image_size": 16, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.save_pretrained(folder / "model")
    size = {"shortest_edge": 16}, {"height": 16, "width": 16}
    images = CLIPImageProcessor(size=size[0], crop_size=size[1])
    CLIPProcessor(images, words).save_pretrained(folder / "model")
    return folder / "model"


def test_the_clip_score_is_that_of_transformers(clip):
    images, texts = pictures(5, (24, 32)), ["a tench", "b", "a church", "c d", "e"]
    ours = Clip(str(clip))
    inputs = Inputs({"clip": ours(torch.from_numpy(images).permute(0, 3, 1, 2))}, {},
                    prompts=ours.of_prompts(texts))  # fmt: skip
    model, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip)
    both = processor(text=texts, images=list(images), padding="max_length", return_tensors="pt")
    with torch.no_grad():
        scaled = model.eval()(**both).logits_per_image.diagonal().double()
    expected = (scaled / model.logit_scale.exp()).mean().item()
    assert compute(["clip"], inputs)["clip"] == pytest.approx(expected, abs=1e-6)


def test_a_record_has_the_clip_score_of_a_run(clip, tmp_path):
    save_random_inception(tmp_path / "inception.pth")
    texts = ["a tench", "b", "a church"]
    run = {"prompts": prompts.sha256(texts)}
    folder = ShardFolder(tmp_path / "samples", run, 4,
                         notes={prompts.FILE: prompts.encoded(texts)})  # fmt: skip
    images = pictures(4, (64, 64))
    folder.mark(4)
    folder.write(0, images, np.array([0, 1, 2, 0]))
    settings = [f"eval.weights={tmp_path}/inception.pth", f"eval.clip={clip}", f"runs={tmp_path}",
                f"eval.reference={tmp_path}/samples", f"eval.cache={tmp_path}"]  # fmt: skip
    config = compose("evaluate", "eval=coco", *settings, "eval.metrics=[clip]")
    evaluator = Evaluator(config.eval, CPU)
    record = evaluator.record(folder, 4, ResultStore(tmp_path / "records"))
    ours = Clip(str(clip))
    found = ours(torch.from_numpy(prepare.bk_sdm(images)).permute(0, 3, 1, 2))
    cosines = torch.cosine_similarity(found, ours.of_prompts([*texts, texts[0]]))
    assert record["metrics"]["clip"] == pytest.approx(cosines.mean().item(), abs=1e-6)
    assert record["protocol"]["prepare"] == "bk-sdm"
    assert record["protocol"]["clip"] == ours.identity
    (tmp_path / "samples" / prompts.FILE).write_text("a\nb\nc\n")
    with pytest.raises(InputError, match="prompts.txt is missing or not what the images were"):
        evaluator.record(folder, 4, ResultStore(tmp_path / "others"))


def test_the_documented_command_makes_the_reference_of_coco(clip, tmp_path):
    save_random_inception(tmp_path / "inception.pth")
    (tmp_path / "photographs").mkdir()
    for number, image in enumerate(pictures(3, (270, 300))):
        Image.fromarray(image).save(tmp_path / "photographs" / f"{number}.png")
    settings = ["eval=coco", f"eval.weights={tmp_path}/inception.pth", f"eval.clip={clip}",
                f"eval.reference={tmp_path}/reference.safetensors"]  # fmt: skip
    photographs = [f"images.path={tmp_path}/photographs", "images.resize=256"]
    code, _, errors = run("reference", *settings, *photographs, "images.prepare=bk-sdm")
    assert code == 0, errors
    reference = Evaluator(compose("evaluate", *settings).eval, CPU).reference
    assert reference.features.shape == (3, 2048)


def test_an_evaluation_without_a_data_set_needs_images_for_its_reference():
    line = refusal("reference", "eval=imagenet")
    assert "images is not set" in line and "give the real images with images=PATH" in line


def test_clip_needs_weights_that_are_there(tmp_path):
    with pytest.raises(InputError, match="eval.clip is not set"):
        Clip(None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no .safetensors"):
        Clip(str(tmp_path / "empty"))
    save_random_inception(tmp_path / "inception.pth")
    with pytest.raises(InputError, match="eval.clip is not set"):
        create_extractor("inception-clip", tmp_path / "inception.pth")


def test_agreement_is_the_share_that_is_classified_as_what_the_prompt_names(tmp_path):
    zoo = models.load_zoo("fashion")
    sampler = samplers.create("ddim", steps=10, schedule=zoo.schedule)
    allocation = stitch.Allocation.from_fractions({"DiT-B": 1.0}, steps=10)
    labels = list(range(10)) * 2
    images = stitch.sample(zoo, sampler, allocation, labels=labels, guidance_scale=3.0)
    images = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))  # the miniature's margin
    scores = []
    for shift in (0, 1):
        texts = [f"a photo of {WORDS[(label + shift) % 10][0]}s" for label in range(10)]
        folder = ShardFolder(
            tmp_path / str(shift), {"prompts": prompts.sha256(texts)}, 20,
            notes={prompts.FILE: prompts.encoded(texts)},
        )  # fmt: skip
        folder.mark(20)
        folder.write(0, images, np.array(labels))
        config = compose("evaluate", "eval=fashion-text", "eval.metrics=[agreement]").eval
        record = Evaluator(config, CPU).record(folder, 20, ResultStore(tmp_path / "records"))
        scores.append(record["metrics"]["agreement"])
    right, wrong = scores
    assert right >= 0.9 and wrong <= 1 - right
    assert right * 20 == round(right * 20)


def test_agreement_is_computed_on_any_device(tmp_path):
    """Logits stay in memory, whatever the device of all other features: here one without data."""
    texts = [f"a photo of a {words[0]}" for words in WORDS]
    folder = ShardFolder(
        tmp_path / "samples", {"prompts": prompts.sha256(texts)}, 10,
        notes={prompts.FILE: prompts.encoded(texts)},
    )  # fmt: skip
    folder.mark(10)
    folder.write(0, np.zeros((10, 32, 32, 1), np.uint8), np.arange(10))
    evaluator = Evaluator(
        compose("evaluate", "eval=fashion-text", "eval.metrics=[agreement]").eval, CPU
    )
    evaluator.device = torch.device("meta")
    # Ten equal images of ten prompts: one of them is right.
    assert evaluator.measure(open_images(folder.path), 10) == {"agreement": pytest.approx(0.1)}


def test_a_prompt_names_its_class_by_a_word_that_is_in_no_longer_one():
    texts = ["A photo of a T-shirt", "a shirt", "two dresses", "ankle boots on black", "a T shirt"]
    assert named_classes(texts, WORDS).tolist() == [0, 6, 3, 9, 0]


@pytest.mark.parametrize("text, named", [("a hat", "none"), ("a coat or a bag", "2")])
def test_a_prompt_that_names_no_class_or_several_is_refused(text, named):
    with pytest.raises(InputError, match=f"prompt 2, '{text}', names {named} of the classes"):
        named_classes(["a coat", text], WORDS)


def test_images_without_prompts_are_refused_before_their_features_are_taken(tmp_path):
    folder = ShardFolder(tmp_path / "samples", {"seed": 0}, 4)
    folder.mark(4)
    folder.write(0, np.zeros((4, 28, 28, 1), np.uint8), np.zeros(4, np.int64))
    evaluator = Evaluator(compose("evaluate", "eval=fashion-text").eval, CPU)
    with pytest.raises(InputError, match="have no prompts, which agreement need"):
        evaluator.check(open_images(tmp_path / "samples"), 4)


def test_samples_are_stored_as_jpeg_twice_and_resized_as_pil_does():
    (image,) = pictures(1, (512, 512))
    first, second = io.BytesIO(), io.BytesIO()
    Image.fromarray(image).save(first, "JPEG")
    Image.open(first).resize((256, 256)).save(second, "JPEG")
    assert (prepare.bk_sdm(image[None])[0] == np.asarray(Image.open(second))).all()


def test_photographs_of_a_reference_are_squeezed_and_stored_as_jpeg_once(tmp_path):
    photograph = pictures(1, (300, 400))[0]
    for number in range(2):
        Image.fromarray(photograph).save(tmp_path / f"{number}.png")
    settings = [f"images.path={tmp_path}", "images.resize=256", "images.prepare=bk-sdm"]
    images, facts = own_images(compose("reference", *settings).images)
    file = io.BytesIO()
    Image.fromarray(photograph).resize((256, 256)).save(file, "JPEG")
    assert (next(images.read(0, 1))[0] == np.asarray(Image.open(file))).all()
    assert facts["prepare"] == "bk-sdm"
    with pytest.raises(InputError, match="images.prepare=bk-sdm is of images.resize=256, not 64"):
        own_images(compose("reference", *settings, "images.resize=64").images)
