"""The ruling expert on the map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import xarray as xr

from daskmoe.errors import InvalidDataError
from daskmoe.plotting.canvas import axes_of, faded, key, quantity
from daskmoe.plotting.shown import Shown
from daskmoe.rows import Data
from daskmoe.rows.computing import computed
from daskmoe.rows.names import EXPERT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ALONG: Final = {
    "x": ("lon", "longitude", "x", "easting", "projection_x_coordinate"),
    "y": ("lat", "latitude", "y", "northing", "projection_y_coordinate"),
}
_DEGREES: Final = {"x": "degrees_east", "y": "degrees_north"}


def draw_ruling_expert(
    shown: Shown, data: Data, by: Literal["gate", "responsibility"], ax: Axes | None
) -> Axes:
    """See `Pictures.ruling_expert`."""
    ax, model = axes_of(ax), shown.model
    chances = model.gating_probabilities(data) if by == "gate" else model.responsibilities(data)
    y, x = _plane(chances)
    over = [dim for dim in chances.dims if dim not in (EXPERT, x, y)]
    mean = computed(chances.mean(over, skipna=True).transpose(EXPERT, y, x))
    values = mean.values
    certainty = np.where(np.isnan(values).all(axis=0), np.nan, np.nan_to_num(values).max(axis=0))
    ruling = np.nan_to_num(values).argmax(axis=0)
    palette = shown.palette
    across, up = (_positions(mean, dim) for dim in (x, y))
    ax.pcolormesh(across, up, faded(certainty, ruling, palette), shading="nearest", rasterized=True)
    ax.set(xlabel=_label(mean, x), ylabel=_label(mean, y))
    if _direction(mean, y) == "y" and str(_attrs(mean, y).get("units", "")).startswith("degrees"):
        ax.set_aspect(1.0 / max(0.1, float(np.cos(np.radians(up.mean())))))
    key(ax, shown.names, palette)
    return ax


def _plane(found: xr.DataArray) -> tuple[str, str]:
    """The dimensions up and across: those that coordinates name, else the last two."""
    dims = [str(dim) for dim in found.dims if dim != EXPERT]
    if len(dims) < 2:
        raise InvalidDataError(
            f"data: expected a target over two dimensions, as (lat, lon), got {tuple(dims)}; "
            "plot.gates(data, feature) draws rows without a map."
        )
    named = {_direction(found, dim): dim for dim in dims}
    if {"x", "y"} <= named.keys():
        return named["y"], named["x"]
    return dims[-2], dims[-1]


def _direction(found: xr.DataArray, dim: str) -> str | None:
    attrs = _attrs(found, dim)
    for direction, known in _ALONG.items():
        says = (str(attrs.get("axis", "")).lower() == direction, attrs.get("units") == _DEGREES[direction])
        if any(says) or dim.lower() in known or attrs.get("standard_name") in known:
            return direction
    return None


def _attrs(found: xr.DataArray, dim: str) -> dict[str, object]:
    return {str(name): value for name, value in found[dim].attrs.items()}


def _positions(found: xr.DataArray, dim: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Coordinates where they are sorted numbers, else positions."""
    values = found[dim].values
    steps = np.diff(values) if values.dtype.kind in "iuf" else np.zeros(0)
    ordered = values.dtype.kind in "iuf" and ((steps > 0).all() or (steps < 0).all())
    return np.asarray(values if ordered else np.arange(len(values)), dtype=np.float64)


def _label(found: xr.DataArray, dim: str) -> str:
    return quantity(dim, _attrs(found, dim))
