"""Whether wandb can log, asked before the work that is to be logged."""

from omegaconf import DictConfig

from models.errors import InputError


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
