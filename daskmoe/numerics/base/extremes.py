"""The lowest and the highest of some quantities over rows, and where: partitions' extremes merge.

Pure NumPy. Q quantities, which have a value a row, or of several outputs O.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Quantities = NDArray[np.float64]
Places = NDArray[np.intp]


class Extremes(NamedTuple):
    """The lowest and the highest of Q quantities, each of shape (Q, 2), of several outputs (Q, O, 2)."""

    values: Quantities
    # Their rows, by position among those of their partition.
    rows: Places
    # Numbers of these partitions.
    partitions: Places

    @classmethod
    def of(cls, values: NDArray[np.floating[Any]], first_row: int = 0) -> Extremes:
        """Of values (Q, B), or (Q, O, B), of consecutive rows."""
        places = np.stack([values.argmin(axis=-1), values.argmax(axis=-1)], axis=-1)
        found = np.take_along_axis(values, places, axis=-1).astype(np.float64)
        return cls(found, places + first_row, np.zeros_like(places))

    def within(self, partition: int) -> Extremes:
        """The same, of rows of a partition."""
        return self._replace(partitions=np.full_like(self.partitions, partition))

    def take(self, quantities: list[int]) -> Extremes:
        """Those of some quantities."""
        return Extremes(self.values[quantities], self.rows[quantities], self.partitions[quantities])

    def put(self, quantities: list[int], other: Extremes) -> None:
        """Overwrite some quantities with those of other ones."""
        for own, new in zip(self, other, strict=True):
            own[quantities] = new

    def moved(self, location: float | Quantities, scale: float | Quantities) -> Extremes:
        """Of the quantities times a positive scale and moved; of several outputs by (O,) each."""
        location, scale = (np.asarray(each)[..., np.newaxis] for each in (location, scale))
        return self._replace(values=location + scale * self.values)


def merge_extremes(first: Extremes | None, second: Extremes) -> Extremes:
    """Of the union of two sets of rows; of equal values the first's are kept."""
    if first is None:
        return second
    newer = np.stack(
        [second.values[..., 0] < first.values[..., 0], second.values[..., 1] > first.values[..., 1]], axis=-1
    )
    return Extremes(*(np.where(newer, b, a) for a, b in zip(first, second, strict=True)))
