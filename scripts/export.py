"""Samples for others' tools: ``python -m scripts.export samples=FOLDER target=FILE.npz|FOLDER``."""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import logging
from pathlib import Path

from omegaconf import DictConfig
from tqdm import tqdm

from eval.export import write_npz, write_pngs
from eval.shards import open_folder
from models.errors import InputError
from scripts.cli import command

log = logging.getLogger("export")


@command("export")
def main(config: DictConfig) -> None:
    for setting in ("samples", "target"):
        if config[setting] is None:
            raise InputError(
                f"{setting} is not set; samples=FOLDER target=FILE.npz or a new folder"
            )
    folder, target = open_folder(config.samples), Path(config.target)
    if target.exists():
        raise InputError(f"target={target} exists; remove it or choose another")
    count = config.num_images or folder.count()
    if count < 1:
        raise InputError(f"samples={config.samples} has no images; run scripts.sample first")
    batches = tqdm(folder.batches(count), desc="export", unit="shard")
    if target.suffix == ".npz":
        write_npz(target, batches, count)
    else:
        write_pngs(target, batches)
    log.info("%d images: %s", count, target)


if __name__ == "__main__":
    main()
