"""What a model says about labelled data: densities, means, intervals, draws and their sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import scipy
import xarray as xr
from numpy.typing import NDArray

from daskmoe.errors import InvalidDataError
from daskmoe.model.blockwise import (
    PLAIN,
    Evaluation,
    RowFunction,
    apply_to_rows,
    gather_inputs,
    input_key,
    label_result,
    off_atoms,
    row_numbers,
)
from daskmoe.numerics.base.coordinates import Coordinates, Scaling, coordinates_from, of_columns
from daskmoe.numerics.base.parameters import FloatArray, Mixture, Moments
from daskmoe.numerics.families import Family
from daskmoe.numerics.predictive.draws import sample_response
from daskmoe.numerics.predictive.extrapolation import distance
from daskmoe.numerics.predictive.mixture import (
    BLOCK_ROWS,
    Features,
    block_rows,
    log_density,
    log_gating,
    mixture_mean,
)
from daskmoe.numerics.predictive.mixture import responsibilities as posterior
from daskmoe.numerics.predictive.quantiles import mixture_quantiles
from daskmoe.options import ON_ERROR, OnError, RandomState, check_choice, check_share, entropy_of
from daskmoe.rows import Data, RowSchema, match_schema, source_of
from daskmoe.rows.computing import computed
from daskmoe.rows.lazily import explained_sums
from daskmoe.rows.names import BOUND, EXPERT, LOWER, UPPER

# The lowest and the highest prediction; of several outputs (O,) each.
Limits = tuple[float | FloatArray, float | FloatArray]


def _of_target(family: Family, function: RowFunction) -> RowFunction:
    """The function of features and targets, which refuses targets that the family cannot have."""
    return partial(_checked, family, function)


def _checked(family: Family, function: RowFunction, features: Features, response: NDArray[Any]) -> FloatArray:
    if misfit := family.misfit(response):
        raise InvalidDataError(f"data: expected the target of {family.name} experts to be {misfit}.")
    return function(features, response)


def match_data(data: Data, rows: RowSchema, *, with_target: bool = False) -> tuple[xr.Dataset, RowSchema]:
    """The data, opened where a path is given, and the model's schema matched to them by label."""
    dataset, _ = source_of(data, dim=rows.row_dim)
    return dataset, match_schema(dataset, rows, need_target=with_target, need_weight=False)


def evaluate(
    function: RowFunction,
    data: Data,
    rows: RowSchema,
    *,
    name: str,
    attrs: Mapping[str, Any],
    leading: tuple[str, int] | None = None,
    with_target: bool = False,
    block_size: int = BLOCK_ROWS,
    how: Evaluation = PLAIN,
) -> xr.DataArray:
    """``function(features)``, or ``function(features, response)``, of all rows as a labelled array."""
    how = how.checked()
    data, rows = match_data(data, rows, with_target=with_target)
    lenient = how.on_error != "raise"
    inputs = gather_inputs(data, rows, with_target=with_target, unknown_is_missing=lenient)
    response = inputs.variables[input_key(rows.target)] if with_target else None
    result = apply_to_rows(
        function, inputs, rows, per_row=response, leading=leading, block_size=block_size, how=how
    )
    return label_result(result, data, rows, name=name, attrs=attrs)


def mean(
    parameters: Mixture,
    family: Family,
    data: Data,
    rows: RowSchema,
    limits: Limits | None,
    how: Evaluation,
) -> xr.DataArray:
    """E[y|x] of every row, kept within ``limits`` where there are some, labelled as the target."""
    function = within(limits, partial(mixture_mean, parameters, family))
    size = block_rows(parameters.n_experts)
    return evaluate(function, data, rows, name=rows.target, attrs=rows.target_attrs, block_size=size, how=how)


def within(limits: Limits | None, function: RowFunction) -> RowFunction:
    """A function of features, its values (n,) kept within limits; (O, n) within those of each output."""
    return function if limits is None else partial(_clipped, function, limits)


def _clipped(function: RowFunction, limits: Limits, features: Features) -> FloatArray:
    low, high = (np.asarray(each)[..., np.newaxis] for each in limits)
    return np.clip(function(features), low, high)


def extrapolation(moments: Moments, data: Data, rows: RowSchema, how: Evaluation) -> xr.DataArray:
    """How far every row is from those with these moments."""
    # Not of the offset, behind the features.
    count = len(rows.feature_names)
    coordinates = coordinates_from(of_columns(moments, tuple(range(count))), Scaling.none(0))
    attrs = {
        "long_name": "distance of the features from the mean of the fit's rows, in standard deviations",
        "units": "1",
        "root_mean_square": float(np.sqrt(len(coordinates.transform))),
    }
    function = partial(_distance, coordinates, count)
    return evaluate(function, data, rows, name="extrapolation", attrs=attrs, how=how)


def _distance(coordinates: Coordinates, count: int, features: Features) -> FloatArray:
    return distance(coordinates, features[:, :count])


def gating_probabilities(parameters: Mixture, data: Data, rows: RowSchema, how: Evaluation) -> xr.DataArray:
    """pi_k(x) of every row, the experts first."""
    return evaluate(
        partial(gating, parameters),
        data,
        rows,
        name="gating_probability",
        attrs={"long_name": "probability of the expert given the features", "units": "1"},
        leading=(EXPERT, parameters.n_experts),
        block_size=block_rows(parameters.n_experts),
        how=how,
    )


def responsibilities(
    parameters: Mixture, family: Family, data: Data, rows: RowSchema, how: Evaluation
) -> xr.DataArray:
    """tau_k of every row, the experts first."""
    return evaluate(
        _of_target(family, partial(posterior, parameters, family)),
        data,
        rows,
        name="responsibility",
        attrs={"long_name": "probability of the expert given the features and the target", "units": "1"},
        leading=(EXPERT, parameters.n_experts),
        with_target=True,
        block_size=block_rows(parameters.n_experts),
        how=how,
    )


def assignments(
    parameters: Mixture,
    family: Family,
    data: Data,
    rows: RowSchema,
    by: str | None,
    names: Sequence[str],
    how: Evaluation,
) -> xr.DataArray:
    """The most likely expert of every row, by position: with the target, or by the features alone."""
    dataset, _ = match_data(data, rows)
    with_target = rows.target in dataset.variables if by is None else by == "responsibility"
    function = (
        _of_target(family, partial(posterior, parameters, family))
        if with_target
        else partial(gating, parameters)
    )
    return assignments_by(function, dataset, rows, with_target, names, how)


def assignments_by(
    function: RowFunction,
    dataset: xr.Dataset,
    rows: RowSchema,
    with_target: bool,
    names: Sequence[str],
    how: Evaluation,
) -> xr.DataArray:
    """Where ``function``, of features and with them perhaps the target, is largest in every row."""
    given = "the features and the target" if with_target else "the features"
    found = evaluate(
        partial(_largest, function),
        dataset,
        rows,
        name=EXPERT,
        attrs={
            "long_name": f"most likely expert given {given}",
            "flag_values": np.arange(len(names), dtype=np.int32),
            # Meanings are words with blanks between them.
            "flag_meanings": " ".join("_".join(name.split()) for name in names),
        },
        with_target=with_target,
        block_size=block_rows(len(names)),
        how=how,
    )
    found.encoding = {"dtype": "int32", "_FillValue": np.int32(-1)}
    return found


def shares(parameters: Mixture, family: Family, data: Data, rows: RowSchema) -> FloatArray:
    """Means over the complete rows of the responsibilities, of the gates where there is no target, (K,)."""
    dataset, _ = match_data(data, rows)
    if rows.target in dataset.variables:
        found = responsibilities(parameters, family, dataset, rows, Evaluation("skip"))
    else:
        found = gating_probabilities(parameters, dataset, rows, Evaluation("skip"))
    over = [dim for dim in found.dims if dim != EXPERT]
    return np.asarray(computed(found.mean(over, skipna=True)).values)


def log_densities(
    parameters: Mixture, family: Family, data: Data, rows: RowSchema, how: Evaluation
) -> xr.DataArray:
    """log f(y|x) of every row."""
    return evaluate(
        _of_target(family, partial(log_density, parameters, family)),
        data,
        rows,
        name="log_density",
        attrs={"long_name": "log density of the target given the features"},
        with_target=True,
        block_size=block_rows(parameters.n_experts),
        how=how,
    )


def interval(
    parameters: Mixture, family: Family, data: Data, rows: RowSchema, level: float, how: Evaluation
) -> xr.Dataset:
    """The central predictive interval of probability ``level``, as variables ``lower`` and ``upper``."""
    level = check_share("level", level)
    function = partial(
        mixture_quantiles, parameters, family, probabilities=(0.5 - 0.5 * level, 0.5 + 0.5 * level)
    )
    found = interval_of(function, data, rows, block_rows(parameters.n_experts), how)
    return found.assign_attrs(level=level)


def interval_of(
    function: RowFunction, data: Data, rows: RowSchema, block_size: int, how: Evaluation
) -> xr.Dataset:
    """Two quantiles, (2, n) of features, of every row as variables ``lower`` and ``upper``."""
    dataset, _ = match_data(data, rows)
    if taken := [name for name in (LOWER, UPPER, BOUND) if name in dataset.coords]:
        raise InvalidDataError(
            f"data: expected no coordinate {taken[0]!r}, a name of the result's own; rename it or drop it."
        )
    bounds = evaluate(
        function,
        data,
        rows,
        name=rows.target,
        attrs=rows.target_attrs,
        leading=(BOUND, 2),
        block_size=block_size,
        how=how,
    )
    variables = {name: bounds.isel({BOUND: i}, drop=True) for i, name in enumerate((LOWER, UPPER))}
    return bounds.coords.to_dataset().drop_vars(BOUND).assign(variables)


def without_atoms(dataset: xr.Dataset, rows: RowSchema) -> xr.Dataset:
    """The data with nothing in place of a target that is at an atom, so that it counts as missing."""
    if rows.target not in dataset.variables:
        return dataset
    target = dataset[rows.target]
    return dataset.assign({rows.target: target.copy(data=off_atoms(target.variable, rows.atoms).data)})


def draw(
    parameters: Mixture,
    family: Family,
    data: Data,
    rows: RowSchema,
    random_state: RandomState,
    how: Evaluation,
) -> xr.DataArray:
    """Draw y given x for every row."""
    function = partial(sample_response, parameters, family)
    return draw_by(function, data, rows, random_state, block_rows(parameters.n_experts), how)


def draw_by(
    sample: Callable[[FloatArray, np.random.Generator], FloatArray],
    data: Data,
    rows: RowSchema,
    random_state: RandomState,
    size: int,
    how: Evaluation,
    leading: tuple[str, int] | None = None,
) -> xr.DataArray:
    """Have ``sample`` draw y given x for every row, in blocks of ``size``."""
    how = how.checked()
    data, rows = match_data(data, rows)
    inputs = gather_inputs(data, rows)
    function = partial(_draw_rows, sample, entropy_of(random_state))
    numbers = row_numbers(inputs, rows)
    drawn = apply_to_rows(function, inputs, rows, per_row=numbers, leading=leading, block_size=size, how=how)
    return label_result(drawn, data, rows, name=rows.target, attrs=rows.target_attrs)


def total_log_density(
    parameters: Mixture, family: Family, data: Data, rows: RowSchema, on_error: OnError
) -> tuple[float, float]:
    """Sum of log f(y|x) over all rows, or over the complete ones, and how many these are."""
    function = _of_target(family, partial(log_density, parameters, family))
    found = totals(function, data, rows, block_rows(parameters.n_experts), on_error)
    return found["sum"], found["count"]


def total_entropy(
    parameters: Mixture, family: Family, data: Data, rows: RowSchema, on_error: OnError
) -> float:
    """Sum over the same rows of the entropy of their responsibilities."""
    function = _of_target(family, partial(_entropy, parameters, family))
    return totals(function, data, rows, block_rows(parameters.n_experts), on_error)["sum"]


def r_squared(parameters: Mixture, family: Family, data: Data, rows: RowSchema, on_error: OnError) -> float:
    """The share of the variance of y that E[y|x] explains; of a constant y, 1 if it is exact and 0 if not."""
    function = partial(_squared_error, parameters, family)
    return r_squared_from(totals(function, data, rows, block_rows(parameters.n_experts), on_error))


def r_squared_from(totals: Mapping[str, float]) -> float:
    """The same from the `totals` of squared errors."""
    if totals["spread"] == 0:
        return float(totals["sum"] == 0)
    return 1.0 - totals["sum"] / totals["spread"]


def mean_over_rows(
    function: RowFunction, data: Data, rows: RowSchema, block_size: int, on_error: OnError
) -> float:
    """The mean of ``function(features, response)`` over all rows, or over the complete ones."""
    found = totals(function, data, rows, block_size, on_error)
    return found["sum"] / found["count"]


def gating(parameters: Mixture, features: Features) -> FloatArray:
    """pi_k(x), shape (K, n)."""
    return np.exp(log_gating(parameters, features))


def _largest(function: RowFunction, *arguments: Any) -> FloatArray:
    return np.asarray(function(*arguments).argmax(axis=0), dtype=np.float64)


def _squared_error(
    parameters: Mixture, family: Family, features: Features, response: NDArray[Any]
) -> FloatArray:
    return (response - mixture_mean(parameters, family, features)) ** 2


def _entropy(parameters: Mixture, family: Family, features: Features, response: NDArray[Any]) -> FloatArray:
    return np.asarray(scipy.special.entr(posterior(parameters, family, features, response)).sum(axis=0))


def _draw_rows(
    sample: Callable[[FloatArray, np.random.Generator], FloatArray],
    entropy: int,
    features: Features,
    numbers: NDArray[np.int64],
) -> FloatArray:
    # The first row's number keys the block: no two blocks share a stream, and no order of tasks matters.
    seeds = np.random.SeedSequence(entropy, spawn_key=(int(numbers[0]),))
    return sample(np.asarray(features, np.float64), np.random.default_rng(seeds))


@explained_sums()
def totals(
    function: RowFunction, data: Data, rows: RowSchema, block_size: int, on_error: OnError
) -> dict[str, float]:
    """Sums over rows in one computation.

    A row with a missing or infinite value is an error, or is left out with "skip". Rows that are not there,
    target and all features missing, are left out in any case.
    """
    check_choice("on_error", on_error, ON_ERROR)
    data, rows = match_data(data, rows, with_target=True)
    inputs = gather_inputs(data, rows, with_target=True, unknown_is_missing=on_error != "raise")
    response = inputs.variables[input_key(rows.target)]
    n_rows = response.size // max(len(rows.outputs), 1)
    if n_rows == 0:
        raise InvalidDataError(f"data: expected at least one row, got sizes {dict(response.sizes)}.")
    how = Evaluation(on_error)
    values = apply_to_rows(function, inputs, rows, per_row=response, block_size=block_size, how=how)
    complete = values.notnull()
    used = response.astype(np.float64).where(complete)  # type: ignore[no-untyped-call]
    count = complete.sum()
    sums = {
        "sum": values.sum(skipna=True),
        "count": count,
        "spread": used.var(skipna=True) * count,
        "missing": n_rows - count,
    }
    found = {str(name): float(total) for name, total in computed(xr.Dataset(sums)).items()}
    missing = found["missing"]
    if missing and on_error == "raise":
        missing -= _count_absent(inputs, rows)
    if missing and (on_error == "raise" or missing == n_rows):
        raise InvalidDataError(
            f"data: expected numbers in all rows, got missing or infinite values in {missing:.0f} of "
            f"{n_rows} rows (values by variable: {_count_missing(inputs, rows)}); fill them, or leave "
            "such rows out with on_error='skip'."
        )
    if not found["count"]:
        raise InvalidDataError(
            f"data: expected rows with values, got {n_rows} of which target and features are missing."
        )
    return found


def _count_absent(inputs: xr.Dataset, rows: RowSchema) -> float:
    """How many rows are not there: target and features are all missing."""
    maskable = [leaf for each in rows.variables for leaf in each.leaves if rows.can_mask(leaf)]
    if not maskable:
        return 0.0
    absent = inputs[input_key(rows.target)].isnull()
    if rows.output_dim is not None:
        absent = absent.all(rows.output_dim)
    for variable in maskable:
        missing = inputs[input_key(variable.name)].isnull()
        absent &= missing if variable.feature_dim is None else missing.all(variable.feature_dim)
    return float(computed(absent.sum()))


def _count_missing(inputs: xr.Dataset, rows: RowSchema) -> dict[str, int]:
    """How many values of each input are missing or infinite, for those that have some."""
    names = [*rows.sources, rows.target]
    values = {name: inputs.variables[input_key(name)] for name in names}
    missing = {
        input_key(name): (~np.isfinite(value) if value.dtype.kind == "f" else value.isnull()).sum()
        for name, value in values.items()
    }
    counts = computed(xr.Dataset(missing))
    return {name: int(counts[input_key(name)]) for name in names if counts[input_key(name)] > 0}
