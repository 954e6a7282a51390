"""The ImageNet zoo at its real size: ``python -m tests.measure.real_size FOLDER``.

Writes files as published with deterministic values into FOLDER (4 GB), samples images with them by
the real command, and prints time and peak memory of that and of loading DiT-XL/2 as Markdown.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from stitch.runs import devices
from stitch.runs.shards import open_folder
from tests.measure import recipe_weights

LOAD = """
import sys, threading, time, torch, models
def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) / 2**10
path, dtype = sys.argv[1], getattr(torch, sys.argv[2])
with torch.device("meta"):
    network = models.create("DiT-XL/2").to(dtype)
weights = sum(v.numel() * v.element_size() for v in network.state_dict().values()) / 2**20
own, before, done = [status("RssAnon")], status("VmHWM"), threading.Event()
def watch():
    while not done.wait(0.002):
        own.append(status("RssAnon"))
thread = threading.Thread(target=watch)
thread.start()
models.load_checkpoint(network, path)
done.set()
thread.join()
grown = max(own) - own[0]
whole = status("VmHWM") - before
print(f"{weights:.0f} MiB | {grown:.0f} MiB | {grown / weights:.2f} | {whole:.0f} MiB")
"""


def run(*arguments: str) -> tuple[float, float]:
    """Wall seconds and peak MiB of a Python process that must succeed."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - started, usage.ru_maxrss / 2**10


def main(folder: Path) -> None:
    overrides = recipe_weights.write("imagenet256-dit", folder / "published")
    xl = folder / "published" / "DiT-XL-2-256x256.pt"
    converted = folder / "DiT-XL-2.safetensors"
    if not converted.exists():
        run("-m", "scripts.convert", "network=DiT-XL/2", f"source={xl}", f"target={converted}")
    device = devices.name(torch.device("cpu"))
    print("# ImageNet 256 at its real size, on a CPU\n")
    print(
        "Published files cannot be shipped, so these were written with the golden recipe's values "
        "(`tests/measure/recipe_weights.py`): the code path is the real one, the images are noise. "
        f"Made by `python -m tests.measure.real_size FOLDER` on {device}, torch "
        f"{torch.__version__}.\n"
    )
    print("DiT-S/2 in the first half of the steps, DiT-XL/2 in the second; DDIM, guidance 1.5,")
    print("then the SD-VAE: 256x256 images by `python -m scripts.sample zoo=imagenet256-dit ...`\n")
    print("| precision | images | steps | seconds, all | seconds, sampling | peak memory |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for precision in ("fp32", "bf16"):
        samples = folder / f"samples-{precision}"
        settings = ["num_images=2", "batch_size=2", "shard_size=2", "allocation.small=0.5"]
        settings += ["sampler.steps=4", f"precision={precision}", f"samples={samples}"]
        settings += ["allocation.denoisers=[DiT-S,DiT-XL]"]
        for stale in samples.glob("*"):
            stale.unlink()
        seconds, peak = run("-m", "scripts.sample", *overrides, *settings)
        sampling = sum(timing["seconds"] for timing in open_folder(samples).timings())
        print(f"| {precision} | 2 | 4 | {seconds:.1f} | {sampling:.1f} | {peak:.0f} MiB |")
    print(
        "\nLoading DiT-XL/2: by how much the peak of the process's own memory grows. A `.pt` file "
        "is mapped, so while it is read its pages (cache, which the kernel takes back when it "
        "needs them) are seen in the process as well; the last column has both.\n"
    )
    print("| file | type | weights | own memory grew by | times the weights | with mapped pages |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for path in (xl, converted):
        for dtype in ("float32", "bfloat16"):
            arguments = [sys.executable, "-c", LOAD, str(path), dtype]
            line = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
            print(f"| `{path.suffix}` | {dtype} | {line.strip()} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
