"""Text to image in diffusers' and transformers' own classes: text encoder, tokenizer, U-Net.

transformers is optional and imported here only.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from models.captions import CAPTIONS, EMPTY
from models.errors import InputError
from models.spec import DenoiserSpec

LENGTH = 16  # tokens of a prompt, with those of its beginning and end


def transformers():
    """The module of that name.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            "text encoders need transformers, which is not installed: "
            "pip install -r requirements-pipelines.txt"
        ) from error
    return transformers


def make_tokenizer():
    """CLIP's tokenizer with a vocabulary of all bytes and the words of ``CAPTIONS``."""
    untrained = transformers().CLIPTokenizer()
    tokenizer = untrained.train_new_from_iterator(CAPTIONS, 1000, show_progress=False)
    tokenizer.model_max_length = LENGTH
    return tokenizer


def tokens(tokenizer, prompts) -> Tensor:
    """(B, LENGTH) int64 of B prompts, as StableDiffusionPipeline calls a tokenizer."""
    padded = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    return padded.input_ids


class TextEncoder(nn.Module):
    """CLIP's text encoder (Radford et al. 2021) for the vocabulary of ``make_tokenizer``.

    Args:
        config: arguments of ``transformers.CLIPTextConfig``.

    Attributes:
        inner: the ``CLIPTextModel``.
    """

    def __init__(self, **config):
        super().__init__()
        tokenizer = make_tokenizer()
        special = ("bos_token_id", "eos_token_id", "pad_token_id")
        config |= {name: getattr(tokenizer, name) for name in special}
        library = transformers()
        self.inner = library.CLIPTextModel(
            library.CLIPTextConfig(
                vocab_size=len(tokenizer), max_position_embeddings=LENGTH, **config
            )
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, LENGTH) -> (B, D), the state of the last token of each prompt."""
        return self.inner(tokens).pooler_output

    @torch.no_grad()
    def hidden(self, tokens: Tensor) -> Tensor:
        """(B, LENGTH) -> (B, LENGTH, D), what a U-Net attends to."""
        return self.inner(tokens).last_hidden_state

    def native_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return _under("inner", state)


class TextUNet(nn.Module):
    """A text-to-image U-Net of diffusers as a denoiser whose labels are numbers of ``CAPTIONS``.

    Args:
        config: arguments of ``diffusers.UNet2DConditionModel``.

    Attributes:
        inner: the ``UNet2DConditionModel``.
        hidden: (captions, LENGTH, D), the text encoder's states of all captions; it is set before
            the first call and is no weight.
    """

    def __init__(self, **config):
        from diffusers import UNet2DConditionModel

        super().__init__()
        self.inner = UNet2DConditionModel(**config)
        size, channels = self.inner.config.sample_size, self.inner.config.in_channels
        self.spec = DenoiserSpec(
            (channels, size, size),
            num_classes=len(CAPTIONS) - 1,
            null_label=EMPTY,
            learn_sigma=False,
            schedule="stable-diffusion",
        )
        self.register_buffer("hidden", None, persistent=False)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """(B, C, H, W), (B,), (B,) -> (B, C, H, W) epsilon."""
        return self.inner(x, t, self.hidden[y], return_dict=False)[0]

    def native_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return _under("inner", state)


def _under(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of a wrapper or of what it wraps -> the wrapper's."""
    if any(key.startswith(f"{name}.") for key in state):
        return state
    return {f"{name}.{key}": value for key, value in state.items()}


def save_config(inner: nn.Module, folder: Path) -> None:
    """Write ``config.json``, by which ``from_pretrained`` makes the network anew."""
    if hasattr(inner, "save_config"):
        inner.save_config(folder)
    else:
        inner.config.architectures = [type(inner).__name__]
        inner.config.dtype = "float32"  # else it would be that of the stored weights
        inner.config.save_pretrained(folder)


def save_frame(pipeline: Path, autoencoder: nn.Module) -> None:
    """Write what makes a folder with a U-Net and a text encoder a Stable Diffusion pipeline.

    That is its index, Stable Diffusion's scheduler and the sizes of the autoencoder.
    """
    from diffusers import PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    library = transformers()
    StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=library.CLIPTextModel.from_pretrained(
            pipeline / "text_encoder", dtype=torch.float32
        ),
        tokenizer=library.CLIPTokenizer.from_pretrained(pipeline / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(pipeline / "unet"),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_config(pipeline)
    scheduler.save_config(pipeline / "scheduler")
    autoencoder.register_to_config(scaling_factor=1.0)
    autoencoder.save_config(pipeline / "vae")
