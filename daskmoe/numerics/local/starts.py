"""Starting points of the local estimator: several kinds of hard partitions of a subsample, each made a model.

Pure NumPy, in the coordinates of `coordinates`. No kind is best on all data: experts that differ where the
features differ are found from k-means cells and random directions, experts that differ in their regressions
from planes fitted to neighbourhoods, and experts that differ in noise from the sizes of the residuals of one
linear regression. Where a few rows are far from all others, as fill values are, every kind comes in a second
form too, which gives them an expert of their own. The kinds take turns; the race in `search` sorts them out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.linalg import solve
from daskmoe.numerics.base.packed import GramSums, unpack
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.numerics.base.policies import STARTS
from daskmoe.numerics.families import Family
from daskmoe.numerics.likelihood.e_step import Runs
from daskmoe.numerics.likelihood.priors import Prior

Array = NDArray[np.floating[Any]]
Labels = NDArray[np.intp]
_Kind = Callable[[Array, Array, int, np.random.Generator], Labels]


def starting_runs(
    design: FloatArray,
    response: FloatArray,
    weight: FloatArray | None,
    n_experts: int,
    n_init: int,
    prior: Prior,
    rng: np.random.Generator,
    family: Family,
    gating: FloatArray | None = None,
    offset: Array | None = None,
) -> Runs:
    """``n_init`` starting models for the rows ``design`` (q, n), ``response`` (n,) or (O, n).

    ``gating`` (q_gate, n) are the gates' rows where they have other features than the experts; ``offset``
    (n,) is a part of every linear predictor. Gates start flat, unless responses are labels: of these one says
    so little of its row's expert that the first pass would forget the partition.
    """
    targets = family.start_predictor(response)
    if offset is not None:
        targets = targets - offset
    planar = targets[0]
    memberships = np.full((n_init, n_experts, design.shape[1]), (1.0 - STARTS.confidence) / n_experts)
    # The rows of a rare class are not far from the others.
    far = np.zeros(design.shape[1], bool)
    if not family.nominal:
        far = np.any([_far_rows(design, target, n_experts) for target in targets], axis=0)
    # With two experts the forms apart are all the same.
    forms = _KINDS[:1] if n_experts == 2 else _KINDS
    apart: list[_Kind] = [partial(_apart_from, far, kind) for kind in forms] if far.any() else []
    apart *= STARTS.forms_apart
    kinds = [*apart, *(_KINDS_OF_LABELS if family.nominal else _KINDS)]
    cells = _cell_rows(design, planar, gating)
    for run in range(n_init):
        turn = run % len(kinds)
        if len(targets) > 1:
            # One start can look at one of the predictors' combinations only; each looks at another.
            planar = rng.standard_normal(len(targets)) @ targets
        kind = kinds[turn]
        labels = kind(cells if kind in _CELLS else design, planar, n_experts, rng)
        np.put_along_axis(memberships[run], labels[None], STARTS.confidence + memberships[run, :1], axis=0)
        if turn < len(apart):
            # Even a small share of a far row would dominate another expert's regression.
            memberships[run][:, far] = np.arange(n_experts)[:, None] == n_experts - 1
    if weight is not None:
        memberships *= weight
    q_gate = len(design) if gating is None else len(gating)
    runs = _weighted_fits(memberships, design, targets, prior, family, q_gate)
    own = design if gating is None else gating
    return runs._replace(gate=_gates_of(memberships, own, weight)) if family.nominal else runs


def _cell_rows(design: FloatArray, response: FloatArray, gating: FloatArray | None) -> FloatArray:
    """Rows that cells are made of: all features; with experts that are constants, the response too."""
    parts = [design] if gating is None else [design, gating[1:]]
    if len(design) == 1:
        parts.append((response - response.mean())[None] / max(float(response.std()), 1e-300))
    return design if len(parts) == 1 else np.concatenate(parts)


def _weighted_fits(
    memberships: FloatArray,
    design: FloatArray,
    targets: Array,
    prior: Prior,
    family: Family,
    q_gate: int,
) -> Runs:
    """Each expert's penalized weighted least squares and nuisances under given memberships.

    Fitted to ``targets`` (C, n), the predictors that the responses alone suggest.
    """
    shape, (q, n) = memberships.shape[:2], design.shape
    flat = memberships.reshape(-1, n)
    mass = flat.sum(axis=1)
    sums = GramSums(q, len(flat), np.float64)
    weights = sums.empty_weights(n)
    weights[: len(flat)] = flat
    sums.add(design, weights)
    gram = unpack(sums.packed)
    gram += (np.mean(prior.coef) + STARTS.pseudo_rows * mass / q)[:, None, None] * prior.metric
    moment = np.stack([(flat * target) @ design.T for target in targets], axis=1)
    coef = np.linalg.solve(gram[:, None], moment[..., None])[..., 0]
    residuals = targets - (coef.reshape(-1, q) @ design).reshape(len(flat), -1, n)
    if family.by_predictor:
        squares = np.sum(flat[:, None] * residuals**2, axis=2)
    else:
        squares = np.sum(flat * np.sum(residuals**2, axis=1), axis=1)
    nuisance = family.start_nuisance(squares, mass, prior)
    gate = np.zeros((*shape, q_gate))
    return Runs(gate, coef.reshape(*shape, -1, q), nuisance.reshape(*shape, -1))


def _gates_of(memberships: FloatArray, design: FloatArray, weight: FloatArray | None) -> FloatArray:
    """Gating networks (R, K, q) of memberships (R, K, n), by their regression on the features.

    A logit changes by four times what its probability does, at one half.
    """
    own = design if weight is None else design * weight
    gate = 4.0 * solve(own @ design.T, memberships @ design.T, share=1e-10 * len(design))
    return np.asarray(gate - gate[:, -1:])


def _residual_size(design: Array, response: Array, n_experts: int, rng: np.random.Generator) -> Labels:
    """Bands of |residual| of one linear regression, cut at random quantiles."""
    size = np.abs(response - _regression(design, response) @ design)
    cuts = np.quantile(size, np.sort(rng.random(n_experts - 1)))
    return np.asarray(np.searchsorted(cuts, size))


def _regression(design: Array, response: Array) -> Array:
    # The ridge is at rounding level and matters where there are fewer rows than features.
    return solve(design @ design.T, design @ response, share=1e-10 * len(design))


def _feature_cells(design: Array, response: Array, n_experts: int, rng: np.random.Generator) -> Labels:
    """k-means cells of the features from random rows."""
    rows = design[1:]
    centers = rows[:, rng.choice(rows.shape[1], n_experts, replace=False)].T
    labels = _nearest(centers, rows)
    for _ in range(STARTS.lloyd_steps):
        counts = np.bincount(labels, minlength=n_experts)
        sums = np.stack([rows[:, labels == k].sum(axis=1) for k in range(n_experts)])
        centers = np.where(counts[:, None] > 0, sums / counts.clip(1)[:, None], centers)
        labels = _nearest(centers, rows)
    return labels


def _nearest(centers: Array, rows: Array) -> Labels:
    return np.asarray(np.argmin(0.5 * np.sum(centers**2, axis=1)[:, None] - centers @ rows, axis=0))


def _local_planes(design: Array, response: Array, n_experts: int, rng: np.random.Generator) -> Labels:
    """The nearest of K regressions, each fitted to the neighbours of a random row."""
    q, n = design.shape
    size = min(max(3 * q, n // (2 * n_experts)), n)
    coefs = []
    for center in rng.choice(n, n_experts, replace=False):
        distance = np.sum((design - design[:, center, None]) ** 2, axis=0)
        near = np.argpartition(distance, size - 1)[:size]
        rows = design[:, near]
        coefs.append(np.linalg.solve(rows @ rows.T + 0.1 * np.eye(q), rows @ response[near]))
    return np.asarray(np.argmin((response - np.stack(coefs) @ design) ** 2, axis=0))


def _directions(design: Array, response: Array, n_experts: int, rng: np.random.Generator) -> Labels:
    """The largest of K random linear functions."""
    return np.asarray(np.argmax(rng.standard_normal((n_experts, len(design))) @ design, axis=0))


def _far_rows(design: Array, response: Array, n_experts: int) -> NDArray[np.bool_]:
    """Which rows are too far from the regression of the others for an expert that has others too."""
    near = np.ones(response.size, dtype=bool)
    # Far rows pull a regression towards them, so the first look is at the response alone.
    size = np.abs(response - np.median(response))
    for _ in range(3):
        near = size <= max(STARTS.far / 0.6745 * float(np.median(size[near])), STARTS.nearest)
        if near.mean() < 1.0 - STARTS.few or np.count_nonzero(near) < n_experts:
            return np.zeros_like(near)
        size = np.abs(response - _regression(design[:, near], response[near]) @ design)
    return ~near


def _apart_from(
    far: NDArray[np.bool_],
    kind: _Kind,
    design: Array,
    response: Array,
    n_experts: int,
    rng: np.random.Generator,
) -> Labels:
    """A kind of K - 1 experts, and the last expert for the rows that are far from all."""
    labels = np.full(response.size, n_experts - 1)
    labels[~far] = 0 if n_experts == 2 else kind(design[:, ~far], response[~far], n_experts - 1, rng)
    return labels


_KINDS: tuple[_Kind, ...] = (_feature_cells, _residual_size, _local_planes, _directions)
# The size of a label's residual says which class it is.
_KINDS_OF_LABELS: tuple[_Kind, ...] = (_feature_cells, _local_planes, _directions)
# Those that are of all features, the gates' too.
_CELLS: tuple[_Kind, ...] = (_feature_cells, _directions)
