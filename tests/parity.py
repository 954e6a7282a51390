"""Errors against the reference implementations: ``python -m tests.parity`` prints a table of them.

A row for every setting under which libraries multiply matrices, sum and vectorise in another order:
the instructions that torch and oneDNN may use, and the number of threads. An error is the largest
difference from a reference's float32 output, relative to values above 1; ``golden.LIMITS`` has what
is allowed. What is left of it in float64 is the reference's own rounding.
"""

import argparse
import functools
import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

import models
import samplers
from samplers import Guidance, NoiseSchedule
from samplers.loss import training_losses
from tests import ROOT, golden
from tests.threads import threads

SETTINGS = [
    {"ATEN_CPU_CAPABILITY": aten, "ONEDNN_MAX_CPU_ISA": onednn}
    for aten, onednn in itertools.product(("default", "avx2"), ("AVX2", None))
]
# Types and numbers of threads in one process; float64 is too exact for threads to matter.
KINDS = [(torch.float64, 1), (torch.float32, 1), (torch.float32, 2)]


@dataclass(frozen=True)
class Comparison:
    """One output, ours and the reference's.

    Attributes:
        factor: by how much the compared values multiply the rounding of what is computed.
    """

    what: str
    ours: Tensor
    theirs: Tensor
    factor: float = 1.0

    @property
    def error(self) -> float:
        """The largest difference, relative to values above 1, in units that share one limit."""
        difference = (self.ours.double() - self.theirs.double()).abs()
        error = (difference / self.theirs.double().abs().clamp(min=1)).max().item() / self.factor
        return math.inf if math.isnan(error) else error  # NaN is below no limit, and above none


def tensors(name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in golden.arrays(name).items()}


@functools.cache
def network(name: str, keep: tuple[str, ...] = ("pos_embed",)) -> torch.nn.Module:
    """A network with the weights of the recipe, in float32."""
    made = models.create(name).eval()
    golden.fill(made, keep)
    return made


def dit(name: str, dtype: torch.dtype) -> Iterator[Comparison]:
    ours, fixture = network(name).to(dtype), tensors("dit_" + name.replace("/", "-"))
    x, t, y = fixture["x"].to(dtype), fixture["t"], fixture["y"]
    yield Comparison("output", ours(x, t, y), fixture["out"])
    for scale, key in ((1.5, "out_cfg_1p5"), (4.0, "out_cfg_4p0")):
        # The reference takes the batch doubled: the same latent twice, the class, then null.
        guided = Guidance(scale, channels=3)(
            ours, x[:1], fixture["t_cfg"][:1], y[:1], ours.spec.null_label
        )
        what = f"guidance {scale:g} of three channels"
        yield Comparison(what, guided, fixture[key][:1], 2 * scale - 1)


def unet(name: str, dtype: torch.dtype) -> Iterator[Comparison]:
    ours, fixture = network(name).to(dtype), tensors(f"ldm_unet_{name}")
    x, t, y = fixture["x"].to(dtype), fixture["t"], fixture["y"]
    yield Comparison("output", ours(x, t, y), fixture["out"])
    embedding = fixture["uc_context"].squeeze(1).to(dtype)
    yield Comparison("output under a random embedding", ours(x, t, embedding), fixture["out_uc"])


def uvit(name: str, dtype: torch.dtype) -> Iterator[Comparison]:
    ours, fixture = network(name, keep=()).to(dtype), tensors(f"uvit_{name}")
    y = fixture.get("y", torch.zeros(2, dtype=torch.int64))
    yield Comparison("output", ours(fixture["x"].to(dtype), fixture["t"], y), fixture["out"])


def walks(dtype: torch.dtype) -> Iterator[Comparison]:
    """Whole trajectories of the samplers on the closed-form denoiser: states and predictions."""
    ldm = dict(spacing="ldm", set_alpha_to_one=False)
    for name, sampler, known in (
        ("ddim_50_eta0", samplers.create("ddim", 50, "ddpm-linear"), "pred_xstart_states"),
        ("ddpm_100", samplers.create("ddpm", 100, "ddpm-linear"), "pred_xstart_states"),
        ("ldm_ddim_20_eta0", samplers.create("ddim", 20, "ldm", **ldm), "pred_x0_states"),
    ):
        fixture = tensors(name)
        final, states, predictions = walk(sampler, fixture, dtype)
        yield Comparison(f"{name}, final", final, fixture["final"])
        steps = fixture["state_index"]
        yield Comparison(f"{name}, states", states[steps], fixture["states"])
        # x_0 is a state divided by its signal, of which there is little at first.
        signal = sampler.schedule.alphas_cumprod[torch.tensor(sampler.timesteps)[steps]].sqrt()
        signal = signal.view(-1, 1, 1, 1, 1)
        yield Comparison(f"{name}, x_0", signal * predictions[steps], signal * fixture[known])
    yield from _dpm_solver_2m(dtype)
    yield from _dpm_solver_3s(dtype)


def _dpm_solver_2m(dtype: torch.dtype) -> Iterator[Comparison]:
    name = "dpmpp_multistep2_20_time_uniform"
    fixture = tensors(name)
    final, states, _ = walk(samplers.create("dpm_solver", 20, "ddpm-linear"), fixture, dtype)
    yield Comparison(f"{name}, final", final, fixture["final"])
    before = torch.cat([fixture["x_T"][None].to(dtype), states])  # it counts x_T as a state
    yield Comparison(f"{name}, states", before[fixture["state_index"]], fixture["states"])


def _dpm_solver_3s(dtype: torch.dtype) -> Iterator[Comparison]:
    name = "uvit_dpm_singlestep3_10"
    fixture = tensors(name)
    sampler = samplers.create("dpm_solver", 10, "stable-diffusion", order=3, method="singlestep")
    # U-ViT adds s (cond - uncond) to the conditional prediction.
    guidance = Guidance(1 + fixture["scale"].item(), channels=4)

    def denoise(x: Tensor, t: float, y: Tensor) -> Tensor:
        # U-ViT counts its timesteps from 1.
        t = torch.full((len(x),), t + 1, dtype=torch.float64)
        return guidance(epsilon, x, t, y, fixture["y_null"][0].item())

    def epsilon(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return golden.analytic_denoiser(x, t[0].item(), y)[:, :4]

    final, states, _ = walk(sampler, fixture, dtype, denoise)
    yield Comparison(f"{name}, final", final, fixture["final"])
    ends = fixture["step_orders"].cumsum(0)[fixture["state_index"]]
    yield Comparison(f"{name}, states", states[ends - 1], fixture["states"])


def walk(
    sampler, fixture: dict[str, Tensor], dtype: torch.dtype, denoiser=golden.analytic_denoiser
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a sampler on ``denoiser(x, t, y)``: final state, (S, ...) states and x_0 of all steps."""
    states, predictions = [], []

    def keep(step, t, x, x_0):
        assert step == len(states) and t == sampler.timesteps[step]
        states.append(x)
        predictions.append(x_0)

    final = sampler(
        lambda x, step: denoiser(x, sampler.timesteps[step], fixture["y"]),
        fixture["x_T"].to(dtype),
        noise=(lambda step: fixture["noise"][step].to(dtype)) if "noise" in fixture else None,
        callback=keep,
    )
    return final, torch.stack(states), torch.stack(predictions)


def losses(dtype: torch.dtype) -> Iterator[Comparison]:
    schedule, fixture = NoiseSchedule.create("ddpm-linear"), tensors("train_losses_a")
    x_0, noise, t = fixture["x_start"].to(dtype), fixture["noise"].to(dtype), fixture["t"]
    x_t = schedule.add_noise(x_0, noise, t)
    yield Comparison("x_t", x_t, fixture["x_t"])
    outputs = [
        golden.analytic_denoiser(x[None], time, label[None])
        for x, time, label in zip(x_t, t, fixture["y"], strict=True)
    ]
    with torch.enable_grad():
        output = torch.cat(outputs).requires_grad_()
        found = training_losses(output, x_0, noise, t, schedule)
        found["loss"].mean().backward()
    # The bound divides by the variance of a step, which is small late in the trajectory.
    for name, factor in (("mse", 1), ("vb", 4), ("loss", 4)):
        yield Comparison(name, found[name].detach(), fixture[name], factor)
    # Relative to its largest entry: a gradient is small.
    size = fixture["grad_model_output"].abs().max()
    yield Comparison("gradient", output.grad / size, fixture["grad_model_output"] / size, 4)


CASES: dict[str, Callable[[torch.dtype], Iterator[Comparison]]] = {
    "DiT-S/2": functools.partial(dit, "DiT-S/2"),
    "DiT-B/4": functools.partial(dit, "DiT-B/4"),
    "LDM-S": functools.partial(unet, "LDM-S"),
    "cifar10_uvit_small": functools.partial(uvit, "cifar10_uvit_small"),
    "imagenet64_uvit_mid": functools.partial(uvit, "imagenet64_uvit_mid"),
    "samplers": walks,
    "losses": losses,
}
# One network of each family is enough to see what a setting changes.
SHORT = [case for case in CASES if case not in ("DiT-B/4", "imagenet64_uvit_mid")]


@torch.no_grad()
def errors(case: str, dtype: torch.dtype) -> dict[str, float]:
    """What was compared -> its error, of one case."""
    return {one.what: one.error for one in CASES[case](dtype)}


def measure() -> list[dict]:
    """The largest error of every short case, type and number of threads, in this process."""
    rows = []
    for dtype, number in KINDS:
        with threads(number):
            found = {case: max(errors(case, dtype).values()) for case in SHORT}
        rows.append({"dtype": str(dtype), "threads": number, "errors": found})
    return rows


def measure_under(setting: dict[str, str | None]) -> list[dict]:
    """What ``measure`` gives in a process of its own with these environment variables."""
    environment = {**os.environ, **{k: v for k, v in setting.items() if v is not None}}
    for name, value in setting.items():
        if value is None:
            environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-m", "tests.parity", "--json"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def measure_settings() -> list[tuple[dict[str, str | None], list[dict]]]:
    """Every setting with what it gives, two processes at a time."""
    with ThreadPoolExecutor(2) as pool:
        return list(zip(SETTINGS, pool.map(measure_under, SETTINGS), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="measure in this process only")
    if parser.parse_args().json:
        print(json.dumps(measure()))
        return
    print(f"{'ATEN':8}{'oneDNN':8}{'type':15}threads", *(f"{case:>19}" for case in SHORT))
    worst = 0.0
    for setting, rows in measure_settings():
        names = "".join(f"{value or 'unset':8}" for value in setting.values())
        for row in rows:
            found = row["errors"].values()
            print(f"{names}{row['dtype']:15}{row['threads']:7}", *(f"{e:19.1e}" for e in found))
            worst = max(worst, max(found) / limit(row["dtype"]))
    print(f"largest error, as a share of the limit of its type: {worst:.0%}")
    sys.exit(worst >= 1)


def limit(dtype: str) -> float:
    """What is allowed in a type, by its name."""
    return golden.LIMITS[getattr(torch, dtype.removeprefix("torch."))]


if __name__ == "__main__":
    main()
