"""Student t experts: phi_k(y|x) = t((y - eta_k) / sigma_k; nu_k) / sigma_k, for heavy tails.

Pure NumPy and SciPy's special functions. The nuisances are the squared scale sigma^2, the dispersion too, and
lambda = (200 - nu) / (nu - 1), whose logarithm is any number where the degrees of freedom nu are between 1
and 200; people see sigma and nu. With z = (y - eta) / sigma and the weight w = (nu + 1) / (nu + z^2), the
mean precision that EM gives a row, working residuals are w (y - eta) and working weights w. Shapes are those
of `protocol`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaln, polygamma, stdtr, stdtrit

from daskmoe.numerics.base.buffers import Buffers
from daskmoe.numerics.base.coordinates import Coordinates, Scaling
from daskmoe.numerics.base.parameters import FloatArray, Moments
from daskmoe.numerics.base.policies import PRIOR, TAILS
from daskmoe.numerics.families.gaussian import response_scale
from daskmoe.numerics.families.protocol import (
    ROOT,
    Array,
    Change,
    Derivatives,
    ExpertStep,
    Family,
    Nuisance,
    NuisancePrior,
    ResponsePrior,
    Seen,
    Targets,
    WorkingRows,
    weighted_regression,
)
from daskmoe.numerics.families.student_means import all_means, log_means

_LEAST, _MOST = TAILS.least_df, TAILS.most_df
# Of the other nuisance: what rounding to and from degrees of freedom leaves of it.
_NEAREST_END = 1e-6
# Of the rows, the least sum of weights that is no rounding error.
_LEAST_WEIGHT = 1e-8


def _df(odds: Array) -> Array:
    """The degrees of freedom nu from lambda."""
    return np.asarray((_MOST + _LEAST * odds) / (1.0 + odds))


def _odds(df: Array) -> Array:
    """Lambda from the degrees of freedom."""
    with np.errstate(divide="ignore"):
        return np.asarray(((_MOST - df) / (df - _LEAST)).clip(_NEAREST_END, 1.0 / _NEAREST_END))


_SEEN_DF = Seen(_df, _odds, lambda odds: -(_MOST - _LEAST) / (1.0 + odds) ** 2, _LEAST, _MOST)


class StudentT(Family):
    """The Student t family."""

    name = "student_t"
    nuisances = (
        Nuisance("scale", "scale of the expert's density", "{}", ROOT),
        Nuisance("df", "degrees of freedom of the expert's density", "1", _SEEN_DF),
    )
    n_plan_moments = 4

    def scaling(self, moments: Moments) -> Scaling:
        """To mean zero and variance one."""
        scale = response_scale(moments)
        return Scaling(float(moments.mean[-1]), scale, np.array([scale**2, 1.0]))

    def prior(
        self, moments: Moments, coordinates: Coordinates, min_scale: float | None = None
    ) -> ResponsePrior:
        """In units of the response's variance, of which outliers are most."""
        location, unit, _ = coordinates.response
        scale = response_scale(moments) / unit
        floor = TAILS.floor_share * scale**2 if min_scale is None else (min_scale / unit) ** 2
        return ResponsePrior(
            PRIOR.coef / scale**2,
            (float(moments.mean[-1]) - location) / unit,
            np.array([PRIOR.nuisance, TAILS.prior]),
            np.array([TAILS.spread_share * scale**2, TAILS.spread]),
            np.array([floor, 0.0]),
        )

    def log_density(
        self, y: Array, eta: Array, nuisance: Array, out: Array | None = None, plus: Array | None = None
    ) -> Array:
        """log phi(y) = c(nu) - log sigma^2 / 2 - (nu + 1) / 2 log(1 + z^2 / nu)."""
        variance, df = nuisance[..., :1], _df(nuisance[..., 1:])
        out = np.subtract(y, eta[..., 0, :], out=out)
        np.square(out, out=out)
        out *= 1.0 / (variance * df)
        out += 1.0
        np.log(out, out=out)
        out *= -0.5 * (df + 1.0)
        if plus is not None:
            out += plus
        out += _log_constant(df) - 0.5 * np.log(variance)
        return out

    def derivatives(
        self, y: Array, eta: Array, nuisance: Array, buffers: Buffers, *, second_order: bool
    ) -> Derivatives:
        """In eta, log sigma^2 and log lambda; the first of them has the expected curvature too."""
        rows = _Rows.of(y, eta[:, 0], nuisance)
        variance, df, falls, bends = rows.variance, rows.df, *_log_slopes(rows.df)
        score = rows.weight * rows.residual / variance
        # Of nu itself.
        spread, tails = 0.5 * (rows.weight * rows.square - 1.0), rows.tail_score()
        scores = np.stack([spread, falls * tails], axis=1)
        if not second_order:
            empty = np.empty((len(eta), 0, y.size))
            return Derivatives(score[:, None], scores, empty, empty, empty[:, :, None], empty)
        inverse = 1.0 / rows.total
        curvature = rows.weight * inverse * (df - rows.square) / variance
        expected = np.broadcast_to((df + 1.0) / (df + 3.0) / variance, curvature.shape)
        apart = (rows.square - 1.0) * inverse
        cross = np.stack([score * df * inverse, -falls * rows.residual * apart * inverse / variance], axis=1)
        second = np.stack(
            [
                0.5 * rows.weight * rows.square * df * inverse,
                -0.5 * falls * rows.square * apart * inverse,
                falls**2 * (_tail_constant(df) - 0.5 * inverse * (rows.square / df - apart)) - bends * tails,
            ],
            axis=1,
        )
        return Derivatives(
            score[:, None], scores, curvature[:, None], expected[:, None], cross[:, :, None], second
        )

    def nuisance_information(self, nuisance: Array) -> FloatArray:
        """Of Lange, Little and Taylor (1989), in log sigma^2 and log lambda."""
        df = np.asarray(_df(nuisance[..., 1]), np.float64)
        falls, _ = _log_slopes(df)
        scale = 0.5 * df / (df + 3.0)
        mixed = -falls / ((df + 1.0) * (df + 3.0))
        tails = falls**2 * (_tail_constant(df) - 0.5 * (df + 5.0) / (df * (df + 1.0) * (df + 3.0)))
        return np.stack([scale, mixed, tails], axis=-1)

    def dispersion(self, nuisance: Array) -> Array:
        """The squared scale."""
        return nuisance[..., 0]

    def working(self, y: Array, eta: Array, nuisance: Array, out: Array) -> Array | None:
        """The weight w times y - eta, and w."""
        variance, df = nuisance[..., :1, None], _df(nuisance[..., 1:, None])
        np.subtract(y, eta, out=out)
        weight = np.square(out)
        weight /= variance
        weight += df
        np.divide(df + 1.0, weight, out=weight)
        out *= weight
        return weight

    def nuisance_sums(self, rows: WorkingRows) -> FloatArray:
        """Sums of tau w (y - eta)^2 and of tau times the score of log lambda."""
        known = _Rows.of(rows.response, rows.eta[..., 0, :], rows.nuisance)
        falls, _ = _log_slopes(known.df[..., 0])
        squares = np.einsum("...b,...b->...", rows.weighted[..., 0, :], known.residual)
        tails = np.einsum("...b,...b->...", rows.memberships, known.tail_score())
        return np.stack([squares, falls * tails], axis=-1)

    def update_nuisance(
        self, nuisance: Array, mass: Array, sums: Array, step: Change, prior: NuisancePrior
    ) -> Array:
        """The scale of EM with an expanded parameter (Liu, Rubin and Wu, 1998), and a step of lambda."""
        variance, odds = nuisance[..., 0], nuisance[..., 1]
        df = _df(odds)
        # The sum of tau w, as w (nu + z^2) = nu + 1.
        rows = ((df + 1.0) * mass - sums[..., 0] / variance) / df
        rows = np.maximum(rows, _LEAST_WEIGHT * mass) + prior.nuisance[0]
        squares = (sums[..., 0] - step.falls + step.rises).clip(0.0) + prior.nuisance[0] * prior.spread[0]
        root = np.sqrt(squares**2 + 4.0 * rows * prior.barrier[0])
        found = ((squares + root) / (2.0 * rows)).clip(PRIOR.variance_floor)
        score = np.stack([0.5 * (sums[..., 0] / variance - mass), sums[..., 1]], axis=-1)
        pull = 0.5 * prior.nuisance[1] * (1.0 - prior.spread[1] / odds)
        stiffness = 0.5 * prior.nuisance[1] * prior.spread[1] / odds
        move = _tail_step(score, mass[..., None] * self.nuisance_information(nuisance), pull, stiffness)
        return np.stack([found, odds * np.exp(move)], axis=-1)

    def start_nuisance(self, squares: FloatArray, mass: FloatArray, prior: NuisancePrior) -> Array:
        """The mean squares, with the prior's pseudo-rows, under moderate tails."""
        rows = mass + prior.nuisance[0]
        variance = (squares + prior.nuisance[0] * prior.spread[0]) / rows
        odds = np.broadcast_to(_odds(np.array(TAILS.start_df)), variance.shape)
        return np.stack([variance.clip(PRIOR.variance_floor), odds], axis=-1)

    def expert_step(
        self,
        gradient: FloatArray,
        curvature: FloatArray,
        step: Change,
        nuisance: FloatArray,
        prior: NuisancePrior,
    ) -> ExpertStep:
        """A step of Fisher's scoring of both logarithms, each of about one at most."""
        gain = 0.5 * float(step.falls - step.rises)
        # The coefficients' step leaves smaller squares.
        left = gradient - np.array([max(gain, 0.0), 0.0])
        # A score as large as the information says that this is far from a maximum.
        matrix = curvature + np.diag(np.abs(left))
        move = np.linalg.solve(matrix, left)
        return ExpertStep(move, gain + float(left @ move - 0.5 * move @ matrix @ move))

    def mean(self, eta: Array, nuisance: Array) -> Array:
        """E[y|x] = eta, as nu > 1."""
        return eta[..., 0, :]

    def variance(self, eta: Array, nuisance: Array) -> Array:
        """Var[y|x] = sigma^2 nu / (nu - 2); infinite where nu is 2 or less."""
        df = _df(nuisance[..., 1:])
        with np.errstate(divide="ignore"):
            value = np.where(df > 2.0, nuisance[..., :1] * df / np.maximum(df - 2.0, 0.0), np.inf)
        return np.broadcast_to(value, eta[..., 0, :].shape)

    def width(self, eta: Array, nuisance: Array) -> Array:
        """The scale."""
        return np.broadcast_to(np.sqrt(nuisance[..., :1]), eta[..., 0, :].shape)

    def told(self, nuisance: Array) -> NDArray[np.bool_]:
        """Not the degrees of freedom of an expert that is as good as gaussian."""
        return np.stack(
            [np.ones(nuisance.shape[:-1], np.bool_), _df(nuisance[..., 1]) < TAILS.told_df], axis=-1
        )

    def cdf(self, y: Array, eta: Array, nuisance: Array) -> Array:
        """T((y - eta) / sigma; nu)."""
        return np.asarray(stdtr(_df(nuisance[..., 1:]), (y - eta[..., 0, :]) / np.sqrt(nuisance[..., :1])))

    def quantile(self, probability: float | Array, eta: Array, nuisance: Array) -> Array:
        """eta + sigma T^-1(probability; nu)."""
        own = stdtrit(_df(nuisance[..., 1:]), probability)
        return np.asarray(eta[..., 0, :] + np.sqrt(nuisance[..., :1]) * own)

    def sample(self, rng: np.random.Generator, eta: Array, nuisance: Array) -> Array:
        """Draw y from the density."""
        return np.asarray(eta[0] + np.sqrt(nuisance[:, 0]) * rng.standard_t(_df(nuisance[:, 1])))

    def divergence(
        self,
        eta_from: Array,
        nuisance_from: Array,
        eta_to: Array,
        nuisance_to: Array,
        out: Array | None = None,
    ) -> Array:
        """KL = E log(phi_from / phi_to), the mean of log(1 + z_to^2 / nu_to) by quadrature."""
        pairs = _Pairs.of(eta_from, nuisance_from, eta_to, nuisance_to)
        df, df_to = pairs.df[:, None], pairs.df_to[:, None]
        own = 0.5 * (df + 1.0) * (digamma(0.5 * (df + 1.0)) - digamma(0.5 * df))
        constant = (
            _log_constant(df) - _log_constant(df_to) - own + np.log(pairs.scale_to / pairs.scale)[:, None]
        )
        value = constant + 0.5 * (df_to + 1.0) * log_means(pairs.df, pairs.center, pairs.width)
        value = np.maximum(value, 0.0).reshape(pairs.shape)
        if out is None:
            return np.asarray(value)
        out[...] = value
        return out

    def plan_moments(
        self, eta: Array, nuisance: Array, mass: Array, targets: Targets, out: Array
    ) -> Iterator[Array]:
        """Of w, w y, w y^2 and the score of log lambda, all at the expert that the mass is sent to."""
        moments = np.zeros((self.n_plan_moments, *mass.shape))
        for k in range(len(targets.eta)):
            sent = targets.expert == k
            # Most components send their mass to one expert, and are needed there alone.
            some = sent.any(axis=-1)
            if some.any():
                own = _moments_at(eta[some], nuisance[some], targets.eta[k], targets.nuisance[k])
                moments[:, some] = np.where(sent[some], own, moments[:, some])
        for moment in moments:
            np.multiply(mass, moment, out=out)
            yield out

    def barycentre(
        self,
        design: FloatArray,
        mass: FloatArray,
        moments: FloatArray,
        expert: tuple[FloatArray, FloatArray],
        floor: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """A step of EM on what the components would draw, from the expert that they are sent to."""
        weight, first, second, tails = moments
        _, (variance, odds) = expert
        found = weighted_regression(design, weight, first)
        fitted = found @ design
        before = expert[0][0] @ design
        squares = float(np.sum(second - 2 * first * fitted + weight * fitted**2))
        old = float(np.sum(second - 2 * first * before + weight * before**2))
        total = float(mass.sum())
        score = np.array([0.5 * (old / variance - total), float(tails.sum())])
        move = _tail_step(score, total * self.nuisance_information(expert[1]), 0.0, 0.0)
        scale = max(squares / float(weight.sum()), float(floor[0]))
        return found[None], np.array([scale, odds * np.exp(move).clip(_NEAREST_END, 1.0 / _NEAREST_END)])

    def noise(self, nuisance: Array) -> Array:
        """The squared scale."""
        return nuisance[..., 0]

    def merging_loss(self, mass: FloatArray, squares: FloatArray) -> FloatArray:
        """mass log sigma^2 / 2, as of one number of degrees of freedom."""
        return np.asarray(0.5 * mass * np.log(squares))

    def nuisance_from(self, squares: Array) -> FloatArray:
        """The mean squares themselves, under moderate tails."""
        odds = np.broadcast_to(_odds(np.array(TAILS.start_df)), squares.shape)
        return np.stack([np.asarray(squares, np.float64), odds], axis=-1)


class _Rows(NamedTuple):
    """What derivatives are made of, shapes (..., B), with nuisances (..., 1)."""

    variance: Array
    df: Array
    # y - eta, z^2, nu + z^2 and w.
    residual: Array
    square: Array
    total: Array
    weight: Array

    @classmethod
    def of(cls, y: Array, eta: Array, nuisance: Array) -> _Rows:
        """Of rows ``y`` (B,) with locations ``eta`` (..., B)."""
        variance, df = nuisance[..., :1], _df(nuisance[..., 1:])
        residual = y - eta
        square = residual**2 / variance
        total = square + df
        return cls(variance, df, residual, square, total, (df + 1.0) / total)

    def tail_score(self) -> Array:
        """The derivative of log phi in nu."""
        df = self.df
        constant = digamma(0.5 * (df + 1.0)) - digamma(0.5 * df) + np.log(df)
        score = constant - np.log(self.total)
        score += (self.square - 1.0) / self.total
        score *= 0.5
        return np.asarray(score)


class _Pairs(NamedTuple):
    """Pairs of a component and an expert as quadrature has them: a flat axis of n pairs."""

    # (..., B): Of the answer.
    shape: tuple[int, ...]
    # (n,)
    df: FloatArray
    df_to: FloatArray
    scale: FloatArray
    scale_to: FloatArray
    # (n, B) and (n,): See `student_means`.
    center: FloatArray
    width: FloatArray

    @classmethod
    def of(cls, eta: Array, nuisance: Array, eta_to: Array, nuisance_to: Array) -> _Pairs:
        """From predictors (..., C, B) and nuisances (..., D) whose leading axes broadcast together."""
        apart = np.asarray(eta_to[..., 0, :] - eta[..., 0, :], np.float64)
        lead = np.broadcast_shapes(apart.shape[:-1], nuisance.shape[:-1], nuisance_to.shape[:-1])
        shape = (*lead, apart.shape[-1])
        own, other = (
            np.broadcast_to(each, (*lead, 2)).reshape(-1, 2).astype(np.float64)
            for each in (nuisance, nuisance_to)
        )
        df, df_to = (np.asarray(_df(each[:, 1]), np.float64) for each in (own, other))
        scale, scale_to = np.sqrt(own[:, 0]), np.sqrt(other[:, 0])
        unit = scale * np.sqrt(df)
        center = np.broadcast_to(apart, shape).reshape(-1, shape[-1]) / unit[:, None]
        return cls(shape, df, df_to, scale, scale_to, center, scale_to * np.sqrt(df_to) / unit)


def _moments_at(eta: Array, nuisance: Array, eta_to: Array, nuisance_to: Array) -> list[Array]:
    """Means of w, w y, w y^2 and the score of log lambda at one expert, under components, (..., B) each."""
    pairs = _Pairs.of(eta, nuisance, eta_to, nuisance_to)
    variance, df = float(nuisance_to[0]), float(_df(nuisance_to[1]))
    falls, _ = _log_slopes(np.array(df))
    means = all_means(pairs.df, pairs.center, pairs.width)
    logarithm, share, moment = (each.reshape(pairs.shape) for each in means)
    # With v^2 = z^2 / nu, w is (1 + 1 / nu) / (1 + v^2) and (z^2 - 1) / (nu + z^2) is 1 - w.
    weight = (1.0 + 1.0 / df) * share
    first = (1.0 + 1.0 / df) * np.sqrt(variance * df) * moment
    second = (df + 1.0) * variance * (1.0 - share)
    constant = digamma(0.5 * (df + 1.0)) - digamma(0.5 * df)
    tails = falls * 0.5 * (constant - logarithm + 1.0 - weight)
    location = eta_to[0]
    return [
        weight,
        first + weight * location,
        second + 2 * first * location + weight * location**2,
        np.asarray(tails),
    ]


def _log_constant(df: Array) -> Array:
    """c(nu) = log Gamma((nu + 1) / 2) - log Gamma(nu / 2) - log(pi nu) / 2."""
    return np.asarray(gammaln(0.5 * (df + 1.0)) - gammaln(0.5 * df) - 0.5 * np.log(np.pi * df))


def _tail_constant(df: Array) -> Array:
    """(psi'(nu / 2) - psi'((nu + 1) / 2)) / 4."""
    return np.asarray(0.25 * (polygamma(1, 0.5 * df) - polygamma(1, 0.5 * (df + 1.0))))


def _log_slopes(df: Array) -> tuple[Array, Array]:
    """First and second derivative of nu in log lambda."""
    first = -(_MOST - df) * (df - _LEAST) / (_MOST - _LEAST)
    return np.asarray(first), np.asarray(-first * (_MOST + _LEAST - 2.0 * df) / (_MOST - _LEAST))


def _tail_step(score: Array, information: Array, pull: Array | float, stiffness: Array | float) -> Array:
    """A step of log lambda from the score of both nuisances, sigma being where it is best for each lambda.

    A score as large as the information is far from a maximum, or at the end of light tails, where it falls
    with lambda itself and has a curvature of its own size: the step is about one at most.
    """
    slope = information[..., 1] / information[..., 0]
    own = score[..., 1] - slope * score[..., 0]
    curvature = information[..., 2] - slope * information[..., 1] + stiffness
    return np.asarray((own - pull) / np.maximum(curvature + np.abs(own), 1e-300))
