"""Coefficients with their intervals, those of the partitions beside the model's, and the transport plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
import xarray as xr

from daskmoe.errors import InvalidDataError, InvalidOptionError
from daskmoe.model import MixtureOfExperts
from daskmoe.model.moments import moments_from
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.plotting.canvas import DARK, above, axes_of
from daskmoe.plotting.shown import Shown
from daskmoe.rows.names import (
    CLASS,
    COEF,
    EXPERT,
    FEATURE,
    INTERCEPT,
    LOCAL_EXPERT,
    OUTPUT,
    PARAMETER,
    PARTITION,
)  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS: Final = "osD^vPX*"
# Terms that a forest plot holds.
_MOST_TERMS: Final = 40
# Cells of a plan that are written out, and partitions that have ticks.
_MOST_CELLS: Final = 120
_MOST_TICKS: Final = 40


def draw_coefficients(
    shown: Shown,
    variable: Literal["coef", "gate_coef"],
    level: float,
    standardized: bool | None,
    ax: Axes | None,
) -> Axes:
    """See `Pictures.coefficients`."""
    model = shown.experts
    scale = _deviations(model, variable)
    if standardized and scale is None:
        raise InvalidOptionError(
            "standardized: expected a model that knows its features' deviations, as one that was fitted or "
            "refined; use standardized=False."
        )
    if standardized is False or scale is None:
        scale = None
    table = model.table(level=level) if variable == "gate_coef" else _table(shown, level)
    if variable == "gate_coef" and model.n_experts == 1:
        raise InvalidDataError(
            "coefficients: expected a model of several experts, got one expert, whose gate is always open. "
            "Use plot.coefficients('coef')."
        )
    rows = table.sel(parameter=table["variable"] == variable)
    if not rows.sizes["parameter"]:
        raise InvalidDataError(
            f"coefficients: expected a model with features, got one without any {variable!r}."
        )
    factor = np.ones(rows.sizes["parameter"])
    if scale is not None:
        # Of labels there are slopes for each class.
        factor = np.resize(scale, rows.sizes["parameter"])
    order, ax = _largest(rows, factor), axes_of(ax)
    palette = shown.palette
    for k, label in enumerate(_names(shown)):
        own = rows.isel(expert=k)
        if variable == "gate_coef" and not own["estimate"].values.any():
            # The reference of the gates.
            continue
        places = np.arange(len(order)) + _offset(k, model.n_experts)
        estimate, low, high = ((own[name].values * factor)[order] for name in ("estimate", "lower", "upper"))
        bars = np.nan_to_num(np.stack([estimate - low, high - estimate]))
        ax.errorbar(
            estimate, places, xerr=bars, ls="", marker=_MARKERS[k % len(_MARKERS)], ms=5, color=palette[k],
            label=label, elinewidth=1.8,
        )  # fmt: skip
    ax.axvline(0, color=DARK, lw=0.8, ls=":", zorder=0)
    ax.set_yticks(np.arange(len(order)), [str(term) for term in rows["term"].values[order]])
    ax.set_ylim(len(order) - 0.5, -0.5)
    ax.set_xlabel(_effect(shown, variable, scale is not None, rows, level))
    above(ax)
    return ax


def draw_partitions(shown: Shown, term: str | None, ax: Axes | None) -> Axes:
    """See `Pictures.partitions`."""
    model, local = shown.experts, shown.experts.local_estimates
    if local is None:
        raise InvalidDataError(
            "Expected a model with local estimates, got one without: daskmoe.fit keeps those of its "
            "partitions."
        )
    ax = axes_of(ax)
    of = _parameter(shown, term)
    own, parts = (
        _flat(_of_output(model.params, shown.output), (EXPERT,), of.variable),
        _flat(_of_output(local, shown.output), (PARTITION, LOCAL_EXPERT), of.variable),
    )
    own, parts = own[:, of.position], parts[..., of.position]
    which, palette = _belongs(model, local), shown.palette
    for k, label in enumerate(_names(shown)):
        row = of.row.isel(expert=k)
        ax.axhline(float(own[k]), color=palette[k], lw=1.6, label=label)
        if np.isfinite(row["lower"]):
            ax.axhspan(float(row["lower"]), float(row["upper"]), color=palette[k], alpha=0.2, lw=0)
        m, j = np.nonzero(which == k)
        marker = _MARKERS[k % len(_MARKERS)]
        ax.plot(m, parts[m, j], ls="", marker=marker, ms=5, color=palette[k], mec="white", mew=0.5)
    _tick_partitions(ax.xaxis, [str(each) for each in local[PARTITION].values])
    ax.set_xlabel("partition")
    term, units = (str(of.row[name].values) for name in ("term", "units"))
    what = of.variable if of.variable == INTERCEPT else f"coefficient of {term}"
    if of.variable == INTERCEPT and term != INTERCEPT:
        what = f"intercept of {term}"
    if shown.output is not None:
        what = f"{what} of {shown.target}"
    ax.set_ylabel(f"{what} [{units}]" if units else what)
    above(ax)
    return ax


def draw_transport_plan(shown: Shown, ax: Axes | None) -> Axes:
    """See `Pictures.transport_plan`."""
    shares = shown.experts.transport_plan().table()["share"].fillna(0)
    ax = axes_of(ax)
    share = shares.transpose(PARTITION, EXPERT).values
    image = ax.pcolormesh(share, cmap="cividis", vmin=0, vmax=1, ec="white", lw=0.5)
    ax.set_xticks(np.arange(shown.experts.n_experts) + 0.5, _names(shown))
    _tick_partitions(ax.yaxis, [str(each) for each in shares[PARTITION].values], 0.5)
    ax.set_ylim(len(share), 0)
    if share.size <= _MOST_CELLS:
        for (m, k), value in np.ndenumerate(share):
            colour = "white" if value < 0.55 else "black"
            ax.text(
                k + 0.5, m + 0.5, f"{value:.2f}", ha="center", va="center", color=colour, fontsize="small"
            )
    ax.figure.colorbar(image, ax=ax, label="share of the partition's mass")
    ax.set(xlabel="expert of the model", ylabel="partition")
    return ax


def _names(shown: Shown) -> list[str]:
    """What the experts are called, without atoms, which have none of these."""
    return shown.names[: shown.experts.n_experts]


def _table(shown: Shown, level: float = 0.95) -> xr.Dataset:
    """The table of the experts; of one output its linear predictors, called as if there were no other."""
    table = shown.experts.table(level=level)
    if shown.output is None:
        return table
    names, n_outputs = table["variable"].values, len(shown.rows.outputs)
    own = [np.flatnonzero(names == name).reshape(n_outputs, -1)[shown.output] for name in (INTERCEPT, COEF)]
    terms = [INTERCEPT, *shown.rows.expert_labels]
    return table.isel({PARAMETER: np.concatenate(own)}).assign_coords(term=(PARAMETER, terms))


def _of_output(params: xr.Dataset, output: int | None) -> xr.Dataset:
    """Parameters of one output alone, where there are several."""
    return params if output is None else params.isel({OUTPUT: output})


def _offset(k: int, n_experts: int) -> float:
    """Of an expert's marks from the middle of a line."""
    return 0.6 * ((k + 0.5) / n_experts - 0.5)


def _deviations(model: MixtureOfExperts, variable: str) -> FloatArray | None:
    """Of the features that the coefficients are of."""
    known = moments_from(model.diagnostics)
    if known is None:
        return None
    whole = np.sqrt(np.diagonal(known.scatter)[: known.n_features] / known.weight)
    own = model.rows.gate_columns if variable == "gate_coef" else model.rows.expert_columns
    return whole if own is None else whole[list(own)]


def _largest(rows: xr.Dataset, factor: FloatArray) -> Any:
    """The terms in their order; of many, those with the largest effects."""
    size = np.abs(rows["estimate"].transpose("parameter", EXPERT).values * factor[:, None]).max(axis=1)
    return np.sort(np.argsort(-size, kind="stable")[:_MOST_TERMS])


def _effect(shown: Shown, variable: str, standardized: bool, rows: xr.Dataset, level: float) -> str:
    units, link = shown.rows.target_attrs.get("units"), shown.family.predictor_units
    if variable == "gate_coef":
        of = "log odds of the expert"
    elif link == "{}":
        of = f"{shown.target} [{units}]" if units else shown.target
    else:
        of = f"the linear predictor of {shown.target}"
    per = "a standard deviation" if standardized else "a unit"
    interval = f", {level:.0%} interval" if bool(rows["lower"].notnull().any()) else ""
    left = rows.sizes["parameter"] - _MOST_TERMS
    more = f"; {left} smaller ones not shown" if left > 0 else ""
    return f"change of {of}\nwith {per} of the feature{interval}{more}"


class _Parameter(NamedTuple):
    """A parameter of all experts: its row of the table, and which it is among those of its variable."""

    row: xr.Dataset
    variable: str
    position: int


def _parameter(shown: Shown, term: str | None) -> _Parameter:
    """The intercept or coefficient that a term of the table names; the first where it is None."""
    table = _table(shown)
    terms = [
        (variable, str(each))
        for variable in (INTERCEPT, COEF)
        for each in table["term"].values[table["variable"].values == variable]
    ]
    found = terms[0] if term is None else next((each for each in terms if each[1] == term), None)
    if found is None:
        raise InvalidOptionError(f"term: expected one of {[each for _, each in terms]}, got {term!r}.")
    own = table.sel(parameter=table["variable"] == found[0])
    position = own["term"].values.tolist().index(found[1])
    return _Parameter(own.isel(parameter=position), found[0], position)


def _flat(params: xr.Dataset, leading: tuple[str, ...], name: str) -> FloatArray:
    """All parameters of a variable behind the leading dimensions, in the order of the table."""
    found = params[name]
    if CLASS in found.dims:
        found = found.isel({CLASS: slice(1, None)})
    values = found.transpose(*leading, *(dim for dim in (CLASS, OUTPUT, FEATURE) if dim in found.dims)).values
    return np.asarray(values.reshape(*values.shape[: len(leading)], -1))


def _plan(model: MixtureOfExperts) -> xr.DataArray | None:
    try:
        return model.transport_plan().mass
    except InvalidDataError:
        return None


def _belongs(model: MixtureOfExperts, local: xr.Dataset) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Which expert of the model each local expert goes to: most of its mass, or the nearest coefficients."""
    parts = (PARTITION, LOCAL_EXPERT)
    known = np.isfinite(_flat(local, parts, INTERCEPT)[..., 0])
    plan = _plan(model)
    if plan is not None and plan.shape[:2] == known.shape:
        found = plan.values.argmax(axis=2)
    else:
        both = (INTERCEPT, COEF)
        own = np.concatenate([_flat(model.params, (EXPERT,), name) for name in both], axis=-1)
        theirs = np.concatenate([_flat(local, parts, name) for name in both], axis=-1)
        found = np.nan_to_num(((theirs[:, :, None] - own) ** 2).sum(axis=3)).argmin(axis=2)
    return np.where(known, found, -1)


def _tick_partitions(axis: Any, labels: list[str], shift: float = 0.0) -> None:
    """A tick a partition, of many every so many."""
    step = -(-len(labels) // _MOST_TICKS)
    turned = axis.axis_name == "x" and max(map(len, labels), default=0) * len(labels) > 60
    axis.set_ticks(np.arange(0, len(labels), step) + shift, labels[::step], rotation=90 if turned else 0)
