"""Pipelines of diffusers with tiny random weights, made without network."""

import string
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    ControlNetModel,
    DiTTransformer2DModel,
    UNet2DConditionModel,
    WanTransformer3DModel,
)
from PIL import Image
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

PROMPT = "a red shoe"
DIM = 16  # of a text encoder
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
SCHEDULERS: dict[str, Callable[[], Any]] = {
    "pndm": lambda: diffusers.PNDMScheduler(**BETAS, skip_prk_steps=True),
    "ddim": lambda: diffusers.DDIMScheduler(**BETAS, clip_sample=False),
    "heun": lambda: diffusers.HeunDiscreteScheduler(**BETAS),
    "dpm++": lambda: diffusers.DPMSolverMultistepScheduler(**BETAS, algorithm_type="dpmsolver++"),
    "unipc": lambda: diffusers.UniPCMultistepScheduler(**BETAS),
    "lcm": lambda: diffusers.LCMScheduler(**BETAS),
    "dit": lambda: diffusers.DDIMScheduler(clip_sample=False),
    "flow": lambda: diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ),
}
PICTURE = Image.linear_gradient("L").resize((8, 8)).convert("RGB")
MASK = Image.new("L", (8, 8), 255)


def seeded(seed: int, make: Callable[..., nn.Module], **settings) -> Any:
    """A network in evaluation mode whose weights depend on the seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(**settings).eval()


def tokenizer() -> CLIPTokenizer:
    """One token for each letter."""
    letters = string.ascii_lowercase
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16)


def text_encoder(kind: type = CLIPTextModel) -> Any:
    words = tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=DIM,
        projection_dim=DIM,
        intermediate_size=2 * DIM,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=words.model_max_length,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return seeded(0, kind, config=config)


def vae() -> AutoencoderKL:
    """As large a picture as its latents: 8 x 8."""
    return seeded(0, AutoencoderKL, block_out_channels=(8,), norm_num_groups=4, sample_size=8)


def unet(width: int, seed: int = 0, **settings) -> UNet2DConditionModel:
    """Of Stable Diffusion's layout, with two levels."""
    usual = dict(
        sample_size=8,
        block_out_channels=(width, 2 * width),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=DIM,
        attention_head_dim=4,
    )
    return seeded(seed, UNet2DConditionModel, **{**usual, **settings})


def unet_xl(width: int, **settings) -> UNet2DConditionModel:
    """Of SDXL's layout: attention at the second level only."""
    return unet(
        width,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=2 * DIM,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + DIM,
        **settings,
    )


def dit(layers: int) -> DiTTransformer2DModel:
    return seeded(
        layers,
        DiTTransformer2DModel,
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=layers,
        sample_size=8,
        num_embeds_ada_norm=1000,
    )


def wan(layers: int, seed: int = 0) -> WanTransformer3DModel:
    return seeded(
        seed,
        WanTransformer3DModel,
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=DIM,
        freq_dim=16,
        ffn_dim=32,
        num_layers=layers,
        rope_max_seq_len=32,
    )


def controlnet(of: UNet2DConditionModel) -> ControlNetModel:
    """For a U-Net; its residuals are not 0, as they are before training."""
    net = ControlNetModel.from_unet(of, conditioning_embedding_out_channels=(8,))
    with torch.no_grad():
        generator = torch.manual_seed(1)
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    return net.eval()


def _quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sd(denoiser, scheduler: str = "pndm", kind: str = "StableDiffusionPipeline", **parts) -> Any:
    return _quiet(
        getattr(diffusers, kind)(
            vae=vae(),
            text_encoder=text_encoder(),
            tokenizer=tokenizer(),
            unet=denoiser,
            scheduler=SCHEDULERS[scheduler](),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            **parts,
        )
    )


def sdxl(denoiser, kind: str = "StableDiffusionXLPipeline", **parts) -> Any:
    return _quiet(
        getattr(diffusers, kind)(
            vae=vae(),
            text_encoder=text_encoder(),
            text_encoder_2=text_encoder(CLIPTextModelWithProjection),
            tokenizer=tokenizer(),
            tokenizer_2=tokenizer(),
            unet=denoiser,
            scheduler=SCHEDULERS["ddim"](),
            add_watermarker=False,
            **parts,
        )
    )


def lcm(denoiser) -> Any:
    return sd(denoiser, "lcm", "LatentConsistencyModelPipeline")


def dit_pipe(denoiser) -> Any:
    return _quiet(
        diffusers.DiTPipeline(transformer=denoiser, vae=vae(), scheduler=SCHEDULERS["dit"]())
    )


def wan_pipe(denoiser, **parts) -> Any:
    decoder = seeded(
        0,
        AutoencoderKLWan,
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return _quiet(
        diffusers.WanPipeline(
            transformer=denoiser,
            vae=decoder,
            tokenizer=None,
            text_encoder=None,
            scheduler=SCHEDULERS["flow"](),
            **parts,
        )
    )


def latents(pipe: Any, steps: int = 6, seed: int = 0, **arguments) -> Tensor:
    """What a text-to-image pipeline makes of a prompt, undecoded."""
    return pipe(
        **{"prompt": PROMPT, **arguments},
        num_inference_steps=steps,
        output_type="latent",
        generator=torch.Generator().manual_seed(seed),
    ).images


def photograph(pipe: Any, steps: int = 6, seed: int = 0) -> Tensor:
    """What a ``DiTPipeline`` makes of a class."""
    pictures = pipe(
        class_labels=[3],
        num_inference_steps=steps,
        output_type="np",
        generator=torch.Generator().manual_seed(seed),
    ).images
    return torch.from_numpy(pictures)


def video(pipe: Any, steps: int = 6, seed: int = 0, **arguments) -> Tensor:
    """What a ``WanPipeline`` makes of text embeddings, undecoded."""
    text = torch.randn(1, 7, DIM, generator=torch.Generator().manual_seed(9))
    return pipe(
        prompt_embeds=text,
        negative_prompt_embeds=torch.zeros_like(text),
        height=16,
        width=16,
        num_frames=5,
        num_inference_steps=steps,
        output_type="latent",
        generator=torch.Generator().manual_seed(seed),
        **arguments,
    ).frames
