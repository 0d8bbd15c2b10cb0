"""From what the partitions sent to one model: candidates, their scores on all rows, the choice."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from daskmoe.engine.allocation import reused_memory
from daskmoe.engine.outcomes import Outcome
from daskmoe.engine.results import FitResult, Gathered, PartitionResult, Proposed
from daskmoe.engine.seeds import Seed, generator
from daskmoe.engine.threads import single_threaded_blas
from daskmoe.errors import PartitionError
from daskmoe.numerics.base.observations import Observations
from daskmoe.numerics.base.parameters import SupportSample
from daskmoe.numerics.base.policies import Regularization
from daskmoe.numerics.combine.candidates import Ballot, Tally, score_rows
from daskmoe.numerics.combine.choice import (
    Proposal,
    Sent,
    propose_estimator,
    propose_independent,
    propose_one_shot,
    settle,
)
from daskmoe.numerics.combine.expansion import Expansion, Pilot
from daskmoe.numerics.combine.supports import pool_support, synthetic_support
from daskmoe.numerics.families import Family

# Partitions that a message names.
_NAMED = 5


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
    # Partitions that must be fitted; a float is their share.
    min_success: int | float = 1


def propose(
    plan: AggregationPlan,
    sent: Gathered | list[PartitionResult],
    pilots: list[Pilot] | None,
    given: SupportSample | None,
) -> Proposed:
    """Candidates from what the partitions sent, in their order; `PartitionError` if all were left out.

    From shared starts their expansions are summed already.
    """
    gathered = sent if isinstance(sent, Gathered) else Gathered(list(sent))
    results = gathered.partitions
    fitted = [r for r in results if r.ending.fitted]
    _check_success(results, len(fitted), plan.min_success)
    with single_threaded_blas(), reused_memory():
        support = _support(plan, results, given)
        proposal = _proposal(plan, fitted, gathered.expansions, pilots, support)
    return Proposed([result.without_expansions() for result in results], proposal)


def _check_success(results: list[PartitionResult], fitted: int, least: int | float) -> None:
    """Raise `PartitionError`, which says how partitions ended, unless enough of them were fitted."""
    there = sum(r.ending.outcome is not Outcome.EMPTY for r in results)
    share = isinstance(least, float)
    needed = max(1, math.ceil(least * there - 1e-9)) if share else int(least)
    if fitted >= needed:
        return
    if not fitted:
        reasons = "; ".join(sorted({r.ending.status for r in results})[:3])
        raise PartitionError(f"Expected at least one partition that can be fitted, got none: {reasons}")
    others = [r for r in results if not r.ending.fitted]
    reasons = "; ".join(f"{r.label} ({r.ending.status})" for r in others[:_NAMED])
    more = f"; and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    raise PartitionError(
        f"Expected at least {needed} of {len(results)} partitions to be fitted (min_success={least!r}), got "
        f"{fitted}: {reasons}{more}"
    )


def ballot_of(proposed: Proposed, responses: bool) -> Ballot:
    """What partitions need to score the candidates, and whether they may tell ``responses`` of rows."""
    return proposed.proposal.ballot._replace(responses=responses)


def scoring_of(proposed: Proposed, responses: bool) -> Callable[[Observations], Tally]:
    """What rows are asked about the candidates."""
    return partial(score_rows, ballot=ballot_of(proposed, responses))


def aggregate_partitions(
    plan: AggregationPlan, proposed: Proposed, tally: Tally | None, *, choose: bool = True
) -> FitResult:
    """One model: of the candidates the best on all rows, or the one that was asked for.

    Without ``choose`` it is the first, and all rows only say how good it is.
    """
    with single_threaded_blas(), reused_memory():
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
    sums: tuple[Expansion, ...],
    pilots: list[Pilot] | None,
    support: SupportSample,
) -> Proposal:
    starts = range(len(pilots) if pilots else 1)
    sent = [
        _sent([r.from_start(start) for r in fitted], sums[start : start + 1], support) for start in starts
    ]
    family = plan.family
    if plan.method != "auto":
        return propose_estimator(plan.method, sent[0], plan.n_experts, family, plan.regularization)
    if pilots:
        return propose_one_shot(sent, pilots, family, plan.regularization)
    if sent[0].expansions:
        return propose_independent(sent[0], plan.n_experts, family, plan.regularization)
    return propose_estimator("reduction", sent[0], plan.n_experts, family, plan.regularization)


def _sent(fitted: list[PartitionResult], sums: tuple[Expansion, ...], support: SupportSample) -> Sent:
    """What was sent from a shared start, with the sum of its expansions, or without one."""
    return Sent(
        [p for r in fitted if (p := r.estimate.parameters) is not None],
        np.array([r.estimate.weight for r in fitted]),
        [r.moments for r in fitted if r.moments is not None],
        list(sums) or [r.expansion for r in fitted if r.expansion is not None],
        support,
    )
