"""The accumulators of `statistics`: sums over rows of log-likelihood, scores, information and score products.

Pure NumPy. The derivatives of a row are combinations of tau_k, tau_k s_kc (both times u) and tau_k t_kd, as
in `statistics`; with pi_k taken off the first they are the row's score. Products of pairs of them are weights
of u u' (`outer.OuterSums`), of u, or of one. Shapes: B rows of a block, V = K - 1 + K C linear parameter
vectors, K D nuisances, CC = C (C + 1) / 2 pairs of an expert's predictors.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.buffers import Buffers
from daskmoe.numerics.base.extremes import Extremes, merge_extremes
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Block
from daskmoe.numerics.base.packed import packed_rows, packed_size, pairwise_products, unpack, upper_pairs
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.families import Family
from daskmoe.numerics.families.protocol import Derivatives, tied
from daskmoe.numerics.likelihood.e_step import NEGLIGIBLE, EStep, Runs
from daskmoe.numerics.likelihood.outer import Between, OuterSums

Array = NDArray[np.floating[Any]]


class _Cross:
    """Sums of products with log-nuisances: with the linear vectors, times u, and among themselves."""

    def __init__(self, nuisances: int, linear: int) -> None:
        self.mixed = np.zeros((nuisances, linear))
        self.corner = np.zeros((nuisances, nuisances))


class _Ends(NamedTuple):
    """Where the row weights of u u' end: of the information, the gates' and the experts' complete data."""

    pairs: int
    gates: int
    experts: int
    # Those of the metric, gates and experts; the same where nobody asks.
    metric: int


class RowSums:
    """Accumulators of one model and their assembly to a gradient and matrices.

    Parameters
    ----------
    parameters : MoEParameters
    family : Family
    precision : type
        Of the matrices' products.
    second_order, scores, story, metric : bool
        Whether there will be an information, score products, entropy and extremes, and, beside an
        information, the metric of steps.
    """

    def __init__(
        self,
        parameters: MoEParameters,
        family: Family,
        precision: type,
        *,
        second_order: bool,
        scores: bool,
        story: bool = False,
        metric: bool = False,
    ) -> None:
        self.layout = layout = Layout.of(parameters)
        self.family, self.nuisance = family, parameters.nuisance
        self.precision, self.second_order, self.scores = precision, second_order, scores
        self.with_story = story
        self.extremes: Extremes | None = None
        self._n_rows = 0
        self.vectors, n_linear = layout.vectors, layout.coefs.stop
        self.n_scalars = layout.n_experts * layout.n_nuisances
        self.value = self.weight = self.entropy = 0.0
        self.linear = np.zeros(n_linear)
        self.scalar = np.zeros(self.n_scalars)
        self.mass = np.zeros(layout.n_experts)
        # Pairs of an expert's own predictors, c <= c'.
        self._rows, self._columns = upper_pairs(layout.n_predictors)
        pairs, free = packed_size(self.vectors), layout.n_experts - 1
        gates = pairs + packed_size(free)
        experts = gates + layout.n_experts * len(self._rows)
        self._ends = _Ends(pairs, gates, experts, experts + metric * (experts - pairs))
        self._own = self._ends.metric if second_order else 0
        everywhere = upper_pairs(self.vectors)
        first = free + layout.n_predictors * np.arange(layout.n_experts)[:, None]
        own = [upper_pairs(free), ((first + self._rows).ravel(), (first + self._columns).ravel())]
        between = [everywhere, *own, *own * metric] if second_order else []
        self.outer = OuterSums(layout, Between.join([*between, *[everywhere] * scores]), precision)
        self._information = _Cross(self.n_scalars, n_linear)
        self._products = _Cross(self.n_scalars, n_linear)
        self._e_step, self._buffers = EStep(Runs.one(parameters), family), Buffers()

    def add(self, block: Block) -> None:
        """Add the rows of one block."""
        state, weight = self._e_step(block), block.weight
        tau, gates, log_density = state.responsibilities[0], state.gates[0], state.log_density[0]
        slopes = self.family.derivatives(
            block.response, state.eta[0], self.nuisance, self._buffers, second_order=self.second_order
        )
        rows = row_scores(tau, gates, slopes, self._buffers)
        self.value += float(log_density.sum() if weight is None else log_density @ weight)
        self.weight += block.width if weight is None else float(weight.sum())
        gradient = rows if weight is None else rows * weight
        self.linear += self._products_with(gradient[: self.vectors], block.design, block.gating).ravel()
        self.scalar += gradient[self.vectors :].sum(axis=1)
        self.mass += tau.sum(axis=1) if weight is None else tau @ weight
        if self.with_story:
            self.entropy += entropy_of_rows(tau, weight, self._buffers)
            both = np.concatenate([self._e_step.means(state), block.response[np.newaxis]])
            self.extremes = merge_extremes(self.extremes, Extremes.of(both, self._n_rows))
            self._n_rows += block.width
        if not (self.second_order or self.scores):
            return
        weights = self.outer.weights_for(block)
        if self.scores:
            self._add_scores(block, rows, weights[self._own : self.outer.n_weights])
        if self.second_order:
            # The pieces of a row's information are those of its score, with tau_k for the gates.
            rows[: self.layout.n_experts - 1] = tau[:-1]
            self._add_information(block, tau, gates, state.eta[0], slopes, rows, weights)
        if weight is not None:
            weights *= self._cast(weight)
        self.outer.add(block, weights)

    def _products_with(self, vectors: Array, design: Array, gating: Array | None) -> Array:
        """Sums over rows of u times each vector's (..., V, B), as they are packed: (..., linear)."""
        leading, (n_vectors, width) = vectors.shape[:-2], vectors.shape[-2:]
        if gating is None:
            return (vectors.reshape(-1, width) @ design.T).reshape(*leading, n_vectors * len(design))
        free = self.layout.free_gates
        parts = (vectors[..., :free, :] @ gating.T, vectors[..., free:, :] @ design.T)
        return np.concatenate(
            [part.reshape(*leading, part.shape[-2] * part.shape[-1]) for part in parts], axis=-1
        )

    def _add_information(
        self,
        block: Block,
        tau: Array,
        gates: Array,
        eta: Array,
        slopes: Derivatives,
        pieces: Array,
        weights: Array,
    ) -> None:
        """Write the weights of u u' in the information, add its products with u and among nuisances."""
        small, shares = self._cast(pieces), tau[:, None]
        alone = self.family.step_curvature(slopes, eta)
        curvature = expected = self._cast(shares * slopes.curvature)
        if alone is not slopes.curvature:
            expected = self._cast(shares * alone)
        self._write_complete(self._cast(gates), expected, weights)
        if self._ends.metric > self._ends.experts:
            self._write_metric(gates, tau, alone, weights[self._ends.experts : self._ends.metric])
        first = second = slopes.score
        if self.layout.n_predictors > 1:
            first, second = first[:, self._rows], second[:, self._columns]
        self._write_outer(small, curvature, self._cast(shares * first * second), weights)
        cross = shares[:, None] * (slopes.cross - slopes.nuisance_score[:, :, None] * slopes.score[:, None])
        self._add_mixed(self._information, self._mixed_weights(small, self._cast(cross)), block)
        self._add_corner(pieces[self.vectors :], tau, slopes, block.weight)

    def _add_scores(self, block: Block, scores: Array, weights: Array) -> None:
        """Write the weights of u u' in the score products, add those with u and among nuisances."""
        small = self._cast(scores)
        pairwise_products(small[: self.vectors], weights)
        self._add_mixed(self._products, self._mixed_products(small), block)
        scalar = scores[self.vectors :]
        if block.weight is not None:
            scalar = scalar * np.sqrt(block.weight)
        self._products.corner += scalar @ scalar.T

    def _add_mixed(self, sums: _Cross, weights: Array, block: Block) -> None:
        if block.weight is not None:
            weights *= self._cast(block.weight)
        gating = None if block.gating is None else self._cast(block.gating)
        sums.mixed += self._products_with(weights, self._cast(block.design), gating)

    def _cast(self, array: Array) -> Array:
        return array.astype(self.precision, copy=False)

    def _write_complete(self, gates: Array, expected: Array, out: Array) -> None:
        """Row weights of u u' in the complete data's information, behind those of the observed one.

        With the curvature by which a family's steps are measured.
        """
        start = self._ends.pairs
        for k in range(self.layout.n_experts - 1):
            stop = start + self.layout.n_experts - 1 - k
            np.multiply(gates[k], -gates[k:-1], out=out[start:stop], casting="same_kind")
            out[start] += gates[k]
            start = stop
        out[start : self._ends.experts] = expected.reshape(-1, out.shape[1])

    def _write_metric(self, gates: Array, tau: Array, alone: Array, out: Array) -> None:
        """Row weights of u u' in the metric: the complete data's with heavy tails.

        pi_k pi_l counts as 1 / (4 + log(4 pi_k pi_l)^2) (`tied`), which is above it, and tau_k, the share of
        an expert's curvature ``alone``, as 1 / (1 - log tau_k), which is above tau_k. A step of length one is
        then about the distance to where one row changes hands, however far that is.
        """
        free = self.layout.n_experts - 1
        ties = tied(gates[:, None] * gates)
        start = 0
        for k in range(free):
            stop = start + free - k
            np.negative(ties[k, k:free], out=out[start:stop], casting="same_kind")
            out[start] = ties[k].sum(axis=0) - ties[k, k]
            start = stop
        tails = 1.0 / (1.0 - np.log(np.maximum(tau, NEGLIGIBLE)))
        out[start:] = (alone * tails[:, None]).reshape(-1, out.shape[1])

    def _write_outer(self, pieces: Array, curvature: Array, products: Array, out: Array) -> None:
        """Row weights of u u' for every pair of linear parameter vectors, packed by rows.

        z z' less the part within one expert, plus the second derivatives of the gates, which stand behind in
        ``out``, and of the densities.
        """
        free, vectors, n_predictors = self.layout.n_experts - 1, self.vectors, self.layout.n_predictors
        complete, start, gate_start = out[self._ends.pairs :], 0, 0
        for a in range(vectors):
            stop = start + vectors - a
            np.multiply(pieces[a], pieces[a:vectors], out=out[start:stop], casting="same_kind")
            if a < free:
                out[start] -= pieces[a]
                out[start : start + free - a] += complete[gate_start : gate_start + free - a]
                gate_start += free - a
                first = free + a * n_predictors
                later = slice(start + first - a, start + first - a + n_predictors)
                out[later] -= pieces[first : first + n_predictors]
            else:
                k, c = divmod(a - free, n_predictors)
                own = packed_rows(n_predictors)[c]
                out[start : start + n_predictors - c] += curvature[k, own]
                out[start : start + n_predictors - c] -= products[k, own]
            start = stop

    def _mixed_products(self, pieces: Array) -> Array:
        """Every nuisance's piece times every linear parameter vector's, shape (K D, V, B)."""
        shape = (self.n_scalars, self.vectors, pieces.shape[1])
        out = self._buffers.get("mixed", shape, self.precision)
        return np.multiply(pieces[self.vectors :, None], pieces[: self.vectors], out=out)

    def _mixed_weights(self, pieces: Array, cross: Array) -> Array:
        """Row weights of u for every nuisance with every linear parameter vector, shape (K D, V, B).

        ``cross`` (K, D, C, B) is that of an expert's nuisances with its own predictors besides the product.
        """
        n_experts, n_nuisances, n_predictors, _ = cross.shape
        out = self._mixed_products(pieces)
        for k in range(n_experts):
            own = slice(k * n_nuisances, (k + 1) * n_nuisances)
            first = n_experts - 1 + k * n_predictors
            if k < n_experts - 1:
                out[own, k] -= pieces[self.vectors :][own]
            out[own, first : first + n_predictors] += cross[k]
        return out

    def _add_corner(self, pieces: Array, tau: Array, slopes: Derivatives, weight: Array | None) -> None:
        """Add the information among nuisances: ``pieces`` are tau_k t_kd."""
        scaled, mass = (pieces, tau) if weight is None else (pieces * weight, tau * weight)
        corner = self._information.corner
        corner += scaled @ pieces.T
        n_nuisances, score = self.layout.n_nuisances, slopes.nuisance_score
        rows = np.arange(self.layout.n_experts) * n_nuisances
        for d, pairs in enumerate(packed_rows(n_nuisances)):
            for e, pair in enumerate(range(pairs.start, pairs.stop), start=d):
                own = mass * (slopes.nuisance_curvature[:, pair] - score[:, d] * score[:, e])
                corner[rows + d, rows + e] += own.sum(axis=1)
                if d != e:
                    corner[rows + e, rows + d] += own.sum(axis=1)

    def gradient(self) -> FloatArray:
        """Gradient in the packed parameters."""
        return np.concatenate([self.linear, self.scalar])

    def information(self) -> FloatArray:
        """Observed information, shape (P, P)."""
        return self._assemble(slice(0, self._ends.pairs), self._information)

    def complete_information(self) -> FloatArray:
        """Information of the complete data, shape (P, P)."""
        return self._block_diagonal(slice(self._ends.pairs, self._ends.experts))

    def metric(self) -> FloatArray:
        """The complete data's information with heavy tails, shape (P, P)."""
        return self._block_diagonal(slice(self._ends.experts, self._ends.metric))

    def _block_diagonal(self, part: slice) -> FloatArray:
        """Gates and experts each by themselves, with the nuisances' own information."""
        out = np.zeros((self.layout.size, self.layout.size))
        self.outer.place(out, part)
        own = unpack(self.mass[:, None] * self.family.nuisance_information(self.nuisance))
        for k in range(self.layout.n_experts):
            out[self.layout.nuisance(k), self.layout.nuisance(k)] = own[k]
        return out

    def score_products(self) -> FloatArray:
        """Sum over rows of score score', shape (P, P)."""
        return self._assemble(slice(self._own, self.outer.n_weights), self._products)

    def _assemble(self, part: slice, cross: _Cross) -> FloatArray:
        out, size = np.zeros((self.layout.size, self.layout.size)), self.layout.coefs.stop
        self.outer.place(out, part)
        out[size:, :size] = cross.mixed
        out[:size, size:] = out[size:, :size].T
        out[size:, size:] = cross.corner
        return out


def entropy_of_rows(tau: Array, weight: Array | None, buffers: Buffers) -> float:
    """Sum over rows of - sum_k tau_k log tau_k; a responsibility of zero adds nothing."""
    # Logarithms in single precision take half the time, and err by 1e-7 of a nat.
    logs = buffers.get("logs", tau.shape, np.float32)
    np.maximum(tau, 1e-30, out=logs, casting="same_kind")
    np.log(logs, out=logs)
    terms = np.multiply(tau, logs, out=buffers.get("entropies", tau.shape))
    return -float(terms.sum() if weight is None else terms.sum(axis=0) @ weight)


def row_scores(tau: Array, gates: Array, slopes: Derivatives, buffers: Buffers) -> Array:
    """A row's tau_k - pi_k without the reference, tau_k s_kc and tau_k t_kd under each other."""
    n_experts, n_predictors, width = slopes.score.shape
    free, vectors = n_experts - 1, n_experts - 1 + n_experts * n_predictors
    out = buffers.get("scores", (vectors + n_experts * slopes.nuisance_score.shape[1], width))
    np.subtract(tau[:-1], gates[:-1], out=out[:free])
    np.multiply(tau[:, None], slopes.score, out=out[free:vectors].reshape(slopes.score.shape))
    scalar = out[vectors:].reshape(slopes.nuisance_score.shape)
    np.multiply(tau[:, None], slopes.nuisance_score, out=scalar)
    return out
