"""What tasks return: plain arrays, labelled later by the model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.engine.outcomes import Ending, Outcome
from daskmoe.numerics.base.observations import merge_moments
from daskmoe.numerics.base.parameters import (
    Columns,
    FloatArray,
    LargeMoE,
    LocalEstimate,
    Moments,
    SupportSample,
    order_by_share,
)
from daskmoe.numerics.combine.choice import Proposal
from daskmoe.numerics.combine.expansion import Expansion, add_expansions
from daskmoe.numerics.combine.registry import Aggregate


class Answer(NamedTuple):
    """Where a partition's steps from a shared start led, or its own fit."""

    estimate: LocalEstimate
    ending: Ending
    expansion: Expansion | None


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
    # What the other shared starts led to.
    rivals: tuple[Answer, ...] = ()
    # Rows whose target and features are all missing.
    absent_rows: int = 0
    # Size of what was sent, where not all of it is here any more.
    was_sent: int | None = None

    @property
    def answers(self) -> list[Answer]:
        """What every shared start led to; the one answer where there is none or one."""
        return [Answer(self.estimate, self.ending, self.expansion), *self.rivals]

    def from_start(self, start: int) -> PartitionResult:
        """The result with the answer to one of the shared starts as its own, and no others."""
        estimate, ending, expansion = self.answers[start if self.rivals else 0]
        return self._replace(estimate=estimate, ending=ending, expansion=expansion, rivals=())

    def of_columns(self, columns: Columns) -> PartitionResult:
        """The result of rows whose features are the gates' and the experts' by these columns."""
        known = None if self.moments is None else self.moments._replace(columns=columns)
        return self._replace(support=self.support._replace(columns=columns), moments=known)

    @property
    def sent_bytes(self) -> int:
        """Size of the arrays that leave the partition, in bytes."""
        if self.was_sent is not None:
            return self.was_sent
        own = (self.estimate.start_log_likelihoods, self.estimate.expert_weights)
        answers = [group for each in self.answers for group in (each.estimate.parameters, each.expansion)]
        return _bytes_of((self.support, self.moments, own, self.estimate.extremes, answers))

    def without_expansions(self) -> PartitionResult:
        """The result without its expansions, which are in a sum or not needed any more."""
        rivals = tuple(rival._replace(expansion=None) for rival in self.rivals)
        return self._replace(expansion=None, rivals=rivals, was_sent=self.sent_bytes)


class Gathered(NamedTuple):
    """What some partitions sent: kilobytes of each, and the sums of what would be more."""

    # In their order; without expansions where these are summed.
    partitions: list[PartitionResult]
    # The sum from every shared start; empty without one, or where none of the partitions was fitted.
    expansions: tuple[Expansion, ...] = ()


def gather(parts: Sequence[PartitionResult | Gathered]) -> Gathered:
    """Join what partitions sent that have shared starts, or parts that are joined already, in their order."""
    partitions: list[PartitionResult] = []
    total: tuple[Expansion, ...] = ()
    for part in parts:
        each = part if isinstance(part, Gathered) else _lighter(part)
        partitions += each.partitions
        if total and each.expansions:
            total = tuple(map(add_expansions, total, each.expansions))
        else:
            total = total or each.expansions
    return Gathered(partitions, total)


def _lighter(result: PartitionResult) -> Gathered:
    found = [answer.expansion for answer in result.answers]
    expansions = tuple(each for each in found if each is not None)
    return Gathered([result.without_expansions()], expansions)


def _bytes_of(value: Any) -> int:
    """Size of all arrays in nested tuples, and of the numbers beside them."""
    if isinstance(value, tuple | list):
        return sum(map(_bytes_of, value))
    return 0 if value is None else int(getattr(value, "nbytes", 8))


class Counted(NamedTuple):
    """What a pass finds, and how many rows it leaves out."""

    value: Any
    # Incomplete rows, and those without weight.
    dropped: int
    # Whether no partition was left out.
    whole: bool = True


class Proposed(NamedTuple):
    """Every partition's result, in partition order, and what they propose."""

    partitions: list[PartitionResult]
    proposal: Proposal


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
        there = [each for each in self.partitions if each.ending.outcome is not Outcome.EMPTY]
        known = [m for result in there if (m := result.moments) is not None]
        return reduce(merge_moments, known) if len(known) == len(there) else None

    def by_share(self) -> FitResult:
        """The same with the experts in the order of their shares of the rows, the largest first.

        Local estimates of as many experts follow, so that those which agreed in place still do. A weighted
        average stays as it is.
        """
        found = self.aggregate
        if isinstance(found.parameters, LargeMoE):
            return self
        order = order_by_share(found.parameters, self._mass)
        estimates = [result.estimate for result in self.partitions]
        moved = [_follows(estimate, order) for estimate in estimates]
        sizes = [0 if (p := each.parameters) is None else p.n_experts for each in estimates]
        starts = np.cumsum([0, *sizes])
        own = [
            start + (order if moves else np.arange(size))
            for start, size, moves in zip(starts, sizes, moved, strict=False)
        ]
        aggregate = found.in_order(order)
        partitions = [
            result._replace(estimate=result.estimate.in_order(order)) if moves else result
            for result, moves in zip(self.partitions, moved, strict=True)
        ]
        return FitResult(aggregate._replace(flow=aggregate.flow[np.concatenate(own)]), partitions)

    @property
    def _mass(self) -> FloatArray:
        """What rows each expert of the one model speaks for, (K,), as it is known best."""
        found = self.aggregate
        if found.chosen == "local":
            return next(r.estimate.expert_weights for r in self.partitions if r.ending.fitted)
        return found.flow.sum(axis=0) if found.told is None else found.told.mass


def _follows(estimate: LocalEstimate, order: NDArray[np.intp]) -> bool:
    parameters = estimate.parameters
    return parameters is not None and parameters.n_experts == len(order)
