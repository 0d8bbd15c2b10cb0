"""Ascents of many parameters: Newton's optimum, from gradients that are those of whitened rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from daskmoe.numerics.base.coordinates import coordinates_from
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.parameters import Columns, FloatArray, MoEParameters
from daskmoe.numerics.base.policies import QUASI_NEWTON, LocalFit
from daskmoe.numerics.families import get_family
from daskmoe.numerics.likelihood.priors import prior_from
from daskmoe.numerics.likelihood.statistics import LikelihoodStatistics
from daskmoe.numerics.local import ascents, quasi_newton, search
from daskmoe.numerics.local.fit import fit_local_estimate
from daskmoe.numerics.local.newton import maximize
from daskmoe.numerics.local.problem import Problem
from daskmoe.numerics.local.quasi_newton import climb
from numerics.oracles import other_model, random_rows

# Gates and experts have other features, and there is an offset.
SPLIT = Columns(gates=(0, 1), experts=(1, 2), offset=3)


def problem_of(rng: np.random.Generator, name: str, columns: Columns = SPLIT) -> tuple[Problem, Layout]:
    """Three experts, with weights; experts differ in their slopes."""
    rows = random_rows(rng, 600, 4, weighted=True)
    eta = np.where(rng.random(600) < 0.5, 1.0, -1.0) * 0.5 * rows.features[:, 1]
    drawn = {
        "gaussian": lambda: eta + 0.3 * rng.standard_normal(600),
        "student_t": lambda: eta + 0.3 * rng.standard_t(4, 600),
        "gamma": lambda: np.exp(eta) * rng.gamma(3.0, 1 / 3, 600),
        "poisson": lambda: rng.poisson(np.exp(eta)).astype(float),
        "categorical": lambda: (eta + rng.standard_normal(600) > [[-0.5], [0.5]]).sum(0).astype(float),
        "outputs": lambda: np.column_stack([eta, 20.0 - 9.0 * eta]) + rng.normal(0, [0.3, 3.0], (600, 2)),
    }
    if name == "outputs":
        columns = columns._replace(offset=None)
    rows = rows._replace(response=drawn[name](), columns=columns)
    sizes = {"outputs": ("gaussian", 2), "categorical": ("categorical", 3)}
    family, known = get_family(*sizes.get(name, (name,))), moments(rows)
    coordinates = coordinates_from(known, family.scaling(known))
    problem = Problem(rows, coordinates, prior_from(known, coordinates, 3, family), family)
    sizes = coordinates.gates.size, coordinates.size, family.n_predictors, family.n_nuisances
    return problem, Layout(3, *sizes)


FAMILIES = pytest.mark.parametrize(
    "name", ["gaussian", "student_t", "gamma", "poisson", "categorical", "outputs"]
)


@FAMILIES
def test_gradient_is_that_of_whitened_rows(rng: np.random.Generator, name: str) -> None:
    problem, layout = problem_of(rng, name)
    at = other_model(rng, layout)
    found, expected = problem.gradient(at), problem.slope(at)
    assert found.value == pytest.approx(expected.value, rel=1e-12)
    np.testing.assert_allclose(
        found.gradient, expected.gradient, rtol=0, atol=1e-11 * np.abs(expected.gradient).max()
    )
    assert found.mass is not None
    assert expected.mass is not None
    np.testing.assert_allclose(found.mass, expected.mass, rtol=1e-11)


# EM's own weights of Student t rows are those of their residuals, not expected ones.
@pytest.mark.parametrize("name", ["gaussian", "poisson", "categorical", "outputs"])
def test_metric_is_the_complete_information(rng: np.random.Generator, name: str) -> None:
    problem, layout = problem_of(rng, name, Columns())
    at = other_model(rng, layout)
    complete = problem.statistics(at).complete
    blocks = problem.complete_blocks(at)
    whole, start = np.zeros((layout.size, layout.size)), 0
    for block in blocks:
        end = start + len(block)
        whole[start:end, start:end] = block
        start = end
    assert start == layout.size
    largest = np.abs(complete).max()
    if name in ("gaussian", "outputs"):
        np.testing.assert_allclose(whole, complete, rtol=0, atol=1e-5 * largest)
    else:
        # Newton's steps are measured by more, where a family's curvature vanishes.
        assert np.linalg.eigvalsh(complete - whole).min() > -1e-5 * largest


@FAMILIES
def test_ends_where_newton_finds_nothing_more(rng: np.random.Generator, name: str) -> None:
    problem, layout = problem_of(rng, name)
    values: list[float] = []

    def slope(parameters: MoEParameters) -> LikelihoodStatistics:
        found = problem.gradient(parameters)
        values.append(found.value)
        return found

    start = other_model(rng, layout)._replace(nuisance=np.ones((3, layout.n_nuisances)))
    found = climb(start, slope, problem.complete_blocks, tolerance=1e-6, max_passes=2_000)
    assert found.converged
    assert found.objective >= values[0]
    assert found.objective == max(values)
    more = maximize(
        found.parameters, problem.statistics, problem.objective, problem.slope,
        tolerance=1e-8, max_passes=20,
    )  # fmt: skip
    assert more.objective - found.objective < 1e-5


def test_gives_up_where_it_would_end_behind(rng: np.random.Generator) -> None:
    problem, layout = problem_of(rng, "gaussian")
    start = other_model(rng, layout)
    ascent = (start, problem.gradient, problem.complete_blocks)
    whole = climb(*ascent, tolerance=1e-9, max_passes=2_000)
    assert whole.passes > 2 * QUASI_NEWTON.renewed
    least = whole.objective + 100.0 * problem.rows.total_weight
    given_up = climb(*ascent, tolerance=1e-9, max_passes=2_000, least=least)
    assert not given_up.converged
    assert given_up.passes < whole.passes


def test_many_parameters_end_as_well_as_few(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    slopes: FloatArray = np.array([[1.0, 2.0, -1.0], [-2.0, 0.5, 1.0]])
    features = rng.standard_normal((6_000, 3))
    eta = features @ slopes.T + [2.0, -1.0]
    response = eta[np.arange(6_000), (features[:, 0] > 0).astype(int)] + 0.5 * rng.standard_normal(6_000)
    rows, options = Observations(features, response), LocalFit(n_experts=2)
    few = fit_local_estimate(rows, options, np.random.default_rng(0))
    policy = replace(QUASI_NEWTON, many=5)
    for module in (ascents, search, quasi_newton):
        monkeypatch.setattr(module, "QUASI_NEWTON", policy)
    monkeypatch.setattr(ascents, "maximize", None)
    many = fit_local_estimate(rows, options, np.random.default_rng(0))
    assert many.converged
    assert many.objective == pytest.approx(few.objective, abs=1e-4)
    np.testing.assert_allclose(many.expert_weights, few.expert_weights, rtol=1e-2)
