"""Options as frozen dataclasses, validated once, on construction."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

from daskmoe.errors import InvalidOptionError
from daskmoe.numerics.families import get_family

# What `numerics.aggregation` can make of local estimators.
METHODS = ("reduction", "whole", "greedy", "weighted", "middle", "aligned")
AGGREGATIONS = ("auto", *METHODS)
# What may leave a partition for the support.
SUPPORTS = ("labelled", "features", "synthetic")
ON_ERROR = ("raise", "skip")


def check_integer(name: str, value: Any, minimum: int) -> int:
    """``value`` as an int of at least ``minimum``; `InvalidOptionError` names the option otherwise."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise InvalidOptionError(f"{name}: expected an integer of at least {minimum}, got {value!r}.")
    return int(value)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """``value`` if it is one of ``choices``; `InvalidOptionError` lists them otherwise."""
    if value not in choices:
        raise InvalidOptionError(f"{name}: expected one of {list(choices)}, got {value!r}.")
    return str(value)


@dataclass(frozen=True, kw_only=True)
class LocalFitOptions:
    """How one partition is fitted.

    Parameters
    ----------
    n_experts : int
        K.
    family : str
        Expert density.
    n_init : int
        Starts that race on the subsample; more join where they end in several optima.
    start_rows : int
        Rows of that subsample; all rows where there are fewer.
    max_passes : int
        Limit of an ascent's Newton passes over all rows; the best one may take as many again.
    tolerance : float
        Converged when the predicted gain in log-likelihood a row falls under it, in nats.
    """

    n_experts: int
    family: str = "gaussian"
    n_init: int = 12
    start_rows: int = 2_000
    max_passes: int = 100
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        for name, minimum in (("n_experts", 1), ("n_init", 1), ("start_rows", 10), ("max_passes", 2)):
            # A plain int, which JSON can hold, of whatever kind of integer it is.
            object.__setattr__(self, name, check_integer(name, getattr(self, name), minimum))
        if self.start_rows < self.n_experts:
            raise InvalidOptionError(
                f"start_rows: expected at least the {self.n_experts} experts, got {self.start_rows}."
            )
        get_family(self.family)
        if not 0 < self.tolerance < 1:
            raise InvalidOptionError(f"tolerance: expected a number in (0, 1), got {self.tolerance!r}.")
