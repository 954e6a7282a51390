"""Zoos: denoisers that share data, latent space and first stage, ordered by cost."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.overrides import TorchFunctionMode

from models import variants
from models.bf16 import emulate_products
from models.checkpoint import load_checkpoint
from models.classes import Classes
from models.cost import macs, reuse_macs
from models.errors import InputError
from models.first_stage import CONFIGURATIONS as FIRST_STAGES
from models.published_file import PublishedFile, published_file
from models.quantise import quantise
from models.registry import create
from models.spec import DenoiserSpec, check_stitchable
from models.stitched import Stitch, sizes
from models.weights import CheckpointError, provenance, recorded_sha256

ROOT = Path(__file__).parent.parent
CARDS = ROOT / "configs" / "zoo"
STITCHED = "stitched"  # the card's entry of model stitching; see ``models.stitched``


class Zoo:
    """The networks of a zoo's card; each is loaded on first use.

    Args:
        card: the contents of ``configs/zoo/NAME.yaml``.
        device: where the networks live.
        dtype: of the denoisers' weights; the first stage stays in float32.
        quantisation: of the denoisers' large products, ``int8`` or ``fp8``; see
            ``models.quantise``.
        decoder: what decodes latents, the card's ``first-stage`` or its faster ``preview``.

    Attributes:
        denoisers: mapping name -> denoiser: those of the card, families ordered by cost, then other
            weights of these in the zoo's folder (see ``models.variants``).
        default_denoisers: the names that an allocation uses by default, ordered by cost.
        specs: mapping name -> spec of the denoiser, known from the card alone.
            A stitch, ``stitched:7``, is a denoiser too, but is not listed.
        first_stage: images <-> latents, the network that ``decoder`` names.
        files: mapping key -> ``PublishedFile``; empty for a zoo that is shipped.
        classes: names and numbers of the classes.
        schedule: name of the noise schedule that is sampled on.
        unconditional: how its denoisers are told "no class"; see ``samplers.Guidance.guide``.

    Raises:
        InputError: if the card's denoisers cannot be stitched, or it lacks the chosen decoder;
            nothing is loaded then.
    """

    def __init__(
        self,
        card: DictConfig,
        device="cpu",
        dtype: torch.dtype = torch.float32,
        quantisation: str | None = None,
        decoder: str = "first-stage",
    ):
        self.card, self.device, self.dtype = card, torch.device(device), dtype
        self.quantisation, self.decoder = quantisation, decoder
        self.name: str = card.name
        self.num_classes: int = card.num_classes
        self.classes = Classes(
            card.num_classes,
            tuple(card.get("classes", ())),
            tuple(card.get("imagenet_classes", ())),
        )
        self.guidance_channels: int = card.guidance_channels
        self.schedule: str = card.schedule
        self.unconditional: str = card.get("unconditional", "null-class")
        self.image_shape: tuple[int, int, int] = tuple(card.image_shape)
        self.files: dict[str, PublishedFile] = {
            key: published_file(key, entry, ROOT / card.checkpoints)
            for key, entry in card.get("files", {}).items()
        }
        self.default_denoisers: list[str] = list(card.get("default_denoisers", card.denoisers))
        names = [*card.denoisers, *self._variants()]
        self.specs: Mapping[str, DenoiserSpec] = Lazy(
            names, functools.cache(self._spec), self._unlisted
        )
        self._check()
        self.denoisers: Mapping[str, nn.Module] = Lazy(names, self._load_denoiser, self._unlisted)
        self._networks: dict[str, nn.Module] = {}
        self._macs: dict[tuple[str, Callable], int] = {}
        self._sha256: dict[str, str] = {}

    @cached_property
    def stitches(self) -> list[str]:
        """The names of its stitches, ``stitched:0`` and up; see ``models.stitched``."""
        count = len(self.skeleton(STITCHED).routes) if STITCHED in self.card else 0
        return [f"{STITCHED}:{index}" for index in range(count)]

    @property
    def known(self) -> str:
        """The names of all denoisers, for messages."""
        stitches = [f"{self.stitches[0]} to {self.stitches[-1]}"] if self.stitches else []
        return ", ".join([*self.denoisers, *stitches])

    @property
    def first_stage(self) -> nn.Module:
        return self._load(self.decoder, torch.float32)

    def has(self, name: str) -> bool:
        """Whether the card has a network of that name."""
        return name in self.card.denoisers or name.replace("-", "_") in self.card

    def checkpoint(self, name: str) -> Path:
        """The weights of a denoiser, or of ``first-stage``, ``preview`` or ``classifier``."""
        return self.file(name).path

    def file(self, name: str) -> PublishedFile:
        """The file with the weights of ``name``; that of a shipped zoo has no URL."""
        base, _ = _stitch_of(name)
        trained_here = name != variants.base(name) or base == STITCHED
        key = base if trained_here else self._entry(name).get("file", name)
        if trained_here or not self.files:
            path = ROOT / self.card.checkpoints / f"{key}.safetensors"
            return PublishedFile(key, path.absolute(), ())  # a link keeps its own name
        if key not in self.files:
            raise InputError(
                f"zoo {self.name} has no file {key!r} for {name}; known: {', '.join(self.files)}"
            )
        return self.files[key]

    def weights_sha256(self, names: Iterable[str], recorded: bool = False) -> dict[str, str]:
        """SHA-256 of the weights of ``names`` and of the decoder.

        Args:
            recorded: whether a file's record is enough, as of what is too large to be shipped.

        Raises:
            CheckpointError: if one is missing or differs from its provenance record.
        """
        # The decoder is named by its file: one latent space may have several.
        networks = {name: name for name in names} | {self.file(self.decoder).name: self.decoder}
        for name in networks.values():
            if name not in self._sha256:
                path = self.file(name).path
                record = provenance(path) if recorded and not path.exists() else None
                found = record["sha256"] if record else recorded_sha256(self._existing(name))
                self._sha256[name] = found
        return {key: self._sha256[name] for key, name in networks.items()}

    def macs(self, name: str) -> int:
        """Multiply-accumulates of one forward of a denoiser at batch 1; see ``models.cost``."""
        return self._counted(name, macs)

    def reuse_macs(self, name: str) -> int:
        """Those of a denoiser when a cache forecasts most of it; see ``models.cost``."""
        return self._counted(name, reuse_macs)

    def _counted(self, name: str, count: Callable[[nn.Module], int]) -> int:
        if (name, count) not in self._macs:
            self._macs[name, count] = count(self.skeleton(name))
        return self._macs[name, count]

    def skeleton(self, name: str) -> nn.Module:
        """The network ``name`` without storage: on the meta device."""
        base, index = _stitch_of(name)
        if index is not None:
            return Stitch(self.skeleton(base), index)
        with torch.device("meta"), _Undrawn():
            return create(**self._sizes(name)).to("meta")

    def _check(self) -> None:
        if self.decoder not in ("first-stage", "preview"):
            raise InputError(f"decoder={self.decoder} is unknown; known: first-stage, preview")
        if not self.has(self.decoder):
            raise InputError(
                f"decoder={self.decoder}: zoo {self.name} has none; use decoder=first-stage"
            )
        check_stitchable(self.specs)
        stage = self.card.first_stage
        for name, spec in self.specs.items():
            facts = {
                "latent_shape": (spec.latent_shape, tuple(self.card.latent_shape)),
                "num_classes": (spec.num_classes, self.num_classes),
                "prediction_type": (
                    spec.prediction_type,
                    self.card.get("prediction_type", spec.prediction_type),
                ),
            }
            if spec.latent_space is not None:
                scale = FIRST_STAGES[spec.latent_space][1].get("scale", 1.0)
                facts["first_stage"] = (spec.latent_space, stage.name)
                facts["latent scale"] = (scale, stage.get("scale", scale))
            for fact, (ours, cards) in facts.items():
                if ours != cards:
                    raise InputError(
                        f"zoo {self.name}: {name} was trained with {fact} {ours}, the zoo has "
                        f"{cards}; correct the card or remove {name} from it"
                    )

    def _variants(self) -> list[str]:
        """Names of other weights of the card's denoisers that are in the folder."""
        files = (ROOT / self.card.checkpoints).glob(f"*{variants.SIGN}*.safetensors")
        names = sorted((file.stem for file in files), key=variants.order)
        return [name for name in names if variants.base(name) in self.card.denoisers]

    def _spec(self, name: str) -> DenoiserSpec:
        return dataclasses.replace(self.skeleton(name).spec, interval=variants.interval(name))

    def _unlisted(self, name: str) -> bool:
        """Whether it is a stitch, or weights that are not there, which a plan may name."""
        return variants.base(name) in self.card.denoisers or name in self.stitches

    def _entry(self, name: str) -> DictConfig:
        base = variants.base(_stitch_of(name)[0])
        if base in self.card.denoisers:
            return self.card.denoisers[base]
        return self.card[base.replace("-", "_")]

    def _sizes(self, name: str) -> dict:
        """Arguments of ``create``."""
        if name == STITCHED:
            return sizes(OmegaConf.to_container(self.card, resolve=True))
        entry = OmegaConf.to_container(self._entry(name), resolve=True)
        return {key: value for key, value in entry.items() if key != "file"}

    def _existing(self, name: str) -> Path:
        file = self.file(name)
        if file.urls and not file.path.exists():
            raise CheckpointError(
                f"the weights of {name} are missing; {file.how_to_get(self.name)}"
            )
        if name != variants.base(name) and not file.path.exists():
            raise CheckpointError(
                f"the weights of {name} are missing: {file.path} does not exist; train them "
                "(docs/training.md has the command)"
            )
        if not file.urls and not file.path.exists() and provenance(file.path):
            raise CheckpointError(
                f"{file.path} is not shipped, only its record; make it with python -m "
                f"scripts.train zoo={self.name} train={self.name}/{file.name}"
            )
        # A download is recorded when it is checked; a file placed by hand has no record.
        if file.sha256 and provenance(file.path) is None and file.state() != "present":
            raise CheckpointError(
                f"{file.path} is not the published file of {name}: its SHA-256 is not "
                f"{file.sha256[:16]}...; {file.how_to_get(self.name)}"
            )
        return file.path

    def _load_denoiser(self, name: str) -> nn.Module:
        if name not in self.denoisers:
            raise InputError(f"zoo {self.name} has no denoiser {name!r}; known: {self.known}")
        return self._load(name, self.dtype, self.quantisation)

    def _load(self, name: str, dtype: torch.dtype, quantisation: str | None = None) -> nn.Module:
        base, index = _stitch_of(name)
        if index is not None and name not in self._networks:
            self._networks[name] = Stitch(self._load(base, dtype, quantisation), index).eval()
        if name not in self._networks:
            path = self._existing(name)
            with torch.device("meta"), _Undrawn():
                network = create(**self._sizes(name)).to(dtype)
            load_checkpoint(network, path, self.file(name).ema, self.device)
            network = network.to(self.device, dtype).eval().requires_grad_(False)
            # Convolutions are faster this way, except in a CPU's first stage with its large maps.
            if name in self.denoisers or self.device.type == "cuda":
                network = network.to(memory_format=torch.channels_last)
            if quantisation is not None:
                quantise(network, quantisation)
            emulate_products(network)
            self._networks[name] = network
        return self._networks[name]


class _Undrawn(TorchFunctionMode):
    """Leaves normal weights undrawn: on the meta device torch imports its compiler to draw them."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is nn.init.normal_:
            return kwargs["tensor"]
        if function in (torch.Tensor.erfinv_, torch.Tensor.clamp_):  # trunc_normal_ of torch 2.11
            return args[0]
        return function(*args, **(kwargs or {}))


class Lazy(Mapping):
    """A read-only mapping whose values a function loads.

    Args:
        names: those that are listed.
        load: name -> value.
        unlisted: whether a name has a value, too, though it is not listed.
    """

    def __init__(
        self,
        names: list[str],
        load: Callable[[str], object],
        unlisted: Callable[[str], bool] = lambda _: False,
    ):
        self._names, self._load, self._unlisted = names, load, unlisted

    def __getitem__(self, name: str):
        return self._load(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names or self._unlisted(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _stitch_of(name: str) -> tuple[str, int | None]:
    """``stitched:7`` -> (``stitched``, 7); any other name -> (name, None)."""
    base, colon, index = name.partition(":")
    return (base, int(index)) if colon else (name, None)


def names() -> list[str]:
    """Every zoo that has a card."""
    return sorted(card.stem for card in CARDS.glob("*.yaml"))


def load_zoo(name: str, device="cpu", dtype: torch.dtype = torch.float32) -> Zoo:
    """The zoo of the card ``configs/zoo/NAME.yaml``.

    Raises:
        InputError: for an unknown name, listing the known ones.
    """
    path = CARDS / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"unknown zoo {name!r}; known: {', '.join(names())}")
    return Zoo(OmegaConf.load(path), device, dtype)
