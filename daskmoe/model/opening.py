"""Opening saved models."""

from __future__ import annotations

import os

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
    )
