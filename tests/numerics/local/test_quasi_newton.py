"""Ascents of many parameters: Newton's optimum, from gradients that are those of whitened rows."""

from __future__ import annotations

import numpy as np
import pytest

from daskmoe.numerics.base.coordinates import coordinates_from
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.parameters import Columns
from daskmoe.numerics.base.policies import LocalFit
from daskmoe.numerics.families import get_family
from daskmoe.numerics.likelihood.priors import prior_from
from daskmoe.numerics.likelihood.statistics import likelihood_statistics, penalized
from daskmoe.numerics.local import ascents
from daskmoe.numerics.local.ascents import of_many
from daskmoe.numerics.local.fit import fit_local_estimate
from daskmoe.numerics.local.newton import maximize
from daskmoe.numerics.local.problem import Problem
from daskmoe.numerics.local.quasi_newton import climb
from numerics.oracles import other_model, random_rows, vector_of


def problem_of(rows: Observations, n_experts: int, name: str) -> Problem:
    family = get_family(name)
    known = moments(rows)
    coordinates = coordinates_from(known, family.scaling(known))
    return Problem(rows, coordinates, prior_from(known, coordinates, n_experts, family), family)


def counts(rng: np.random.Generator, n: int) -> Observations:
    """Rows whose gates and experts have other features, with an offset and weights."""
    rows = random_rows(rng, n, 4, weighted=True)
    y = rng.poisson(np.exp(0.3 * rows.features[:, 0] - 0.5)).astype(float)
    columns = Columns(gates=(0, 1), experts=(1, 2), offset=3)
    return rows._replace(response=y, columns=columns)


def start_of(problem: Problem, n_experts: int, rng: np.random.Generator):  # noqa: ANN201
    from daskmoe.numerics.base.layout import Layout

    family, coordinates = problem.family, problem.coordinates
    sizes = coordinates.gates.size, coordinates.size, family.n_predictors, family.n_nuisances
    return other_model(rng, Layout(n_experts, *sizes))
