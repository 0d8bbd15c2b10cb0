"""The work that `compare` times, by names that stay the same however the package's inside is laid out.

The one place outside the package's own tests that a change of internal names has to follow.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

import daskmoe
from daskmoe.numerics.base.coordinates import coordinates_from
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.parameters import LargeMoE, MoEParameters, SupportSample
from daskmoe.numerics.combine.round_sums import round_statistics
from daskmoe.numerics.families import get_family
from daskmoe.numerics.likelihood.e_step import Runs
from daskmoe.numerics.likelihood.priors import prior_from
from daskmoe.numerics.local.em import em_statistics
from daskmoe.numerics.local.problem import Problem
from daskmoe.numerics.transport.plan import Experts, pointwise_plan
from daskmoe.numerics.transport.reduction import barycentres, reduction_problem

EXPERTS, FEATURES = 4, 20
PARTITIONS, SUPPORT = 100, 1_000

Kernel = Callable[[], object]


def make_kernels(n_rows: int = 100_000) -> dict[str, Kernel]:
    """Functions without arguments, their data prepared."""
    fits = {}
    for design in ("overlap", "paper"):
        data, truth = daskmoe.simulate(
            n_rows, n_features=FEATURES, n_experts=EXPERTS, design=design, random_state=0
        )
        fits[f"whole fit, {design}"] = partial(
            daskmoe.fit_local, data, "y", n_experts=EXPERTS, random_state=0
        )
    rows = Observations(data["X"].values, data["y"].values)
    known = moments(rows)
    family = get_family("gaussian")
    coordinates = coordinates_from(known, family.scaling(known))
    problem = Problem(rows, coordinates, prior_from(known, coordinates, EXPERTS, family), family)
    parameters = truth.parameters
    inner = coordinates.from_data(parameters)
    runs = Runs.one(inner)
    return {
        "EM pass": lambda: em_statistics(runs, rows.blocks(coordinates), family),
        "Newton pass": partial(problem.statistics, inner),
        "gradient pass": partial(problem.slope, inner),
        "refinement round": partial(round_statistics, rows, parameters, coordinates, family),
        "MM iteration": reduction_iteration(parameters, rows.features[:SUPPORT]),
        **fits,
    }


def reduction_iteration(truth: MoEParameters, features: np.ndarray) -> Kernel:
    """One iteration of the reduction of local estimators that scatter around the truth."""
    rng = np.random.default_rng(1)
    locals_ = [
        MoEParameters(
            truth.gate + 0.1 * rng.standard_normal(truth.gate.shape),
            truth.coef + 0.1 * rng.standard_normal(truth.coef.shape),
            truth.nuisance * np.exp(0.1 * rng.standard_normal((EXPERTS, 1))),
        )
        for _ in range(PARTITIONS)
    ]
    support = SupportSample(features, None, np.full(len(features), 1.0 / len(features)))
    large = LargeMoE.from_estimates(locals_, np.ones(PARTITIONS))
    coordinates, problem = reduction_problem(large, support, get_family("gaussian"))
    inner = coordinates.from_data(truth)
    experts = Experts(inner.coef, inner.nuisance)
    return lambda: barycentres(problem, pointwise_plan(problem, experts, with_flow=False), experts)
