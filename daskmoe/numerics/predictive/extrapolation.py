"""How far rows are from those of a fit, in its standard deviations.

Pure NumPy. The Mahalanobis distance of x from the mean of the rows is the largest |a'(x - mean)| / sd(a'x)
over all linear combinations a'x of the features: how many standard deviations x is off in the direction in
which it is strangest. Where the rows of the fit do not vary, as in a constant or collinear column, nothing is
known of a row that does: its distance is infinite.
"""

from __future__ import annotations

import numpy as np

from daskmoe.numerics.base.coordinates import Coordinates
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.numerics.base.policies import IDENTIFICATION
from daskmoe.numerics.predictive.mixture import Features


def distance(coordinates: Coordinates, features: Features) -> FloatArray:
    """Distances (n,) of rows (n, p) from the center of whitening coordinates."""
    away = np.asarray(features, np.float64) - coordinates.center
    inner = away @ coordinates.transform.T
    found: FloatArray = np.sqrt(np.einsum("nr,nr->n", inner, inner))
    if len(coordinates.transform) < len(coordinates.center):
        beside = np.abs(away - inner @ coordinates.inverse.T)
        found[(beside > _tolerance(coordinates)).any(axis=1)] = np.inf
    return found


def _tolerance(coordinates: Coordinates) -> FloatArray:
    """How far a row may be off the plane of the fit's rows by rounding, of single precision too."""
    deviation = np.sqrt(np.einsum("pr,pr->p", coordinates.inverse, coordinates.inverse))
    rounding = 10.0 * float(np.finfo(np.float32).eps) * np.abs(coordinates.center)
    return np.asarray(IDENTIFICATION.inside * deviation + rounding)
