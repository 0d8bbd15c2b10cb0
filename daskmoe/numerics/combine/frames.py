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


class Added(NamedTuple):
    """Of the d directions that the pilot's sample did not see, those that some rows do see."""

    # Both (d, r).
    whitening: FloatArray
    lift: FloatArray

    @property
    def size(self) -> int:
        """r, how many directions these rows see and the pilot's sample did not."""
        return int(self.lift.shape[1])

    @property
    def missing(self) -> int:
        """How many directions these rows do not see either."""
        return len(self.lift) - self.size

    @classmethod
    def nothing(cls, n_unseen: int) -> Added:
        """None of so many."""
        return cls(np.zeros((n_unseen, 0)), np.zeros((n_unseen, 0)))


class Frame(NamedTuple):
    """The coordinates of some rows: the pilot's, and those of the unseen directions that they do see."""

    coordinates: Coordinates
    # Among the experts' features and among the gates'.
    experts: Added
    gates: Added

    @property
    def added(self) -> int:
        """How many directions of the experts or of the gates were added."""
        return max(self.experts.size, self.gates.size)

    @property
    def n_unseen(self) -> int:
        """How many directions of the experts or of the gates the pilot's sample did not see."""
        return max(len(self.experts.lift), len(self.gates.lift))

    def whole(self, layout: Layout) -> Layout:
        """The layout with all directions, from that in this frame."""
        return layout._replace(
            q_gate=layout.q_gate + self.gates.missing, q_expert=layout.q_expert + self.experts.missing
        )

    def from_whole(self, layout: Layout) -> scipy.sparse.csr_array:
        """The map to parameters in this frame, of that layout, from whole ones."""
        return self._in_blocks(layout, self.gates.lift.T, self.experts.lift.T)

    def to_whole(self, layout: Layout) -> scipy.sparse.csr_array:
        """The map to whole parameters that has nothing in what the rows do not see."""
        return self._in_blocks(layout, self.gates.whitening, self.experts.whitening)

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
        return self._in_blocks(layout, np.zeros((0, self.gates.size)), np.zeros((0, self.experts.size)))

    def _in_blocks(self, layout: Layout, gates: FloatArray, experts: FloatArray) -> scipy.sparse.csr_array:
        """The map of packed parameters that changes the coefficients of added directions by these matrices.

        ``layout`` is that of the parameters in the frame, which ends each vector with the added directions.
        """
        gate = _beside_kept(layout.q_gate - self.gates.size, gates)
        own = _beside_kept(layout.q_expert - self.experts.size, experts)
        nuisances = np.eye(layout.n_experts * layout.n_nuisances)
        blocks = [gate] * layout.free_gates + [own] * (layout.vectors - layout.free_gates)
        return scipy.sparse.csr_array(
            scipy.sparse.block_diag([*blocks, *[nuisances] * (layout.n_nuisances > 0)])
        )


def _beside_kept(kept: int, added: FloatArray) -> FloatArray:
    """The map of one vector of parameters, which leaves all but the last as they are."""
    vector = np.zeros((kept + added.shape[0], kept + added.shape[1]))
    vector[:kept, :kept], vector[kept:, kept:] = np.eye(kept), added
    return vector


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
    experts = _added(coordinates, unseen, rows)
    if coordinates.gating is None:
        return Frame(_widened(coordinates, unseen, experts), experts, experts)
    gates = _added(coordinates.gates, unseen.gates, rows)
    gating = _widened(coordinates.gates, unseen.gates, gates)
    return Frame(_widened(coordinates, unseen, experts)._replace(gating=gating), experts, gates)


def _added(coordinates: Coordinates, unseen: Directions, rows: Moments) -> Added:
    """The directions that the rows with these moments see."""
    p = rows.n_features
    covariance = rows.scatter[:p, :p] / max(rows.weight, np.finfo(float).tiny)
    shift = unseen.transform @ (rows.mean[:p] - coordinates.center)
    # About the sample's value: rows that all have another one see the direction as well.
    second = unseen.transform @ covariance @ unseen.transform.T + np.outer(shift, shift)
    return Added(*_whitened(second, unseen.least))


def _widened(coordinates: Coordinates, unseen: Directions, added: Added) -> Coordinates:
    """The coordinates with these directions behind their own."""
    if added.size == 0:
        return coordinates
    return coordinates._replace(
        transform=np.concatenate([coordinates.transform, added.whitening.T @ unseen.transform]),
        inverse=np.concatenate([coordinates.inverse, unseen.inverse @ added.lift], axis=1),
    )


def no_frame(coordinates: Coordinates, unseen: Directions) -> Frame:
    """The frame that adds nothing of some unseen directions."""
    experts, gates = (Added.nothing(len(each.transform)) for each in (unseen, unseen.gates))
    return Frame(coordinates, experts, gates)


def shifted_to_residuals(
    rows: Observations, parameters: MoEParameters, frame: Frame, family: Family
) -> MoEParameters:
    """Parameters whose experts share the slopes that the residuals have in the directions of a frame.

    As they are, where that is likelier.
    """
    if frame.experts.size == 0:
        return parameters
    coef = parameters.coef.copy()
    coef[..., -frame.experts.size :] += _residual_slopes(rows, parameters, frame, family)
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
    n_added, n_predictors = frame.experts.size, parameters.coef.shape[1]
    pull, curvature = np.zeros((n_predictors, n_added)), np.zeros(packed_size(n_predictors))
    for block in rows.blocks(frame.coordinates):
        eta = np.tensordot(parameters.coef, block.design, (-1, 0))
        eta += 0.0 if block.offset is None else block.offset
        logits = parameters.gate @ block.gate_design
        own = np.exp(logits - scipy.special.logsumexp(logits, axis=0))
        if block.weight is not None:
            own *= block.weight
        residuals = np.empty_like(eta)
        weights = family.working(block.response, eta, parameters.nuisance, residuals)
        pull += np.einsum("kb,kcb->cb", own, residuals) @ block.design[-n_added:].T
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
