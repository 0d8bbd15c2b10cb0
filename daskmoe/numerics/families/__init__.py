"""Families of expert densities, one module a family, looked up by name."""

from __future__ import annotations

from daskmoe.errors import InvalidOptionError
from daskmoe.numerics.families.gamma import Gamma
from daskmoe.numerics.families.gaussian import Gaussian
from daskmoe.numerics.families.poisson import Poisson
from daskmoe.numerics.families.protocol import Family
from daskmoe.numerics.families.student_t import StudentT

FAMILIES: dict[str, Family] = {family.name: family for family in (Gaussian(), StudentT(), Gamma(), Poisson())}


def get_family(name: str) -> Family:
    """The family called ``name``; raises `InvalidOptionError` for an unknown one."""
    if name not in FAMILIES:
        raise InvalidOptionError(f"family: expected one of {sorted(FAMILIES)}, got {name!r}.")
    return FAMILIES[name]


__all__ = ["FAMILIES", "Family", "get_family"]
