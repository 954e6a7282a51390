"""Time and peak memory of the metrics beside torch-fidelity's, each in a process of its own.

``python -m tests.measure.evaluation [threads] [--large]`` prints a table; docs/evaluation.md keeps
one. The features are random, of 2048 dimensions and rank 64 with noise, as Inception's roughly are.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import torch
from torch_fidelity import metric_fid
from torch_fidelity.metric_prc import prc_features_to_metric

from eval.metrics import frechet_distance, moments
from eval.precision_recall import precision_recall

# row -> (samples, references, a function of both and of the references' moments)
ROWS = {
    "FID-5K, ours": (5_000, 10_000, lambda a, b, m: frechet_distance(a, m)),
    "FID-5K, torch-fidelity": (5_000, 10_000, lambda a, b, m: _their_fid(a, m)),
    "FID's trace alone, ours": (10_000, 10_000, lambda a, b, m: frechet_distance(m, a)),
    "FID's trace alone, torch-fidelity": (10_000, 10_000, lambda a, b, m: _their_trace(a, m)),
    "P/R 10k x 10k, ours": (10_000, 10_000, lambda a, b, m: precision_recall(a, b)),
    "P/R 10k x 10k, ours as ADM (float16)": (
        10_000, 10_000, lambda a, b, m: precision_recall(a, b, distances="float16"),
    ),
    "P/R 10k x 10k, torch-fidelity": (10_000, 10_000, lambda a, b, m: _their_pr(a, b)),
}  # fmt: skip
LARGE = {
    "FID-50K, ours": (50_000, 10_000, lambda a, b, m: frechet_distance(a, m)),
    "FID-50K, torch-fidelity": (50_000, 10_000, lambda a, b, m: _their_fid(a, m)),
    "P/R 50k x 10k, ours": (50_000, 10_000, lambda a, b, m: precision_recall(a, b)),
}


def _features(count: int, seed: int) -> torch.Tensor:
    weight = torch.randn(64, 2048, generator=torch.Generator().manual_seed(0)) / 8
    generator = torch.Generator().manual_seed(seed)
    features = torch.empty(count, 2048)
    for part in features.split(1000):
        part.copy_(torch.randn(len(part), 64, generator=generator) @ weight).mul_(0.3).add_(0.4)
        part.add_(0.1 * torch.randn(part.shape, generator=generator)).clamp_(min=0)
    return features


def _statistics(found) -> dict:
    return {"mu": found.mean.numpy(), "sigma": found.covariance.numpy()}


def _their_fid(sample, reference) -> float:
    found = metric_fid.fid_features_to_statistics(sample)
    found["mu"] = found["mu"].astype("float64")
    found = metric_fid.fid_statistics_to_metric(found, _statistics(reference), verbose=False)
    return found["frechet_inception_distance"]


def _their_trace(sample, reference) -> float:
    both = _statistics(reference), _statistics(sample)
    return metric_fid.fid_statistics_to_metric(*both, verbose=False)["frechet_inception_distance"]


def _their_pr(sample, reference) -> tuple[float, float]:
    found = prc_features_to_metric(sample, reference, verbose=False)
    return found["precision"], found["recall"]


def _peak() -> float:
    """Largest resident memory of this process so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure(name: str) -> dict:
    """Run one row in this process."""
    samples, references, function = {**ROWS, **LARGE}[name]
    sample, reference = _features(samples, 1), _features(references, 2)
    is_pr = name.startswith("P/R")
    known = None if is_pr else moments(reference)
    if "trace" in name:
        sample = moments(sample)
    before = _peak()
    wall, cpu = time.perf_counter(), time.process_time()
    value = function(sample, reference, known)
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "before": before,
        "peak": _peak(),
        "value": value,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("threads", nargs="?", type=int, default=1)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--row")
    options = parser.parse_args()
    if options.row:
        torch.set_num_threads(options.threads)
        print(json.dumps(measure(options.row)))
        return
    threads = str(options.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    print("| | wall s | CPU s | peak GB | of it before | value |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    for name in [*ROWS, *LARGE] if options.large else ROWS:
        command = [sys.executable, "-m", "tests.measure.evaluation", threads, "--row", name]
        output = subprocess.run(command, env=environment, capture_output=True, check=True).stdout
        row = json.loads(output)
        numbers = " | ".join(f"{row[key]:.2f}" for key in ("wall", "cpu", "peak", "before"))
        print(f"| {name} | {numbers} | {row['value']} |", flush=True)


if __name__ == "__main__":
    main()
