"""Families of expert densities, one module a family, looked up by name."""

from __future__ import annotations

from daskmoe.errors import InvalidOptionError
from daskmoe.numerics.families.categorical import Categorical
from daskmoe.numerics.families.gamma import Gamma
from daskmoe.numerics.families.gaussian import Gaussian
from daskmoe.numerics.families.poisson import Poisson
from daskmoe.numerics.families.protocol import Family
from daskmoe.numerics.families.student_t import StudentT

FAMILIES: dict[str, Family] = {
    family.name: family for family in (Gaussian(), StudentT(), Gamma(), Poisson(), Categorical())
}


def get_family(name: str, size: int | None = None) -> Family:
    """The family called ``name``, of so many classes or outputs where its responses have them.

    Raises
    ------
    InvalidOptionError
        For an unknown name.
    """
    if name not in FAMILIES:
        raise InvalidOptionError(f"family: expected one of {sorted(FAMILIES)}, got {name!r}.")
    return FAMILIES[name] if size is None else FAMILIES[name].of_size(size)


__all__ = ["FAMILIES", "Family", "get_family"]
