"""Experts and gates along a feature of the data.

Features of real rows depend on each other: at the means of all others an expert may be where no row is. So
gates and the mixture are averages over the rows near each value, and an expert's fit is drawn at the means of
the rows that are its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.plotting.canvas import (
    DARK,
    FAINT,
    above,
    axes_of,
    draw_density,
    faded,
    key,
    short_dates,
    source_label,
)
from daskmoe.plotting.sampled import (
    Axis,
    Sample,
    as_numbers,
    axis_of,
    different_axis,
    features_along,
    take_sample,
)
from daskmoe.plotting.shown import Shown
from daskmoe.rows import Data

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of a line where its expert rules alone, in points.
_WIDEST: Final = 6.0
_BARS: Final = 60
# Bins of equally many rows along a feature, and of equal width along each of two.
_BINS: Final = 40
_CELLS: Final = 48
_POINTS: Final = 200
# Dots that can be told apart.
_MOST_DOTS: Final = 3_000


def draw_experts(shown: Shown, data: Data, feature: str | None, ax: Axes | None) -> Axes:
    """See `Pictures.experts`."""
    ax, sample = axes_of(ax), take_sample(shown, data)
    axis, family = axis_of(sample, feature), shown.family
    gates, whole = shown.gates(sample.features), shown.mean(sample.features)
    if family.nominal and sample.response is not None:
        sample = sample._replace(response=(sample.response == family.n_predictors).astype(np.float64))
    _draw_rows(ax, sample, axis)
    grid, marks = axis.grid(_POINTS), axis.middles(_BINS)
    for k, (label, colour) in enumerate(zip(shown.names, shown.palette, strict=True)):
        means = shown.means(features_along(sample, axis, grid, gates[k]))[k]
        if axis.levels is None:
            # Before there are artists the axis does not know that it has dates.
            ax.plot(grid, means, color=colour, lw=1, ls=(0, (4, 2)))
            open_to = np.interp(as_numbers(grid), as_numbers(marks), axis.average(gates[k], _BINS))
            _draw_weighted(ax, grid, means, open_to, colour)
            ax.plot([], [], color=colour, lw=3, label=label)
        else:
            size = 10 + 160 * axis.average(gates[k], _BINS)
            ax.scatter(grid, means, s=size, color=colour, label=label, edgecolor="white", zorder=3)
    style: dict[str, Any] = {"ls": ":", "lw": 1.8}
    if axis.levels is not None:
        style = {"ls": "", "marker": "_", "ms": 18, "mew": 1.6}
    ax.plot(marks, axis.average(whole, _BINS), color=DARK, label="mixture", zorder=4, **style)
    _fit_limits(ax, sample)
    _label_along(ax, sample, axis)
    ax.set_ylabel(shown.label)
    if shown.rows.classes is not None:
        ax.set_ylabel(f"probability of {shown.rows.classes.names[-1]!r}")
    above(ax)
    return ax


def draw_gates(shown: Shown, data: Data, feature: str | None, other: str | None, ax: Axes | None) -> Axes:
    """See `Pictures.gates`."""
    ax, sample = axes_of(ax), take_sample(shown, data)
    gates, axis, palette = shown.gates(sample.features), axis_of(sample, feature), shown.palette
    if other is not None:
        return _draw_plane(ax, shown, sample, axis, different_axis(sample, axis, other), gates)
    marks, shares = axis.middles(_BINS), np.array([axis.average(gate, _BINS) for gate in gates])
    if axis.levels is None:
        ax.stackplot(marks, shares, colors=palette, labels=shown.names, alpha=0.85, lw=0.5, ec="white")
        ax.set_xlim(marks[0], marks[-1])
        _draw_margin(ax, axis)
    else:
        floor = np.zeros(len(marks))
        for label, colour, share in zip(shown.names, palette, shares, strict=True):
            ax.bar(marks, share, bottom=floor, color=colour, label=label, alpha=0.85, ec="white")
            floor = floor + share
    ax.set_ylim(0, 1)
    ax.set_ylabel("gating probability")
    _label_along(ax, sample, axis)
    above(ax)
    return ax


def _draw_plane(ax: Axes, shown: Shown, sample: Sample, one: Axis, two: Axis, gates: FloatArray) -> Axes:
    """The ruling expert by two features where there are rows, paler where it is less certain."""
    x, y = one.within(), two.within()
    inside = np.isfinite(x) & np.isfinite(y)
    edges = [axis.edges(_CELLS) for axis in (one, two)]
    count = np.histogram2d(x[inside], y[inside], edges)[0].T
    sums = [np.histogram2d(x[inside], y[inside], edges, weights=gate[inside])[0].T for gate in gates]
    with np.errstate(invalid="ignore"):
        means = np.array(sums) / count
    palette = shown.palette
    ruling = np.nan_to_num(means).argmax(axis=0)
    across, up = (axis.placed(values) for axis, values in zip((one, two), edges, strict=True))
    ax.pcolormesh(across, up, faded(means.max(axis=0), ruling, palette), rasterized=True)
    for axis, side, put in ((one, ax.xaxis, ax.set_xlabel), (two, ax.yaxis, ax.set_ylabel)):
        put(source_label(sample.data, axis.name, axis.column))
        if axis.seen.dtype.kind == "M":
            short_dates(side)
    key(ax, shown.names, palette)
    return ax


def _draw_rows(ax: Axes, sample: Sample, axis: Axis) -> None:
    """The data's density, in grey."""
    if sample.response is None:
        if axis.levels is None:
            _draw_margin(ax, axis)
        return
    low, high = np.quantile(sample.response, [0.001, 0.999])
    shown = (sample.response >= low) & (sample.response <= high) & np.isfinite(axis.within())
    if axis.levels is None and axis.seen.dtype.kind not in "mM":
        draw_density(ax, axis.within()[shown], sample.response[shown])
        return
    few = np.flatnonzero(shown)[:: max(1, int(shown.sum()) // _MOST_DOTS)]
    places = axis.seen[few]
    if axis.levels is not None:
        places = places + np.random.default_rng(0).uniform(-0.3, 0.3, len(few))
    ax.plot(places, sample.response[few], ls="", marker=".", ms=2, color=FAINT, zorder=0)


def _draw_weighted(ax: Axes, x: Any, y: FloatArray, gate: FloatArray, colour: str) -> None:
    """A line as wide as its gate is open."""
    from matplotlib.collections import LineCollection

    points = np.stack([_on_axis(ax, x), y], axis=1)
    pieces = np.stack([points[:-1], points[1:]], axis=1)
    widths = _WIDEST * 0.5 * (gate[:-1] + gate[1:])
    ax.add_collection(LineCollection(list(pieces), linewidths=widths, colors=colour, capstyle="round"))


def _draw_margin(ax: Axes, axis: Axis) -> None:
    """Where the data are, as a small histogram at the bottom."""
    values = axis.within()
    counts, edges = np.histogram(values[np.isfinite(values)], axis.edges(_BARS), density=True)
    ax.stairs(
        0.12 * counts / counts.max(), _on_axis(ax, axis.placed(edges)), color=DARK, fill=True,
        alpha=0.75, label="data", transform=ax.get_xaxis_transform(),
    )  # fmt: skip


def _fit_limits(ax: Axes, sample: Sample) -> None:
    """The data's range where it is known: an expert's line goes far where the expert does not rule."""
    if sample.response is None:
        return
    low, high = np.quantile(sample.response, [0.001, 0.999])
    pad = 0.08 * (high - low) or 1.0
    ax.set_ylim(low - pad, high + pad)


def _label_along(ax: Axes, sample: Sample, axis: Axis) -> None:
    if axis.levels is not None:
        crowded = sum(map(len, axis.levels)) > 50
        ax.set_xticks(np.arange(len(axis.levels)), axis.levels, rotation=90 if crowded else 0)
    if axis.seen.dtype.kind == "M":
        short_dates(ax.xaxis)
    ax.set_xlabel(source_label(sample.data, axis.name, axis.column))


def _on_axis(ax: Axes, x: Any) -> FloatArray:
    return np.asarray(ax.convert_xunits(x), dtype=np.float64)
