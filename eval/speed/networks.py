"""Measure speed: ``python -m scripts.bench network zoo=imagenet256-dit batch_size=16``.

``network``: every denoiser against the machine's own matrix products; ``trajectory``: what
stitching gains of what it could; ``peers``: the same weights and steps in other libraries;
``profile``: the operators that a network call spends its time in; ``scaling``: more processes;
``latency``: scripts.latency by another name. Weights that are not there are random ones, which cost
the same.
"""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import json
import logging
import sys
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch import Tensor, nn

import models
import samplers
import stitch
from models.compile import CompileError, compile_forward
from models.dit import DiT
from models.errors import InputError
from models.quantise import QUANTISATIONS, quantise
from samplers import Guidance
from scripts import bench_metrics, bench_peers, bench_profile, bench_scaling, launch, memory, timing
from scripts import job as jobs
from scripts.cli import command
from scripts.provenance import refuse_unclean
from stitch.sampling import sample_latents

log = logging.getLogger("bench")

PEERS = ("diffusers", "torch-fidelity")
CONVENTION = "GFLOP = 2 x multiply-accumulates of matrix products, convolutions and attention"


@command("bench")
def main(config: DictConfig) -> None:
    if config.bench not in _BENCHES:
        raise InputError(f"bench={config.bench} is unknown; known: {', '.join(_BENCHES)}")
    refuse_unclean("results", config.results)
    device = launch.start()
    facts = timing.machine(device)
    if facts["load_average"] > timing.BUSY:
        log.warning(
            "the machine is loaded (load average %.1f on %d cores): times will spread",
            facts["load_average"],
            facts["cores"],
        )
    with torch.no_grad():
        rows = _BENCHES[config.bench](config, device)
    rows = [{"bench": config.bench, "zoo": config.zoo.name, **row} for row in rows]
    spread = max(row.get("spread", 0.0) for row in rows)
    if spread > 0.1:
        log.warning("times spread by up to %.0f %%: measure again on an idle machine", 100 * spread)
    folder = Path(config.results)
    folder.mkdir(parents=True, exist_ok=True)
    peers_of_it = config.peers if config.bench == "peers" else []
    stem = folder / "-".join(
        [config.bench, *peers_of_it, config.zoo.name, *(config.denoisers or [])]
    )
    settings = [s for s in HydraConfig.get().overrides.task if not s.startswith("results=")]
    result = {
        "command": " ".join(["python -m scripts.bench", *settings]),
        "machine": facts,
        "convention": CONVENTION,
        "repetitions": config.repetitions,
        "rows": rows,
    }
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(markdown(result))
    print(markdown(result))
    log.info("%s", stem.with_suffix(".md"))


def network(config: DictConfig, device: torch.device) -> list[dict]:
    """Every denoiser in every variant, and the rate of matrix products of the same precision.

    Products are measured before the networks and after them, and the best counts. Quantised
    variants have no share: their products are of another type.
    """
    zoo = jobs.load_zoo(config, device)
    rows, tasks, work = [], {}, {}
    precisions = dict.fromkeys(variant.split("+")[0] for variant in config.variants)

    def rates() -> dict[str, float]:
        types = {precision: launch.dtype(precision, device) for precision in precisions}
        return {
            precision: timing.sustained_rate(
                timing.products(dtype, device), config.repetitions, device
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
    zoo = jobs.load_zoo(config, device)
    bench_profile.kernel_names()
    rows = []
    for variant in config.variants:
        for name in chosen(config, zoo):
            denoiser, _ = denoiser_variant(zoo, name, variant, config, device)
            inputs = example(denoiser, config.batch_size, device)
            denoiser(*inputs)
            found = bench_profile.operators(denoiser, inputs, config.repetitions, device)
            kind = {"denoiser": name, "variant": variant, "batch": config.batch_size}
            rows += [{**kind, **row} for row in found]
    return rows


def trajectory(config: DictConfig, device: torch.device) -> list[dict]:
    """Time per image at every fraction of the smallest denoiser in the largest, decoded images not
    counted; stitch efficiency is the measured speed-up as a share of that of the MACs."""
    zoo = jobs.load_zoo(config, device)
    names = chosen(config, zoo)
    pair = [names[0], names[-1]]
    variant = config.precision + ("+compile" if config.compile else "")
    guidance = Guidance(config.guidance.scale, zoo.guidance_channels)
    rows = config.batch_size * (1 if guidance.scale == 1 else 2)
    denoisers, inside = {}, [0.0]
    for name in pair:
        denoiser, _ = denoiser_variant(zoo, name, variant, config, device, rows)
        denoisers[name] = Timed(denoiser, inside, device)
    settings = dict(config.sampler)
    sampler = samplers.create(schedule=zoo.schedule, **settings)
    labels = torch.arange(config.batch_size, device=device) % zoo.num_classes
    tasks, evaluations, within = {}, {}, {}

    def walk(allocation: stitch.Allocation, share: list[float]) -> None:
        inside[0] = 0.0
        sample_latents(denoisers, sampler, allocation, labels, guidance, 0, range(len(labels)))
        share.append(inside[0])

    for fraction in config.fractions:
        split = {pair[0]: fraction, pair[1]: 1 - fraction}
        allocation = stitch.Allocation.from_fractions(split, len(sampler.timesteps))
        task, within[fraction] = str(allocation), []
        tasks[task] = lambda a=allocation, s=within[fraction]: walk(a, s)
        log_snr = sampler.schedule.log_snr(sampler.timesteps)
        steps = stitch.evaluations(allocation, guidance, log_snr)
        evaluations[fraction] = task, sum(zoo.macs(name) for step in steps for name in step)
    seconds = timing.in_turn(tasks, config.repetitions, device)
    results = []
    slowest = max(evaluations.values(), key=lambda entry: entry[1])
    for fraction, (task, macs) in evaluations.items():
        times = timing.summary([second / config.batch_size for second in seconds[task]])
        speed_up = sum(seconds[slowest[0]]) / sum(seconds[task])
        results.append(
            {
                "fraction": fraction,
                "allocation": task,
                "variant": variant,
                "batch": config.batch_size,
                **times,
                "gmacs_per_image": macs / 1e9,
                "speed_up": speed_up,
                "ideal_speed_up": slowest[1] / macs,
                "stitch_efficiency": speed_up / (slowest[1] / macs),
                # The first walk, to warm up, is not timed.
                "outside_networks": 1 - sum(within[fraction][1:]) / sum(seconds[task]),
            }
        )
    return results


def peers(config: DictConfig, device: torch.device) -> list[dict]:
    """Other libraries with the same weights, steps and features, in turn with ours."""
    unknown = [peer for peer in config.peers if peer not in PEERS]
    if unknown:
        raise InputError(f"peers: {', '.join(unknown)} is unknown; known: {', '.join(PEERS)}")
    rows = []
    zoo = jobs.load_zoo(config, device)
    for peer in config.peers:
        if peer == "torch-fidelity":
            rows += bench_metrics.rows(config.features, config.repetitions)
            continue
        for name in chosen(config, zoo):
            rows += diffusers_rows(config, zoo, name, device)
    return rows


def diffusers_rows(config: DictConfig, zoo: models.Zoo, name: str, device) -> list[dict]:
    """One denoiser: a network call, and a guided DDIM trajectory, ours and diffusers'."""
    tasks, batch = {}, config.batch_size
    for variant in config.variants:
        # Diffusers' timestep frequencies, so that the results can agree.
        ours, _ = denoiser_variant(zoo, name, variant, config, device, 2 * batch, shift=1)
        theirs = bench_peers.diffusers_dit(weighted(zoo, name, device), variant)
        tasks |= bench_peers.diffusers_tasks(config, ours, theirs, variant, zoo.guidance_channels)
    seconds = timing.in_turn(tasks, config.repetitions, device)
    rows = []
    for task, times in seconds.items():
        who, what, variant = task
        best = min(
            timing.summary(seconds[other])["median_ms"]
            for other in seconds
            if other[0] != who and other[1] == what
        )
        found = timing.summary(times)
        rows.append(
            {
                "denoiser": name,
                "library": who,
                "what": what,
                "variant": variant,
                "batch": batch,
                **found,
                "speed_up_over_best_of_other": best / found["median_ms"],
            }
        )
    return rows


def chosen(config: DictConfig, zoo: models.Zoo) -> list[str]:
    """The denoisers to measure.

    Raises:
        InputError: for one that the zoo has not.
    """
    names = list(config.denoisers or zoo.default_denoisers)
    unknown = [name for name in names if name not in zoo.denoisers]
    if unknown:
        known = ", ".join(zoo.denoisers)
        raise InputError(f"denoisers: zoo {zoo.name} has no {', '.join(unknown)}; known: {known}")
    return names


def weighted(zoo: models.Zoo, name: str, device: torch.device) -> nn.Module:
    """The denoiser in float32, a network of its own; random if its weights are not there."""
    network = zoo.skeleton(name).to_empty(device=device)
    if zoo.checkpoint(name).exists():
        models.load_checkpoint(network, zoo.checkpoint(name), zoo.file(name).ema, device)
    else:
        generator = torch.Generator(device).manual_seed(0)
        for tensor in [*network.parameters(), *network.buffers()]:
            tensor.normal_(0, 0.02, generator=generator)
    if isinstance(network, DiT):  # stored with more or less rounding, made anew by diffusers
        network.pos_embed.copy_(network.position_table())
    return network.eval().requires_grad_(False)


def denoiser_variant(
    zoo: models.Zoo,
    name: str,
    variant: str,
    config: DictConfig,
    device,
    rows: int | None = None,
    shift: int = 0,
) -> tuple[nn.Module, float]:
    """A denoiser in a precision, quantised and compiled for ``rows`` if the variant says so.

    Args:
        shift: of a DiT's timestep frequencies.

    Returns:
        The denoiser, and the seconds that compiling it took.

    Raises:
        InputError: if the variant is unknown, or it cannot be compiled here.
    """
    precision, *rest = variant.split("+")
    quantisation = [word for word in rest if word in QUANTISATIONS]
    if rest not in (quantisation[:1], [*quantisation[:1], "compile"]):
        raise InputError(
            f"variants: {variant} is unknown; say PRECISION, PRECISION+compile or "
            f"PRECISION+{'|'.join(QUANTISATIONS)}+compile"
        )
    dtype = launch.dtype(precision, device)
    check_fits(zoo, name, rows or config.batch_size, dtype)
    network = weighted(zoo, name, device).to(dtype)
    if shift:
        network.t_embedder.frequency_shift = shift  # before it is compiled
    if quantisation:
        quantise(network, quantisation[0])
    if "compile" not in rest:
        return network, 0.0
    try:
        inputs = example(network, rows or config.batch_size, device)
        return network, compile_forward(network, *inputs)
    except CompileError as error:
        raise InputError(f"variants: {variant} cannot be compiled here: {error}") from error


def example(network: nn.Module, rows: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments of a call with ``rows`` images."""
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(rows, *network.spec.latent_shape, generator=generator, device=device)
    t = torch.full((1,), 500.0, device=device)
    return x, t, torch.arange(rows, device=device) % max(1, network.spec.num_classes)


class Timed(nn.Module):
    """A denoiser that adds the seconds spent in it to ``inside[0]``."""

    def __init__(self, denoiser: nn.Module, inside: list[float], device: torch.device):
        super().__init__()
        self.denoiser, self.spec, self.inside, self.device = denoiser, denoiser.spec, inside, device

    def forward(self, *arguments: Tensor) -> Tensor:
        output, seconds = timing.timed(lambda: self.denoiser(*arguments), self.device)
        self.inside[0] += seconds
        return output


def check_fits(zoo: models.Zoo, name: str, rows: int, dtype: torch.dtype) -> None:
    """Raise InputError, with the number of images that does fit, if ``rows`` do not."""
    largest = memory.fitting(zoo, name, dtype)
    if largest < rows:
        raise InputError(
            f"{rows} images at once do not fit {name}: at most {largest} do; lower batch_size "
            "(guidance doubles it)"
        )


def markdown(result: dict) -> str:
    """The result as a Markdown page."""
    facts, rows = result["machine"], result["rows"]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [
        f"`{result['command']}`",
        "",
        f"{facts['device']}, torch {facts['torch']}, Python {facts['python']}, load average "
        f"{facts['load_average']} on {facts['cores']} cores before, commit {facts['commit']}, "
        f"{facts['time']}. Medians of {result['repetitions']} repetitions, in turn; spread is "
        f"(slowest - fastest) / median. {result['convention']}.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + " --- |" * len(columns),
    ]
    for row in rows:
        cells = [row.get(column, "") for column in columns]
        cells = [f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


_BENCHES = {
    "network": network,
    "profile": profile,
    "trajectory": trajectory,
    "peers": peers,
    "scaling": bench_scaling.scaling,
}


if __name__ == "__main__":
    if "latency" in sys.argv[1:]:
        from scripts import latency

        sys.argv.remove("latency")
        latency.main()
    else:
        sys.argv = [f"bench={word}" if word in _BENCHES else word for word in sys.argv]
        main()
