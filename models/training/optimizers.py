"""Optimisers of trainings: AdamW for all weights, or Muon for the matrices of the blocks."""

import torch
from omegaconf import DictConfig
from torch import nn

from models.errors import InputError

KNOWN = ("adamw", "muon")
DEFAULT = "adamw"


def create(recipe: DictConfig, network: nn.Module) -> dict[str, torch.optim.Optimizer]:
    """The optimisers of a recipe's network, by name; together they have all trained weights.

    Muon (Jordan et al. 2024) takes the matrices of the transformer's blocks and makes every update
    orthogonal; embeddings, the output layer and vectors are AdamW's, as its authors advise. Its
    steps are scaled to the root mean square of AdamW's (Liu et al. 2025, Muon is Scalable for LLM
    Training, sec. 2.2), so one learning rate is that of both.

    Args:
        recipe: has ``lr``, ``betas``, ``weight_decay`` and, if it is not AdamW, ``optimizer``.

    Raises:
        InputError: for an unknown optimiser, or a network without blocks that Muon could take.
    """
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}
    muon = chosen(recipe) == "muon"
    matrices = [name for name, p in named.items() if muon and p.ndim == 2 and "block" in name]
    if muon and not matrices:
        raise InputError(
            f"train.optimizer=muon: {type(network).__name__} has no matrices in blocks, which is "
            "what Muon is for; use adamw"
        )
    optimizers = {}
    if matrices:
        optimizers["muon"] = torch.optim.Muon(
            [named.pop(name) for name in matrices],
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
    optimizers["optimizer"] = torch.optim.AdamW(
        list(named.values()),
        lr=recipe.lr,
        betas=tuple(recipe.betas),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    return optimizers


def chosen(recipe: DictConfig | dict) -> str:
    """The name of a recipe's optimiser.

    Raises:
        InputError: if it is unknown.
    """
    name = recipe.get("optimizer", DEFAULT)
    if name not in KNOWN:
        raise InputError(f"train.optimizer={name} is unknown; known: {', '.join(KNOWN)}")
    return name
