"""What the tests of the numerics share: random models and rows, and slow, plain ways to the same numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from scipy.stats import norm

from daskmoe.numerics.base.coordinates import Coordinates, Scaling, coordinates_from
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Observations
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters, Moments
from daskmoe.numerics.families import get_family
from daskmoe.numerics.predictive.mixture import linear_predictor

GAUSSIAN = get_family("gaussian")


def gaussian_model(gate: FloatArray, coef: FloatArray, variance: FloatArray) -> MoEParameters:
    """Gaussian experts from one regression (K, q) and one variance (K,) each."""
    return MoEParameters(gate, coef[:, None], variance[:, None])


def vector_of(model: MoEParameters) -> FloatArray:
    """The packed parameters, shape (P,)."""
    return Layout.of(model).pack(model)


def random_model(
    rng: np.random.Generator, n_experts: int, n_features: int, *, steepness: float = 1.0
) -> MoEParameters:
    gate = steepness * rng.standard_normal((n_experts, n_features + 1))
    coef = 2 * rng.standard_normal((n_experts, n_features + 1))
    return gaussian_model(gate - gate[-1], coef, rng.uniform(0.3, 2.0, n_experts))


def other_model(rng: np.random.Generator, layout: Layout) -> MoEParameters:
    """A model of any layout, whatever its family."""
    n_experts, q_gate, q_expert, n_predictors, n_nuisances = layout
    gate = rng.standard_normal((n_experts, q_gate))
    coef = rng.standard_normal((n_experts, n_predictors, q_expert))
    return MoEParameters(gate - gate[-1], coef, rng.uniform(0.1, 10, (n_experts, n_nuisances)))


def random_rows(
    rng: np.random.Generator, n_rows: int, n_features: int, *, weighted: bool = False
) -> Observations:
    features = rng.standard_normal((n_rows, n_features)) * rng.uniform(0.5, 2, n_features) + 1
    response = 3 * rng.standard_normal(n_rows) + features.sum(axis=1)
    return Observations(features, response, rng.uniform(0.2, 3, n_rows) if weighted else None)


def identity_coordinates(n_features: int) -> Coordinates:
    eye = np.eye(n_features)
    return Coordinates(np.zeros(n_features), eye, eye, Scaling.none(1))


def coordinates_of(known: Moments) -> Coordinates:
    """The coordinates in which gaussian experts are fitted to rows with these moments."""
    return coordinates_from(known, GAUSSIAN.scaling(known))


def softmax_gates(gate: FloatArray, x: FloatArray) -> FloatArray:
    """The K gates of one row, by the definition; for moderate logits."""
    weights = np.exp(gate @ np.append(1.0, x))
    return weights / weights.sum()


def joint_density(model: MoEParameters, x: FloatArray, y: float) -> FloatArray:
    """pi_k(x) phi_k(y|x) of one row, shape (K,)."""
    means = model.coef[:, 0] @ np.append(1.0, x)
    return softmax_gates(model.gate, x) * norm.pdf(y, means, np.sqrt(model.nuisance[:, 0]))


def log_joint_density(model: MoEParameters, x: FloatArray, y: float) -> FloatArray:
    """log pi_k(x) phi_k(y|x) of one row, shape (K,), of one whose density underflows too."""
    means = model.coef[:, 0] @ np.append(1.0, x)
    return np.log(softmax_gates(model.gate, x)) + norm.logpdf(y, means, np.sqrt(model.nuisance[:, 0]))


def posterior(model: MoEParameters, x: FloatArray, y: float) -> FloatArray:
    """The K responsibilities of one row, of one whose density underflows too."""
    joint = log_joint_density(model, x, y)
    weights = np.exp(joint - joint.max())
    return weights / weights.sum()


def enumerate_assignments(model: MoEParameters, rows: Observations) -> tuple[float, FloatArray]:
    """log f(y_1, ..., y_n) and the responsibilities (K, n), by a sum over all K^n assignments."""
    logs = np.array(
        [log_joint_density(model, x, y) for x, y in zip(rows.features, rows.response, strict=True)]
    )
    # Densities far from their means underflow; one factor a row keeps the sum in range.
    scale = logs.max(axis=1, keepdims=True)
    joint = np.exp(logs - scale)
    total = 0.0
    marginals = np.zeros((model.n_experts, rows.n_rows))
    for assignment in itertools.product(range(model.n_experts), repeat=rows.n_rows):
        probability = np.prod([joint[i, k] for i, k in enumerate(assignment)])
        total += probability
        for i, k in enumerate(assignment):
            marginals[k, i] += probability
    return float(np.log(total) + scale.sum()), marginals / total


def central_gradient(
    function: Callable[[FloatArray], float | FloatArray], at: FloatArray, step: float = 1e-5
) -> FloatArray:
    """Central differences, of fourth order; the last axis is that of ``at``."""
    columns = []
    for i in range(at.size):
        unit = np.zeros(at.size)
        unit[i] = step
        near = np.subtract(function(at + unit), function(at - unit))
        far = np.subtract(function(at + 2 * unit), function(at - 2 * unit))
        columns.append((8 * near - far) / (12 * step))
    return np.stack(columns, axis=-1)


def gates_and_means(model: MoEParameters, features: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Gating probabilities and expert means (K, n), by the shifted softmax."""
    logits = linear_predictor(model.gate, features)
    weights = np.exp(logits - logits.max(axis=0))
    return weights / weights.sum(axis=0), linear_predictor(model.coef[:, 0], features)


def assert_same_model(
    actual: MoEParameters, expected: MoEParameters, features: FloatArray, tolerance: float
) -> None:
    """Equal gates, means (in units of the spread of the expected ones) and variances on ``features``."""
    gates, means = gates_and_means(actual, features)
    expected_gates, expected_means = gates_and_means(expected, features)
    scale = np.sqrt(expected.nuisance.max() + expected_means.var())
    np.testing.assert_allclose(gates, expected_gates, rtol=0, atol=tolerance)
    np.testing.assert_allclose(means / scale, expected_means / scale, rtol=0, atol=tolerance)
    np.testing.assert_allclose(actual.nuisance, expected.nuisance, rtol=tolerance)
