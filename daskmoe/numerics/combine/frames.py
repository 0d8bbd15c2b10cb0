"""The coordinates of a pilot and of the directions that its sample did not see vary.

Pure NumPy/SciPy. All partitions share the coordinates [1, u] of the pilot's sample. Where the sample lacks a
level, or has collinear columns, there are d directions e beside them, of which other rows may see some: in a
frame of their own, [1, u, v] with v = whitening' e of unit second moment over these rows, so that what they
do not see has no place. A coefficient of v is lift' times those of e, and lift' whitening = 1. Parameters of
all d directions are whole: in them partitions with different frames add up.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from daskmoe.numerics.base.coordinates import Coordinates, Directions
from daskmoe.numerics.base.layout import Layout
from daskmoe.numerics.base.levels import rare_levels
from daskmoe.numerics.base.linalg import solve
from daskmoe.numerics.base.observations import Observations
from daskmoe.numerics.base.packed import packed_size, unpack
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters, Moments
from daskmoe.numerics.base.policies import EXPANSION, IDENTIFICATION
from daskmoe.numerics.families import Family
from daskmoe.numerics.likelihood.statistics import log_likelihood_of

# A guard of the solve alone: without rows there are no slopes.
_RIDGE = 1e-10


class Frame(NamedTuple):
    """The coordinates of some rows: the pilot's, and those of the unseen directions that they do see."""

    coordinates: Coordinates
    # Both (d, r).
    whitening: FloatArray
    lift: FloatArray

    @property
    def added(self) -> int:
        """r, how many directions these rows see and the pilot's sample did not."""
        return int(self.lift.shape[1])

    def whole(self, layout: Layout) -> Layout:
        """The layout with all directions, from that in this frame."""
        more = len(self.lift) - self.added
        return layout._replace(q_gate=layout.q_gate + more, q_expert=layout.q_expert + more)

    def from_whole(self, layout: Layout) -> scipy.sparse.csr_array:
        """The map to parameters in this frame, of that layout, from whole ones."""
        return _in_blocks(layout, self.added, self.lift.T)

    def to_whole(self, layout: Layout) -> scipy.sparse.csr_array:
        """The map to whole parameters that has nothing in what the rows do not see."""
        return _in_blocks(layout, self.added, self.whitening)

    def from_pilot(self, matrix: FloatArray, layout: Layout) -> FloatArray:
        """A form in the pilot's parameters, (P, P), which says nothing of the directions that were added."""
        if self.added == 0:
            return matrix
        select = self._kept(layout)
        return np.asarray(select.T @ matrix @ select)

    def is_added(self, layout: Layout) -> NDArray[np.bool_]:
        """Which parameters are coefficients of directions that were added, shape (P,)."""
        return np.asarray(self._kept(layout).sum(axis=0) == 0).ravel()

    def _kept(self, layout: Layout) -> scipy.sparse.csr_array:
        """The map to the pilot's parameters."""
        return _in_blocks(layout, self.added, np.zeros((0, self.added)))


def without_rare_levels(sample: Observations) -> Observations:
    """A pilot's sample without rows that have a value which hardly any other row has beside the usual one.

    A few rows of a level do not say what each expert makes of it: a gate that gives them all to one expert
    fits them as well, and no ascent comes back from there. Without them the sample does not see the level,
    and the partitions, which have more of its rows, say what it is worth.
    """
    levels = rare_levels(sample.features)
    counts = [len(level.rows) for level in levels]
    kept = np.cumsum(counts) <= EXPANSION.most_rare_rows * sample.n_rows
    dropped = [level.rows for level, within in zip(levels, kept, strict=True) if within]
    if not dropped:
        return sample
    return sample.take(np.setdiff1d(np.arange(sample.n_rows), np.concatenate(dropped)))


def frame_of(coordinates: Coordinates, unseen: Directions, rows: Moments) -> Frame:
    """The frame of the rows with these moments."""
    p = len(rows.mean) - 1
    covariance = rows.scatter[:p, :p] / max(rows.weight, np.finfo(float).tiny)
    shift = unseen.transform @ (rows.mean[:p] - coordinates.center)
    # About the sample's value: rows that all have another one see the direction as well.
    second = unseen.transform @ covariance @ unseen.transform.T + np.outer(shift, shift)
    whitening, lift = _whitened(second, unseen.least)
    if lift.shape[1] == 0:
        return Frame(coordinates, whitening, lift)
    widened = coordinates._replace(
        transform=np.concatenate([coordinates.transform, whitening.T @ unseen.transform]),
        inverse=np.concatenate([coordinates.inverse, unseen.inverse @ lift], axis=1),
    )
    return Frame(widened, whitening, lift)


def no_frame(coordinates: Coordinates, n_unseen: int = 0) -> Frame:
    """The frame that adds nothing, of so many unseen directions."""
    return Frame(coordinates, np.zeros((n_unseen, 0)), np.zeros((n_unseen, 0)))


def shifted_to_residuals(
    rows: Observations, parameters: MoEParameters, frame: Frame, family: Family
) -> MoEParameters:
    """Parameters whose experts share the slopes that the residuals have in the directions of a frame.

    As they are, where that is likelier.
    """
    coef = parameters.coef.copy()
    coef[..., -frame.added :] += _residual_slopes(rows, parameters, frame, family)
    starts = [parameters, parameters._replace(coef=coef)]
    values = [log_likelihood_of(start, rows.blocks(frame.coordinates), family) for start in starts]
    return starts[int(np.argmax(values))]


def _residual_slopes(
    rows: Observations, parameters: MoEParameters, frame: Frame, family: Family
) -> FloatArray:
    """The regression of the mixture's working residuals on the directions that a frame adds, shape (C, r).

    Experts that rows are far from all by the effect of a direction share it: their own density is no guide to
    whose such rows are. The directions have second moments of one, so that they need no Gram matrix.
    """
    n_predictors = parameters.coef.shape[1]
    pull, curvature = np.zeros((n_predictors, frame.added)), np.zeros(packed_size(n_predictors))
    for block in rows.blocks(frame.coordinates):
        eta = np.tensordot(parameters.coef, block.design, (-1, 0))
        logits = parameters.gate @ block.design
        own = np.exp(logits - scipy.special.logsumexp(logits, axis=0))
        if block.weight is not None:
            own *= block.weight
        residuals = np.empty_like(eta)
        weights = family.working(block.response, eta, residuals)
        pull += np.einsum("kb,kcb->cb", own, residuals) @ block.design[-frame.added :].T
        if weights is None:
            curvature += own.sum() * np.eye(n_predictors)[np.triu_indices(n_predictors)]
        else:
            curvature += np.einsum("kb,kpb->p", own, weights)
    return solve(unpack(curvature), pull.T, _RIDGE).T


def _whitened(second: FloatArray, least: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The whitening and lift of directions with these second moments."""
    diagonal = np.diag(second)
    seen = np.flatnonzero(diagonal > least)
    scale = np.sqrt(diagonal[seen])
    values, vectors = np.linalg.eigh(second[np.ix_(seen, seen)] / np.outer(scale, scale))
    kept = values > IDENTIFICATION.varies
    vectors, root = vectors[:, kept], np.sqrt(values[kept])
    whitening, lift = np.zeros((2, len(second), len(root)))
    whitening[seen] = vectors / root / scale[:, None]
    lift[seen] = vectors * root * scale[:, None]
    return whitening, lift


def _in_blocks(layout: Layout, n_added: int, added: FloatArray) -> scipy.sparse.csr_array:
    """The map of packed parameters that changes the coefficients of added directions, all by ``added``.

    ``layout`` is that of the parameters in the frame, which ends each vector with ``n_added`` of these.
    """
    kept = layout.q_gate - n_added
    vector = np.zeros((kept + added.shape[0], kept + added.shape[1]))
    vector[:kept, :kept], vector[kept:, kept:] = np.eye(kept), added
    nuisances = np.eye(layout.n_experts * layout.n_nuisances)
    blocks = [vector] * layout.vectors + [nuisances] * (layout.n_nuisances > 0)
    return scipy.sparse.csr_array(scipy.sparse.block_diag(blocks))
