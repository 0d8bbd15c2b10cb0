"""Scores of clusters, against the scores of their rows, however the rows are partitioned."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise

import numpy as np
import pytest

from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.combine.round_sums import (
    add_scores,
    add_statistics,
    partition_scores,
    round_statistics,
    scores_of,
    unpack_scores,
    unpack_statistics,
)
from daskmoe.numerics.likelihood.statistics import likelihood_statistics
from numerics.oracles import GAUSSIAN, coordinates_of, random_model, random_rows

ROWS = 5_000


def gradient_of(rows: Observations, model: MoEParameters, all_rows: Observations) -> FloatArray:
    coordinates = coordinates_of(moments(all_rows))
    inner = coordinates.from_data(model)
    return likelihood_statistics(inner, rows.blocks(coordinates), GAUSSIAN, second_order=False).gradient


def split(rows: Observations, edges: list[int]) -> list[Observations]:
    bounds = [0, *edges, rows.n_rows]
    return [rows.take(np.arange(a, b)) for a, b in pairwise(bounds)]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("labels", ["text", "dates", "sorted"])
@pytest.mark.parametrize("edges", [[], [100], [1, 1_500, 1_600, 4_999]])
def test_clusters_that_span_partitions(
    weighted: bool, labels: str, edges: list[int], rng: np.random.Generator
) -> None:
    model, rows = random_model(rng, 3, 2), random_rows(rng, ROWS, 2, weighted=weighted)
    codes = rng.integers(0, 7, ROWS)
    names = {
        "text": np.array(list("abcdefg"))[codes],
        "dates": np.datetime64("2020-01-01") + codes,
        "sorted": np.sort(codes),
    }[labels]
    rows = rows._replace(cluster=names)
    coordinates = coordinates_of(moments(rows))
    gradients = [gradient_of(rows.take(np.flatnonzero(names == n)), model, rows) for n in np.unique(names)]
    expected = sum(np.outer(gradient, gradient) for gradient in gradients)
    layout = Layout.of(model)
    parts = split(rows, edges)
    alone = reduce(add_scores, [partition_scores(part, model, coordinates, GAUSSIAN) for part in parts])
    found = unpack_scores(alone, layout)
    assert found.n_clusters == len(np.unique(names))
    np.testing.assert_allclose(found.clusters, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
    rounds = [round_statistics(part, model, coordinates, GAUSSIAN, scores=True) for part in parts]
    with_information = scores_of(unpack_statistics(reduce(add_statistics, rounds), layout))
    assert with_information is not None
    np.testing.assert_array_equal(with_information.clusters, found.clusters)
    assert with_information.n_clusters == found.n_clusters


@pytest.mark.parametrize("edges", [[], [100], [1, 1_500, 1_600, 4_999]])
def test_partitions_are_the_clusters_where_there_are_no_labels(
    edges: list[int], rng: np.random.Generator
) -> None:
    model, rows = random_model(rng, 2, 2), random_rows(rng, ROWS, 2)
    coordinates, layout = coordinates_of(moments(rows)), Layout.of(model)
    parts = split(rows, edges)
    gradients = [gradient_of(part, model, rows) for part in parts]
    expected = sum(np.outer(gradient, gradient) for gradient in gradients)
    for found in (
        unpack_scores(
            reduce(add_scores, [partition_scores(part, model, coordinates, GAUSSIAN) for part in parts]),
            layout,
        ),
        scores_of(
            unpack_statistics(
                reduce(
                    add_statistics,
                    [round_statistics(part, model, coordinates, GAUSSIAN, scores=True) for part in parts],
                ),
                layout,
            )
        ),
    ):
        assert found is not None
        assert found.n_clusters == len(parts)
        np.testing.assert_allclose(found.clusters, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
