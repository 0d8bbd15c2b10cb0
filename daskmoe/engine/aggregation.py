"""The aggregate task: one model from what the partitions sent."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskmoe.engine.outcomes import Outcome
from daskmoe.engine.results import FitResult, PartitionResult
from daskmoe.engine.seeds import Seed, generator
from daskmoe.engine.threads import single_threaded_blas
from daskmoe.errors import PartitionError
from daskmoe.numerics.base.parameters import SupportSample
from daskmoe.numerics.combine.choice import Sent, best_estimator
from daskmoe.numerics.combine.expansion import Pilot
from daskmoe.numerics.combine.registry import Aggregate
from daskmoe.numerics.combine.supports import pool_support, synthetic_support
from daskmoe.numerics.families import get_family


class AggregationPlan(NamedTuple):
    """How local estimators become one model."""

    # One of `daskmoe.options.AGGREGATIONS`.
    method: str
    n_experts: int
    family: str
    # Whether the support is drawn from the partitions' moments.
    synthetic: bool
    # Support rows of each partition.
    shares: tuple[int, ...]
    seed: int


def aggregate_partitions(
    plan: AggregationPlan, results: list[PartitionResult], pilot: Pilot | None, given: SupportSample | None
) -> FitResult:
    """One model from what the partitions sent, in their order; `PartitionError` if all were left out."""
    fitted = [r for r in results if r.ending.outcome is not Outcome.LEFT_OUT]
    if not fitted:
        reasons = "; ".join(sorted({r.ending.status for r in results})[:3])
        raise PartitionError(f"Expected at least one partition that can be fitted, got none: {reasons}")
    with single_threaded_blas():
        support, origin = _support(plan, results, given)
        return FitResult(_aggregate(plan, fitted, pilot, support, origin), results)


def _support(
    plan: AggregationPlan, results: list[PartitionResult], given: SupportSample | None
) -> tuple[SupportSample, NDArray[np.intp] | None]:
    """The support, and the position of the fitted partition that each row is of, where it is of one."""
    if given is not None:
        return given, None
    fitted = [(r, share) for r, share in zip(results, plan.shares, strict=True) if r.moments is not None]
    if plan.synthetic:
        known = [r.moments for r, _ in fitted if r.moments is not None]
        sizes = [share for _, share in fitted]
        support = synthetic_support(known, sizes, generator(plan.seed, Seed.SYNTHETIC_SUPPORT))
    else:
        sizes = [len(r.support.features) if r.estimate.weight > 0 else 0 for r, _ in fitted]
        weights = np.array([r.estimate.weight for r, _ in fitted])
        support = pool_support([r.support for r, _ in fitted], weights)
    return support, np.repeat(np.arange(len(sizes)), sizes)


def _aggregate(
    plan: AggregationPlan,
    fitted: list[PartitionResult],
    pilot: Pilot | None,
    support: SupportSample,
    origin: NDArray[np.intp] | None,
) -> Aggregate:
    sent = Sent(
        [p for r in fitted if (p := r.estimate.parameters) is not None],
        np.array([r.estimate.weight for r in fitted]),
        [r.moments for r in fitted if r.moments is not None],
        [r.expansion for r in fitted if r.expansion is not None],
        support,
        origin,
    )
    family = get_family(plan.family)
    if plan.method == "auto":
        # The same draws whatever the seed: the choice is no part of what it makes random.
        rng = generator(0, Seed.DRAWN_RESPONSES)
        return best_estimator(sent, pilot, plan.n_experts, family, rng)
    return sent.aggregate(plan.method, plan.n_experts, family)
