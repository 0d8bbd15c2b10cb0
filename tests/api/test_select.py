"""`select_n_experts`: the table, the choice, what is said of it."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskmoe
from daskmoe import FitWarning, InvalidOptionError, Selection
from daskmoe.model.selection import compare
from daskmoe.plotting.canvas import PALETTE

QUICK: dict[str, Any] = {"random_state": 0, "n_init": 2, "effort": 0.5}


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    found, _ = daskmoe.simulate(2000, n_features=2, n_experts=2, design="overlap", random_state=0)
    return found


@pytest.fixture(scope="module")
def selection(data: xr.Dataset) -> Selection:
    return daskmoe.select_n_experts(data, "y", n_experts=(3, 1, 2), partitions=4, **QUICK)


def test_the_table_compares_what_the_models_know(data: xr.Dataset, selection: Selection) -> None:
    table = selection.table
    assert table["n_experts"].values.tolist() == [1, 2, 3] == [*selection.models]
    assert (table.attrs["criterion"], table.attrs["best"]) == ("bic", 2)
    for size, model in selection.models.items():
        assert model.n_experts == size
        row = table.sel(n_experts=size)
        for name in ("log_likelihood", "bic", "aic", "icl"):
            assert float(row[name]) == pytest.approx(getattr(model, name)(data), rel=1e-10)
        assert int(row["n_parameters"]) == model.n_parameters
        assert float(row["bic_difference"]) == float(row["bic"] - table["bic"].min())
    assert all(table[name].attrs["long_name"] for name in table.data_vars)
    assert selection.model is selection.models[2]
    assert selection.n_experts == 2


def test_it_is_the_model_of_a_fit(data: xr.Dataset, selection: Selection) -> None:
    alone = daskmoe.fit(data, "y", n_experts=2, partitions=4, **QUICK)
    xr.testing.assert_identical(selection.model.params, alone.params)


def test_held_out_blocks_decide_and_have_errors(data: xr.Dataset) -> None:
    found = daskmoe.select_n_experts(
        data, "y", n_experts=range(1, 4), criterion="held_out", partitions=12, **QUICK
    )
    table = found.table
    assert found.n_experts == int(table["held_out"].idxmax()) >= 2
    assert float(table["held_out_difference"].max()) == 0.0
    # One line is worse by far more than chance.
    first = table.sel(n_experts=1)
    assert float(first["held_out_difference"]) < -10 * float(first["held_out_error"]) < 0
    assert float(table["held_out_error"].sel(n_experts=found.n_experts)) == 0.0
    # A quarter of the rows is enough to say it in nats a row.
    truth = found.model.log_likelihood(data) / 2000
    assert float(table["held_out"].max()) == pytest.approx(truth, abs=0.1)


def test_errors_of_differences_are_those_of_a_mean_of_blocks(selection: Selection) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal([0.0, 5.0, 4.0], size=(50, 3))
    table = compare(selection.models, "held_out", (np.ones(50), values))
    differences = values - values[:, [1]]
    assert table.attrs["best"] == 2
    np.testing.assert_allclose(table["held_out_difference"], differences.mean(axis=0))
    np.testing.assert_allclose(table["held_out_error"], differences.std(axis=0, ddof=1) / np.sqrt(50))


def test_the_best_that_is_the_last_is_told(data: xr.Dataset) -> None:
    with pytest.warns(FitWarning, match="By bic the best number of experts is the last candidate, 2: more"):
        found = daskmoe.select_n_experts(data, "y", n_experts=[1, 2], partitions=4, **QUICK)
    assert found.n_experts == 2


def test_one_candidate_is_no_end() -> None:
    data, _ = daskmoe.simulate(500, n_features=2, n_experts=2, design="overlap", random_state=0)
    assert daskmoe.select_n_experts(data, "y", n_experts=[2], **QUICK).n_experts == 2


def test_candidates_with_more_parameters_than_rows_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    data = xr.Dataset({"x": ("row", rng.normal(size=13)), "y": ("row", rng.normal(size=13))})
    with caplog.at_level(logging.WARNING, "daskmoe"):
        found = daskmoe.select_n_experts(data, "y", n_experts=[1, 2, 3, 4], **QUICK)
    assert [*found.models] == [1, 2, 3]
    assert "4 experts and more are left out: Expected at least 18 rows" in caplog.text


def test_refinement_goes_on_for_every_candidate(data: xr.Dataset) -> None:
    found = daskmoe.select_n_experts(
        data, "y", n_experts=[1, 2, 3], partitions=4, refine="converged", **QUICK
    )
    assert found.n_experts == 2
    assert all("round_objective" in model.diagnostics for model in found.models.values())  # type: ignore[operator]
    # At their maxima more experts describe the rows better.
    assert (np.diff(found.table["log_likelihood"]) > 0).all()


def test_candidates_are_numbers_of_experts_for_every_estimator(data: xr.Dataset) -> None:
    options = QUICK | {"partitions": 2, "aggregation": "weighted"}
    found = daskmoe.select_n_experts(data, "y", n_experts=[1, 2, 3], **options)
    assert [*found.models] == [1, 2, 3]
    # The weighted average of two partitions has the experts of both.
    assert found.models[2].n_experts == 4
    assert np.isnan(found.table["icl"]).all()


def test_how_it_is_shown(selection: Selection) -> None:
    shown = repr(selection)
    head, names, *rows = shown.splitlines()
    assert head == "<Selection: 2 experts of 'y' by bic>"
    assert names.split() == [
        "n_experts",
        "n_parameters",
        "log_likelihood",
        "bic",
        "aic",
        "icl",
        "bic_difference",
    ]
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    assert [" * " in row for row in rows] == [False, True, False]
    card = selection._repr_html_()
    assert "2 experts of &#x27;y&#x27; by bic" in card
    assert [f"<th>{text}</th>" in card for text in ("1", "2 (chosen)", "3")] == [True] * 3
    assert card.endswith(selection.model._repr_html_())


def test_the_plot(selection: Selection) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    assert selection.plot(axes) is axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "chosen", "bic", "aic", "icl"
    ]  # fmt: skip
    colours = [line[0].get_color() for line in axes.containers]
    assert colours == list(PALETTE[:3])
    assert axes.get_xticks().tolist() == [1, 2, 3]
    pyplot.close(figure)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"criterion": "best"},
            r"criterion: expected one of \['bic', 'aic', 'icl', 'held_out'\], got",
        ),
        ({"n_experts": []}, "n_experts: expected at least one candidate, got none"),
        ({"n_experts": [0]}, "n_experts: expected an integer of at least 1, got 0"),
        ({"n_local_experts": 2}, "n_local_experts: expected none, as it follows the candidate"),
        ({"criterion": "icl", "aggregation": "weighted"}, "criterion: expected another than 'icl' with agg"),
        ({"held_out": 1.5}, "held_out: expected a number strictly between 0 and 1, got 1.5"),
        ({"held_out": 0.25}, "expected at least two partitions to fit and two to hold out, got 1 in all"),
    ],
)
def test_what_is_refused(data: xr.Dataset, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        daskmoe.select_n_experts(data, "y", **(QUICK | options))
