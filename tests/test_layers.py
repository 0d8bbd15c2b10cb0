"""Who may import whom, read from the source: arrows point down only.

Each row of LAYERS holds rooms that may import any room of the rows above it, and not one another. Every
module of the package is in one of them, whole.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "daskmoe"

# From the bottom up, a room a folder or a loose module of the package's top.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("numerics.base", "features"),
    ("numerics.families",),
    ("numerics.likelihood", "numerics.predictive"),
    ("numerics.local", "numerics.transport"),
    ("numerics.combine",),
    ("options",),
    ("rows",),
    ("engine", "model"),
    ("plotting",),
    ("api",),
    ("estimators",),
    ("cli",),
)
DEPTH_OF = {room: depth for depth, layer in enumerate(LAYERS) for room in layer}
# Above all rooms: what the package shows, and what may take it from there.
FRONT_DOOR = "__init__"
MAY_USE_THE_FRONT_DOOR = {"cli"}

FORBIDDEN = {
    "rows": {"distributed", "matplotlib", "sklearn", "click"},
    "engine": {"matplotlib", "sklearn", "click"},
    "model": {"distributed", "sklearn", "click"},
    "plotting": {"distributed", "sklearn", "click"},
    "api": {"matplotlib", "sklearn", "click"},
    "estimators": {"distributed", "matplotlib", "click"},
}
NUMERICS_MAY_IMPORT = {"numpy", "scipy"} | sys.stdlib_module_names
# Imported inside the functions that need them, so that the package works without them.
OPTIONAL = {"matplotlib", "bokeh", "sklearn", "netCDF4", "pyarrow"}

MODULES = sorted(PACKAGE.rglob("*.py"))
DOORS = {PACKAGE / "__init__.py", PACKAGE / "__main__.py", PACKAGE / "numerics" / "__init__.py"}
ROOMED = [path for path in MODULES if path not in DOORS]


def room_of(names: Sequence[str]) -> str:
    """The room that a dotted name below the package is in: ``numerics.local`` for ``numerics.local.em``."""
    return ".".join(names[:2]) if names[0] == "numerics" else names[0]


def room_at(path: Path) -> str:
    return room_of(path.relative_to(PACKAGE).with_suffix("").parts)


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
    """Rooms that a module imports from; ``__init__`` for public names of the package itself."""
    names = (name.split(".") for name in imported_names(parse(path)))
    rooms = {room_of(name[1:]) for name in names if name[0] == "daskmoe" and name != ["daskmoe"]}
    return {room if room in DEPTH_OF else FRONT_DOOR for room in rooms}


def foreign_imports(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported_names(parse(path))} - {"daskmoe"}


@pytest.mark.parametrize("path", ROOMED, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_down(path: Path) -> None:
    room = room_at(path)
    assert room in DEPTH_OF, f"{path.name}: give the new room a place in LAYERS"
    for target in own_imports(path) - {room}:
        if target == FRONT_DOOR:
            assert room in MAY_USE_THE_FRONT_DOOR, f"{room} imports a public name of the package"
        else:
            assert DEPTH_OF[target] < DEPTH_OF[room], f"{room} imports {target}"


@pytest.mark.parametrize("path", ROOMED, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_foreign_packages_stay_in_their_rooms(path: Path) -> None:
    house = room_at(path).split(".")[0]
    foreign = foreign_imports(path)
    if house == "numerics":
        assert foreign <= NUMERICS_MAY_IMPORT
    assert not foreign & FORBIDDEN.get(house, set())


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


def test_the_picture_of_the_house_shows_every_room() -> None:
    picture = (PACKAGE.parent / "docs" / "_static" / "house.svg").read_text(encoding="utf-8")
    shown = re.findall(r'font-weight="bold">([\w.]+)<', picture)
    assert shown == [room for layer in reversed(LAYERS) for room in layer]
