"""How every command is started, and how it reports a user's mistake: one line, exit code 2."""

import functools
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from scripts import schema

CONFIGS = Path(__file__).parent.parent / "configs"


class CommandLineError(Exception):
    """A command was started wrongly; the message says how to start it."""


def command(config_name: str) -> Callable[[Callable], Callable]:
    """Decorate ``main(config)``: it gets the Hydra config ``configs/CONFIG_NAME.yaml``, checked.

    A mistake (``is_mistake``) ends the command with one line; any other exception is a bug and
    keeps its traceback.
    """

    def decorate(main: Callable[[DictConfig], None]) -> Callable[[], None]:
        @functools.wraps(main)
        def checked(config: DictConfig) -> None:
            # Caught inside the job as well, or Hydra adds lines of its own.
            with user_errors():
                resolve(config, config_name)
                main(config)

        run = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)

        @functools.wraps(main)
        def wrapped() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # errors arrive here instead of being printed
            # As other tools spell it; Hydra has settings only.
            words = ["dry_run=true" if word == "--dry-run" else word for word in sys.argv[1:]]
            sys.argv[1:] = with_figures(config_name, words)
            with user_errors():
                if not _asks(sys.argv):
                    check_groups(sys.argv[1:])
                    check_launcher(sys.argv[1:])
                run(checked)()

        return wrapped

    return decorate


def resolve(config: DictConfig, name: str) -> None:
    """Resolve a composed config of the command ``name`` and check its settings; in place.

    Raises:
        InputError: for a setting of the wrong kind.
        OmegaConfBaseException: for a reference to nothing.
    """
    OmegaConf.resolve(config)
    schema.check(config, name)


def compose(name: str, overrides: Sequence[str]) -> DictConfig:
    """The config of the command ``name`` with ``overrides``, as ``main`` would get it.

    To be called where Hydra is initialised, such as within a command.
    """
    config = hydra.compose(name, with_figures(name, overrides))
    resolve(config, name)
    return config


def with_figures(name: str, words: Sequence[str]) -> list[str]:
    """``words`` with ``figure=all``, ``text`` or ``ablations`` replaced by the figures of that set.

    A set is the files in ``configs/figure`` with that ``set``. Commands of all figures use the
    paper's by default.
    """
    if name not in ("figures", "claims", "report") or not _QUESTIONS.isdisjoint(words):
        return list(words)
    words = list(words)
    if name != "figures" and not any(word.startswith("figure=") for word in words):
        words.append("figure=all")
    for i, word in enumerate(words):
        sets = {"figure=all": "paper", "figure=text": "text", "figure=ablations": "ablations"}
        wanted = sets.get(word)
        if wanted:
            files = sorted((CONFIGS / "figure").glob("*.yaml"))
            found = [f.stem for f in files if yaml.safe_load(f.read_text())["set"] == wanted]
            words[i] = f"figure=[{','.join(found)}]"
    return words


def overrides() -> list[str]:
    """The settings on the command line, as they were given: ``${...}`` is not resolved."""
    if not HydraConfig.initialized():
        return []
    return OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)


def check_groups(words: Sequence[str]) -> None:
    """Refuse a number, true, false or null as the choice of a config group.

    Hydra does so too, without naming the group.
    """
    for text in words:
        group = text.partition("=")[0]
        if "=" not in text or not (CONFIGS / group).is_dir():
            continue
        override = OverridesParser.create().parse_override(text)
        swept = override.is_sweep_override()
        for value in override.sweep_iterator() if swept else [override.value()]:
            if value is None or isinstance(value, int | float):
                options = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
                raise CommandLineError(
                    f"{text}: {group} is a group of settings; choose one of {', '.join(options)}, "
                    f"set what is in it ({group}.NAME=VALUE), or leave it out"
                )


def check_launcher(arguments: Sequence[str]) -> None:
    """Refuse a launcher that would be ignored, or that cannot launch anything here."""
    words = [word.partition("=") for word in arguments]
    chosen = [value for name, _, value in words if name in ("launcher", "hydra/launcher")]
    names = {name for name, *_ in words}
    if chosen and names.isdisjoint({"-m", "--multirun", "hydra.mode"}):
        raise CommandLineError(f"launcher={chosen[0]} is for the points of a sweep: add -m")
    if {"slurm", "submitit_slurm"} & set(chosen) and shutil.which("srun") is None:
        raise CommandLineError(
            f"launcher={chosen[0]} needs Slurm, and there is no srun on this machine; start it "
            "where jobs are submitted, or use launcher=local or launcher=joblib"
        )


# Options that Hydra handles without running the command.
_QUESTIONS = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i"}


def prepare(arguments: list[str]) -> None:
    """Prepare for ``python -m scripts.NAME``, or handle ``--help`` and the like and exit.

    ``scripts/__init__.py`` calls this before Python runs the command's own module. That one imports
    torch, which takes seconds; Hydra's own options need only ``configs/NAME.yaml``.

    Args:
        arguments: of the interpreter; if they start no command, nothing is done.
    """
    module = arguments[arguments.index("-m") + 1] if "-m" in arguments[:-1] else ""
    package, _, name = module.partition(".")
    if package != __package__ or not (CONFIGS / f"{name}.yaml").is_file():
        return
    sys.excepthook = _excepthook
    if _asks(arguments):

        def question(config: DictConfig) -> None:
            raise AssertionError("Hydra answers without calling the command")

        question.__module__ = module  # Hydra names the command in its output
        command(name)(question)()
        sys.exit(0)


def _asks(arguments: Sequence[str]) -> bool:
    return not _QUESTIONS.isdisjoint(argument.split("=")[0] for argument in arguments)


def _excepthook(kind: type[BaseException], error: BaseException, trace) -> None:
    """Handle an uncaught exception as Python does, but report Ctrl-C in one line."""
    if issubclass(kind, KeyboardInterrupt):
        print("\ninterrupted; finished work is kept, run it again to resume", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


@contextmanager
def user_errors() -> Iterator[None]:
    """End the process with one clear line and exit code 2 if the user made a mistake."""
    try:
        yield
    except Exception as error:
        if not is_mistake(error):
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)


def is_mistake(error: Exception) -> bool:
    """Whether an error is the user's: in the command line, or by ``models.errors``."""
    if isinstance(error, CommandLineError | HydraException | OmegaConfBaseException):
        return True
    if isinstance(error, OSError):
        return error.errno is not None
    # Importing it here would import torch; if it was not imported, none of its errors was raised.
    errors = sys.modules.get("models.errors")
    return errors is not None and errors.is_mistake(error)


def _one_line(error: Exception) -> str:
    text = str(error).split("Config search path:")[0]
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        text = f"{os.fspath(error.filename)}: {error.strerror}"
    if isinstance(error, OverrideParseException):
        text = _unreadable(error.override)
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


def _unreadable(override: str) -> str:
    """What to do about an override that Hydra cannot parse."""
    name, equals, value = override.partition("=")
    if not equals:
        return f"{override} is not a setting; give settings as NAME=VALUE"
    escaped = value.replace('"', '\\"')
    quoted = shlex.quote(f'{name}="{escaped}"')
    return f"{override} cannot be read; if the value is text, quote it twice: {quoted}"
