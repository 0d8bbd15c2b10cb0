"""Levenberg steps in a metric that tells how far a quadratic model of the log-likelihood holds.

Pure NumPy. With the eigenvalues e_i of the observed information in a metric M, and the gradient's parts g_i
along its eigenvectors, a step with the damping d goes

    (|g_i| + [e_i < 0] |e_i|) / (|e_i| + d)

along each, uphill. Absolute values make a saddle a way up (Dauphin et al., 2014, equation 7), and where the
objective bends upwards a step has at least the length of one, as if that far from the saddle already. All
steps of one point come from one decomposition, so that another damping takes no pass over the rows.

The metric is that of `RowSums.metric`, or the complete data's information where nobody has summed it. In the
latter no eigenvalue is above one: it vanishes as fast as the information does where experts are separated,
in gates that only a few rows speak for and in coefficients of experts that have none of these rows, so that
a step that is short enough there is short everywhere. The heavy tails keep such directions apart.
"""

from __future__ import annotations

import numpy as np
import scipy

from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.linalg import ridged
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.numerics.base.policies import NEWTON
from daskmoe.numerics.likelihood.statistics import LikelihoodStatistics

# Shares of the largest and of each entry's own: gates, coefficients and nuisances stand side by side.
RIDGE = (1e-14, 1e-10)


class LevenbergSteps:
    """All steps of one point; ``longest`` is as long as all rows together may feel.

    Parameters
    ----------
    statistics : LikelihoodStatistics
        Penalized, with matrices.
    layout : Layout
    """

    def __init__(self, statistics: LikelihoodStatistics, layout: Layout) -> None:
        self._gradient, self._information, self._layout = statistics.gradient, statistics.information, layout
        self.longest = NEWTON.saddle_step * float(np.sqrt(statistics.weight))
        metric = statistics.complete if statistics.metric is None else statistics.metric
        self._root = definite_root(metric)
        half = scipy.linalg.solve_triangular(self._root, self._information, lower=True)
        image = scipy.linalg.solve_triangular(self._root, half.T, lower=True)
        self.values, self._vectors = np.linalg.eigh(image)
        self.along = self._vectors.T @ scipy.linalg.solve_triangular(self._root, self._gradient, lower=True)

    @property
    def concave(self) -> bool:
        """Whether no curvature is upwards."""
        return bool(self.values[0] >= -NEWTON.flat)

    def left(self) -> float:
        """What there is to gain by the quadratic model, in nats.

        Where it has no maximum, or hardly one, within a length of one.
        """
        slopes, bounded = np.abs(self.along), self.values > NEWTON.flat
        lengths = np.where(bounded, slopes / np.where(bounded, self.values, 1.0), 1.0)
        return float(slopes @ lengths - 0.5 * self.values @ lengths**2)

    def step(self, damping: float, least: float = 1.0) -> tuple[FloatArray, float]:
        """A step (P,) with the gain that the quadratic model predicts.

        ``least`` is its length where the curvature is upwards, undamped.
        """
        sizes = np.abs(self.values)
        rises = np.abs(self.along) + least * np.where(self.values < -NEWTON.flat, sizes, 0.0)
        lengths = rises / (np.maximum(sizes, NEWTON.flat) + damping)
        turned = self._vectors @ np.where(self.along >= 0.0, lengths, -lengths)
        whole = scipy.linalg.solve_triangular(self._root, turned, lower=True, trans=1)
        step = self._layout.bounded(whole)
        return step, float(self._gradient @ step - 0.5 * step @ self._information @ step)


def definite_root(metric: FloatArray) -> FloatArray:
    """A Cholesky factor, with more of a ridge where rounding has made the metric indefinite."""
    share, own = RIDGE
    while True:
        try:
            return np.asarray(np.linalg.cholesky(ridged(metric, share, own)))
        except np.linalg.LinAlgError:
            share, own = 100.0 * share, 10.0 * own
