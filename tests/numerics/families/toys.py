"""Families that live in the tests only: they prove that nothing in the numerics is of the gaussian family."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from daskmoe.numerics.base.buffers import Buffers
from daskmoe.numerics.base.coordinates import Coordinates, Scaling
from daskmoe.numerics.base.parameters import FloatArray, Moments
from daskmoe.numerics.families import Family
from daskmoe.numerics.families.protocol import Derivatives, ResponsePrior, weighted_regression

SIGMA = 1.5


class KnownVariance(Family):
    """N(eta, SIGMA^2): one predictor, no nuisance (C = 1, D = 0)."""

    name = "known variance"
    exact_m_step = True

    def scaling(self, moments: Moments) -> Scaling:
        return Scaling.none(0)

    def prior(
        self, moments: Moments, coordinates: Coordinates, min_scale: float | None = None
    ) -> ResponsePrior:
        variance = max(float(moments.scatter[-1, -1] / moments.weight), 1e-300)
        return ResponsePrior(0.1 / variance, float(moments.mean[-1]), *np.zeros((3, 0)))

    def log_density(self, y: Any, eta: Any, nuisance: Any, out: Any = None, plus: Any = None) -> Any:
        value = -0.5 * ((y - eta[..., 0, :]) / SIGMA) ** 2 - np.log(SIGMA) - 0.5 * np.log(2 * np.pi)
        value = value if plus is None else value + plus
        if out is None:
            return value
        out[...] = value
        return out

    def derivatives(
        self, y: Any, eta: Any, nuisance: Any, buffers: Buffers, *, second_order: bool
    ) -> Derivatives:
        n_experts, _, width = eta.shape
        empty = np.zeros((n_experts, 0, width))
        curvature = np.full(eta.shape, SIGMA**-2)
        return Derivatives((y - eta) / SIGMA**2, empty, curvature, None, empty[:, :, None], empty)

    def dispersion(self, nuisance: Any) -> Any:
        return np.full(nuisance.shape[:-1], SIGMA**2)

    def working(self, y: Any, eta: Any, nuisance: Any, out: Any) -> None:
        np.subtract(y, eta, out=out)

    def mean(self, eta: Any, nuisance: Any) -> Any:
        return eta[..., 0, :]

    def variance(self, eta: Any, nuisance: Any) -> Any:
        return np.full(eta[..., 0, :].shape, SIGMA**2)

    def cdf(self, y: Any, eta: Any, nuisance: Any) -> Any:
        return ndtr((y - eta[..., 0, :]) / SIGMA)

    def quantile(self, probability: float, eta: Any, nuisance: Any) -> Any:
        return eta[..., 0, :] + SIGMA * ndtri(probability)

    def sample(self, rng: np.random.Generator, eta: Any, nuisance: Any) -> Any:
        return eta[0] + SIGMA * rng.standard_normal(eta.shape[1])

    def divergence(
        self, eta_from: Any, nuisance_from: Any, eta_to: Any, nuisance_to: Any, out: Any = None
    ) -> Any:
        value = 0.5 * ((eta_from[..., 0, :] - eta_to[..., 0, :]) / SIGMA) ** 2
        if out is None:
            return value
        out[...] = value
        return out

    def barycentre(
        self, design: FloatArray, mass: FloatArray, moments: FloatArray, expert: Any, floor: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        return weighted_regression(design, mass, moments[0])[None], np.zeros(0)


class MeanAndScale(KnownVariance):
    """N(eta_1, exp(eta_2)): two predictors (C = 2, D = 0), their expected curvature not the observed one."""

    name = "mean and scale"
    exact_m_step = False
    n_predictors = 2

    def start_predictor(self, y: Any) -> Any:
        return np.stack([y, np.full(y.shape, np.log(y.var()))])

    def log_density(self, y: Any, eta: Any, nuisance: Any, out: Any = None, plus: Any = None) -> Any:
        mean, log_variance = eta[..., 0, :], eta[..., 1, :]
        value = -0.5 * ((y - mean) ** 2 * np.exp(-log_variance) + log_variance + np.log(2 * np.pi))
        value = value if plus is None else value + plus
        if out is None:
            return value
        out[...] = value
        return out

    def derivatives(
        self, y: Any, eta: Any, nuisance: Any, buffers: Buffers, *, second_order: bool
    ) -> Derivatives:
        residual, precision = y - eta[:, 0], np.exp(-eta[:, 1])
        square = residual**2 * precision
        score = np.stack([residual * precision, 0.5 * (square - 1)], axis=1)
        curvature = np.stack([precision, residual * precision, 0.5 * square], axis=1)
        expected = np.stack([precision, np.zeros_like(square), np.full_like(square, 0.5)], axis=1)
        none = np.zeros((len(eta), 0, y.size))
        cross = np.zeros((len(eta), 0, 2, y.size))
        return Derivatives(score, none, curvature, expected, cross, none)

    def dispersion(self, nuisance: Any) -> Any:
        return np.ones(nuisance.shape[:-1])

    def working(self, y: Any, eta: Any, nuisance: Any, out: Any) -> Any:
        residual, precision = y - eta[..., 0, :], np.exp(-eta[..., 1, :])
        out[..., 0, :] = residual * precision
        out[..., 1, :] = 0.5 * (residual**2 * precision - 1)
        half = np.full(precision.shape, 0.5)
        return np.stack([precision, np.zeros_like(half), half], axis=-2)
