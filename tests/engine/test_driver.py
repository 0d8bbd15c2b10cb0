"""One way from a request to its model: what is computed, when, and what the hooks are handed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import dask
import numpy as np
import pytest
import xarray as xr

import daskmoe
from daskmoe.api.hooks import HOOKS
from daskmoe.engine import FitResult, Hooks, build_model, plan_passes, plan_request, run, run_here, run_rounds
from daskmoe.engine.rounds import Refinement
from daskmoe.numerics.base.parameters import MoEParameters
from daskmoe.options import FitOptions

ROWS = 400


class Plain(NamedTuple):
    """A model of somebody who knows no labels."""

    parameters: Any
    recorded: dict[str, Any]
    rounds: int = 0


def label(result: FitResult, schema: Any, family: str, recorded: dict[str, Any]) -> Plain:
    return Plain(result.aggregate.parameters, recorded)


def plain_hooks(said: list[str]) -> Hooks[Plain]:
    def refined(model: Plain, refinement: Refinement) -> Plain:
        return model._replace(parameters=refinement.parameters, rounds=len(refinement.infos))

    return Hooks(
        label=label,
        start=lambda model: model.parameters,
        refined=refined,
        report=lambda model, endings: said.append(f"fitted, {model.rounds} rounds"),
        report_rounds=lambda model, asked: said.append(f"{model.rounds} rounds of {asked}"),
    )


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    found, _ = daskmoe.simulate(ROWS, n_features=2, n_experts=2, design="overlap", chunks=100, random_state=0)
    return found.load(scheduler="synchronous").chunk(row=100)


def options(**more: Any) -> FitOptions:
    return FitOptions(**({"n_experts": 2, "n_init": 2, "random_state": 0, "aggregation": "reduction"} | more))


@pytest.fixture
def graphs() -> Iterator[list[list[str]]]:
    """The keys of daskmoe's tasks in every graph that is computed."""
    found: list[list[str]] = []

    def scheduler(dsk: Any, keys: Any, **kwargs: Any) -> Any:
        graph = dsk.__dask_graph__() if hasattr(dsk, "__dask_graph__") else dsk
        found.append([str(key) for key in dict(graph) if str(key).startswith("moe-")])
        return dask.get(dsk, keys, **kwargs)

    with dask.config.set(scheduler=scheduler):
        yield found


def test_a_fit_is_one_computation_and_one_report(data: xr.Dataset, graphs: list[list[str]]) -> None:
    said: list[str] = []
    model = run(plan_request(data, "y", options()), plain_hooks(said))
    assert len(graphs) == 1
    assert said == ["fitted, 0 rounds"]
    assert model.recorded == plan_request(data, "y", options()).recorded
    assert isinstance(model.parameters, MoEParameters)


@pytest.mark.parametrize("aggregation", ["auto", "reduction"])
def test_refinement_after_a_fit_makes_no_pass_for_what_is_known(
    data: xr.Dataset, graphs: list[list[str]], aggregation: str
) -> None:
    said: list[str] = []
    model = run(plan_request(data, "y", options(refine=2, aggregation=aggregation)), plain_hooks(said))
    assert said == ["fitted, 0 rounds", f"{model.rounds} rounds of 2"]
    passes = [keys for keys in graphs[1:] if any(key.startswith("moe-refine") for key in keys)]
    # At the maximum, a pass more finds the scores for robust errors.
    others = [keys for keys in graphs[1:] if not any(key.startswith("moe-scores") for key in keys)]
    assert len(passes) == model.rounds == len(others)
    assert not any(key.startswith("moe-moments") for keys in graphs for key in keys)


def test_a_model_that_is_at_hand_takes_one_pass_for_the_moments(
    data: xr.Dataset, graphs: list[list[str]]
) -> None:
    model = daskmoe.fit_local(data, "y", n_experts=2, random_state=0)
    graphs.clear()
    request = plan_passes(data, model.rows, options(refine=1))
    refined = run_rounds(request, HOOKS, model)
    assert [any(key.startswith("moe-moments") for key in keys) for keys in graphs] == [True, False]
    xr.testing.assert_identical(refined.params, daskmoe.refine(model, data, rounds=1).params)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_rounds_are_in_the_graph_of_a_delayed_model(
    data: xr.Dataset, graphs: list[list[str]], on_error: str
) -> None:
    # In the second set of rows one partition cannot be read, so that a fit does not know all moments.
    values = data["y"].values.copy()
    values[250] = np.nan
    rows = data if on_error == "raise" else data.assign(y=("row", values)).chunk(row=100)
    graphs.clear()
    known: dict[str, Any] = {"n_experts": 2, "random_state": 0, "refine": 8, "on_error": on_error}
    lazy = daskmoe.fit(rows, "y", compute=False, **known)
    assert graphs == []
    model = lazy.compute()
    assert len(graphs) == 1
    expected = daskmoe.fit(rows, "y", **known)
    xr.testing.assert_identical(model.params, expected.params)
    # A round that would gain nothing is not run in either.
    assert model.diagnostics.sizes["round"] == expected.diagnostics.sizes["round"] < 8
    for kind in ("model", "cluster"):
        xr.testing.assert_identical(model.standard_errors(kind), expected.standard_errors(kind))


def test_the_delayed_model_is_that_of_a_run(data: xr.Dataset, graphs: list[list[str]]) -> None:
    request = plan_request(data, "y", options())
    said: list[str] = []
    job = build_model(request, plain_hooks(said))
    assert graphs == []
    lazily = job.compute()
    # Whoever computes it reports.
    assert said == []
    for one, other in zip(lazily.parameters, run(request, plain_hooks(said)).parameters, strict=True):
        np.testing.assert_array_equal(one, other)
    # A cluster that holds the one must not hand it out for the other, which has more in it.
    named = [{key for key in keys if key.startswith("moe-model")} for keys in graphs]
    assert not named[0] & named[1]


def test_without_a_graph_nothing_is_computed_by_dask(data: xr.Dataset, graphs: list[list[str]]) -> None:
    said: list[str] = []
    request = plan_request(data.compute(), "y", options(partitions=1))
    graphs.clear()
    model = run_here(request, plain_hooks(said))
    assert graphs == []
    assert said == ["fitted, 0 rounds"]
    # Options of joining say nothing of it.
    assert not {"aggregation", "support", "n_local_experts", "refine"} & set(model.recorded)
