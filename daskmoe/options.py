"""What a caller may ask for, and the checks of it."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np

from daskmoe.errors import InvalidOptionError
from daskmoe.numerics.base.policies import LocalFit
from daskmoe.numerics.families import get_family

# What `numerics.combine` can make of local estimators.
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


def local_fit_options(**options: Any) -> LocalFit:
    """How one partition is fitted, from checked options.

    Raises
    ------
    InvalidOptionError
        If an option has a value that it cannot have.
    """
    for name, minimum in (("n_experts", 1), ("n_init", 1), ("start_rows", 10)):
        if name in options:
            # A plain int, which JSON can hold, of whatever kind of integer it is.
            options[name] = check_integer(name, options[name], minimum)
    local = LocalFit(**options)
    if local.start_rows < local.n_experts:
        raise InvalidOptionError(
            f"start_rows: expected at least the {local.n_experts} experts, got {local.start_rows}."
        )
    get_family(local.family)
    return local


RandomState = None | int | np.random.SeedSequence | np.random.Generator


def entropy_of(random_state: RandomState) -> int:
    """One integer that all draws follow from; fresh where ``random_state`` is None."""
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**63))
    if isinstance(random_state, np.random.SeedSequence):
        return int.from_bytes(random_state.generate_state(4).tobytes(), "little")
    if random_state is not None:
        return check_integer("random_state", random_state, 0)
    return int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
