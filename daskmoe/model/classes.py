"""What a model of labels says of rows: the most likely class, the probabilities of all, draws of labels."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskmoe.errors import InvalidDataError, InvalidOptionError
from daskmoe.model.blockwise import Evaluation, FloatType
from daskmoe.model.prediction import evaluate, match_data, mean_over_rows
from daskmoe.numerics.base.parameters import FloatArray, Mixture
from daskmoe.numerics.families import Family
from daskmoe.numerics.predictive.mixture import Features, block_rows, class_probabilities
from daskmoe.options import OnError
from daskmoe.rows import Data, RowSchema
from daskmoe.rows.codings import Levels
from daskmoe.rows.lazily import apply_in_blocks
from daskmoe.rows.names import CLASS

# Saved integers have 32 bits.
_LARGEST = np.iinfo(np.int32).max


def require_numbers(rows: RowSchema, method: str) -> None:
    """Raise `InvalidDataError` where the target is labels, which have no order."""
    if rows.classes is not None:
        raise InvalidDataError(
            f"{method}: expected a model of numbers, got one of {rows.n_classes} classes of {rows.target!r}, "
            "which have no order; use model.predict_proba(data)."
        )


def require_classes(rows: RowSchema, family: str) -> Levels:
    """The classes of the target; `InvalidDataError` where it is numbers."""
    if rows.classes is None:
        raise InvalidDataError(
            f"predict_proba: expected a model of classes, got one of {family} experts of {rows.target!r}; "
            "use model.predict_interval(data), or fit with family='categorical'."
        )
    return rows.classes


def refuse_numbers(rows: RowSchema, *, clip: bool, dtype: FloatType) -> None:
    """`InvalidOptionError` for options of predictions that are numbers."""
    asked = {"clip": "True"} if clip else {"dtype": repr(dtype)} if dtype != "float64" else {}
    for name, value in asked.items():
        raise InvalidOptionError(
            f"{name}: expected none, as predictions are classes of {rows.target!r}, got {value}. Leave it "
            "out; model.predict_proba(data) gives probabilities."
        )


def predicted_labels(
    parameters: Mixture, family: Family, data: Data, rows: RowSchema, on_error: OnError
) -> xr.DataArray:
    """The class of the largest probability of every row, labelled as the target."""
    codes = evaluate(
        partial(_most_likely, parameters, family),
        data,
        rows,
        name=rows.target,
        attrs=rows.target_attrs,
        block_size=_block_size(parameters, family),
        how=Evaluation(on_error),
    )
    return as_labels(codes, rows)


def probabilities(
    parameters: Mixture, family: Family, data: Data, rows: RowSchema, classes: Levels, how: Evaluation
) -> xr.DataArray:
    """P(y = j|x) of every row, the classes first."""
    dataset, _ = match_data(data, rows)
    if CLASS in dataset.coords:
        raise InvalidDataError(
            f"data: expected no coordinate {CLASS!r}, a name of the result's own; rename it or drop it."
        )
    found = evaluate(
        partial(class_probabilities, parameters, family),
        dataset,
        rows,
        name="class_probability",
        attrs={"long_name": f"probability of the class of {rows.target} given the features", "units": "1"},
        leading=(CLASS, len(classes.levels)),
        block_size=_block_size(parameters, family),
        how=how,
    )
    return found.assign_coords({CLASS: classes.as_labels()})


def accuracy(parameters: Mixture, family: Family, data: Data, rows: RowSchema, on_error: OnError) -> float:
    """The share of the rows whose class is the most likely one."""
    return mean_over_rows(
        partial(_is_hit, parameters, family), data, rows, _block_size(parameters, family), on_error
    )


def as_labels(codes: xr.DataArray, rows: RowSchema) -> xr.DataArray:
    """Codes of classes as the labels themselves, lazy where they are; NaN is NaN, of text an empty one.

    Booleans are 0 and 1 where one is missing, or may be, as of lazy codes: only a number can be missing.
    """
    classes = rows.classes
    assert classes is not None
    labels = classes.as_array()
    if labels.dtype.kind == "b" and codes.chunks is None and not bool(codes.isnull().any()):
        return codes.astype(bool, keep_attrs=True)
    if labels.dtype.kind != "U":
        labels = labels.astype(np.float64)
    labelled = np.append(labels, "" if labels.dtype.kind == "U" else np.nan)
    found: xr.DataArray = apply_in_blocks(
        _labels_of, codes, dtype=labels.dtype, keep_attrs=True, labels=labelled
    )
    if classes.are_flags:
        meanings = " ".join("_".join(name.split()) for name in classes.names)
        found.attrs |= {"flag_values": classes.as_array(), "flag_meanings": meanings}
    if labels.dtype.kind == "f" and (labels == np.floor(labels)).all() and np.abs(labels).max() < _LARGEST:
        found.encoding = {"dtype": "int32", "_FillValue": np.int32(labels.min() - 1)}
    return found


def _labels_of(codes: FloatArray, labels: NDArray[Any]) -> NDArray[Any]:
    # The last one is none.
    return np.asarray(labels[np.where(np.isnan(codes), len(labels) - 1, codes).astype(np.intp)])


def _most_likely(parameters: Mixture, family: Family, features: Features) -> FloatArray:
    return np.asarray(class_probabilities(parameters, family, features).argmax(axis=0), np.float64)


def _is_hit(parameters: Mixture, family: Family, features: Features, response: NDArray[Any]) -> FloatArray:
    return np.asarray(_most_likely(parameters, family, features) == response, np.float64)


def _block_size(parameters: Mixture, family: Family) -> int:
    return block_rows(parameters.n_experts * (family.n_predictors + 1))
