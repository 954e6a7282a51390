"""How every command is started, and how it reports a mistake of its user: one line, exit code 2."""

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
    """A command cannot be started as it was; the message says how it can."""


def command(config_name: str) -> Callable[[Callable], Callable]:
    """Decorate ``main(config)``: it gets the Hydra config ``configs/CONFIG_NAME.yaml``, checked.

    What ``is_mistake`` knows ends the command with one line; anything else that is raised is ours
    and keeps its traceback.
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
        InputError: for a setting that is not what it must be.
        OmegaConfBaseException: for one that refers to nothing.
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
    """``words`` with the figures written out that ``figure=all`` or ``figure=ablations`` stand for.

    They are the files in ``configs/figure`` with that ``set``. Commands of all figures take those
    of the paper unless told otherwise.
    """
    if name not in ("figures", "claims", "report") or not _QUESTIONS.isdisjoint(words):
        return list(words)
    words = list(words)
    if name != "figures" and not any(word.startswith("figure=") for word in words):
        words.append("figure=all")
    for i, word in enumerate(words):
        wanted = {"figure=all": "paper", "figure=ablations": "ablations"}.get(word)
        if wanted:
            files = sorted((CONFIGS / "figure").glob("*.yaml"))
            found = [f.stem for f in files if yaml.safe_load(f.read_text())["set"] == wanted]
            words[i] = f"figure=[{','.join(found)}]"
    return words


def overrides() -> list[str]:
    """The settings on the command line, as they were given."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def check_groups(words: Sequence[str]) -> None:
    """Refuse a number, true, false or null where a file of a group of configs is chosen.

    Hydra does so too, without saying which.
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
    """Refuse a launcher that would not be used, or has nothing to launch with."""
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


# What Hydra is asked for without running the command.
_QUESTIONS = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i"}


def prepare(arguments: list[str]) -> None:
    """Get ready for ``python -m scripts.NAME``, or answer ``--help`` and the like and exit.

    ``scripts/__init__.py`` calls this, which Python runs before the command's own module. That one
    imports torch, which takes seconds; Hydra's answers need the config ``configs/NAME.yaml`` only.

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

        question.__module__ = module  # Hydra names the command in its answer
        command(name)(question)()
        sys.exit(0)


def _asks(arguments: Sequence[str]) -> bool:
    return not _QUESTIONS.isdisjoint(argument.split("=")[0] for argument in arguments)


def _excepthook(kind: type[BaseException], error: BaseException, trace) -> None:
    """What Python does at an exception that nobody caught, in one line if it was Ctrl-C."""
    if issubclass(kind, KeyboardInterrupt):
        print("\ninterrupted; what was finished is kept, start it again to go on", file=sys.stderr)
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
    """Whether it is the user's: of the command line, or what ``models.errors`` says is one."""
    if isinstance(error, CommandLineError | HydraException | OmegaConfBaseException):
        return True
    if isinstance(error, OSError):
        return error.errno is not None
    # Imported here it would take torch; where it was not, nobody can have raised its errors.
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
        return f"{override} is no setting; settings are given as NAME=VALUE"
    escaped = value.replace('"', '\\"')
    quoted = shlex.quote(f'{name}="{escaped}"')
    return f"{override} cannot be read; if the value is text, quote it twice: {quoted}"
