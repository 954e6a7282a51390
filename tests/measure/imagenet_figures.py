"""Every ImageNet figure and table: ``python -m tests.measure.imagenet_figures FOLDER``.

Networks of the real sizes with deterministic values, an Inception with random ones, two steps and
two images: what it draws says nothing of quality, only that the way from weights to pictures is
whole. About 8 GB are written to FOLDER; it takes half an hour on two cores. Figure 10 with its 134
stitches is left out. Further arguments go to ``scripts.figures``.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

from scripts.cli import with_figures
from tests.inception import save_random_inception
from tests.measure.recipe_weights import write

ZOOS = ("imagenet256-dit", "imagenet256-ldm", "imagenet256-dit-uvit")


def main(folder: Path, *more: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for zoo in ZOOS:
        write(zoo, folder / "weights")
    inception, reference = folder / "inception.pth", folder / "reference.npz"
    if not reference.exists():
        save_random_inception(inception)
        images = np.random.default_rng(0).integers(0, 256, (16, 256, 256, 3), dtype=np.uint8)
        np.savez(reference, images)
    (figures,) = with_figures("figures", ["figure=all"])
    command = [
        sys.executable, "-m", "scripts.figures", figures.replace("fig10,", ""), f"zoo={ZOOS[0]}",
        f"zoo.checkpoints={folder / 'weights'}", f"runs={folder / 'runs'}", "run=true",
        "sampler.steps=2", "num_images=2", "batch_size=2", "shard_size=2", "precision=bf16",
        f"eval.weights={inception}", f"eval.reference={reference}", "eval.neighbours=1",
        "eval.metrics=[fid,is,precision,recall]", f"eval.cache={folder / 'cache'}", *more,
    ]  # fmt: skip
    print(" ".join(command[1:]), flush=True)
    sys.exit(subprocess.run(command).returncode)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *sys.argv[2:])
