"""Axes, colours and labels that all pictures share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr

from daskmoe.numerics.base.parameters import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that are told apart with every common colour vision: M. Okabe and K. Ito, Color universal design
# (2008). Neighbours differ in lightness too, for print without colours.
PALETTE: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6D31", "#999999")
DARK: Final = "#333333"
FAINT: Final = "#BBBBBB"
# Of what lies behind, the density of the data: few rows are dots, as most hexagons would hold none or one.
_BEHIND: Final = "Greys"
_HEXAGONS: Final = 50
_FEW: Final = 1_500


def axes_of(ax: Axes | None) -> Axes:
    """The given axes, or those of a new figure; `ImportError` says what to install."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "Pictures need matplotlib, which is not installed: pip install 'daskmoe[plot]'."
        ) from error
    return plt.subplots(layout="constrained")[1] if ax is None else ax


def colours(n_experts: int) -> list[str]:
    """A colour an expert; of more than there are in the palette, along one scale."""
    if n_experts <= len(PALETTE):
        return list(PALETTE[:n_experts])
    import matplotlib

    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.95, n_experts))
    return [matplotlib.colors.to_hex(shade) for shade in shades]


def draw_density(ax: Axes, x: FloatArray, y: FloatArray) -> None:
    """Where rows lie, in grey, behind all else."""
    if len(x) <= _FEW:
        ax.plot(x, y, ls="", marker=".", ms=4, color=FAINT, zorder=0)
        return
    ax.hexbin(
        x, y, gridsize=_HEXAGONS, cmap=_BEHIND, bins="log", mincnt=1, lw=0.1, alpha=0.75, zorder=0
    )  # fmt: skip


def quantity(name: str, attrs: Mapping[str, Any]) -> str:
    """An axis label: the long name or name, and the units."""
    text = str(attrs.get("long_name") or name)
    units = attrs.get("units")
    return f"{text} [{units}]" if units and units != "1" else text


def source_label(data: xr.Dataset, name: str, column: str | None = None) -> str:
    """Axis label of a variable, or of one column of it."""
    attrs = dict(data.variables[name].attrs)
    if column is None or column == name:
        return quantity(name, attrs)
    return quantity(column, {"units": attrs.get("units")})


def faded(certainty: FloatArray, ruling: np.ndarray[Any, Any], palette: list[str]) -> FloatArray:
    """RGBA of the ruling experts, the paler the less certain; transparent where that is missing."""
    from matplotlib.colors import to_rgb

    shown = np.isfinite(certainty)
    base = np.array([to_rgb(colour) for colour in palette])[np.where(shown, ruling, 0)]
    # Certainty runs from 1 / K to one.
    least = 1.0 / max(2, len(palette))
    strength = np.clip((np.where(shown, certainty, 0.0) - least) / (1.0 - least), 0.0, 1.0)[..., None]
    strength = 0.25 + 0.75 * strength
    rgb = 1.0 - strength * (1.0 - base)
    return np.concatenate([rgb, shown[..., None].astype(float)], axis=-1)


def key(ax: Axes, labels: list[str], palette: list[str]) -> None:
    """A legend of coloured patches, above the axes where it hides nothing."""
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=label) for label, colour in zip(labels, palette, strict=True)]
    above(ax, handles=handles)


def above(ax: Axes, **options: Any) -> None:
    """The legend above the axes, in as many columns as fit."""
    ax.legend(
        loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4, frameon=False, fontsize="small", **options
    )


def short_dates(axis: Any) -> None:
    """Ticks of a date axis that do not repeat the year."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(maxticks=8)
    axis.set_major_locator(locator)
    axis.set_major_formatter(ConciseDateFormatter(locator))
