"""The E-step of a block of rows: gates, responsibilities and log f(y|x), for several models at once.

Pure NumPy, in the coordinates of `coordinates`. Shapes: R runs, K experts, q = r + 1, B rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.buffers import Buffers
from daskmoe.numerics.base.observations import Block

Array = NDArray[np.floating[Any]]

# In squared standardized units of the response: below it a density is a spike of rounding errors.
VARIANCE_FLOOR = 1e-14
# Probabilities below the rounding of their sum are zero: their products would be denormal numbers, which some
# processors multiply a hundred times more slowly.
_NEGLIGIBLE = 1e-16
_LOG_NEGLIGIBLE = float(np.log(_NEGLIGIBLE))


class Runs(NamedTuple):
    """R models fitted side by side: ``gate`` (R, K, q), ``coef`` (R, K, q), ``variance`` (R, K)."""

    gate: Array
    coef: Array
    variance: Array

    def take(self, index: NDArray[np.intp] | slice) -> Runs:
        """Some of the runs."""
        return Runs(self.gate[index], self.coef[index], self.variance[index])


class Posterior(NamedTuple):
    """E-step of a block: log f (R, B); gates, responsibilities and residuals (R, K, B)."""

    log_density: Array
    gates: Array
    responsibilities: Array
    residuals: Array


class EStep:
    """The E-step of R models, block after block; what it gives for a block holds until the next.

    Parameters
    ----------
    runs : Runs
    """

    def __init__(self, runs: Runs) -> None:
        self.shape = runs.gate.shape
        models = np.concatenate([runs.gate, runs.coef], axis=1, dtype=np.float64)
        self._models = models.reshape(-1, self.shape[2])
        self._half_precision = (-0.5 / runs.variance)[..., None]
        self._normalization = (0.5 * np.log(2 * np.pi * runs.variance))[..., None]
        self._buffers = Buffers()

    def __call__(self, block: Block) -> Posterior:
        """Gates, responsibilities and log f(y|x) by two shifted exponentials a row and expert."""
        (n_runs, n_experts, _), width = self.shape, block.response.size
        linear = self._buffers.get("linear", (n_runs, 2 * n_experts, width))
        joint = self._buffers.get("joint", (n_runs, n_experts, width))
        np.matmul(self._models, block.design, out=linear.reshape(len(self._models), width))
        gates, residuals = linear[:, :n_experts], linear[:, n_experts:]
        np.subtract(block.response, residuals, out=residuals)
        gates -= gates.max(axis=1, keepdims=True)
        np.square(residuals, out=joint)
        joint *= self._half_precision
        joint += gates
        joint -= self._normalization
        saturated = gates.min() < _LOG_NEGLIGIBLE
        np.exp(gates, out=gates)
        if saturated:
            gates *= gates >= _NEGLIGIBLE
        gate_sum = gates.sum(axis=1, keepdims=True)
        gates /= gate_sum
        top = joint.max(axis=1, keepdims=True)
        joint -= top
        np.exp(joint, out=joint)
        joint *= joint >= _NEGLIGIBLE
        joint_sum = joint.sum(axis=1, keepdims=True)
        joint /= joint_sum
        # Both sums lie in [1, K].
        log_density = np.log(joint_sum[:, 0] / gate_sum[:, 0]) + top[:, 0]
        return Posterior(log_density, gates, joint, residuals)
