"""The choice between candidates: by the objective on all rows, whatever their order and the partitions."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
import scipy

from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.parameters import LargeMoE, MoEParameters
from daskmoe.numerics.combine.candidates import (
    Ballot,
    Candidate,
    add_tallies,
    best_of,
    equal_experts,
    score_rows,
    scores_of,
)
from daskmoe.numerics.predictive.mixture import log_likelihood, mixture_mean, responsibilities
from numerics.oracles import GAUSSIAN, coordinates_of, random_model, random_rows


@pytest.mark.parametrize("weighted", [False, True])
def test_scores_are_log_likelihoods_and_add_up_over_partitions(
    weighted: bool, rng: np.random.Generator
) -> None:
    rows = random_rows(rng, 300, 3, weighted=weighted)
    models = [random_model(rng, 3, 3) for _ in range(3)]
    large = LargeMoE.from_estimates(models, np.array([1.0, 2.0, 1.0]))
    ballot = Ballot([models[0], large, models[1]], coordinates_of(moments(rows)), GAUSSIAN)
    expected = [
        log_likelihood(p, GAUSSIAN, rows.features, rows.response, rows.weight) for p in ballot.parameters
    ]
    found = score_rows(rows, ballot)
    np.testing.assert_allclose(found.totals, [*expected, rows.total_weight], rtol=1e-12)
    weight = np.ones(300) if rows.weight is None else rows.weight
    for i in (0, 2):
        tau = responsibilities(ballot.parameters[i], GAUSSIAN, rows.features, rows.response)
        np.testing.assert_allclose(found.mass[i], tau @ weight, rtol=1e-10)
    halves = [rows.take(np.arange(0, 120)), rows.take(np.arange(120, 300))]
    both = reduce(add_tallies, [score_rows(half, ballot) for half in halves])
    np.testing.assert_allclose(both.totals, found.totals, rtol=1e-12)
    np.testing.assert_allclose(both.mass, found.mass, rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_entropies_are_told_where_they_are_asked_for(weighted: bool, rng: np.random.Generator) -> None:
    rows = random_rows(rng, 300, 3, weighted=weighted)
    models = [random_model(rng, 3, 3) for _ in range(2)]
    large = LargeMoE.from_estimates(models, np.array([1.0, 2.0]))
    ballot = Ballot([models[0], large, models[1]], coordinates_of(moments(rows)), GAUSSIAN, entropies=True)
    weight = np.ones(300) if rows.weight is None else rows.weight
    taus = [responsibilities(model, GAUSSIAN, rows.features, rows.response) for model in models]
    first, second = (float(scipy.special.entr(tau).sum(axis=0) @ weight) for tau in taus)
    halves = [rows.take(np.arange(0, 120)), rows.take(np.arange(120, 300))]
    both = reduce(add_tallies, [score_rows(half, ballot) for half in halves])
    for found in (score_rows(rows, ballot), both):
        np.testing.assert_allclose(found.entropies, [first, np.nan, second], rtol=1e-8)
    assert found.of(0).entropy == pytest.approx(first)
    assert score_rows(rows, ballot._replace(entropies=False)).of(0).entropy is None


def test_how_far_predictions_go_and_where(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 5_000, 3)
    models = [random_model(rng, 3, 3) for _ in range(2)]
    large = LargeMoE.from_estimates(models, np.array([1.0, 2.0]))
    ballot = Ballot([models[0], large], coordinates_of(moments(rows)), GAUSSIAN)
    expected = np.stack(
        [*(mixture_mean(p, GAUSSIAN, rows.features) for p in ballot.parameters), rows.response]
    )
    whole = score_rows(rows, ballot).extremes
    np.testing.assert_allclose(whole.values[:, 0], expected.min(axis=1), rtol=1e-10)
    np.testing.assert_allclose(whole.values[:, 1], expected.max(axis=1), rtol=1e-10)
    assert (
        whole.rows.tolist() == np.stack([expected.argmin(axis=1), expected.argmax(axis=1)], axis=1).tolist()
    )
    parts = [np.arange(0, 3_000), np.arange(3_000, 5_000)]
    found = [score_rows(rows.take(part), ballot) for part in parts]
    found = [tally._replace(extremes=tally.extremes.within(m)) for m, tally in enumerate(found)]
    both = add_tallies(*found).extremes
    np.testing.assert_allclose(both.values, whole.values, rtol=1e-10)
    assert (both.rows + 3_000 * both.partitions).tolist() == whole.rows.tolist()


def test_what_is_maximized_decides_whatever_the_order() -> None:
    model = MoEParameters(np.zeros((1, 1)), np.zeros((1, 1, 1)), np.ones((1, 1)))
    # The second has the higher log-likelihood and pays for it.
    candidates = [Candidate("first", model, 1.0), Candidate("spike", model, 500.0), Candidate("third", model)]
    totals = np.array([-100.0, 200.0, -90.0, 10.0])
    scores = scores_of(candidates, totals)
    assert scores["spike"] == (20.0, -30.0)
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        assert best_of([candidates[i] for i in order], scores).name == "third"
    worse = scores_of(candidates, np.array([-100.0, np.nan, -np.inf, 10.0]))
    assert best_of(candidates, worse).name == "first"


def test_equal_experts_are_the_one_model(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 100, 2)
    single = GAUSSIAN.from_moments(moments(rows))
    assert single is not None
    ballot = Ballot([equal_experts(single, 3)], coordinates_of(moments(rows)), GAUSSIAN)
    expected = log_likelihood(single, GAUSSIAN, rows.features, rows.response)
    assert score_rows(rows, ballot).totals[0] == pytest.approx(expected, rel=1e-12)


def test_a_wild_candidate_is_not_chosen_and_does_no_harm(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 50, 2)
    sound = random_model(rng, 2, 2)
    wild = sound._replace(coef=1e200 * sound.coef)
    ballot = Ballot([wild, sound], coordinates_of(moments(rows)), GAUSSIAN)
    candidates = [Candidate("wild", wild), Candidate("sound", sound)]
    scores = scores_of(candidates, score_rows(rows, ballot).totals)
    assert best_of(candidates, scores).name == "sound"
    assert np.isfinite(scores["sound"].objective)


def test_rows_are_read_where_they_are(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 80, 2)
    single = Observations(rows.features.astype(np.float32), rows.response.astype(np.float32))
    ballot = Ballot([random_model(rng, 2, 2)], coordinates_of(moments(rows)), GAUSSIAN)
    np.testing.assert_allclose(score_rows(single, ballot).totals, score_rows(rows, ballot).totals, rtol=1e-5)
