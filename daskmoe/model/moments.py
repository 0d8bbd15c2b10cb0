"""The moments of the rows that a model was fitted to, as part of its diagnostics: what its rows identify."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from daskmoe.errors import InvalidDataError
from daskmoe.numerics.base.parameters import ALL_SHARED, Columns, FloatArray, Moments
from daskmoe.rows import RowSchema
from daskmoe.rows.names import BOUND, COLUMN, OTHER_COLUMN, ROW_MEAN, ROW_SCATTER, ROW_WEIGHT, TARGET_RANGE

# Attribute of the scatter: how many columns are the target's, where they are several.
_N_OUTPUTS = "n_outputs"


def label_moments(moments: Moments, rows: RowSchema) -> xr.Dataset:
    """Weight, means and scatter of the features and, last, the target or its outputs."""
    targets = [f"{rows.target}[{output}]" for output in rows.outputs] or [rows.target]
    columns = np.array([*rows.feature_labels, *targets], dtype=np.str_)
    text = "weighted sum over the rows of the products of two columns' deviations from their means"
    variables: dict[str, Any] = {
        ROW_WEIGHT: ((), moments.weight, {"long_name": "sum of the weights of these rows"}),
        ROW_MEAN: (COLUMN, moments.mean, {"long_name": "mean of the rows by column"}),
        ROW_SCATTER: ((COLUMN, OTHER_COLUMN), moments.scatter, {"long_name": text}),
    }
    if moments.n_outputs > 1:
        variables[ROW_SCATTER][2][_N_OUTPUTS] = str(moments.n_outputs)
    return xr.Dataset(variables, {COLUMN: columns})


def moments_from(diagnostics: xr.Dataset | None, columns: Columns = ALL_SHARED) -> Moments | None:
    """The moments in a model's diagnostics; None where it has none, as one saved by daskmoe 0.1.0.

    Of features that are the gates' and the experts' by these columns.
    """
    if diagnostics is None or ROW_SCATTER not in diagnostics:
        return None
    scatter = diagnostics[ROW_SCATTER].transpose(COLUMN, OTHER_COLUMN).values
    n_outputs = int(diagnostics[ROW_SCATTER].attrs.get(_N_OUTPUTS, 1))
    return Moments(float(diagnostics[ROW_WEIGHT]), diagnostics[ROW_MEAN].values, scatter, columns, n_outputs)


def known_moments(diagnostics: xr.Dataset | None) -> Moments:
    """The moments of the rows of a fit; `InvalidDataError` where a model does not have them."""
    moments = moments_from(diagnostics)
    if moments is None:
        raise InvalidDataError(
            "extrapolation: expected a model that knows the moments of its rows, got one that has none, as "
            "one made from parameters. Refine it: daskmoe.refine(model, data, rounds=1)."
        )
    return moments


def target_range(diagnostics: xr.Dataset | None) -> tuple[FloatArray, FloatArray]:
    """The lowest and the highest target of the rows of a fit, of several outputs (O,) each.

    `InvalidDataError` where that is not known.
    """
    if diagnostics is None or TARGET_RANGE not in diagnostics:
        raise InvalidDataError(
            "clip: expected a model that knows the range of its target, got one that does not: no response "
            "left the partitions, or it was aggregated or made from parameters. Use prediction.clip(a, b) or "
            "refine it: daskmoe.refine(model, data, rounds=1)."
        )
    low, high = diagnostics[TARGET_RANGE].transpose(BOUND, ...).values
    return low, high
