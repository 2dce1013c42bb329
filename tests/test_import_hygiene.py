"""What an import of hotloop costs its user, and that the layers of the package point one way."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import hotloop

PACKAGE = Path(hotloop.__file__).parent
SOURCES = PACKAGE.parents[1] / "csrc"

# What each part may import from the others, for types too. `loop` stands for loop.py and loop_*.py alike, and
# a new part must find its place here.
KERNEL = {"ops", "spec", "entries", "stopwatch", "context", "devices"}
ALLOWED: dict[str, set[str]] = {
    "_core": set(),
    "spec": set(),
    "entries": {"spec"},
    "stopwatch": set(),
    "devices": set(),
    "exchange": set(),
    "nonfinite": set(),
    "normalize": set(),
    "envs": {"_core"},
    "ops": {"_core"},
    "freed_memory": {"_core"},
    "segment_sampler": {"ops", "devices"},
    "optim": {"ops"},
    "context": {"spec", "stopwatch"},
    "losses": KERNEL,
    "policies": KERNEL,
    "experience": KERNEL | {"segment_sampler"},
    "gradients": {"losses"},
    "distributed": {"losses"},
    "loop": KERNEL | {"experience", "losses", "policies", "envs", "gradients", "nonfinite"},
    "integrations": KERNEL | {"exchange", "segment_sampler", "experience", "loop"},
    "profiling": {"exchange"},
    "__init__": KERNEL
    | {
        "_core",
        "freed_memory",
        "segment_sampler",
        "experience",
        "loop",
        "losses",
        "nonfinite",
        "optim",
        "policies",
        "envs",
        "integrations",
        "profiling",
        "trainer",
    },
    "trainer": KERNEL
    | {
        "freed_memory",
        "normalize",
        "experience",
        "loop",
        "losses",
        "nonfinite",
        "optim",
        "policies",
        "envs",
        "gradients",
        "distributed",
    },
    "cli": {"trainer", "distributed", "losses", "envs"},
    "doctor": {"_core", "ops", "__init__"},
    "bench": KERNEL | {"_core", "experience", "__init__"},
    "__main__": {"cli", "doctor", "bench", "envs", "integrations", "profiling", "__init__"},
}
# Parts that need the extra `train` or a package of their own; everything else imports with the four required
# packages alone.
NEEDS_EXTRAS = (
    "hotloop.trainer",
    "hotloop.cli",
    "hotloop.envs.atari",
    "hotloop.envs.envpool",
    "hotloop.envs.gymnasium",
    "hotloop.envs.mettagrid",
    "hotloop.envs.pufferlib_make",
    "hotloop.integrations.sb3",
    "hotloop.integrations.torchrl",
)


class Import(NamedTuple):
    """One import of a hotloop module (or of a name in it) by another."""

    importer: str
    imported: str
    at_load: bool  # neither in a function nor for type checkers only


def module_name(path: Path) -> str:
    parts = ["hotloop", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def part_of(module: str) -> str | None:
    """`hotloop.loop_rollout` is of `loop`, `hotloop.losses.base` of `losses`, `hotloop` of `__init__`."""
    if "." not in module:
        return "__init__"
    name = module.split(".")[1]
    return name if name in ALLOWED else next((p for p in ALLOWED if name.startswith(f"{p}_")), None)


def targets(node: ast.AST, importer: str) -> Iterator[str]:
    """Full names of the modules that an import statement may load; `from a import b` may name a module b."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            is_package = MODULES.get(importer, Path()).name == "__init__.py"
            stem = importer.split(".")[: -node.level or None] if not is_package else importer.split(".")
            base = ".".join([*stem, *([base] if base else [])])
        for alias in node.names:
            full = f"{base}.{alias.name}"
            yield full if full in MODULES or full == "hotloop._core" else base


def imports_of(importer: str, source: str) -> list[Import]:
    """Every import of hotloop's modules in a source text, wherever it stands."""
    found: list[Import] = []

    def visit(node: ast.AST, at_load: bool) -> None:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found.extend(
                Import(importer, name, at_load)
                for name in targets(node, importer)
                if name.split(".")[0] == "hotloop"
            )
        inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            visit(child, at_load and not inside and not typing_only)

    visit(ast.parse(source), True)
    return found


def complaints(importer: str, source: str) -> list[str]:
    """Imports that the table above does not allow."""
    part = part_of(importer)
    if part is None:
        return [f"{importer} belongs to no part in ALLOWED"]
    reached = {(found.imported, part_of(found.imported)) for found in imports_of(importer, source)}
    return [
        f"{importer} imports {imported}: {part} must not know {other}"
        for imported, other in sorted(reached, key=str)
        if other != part and other not in ALLOWED[part]
    ]


def test_the_layers_themselves_have_no_circle() -> None:
    remaining = {part: set(below) for part, below in ALLOWED.items()}
    while remaining:
        free = {part for part, below in remaining.items() if not below & remaining.keys()}
        assert free, f"circle among {sorted(remaining)}"
        remaining = {part: below for part, below in remaining.items() if part not in free}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    assert complaints(module, MODULES[module].read_text()) == []


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("hotloop.ops.gae", "from hotloop.experience import Experience"),
        ("hotloop.experience_rows", "import hotloop.loop"),
        ("hotloop.experience", "def late():\n    from hotloop.loop_rollout import Window"),
        ("hotloop.losses.base", "if TYPE_CHECKING:\n    from hotloop.trainer.config import TrainConfig"),
        ("hotloop.losses.base", "from ..loop import CoreTrainingLoop"),
        ("hotloop.envs.protocol", "from hotloop import ops"),
        ("hotloop.integrations.sb3", "from hotloop.losses import Loss"),
        ("hotloop.loop", "from hotloop import *"),
        ("hotloop.loop", "import hotloop"),
        ("hotloop.misc", ""),
    ],
)
def test_an_import_that_points_the_wrong_way_is_noticed(importer: str, source: str) -> None:
    assert len(complaints(importer, source)) == 1


def test_modules_load_in_an_order_that_exists() -> None:
    """No module needs, while it loads, one that needs it; functions and type checkers may look back."""
    waits = {
        module: {
            found.imported
            for found in imports_of(module, path.read_text())
            if found.at_load and found.imported in MODULES and found.imported != module
        }
        for module, path in MODULES.items()
    }
    while waits:
        ready = {module for module, needed in waits.items() if not needed & waits.keys()}
        assert ready, f"circle among {sorted(waits)}"
        waits = {module: needed for module, needed in waits.items() if module not in ready}


def test_gymnasium_is_imported_by_its_adapter_only() -> None:
    importers = {
        module
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        for name in targets(node, module)
        if name.split(".")[0] == "gymnasium"
    }
    assert importers == {"hotloop.envs.gymnasium_make"}


def loaded_by(*modules: str) -> set[str]:
    """Packages that importing the modules loads, beside Python's own and what the required packages load."""
    code = (
        "import sys, importlib\n"
        "import numpy, tensordict, torch\n"
        "from pydantic import BaseModel, Field\n"
        "tops = lambda: {name.split('.')[0] for name in sys.modules}\n"
        "before = tops()\n"
        "for module in sys.argv[1:]: importlib.import_module(module)\n"
        "print(*sorted(tops() - before - sys.stdlib_module_names))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *modules], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_importing_hotloop_loads_no_optional_package() -> None:
    assert loaded_by("hotloop") <= {"hotloop"}


def test_importing_hotloop_loads_no_benchmark() -> None:
    code = "import sys, hotloop, hotloop.ops, hotloop.loop; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    assert "hotloop.ops.gae" in loaded
    assert not {name for name in loaded if name.startswith("hotloop.bench")}


def test_nothing_but_the_trainer_and_the_adapters_needs_an_extra() -> None:
    modules = [
        module for module in MODULES if not module.startswith(NEEDS_EXTRAS) and module != "hotloop.__init__"
    ]
    assert {"hotloop.loop", "hotloop.envs", "hotloop.losses.base", "hotloop.doctor", "hotloop.__main__"} <= {
        *modules
    }
    assert loaded_by(*modules) == {"hotloop"}


def test_an_optional_package_would_be_noticed() -> None:
    assert "gymnasium" in loaded_by("hotloop.envs.gymnasium")


INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)
# Of the project's own headers, those of one's own folder and of these.
NATIVE = {"core": set(), "cpu": {"core"}, "cuda": {"core"}, "bind": {"core", "cpu", "cuda"}}


def native_complaints(folder: str, source: str) -> list[str]:
    wrong = []
    for header in INCLUDE.findall(source):
        top = header.removeprefix("../").split("/")[0]
        if re.match(r"(torch|ATen|c10)/", header):
            wrong.append(f"{header}: no file may know torch")
        elif folder != "bind" and re.match(r"(pybind11/|Python\.h)", header):
            wrong.append(f"{header}: only csrc/bind knows Python")
        elif top in NATIVE and top != folder and top not in NATIVE[folder]:
            wrong.append(f"{header}: csrc/{folder} must not know csrc/{top}")
    return wrong


@pytest.mark.skipif(not SOURCES.is_dir(), reason="an installed package carries no C++ sources")
def test_native_layers_point_one_way() -> None:
    files = [path for path in SOURCES.rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh")]
    assert files
    for path in files:
        folder = path.relative_to(SOURCES).parts[0]
        assert native_complaints(folder, path.read_text()) == [], path


@pytest.mark.parametrize(
    ("folder", "include"),
    [
        ("bind", "#include <torch/extension.h>"),
        ("bind", '#  include "ATen/ATen.h"'),
        ("cpu", "#include <pybind11/pybind11.h>"),
        ("core", "#include <Python.h>"),
        ("core", '#include "cpu/copy.h"'),
        ("cpu", '#include "../bind/errors.h"'),
    ],
)
def test_an_include_that_points_the_wrong_way_is_noticed(folder: str, include: str) -> None:
    assert len(native_complaints(folder, include)) == 1
