"""Gamma experts: phi_k(y|x) with mean mu_k = exp(eta_k) and shape alpha_k, the logarithm as link.

Pure NumPy and SciPy's special functions. The nuisance is the dispersion nu = 1 / alpha, so that Var[y|x] = nu
mu^2; people see the shape. Working residuals are r = y / mu - 1 and working weights one. Shapes are those of
`protocol`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammainc, gammaincinv, gammaln, polygamma

from daskmoe.numerics.base.buffers import Buffers
from daskmoe.numerics.base.coordinates import Coordinates, Scaling
from daskmoe.numerics.base.parameters import FloatArray, Moments
from daskmoe.numerics.base.policies import PRIOR
from daskmoe.numerics.families.protocol import (
    RECIPROCAL,
    Array,
    Change,
    Derivatives,
    ExpertStep,
    Family,
    Nuisance,
    NuisancePrior,
    ResponsePrior,
    Targets,
    WorkingRows,
    convex_regression,
    growing,
)

# Of a linear predictor, either way: means from 1e-26 to 1e26.
_LARGEST = 60.0
# Shapes between which the root of `_shape` is looked for; beyond, a density is a point or no density.
_SHAPES = (1e-6, 1e14)
_STEPS = 60


class Gamma(Family):
    """The gamma family."""

    name = "gamma"
    predictor_units = "1"
    expects = "numbers above zero (1e-20 to 1e20)"
    takes_offset = True
    nuisances = (Nuisance("shape", "squared mean over variance of the expert's density", "1", RECIPROCAL),)
    n_plan_moments = 2

    def fits(self, y: Array) -> NDArray[np.bool_]:
        """Positive numbers whose logarithms the predictors reach."""
        return np.asarray((y > 1e-20) & (y < 1e20))

    def scaling(self, moments: Moments) -> Scaling:
        """None: a unit of the response is a shift of the predictors."""
        return Scaling.none(1)

    def prior(
        self, moments: Moments, coordinates: Coordinates, min_scale: float | None = None
    ) -> ResponsePrior:
        """Towards the mean, and in units of the squared coefficient of variation."""
        mean = max(float(moments.mean[-1]), 1e-300)
        relative = max(float(moments.scatter[-1, -1]) / max(moments.weight, 1e-300) / mean**2, 1e-12)
        floor = PRIOR.floor_share * relative if min_scale is None else (min_scale / mean) ** 2
        return ResponsePrior(
            PRIOR.coef,
            float(np.log(mean)),
            np.array([PRIOR.nuisance]),
            np.array([PRIOR.spread_share * relative]),
            np.array([floor]),
        )

    def start_predictor(self, y: Array) -> Array:
        """log y."""
        return np.asarray(np.log(y)[None])

    def log_density(
        self, y: Array, eta: Array, nuisance: Array, out: Array | None = None, plus: Array | None = None
    ) -> Array:
        """log phi(y) = a log a - log Gamma(a) + (a - 1) log y - a (eta + y / mu), with the shape a."""
        shape = 1.0 / nuisance
        linear = eta[..., 0, :].clip(-_LARGEST, _LARGEST)
        value = (shape - 1.0) * np.log(y) - shape * (linear + y * np.exp(-linear))
        value += shape * np.log(shape) - gammaln(shape)
        if plus is not None:
            value += plus
        if out is None:
            return np.asarray(value)
        out[...] = value
        return out

    def derivatives(
        self, y: Array, eta: Array, nuisance: Array, buffers: Buffers, *, second_order: bool
    ) -> Derivatives:
        """With r = y / mu - 1 and g = log a - psi(a) + log(1 + r) - r.

        Scores are a r and -a g, curvatures a (1 + r), a r and a^2 psi'(a) - a - a g.
        """
        shape = 1.0 / nuisance
        residual = y * np.exp(-eta[:, 0].clip(-_LARGEST, _LARGEST)) - 1.0
        level = _log_ratio(residual) + np.log(shape) - digamma(shape)
        score = shape * residual
        curvature = (score + shape)[:, None]
        expected = np.broadcast_to(shape, score.shape)[:, None]
        second = shape**2 * polygamma(1, shape) - shape - shape * level
        return Derivatives(
            score[:, None],
            (-shape * level)[:, None],
            curvature,
            expected,
            score[:, None, None],
            second[:, None],
        )

    def nuisance_information(self, nuisance: Array) -> FloatArray:
        """a^2 psi'(a) - a."""
        shape = 1.0 / np.asarray(nuisance, np.float64)
        # By its series where the difference is rounding.
        large = 0.5 + 1.0 / (6.0 * shape)
        with np.errstate(over="ignore", invalid="ignore"):
            exact = shape**2 * polygamma(1, shape) - shape
        return np.asarray(np.where(shape > 1e5, large, exact))

    def dispersion(self, nuisance: Array) -> Array:
        """nu."""
        return nuisance[..., 0]

    def step_curvature(self, slopes: Derivatives, eta: Array) -> Array:
        """The shape or the score's size, whichever is more."""
        return growing(slopes)

    def working(self, y: Array, eta: Array, nuisance: Array, out: Array) -> Array | None:
        """y / mu - 1, with weight one."""
        np.multiply(y, np.exp(-eta.clip(-_LARGEST, _LARGEST)), out=out)
        out -= 1.0
        return None

    def nuisance_sums(self, rows: WorkingRows) -> FloatArray:
        """Sums of tau (log(1 + r) - r)."""
        residual = rows.residuals[..., 0, :]
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(residual == 0, 0.0, _log_ratio(residual) / residual)
        products = rows.weighted[..., 0, :] * share
        return np.asarray(np.sum(products, axis=-1, dtype=np.float64, keepdims=True))

    def update_nuisance(
        self, nuisance: Array, mass: Array, sums: Array, step: Change, prior: NuisancePrior
    ) -> Array:
        """The root of the score; minus twice a sum is a sum of squared residuals up to third order."""
        gain = 0.5 * (step.falls - step.rises)[..., None]
        after = np.minimum(sums + np.clip(gain, 0.0, None), 0.5 * sums)
        return 1.0 / _shape(np.asarray(mass, np.float64)[..., None], after, prior)

    def start_nuisance(self, squares: FloatArray, mass: FloatArray, prior: NuisancePrior) -> Array:
        """The mean squares of logarithms, with the prior's pseudo-rows."""
        rows = mass[:, None] + prior.nuisance
        return np.asarray((squares[:, None] + prior.nuisance * prior.spread) / rows)

    def expert_step(
        self,
        gradient: FloatArray,
        curvature: FloatArray,
        step: Change,
        nuisance: FloatArray,
        prior: NuisancePrior,
    ) -> ExpertStep:
        """A Newton step of the logarithm, of at most one."""
        move = np.clip(gradient / np.maximum(curvature[0], 1e-300), -1.0, 1.0)
        gain = 0.5 * float(step.falls - step.rises)
        gain += float(gradient[0] * move[0] - 0.5 * curvature[0, 0] * move[0] ** 2)
        return ExpertStep(move, gain)

    def mean(self, eta: Array, nuisance: Array) -> Array:
        """E[y|x] = exp(eta)."""
        return np.asarray(np.exp(eta[..., 0, :].clip(-_LARGEST, _LARGEST)))

    def variance(self, eta: Array, nuisance: Array) -> Array:
        """Var[y|x] = nu exp(2 eta)."""
        return np.asarray(nuisance * self.mean(eta, nuisance) ** 2)

    def cdf(self, y: Array, eta: Array, nuisance: Array) -> Array:
        """The regularized incomplete gamma function P(a, a y / mu)."""
        return np.asarray(
            gammainc(1.0 / nuisance, np.maximum(y, 0.0) / (nuisance * self.mean(eta, nuisance)))
        )

    def quantile(self, probability: float | Array, eta: Array, nuisance: Array) -> Array:
        """mu P^-1(a, probability) / a."""
        return np.asarray(self.mean(eta, nuisance) * nuisance * gammaincinv(1.0 / nuisance, probability))

    def sample(self, rng: np.random.Generator, eta: Array, nuisance: Array) -> Array:
        """Draw y from the density."""
        dispersion = nuisance[:, 0]
        return rng.gamma(1.0 / dispersion, dispersion * self.mean(eta, nuisance))

    def divergence(
        self,
        eta_from: Array,
        nuisance_from: Array,
        eta_to: Array,
        nuisance_to: Array,
        out: Array | None = None,
    ) -> Array:
        """KL = c(a, b) + b (d - 1 + exp(-d)), of shapes a and b, with d = eta_to - eta_from.

        c(a, b) = (a - b) psi(a) - log Gamma(a) + log Gamma(b) + b log(a / b) + b - a.
        """
        a, b = 1.0 / nuisance_from, 1.0 / nuisance_to
        constant = (a - b) * digamma(a) - gammaln(a) + gammaln(b) + b * np.log(a / b) + b - a
        apart = (eta_to[..., 0, :] - eta_from[..., 0, :]).clip(-_LARGEST, _LARGEST)
        value = constant + b * (apart + np.expm1(-apart))
        if out is None:
            return np.asarray(value)
        out[...] = value
        return out

    def plan_moments(
        self, eta: Array, nuisance: Array, mass: Array, targets: Targets, out: Array
    ) -> Iterator[Array]:
        """Of y and of log y."""
        np.multiply(mass, self.mean(eta, nuisance), out=out)
        yield out
        np.multiply(mass, eta[..., 0, :] + digamma(1.0 / nuisance) + np.log(nuisance), out=out)
        yield out

    def barycentre(
        self,
        design: FloatArray,
        mass: FloatArray,
        moments: FloatArray,
        expert: tuple[FloatArray, FloatArray],
        floor: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """The weighted gamma regression on the components' means, and the shape that it leaves."""
        first, logarithm = moments

        def sums(linear: FloatArray) -> tuple[float, FloatArray, FloatArray]:
            ratio = first * np.exp(-linear.clip(-_LARGEST, _LARGEST))
            return float(mass @ linear + ratio.sum()), ratio - mass, ratio

        found = convex_regression(design, sums, expert[0][0])
        linear = found @ design
        left = float(np.sum(logarithm - mass * linear - sums(linear)[1]))
        shape = _shape(np.array([mass.sum()]), np.array([min(left, 0.0)]), None)
        return found[None], np.maximum(1.0 / shape, floor)

    def without_offset(
        self, offset: FloatArray, mass: FloatArray, moments: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """An offset is a unit of the response."""
        first, logarithm = moments
        return mass, np.stack([first * np.exp(-offset.clip(-_LARGEST, _LARGEST)), logarithm - mass * offset])

    def noise(self, nuisance: Array) -> Array:
        """The dispersion."""
        return nuisance[..., 0]

    def merging_loss(self, mass: FloatArray, squares: FloatArray) -> FloatArray:
        """mass log nu / 2, as of shapes that are not small."""
        return np.asarray(0.5 * mass * np.log(squares))

    def nuisance_from(self, squares: Array) -> FloatArray:
        """The mean squares themselves."""
        return np.asarray(squares[..., None])


def _log_ratio(residual: Array) -> Array:
    """log(1 + r) - r, at most zero."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log1p(np.maximum(residual, -1.0 + 1e-16)) - residual)


def _shape(mass: FloatArray, sums: FloatArray, prior: NuisancePrior | None) -> FloatArray:
    """The shape a where n (log a - psi(a)) + S + c (1 / a - s) / 2 - b a / 2 is zero, by bisection of log a.

    With n the mass, S the sums, and c, s and b of the prior; the left side falls in a.
    """
    low, high = (np.full(np.broadcast_shapes(mass.shape, sums.shape), np.log(end)) for end in _SHAPES)
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        shape = np.exp(middle)
        # log a - psi(a), by its series where the difference is rounding.
        apart = np.where(shape > 1e5, 0.5 / shape, np.log(shape) - digamma(shape))
        score = mass * apart + sums
        if prior is not None:
            score = score + 0.5 * prior.nuisance * (1.0 / shape - prior.spread) - 0.5 * prior.barrier * shape
        low, high = np.where(score > 0, middle, low), np.where(score > 0, high, middle)
    return np.asarray(np.exp(0.5 * (low + high)))
