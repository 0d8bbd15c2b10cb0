"""Opening saved models."""

from __future__ import annotations

import os
from typing import Any

from daskmoe.errors import InvalidDataError
from daskmoe.model import store as storage
from daskmoe.model.moe import MixtureOfExperts


def open_model(path: str | os.PathLike[str]) -> MixtureOfExperts:
    """Open a model that `MixtureOfExperts.to_zarr` or `to_netcdf` saved.

    Parameters
    ----------
    path : str or path
        A Zarr store (or its URL) or a netCDF file.

    Returns
    -------
    MixtureOfExperts
        In memory.

    Raises
    ------
    StoreError
        If ``path`` does not exist or cannot be read.
    SchemaError
        If it is not a model, or one of another schema version, or misses variables.
    """
    parts = storage.unflatten(storage.load(path), str(path))
    return MixtureOfExperts(
        parts.params,
        parts.diagnostics,
        parts.local_estimates,
        family=parts.family,
        rows=parts.rows,
        options=parts.options,
        weight=parts.weight,
        information=parts.information,
    )


def model_at(model: Any, name: str) -> MixtureOfExperts:
    """The model itself, or the one saved at a path; `InvalidDataError` names the argument otherwise."""
    if isinstance(model, MixtureOfExperts):
        return model
    if isinstance(model, str | os.PathLike):
        return open_model(model)
    raise InvalidDataError(
        f"{name}: expected a fitted model or the path of a saved one, got {type(model).__name__}."
    )
