"""One expert: weighted least squares from moments alone, whoever they were summed by."""

from __future__ import annotations

import numpy as np

from daskmoe.numerics.base.coordinates import coordinates_from
from daskmoe.numerics.base.parameters import MoEParameters, Moments
from daskmoe.numerics.likelihood.e_step import VARIANCE_FLOOR


def least_squares(moments: Moments) -> MoEParameters:
    """The K = 1 model of all rows with these moments.

    coef minimizes sum w (y - coef'[1, x])^2, of minimum norm in the whitened coordinates where it is not
    unique; the variance is the weighted mean of the squared residuals.
    """
    coordinates = coordinates_from(moments)
    cross = coordinates.transform @ moments.scatter[:-1, -1] / (moments.weight * coordinates.scale)
    total = moments.scatter[-1, -1] / (moments.weight * coordinates.scale**2)
    variance = max(float(total - cross @ cross), VARIANCE_FLOOR)
    inner = MoEParameters(np.zeros((1, coordinates.size)), np.append(0.0, cross)[None], np.array([variance]))
    return coordinates.to_data(inner)
