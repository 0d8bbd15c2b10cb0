"""What the optimizers maximize: the penalized log-likelihood of some rows. Pure NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.coordinates import Coordinates
from daskmoe.numerics.base.observations import Observations
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.families import Family
from daskmoe.numerics.likelihood.e_step import EStep, Runs
from daskmoe.numerics.likelihood.priors import Prior
from daskmoe.numerics.likelihood.statistics import (
    LikelihoodStatistics,
    likelihood_statistics,
    log_likelihood_of,
    penalized,
)


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
