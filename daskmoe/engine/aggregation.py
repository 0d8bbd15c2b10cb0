"""From what the partitions sent to one model: candidates, their scores on all rows, the choice."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from daskmoe.engine.results import FitResult, PartitionResult, Proposed
from daskmoe.engine.seeds import Seed, generator
from daskmoe.engine.threads import single_threaded_blas
from daskmoe.errors import PartitionError
from daskmoe.numerics.base.parameters import SupportSample
from daskmoe.numerics.base.policies import Regularization
from daskmoe.numerics.combine.candidates import Ballot, Tally
from daskmoe.numerics.combine.choice import (
    Proposal,
    Sent,
    propose_estimator,
    propose_independent,
    propose_one_shot,
    settle,
)
from daskmoe.numerics.combine.expansion import Pilot
from daskmoe.numerics.combine.supports import pool_support, synthetic_support
from daskmoe.numerics.families import Family


class AggregationPlan(NamedTuple):
    """How local estimators become one model."""

    # One of `daskmoe.options.AGGREGATIONS`.
    method: str
    n_experts: int
    family: Family
    # Whether the support is drawn from the partitions' moments.
    synthetic: bool
    # Support rows of each partition.
    shares: tuple[int, ...]
    seed: int
    regularization: Regularization


def propose(
    plan: AggregationPlan,
    results: list[PartitionResult],
    pilots: list[Pilot] | None,
    given: SupportSample | None,
) -> Proposed:
    """Candidates from what the partitions sent, in their order; `PartitionError` if all were left out."""
    fitted = [r for r in results if r.ending.fitted]
    if not fitted:
        reasons = "; ".join(sorted({r.ending.status for r in results})[:3])
        raise PartitionError(f"Expected at least one partition that can be fitted, got none: {reasons}")
    with single_threaded_blas():
        support = _support(plan, results, given)
        return Proposed(results, _proposal(plan, fitted, pilots, support))


def ballot_of(proposed: Proposed, responses: bool) -> Ballot:
    """What partitions need to score the candidates, and whether they may tell ``responses`` of rows."""
    return proposed.proposal.ballot._replace(responses=responses)


def aggregate_partitions(
    plan: AggregationPlan, proposed: Proposed, tally: Tally | None, *, choose: bool = True
) -> FitResult:
    """One model: of the candidates the best on all rows, or the one that was asked for.

    Without ``choose`` it is the first, and all rows only say how good it is.
    """
    with single_threaded_blas():
        aggregate, start = settle(proposed.proposal, tally, choose=choose and plan.method == "auto")
    return FitResult(aggregate, [result.from_start(start) for result in proposed.partitions])


def _support(
    plan: AggregationPlan, results: list[PartitionResult], given: SupportSample | None
) -> SupportSample:
    if given is not None:
        return given
    fitted = [(r, share) for r, share in zip(results, plan.shares, strict=True) if r.moments is not None]
    if plan.synthetic:
        known = [r.moments for r, _ in fitted if r.moments is not None]
        sizes = [share for _, share in fitted]
        return synthetic_support(known, sizes, generator(plan.seed, Seed.SYNTHETIC_SUPPORT))
    weights = np.array([r.estimate.weight for r, _ in fitted])
    return pool_support([r.support for r, _ in fitted], weights)


def _proposal(
    plan: AggregationPlan,
    fitted: list[PartitionResult],
    pilots: list[Pilot] | None,
    support: SupportSample,
) -> Proposal:
    starts = range(len(pilots) if pilots else 1)
    sent = [_sent([r.from_start(start) for r in fitted], support) for start in starts]
    family = plan.family
    if plan.method != "auto":
        return propose_estimator(plan.method, sent[0], plan.n_experts, family, plan.regularization)
    if pilots:
        return propose_one_shot(sent, pilots, family, plan.regularization)
    if sent[0].expansions:
        return propose_independent(sent[0], plan.n_experts, family, plan.regularization)
    return propose_estimator("reduction", sent[0], plan.n_experts, family, plan.regularization)


def _sent(fitted: list[PartitionResult], support: SupportSample) -> Sent:
    return Sent(
        [p for r in fitted if (p := r.estimate.parameters) is not None],
        np.array([r.estimate.weight for r in fitted]),
        [r.moments for r in fitted if r.moments is not None],
        [r.expansion for r in fitted if r.expansion is not None],
        support,
    )
