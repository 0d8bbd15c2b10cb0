"""The project's own files agree with one another."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
# Where conda-forge's name is not PyPI's.
PYPI_NAME = {"dask-core": "dask", "matplotlib-base": "matplotlib", "netcdf4": "netCDF4"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        loaded: dict[str, Any] = tomllib.load(file)["project"]
    return loaded


def split_requirement(requirement: str) -> tuple[str, str]:
    """Name and version range: ``dask[array]>=2025.1`` gives ``("dask", ">=2025.1")``."""
    match = re.fullmatch(r"([A-Za-z0-9_-]+)(?:\[[\w,]+\])?(.*)", requirement)
    assert match, requirement
    return match[1], match[2]


def test_conda_environment_is_in_step(project: dict[str, Any]) -> None:
    extras = project["optional-dependencies"]
    wanted = list(project["dependencies"])
    for extra in ("plot", "dashboard", "notebook", "netcdf", "examples", "test"):
        wanted += extras[extra]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = dict(split_requirement(line) for line in environment["dependencies"])
    assert conda.pop("python") == project["requires-python"]
    conda.pop("pip")
    assert {PYPI_NAME.get(name, name): version for name, version in conda.items()} == dict(
        split_requirement(line) for line in wanted
    )


def test_extra_all_is_all_of_the_users_extras(project: dict[str, Any]) -> None:
    extras = project["optional-dependencies"]
    (everything,) = extras["all"]
    named = re.fullmatch(r"daskmoe\[(.*)\]", everything)
    assert named
    assert set(named[1].split(",")) == set(extras) - {"all", "docs", "test"}


def test_every_requirement_has_a_floor(project: dict[str, Any]) -> None:
    lines = list(project["dependencies"])
    for extra, requirements in project["optional-dependencies"].items():
        lines += requirements if extra != "all" else []
    assert [line for line in lines if ">=" not in line] == []


def test_changelog_tells_of_this_version(project: dict[str, Any]) -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] == project["version"]


def test_types_and_licence_are_shipped(project: dict[str, Any]) -> None:
    assert (ROOT / "daskmoe" / "py.typed").exists()
    assert project["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
