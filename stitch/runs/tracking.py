"""Logging to wandb, with a check before the work that is to be logged."""

from collections.abc import Callable

from omegaconf import DictConfig, OmegaConf

from models.errors import InputError
from stitch.runs import distributed
from stitch.runs.records import content_hash


def check_tracking(settings: DictConfig) -> None:
    """Raise InputError if ``wandb.mode`` is online and wandb's server would not take the log.

    Args:
        settings: the config group ``wandb``.
    """
    if settings.mode != "online":
        return
    import wandb

    try:
        why = "" if wandb.login(prompt=False) else "nobody is logged in: run wandb login"
    except wandb.Error as error:
        why = str(error)
    if why:
        raise InputError(f"wandb.mode=online, but {why}; wandb.mode=offline logs to a folder")


def log_record(record: dict, settings: DictConfig) -> None:
    """Log a record as one wandb run: its metrics, and all else as config."""
    import wandb

    facts = {key: value for key, value in record.items() if key != "metrics"}
    name = content_hash({"run": record["run"], "protocol": record["protocol"]})
    with wandb.init(project=settings.project, mode=settings.mode, name=name, config=facts) as run:
        run.log(record["metrics"])


def metrics_logger(config: DictConfig, recipe: DictConfig) -> Callable[[dict, int], None]:
    """A function (values, images seen) that logs to wandb, or nowhere if it is disabled."""
    if config.wandb.mode == "disabled" or not distributed.is_main():
        return lambda values, images: None
    import wandb

    run = wandb.init(
        project=config.wandb.project,
        mode=config.wandb.mode,
        name=recipe.name,
        config=OmegaConf.to_container(recipe),
        reinit="create_new",  # the networks of a zoo take turns
    )
    return lambda values, images: run.log(values, step=images)
