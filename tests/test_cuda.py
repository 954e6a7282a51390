"""What only a GPU can show. Where there is none, these tests are reported as skipped."""

import contextlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

import models
import samplers
import stitch
from eval.evaluator import Evaluator
from eval.features import create_extractor, extract
from eval.images import open_images
from eval.metrics import moments
from eval.precision_recall import precision_recall
from models.compile import compile_forward
from models.training import ema
from models.training.loop import batch_indices
from samplers.objective import DenoiserObjective
from stitch.runs import batch_size, build, memory, prompts
from stitch.runs.shards import ShardFolder, folder_digest, open_folder
from stitch.runs.warmup import prepare
from tests import ROOT
from tests.commands import compose
from tests.measure.difference import FAR, MOST_FAR
from tests.measure.launch import kill_and_finish

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

CUDA = torch.device("cuda", 0)
STEPS = 4
ALLOCATION = stitch.Allocation.from_fractions({"DiT-S": 0.5, "DiT-XL": 0.5}, STEPS)


@pytest.fixture(autouse=True)
def compiled_anew():
    """Compiled code outlives its network, and torch keeps only so much of one function."""
    yield
    torch.compiler.reset()


@contextlib.contextmanager
def host_must_not_wait():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def fashion(device="cuda", dtype=torch.float32):
    return models.load_zoo("fashion", device, dtype)


def sampled(zoo, indices, name="ddim"):
    """Images of global indices, in one batch."""
    sampler = samplers.create(name, STEPS, zoo.schedule)
    labels = [index % 10 for index in indices]
    return stitch.sample(zoo, sampler, ALLOCATION, labels, guidance_scale=1.5, indices=indices)


def compiled(zoo, rows: int, names=("DiT-S", "DiT-XL")):
    """The zoo with some of its denoisers compiled for ``rows`` images."""
    for name in names:
        network = zoo.denoisers[name]
        x = torch.zeros(rows, *network.spec.latent_shape, device="cuda")
        labels = torch.zeros(rows, dtype=torch.int64, device="cuda")
        compile_forward(network, x, torch.full((1,), 500.0, device="cuda"), labels)
    return zoo


def is_rounding(images, others) -> bool:
    return (abs(images.astype(int) - others.astype(int)) > FAR).mean() <= MOST_FAR


# ---- images ----


def test_images_of_a_gpu_are_those_of_a_cpu_up_to_rounding():
    assert is_rounding(*(sampled(fashion(device), range(64)) for device in ("cpu", "cuda")))


def test_the_same_images_are_the_same_to_the_bit():
    assert (sampled(fashion(), range(16)) == sampled(fashion(), range(16))).all()


def test_another_batch_size_changes_rounding_only():
    zoo = fashion()
    together = sampled(zoo, range(64))
    for start in range(0, 64, 8):
        few = range(start, start + 8)
        assert is_rounding(sampled(zoo, few), together[start : start + 8])


def test_a_rank_under_nccl_that_is_killed_and_started_again_gives_the_same_to_the_bit(tmp_path):
    settings = ["sampler.steps=50", "num_images=400", "batch_size=8", "shard_size=8"]
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    command = [sys.executable, "-m", "scripts.sample", *settings, f"samples={alone}"]
    subprocess.run(command, cwd=ROOT, check=True)
    assert kill_and_finish(settings, killed, processes=1) > 0
    digests = [folder_digest(open_folder(folder), 400) for folder in (alone, killed)]
    assert digests[0] == digests[1]


# ---- the host never waits ----


@pytest.mark.parametrize(
    "others",
    [[], ["cache=forecast", "cache.interval=2"], ["compile=true"]],
    ids=["", "cached", "compiled"],
)
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm_solver", "pndm", "heun", "unipc"])
def test_the_host_never_waits_for_what_it_launches(sampler, others):
    config = compose("sample", f"sampler={sampler}", "sampler.steps=4", "batch_size=8", *others)
    run = build.create(config, build.load_zoo(config, CUDA))
    prepare(run)
    expected, _ = run.images(range(8))  # loads kernels
    with host_must_not_wait():
        wait = run.launch(range(8))
        wait_for_next = run.launch(range(8, 16))
    images, labels = wait()
    assert np.array_equal(images, expected) and labels == run.labels(range(8))
    assert wait_for_next()[0].shape == images.shape


def test_a_probe_foresees_how_memory_grows():
    zoo = models.load_zoo("fashion", CUDA)
    per_image = batch_size._probed(zoo, "DiT-XL")
    network = zoo.denoisers["DiT-XL"]

    @torch.no_grad()
    def evaluate(rows):
        x = torch.zeros(rows, *network.spec.latent_shape, device=CUDA)
        network(x, torch.zeros(1, device=CUDA), torch.zeros(rows, dtype=torch.long, device=CUDA))

    few, many = (memory.peak_during(lambda n=n: evaluate(n), CUDA) for n in (256, 512))
    assert (many - few) / 128 == pytest.approx(per_image, rel=0.25)  # guided: two rows an image


def test_the_host_never_waits_inside_a_training_step():
    device = torch.device("cuda")
    sizes = dict(latent_shape=(4, 8, 8), width=32, depth=2, num_heads=2, num_classes=5)
    network, average = (models.create("DiT", **sizes).to(device) for _ in range(2))
    mean = torch.randn(2, 50, 4, 8, 8, device=device)
    labels = torch.arange(50) % 5
    objective = DenoiserObjective(network, mean, mean.abs(), labels, 0.1, None, "min-snr-5")
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True)

    def step(number: int) -> None:
        generator = torch.Generator(device).manual_seed(number)
        batch = objective.batch(batch_indices(0, 8 * number, 8, 50, device), generator)
        with torch.autocast("cuda", torch.bfloat16):
            losses = objective(*batch)
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(average, network, 0.9)

    step(0)
    with host_must_not_wait():
        step(1)


# ---- compiled networks are CUDA graphs ----


@pytest.mark.parametrize("name", ["ddim", "dpm_solver"])
def test_graphs_that_take_turns_give_what_the_networks_give(name):
    """dpm_solver keeps a prediction while the next graph runs, which may overwrite its own."""
    expected = sampled(fashion(), range(8), name)
    skips = counters["inductor"]["cudagraph_skips"]
    zoo = compiled(fashion(), 16)
    first = sampled(zoo, range(8), name)
    assert counters["inductor"]["cudagraph_skips"] == skips
    assert is_rounding(first, expected)
    assert (sampled(zoo, range(8), name) == first).all()


def test_the_last_batch_of_graphs_is_padded_and_its_images_are_those_of_a_whole_one():
    words = ["batch_size=8", "shard_size=8", "num_images=11", "compile=true", "precision=bf16"]
    words += ["sampler.steps=4", "allocation.denoisers=[DiT-S,DiT-XL]", "allocation.small=0.5"]
    config = compose("sample", *words)
    run = build.create(config, build.load_zoo(config, torch.device("cuda")))
    prepare(run)
    whole, _ = run.images(range(8, 16))
    few, labels = run.images(range(8, 11))
    assert len(few) == len(labels) == 3
    assert (few == whole[:3]).all()


@torch.no_grad()
def test_graphs_share_their_memory():
    """The second of two equal networks takes hardly any for its graph."""

    def reserved() -> int:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # what belongs to graphs is kept
        return torch.cuda.memory_reserved()

    zoos = [fashion() for _ in range(2)]
    for zoo in zoos:
        zoo.denoisers["DiT-XL"]  # weights are not counted
    before = reserved()
    compiled(zoos[0], 1000, ["DiT-XL"])
    one = reserved() - before
    compiled(zoos[1], 1000, ["DiT-XL"])
    both = reserved() - before
    assert one > 0
    assert both < 1.5 * one


# ---- eight bits ----


@torch.no_grad()
@pytest.mark.parametrize("quantisation, error", [("int8", 5e-4), ("fp8", 2e-3)])
@pytest.mark.parametrize("name", ["DiT-S", "DiT-XL", "U-ViT"])
def test_products_of_eight_bits_give_nearly_the_same(name, quantisation, error):
    """The fashion zoo's DiT-S has a width of 56, which GPUs multiply in fp8 once filled up."""
    if quantisation == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no fp8")
    card = fashion().card
    zoos = [models.Zoo(card, "cuda", torch.bfloat16, q) for q in (None, quantisation)]
    x = torch.randn(16, 4, 7, 7, generator=torch.Generator().manual_seed(0)).cuda()
    arguments = x, torch.tensor([400.0], device="cuda"), torch.arange(16, device="cuda") % 10
    expected, eager = (zoo.denoisers[name](*arguments) for zoo in zoos)
    outputs = [eager]
    if name == "DiT-S":  # compiling takes longer than all else
        outputs.append(compiled(zoos[1], 16, [name]).denoisers[name](*arguments))
    for output in outputs:
        relative = (output - expected).square().mean() / expected.square().mean()
        assert 0 < relative < error


# ---- metrics ----


def test_moments_of_a_gpu_are_those_of_a_cpu():
    features = torch.randn(3000, 64, generator=torch.Generator().manual_seed(0))
    here, there = moments(features), moments(features.to(CUDA))
    assert there.mean.device.type == "cpu"
    torch.testing.assert_close(tuple(there), tuple(here), rtol=1e-10, atol=1e-12)


def test_precision_and_recall_on_a_gpu_are_those_on_a_cpu():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(3000, 64, generator=generator), torch.randn(2500, 64, generator=generator)
    for distances in ("float32", "float16"):
        found = precision_recall(a.cuda(), b.cuda(), distances=distances)
        assert found == pytest.approx(precision_recall(a, b, distances=distances), abs=2e-3)


def test_features_on_a_gpu_are_those_on_a_cpu_up_to_rounding():
    weights = fashion().checkpoint("classifier")
    images = sampled(fashion(), range(64))
    batch = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    cpu, gpu = (
        extract(create_extractor("fashion-classifier", weights, device), [batch])
        for device in ("cpu", "cuda")
    )
    for kind, expected in cpu.items():
        assert torch.allclose(gpu[kind], expected, atol=1e-3, rtol=1e-3)


def test_prompt_agreement_is_computed_of_features_on_a_gpu(tmp_path):
    texts = ["a bag", "a coat"]
    run = {"prompts": prompts.sha256(texts)}
    folder = ShardFolder(tmp_path, run, 4, notes={prompts.FILE: prompts.encoded(texts)})
    folder.mark(4)
    folder.write(0, np.zeros((4, 32, 32, 1), np.uint8), np.array([0, 1, 0, 1]))
    wanted = compose("evaluate", "eval=fashion-text", "eval.metrics=[fid,agreement]").eval
    found = Evaluator(wanted, CUDA).measure(open_images(tmp_path), 4)
    assert found["agreement"] in (0, 0.5)  # four equal images of two prompts
