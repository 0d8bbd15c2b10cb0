"""The transport plan from the components of the large MoE to K experts, and what the experts need of it.

Pure NumPy. With free target gates the optimal plan sends each component l, at each support row x_s, wholly to
the nearest expert, k(l, s) = argmin_k KL(phi_l(.|x_s), phi_k(.|x_s)), with mass w_s PI_l(x_s)
(arXiv:2312.09877, Proposition 3). The whole-expert plan chooses one k(l) for all rows instead. Components
stream in tiles, so memory is O(S K) plus a tile, not O(L K S).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.families import Family
from daskmoe.numerics.mixture import log_softmax
from daskmoe.numerics.parameters import FloatArray, LargeMoE

_TILE_CELLS = 32_768


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
    """The components of the large MoE, whole partitions at a time."""
    large, n_rows = problem.large, problem.design.shape[1]
    stops = np.cumsum(large.sizes)
    per_tile = max(1, _TILE_CELLS // n_rows)
    m = 0
    while m < len(stops):
        start = int(stops[m] - large.sizes[m])
        last = max(m, int(np.searchsorted(stops, start + per_tile, side="right")) - 1)
        index = slice(start, int(stops[last]))
        logits = large.gate[index] @ problem.design
        for part in range(m, last + 1):
            rows = slice(int(stops[part] - large.sizes[part]) - start, int(stops[part]) - start)
            logits[rows] = log_softmax(logits[rows])
        mass = np.exp(logits, out=logits)
        mass *= large.weights[large.partition[index]][:, None]
        mass *= problem.weight
        yield Tile(index, mass, large.coef[index] @ problem.design, large.dispersion[index])
        m = last + 1


def pointwise_plan(problem: ReductionProblem, experts: Experts) -> PlanStatistics:
    """The optimal plan with free target gates, row by row."""
    eta_to = experts.coef @ problem.design
    sums = _Sums(problem, len(eta_to))
    for tile in tiles(problem):
        nearest = np.zeros(tile.eta.shape, dtype=np.intp)
        lowest = np.full(tile.eta.shape, np.inf)
        for k in range(len(eta_to)):
            cost = _divergence(problem.family, tile, eta_to[k], experts.dispersion[k])
            closer = cost < lowest
            np.copyto(lowest, cost, where=closer)
            np.copyto(nearest, k, where=closer)
        sums.objective += float(np.vdot(tile.mass, lowest))
        sums.add(problem.family, tile, nearest)
    return sums.result()


def whole_plan(problem: ReductionProblem, experts: Experts) -> PlanStatistics:
    """The plan that moves each component whole, to the expert at the least expected divergence."""
    eta_to = experts.coef @ problem.design
    sums = _Sums(problem, len(eta_to))
    for tile in tiles(problem):
        costs = np.empty((len(eta_to), len(tile.eta)))
        for k in range(len(eta_to)):
            divergence = _divergence(problem.family, tile, eta_to[k], experts.dispersion[k])
            costs[k] = np.einsum("ls,ls->l", tile.mass, divergence)
        target = np.argmin(costs, axis=0)
        sums.objective += float(costs.min(axis=0).sum())
        sums.add(problem.family, tile, np.broadcast_to(target[:, None], tile.eta.shape))
    return sums.result()


def _divergence(family: Family, tile: Tile, eta_to: FloatArray, dispersion_to: FloatArray) -> FloatArray:
    """KL from every component of a tile to one expert, (l, S)."""
    return np.asarray(family.divergence(tile.eta, tile.dispersion[:, None], eta_to, dispersion_to))


class _Sums:
    """Accumulators of a `PlanStatistics`."""

    def __init__(self, problem: ReductionProblem, n_experts: int) -> None:
        shape = (n_experts, problem.design.shape[1])
        self.objective = 0.0
        self.mass, self.first, self.second = (np.zeros(shape) for _ in range(3))
        self.flow = np.zeros((len(problem.large.gate), n_experts))

    def add(self, family: Family, tile: Tile, target: NDArray[np.intp]) -> None:
        """Add a tile whose component l sends its mass at row s to expert target[l, s]."""
        mean = family.mean(tile.eta)
        second = family.variance(tile.eta, tile.dispersion) + mean**2
        for k in range(len(self.mass)):
            moved = np.where(target == k, tile.mass, 0.0)
            self.mass[k] += moved.sum(axis=0)
            self.first[k] += np.einsum("ls,ls->s", moved, mean)
            self.second[k] += np.einsum("ls,ls->s", moved, second)
            self.flow[tile.components, k] = moved.sum(axis=1)

    def result(self) -> PlanStatistics:
        """The sums over all tiles."""
        return PlanStatistics(self.objective, self.mass, self.first, self.second, self.flow)
