"""The transport plan as people meet it: a table, text and a card that say the same."""

from __future__ import annotations

import re

import numpy as np
import pytest
import xarray as xr

import daskmoe
from daskmoe.errors import InvalidDataError
from daskmoe.model.transport import TransportPlan

MASS = [[[0.2, 0.0], [0.1, 0.1]], [[0.0, 0.6], [0.0, 0.0]]]


@pytest.fixture
def plan() -> TransportPlan:
    coords = {"partition": ["<a>", "b"], "expert": ["wet", "dry & cold"]}
    return TransportPlan(xr.DataArray(MASS, dims=("partition", "local_expert", "expert"), coords=coords))


def test_shares_are_of_the_partitions_own_mass(plan: TransportPlan) -> None:
    table = plan.table()
    np.testing.assert_allclose(table["share"], [[0.75, 0.25], [0, 1]])
    np.testing.assert_allclose(table["most_share"], [[1, 0.5], [1, np.nan]])
    assert table["most_to"].values.tolist() == [["wet", "wet"], ["dry & cold", ""]]


def test_text_and_card_say_what_the_table_holds(plan: TransportPlan) -> None:
    text, card = str(plan), plan._repr_html_()
    assert "3, of which 2 go to one expert" in text
    assert "3, of which 2 go to one expert" in card
    assert "expert 1 of partition <a>, 50% to wet" in text
    assert re.findall(r"[\d.]+%", text)[-4:] == ["75.0%", "25.0%", "0.0%", "100.0%"]
    assert re.findall(r"[\d.]+%(?=</td>)", card)[:4] == ["75.0%", "25.0%", "0.0%", "100.0%"]
    assert "<a>" not in card
    assert "&lt;a&gt;" in card
    assert "dry &amp; cold" in card


def test_many_partitions_are_cut_and_counted() -> None:
    mass = xr.DataArray(np.full((1_000, 3, 3), 1 / 9_000), dims=("partition", "local_expert", "expert"))
    plan = TransportPlan(
        mass.assign_coords(partition=np.arange(1_000), expert=[f"expert {k}" for k in range(3)])
    )
    assert "980 more" in str(plan)
    assert "980 more" in plan._repr_html_()
    assert len(plan._repr_html_()) < 40_000


def test_a_fit_keeps_its_plan_and_experts_keep_their_names() -> None:
    data, truth = daskmoe.simulate(1_500, n_features=2, n_experts=2, random_state=0)
    model = daskmoe.fit(data, "y", n_experts=2, partitions=3, random_state=0)
    turned = model.permute([1, 0]).rename_experts(["low", "high"])
    own, other = (each.transport_plan().table()["share"] for each in (model, turned))
    np.testing.assert_array_equal(own.values[:, ::-1], other.values)
    assert other["expert"].values.tolist() == ["low", "high"]
    with pytest.raises(InvalidDataError, match="got one without"):
        truth.transport_plan()
