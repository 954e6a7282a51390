"""A published pipeline of diffusers with the denoisers that are stitched in it.

diffusers and ``stitch.pipelines`` are imported where they are used: they take seconds, and commands
that know of such runs mostly have others.
"""

import functools
import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import nn

from models.errors import InputError
from models.files import sha256_of
from models.weights import CheckpointError
from models.zoo import Lazy
from stitch.runs import devices
from stitch.runs.hub import Source

LARGE = "large"  # the pipeline's own denoiser, as ``stitch.pipelines`` calls it


class Pipeline:
    """A pipeline and its denoisers, from noise to image; its own, the last one, is ``large``.

    It is to text-to-image runs what ``models.Zoo`` is to class-conditional ones. Nothing is loaded
    before it is used.

    Args:
        card: the contents of ``configs/pipeline/NAME.yaml``.
        device: where the networks live.
        dtype: of all networks.

    Attributes:
        specs: name -> where the denoiser's weights are.
        denoisers: name -> network.
    """

    decoder = "first-stage"

    def __init__(self, card: DictConfig, device="cpu", dtype: torch.dtype = torch.float32):
        self.card, self.device, self.dtype = card, torch.device(device), dtype
        self.name: str = card.name
        facts = OmegaConf.to_container(card, resolve=True)
        self.source = _source(facts, "pipeline.repo")
        self.slot: str = facts["slot"]
        self.specs: dict[str, Source] = {
            name: _source(other, f"pipeline.others.{name}.repo")
            for name, other in facts["others"].items()
        }
        own = facts["large"] or {**facts, "subfolder": self.slot}
        self.specs[LARGE] = _source(own, "pipeline.large.repo")
        control = facts["controlnet"]
        self.controlnet = control and _source(control, "pipeline.controlnet.repo")
        self.denoisers = Lazy(list(self.specs), self._denoiser)
        self._others: dict[str, nn.Module] = {}

    # ---- what they are ----

    def macs(self, name: str) -> int:
        """Multiply-accumulates of one call for one image, without guidance, as the card has them.

        Args:
            name: of a denoiser, or ``NAME/CACHE`` where a cache computes a part of it; of that, the
                whole counts if the card has no other number.
        """
        denoiser, _, cache = name.partition("/")
        known = self.card.cached_gmacs.get(cache, self.card.gmacs)
        return round(known[denoiser] * 1e9)

    def gigabytes(self) -> float:
        """Size of all weights in the card's precision."""
        return sum(self.card.gigabytes.values())

    def weights_sha256(self, names: Iterable[str], fetch: bool = False) -> dict[str, str]:
        """What identifies the weights of ``names`` and of all the rest of the pipeline.

        Args:
            fetch: whether missing ones may be downloaded.

        Raises:
            CheckpointError: if some are missing, saying what to fetch and how.
        """
        wanted = {name: self.specs[name] for name in names}
        if self.controlnet:
            wanted["controlnet"] = self.controlnet
        folder = self.source.folder(fetch)
        for source in wanted.values():
            source.folder(fetch)
        found = {name: source.identity() for name, source in wanted.items()}
        # A small pipeline's other denoisers may lie in the same folder.
        rest = [path.name for path in folder.iterdir() if path.name not in self._parts(folder)]
        return found | {"pipeline": self.source.identity(without=rest)}

    def _parts(self, folder: Path) -> set[str]:
        """The files and folders of a pipeline's folder that are the pipeline without denoiser."""
        return {"model_index.json", *_index(folder)} - {self.slot}

    def pipeline_class(self) -> type:
        """The class that the card names; else diffusers' own choice for the repository.

        Raises:
            InputError: if diffusers has no pipeline of that name.
        """
        import diffusers

        name = self.card["class"] or "DiffusionPipeline"
        found = getattr(diffusers, name, None)
        if not (isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline)):
            raise InputError(f"pipeline.class={name} is no pipeline of diffusers")
        return found

    def timesteps(self, steps: int) -> list[float]:
        """The timesteps that the scheduler has for so many steps; some have one twice."""
        scheduler = self._scheduler()
        scheduler.set_timesteps(steps)
        return scheduler.timesteps.tolist()

    def _scheduler(self, config: Any = None) -> Any:
        import diffusers

        options = OmegaConf.to_container(self.card.scheduler)
        made = getattr(diffusers, options.pop("name"), None)
        if made is None:
            raise InputError(
                f"pipeline.scheduler.name={self.card.scheduler.name} is no scheduler of diffusers"
            )
        for option in options.keys() - inspect.signature(made).parameters.keys():
            raise InputError(
                f"pipeline.scheduler.{option}={options[option]} is no option of {made.__name__}; "
                f"leave it out with ~pipeline.scheduler.{option}"
            )
        return made(**options) if config is None else made.from_config(config, **options)

    def checkpoint(self, name: str) -> Path:
        """The file of a denoiser's weights, the first if there are several."""
        source = self.specs[name]
        return sorted((source.folder() / (source.subfolder or "")).glob("*.safetensors"))[0]

    # ---- loaded ----

    def skeleton(self, name: str) -> nn.Module:
        """The network itself: its parameters can be counted."""
        return self.denoisers[name]

    @functools.cached_property
    def pipe(self) -> Any:
        """The pipeline itself, unstitched, on the device.

        Raises:
            InputError: without transformers.
            CheckpointError: if weights are missing or not what the pipeline needs.
        """
        import diffusers

        diffusers.utils.logging.disable_progress_bar()
        folder, parts = self.source.folder(), {}
        if "safety_checker" in _index(folder):
            parts = {"safety_checker": None, "requires_safety_checker": False}
        if self.card.large is not None:
            parts[self.slot] = self._load(LARGE, self.specs[LARGE])
        if self.controlnet:
            parts["controlnet"] = self._load("controlnet", self.controlnet)
        pipe = self._read(self.pipeline_class(), folder, variant=self.source.variant, **parts)
        pipe.scheduler = self._scheduler(pipe.scheduler.config)
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(self.device)

    def _denoiser(self, name: str) -> nn.Module:
        pipe = self.pipe  # whatever is asked for: nothing is to be loaded while images are timed
        if name == LARGE:
            return getattr(pipe, self.slot)
        if name not in self._others:
            network = self._load(name, self.specs[name])
            self._others[name] = network.to(self.device).eval().requires_grad_(False)
        return self._others[name]

    def _load(self, name: str, source: Source) -> nn.Module:
        import diffusers

        made = diffusers.ControlNetModel if name == "controlnet" else diffusers.AutoModel
        place = {"subfolder": source.subfolder} if source.subfolder else {}
        return self._read(made, source.folder(), variant=source.variant, **place)

    def _read(self, made: type, folder: Path, **options) -> Any:
        try:
            import transformers  # noqa: F401  diffusers' own message does not say which
        except ImportError as error:
            raise InputError(
                f"pipeline={self.name} needs transformers: pip install -r "
                "requirements-pipelines.txt"
            ) from error
        try:
            return made.from_pretrained(
                str(folder),
                dtype=self.dtype,
                use_safetensors=True,
                local_files_only=True,
                **options,
            )
        except (OSError, ValueError) as error:
            first = str(error).splitlines()[0]
            raise CheckpointError(f"{folder} cannot be loaded: {first[:300]}") from error

    @functools.cached_property
    def control(self) -> Image.Image | None:
        """The picture that a ControlNet follows, of the pipeline's size."""
        if self.controlnet is None:
            return None
        height, width = self.card.size
        with Image.open(self._control_path()) as image:
            return image.convert("RGB").resize((width, height))

    def control_sha256(self) -> str | None:
        """Hash of the file of ``control``, if there is to be one."""
        return None if self.controlnet is None else sha256_of(self._control_path())

    def _control_path(self) -> Path:
        path = self.card.control
        if path is None or not Path(path).is_file():
            raise InputError(
                f"pipeline.control={path or 'null'} is no file; give the picture that the "
                "ControlNet follows (edges, depth or pose, white on black)"
            )
        return Path(path)


def _source(facts: dict, setting: str) -> Source:
    names = ("subfolder", "revision", "variant")
    return Source(facts["repo"], *(facts.get(name) for name in names), setting)


def _index(folder: Path) -> dict:
    """Part of a pipeline -> its class, of the parts that it has."""
    file = folder / "model_index.json"
    if not file.is_file():
        raise CheckpointError(f"{folder} is no pipeline of diffusers: it has no model_index.json")
    index = json.loads(file.read_text())
    return {name: part for name, part in index.items() if isinstance(part, list) and part[0]}


def load_pipeline(config: DictConfig, device: torch.device) -> Pipeline:
    """The pipeline of a composed config; runs with the same share one."""
    card = OmegaConf.to_yaml(config.pipeline, resolve=True)
    dtype = devices.dtype(config.precision, device)
    devices.warn_of_slow_products(dtype, device)
    return _pipeline(card, device, dtype)


@functools.cache
def _pipeline(card: str, device: torch.device, dtype: torch.dtype) -> Pipeline:
    return Pipeline(OmegaConf.create(card), device, dtype)
