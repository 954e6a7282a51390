"""Commands within the process of a test, which saves the seconds that a process takes to start."""

import contextlib
import importlib
import io
import sys
from unittest import mock

import hydra
from omegaconf import DictConfig

from scripts import cli


def compose(name: str, *overrides: str) -> DictConfig:
    """The config that the command ``name`` gets."""
    with hydra.initialize_config_dir(str(cli.CONFIGS.resolve()), version_base="1.3"):
        return cli.compose(name, overrides)


def run(name: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``python -m scripts.NAME ARGUMENTS``."""
    main = importlib.import_module(f"scripts.{name}").main
    output, errors = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", [f"{name}.py", *arguments]),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            main()
            code = 0
        except SystemExit as exit:
            code = exit.code
    return code, output.getvalue(), errors.getvalue()


def refusal(name: str, *arguments: str) -> str:
    """The one line with which a command refuses its arguments; exit code 2."""
    code, _, errors = run(name, *arguments)
    assert code == 2, errors
    (line,) = errors.splitlines()
    assert line.startswith("error: ")
    return line
