"""Samples for others' tools: ``python -m scripts.export samples=FOLDER target=FILE.npz|FOLDER``."""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import logging
from pathlib import Path

from omegaconf import DictConfig
from tqdm import tqdm

from eval.export import write_npz, write_pngs
from models.errors import InputError
from models.files import check_writable, writing
from scripts.cli import command
from stitch.runs.shards import open_folder

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
    there = folder.count()
    count = there if config.num_images is None else config.num_images
    if not 1 <= count <= there:
        raise InputError(
            f"num_images={count}, but there are {there} images in samples={config.samples}; ask "
            "for as many, or sample more"
        )
    check_writable(target.parent, "target")
    folder.require(count)
    batches = tqdm(folder.batches(count), desc="export", unit="shard")
    with writing(target, "target"):
        if target.suffix == ".npz":
            write_npz(target, batches, count)
        else:
            write_pngs(target, batches)
    log.info("%d of the %d images: %s", count, there, target)


if __name__ == "__main__":
    main()
