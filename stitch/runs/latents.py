"""Latents of a data set, encoded once by any number of processes; training reads them."""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file
from torch import Tensor, nn

import models
from models.errors import InputError
from models.files import sha256_of
from models.training.objectives import posteriors
from models.weights import provenance
from stitch.runs import distributed, latent_file, listing
from stitch.runs.fill import Batch, begin, fill
from stitch.runs.owner import read_owner
from stitch.runs.shards import ShardFolder
from stitch.transfer import onto


class LatentFolder(ShardFolder):
    """A folder of latents; ``run`` says of which images, and what encoded them."""

    codec, suffix = latent_file, listing.LATENTS
    setting, remedy = "latents", "run scripts.encode again, which makes what is missing"


def encoder_file(card: DictConfig, folder: str | Path) -> Path:
    """The weights of the network that makes a zoo's latents.

    Args:
        card: the zoo's.
        folder: of its checkpoints.
    """
    published = card.get("files", {}).get(card.first_stage.get("file"))
    return Path(folder) / (published.path if published else "first-stage.safetensors")


def encoder_sha256(card: DictConfig, folder: str | Path) -> str:
    """SHA-256 of ``encoder_file``, by its record or the card, which need not the file itself."""
    file = encoder_file(card, folder)
    published = card.get("files", {}).get(card.first_stage.get("file"), {})
    return (provenance(file) or {}).get("sha256") or published.get("sha256") or sha256_of(file)


def load_encoder(card: DictConfig, folder: str | Path, device: torch.device) -> nn.Module:
    """The network that makes a zoo's latents; see ``encoder_file``."""
    sizes = OmegaConf.to_container(card.first_stage, resolve=True)
    stage = models.create(**{key: value for key, value in sizes.items() if key != "file"})
    models.load_checkpoint(stage, encoder_file(card, folder))
    return stage.to(device).eval().requires_grad_(False)


def encode_missing(
    folder: LatentFolder,
    count: int,
    read: Callable[[int, int], Iterator[np.ndarray]],
    labels: Tensor,
    stage: nn.Module,
    batch_size: int,
    facts: dict,
) -> int:
    """Encode what is missing of ``count`` images, by all ranks; return how many that was.

    Args:
        folder: its ``run`` says with ``flips`` whether mirrored images are encoded too.
        read: [start, stop) -> these images as (n, H, W, C) uint8 arrays of any n.
        labels: (count,) int64.
        stage: the first stage; everything runs on its device.
        facts: for the log of how every shard was made.

    Raises:
        InputError: if an image is damaged, naming its file; what is encoded is kept.
        SystemExit: when interrupted by a signal, after the batch in hand.
    """
    device = next(stage.parameters()).device

    def of(start: int, stop: int) -> np.ndarray:
        return np.concatenate(list(read(start, stop)))

    def generate(indices: range) -> Iterator[Batch]:
        batches = [
            range(start, min(start + batch_size, indices.stop))
            for start in range(indices.start, indices.stop, batch_size)
        ]
        with ThreadPoolExecutor(1) as reader:  # pictures are decoded while others are encoded
            waiting = [reader.submit(of, b.start, b.stop) for b in batches[:1]]
            for batch, after in itertools.pairwise([*batches, None]):
                images = torch.from_numpy(waiting.pop().result()).permute(0, 3, 1, 2).to(device)
                if after is not None:
                    waiting.append(reader.submit(of, after.start, after.stop))
                versions = [images, images.flip(-1)] if folder.run["flips"] else [images]
                pairs = [torch.stack(posteriors(stage, version), 1) for version in versions]
                latents = torch.stack(pairs, 2).half().cpu().numpy()
                yield batch, latents, labels[batch.start : batch.stop].tolist()

    missing = begin(folder, count)
    if missing:
        fill(folder, count, generate, batch_size, "latents", facts)
    return missing


class EncodedData:
    """What ``scripts.encode`` made, as training takes it: labels, and posteriors by index.

    The files are mapped, not read: they may be larger than the memory. Every rank verifies its
    part of them.

    Args:
        path: the folder.
        encoder: SHA-256 of the zoo's first stage; see ``encoder_sha256``.
        device: where latents go.

    Attributes:
        mean, std: indexed as (M, N, c, h, w) tensors by (version, indices).
        labels: (N,) int64.
        sha256: of the data set.
        count: N.

    Raises:
        InputError: if it is not a folder of latents, of another first stage, unfinished or damaged.
    """

    def __init__(self, path: str | Path, encoder: str, device: torch.device):
        owner = read_owner(Path(path))
        if owner is None or "first_stage_sha256" not in owner["run"]:
            raise InputError(
                f"data.latents={path} is not a folder of latents: it has no run.json of "
                "scripts.encode; encode the images with it first"
            )
        if owner["run"]["first_stage_sha256"] != encoder:
            raise InputError(
                f"data.latents={path} was encoded by another first stage, "
                f"{owner['run']['first_stage_sha256'][:16]}...; the zoo has {encoder[:16]}...: "
                "encode the images with the zoo's"
            )
        folder = LatentFolder(path, owner["run"], owner["shard_size"])
        self.count, self.sha256 = owner["num_images"], owner["run"]["data_sha256"]
        if folder.lacking(self.count):
            folder.require(self.count)  # says what is wrong
        shards = range(-(-self.count // folder.shard_size))
        for shard in shards[distributed.rank() :: distributed.world_size()]:
            folder.read_whole(shard, len(folder.indices(shard, self.count)))
        parts = [load_file(folder.shard_path(shard)) for shard in shards]
        self.labels = torch.cat([part["labels"] for part in parts])
        self.mean, self.std = (
            Posteriors([part[name] for part in parts], folder.shard_size, device)
            for name in ("mean", "std")
        )


class Posteriors:
    """Means or deviations of many shards, (M, N, c, h, w), on the device only as far as asked.

    Args:
        parts: (n, M, c, h, w) of every shard, on the host.
        size: images of every shard but the last.
        device: where what is asked for goes.
    """

    def __init__(self, parts: list[Tensor], size: int, device: torch.device):
        self.parts, self.size, self.device = parts, size, device

    def __len__(self) -> int:
        return self.parts[0].shape[1]

    def __getitem__(self, key: tuple[Tensor, Tensor]) -> Tensor:
        """(B, c, h, w) float32 of (version, index), each (B,)."""
        versions, indices = (part.tolist() for part in key)
        rows = [
            self.parts[index // self.size][index % self.size, version]
            for version, index in zip(versions, indices, strict=True)
        ]
        return onto(torch.stack(rows), self.device).float()
