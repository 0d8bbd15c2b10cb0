"""The study of the paper runs in a tiny version: labels of its store, resuming, figures, tables."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import LocalCluster
from distributed.client import _get_global_client

pytest.importorskip("matplotlib")

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "paper"
MODULES = tuple(path.stem for path in FOLDER.glob("*.py"))


@pytest.fixture(scope="module")
def module() -> Iterator[Callable[[str], Any]]:
    """A module of the study by its name; they are a folder of scripts and no package."""
    sys.path.insert(0, str(FOLDER))
    yield import_module
    sys.path.remove(str(FOLDER))
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def store(module: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a tiny study."""
    path = tmp_path_factory.mktemp("study") / "study.zarr"
    module("study").main(["--size", "tiny", "--output", str(path)])
    return path


def test_store_is_labelled(module: Callable[[str], Any], store: Path) -> None:
    judging = module("judging")
    with xr.open_zarr(store, group="simulated", consolidated=False) as found:
        cells = found.load()
    assert dict(cells.sizes) == {"cell": 1, "estimator": 6, "iteration": judging.ITERATIONS}
    labels = [cells[name].item() for name in ("scenario", "rows", "partitions", "replicate")]
    assert labels == ["exchangeable", 2_000, 4, 0]
    for metric, (text, units) in judging.METRICS.items():
        assert cells[metric].attrs == {"long_name": text, "units": units}
        done = cells["estimator"].values[cells[metric].notnull().values[0]].tolist()
        assert done == ["global", "auto"]
    assert float(cells["rand_index"].max()) > 0.9
    # The fits are short of the truth by what 2,000 rows do not tell, at most.
    lost = cells["true_log_likelihood"] - cells["log_likelihood"].sel(estimator="global")
    assert abs(lost.item()) < 0.1


def test_finished_cells_are_skipped(
    module: Callable[[str], Any],
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a finished cell is judged again")

    monkeypatch.setattr(module("judging"), "judge_cell", refuse)
    caplog.set_level(logging.INFO)
    module("study").main(["--size", "tiny", "--output", str(store), "--data", str(store.parent)])
    assert "MMASH, 16 chunks is skipped" in caplog.text
    with pytest.raises(SystemExit, match="expected an own store"):
        module("study").main(["--size", "tiny", "--output", str(store), "--seed", "1"])


@pytest.mark.cluster
def test_cells_are_kept_while_a_cluster_judges_others(
    module: Callable[[str], Any],
    store: Path,
    cluster: LocalCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = module("study")
    append, default_clients = study.append, []

    def watched(*arguments: Any) -> None:
        # With one, reading what is kept would wait for a worker.
        default_clients.append(_get_global_client())
        append(*arguments)

    monkeypatch.setattr(study, "append", watched)
    path = tmp_path / "study.zarr"
    study.main(["--size", "tiny", "--output", str(path), "--scheduler", cluster.scheduler_address])
    assert set(default_clients) == {None}
    here, there = (module("store").read_group(each, "simulated") for each in (store, path))
    xr.testing.assert_identical(here["log_likelihood"], there["log_likelihood"])


def test_figures_and_tables_are_of_the_store(module: Callable[[str], Any], store: Path) -> None:
    output = store.parent / "figures"
    module("figures").main([str(store), "--output", str(output)])
    names = ("metrics-by-rows", "metrics-by-partitions", "objective", "consistency", "scenarios")
    assert {path.name for path in output.iterdir()} == {*(f"{name}.png" for name in names), "tables.md"}
    assert "learning time of global and auto, N = 2,000, M = 4 |" in (output / "tables.md").read_text()


def test_a_study_that_is_stopped_while_it_writes_keeps_what_it_has(
    module: Callable[[str], Any], store: Path, tmp_path: Path
) -> None:
    parts, path = module("store"), tmp_path / "study.zarr"
    cells = parts.read_group(store, "simulated")
    parts.settle(path, {"size": "tiny"})
    for replicate in (0, 1):
        parts.append(path, "simulated", cells.assign_coords(replicate=("cell", [replicate])))
    assert parts.read_group(path, "simulated")["replicate"].values.tolist() == [0, 1]
    (path / "simulated").rename(path / "simulated-new")
    xr.testing.assert_identical(parts.read_group(path, "simulated"), cells)


@pytest.mark.parametrize("scenario", ["sorted", "some", "uneven", "outliers", "counts", "classes"])
def test_rows_of_a_scenario(module: Callable[[str], Any], scenario: str) -> None:
    scenarios = module("scenarios")
    draw = scenarios.draw_cell(scenarios.Cell(scenario, 8_000, 4, 0), seed=0)
    assert (draw.training.sizes["row"], draw.held_out.sizes["row"]) == (8_000, 2_000)
    assert len(draw.experts) == 2_000
    if draw.partitions == "part":
        assert np.unique(draw.training["part"]).size == 4
    if scenario == "sorted":
        means = draw.training["X"].isel(feature=0).values.reshape(4, 2_000).mean(axis=1)
        assert (np.diff(means) > 0).all()


def test_drawn_estimates_have_a_table(module: Callable[[str], Any]) -> None:
    figures = ("cell", "method"), np.array([[0.5, 2.0]])
    coords = {"method": ["reduction", "whole"], "partitions": ("cell", [1_000])}
    found = xr.Dataset({"divergence": figures, "seconds": figures}, coords)
    lines = module("tables").drawn_estimates(found).splitlines()
    assert lines[2:] == ["| 1,000 | reduction | 0.5000 | 0.5 |", "| 1,000 | whole | 2.0000 | 2.0 |"]


def test_adjusted_rand_index_is_that_of_scikit_learn(module: Callable[[str], Any]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    first = rng.integers(4, size=300)
    second = np.where(rng.random(300) < 0.6, first, rng.integers(4, size=300))
    ours = module("judging").adjusted_rand_index
    assert ours(first, second) == pytest.approx(metrics.adjusted_rand_score(first, second))
    assert ours(first, (first + 1) % 4) == 1


def test_every_size_has_a_plan_and_the_job_file_is_read(module: Callable[[str], Any]) -> None:
    sizes = module("sizes")
    for size in sizes.SIZES.values():
        cells = [cell for cell, _ in sizes.cells_of(size)]
        assert len(cells) == len(set(cells))
    options = module("study").options_of(["--job", str(FOLDER / "job.yaml"), "--seed", "7"])
    assert (options.size, options.seed, options.output) == ("paper", 7, Path("paper-study.zarr"))
