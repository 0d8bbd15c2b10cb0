"""How far the rows of each update were from the model that they came to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from daskmoe.errors import InvalidDataError
from daskmoe.model import MixtureOfExperts
from daskmoe.numerics.base.policies import MEMORY
from daskmoe.plotting.canvas import DARK, PALETTE, above, axes_of
from daskmoe.rows.names import UPDATE_DRIFT, UPDATE_DRIFT_LIMIT, UPDATE_DRIFT_NATS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_drift(model: MixtureOfExperts, ax: Axes | None) -> Axes:
    """See `Pictures.drift`."""
    found = model.diagnostics
    if found is None or UPDATE_DRIFT not in found:
        raise InvalidDataError(
            "Expected a model with updates, got one without: daskmoe.update(model, data) adds new rows and "
            "keeps how far they are from it."
        )
    ax = axes_of(ax)
    drift, nats = found[UPDATE_DRIFT].values, found[UPDATE_DRIFT_NATS].values
    # Models of older versions do not know what chance explains.
    limit = found[UPDATE_DRIFT_LIMIT].values if UPDATE_DRIFT_LIMIT in found else np.full(len(drift), np.nan)
    number = np.arange(1, len(drift) + 1)
    far = (drift > limit) & (nats > MEMORY.drift)
    ax.vlines(number, 1.0, drift, color=DARK, lw=0.8, zorder=1)
    for which, marker, colour, label in (
        (~far, "o", PALETTE[0], "as chance explains"),
        (far, "D", PALETTE[4], "far: old and new rows differ"),
    ):
        if which.any():
            ax.plot(number[which], drift[which], ls="", marker=marker, color=colour, label=label)
    for place in np.flatnonzero(far):
        text = f"{nats[place]:.2g} nats a row"
        ax.annotate(
            text,
            (number[place], drift[place]),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize="small",
        )
    ax.axhline(1.0, color=DARK, lw=0.8, ls=":", zorder=0)
    ax.hlines(limit, number - 0.5, number + 0.5, color=DARK, lw=0.8, ls="--", label="limit of chance")
    ax.set(
        yscale="log",
        xlabel="update",
        ylabel="squared distance of the new rows' optimum,\na parameter (1: no drift)",
    )
    ax.margins(y=0.15)
    ax.set_xlim(0.5, len(number) + 0.5)
    ax.locator_params(axis="x", integer=True)
    above(ax)
    return ax
