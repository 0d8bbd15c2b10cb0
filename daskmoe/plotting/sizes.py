"""The picture of a selection: criteria over the number of experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daskmoe.model.selection import SIZE, Selection
from daskmoe.plotting.canvas import FAINT, PALETTE, above, axes_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = ("o", "s", "D")
_LINES = ("-", "--", ":")


def draw_selection(selection: Selection, ax: Axes | None) -> Axes:
    """See `Selection.plot`."""
    ax, table = axes_of(ax), selection.table
    held = selection.criterion == "held_out"
    criteria = ["held_out"] if held else [name for name in ("bic", "aic", "icl") if name in table]
    for name, colour, marker, line in zip(criteria, PALETTE, _MARKERS, _LINES, strict=False):
        ax.errorbar(
            table[SIZE].values,
            table[f"{name}_difference"].values,
            table["held_out_error"].values if held else None,
            marker=marker,
            ls=line,
            capsize=3,
            color=colour,
            label=name.replace("_", " "),
        )
    ax.axvline(selection.n_experts, color=FAINT, zorder=0, label="chosen")
    ax.set_xticks(table[SIZE].values)
    ax.set_xlabel("number of experts")
    ax.set_ylabel("nats a row, from the best" if held else "difference from the best")
    above(ax)
    return ax
