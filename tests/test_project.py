"""The project's own files agree with one another."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import daskmoe

ROOT = Path(__file__).resolve().parent.parent
# Where conda-forge's name is not PyPI's.
PYPI_NAME = {"dask-core": "dask", "matplotlib-base": "matplotlib", "netcdf4": "netCDF4"}
# What the tests that run at the lowest versions need beside the package.
TEST_TOOLS = ["hypothesis", "pytest", "pytest-timeout", "pytest-xdist", "pyyaml"]


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
    for extra in ("plot", "dashboard", "notebook", "netcdf", "examples", "docs", "test"):
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


def test_lowest_versions_are_the_floors(project: dict[str, Any]) -> None:
    lines = (ROOT / ".ci" / "lowest-versions.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    allowed = dict(
        split_requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["test"]
    )
    run_time = [split_requirement(line)[0] for line in project["dependencies"]]
    assert pins == {name: allowed[name].removeprefix(">=") for name in run_time + TEST_TOOLS}
    installed = re.search(r"-c \.ci/lowest-versions\.txt \. (.+)", (ROOT / ".ci" / "run").read_text())
    assert installed
    assert sorted(installed[1].split()) == TEST_TOOLS


def test_hooks_are_the_checks_of_ci() -> None:
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    hooks = repositories[0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    checks = (ROOT / ".ci" / "run").read_text().splitlines()
    for hook in hooks:
        # A hook adds the files of the commit, CI all of them.
        assert {hook["entry"], f"{hook['entry']} ."} & set(checks)


def test_citation_is_of_this_version_and_names_the_paper(project: dict[str, Any]) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert [author["name"] for author in citation["authors"]] == [a["name"] for a in project["authors"]]
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2312.09877"


def test_changelog_tells_of_this_version(project: dict[str, Any]) -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] == project["version"]


def test_types_and_licence_are_shipped(project: dict[str, Any]) -> None:
    assert (ROOT / "daskmoe" / "py.typed").exists()
    assert project["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_the_package_shows_its_public_names_only() -> None:
    assert dir(daskmoe) == sorted(daskmoe.__all__)
