"""Sums over rows of w_j u u' whose matrices are blocks of one in all linear parameters.

Pure NumPy. A block is between two vectors of parameters, each of a gate or of an expert, which multiply the
rows [1, u] of the gates or of the experts. Where these are the same all blocks are Gram matrices of them,
formed at once; where they are not, there are Gram matrices of each and products of both.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.buffers import Buffers
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Block
from daskmoe.numerics.base.packed import GramSums, unpack
from daskmoe.numerics.base.parameters import FloatArray

Array = NDArray[np.floating[Any]]


class Between(NamedTuple):
    """For each of J weights the two vectors of parameters, by number, that its block is between."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]

    @classmethod
    def join(cls, parts: list[tuple[NDArray[np.intp], ...]]) -> Between:
        """Those of several groups of weights, one after the other."""
        nothing = np.empty(0, dtype=np.intp)
        rows, columns = (np.concatenate([nothing, *(part[i] for part in parts)]) for i in range(2))
        return cls(rows, columns)


class OuterSums:
    """sum over rows of w_j u u' for j < J, added block by block.

    Parameters
    ----------
    layout : Layout
    between : Between
    precision : type
        Of the products; the sums over blocks are in double precision.
    """

    def __init__(self, layout: Layout, between: Between, precision: type) -> None:
        self._layout, self._between, self._precision = layout, between, precision
        self.n_weights = len(between.rows)
        self._sums: GramSums | _SplitSums | None = None

    def weights_for(self, block: Block) -> Array:
        """An array for the weights of a block, J of them first; it is the sums' own and `add` takes it."""
        if self._sums is None:
            if block.gating is None:
                self._sums = GramSums(self._layout.q_expert, self.n_weights, self._precision)
            else:
                self._sums = _SplitSums(self._layout, self._between, self._precision)
        return self._sums.empty_weights(block.width)

    def add(self, block: Block, weights: Array) -> None:
        """Add the rows of a block with their ``weights``, an array of `weights_for`, filled."""
        if isinstance(self._sums, GramSums):
            self._sums.add(block.design, weights)
        elif self._sums is not None:
            self._sums.add(block, weights)

    def place(self, matrix: FloatArray, part: slice) -> None:
        """Write the blocks of some of the weights, and their mirror images, to a matrix."""
        rows, columns = self._between.rows[part], self._between.columns[part]
        if not len(rows) or self._sums is None:
            return
        if isinstance(self._sums, GramSums):
            q, size = self._layout.q_expert, self._layout.coefs.stop
            linear = matrix[:size, :size]
            blocks = linear.reshape(self._layout.vectors, q, self._layout.vectors, q)
            matrices = unpack(self._sums.packed[part])
            blocks[rows, :, columns, :] = matrices
            blocks[columns, :, rows, :] = matrices
            return
        for a, b, block in zip(rows.tolist(), columns.tolist(), self._sums.matrices(part), strict=True):
            first, second = self._layout.vector(a), self._layout.vector(b)
            matrix[first, second], matrix[second, first] = block, block.T


class _SplitSums:
    """The sums where gates and experts have rows of their own."""

    def __init__(self, layout: Layout, between: Between, precision: type) -> None:
        self._precision, self._buffers = precision, Buffers()
        free = layout.free_gates
        # Rows come before columns in the packed parameters, so that a mixed pair has the gate first.
        of_gates, mixed = between.columns < free, (between.rows < free) & (between.columns >= free)
        self._gates, self._mixed = np.flatnonzero(of_gates), np.flatnonzero(mixed)
        self._experts = np.flatnonzero(~of_gates & ~mixed)
        self._gate_sums = GramSums(layout.q_gate, len(self._gates), precision)
        self._expert_sums = GramSums(layout.q_expert, len(self._experts), precision)
        self._products = np.zeros((len(self._mixed), layout.q_gate, layout.q_expert))
        self._n_weights = len(between.rows)

    def empty_weights(self, width: int) -> Array:
        return self._buffers.get("weights", (self._n_weights, width), self._precision)

    def add(self, block: Block, weights: Array) -> None:
        gating: Array = block.gate_design.astype(self._precision)
        design: Array = block.design.astype(self._precision)
        for sums, index, rows in (
            (self._gate_sums, self._gates, gating),
            (self._expert_sums, self._experts, design),
        ):
            own = sums.empty_weights(block.width)
            own[: len(index)] = weights[index]
            sums.add(rows, own)
        for total, weight in zip(self._products, weights[self._mixed], strict=True):
            total += (gating * weight) @ design.T

    def matrices(self, part: slice) -> list[FloatArray]:
        """The blocks of some of the weights."""
        found: list[FloatArray] = [np.empty((0, 0))] * self._n_weights
        for index, matrices in (
            (self._gates, unpack(self._gate_sums.packed)),
            (self._experts, unpack(self._expert_sums.packed)),
            (self._mixed, self._products),
        ):
            for place, matrix in zip(index.tolist(), matrices, strict=True):
                found[place] = matrix
        return found[part]
