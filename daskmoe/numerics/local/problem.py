"""What the optimizers maximize: the penalized log-likelihood of some rows. Pure NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.coordinates import Coordinates
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Observations
from daskmoe.numerics.base.packed import unpack
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.families import Family
from daskmoe.numerics.likelihood.e_step import EStep, Runs
from daskmoe.numerics.likelihood.priors import Prior
from daskmoe.numerics.likelihood.statistics import (
    LikelihoodStatistics,
    likelihood_statistics,
    log_likelihood_of,
    penalized,
    slopes_of,
)
from daskmoe.numerics.local.em import em_statistics


class Problem(NamedTuple):
    """Rows, the coordinates they are fitted in, the prior, and the experts' family."""

    rows: Observations
    coordinates: Coordinates
    prior: Prior
    family: Family

    def statistics(self, parameters: MoEParameters) -> LikelihoodStatistics:
        """Penalized log-likelihood with derivatives, one pass."""
        blocks = self.rows.blocks(self.coordinates)
        raw = likelihood_statistics(parameters, blocks, self.family, precision=np.float32)
        return penalized(raw, parameters, self.prior)

    def slope(self, parameters: MoEParameters) -> LikelihoodStatistics:
        """The same without the matrices, a quarter of the work."""
        blocks = self.rows.blocks(self.coordinates)
        raw = likelihood_statistics(parameters, blocks, self.family, second_order=False)
        return penalized(raw, parameters, self.prior)

    def gradient(self, parameters: MoEParameters) -> LikelihoodStatistics:
        """`slope` of many parameters: without matrices of the prior, and without whitening the rows."""
        raw = slopes_of(parameters, self.rows, self.coordinates, self.family)
        gradient = raw.gradient - self.prior.gradient(Layout.of(parameters), *parameters)
        return raw._replace(value=raw.value - float(self.prior.penalty(*parameters)), gradient=gradient)

    def complete_blocks(self, parameters: MoEParameters) -> list[FloatArray]:
        """The complete data's penalized information: of all gates, of each expert, of its nuisances.

        About an EM pass.
        """
        layout, family, prior = Layout.of(parameters), self.family, self.prior
        sums = em_statistics(Runs.one(parameters), self.rows.blocks(self.coordinates), family)
        gates = sums.gate_information[0] + prior.gate_majorizer(parameters.gate)
        width = layout.gates.stop
        dispersion = family.dispersion(parameters.nuisance)[:, None, None]
        experts = sums.expert_gram[0] / dispersion + prior.coef_hessian(layout.n_predictors)
        nuisances = unpack(sums.mass[0][:, None] * family.nuisance_information(parameters.nuisance))
        diagonal = np.einsum("kdd->kd", nuisances)
        diagonal += prior.nuisance_curvature(parameters.nuisance)
        return [gates.transpose(0, 2, 1, 3).reshape(width, width), *experts, *nuisances]

    def objective(self, parameters: MoEParameters) -> float:
        """Penalized log-likelihood alone."""
        value = log_likelihood_of(parameters, self.rows.blocks(self.coordinates), self.family)
        return value - float(self.prior.penalty(*parameters))

    def log_densities(self, models: Sequence[MoEParameters]) -> FloatArray:
        """log f(v|u) of all rows under each of several models of one size, shape (len(models), n)."""
        runs = Runs(*(np.stack(arrays) for arrays in zip(*models, strict=True)))
        e_step = EStep(runs, self.family)
        blocks = self.rows.blocks(self.coordinates)
        return np.concatenate([e_step(block).log_density for block in blocks], axis=1)

    def subsample(self, index: NDArray[np.intp]) -> Problem:
        """The same problem on some of the rows."""
        return self.with_rows(self.rows.take(index))

    def with_rows(self, rows: Observations) -> Problem:
        """The same problem on other rows of the same data."""
        return self._replace(rows=rows, prior=self.prior.for_weight(rows.total_weight))
