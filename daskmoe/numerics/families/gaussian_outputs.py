"""Gaussian experts of several outputs: phi_k(y|x) = prod_o N(y_o; eta_ko, sigma_ko^2).

Pure NumPy and SciPy's special functions. Given the expert, outputs are independent; what the mixture says of
one output alone is a mixture of plain gaussian experts. There is a linear predictor and a variance for every
output, C = D = O, and responses are (O, B). Variances differ between the predictors, so the dispersion is
one; working residuals are (y_o - eta_o) / sigma_o^2, working weights 1 / sigma_o^2 and zero between outputs.
Shapes are those of `protocol`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.buffers import Buffers
from daskmoe.numerics.base.coordinates import Coordinates, Scaling, of_output
from daskmoe.numerics.base.packed import packed_rows, packed_size
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters, Moments
from daskmoe.numerics.families.protocol import (
    Array,
    Change,
    Derivatives,
    ExpertStep,
    Family,
    NuisancePrior,
    NuisanceTerms,
    ResponsePrior,
    Targets,
    WorkingRows,
)

_EMPTY = np.empty(0)


class GaussianOutputs(Family):
    """The gaussian family of so many outputs, with a diagonal covariance.

    Parameters
    ----------
    n_outputs : int
        O, at least one.
    single : Family
        The gaussian family of one output.
    """

    name = "gaussian"
    exact_m_step = True
    by_predictor = True

    def __init__(self, n_outputs: int, single: Family) -> None:
        self._single, self.nuisances = single, single.nuisances
        self.n_outputs = self.n_predictors = n_outputs
        self.n_plan_moments = 2 * n_outputs
        self._diagonal = [pairs.start for pairs in packed_rows(n_outputs)]
        self._n_pairs = packed_size(n_outputs)

    @property
    def n_nuisances(self) -> int:
        """A variance for every output."""
        return self.n_outputs

    def of_size(self, size: int) -> GaussianOutputs:
        """The same family for another number of outputs."""
        return GaussianOutputs(size, self._single)

    @property
    def of_output(self) -> Family:
        """The plain gaussian family."""
        return self._single

    def fits(self, y: Array) -> NDArray[np.bool_]:
        """All rows (B, O)."""
        return np.ones(len(y), np.bool_)

    def scaling(self, moments: Moments) -> Scaling:
        """Every output to mean zero and variance one."""
        parts = [self._single.scaling(of_output(moments, o)) for o in range(self.n_outputs)]
        return Scaling(
            np.array([part.location for part in parts]),
            np.array([part.scale for part in parts]),
            np.concatenate([part.nuisance for part in parts]),
        )

    def prior(self, moments: Moments, coordinates: Coordinates, min_scale: Any = None) -> ResponsePrior:
        """That of each output alone, by default relative to its own spread."""
        scales = [None] * self.n_outputs if min_scale is None else np.broadcast_to(min_scale, self.n_outputs)
        location, scale, nuisance = coordinates.response
        ends = (np.broadcast_to(end, self.n_outputs).tolist() for end in (location, scale))
        parts = [
            self._single.prior(
                of_output(moments, o),
                coordinates._replace(response=Scaling(at, unit, nuisance[o : o + 1])),
                scales[o],
            )
            for o, (at, unit) in enumerate(zip(*ends, strict=True))
        ]
        return ResponsePrior(
            np.array([part.coef for part in parts]),
            np.array([part.location for part in parts]),
            *(np.concatenate([part[i] for part in parts]) for i in range(2, 5)),
        )

    def start_predictor(self, y: Array) -> Array:
        """The responses themselves."""
        return y

    def log_density(
        self, y: Array, eta: Array, nuisance: Array, out: Array | None = None, plus: Array | None = None
    ) -> Array:
        """The sum over outputs."""
        total: Array | None = None
        for o in range(self.n_outputs):
            own = self._single.log_density(y[o], *_part(o, eta, nuisance), out if o == 0 else None, plus)
            total, plus = own if total is None else np.add(total, own, out=total), None
        assert total is not None
        return total

    def derivatives(
        self, y: Array, eta: Array, nuisance: Array, buffers: Buffers, *, second_order: bool
    ) -> Derivatives:
        """Those of every output, and nothing between outputs."""
        residual = np.subtract(y, eta, out=buffers.get("residual", eta.shape))
        score = np.multiply(residual, 1.0 / nuisance[..., None], out=buffers.get("score", eta.shape))
        spread = np.multiply(score, residual, out=residual)
        spread -= 1.0
        spread *= 0.5
        if not second_order:
            return Derivatives(score, spread, _EMPTY, None, _EMPTY, _EMPTY)
        n_experts, width = len(eta), eta.shape[-1]
        curvature = buffers.get("curvature", (n_experts, self._n_pairs, width))
        second = buffers.get("second", curvature.shape)
        cross = buffers.get("cross", (n_experts, self.n_outputs, self.n_outputs, width))
        curvature[:], second[:], cross[:] = 0.0, 0.0, 0.0
        curvature[:, self._diagonal] = 1.0 / nuisance[..., None]
        second[:, self._diagonal] = spread + 0.5
        outputs = np.arange(self.n_outputs)
        cross[:, outputs, outputs] = score
        return Derivatives(score, spread, curvature, None, cross, second)

    def nuisance_information(self, nuisance: Array) -> FloatArray:
        """One half for every variance."""
        out = np.zeros((*nuisance.shape[:-1], self._n_pairs))
        out[..., self._diagonal] = 0.5
        return out

    def working(self, y: Array, eta: Array, nuisance: Array, out: Array) -> Array | None:
        """(y_o - eta_o) / sigma_o^2, with weights 1 / sigma_o^2."""
        precision = 1.0 / nuisance[..., None]
        np.subtract(y, eta, out=out)
        out *= precision
        weights = np.zeros((*nuisance.shape[:-1], self._n_pairs, 1))
        weights[..., self._diagonal, :] = precision
        return np.broadcast_to(weights, (*weights.shape[:-1], y.shape[-1]))

    def nuisance_sums(self, rows: WorkingRows) -> FloatArray:
        """The weighted sums of squared residuals."""
        return np.asarray(np.einsum("...b,...b->...", rows.weighted, rows.residuals) * rows.nuisance**2)

    def update_nuisance(
        self, nuisance: Array, mass: Array, sums: Array, step: Change, prior: NuisancePrior
    ) -> Array:
        """That of every output; a step changes the squares over the variance, which working rows have."""
        return np.stack(
            [
                self._single.update_nuisance(
                    nuisance[..., o : o + 1],
                    mass,
                    sums[..., o : o + 1],
                    Change(*(part[..., o] * nuisance[..., o] for part in step)),
                    _prior_of(prior, o),
                )[..., 0]
                for o in range(self.n_outputs)
            ],
            axis=-1,
        )

    def start_nuisance(self, squares: FloatArray, mass: FloatArray, prior: NuisancePrior) -> Array:
        """The mean squares of every output, with the prior's pseudo-rows."""
        parts = [
            self._single.start_nuisance(squares[:, o], mass, _prior_of(prior, o))
            for o in range(self.n_outputs)
        ]
        return np.concatenate(parts, axis=1)

    def expert_step(
        self,
        gradient: FloatArray,
        curvature: FloatArray,
        step: Change,
        nuisance: FloatArray,
        prior: NuisancePrior,
    ) -> ExpertStep:
        """The exact conditional maximum of every output."""
        parts = []
        for o in range(self.n_outputs):
            own = slice(o, o + 1)
            change = Change(step.falls[o], step.rises[o])
            parts.append(
                self._single.expert_step(
                    gradient[own], curvature[own, own], change, nuisance[own], _prior_of(prior, o)
                )
            )
        return ExpertStep(np.concatenate([part.nuisance for part in parts]), sum(part.gain for part in parts))

    def mean(self, eta: Array, nuisance: Array) -> Array:
        """E[y_o|x] = eta_o, shape (..., O, B)."""
        return eta

    def variance(self, eta: Array, nuisance: Array) -> Array:
        """Var[y_o|x] = sigma_o^2, shape (..., O, B)."""
        return np.broadcast_to(nuisance[..., None], eta.shape)

    def cdf(self, y: Array, eta: Array, nuisance: Array) -> Array:
        """P(Y_o <= y_o) of every output, shape (..., O, B)."""
        parts = [self._single.cdf(y[o], *_part(o, eta, nuisance)) for o in range(self.n_outputs)]
        return np.stack(parts, axis=-2)

    def quantile(self, probability: float | Array, eta: Array, nuisance: Array) -> Array:
        """That of every output, shape (..., O, B)."""
        parts = [self._single.quantile(probability, *_part(o, eta, nuisance)) for o in range(self.n_outputs)]
        return np.stack(parts, axis=-2)

    def sample(self, rng: np.random.Generator, eta: Array, nuisance: Array) -> Array:
        """Draw y of all outputs, shape (n, O)."""
        return np.asarray(eta.T + np.sqrt(nuisance) * rng.standard_normal(nuisance.shape))

    def divergence(
        self,
        eta_from: Array,
        nuisance_from: Array,
        eta_to: Array,
        nuisance_to: Array,
        out: Array | None = None,
    ) -> Array:
        """The sum over outputs."""
        parts = (
            (*_part(o, eta_from, nuisance_from), *_part(o, eta_to, nuisance_to))
            for o in range(self.n_outputs)
        )
        total = self._single.divergence(*next(parts), out=out)
        for part in parts:
            total += self._single.divergence(*part)
        return total

    def plan_moments(
        self, eta: Array, nuisance: Array, mass: Array, targets: Targets, out: Array
    ) -> Iterator[Array]:
        """Of first and of second order, one output after the other."""
        for o in range(self.n_outputs):
            yield from self._single.plan_moments(*_part(o, eta, nuisance), mass, targets, out)

    def barycentre(
        self,
        design: FloatArray,
        mass: FloatArray,
        moments: FloatArray,
        expert: tuple[FloatArray, FloatArray],
        floor: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """That of every output."""
        coef, nuisance = expert
        parts = [
            self._single.barycentre(
                design,
                mass,
                moments[2 * o : 2 * o + 2],
                (coef[o : o + 1], nuisance[o : o + 1]),
                floor[o : o + 1],
            )
            for o in range(self.n_outputs)
        ]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def noise(self, nuisance: Array) -> Array:
        """The variances, shape (..., O)."""
        return nuisance

    def merging_loss(self, mass: FloatArray, squares: FloatArray) -> FloatArray:
        """mass sum_o log sigma_o^2 / 2."""
        return np.asarray(0.5 * mass * np.sum(np.log(squares), axis=-1))

    def nuisance_from(self, squares: Array) -> FloatArray:
        """The mean squares themselves."""
        return np.asarray(squares)

    def from_moments(self, moments: Moments) -> MoEParameters | None:
        """Weighted least squares of every output."""
        parts = [self._single.from_moments(of_output(moments, o)) for o in range(self.n_outputs)]
        known = [part for part in parts if part is not None]
        coef, nuisance = (np.concatenate([part[i] for part in known], axis=1) for i in (1, 2))
        return MoEParameters(known[0].gate, coef, nuisance)

    def log_likelihood_from(self, moments: Moments) -> float | None:
        """The sum over outputs."""
        parts = [self._single.log_likelihood_from(of_output(moments, o)) for o in range(self.n_outputs)]
        return sum(part for part in parts if part is not None)


def _part(output: int, eta: Array, nuisance: Array) -> tuple[Array, Array]:
    """The predictor and the variance of one output, as plain gaussian experts have them."""
    return eta[..., output : output + 1, :], nuisance[..., output : output + 1]


def _prior_of(prior: NuisancePrior, output: int) -> NuisanceTerms:
    own = slice(output, output + 1)
    return NuisanceTerms(prior.nuisance[own], prior.spread[own], prior.barrier[own])
