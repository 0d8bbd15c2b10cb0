"""Models of several numbers of experts, compared: a table, the model that was chosen, a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr

from daskmoe.model.moe import MixtureOfExperts
from daskmoe.model.pieces import card_of, table_of
from daskmoe.numerics.base.parameters import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Criteria, and whether more is better.
CRITERIA: dict[str, bool] = {"bic": False, "aic": False, "icl": False, "held_out": True}
SIZE = "n_experts"
_WIDTH = 9


class Selection:
    """Models that differ in their number of experts, compared by a criterion; of `daskmoe.select_n_experts`.

    Parameters
    ----------
    table : xr.Dataset
        Over ``n_experts``; the attributes ``criterion`` and ``best``.
    models : mapping of int to MixtureOfExperts
        By number of experts.

    Examples
    --------
    >>> import daskmoe
    >>> data, _ = daskmoe.simulate(2000, n_features=2, n_experts=2, design="overlap", random_state=0)
    >>> selection = daskmoe.select_n_experts(data, "y", n_experts=[1, 2, 3], random_state=0)
    >>> selection.n_experts, selection.model.n_experts
    (2, 2)
    >>> selection.table["bic"].dims
    ('n_experts',)
    """

    # What draws selections, from `draw_selections_with`.
    _draw: ClassVar[Callable[[Selection, Axes | None], Axes] | None] = None

    def __init__(self, table: xr.Dataset, models: Mapping[int, MixtureOfExperts]) -> None:
        self.table = table
        self.models = dict(models)

    @property
    def criterion(self) -> str:
        """What decided."""
        return str(self.table.attrs["criterion"])

    @property
    def n_experts(self) -> int:
        """The number of experts that was chosen."""
        return int(self.table.attrs["best"])

    @property
    def model(self) -> MixtureOfExperts:
        """The model that was chosen."""
        return self.models[self.n_experts]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Every criterion as its difference from the best, over the number of experts; needs matplotlib.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure if None.

        Returns
        -------
        matplotlib.axes.Axes
        """
        draw = type(self)._draw
        if draw is None:
            raise AttributeError("plot: expected daskmoe.plotting to be imported, as by import daskmoe.")
        return draw(self, ax)

    def _title(self) -> str:
        return f"{self.n_experts} experts of {self.model.target!r} by {self.criterion}"

    def _columns(self) -> list[str]:
        """Those of the table that text and card show."""
        columns = ["n_parameters", "log_likelihood", *(name for name in CRITERIA if name in self.table)]
        columns += [f"{self.criterion}_difference"]
        return columns + (["held_out_error"] if self.criterion == "held_out" else [])

    def __repr__(self) -> str:
        columns = self._columns()
        widths = [max(len(name), _WIDTH) + 2 for name in columns]
        names = (f"{name:>{width}}" for name, width in zip(columns, widths, strict=True))
        lines = [f"<Selection: {self._title()}>", f"{SIZE}  {''.join(names)}"]
        for row in self.table.to_dataframe().itertuples():
            cells = (
                f"{_shown(getattr(row, name), name):>{width}}"
                for name, width in zip(columns, widths, strict=True)
            )
            mark = "*" if row.Index == self.n_experts else " "
            lines.append(f"{row.Index:>{len(SIZE)}} {mark}{''.join(cells)}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        columns = self._columns()
        lines = []
        for row in self.table.to_dataframe().itertuples():
            mark = " (chosen)" if row.Index == self.n_experts else ""
            lines.append([f"{row.Index}{mark}", *(_shown(getattr(row, name), name) for name in columns)])
        heads = ["experts", *(name.replace("_", " ") for name in columns)]
        return card_of(self._title(), table_of("", heads, lines)) + self.model._repr_html_()


def draw_selections_with(draw: Callable[[Selection, Axes | None], Axes]) -> None:
    """Let `Selection.plot` call ``draw``: a room above this one hands it down."""
    Selection._draw = staticmethod(draw)


def compare(
    models: Mapping[int, MixtureOfExperts], criterion: str, held_out: tuple[FloatArray, FloatArray] | None
) -> xr.Dataset:
    """The table of a selection.

    Parameters
    ----------
    models : mapping of int to MixtureOfExperts
        Which know how well they describe the rows of their fit.
    criterion : str
        One of `CRITERIA`.
    held_out : (B,), (B, C), optional
        Weights of blocks, and their log-likelihoods under fits of C sizes to other rows.
    """
    found: dict[str, Any] = {
        "n_parameters": ([model.n_parameters for model in models.values()], "free parameters", "1"),
        "log_likelihood": ([m.log_likelihood() for m in models.values()], "of the rows of the fit", "nats"),
        "bic": ([m.bic() for m in models.values()], "Schwarz' criterion, the less the better", "1"),
        "aic": ([m.aic() for m in models.values()], "Akaike's criterion, the less the better", "1"),
        "icl": (
            [m.icl() for m in models.values()],
            "integrated completed likelihood, the less the better",
            "1",
        ),
    }
    if held_out is not None:
        weights, values = held_out
        mean = values.sum(axis=0) / weights.sum()
        differences, errors = _differences(weights, values)
        found["held_out"] = (mean, "log-likelihood of rows that were held out, a row", "nats")
        found["held_out_difference"] = (differences, "from the size of the most, a row", "nats")
        found["held_out_error"] = (errors, "standard error of the difference, by blocks", "nats")
    for name in ("bic", "aic", "icl"):
        values = np.asarray(found[name][0])
        found[f"{name}_difference"] = (values - np.min(values), f"{name} less the least", "1")
    variables = {
        name: (SIZE, np.asarray(values), {"long_name": text, "units": units})
        for name, (values, text, units) in found.items()
    }
    table = xr.Dataset(variables, {SIZE: (SIZE, [*models], {"long_name": "number of experts"})})
    decisive = table[criterion].values
    place = np.nanargmax(decisive) if CRITERIA[criterion] else np.nanargmin(decisive)
    return table.assign_attrs(criterion=criterion, best=int(table[SIZE].values[place]))


def _differences(weights: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Of log-likelihoods a row from the highest, and their standard errors by blocks of rows.

    Blocks are independent of each other, rows within one need not be: the error is that of a ratio of sums
    over blocks, with the B - 1 of a sample.
    """
    from_best = values - values[:, [int(np.argmax(values.sum(axis=0)))]]
    differences = from_best.sum(axis=0) / weights.sum()
    left = from_best - weights[:, None] * differences
    count = len(weights)
    spread = np.sqrt(np.sum(left**2, axis=0) * count / (count - 1)) / weights.sum()
    return differences, spread


def _shown(value: float, name: str) -> str:
    """Differences of a nat count; those a row are small."""
    if name == "n_parameters":
        return f"{value:.0f}"
    return f"{value:.5f}" if name.startswith("held_out") else f"{value:.1f}"
