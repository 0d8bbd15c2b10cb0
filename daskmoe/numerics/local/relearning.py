"""Effects of rare levels, learned again from the few rows that have them.

Pure NumPy. While the slope of a level is missing, its rows are far from the expert that they belong to, so
that responsibilities are no guide to whose they are: an ascent gives them all to one expert, by a gate that
tells the level, and stays there. What the mixture's mean leaves of them tells the slope that experts share,
and from there EM on these rows alone, the gates being as without the level, finds each expert's own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy

from daskmoe.numerics.base.levels import RareLevel, rare_levels
from daskmoe.numerics.base.linalg import solve
from daskmoe.numerics.base.observations import Observations
from daskmoe.numerics.base.packed import unpack
from daskmoe.numerics.base.parameters import FloatArray, MoEParameters
from daskmoe.numerics.base.policies import LEVELS
from daskmoe.numerics.families import Family
from daskmoe.numerics.predictive.mixture import linear_predictor, log_softmax

# A guard of the solve alone: without rows an expert has the shared slope.
_RIDGE = 1e-10


def with_levels_relearned(
    rows: Observations, parameters: MoEParameters, family: Family
) -> MoEParameters | None:
    """Parameters, in the data's units, with new slopes of rare levels whose rows are likelier so.

    Their gates do not tell these levels. None if no level's rows are likelier.
    """
    changed = None
    own = rows.columns.experts
    for level in rare_levels(rows.features):
        # One row is fitted by any expert that it is given to.
        if len(level.rows) > 1 and (own is None or level.feature in own):
            known = _LevelRows.of(rows, level, parameters, family)
            slopes = known.learned()
            if known.value(slopes) > known.before + LEVELS.gain:
                changed = parameters if changed is None else changed
                changed = _with_slopes(changed, level, slopes)
    return changed


def _with_slopes(parameters: MoEParameters, level: RareLevel, slopes: FloatArray) -> MoEParameters:
    """Parameters with these slopes (K, C) of a level, of the same value elsewhere."""
    gate, coef = parameters.gate.copy(), parameters.coef.copy()
    column = level.feature + 1
    gate[:, 0] += level.usual * gate[:, column]
    coef[..., 0] += level.usual * (coef[..., column] - slopes)
    gate[:, column], coef[..., column] = 0.0, slopes
    return MoEParameters(gate, coef, parameters.nuisance)


class _LevelRows(NamedTuple):
    """The B rows of a level under a model that does not tell it."""

    # (K, B): Logarithms of the gates.
    gates: FloatArray
    # (K, C, B)
    eta: FloatArray
    # (K, D)
    nuisance: FloatArray
    # (B,): How far the level is from its usual value.
    distance: FloatArray
    # (B,) or (O, B)
    response: FloatArray
    weight: FloatArray
    family: Family
    # Their log-likelihood under the model that tells it.
    before: float

    @classmethod
    def of(
        cls, rows: Observations, level: RareLevel, parameters: MoEParameters, family: Family
    ) -> _LevelRows:
        """The rows, with what the model makes of them."""
        own = rows.take(level.rows)
        features = np.asarray(own.features, dtype=np.float64)
        weight = np.ones(own.n_rows) if own.weight is None else own.weight.astype(np.float64)
        distance = features[:, level.feature] - level.usual
        gates = linear_predictor(parameters.gate, features)
        eta = linear_predictor(parameters.coef, features)
        response = np.asarray(own.response, dtype=np.float64).T
        told = cls(log_softmax(gates), eta, parameters.nuisance, distance, response, weight, family, 0.0)
        before = told.value(np.zeros(eta.shape[:2]))
        column = level.feature + 1
        gates = gates - parameters.gate[:, column, None] * distance
        eta = eta - parameters.coef[..., column, None] * distance
        return told._replace(gates=log_softmax(gates), eta=eta, before=before)

    def learned(self) -> FloatArray:
        """Slopes (K, C): one for all experts, then those of EM from there."""
        slopes: FloatArray = np.zeros(self.eta.shape[:2])
        gates = np.exp(self.gates)
        for _ in range(LEVELS.shared_steps):
            pull, gram = self._normal_equations(slopes, gates)
            slopes = slopes + solve(gram.sum(axis=0), pull.sum(axis=0), _RIDGE)
        for _ in range(LEVELS.own_steps):
            joint = self._joint(slopes)
            memberships = np.exp(joint - scipy.special.logsumexp(joint, axis=0))
            pull, gram = self._normal_equations(slopes, memberships)
            slopes = slopes + solve(gram, pull, _RIDGE)
        return np.asarray(slopes)

    def value(self, slopes: FloatArray) -> float:
        """The log-likelihood with such slopes; that of slopes without meaning is lower than any."""
        value = float(scipy.special.logsumexp(self._joint(slopes), axis=0) @ self.weight)
        return value if np.isfinite(value) else -np.inf

    def _joint(self, slopes: FloatArray) -> FloatArray:
        eta = self.eta + slopes[..., None] * self.distance
        return np.asarray(self.gates + self.family.log_density(self.response, eta, self.nuisance))

    def _normal_equations(self, slopes: FloatArray, memberships: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Of each expert's working regression on the level: (K, C) and (K, C, C)."""
        eta = self.eta + slopes[..., None] * self.distance
        residuals = np.empty_like(eta)
        curvature = self.family.working(self.response, eta, self.nuisance, residuals)
        own = memberships * self.weight * self.distance
        pull = np.einsum("kb,kcb->kc", own, residuals)
        if curvature is None:
            return pull, (own @ self.distance)[:, None, None] * np.eye(eta.shape[1])
        packed = np.einsum("kb,kpb->kp", own * self.distance, curvature)
        return pull, np.asarray(unpack(packed), dtype=np.float64)
