"""Features that are made of variables: declared beside names in ``features=``, kept in the model.

A declaration holds no data. `daskmoe.fit` looks up what it leaves open, as the knots of a spline, and keeps
it, so that the same columns are made of any later data, block by block.

Examples
--------
>>> import daskmoe
>>> from daskmoe import features
>>> data, _ = daskmoe.simulate(500, n_features=1, n_experts=2, random_state=0)
>>> data = data.assign(x=data["X"].isel(feature=0, drop=True))
>>> model = daskmoe.fit(data, "y", features=["x", features.powers("x", 3)], n_experts=2, random_state=0)
>>> model.feature_names
('x', 'x^2', 'x^3')
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, Final

import numpy as np
import pandas as pd

from daskmoe.errors import InvalidOptionError

__all__ = ["Term", "harmonics", "indicator", "interaction", "powers", "splines"]


@dataclass(frozen=True)
class Term:
    """A declaration: a function of one variable, or of several; made by the functions of this module."""

    # Name of the function.
    function: str
    # What it is of: names of variables, or of an interaction other terms.
    of: tuple[str | Term, ...]
    # Its arguments by name.
    arguments: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        texts = [str(part) for part in self.of]
        texts += [f"{name}={value!r}" for name, value in self.arguments if value is not None]
        return f"{self.function}({', '.join(texts)})"

    def argument(self, name: str) -> Any:
        """The argument of this name."""
        return dict(self.arguments)[name]


def harmonics(variable: str, periods: str | float | Sequence[str | float]) -> Term:
    """Sine and cosine of a time or a number, for each period: sin(2 pi t / period), cos(2 pi t / period).

    Parameters
    ----------
    variable : str
        Of times, counted from 1970-01-01T00:00, of durations, or of numbers; a coordinate may be one.
    periods : str or float, or a sequence of them
        Of times and durations, as ``"1D"``, ``"12h"`` or ``"365.25D"``; of numbers, in the variable's units.

    Returns
    -------
    Term
        Columns ``time_sin_1D`` and ``time_cos_1D`` for each period. Where t is missing they are.

    Raises
    ------
    InvalidOptionError
        If a period is no duration or number above zero.

    Examples
    --------
    >>> from daskmoe import features
    >>> print(features.harmonics("time", periods=["1D", "365.25D"]))
    harmonics(time, periods=('1D', '365.25D'))
    """
    several = isinstance(periods, Iterable) and not isinstance(periods, str)
    found = tuple(map(_plain_period, periods if several else [periods]))  # type: ignore[arg-type]
    if not found:
        raise InvalidOptionError("harmonics: expected at least one period, got none.")
    for period in found:
        _check_period(period)
    return Term("harmonics", (_name("harmonics", variable),), (("periods", found),))


def powers(variable: str, degree: int) -> Term:
    """The powers of a number, x, x^2, ... to x^degree: a polynomial.

    Parameters
    ----------
    variable : str
    degree : int
        At least 2.

    Returns
    -------
    Term
        Columns ``x``, ``x^2`` and so on; the first is left to the variable itself where it is a feature too.

    Raises
    ------
    InvalidOptionError
        If ``degree`` is not an integer of at least 2.

    Examples
    --------
    >>> from daskmoe import features
    >>> print(features.powers("x", 3))
    powers(x, degree=3)
    """
    degree = _integer("powers", "degree", degree, 2)
    return Term("powers", (_name("powers", variable),), (("degree", degree),))


def splines(
    variable: str, df: int | None = None, *, degree: int = 3, knots: Sequence[float] | None = None
) -> Term:
    """B-splines of a number: piecewise polynomials of a degree, smooth at the knots.

    The first function of the basis is left out, as all of them sum to one, which is the intercept's. Beyond
    the outer knots the functions keep their values there.

    Parameters
    ----------
    variable : str
    df : int, optional
        Number of columns, at least the degree; 5 by default. The inner knots are ``df - degree`` quantiles of
        the variable, found in a pass over it alone, as the outer ones are, its least and largest value.
    degree : int
        Of the polynomials, at least 1.
    knots : sequence of float, optional
        The knots, the outer ones among them, in increasing order; then ``df`` is ``len(knots) + degree - 2``.

    Returns
    -------
    Term
        Columns ``x_spline_1`` to ``x_spline_{df}``.

    Raises
    ------
    InvalidOptionError
        If an argument is not as above.

    Examples
    --------
    >>> from daskmoe import features
    >>> print(features.splines("x", df=5))
    splines(x, df=5, degree=3)
    """
    degree = _integer("splines", "degree", degree, 1)
    if knots is None:
        df = _integer("splines", "df", 5 if df is None else df, degree)
    else:
        knots = tuple(_number("splines", "knots", knot) for knot in knots)
        if len(knots) < 2 or any(low >= high for low, high in pairwise(knots)):
            raise InvalidOptionError(
                f"splines: expected at least two knots in increasing order, got {list(knots)}."
            )
        if df not in (None, len(knots) + degree - 2):
            raise InvalidOptionError(
                f"splines: expected df={len(knots) + degree - 2} with these {len(knots)} knots, got {df!r}; "
                "leave out either."
            )
        df = len(knots) + degree - 2
    arguments = (("df", df), ("degree", degree), ("knots", knots))
    return Term("splines", (_name("splines", variable),), arguments)


def interaction(*parts: str | Term) -> Term:
    """Products of the columns of variables or terms: every column of one times every column of the others.

    Parameters
    ----------
    *parts : str or Term
        At least two. Text is coded first, as it is in a feature.

    Returns
    -------
    Term
        Columns such as ``a:b``, or ``a_level:b``.

    Raises
    ------
    InvalidOptionError
        If there are fewer than two parts, or one is no name and no term.

    Examples
    --------
    >>> from daskmoe import features
    >>> print(features.interaction("a", features.powers("b", 2)))
    interaction(a, powers(b, degree=2))
    """
    if len(parts) < 2:
        raise InvalidOptionError(f"interaction: expected at least two variables or terms, got {len(parts)}.")
    return Term("interaction", tuple(p if isinstance(p, Term) else _name("interaction", p) for p in parts))


def indicator(
    variable: str, equals: Any = None, *, above: float | None = None, below: float | None = None
) -> Term:
    """One where a variable has a value or lies beyond a bound, else zero.

    Parameters
    ----------
    variable : str
    equals : str, number or bool, optional
        The value.
    above, below : float, optional
        Bounds, which do not belong to the range; with both, the range between them.

    Returns
    -------
    Term
        A column such as ``x==0``, ``x>2`` or ``1<x<2``; missing where the variable is.

    Raises
    ------
    InvalidOptionError
        If there is neither a value nor a bound, or both.

    Examples
    --------
    >>> from daskmoe import features
    >>> print(features.indicator("rain", above=0.0))
    indicator(rain, above=0.0)
    """
    bounds = [None if bound is None else _number("indicator", "bound", bound) for bound in (above, below)]
    if (equals is None) == (bounds == [None, None]):
        raise InvalidOptionError("indicator: expected either a value or above= or below=, or both bounds.")
    if equals is not None and not isinstance(equals, str | bool | Real | np.bool_):
        raise InvalidOptionError(f"indicator: expected text, a number or a bool, got {equals!r}.")
    value = equals.item() if isinstance(equals, np.generic) else equals
    low, high = bounds
    if value != value or (low is not None and high is not None and low >= high):
        raise InvalidOptionError(
            f"indicator: expected a value, or above= less than below=, got {value!r}, {low} and {high}."
        )
    arguments = (("equals", value), ("above", bounds[0]), ("below", bounds[1]))
    return Term("indicator", (_name("indicator", variable),), arguments)


def parse_features(text: str) -> list[str | Term]:
    """Names and terms from text, as on the command line: ``x,powers(x,3),harmonics(time,1D,365.25D)``.

    Raises
    ------
    InvalidOptionError
        If a function is unknown, or its arguments are not its own.
    """
    return [_parsed(part) for part in _split(text)]


_FUNCTIONS: Final[dict[str, Callable[..., Term]]] = {
    "harmonics": lambda variable, *periods: harmonics(variable, [str(period) for period in periods]),
    "powers": powers,
    "splines": lambda variable, df=None, *, degree=3, knots=None: splines(
        variable, df, degree=degree, knots=None if knots is None else [float(k) for k in knots.split("|")]
    ),
    "interaction": interaction,
    "indicator": indicator,
}


def _split(text: str) -> Iterator[str]:
    """The parts between commas that are in no brackets."""
    depth, start = 0, 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            yield text[start:place].strip()
            start = place + 1
    if text[start:].strip():
        yield text[start:].strip()


def _parsed(text: str) -> str | Term:
    name, bracket, rest = text.partition("(")
    if not bracket:
        return text
    if text.count("(") != text.count(")") or not rest.endswith(")"):
        raise InvalidOptionError(f"features: expected as many '(' as ')', the last at the end, in {text!r}.")
    if name not in _FUNCTIONS:
        raise InvalidOptionError(f"features: expected one of {list(_FUNCTIONS)} before '(', got {name!r}.")
    pieces = list(_split(rest[:-1]))
    keywords = dict(piece.split("=", 1) for piece in pieces if _is_keyword(piece))
    positional = [piece for piece in pieces if not _is_keyword(piece)]
    first = [_parsed(piece) for piece in (positional if name == "interaction" else positional[:1])]
    others = [] if name == "interaction" else [_value(name, piece) for piece in positional[1:]]
    try:
        return _FUNCTIONS[name](
            *first, *others, **{key: _value(key, value) for key, value in keywords.items()}
        )
    except TypeError as error:
        raise InvalidOptionError(f"features: {text!r} is not understood: {error}.") from error


def _is_keyword(piece: str) -> bool:
    return piece.split("=", 1)[0].strip().isidentifier() and "=" in piece and "(" not in piece


def _value(name: str, text: str) -> Any:
    # The value of an indicator is converted by the dtype of its variable.
    if name in ("harmonics", "knots", "indicator", "equals"):
        return text
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _plain_period(period: Any) -> Any:
    if isinstance(period, pd.Timedelta | np.timedelta64):
        return f"{pd.Timedelta(period).total_seconds():g}s"
    return period.item() if isinstance(period, np.generic) else period


def _check_period(period: Any) -> None:
    wrong = InvalidOptionError(
        f"harmonics: expected periods as '1D', '12h' or '365.25D', or numbers above 0, got {period!r}."
    )
    if isinstance(period, str):
        try:
            positive = 0 < float(period) < np.inf
        except ValueError:
            try:
                positive = pd.Timedelta(period) > pd.Timedelta(0)
            except ValueError as error:
                raise wrong from error
    else:
        number = np.nan if isinstance(period, bool) or not isinstance(period, Real) else float(period)
        positive = 0 < number < np.inf
    if not positive:
        raise wrong


def _name(function: str, variable: Any) -> str:
    if not isinstance(variable, str):
        raise InvalidOptionError(f"{function}: expected the name of a variable, got {variable!r}.")
    return variable


def _integer(function: str, name: str, value: Any, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise InvalidOptionError(
            f"{function}: expected {name} to be an integer of at least {minimum}, got {value!r}."
        )
    return int(value)


def _number(function: str, name: str, value: Any) -> float:
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else np.nan
    if not np.isfinite(number):
        raise InvalidOptionError(f"{function}: expected {name} to be finite numbers, got {value!r}.")
    return number
