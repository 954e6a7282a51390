"""Who may know whom (DESIGN: rooms): imports point only downwards."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT

# room -> the modules of other rooms that it may import; a room's name stands for all of it. The
# longest name that a file is in counts.
ALLOWED = {
    "models": (),
    "samplers": ("models.errors",),
    "stitch": ("samplers", "models.errors"),
    "stitch.runs": ("stitch", "samplers", "models"),
    "stitch.training": ("stitch.runs", "samplers", "models"),
    "eval": ("stitch", "samplers", "models"),
    "scripts": ("eval", "stitch", "samplers", "models"),
}
# What nothing outside may import, but for scripts.
CONSUMERS = ("eval.paper", "eval.speed")
# What stands beside the rooms, and what the commands share.
NO_ROOMS = {"tests"}
SHARED_SCRIPTS = {"scripts.cli", "scripts.schema"}
ROOMS = {room.split(".")[0] for room in ALLOWED}
FILES = [path for room in sorted(ROOMS) for path in sorted((ROOT / room).rglob("*.py"))]


def imports(source: str, package: str = "") -> Iterator[str]:
    """Dotted names of everything imported anywhere in ``source``, a module of ``package``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: 1 - node.level or None] if node.level else []
            module = ".".join([*parents, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def package_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).parent.parts)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    return max((room for room in ALLOWED if within(module, room)), key=len)


def imports_of(path: Path) -> list[str]:
    """What a file imports of the project."""
    found = imports(path.read_text(), package_of(path))
    return [name for name in found if name.split(".")[0] in ROOMS | NO_ROOMS]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_what_it_may_know(path):
    room = room_of(module_of(path))
    known = (room, *ALLOWED[room])
    for name in imports_of(path):
        assert any(within(name, module) for module in known), f"{room} must not import {name}"
        if room == "stitch":  # the idea knows nothing of runs and training
            assert not within(name, "stitch.runs") and not within(name, "stitch.training")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_scripts_import_consumers_and_no_script_another(path):
    module = module_of(path)
    for name in imports_of(path):
        for consumer in CONSUMERS:
            if within(name, consumer):
                assert within(module, consumer) or within(module, "scripts"), name
        if within(name, "scripts"):
            assert any(within(name, shared) for shared in SHARED_SCRIPTS) or (
                name == "scripts.as_module"
            ), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_one_file_alone_touches_torch_distributed(path):
    if path == ROOT / "stitch" / "runs" / "distributed.py":
        return
    source = path.read_text()
    assert not any(within(name, "torch.distributed") for name in imports(source, package_of(path)))
    used = {ast.unparse(node) for node in ast.walk(ast.parse(source)) if hasattr(node, "attr")}
    assert "torch.distributed" not in used


def test_every_package_is_a_room_that_the_rules_know():
    packages = {path.parent.name for path in ROOT.glob("*/*.py")}
    assert packages == ROOMS | NO_ROOMS
    nested = {package_of(path) for path in FILES}
    assert nested == ROOMS | {"stitch.runs", "eval.paper", "eval.speed", "models.training"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 400


def test_the_commands_are_thin():
    lines = {path: len(path.read_text().splitlines()) for path in (ROOT / "scripts").glob("*.py")}
    assert sum(lines.values()) <= 1300


@pytest.mark.parametrize(
    "source, name",
    [
        ("import models.dit", "models.dit"),
        ("from models import dit", "models.dit"),
        ("def f():\n    from models.dit import DiT as D", "models.dit.DiT"),
        ("if True:\n    import os, models", "models"),
        ("from . import shards", "eval.shards"),
        ("from .shards import ShardFolder", "eval.shards.ShardFolder"),
        ("from torch import distributed as dist", "torch.distributed"),
    ],
)
def test_no_way_to_import_is_overlooked(source, name):
    assert name in list(imports(source, "eval"))
