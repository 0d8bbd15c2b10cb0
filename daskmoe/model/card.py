"""The table of a model as HTML, for notebooks: legible on a light and on a dark page, without scripts."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Final

import xarray as xr

from daskmoe.model.facts import facts, left_out, names, not_ok, title
from daskmoe.model.pieces import MAX_LINES, card_of, folded, rows_of_facts, short, table_of
from daskmoe.model.summary import (
    MAX_EXPERTS,
    MAX_FEATURES,
    by_variable,
    error_text,
    where_they_rule,
    with_units,
)
from daskmoe.rows.names import COEF, EXPERT, GATE_COEF, INTERCEPT, OUTCOME, PARAMETER, PARTITION, STATUS

# What keeps the card of any model under 40 KB.
_MAX_CELLS: Final = 180
_MAX_PARAMETERS: Final = 90
# An intercept a class.
_MAX_INTERCEPTS: Final = 6
# In place of error, z and interval.
_UNKNOWN: Final = (math.nan,) * 4


def make_card(table: xr.Dataset) -> str:
    """Facts, experts and coefficients at a glance; it opens into parameters, partitions and candidates."""
    parts = [
        rows_of_facts(facts(table)),
        _experts(table),
        _matrix(table, COEF, "coefficients of the experts (coef)"),
        folded("coefficients of the gating network (gate_coef)", _matrix(table, GATE_COEF, "")),
        _rule(table),
        folded("all parameters, with intervals", _parameters(table)),
        _partitions(table),
        _candidates(table),
    ]
    if "left_out" in table.sizes:
        reasons = {name: str(why.values) for name, why in left_out(table).items()}
        parts.append(folded("variables that were left out", rows_of_facts(reasons)))
    return card_of(title(table), *parts)


def _experts(table: xr.Dataset) -> str:
    """One line an expert: its share, its standard deviation, its intercept."""
    shown = table.isel({EXPERT: slice(MAX_EXPERTS)})
    columns: dict[str, Sequence[str]] = {}
    if "share" in shown:
        columns["share of the rows"] = [
            f'<span class="bar" style="width:{6 * share:.2f}em"></span>{share:.1%}'
            for share in shown["share"].values
        ]
    if "standard_deviation" in shown:
        columns[_with_units("standard deviation", table.attrs["target_units"])] = [
            _number(value) for value in shown["standard_deviation"].values
        ]
    intercepts = by_variable(shown, INTERCEPT).isel({PARAMETER: slice(_MAX_INTERCEPTS)})
    for label, units in zip(intercepts[PARAMETER].values, intercepts["units"].values, strict=True):
        columns[html.escape(_with_units(short(str(label)), str(units)))] = _estimates(
            intercepts.sel({PARAMETER: label})
        )
    lines = [
        [html.escape(short(name)), *cells]
        for name, *cells in zip(names(shown), *columns.values(), strict=False)
    ]
    more = table.sizes[EXPERT] - MAX_EXPERTS
    return table_of("experts", ["", *columns], lines, f"{more} more experts" if more > 0 else "")


def _matrix(table: xr.Dataset, variable: str, caption: str) -> str:
    """One line a feature, one column an expert."""
    experts = min(table.sizes[EXPERT], MAX_EXPERTS)
    rows = by_variable(table, variable)
    count = min(MAX_FEATURES, max(1, _MAX_CELLS // experts))
    shown = rows.isel({EXPERT: slice(experts), PARAMETER: slice(count)})
    lines = [
        [html.escape(short(term)), *_estimates(shown.isel({PARAMETER: i}))]
        for i, term in enumerate(with_units(shown)["term"].values.tolist())
    ]
    more = rows.sizes[PARAMETER] - len(lines)
    heads = ["", *(html.escape(short(name)) for name in names(table)[:experts])]
    return table_of(caption, heads, lines, f"{more} more features" if more > 0 else "")


def _rule(table: xr.Dataset) -> str:
    """Means of the features over the rows of each expert, and their deviations."""
    if "feature_mean" not in table:
        return ""
    found = where_they_rule(table.isel({EXPERT: slice(MAX_EXPERTS)}))
    count = min(MAX_FEATURES, max(1, _MAX_CELLS // found.sizes[EXPERT]))
    lines = [
        [html.escape(short(str(term))), *_estimates(found.isel({PARAMETER: i}))]
        for i, term in enumerate(found["term"].values[:count])
    ]
    heads = ["", *(html.escape(short(name)) for name in names(table)[:MAX_EXPERTS])]
    return table_of("where the experts rule: means (standard deviations) of the features", heads, lines)


def _parameters(table: xr.Dataset) -> str:
    """Every parameter of every expert with its error, z and interval."""
    n_experts = min(table.sizes[EXPERT], MAX_EXPERTS)
    count = max(1, _MAX_PARAMETERS // n_experts)
    columns = ("estimate", "standard_error", "z", "lower", "upper")
    level = table.attrs.get("level")
    bounds = [f"{bound}{f' {level:.0%}' if level else ''}" for bound in ("lower", "upper")]
    heads = ["", "estimate", "std error", "z", *bounds, "units"]
    blocks = []
    for k, name in enumerate(names(table)[:n_experts]):
        own = table.isel({EXPERT: k, PARAMETER: slice(count)})
        values = [own[column].values for column in columns]
        lines = [
            [
                html.escape(short(str(label))),
                # The gates' reference is zero by convention: it has no error and no interval.
                *(_number(value) for value in (numbers if numbers[1] != 0 else [numbers[0], *_UNKNOWN])),
                html.escape(short(str(units))),
            ]
            for label, units, *numbers in zip(
                own[PARAMETER].values, own["units"].values, *values, strict=True
            )
        ]
        more = table.sizes[PARAMETER] - count
        blocks.append(table_of(name, heads, lines, f"{more} more" if more > 0 else ""))
    return "".join(blocks)


def _partitions(table: xr.Dataset) -> str:
    """The partitions, those first that are not ok."""
    if PARTITION not in table.sizes or "rows" not in table:
        return ""
    failed = not_ok(table)
    order = [*failed, *(m for m in range(table.sizes[PARTITION]) if m not in set(failed))]
    labels = table[PARTITION].values
    lines = []
    for m in order[:MAX_LINES]:
        texts = [str(table[name].values[m]) for name in (OUTCOME, STATUS) if name in table]
        lines.append(
            [html.escape(short(text)) for text in (str(labels[m]), str(int(table["rows"][m])), *texts)]
        )
    heads = ["partition", "rows", *(name for name in (OUTCOME, STATUS) if name in table)]
    more = len(order) - len(lines)
    return folded("partitions", table_of("", heads, lines, f"{more} more" if more > 0 else ""))


def _candidates(table: xr.Dataset) -> str:
    """What the model was chosen from, the best first."""
    if "candidate_objective" not in table:
        return ""
    best = table.sortby("candidate_objective", ascending=False).isel(candidate=slice(MAX_LINES))
    gap = best["candidate_objective"].values - best["candidate_objective"].values[0]
    lines = [
        [html.escape(str(name)), f"{value:.5f}", f"{below:.1e}" if below else "best"]
        for name, value, below in zip(
            best["candidate"].values, best["candidate_objective"].values, gap, strict=True
        )
    ]
    heads = ["", "penalized log-likelihood a row", "below the best"]
    return folded("candidates", table_of("", heads, lines))


def _estimates(row: xr.Dataset) -> list[str]:
    """The estimates of one parameter by expert, each with its error."""
    cells = []
    for value, error in zip(row["estimate"].values, row["standard_error"].values, strict=True):
        behind = f" <small>({error_text(error)})</small>" if error > 0 else ""
        cells.append(f"{_number(value)}{behind}")
    return cells


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.5g}"


def _with_units(text: str, units: str) -> str:
    return f"{text} [{units}]" if units else text
