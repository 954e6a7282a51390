"""Denoisers in the variants that are compared: precision, quantised, compiled."""

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

import models
from models.compile import CompileError, compile_forward
from models.dit import DiT
from models.errors import InputError
from models.quantise import QUANTISATIONS, quantise
from stitch.runs import devices, memory


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
    dtype = devices.dtype(precision, device)
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


def check_fits(zoo: models.Zoo, name: str, rows: int, dtype: torch.dtype) -> None:
    """Raise InputError, with the number of images that does fit, if ``rows`` do not."""
    largest = memory.fitting(zoo, name, dtype)
    if largest < rows:
        raise InputError(
            f"{rows} images at once do not fit {name}: at most {largest} do; lower batch_size "
            "(guidance doubles it)"
        )
