"""What a model of several outputs says of rows: means, intervals and draws with the outputs' dimension."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskmoe.model.blockwise import Evaluation
from daskmoe.model.prediction import Limits, draw_by, evaluate, match_data, total_log_density, within
from daskmoe.numerics.base.parameters import FloatArray, Mixture
from daskmoe.numerics.families import Family
from daskmoe.numerics.predictive.draws import sample_response
from daskmoe.numerics.predictive.mixture import Features, block_rows
from daskmoe.numerics.predictive.outputs import output_means, output_quantiles
from daskmoe.options import OnError, RandomState, check_share
from daskmoe.rows import Data, RowSchema
from daskmoe.rows.computing import computed
from daskmoe.rows.lazily import explained_sums
from daskmoe.rows.names import LOWER, UPPER
from daskmoe.rows.variables import output_labels

# The bounds of an interval, all outputs of one after those of the other.
_BOUNDS = "bound of an output"


def mean(
    parameters: Mixture,
    family: Family,
    data: Data,
    rows: RowSchema,
    limits: Limits | None,
    how: Evaluation,
) -> xr.DataArray:
    """E[y_o|x] of every row and output, kept within ``limits`` where there are some, the outputs last."""
    dataset, _ = match_data(data, rows)
    function = within(limits, partial(output_means, parameters, family))
    found = _evaluated(function, parameters, family, dataset, rows, how)
    return with_output_labels(found, dataset, rows)


def interval(
    parameters: Mixture, family: Family, data: Data, rows: RowSchema, level: float, how: Evaluation
) -> xr.Dataset:
    """The central predictive interval of every output, as variables ``lower`` and ``upper``."""
    level = check_share("level", level)
    dataset, _ = match_data(data, rows)
    found = evaluate(
        partial(_stacked_quantiles, parameters, family, (0.5 - 0.5 * level, 0.5 + 0.5 * level)),
        dataset,
        rows,
        name=rows.target,
        attrs=rows.target_attrs,
        leading=(_BOUNDS, 2 * family.n_outputs),
        block_size=_block_size(parameters, family),
        how=how,
    )
    bounds: dict[str, xr.DataArray] = {}
    for i, name in enumerate((LOWER, UPPER)):
        own = found.isel({_BOUNDS: slice(i * family.n_outputs, (i + 1) * family.n_outputs)})
        bounds[name] = with_output_labels(
            own.drop_vars(_BOUNDS).rename({_BOUNDS: str(rows.output_dim)}), dataset, rows
        )
    return xr.Dataset(bounds, attrs={"level": level})


def draw(
    parameters: Mixture,
    family: Family,
    data: Data,
    rows: RowSchema,
    random_state: RandomState,
    how: Evaluation,
) -> xr.DataArray:
    """Draw all outputs given x for every row, from one expert."""
    dataset, _ = match_data(data, rows)
    size, leading = _block_size(parameters, family), (str(rows.output_dim), family.n_outputs)
    function = partial(_drawn, parameters, family)
    return with_output_labels(
        draw_by(function, dataset, rows, random_state, size, how, leading), dataset, rows
    )


@explained_sums()
def r_squared(parameters: Mixture, family: Family, data: Data, rows: RowSchema, on_error: OnError) -> float:
    """The mean over the outputs of the share of its variance that E[y_o|x] explains."""
    # Says what is wrong with the rows, if anything is.
    total_log_density(parameters, family, data, rows, on_error)
    dataset, _ = match_data(data, rows, with_target=True)
    function = partial(_squared_errors, parameters, family)
    found = _evaluated(function, parameters, family, dataset, rows, Evaluation("skip"), with_target=True)
    # Coordinates say nothing here, and need not be unique.
    errors, target = found.variable, dataset.variables[rows.target].astype(np.float64)
    complete, over = errors.notnull(), [dim for dim in errors.dims if dim != rows.output_dim]
    used = target.where(complete)  # type: ignore[no-untyped-call]
    spread = used.var(over, skipna=True) * complete.sum(over)
    sums = computed(xr.Dataset({"errors": errors.sum(over, skipna=True), "spread": spread}))
    left, whole = sums["errors"].values, sums["spread"].values
    constant = whole == 0
    explained = 1.0 - left / np.where(constant, 1.0, whole)
    return float(np.mean(np.where(constant, left == 0, explained)))


def _evaluated(
    function: Any,
    parameters: Mixture,
    family: Family,
    dataset: xr.Dataset,
    rows: RowSchema,
    how: Evaluation,
    *,
    with_target: bool = False,
) -> xr.DataArray:
    """A function of rows that gives (O, n), the outputs first."""
    return evaluate(
        function,
        dataset,
        rows,
        name=rows.target,
        attrs=rows.target_attrs,
        leading=(str(rows.output_dim), family.n_outputs),
        with_target=with_target,
        block_size=_block_size(parameters, family),
        how=how,
    )


def with_output_labels(found: xr.DataArray, dataset: xr.Dataset, rows: RowSchema) -> xr.DataArray:
    """With the labels of the outputs, as the data have them or else as the fit had; their dimension last."""
    dim = str(rows.output_dim)
    labels: Any = np.asarray(rows.outputs)
    if dim in dataset.coords and output_labels(dataset, rows.target, dim) == rows.outputs:
        labels = dataset.variables[dim]
    return found.assign_coords({dim: labels}).transpose(..., dim)


def _stacked_quantiles(
    parameters: Mixture, family: Family, probabilities: tuple[float, ...], features: Features
) -> FloatArray:
    found = output_quantiles(parameters, family, features, probabilities)
    return found.reshape(-1, found.shape[-1])


def _drawn(parameters: Mixture, family: Family, features: FloatArray, rng: np.random.Generator) -> FloatArray:
    return sample_response(parameters, family, features, rng).T


def _squared_errors(
    parameters: Mixture, family: Family, features: Features, response: NDArray[Any]
) -> FloatArray:
    return np.asarray((response.T - output_means(parameters, family, features)) ** 2)


def _block_size(parameters: Mixture, family: Family) -> int:
    return block_rows(parameters.n_experts * family.n_outputs)
