"""Who may import whom, read from the source: arrows point down only.

Each row of LAYERS holds rooms that may import any room of the rows above it, and not one another.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "daskmoe"

# From the bottom up. A room is one module, a folder, or some modules that were one before they were split.
LAYERS: tuple[dict[str, set[str]], ...] = (
    {"errors": {"errors"}},
    # The families are part of the numerics, below the options because those name the family.
    {"families": {"numerics.families"}},
    {"config": {"config"}},
    {"random": {"random"}},
    {"numerics": {"numerics"}, "schema": {"schema"}},
    {"rows": {"rows"}},
    {
        "engine": {"engine"},
        "model": {"model", "labelling", "storage"},
    },
    {"assembly": {"assembly"}, "planning": {"planning"}, "reporting": {"reporting"}},
    {"refining": {"refining"}},
    {"api": {"api", "combine", "divergence", "simulation"}},
    {"cluster": {"cluster"}, "figure": {"demo_figure"}},
    {"demo": {"demo"}},
    {"cli": {"cli"}},
    {"__init__": {"__init__"}},
)
ROOM_OF = {module: room for layer in LAYERS for room, modules in layer.items() for module in modules}
DEPTH_OF = {room: depth for depth, layer in enumerate(LAYERS) for room in layer}

FORBIDDEN = {
    "rows": {"distributed", "matplotlib", "sklearn", "click"},
    "engine": {"matplotlib", "sklearn", "click"},
    "model": {"distributed", "sklearn", "click"},
    "api": {"matplotlib", "sklearn", "click"},
}
NUMERICS_MAY_IMPORT = {"numpy", "scipy"} | sys.stdlib_module_names
# Imported inside the functions that need them, so that the package works without them.
OPTIONAL = {"matplotlib", "bokeh", "sklearn", "netCDF4", "pyarrow"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def module_of(names: Sequence[str]) -> str:
    """The entry of LAYERS that a dotted name below the package belongs to: numerics for ``numerics.em``."""
    return "numerics.families" if tuple(names[:2]) == ("numerics", "families") else names[0]


def module_at(path: Path) -> str:
    return module_of(path.relative_to(PACKAGE).with_suffix("").parts)


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported anywhere in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def own_imports(path: Path) -> set[str]:
    names = (name.split(".") for name in imported_names(parse(path)))
    return {module_of(name[1:]) for name in names if name[0] == "daskmoe" and len(name) > 1}


def foreign_imports(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported_names(parse(path))} - {"daskmoe"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_down(path: Path) -> None:
    assert module_at(path) in ROOM_OF, f"{path.name}: give the new module a room in LAYERS"
    room = ROOM_OF[module_at(path)]
    for module in own_imports(path):
        target = ROOM_OF.get(module)
        if target is None:  # `from daskmoe import fit`: a public name, only for those above all rooms
            assert DEPTH_OF[room] >= DEPTH_OF["demo"], f"{room} imports daskmoe.{module} from the package"
        elif target != room:
            assert DEPTH_OF[target] < DEPTH_OF[room], f"{room} imports {target}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_foreign_packages_stay_in_their_rooms(path: Path) -> None:
    room = ROOM_OF.get(module_at(path), "")
    foreign = foreign_imports(path)
    if room in {"numerics", "families"}:
        assert foreign <= NUMERICS_MAY_IMPORT
    assert not foreign & FORBIDDEN.get(room, set())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_optional_packages_are_imported_where_used(path: Path) -> None:
    statements = [node for node in parse(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
    at_import = {name.split(".")[0] for node in statements for name in imported_names(node)}
    assert not at_import & OPTIONAL


def test_the_check_sees_a_forbidden_import() -> None:
    tree = ast.parse("def f():\n    import dask.array as da\n    from daskmoe.engine.graph import build\n")
    assert set(imported_names(tree)) == {"dask.array", "daskmoe.engine.graph.build"}


def test_importing_daskmoe_is_light() -> None:
    code = "import sys, daskmoe; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    printed = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=120)
    # pandas imports pyarrow where it is installed, whoever asks.
    assert not set(printed.split()) & (OPTIONAL - {"pyarrow"})
