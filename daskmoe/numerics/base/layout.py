"""Where every free parameter stands in the vector that the optimizers work on.

Pure NumPy. The vector holds the gating weights without those of the reference expert (K - 1, q_gate), the
coefficients of the experts (K, C, q_expert) and the logarithms of their nuisances (K, D), each flattened:
P = (K - 1) q_gate + K C q_expert + K D. Nobody else derives these positions.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.parameters import FloatArray, LargeMoE, Mixture, MoEParameters
from daskmoe.numerics.base.policies import NEWTON


class Layout(NamedTuple):
    """The sizes of a model, and the named blocks of its packed parameters."""

    # K.
    n_experts: int
    # Lengths of the gates' and of the experts' rows [1, u].
    q_gate: int
    q_expert: int
    # C, linear predictors of an expert.
    n_predictors: int
    # D, other parameters of an expert: positive numbers, packed as logarithms.
    n_nuisances: int

    @classmethod
    def of(cls, parameters: MoEParameters) -> Layout:
        """The layout of a model's parameters."""
        n_experts, n_predictors, q_expert = parameters.coef.shape
        return cls(n_experts, parameters.gate.shape[1], q_expert, n_predictors, parameters.nuisance.shape[1])

    @property
    def size(self) -> int:
        """P, the number of free parameters."""
        return int(self.nuisances.stop)

    @property
    def free_gates(self) -> int:
        """How many gates are not the reference."""
        return self.n_experts - 1

    @property
    def vectors(self) -> int:
        """How many vectors of parameters multiply [1, u]: the free gates, then the experts' predictors."""
        return self.free_gates + self.n_experts * self.n_predictors

    @property
    def gates(self) -> slice:
        """All free gating weights."""
        return slice(0, (self.n_experts - 1) * self.q_gate)

    @property
    def coefs(self) -> slice:
        """All coefficients of the experts."""
        start = self.gates.stop
        return slice(start, start + self.n_experts * self.n_predictors * self.q_expert)

    @property
    def nuisances(self) -> slice:
        """All logarithms of nuisances."""
        start = self.coefs.stop
        return slice(start, start + self.n_experts * self.n_nuisances)

    def gate(self, expert: int) -> slice:
        """Gating weights of an expert that is not the reference."""
        return slice(expert * self.q_gate, (expert + 1) * self.q_gate)

    def coef(self, expert: int) -> slice:
        """Coefficients of an expert, one predictor after the other."""
        width = self.n_predictors * self.q_expert
        start = self.coefs.start + expert * width
        return slice(start, start + width)

    def vector(self, number: int) -> slice:
        """A vector of those that multiply [1, u], the free gates' first."""
        if number < self.free_gates:
            return self.gate(number)
        start = self.gates.stop + (number - self.free_gates) * self.q_expert
        return slice(start, start + self.q_expert)

    def nuisance(self, expert: int) -> slice:
        """Logarithms of an expert's nuisances."""
        start = self.nuisances.start + expert * self.n_nuisances
        return slice(start, start + self.n_nuisances)

    def pack(self, parameters: MoEParameters) -> FloatArray:
        """The vector of free parameters, shape (P,)."""
        gate, coef, nuisance = parameters
        return np.concatenate([gate[:-1].ravel(), coef.ravel(), np.log(nuisance).ravel()])

    def unpack(self, theta: FloatArray) -> MoEParameters:
        """Parameters from their vector; the inverse of `pack`."""
        gate = np.zeros((self.n_experts, self.q_gate))
        gate[:-1] = theta[self.gates].reshape(self.n_experts - 1, self.q_gate)
        coef = theta[self.coefs].reshape(self.n_experts, self.n_predictors, self.q_expert).copy()
        nuisance = np.exp(theta[self.nuisances]).reshape(self.n_experts, self.n_nuisances)
        return MoEParameters(gate, coef, nuisance)

    def shift(self, parameters: MoEParameters, step: FloatArray) -> MoEParameters:
        """Parameters moved by a step of the packed vector."""
        return self.unpack(self.pack(parameters) + step)

    def is_model(self, theta: FloatArray) -> bool:
        """Whether a vector is that of a model: finite, its nuisances numbers above zero."""
        with np.errstate(over="ignore"):
            nuisance = np.exp(theta[self.nuisances])
        return bool(np.isfinite(theta).all() and np.isfinite(nuisance).all() and (nuisance > 0.0).all())

    def bounded(self, step: FloatArray) -> FloatArray:
        """The step, shortened where a nuisance would change by more than a factor of e^2."""
        largest = float(np.abs(step[self.nuisances]).max(initial=0.0))
        return step * min(1.0, NEWTON.largest_log_step / max(largest, 1e-300))

    def upper(self) -> tuple[NDArray[np.intp], ...]:
        """Positions of the upper triangle of a (P, P) matrix."""
        return _upper(self)

    def complete(self) -> tuple[NDArray[np.intp], ...]:
        """Those of them where the complete data's information is not zero by structure.

        With the experts known, the gates, each expert's coefficients and each expert's nuisances say nothing
        of each other.
        """
        return _complete(self)


def count_parameters(parameters: Mixture, q_gate: int, q_expert: int) -> int:
    """Free parameters of a model whose rows [1, u] have these lengths; with the weights of an average."""
    if isinstance(parameters, LargeMoE):
        locals_ = parameters.local_parameters()
        return sum(count_parameters(local, q_gate, q_expert) for local in locals_) + len(locals_) - 1
    return Layout.of(parameters)._replace(q_gate=q_gate, q_expert=q_expert).size


@lru_cache(maxsize=32)
def _upper(layout: Layout) -> tuple[NDArray[np.intp], ...]:
    return np.triu_indices(layout.size)


@lru_cache(maxsize=32)
def _complete(layout: Layout) -> tuple[NDArray[np.intp], ...]:
    block = np.zeros(layout.size)
    for k in range(layout.n_experts):
        block[layout.coef(k)] = 1 + k
        block[layout.nuisance(k)] = 1 + layout.n_experts + k
    return np.nonzero(np.triu(block[:, None] == block))
