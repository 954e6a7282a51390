"""Count the multiply-accumulates that cards of pipelines state.

``python -m tests.measure.pipeline_macs``: of the shipped miniature, by its folder; of networks that
are published, by the architectures below.
"""

import json

import tomesd
import torch
from diffusers import ControlNetModel, UNet2DConditionModel, WanTransformer3DModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.zoo import ROOT
from stitch.pipelines.deep import DeepCache

_BK_TINY = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3,
    "up_block_types": ("CrossAttnUpBlock2D",) * 3,
    "mid_block_type": None,
    "layers_per_block": 1,
    "cross_attention_dim": 768,
    "sample_size": 64,
}
_SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 2048,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
PUBLISHED = {
    "BK-SDM-Tiny": _BK_TINY,
    "Stable Diffusion v1.4": {"cross_attention_dim": 768, "sample_size": 64},
    "SSD-1B": {
        **_SDXL,
        "transformer_layers_per_block": ((0, 0), (2, 2), (4, 4)),
        "reverse_transformer_layers_per_block": ((4, 4, 10), (2, 1, 1), (0, 0, 0)),
        "mid_block_type": "UNetMidBlock2D",
    },
    "SDXL": _SDXL,
}


CONTROLNET = (1, 4, 128, 128), (1, 77, 2048), (1, 3, 1024, 1024)  # latents, text, picture
# One frame of 480x832.
WAN = {
    "Wan 2.2": {},
    "Wan 2.1 1.3B": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
}
FRAME, TEXT = (1, 16, 1, 60, 104), (1, 512, 4096)


def macs(call) -> float:
    """Billions of multiply-accumulates of a call, attention included."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        call()
    return counter.get_total_flops() / 2e9


def counts(unet: UNet2DConditionModel, tokens: int, merged: bool) -> dict[str, float]:
    """Of one call for one image: in full, between full ones of a deep cache, with half the tokens
    merged (which needs a network with weights)."""
    config, device = unet.config, unet.device
    size = config.sample_size
    sample = torch.zeros(1, config.in_channels, size, size, device=device)
    text = torch.zeros(1, tokens, config.cross_attention_dim, device=device)
    added = {}
    if config.addition_embed_type == "text_time":
        pooled, ids = torch.zeros(1, 1280, device=device), torch.zeros(1, 6, device=device)
        added["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids}
    arguments = sample, torch.zeros(1, device=device), text
    deep = DeepCache("unet", unet, unet, 2)
    found = {"full": macs(lambda: deep(0, *arguments, **added))}
    found["deep"] = macs(lambda: deep(1, *arguments, **added))
    if merged:
        tomesd.apply_patch(unet, ratio=0.5, max_downsample=1)
        found["tome"] = macs(lambda: unet(*arguments, **added))
        tomesd.remove_patch(unet)
    return found


def shipped(folder) -> dict[str, dict[str, float]]:
    """Of the denoisers in a pipeline's folder."""
    tokens = json.loads((folder / "text_encoder" / "config.json").read_text())
    return {
        path.name: counts(
            UNet2DConditionModel.from_pretrained(path), tokens["max_position_embeddings"], True
        )
        for path in sorted(folder.glob("unet*"))
    }


def main() -> None:
    for name, found in shipped(ROOT / "checkpoints" / "fashion-text").items():
        print(name, found)
    for name, config in PUBLISHED.items():
        with torch.device("meta"):
            unet = UNet2DConditionModel(**config)
        print(name, billions(unet), counts(unet, 77, merged=False))
    with torch.device("meta"):
        controlnet = ControlNetModel.from_unet(unet, load_weights_from_unet=False)  # of SDXL
        sample, text, picture = (torch.zeros(shape) for shape in CONTROLNET)
        added = {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)}
        arguments = sample, torch.zeros(1), text, picture
        found = macs(lambda: controlnet(*arguments, added_cond_kwargs=added))
        print("ControlNet", billions(controlnet), found)
        for name, config in WAN.items():
            wan = WanTransformer3DModel(**config)
            found = macs(lambda wan=wan: wan(torch.zeros(FRAME), torch.zeros(1), torch.zeros(TEXT)))
            print(name, billions(wan), found)


def billions(network: torch.nn.Module) -> str:
    return f"{sum(p.numel() for p in network.parameters()) / 1e9:.3f} B"


if __name__ == "__main__":
    main()
