"""Values of a variable as plain NumPy arrays, whatever library's dtype it has."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray


class ValueKind(StrEnum):
    """What the values of a variable are."""

    NUMBER = "numbers"
    # Text of any kind, and objects, which may be text.
    TEXT = "text"
    # Levels that the dtype knows.
    CATEGORY = "categories"
    DATE = "dates"
    DURATION = "durations"
    OTHER = "others"


def kind_of(variable: xr.Variable) -> ValueKind:
    """What the values are, by their dtype; nothing is loaded."""
    if isinstance(variable.dtype, pd.CategoricalDtype):
        return ValueKind.CATEGORY
    kind = getattr(variable.dtype, "kind", "O")
    if kind in "biuf":
        return ValueKind.NUMBER
    if kind == "M":
        return ValueKind.DATE
    if kind == "m":
        return ValueKind.DURATION
    return ValueKind.TEXT if kind in "OUST" else ValueKind.OTHER


def plain(variable: xr.Variable) -> xr.Variable:
    """The variable with a dtype of NumPy: of nullable and Arrow dtypes, numbers with NaN for what is missing.

    Lazy values stay lazy; those of other libraries' dtypes are in memory always.
    """
    variable = variable.to_base_variable()
    if isinstance(variable.dtype, np.dtype):
        return variable
    values = np.asarray(variable.values)
    if kind_of(variable) is ValueKind.NUMBER and values.dtype.kind == "O":
        values = pd.to_numeric(pd.Series(values, dtype="Float64")).to_numpy(np.float64, na_value=np.nan)
    return xr.Variable(variable.dims, values, variable.attrs)


def plain_values(variable: xr.Variable) -> NDArray[Any]:
    """The values themselves, loaded."""
    return np.asarray(plain(variable).values)


def as_objects(values: NDArray[Any]) -> NDArray[Any]:
    """Text of any kind as objects that hash alike; other values as they are."""
    if values.dtype.kind == "S":
        # Other encodings keep their bytes, spelled out.
        return np.char.decode(values, "utf-8", "backslashreplace").astype(object)
    if values.dtype.kind in "UT":
        return values.astype(object)
    return values
