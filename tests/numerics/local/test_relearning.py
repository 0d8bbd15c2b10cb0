"""Effects of rare levels from the rows that have them, whose responsibilities are no guide."""

from __future__ import annotations

import numpy as np
import pytest

from daskmoe.numerics.base.observations import Observations
from daskmoe.numerics.base.parameters import MoEParameters
from daskmoe.numerics.base.policies import LocalFit
from daskmoe.numerics.families import Family
from daskmoe.numerics.local.fit import fit_local_estimate
from daskmoe.numerics.local.relearning import with_levels_relearned
from daskmoe.numerics.predictive.mixture import log_likelihood
from numerics.families.toys import KnownVariance, MeanAndScale
from numerics.oracles import GAUSSIAN, gaussian_model

EFFECT = 20.0


def rows_with(rng: np.random.Generator, n_rows: int, number: int, usual: float = 0.0) -> Observations:
    """Two experts on either side of zero in the first feature; the level of the third adds to both."""
    x = rng.standard_normal((n_rows, 3))
    x[:, 2] = usual
    x[rng.choice(n_rows, number, replace=False), 2] = usual + 1.0
    second = rng.random(n_rows) < 1.0 / (1.0 + np.exp(-5.0 * x[:, 0]))
    y = np.where(second, 3 * x[:, 1], -x[:, 1]) + EFFECT * (x[:, 2] - usual)
    return Observations(x, y + 0.1 * rng.standard_normal(n_rows))


def trapped(usual: float = 0.0) -> MoEParameters:
    """The truth but for the level, which the gate gives to the second expert."""
    gate = np.array([[8.0 * usual, 5.0, 0.0, -8.0], [0.0] * 4])
    coef = np.array([[0.0, 0, 3, 0], [-EFFECT * usual, 0, -1, EFFECT]])
    return gaussian_model(gate, coef, np.array([0.01, 0.01]))


@pytest.mark.parametrize("usual", [0.0, 2.0])
def test_each_expert_has_its_slope(usual: float, rng: np.random.Generator) -> None:
    rows = rows_with(rng, 20_000, 30, usual)
    found = with_levels_relearned(rows, trapped(usual), GAUSSIAN)
    assert found is not None
    np.testing.assert_allclose(found.coef[..., 3], EFFECT, atol=0.2)
    np.testing.assert_array_equal(found.gate[:, 3], 0.0)
    # What the model says of other rows is as it was.
    others = rows.take(np.flatnonzero(rows.features[:, 2] == usual))
    before, after = (
        log_likelihood(m, GAUSSIAN, others.features, others.response, None) for m in (trapped(usual), found)
    )
    assert after == pytest.approx(before, rel=1e-10)


def test_a_level_that_the_gate_is_right_to_tell_stays(rng: np.random.Generator) -> None:
    rows = rows_with(rng, 20_000, 30)
    level = rows.features[:, 2] == 1.0
    rows.response[level] = EFFECT - rows.features[level, 1] + 0.1 * rng.standard_normal(30)
    assert with_levels_relearned(rows, trapped(), GAUSSIAN) is None


def test_without_rare_levels_nothing_changes(rng: np.random.Generator) -> None:
    rows = rows_with(rng, 2_000, 900)
    assert with_levels_relearned(rows, trapped(), GAUSSIAN) is None


def test_weights_are_rows_repeated(rng: np.random.Generator) -> None:
    rows = rows_with(rng, 20_000, 15)
    weight = np.where(rows.features[:, 2] == 1.0, 2.0, 1.0)
    repeated = rows.take(np.repeat(np.arange(20_000), weight.astype(int)))
    found = with_levels_relearned(rows._replace(weight=weight), trapped(), GAUSSIAN)
    expected = with_levels_relearned(repeated, trapped(), GAUSSIAN)
    assert found is not None
    assert expected is not None
    np.testing.assert_allclose(found.coef, expected.coef, rtol=1e-10)


@pytest.mark.parametrize("family", [KnownVariance(), MeanAndScale()], ids=lambda family: family.name)
def test_any_family_learns_or_leaves_it(family: Family, rng: np.random.Generator) -> None:
    """Slopes by working residuals: never worse in the rows of the level than what was there."""
    rows = rows_with(rng, 4_000, 7)
    n_predictors = family.n_predictors
    coef = rng.standard_normal((2, n_predictors, 4)) * 0.1
    nuisance = np.ones((2, family.n_nuisances))
    rows = rows._replace(response=np.abs(rows.response))
    model = MoEParameters(np.zeros((2, 4)), coef, nuisance)
    found = with_levels_relearned(rows, model, family)
    if found is not None:
        values = [log_likelihood(m, family, rows.features, rows.response, None) for m in (model, found)]
        assert values[1] > values[0]


def test_a_fit_to_all_rows_finds_a_rare_level(rng: np.random.Generator) -> None:
    """The search's subsamples have one of its rows or none."""
    rows = rows_with(rng, 20_000, 30)
    found = fit_local_estimate(rows, LocalFit(n_experts=2), rng).parameters
    assert found is not None
    np.testing.assert_allclose(found.coef[..., 3], EFFECT, atol=0.2)
