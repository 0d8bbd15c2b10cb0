"""The table of a model as HTML, for notebooks: legible on a light and on a dark page, without scripts."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Final

import xarray as xr

from daskmoe.model.facts import facts, left_out, names, not_ok, title
from daskmoe.model.summary import MAX_EXPERTS, MAX_FEATURES, by_variable, where_they_rule
from daskmoe.rows.names import COEF, EXPERT, GATE_COEF, INTERCEPT, OUTCOME, PARAMETER, PARTITION, STATUS

# What keeps the card of any model under 40 KB.
_MAX_CELLS: Final = 180
_MAX_PARAMETERS: Final = 90
_MAX_LINES: Final = 20
# An intercept a class.
_MAX_INTERCEPTS: Final = 6
_TEXT: Final = 160

# Colours are the page's own, or between light and dark.
_STYLE: Final = """
.daskmoe-card{font:13px/1.45 system-ui,sans-serif;color:inherit;max-width:75em;overflow-x:auto}
.daskmoe-card h4{margin:0 0 .5em;font-size:1.15em}
.daskmoe-card table{border-collapse:collapse;margin:.4em 0 .9em;color:inherit;background:none;font:inherit}
.daskmoe-card caption{caption-side:top;text-align:left;font-weight:600;padding:0;color:inherit}
.daskmoe-card th,.daskmoe-card td{padding:.15em .7em;white-space:nowrap;text-align:right;border:0;
background:none;border-bottom:1px solid rgba(128,128,128,.3);font-variant-numeric:tabular-nums;color:inherit}
.daskmoe-card th{font-weight:600}
.daskmoe-card th:first-child,.daskmoe-card .t{text-align:left}
.daskmoe-card .facts th{opacity:.7;font-weight:400;vertical-align:top}
.daskmoe-card .facts td{text-align:left;white-space:normal}
.daskmoe-card small{opacity:.7}
.daskmoe-card summary{cursor:pointer;padding:.15em 0}
.daskmoe-card .bar{display:inline-block;height:.7em;margin-right:.4em;background:#3b8bc9;border-radius:2px}
"""


def make_card(table: xr.Dataset) -> str:
    """Facts, experts and coefficients at a glance; it opens into parameters, partitions and candidates."""
    parts = [
        f"<style>{_STYLE}</style><h4>{html.escape(title(table))}</h4>",
        _rows_of_facts(facts(table)),
        _experts(table),
        _matrix(table, COEF, "coefficients of the experts (coef)"),
        _folded("coefficients of the gating network (gate_coef)", _matrix(table, GATE_COEF, "")),
        _rule(table),
        _folded("all parameters, with intervals", _parameters(table)),
        _partitions(table),
        _candidates(table),
    ]
    if "left_out" in table.sizes:
        reasons = {name: str(why.values) for name, why in left_out(table).items()}
        parts.append(_folded("variables that were left out", _rows_of_facts(reasons)))
    return f'<div class="daskmoe-card">{"".join(parts)}</div>'


def _rows_of_facts(found: dict[str, str]) -> str:
    lines = [
        f"<tr><th>{html.escape(_short(name))}</th><td>{html.escape(_short(text, 2 * _TEXT))}</td></tr>"
        for name, text in list(found.items())[:_MAX_LINES]
    ]
    if (more := len(found) - _MAX_LINES) > 0:
        lines.append(f"<tr><td colspan=2>... and {more} more: see .table()</td></tr>")
    return f'<table class="facts">{"".join(lines)}</table>'


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
        columns[html.escape(_with_units(_short(str(label)), str(units)))] = _estimates(
            intercepts.sel({PARAMETER: label})
        )
    lines = [
        [html.escape(_short(name)), *cells]
        for name, *cells in zip(names(shown), *columns.values(), strict=False)
    ]
    more = table.sizes[EXPERT] - MAX_EXPERTS
    return _table("experts", ["", *columns], lines, f"{more} more experts" if more > 0 else "")


def _matrix(table: xr.Dataset, variable: str, caption: str) -> str:
    """One line a feature, one column an expert."""
    experts = min(table.sizes[EXPERT], MAX_EXPERTS)
    rows = by_variable(table, variable)
    count = min(MAX_FEATURES, max(1, _MAX_CELLS // experts))
    shown = rows.isel({EXPERT: slice(experts), PARAMETER: slice(count)})
    lines = [
        [html.escape(_with_units(_short(term), units)), *_estimates(shown.isel({PARAMETER: i}))]
        for i, (term, units) in enumerate(zip(shown["term"].values, shown["units"].values, strict=True))
    ]
    more = rows.sizes[PARAMETER] - len(lines)
    heads = ["", *(html.escape(_short(name)) for name in names(table)[:experts])]
    return _table(caption, heads, lines, f"{more} more features" if more > 0 else "")


def _rule(table: xr.Dataset) -> str:
    """Means of the features over the rows of each expert, and their deviations."""
    if "feature_mean" not in table:
        return ""
    found = where_they_rule(table.isel({EXPERT: slice(MAX_EXPERTS)}))
    count = min(MAX_FEATURES, max(1, _MAX_CELLS // found.sizes[EXPERT]))
    lines = [
        [html.escape(_short(str(term))), *_estimates(found.isel({PARAMETER: i}))]
        for i, term in enumerate(found["term"].values[:count])
    ]
    heads = ["", *(html.escape(_short(name)) for name in names(table)[:MAX_EXPERTS])]
    return _table("where the experts rule: means (standard deviations) of the features", heads, lines)


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
                html.escape(_short(str(label))),
                *(_number(value) for value in numbers),
                html.escape(_short(str(units))),
            ]
            for label, units, *numbers in zip(
                own[PARAMETER].values, own["units"].values, *values, strict=True
            )
        ]
        more = table.sizes[PARAMETER] - count
        blocks.append(_table(name, heads, lines, f"{more} more" if more > 0 else ""))
    return "".join(blocks)


def _partitions(table: xr.Dataset) -> str:
    """The partitions, those first that are not ok."""
    if PARTITION not in table.sizes or "rows" not in table:
        return ""
    failed = not_ok(table)
    order = [*failed, *(m for m in range(table.sizes[PARTITION]) if m not in set(failed))]
    labels = table[PARTITION].values
    lines = []
    for m in order[:_MAX_LINES]:
        texts = [str(table[name].values[m]) for name in (OUTCOME, STATUS) if name in table]
        lines.append(
            [html.escape(_short(text)) for text in (str(labels[m]), str(int(table["rows"][m])), *texts)]
        )
    heads = ["partition", "rows", *(name for name in (OUTCOME, STATUS) if name in table)]
    more = len(order) - len(lines)
    return _folded("partitions", _table("", heads, lines, f"{more} more" if more > 0 else ""))


def _candidates(table: xr.Dataset) -> str:
    """What the model was chosen from, the best first."""
    if "candidate_objective" not in table:
        return ""
    best = table.sortby("candidate_objective", ascending=False).isel(candidate=slice(_MAX_LINES))
    gap = best["candidate_objective"].values - best["candidate_objective"].values[0]
    lines = [
        [html.escape(str(name)), f"{value:.5f}", f"{below:.1e}" if below else "best"]
        for name, value, below in zip(
            best["candidate"].values, best["candidate_objective"].values, gap, strict=True
        )
    ]
    heads = ["", "penalized log-likelihood a row", "below the best"]
    return _folded("candidates", _table("", heads, lines))


def _estimates(row: xr.Dataset) -> list[str]:
    """The estimates of one parameter by expert, each with its error."""
    cells = []
    for value, error in zip(row["estimate"].values, row["standard_error"].values, strict=True):
        behind = f" <small>({error:.2g})</small>" if error > 0 else ""
        cells.append(f"{_number(value)}{behind}")
    return cells


def _table(caption: str, heads: Iterable[str], lines: Iterable[Sequence[str]], more: str = "") -> str:
    """Cells are HTML already, the caption and what is left out are not."""
    top = f"<caption>{html.escape(_short(caption))}</caption>" if caption else ""
    head = "".join(f"<th>{cell}</th>" for cell in heads)
    body = "".join(
        f"<tr><th>{first}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for first, *cells in lines
    )
    note = f"<div><small>... and {html.escape(more)}: see .table()</small></div>" if more else ""
    return f"<table>{top}<tr>{head}</tr>{body}</table>{note}"


def _folded(heading: str, inside: str) -> str:
    return f"<details><summary>{html.escape(heading)}</summary>{inside}</details>"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.5g}"


def _with_units(text: str, units: str) -> str:
    return f"{text} [{units}]" if units else text


def _short(text: str, length: int = _TEXT) -> str:
    return text if len(text) <= length else f"{text[: length - 4]} ..."
