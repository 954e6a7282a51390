"""Zoos: denoisers that share data, latent space and first stage, ordered by cost."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from models.checkpoint import load_checkpoint, recorded_sha256
from models.cost import macs
from models.registry import create

ROOT = Path(__file__).parent.parent
CARDS = ROOT / "configs" / "zoo"


class Zoo:
    """The networks of a zoo's card; each is loaded when it is first asked for.

    Args:
        card: the contents of ``configs/zoo/NAME.yaml``.
        device: where the networks live.
        dtype: of the denoisers' weights; the first stage stays in float32.

    Attributes:
        denoisers: mapping name -> denoiser, ordered by cost.
        first_stage: images <-> latents.
        schedule: name of the denoisers' noise schedule.
    """

    def __init__(self, card: DictConfig, device="cpu", dtype: torch.dtype = torch.float32):
        self.card, self.device, self.dtype = card, torch.device(device), dtype
        self.name: str = card.name
        self.num_classes: int = card.num_classes
        self.guidance_channels: int = card.guidance_channels
        self.schedule: str = card.schedule
        self.image_shape: tuple[int, int, int] = tuple(card.image_shape)
        self.denoisers = _Lazy(list(card.denoisers), self._load_denoiser)
        self._networks: dict[str, nn.Module] = {}
        self._macs: dict[str, int] = {}
        self._sha256: dict[str, str] = {}

    @property
    def first_stage(self) -> nn.Module:
        return self._load(self.card.first_stage_weights, self.card.first_stage, torch.float32)

    def checkpoint(self, name: str) -> Path:
        """The weights of ``name``: a denoiser's, or the file name of another network's."""
        return (ROOT / self.card.checkpoints / f"{name}.safetensors").resolve()

    def weights_sha256(self, names: Iterable[str]) -> dict[str, str]:
        """SHA-256 of the weights of ``names`` and of the first stage.

        Raises:
            CheckpointError: if one is missing or not what its provenance record says.
        """
        names = [*names, self.card.first_stage_weights]
        for name in names:
            if name not in self._sha256:
                self._sha256[name] = recorded_sha256(self.checkpoint(name))
        return {name: self._sha256[name] for name in names}

    def macs(self, name: str) -> int:
        """Multiply-accumulates of one forward of a denoiser at batch 1; see ``models.cost``."""
        if name not in self._macs:
            self._macs[name] = macs(self.denoisers[name])
        return self._macs[name]

    def _load_denoiser(self, name: str) -> nn.Module:
        if name not in self.card.denoisers:
            known = ", ".join(self.card.denoisers)
            raise ValueError(f"zoo {self.name} has no denoiser {name!r}; known: {known}")
        return self._load(name, self.card.denoisers[name], self.dtype)

    def _load(self, name: str, entry: DictConfig, dtype: torch.dtype) -> nn.Module:
        if name not in self._networks:
            network = create(**OmegaConf.to_container(entry, resolve=True))
            load_checkpoint(network, self.checkpoint(name))
            network = network.to(self.device, dtype).eval().requires_grad_(False)
            self._networks[name] = network
        return self._networks[name]


class _Lazy(Mapping):
    """A read-only mapping whose values are made by a function."""

    def __init__(self, names: list[str], load):
        self._names, self._load = names, load

    def __getitem__(self, name: str) -> nn.Module:
        return self._load(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def load_zoo(name: str, device="cpu", dtype: torch.dtype = torch.float32) -> Zoo:
    """The zoo of the card ``configs/zoo/NAME.yaml``.

    Raises:
        ValueError: for an unknown name, listing the known ones.
    """
    path = CARDS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(card.stem for card in CARDS.glob("*.yaml")))
        raise ValueError(f"unknown zoo {name!r}; known: {known}")
    return Zoo(OmegaConf.load(path), device, dtype)
