"""Categorical experts: phi_k(y = j|x) = softmax_j(eta_k), labels of J classes coded 0 to J - 1.

Pure NumPy. There is one linear predictor for each class but the first, whose own is zero: C = J - 1, and
predictor c is the logarithm of the odds of class c + 1 against class 0. There is no nuisance, and the
dispersion is one; working residuals are 1[y = c + 1] - p_c, working weights p_c (1[c = c'] - p_c'). Shapes
are those of `protocol`. Codes have no order: their mean, variance and distribution function are numbers for
diagnostics and nothing that is shown.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.buffers import Buffers
from daskmoe.numerics.base.coordinates import Coordinates, Scaling
from daskmoe.numerics.base.packed import upper_pairs
from daskmoe.numerics.base.parameters import FloatArray, Moments
from daskmoe.numerics.base.policies import PRIOR
from daskmoe.numerics.families.protocol import (
    Array,
    Derivatives,
    Family,
    ResponsePrior,
    Targets,
    convex_regression,
    tied,
)


class Categorical(Family):
    """The categorical family of so many classes.

    Parameters
    ----------
    n_classes : int
        J, at least two.
    """

    name = "categorical"
    discrete = True
    nominal = True
    predictor_units = "1"

    def __init__(self, n_classes: int = 2) -> None:
        self.n_classes = n_classes
        self.n_predictors = self.n_plan_moments = n_classes - 1
        self.expects = f"codes of {n_classes} classes (0 to {n_classes - 1})"

    def of_size(self, size: int) -> Categorical:
        """The same family for another number of classes."""
        return Categorical(size)

    def fits(self, y: Array) -> NDArray[np.bool_]:
        """Whole numbers from 0 to J - 1."""
        return np.asarray((y >= 0) & (y < self.n_classes) & (y == np.floor(y)))

    def scaling(self, moments: Moments) -> Scaling:
        """None: codes are names."""
        return Scaling.none(0)

    def prior(
        self, moments: Moments, coordinates: Coordinates, min_scale: float | None = None
    ) -> ResponsePrior:
        """Towards classes that are equally likely; finite where features separate them."""
        nothing = np.zeros(0)
        return ResponsePrior(PRIOR.coef, 0.0, nothing, nothing, nothing)

    def start_predictor(self, y: Array) -> Array:
        """Log-odds of the rows' own classes, half a row of each class added."""
        hit = self._hits(y)
        return np.asarray(np.log((hit + 0.5) / ((y == 0) + 0.5)))

    def log_density(
        self, y: Array, eta: Array, nuisance: Array, out: Array | None = None, plus: Array | None = None
    ) -> Array:
        """log phi(y) = eta_y - log(1 + sum_c exp(eta_c))."""
        value = -log_sum(eta)
        for c in range(self.n_predictors):
            value += (y == c + 1) * eta[..., c, :]
        if plus is not None:
            value += plus
        if out is None:
            return value
        out[...] = value
        return out

    def derivatives(
        self, y: Array, eta: Array, nuisance: Array, buffers: Buffers, *, second_order: bool
    ) -> Derivatives:
        """1[y = c + 1] - p_c, and p_c (1[c = c'] - p_c'), which are their own expectations."""
        chances = probabilities(eta)
        curvature = packed_curvature(chances) if second_order else chances[:, :0]
        empty = np.zeros((len(eta), 0, y.size), chances.dtype)
        cross = np.zeros((len(eta), 0, self.n_predictors, y.size), chances.dtype)
        return Derivatives(self._hits(y) - chances, empty, curvature, None, cross, empty)

    def step_curvature(self, slopes: Derivatives, eta: Array) -> Array:
        """That of a softmax whose products p_c p_c' of chances have heavy tails, as those of the gates.

        A class that is next to impossible at a level has no curvature there, and Newton's step no end.
        """
        chances = self.class_probabilities(eta)
        ties = tied(chances[:, :, None] * chances[:, None])
        first, second = upper_pairs(self.n_predictors)
        out: Array = -ties[:, first + 1, second + 1]
        own = np.arange(1, self.n_classes)
        out[:, first == second] = ties[:, own].sum(axis=2) - ties[:, own, own]
        return out

    def working(self, y: Array, eta: Array, nuisance: Array, out: Array) -> Array | None:
        """1[y = c + 1] - p_c, with weights p_c (1[c = c'] - p_c')."""
        chances = probabilities(eta)
        np.subtract(self._hits(y), chances, out=out)
        return packed_curvature(chances)

    def class_probabilities(self, eta: Array) -> Array:
        """p_0 to p_J - 1, shape (..., J, B)."""
        rest = probabilities(eta)
        return np.concatenate([np.exp(-log_sum(eta))[..., None, :], rest], axis=-2)

    def mean(self, eta: Array, nuisance: Array) -> Array:
        """The mean code."""
        return np.asarray(np.einsum("c,...cb->...b", np.arange(1.0, self.n_classes), probabilities(eta)))

    def variance(self, eta: Array, nuisance: Array) -> Array:
        """The variance of the code."""
        squares = np.arange(1.0, self.n_classes) ** 2
        second = np.einsum("c,...cb->...b", squares, probabilities(eta))
        return np.asarray(second - self.mean(eta, nuisance) ** 2)

    def cdf(self, y: Array, eta: Array, nuisance: Array) -> Array:
        """P(Y <= y) of the code."""
        codes = np.arange(self.n_classes)[:, None]
        return np.asarray(np.sum(self.class_probabilities(eta) * (codes <= y[..., None, :]), axis=-2))

    def quantile(self, probability: float | Array, eta: Array, nuisance: Array) -> Array:
        """The least code y with P(Y <= y) >= probability."""
        reached = np.cumsum(self.class_probabilities(eta), axis=-2)[..., :-1, :] >= probability
        return np.asarray(self.n_predictors - np.sum(reached, axis=-2), np.float64)

    def sample(self, rng: np.random.Generator, eta: Array, nuisance: Array) -> Array:
        """Draw the code: the largest of logits with Gumbel noise."""
        logits = np.concatenate([np.zeros((1, eta.shape[1])), eta])
        return np.asarray(np.argmax(logits + rng.gumbel(size=logits.shape), axis=0), np.float64)

    def divergence(
        self,
        eta_from: Array,
        nuisance_from: Array,
        eta_to: Array,
        nuisance_to: Array,
        out: Array | None = None,
    ) -> Array:
        """KL = sum_c p_c (eta_from,c - eta_to,c) - log_sum(eta_from) + log_sum(eta_to)."""
        apart = np.einsum("...cb,...cb->...b", probabilities(eta_from), eta_from - eta_to)
        value: Array = log_sum(eta_to) - log_sum(eta_from) + apart
        # What is left of a difference of equals may be negative.
        return np.maximum(value, 0.0) if out is None else np.maximum(value, 0.0, out=out)

    def plan_moments(
        self, eta: Array, nuisance: Array, mass: Array, targets: Targets, out: Array
    ) -> Iterator[Array]:
        """Of the indicators of the classes but the first."""
        chances = probabilities(eta)
        for c in range(self.n_predictors):
            yield np.multiply(mass, chances[..., c, :], out=out)

    def barycentre(
        self,
        design: FloatArray,
        mass: FloatArray,
        moments: FloatArray,
        expert: tuple[FloatArray, FloatArray],
        floor: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """The weighted multinomial regression on the components' mean probabilities."""

        def sums(linear: FloatArray) -> tuple[float, FloatArray, FloatArray]:
            chances = probabilities(linear)
            loss = float(mass @ log_sum(linear)) - float(np.vdot(moments, linear))
            return loss, moments - mass * chances, mass * packed_curvature(chances)

        return convex_regression(design, sums, expert[0]), np.zeros(0)

    def _hits(self, y: Array) -> NDArray[np.bool_]:
        """1[y = c + 1], shape (C, B)."""
        return np.asarray(y == np.arange(1, self.n_classes)[:, None])


def log_sum(eta: Array) -> Array:
    """log(1 + sum_c exp(eta_c)), shape (..., B)."""
    if eta.shape[-2] == 1:
        only = eta[..., 0, :]
        return np.asarray(np.log(1.0 + np.exp(-np.abs(only))) + np.maximum(only, 0.0))
    top = np.maximum(eta.max(axis=-2), 0.0)
    return np.asarray(np.log(np.exp(-top) + np.exp(eta - top[..., None, :]).sum(axis=-2)) + top)


def probabilities(eta: Array) -> Array:
    """p_c of the classes but the first, shape (..., C, B)."""
    if eta.shape[-2] == 1:
        # exp overflows to infinity and the share to zero, as it should.
        with np.errstate(over="ignore"):
            return np.asarray(1.0 / (1.0 + np.exp(-eta)))
    top = np.maximum(eta.max(axis=-2, keepdims=True), 0.0)
    out = np.exp(eta - top)
    out /= out.sum(axis=-2, keepdims=True) + np.exp(-top)
    return np.asarray(out)


def packed_curvature(chances: Array) -> Array:
    """p_c (1[c = c'] - p_c') for the pairs c <= c', shape (..., CC, B)."""
    n_predictors = chances.shape[-2]
    if n_predictors == 1:
        return np.asarray(chances * (1.0 - chances))
    first, second = upper_pairs(n_predictors)
    out: Array = -chances[..., first, :] * chances[..., second, :]
    out[..., first == second, :] += chances
    return out
