"""Conversion of state dicts between published layouts and the native names.

A conversion pops entries from its input, so that weights are never held twice.
"""

import json
import re
from pathlib import Path

import torch
from torch import Tensor

from models.errors import InputError
from models.quantise import EightBitLinear
from models.weights import save_tensors

State = dict[str, Tensor]

# native name -> name in diffusers' DiTTransformer2DModel
_DIT = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
_DIT_BLOCK = {  # blocks.N. -> transformer_blocks.N.
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "adaLN_modulation.1": "norm1.linear",
}
_DIT_CONDITION = {  # transformer_blocks.N.norm1.emb.: the same weights again in every block
    "t_embedder.mlp.0.weight": "timestep_embedder.linear_1.weight",
    "t_embedder.mlp.0.bias": "timestep_embedder.linear_1.bias",
    "t_embedder.mlp.2.weight": "timestep_embedder.linear_2.weight",
    "t_embedder.mlp.2.bias": "timestep_embedder.linear_2.bias",
    "y_embedder.embedding_table.weight": "class_embedder.embedding_table.weight",
}


def _dit_pairs(depth: int) -> list[tuple[str, str]]:
    pairs = list(_DIT.items())
    for i in range(depth):
        for native, foreign in _DIT_BLOCK.items():
            pairs.append((f"blocks.{i}.{native}", f"transformer_blocks.{i}.{foreign}"))
    return [(f"{a}.{kind}", f"{b}.{kind}") for a, b in pairs for kind in ("weight", "bias")]


def dit_from_diffusers(state: State, depth: int) -> State:
    """diffusers' ``DiTTransformer2DModel`` -> DiT, without its fixed position table.

    Raises:
        InputError: if the timestep or class embedding differs between blocks; the native network
            has only one.
    """
    native = {a: state.pop(b) for a, b in _dit_pairs(depth) if b in state}
    for a, b in _DIT_CONDITION.items():
        copies = [state.pop(f"transformer_blocks.{i}.norm1.emb.{b}", None) for i in range(depth)]
        if copies[0] is None:
            continue
        if any(copy is None or not torch.equal(copy, copies[0]) for copy in copies):
            raise InputError(f"its blocks differ in {b}, of which a DiT has only one")
        native[a] = copies[0]
    for i in range(depth):
        for kind in ("weight", "bias"):
            names = [f"transformer_blocks.{i}.attn1.to_{part}.{kind}" for part in "qkv"]
            if all(name in state for name in names):
                native[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat([state.pop(n) for n in names])
    state.pop("pos_embed.pos_embed", None)
    return {**native, **state}


def dit_to_diffusers(state: State, depth: int) -> State:
    """DiT -> diffusers' ``DiTTransformer2DModel``, which computes the position table itself."""
    foreign = {b: state[a] for a, b in _dit_pairs(depth)}
    for i in range(depth):
        for a, b in _DIT_CONDITION.items():
            copy = state[a].clone() if i else state[a]  # safetensors stores no shared memory
            foreign[f"transformer_blocks.{i}.norm1.emb.{b}"] = copy
        for kind in ("weight", "bias"):
            parts = state[f"blocks.{i}.attn.qkv.{kind}"].chunk(3)
            for part, value in zip("qkv", parts, strict=True):
                foreign[f"transformer_blocks.{i}.attn1.to_{part}.{kind}"] = value
    return foreign


def save_diffusers(network, folder: str | Path, provenance: dict) -> None:
    """Write a DiT as a folder that ``DiTTransformer2DModel.from_pretrained`` reads.

    Raises:
        InputError: if diffusers' class cannot express the network.
    """
    channels, height, width = network.spec.latent_shape
    if height != width:
        raise InputError(f"diffusers' DiT takes square latents, not {height}x{width}")
    own, table = network.pos_embed.cpu(), network.position_table()
    # It may have been stored by save_checkpoint, in half precision.
    if not any(torch.equal(own, known.to(own.dtype)) for known in (table, table.half())):
        raise InputError("diffusers' DiT has a fixed sine-cosine position table, this one differs")
    if any(isinstance(module, EightBitLinear) for module in network.modules()):
        raise InputError("diffusers' DiT has no eight-bit weights; save it before it is quantised")
    attention, mlp = network.blocks[0].attn, network.blocks[0].mlp
    if mlp.fc1.out_features != 4 * network.width:
        raise InputError(
            f"diffusers' DiT has an mlp_ratio of 4, not {mlp.fc1.out_features / network.width:g}"
        )
    config = {
        "_class_name": "DiTTransformer2DModel",
        "num_attention_heads": attention.num_heads,
        "attention_head_dim": network.width // attention.num_heads,
        "in_channels": channels,
        "out_channels": network.out_channels,
        "num_layers": len(network.blocks),
        "sample_size": height,
        "patch_size": network.patch_size,
        "num_embeds_ada_norm": network.spec.num_classes,
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
    }
    folder = Path(folder)
    weights = dit_to_diffusers(network.state_dict(), len(network.blocks))
    save_tensors(weights, folder / "diffusion_pytorch_model.safetensors", provenance)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def autoencoder_state(state: State) -> State:
    """A CompVis or diffusers autoencoder (any version) -> diffusers' current names.

    All other entries (loss networks, a diffusion model around it) are dropped.
    """
    anchors = ("encoder.conv_in.weight", "encoder.layers.0.weight")
    found = [name for name in state if name.endswith(anchors)]
    if len(found) != 1:
        return state
    prefix = found[0][: found[0].rindex("encoder.")]
    parts = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")
    state = {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if name.startswith(prefix) and name.removeprefix(prefix).startswith(parts)
    }
    ups = [int(name.split(".")[2]) for name in state if name.startswith("decoder.up.")]
    renamed = {}
    for name, value in state.items():
        new = _autoencoder_name(name, max(ups, default=0))
        if value.ndim == 4 and re.search(r"attentions\.\d+\.to_", new):
            value = value.flatten(1)  # CompVis' 1x1 convolutions are linear layers
        renamed[new] = value
    return renamed


def _autoencoder_name(name: str, last: int) -> str:
    """CompVis counts decoder levels from the image; ``last`` is the level at the latents."""
    name = re.sub(r"^decoder\.up\.(\d+)", lambda m: f"decoder.up_blocks.{last - int(m[1])}", name)
    name = re.sub(r"\.mid\.block_(\d)", lambda m: f".mid_block.resnets.{int(m[1]) - 1}", name)
    for pattern, new in _AUTOENCODER:
        name = re.sub(pattern, new, name)
    return name


_AUTOENCODER = [
    (r"^encoder\.down\.", "encoder.down_blocks."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"(blocks\.\d+)\.block\.", r"\1.resnets."),
    (r"(blocks\.\d+)\.attn\.", r"\1.attentions."),
    (r"\.downsample\.", ".downsamplers.0."),
    (r"\.upsample\.", ".upsamplers.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"coder\.norm_out\.", "coder.conv_norm_out."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.(?:q|query)\.", r"\1.to_q."),
    (r"(attentions\.\d+)\.(?:k|key)\.", r"\1.to_k."),
    (r"(attentions\.\d+)\.(?:v|value)\.", r"\1.to_v."),
    (r"(attentions\.\d+)\.(?:proj_out|proj_attn)\.", r"\1.to_out.0."),
]
