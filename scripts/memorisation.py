"""Do samples copy the training photographs? ``python -m scripts.memorisation zoo=imagenette64``.

The nearest training photographs of samples beside those of held-out photographs, and the FID that
photographs and their reconstructions have, as a page and a picture.
"""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from eval.datasets import open_dataset
from eval.evaluator import Evaluator
from eval.paper import memorisation
from models.errors import InputError
from models.files import check_writable
from scripts.cli import command
from stitch.runs import build, devices, distributed
from stitch.runs.generate import sample_missing
from stitch.runs.provenance import refuse_unclean

log = logging.getLogger("memorisation")


@command("memorisation")
def main(config: DictConfig) -> None:
    if "data" not in config.zoo:
        raise InputError(f"zoo={config.zoo.name} names no photographs that it was trained on")
    refuse_unclean("results", config.results)
    device = devices.start(config.device)
    check_writable(config.results, "results")
    zoo = build.load_zoo(config, device)
    runs = {}
    for name in config.denoisers or zoo.default_denoisers:
        group = {"rule": "fractions", "denoisers": [name], "fractions": [1.0], "small": 1.0}
        merged = OmegaConf.merge(config, {"allocation": group})
        runs[name] = build.create(merged, zoo, probe=True)
    evaluator = Evaluator(config.eval, device)
    train, test = (open_dataset(config.zoo.data, part, **config.data) for part in ("train", "test"))
    for run in runs.values():
        sample_missing(run)
    stages = {zoo.decoder: zoo.first_stage}
    if zoo.decoder == "first-stage" and zoo.has("preview"):
        preview = build.load_zoo(OmegaConf.merge(config, {"decoder": "preview"}), device)
        stages["preview"] = preview.first_stage
    found = memorisation.compare(runs, train, test, evaluator, stages, config.zoo.get("flips"))
    if distributed.is_main():
        log.info("%s", found.write(Path(config.results)))
        log.info("%s", Path(config.results) / "memorisation.md")


if __name__ == "__main__":
    main()
