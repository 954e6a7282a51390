"""How every command is started, and how it reports a mistake of its user: one line, exit code 2."""

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

CONFIGS = Path(__file__).parent.parent / "configs"


def command(config_name: str) -> Callable[[Callable], Callable]:
    """Decorate ``main(config)``: it gets the Hydra config ``configs/CONFIG_NAME.yaml``.

    ``ValueError``, ``FileNotFoundError`` and what Hydra and OmegaConf raise are mistakes of the
    user, ``FloatingPointError`` tells of bad weights or too narrow a precision; anything else is
    ours and keeps its traceback.
    """

    def decorate(main: Callable[[DictConfig], None]) -> Callable[[], None]:
        @functools.wraps(main)
        def checked(config: DictConfig) -> None:
            # Caught inside the job as well, or Hydra adds lines of its own.
            with user_errors():
                OmegaConf.resolve(config)
                main(config)

        run = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)

        @functools.wraps(main)
        def wrapped() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # errors arrive here instead of being printed
            # As other tools spell it; Hydra has settings only.
            sys.argv = ["dry_run=true" if word == "--dry-run" else word for word in sys.argv]
            with user_errors():
                run(checked)()

        return wrapped

    return decorate


# What Hydra is asked for without running the command.
_QUESTIONS = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i"}


def answer_question(arguments: list[str]) -> None:
    """Answer ``python -m scripts.NAME --help`` (or another question to Hydra) and exit.

    ``scripts/__init__.py`` calls this, which Python runs before the command's own module. That one
    imports torch, which takes seconds; Hydra's answers need the config ``configs/NAME.yaml`` only.

    Args:
        arguments: of the interpreter; anything but a question to a command returns at once.
    """
    module = arguments[arguments.index("-m") + 1] if "-m" in arguments[:-1] else ""
    package, _, name = module.partition(".")
    if package != __package__ or not (CONFIGS / f"{name}.yaml").is_file():
        return
    if not _QUESTIONS.isdisjoint(argument.split("=")[0] for argument in arguments):

        def question(config: DictConfig) -> None:
            raise AssertionError("Hydra answers without calling the command")

        question.__module__ = module  # Hydra names the command in its answer
        command(name)(question)()
        sys.exit(0)


@contextmanager
def user_errors() -> Iterator[None]:
    """End the process with one clear line and exit code 2 if the user made a mistake."""
    try:
        yield
    except (
        ValueError,
        FileNotFoundError,
        FloatingPointError,
        HydraException,
        OmegaConfBaseException,
    ) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)


def _one_line(error: Exception) -> str:
    text = str(error).split("Config search path:")[0]
    missing = getattr(error, "missing_cfg_file", None)
    if missing and "Available options" not in text:
        # Hydra lists the options of groups but not those of a group's sub-folder.
        options = sorted(path.stem for path in (CONFIGS / missing).parent.glob("*.yaml"))
        text += f" Available options in '{Path(missing).parent}': {' '.join(options)}"
    parent = getattr(error.__cause__, "parent_node", None)
    if parent is not None:
        # An override of a key that does not exist.
        text = text.split("To append")[0] + f"known: {', '.join(map(str, parent))}"
    return " ".join(text.split())
