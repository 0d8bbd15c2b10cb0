"""What a model says of arrays and tables, returned as they are held: lazy where they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from daskmoe.errors import InvalidDataError
from daskmoe.estimators.inputs import Kind, Labels, kind_of, label_features
from daskmoe.model import MixtureOfExperts
from daskmoe.options import OnError
from daskmoe.rows.names import CLASS, LOWER, UPPER

Found = xr.DataArray | xr.Dataset
# What a model says of a dataset, of the number of a part of lazy data, and whether unknown levels are errors.
Ask = Callable[[MixtureOfExperts, xr.Dataset, int, OnError], Found]


class Probabilities(pd.DataFrame):  # type: ignore[misc] # pandas has no types here
    """A table of probabilities of which columns are taken as of an array too, as ``table[:, 1]``.

    Scorers and ensembles of scikit-learn do so. What is made of it is a plain table.
    """

    @property
    def _constructor(self) -> Any:
        return pd.DataFrame

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, tuple) and any(isinstance(part, slice | np.ndarray) for part in key):
            return self.to_numpy()[key]
        return super().__getitem__(key)


def answer(ask: Ask, model: MixtureOfExperts, X: Any, labels: Labels, on_error: OnError) -> Any:
    """What ``ask`` says of rows that are not labelled, held as they are.

    Parameters
    ----------
    ask : callable
    model : MixtureOfExperts
    X : ndarray, DataFrame, Dask array or Dask DataFrame
        As checked.
    labels : Labels
        Of the fit.
    on_error : {"raise", "skip"}
        Whether rows in memory must be complete.

    Returns
    -------
    object
        Arrays for arrays, tables and their columns for tables.

    Raises
    ------
    InvalidDataError
        For data in memory with a missing value, unless these are skipped.
    """
    kind = kind_of(X)
    if kind is Kind.LAZY_TABLE:
        known = partial(_of_part, ask=ask, model=model, labels=labels)
        # Dask's example of rows has levels of its own.
        meta = known(X._meta_nonempty, on_error="skip").iloc[:0]
        return X.map_partitions(partial(known, on_error=on_error), meta=meta)
    if kind is Kind.TABLE:
        return _of_table(X, 0, ask, model, labels, on_error)
    found = ask(model, label_features(X, labels)[0], 0, on_error)
    if kind is Kind.ARRAY:
        _check_complete(found, on_error, labels.output)
    return _as_array(found)


def _of_part(table: pd.DataFrame, partition_info: dict[str, Any] | None = None, **known: Any) -> Any:
    """Of a part of a lazy table, whose number Dask puts in; rows may be incomplete, as in lazy arrays."""
    part = 0 if partition_info is None else partition_info["number"]
    return _of_table(table, part, **known, complete=False)


def _of_table(
    table: pd.DataFrame,
    part: int,
    ask: Ask,
    model: MixtureOfExperts,
    labels: Labels,
    on_error: OnError,
    complete: bool = True,
) -> pd.Series[Any] | pd.DataFrame:
    found = ask(model, label_features(table, labels)[0], part, on_error)
    if complete:
        _check_complete(found, on_error, labels.output)
    if isinstance(found, xr.DataArray) and CLASS in found.dims:
        # A part of a lazy table is as Dask's example of it, a plain one.
        kind = Probabilities if complete else pd.DataFrame
        return kind(found.values.T, index=table.index, columns=found[CLASS].values)
    if labels.output is not None:
        return _of_outputs(found, labels.output, table.index)
    if isinstance(found, xr.DataArray):
        return pd.Series(found.values, index=table.index, name=found.name)
    return pd.DataFrame({name: found[name].values for name in (LOWER, UPPER)}, index=table.index)


def _of_outputs(found: Found, output: str, index: pd.Index[Any]) -> pd.DataFrame:
    """A column an output, or of intervals a pair of columns."""
    if isinstance(found, xr.DataArray):
        return pd.DataFrame(found.values, index=index, columns=found[output].values)
    pairs = [(each, name) for each in found[output].values for name in (LOWER, UPPER)]
    bounds = np.stack([found[name].values for name in (LOWER, UPPER)], axis=-1)
    return pd.DataFrame(bounds.reshape(len(index), -1), index=index, columns=pd.MultiIndex.from_tuples(pairs))


def _check_complete(found: Found, on_error: OnError, output: str | None) -> None:
    """Refuse results of rows that have no value somewhere."""
    values = found if isinstance(found, xr.DataArray) else found[LOWER]
    # What is missing in a row is missing in all classes or outputs.
    values = values.isel({dim: 0 for dim in values.dims if dim in (CLASS, output)})
    missing = values == "" if values.dtype.kind == "U" else values.isnull()
    if on_error != "skip" and (count := int(missing.sum())):
        raise incomplete(count, values.size)


def incomplete(missing: int, n_rows: int) -> InvalidDataError:
    """The error of rows in memory that are not complete."""
    return InvalidDataError(
        f"X: expected finite values, got NaN or infinity in {missing} of {n_rows} rows. Fill them, or fit "
        "with on_error='skip', with which predictions are NaN there."
    )


def _as_array(found: Found) -> Any:
    """Values (n,) or (n, outputs), probabilities (n, J), or the two bounds of intervals, the last axis."""
    if isinstance(found, xr.DataArray):
        return found.data.T if CLASS in found.dims else found.data
    bounds = [found[name].data for name in (LOWER, UPPER)]
    return np.stack(bounds, axis=-1) if isinstance(bounds[0], np.ndarray) else da.stack(bounds, axis=-1)
