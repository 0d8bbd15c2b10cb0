"""What the rows of a partition identify: linear predictors on their affine hull, and nothing beside it.

Pure NumPy. Where rows do not vary in a direction, as in the dummy of a level that they lack, a fit of least
norm has a slope of zero in it. That is no estimate: what is made of several fits must not average it with
those of fits that know the slope. In coordinates u common to all partitions, one knows a predictor b'[1, u]
up to the complement of the row space of [1, u_s] over its rows s; its own projector says which part it knows.
Shapes: M partitions, S rows, p features, r directions in which any rows vary.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.coordinates import Coordinates, Scaling, coordinates_from
from daskmoe.numerics.base.observations import Observations, merge_moments, moments
from daskmoe.numerics.base.parameters import FloatArray, Moments, SupportSample
from daskmoe.numerics.base.policies import IDENTIFICATION


class Hull(NamedTuple):
    """The affine hull of a partition's rows, in the common coordinates."""

    # (r,): Mean of the rows.
    center: FloatArray
    # (r, d): Orthonormal directions in which they do not vary.
    null: FloatArray

    def holds(self, inner: FloatArray) -> NDArray[np.bool_]:
        """Which of some rows, the columns of ``inner`` (r, S), lie in it."""
        away = self.null.T @ (inner - self.center[:, None])
        return np.asarray(np.sum(away**2, axis=0) <= IDENTIFICATION.inside**2)

    def projector(self) -> FloatArray:
        """The projector of linear predictors (r + 1,) on what is known of them."""
        unknown = np.concatenate([-self.center[None] @ self.null, self.null])
        basis = np.linalg.qr(unknown)[0]
        return np.asarray(np.eye(len(unknown)) - basis @ basis.T)


class Hulls(NamedTuple):
    """The affine hulls of all partitions, at least one of which is not the whole space."""

    # Features only: of all rows of the partitions and of the support.
    common: Coordinates
    parts: list[Hull]
    # The same of the gates' features alone and of the experts', where these are not all.
    of_gates: Hulls | None = None
    of_experts: Hulls | None = None

    @property
    def gates(self) -> Hulls:
        """The hulls in which gates are known."""
        return self if self.of_gates is None else self.of_gates

    @property
    def experts(self) -> Hulls:
        """The hulls in which experts are known."""
        return self if self.of_experts is None else self.of_experts

    def take(self, partitions: NDArray[np.intp]) -> Hulls:
        """Those of some partitions."""
        return Hulls(
            self.common,
            [self.parts[m] for m in partitions],
            None if self.of_gates is None else self.of_gates.take(partitions),
            None if self.of_experts is None else self.of_experts.take(partitions),
        )

    def holding(self, features: FloatArray) -> NDArray[np.bool_]:
        """Which partitions know which rows (S, p), shape (M, S)."""
        inner = self.common.transform @ (features - self.common.center).T
        return np.stack([part.holds(inner) for part in self.parts])

    def columns(self) -> NDArray[np.bool_]:
        """Features whose slopes a partition does not know, alone or beside others', shape (M, p)."""
        p = self.common.transform.shape[1]
        out = np.zeros((len(self.parts), p), dtype=bool)
        deviation = np.sqrt(np.sum(self.common.inverse**2, axis=1))
        for m, part in enumerate(self.parts):
            share = deviation * np.sqrt(np.sum((self.common.transform.T @ part.null) ** 2, axis=1))
            out[m] = share > IDENTIFICATION.named * share.max(initial=1e-300)
        return out

    def average(self, linear: FloatArray, weights: FloatArray, partition: NDArray[np.intp]) -> FloatArray:
        """The weighted average of linear predictors (L, ..., p + 1), each as far as its partition knows it.

        What none of them knows is zero.
        """
        inner = self.common.linear_from_data(linear)
        total, known = np.zeros(inner.shape[1:]), np.zeros((inner.shape[-1],) * 2)
        for m in np.unique(partition):
            projector, rows = self.parts[m].projector(), partition == m
            total += np.tensordot(weights[rows], inner[rows], (0, 0)) @ projector
            known += weights[rows].sum() * projector
        solved = total @ np.linalg.pinv(known, rcond=IDENTIFICATION.varies, hermitian=True)
        return self.common.linear_to_data(solved)


def affine_hulls(known: Sequence[Moments | None], support: SupportSample) -> Hulls | None:
    """The hulls of partitions with these moments; None where each is the whole space.

    A partition without moments is taken to know everything, as is a direction in which nothing varies.
    """
    parts = [part for part in known if part is not None]
    if not parts:
        return None
    pooled = reduce(merge_moments, parts, _of_support(support, parts))
    hulls = _hulls(known, coordinates_from(pooled.of_all_columns, Scaling.none(0)))
    if not any(hull.null.shape[1] for hull in hulls.parts):
        return None
    if pooled.columns.shared:
        return hulls
    own = coordinates_from(pooled, Scaling.none(0))
    return hulls._replace(of_gates=_hulls(known, own.gates), of_experts=_hulls(known, own))


def _hulls(known: Sequence[Moments | None], common: Coordinates) -> Hulls:
    whole = np.zeros((common.size - 1, 0))
    parts = [
        Hull(np.zeros(len(whole)), whole) if part is None else _hull(part, common, whole) for part in known
    ]
    return Hulls(common, parts)


def _of_support(support: SupportSample, known: Sequence[Moments | None]) -> Moments:
    """The moments of rows of a support, with as many responses, all zero, as those that are known."""
    n_outputs = max((each.n_outputs for each in known if each is not None), default=1)
    response = np.zeros((len(support.features), n_outputs))
    return moments(Observations(support.features, response, support.weight, columns=support.columns))


def _hull(part: Moments, common: Coordinates, whole: FloatArray) -> Hull:
    p = common.transform.shape[1]
    center = common.transform @ (part.mean[:p] - common.center)
    scatter = common.transform @ part.scatter[:p, :p] @ common.transform.T
    covariance = scatter / max(part.weight, np.finfo(float).tiny)
    try:
        # Much cheaper than eigenvalues, and the answer where all rows vary in all directions.
        np.linalg.cholesky(covariance - IDENTIFICATION.varies * np.eye(len(covariance)))
        return Hull(center, whole)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        return Hull(center, vectors[:, values <= IDENTIFICATION.varies])


def unidentified(known: Moments) -> NDArray[np.bool_]:
    """Features whose slopes rows with these moments do not identify, alone or beside others', shape (p,)."""
    own = coordinates_from(known, Scaling.none(0))
    out = np.zeros(own.transform.shape[1], dtype=bool)
    for part, columns in ((own, known.columns.experts), (own.gates, known.columns.gates)):
        index = slice(None) if columns is None else list(columns)
        # Of a feature's own slope, what the kept directions leave of it.
        lost = 1.0 - np.sum(part.transform * part.inverse.T, axis=0)
        out[index] |= lost[index] > IDENTIFICATION.named
    return out
