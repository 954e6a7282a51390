"""Train the networks of a zoo: ``python -m scripts.train zoo=fashion`` trains all of them.

``train=fashion/DiT-S`` trains one; add ``torchrun --nproc-per-node=N -m`` for several processes.
Interrupt it at any time: the same command continues, bit-exactly on one CPU.
"""

import copy
import functools
import json
import logging
import math
import time
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from tqdm import tqdm

import models
from eval.datasets import FashionMNIST
from eval.results import content_hash
from models.checkpoint import save_checkpoint
from models.errors import InputError
from scripts import launch, objectives
from scripts.cli import command

log = logging.getLogger("train")


@command("train")
def main(config: DictConfig) -> None:
    device = launch.start()
    for recipe in recipes(config):
        train(recipe, config, device)


def recipes(config: DictConfig) -> list[DictConfig]:
    """The chosen recipe, or all of the zoo in the order in which they need one another."""
    if config.train is not None:
        return [config.train]
    folder = Path(__file__).parent.parent / "configs" / "train" / config.zoo.name
    names = ["classifier", "first-stage", "first-stage-ft", "preview", *config.zoo.denoisers]
    return [OmegaConf.load(folder / f"{name}.yaml") for name in names]


def train(recipe: DictConfig, config: DictConfig, device: torch.device) -> None:
    """Train one network by its recipe, resuming where an earlier call stopped, and export it."""
    run = Path(config.runs) / "train" / config.zoo.name / recipe.name
    export = Path(config.export) / f"{recipe.name}.safetensors"
    network_entry = network_config(config, recipe.name)
    recipe_entry = OmegaConf.to_container(recipe)
    recipe_hash = content_hash({"recipe": recipe_entry, "network": network_entry})
    if export.with_suffix(".json").exists():
        made_by = json.loads(export.with_suffix(".json").read_text())["recipe_hash"]
        if made_by == recipe_hash:
            log.info("%s is finished: %s", recipe.name, export)
            return
        raise InputError(
            f"export={config.export} holds a {recipe.name} of another recipe ({made_by}, this is "
            f"{recipe_hash}); choose another export folder or move {export} away"
        )

    torch.manual_seed(recipe.seed)
    data = FashionMNIST("train", **config.data)
    network = models.create(**network_entry).to(device)
    if recipe.get("start_from"):
        models.load_checkpoint(network, Path(config.export) / f"{recipe.start_from}.safetensors")
    ema = copy.deepcopy(network).eval().requires_grad_(False)

    def first_stage() -> nn.Module:
        stage = models.create(**network_config(config, "first-stage")).to(device).eval()
        models.load_checkpoint(stage, Path(config.export) / "first-stage.safetensors")
        return stage

    objective = objectives.create(recipe, network, data, first_stage)
    optimizer = torch.optim.AdamW(
        [p for p in network.parameters() if p.requires_grad],
        lr=recipe.lr,
        betas=tuple(recipe.betas),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    state = {"network": network, "ema": ema, "optimizer": optimizer}
    step, seconds = resume(run / "last.pt", state, recipe_hash, device)
    seconds = fit(recipe, config, objective, state, step, seconds, run, recipe_hash, device)

    if launch.is_main():
        if hasattr(objective, "finish"):
            objective.finish(ema, device)
        test = FashionMNIST("test", **config.data)
        results = objective.evaluate(ema, test, device)
        provenance = {
            "network": network_entry,
            "recipe": recipe_entry,
            "recipe_hash": recipe_hash,
            "data_sha256": data.sha256,
            "seed": recipe.seed,
            "images_seen": recipe.steps * recipe.batch_size,
            "weights": "exponential moving average",
            "results": results,
            "device": launch.device_name(device),
            "processes": launch.world_size(),
            "wall_seconds": round(seconds),
            "torch": torch.__version__,
            "commit": launch.commit(),
        }
        save_checkpoint(ema, export, provenance)
        log.info("%s: %s -> %s", recipe.name, results, export)
    launch.barrier()


def fit(recipe, config, objective, state, step, seconds, run, recipe_hash, device) -> float:
    """The training loop from ``step`` to ``recipe.steps``; returns all seconds spent so far."""
    network, ema, optimizer = state["network"], state["ema"], state["optimizer"]
    if recipe.batch_size % launch.world_size():
        raise InputError(
            f"train.batch_size={recipe.batch_size} is not a multiple of the {launch.world_size()} "
            "processes; change either"
        )
    forward = objective
    if launch.world_size() > 1:
        forward = nn.parallel.DistributedDataParallel(objective)
    half = launch.dtype(config.precision, device)
    if half == torch.float16:
        raise InputError(
            "precision=fp16 is for sampling, its gradients underflow; use bf16 or auto"
        )
    autocast = torch.autocast(device.type, half, enabled=half != torch.float32)
    logger = metrics_logger(config, recipe)
    bar = tqdm(
        total=recipe.steps,
        initial=step,
        desc=recipe.name,
        disable=not launch.is_main(),
        smoothing=0.05,
        mininterval=1.0,
    )
    started, saved = time.monotonic() - seconds, time.monotonic()
    network.train()
    num_images = len(objective.labels if hasattr(objective, "labels") else objective.images)
    per_rank = recipe.batch_size // launch.world_size()
    mine = slice(launch.rank() * per_rank, (launch.rank() + 1) * per_rank)
    while step < recipe.steps:
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * learning_rate_factor(step, recipe)
        # Everything random depends on (seed, step) only: resuming and ranks change nothing.
        indices = batch_indices(recipe.seed, step, recipe.batch_size, num_images)
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        batch = [part[mine].to(device) for part in objective.batch(indices, generator)]
        with autocast:
            losses = forward(*batch)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        update_ema(ema, network, recipe.ema_decay)
        step += 1
        bar.update()
        if step % config.log_every == 0:
            values = {name: value.item() for name, value in losses.items()}
            if not math.isfinite(values["loss"]):
                raise FloatingPointError(f"{recipe.name}: loss is {values['loss']} at step {step}")
            bar.set_postfix({name: f"{value:.4f}" for name, value in values.items()})
            logger(values, step)
        if step == recipe.steps or time.monotonic() - saved > config.checkpoint_seconds:
            if launch.is_main():
                save_state(run / "last.pt", state, step, time.monotonic() - started, recipe_hash)
            saved = time.monotonic()
    bar.close()
    return time.monotonic() - started


def learning_rate_factor(step: int, recipe: DictConfig) -> float:
    """Linear warm-up, constant, then linear to zero over the last ``cooldown`` of the steps."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    cooldown_steps = max(1.0, recipe.cooldown * recipe.steps)
    return min(warm, (recipe.steps - step) / cooldown_steps)


def batch_indices(seed: int, step: int, batch_size: int, num_images: int) -> torch.Tensor:
    """Training indices of a step: epochs are permutations keyed by (seed, epoch)."""
    positions = torch.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // num_images
    return torch.cat(
        [
            epoch_order(seed, epoch, num_images)[positions[epochs == epoch] % num_images]
            for epoch in epochs.unique().tolist()
        ]
    )


@functools.lru_cache(maxsize=2)  # a batch touches two epochs at most
def epoch_order(seed: int, epoch: int, num_images: int) -> torch.Tensor:
    """The permutation of the training images that is epoch number ``epoch``."""
    generator = torch.Generator().manual_seed(seed * 7_919 + epoch)
    return torch.randperm(num_images, generator=generator)


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * network; integer buffers are copied."""
    averages, values = ema.state_dict(), network.state_dict()
    floating = [name for name in values if values[name].is_floating_point()]
    torch._foreach_lerp_(
        [averages[name] for name in floating], [values[name] for name in floating], 1 - decay
    )
    for name in values.keys() - set(floating):
        averages[name].copy_(values[name])


def save_state(path: Path, state: dict, step: int, seconds: float, recipe_hash: str) -> None:
    """Everything needed to continue, written atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    record = {"step": step, "seconds": seconds, "recipe_hash": recipe_hash}
    torch.save(record | {name: part.state_dict() for name, part in state.items()}, temporary)
    temporary.replace(path)


def resume(path: Path, state: dict, recipe_hash: str, device) -> tuple[int, float]:
    """Load ``path`` into ``state`` if it exists; return (step, seconds) to continue from."""
    if not path.exists():
        return 0, 0.0
    saved = torch.load(path, map_location=device, weights_only=True)
    if saved["recipe_hash"] != recipe_hash:
        raise InputError(
            f"{path} was written by another recipe ({saved['recipe_hash']}, this is "
            f"{recipe_hash}); move it away to start afresh"
        )
    for name, part in state.items():
        part.load_state_dict(saved[name])
    log.info("continuing at step %d from %s", saved["step"], path)
    return saved["step"], saved["seconds"]


def network_config(config: DictConfig, name: str) -> dict:
    """Architecture and sizes of a network, as the zoo's card has them."""
    others = {
        "classifier": "classifier",
        "first-stage": "first_stage",
        "first-stage-ft": "first_stage",
        "preview": "preview",
    }
    entry = config.zoo[others[name]] if name in others else config.zoo.denoisers[name]
    sizes = OmegaConf.to_container(entry, resolve=True)
    return {key: value for key, value in sizes.items() if key != "file"}


def metrics_logger(config: DictConfig, recipe: DictConfig):
    """A function (values, step) that logs to wandb, or nowhere if it is disabled."""
    if config.wandb.mode == "disabled" or not launch.is_main():
        return lambda values, step: None
    import wandb

    wandb.init(
        project=config.wandb.project,
        mode=config.wandb.mode,
        name=recipe.name,
        config=OmegaConf.to_container(recipe),
        reinit=True,
    )
    return lambda values, step: wandb.log(values, step=step)


if __name__ == "__main__":
    main()
