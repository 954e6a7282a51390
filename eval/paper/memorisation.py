"""What photographs themselves reach, and whether samples copy them: a page and a picture."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from eval.estimate import setting_text
from eval.evaluator import Evaluator
from eval.extraction import Pass
from eval.markdown import markdown
from eval.memorisation import (
    InMemory,
    copying_score,
    nearest,
    share_closer_to_training,
    share_nearer,
    share_of_held_out,
)
from eval.metrics import frechet_distance
from eval.paper import plots
from models.classes import Classes
from models.weights import provenance as provenance_of
from stitch.runs import devices, provenance
from stitch.runs.run import Run

HELD_OUT = "held-out photographs"
SPACES = {"features": 2, "pixels": 1}  # and the decimals of their distances


@dataclass(frozen=True, eq=False)
class Compared:
    """Images, and the training photograph that is nearest to each.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) classes.
        distances, indices: (N,) each, of every space.
        closer: of every space the share that is closer to training photographs than to as many
            (other) held-out ones; not of decoded photographs.
    """

    images: Tensor
    labels: Tensor
    distances: dict[str, Tensor]
    indices: dict[str, Tensor]
    closer: dict[str, float]


@dataclass(frozen=True, eq=False)
class Findings:
    """What ``compare`` found.

    Attributes:
        facts: what was compared with what, on what.
        floor: name -> images and FID of photographs, and of their reconstructions.
        sets: name -> images beside their nearest photographs, first the held-out ones.
        training: (M, C, H, W) uint8 photographs, and their mirror images if these count.
        classes: of the zoo.
    """

    facts: dict
    floor: dict[str, dict]
    sets: dict[str, Compared]
    training: Tensor
    classes: Classes

    def numbers(self) -> dict[str, dict]:
        """Of every set and space: how near the training photographs are."""
        held_out = self.sets[HELD_OUT]
        return {
            name: {
                space: {
                    "images": len(distances),
                    "median_distance": distances.median().item(),
                    "copying_score": copying_score(distances, held_out.distances[space]),
                    "share_nearer": share_nearer(distances, held_out.distances[space]),
                    "share_closer_to_training": some.closer.get(space),
                }
                for space, distances in some.distances.items()
            }
            for name, some in self.sets.items()
        }

    def page(self) -> str:
        """The numbers as Markdown."""
        floor = [
            (name, f"{one['images']:,}", f"{one['fid']:.3f}") for name, one in self.floor.items()
        ]
        rows = []
        for name, spaces in self.numbers().items():
            row = [name, f"{spaces['features']['images']:,}"]
            for space, digits in SPACES.items():
                one = spaces[space]
                closer = one["share_closer_to_training"]
                row += [
                    f"{one['median_distance']:.{digits}f}",
                    f"{one['copying_score']:.1f}",
                    f"{one['share_nearer']:.1%}",
                    "" if closer is None else f"{closer:.1%}",
                ]
            rows.append(row)
        kinds = ("median", "score", "nearer", "of training")
        columns = [f"{space}: {kind}" for space in SPACES for kind in kinds]
        return (
            f"**FID against the training photographs of {self.facts['zoo']}**\n\n"
            f"{markdown(('images', 'number', 'FID'), floor)}\n\n"
            "**Distance to the nearest training photograph**\n\n"
            f"{markdown(('images', 'number', *columns), rows)}\n\n"
            "*Median* distance: of the extractor's features, and root mean square of the "
            "differences of pixel values in [0, 255]. *Score*: C_T of Meehan et al. 2020 over one "
            "cell, the normal deviate of Mann and Whitney's test against the held-out photographs; "
            "below -3 a network copies. *Nearer*: the share of images that are nearer to a "
            "training photograph than 99 % of the held-out ones. Smooth images are nearer in "
            "pixels than sharp ones, whatever they show; the decoded photographs say by how "
            "much. So are typical ones, which guidance makes, in features. *Of training* depends "
            "on neither: the share of images whose nearest photograph is one of training, among as "
            "many of both kinds; copies have more than held-out photographs, of which either half "
            "is compared with the other.\n\n"
            f"{self.caption()}\n\n"
            "![Of each class the image nearest to a training photograph](memorisation.png)\n"
        )

    def caption(self) -> str:
        facts = self.facts
        seen = ", ".join(f"{name} {count:,}" for name, count in facts["images_seen"].items())
        mirrored = " and their mirror images" if facts["mirrored"] else ""
        return (
            f"{facts['photographs']:,} training photographs{mirrored}; {facts['setting']}; images "
            f"seen in training: {seen}; {facts['device']}; {facts['commit']}"
        )

    def write(self, folder: Path) -> str:
        """Store ``memorisation.md``, ``.json`` and the picture in ``folder``; return the page."""
        path, text = folder / "memorisation.md", self.page()
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        about = {**self.facts, "floor": self.floor, "nearest": self.numbers()}
        path.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n")
        self._draw(path.with_suffix(".png"))
        return text

    def _draw(self, path: Path) -> None:
        """Of each class the image that is nearest in features, over its nearest in both spaces."""
        shown = sorted(set.intersection(*(set(s.labels.tolist()) for s in self.sets.values())))
        rows, labels = [], []
        for name, some in self.sets.items():
            chosen = nearest_of_classes(some.distances["features"], some.labels, shown)
            rows.append(some.images[chosen])
            labels.append(name)
            for space in SPACES:
                rows.append(self.training[some.indices[space][chosen]])
                labels.append(f"nearest by {space}")
        plots.image_grid(
            path,
            [row.permute(0, 2, 3, 1).numpy() for row in rows],
            labels,
            "Of each class the image that is nearest to a training photograph",
            "",
            self.caption(),
            [self.classes.name(label) for label in shown],
        )


def nearest_of_classes(distances: Tensor, labels: Tensor, classes: Sequence[int]) -> Tensor:
    """Index of the smallest distance of every one of ``classes``, by (N,) labels."""
    return torch.stack(
        [distances.masked_fill(labels != label, torch.inf).argmin() for label in classes]
    )


def compare(
    runs: Mapping[str, Run],
    train,
    test,
    evaluator: Evaluator,
    stages: Mapping[str, nn.Module],
    mirrored: bool,
) -> Findings | None:
    """Compare samples and held-out photographs with the training photographs.

    To be called by all ranks; the main one has the result, the others None.

    Args:
        runs: name -> a run whose images are there.
        train, test: splits of ``eval.datasets``.
        stages: name -> a decoder of the zoo's latents, the first with their encoder.
        mirrored: whether networks were trained on mirror images, too.
    """

    def versions(images):
        return torch.cat([images, images.flip(3)]) if mirrored else images

    known = versions(train.images)
    count = min(train.count, test.count)  # as many of both, evenly spread over the larger one
    sides = {
        name: versions(split.images[torch.arange(count) * split.count // count])
        for name, split in (("seen", train), ("unseen", test))
    }
    encoder = next(iter(stages.values()))
    pictures = {HELD_OUT: test.images}
    for name, stage in stages.items():
        pictures[f"{HELD_OUT}, through {name}"] = _reconstructed(test.images, encoder, stage)
    pictures["training photographs, through " + next(iter(stages))] = _reconstructed(
        train.images, encoder, encoder
    )
    decoded = f"{HELD_OUT}, through {next(iter(stages))}"  # as smooth as samples
    labels = {HELD_OUT: test.labels, decoded: test.labels}
    samples = {}
    for name, run in runs.items():
        parts, classes = zip(*run.samples.batches(run.num_images), strict=True)
        samples[name] = torch.from_numpy(np.concatenate(parts)).permute(0, 3, 1, 2)
        labels[name] = torch.from_numpy(np.concatenate(classes)).long()
    features = {
        name: _features(evaluator, images)
        for name, images in {"training": known, **sides, **pictures, **samples}.items()
    }
    if features["training"] is None:
        return None
    sets = {}
    for name, images in {
        HELD_OUT: test.images, decoded: pictures[decoded], **samples
    }.items():  # fmt: skip
        in_features = _nearest(features[name], features["training"], evaluator.device)
        in_pixels = _nearest(images.flatten(1), known.flatten(1), evaluator.device)
        closer = {}
        for space, points, ends in (
            ("features", features[name], [features[side] for side in sides]),
            ("pixels", images.flatten(1), [side.flatten(1) for side in sides.values()]),
        ):
            on_device = [end.to(evaluator.device) for end in ends]
            if name in samples:
                closer[space] = share_closer_to_training(points.to(evaluator.device), *on_device)
            elif name == HELD_OUT:
                apart = [end.unflatten(0, (-1, count)).transpose(0, 1) for end in on_device]
                closer[space] = share_of_held_out(*apart)
        sets[name] = Compared(
            images,
            labels[name],
            {"features": in_features[0], "pixels": in_pixels[0] / images[0].numel() ** 0.5},
            {"features": in_features[1], "pixels": in_pixels[1]},
            closer,
        )
    moments = evaluator.reference.moments["features"]
    floor = {
        name: {"images": len(images), "fid": frechet_distance(features[name], moments)}
        for name, images in pictures.items()
    }
    first = next(iter(runs.values()))
    facts = {
        "zoo": first.zoo.name,
        "photographs": train.count,
        "mirrored": bool(mirrored),
        "data_sha256": {"train": train.sha256, "test": test.sha256},
        "runs": {name: run.id for name, run in runs.items()},
        "setting": setting_text(first),
        "images_seen": {name: _images_seen(run, name) for name, run in runs.items()},
        "device": devices.name(evaluator.device),
        "commit": provenance.commit(),
    }
    return Findings(facts, floor, sets, known, first.zoo.classes)


def _nearest(points: Tensor, base: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """``nearest``, computed on a device and given on the CPU."""
    distances, indices = nearest(points.to(device), base.to(device))
    return distances.cpu(), indices.cpu()


def _features(evaluator: Evaluator, images: Tensor) -> Tensor | None:
    """(N, D) features of (N, C, H, W) uint8 images, for the main rank."""
    size = evaluator.config.batch_size
    seen = Pass(evaluator.extractor, InMemory(images), len(images), size, ["features"]).whole()
    return None if seen is None else seen.features["features"]


def _reconstructed(images: Tensor, encoder: nn.Module, decoder: nn.Module) -> Tensor:
    """(N, C, H, W) uint8 images through the latents of one network and the decoder of another."""
    device = next(encoder.parameters()).device
    parts = (decoder.decode(encoder.encode(part.to(device))).cpu() for part in images.split(500))
    return torch.cat(list(parts))


def _images_seen(run: Run, name: str) -> int:
    return provenance_of(run.zoo.checkpoint(name))["images_seen"]
