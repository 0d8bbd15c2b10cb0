"""Observations as the optimizers see them, transposed and in blocks, and their moments.

Pure NumPy. Working memory is one block, never the size of the data. Shapes: n rows, p features, q = r + 1, B
rows a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.buffers import empty
from daskmoe.numerics.base.coordinates import Coordinates
from daskmoe.numerics.base.parameters import ALL_SHARED, Columns, FloatArray, Moments

BLOCK_ROWS = 2048

Array = NDArray[np.floating[Any]]


class Block(NamedTuple):
    """One block of rows: ``design`` (q, B) with first row one, ``response`` (B,), ``weight`` (B,) or None.

    Of several outputs ``response`` is (O, B).

    ``gating`` is the design of gates that have other features than the experts, None where it is the same;
    ``offset`` (B,) a part of every linear predictor.
    """

    design: Array
    response: Array
    weight: Array | None
    gating: Array | None = None
    offset: Array | None = None

    @property
    def width(self) -> int:
        """B, the number of rows."""
        return int(self.response.shape[-1])

    @property
    def gate_design(self) -> Array:
        """The gates' rows [1, u], shape (q_gate, B)."""
        return self.design if self.gating is None else self.gating


class Observations(NamedTuple):
    """All rows of a partition: ``features`` (n, p), ``response`` (n,), ``weight`` (n,) or None.

    Of several outputs ``response`` is (n, O). ``cluster`` (n,) are labels, equal for rows that may depend on
    each other; None where nobody asks. The arrays are used where they are: any float dtype, any memory order.
    """

    features: Array
    response: Array
    weight: Array | None = None
    cluster: NDArray[Any] | None = None
    columns: Columns = ALL_SHARED

    @property
    def n_rows(self) -> int:
        """n, the number of rows."""
        return len(self.response)

    @property
    def total_weight(self) -> float:
        """Sum of the row weights; the row count where there are none."""
        return float(self.n_rows if self.weight is None else self.weight.sum(dtype=np.float64))

    def take(self, index: NDArray[np.intp]) -> Self:
        """The rows at ``index``, copied."""
        weight = None if self.weight is None else self.weight[index]
        cluster = None if self.cluster is None else self.cluster[index]
        return self._replace(
            features=self.features[index], response=self.response[index], weight=weight, cluster=cluster
        )

    def blocks(self, coordinates: Coordinates) -> Iterator[Block]:
        """Blocks of at most `BLOCK_ROWS` rows in the optimizers' coordinates; buffers are reused."""
        p, size = self.features.shape[1], min(BLOCK_ROWS, self.n_rows)
        whitening, raw, design = coordinates.affine(), empty((p + 1, size)), empty((coordinates.size, size))
        raw[0] = 1.0
        gates = coordinates.gating
        gate_whitening = None if gates is None else gates.affine()
        gate_design = None if gates is None else empty((gates.size, size))
        gating = offset = None
        location, scale, _ = coordinates.response
        for start in range(0, self.n_rows, size):
            rows = slice(start, min(start + size, self.n_rows))
            width = rows.stop - start
            raw[1:, :width] = self.features[rows].T
            np.matmul(whitening, raw[:, :width], out=design[:, :width])
            if gate_whitening is not None and gate_design is not None:
                gating = np.matmul(gate_whitening, raw[:, :width], out=gate_design[:, :width])
            response = ((self.response[rows].astype(np.float64) - location) / scale).T
            weight = None if self.weight is None else self.weight[rows].astype(np.float64)
            if coordinates.offset is not None:
                offset = raw[1 + coordinates.offset, :width] / scale
            yield Block(design[:, :width], response, weight, gating, offset)

    def centred_blocks(self, coordinates: Coordinates) -> Iterator[Block]:
        """Blocks whose design is [1, x - center], of gates and experts alike; buffers are reused.

        Whitening many features would be most of a pass that forms no matrices.
        """
        p, size = self.features.shape[1], min(BLOCK_ROWS, self.n_rows)
        design, center, offset = empty((p + 1, size)), coordinates.center[:, None], None
        design[0] = 1.0
        location, scale, _ = coordinates.response
        for start in range(0, self.n_rows, size):
            rows = slice(start, min(start + size, self.n_rows))
            width = rows.stop - start
            np.subtract(self.features[rows].T, center, out=design[1:, :width])
            response = ((self.response[rows].astype(np.float64) - location) / scale).T
            weight = None if self.weight is None else self.weight[rows].astype(np.float64)
            if coordinates.offset is not None:
                offset = design[1 + coordinates.offset, :width] / scale
            yield Block(design[:, :width], response, weight, None, offset)


def deviation_of_sum(differences: FloatArray, weight: Array | None) -> float:
    """Standard error of a (weighted) sum over rows, as of two models' difference in log-likelihood.

    What the rows' own differences say of it (Vuong, 1989, section 4).
    """
    own = np.ones(len(differences)) if weight is None else weight.astype(np.float64)
    mean = float(own @ differences) / float(own.sum())
    return float(np.sqrt(own**2 @ (differences - mean) ** 2))


def moments(rows: Observations) -> Moments:
    """Weighted means and centred scatter of (features, response), one pass in blocks.

    Blocks are merged by the update of Chan, Golub and LeVeque (1983), stable under large offsets.
    """
    p, n_outputs = rows.features.shape[1], 1 if rows.response.ndim == 1 else rows.response.shape[1]
    size = p + n_outputs
    total, mean, scatter = 0.0, np.zeros(size), np.zeros((size, size))
    for start in range(0, rows.n_rows, BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        response = rows.response[part]
        joint = np.empty((len(response), size))
        joint[:, :p], joint[:, p:] = rows.features[part], response.reshape(-1, n_outputs)
        block = _block_moments(joint, None if rows.weight is None else rows.weight[part].astype(np.float64))
        if block.weight > 0:
            total, mean, scatter, *_ = merge_moments(Moments(total, mean, scatter), block)
    return Moments(total, mean, scatter, rows.columns, n_outputs)


def _block_moments(joint: FloatArray, weight: FloatArray | None) -> Moments:
    """Moments of the rows ``joint``, which are overwritten."""
    if weight is None:
        mean = np.ones(len(joint)) @ joint / len(joint)
        joint -= mean
        return Moments(float(len(joint)), mean, joint.T @ joint)
    total = float(weight.sum())
    if total == 0:
        return Moments(0.0, np.zeros(joint.shape[1]), np.zeros((joint.shape[1], joint.shape[1])))
    mean = weight @ joint / total
    joint -= mean
    return Moments(total, mean, (joint * weight[:, None]).T @ joint)


def merge_moments(first: Moments, second: Moments) -> Moments:
    """Moments of the union of two sets of rows."""
    total = first.weight + second.weight
    if total == 0:
        return first
    shift = second.mean - first.mean
    mean = first.mean + shift * (second.weight / total)
    scatter = first.scatter + second.scatter
    scatter = scatter + np.outer(shift, shift) * (first.weight * second.weight / total)
    return first._replace(weight=total, mean=mean, scatter=scatter)
