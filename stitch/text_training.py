"""Training of a text-to-image pipeline on a zoo's photographs and first stage."""

import functools
from pathlib import Path

import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import nn

import models
from models import captions, text
from models.checkpoint import load_checkpoint
from models.errors import InputError
from models.first_stage import to_unit_range
from models.training import pictures
from models.training.contrastive import ContrastiveObjective, principal_axes
from models.weights import recorded_sha256, save_checkpoint
from samplers.objective import DenoiserObjective
from stitch.runs import distributed
from stitch.training import Workshop

# kind of a recipe -> the finished networks that it is trained on
NEEDED = {"text-encoder": ("classifier",), "text-denoiser": ("first-stage", "text_encoder")}


class TextWorkshop(Workshop):
    """What the trainings of a pipeline share: those of the zoo, and captions.

    A recipe has the network's sizes and ``pipeline``, the folder in which ``from_pretrained`` finds
    the finished networks by their names.
    """

    def sizes(self, recipe: DictConfig) -> dict:
        return OmegaConf.to_container(recipe.network)

    def file(self, name: str) -> Path:
        if name in ("classifier", "first-stage", "first-stage-ft"):  # the zoo's
            return super().file(name)
        stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
        return Path(self.config.train.pipeline) / name / f"{stem}.safetensors"

    def foundation(self, name: str) -> Path:
        if not self.file(name).exists() and name in ("text_encoder", "unet"):
            raise InputError(
                f"{self.file(name)} does not exist, but others are trained on it: run "
                f"python -m scripts.train train={self.zoo_name}-text/{name} first"
            )
        return super().foundation(name)

    def identity(self, recipe: DictConfig) -> dict:
        if recipe.kind not in NEEDED:
            raise InputError(
                f"train.kind={recipe.kind!r} is unknown; known of a pipeline: {', '.join(NEEDED)}"
            )
        facts = super().identity(recipe)
        facts["recipe"].pop("pipeline")  # a folder may be moved
        facts["recipe"].pop("network")  # said above
        for name in (*NEEDED[recipe.kind], recipe.get("start_from")):
            if name is not None:
                key = f"{name.replace('-', '_')}_sha256"
                facts[key] = recorded_sha256(self.foundation(name))
        return facts

    def objective(self, recipe: DictConfig, network: nn.Module) -> nn.Module:
        return self._objective(recipe, network, self.data)

    def _test(self, recipe: DictConfig, average: nn.Module) -> nn.Module:
        return self._objective(recipe, average, self.test)

    def _objective(self, recipe: DictConfig, network: nn.Module, data) -> nn.Module:
        make = self._contrastive if recipe.kind == "text-encoder" else self._denoising
        return make(recipe, network, data)

    def _contrastive(self, recipe: DictConfig, network: nn.Module, data) -> ContrastiveObjective:
        """Captions of photographs and of drawings against the classifier's features."""
        mean, axes = principal_axes(self._features(self.data), recipe.network.hidden_size)
        features = F.normalize((self._features(data) - mean) @ axes)
        numbers = [
            number
            for drawn in (False, True)
            for number in captions.caption_numbers(data.labels.tolist(), recipe.seed, drawn=drawn)
        ]
        # A meaning is a class of photographs or of drawings.
        meanings = [number // len(captions.PHRASINGS) for number in range(len(captions.CAPTIONS))]
        return ContrastiveObjective(
            network,
            features,
            torch.tensor(numbers, device=self.device),
            text.tokens(self._tokenizer(), captions.CAPTIONS).to(self.device),
            torch.tensor(meanings, device=self.device),
        )

    @functools.cache  # noqa: B019  a workshop lives as long as the command
    def _features(self, data) -> torch.Tensor:
        """(2 N, D) of the photographs, then of their drawings."""
        classifier = self.finished("classifier")
        both = torch.cat([data.images, pictures.outlined(data.images)])
        with torch.no_grad():
            return torch.cat([classifier(part.to(self.device))[0] for part in both.split(100)])

    def _denoising(self, recipe: DictConfig, network: nn.Module, data) -> DenoiserObjective:
        network.hidden = self._hidden()
        drawn = "weak_captions" in recipe
        style = {"drawn": drawn, "weak": recipe.get("weak_captions", 0.0)}
        numbers = captions.caption_numbers(data.labels.tolist(), recipe.seed, **style)
        settings = (recipe.label_dropout, recipe.get("interval"), recipe.get("weighting"))
        latents = self._latents(data, drawn)
        return DenoiserObjective(network, *latents, torch.tensor(numbers), *settings)

    @functools.cache  # noqa: B019
    def _latents(self, data, drawn: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and deviations (1, N, c, h, w) of the latents of photographs or drawings."""
        stage, images = self.finished("first-stage"), pictures.padded(data.images)
        if drawn:
            images = pictures.outlined(images)
        with torch.no_grad():
            posteriors = [
                stage.posterior(to_unit_range(part.to(self.device))) for part in images.split(100)
            ]
        means = torch.cat([stage.scale * posterior.mean for posterior in posteriors])
        stds = torch.cat([stage.scale * posterior.std for posterior in posteriors])
        return means[None], stds[None]

    def _tokenizer(self):
        """The pipeline's; made once, since equal merges are numbered otherwise each time."""
        folder = Path(self.config.train.pipeline) / "tokenizer"
        if distributed.is_main() and not folder.exists():
            text.make_tokenizer().save_pretrained(folder)
        distributed.barrier()
        return text.transformers().CLIPTokenizer.from_pretrained(folder)

    def _hidden(self) -> torch.Tensor:
        """What U-Nets attend to, for every caption, by the finished text encoder."""
        file = self.foundation("text_encoder")
        library = text.transformers()
        encoder = library.CLIPTextModel.from_pretrained(file.parent, dtype=torch.float32).eval()
        with torch.no_grad():
            states = encoder(text.tokens(self._tokenizer(), captions.CAPTIONS)).last_hidden_state
        return states.to(self.device)

    def _write(self, recipe: DictConfig, average: nn.Module, record: dict) -> None:
        """Store the library's own network with its sizes, and the rest of the pipeline."""
        file = self.file(recipe.name)
        save_checkpoint(average.inner, file, record)
        text.save_config(average.inner, file.parent)
        if recipe.name == "unet":
            self._write_frame(file.parents[1])

    def _write_frame(self, pipeline: Path) -> None:
        """The first stage as the pipeline's autoencoder, scheduler and index."""
        source = self.foundation("first-stage-ft")
        sizes = OmegaConf.to_container(self.config.zoo.first_stage, resolve=True)
        stage = models.create(**{key: value for key, value in sizes.items() if key != "file"})
        load_checkpoint(stage, source)
        record = {
            "network": {"name": "AutoencoderKL"},
            "converted_from": source.name,
            "source_sha256": recorded_sha256(source),
        }
        save_checkpoint(
            stage.autoencoder, pipeline / "vae" / "diffusion_pytorch_model.safetensors", record
        )
        text.save_frame(pipeline, stage.autoencoder)
