"""Every record of a zoo as a point to choose by: quality, cost, time, file, pictures."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

import models
from eval.estimate import SAMPLERS
from eval.experiments import record_store
from eval.metrics import METRICS
from eval.paper import commands, markup, shown
from eval.paper.drawing import short_device
from eval.paper.tables import latencies
from models.errors import InputError
from stitch.runs.records import conditions, content_hash
from stitch.runs.run import timing_key
from stitch.runs.shards import open_folder

# Conditions that the name of a setting says in words of its own.
NAMED = ("zoo", "sampler.name", "sampler.steps", "guidance.scale")


def tradeoffs(config: DictConfig, zoo: models.Zoo) -> dict:
    """The records of a zoo as plain data for the page.

    Points of one setting differ in their allocations only, and all settings of one protocol were
    measured alike. Times are milliseconds per image, by the device that they are of.
    """
    store, measured = record_store(config), latencies(Path(config.runs))
    records = [record for record in store.all() if record["run"].get("zoo") == zoo.name]
    names, protocols = _settings(records, zoo), _protocols(records)
    points = []
    for record, setting, protocol in zip(records, names, protocols, strict=True):
        run, cost = record["run"], record["cost"]
        timing = measured.get(timing_key({**run, "decoder": _decoder(run, zoo)}, run["allocation"]))
        folder = Path(config.runs) / "samples" / content_hash(run)
        points.append(
            {
                "allocation": run["allocation"],
                "setting": setting,
                "protocol": protocol,
                "metrics": record["metrics"],
                "gmacs": cost["macs_per_image"] / 1e9 if "macs_per_image" in cost else None,
                "times": _times(timing or cost),
                "record": str(store.path(run, record["protocol"])),
                "pictures": pictures(folder),
                "command": commands.sample(run, zoo),
            }
        )
    return {
        "denoisers": list(zoo.specs),
        "metrics": [
            {"name": name, "label": metric.label, "digits": metric.digits, "better": metric.better}
            for name, metric in METRICS.items()
            if any(name in point["metrics"] for point in points)
        ],
        "points": points,
    }


def pictures(folder: Path) -> str | None:
    """The first image of every class among a run's first ones, as a data URL; None if not kept."""
    try:
        samples = open_folder(folder)
        parts = list(samples.batches(min(commands.SHOWN, samples.count())))
    except InputError:
        return None
    images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    return markup.strip(images[shown.first_of_classes(labels)])


def _times(cost: dict) -> dict[str, float]:
    """Milliseconds per image, by what took them; nothing if nobody measured."""
    if "ms_per_image" not in cost:
        return {}
    return {f"{short_device(cost['device'])}, batch {cost['batch_size']}": cost["ms_per_image"]}


def _decoder(run: dict, zoo: models.Zoo) -> str:
    preview = zoo.has("preview") and zoo.file("preview").name in run["weights"]
    return "preview" if preview else "first-stage"


def _settings(records: list[dict], zoo: models.Zoo) -> list[str]:
    """What each record's run is of but its allocation, as text: what is usual is not said."""
    found = [{**_conditions(record), "decoder": _decoder(record["run"], zoo)} for record in records]
    usual = {name: _usual(name, found) for name in {one["sampler.name"] for one in found}}
    texts = []
    for one in found:
        sampler = one["sampler.name"]
        text = f"{SAMPLERS.get(sampler, sampler)} {one['sampler.steps']} steps, "
        text += f"w = {one['guidance.scale']:g}"
        for key, value in one.items():
            if key not in NAMED and value != usual[sampler].get(key):
                text += f", {key.split('.')[-1].replace('_', ' ')} {_words(value)}"
        texts.append(text)
    return texts


def _usual(sampler: str, found: list[dict]) -> dict:
    """Condition -> its most frequent value among the runs of a sampler."""
    mine = [one for one in found if one["sampler.name"] == sampler]
    return {key: _most([one.get(key) for one in mine]) for one in mine for key in one}


def _conditions(record: dict) -> dict:
    left_out = {*record["protocol"], "labels", "seed"}
    return {
        key: value
        for key, value in conditions(record).items()
        if key.split(".")[0] not in left_out and not key.startswith("weights.")
    }


def _protocols(records: list[dict]) -> list[str]:
    """How each record was measured, as text: the number of images, and what is not usual."""
    found = [dict(_protocol(record)) for record in records]
    usual = {key: _most([one.get(key) for one in found]) for one in found for key in one}
    return [
        f"{one['num_images']:,} images"
        + "".join(
            f", {key.replace('_', ' ')} {_words(value)}"
            for key, value in one.items()
            if key != "num_images" and value != usual[key]
        )
        for one in found
    ]


def _protocol(record: dict) -> Iterator[tuple[str, object]]:
    yield from record["protocol"].items()
    yield from ((key, record["run"][key]) for key in ("labels", "seed"))


def _most(values: list):
    """The most frequent value; lists are told apart by what they hold."""
    by_text = {repr(value): value for value in values}
    return by_text[Counter(map(repr, values)).most_common(1)[0][0]]


def _words(value) -> str:
    if isinstance(value, list) and len(value) > 2:
        return f"of {len(value)} numbers"
    if isinstance(value, list):
        return " to ".join(map(str, value))
    return str(value)[:16]
