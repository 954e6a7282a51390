"""What figures of text to image need: from ``configs/figure/NAME.yaml`` to runs of pipelines."""

import re

from omegaconf import DictConfig, OmegaConf

from eval.metrics import METRICS
from eval.paper import reported
from eval.paper.points import Planner
from stitch.runs.pipeline import load_pipeline
from stitch.runs.text2image import TextRun, create


class TextPlanner(Planner):
    """A planner whose families are of pipelines.

    Of metrics, a figure has those that the data set's evaluation has.
    """

    command, chosen = "text2image", "pipeline"

    def possible(self, figures: dict[str, dict]) -> dict[str, dict]:
        here = self.config.eval.metrics
        return {
            name: {
                key: [one for one in value if one not in METRICS or one in here]
                if key in ("y", "columns", "beside")
                else value
                for key, value in figure.items()
            }
            for name, figure in super().possible(figures).items()
        }

    def _run(self, config: DictConfig, allocation: dict) -> TextRun:
        zoo = load_pipeline(config, self.device)
        shares = dict(zip(allocation["denoisers"], allocation["fractions"], strict=True))
        group = OmegaConf.merge(config, {"shares": [shares.get(name, 0.0) for name in zoo.specs]})
        return create(group, zoo, planning=True)

    def _wanted(self, setting: dict, parts: dict[str, str], factors: dict) -> dict:
        prompts, images = setting.get("prompts", {}).get(self.dataset), setting.get("images")
        if isinstance(prompts, str) and re.fullmatch(r"F\d+", prompts):
            prompts = reported.look_up(f"figures.{prompts}.prompts")
        return {
            "pipeline": parts["pipeline"],
            "pipeline.steps": max(1, round(setting["steps"] * factors["steps"])),
            "pipeline.guidance": setting.get("guidance"),
            "prompts": prompts,
            "num_images": images and max(1, round(images * factors["images"])),
            **setting.get("settings", {}),
        }


def planner_of(config: DictConfig, *arguments) -> Planner:
    """The planner of a config: of pipelines if it has one; see ``Planner``."""
    made = TextPlanner if config.get("pipeline") else Planner
    return made(config, *arguments)
