"""The accumulators of `likelihood`: sums over rows of log-likelihood, scores, information and score products.

Pure NumPy. The derivatives of a row are combinations of tau_k, tau_k s_k (both times u) and tau_k t_k, as in
`likelihood`; with pi_k taken off the first they are the row's score. Products of pairs of them are weights of
u u' (`packed.GramSums`), of u, or of one. Shapes: B rows of a block, V = 2 K - 1 linear parameter vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.buffers import Buffers
from daskmoe.numerics.base.observations import Block
from daskmoe.numerics.base.packed import GramSums, packed_size, pairwise_products, unpack
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.numerics.likelihood.e_step import EStep, Posterior, Runs

Array = NDArray[np.floating[Any]]


class RowSums:
    """Accumulators of one model and their assembly to a gradient and matrices.

    Parameters
    ----------
    runs : Runs
        The model, as the only run.
    precision : type
        Of the matrices' products.
    second_order, scores : bool
        Whether there will be an information, and score products.
    """

    def __init__(self, runs: Runs, precision: type, *, second_order: bool, scores: bool) -> None:
        _, self.n_experts, self.q = runs.gate.shape
        self.precision, self.second_order, self.scores = precision, second_order, scores
        self.vectors = 2 * self.n_experts - 1
        self.pairs = packed_size(self.vectors)
        self.value = self.weight = 0.0
        self.linear = np.zeros((self.vectors, self.q))
        self.scalar = np.zeros(self.n_experts)
        own = self.pairs + packed_size(self.n_experts - 1) + self.n_experts
        self._own = own if second_order else 0
        self.outer = GramSums(self.q, self._own + (self.pairs if scores else 0), precision)
        self.mass = np.zeros(self.n_experts)
        # The information and the score products between linear parameters and log-variances, and among these.
        self.mixed = np.zeros((2, self.n_experts * self.vectors, self.q))
        self.corner = np.zeros((2, self.n_experts, self.n_experts))
        self._e_step, self._buffers = EStep(runs), Buffers()
        self._precision = (1.0 / runs.variance[0])[:, None]

    def add(self, block: Block) -> None:
        """Add the rows of one block."""
        state, weight = self._e_step(block), block.weight
        tau, log_density = state.responsibilities[0], state.log_density[0]
        score, spread, pieces = self._pieces(tau, state.residuals[0])
        self.value += float(log_density.sum() if weight is None else log_density @ weight)
        self.weight += block.response.size if weight is None else float(weight.sum())
        scores = self._buffers.get("scores", pieces.shape)
        np.subtract(tau[:-1], state.gates[0, :-1], out=scores[: self.n_experts - 1])
        scores[self.n_experts - 1 :] = pieces[self.n_experts - 1 :]
        gradient = scores if weight is None else scores * weight
        self.linear += gradient[: self.vectors] @ block.design.T
        self.scalar += gradient[self.vectors :].sum(axis=1)
        self.mass += tau.sum(axis=1) if weight is None else tau @ weight
        if not (self.second_order or self.scores):
            return
        weights = self.outer.weights(block.response.size)
        if self.second_order:
            self._add_corner(pieces[self.vectors :], tau, spread, weight)
            self._add_information(block, state, pieces, score, spread, weights)
        if self.scores:
            self._add_scores(block, scores, weights[self._own :])
        if weight is not None:
            weights *= self._cast(weight)
        self.outer.add(block.design)

    def _pieces(self, tau: Array, residuals: Array) -> tuple[Array, Array, Array]:
        """s_k, t_k, and a row's tau_k without the reference, tau_k s_k and tau_k t_k under each other."""
        free, shape = self.n_experts - 1, tau.shape
        score = np.multiply(residuals, self._precision, out=self._buffers.get("score", shape))
        spread = np.multiply(score, residuals, out=self._buffers.get("spread", shape))
        spread -= 1.0
        spread *= 0.5
        pieces = self._buffers.get("pieces", (self.vectors + self.n_experts, shape[1]))
        pieces[:free] = tau[:-1]
        np.multiply(tau, score, out=pieces[free : self.vectors])
        np.multiply(tau, spread, out=pieces[self.vectors :])
        return score, spread, pieces

    def _add_information(
        self, block: Block, state: Posterior, pieces: Array, score: Array, spread: Array, weights: Array
    ) -> None:
        """Write the weights of u u' in the information and add its products with u."""
        tau, small = state.responsibilities[0], self._cast(pieces)
        gates, scaled = self._cast(state.gates[0]), self._cast(tau * self._precision)
        self._complete_weights(gates, scaled, weights[self.pairs : self._own])
        self._outer_weights(small, self._cast(tau * score * score), weights[: self._own])
        mixed = self._mixed_weights(small, self._cast(tau * score * (1.0 - spread)))
        self._add_mixed(0, mixed, block)

    def _add_scores(self, block: Block, scores: Array, weights: Array) -> None:
        """Write the weights of u u' in the score products and add those with u and among log-variances."""
        small = self._cast(scores)
        pairwise_products(small[: self.vectors], weights)
        self._add_mixed(1, self._mixed_products(small), block)
        scalar = (
            scores[self.vectors :] if block.weight is None else scores[self.vectors :] * np.sqrt(block.weight)
        )
        self.corner[1] += scalar @ scalar.T

    def _add_mixed(self, which: int, weights: Array, block: Block) -> None:
        if block.weight is not None:
            weights *= self._cast(block.weight)
        flat = weights.reshape(-1, block.response.size)
        self.mixed[which] += flat @ self._cast(block.design).T

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

    def _mixed_products(self, pieces: Array) -> Array:
        """Every log-variance's piece times every linear parameter vector's, shape (K, V, B)."""
        shape = (self.n_experts, self.vectors, pieces.shape[1])
        out = self._buffers.get("mixed", shape, self.precision)
        return np.multiply(pieces[self.vectors :, None], pieces[: self.vectors], out=out)

    def _mixed_weights(self, pieces: Array, own: Array) -> Array:
        """Row weights of u for every log-variance with every linear parameter vector, shape (K, V, B).

        ``own`` is that of an expert's log-variance with its own coefficients besides their product.
        """
        free, vectors = self.n_experts - 1, self.vectors
        out = self._mixed_products(pieces)
        gates, experts = np.arange(free), np.arange(self.n_experts)
        out[gates, gates] -= pieces[vectors : vectors + free]
        # d^2 log phi / (d eta d log sigma^2) = -s.
        out[experts, free + experts] += own
        return out

    def _add_corner(self, pieces: Array, tau: Array, spread: Array, weight: Array | None) -> None:
        """Add the information between log-variances: ``pieces`` are tau_k t_k, ``spread`` t_k."""
        scaled, mass = (pieces, tau) if weight is None else (pieces * weight, tau * weight)
        self.corner[0] += scaled @ pieces.T
        # d^2 log phi / (d log sigma^2)^2 = -(spread + 1/2).
        own = mass * (spread + 0.5 - spread * spread)
        self.corner[0][np.diag_indices(self.n_experts)] += own.sum(axis=1)

    def gradient(self) -> FloatArray:
        """Gradient in the order of `pack_parameters`."""
        return np.concatenate([self.linear.ravel(), self.scalar])

    def information(self) -> tuple[FloatArray, FloatArray]:
        """Observed and complete-data information in the order of `likelihood.pack_parameters`."""
        vectors, n_experts = self.vectors, self.n_experts
        free, size = n_experts - 1, vectors * self.q
        complete = np.zeros((size + n_experts, size + n_experts))
        if not self.second_order:
            return np.zeros_like(complete), complete
        packed = self.outer.packed
        gates = self.pairs + packed_size(free)
        _place(complete[:size, :size], packed[self.pairs : gates], np.triu_indices(free))
        experts = np.arange(free, vectors)
        _place(complete[:size, :size], packed[gates : self._own], (experts, experts))
        complete[size:, size:] = np.diag(0.5 * self.mass)
        return self._assemble(packed[: self.pairs], 0), complete

    def score_products(self) -> FloatArray:
        """Sum over rows of score score', shape (P, P)."""
        return self._assemble(self.outer.packed[self._own :], 1)

    def _assemble(self, packed: FloatArray, which: int) -> FloatArray:
        n_experts, size = self.n_experts, self.vectors * self.q
        out = np.zeros((size + n_experts, size + n_experts))
        _place(out[:size, :size], packed, np.triu_indices(self.vectors))
        out[size:, :size] = self.mixed[which].reshape(n_experts, size)
        out[:size, size:] = out[size:, :size].T
        out[size:, size:] = self.corner[which]
        return out


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
