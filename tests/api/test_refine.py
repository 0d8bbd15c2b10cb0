"""`refine`: the maximum of the likelihood of all rows, whoever holds them, with errors that cover."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
import xarray as xr
from benchmarks.refinement import GROUPS, coverage_study
from distributed import Client, LocalCluster
from numerics.oracles import gaussian_model

import daskmoe
from daskmoe import InvalidDataError, InvalidOptionError, MixtureOfExperts, NotAtOptimumError, PartitionError
from daskmoe.cli.commands import run
from daskmoe.cli.exit_codes import BAD_INPUT, DONE
from daskmoe.engine import passes as engine
from daskmoe.errors import ConvergenceWarning
from daskmoe.numerics.base.parameters import MoEParameters

# Rounds in a number are to be looked at, wherever they end.
pytestmark = pytest.mark.filterwarnings("ignore:The refinement ended short:daskmoe.errors.ConvergenceWarning")

FAST: dict[str, Any] = {"n_experts": 3, "n_init": 3, "random_state": 0}
ROWS = 6_000


@pytest.fixture(scope="module")
def simulated() -> tuple[xr.Dataset, MixtureOfExperts]:
    return daskmoe.simulate(ROWS, n_features=3, n_experts=3, design="overlap", chunks=1_000, random_state=0)


@pytest.fixture(scope="module")
def data(simulated: tuple[xr.Dataset, MixtureOfExperts]) -> xr.Dataset:
    return simulated[0].load()


@pytest.fixture(scope="module")
def truth(simulated: tuple[xr.Dataset, MixtureOfExperts]) -> MixtureOfExperts:
    return simulated[1]


@pytest.fixture(scope="module")
def optimum(data: xr.Dataset, truth: MixtureOfExperts) -> MixtureOfExperts:
    return daskmoe.refine(truth, data, rounds="converged")


@pytest.fixture(scope="module")
def store(data: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("refine") / "rows.zarr"
    data.chunk(row=500).to_zarr(path, zarr_format=2)
    return path


def with_parameters(model: MixtureOfExperts, parameters: MoEParameters, **more: Any) -> MixtureOfExperts:
    return MixtureOfExperts.from_parameters(parameters, family="gaussian", rows=model.rows, **more)


def rounds_of(model: MixtureOfExperts) -> xr.Dataset:
    assert model.diagnostics is not None
    return model.diagnostics[[str(v) for v in model.diagnostics if str(v).startswith("round_")]]


def converged(model: MixtureOfExperts) -> bool:
    assert model.diagnostics is not None
    return bool(model.diagnostics.attrs["refinement_converged"])


def assert_same_bits(first: MixtureOfExperts, second: MixtureOfExperts) -> None:
    xr.testing.assert_identical(first.params, second.params)
    xr.testing.assert_identical(
        rounds_of(first).drop_vars("round_seconds"), rounds_of(second).drop_vars("round_seconds")
    )
    for kind in ("model", "robust"):
        xr.testing.assert_identical(first.standard_errors(kind), second.standard_errors(kind))


def assert_same_optimum(first: MixtureOfExperts, second: MixtureOfExperts, share: float = 1e-2) -> None:
    """Parameters that differ by less than a share of their standard errors."""
    error = second.standard_errors()
    for name in first.params.data_vars:
        difference = abs(first.params[name] - second.params[name])
        assert bool((difference <= share * error[name] + 1e-9).all()), name


# The optimum.


def test_converged_is_the_fit_of_all_rows(data: xr.Dataset) -> None:
    local = daskmoe.fit_local(data, "y", **FAST)
    best = local.log_likelihood(data)
    for rounds in (3, "converged"):
        model = daskmoe.fit(data, "y", partitions=6, refine=rounds, **FAST)
        assert abs(model.log_likelihood(data) - best) / ROWS < 1e-8
        assert converged(model)
        assert_same_optimum(local, model)


@pytest.mark.parametrize("partitions", [1, 7, 100, pytest.param(1_000, marks=pytest.mark.slow)])
def test_the_partitioning_does_not_move_the_optimum(
    data: xr.Dataset, truth: MixtureOfExperts, optimum: MixtureOfExperts, partitions: int
) -> None:
    found = daskmoe.refine(truth, data, rounds="converged", partitions=partitions)
    assert_same_optimum(found, optimum, 1e-6)
    for kind in ("model", "robust"):
        xr.testing.assert_allclose(found.standard_errors(kind), optimum.standard_errors(kind), rtol=1e-5)


def test_partitions_sorted_by_a_feature_have_the_same_optimum(
    data: xr.Dataset, truth: MixtureOfExperts, optimum: MixtureOfExperts
) -> None:
    ordered = data.isel(row=np.argsort(data["X"].values[:, 0]))
    assert_same_optimum(daskmoe.refine(truth, ordered, rounds="converged", partitions=20), optimum)


def test_a_model_of_one_biased_partition_leads_to_the_optimum(
    data: xr.Dataset, optimum: MixtureOfExperts
) -> None:
    """A single local fit of a twentieth of the rows, all at one end of a feature."""
    ordered = data.isel(row=np.argsort(data["X"].values[:, 0]))
    local = daskmoe.fit_local(ordered.isel(row=slice(0, ROWS // 20)), "y", **FAST)
    assert (optimum.log_likelihood(data) - local.log_likelihood(data)) / ROWS > 0.1
    found = daskmoe.refine(local, data, rounds="converged")
    assert converged(found)
    assert_same_optimum(found, optimum)


def test_a_model_of_nothing_leads_to_the_optimum(
    data: xr.Dataset, truth: MixtureOfExperts, optimum: MixtureOfExperts
) -> None:
    zero = np.zeros((3, 4))
    start = with_parameters(truth, gaussian_model(zero, zero, np.ones(3)))
    found = daskmoe.refine(start, data, rounds="converged", partitions=3)
    objective = rounds_of(found)["round_objective"].where(rounds_of(found)["round_accepted"] > 0, drop=True)
    assert all(b >= a for a, b in itertools.pairwise(objective.values))
    assert_same_optimum(found, optimum)


def test_one_expert_is_least_squares(data: xr.Dataset) -> None:
    model = daskmoe.fit(data, "y", n_experts=1, partitions=4, refine="converged", random_state=0)
    design = np.column_stack([np.ones(ROWS), data["X"]])
    coef, residual, *_ = np.linalg.lstsq(design, data["y"].values)
    np.testing.assert_allclose(model.parameters.coef[0, 0], coef, rtol=1e-6, atol=1e-7)
    variance = residual[0] / ROWS
    np.testing.assert_allclose(model.parameters.nuisance[:, 0], variance, rtol=1e-6)
    expected = np.sqrt(variance * np.diag(np.linalg.inv(design.T @ design)))
    error = model.standard_errors()
    np.testing.assert_allclose(error["intercept"].values[0], expected[0], rtol=1e-4)
    np.testing.assert_allclose(error["coef"].values[0], expected[1:], rtol=1e-4)
    assert not error["gate_coef"].any()


def test_collinear_and_constant_features_change_no_prediction(
    data: xr.Dataset, truth: MixtureOfExperts, optimum: MixtureOfExperts
) -> None:
    x = data["X"].values
    more = np.column_stack([x, x[:, 0] - 3 * x[:, 1], np.full(ROWS, 7.0)])
    wide = xr.Dataset({"X": (("row", "feature"), more), "y": data["y"].variable})
    wide = wide.assign_coords(feature=[f"x{j}" for j in range(5)])
    model = daskmoe.fit(wide, "y", partitions=4, refine="converged", **FAST)
    assert converged(model)
    np.testing.assert_allclose(model.predict(wide), optimum.predict(data), atol=1e-2)
    assert model.log_likelihood(wide) == pytest.approx(optimum.log_likelihood(data), abs=1e-2)
    for name, error in model.standard_errors("robust").items():
        told = error.sel(feature="x2") if "feature" in error.dims else error
        assert bool(np.isfinite(told).all())
        assert int(error.isnull().sum()) == error.size - told.size, name


def test_weights_are_repeated_rows(data: xr.Dataset, truth: MixtureOfExperts) -> None:
    times = np.random.default_rng(0).integers(0, 3, ROWS)
    weighted = data.assign(w=("row", times.astype(float)))
    repeated = data.isel(row=np.repeat(np.arange(ROWS), times))
    options: dict[str, Any] = {"refine": "converged", "partitions": 3, **FAST}
    found = daskmoe.fit(weighted, "y", features="X", sample_weight="w", **options)
    expected = daskmoe.refine(truth, repeated, rounds="converged")
    assert_same_optimum(found, expected)
    xr.testing.assert_allclose(found.standard_errors("robust"), expected.standard_errors("robust"), rtol=1e-3)


# The rounds.


def test_rounds_tell_their_story_and_the_objective_never_falls(
    data: xr.Dataset, truth: MixtureOfExperts
) -> None:
    start = with_parameters(truth, truth.parameters._replace(coef=0.5 * truth.parameters.coef))
    model = daskmoe.refine(start, data, rounds="converged")
    story = rounds_of(model)
    assert set(story.data_vars) == {
        f"round_{name}" for name in ("log_likelihood", "objective", "damping", "step", "accepted", "seconds")
    }
    kept = story.where(story["round_accepted"] > 0, drop=True)
    assert bool((kept["round_objective"].diff("round") >= 0).all())
    assert story["round_log_likelihood"].values[0] == pytest.approx(start.log_likelihood(data), rel=1e-10)
    assert kept["round_log_likelihood"].values[-1] == pytest.approx(model.log_likelihood(data), rel=1e-10)
    assert bool((story["round_seconds"] > 0).all())


def test_rounds_that_gain_nothing_are_not_run(data: xr.Dataset, optimum: MixtureOfExperts) -> None:
    again = daskmoe.refine(optimum, data, rounds=50)
    assert again.diagnostics is not None
    assert again.diagnostics.sizes["round"] == 1
    assert converged(again)
    assert_same_optimum(again, optimum, 1e-6)


def test_no_more_rounds_are_run_than_allowed(data: xr.Dataset, truth: MixtureOfExperts) -> None:
    start = with_parameters(truth, truth.parameters._replace(coef=0.0 * truth.parameters.coef))
    with pytest.warns(ConvergenceWarning, match="ended short after 2 rounds"):
        model = daskmoe.refine(start, data, rounds=2)
    assert rounds_of(model).sizes["round"] == 2
    assert "short of a maximum" in model.summary()
    assert not converged(model)
    assert model.log_likelihood(data) > start.log_likelihood(data)


@contextmanager
def counted_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[int]]:
    reads: Counter[int] = Counter()
    read_counted = engine.read_counted

    def count(plan: Any, partition: Any, piece: Any) -> Any:
        reads[partition.index] += 1
        return read_counted(plan, partition, piece)

    with monkeypatch.context() as patch, dask.config.set(scheduler="synchronous"):
        patch.setattr(engine, "read_counted", count)
        yield reads


def test_a_round_reads_every_partition_once(
    store: Path, truth: MixtureOfExperts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with counted_reads(monkeypatch) as reads:
        model = daskmoe.refine(truth, store, rounds="converged")
    # One pass for the moments that make the prior; the last round finds the scores of the robust errors.
    assert rounds_of(model).sizes["round"] > 1
    assert reads == dict.fromkeys(range(12), rounds_of(model).sizes["round"] + 1)
    with counted_reads(monkeypatch) as reads:
        again = daskmoe.refine(model, store, rounds="converged")
    # The first round cannot know that it is the last: here the scores take a pass of their own.
    assert rounds_of(again).sizes["round"] == 1
    assert reads == dict.fromkeys(range(12), 3)
    xr.testing.assert_allclose(again.standard_errors("robust"), model.standard_errors("robust"), rtol=1e-5)


def test_a_refined_fit_knows_the_moments_already(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with counted_reads(monkeypatch) as reads:
        model = daskmoe.fit(store, "y", refine=3, **FAST)
    # One pass tells the candidates apart. The shared start of so few rows is at their maximum, so that the
    # first round is the last, and one pass finds the scores.
    assert rounds_of(model).sizes["round"] == 1
    assert reads == dict.fromkeys(range(12), 1 + 1 + 1)
    assert converged(model)
    assert daskmoe.refine(model, store).log_likelihood(store) == pytest.approx(model.log_likelihood(store))


def test_partitions_left_out_of_the_fit_count_in_the_refinement_if_they_can(
    data: xr.Dataset, truth: MixtureOfExperts
) -> None:
    # Two rows are too few for a fit of three experts, not for a sum.
    uneven = data.chunk(row=(2_998, 3_000, 2))
    model = daskmoe.fit(uneven, "y", refine="converged", on_error="skip", aggregation="reduction", **FAST)
    assert model.diagnostics is not None
    assert model.diagnostics["status"].values[-1].startswith("left out")
    assert_same_optimum(model, daskmoe.refine(truth, data, rounds="converged"), 1e-3)


def test_a_persisted_collection_is_not_read_again(data: xr.Dataset, truth: MixtureOfExperts) -> None:
    reads: Counter[int] = Counter()

    def load(block: np.ndarray[Any, Any], start: int) -> np.ndarray[Any, Any]:
        reads[start] += 1
        return block

    joint = np.column_stack([data["X"], data["y"]])
    chunks = [
        dask.array.from_delayed(dask.delayed(load)(joint[s : s + 1_000], s), (1_000, 4), float)
        for s in range(0, ROWS, 1_000)
    ]
    lazy = dask.array.concatenate(chunks)
    columns = xr.Dataset({"X": (("row", "feature"), lazy[:, :3]), "y": ("row", lazy[:, 3])})
    columns = columns.assign_coords(feature=data["feature"].values)
    with dask.config.set(scheduler="synchronous"):
        kept = columns.persist()
        once = dict(reads)
        daskmoe.refine(truth, kept, rounds=3)
        assert reads == once
        before = reads.total()
        model = daskmoe.refine(truth, columns, rounds=1)
        assert rounds_of(model).sizes["round"] == 1
    # Without it: one read a chunk for the moments, one for the round, one for nothing else.
    assert reads.total() - before == 2 * 6


def test_sums_are_made_in_a_tree(store: Path, truth: MixtureOfExperts) -> None:
    graphs: list[list[str]] = []

    def scheduler(dsk: Any, keys: Any, **kwargs: Any) -> Any:
        graph = dsk.__dask_graph__() if hasattr(dsk, "__dask_graph__") else dsk
        graphs.append([str(key) for key in dict(graph)])
        return dask.get(dsk, keys, **kwargs)

    with dask.config.set(scheduler=scheduler):
        model = daskmoe.refine(truth, store, rounds=2, partitions=40)
    assert rounds_of(model).sizes["round"] == 2
    assert len(graphs) == 3
    names = [key for key in graphs[-1] if key.startswith("moe-refine")]
    # 40 partitions, sums of at most 16 of them, and the sum of those.
    assert len([n for n in names if n.startswith("moe-refine-sum")]) == 4
    assert len([n for n in names if not n.startswith(("moe-refine-sum", "moe-refine-point"))]) == 40


@pytest.fixture(scope="module")
def alone(store: Path, truth: MixtureOfExperts) -> MixtureOfExperts:
    with dask.config.set(scheduler="synchronous"):
        return daskmoe.refine(truth, store, rounds="converged")


def test_threads_give_the_same_bits(store: Path, truth: MixtureOfExperts, alone: MixtureOfExperts) -> None:
    with dask.config.set(scheduler="threads", num_workers=3):
        assert_same_bits(daskmoe.refine(truth, store, rounds="converged"), alone)


def test_processes_give_the_same_bits(store: Path, truth: MixtureOfExperts, alone: MixtureOfExperts) -> None:
    # Without a pool of its own, Dask starts new processes for every round.
    with (
        ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool,
        dask.config.set(scheduler="processes", pool=pool),
    ):
        assert_same_bits(daskmoe.refine(truth, store, rounds="converged"), alone)


@pytest.mark.cluster
@pytest.mark.parametrize("number", [1, 2])
def test_worker_processes_give_the_same_bits(
    cluster: LocalCluster,
    client: Client,
    store: Path,
    truth: MixtureOfExperts,
    alone: MixtureOfExperts,
    number: int,
) -> None:
    used = sorted(client.scheduler_info(n_workers=-1)["workers"])[:number]
    with dask.annotate(workers=used):
        assert_same_bits(daskmoe.refine(truth, store, rounds="converged"), alone)


@pytest.mark.cluster
def test_a_refined_fit_has_the_same_bits_on_worker_processes(client: Client, store: Path) -> None:
    found = daskmoe.fit(store, "y", refine="converged", **FAST)
    with dask.config.set(scheduler="synchronous"):
        assert_same_bits(found, daskmoe.fit(store, "y", refine="converged", **FAST))


# Experts through as many rows as they have coefficients are at the floor.
@pytest.mark.filterwarnings("ignore::daskmoe.errors.FitWarning")
@pytest.mark.parametrize(("n_rows", "p"), [(60, 15), (60, 18)])
def test_few_rows_a_feature_are_refined(n_rows: int, p: int) -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n_rows, p))
    wide = xr.Dataset({"X": (("row", "feature"), features), "y": ("row", rng.standard_normal(n_rows))})
    model = daskmoe.fit(wide, "y", n_experts=2, partitions=2, refine=5, random_state=0)
    assert all(bool(np.isfinite(values).all()) for values in model.params.values())


# Bad rows, bad partitions, bad options.


def test_incomplete_rows_are_skipped_or_refused(
    data: xr.Dataset, truth: MixtureOfExperts, caplog: pytest.LogCaptureFixture
) -> None:
    gap = data.copy(deep=True)
    gap["y"][[3, 4_000]] = np.nan
    gap["X"][17, 1] = np.nan
    with pytest.raises(InvalidDataError, match="on_error='skip'"):
        daskmoe.refine(truth, gap, rounds=2, partitions=4)
    with caplog.at_level("WARNING", "daskmoe"):
        found = daskmoe.refine(truth, gap, rounds="converged", partitions=4, on_error="skip")
    assert int(rounds_of(found)["refined_dropped_rows"]) == 3
    assert "3 rows were left out of the refinement" in caplog.text
    complete = data.isel(row=np.setdiff1d(np.arange(ROWS), [3, 17, 4_000]))
    assert_same_optimum(found, daskmoe.refine(truth, complete, rounds="converged"), 1e-6)


def test_a_partition_without_complete_rows_is_left_out(data: xr.Dataset, truth: MixtureOfExperts) -> None:
    gap = data.copy(deep=True)
    gap["y"][:1_500] = np.nan
    found = daskmoe.refine(truth, gap, rounds="converged", partitions=4, on_error="skip")
    expected = daskmoe.refine(truth, data.isel(row=slice(1_500, None)), rounds="converged")
    assert_same_optimum(found, expected, 1e-6)
    gap["y"][:] = np.nan
    with pytest.raises(PartitionError, match="at least one partition"):
        daskmoe.refine(truth, gap, rounds=1, partitions=4, on_error="skip")


def test_a_partition_that_fails_in_one_round_only_is_an_error(
    store: Path, truth: MixtureOfExperts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sums of two rounds must be those of the same rows, or the objective means nothing."""
    with counted_reads(monkeypatch) as reads:
        read_counted = engine.read_counted

        def fail_later(plan: Any, partition: Any, piece: Any) -> Any:
            if partition.index == 5 and reads[5] >= 2:
                raise OSError("the disk is gone")
            return read_counted(plan, partition, piece)

        with monkeypatch.context() as patch:
            patch.setattr(engine, "read_counted", fail_later)
            with pytest.raises(PartitionError, match="same rows in every pass"):
                daskmoe.refine(truth, store, rounds="converged", on_error="skip")
            reads[5] = 2
            with pytest.raises(PartitionError, match=r"'5'.*disk is gone"):
                daskmoe.refine(truth, store, rounds="converged")


@pytest.mark.parametrize("rounds", [0, -1, 1.5, True, "often", None])
def test_rounds_must_be_a_number_or_converged(data: xr.Dataset, truth: MixtureOfExperts, rounds: Any) -> None:
    with pytest.raises(InvalidOptionError, match="rounds: expected"):
        daskmoe.refine(truth, data, rounds=rounds)


def test_options_that_do_not_go_with_refinement(
    data: xr.Dataset, truth: MixtureOfExperts, raise_if_dask_computes: Callable[..., Any]
) -> None:
    with raise_if_dask_computes():
        for rounds in (1, "converged"):
            with pytest.raises(InvalidOptionError, match=r"compute.*daskmoe\.refine"):
                daskmoe.fit(data, "y", compute=False, refine=rounds, **FAST)
        with pytest.raises(InvalidOptionError, match="on_error"):
            daskmoe.refine(truth, data, on_error="ignore")
        with pytest.raises(InvalidDataError, match="x2"):
            daskmoe.refine(truth, data.isel(feature=slice(0, 2)))


# Standard errors.


@pytest.mark.filterwarnings("ignore::daskmoe.errors.FitWarning")
def test_standard_errors_are_refused_away_from_the_optimum(data: xr.Dataset, truth: MixtureOfExperts) -> None:
    start = with_parameters(truth, truth.parameters._replace(coef=0.0 * truth.parameters.coef))
    reduced = daskmoe.fit(data, "y", partitions=3, aggregation="reduction", **FAST)
    for model in (truth, reduced, daskmoe.refine(start, data, rounds=1)):
        for kind in ("model", "robust"):
            with pytest.raises(NotAtOptimumError, match="rounds='converged'"):
                model.standard_errors(kind)
        with pytest.raises(NotAtOptimumError):
            model.confidence_interval()


def test_robust_errors_need_a_round_to_spare(data: xr.Dataset, optimum: MixtureOfExperts) -> None:
    last = daskmoe.refine(optimum, data, rounds=1)
    xr.testing.assert_allclose(last.standard_errors(), optimum.standard_errors())
    with pytest.raises(NotAtOptimumError, match="robust"):
        last.standard_errors("robust")
    with pytest.raises(InvalidOptionError, match="kind"):
        optimum.standard_errors("exact")


@pytest.mark.filterwarnings("ignore::daskmoe.errors.FitWarning")
def test_a_model_that_leaves_the_optimum_loses_its_errors(
    data: xr.Dataset, optimum: MixtureOfExperts
) -> None:
    other = data.assign(y=data["y"] * 3 + 100)
    moved = daskmoe.refine(optimum, other, rounds=1)
    assert not converged(moved)
    with pytest.raises(NotAtOptimumError):
        moved.standard_errors()


def test_errors_are_shaped_like_the_parameters(optimum: MixtureOfExperts) -> None:
    for kind in ("model", "robust"):
        errors = optimum.standard_errors(kind)
        assert set(errors.data_vars) == set(optimum.params.data_vars)
        for name, error in errors.items():
            assert error.dims == optimum.params[name].dims
            reference = error.isel(expert=-1)
            assert bool((reference == 0).all() if str(name).startswith("gate") else (error > 0).all())
    interval = optimum.confidence_interval(0.9)
    assert interval.sizes["bound"] == 2
    inside = (interval.sel(bound="lower") <= optimum.params) & (optimum.params <= interval.sel(bound="upper"))
    assert all(bool(value.all()) for value in inside.values())
    assert bool((interval["variance"] > 0).all())


@pytest.mark.parametrize("level", [0, 1, float("nan"), "a", None])
def test_a_level_that_is_no_share_is_refused(optimum: MixtureOfExperts, level: Any) -> None:
    with pytest.raises(InvalidOptionError, match=r"level: expected a number strictly between 0 and 1, got"):
        optimum.confidence_interval(level)


def test_a_saved_model_is_refined(data: xr.Dataset, truth: MixtureOfExperts, tmp_path: Path) -> None:
    truth.to_zarr(tmp_path / "model.zarr")
    refined = daskmoe.refine(tmp_path / "model.zarr", data, rounds=1)
    xr.testing.assert_allclose(refined.params, daskmoe.refine(truth, data, rounds=1).params)


@pytest.mark.parametrize("suffix", ["zarr", "nc"])
def test_a_saved_model_keeps_its_errors(optimum: MixtureOfExperts, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model.{suffix}"
    (optimum.to_zarr if suffix == "zarr" else optimum.to_netcdf)(path)
    opened = daskmoe.open_model(path)
    assert_same_bits(opened, optimum)
    xr.testing.assert_identical(opened.confidence_interval(), optimum.confidence_interval())


def test_diagnostics_follow_their_experts(data: xr.Dataset) -> None:
    """Experts that change places in refinement take what the fit said of them along."""
    fitted = daskmoe.fit(data, "y", partitions=3, **FAST)
    assert fitted.diagnostics is not None
    order = np.array([2, 0, 1])
    turned = with_parameters(
        fitted, fitted.parameters.take(order), diagnostics=fitted.diagnostics.isel(expert=order)
    )
    expected, found = (daskmoe.refine(model, data).diagnostics for model in (fitted, turned))
    assert expected is not None
    assert found is not None
    xr.testing.assert_equal(found["plan_mass"], expected["plan_mass"])


def test_intervals_cover_in_a_small_study() -> None:
    """The study of `benchmarks.refinement` in little: 30 datasets, 90 to 180 intervals of each group."""
    found = coverage_study(30, 1_500, 2, 2)
    for kind in ("model", "robust"):
        for group in GROUPS:
            assert 0.87 < found.share(kind, group) <= 1.0


# The command line.


@pytest.mark.cluster
def test_the_command_refines(cluster: LocalCluster, store: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.zarr"
    arguments = ["fit", str(store), "--target", "y", "--n-experts", "3", "--seed", "0", "--output"]
    scheduler = ["--scheduler", cluster.scheduler_address]
    assert run([*arguments, str(output), "--refine", "converged", *scheduler]) == DONE
    expected = daskmoe.fit(store, "y", n_experts=3, random_state=0, refine="converged")
    opened = daskmoe.open_model(output)
    assert_same_bits(opened, expected)


@pytest.mark.parametrize("rounds", ["often", "-1", "1.5"])
def test_the_command_refuses_other_rounds(
    store: Path, tmp_path: Path, rounds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fit", str(store), "--target", "y", "--n-experts", "3", f"--refine={rounds}"]
    assert run([*arguments, "--output", str(tmp_path / "model.zarr")]) == BAD_INPUT
    assert "--refine" in capsys.readouterr().err


def test_summary_tells_of_the_refinement(data: xr.Dataset, truth: MixtureOfExperts, tmp_path: Path) -> None:
    part = data.isel(row=slice(0, 3_000))
    model = daskmoe.fit(part, "y", partitions=3, aggregation="reduction", refine=1, **FAST)
    assert f"refinement  not converged in 1 round, log-likelihood {model.log_likelihood(part):.2f}" in (
        model.summary()
    )
    assert "\naggregation reduction\n" in model.summary()
    model = daskmoe.refine(model, data, rounds="converged")
    assert model.diagnostics is not None
    count = model.diagnostics.sizes["round"]
    line = f"refinement  converged in {count} rounds, log-likelihood {model.log_likelihood(data):.2f} of"
    assert line in model.summary()
    model.to_zarr(tmp_path / "model.zarr")
    assert line in daskmoe.open_model(tmp_path / "model.zarr").summary()
    assert "refinement  converged" in daskmoe.refine(truth, data, rounds="converged").summary()
