"""What local estimators do not know, as it is told of an estimator that is made of them. Pure NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.numerics.base.hulls import Hulls
from daskmoe.numerics.base.parameters import SupportSample


class Gaps(NamedTuple):
    """What M local estimators do not know."""

    # (M, p): Features whose slopes an estimator does not know, alone or beside others'.
    features: NDArray[np.bool_]
    # Share of the support that none of them knows.
    unknown_support: float
    # (M,): Estimators that are in the result as they are, zeros for what they do not know included.
    taken_whole: NDArray[np.bool_]

    def of_all(self, used: list[int], n_locals: int) -> Gaps:
        """The same among all local estimators, of which some were ``used``; the others have no gaps."""
        features = np.zeros((n_locals, self.features.shape[1]), dtype=bool)
        taken = np.zeros(n_locals, dtype=bool)
        features[used], taken[used] = self.features, self.taken_whole
        return self._replace(features=features, taken_whole=taken)


def gaps_of(hulls: Hulls, support: SupportSample, taken: list[bool]) -> Gaps:
    """The gaps of the partitions with these hulls, some of whose estimators are taken as they are."""
    features = hulls.columns()
    known = hulls.holding(support.features).any(axis=0)
    return Gaps(features, float(support.weight @ ~known), features.any(axis=1) & np.array(taken))
