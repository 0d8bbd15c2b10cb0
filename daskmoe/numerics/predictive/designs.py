"""Data from a known mixture of experts: the designs of the studies in `docs/`.

``paper`` follows the simulations of arXiv:2312.09877: features from K Gaussian groups with covariance
0.25^|i-j|, steep integer gates, integer slopes in [-5, 5], variances 4 or 5. ``overlap`` has balanced experts
with zero intercepts, integer slopes in [-10, 10], variance 3, and the gates that a Gaussian class model with
means 2.5 standard deviations apart implies.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy

from daskmoe.errors import InvalidOptionError
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.families import get_family
from daskmoe.numerics.predictive.draws import sample_response
from daskmoe.numerics.predictive.mixture import linear_predictor

DESIGNS = ("overlap", "paper")

_SEPARATION = 2.5
_TRIES = 200
_TRIAL_ROWS = 2_000


class SimulationDesign(NamedTuple):
    """A known mixture of experts and the distribution of its features."""

    parameters: MoEParameters
    # (K, p): Means of the Gaussian groups that the features are drawn from, with equal shares.
    centers: FloatArray
    # (p, p): Square root of the covariance within a group: a row is center + factor @ z, z standard normal.
    factor: FloatArray


def draw_design(design: str, n_features: int, n_experts: int, rng: np.random.Generator) -> SimulationDesign:
    """Draw the parameters of a design; see the module's docstring for the two there are.

    Raises
    ------
    InvalidOptionError
        If ``design`` is unknown or a size is below one.
    """
    if design not in DESIGNS:
        raise InvalidOptionError(f"design: expected one of {list(DESIGNS)}, got {design!r}.")
    if n_features < 1 or n_experts < 1:
        raise InvalidOptionError(
            f"n_features and n_experts: expected at least 1, got {n_features} and {n_experts}."
        )
    draw = _draw_paper if design == "paper" else _draw_overlap
    return draw(n_features, n_experts, rng)


def sample_features(design: SimulationDesign, n_rows: int, rng: np.random.Generator) -> FloatArray:
    """Features of ``n_rows`` rows, shape (n_rows, p)."""
    group = rng.integers(len(design.centers), size=n_rows)
    noise = rng.standard_normal((n_rows, design.centers.shape[1]))
    out: FloatArray = noise @ design.factor.T
    out += design.centers[group]
    return out


def sample_rows(
    design: SimulationDesign, n_rows: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Features (n_rows, p) and gaussian responses (n_rows,) of a design."""
    features = sample_features(design, n_rows, rng)
    return features, sample_response(design.parameters, get_family("gaussian"), features, rng)


def _draw_paper(n_features: int, n_experts: int, rng: np.random.Generator) -> SimulationDesign:
    centers = rng.integers(-4, 5, size=(n_experts, n_features)).astype(float)
    lag = np.abs(np.subtract.outer(np.arange(n_features), np.arange(n_features)))
    scale = np.sqrt(1.0 + centers.var(axis=0))
    standardized = (centers - centers.mean(axis=0)) / scale
    factor = np.linalg.cholesky(0.25**lag) / scale[:, None]
    coef = np.empty((n_experts, n_features + 1))
    coef[:, 0] = np.linspace(-5, 5, n_experts) if n_experts > 1 else 0.0
    coef[:, 1:] = rng.integers(-5, 6, size=(n_experts, n_features))
    variance = rng.integers(4, 6, size=n_experts).astype(float)
    gate = np.zeros((n_experts, n_features + 1))
    draft = SimulationDesign(MoEParameters(gate, coef[:, None], variance[:, None]), standardized, factor)
    return draft._replace(parameters=draft.parameters._replace(gate=_balanced_gate(draft, rng)))


def _balanced_gate(design: SimulationDesign, rng: np.random.Generator) -> FloatArray:
    """Integer gates in [-5, 5], redrawn until no expert is rare: a study would be about that one alone."""
    shape = design.parameters.gate.shape
    features = sample_features(design, _TRIAL_ROWS, rng)
    best, best_share = np.zeros(shape), -1.0
    for _ in range(_TRIES):
        gate = rng.integers(-5, 6, size=shape).astype(float)
        gate[-1] = 0.0
        winners = np.argmax(linear_predictor(gate, features), axis=0)
        share = np.bincount(winners, minlength=shape[0]).min() / _TRIAL_ROWS
        if share > best_share:
            best, best_share = gate, share
        if share >= 0.4 / shape[0]:
            break
    return best


def _draw_overlap(n_features: int, n_experts: int, rng: np.random.Generator) -> SimulationDesign:
    directions = rng.standard_normal((n_features, n_experts))
    if n_features >= n_experts:
        directions = np.linalg.qr(directions)[0]
        centers = directions.T * (_SEPARATION / np.sqrt(2.0))
    else:
        centers = directions.T * (_SEPARATION / scipy.spatial.distance.pdist(directions.T).min())
    gate = np.concatenate([-0.5 * np.sum(centers**2, axis=1, keepdims=True), centers], axis=1)
    coef = np.zeros((n_experts, n_features + 1))
    coef[:, 1:] = rng.integers(-10, 11, size=(n_experts, n_features))
    parameters = MoEParameters(gate - gate[-1], coef[:, None], np.full((n_experts, 1), 3.0))
    return SimulationDesign(parameters, centers, np.eye(n_features))
