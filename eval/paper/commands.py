"""The words of the command line that give a run's settings, for commands that people copy."""

import shlex

import models
from stitch.runs.run import Run

PRECISIONS = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
SHOWN = 24  # first images of a run, of which a report shows the first of every class


def latency(runs: list[Run]) -> str:
    """What measures the latencies of ``runs``, which share all but allocations."""
    zoo = runs[0].zoo
    words = _of_speed(runs[0].settings, zoo)
    if zoo.decoder != "first-stage":
        words.append(f"decoder={zoo.decoder}")
    allocations = ",".join(str(run.allocation) for run in runs)
    return _command("latency", [*words, f"allocations=[{allocations}]"])


def sample(settings: dict, zoo: models.Zoo, num_images: int = SHOWN) -> str:
    """What samples the first images of a run.

    Args:
        settings: all that determines the pixels: a run's, or a record's ``run``.
    """
    words = _of_speed(settings, zoo)
    words += [f"{name}={_text(settings[name])}" for name, usual in USUAL if settings[name] != usual]
    if zoo.has("preview") and zoo.file("preview").name in settings["weights"]:
        words.append("decoder=preview")
    words += ["allocation=runs", f"allocation.runs={settings['allocation']}"]
    return _command("sample", [*words, f"num_images={num_images}"])


# What does not determine the speed, and what it is if nothing is said.
USUAL = (("alignment", "log-snr"), ("labels", "random"), ("seed", 0))


def _of_speed(settings: dict, zoo: models.Zoo) -> list[str]:
    words = [f"zoo={zoo.name}", f"sampler={settings['sampler']['name']}"]
    words += [f"sampler.{k}={_text(v)}" for k, v in settings["sampler"].items() if k != "name"]
    if settings["schedule"] != zoo.schedule:
        words.append(f"schedule={settings['schedule']}")
    words += _of_guidance(settings["guidance"], zoo)
    words.append(f"precision={PRECISIONS[settings['dtype']]}")
    words += [f"++zoo.{place}={_text(value)}" for place, value in settings.get("card", {}).items()]
    if settings["quantisation"]:
        words.append(f"quantisation={settings['quantisation']}")
    cache = settings.get("cache")
    if cache:
        # Of order 0, which is cache=deep, the interval is the only setting.
        words.append("cache=forecast" if cache["order"] else "cache=deep")
        words += [f"cache.{k}={v}" for k, v in cache.items() if cache["order"] or k == "interval"]
    return words


def _of_guidance(guidance: dict, zoo: models.Zoo) -> list[str]:
    words = [f"guidance.scale={guidance['scale']:g}"]
    if guidance["scale"] == 1:
        return words  # whatever the guide
    usual = {"channels": zoo.guidance_channels, "guide": zoo.unconditional}
    differing = [k for k in guidance if k != "scale" and guidance[k] != usual.get(k)]
    return words + [f"guidance.{name}={_text(guidance[name])}" for name in differing]


def _text(value) -> str:
    """A value as Hydra reads it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{','.join(map(_text, value))}]" if isinstance(value, list) else str(value)


def _command(name: str, words: list[str]) -> str:
    return f"python -m scripts.{name} {' '.join(map(shlex.quote, words))}"
