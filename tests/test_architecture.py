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
    "stitch.pipelines": ("stitch", "samplers", "models.errors"),
    "stitch.text_training": ("stitch.training", "stitch.runs", "samplers", "models"),
    "eval": ("stitch", "samplers", "models"),
    "scripts": ("eval", "stitch", "samplers", "models"),
}
# What a room may not know of those: the idea nothing of runs, runs nothing of training, and the
# idea nothing of pipelines, in which runs of text to image are stitched.
HIDDEN = {
    "stitch": ("stitch.runs", "stitch.training", "stitch.text_training", "stitch.pipelines"),
    "stitch.runs": ("stitch.training", "stitch.text_training"),
    "stitch.pipelines": ("stitch.runs", "stitch.training", "stitch.text_training"),
}
# What nothing outside may import, but for scripts.
CONSUMERS = ("eval.paper", "eval.speed", "eval.explorer")
# What stands beside the rooms, and what the commands share.
NO_ROOMS = {"tests"}
SHARED_SCRIPTS = {"scripts.cli", "scripts.schema", "scripts.as_module"}
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


def of_project(source: str, package: str) -> list[str]:
    """What a source imports of the project."""
    return [name for name in imports(source, package) if name.split(".")[0] in ROOMS | NO_ROOMS]


def strange_to_its_room(module: str, source: str, package: str) -> list[str]:
    """What a module imports that its room may not know."""
    room = room_of(module)
    known = (room, *ALLOWED[room])
    hidden = HIDDEN.get(room, ())
    return [
        name
        for name in of_project(source, package)
        if not any(within(name, one) for one in known) or any(within(name, one) for one in hidden)
    ]


def of_consumers_or_scripts(module: str, source: str, package: str) -> list[str]:
    """What a module imports of consumers without being one or a script, and of other scripts."""
    found = []
    for name in of_project(source, package):
        consumers = [one for one in CONSUMERS if within(name, one)]
        is_script = within(module, "scripts")
        if any(not is_script and not within(module, one) for one in consumers) or (
            within(name, "scripts") and not any(within(name, one) for one in SHARED_SCRIPTS)
        ):
            found.append(name)
    return found


def touches_distributed(source: str, package: str) -> bool:
    """Whether a source imports ``torch.distributed`` or takes it from ``torch``."""
    used = {ast.unparse(node) for node in ast.walk(ast.parse(source)) if hasattr(node, "attr")}
    imported = imports(source, package)
    return "torch.distributed" in used or any(within(n, "torch.distributed") for n in imported)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
@pytest.mark.parametrize("rule", [strange_to_its_room, of_consumers_or_scripts])
def test_a_module_imports_only_what_it_may_know(rule, path):
    assert rule(module_of(path), path.read_text(), package_of(path)) == []


def test_one_file_alone_touches_torch_distributed():
    touching = [path for path in FILES if touches_distributed(path.read_text(), package_of(path))]
    assert touching == [ROOT / "stitch" / "runs" / "distributed.py"]


def test_every_package_is_a_room_that_the_rules_know():
    packages = {path.parent.name for path in ROOT.glob("*/*.py")}
    assert packages == ROOMS | NO_ROOMS
    nested = {package_of(path) for path in FILES}
    below = {"stitch.runs", "stitch.pipelines", *CONSUMERS, "models.training"}
    assert nested == ROOMS | below


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 400


def test_the_commands_are_thin():
    commands = {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    scripts = [path for path in (ROOT / "scripts").glob("*.py") if path.stem in commands]
    lines = {path.stem: len(path.read_text().splitlines()) for path in scripts}
    assert len(lines) > 15 and max(lines.values()) <= 95, lines


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


# ---- the rules find what is against them ----


@pytest.mark.parametrize(
    "module, source, found",
    [
        ("models.dit", "from samplers import Guidance", ["samplers.Guidance"]),
        ("samplers.ddim", "import models", ["models"]),
        ("samplers.ddim", "from models.errors import InputError", []),
        ("samplers.ddim", "from models.errors_of_old import X", ["models.errors_of_old.X"]),
        ("stitch.cost", "def f():\n    from stitch.runs import run", ["stitch.runs.run"]),
        ("stitch.cost", "from . import training", ["stitch.training"]),
        ("stitch.cost", "from .allocation import Allocation", []),
        ("stitch", "from stitch.runs.run import Run", ["stitch.runs.run.Run"]),
        ("stitch.runs.run", "from stitch import training", ["stitch.training"]),
        ("stitch.runs.run", "from stitch import Allocation\nimport models", []),
        ("stitch.runs.run", "import eval.metrics", ["eval.metrics"]),
        ("stitch.training", "from stitch.runs import run\nimport stitch.cost", ["stitch.cost"]),
        ("stitch.cost", "import stitch.pipelines", ["stitch.pipelines"]),
        ("stitch.runs.run", "from stitch import pipelines", []),
        ("stitch.pipelines.hook", "from stitch.runs import run", ["stitch.runs.run"]),
        ("stitch.pipelines.hook", "from stitch import Allocation\nimport models", ["models"]),
        ("stitch.pipelines.hook", "from stitch.pipelines.member import Member", []),
        ("eval.metrics", "import scripts.cli", ["scripts.cli"]),
        ("scripts.zoo", "import tests, torch, eval", ["tests"]),
    ],
)
def test_what_a_room_may_not_know_is_found(module, source, found):
    package = module if module == "stitch" else module.rpartition(".")[0]
    assert strange_to_its_room(module, source, package) == found


@pytest.mark.parametrize(
    "module, source, found",
    [
        ("eval.metrics", "from eval.paper import tables", ["eval.paper.tables"]),
        ("eval.paper.kinds", "from eval.paper import tables", []),
        ("eval.paper.kinds", "from eval import speed, metrics", ["eval.speed"]),
        ("eval.speed.budget", "import eval.paper.tables", ["eval.paper.tables"]),
        ("eval.metrics", "import eval.papers", []),
        ("eval.explorer.page", "from eval.explorer import drawn", []),
        ("eval.explorer.drawn", "from eval.paper import plots", ["eval.paper.plots"]),
        ("scripts.figures", "from eval.paper import tables\nfrom scripts.cli import command", []),
        ("scripts.figures", "from scripts import sweep", ["scripts.sweep"]),
        ("scripts.figures", "from .sample import main", ["scripts.sample.main"]),
    ],
)
def test_consumers_and_scripts_that_are_imported_are_found(module, source, found):
    assert of_consumers_or_scripts(module, source, module.rpartition(".")[0]) == found


@pytest.mark.parametrize(
    "source, touches",
    [
        ("import torch.distributed as dist", True),
        ("from torch import distributed", True),
        ("from torch.distributed import barrier", True),
        ("import torch\n\ndef f():\n    torch.distributed.barrier()", True),
        ("import torch\n\nf = torch.distributed.is_available", True),
        ("from stitch.runs import distributed\ndistributed.barrier()", False),
        ("import torch\n\nx = 'torch.distributed'", False),
    ],
)
def test_torch_distributed_is_found(source, touches):
    assert touches_distributed(source, "eval") == touches
