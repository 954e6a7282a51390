"""Speed of denoisers: against matrix products, along trajectories, operator by operator.

Weights that are not there are random ones, which cost the same.
"""

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

import stitch
from eval.speed import operators, timing
from eval.speed.variants import chosen, denoiser_variant, example
from models.quantise import QUANTISATIONS
from samplers import Guidance
from stitch.runs import build, devices, matmul
from stitch.sampling import sample_latents


def network(config: DictConfig, device: torch.device) -> list[dict]:
    """Every denoiser in every variant, and the rate of matrix products of the same precision.

    Products are measured before the networks and after them, and the best counts. Quantised
    variants have no share: their products are of another type.
    """
    zoo = build.load_zoo(config, device)
    rows, tasks, work = [], {}, {}
    precisions = dict.fromkeys(variant.split("+")[0] for variant in config.variants)

    def rates() -> dict[str, float]:
        types = {precision: devices.dtype(precision, device) for precision in precisions}
        return {
            precision: matmul.sustained_rate(
                matmul.products(dtype, device), config.repetitions, device
            )
            for precision, dtype in types.items()
        }

    for variant in config.variants:
        precision = variant.split("+")[0]
        for name in chosen(config, zoo):
            denoiser, compile_s = denoiser_variant(zoo, name, variant, config, device)
            inputs = example(denoiser, config.batch_size, device)
            tasks[f"{name} {variant}"] = lambda d=denoiser, i=inputs: d(*i)
            work[f"{name} {variant}"] = (name, variant, precision, compile_s)
    before = rates()
    seconds = timing.in_turn(tasks, config.repetitions, device)
    after = rates()
    for task, (name, variant, precision, compile_s) in work.items():
        times = timing.summary(seconds[task])
        rate = max(before[precision], after[precision])
        reached = 2 * zoo.macs(name) * config.batch_size / (times["median_ms"] / 1e3)
        quantised = any(word in QUANTISATIONS for word in variant.split("+"))
        rows.append(
            {
                "denoiser": name,
                "variant": variant,
                "batch": config.batch_size,
                **times,
                "gflops": reached / 1e9,
                "matmul_gflops": rate / 1e9,
                "share_of_matmul": "" if quantised else timing.share(task, reached, rate),
                "compile_s": compile_s,
            }
        )
    return rows


def profile(config: DictConfig, device: torch.device) -> list[dict]:
    """Operators of every denoiser in every variant."""
    zoo = build.load_zoo(config, device)
    operators.kernel_names()
    rows = []
    for variant in config.variants:
        for name in chosen(config, zoo):
            denoiser, _ = denoiser_variant(zoo, name, variant, config, device)
            inputs = example(denoiser, config.batch_size, device)
            denoiser(*inputs)
            found = operators.operators(denoiser, inputs, config.repetitions, device)
            kind = {"denoiser": name, "variant": variant, "batch": config.batch_size}
            rows += [{**kind, **row} for row in found]
    return rows


def trajectory(config: DictConfig, device: torch.device) -> list[dict]:
    """Time per image at every fraction of the smallest denoiser in the largest, decoded images not
    counted; stitch efficiency is the measured speed-up as a share of that of the MACs."""
    zoo = build.load_zoo(config, device)
    names = chosen(config, zoo)
    pair = [names[0], names[-1]]
    variant = config.precision + ("+compile" if config.compile else "")
    guidance = Guidance(config.guidance.scale, zoo.guidance_channels)
    rows = config.batch_size * (1 if guidance.scale == 1 else 2)
    networks = {
        name: denoiser_variant(zoo, name, variant, config, device, rows)[0] for name in pair
    }
    sampler, _ = build.create_sampler(config, zoo)
    labels = torch.arange(config.batch_size, device=device) % zoo.num_classes
    tasks, evaluations, within = {}, {}, {}

    def walk(allocation: stitch.Allocation, watches: list[timing.Stopwatch]) -> None:
        watches.append(timing.Stopwatch(device))
        timed = {name: Timed(network, watches[-1]) for name, network in networks.items()}
        sample_latents(timed, sampler, allocation, labels, guidance, 0, range(len(labels)))

    for fraction in config.fractions:
        split = {pair[0]: fraction, pair[1]: 1 - fraction}
        allocation = stitch.Allocation.from_fractions(split, len(sampler.timesteps))
        within[fraction] = []
        tasks[fraction] = lambda a=allocation, w=within[fraction]: walk(a, w)
        log_snr = sampler.schedule.log_snr(sampler.timesteps)
        steps = stitch.evaluations(allocation, guidance, log_snr)
        macs = sum(zoo.macs(name) for step in steps for name in step)
        evaluations[fraction] = str(allocation), macs
    seconds = timing.in_turn(tasks, config.repetitions, device)
    results = []
    slowest = max(evaluations, key=lambda fraction: evaluations[fraction][1])
    for fraction, (allocation, macs) in evaluations.items():
        times = timing.summary([second / config.batch_size for second in seconds[fraction]])
        speed_up = sum(seconds[slowest]) / sum(seconds[fraction])
        ideal = evaluations[slowest][1] / macs
        # The first walk, to warm up, is not timed.
        inside = sum(watch.seconds() for watch in within[fraction][1:])
        results.append(
            {
                "fraction": fraction,
                "allocation": allocation,
                "variant": variant,
                "batch": config.batch_size,
                **times,
                "gmacs_per_image": macs / 1e9,
                "speed_up": speed_up,
                "ideal_speed_up": ideal,
                "stitch_efficiency": speed_up / ideal,
                "outside_networks": 1 - inside / sum(seconds[fraction]),
            }
        )
    return results


class Timed(nn.Module):
    """A denoiser whose calls a stopwatch times."""

    def __init__(self, denoiser: nn.Module, watch: timing.Stopwatch):
        super().__init__()
        self.denoiser, self.spec, self.watch = denoiser, denoiser.spec, watch

    def forward(self, *arguments: Tensor) -> Tensor:
        with self.watch:
            return self.denoiser(*arguments)
