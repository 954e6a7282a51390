"""Get a zoo's published files: ``python -m scripts.download zoo=imagenet256-dit [what=all]``.

After an interruption, the same command resumes.
"""

if not __package__:
    import as_module  # noqa: F401  says how to start it, and exits

import logging

from omegaconf import DictConfig

import models
from models.download import DownloadError, get
from models.errors import InputError
from scripts.cli import command

log = logging.getLogger("download")

EVALUATION = ("reference", "inception")  # files that no image is made with


@command("download")
def main(config: DictConfig) -> None:
    zoo = models.Zoo(config.zoo)
    if not zoo.files:
        log.info("zoo %s is shipped; there is nothing to download", zoo.name)
        return
    wanted = [
        file
        for name, file in zoo.files.items()
        if config.what == "all" or (config.what == "reference") == (name in EVALUATION)
    ]
    if config.dry_run:
        for file in wanted:
            log.info("%-14s %-12s %s", file.name, file.state(), file.size or "size unknown")
            log.info("    to   %s\n    from %s", file.path, "\n      or ".join(file.urls))
        return
    problems = []
    for file in wanted:
        try:
            log.info("%s: %s", file.name, get(file))
        except DownloadError as error:
            problems.append(f"{file.name}: {error}; put it at {file.path}")
    if problems:
        raise InputError(
            f"{len(problems)} of {len(wanted)} files could not be downloaded. "
            "Fetch them by hand or run the command again: " + " | ".join(problems)
        )


if __name__ == "__main__":
    main()
