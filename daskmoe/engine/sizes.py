"""Fits of several numbers of experts in one graph, whose tasks open their partition once for all sizes.

Sizes share all of a request but the number of experts: rows, partitions, the sample of the shared starts. A
task fits one size after the other, so that it holds what one fit holds. Every size ends as it would alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple, cast

import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.delayed import Delayed

from daskmoe.engine.aggregation import AggregationPlan, aggregate_partitions, ballot_of, propose
from daskmoe.engine.graph import build_samples, build_support
from daskmoe.engine.mapping import Ref, Tasks
from daskmoe.engine.passes import evaluate_partition, partition_tasks, run_sum, shared_plan, sum_tree, tree
from daskmoe.engine.pilot import fit_sample
from daskmoe.engine.progress import watching
from daskmoe.engine.request import FitRequest, support_shares, task_plan
from daskmoe.engine.results import FitResult, Gathered, PartitionResult, Proposed, gather
from daskmoe.engine.tasks import TaskPlan, fit_partition, read_counted
from daskmoe.numerics.base.observations import Observations
from daskmoe.numerics.base.parameters import FloatArray, Mixture, SupportSample
from daskmoe.numerics.combine.candidates import Ballot, Tally, add_tallies, score_rows
from daskmoe.numerics.combine.expansion import Pilot
from daskmoe.numerics.families import Family
from daskmoe.numerics.predictive.mixture import log_likelihood
from daskmoe.rows import Partition


def build_sizes(requests: Sequence[FitRequest]) -> list[Delayed]:
    """The delayed `FitResult` of every request; they differ in their numbers of experts alone."""
    first, sizes = requests[0], [request.options.n_experts for request in requests]
    tasks, token = Tasks(), tokenize(first.token, sizes)
    plans = tasks.put(f"moe-plans-{token}", [task_plan(each) for each in requests])
    pilots = _build_pilots(tasks, first, plans, token, len(requests)) if first.sample else None
    shares = support_shares(first)
    results = partition_tasks(tasks, first, f"moe-local-fit-{token}", fit_sizes, plans, pilots, own=shares)
    sent = tree(tasks, f"moe-combine-fits-{token}", _gather_sizes, results) if first.sample else results
    given, plan = build_support(tasks, first), [request.aggregation for request in requests]
    name = tokenize(token, plan, None if given is None else given.key)
    proposed = [
        tasks.call(f"moe-propose-{name}-{size}", _propose_size, place, plan[place], sent, pilots, given)
        for place, size in enumerate(sizes)
    ]
    ballots = tasks.call(f"moe-candidates-{name}", _ballots_of, proposed, first.sends.responses)
    scores = partition_tasks(tasks, first, f"moe-score-{name}", score_sizes, plans, ballots)
    tallies = sum_tree(tasks, f"moe-combine-{name}", _add_scores, scores)
    found = [
        tasks.call(
            f"moe-aggregate-{name}-{request.options.n_experts}",
            _aggregate_size,
            place,
            plan[place],
            proposed[place],
            tallies,
            request.compares,
        )
        for place, request in enumerate(requests)
    ]
    return tasks.results(found, f"moe-sizes-{name}")


def _build_pilots(tasks: Tasks, request: FitRequest, plans: Ref, token: str, count: int) -> Ref:
    """The task that has the shared starts of every size, all fitted to one sample that is read once."""
    samples = build_samples(tasks, request, shared_plan(tasks, request, request.token))
    found = [tasks.call(f"moe-pilot-{token}-{i}", _fit_size, i, plans, samples) for i in range(count)]
    return tasks.call(f"moe-pilots-{token}", list, found)


def _fit_size(place: int, plans: Sequence[TaskPlan], samples: Any) -> list[Pilot]:
    return fit_sample(plans[place], samples)


def fit_sizes(
    plans: Sequence[TaskPlan],
    partition: Partition,
    piece: xr.Dataset | None,
    pilots: Sequence[list[Pilot]] | None,
    support_rows: int,
) -> list[PartitionResult]:
    """Read one partition and fit every size to it; nothing is read where all are in checkpoints."""
    # A failure is kept by nobody, so that every size fails by itself.
    read = cache(partial(read_counted, plans[0], partition, piece))
    return [
        fit_partition(plan, partition, piece, None if pilots is None else pilots[i], support_rows, read)
        for i, plan in enumerate(plans)
    ]


def _gather_sizes(parts: Sequence[Sequence[PartitionResult | Gathered]]) -> list[Gathered]:
    """What partitions sent of every size, joined."""
    return [gather(of_size) for of_size in zip(*parts, strict=True)]


def _propose_size(
    place: int,
    plan: AggregationPlan,
    sent: Sequence[Sequence[PartitionResult]] | Sequence[Gathered],
    pilots: Sequence[list[Pilot]] | None,
    given: SupportSample | None,
) -> Proposed:
    own: Any = sent[place] if pilots is not None else [result[place] for result in sent]
    return propose(plan, own, None if pilots is None else pilots[place], given)


def _ballots_of(proposed: Sequence[Proposed], responses: bool) -> list[Ballot]:
    return [ballot_of(each, responses)._replace(entropies=True) for each in proposed]


class _Scores(NamedTuple):
    """What rows say of the candidates of every size."""

    sizes: list[Tally]

    def within(self, partition: int) -> _Scores:
        """The same, of rows of a partition."""
        return _Scores([tally.within(partition) for tally in self.sizes])


def score_sizes(
    plans: Sequence[TaskPlan], partition: Partition, piece: xr.Dataset | None, ballots: Sequence[Ballot]
) -> _Scores | None:
    """What a partition, read once, says of the candidates of every size; None where it is left out."""
    found = evaluate_partition(plans[0], partition, piece, partial(_score, ballots=ballots))
    return cast(_Scores | None, found)


def _score(rows: Observations, ballots: Sequence[Ballot]) -> _Scores:
    return _Scores([score_rows(rows, ballot) for ballot in ballots])


def _add_scores(first: _Scores, second: _Scores) -> _Scores:
    return _Scores([add_tallies(a, b) for a, b in zip(first.sizes, second.sizes, strict=True)])


def _aggregate_size(
    place: int, plan: AggregationPlan, proposed: Proposed, tallies: _Scores | None, choose: bool
) -> FitResult:
    # Where a fit of this size alone compares nothing, the scores only tell how good it is.
    tally = None if tallies is None else tallies.sizes[place]
    return aggregate_partitions(plan, proposed, tally, choose=choose)


def log_likelihoods_by_partition(
    request: FitRequest, models: Sequence[Mixture]
) -> tuple[FloatArray, FloatArray]:
    """The weight of every partition that could be read, (B,), and its log-likelihood under models, (B, C)."""
    function = partial(_log_likelihoods, models=list(models), family=request.family)
    with watching(request.token, request.options.progress) as watch:
        found: FloatArray = run_sum(request, "moe-held-out", function, _stacked, watch=watch)
    return found[:, 0], found[:, 1:]


def _log_likelihoods(rows: Observations, models: Sequence[Mixture], family: Family) -> FloatArray:
    response = np.asarray(rows.response, dtype=np.float64)
    weight = None if rows.weight is None else rows.weight.astype(np.float64)
    values = [log_likelihood(model, family, rows.features, response, weight) for model in models]
    return np.array([[rows.total_weight, *values]])


def _stacked(first: FloatArray, second: FloatArray) -> FloatArray:
    return np.concatenate([first, second])
