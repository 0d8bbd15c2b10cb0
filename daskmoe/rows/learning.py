"""What a declaration leaves open, found in a pass over its variable alone: levels of text, knots of splines.

In memory it is a look at the values. Of lazy data one computation finds all of it, chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from daskmoe.errors import InvalidDataError, InvalidOptionError
from daskmoe.features import Term
from daskmoe.rows.codings import Level, Levels, declared_levels, plain_level
from daskmoe.rows.computing import computed
from daskmoe.rows.values import ValueKind, as_objects, kind_of, plain
from daskmoe.rows.variables import listed, wrong_dtype

# The levels of each variable, the reference first; None for those that are in the data.
Categories = Mapping[str, Sequence[Any] | None]

# Values that quantiles are of; more say no more of where knots should be.
_QUANTILE_VALUES = 100_000
# More levels of a text are names of rows, and a column each would fill the memory.
_MOST_LEVELS = 1000
# More classes are no labels but numbers: each has parameters of its own in every expert.
_MOST_CLASSES = 100
_LEVEL_KINDS = {"string", "boolean", "integer", "floating"}
_DATES = {"datetime", "date", "datetime64"}


class Found(NamedTuple):
    """The values of a variable that differ, as they are."""

    levels: frozenset[Any]
    # What pandas calls their kinds, as "string"; without those that have none.
    kinds: frozenset[str]


class Spread(NamedTuple):
    """Where the values of a variable lie."""

    lowest: float
    highest: float
    # Evenly spaced over the rows, sorted.
    values: NDArray[np.float64]


class Learned(NamedTuple):
    """What variables are coded by."""

    levels: dict[str, Levels]
    knots: dict[str, tuple[float, ...]]
    # By name, why they cannot be.
    refused: dict[str, str]
    # By name, why they should not be unless they are asked for.
    doubtful: dict[str, str]


def learn(ds: xr.Dataset, declared: Sequence[str | Term], categories: Categories) -> Learned:
    """Levels and knots, from what is given, what variables know, and a pass over the others."""
    coded = _coded_names(declared)
    if strange := [name for name in categories if name not in coded]:
        raise InvalidOptionError(f"categories: {listed(strange)} is not among the features.")
    levels: dict[str, Levels] = {}
    refused: dict[str, str] = {}
    doubtful: dict[str, str] = {}
    open_names = []
    for name in coded:
        variable = ds.variables[name]
        kind = kind_of(variable)
        given = categories.get(name)
        try:
            known = declared_levels(variable) if given is None else _given_levels(given, kind)
        except InvalidDataError as error:
            if given is not None:
                raise InvalidDataError(f"Levels of {name!r}: {error}.") from None
            refused[name] = f"has levels that cannot be kept: {error}"
            continue
        if known is not None:
            levels[name] = known
        elif kind in (ValueKind.DATE, ValueKind.DURATION):
            refused[name] = _dates_text(name)
        elif name in categories or kind is ValueKind.TEXT:
            open_names.append(name)
    for name, found in find_levels({name: ds.variables[name] for name in open_names}).items():
        outcome = _levels_found(found, name, asked=name in categories)
        if isinstance(outcome, str):
            refused[name] = outcome
        else:
            levels[name] = outcome
            if len(outcome.levels) == ds.variables[name].size:
                doubtful[name] = f"names each of its {ds.variables[name].size} values differently"
    return Learned(levels, _find_knots(ds, declared), refused, doubtful)


def learn_classes(ds: xr.Dataset, target: str, given: Sequence[Any] | None) -> Levels:
    """The classes of a target: those that are given, that its dtype or flags declare, or that it has.

    Raises
    ------
    InvalidDataError
        Unless there are two at least, and each of them is in the data.
    """
    variable = ds.variables[target]
    try:
        known = declared_levels(variable) if given is None else _given_levels(given, kind_of(variable))
    except InvalidDataError as error:
        raise InvalidDataError(f"Classes of the target {target!r}: {error}.") from None
    found = find_levels({target: variable})[target]
    if len(found.kinds) > 1 or not found.kinds <= _LEVEL_KINDS:
        raise InvalidDataError(
            f"Target {target!r} holds objects ({' and '.join(sorted(found.kinds))}), expected text, booleans "
            "or integers; convert it with astype(str)."
        )
    if known is None:
        known = _classes_found(found, target)
    if absent := [level for level in known.levels if level not in found.levels]:
        raise InvalidDataError(
            f"Expected every class of the target {target!r} in the data, got none of "
            f"{', '.join(map(repr, absent[:5]))}: nothing tells when it occurs. Leave it out of the classes: "
            f"categories={{{target!r}: [...]}} names the others, cat.remove_unused_categories() those of a "
            "pandas categorical."
        )
    return known


def _classes_found(found: Found, target: str) -> Levels:
    """The classes that a target has, sorted."""
    if not 2 <= len(found.levels) <= _MOST_CLASSES:
        raise InvalidDataError(
            f"Target {target!r}: expected 2 to {_MOST_CLASSES} classes, got {len(found.levels)} different "
            "values."
        )
    return Levels.of(tuple(sorted(plain_level(level) for level in found.levels)))


def find_levels(variables: Mapping[str, xr.Variable]) -> dict[str, Found]:
    """The distinct values of each variable that are not missing."""
    parts = [(_by_block(plain(variable)),) for variable in variables.values()]
    found = {}
    for name, (blocks,) in zip(variables, _computed(parts), strict=True):
        each = list(np.ravel(np.asarray(blocks, dtype=object)))
        found[name] = Found(
            frozenset[Any]().union(*(part.levels for part in each)),
            frozenset[str]().union(*(part.kinds for part in each)),
        )
    return found


def find_spreads(variables: Mapping[str, xr.Variable]) -> dict[str, Spread]:
    """Range and evenly spaced values of each variable, without those that are missing or infinite."""
    parts = [_thinned(plain(variable)) for variable in variables.values()]
    return {
        name: Spread(float(low), float(high), np.sort(values[np.isfinite(values)]))
        for name, (low, high, values) in zip(variables, _computed(parts), strict=True)
    }


def find_weight_factor(weight: xr.Variable) -> float:
    """What weights are multiplied by to sum to the number of those above zero.

    Weights that are negative or not finite count for nothing here: rows are checked where they are read.
    """
    values = xr.DataArray(plain(weight).astype(np.float64))
    used = (values > 0) & np.isfinite(values)
    sums = computed(xr.Dataset({"total": values.where(used, 0.0).sum(), "count": used.sum()}))
    total = float(sums["total"])
    return float(sums["count"]) / total if total > 0 else 1.0


def _computed(parts: Sequence[Any]) -> Sequence[Any]:
    """In one computation, if there is a lazy one."""
    if all(isinstance(value, np.ndarray | float) for part in parts for value in part):
        return parts
    from dask.delayed import delayed

    return cast(Sequence[Any], computed(delayed(parts)))


def _by_block(variable: xr.Variable) -> Any:
    """An array of a `Found` for each chunk, lazy where the variable is."""
    if variable.chunks is None:
        return _wrapped(np.asarray(variable.values))
    return variable.data.map_blocks(
        _wrapped, dtype=object, chunks=tuple((1,) * len(sizes) for sizes in variable.chunks)
    )


def _wrapped(values: NDArray[Any]) -> NDArray[Any]:
    flat = as_objects(values).reshape(-1)
    known = flat[~pd.isna(flat)]
    kind = pd.api.types.infer_dtype(known, skipna=True)
    # Objects of other kinds may not hash, and are no levels.
    known = pd.unique(known) if kind in _LEVEL_KINDS else known[:0]
    out = np.empty((1,) * max(values.ndim, 1), dtype=object)
    out.flat[0] = Found(
        frozenset(value for value in known.tolist() if value != ""),
        frozenset() if kind == "empty" else frozenset({kind}),
    )
    return out


def _thinned(variable: xr.Variable) -> tuple[Any, Any, Any]:
    """Least and largest finite value and values that are evenly spaced; lazy where the variable is."""
    # Rows at the same places, however they are chunked.
    step = int(np.ceil((max(variable.size, 1) / _QUANTILE_VALUES) ** (1 / max(variable.ndim, 1))))
    values = variable.data if variable.chunks is not None else np.asarray(variable.values)
    values = values.astype(np.float64)
    thinned = values[(slice(None, None, step),) * variable.ndim].reshape(-1)
    finite = np.where(np.isfinite(values), values, np.nan)
    if variable.chunks is None:
        known = finite[np.isfinite(finite)]
        low, high = (float(known.min()), float(known.max())) if known.size else (np.nan, np.nan)
        return low, high, thinned
    import dask.array as da

    return da.nanmin(finite), da.nanmax(finite), thinned


def _coded_names(declared: Iterable[str | Term]) -> list[str]:
    """Variables that are features as they are, or factors of an interaction as they are."""
    found: dict[str, None] = {}
    for each in declared:
        if isinstance(each, str):
            found[each] = None
        elif each.function == "interaction":
            found |= dict.fromkeys(_coded_names(each.of))
    return list(found)


def _given_levels(given: Sequence[Any], kind: ValueKind) -> Levels:
    values = tuple(plain_level(level) for level in np.asarray(given, dtype=object))
    if kind is ValueKind.NUMBER:
        # On the command line all are text.
        values = tuple(number_from(level) if isinstance(level, str) else level for level in values)
    if len({*values}) < max(len(values), 2):
        raise InvalidDataError(f"expected at least two, each once, got {list(values)}")
    return Levels.of(values)


def _levels_found(found: Found, name: str, *, asked: bool) -> Levels | str:
    """The levels, sorted, or why there are none."""
    if found.kinds & _DATES:
        return _dates_text(name)
    if len(found.kinds) > 1 or not found.kinds <= _LEVEL_KINDS:
        kinds = " and ".join(sorted(found.kinds))
        return (
            f"holds objects ({kinds}), expected text or numbers; convert it with astype(str) or astype(float)"
        )
    if not asked and not found.kinds <= {"string", "boolean"}:
        return (
            "holds numbers as objects, which are slow and may be anything; convert it with astype(float), or "
            f"name it in categories={{{name!r}: None}} if they are codes"
        )
    values = [plain_level(level) for level in found.levels]
    if len(values) > _MOST_LEVELS:
        return (
            f"has {len(values)} different values, more than the {_MOST_LEVELS} that levels may be: names of "
            "rows are no feature"
        )
    if len(values) < 2:
        return f"has {len(values) or 'no'} level{'' if values else 's'} only, which explains nothing"
    return Levels.of(tuple(sorted(values)))


def number_from(text: str) -> Level:
    """The number or bool that a text spells; the text itself if none."""
    if text in ("True", "False"):
        return text == "True"
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() else number


def _dates_text(name: str) -> str:
    return (
        "holds dates, which are no numbers; make features of them with features=[..., "
        f"daskmoe.features.harmonics({name!r}, periods=['1D', '365.25D'])], or of their distance from one: "
        f"data.assign(days=(data[{name!r}] - data[{name!r}].min()) / np.timedelta64(1, 'D'))"
    )


def _find_knots(ds: xr.Dataset, declared: Iterable[str | Term]) -> dict[str, tuple[float, ...]]:
    """The knots of each spline, by the text of its term."""
    terms = [each for each in _terms_in(declared) if each.function == "splines"]
    knots: dict[str, tuple[float, ...]] = {
        str(term): term.argument("knots") for term in terms if term.argument("knots") is not None
    }
    open_terms = [term for term in terms if str(term) not in knots]
    for term in open_terms:
        if kind_of(ds.variables[variable_of(term)]) is not ValueKind.NUMBER:
            raise InvalidDataError(
                f"{term}: variable {variable_of(term)!r} {wrong_dtype(ds.variables[variable_of(term)])}."
            )
    spreads = find_spreads({name: ds.variables[name] for name in map(variable_of, open_terms)})
    for term in open_terms:
        spread = spreads[variable_of(term)]
        inner = term.argument("df") - term.argument("degree")
        if not spread.lowest < spread.highest:
            raise InvalidDataError(f"{term}: expected values that differ, got {spread.lowest} only.")
        between = np.quantile(spread.values, np.arange(1, inner + 1) / (inner + 1)) if inner else np.empty(0)
        found = tuple(map(float, np.unique([spread.lowest, *between, spread.highest])))
        if len(found) < inner + 2:
            raise InvalidDataError(
                f"{term}: expected {inner} quantiles that differ, got {len(found) - 2}: many values are the "
                "same. Give the knots (knots=...), or a smaller df."
            )
        knots[str(term)] = found
    return knots


def _terms_in(declared: Iterable[str | Term]) -> list[Term]:
    terms = [each for each in declared if isinstance(each, Term)]
    return terms + [inner for term in terms for inner in _terms_in(term.of)]


def variable_of(term: Term) -> str:
    """The one variable of a term that is no interaction."""
    name = term.of[0]
    assert isinstance(name, str)
    return name
