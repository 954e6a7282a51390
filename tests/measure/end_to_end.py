"""From noise to FID, and what each stage takes: ``python -m tests.measure.end_to_end FOLDER ...``.

Samples a run, stores it and measures it as ``scripts.sweep`` does, once everything is loaded and
compiled, and prints images per second and shares as Markdown. ``...`` are settings of
``scripts.sweep``; the default is FID-5K of imagenet256-dit at 40 % DiT-S. Files that cannot be
shipped are made up in FOLDER (3.3 GB): the networks have the golden recipe's values, Inception
random ones, the reference is noise. The time is the real one, the metrics say nothing.
"""

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig

from eval.evaluator import Evaluator
from eval.experiments import record_store
from eval.extraction import as_batch
from eval.features import extract
from eval.images import ShardImages
from eval.reference import save_reference
from eval.speed import timing
from models.files import sha256_of
from stitch.runs import build, devices, provenance
from stitch.runs.generate import sample_missing
from stitch.runs.run import Run
from stitch.runs.warmup import prepare
from tests.commands import compose
from tests.inception import save_random_inception
from tests.measure import recipe_weights

SETTINGS = [
    "zoo=imagenet256-dit", "allocation.denoisers=[DiT-S,DiT-XL]", "allocation.small=0.4",
    "sampler.steps=100", "guidance.scale=1.5", "num_images=5000", "batch_size=64",
    "shard_size=512", "precision=bf16", "compile=true",
]  # fmt: skip


def merged(*settings: str) -> list[str]:
    """The default settings and others, of which the last of a name counts."""
    return list({word.partition("=")[0]: word for word in [*SETTINGS, *settings]}.values())


def made_up(settings: Sequence[str], folder: Path) -> list[str]:
    """Settings that name files below ``folder``, which are written unless they are there.

    A shipped zoo has its own.
    """
    config = compose("sweep", *settings)
    if "files" not in config.zoo:
        return []
    weights = folder / "weights"
    found = recipe_weights.write(config.zoo.name, weights, config.allocation.denoisers)
    inception, reference = folder / "inception.pth", folder / "reference.safetensors"
    if not inception.exists():
        save_random_inception(inception)
    if not reference.exists():
        generator = torch.Generator().manual_seed(0)
        widths = {"features": 2048, "spatial": 2023}
        features = {kind: torch.randn(10_000, n, generator=generator) for kind, n in widths.items()}
        facts = {"extractor_sha256": sha256_of(inception)}
        save_reference(reference, features, 10_000, facts, torch.float32)
    return [*found, f"eval.weights={inception}", f"eval.reference={reference}"]


def alone(run: Run, device: torch.device) -> tuple[float, float]:
    """Seconds per image of the networks and the sampler, and of decoding, by themselves."""
    batch = range(run.batch_size)
    tasks = {"walk": lambda: run.walk(batch), "images": lambda: run.images(batch)}
    seconds = timing.in_turn(tasks, 1, device)
    (walk,), (images,) = seconds.values()
    return walk / len(batch), (images - walk) / len(batch)


def measure(config: DictConfig, device: torch.device) -> tuple[Run, dict[str, float]]:
    """The run, and stage -> seconds that it took; ``all`` is from the first noise to the record."""
    run = build.create(config, build.load_zoo(config, device))
    evaluator = Evaluator(config.eval, device)
    evaluator.reference  # noqa: B018  read before time is taken
    prepare(run)
    walk, decode = alone(run, device)
    first, _ = run.images(range(run.batch_size))
    extract(evaluator.extractor, [as_batch(first)])  # loads its kernels
    began = time.perf_counter()
    sample_missing(run)
    stored = time.perf_counter()
    images = ShardImages(run.samples)
    seen = evaluator.start(images, run.num_images).whole()
    taken = time.perf_counter()
    evaluator.add(images, run.num_images, seen, record_store(config), run.cost())
    done = time.perf_counter()
    # A padded last batch is computed whole.
    computed = -(-run.num_images // run.batch_size) * run.batch_size
    stages = {"sampling": walk * computed, "decoding": decode * computed}
    stages["storing, where sampling waits for it"] = stored - began - sum(stages.values())
    stages |= {"features": taken - stored, "metrics": done - taken, "all": done - began}
    return run, stages


def main(folder: Path, *settings: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    runs = folder / "runs"
    shutil.rmtree(runs, ignore_errors=True)  # what is there would not be made
    files = made_up(merged(*settings), folder)
    overrides = merged(*settings, *files, f"runs={runs}", f"eval.cache={folder}")
    device = devices.start()
    run, stages = measure(compose("sweep", *overrides), device)
    whole, rate = stages.pop("all"), run.num_images / stages["sampling"]
    print(f"`python -m tests.measure.end_to_end FOLDER {' '.join(merged(*settings))}`\n")
    print(f"{devices.name(device)}, torch {torch.__version__}, commit {provenance.commit()}\n")
    print("| stage | seconds | share |\n| --- | ---: | ---: |")
    for stage, seconds in stages.items():
        print(f"| {stage} | {seconds:.2f} | {seconds / whole:.1%} |")
    print(
        f"\n{run.num_images} images in {whole:.1f} s: {run.num_images / whole:.2f} images/s, "
        f"{run.num_images / whole / rate:.0%} of the speed of sampling alone ({rate:.2f})"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *sys.argv[2:])
