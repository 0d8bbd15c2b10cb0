"""The table of a model as text."""

from __future__ import annotations

from typing import Final

import numpy as np
import xarray as xr

from daskmoe.model.facts import facts, names, title
from daskmoe.rows.names import COEF, EXPERT, FEATURE, GATE_COEF, PARAMETER

MAX_FEATURES: Final = 30
MAX_EXPERTS: Final = 12
_WIDTH: Final = 12
# Of an error behind its estimate.
_ERROR_WIDTH: Final = 10
_LINE: Final = 96


class Summary(str):
    """Text that a console shows as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def summarize(table: xr.Dataset) -> Summary:
    """Facts, experts and coefficients; errors stand behind their estimates in parentheses."""
    shown = table.isel({EXPERT: slice(MAX_EXPERTS)})
    of_experts = shown.sel({PARAMETER: ~table["variable"].isin([COEF, GATE_COEF])})
    of_experts = with_units(of_experts.assign_coords(term=of_experts[PARAMETER].rename("term")))
    sections = [
        [title(table), *(f"{name:<12}{text}" for name, text in facts(table).items())],
        _block("experts", of_experts, _shares(shown)),
    ]
    for heading, variable in (("experts", COEF), ("gating network", GATE_COEF)):
        coefficients = _of(shown, variable)
        if coefficients.sizes[PARAMETER]:
            sections.append(_block(f"coefficients of the {heading} ({variable})", with_units(coefficients)))
    if "feature_mean" in shown and shown.sizes[FEATURE]:
        sections.append(
            _block("where the experts rule", where_they_rule(shown), behind="standard deviations")
        )
    more_experts = table.sizes[EXPERT] - MAX_EXPERTS
    if more_experts > 0:
        sections.append([f"... and {more_experts} more experts: see .table()"])
    left_out = table.attrs["n_features"] - MAX_FEATURES
    if left_out > 0:
        sections.append([f"... and {left_out} more features: see .table()"])
    return Summary("\n\n".join("\n".join(lines) for lines in sections))


def by_variable(table: xr.Dataset, variable: str) -> xr.Dataset:
    """The rows of a table that are of one variable."""
    return table.sel({PARAMETER: table["variable"] == variable})


def with_units(table: xr.Dataset) -> xr.Dataset:
    """The same rows, their terms with the units of what they stand for."""
    pairs = zip(table["term"].values.tolist(), table["units"].values.tolist(), strict=True)
    terms = [f"{term} [{units}]" if units not in ("", "1") else term for term, units in pairs]
    return table.assign_coords(term=(PARAMETER, np.array(terms, dtype=object)))


def error_text(error: float) -> str:
    """Two digits, without an exponent where a person would write none."""
    return f"{error:.2g}" if error < 99.5 or error >= 1e5 else f"{error:.0f}"


def where_they_rule(table: xr.Dataset) -> xr.Dataset:
    """Means of the features with their deviations, named as estimates with their errors are."""
    names_of = {"feature_mean": "estimate", "feature_deviation": "standard_error", FEATURE: PARAMETER}
    found = table[["feature_mean", "feature_deviation"]].isel({FEATURE: slice(MAX_FEATURES)})
    found = found.drop_vars([name for name in found.coords if name not in (EXPERT, FEATURE)]).rename(names_of)
    return found.assign(term=found[PARAMETER].rename("term")).assign_attrs(table.attrs)


def _of(table: xr.Dataset, variable: str) -> xr.Dataset:
    return by_variable(table, variable).isel({PARAMETER: slice(MAX_FEATURES)})


def _shares(table: xr.Dataset) -> dict[str, list[str]]:
    texts = {}
    if "share" in table:
        texts["share"] = [f"{share:.1%}" for share in table["share"].values]
    if "standard_deviation" in table:
        texts["std dev"] = [f"{value:.5g}" for value in table["standard_deviation"].values]
    return texts


def _block(
    heading: str,
    table: xr.Dataset,
    before: dict[str, list[str]] | None = None,
    behind: str = "standard errors",
) -> list[str]:
    """One line a parameter, one column an expert, as many columns beside each other as a line holds."""
    estimates = table["estimate"].transpose(PARAMETER, EXPERT).values
    errors = table["standard_error"].transpose(PARAMETER, EXPERT).values
    # The reference of the gates is zero without an error.
    told = (errors > 0).any()
    cells = {name: [f"{text:>{_WIDTH}}" for text in texts] for name, texts in (before or {}).items()}
    for term, row, row_errors in zip(table["term"].values.tolist(), estimates, errors, strict=True):
        brackets = [f"({error_text(e)})" if e > 0 else "" for e in row_errors]
        cells[term] = [
            f"{v:>{_WIDTH}.5g} {b:<{_ERROR_WIDTH}}" if told else f"{v:>{_WIDTH}.5g}"
            for v, b in zip(row, brackets, strict=True)
        ]
    first = max(map(len, cells), default=0)
    width = _WIDTH + (_ERROR_WIDTH + 1) * bool(told)
    columns = max(1, (_LINE - first) // (width + 1))
    called = [name if len(name) <= width else f"{name[: width - 3]}..." for name in names(table)]
    lines = [f"{heading}{f', with {behind}' if told else ''}"]
    for start in range(0, table.sizes[EXPERT], columns):
        some = slice(start, start + columns)
        lines.append(_line("", [f"{name:>{_WIDTH}}" for name in called[some]], first, width))
        lines += [_line(term, row[some], first, width) for term, row in cells.items()]
    return lines


def _line(term: str, cells: list[str], first: int, width: int) -> str:
    return f"  {term:<{first}} {' '.join(f'{cell:<{width}}' for cell in cells)}".rstrip()
