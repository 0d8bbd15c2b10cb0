"""A model as a few lines of text."""

from __future__ import annotations

import re
import textwrap

import xarray as xr

from daskmoe.model.history import outcomes_of
from daskmoe.model.store import ModelParts
from daskmoe.model.uncertainty import kinds_of, not_identified
from daskmoe.numerics.families import get_family
from daskmoe.rows.names import (
    ABSENT_ROWS,
    CLUSTERS,
    COEF,
    EXPERT,
    FEATURE,
    GATE_COEF,
    GATE_INTERCEPT,
    INTERCEPT,
    LEFT,
    N_CLUSTERS,
    PARTITION,
    STATUS,
    Kind,
    Outcome,
)

MAX_FEATURES = 30
MAX_EXPERTS = 12
_WIDTH = 12
_REASON = 100
_LINE = 300
# Parameters without errors that are named one by one.
_NAMED = 12
_NOT_OK = (Outcome.NOT_CONVERGED, Outcome.LEFT_OUT)


def summarize(parts: ModelParts) -> str:
    """Head, table of the experts, table of the coefficients, and how the fit went."""
    params, rows = parts.params, parts.rows
    units = rows.target_attrs.get("units")
    head = [
        f"Mixture of {params.sizes[EXPERT]} {parts.family} experts",
        f"target      {rows.target}{f' [{units}]' if units else ''} ({', '.join(rows.sample_dims)})",
        f"features    {len(rows.feature_labels)}",
    ]
    if rows.left_out:
        reasons = (f"{name} ({_cause(why)})" for name, why in rows.left_out.items())
        head.append(f"left out    {textwrap.shorten('; '.join(reasons), _LINE, placeholder=' ...')}")
    shown = params.isel({EXPERT: slice(MAX_EXPERTS)})
    own = [label.name for label in get_family(parts.family).nuisances]
    scalars = {name: shown[name] for name in (INTERCEPT, *own, GATE_INTERCEPT)}
    sections = [
        head + _fit_lines(parts.diagnostics) + _error_lines(parts),
        _table("experts", {name: values.values.tolist() for name, values in scalars.items()}),
        _table("coefficients of the experts (coef)", _by_feature(shown[COEF])),
        _table("coefficients of the gating network (gate_coef)", _by_feature(shown[GATE_COEF])),
    ]
    more_experts = params.sizes[EXPERT] - MAX_EXPERTS
    if more_experts > 0:
        sections.append([f"... and {more_experts} more experts: see .params"])
    left_out = len(rows.feature_labels) - MAX_FEATURES
    if left_out > 0:
        sections.append([f"... and {left_out} more features: see .params"])
    return "\n\n".join("\n".join(lines) for lines in sections)


def _cause(why: str) -> str:
    """The beginning of a reason, without what to do about it."""
    return re.split("[,;:]", why, maxsplit=1)[0]


def _fit_lines(diagnostics: xr.Dataset | None) -> list[str]:
    if diagnostics is None:
        return []
    lines = []
    if PARTITION in diagnostics.sizes:
        lines.append(f"partitions  {diagnostics.sizes[PARTITION]}{_states(diagnostics)}")
    if "rows" in diagnostics:
        dropped = int(diagnostics["dropped_rows"].sum()) if "dropped_rows" in diagnostics else 0
        absent = int(diagnostics[ABSENT_ROWS].sum()) if ABSENT_ROWS in diagnostics else 0
        counts = {"dropped": dropped, "not there": absent}
        said = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        note = f" ({said})" if said else ""
        lines.append(f"rows        {int(diagnostics['rows'].sum())}{note}")
    if "aggregation" in diagnostics.attrs:
        lines.append(f"aggregation {diagnostics.attrs['aggregation']}")
    if "refinement_converged" in diagnostics.attrs:
        lines.append(f"refinement  {_refinement(diagnostics)}")
    return lines


def _error_lines(parts: ModelParts) -> list[str]:
    """Which kinds of standard errors there are, and which parameters have none."""
    kinds = kinds_of(parts.diagnostics)
    if parts.diagnostics is None or not kinds:
        return []
    if kinds == [Kind.APPROXIMATE]:
        lines = ["errors      approximate, from the information near the maximum; refine for exact ones"]
    else:
        names = [
            f"{kind} ({parts.diagnostics.attrs[N_CLUSTERS]} {parts.diagnostics.attrs[CLUSTERS]})"
            if kind is Kind.CLUSTER
            else str(kind)
            for kind in kinds
        ]
        lines = [f"errors      {', '.join(names)}"]
    if none := not_identified(parts.params, parts.diagnostics, get_family(parts.family)):
        # Of many, the features; of those that have none, the variables.
        inside = [label.removesuffix("]").partition(", ")[2] or label.partition("[")[0] for label in none]
        named = none if len(none) <= _NAMED else list(dict.fromkeys(inside))
        text = textwrap.shorten(", ".join(named), _REASON, placeholder=" ...")
        lines.append(f"no errors   of {len(none)} parameters that the rows do not identify: {text}")
    return lines


def _refinement(diagnostics: xr.Dataset) -> str:
    rounds = diagnostics["round_log_likelihood"]
    # The model is where the last accepted round was. The sum is of the rows of the refinement, which need not
    # be those of the fit, so it cannot be told a row.
    reached = rounds.values[diagnostics["round_accepted"].values == 1][-1]
    converged, left = diagnostics.attrs["refinement_converged"], diagnostics.attrs.get(LEFT)
    state = "converged" if converged else "not converged"
    plural = "s" if rounds.size > 1 else ""
    # Models that an earlier version saved do not know.
    short = "" if converged or left is None else f", about {left:.2g} nats short of a maximum"
    return f"{state} in {rounds.size} round{plural}, log-likelihood {reached:.2f} of all its rows{short}"


def _states(diagnostics: xr.Dataset) -> str:
    outcomes = outcomes_of(diagnostics)
    if not outcomes:
        return ""
    failed = [m for m, outcome in enumerate(outcomes) if outcome in _NOT_OK]
    if not failed:
        return ", all ok"
    first = diagnostics[STATUS][failed[0]]
    label = f" {first[PARTITION].item()}" if PARTITION in first.coords else ""
    reason = textwrap.shorten(str(first.item()), _REASON, placeholder=" ...")
    return f", {len(failed)} not ok (first: partition{label}, {reason})"


def _by_feature(values: xr.DataArray) -> dict[str, list[float]]:
    labelled = values.transpose(FEATURE, EXPERT)
    labels = map(str, labelled[FEATURE].values[:MAX_FEATURES])
    return dict(zip(labels, labelled.values.tolist(), strict=False))


def _table(title: str, lines: dict[str, list[float]]) -> list[str]:
    """One line a quantity, one column an expert."""
    first = max(map(len, lines))
    n_experts = len(next(iter(lines.values())))
    header = " ".join(f"{f'expert {k}':>{_WIDTH}}" for k in range(n_experts))
    body = [
        f"  {name:<{first}} " + " ".join(f"{value:>{_WIDTH}.5g}" for value in values)
        for name, values in lines.items()
    ]
    return [title, f"  {'':<{first}} {header}", *body]
