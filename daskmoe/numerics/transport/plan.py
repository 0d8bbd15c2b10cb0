"""The transport plan from the components of the large MoE to K experts, and what the experts need of it.

Pure NumPy. With free target gates the optimal plan sends each component l, at each support row x_s, wholly to
the nearest expert, k(l, s) = argmin_k KL(phi_l(.|x_s), phi_k(.|x_s)), with mass w_s PI_l(x_s)
(arXiv:2312.09877, Proposition 3). The whole-expert plan chooses one k(l) for all rows instead. Components
stream in tiles, so memory is O(S K) plus a tile, not O(L K S).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.parameters import FloatArray, LargeMoE
from daskmoe.numerics.families import Family

_TILE_CELLS = 65_536

_Index = np.uint16


class ReductionProblem(NamedTuple):
    """The large MoE on its support, in the coordinates of the support's design.

    Attributes
    ----------
    large : LargeMoE
    design : ndarray of shape (q, S)
        Rows [1, u].
    weight : ndarray of shape (S,)
        Row weights w_s that sum to one.
    family : Family
    """

    large: LargeMoE
    design: FloatArray
    weight: FloatArray
    family: Family


class Experts(NamedTuple):
    """The target's expert densities: ``coef`` (K, q) and ``dispersion`` (K,)."""

    coef: FloatArray
    dispersion: FloatArray


class PlanStatistics(NamedTuple):
    """What the minimization step and the gating fit need of a plan.

    Attributes
    ----------
    objective : float
        sum_s sum_l w_s PI_l(s) KL(phi_l, phi_k(l, s)): the transportation divergence.
    mass, first, second : ndarray of shape (K, S)
        Sums over l of P_lk(s) times one, E_l[y|x_s] and E_l[y^2|x_s].
    flow : ndarray of shape (L, K)
        Sum over s of P_lk(s).
    """

    objective: float
    mass: FloatArray
    first: FloatArray
    second: FloatArray
    flow: FloatArray


class Tile(NamedTuple):
    """Some ``components`` (of L) on the support: ``mass`` w_s PI_l(s), ``eta`` and ``dispersion``."""

    components: slice
    mass: FloatArray
    eta: FloatArray
    dispersion: FloatArray


def tiles(problem: ReductionProblem) -> Iterator[Tile]:
    """The components of the large MoE, whole partitions at a time; a tile is valid until the next."""
    large, n_rows = problem.large, problem.design.shape[1]
    stops = np.cumsum(large.sizes)
    per_tile = max(1, _TILE_CELLS // n_rows)
    # New arrays of this size would come from the system each time, page by page.
    buffers = np.empty((2, min(max(per_tile, int(large.sizes.max())), len(large.gate)), n_rows))
    m = 0
    while m < len(stops):
        start = int(stops[m] - large.sizes[m])
        last = max(m, int(np.searchsorted(stops, start + per_tile, side="right")) - 1)
        index = slice(start, int(stops[last]))
        sizes = large.sizes[m : last + 1]
        mass, eta = buffers[:, : index.stop - index.start]
        np.matmul(large.gate[index], problem.design, out=mass)
        _nested_softmax(mass, sizes, large.weights[m : last + 1])
        mass *= problem.weight
        np.matmul(large.coef[index], problem.design, out=eta)
        yield Tile(index, mass, eta, large.dispersion[index])
        m = last + 1


def _nested_softmax(logits: FloatArray, sizes: NDArray[np.intp], weights: FloatArray) -> None:
    """weights[m] times the softmax over each of the consecutive groups of rows of ``logits``, in place."""
    # Partitions of one size that follow each other are one array: a call a partition would cost more.
    bounds = np.flatnonzero(np.diff(sizes)) + 1
    first = 0
    for run, weight in zip(np.split(sizes, bounds), np.split(weights, bounds), strict=True):
        rows = logits[first : first + int(run.sum())].reshape(len(run), int(run[0]), -1)
        rows -= rows.max(axis=1, keepdims=True)
        np.exp(rows, out=rows)
        rows *= (weight[:, None] / rows.sum(axis=1))[:, None]
        first += int(run.sum())


def pointwise_plan(problem: ReductionProblem, experts: Experts, *, with_flow: bool = True) -> PlanStatistics:
    """The optimal plan with free target gates, row by row; ``flow`` stays zero where it is not asked for."""
    eta_to = experts.coef @ problem.design
    sums = _Sums(problem, len(eta_to), with_flow)
    cost = lowest = np.empty((0, 0))
    for tile in tiles(problem):
        if len(cost) < len(tile.eta):
            cost, lowest = np.empty_like(tile.eta), np.empty_like(tile.eta)
        cost, lowest = cost[: len(tile.eta)], lowest[: len(tile.eta)]
        nearest = np.zeros(tile.eta.shape, dtype=_Index)
        _divergence(problem.family, tile, eta_to[0], experts.dispersion[0], lowest)
        for k in range(1, len(eta_to)):
            _divergence(problem.family, tile, eta_to[k], experts.dispersion[k], cost)
            closer = cost < lowest
            np.minimum(lowest, cost, out=lowest)
            # The largest k that came closer than all before it is the nearest.
            np.maximum(nearest, closer * _Index(k), out=nearest)
        sums.objective += float(np.vdot(tile.mass, lowest))
        sums.add(problem.family, tile, nearest)
    return sums.result()


def whole_plan(problem: ReductionProblem, experts: Experts, *, with_flow: bool = True) -> PlanStatistics:
    """The plan that moves each component whole, to the expert at the least expected divergence."""
    eta_to = experts.coef @ problem.design
    sums = _Sums(problem, len(eta_to), with_flow)
    for tile in tiles(problem):
        costs, divergence = np.empty((len(eta_to), len(tile.eta))), np.empty_like(tile.eta)
        for k in range(len(eta_to)):
            _divergence(problem.family, tile, eta_to[k], experts.dispersion[k], divergence)
            divergence *= tile.mass
            np.sum(divergence, axis=1, out=costs[k])
        target = np.argmin(costs, axis=0)
        sums.objective += float(costs.min(axis=0).sum())
        sums.add(problem.family, tile, np.broadcast_to(target[:, None], tile.eta.shape))
    return sums.result()


def _divergence(
    family: Family, tile: Tile, eta_to: FloatArray, dispersion_to: FloatArray, out: FloatArray
) -> None:
    """KL from every component of a tile to one expert, (l, S)."""
    family.divergence(tile.eta, tile.dispersion[:, None], eta_to, dispersion_to, out=out)


class _Sums:
    """Accumulators of a `PlanStatistics`."""

    def __init__(self, problem: ReductionProblem, n_experts: int, with_flow: bool) -> None:
        self.shape = (n_experts, problem.design.shape[1])
        self.objective = 0.0
        self.with_flow = with_flow
        self.mass, self.first, self.second = (np.zeros(self.shape) for _ in range(3))
        self.flow = np.zeros((len(problem.large.gate), n_experts))

    def add(self, family: Family, tile: Tile, target: NDArray[np.integer[Any]]) -> None:
        """Add a tile whose component l sends its mass at row s to expert target[l, s]."""
        n_experts, n_rows = self.shape
        cell = np.multiply(target, n_rows, dtype=np.intp)
        cell += np.arange(n_rows)
        self._add_to(self.mass, cell, tile.mass)
        mean = family.mean(tile.eta)
        moved = tile.mass * mean
        self._add_to(self.first, cell, moved)
        moved *= mean
        moved += tile.mass * family.variance(tile.eta, tile.dispersion)
        self._add_to(self.second, cell, moved)
        if self.with_flow:
            pair = target + (n_experts * np.arange(len(target), dtype=np.intp))[:, None]
            flow = np.bincount(pair.ravel(), tile.mass.ravel(), self.flow[tile.components].size)
            self.flow[tile.components] = flow.reshape(-1, n_experts)

    def _add_to(self, total: FloatArray, cell: NDArray[np.intp], values: FloatArray) -> None:
        total += np.bincount(cell.ravel(), values.ravel(), total.size).reshape(self.shape)

    def result(self) -> PlanStatistics:
        """The sums over all tiles."""
        return PlanStatistics(self.objective, self.mass, self.first, self.second, self.flow)
