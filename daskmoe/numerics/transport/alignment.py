"""Matching the experts of two models.

Pure NumPy/SciPy. Expert labels of independent fits mean nothing; where they must be matched, the cost is the
logarithm of one and the expected KL divergence between expert densities over a support, and the matching the
optimal assignment.
"""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray

from daskmoe.numerics.base.parameters import FloatArray, MoEParameters, SupportSample
from daskmoe.numerics.families import Family
from daskmoe.numerics.predictive.mixture import linear_predictor


def divergence_matrix(
    first: MoEParameters, second: MoEParameters, support: SupportSample, family: Family
) -> FloatArray:
    """E_x KL(phi_j of ``first``, phi_k of ``second``) over the support, shape (K_first, K_second)."""
    eta_first = linear_predictor(first.coef, support.features)
    eta_second = linear_predictor(second.coef, support.features)
    out = np.empty((len(eta_first), len(eta_second)))
    for j, eta in enumerate(eta_first):
        divergence = family.divergence(eta, first.nuisance[j], eta_second, second.nuisance)
        out[j] = divergence @ support.weight
    return out


def match_experts(
    model: MoEParameters, reference: MoEParameters, support: SupportSample, family: Family
) -> NDArray[np.intp]:
    """Which expert of ``reference`` each of ``model``, which has no more of them, is.

    Where K is the same, ``model.take(np.argsort(match))`` has them in the order of ``reference``.
    """
    cost = divergence_matrix(model, reference, support, family)
    # Divergences span orders of magnitude: unscaled, one hopeless expert decides the whole assignment.
    return np.asarray(scipy.optimize.linear_sum_assignment(np.log1p(cost))[1], dtype=np.intp)
