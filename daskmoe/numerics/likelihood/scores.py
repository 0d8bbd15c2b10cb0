"""Scores of clusters of rows: the gradients of their log-likelihood, and the sums of their outer products.

Pure NumPy. A cluster is a partition, or all rows that share a label, in however many partitions they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.buffers import Buffers
from daskmoe.numerics.base.coordinates import Coordinates
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.observations import Block, Observations
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.families import Family
from daskmoe.numerics.likelihood.e_step import EStep, Runs
from daskmoe.numerics.likelihood.row_sums import row_scores


class ClusterScores(NamedTuple):
    """What some partitions know of the scores of clusters."""

    # How many clusters are complete, and the sum of the outer products of their scores, shape (P, P); None
    # where there are none.
    complete: int
    products: FloatArray | None
    # Label -> score (P,), of clusters of which other partitions may have rows too.
    shared: Mapping[Any, FloatArray]


def of_partition(gradient: FloatArray) -> ClusterScores:
    """Those of a partition that is a cluster, from its gradient."""
    return ClusterScores(1, np.outer(gradient, gradient), {})


def of_labels(
    rows: Observations, parameters: MoEParameters, coordinates: Coordinates, family: Family
) -> ClusterScores:
    """Those of the clusters that the rows' labels tell, at whitened parameters."""
    assert rows.cluster is not None
    labels, codes = np.unique(rows.cluster, return_inverse=True)
    scores = _summed_scores(parameters, rows.blocks(coordinates), codes, len(labels), family)
    return ClusterScores(0, None, dict(zip(labels.tolist(), scores, strict=True)))


def add_clusters(first: ClusterScores, second: ClusterScores) -> ClusterScores:
    """Those of the union of two sets of partitions."""
    shared = dict(first.shared)
    for label, score in second.shared.items():
        shared[label] = shared[label] + score if label in shared else score
    known = [products for products in (first.products, second.products) if products is not None]
    return ClusterScores(first.complete + second.complete, reduce(np.add, known) if known else None, shared)


def products_of(clusters: ClusterScores) -> tuple[FloatArray, int]:
    """The sum over all clusters, no other partition being left, and how many they are."""
    if not clusters.shared:
        assert clusters.products is not None
        return clusters.products, clusters.complete
    scores = np.stack(list(clusters.shared.values()))
    return scores.T @ scores, len(scores)


# What overflows at a wild trial step falls, and is not taken.
@np.errstate(over="ignore", invalid="ignore")
def _summed_scores(
    parameters: MoEParameters, blocks: Iterable[Block], codes: NDArray[np.intp], n: int, family: Family
) -> FloatArray:
    """Scores of the rows summed by their codes, 0 to n - 1: (n, P)."""
    layout = Layout.of(parameters)
    e_step, buffers = EStep(Runs.one(parameters), family), Buffers()
    out, start = np.zeros((n, layout.size)), 0
    for block in blocks:
        state, width = e_step(block), block.width
        tau, gates = state.responsibilities[0], state.gates[0]
        slopes = family.derivatives(
            block.response, state.eta[0], parameters.nuisance, buffers, second_order=False
        )
        scores = row_scores(tau, gates, slopes, buffers)
        if block.weight is not None:
            scores = scores * block.weight
        own = codes[start : start + width]
        order = np.argsort(own, kind="stable")
        first = np.flatnonzero(np.diff(own[order], prepend=-1))
        of = own[order[first]]
        scores, design, gating = scores[:, order], block.design[:, order], block.gate_design[:, order]
        # One vector of [1, u] after the other: all at once would be P rows long.
        for v in range(layout.vectors):
            rows = gating if v < layout.free_gates else design
            out[of, layout.vector(v)] += np.add.reduceat(scores[v] * rows, first, axis=1).T
        out[of, layout.nuisances] += np.add.reduceat(scores[layout.vectors :], first, axis=1).T
        start += width
    return out
