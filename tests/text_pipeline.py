"""A tiny text-to-image pipeline with random weights, stored as diffusers stores them."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests.stitch.pipelines.tiny import unet

# Some words for the ten classes of Imagenette.
WORDS = "[[tench],[springer],[cassette],[saw],[church],[horn],[truck],[pump],[ball],[parachute]]"
HEADS = {"cross_attention_dim": 8, "attention_head_dim": 2}  # of the U-Nets
LENGTH = 12  # tokens that the text encoder reads, with those of begin and end


def tokenizer(folder: Path) -> CLIPTokenizer:
    """One that knows single letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{one}</w>" for one in letters)]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=LENGTH
    )


def save(folder: Path) -> Path:
    """``folder`` as a Stable Diffusion pipeline of 64x64 images, ``unet-small`` beside it."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(4,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=2,
        latent_channels=4,
    )
    words = tokenizer(folder.with_name(f"{folder.name}-words"))
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=LENGTH,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    scheduler = PNDMScheduler(
        skip_prk_steps=True,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=words,
        unet=unet(8, 1, **HEADS),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    unet(4, 2, **HEADS).save_pretrained(folder / "unet-small")
    return folder


def settings(folder: Path) -> list[str]:
    """Settings of ``scripts.text2image`` for the pipeline in ``folder``."""
    return [
        f"pipeline.repo={folder}",
        f"pipeline.others.small.repo={folder}",
        "pipeline.size=[64,64]",
        "pipeline.steps=4",
        "prompts=[a tench,a church,two horns]",
        # A classifier that reads images of that size.
        "eval=imagenette64",
        "eval.metrics=[fid,is,agreement]",
        f"+eval.words={WORDS}",
        "batch_size=2",
        "shard_size=4",
        "num_images=12",
        "device=cpu",
    ]
