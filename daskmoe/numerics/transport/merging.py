"""Starting experts of a reduction, made from the components of the large MoE.

Pure NumPy. A component l with mass w_s PI_l(s) on the support is summed up by its Gram matrix G_l, G_l B_l
and its second moment, in which merged components add up: their KL barycentre and its divergence need no rows.
The family says what an expert so made loses, and a merger costs what it adds to the losses: for gaussians,
with n the sum of the mass (Runnalls, 2007, equation 21, for regression)

    sum_l n_l E KL(phi_l, phi_ij) = (n_ij log sigma_ij^2 - n_i log sigma_i^2 - n_j log sigma_j^2) / 2.

Greedy merging takes the cheapest pair first; large numbers of components merge in blocks, then the results.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.linalg import ridged
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.numerics.base.policies import REDUCTION
from daskmoe.numerics.families import Family
from daskmoe.numerics.transport.plan import Experts, ReductionProblem, tiles


class Components(NamedTuple):
    """Sums over the support of some components or of merged ones."""

    # (n,)
    mass: FloatArray
    # (n, q, q)
    gram: FloatArray
    # (n, C, q): Gram matrix times coefficients.
    moment: FloatArray
    # (n,): Sum of the mass times the squared predictors and the noise: of E[y^2] for gaussians. Where every
    # predictor has a nuisance of its own, (n, C).
    second: FloatArray

    def take(self, index: NDArray[np.intp] | slice) -> Components:
        """Some of them."""
        return Components(*(array[index] for array in self))

    def merged(self, family: Family) -> Merged:
        """The KL barycentre of each."""
        gram = ridged(self.gram, 1e-13 * self.gram.shape[-1])
        coef: FloatArray = np.asarray(
            np.linalg.solve(gram[:, None], self.moment[..., None])[..., 0], np.float64
        )
        sums, mass = ("ncq,ncq->nc", self.mass[:, None]) if family.by_predictor else ("ncq,ncq->n", self.mass)
        fit = np.einsum(sums, 2 * self.moment - np.einsum("nqr,ncr->ncq", self.gram, coef), coef)
        typical = self.second.sum(axis=0) / self.mass.sum()
        squares = ((self.second - fit) / mass).clip(REDUCTION.nuisance_floor * np.maximum(typical, 1e-300))
        return Merged(coef, family.nuisance_from(squares), family.merging_loss(self.mass, squares))


class Merged(NamedTuple):
    """Experts ``coef`` (n, C, q), ``nuisance`` (n, D) of merged components, and what they lose (n,)."""

    coef: FloatArray
    nuisance: FloatArray
    loss: FloatArray

    def experts(self) -> Experts:
        """The experts alone."""
        return Experts(self.coef, self.nuisance)


def greedy_experts(problem: ReductionProblem, n_experts: int) -> Experts:
    """``n_experts`` experts by greedy pairwise merging of all components, of which there are no fewer.

    Where fewer have mass on the support, the lightest others stand beside them as they are.
    """
    merged = _merged_experts(problem, n_experts)
    short = n_experts - len(merged.coef)
    if short == 0:
        return merged
    mass = np.concatenate([tile.mass.sum(axis=1) for tile in tiles(problem)])
    lightest = np.argsort(mass, kind="stable")[:short]
    return Experts(
        np.concatenate([merged.coef, problem.large.coef[lightest]]),
        np.concatenate([merged.nuisance, problem.large.nuisance[lightest]]),
    )


def _merged_experts(problem: ReductionProblem, n_experts: int) -> Experts:
    """At most ``n_experts``: components without mass have nothing to merge."""
    kept: list[Components] = []
    waiting: list[Components] = []
    for block in _component_blocks(problem):
        waiting.append(block)
        if sum(len(part.mass) for part in waiting) >= REDUCTION.merging_block:
            kept.append(_merge(_join(waiting), n_experts, problem.family))
            waiting = []
    if not kept:
        return _merge(_join(waiting), n_experts, problem.family).merged(problem.family).experts()
    components = _join(kept + waiting)
    while len(components.mass) > max(REDUCTION.merging_block, 2 * n_experts):
        parts = [
            components.take(slice(i, i + REDUCTION.merging_block))
            for i in range(0, len(components.mass), REDUCTION.merging_block)
        ]
        components = _join([_merge(part, n_experts, problem.family) for part in parts])
    return _merge(components, n_experts, problem.family).merged(problem.family).experts()


def clustered_experts(problem: ReductionProblem, n_experts: int) -> Experts:
    """k-means of the components' regression functions, weighted by their mass.

    The distance of two functions is their mean squared difference over the support. Centres start at the
    heaviest component and then at the farthest one from all centres so far, heavier ones first: nothing is
    drawn, and the order of the components does not matter.
    """
    mass = np.concatenate([tile.mass.sum(axis=1) for tile in tiles(problem)])
    root = np.linalg.cholesky(
        (problem.design * problem.weight) @ problem.design.T + 1e-12 * np.eye(len(problem.design))
    )
    _, n_predictors, q = problem.large.coef.shape
    noise = np.asarray(problem.family.noise(problem.large.nuisance), np.float64)
    # Outputs may have different units; those of their noise make them alike.
    unit = np.sqrt(mass @ noise / mass.sum())[:, None] if problem.family.by_predictor else 1.0
    points = ((problem.large.coef / unit).reshape(-1, q) @ root).reshape(-1, n_predictors * q)
    centers = points[[int(np.argmax(mass))]]
    for _ in range(n_experts - 1):
        distance = np.min(_squared_distances(points, centers), axis=1)
        centers = np.concatenate([centers, points[[int(np.argmax(mass * distance))]]])
    labels = np.argmin(_squared_distances(points, centers), axis=1)
    for _ in range(REDUCTION.lloyd_steps):
        total = np.bincount(labels, mass, n_experts)
        sums = np.stack([np.bincount(labels, mass * column, n_experts) for column in points.T], axis=1)
        centers = np.where(total[:, None] > 0, sums / np.maximum(total, 1e-300)[:, None], centers)
        previous, labels = labels, np.argmin(_squared_distances(points, centers), axis=1)
        if np.array_equal(previous, labels):
            break
    away = (points - centers[labels]) ** 2
    coef = np.linalg.solve(root.T, centers.reshape(-1, q).T).T.reshape(-1, n_predictors, q) * unit
    if not problem.family.by_predictor:
        squares = _mean_squares(labels, mass, noise + np.sum(away, axis=1), noise, n_experts)
        return Experts(coef, problem.family.nuisance_from(squares))
    spread = noise + away.reshape(-1, n_predictors, q).sum(axis=2) * np.ravel(unit) ** 2
    columns = [_mean_squares(labels, mass, *own, n_experts) for own in zip(spread.T, noise.T, strict=True)]
    return Experts(coef, problem.family.nuisance_from(np.stack(columns, axis=1)))


def _mean_squares(
    labels: NDArray[np.intp], mass: FloatArray, squares: FloatArray, noise: FloatArray, n_experts: int
) -> FloatArray:
    """Means of ``squares`` by label; of a label that nothing has the mean ``noise``."""
    total, added = np.bincount(labels, mass, n_experts), np.bincount(labels, mass * squares, n_experts)
    return np.where(total > 0, added / np.maximum(total, 1e-300), float(mass @ noise / mass.sum()))


def _squared_distances(points: FloatArray, centers: FloatArray) -> FloatArray:
    cross = points @ centers.T
    return np.asarray(np.sum(points**2, axis=1)[:, None] - 2 * cross + np.sum(centers**2, axis=1))


def _component_blocks(problem: ReductionProblem) -> Iterator[Components]:
    """Sums of the components, a tile at a time; components without mass are left out."""
    design = problem.design
    for tile in tiles(problem):
        mass = tile.mass.sum(axis=1)
        used = np.flatnonzero(mass > np.finfo(float).eps * mass.max())
        for start in range(0, len(used), REDUCTION.merging_block):
            part = used[start : start + REDUCTION.merging_block]
            gram = np.stack([(design * tile.mass[i]) @ design.T for i in part])
            coef = problem.large.coef[tile.components][part]
            moment = np.einsum("nqr,ncr->ncq", gram, coef)
            own, noise = mass[part], problem.family.noise(tile.nuisance[part])
            if problem.family.by_predictor:
                second = np.einsum("ncq,ncq->nc", moment, coef) + own[:, None] * noise
            else:
                second = np.einsum("ncq,ncq->n", moment, coef) + own * noise
            yield Components(own, gram, moment, second)


def _join(parts: list[Components]) -> Components:
    return Components(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _merge(components: Components, n_experts: int, family: Family) -> Components:
    """Merge the cheapest pair until ``n_experts`` are left."""
    mass, gram, moment, second = (array.copy() for array in components)
    n = len(mass)
    loss = components.merged(family).loss
    cost = np.full((n, n), np.inf)
    alive = np.arange(n)
    everything = Components(mass, gram, moment, second)
    for i in range(n - 1):
        cost[i, i + 1 :] = _merge_costs(everything, loss, i, np.arange(i + 1, n), family)
    while len(alive) > n_experts:
        i, j = divmod(int(np.argmin(cost)), n)
        for array in everything:
            array[i] += array[j]
        loss[i] = everything.take(np.array([i])).merged(family).loss[0]
        cost[j], cost[:, j] = np.inf, np.inf
        alive = alive[alive != j]
        others = alive[alive != i]
        if len(others):
            cost[np.minimum(i, others), np.maximum(i, others)] = _merge_costs(
                everything, loss, i, others, family
            )
    return everything.take(alive)


def _merge_costs(
    components: Components, loss: FloatArray, i: int, others: NDArray[np.intp], family: Family
) -> FloatArray:
    """What merging ``i`` with each of ``others`` adds to the divergence."""
    joined = Components(*(array[i] + array[others] for array in components))
    return np.asarray(joined.merged(family).loss - loss[i] - loss[others])
