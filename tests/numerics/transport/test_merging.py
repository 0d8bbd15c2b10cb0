"""Starts of a reduction: greedy merging against its definition, in blocks, and k-means."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from daskmoe.numerics.base.parameters import FloatArray, LargeMoE
from daskmoe.numerics.transport import merging
from daskmoe.numerics.transport.merging import clustered_experts, greedy_experts
from daskmoe.numerics.transport.plan import Experts, ReductionProblem, tiles
from numerics.oracles import GAUSSIAN, random_model


def make_problem(rng: np.random.Generator, sizes: tuple[int, ...], n_rows: int = 60) -> ReductionProblem:
    models = [random_model(rng, k, 2) for k in sizes]
    large = LargeMoE.from_estimates(models, rng.uniform(1, 3, len(sizes)))
    design = np.vstack([np.ones(n_rows), rng.standard_normal((2, n_rows))])
    return ReductionProblem(large, design, rng.dirichlet(np.ones(n_rows)), GAUSSIAN)


def masses(problem: ReductionProblem) -> FloatArray:
    return np.concatenate([tile.mass.copy() for tile in tiles(problem)])


def barycentre(problem: ReductionProblem, members: list[int]) -> tuple[FloatArray, float, float]:
    """Weighted least squares of the members' means, the variance around it, and the summed divergence."""
    mass, design, large = masses(problem)[members], problem.design, problem.large
    mean = large.coef[members, 0] @ design
    rows = np.tile(design, (1, len(members)))
    root = np.sqrt(mass.ravel())
    coef = np.linalg.lstsq((rows * root).T, mean.ravel() * root, rcond=None)[0]
    spread = (mean - coef @ design) ** 2 + large.nuisance[members]
    variance = float(np.sum(mass * spread) / mass.sum())
    divergence = GAUSSIAN.divergence(
        mean[:, None], large.nuisance[members], (coef @ design)[None], np.array([variance])
    )
    return coef, variance, float(np.sum(mass * divergence))


def assert_same_experts(found: Experts, coef: FloatArray, variance: FloatArray) -> None:
    """``coef`` is (K, q), ``variance`` (K,)."""
    order, other = np.argsort(found.coef[:, 0, 0]), np.argsort(coef[:, 0])
    np.testing.assert_allclose(found.coef[order, 0], coef[other], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found.nuisance[order, 0], variance[other], rtol=1e-6)


def test_the_cheapest_pairs_merge_first(rng: np.random.Generator) -> None:
    problem = make_problem(rng, (2, 3, 1))
    groups = [[part] for part in range(6)]
    while len(groups) > 2:
        pairs = list(itertools.combinations(range(len(groups)), 2))
        rises = [
            barycentre(problem, groups[i] + groups[j])[2]
            - barycentre(problem, groups[i])[2]
            - barycentre(problem, groups[j])[2]
            for i, j in pairs
        ]
        i, j = pairs[int(np.argmin(rises))]
        groups = [g for k, g in enumerate(groups) if k not in (i, j)] + [groups[i] + groups[j]]
    expected = [barycentre(problem, group)[:2] for group in groups]
    assert_same_experts(
        greedy_experts(problem, 2), np.array([c for c, _ in expected]), np.array([v for _, v in expected])
    )


def test_one_expert_is_the_barycentre_of_all(rng: np.random.Generator) -> None:
    problem = make_problem(rng, (2, 3))
    coef, variance, _ = barycentre(problem, list(range(5)))
    assert_same_experts(greedy_experts(problem, 1), coef[None], np.array([variance]))


@pytest.mark.parametrize("start", [greedy_experts, clustered_experts])
def test_copies_come_together(start, rng: np.random.Generator) -> None:  # type: ignore[no-untyped-def]
    model = random_model(rng, 3, 2)
    design = np.vstack([np.ones(60), rng.standard_normal((2, 60))])
    large = LargeMoE.from_estimates([model] * 4, np.ones(4))
    found = start(ReductionProblem(large, design, np.full(60, 1 / 60), GAUSSIAN), 3)
    assert_same_experts(found, model.coef[:, 0], model.nuisance[:, 0])


def test_many_components_merge_in_blocks(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(rng, 3, 2)
    copies = [
        model._replace(coef=model.coef + 1e-3 * rng.standard_normal(model.coef.shape)) for _ in range(40)
    ]
    design = np.vstack([np.ones(60), rng.standard_normal((2, 60))])
    problem = ReductionProblem(
        LargeMoE.from_estimates(copies, np.ones(40)), design, np.full(60, 1 / 60), GAUSSIAN
    )
    expected = greedy_experts(problem, 3)
    monkeypatch.setattr(merging, "REDUCTION", replace(merging.REDUCTION, merging_block=12))
    found = greedy_experts(problem, 3)
    assert_same_experts(found, expected.coef[:, 0], expected.nuisance[:, 0])


def test_components_without_mass_count_among_the_experts(rng: np.random.Generator) -> None:
    model = random_model(rng, 3, 2)
    # The last expert's gate is nowhere near on the support.
    hidden = model._replace(gate=np.zeros((3, 3)) + [[0.0], [0.0], [-900.0]] * np.eye(3)[:1])
    design = np.vstack([np.ones(60), rng.standard_normal((2, 60))])
    problem = ReductionProblem(
        LargeMoE.from_estimates([hidden], np.ones(1)), design, np.full(60, 1 / 60), GAUSSIAN
    )
    assert_same_experts(greedy_experts(problem, 3), model.coef[:, 0], model.nuisance[:, 0])
