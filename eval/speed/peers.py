"""Other libraries beside ours."""

import torch
from omegaconf import DictConfig

from eval.speed import diffusers_peer, metric_peers
from eval.speed.variants import chosen
from models.errors import InputError
from stitch.runs import build

PEERS = ("diffusers", "torch-fidelity")


def peers(config: DictConfig, device: torch.device) -> list[dict]:
    """Other libraries with the same weights, steps and features, in turn with ours."""
    unknown = [peer for peer in config.peers if peer not in PEERS]
    if unknown:
        raise InputError(f"peers: {', '.join(unknown)} is unknown; known: {', '.join(PEERS)}")
    rows = []
    zoo = build.load_zoo(config, device)
    for peer in config.peers:
        if peer == "torch-fidelity":
            rows += metric_peers.rows(config.features, config.repetitions, config.metrics, device)
            continue
        for name in chosen(config, zoo):
            rows += diffusers_peer.rows(config, zoo, name, device)
    return rows
