"""Arrays and tables as scikit-learn's users have them, made the labelled datasets that the package fits.

What cannot be fitted is refused in scikit-learn's words where its tools look for them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import pandas as pd
import scipy
import xarray as xr

from daskmoe.api.caller import warn
from daskmoe.errors import InvalidDataError
from daskmoe.estimators.contract import conversion_warning
from daskmoe.rows import booleans_of
from daskmoe.rows.names import OUTPUT

ROW, FEATURE, WIDE = "row", "feature", "X"


class Kind(StrEnum):
    """What holds rows, and what predictions for them are returned as."""

    ARRAY = "a NumPy array, or what becomes one"
    TABLE = "a pandas DataFrame"
    LAZY_ARRAY = "a Dask array"
    LAZY_TABLE = "a Dask DataFrame"
    LABELLED = "an xarray object"


class Labels(NamedTuple):
    """What rows without labels of their own are called in a dataset."""

    row: str
    target: str
    weight: str
    # Variables of the columns, in their order; None where one variable holds them all.
    columns: tuple[str, ...] | None
    # The dimension of a target of several outputs.
    output: str | None = None


def kind_of(X: Any) -> Kind:
    """What rows are held by; nothing is imported to find out."""
    if isinstance(X, xr.Dataset | xr.DataArray):
        return Kind.LABELLED
    if isinstance(X, pd.DataFrame):
        return Kind.TABLE
    if isinstance(X, da.Array):
        return Kind.LAZY_ARRAY
    if hasattr(X, "map_partitions") and hasattr(X, "to_dask_array") and hasattr(X, "columns"):
        return Kind.LAZY_TABLE
    return Kind.ARRAY


def check_features(X: Any, name: str, *, columns: bool = False) -> Any:
    """``X`` as one of the kinds; `InvalidDataError` for what has no rows and columns of real numbers.

    Parameters
    ----------
    X : object
        As it was given.
    name : str
        Of the estimator.
    columns : bool
        Whether the fit was to a table, whose columns may be text.
    """
    if scipy.sparse.issparse(X):
        raise InvalidDataError(
            "Sparse data was passed for X, but dense data is required. Use '.toarray()' to convert to a "
            "dense array."
        )
    if kind_of(X) is Kind.LABELLED:
        return X
    if kind_of(X) is Kind.ARRAY:
        X = np.asarray(X)
        X = X if columns and X.dtype == object else _wide(X)
    if X.ndim != 2:
        raise InvalidDataError(
            f"Expected 2D array, got {X.ndim}D array instead. Reshape your data either using "
            "array.reshape(-1, 1) if it has a single feature or array.reshape(1, -1) if it has a single row."
        )
    if X.shape[1] == 0:
        raise InvalidDataError(
            f"Found array with 0 feature(s) (shape={X.shape}) while a minimum of 1 is required by {name}."
        )
    if kind_of(X) is Kind.LAZY_ARRAY:
        _check_lazy(X)
    elif kind_of(X) is not Kind.LAZY_TABLE and len(X) == 0:
        raise InvalidDataError(
            f"Found array with 0 sample(s) (shape={X.shape}) while a minimum of 1 is required by {name}."
        )
    return X


def _check_lazy(X: da.Array) -> None:
    if np.isnan(X.shape[0]):
        raise InvalidDataError(
            "X: expected a Dask array with chunks of known sizes, got unknown ones; use "
            "X.compute_chunk_sizes(), or to_dask_array(lengths=True) of a Dask DataFrame."
        )
    if X.dtype.kind not in "biuf":
        raise InvalidDataError(f"X: expected a Dask array of real numbers, got dtype {X.dtype}.")


def _numbers(values: Any) -> Any:
    """An array of real numbers; objects and text that stand for some are converted."""
    if values.dtype.kind == "c":
        raise InvalidDataError("Complex data not supported: expected real numbers.")
    return values if values.dtype.kind in "biuf" else values.astype(np.float64)


def _wide(values: Any) -> Any:
    """Features of an array without names: real numbers."""
    try:
        return _numbers(values)
    # What stands for no number; what cannot is a TypeError, as scikit-learn asks.
    except ValueError as error:
        if isinstance(error, InvalidDataError):
            raise
        raise InvalidDataError(
            f"X: expected real numbers, got an array of dtype {values.dtype} ({error}). Text is taken in a "
            "DataFrame's columns: in a pipeline by set_output(transform='pandas') of the step before."
        ) from None


def _plain_labels(values: Any) -> Any:
    """Labels that are objects as what they are: integers, booleans or text."""
    if values.dtype.kind == "c":
        raise InvalidDataError("Complex data not supported: expected labels.")
    return values if values.dtype != object else pd.Series(values.reshape(-1)).infer_objects().to_numpy()


def column_names(X: Any) -> list[str] | None:
    """Names of the features where all are text; `InvalidDataError` where some are."""
    if kind_of(X) in (Kind.TABLE, Kind.LAZY_TABLE):
        names = list(X.columns)
    elif isinstance(X, xr.Dataset):
        names = list(X.data_vars)
    elif isinstance(X, xr.DataArray) and X.ndim > 1 and X.dims[-1] in X.coords:
        names = X.coords[X.dims[-1]].values.tolist()
    else:
        return None
    text = [isinstance(name, str) for name in names]
    if any(text) and not all(text):
        raise InvalidDataError(
            "Feature names are only supported if all input features have string names, got some that are "
            "not: use X.columns = X.columns.astype(str)."
        )
    return names if all(text) else None


def width_of(X: Any) -> int:
    """How many features were given."""
    if isinstance(X, xr.Dataset):
        return len(X.data_vars)
    return int(X.shape[-1]) if X.ndim > 1 else 1


def training_set(
    X: Any, y: Any, weight: Any, name: str, *, labels: bool = False
) -> tuple[xr.Dataset, Labels, dict[str, Any]]:
    """The dataset of a fit, how it is labelled, and the levels of columns that tell them.

    Parameters
    ----------
    X, y, weight : object
        As given; ``X`` as checked.
    name : str
        Of the estimator.
    labels : bool
        Whether the target is labels.
    """
    if y is None:
        raise InvalidDataError(f"{name} requires y to be passed, but the target y is None.")
    if kind_of(X) is Kind.LABELLED:
        return _labelled_set(X, y, weight, labels=labels)
    lengths = _lengths_of(X)
    rows = X.shape[0] if lengths is None else sum(lengths)
    if rows < 2:
        raise InvalidDataError(
            f"Found array with {rows} sample(s) (n_samples = {rows}) while a minimum of 2 is required by "
            f"{name}."
        )
    response = _column(y, "y", rows, lengths, labels=labels)
    if labels:
        _check_labels(response)
    elif isinstance(response, np.ndarray) and not np.isfinite(response).any():
        raise InvalidDataError("y: expected finite values, got only NaN or infinity.")
    columns = None if kind_of(X) in (Kind.ARRAY, Kind.LAZY_ARRAY) else tuple(map(str, X.columns))
    called = _labels_of(columns, y, several=response.ndim > 1)
    data, levels = label_features(X, called, lengths)
    dims = (called.row, *filter(None, [called.output]))
    data = data.assign({called.target: (dims, _on_grid(response, X, lengths))})
    if called.output is not None and hasattr(y, "columns"):
        data = data.assign_coords({called.output: list(y.columns)})
    if weight is not None:
        weights = _column(weight, "sample_weight", rows, lengths)
        if isinstance(weights, np.ndarray) and not weights.any():
            raise InvalidDataError("sample_weight: expected a weight above zero, got only weights of zero.")
        data = data.assign({called.weight: (called.row, weights)})
    return data, called, levels


def _check_labels(response: Any) -> None:
    """Refuse numbers that are measured, in scikit-learn's words."""
    if response.dtype.kind == "f" and isinstance(response, np.ndarray):
        if not np.isfinite(response).all():
            raise InvalidDataError("Input y contains NaN or infinity: expected a label of every row.")
        if (response != np.floor(response)).any():
            raise InvalidDataError(
                "Unknown label type: continuous. Expected labels, got measured numbers: use MoERegressor."
            )


def _labels_of(columns: tuple[str, ...] | None, y: Any, *, several: bool) -> Labels:
    """Names that no column has, and none twice; the target keeps its own where it can."""
    taken = {WIDE, FEATURE} if columns is None else {*columns}
    own = getattr(y, "name", None)
    # Of a Dask array it is that of its tasks.
    own = own if isinstance(own, str) and not isinstance(y, da.Array) else "y"
    row = _free(ROW, taken | {own})
    target = _free(own, taken)
    weight = _free("sample_weight", taken | {row, target})
    output = _free(OUTPUT, taken | {row, target, weight}) if several else None
    return Labels(row, target, weight, columns, output)


def label_features(
    X: Any, labels: Labels, lengths: list[int] | None = None
) -> tuple[xr.Dataset, dict[str, Any]]:
    """The dataset of the features, and the levels of columns that tell them."""
    kind = kind_of(X)
    if labels.columns is None:
        values = X if kind in (Kind.ARRAY, Kind.LAZY_ARRAY) else _wide(X.to_numpy())
        names = np.array([f"x{j}" for j in range(values.shape[1])], dtype=np.str_)
        return xr.Dataset({WIDE: ((labels.row, FEATURE), values)}, {FEATURE: names}), {}
    if kind is Kind.LAZY_ARRAY:
        return xr.Dataset({c: (labels.row, X[:, j]) for j, c in enumerate(labels.columns)}), {}
    if kind is Kind.LAZY_TABLE:
        return _lazy_columns(X, labels, lengths)
    table = pd.DataFrame(X).infer_objects() if kind is Kind.ARRAY else X
    index = table.index
    table = table.set_axis(list(labels.columns), axis=1).reset_index(drop=True).rename_axis(labels.row)
    data = xr.Dataset.from_dataframe(booleans_of(table)).drop_vars(labels.row)
    if isinstance(index.name, str) and index.name not in data.variables:
        # Terms may be of what the rows are called by, as harmonics of the time are.
        data = data.assign_coords({index.name: (labels.row, index.to_numpy())})
    return data, {}


def _lazy_columns(X: Any, labels: Labels, lengths: list[int] | None) -> tuple[xr.Dataset, dict[str, Any]]:
    """Columns of a Dask DataFrame as Dask arrays, which know no levels."""
    variables: dict[str, Any] = {}
    levels: dict[str, Any] = {}
    assert labels.columns is not None
    for position, name in enumerate(labels.columns):
        column = X.iloc[:, [position]][X.columns[position]]
        if isinstance(column.dtype, pd.CategoricalDtype):
            if column.cat.known:
                levels[name] = list(column.cat.categories)
            column = column.astype(object)
        elif not isinstance(column.dtype, np.dtype) and pd.api.types.is_numeric_dtype(column.dtype):
            column = column.astype("float64")
        elif pd.api.types.is_string_dtype(column.dtype):
            column = column.astype(object)
        variables[name] = (labels.row, column.to_dask_array(lengths=lengths))
    return xr.Dataset(variables), levels


def _labelled_set(X: Any, y: Any, weight: Any, *, labels: bool) -> tuple[xr.Dataset, Labels, dict[str, Any]]:
    """Of xarray objects, which keep their labels; a dimension of the target alone is that of its outputs."""
    wide = isinstance(X, xr.DataArray)
    data = X.to_dataset(name=X.name or WIDE) if wide else X
    own = getattr(y, "name", None)
    taken = set(data.variables)
    called = Labels("", _free(own or "y", taken), _free("sample_weight", taken | {own}), None)
    if isinstance(y, xr.DataArray) and not labels:
        others = [str(dim) for dim in y.dims if dim not in data.dims]
        called = called._replace(output=others[0] if others else None)
    for values, name, what in ((y, called.target, "y"), (weight, called.weight, "sample_weight")):
        if values is None:
            continue
        if not isinstance(values, xr.DataArray):
            first = X.dims[0] if wide else next(iter(data.dims))
            if np.ndim(values) != 1 or np.shape(values)[0] != data.sizes[first]:
                raise InvalidDataError(
                    f"{what}: expected an xarray.DataArray, as X is labelled, or {data.sizes[first]} values "
                    f"along {first!r}, got {type(values).__name__} of shape {np.shape(values)}."
                )
            values = xr.DataArray(values, dims=first)
        data = xr.merge([data, values.rename(name)], join="exact", combine_attrs="override")
    return data, called, {}


def _column(values: Any, what: str, rows: int, lengths: list[int] | None, *, labels: bool = False) -> Any:
    """One number a row, or one of the labels, as a NumPy or a Dask array; of a target perhaps several."""
    if isinstance(getattr(values, "dtype", None), pd.CategoricalDtype):
        values = values.astype(object)
    if hasattr(values, "to_dask_array"):
        # Text of Arrow becomes objects in any case, with a warning.
        text = hasattr(values, "dtype") and pd.api.types.is_string_dtype(values.dtype)
        values = values.astype(object) if text else values
        values = values.to_dask_array(lengths=True if lengths is None else lengths)
    elif isinstance(values, xr.DataArray):
        values = values.data
    elif isinstance(values, pd.Series) and pd.api.types.is_numeric_dtype(values.dtype):
        values = values.to_numpy(
            **({} if isinstance(values.dtype, np.dtype) else {"dtype": np.float64, "na_value": np.nan})
        )
    if not isinstance(values, da.Array):
        values = np.asarray(values)
        values = _plain_labels(values) if labels else _numbers(values)
    if values.ndim == 2 and values.shape[1] == 1 and what == "y":
        warn(
            "A column-vector y was passed when a 1d array was expected. Please change the shape of y to "
            "(n_samples, ), for example using ravel().",
            conversion_warning(),
        )
        values = values.reshape(-1)
    if values.ndim != 1 and (labels or what != "y" or values.ndim != 2 or not values.shape[1]):
        raise InvalidDataError(f"{what} should be a 1d array, got an array of shape {values.shape} instead.")
    if values.shape[0] != rows:
        raise InvalidDataError(
            f"Found input variables with inconsistent numbers of samples: {rows} in X and {values.shape[0]} "
            f"in {what}."
        )
    return values


def _on_grid(response: Any, X: Any, lengths: list[int] | None) -> Any:
    """The response in the chunks of lazy features, which the partitions follow."""
    chunks = X.chunks[0] if isinstance(X, da.Array) else lengths
    if chunks is None:
        return response
    chunks = tuple(size for size in chunks if size)
    whole = (chunks, *response.shape[1:])
    return response.rechunk(whole) if isinstance(response, da.Array) else da.from_array(response, whole)


def _lengths_of(X: Any) -> list[int] | None:
    """Rows of each part of a Dask DataFrame, which takes a pass over it."""
    if kind_of(X) is not Kind.LAZY_TABLE:
        return None
    return [int(size) for size in X.map_partitions(len).compute()]


def _free(name: str, taken: set[Any]) -> str:
    while name in taken:
        name += "_"
    return name
