"""Codings: how columns are made of the values of one variable that are not the column as they are.

A coding holds what was learned of the data of the fit, levels or knots, and is kept with the model as JSON.
It works on a block of values and knows nothing of partitions or laziness. What is missing in gives NaN in
every column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, ClassVar, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.interpolate import BSpline

from daskmoe.errors import InvalidDataError
from daskmoe.numerics.base.atoms import at_value
from daskmoe.rows.values import ValueKind, as_objects, kind_of

FloatArray = NDArray[np.float64]
Level = str | int | float | bool
# What a value is called that is at no atom.
ELSEWHERE: Final = "elsewhere"


class UnknownLevels(Exception):
    """Values that are none of the levels."""

    def __init__(self, levels: list[Any]) -> None:
        super().__init__(levels)
        self.levels = levels


@dataclass(frozen=True)
class Coding:
    """The base of codings."""

    kind: ClassVar[str]
    # What values it takes.
    takes: ClassVar[tuple[ValueKind, ...]] = (ValueKind.NUMBER,)

    def labels(self, name: str) -> tuple[str, ...]:
        """Labels of the columns of a variable."""
        raise NotImplementedError

    def columns(self, values: NDArray[Any], *, unknown_is_missing: bool = False) -> FloatArray:
        """The columns, along a new last axis."""
        raise NotImplementedError

    def misfit(self, variable: xr.Variable) -> str | None:
        """Why a variable cannot be coded so, as the end of a sentence; None if it can."""
        if kind_of(variable) in self.takes:
            return None
        return f"has dtype {variable.dtype}, expected {' or '.join(self.takes)}"

    def to_plain(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {"kind": self.kind} | asdict(self)


@dataclass(frozen=True)
class Levels(Coding):
    """Treatment coding: a column is 1 where the value is a level and 0 elsewhere; the first has no column."""

    kind = "levels"
    takes = (ValueKind.TEXT, ValueKind.CATEGORY, ValueKind.NUMBER)

    # The levels as they are in the data, the reference first.
    levels: tuple[Level, ...]
    # What they are called.
    names: tuple[str, ...]

    @classmethod
    def of(cls, levels: tuple[Level, ...]) -> Levels:
        """Levels that are called as they are."""
        return cls(levels, tuple(map(str, levels)))

    def labels(self, name: str) -> tuple[str, ...]:
        """A column for each level but the first; that of a yes or no is the variable's own."""
        if self.levels == (False, True) and isinstance(self.levels[0], bool):
            return (name,)
        return tuple(f"{name}_{level}" for level in self.names[1:])

    def columns(self, values: NDArray[Any], *, unknown_is_missing: bool = False) -> FloatArray:
        """The columns; `UnknownLevels` for values that are no level unless these are missing values too."""
        codes, strange = self._positions(values.reshape(-1), unknown_is_missing)
        out: FloatArray = (codes[:, np.newaxis] == np.arange(1, len(self.levels))).astype(np.float64)
        out[strange] = np.nan
        return out.reshape(*values.shape, len(self.levels) - 1)

    def codes(self, values: NDArray[Any], *, unknown_is_missing: bool = False) -> FloatArray:
        """The position of each value among the levels, NaN where it is missing; `UnknownLevels` as above."""
        codes, strange = self._positions(values.reshape(-1), unknown_is_missing)
        out: FloatArray = codes.astype(np.float64)
        out[strange] = np.nan
        return out.reshape(values.shape)

    def _positions(
        self, values: NDArray[Any], unknown_is_missing: bool
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Positions of values (n,) among the levels, and which of them are none: missing, or unknown."""
        flat = as_objects(values)
        levels = _rounded(self.levels, flat.dtype)
        codes = _index_of(levels, tuple(map(type, levels))).get_indexer(flat)
        strange = np.flatnonzero(codes < 0)
        if strange.size and not unknown_is_missing:
            missing = _is_missing(flat[strange])
            if not missing.all():
                raise UnknownLevels(sorted({*flat[strange[~missing]].tolist()}, key=str))
        return codes, strange

    @property
    def are_flags(self) -> bool:
        """Whether levels are called by the meanings of flags, not as they are."""
        return self.names != tuple(map(str, self.levels))

    def as_array(self) -> NDArray[Any]:
        """The levels as one array: of text, booleans, integers or numbers; of names where they are mixed."""
        kinds = {type(level) for level in self.levels}
        return np.array(self.levels if len(kinds) == 1 or kinds == {int, float} else self.names)

    def as_labels(self) -> NDArray[Any]:
        """What a coordinate calls the levels: the meanings of flags, others as they are."""
        return np.array(self.names) if self.are_flags else self.as_array()


@dataclass(frozen=True)
class Atoms(Levels):
    """Where a number is: at no atom, the first level, or at one of those that follow."""

    kind = "atoms"

    @classmethod
    def at(cls, values: tuple[float, ...]) -> Atoms:
        """The levels of these atoms."""
        return cls((ELSEWHERE, *values), (ELSEWHERE, *(f"{value:g}" for value in values)))

    def codes(self, values: NDArray[Any], *, unknown_is_missing: bool = False) -> FloatArray:
        """The position of each value among the atoms, zero elsewhere, NaN where it is missing."""
        out = np.zeros(values.shape)
        for position, level in enumerate(self.levels[1:], 1):
            out[at_value(values, float(level))] = position
        if values.dtype.kind == "f":
            out[~np.isfinite(values)] = np.nan
        return out


@dataclass(frozen=True)
class Harmonics(Coding):
    """Sines and cosines of periods."""

    kind = "harmonics"
    takes = (ValueKind.DATE, ValueKind.DURATION, ValueKind.NUMBER)

    periods: tuple[str | float, ...]

    def labels(self, name: str) -> tuple[str, ...]:
        """A sine and a cosine a period."""
        return tuple(f"{name}_{wave}_{period}" for period in self.periods for wave in ("sin", "cos"))

    def columns(self, values: NDArray[Any], *, unknown_is_missing: bool = False) -> FloatArray:
        """sin(2 pi t / period) and cos, of the phase: large times lose no digits."""
        out = np.empty((*values.shape, 2 * len(self.periods)))
        for j, period in enumerate(self.periods):
            angle = 2.0 * np.pi * _phase(values, period)
            np.sin(angle, out=out[..., 2 * j])
            np.cos(angle, out=out[..., 2 * j + 1])
        return out

    def misfit(self, variable: xr.Variable) -> str | None:
        """Dates want durations, numbers want numbers."""
        kind = kind_of(variable)
        if kind not in self.takes:
            return (
                f"has dtype {variable.dtype}, expected dates or numbers; of another calendar, use "
                "data.convert_calendar('standard', use_cftime=False)"
            )
        timed = kind is not ValueKind.NUMBER
        wrong = [period for period in self.periods if _is_number(period) == timed]
        if not wrong:
            return None
        expected = "with a unit, as '1D'" if timed else "that are numbers, in its units"
        return f"has dtype {variable.dtype}, expected periods {expected}, got {wrong[0]!r}"


@dataclass(frozen=True)
class Powers(Coding):
    """Powers of a number, from one degree to another."""

    kind = "powers"

    first: int
    last: int

    def labels(self, name: str) -> tuple[str, ...]:
        """The first power is the variable itself."""
        return tuple(name if d == 1 else f"{name}^{d}" for d in range(self.first, self.last + 1))

    def columns(self, values: NDArray[Any], *, unknown_is_missing: bool = False) -> FloatArray:
        """x^first to x^last."""
        numbers = values.astype(np.float64)[..., np.newaxis]
        with np.errstate(over="ignore"):
            return np.asarray(numbers ** np.arange(self.first, self.last + 1))


@dataclass(frozen=True)
class Splines(Coding):
    """The B-spline basis without its first function, constant beyond the outer knots."""

    kind = "splines"

    # The outer ones once.
    knots: tuple[float, ...]
    degree: int

    def labels(self, name: str) -> tuple[str, ...]:
        """Numbered from 1."""
        return tuple(f"{name}_spline_{i}" for i in range(1, len(self.knots) + self.degree - 1))

    def columns(self, values: NDArray[Any], *, unknown_is_missing: bool = False) -> FloatArray:
        """The functions at each value."""
        flat = values.astype(np.float64).reshape(-1)
        known = np.isfinite(flat)
        ends = self.knots[0], self.knots[-1]
        knots = np.array([ends[0]] * self.degree + [*self.knots] + [ends[1]] * self.degree)
        out = np.full((len(flat), len(self.knots) + self.degree - 2), np.nan)
        if known.any():
            basis = BSpline.design_matrix(np.clip(flat[known], *ends), knots, self.degree)
            out[known] = basis.toarray()[:, 1:]
        return out.reshape(*values.shape, out.shape[1])


@dataclass(frozen=True)
class Indicator(Coding):
    """One where a value is, or lies within bounds."""

    kind = "indicator"
    takes = (ValueKind.NUMBER, ValueKind.TEXT, ValueKind.CATEGORY)

    equals: Level | None
    above: float | None
    below: float | None

    def labels(self, name: str) -> tuple[str, ...]:
        """The condition."""
        if self.equals is not None:
            return (f"{name}=={self.equals}",)
        low, high = (None if bound is None else _shown(bound) for bound in (self.above, self.below))
        if high is None:
            return (f"{name}>{low}",)
        return (f"{'' if low is None else f'{low}<'}{name}<{high}",)

    def columns(self, values: NDArray[Any], *, unknown_is_missing: bool = False) -> FloatArray:
        """One column."""
        values = as_objects(values)
        if self.equals is not None:
            found = values == self.equals
        else:
            values = values.astype(np.float64)
            with np.errstate(invalid="ignore"):
                found = np.ones(values.shape, np.bool_)
                found &= True if self.above is None else values > self.above
                found &= True if self.below is None else values < self.below
        out = np.asarray(found, np.float64)
        out[_is_missing(values)] = np.nan
        return out[..., np.newaxis]

    def misfit(self, variable: xr.Variable) -> str | None:
        """Bounds and numbers want numbers, text wants text."""
        number = kind_of(variable) is ValueKind.NUMBER
        if self.equals is None and not number:
            return f"has dtype {variable.dtype}, expected numbers for bounds"
        if kind_of(variable) is ValueKind.TEXT and not isinstance(self.equals, str | bool):
            return f"has dtype {variable.dtype}, expected a value that is text, got {self.equals!r}"
        if number and isinstance(self.equals, str):
            return f"has dtype {variable.dtype}, expected a value that is a number, got {self.equals!r}"
        return super().misfit(variable)


CODINGS: Final[dict[str, type[Coding]]] = {
    each.kind: each for each in (Levels, Atoms, Harmonics, Powers, Splines, Indicator)
}


def coding_from(content: Mapping[str, Any]) -> Coding:
    """The coding that `Coding.to_plain` gave."""
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    return CODINGS[str(fields.pop("kind"))](**fields)


def declared_levels(variable: xr.Variable) -> Levels | None:
    """Levels that a variable knows by itself: of its dtype, or its CF flags; None if it knows none.

    Raises
    ------
    InvalidDataError
        If ``flag_values`` and ``flag_meanings`` differ in number.
    """
    if isinstance(variable.dtype, pd.CategoricalDtype):
        return Levels.of(tuple(plain_level(level) for level in variable.dtype.categories))
    values, meanings = variable.attrs.get("flag_values"), variable.attrs.get("flag_meanings")
    if values is None or not isinstance(meanings, str) or "flag_masks" in variable.attrs:
        return None
    if isinstance(values, str):
        try:
            values = [float(value.strip(" bBsSlL")) for value in values.split(",")]
        except ValueError:
            raise InvalidDataError(f"expected flag_values that are numbers, got {values!r}") from None
    found = tuple(plain_level(value) for value in np.atleast_1d(values))
    names = tuple(meanings.split())
    if len(found) != len(names):
        raise InvalidDataError(
            f"expected as many flag_meanings as flag_values, got {len(names)} and {len(found)}"
        )
    return Levels(found, names)


def plain_level(level: Any) -> Level:
    """A level as JSON can hold it; `InvalidDataError` for one that is no text, number or bool."""
    value = level.item() if isinstance(level, np.generic) else level
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, str | int | float | bool):
        raise InvalidDataError(
            f"expected levels that are text, numbers or bools, got {level!r}; make them text with astype(str)"
        )
    return value


@cache
def _index_of(levels: tuple[Level, ...], types: tuple[type, ...]) -> pd.Index:
    # pandas keeps the hash table of an index with it. The types tell 0 and 1 from False and True.
    numbers = all(isinstance(level, int | float) and not isinstance(level, bool) for level in levels)
    return pd.Index(list(levels), dtype=np.float64 if numbers else object)


def _rounded(levels: tuple[Level, ...], dtype: np.dtype[Any]) -> tuple[Level, ...]:
    """The levels as values of less than double precision are: 0.1 is another number there."""
    if dtype not in (np.float32, np.float16):
        return levels
    return tuple(float(dtype.type(each)) if isinstance(each, float) else each for each in levels)


def _is_missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which values are none; empty text is none, as stores fill with it."""
    missing = np.asarray(pd.isna(values), np.bool_)
    if values.dtype.kind == "O":
        missing[~missing] = values[~missing] == ""
    return missing


def _shown(bound: float) -> str:
    """Short where that is exact."""
    return f"{bound:g}" if float(f"{bound:g}") == bound else repr(bound)


def _is_number(period: str | float) -> bool:
    try:
        float(period)
    except ValueError:
        return False
    return True


def _phase(values: NDArray[Any], period: str | float) -> FloatArray:
    """The part of a period that has gone, between 0 and 1."""
    if values.dtype.kind not in "mM":
        length = float(period)
        return np.asarray(np.mod(values.astype(np.float64), length) / length)
    # In nanoseconds a day of 1677 or 2262 is out of range; in its own unit no date is.
    unit, count = np.datetime_data(values.dtype)
    if unit not in _NANOSECONDS or count != 1:
        unit = "s"
        values = values.astype(f"{values.dtype.kind}8[s]")
    length = pd.Timedelta(period).value / _NANOSECONDS[unit]
    ticks = values.astype(np.int64)
    whole = ticks % int(length) if length.is_integer() else np.mod(ticks.astype(np.float64), length)
    return np.asarray(np.where(np.isnat(values), np.nan, whole / length))


_NANOSECONDS: Final = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
