"""Atoms of a target: values that it takes with positive probability, given or found."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import xarray as xr

from daskmoe.errors import InvalidDataError
from daskmoe.numerics.base.atoms import at_value
from daskmoe.numerics.base.parameters import FloatArray
from daskmoe.rows.computing import computed
from daskmoe.rows.lazily import apply_in_blocks, explained_sums
from daskmoe.rows.learning import find_spreads
from daskmoe.rows.values import plain
from daskmoe.rows.variables import listed

logger = logging.getLogger(__name__)

# Of the rows, what an atom that is found has at least.
_SHARE = 0.01
# It is so many times as frequent as the values beside it. All values of a rounded target are repeated, each
# about as often as its neighbours: that is no atom.
_TIMES = 10.0
# Values on each side that it is compared with.
_BESIDE = 5


def find_atoms(ds: xr.Dataset, target: str, wanted: Sequence[float] | str) -> tuple[float, ...]:
    """The atoms of a target, sorted, each of which is in the data; the log says their shares.

    Parameters
    ----------
    ds : xr.Dataset
    target : str
    wanted : sequence of float, or "auto"
        Values; or those that repeat beyond chance in 100,000 values evenly spaced over the rows, which is a
        pass over the target.

    Raises
    ------
    InvalidDataError
        If a value that is given does not occur: nothing tells when it does.
    """
    variable = ds.variables[target]
    if isinstance(wanted, str):
        found = repeated(find_spreads({target: variable})[target].values)
        if not found:
            logger.info("target %r repeats no value beyond chance: it has no atoms", target)
        shares = dict(found)
    else:
        shares = _shares(variable, wanted)
        if absent := [value for value in wanted if not shares[value] > 0.0]:
            raise InvalidDataError(
                f"atoms: expected values that the target {target!r} has, got {listed(absent)}, which none of "
                "its rows is equal to: nothing tells when it occurs. Leave it out, or use atoms='auto'."
            )
    for value, share in shares.items():
        logger.info("target %r is at the atom %g in %.2f %% of the rows", target, value, 100.0 * share)
    return tuple(sorted(shares))


def repeated(values: FloatArray) -> list[tuple[float, float]]:
    """The values that repeat beyond chance, with their shares.

    >>> repeated(np.r_[np.zeros(50), np.linspace(0.1, 1.0, 50)])
    [(0.0, 0.5)]
    >>> repeated(np.repeat(np.arange(20.0), 5))
    []
    """
    found, counts = np.unique(values, return_counts=True)
    atoms = []
    for place in np.flatnonzero(counts >= max(2.0, _SHARE * values.size)):
        around = np.r_[counts[max(place - _BESIDE, 0) : place], counts[place + 1 : place + 1 + _BESIDE]]
        if around.size and counts[place] > _TIMES * np.median(around):
            atoms.append((float(found[place]), float(counts[place] / values.size)))
    return atoms


@explained_sums()
def _shares(variable: xr.Variable, values: Sequence[float]) -> dict[float, float]:
    """The share of the rows, of those that have a target, at each value; one computation."""
    given = xr.DataArray(plain(variable))
    counts = {"there": given.notnull().sum()}
    for number, value in enumerate(values):
        at = apply_in_blocks(at_value, given, dtype=np.bool_, value=value)
        counts[str(number)] = at.sum()
    sums = computed(xr.Dataset(counts))
    there = max(float(sums["there"]), 1.0)
    return {value: float(sums[str(number)]) / there for number, value in enumerate(values)}
