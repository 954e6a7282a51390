"""Measure a folder of samples: ``python -m scripts.evaluate samples=FOLDER``."""

import logging
import time
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from eval import metrics
from eval.features import create_extractor, extract
from eval.reference import load_reference
from eval.results import ResultStore
from eval.shards import ShardFolder, folder_digest, open_folder
from models.checkpoint import recorded_sha256
from scripts import launch
from scripts.cli import UserError, command

log = logging.getLogger("evaluate")


@command("evaluate")
def main(config: DictConfig) -> None:
    if config.samples is None:
        raise UserError("samples is not set; give the folder that scripts.sample made")
    device = launch.start()
    folder = open_folder(config.samples)
    num_images = config.num_images or folder.count()
    evaluation = OmegaConf.merge(config.eval, {"reference": config.reference})
    evaluator = Evaluator(evaluation, device)
    store = ResultStore(Path(config.runs) / "records")
    record = evaluator.record(folder, num_images, store)
    log.info("record %s", store.path(record["run"], record["protocol"]))
    for name, value in record["metrics"].items():
        log.info("%-10s %.4f", name, value)


class Evaluator:
    """Measures sample folders against one reference.

    Args:
        evaluation: the config group ``eval``.
        device: where features are computed.

    Raises:
        ValueError: if the extractor or the reference is missing or they do not fit one another.
    """

    def __init__(self, evaluation: DictConfig, device: torch.device):
        self.config = evaluation
        self.weights_sha256 = recorded_sha256(evaluation.weights)
        self.reference = load_reference(evaluation.reference)
        if self.reference.extractor_sha256 != self.weights_sha256:
            raise UserError(
                f"eval.reference={evaluation.reference} was made with another extractor than "
                f"eval.weights={evaluation.weights}; make it again: python -m scripts.reference"
            )
        self.extractor = create_extractor(evaluation.extractor, evaluation.weights, device)

    def protocol(self, num_images: int) -> dict:
        """Everything but the run that determines the metrics, as plain data."""
        return {
            "num_images": num_images,
            "extractor": self.config.extractor,
            "extractor_sha256": self.weights_sha256,
            "reference_sha256": self.reference.sha256,
            "neighbours": self.config.neighbours,
            "chunk": self.config.chunk,
        }

    def record(
        self, folder: ShardFolder, num_images: int, store: ResultStore, cost: dict | None = None
    ) -> dict:
        """The record of a folder's first ``num_images`` images: from the store, or made and stored.

        Args:
            cost: facts for the record about what the sampling cost.

        Raises:
            ShardError: if images are missing.
        """
        protocol = self.protocol(num_images)
        stored = store.get(folder.run, protocol)
        if stored is not None:
            return stored
        started = time.perf_counter()
        values = self.measure(folder, num_images)
        record = {
            "run": folder.run,
            "protocol": protocol,
            "metrics": values,
            "cost": {**(cost or {}), **sampling_time(folder)},
            "provenance": {
                "images_sha256": folder_digest(folder, num_images),
                "evaluation_seconds": round(time.perf_counter() - started, 2),
                "torch": torch.__version__,
                "commit": launch.commit(),
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            },
        }
        store.add(record)
        return record

    def measure(self, folder: ShardFolder, num_images: int) -> dict[str, float]:
        """FID, Inception Score, precision and recall of the first ``num_images`` images."""
        batches = (
            part
            for images, _ in folder.batches(num_images)
            for part in torch.from_numpy(images).permute(0, 3, 1, 2).split(500)
        )
        found = extract(self.extractor, batches)
        precision, recall = metrics.precision_recall(
            found["features"], self.reference.features, self.config.neighbours
        )
        probabilities = found["logits"].double().softmax(1)
        return {
            "fid": metrics.frechet_distance(found["features"], self.reference.moments),
            "is": metrics.inception_score(probabilities, self.config.chunk),
            "precision": precision,
            "recall": recall,
        }


def sampling_time(folder: ShardFolder) -> dict:
    """Milliseconds per image of one process, on what, and how they spread over the shards.

    The fastest shard is taken: whatever else runs on a machine can only add to it.
    """
    timings = folder.timings()
    if not timings:
        return {}
    per_image = sorted(1000 * t["seconds"] / t["images"] for t in timings)
    return {
        "ms_per_image": round(per_image[0], 4),
        "ms_per_image_slowest": round(per_image[-1], 4),
        "batch_size": timings[-1]["batch_size"],
        "device": timings[-1]["device"],
    }


if __name__ == "__main__":
    main()
