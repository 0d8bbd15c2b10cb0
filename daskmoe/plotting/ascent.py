"""How a fit came to its end: the starts of local fits, the MM algorithm, the rounds of a refinement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import xarray as xr

from daskmoe.errors import InvalidDataError, InvalidOptionError
from daskmoe.model import MixtureOfExperts
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.plotting.canvas import PALETTE, above, axes_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Stages -> the variable of the diagnostics that tells of them.
STAGES: Final = {"rounds": "round_objective", "mm": "objective", "starts": "start_log_likelihood"}


def draw_convergence(model: MixtureOfExperts, of: str | None, ax: Axes | None) -> Axes:
    """See `Pictures.convergence`."""
    found = xr.Dataset() if model.diagnostics is None else model.diagnostics
    # Of an aggregation that did not iterate there is nothing to see.
    known = [stage for stage, name in STAGES.items() if name in found and found[name].size > 1]
    if of is not None and of not in STAGES:
        raise InvalidOptionError(f"of: expected one of {list(STAGES)}, got {of!r}.")
    if not known or (of is not None and of not in known):
        wanted = "several steps" if of is None else repr(of)
        raise InvalidDataError(
            f"Expected a model whose diagnostics tell of {wanted}, got one that knows of "
            f"{known or 'none'}: local fits keep 'starts', a reduction 'mm', refine 'rounds'."
        )
    ax = axes_of(ax)
    stage = known[0] if of is None else of
    {"rounds": _draw_rounds, "mm": _draw_mm, "starts": _draw_starts}[stage](ax, found)
    return ax


def _draw_rounds(ax: Axes, found: xr.Dataset) -> None:
    """Nats below the end; rounds that were rejected are crosses."""
    objective, accepted = found["round_objective"].values, found["round_accepted"].values == 1
    gap = _gap(objective[accepted].max() - objective)
    number = np.arange(1, len(gap) + 1)
    ax.plot(number[accepted], gap[accepted], "-o", color=PALETTE[0], label="accepted")
    if not accepted.all():
        ax.plot(number[~accepted], gap[~accepted], ls="", marker="x", color=PALETTE[4], label="rejected")
    ax.set(yscale="log", xlabel="round", ylabel="penalized log-likelihood below the end [nats]")
    ax.locator_params(axis="x", integer=True)
    above(ax)


def _draw_mm(ax: Axes, found: xr.Dataset) -> None:
    values = found["objective"].values
    ax.plot(np.arange(len(values)), _gap(values - values.min()), "-o", ms=3, color=PALETTE[0])
    ax.set(yscale="log", xlabel="MM iteration", ylabel="transportation divergence above the end [nats]")
    ax.locator_params(axis="x", integer=True)


def _draw_starts(ax: Axes, found: xr.Dataset) -> None:
    """What each start of every local fit reached, below the best of its partition."""
    values = found["start_log_likelihood"].transpose("partition", "init").values
    gap = _gap(np.nanmax(values, axis=1, keepdims=True) - values)
    places = np.arange(len(gap))[:, None] + np.random.default_rng(0).uniform(-0.25, 0.25, gap.shape)
    ax.plot(places.ravel(), gap.ravel(), ls="", marker=".", ms=4, color=PALETTE[0], alpha=0.6)
    ax.set(yscale="log", xlabel="partition", ylabel="a start's log-likelihood below the best [nats a row]")
    labels = [str(label) for label in found["partition"].values]
    if len(labels) <= 40:
        ax.set_xticks(np.arange(len(labels)), labels)


def _gap(values: FloatArray) -> FloatArray:
    """Distances for a logarithmic axis, on which the best itself has no place."""
    return np.where(values > 0.0, values, np.nan)
