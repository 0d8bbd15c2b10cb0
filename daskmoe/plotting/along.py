"""Experts and gates along a feature, the other features at their means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from daskmoe.model import MixtureOfExperts
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.numerics.families import get_family
from daskmoe.numerics.predictive.mixture import expert_means, log_gating
from daskmoe.plotting.canvas import (
    BEHIND,
    DARK,
    above,
    axes_of,
    colours,
    faded,
    key,
    names,
    source_label,
    target_label,
)
from daskmoe.plotting.sampled import Sample, Sweep, sweep, sweep_two, take_sample
from daskmoe.rows import Data

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of a line where its expert rules alone, in points.
_WIDEST: Final = 5.0
_BINS: Final = 50


def draw_experts(model: MixtureOfExperts, data: Data, feature: str, ax: Axes | None) -> Axes:
    """See `Pictures.experts`."""
    ax, sample = axes_of(ax), take_sample(model, data)
    found = sweep(sample, feature)
    family = get_family(model.family)
    means = expert_means(model.mixture, family, found.features)
    gates = np.exp(log_gating(model.mixture, found.features))
    _draw_rows(ax, sample, found)
    for k, (label, colour) in enumerate(zip(names(model), colours(model.n_experts), strict=True)):
        if found.levels is None:
            ax.plot(found.along, means[k], color=colour, lw=1, ls=(0, (4, 2)))
            _draw_weighted(ax, found.along, means[k], gates[k], colour)
            ax.plot([], [], color=colour, lw=3, label=label)
        else:
            ax.scatter(
                found.along,
                means[k],
                s=10 + 160 * gates[k],
                color=colour,
                label=label,
                edgecolor="white",
                zorder=3,
            )
    whole = (gates * means).sum(axis=0)
    style: dict[str, Any] = {"ls": ":", "lw": 1.6}
    if found.levels is not None:
        style = {"ls": "", "marker": "_", "ms": 18, "mew": 1.6}
    ax.plot(found.along, whole, color=DARK, label="mixture", zorder=4, **style)
    _fit_limits(ax, sample, means)
    _label_along(ax, sample, found)
    ax.set_ylabel(target_label(model))
    above(ax)
    return ax


def draw_gates(model: MixtureOfExperts, data: Data, feature: str, other: str | None, ax: Axes | None) -> Axes:
    """See `Pictures.gates`."""
    ax, sample = axes_of(ax), take_sample(model, data)
    if other is not None:
        return _draw_plane(ax, model, sample, feature, other)
    found = sweep(sample, feature)
    gates = np.exp(log_gating(model.mixture, found.features))
    palette = colours(model.n_experts)
    if found.levels is None:
        ax.stackplot(found.along, gates, colors=palette, labels=names(model), alpha=0.85, lw=0.5, ec="white")
        ax.margins(x=0)
        _draw_margin(ax, found)
    else:
        floor = np.zeros(len(found.along))
        for label, colour, gate in zip(names(model), palette, gates, strict=True):
            ax.bar(found.along, gate, bottom=floor, color=colour, label=label, alpha=0.85, ec="white")
            floor = floor + gate
    ax.set_ylim(0, 1)
    ax.set_ylabel("gating probability")
    _label_along(ax, sample, found)
    above(ax)
    return ax


def _draw_plane(ax: Axes, model: MixtureOfExperts, sample: Sample, feature: str, other: str) -> Axes:
    """The ruling expert by two features, paler where it is less certain, with contours of the data."""
    one, two, features = sweep_two(sample, feature, other, 160)
    shape = features.shape[:2]
    gates = np.exp(log_gating(model.mixture, features.reshape(-1, features.shape[-1])))
    palette = colours(model.n_experts)
    image = faded(gates.max(axis=0), gates.argmax(axis=0), palette).reshape(*shape, 4)
    ax.pcolormesh(one.along, two.along, image, shading="nearest", rasterized=True)
    for gate in gates.reshape(-1, *shape):
        if gate.min() < 0.5 < gate.max():
            ax.contour(one.along, two.along, gate, levels=[0.5], colors=DARK, linewidths=0.8)
    x, y = _inside(one), _inside(two)
    ax.plot(x, y, ls="", marker=".", ms=2, color=DARK, alpha=min(1.0, 800 / len(x)), rasterized=True)
    ax.set(xlim=(one.along[0], one.along[-1]), ylim=(two.along[0], two.along[-1]))
    ax.set(xlabel=_name(sample, one), ylabel=_name(sample, two))
    key(ax, names(model), palette)
    return ax


def _draw_rows(ax: Axes, sample: Sample, found: Sweep) -> None:
    """The data's density, in grey."""
    if sample.response is None:
        if found.levels is None:
            _draw_margin(ax, found)
        return
    if found.levels is not None:
        jitter = np.random.default_rng(0).uniform(-0.3, 0.3, len(found.seen))
        few = np.arange(0, len(jitter), max(1, len(jitter) // 3_000))
        ax.plot(
            (found.seen + jitter)[few],
            sample.response[few],
            ls="",
            marker=".",
            ms=2,
            color="#bbbbbb",
            zorder=0,
        )
        return
    low, high = np.quantile(sample.response, [0.002, 0.998])
    shown = (sample.response >= low) & (sample.response <= high)
    seen = _plain(found.seen)
    shown &= (seen >= _plain(found.along)[0]) & (seen <= _plain(found.along)[-1])
    if found.seen.dtype.kind in "mM":
        few = np.flatnonzero(shown)[:: max(1, shown.sum() // 3_000)]
        ax.plot(found.seen[few], sample.response[few], ls="", marker=".", ms=2, color="#bbbbbb", zorder=0)
        return
    ax.hexbin(
        seen[shown], sample.response[shown], gridsize=_BINS, cmap=BEHIND, bins="log", mincnt=1, lw=0.1,
        alpha=0.75, zorder=0,
    )  # fmt: skip


def _draw_weighted(ax: Axes, x: Any, y: FloatArray, gate: FloatArray, colour: str) -> None:
    """A line as wide as its gate is open."""
    from matplotlib.collections import LineCollection

    # Positions on a date axis are numbers of days.
    points = np.stack([_on_axis(ax, x), y], axis=1)
    pieces = np.stack([points[:-1], points[1:]], axis=1)
    widths = _WIDEST * 0.5 * (gate[:-1] + gate[1:])
    ax.add_collection(LineCollection(list(pieces), linewidths=widths, colors=colour, capstyle="round"))


def _draw_margin(ax: Axes, found: Sweep) -> None:
    """Where the data are, as a small histogram at the bottom."""
    counts, edges = np.histogram(_plain(found.seen), _BINS, (_plain(found.along)[0], _plain(found.along)[-1]))
    if found.along.dtype.kind in "mM":
        edges = edges.astype(np.int64).astype(found.along.dtype)
    ax.stairs(
        0.12 * counts / max(1, counts.max()), _on_axis(ax, edges), transform=ax.get_xaxis_transform(),
        color=DARK, fill=True, alpha=0.75, label="data",
    )  # fmt: skip


def _fit_limits(ax: Axes, sample: Sample, means: FloatArray) -> None:
    """The data's range where it is known: an expert's line goes far where the expert does not rule."""
    if sample.response is None:
        return
    low, high = np.quantile(sample.response, [0.001, 0.999])
    pad = 0.08 * (high - low) or 1.0
    ax.set_ylim(low - pad, high + pad)


def _label_along(ax: Axes, sample: Sample, found: Sweep) -> None:
    if found.levels is not None:
        ax.set_xticks(found.along, found.levels)
    ax.set_xlabel(_name(sample, found))


def _name(sample: Sample, found: Sweep) -> str:
    return source_label(sample.data, found.name, found.column)


def _inside(found: Sweep) -> Any:
    """Few enough values to be told apart."""
    return found.seen[:: max(1, len(found.seen) // 2_000)]


def _plain(values: Any) -> FloatArray:
    return np.asarray(values.astype(np.int64) if values.dtype.kind in "mM" else values, dtype=np.float64)


def _on_axis(ax: Axes, x: Any) -> FloatArray:
    return np.asarray(ax.convert_xunits(x), dtype=np.float64)  # type: ignore[no-untyped-call]
