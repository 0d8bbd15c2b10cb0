"""Features of which nearly all rows have one value, as dummies of rare levels. Pure NumPy."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.linalg import spread_evenly
from daskmoe.numerics.base.policies import LEVELS

Array = NDArray[np.floating[Any]]


class RareLevel(NamedTuple):
    """A feature with its usual value, and the rows that have another."""

    feature: int
    usual: float
    rows: NDArray[np.intp]


def rare_levels(features: Array) -> list[RareLevel]:
    """Those of ``features`` (n, p) that some rows have, but only a small share of them; the rarest first."""
    n_rows = len(features)
    looked = features[spread_evenly(n_rows, LEVELS.looked_at)]
    usual = np.median(looked, axis=0)
    # What most rows have, most of any rows have: only there are all of them counted.
    mostly = np.mean(looked == usual, axis=0) > LEVELS.mostly
    found = []
    for feature in np.flatnonzero(mostly).tolist():
        rows = np.flatnonzero(features[:, feature] != usual[feature])
        if 0 < len(rows) < LEVELS.rare * n_rows:
            found.append(RareLevel(feature, float(usual[feature]), rows))
    return sorted(found, key=lambda level: len(level.rows))
