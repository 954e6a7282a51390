"""Who may know whom (DESIGN: rooms): imports point only downwards."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# room -> the modules of other rooms that it may import; a room's name stands for all of it.
ALLOWED = {
    "models": (),
    "samplers": ("models.errors",),
    "stitch": ("samplers", "models.errors"),
    "eval": ("models.checkpoint", "models.classifier", "models.errors", "models.files"),
    "scripts": ("eval", "stitch", "samplers", "models"),
}
FILES = [path for room in ALLOWED for path in sorted((ROOT / room).rglob("*.py"))]


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


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_what_it_may_know(path):
    room = path.relative_to(ROOT).parts[0]
    known = (room, *ALLOWED[room])
    for name in imports(path.read_text(), package_of(path)):
        if name.split(".")[0] in {*ALLOWED, "tests"}:
            assert any(within(name, module) for module in known), f"{room} must not import {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_launcher_touches_torch_distributed(path):
    if path == ROOT / "scripts" / "launch.py":
        return
    source = path.read_text()
    assert not any(within(name, "torch.distributed") for name in imports(source, package_of(path)))
    used = {ast.unparse(node) for node in ast.walk(ast.parse(source)) if hasattr(node, "attr")}
    assert "torch.distributed" not in used


def test_every_room_is_looked_at():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == ALLOWED.keys()


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
