"""Gaussian experts: phi_k(y|x) = N(y; eta_k, sigma_k^2) with one linear predictor, the mean.

Pure NumPy and SciPy's special functions. The nuisance is the variance sigma^2, the dispersion too; working
residuals are y - eta and working weights one. Shapes are those of `protocol`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy

from daskmoe.numerics.base.buffers import Buffers
from daskmoe.numerics.base.coordinates import CONSTANT, Coordinates, Scaling, coordinates_from, of_columns
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters, Moments
from daskmoe.numerics.base.policies import PRIOR
from daskmoe.numerics.families.protocol import (
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
    weighted_regression,
)

_EMPTY = np.empty(0)


class Gaussian(Family):
    """The gaussian family."""

    name = "gaussian"
    exact_m_step = True
    nuisances = (Nuisance("variance", "variance of the expert's density", "({})^2"),)
    n_plan_moments = 2
    takes_outputs = True

    def of_size(self, size: int) -> Family:
        """The family of so many outputs."""
        # It is made of this one.
        from daskmoe.numerics.families.gaussian_outputs import GaussianOutputs

        return GaussianOutputs(size)

    def scaling(self, moments: Moments) -> Scaling:
        """To mean zero and variance one."""
        scale = response_scale(moments)
        return Scaling(float(moments.mean[-1]), scale, np.array([scale**2]))

    def prior(
        self, moments: Moments, coordinates: Coordinates, min_scale: float | None = None
    ) -> ResponsePrior:
        """In units of the response's variance, and of what one linear regression leaves of it."""
        location, unit, _ = coordinates.response
        scale = response_scale(moments) / unit
        left = _linear_residual_share(of_columns(moments, moments.columns.experts))
        share = max(PRIOR.spread_share * left, PRIOR.least_spread)
        floor = PRIOR.floor_share * scale**2 if min_scale is None else (min_scale / unit) ** 2
        return ResponsePrior(
            PRIOR.coef / scale**2,
            (float(moments.mean[-1]) - location) / unit,
            np.array([PRIOR.nuisance]),
            np.array([share * scale**2]),
            np.array([floor]),
        )

    def log_density(
        self, y: Array, eta: Array, nuisance: Array, out: Array | None = None, plus: Array | None = None
    ) -> Array:
        """log phi(y) = -((y - eta)^2 / sigma^2 + log 2 pi sigma^2) / 2."""
        out = np.subtract(y, eta[..., 0, :], out=out)
        np.square(out, out=out)
        out *= -0.5 / nuisance
        if plus is not None:
            out += plus
        out -= 0.5 * np.log(2 * np.pi * nuisance)
        return out

    def derivatives(
        self, y: Array, eta: Array, nuisance: Array, buffers: Buffers, *, second_order: bool
    ) -> Derivatives:
        """With r = y - eta: s = r / sigma^2, t = (s r - 1) / 2, curvatures 1 / sigma^2, s and t + 1/2."""
        residual = np.subtract(y, eta[:, 0], out=buffers.get("residual", (len(eta), y.size)))
        score = np.multiply(residual, 1.0 / nuisance, out=buffers.get("score", residual.shape))
        spread = np.multiply(score, residual, out=residual)
        spread -= 1.0
        spread *= 0.5
        curvature = second = _EMPTY
        if second_order:
            curvature = np.broadcast_to(1.0 / nuisance[:, :, None], eta.shape)
            second = np.add(spread, 0.5, out=buffers.get("second", spread.shape))[:, None]
        return Derivatives(score[:, None], spread[:, None], curvature, None, score[:, None, None], second)

    def nuisance_information(self, nuisance: Array) -> FloatArray:
        """One half."""
        return np.full(nuisance.shape, 0.5)

    def dispersion(self, nuisance: Array) -> Array:
        """The variance."""
        return nuisance[..., 0]

    def working(self, y: Array, eta: Array, nuisance: Array, out: Array) -> Array | None:
        """y - eta, with weight one."""
        np.subtract(y, eta, out=out)
        return None

    def nuisance_sums(self, rows: WorkingRows) -> FloatArray:
        """The weighted sum of squared residuals."""
        return np.asarray((rows.weighted @ rows.residuals.swapaxes(-1, -2))[..., 0])

    def update_nuisance(
        self, nuisance: Array, mass: Array, sums: Array, step: Change, prior: NuisancePrior
    ) -> Array:
        """The mean squared residual, with the prior's pseudo-rows, held off the floor.

        The positive root of n sigma^4 - S sigma^2 - b, of sums n and S and the barrier b.
        """
        squares = sums - step.falls[..., None]
        squares += step.rises[..., None]
        squares = squares.clip(0.0) + prior.nuisance * prior.spread
        rows = mass[..., None] + prior.nuisance
        variance = (squares + np.sqrt(squares**2 + 4.0 * rows * prior.barrier)) / (2.0 * rows)
        return np.asarray(variance.clip(PRIOR.variance_floor))

    def start_nuisance(self, squares: FloatArray, mass: FloatArray, prior: NuisancePrior) -> Array:
        """The mean squares, with the prior's pseudo-rows."""
        nothing = np.zeros(len(mass))
        return self.update_nuisance(squares[:, None], mass, squares[:, None], Change(nothing, nothing), prior)

    def expert_step(
        self,
        gradient: FloatArray,
        curvature: FloatArray,
        step: Change,
        nuisance: FloatArray,
        prior: NuisancePrior,
    ) -> ExpertStep:
        """The exact conditional maximum, however far it is.

        The quadratic model of a log-variance holds for a change of one or so.
        """
        # In units of the variance: the barrier, the sums of tau and tau r^2 with the prior's pseudo-rows.
        barrier = float(prior.barrier[0] / nuisance[0] ** 2)
        pull = float(prior.nuisance[0] * (prior.spread[0] / nuisance[0] - 1.0)) + 2.0 * barrier
        mass = max(2.0 * float(curvature[0, 0]) - pull, 1e-300)
        squares = max(2.0 * float(gradient[0]) + mass - barrier, 1e-300)
        left = max(float(squares - step.falls + step.rises), 1e-12 * squares)
        ratio = (left + float(np.sqrt(left**2 + 4.0 * mass * barrier))) / (2.0 * mass)
        move = float(np.log(ratio))
        after = mass * move + left / ratio + 0.5 * barrier / ratio**2
        return ExpertStep(np.array([move]), 0.5 * (squares + 0.5 * barrier - after))

    def mean(self, eta: Array, nuisance: Array) -> Array:
        """E[y|x] = eta."""
        return eta[..., 0, :]

    def variance(self, eta: Array, nuisance: Array) -> Array:
        """Var[y|x] = sigma^2."""
        return np.broadcast_to(nuisance, eta[..., 0, :].shape)

    def cdf(self, y: Array, eta: Array, nuisance: Array) -> Array:
        """Phi((y - eta) / sigma)."""
        return np.asarray(scipy.special.ndtr((y - eta[..., 0, :]) / np.sqrt(nuisance)))

    def quantile(self, probability: float | Array, eta: Array, nuisance: Array) -> Array:
        """eta + sigma Phi^-1(probability)."""
        return np.asarray(eta[..., 0, :] + np.sqrt(nuisance) * scipy.special.ndtri(probability))

    def sample(self, rng: np.random.Generator, eta: Array, nuisance: Array) -> Array:
        """Draw y from N(eta, sigma^2)."""
        return np.asarray(eta[0] + np.sqrt(nuisance[:, 0]) * rng.standard_normal(eta.shape[1]))

    def divergence(
        self,
        eta_from: Array,
        nuisance_from: Array,
        eta_to: Array,
        nuisance_to: Array,
        out: Array | None = None,
    ) -> Array:
        """KL = (s_from / s_to - 1 + (eta_from - eta_to)^2 / s_to + log(s_to / s_from)) / 2."""
        ratio = nuisance_from / nuisance_to
        constant = 0.5 * (ratio - 1.0 - np.log(ratio))
        half_precision = 0.5 / nuisance_to
        if out is None:
            arguments = (eta_from[..., 0, :], eta_to[..., 0, :], constant, half_precision)
            out = np.empty(np.broadcast_shapes(*map(np.shape, arguments)))
        # In place: this is the innermost work of the transport plan.
        np.subtract(eta_from[..., 0, :], eta_to[..., 0, :], out=out)
        out *= out
        out *= half_precision
        out += constant
        return out

    def plan_moments(
        self, eta: Array, nuisance: Array, mass: Array, targets: Targets, out: Array
    ) -> Iterator[Array]:
        """Of first and of second order."""
        np.multiply(mass, eta[..., 0, :], out=out)
        yield out
        out *= eta[..., 0, :]
        out += mass * nuisance
        yield out

    def barycentre(
        self,
        design: FloatArray,
        mass: FloatArray,
        moments: FloatArray,
        expert: tuple[FloatArray, FloatArray],
        floor: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """Weighted least squares, and the mean square that it leaves, the components' spread included."""
        first, second = moments
        found = weighted_regression(design, mass, first)
        fitted = found @ design
        squares = second - 2 * first * fitted + mass * fitted**2
        variance = max(float(squares.sum()) / float(mass.sum()), float(floor[0]))
        return found[None], np.array([variance])

    def noise(self, nuisance: Array) -> Array:
        """The variance."""
        return nuisance[..., 0]

    def merging_loss(self, mass: FloatArray, squares: FloatArray) -> FloatArray:
        """mass log sigma^2 / 2."""
        return np.asarray(0.5 * mass * np.log(squares))

    def nuisance_from(self, squares: Array) -> FloatArray:
        """The mean squares themselves."""
        return np.asarray(squares[..., None])

    def from_moments(self, moments: Moments) -> MoEParameters | None:
        """Weighted least squares.

        coef minimizes sum w (y - coef'[1, x])^2, of minimum norm in the whitened coordinates where it is not
        unique; the variance is the weighted mean of the squared residuals.
        """
        coordinates = coordinates_from(moments, self.scaling(moments))
        scale = coordinates.response.scale
        cross = coordinates.transform @ moments.scatter[:-1, -1] / (moments.weight * scale)
        total = moments.scatter[-1, -1] / (moments.weight * scale**2)
        variance = max(float(total - cross @ cross), PRIOR.variance_floor)
        coef = np.append(0.0, cross)[None, None]
        inner = MoEParameters(np.zeros((1, coordinates.gates.size)), coef, np.array([[variance]]))
        return coordinates.to_data(inner)

    def log_likelihood_from(self, moments: Moments) -> float | None:
        """-n (log 2 pi sigma^2 + 1) / 2."""
        single = self.from_moments(moments)
        assert single is not None
        return float(-0.5 * moments.weight * (np.log(2 * np.pi * single.nuisance[0, 0]) + 1.0))


def response_scale(moments: Moments) -> float:
    """Standard deviation of the response; its magnitude (or one) where it is constant."""
    magnitude = abs(float(moments.mean[-1]))
    deviation = float(np.sqrt(max(moments.scatter[-1, -1], 0.0) / max(moments.weight, 1e-300)))
    if deviation > CONSTANT * magnitude:
        return deviation
    return magnitude if magnitude > 0 else 1.0


def _linear_residual_share(moments: Moments) -> float:
    """Share of the response's variance that one linear regression on the features leaves."""
    variance = moments.scatter[-1, -1]
    if variance <= 0:
        return 0.0
    scale = np.sqrt(np.diag(moments.scatter))
    scale[scale == 0] = 1.0
    correlation = moments.scatter / np.outer(scale, scale)
    fitted = correlation[-1, :-1] @ np.linalg.pinv(correlation[:-1, :-1], rcond=1e-10, hermitian=True)
    return float(np.clip(1.0 - fitted @ correlation[:-1, -1], 0.0, 1.0))
