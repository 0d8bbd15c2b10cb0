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

Array = NDArray[np.floating[Any]]

_TILE_CELLS = 65_536

_Index = np.uint16


class ReductionProblem(NamedTuple):
    """The large MoE on its support, in the coordinates of the support's design."""

    large: LargeMoE
    # (q, S): Rows [1, u].
    design: FloatArray
    # (S,): Row weights w_s that sum to one.
    weight: FloatArray
    family: Family
    # (M, S): Which local estimators know which rows; None where each knows all.
    known: NDArray[np.bool_] | None = None
    # (q_gate, S): Rows of the gates where they have other features than the experts.
    gating: FloatArray | None = None
    # (S,): A part of every linear predictor.
    offset: FloatArray | None = None

    def predictors(self, experts: Experts) -> FloatArray:
        """The linear predictors of experts at the rows of the support, shape (K, C, S)."""
        found = experts.predictors(self.design)
        return found if self.offset is None else found + self.offset

    @property
    def gate_design(self) -> FloatArray:
        """The gates' rows [1, u], (q_gate, S)."""
        return self.design if self.gating is None else self.gating

    def shares(self) -> FloatArray:
        """lambda_m at each row, (M, 1) or (M, S): a row is told by the local estimators that know it.

        A row that none of them knows is told by all.
        """
        weights = self.large.weights[:, None]
        if self.known is None:
            return weights
        own = np.where(self.known | ~self.known.any(axis=0), weights, 0.0)
        return np.asarray(own / own.sum(axis=0))

    def at_rows(self, rows: NDArray[np.intp]) -> ReductionProblem:
        """The problem on some rows of the support."""
        weight = self.weight[rows]
        return self._replace(
            design=np.ascontiguousarray(self.design[:, rows]),
            weight=weight / weight.sum(),
            known=None if self.known is None else self.known[:, rows],
            gating=None if self.gating is None else np.ascontiguousarray(self.gating[:, rows]),
            offset=None if self.offset is None else self.offset[rows],
        )

    def of_partitions(self, partitions: NDArray[np.intp]) -> ReductionProblem:
        """The problem with the components of some partitions only."""
        known = None if self.known is None else self.known[partitions]
        return self._replace(large=self.large.take(partitions), known=known)


class Experts(NamedTuple):
    """The target's expert densities: ``coef`` (K, C, q) and ``nuisance`` (K, D)."""

    coef: FloatArray
    nuisance: FloatArray

    def predictors(self, design: FloatArray) -> FloatArray:
        """The linear predictors at the columns of a design (q, S), shape (K, C, S)."""
        flat = self.coef.reshape(-1, self.coef.shape[-1]) @ design
        return flat.reshape(*self.coef.shape[:2], -1)


class PlanStatistics(NamedTuple):
    """What the minimization step and the gating fit need of a plan."""

    # sum_s sum_l w_s PI_l(s) KL(phi_l, phi_k(l, s)): the transportation divergence.
    objective: float
    # (K, S): Sum over l of P_lk(s).
    mass: FloatArray
    # (K, n, S): The same of P_lk(s) times the n moments of y given x_s and l that the family's barycentre is
    # made of.
    moments: FloatArray
    # (L, K): Sum over s of P_lk(s).
    flow: FloatArray


class Tile(NamedTuple):
    """Some ``components`` (of L) on the support: ``mass`` w_s PI_l(s), ``eta`` (l, C, S) and ``nuisance``."""

    components: slice
    mass: FloatArray
    eta: FloatArray
    nuisance: FloatArray


def tiles(problem: ReductionProblem) -> Iterator[Tile]:
    """The components of the large MoE, whole partitions at a time; a tile is valid until the next."""
    large, n_rows, shares = problem.large, problem.design.shape[1], problem.shares()
    stops = np.cumsum(large.sizes)
    per_tile = max(1, _TILE_CELLS // n_rows)
    # New arrays of this size would come from the system each time, page by page.
    most = min(max(per_tile, int(large.sizes.max())), len(large.gate))
    n_predictors, q = large.coef.shape[1:]
    masses, predictors = np.empty((most, n_rows)), np.empty((most, n_predictors, n_rows))
    m = 0
    while m < len(stops):
        start = int(stops[m] - large.sizes[m])
        last = max(m, int(np.searchsorted(stops, start + per_tile, side="right")) - 1)
        index = slice(start, int(stops[last]))
        sizes = large.sizes[m : last + 1]
        mass, eta = masses[: index.stop - index.start], predictors[: index.stop - index.start]
        np.matmul(large.gate[index], problem.gate_design, out=mass)
        _nested_softmax(mass, sizes, shares[m : last + 1])
        mass *= problem.weight
        np.matmul(large.coef[index].reshape(-1, q), problem.design, out=eta.reshape(-1, n_rows))
        if problem.offset is not None:
            eta += problem.offset
        yield Tile(index, mass, eta, large.nuisance[index])
        m = last + 1


def _nested_softmax(logits: FloatArray, sizes: NDArray[np.intp], weights: FloatArray) -> None:
    """weights[m] times the softmax over each of the consecutive groups of rows of ``logits``, in place.

    Weights have the shape (M, 1), or (M, S) where they differ between rows.
    """
    # Partitions of one size that follow each other are one array: a call a partition would cost more.
    bounds = np.flatnonzero(np.diff(sizes)) + 1
    first = 0
    for run, weight in zip(np.split(sizes, bounds), np.split(weights, bounds), strict=True):
        rows = logits[first : first + int(run.sum())].reshape(len(run), int(run[0]), -1)
        rows -= rows.max(axis=1, keepdims=True)
        np.exp(rows, out=rows)
        rows *= (weight / rows.sum(axis=1))[:, None]
        first += int(run.sum())


def pointwise_plan(problem: ReductionProblem, experts: Experts, *, with_flow: bool = True) -> PlanStatistics:
    """The optimal plan with free target gates, row by row; ``flow`` stays zero where it is not asked for."""
    eta_to = problem.predictors(experts)
    sums = _Sums(problem, len(eta_to), with_flow)
    cost = lowest = np.empty((0, 0))
    for tile in tiles(problem):
        if len(cost) < len(tile.mass):
            cost, lowest = np.empty_like(tile.mass), np.empty_like(tile.mass)
        cost, lowest = cost[: len(tile.mass)], lowest[: len(tile.mass)]
        nearest = np.zeros(tile.mass.shape, dtype=_Index)
        _divergence(problem.family, tile, eta_to[0], experts.nuisance[0], lowest)
        for k in range(1, len(eta_to)):
            _divergence(problem.family, tile, eta_to[k], experts.nuisance[k], cost)
            closer = cost < lowest
            np.minimum(lowest, cost, out=lowest)
            # The largest k that came closer than all before it is the nearest.
            np.maximum(nearest, closer * _Index(k), out=nearest)
        sums.objective += float(np.vdot(tile.mass, lowest))
        sums.add(problem.family, tile, nearest)
    return sums.result()


def whole_plan(problem: ReductionProblem, experts: Experts, *, with_flow: bool = True) -> PlanStatistics:
    """The plan that moves each component whole, to the expert at the least expected divergence."""
    eta_to = problem.predictors(experts)
    sums = _Sums(problem, len(eta_to), with_flow)
    for tile in tiles(problem):
        costs, divergence = np.empty((len(eta_to), len(tile.mass))), np.empty_like(tile.mass)
        for k in range(len(eta_to)):
            _divergence(problem.family, tile, eta_to[k], experts.nuisance[k], divergence)
            divergence *= tile.mass
            np.sum(divergence, axis=1, out=costs[k])
        target = np.argmin(costs, axis=0)
        sums.objective += float(costs.min(axis=0).sum())
        sums.add(problem.family, tile, np.broadcast_to(target[:, None], tile.mass.shape))
    return sums.result()


def _divergence(
    family: Family, tile: Tile, eta_to: FloatArray, nuisance_to: FloatArray, out: FloatArray
) -> None:
    """KL from every component of a tile to one expert, (l, S)."""
    family.divergence(tile.eta, tile.nuisance, eta_to, nuisance_to, out=out)


class _Sums:
    """Accumulators of a `PlanStatistics`."""

    def __init__(self, problem: ReductionProblem, n_experts: int, with_flow: bool) -> None:
        self.shape = (n_experts, problem.design.shape[1])
        self.objective = 0.0
        self.with_flow = with_flow
        self.mass = np.zeros(self.shape)
        self.moments = [np.zeros(self.shape) for _ in range(problem.family.n_plan_moments)]
        self.flow = np.zeros((len(problem.large.gate), n_experts))

    def add(self, family: Family, tile: Tile, target: NDArray[np.integer[Any]]) -> None:
        """Add a tile whose component l sends its mass at row s to expert target[l, s]."""
        n_experts, n_rows = self.shape
        cell = np.multiply(target, n_rows, dtype=np.intp)
        cell += np.arange(n_rows)
        self._add_to(self.mass, cell, tile.mass)
        moved = family.plan_moments(tile.eta, tile.nuisance, tile.mass, np.empty_like(tile.mass))
        for total, values in zip(self.moments, moved, strict=True):
            self._add_to(total, cell, values)
        if self.with_flow:
            pair = target + (n_experts * np.arange(len(target), dtype=np.intp))[:, None]
            flow = np.bincount(pair.ravel(), tile.mass.ravel(), self.flow[tile.components].size)
            self.flow[tile.components] = flow.reshape(-1, n_experts)

    def _add_to(self, total: FloatArray, cell: NDArray[np.intp], values: Array) -> None:
        total += np.bincount(cell.ravel(), values.ravel(), total.size).reshape(self.shape)

    def result(self) -> PlanStatistics:
        """The sums over all tiles."""
        return PlanStatistics(self.objective, self.mass, np.stack(self.moments, axis=1), self.flow)
