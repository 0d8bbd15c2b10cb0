"""What the data say against a model: residuals, and the calibration of its distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import scipy

from daskmoe.model.classes import require_numbers
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.plotting.canvas import DARK, PALETTE, above, axes_of, draw_density
from daskmoe.plotting.sampled import take_sample
from daskmoe.plotting.shown import Shown
from daskmoe.rows import Data

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS: Final = 20
# Intervals whose coverage is told.
_LEVELS: Final = (0.5, 0.9)


def draw_residuals(shown: Shown, data: Data, ax: Axes | None) -> Axes:
    """See `Pictures.residuals`."""
    require_numbers(shown.rows, "residuals")
    sample = take_sample(shown, data, need_target=True)
    assert sample.response is not None
    ax = axes_of(ax)
    predicted = shown.mean(sample.features)
    residual = sample.response - predicted
    low, high = np.quantile(residual, [0.001, 0.999])
    inside = (residual >= low) & (residual <= high)
    draw_density(ax, predicted[inside], residual[inside])
    middle, mean, deviation = _by_bin(predicted, residual)
    ax.axhline(0, color=DARK, lw=0.8, ls=":")
    ax.plot(middle, mean, "-o", ms=4, color=PALETTE[4], label="mean")
    ax.plot(middle, mean + deviation, color=PALETTE[0], lw=1.4, ls="--", label="mean ± standard deviation")
    ax.plot(middle, mean - deviation, color=PALETTE[0], lw=1.4, ls="--")
    ax.set(xlabel=f"predicted {shown.label}", ylabel=f"residual of {shown.label}")
    above(ax)
    return ax


def draw_calibration(shown: Shown, data: Data, ax: Axes | None) -> Axes:
    """See `Pictures.calibration`."""
    require_numbers(shown.rows, "calibration")
    sample = take_sample(shown, data, need_target=True)
    assert sample.response is not None
    ax = axes_of(ax)
    pit = _transform(shown, sample.features, sample.response)
    density, edges = np.histogram(pit, _BINS, (0.0, 1.0), density=True)
    n_rows = len(pit)
    low, high = (scipy.special.bdtrik(p, n_rows, 1 / _BINS) * _BINS / n_rows for p in (0.005, 0.995))
    ax.axhspan(low, high, color=DARK, alpha=0.18, lw=0, label="99% band if the model is right")
    ax.axhline(1, color=DARK, lw=0.8, ls=":")
    ax.stairs(density, edges, color=PALETTE[0], fill=True, alpha=0.7)
    told = [f"{level:.0%} interval covers {_coverage(pit, level):.1%}" for level in _LEVELS]
    ax.plot([], [], ls="", label="; ".join(told))
    ax.set(
        xlim=(0, 1), xlabel=f"F({shown.target} | features) of the rows", ylabel="density (1 if calibrated)"
    )
    ax.set_ylim(0, max(1.5, 1.1 * float(density.max())))
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=1, frameon=False, fontsize="small")
    return ax


def _transform(shown: Shown, features: FloatArray, response: FloatArray) -> FloatArray:
    """F(y|x); where y has mass a draw between P(Y < y|x) and it. Uniform where the model is right."""
    below, upto = shown.cdf(features, response)
    return below + np.random.default_rng(0).random(len(upto)) * (upto - below)


def _coverage(pit: FloatArray, level: float) -> float:
    return float((np.abs(pit - 0.5) <= 0.5 * level).mean())


def _by_bin(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Middles of bins of equally many rows, and the mean and deviation of y in each."""
    order = np.array_split(np.argsort(x, kind="stable"), min(_BINS, len(x)))
    return (
        np.array([np.median(x[rows]) for rows in order]),
        np.array([y[rows].mean() for rows in order]),
        np.array([y[rows].std() for rows in order]),
    )
