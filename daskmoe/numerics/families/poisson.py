"""Poisson experts: phi_k(y|x) = Poisson(y; exp(eta_k)), counts with the logarithm as link.

Pure NumPy and SciPy's special functions. There is no nuisance, and the dispersion is one; working residuals
are y - mu and working weights mu, with mu = exp(eta). Shapes are those of `protocol`.
"""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray

from daskmoe.numerics.base.buffers import Buffers
from daskmoe.numerics.base.coordinates import Coordinates, Scaling
from daskmoe.numerics.base.parameters import FloatArray, Moments
from daskmoe.numerics.base.policies import PRIOR
from daskmoe.numerics.families.protocol import (
    Array,
    Derivatives,
    Family,
    ResponsePrior,
    convex_regression,
    growing,
)

# Of a linear predictor: means up to 1e26 and down to 1e-26, whose squares single precision holds still.
_LARGEST = 60.0
# From this mean on the normal quantile is right to a relative 1e-10; NumPy draws up to the last one.
_NORMAL = 1e10
_MOST_DRAWN = 9e18


class Poisson(Family):
    """The Poisson family."""

    name = "poisson"
    discrete = True
    predictor_units = "1"
    expects = "counts (0, 1, 2, ...)"
    takes_offset = True

    def fits(self, y: Array) -> NDArray[np.bool_]:
        """Whole numbers from zero on."""
        return np.asarray((y >= 0) & (y == np.floor(y)))

    def scaling(self, moments: Moments) -> Scaling:
        """None: a count has no other unit."""
        return Scaling.none(0)

    def prior(
        self, moments: Moments, coordinates: Coordinates, min_scale: float | None = None
    ) -> ResponsePrior:
        """Towards the mean count; a linear predictor has a unit of its own."""
        nothing = np.zeros(0)
        mean = max(float(moments.mean[-1]), 1.0 / max(moments.weight, 1.0))
        return ResponsePrior(PRIOR.coef, float(np.log(mean)), nothing, nothing, nothing)

    def start_predictor(self, y: Array) -> Array:
        """log(y + 1/2)."""
        return np.asarray(np.log(y + 0.5)[None])

    def log_density(
        self, y: Array, eta: Array, nuisance: Array, out: Array | None = None, plus: Array | None = None
    ) -> Array:
        """log phi(y) = y eta - exp(eta) - log y!."""
        linear = np.minimum(eta[..., 0, :], _LARGEST)
        value = y * linear - np.exp(linear) - scipy.special.gammaln(y + 1.0)
        if plus is not None:
            value += plus
        if out is None:
            return np.asarray(value)
        out[...] = value
        return out

    def derivatives(
        self, y: Array, eta: Array, nuisance: Array, buffers: Buffers, *, second_order: bool
    ) -> Derivatives:
        """y - mu, and mu, which is its own expectation."""
        mean = np.exp(np.minimum(eta, _LARGEST))
        empty = np.zeros((len(eta), 0, y.size), mean.dtype)
        return Derivatives(y - mean, empty, mean, None, empty[:, :, None], empty)

    def step_curvature(self, slopes: Derivatives, eta: Array) -> Array:
        """The mean or the score's size, whichever is more."""
        return growing(slopes)

    def working(self, y: Array, eta: Array, nuisance: Array, out: Array) -> Array | None:
        """y - mu, with weight mu."""
        mean = np.exp(np.minimum(eta, _LARGEST))
        np.subtract(y, mean, out=out)
        return mean

    def mean(self, eta: Array, nuisance: Array) -> Array:
        """E[y|x] = exp(eta)."""
        return np.asarray(np.exp(np.minimum(eta[..., 0, :], _LARGEST)))

    def variance(self, eta: Array, nuisance: Array) -> Array:
        """Var[y|x] = exp(eta)."""
        return self.mean(eta, nuisance)

    def cdf(self, y: Array, eta: Array, nuisance: Array) -> Array:
        """P(Y <= y), constant between whole numbers."""
        return np.asarray(np.where(y < 0, 0.0, scipy.special.pdtr(np.floor(y), self.mean(eta, nuisance))))

    def quantile(self, probability: float | Array, eta: Array, nuisance: Array) -> Array:
        """The least count y with P(Y <= y) >= probability."""
        mean = self.mean(eta, nuisance)
        found = np.maximum(np.ceil(scipy.special.pdtrik(probability, mean)), 0.0)
        # The inverse gives up where counts are as good as normal.
        normal = np.ceil(mean + np.sqrt(mean) * scipy.special.ndtri(probability))
        found = np.where(np.isnan(found) | (mean > _NORMAL), normal, found)
        # The inverse is found numerically and may end one above.
        below = np.maximum(found - 1.0, 0.0)
        one_less = (mean <= _NORMAL) & (scipy.special.pdtr(below, mean) >= probability)
        return np.asarray(np.where(one_less, below, found))

    def sample(self, rng: np.random.Generator, eta: Array, nuisance: Array) -> Array:
        """Draw y from Poisson(exp(eta))."""
        return rng.poisson(np.minimum(self.mean(eta, nuisance), _MOST_DRAWN)).astype(np.float64)

    def divergence(
        self,
        eta_from: Array,
        nuisance_from: Array,
        eta_to: Array,
        nuisance_to: Array,
        out: Array | None = None,
    ) -> Array:
        """KL = mu_from (eta_from - eta_to) - mu_from + mu_to."""
        first, second = (np.minimum(eta[..., 0, :], _LARGEST) for eta in (eta_from, eta_to))
        mean = np.exp(first)
        value = mean * (first - second) - mean + np.exp(second)
        if out is None:
            return np.asarray(value)
        out[...] = value
        return out

    def barycentre(
        self,
        design: FloatArray,
        mass: FloatArray,
        moments: FloatArray,
        expert: tuple[FloatArray, FloatArray],
        floor: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """The weighted Poisson regression on the components' means."""

        def sums(linear: FloatArray) -> tuple[float, FloatArray, FloatArray]:
            mean = mass * np.exp(np.minimum(linear, _LARGEST))
            return float(mean.sum() - moments[0] @ linear), moments[0] - mean, mean

        return convex_regression(design, sums, expert[0][0])[None], np.zeros(0)

    def without_offset(
        self, offset: FloatArray, mass: FloatArray, moments: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """An exposure weighs as so many rows of one unit."""
        return mass * np.exp(np.minimum(offset, _LARGEST)), moments
