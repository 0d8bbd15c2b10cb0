"""What tasks return: plain arrays, labelled later by the model."""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

from daskmoe.engine.outcomes import Ending
from daskmoe.numerics.base.observations import merge_moments
from daskmoe.numerics.base.parameters import LocalEstimate, Moments, SupportSample
from daskmoe.numerics.combine.expansion import Expansion
from daskmoe.numerics.combine.registry import Aggregate


class PartitionResult(NamedTuple):
    """What one local task sends back, kilobytes whatever the partition's size."""

    # Of the partition.
    label: str
    estimate: LocalEstimate
    ending: Ending
    # Its share, whose weights sum to one.
    support: SupportSample
    # None where it was left out.
    moments: Moments | None
    # Size of the rows that were read.
    data_bytes: int
    # Of its log-likelihood, around the pilot or around its own estimate; None where neither is asked for.
    expansion: Expansion | None = None

    @property
    def sent_bytes(self) -> int:
        """Size of the arrays that travel to the aggregation, in bytes."""
        own = (self.estimate.start_log_likelihoods, self.estimate.expert_weights)
        groups = (self.estimate.parameters, self.support, self.moments, own, self.expansion)
        return sum(int(getattr(a, "nbytes", 8)) for g in groups if g is not None for a in g if a is not None)


class FitResult(NamedTuple):
    """What the aggregation returns: the ``aggregate`` and every partition's result, in partition order."""

    aggregate: Aggregate
    partitions: list[PartitionResult]

    @property
    def endings(self) -> list[Ending]:
        """How every partition ended."""
        return [result.ending for result in self.partitions]

    @property
    def moments(self) -> Moments | None:
        """Of all rows; None where a partition was left out, which a later pass may still be able to read."""
        known = [m for result in self.partitions if (m := result.moments) is not None]
        return reduce(merge_moments, known) if len(known) == len(self.partitions) else None
