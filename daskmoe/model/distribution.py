"""The distribution of the target given the features, row by row: its quantiles, and P(Y <= y)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from daskmoe.errors import InvalidDataError, InvalidOptionError
from daskmoe.model.blockwise import Evaluation
from daskmoe.model.outputs import with_output_labels
from daskmoe.model.prediction import evaluate, match_data
from daskmoe.numerics.base.parameters import FloatArray, Mixture
from daskmoe.numerics.families import Family
from daskmoe.numerics.predictive.mixture import Features, block_rows, mixture_cdf
from daskmoe.numerics.predictive.outputs import output_cdf, output_quantiles
from daskmoe.numerics.predictive.quantiles import mixture_quantiles
from daskmoe.options import check_share
from daskmoe.rows import Data, RowSchema

QUANTILE = "quantile"
# The dimension of several y at which the distribution is asked for.
VALUE = "value"
# All outputs of one quantile or value after those of the one before.
_OF_OUTPUTS = "of an output"


class Distribution(NamedTuple):
    """Row functions of a mixture, with the outputs of several in front of the rows."""

    # Of features and probabilities: (Q, n), of several outputs (Q, O, n).
    quantiles: Callable[[Features, Sequence[float]], FloatArray]
    # Of features and a response: (n,), of several outputs (O, n).
    cdf: Callable[[Features, FloatArray], FloatArray]
    # Experts, and how many numbers each has for a row.
    width: int
    rows: RowSchema

    @property
    def n_outputs(self) -> int:
        """How many results a row has."""
        return max(len(self.rows.outputs), 1)


def distribution_of(parameters: Mixture, family: Family, rows: RowSchema) -> Distribution:
    """That of a mixture of experts."""
    quantiles, cdf = (
        (mixture_quantiles, mixture_cdf) if rows.output_dim is None else (output_quantiles, output_cdf)
    )
    return Distribution(
        partial(quantiles, parameters, family),
        partial(cdf, parameters, family),
        parameters.n_experts * max(len(rows.outputs), 1),
        rows,
    )


def quantile(
    of: Distribution, data: Data, probability: float | Sequence[float], how: Evaluation
) -> xr.DataArray:
    """The quantiles of every row, those of several probabilities along a first dimension ``quantile``."""
    probabilities = [check_share("q", each) for each in _numbers("q", probability)]
    found = _over(
        partial(_quantiles, of.quantiles, probabilities),
        of,
        data,
        QUANTILE,
        probabilities,
        how,
        name=of.rows.target,
        attrs=of.rows.target_attrs,
    )
    return found.isel({QUANTILE: 0}, drop=True) if np.ndim(probability) == 0 else found


def cdf(
    of: Distribution, data: Data, y: float | Sequence[float] | xr.DataArray | None, how: Evaluation
) -> xr.DataArray:
    """P(Y <= y|x) of every row, at its own target or at the y given."""
    named = {
        "name": "cdf",
        "attrs": {
            "long_name": f"probability that {of.rows.target} is not above the value, given the features",
            "units": "1",
        },
    }
    if y is None or isinstance(y, xr.DataArray):
        dataset, rows = match_data(data, of.rows, with_target=y is None)
        if y is not None:
            dataset = _with_target(dataset, rows, y)
        return _of_response(of, dataset, how, **named)
    values = _numbers("y", y)
    found = _over(partial(_reached, of.cdf, values), of, data, VALUE, values, how, **named)
    return found.isel({VALUE: 0}, drop=True) if np.ndim(y) == 0 else found


def _of_response(of: Distribution, dataset: xr.Dataset, how: Evaluation, **named: Any) -> xr.DataArray:
    leading = None if of.rows.output_dim is None else (str(of.rows.output_dim), of.n_outputs)
    found = evaluate(
        of.cdf,
        dataset,
        of.rows,
        leading=leading,
        with_target=True,
        block_size=block_rows(of.width),
        how=how,
        **named,
    )
    return found if leading is None else with_output_labels(found, dataset, of.rows)


def _over(
    function: Callable[[Features], FloatArray],
    of: Distribution,
    data: Data,
    dim: str,
    labels: Sequence[float],
    how: Evaluation,
    **named: Any,
) -> xr.DataArray:
    """A function of features for each of the ``labels``, which become the first dimension ``dim``."""
    dataset, _ = match_data(data, of.rows)
    if dim in dataset.coords:
        raise InvalidDataError(
            f"data: expected no coordinate {dim!r}, a name of the result's own; rename it or drop it."
        )
    own = dim if of.rows.output_dim is None else _OF_OUTPUTS
    found = evaluate(
        function,
        dataset,
        of.rows,
        leading=(own, len(labels) * of.n_outputs),
        block_size=block_rows(of.width),
        how=how,
        **named,
    )
    if own != dim:
        parts = np.split(np.arange(found.sizes[own]), len(labels))
        outputs = [found.isel({own: part}).drop_vars(own) for part in parts]
        labelled = [
            with_output_labels(part.rename({own: str(of.rows.output_dim)}), dataset, of.rows)
            for part in outputs
        ]
        found = xr.concat(labelled, dim, coords="minimal", compat="override", join="override")
    return found.assign_coords({dim: np.asarray(labels, np.float64)})


def _quantiles(
    quantiles: Callable[[Features, Sequence[float]], FloatArray],
    probabilities: Sequence[float],
    features: Features,
) -> FloatArray:
    found = quantiles(features, probabilities)
    return found.reshape(-1, found.shape[-1])


def _reached(
    cdf: Callable[[Features, FloatArray], FloatArray], values: Sequence[float], features: Features
) -> FloatArray:
    parts = [np.atleast_2d(cdf(features, np.full(len(features), value))) for value in values]
    return np.concatenate(parts)


def _with_target(dataset: xr.Dataset, rows: RowSchema, y: xr.DataArray) -> xr.Dataset:
    """The data with the y given in the place of the target, along the dimensions that it lacks too."""
    dims = [*rows.sample_dims, *([] if rows.output_dim is None else [str(rows.output_dim)])]
    known = {dim: dataset.sizes.get(dim, len(rows.outputs)) for dim in dims}
    if any(known.get(str(dim)) != size for dim, size in y.sizes.items()):
        raise InvalidDataError(f"y: expected sizes among {known}, those of the rows, got {dict(y.sizes)}.")
    values = y.variable
    absent = {dim: size for dim, size in known.items() if dim not in values.dims}
    values = xr.DataArray(values).expand_dims(absent).variable.transpose(*dims)
    return dataset.assign({rows.target: values})


def _numbers(name: str, values: Any) -> list[float]:
    """A number or a sequence of them, as a list; `InvalidOptionError` for anything else."""
    found = np.atleast_1d(np.asarray(values, dtype=object))
    if found.ndim != 1 or not found.size or not all(isinstance(each, Real) for each in found):
        raise InvalidOptionError(f"{name}: expected a number or a sequence of numbers, got {values!r}.")
    return [float(each) for each in found]
