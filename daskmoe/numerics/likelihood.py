"""Log-likelihood of all rows with its gradient and observed information, summed in one pass over blocks.

Pure NumPy, in the coordinates of `coordinates`. A row's log-likelihood is log sum_k exp(l_k) with
l_k = log pi_k + log phi_k. Write u for [1, features], tau_k for the responsibilities, s_k and t_k for the
derivatives of log phi_k in the linear predictor and in the log-variance. The observed information of a row is

    z z' - sum_k tau_k v_k v_k' + terms of the second derivatives of l_k,

where z stacks (tau_k) for the gates, (tau_k s_k) for the coefficients and (tau_k t_k) for the log-variances,
and v_k = (1, s_k, t_k) (Louis, 1982, equation 3.2, for this model). Every entry is a row weight times u u', u
or one, so the sums are three matrix products. Parameters are ordered gate (K - 1, q), coef (K, q),
log-variance (K,); P = (2 K - 1) q + K.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.coordinates import Block
from daskmoe.numerics.em import EStep, Posterior, Runs
from daskmoe.numerics.packed import Buffers, GramSums, packed_size, unpack
from daskmoe.numerics.parameters import FloatArray, MoEParameters
from daskmoe.numerics.priors import Prior

Array = NDArray[np.floating[Any]]


class LikelihoodStatistics(NamedTuple):
    """Sums over rows.

    Attributes
    ----------
    value : float
        The log-likelihood.
    gradient : ndarray of shape (P,)
    information : ndarray of shape (P, P)
        Observed information: minus the Hessian.
    complete : ndarray of shape (P, P)
        Information of the complete data, experts known: positive semi-definite, the metric of an EM step.
    weight : float
        Sum of the row weights.
    """

    value: float
    gradient: FloatArray
    information: FloatArray
    complete: FloatArray
    weight: float


def scaled(statistics: LikelihoodStatistics, weight: float) -> LikelihoodStatistics:
    """Statistics as if the rows weighed ``weight`` in all."""
    share = weight / statistics.weight
    return LikelihoodStatistics(
        share * statistics.value,
        share * statistics.gradient,
        share * statistics.information,
        share * statistics.complete,
        weight,
    )


def pack_parameters(parameters: MoEParameters) -> FloatArray:
    """The vector of free parameters, shape (P,): gates without the reference, coefficients, log-variances."""
    parts = (parameters.gate[:-1].ravel(), parameters.coef.ravel(), np.log(parameters.dispersion))
    return np.concatenate(parts)


def unpack_parameters(theta: FloatArray, n_experts: int) -> MoEParameters:
    """Parameters from their vector; the inverse of `pack_parameters`."""
    q = (len(theta) - n_experts) // (2 * n_experts - 1)
    gate = np.zeros((n_experts, q))
    split = (n_experts - 1) * q
    gate[:-1] = theta[:split].reshape(n_experts - 1, q)
    coef = theta[split:-n_experts].reshape(n_experts, q).copy()
    return MoEParameters(gate, coef, np.exp(theta[-n_experts:]))


def log_likelihood_of(parameters: MoEParameters, blocks: Iterable[Block]) -> float:
    """The log-likelihood alone: an E-step without statistics."""
    runs = Runs(*(array[None] for array in parameters))
    total, e_step = 0.0, EStep(runs)
    for block in blocks:
        values = e_step(block).log_density[0]
        total += float(values.sum(dtype=np.float64) if block.weight is None else values @ block.weight)
    return total


def likelihood_statistics(
    parameters: MoEParameters,
    blocks: Iterable[Block],
    *,
    precision: type = np.float64,
    second_order: bool = True,
) -> LikelihoodStatistics:
    """Value, gradient and observed information; ``precision`` is that of the information's products.

    Single precision is enough where the information only scales a step: it does not move the optimum. Without
    ``second_order`` the matrices are zero and a pass takes a third of the time.
    """
    runs = Runs(*(array[None] for array in parameters))
    sums = _Sums(runs, precision)
    for block in blocks:
        sums.add(block, second_order)
    information, complete = sums.information()
    return LikelihoodStatistics(sums.value, sums.gradient(), information, complete, sums.weight)


class _Sums:
    """Accumulators of `likelihood_statistics` and their assembly to a gradient and a matrix."""

    def __init__(self, runs: Runs, precision: type) -> None:
        _, self.n_experts, self.q = runs.gate.shape
        self.precision = precision
        self.vectors = 2 * self.n_experts - 1
        self.pairs = packed_size(self.vectors)
        self.value = self.weight = 0.0
        self.linear = np.zeros((self.vectors, self.q))
        self.scalar = np.zeros(self.n_experts)
        n_weights = self.pairs + packed_size(self.n_experts - 1) + self.n_experts
        self.outer = GramSums(self.q, n_weights, precision)
        self.mass = np.zeros(self.n_experts)
        self.mixed = np.zeros((self.n_experts * self.vectors, self.q))
        self.corner = np.zeros((self.n_experts, self.n_experts))
        self._e_step, self._buffers = EStep(runs), Buffers()
        self._precision = (1.0 / runs.variance[0])[:, None]

    def add(self, block: Block, second_order: bool) -> None:
        """Add the rows of one block."""
        state, weight = self._e_step(block), block.weight
        tau, log_density = state.responsibilities[0], state.log_density[0]
        score = state.residuals[0] * self._precision
        spread = score * state.residuals[0]
        spread -= 1.0
        spread *= 0.5
        pieces = np.concatenate([tau[:-1], tau * score, tau * spread])
        self.value += float(log_density.sum() if weight is None else log_density @ weight)
        self.weight += block.response.size if weight is None else float(weight.sum())
        gradient = pieces.copy()
        gradient[: self.n_experts - 1] -= state.gates[0, :-1]
        if weight is not None:
            gradient *= weight
        self.linear += gradient[: self.vectors] @ block.design.T
        self.scalar += gradient[self.vectors :].sum(axis=1)
        if second_order:
            self._add_corner(pieces[self.vectors :], tau, spread, weight)
            self._add_products(block, state, pieces, score, spread, tau * self._precision)

    def _add_products(
        self, block: Block, state: Posterior, pieces: Array, score: Array, spread: Array, scaled: Array
    ) -> None:
        """Add the rows' products with u u' and u; ``scaled`` is tau_k / sigma_k^2."""
        weight, tau = block.weight, state.responsibilities[0]
        small = self._cast(pieces)
        outer = self.outer.weights(tau.shape[1])
        self._complete_weights(self._cast(state.gates[0]), self._cast(scaled), outer[self.pairs :])
        self._outer_weights(small, self._cast(tau * score * score), outer)
        if weight is not None:
            outer *= self._cast(weight)
        self.outer.add(block.design)
        mixed = self._mixed_weights(small, self._cast(tau * score * (1.0 - spread)), weight)
        self.mixed += mixed @ self._cast(block.design).T

    def _cast(self, array: Array) -> Array:
        return array.astype(self.precision, copy=False)

    def _complete_weights(self, gates: Array, precision: Array, out: Array) -> None:
        """Row weights of u u' in the complete-data information: of the gates, then of the experts."""
        start = 0
        for k in range(self.n_experts - 1):
            stop = start + self.n_experts - 1 - k
            np.multiply(gates[k], -gates[k:-1], out=out[start:stop], casting="same_kind")
            out[start] += gates[k]
            start = stop
        out[start:] = precision

    def _outer_weights(self, pieces: Array, squares: Array, out: Array) -> None:
        """Row weights of u u' for every pair of linear parameter vectors, packed by rows.

        z z' less the part within one expert, plus the complete-data terms, which stand behind in ``out``.
        """
        free, vectors = self.n_experts - 1, self.vectors
        complete = out[self.pairs :]
        start = gate_start = 0
        for a in range(vectors):
            stop = start + vectors - a
            np.multiply(pieces[a], pieces[a:vectors], out=out[start:stop], casting="same_kind")
            if a < free:
                out[start] -= pieces[a]
                out[start : start + free - a] += complete[gate_start : gate_start + free - a]
                out[start + free] -= pieces[free + a]
                gate_start += free - a
            else:
                out[start] += complete[gate_start + a - free]
                out[start] -= squares[a - free]
            start = stop

    def _mixed_weights(self, pieces: Array, own: Array, weight: Array | None) -> Array:
        """Row weights of u for every log-variance with every linear parameter vector, shape (K (2 K - 1), B).

        ``own`` is that of an expert's log-variance with its own coefficients besides their product.
        """
        free, vectors, n_experts = self.n_experts - 1, self.vectors, self.n_experts
        out = self._buffers.get("mixed", (n_experts, vectors, pieces.shape[1]), self.precision)
        np.multiply(pieces[vectors:, None], pieces[:vectors], out=out)
        gates, experts = np.arange(free), np.arange(n_experts)
        out[gates, gates] -= pieces[vectors : vectors + free]
        # d^2 log phi / (d eta d log sigma^2) = -s.
        out[experts, free + experts] += own
        if weight is not None:
            out *= self._cast(weight)
        return out.reshape(n_experts * vectors, -1)

    def _add_corner(self, pieces: Array, tau: Array, spread: Array, weight: Array | None) -> None:
        """Add the information between log-variances: ``pieces`` are tau_k t_k, ``spread`` t_k."""
        scaled, mass = (pieces, tau) if weight is None else (pieces * weight, tau * weight)
        self.corner += scaled @ pieces.T
        self.mass += mass.sum(axis=1)
        # d^2 log phi / (d log sigma^2)^2 = -(spread + 1/2).
        own = mass * (spread + 0.5 - spread * spread)
        self.corner[np.diag_indices(self.n_experts)] += own.sum(axis=1)

    def gradient(self) -> FloatArray:
        """Gradient in the order of `pack_parameters`."""
        return np.concatenate([self.linear.ravel(), self.scalar])

    def information(self) -> tuple[FloatArray, FloatArray]:
        """Observed and complete-data information in the order of `pack_parameters`."""
        vectors, n_experts = self.vectors, self.n_experts
        free, size = n_experts - 1, vectors * self.q
        observed = np.zeros((size + n_experts, size + n_experts))
        complete = np.zeros_like(observed)
        outer = self.outer.packed
        _place(observed[:size, :size], outer[: self.pairs], np.triu_indices(vectors))
        gates = packed_size(free)
        _place(complete[:size, :size], outer[self.pairs : self.pairs + gates], np.triu_indices(free))
        experts = np.arange(free, vectors)
        _place(complete[:size, :size], outer[self.pairs + gates :], (experts, experts))
        observed[size:, :size] = self.mixed.reshape(n_experts, size)
        observed[:size, size:] = observed[size:, :size].T
        observed[size:, size:] = self.corner
        complete[size:, size:] = np.diag(0.5 * self.mass)
        return observed, complete


def _place(matrix: FloatArray, packed: FloatArray, where: tuple[NDArray[np.intp], ...]) -> None:
    """Write packed symmetric (q, q) blocks at block rows and columns ``where`` and their mirror images."""
    if not len(packed):
        return
    matrices = unpack(packed)
    q = matrices.shape[-1]
    blocks = matrix.reshape(len(matrix) // q, q, len(matrix) // q, q)
    rows, columns = where
    blocks[rows, :, columns, :] = matrices
    blocks[columns, :, rows, :] = matrices


def penalized(
    statistics: LikelihoodStatistics, parameters: MoEParameters, prior: Prior
) -> LikelihoodStatistics:
    """The same statistics with the prior's penalty taken off: the maximized objective."""
    n_experts, q = parameters.gate.shape
    split, size = (n_experts - 1) * q, (2 * n_experts - 1) * q
    ratio = prior.spread / parameters.dispersion
    gradient = statistics.gradient.copy()
    gradient[:split] -= prior.gate_gradient(parameters.gate)[:-1].ravel()
    gradient[split:size] -= prior.coef_gradient(parameters.coef).ravel()
    gradient[size:] -= 0.5 * prior.variance * (1.0 - ratio)
    curvature = np.zeros_like(statistics.information)
    gates = prior.gate_hessian(n_experts).transpose(0, 2, 1, 3)
    curvature[:split, :split] = gates.reshape(split, split)
    for k in range(n_experts):
        rows = slice(split + k * q, split + (k + 1) * q)
        curvature[rows, rows] = prior.coef_hessian()
    diagonal = np.arange(size, size + n_experts)
    curvature[diagonal, diagonal] = 0.5 * prior.variance * ratio
    return statistics._replace(
        value=statistics.value - float(prior.penalty(*parameters)),
        gradient=gradient,
        information=statistics.information + curvature,
        complete=statistics.complete + curvature,
    )
