"""Where the experts of a model rule: the rows of some data that each of them speaks for."""

from __future__ import annotations

from typing import Final

import numpy as np
import xarray as xr

from daskmoe.model import classes, outputs, prediction
from daskmoe.model.blockwise import Evaluation
from daskmoe.numerics.base.parameters import FloatArray, Mixture
from daskmoe.numerics.families import Family
from daskmoe.numerics.predictive.mixture import Features
from daskmoe.rows import Data, RowSchema
from daskmoe.rows.computing import computed
from daskmoe.rows.lazily import explained_sums
from daskmoe.rows.names import EXPERT, FEATURE

# The data may have a dimension of the name that the result has.
_COLUMN: Final = "feature column"
_COMPLETE: Final = Evaluation("skip")


@explained_sums()
def profile(parameters: Mixture, family: Family, data: Data, rows: RowSchema) -> xr.Dataset:
    """The share of the complete rows of each expert, and the means and deviations of their features.

    Rows count by their responsibilities, or by the gates where there is no target; with a target there is
    R2, or of labels the accuracy, too. Three passes over lazy data: the middle of all rows, the experts' rows
    about it, the residuals.
    """
    dataset, _ = prediction.match_data(data, rows)
    with_target = rows.target in dataset.variables
    if with_target:
        weight = prediction.responsibilities(parameters, family, dataset, rows, _COMPLETE)
    else:
        weight = prediction.gating_probabilities(parameters, dataset, rows, _COMPLETE)
    labels = list(rows.feature_labels)
    columns = prediction.evaluate(
        _columns, dataset, rows, name="feature", attrs={}, leading=(_COLUMN, len(labels)), how=_COMPLETE
    )
    dims = [dim for dim in weight.dims if dim != EXPERT]
    middle = computed(columns.mean(dims, skipna=True))
    counted, around = weight.fillna(0.0), (columns - middle).fillna(0.0)
    sums = computed(
        xr.Dataset(
            {
                "mass": counted.sum(dims),
                "first": xr.dot(counted, around, dim=dims),
                "second": xr.dot(counted, around**2, dim=dims),
            }
        )
    )
    first, second = sums["first"] / sums["mass"], sums["second"] / sums["mass"]
    found = xr.Dataset(
        {
            "share": sums["mass"] / sums["mass"].sum(),
            "feature_mean": middle + first,
            "feature_deviation": np.sqrt((second - first**2).clip(0.0)),
        }
    )
    if with_target:
        several = outputs.r_squared if family.by_predictor else prediction.r_squared
        score = classes.accuracy if family.nominal else several
        name = "accuracy" if family.nominal else "r2"
        found[name] = score(parameters, family, dataset, rows, "skip")
    return found.rename({_COLUMN: FEATURE}).assign_coords({FEATURE: labels}).transpose(EXPERT, FEATURE)


def _columns(features: Features) -> FloatArray:
    return np.asarray(features.T, dtype=np.float64)
