"""Opening saved models."""

from __future__ import annotations

import os
from typing import Any

import xarray as xr

from daskmoe.errors import InvalidDataError
from daskmoe.model import store as storage
from daskmoe.model.atoms import MixtureWithAtoms
from daskmoe.model.moe import MixtureOfExperts


def open_model(path: str | os.PathLike[str]) -> Any:
    """Open a model that `MixtureOfExperts.to_zarr` or `to_netcdf` saved.

    Parameters
    ----------
    path : str or path
        A Zarr store (or its URL) or a netCDF file.

    Returns
    -------
    MixtureOfExperts or MixtureWithAtoms
        In memory.

    Raises
    ------
    StoreError
        If ``path`` does not exist or cannot be read.
    SchemaError
        If it is not a model, or one of another schema version, or misses variables.
    """
    flat, gates = storage.without_gates(storage.load(path))
    experts = _model_of(flat, str(path))
    return experts if gates is None else MixtureWithAtoms(_model_of(gates, str(path)), experts)


def _model_of(flat: xr.Dataset, source: str) -> MixtureOfExperts:
    parts = storage.unflatten(flat, source)
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


def any_model_at(model: Any, name: str) -> MixtureOfExperts | MixtureWithAtoms:
    """The model itself, or the one saved at a path; `InvalidDataError` names the argument otherwise."""
    if isinstance(model, MixtureOfExperts | MixtureWithAtoms):
        return model
    if isinstance(model, str | os.PathLike):
        found: MixtureOfExperts | MixtureWithAtoms = open_model(model)
        return found
    raise InvalidDataError(
        f"{name}: expected a fitted model or the path of a saved one, got {type(model).__name__}."
    )
