"""The E-step of a block of rows: gates, responsibilities and log f(y|x), for several models at once.

Pure NumPy, in the coordinates of `coordinates`. Shapes: R runs, K experts, C predictors, q = r + 1, B rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.buffers import Buffers
from daskmoe.numerics.base.observations import Block
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.families import Family

Array = NDArray[np.floating[Any]]

# Probabilities below the rounding of their sum are zero: their products would be denormal numbers, which some
# processors multiply a hundred times more slowly.
NEGLIGIBLE = 1e-16
_LOG_NEGLIGIBLE = float(np.log(NEGLIGIBLE))


class Runs(NamedTuple):
    """R models side by side: ``gate`` (R, K, q_gate), ``coef`` (R, K, C, q), ``nuisance`` (R, K, D)."""

    gate: Array
    coef: Array
    nuisance: Array

    @classmethod
    def one(cls, parameters: MoEParameters) -> Runs:
        """A model as the only run."""
        return cls(*(array[None] for array in parameters))

    def take(self, index: NDArray[np.intp] | slice) -> Runs:
        """Some of the runs."""
        return Runs(self.gate[index], self.coef[index], self.nuisance[index])


class Posterior(NamedTuple):
    """E-step of a block: log f (R, B), gates and responsibilities (R, K, B), predictors (R, K, C, B)."""

    log_density: Array
    gates: Array
    responsibilities: Array
    eta: Array


class EStep:
    """The E-step of R models, block after block; what it gives for a block holds until the next.

    Parameters
    ----------
    runs : Runs
    family : Family
    """

    def __init__(self, runs: Runs, family: Family) -> None:
        self.family = family
        n_runs, n_experts, n_predictors, q = runs.coef.shape
        self.shape = (n_runs, n_experts, n_predictors)
        self._gates = runs.gate.astype(np.float64)
        self._coefs = runs.coef.reshape(n_runs, -1, q).astype(np.float64)
        self._models: Array | None = None
        if runs.gate.shape[-1] == q:
            self._models = np.concatenate([self._gates, self._coefs], axis=1).reshape(-1, q)
        self._nuisance = runs.nuisance
        self._buffers = Buffers()

    def __call__(self, block: Block) -> Posterior:
        """Gates, responsibilities and log f(y|x) by two shifted exponentials a row and expert."""
        (n_runs, n_experts, n_predictors), width = self.shape, block.width
        linear = self._buffers.get("linear", (n_runs, n_experts * (1 + n_predictors), width))
        joint = self._buffers.get("joint", (n_runs, n_experts, width))
        if block.gating is None and self._models is not None:
            np.matmul(self._models, block.design, out=linear.reshape(len(self._models), width))
        else:
            np.matmul(self._gates, block.gate_design, out=linear[:, :n_experts])
            np.matmul(self._coefs, block.design, out=linear[:, n_experts:])
        gates = linear[:, :n_experts]
        eta = linear[:, n_experts:].reshape(n_runs, n_experts, n_predictors, width)
        if block.offset is not None:
            eta += block.offset
        gates -= gates.max(axis=1, keepdims=True)
        self.family.log_density(block.response, eta, self._nuisance, out=joint, plus=gates)
        saturated = gates.min() < _LOG_NEGLIGIBLE
        np.exp(gates, out=gates)
        if saturated:
            gates *= gates >= NEGLIGIBLE
        gate_sum = gates.sum(axis=1, keepdims=True)
        gates /= gate_sum
        top = joint.max(axis=1, keepdims=True)
        joint -= top
        np.exp(joint, out=joint)
        joint *= joint >= NEGLIGIBLE
        joint_sum = joint.sum(axis=1, keepdims=True)
        joint /= joint_sum
        # Both sums lie in [1, K].
        log_density = np.log(joint_sum[:, 0] / gate_sum[:, 0]) + top[:, 0]
        return Posterior(log_density, gates, joint, eta)

    def means(self, found: Posterior) -> FloatArray:
        """E[y|x] = sum_k pi_k(x) E[y|x, expert k] of what a block gave: (R, B), of outputs (R, O, B)."""
        means = self.family.mean(found.eta, self._nuisance)
        return np.asarray(np.einsum("rkb,rk...b->r...b", found.gates, means))
