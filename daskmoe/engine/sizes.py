"""Fits of several numbers of experts in one graph, whose tasks open their partition once for all sizes.

Sizes share all of a request but the number of experts: rows, partitions, the sample of the shared starts. A
task fits one size after the other, so that it holds what one fit holds. Every size ends as it would alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.delayed import Delayed

from daskmoe.engine.aggregation import AggregationPlan, aggregate_partitions, ballot_of, propose
from daskmoe.engine.archive import register
from daskmoe.engine.graph import build_samples, build_support
from daskmoe.engine.keeping import find_contents
from daskmoe.engine.kept_starts import Search, find_start, start_of
from daskmoe.engine.mapping import Ref, Tasks
from daskmoe.engine.passes import partition_tasks, run_sum, shared_plan, sum_tasks, tree
from daskmoe.engine.pilot import Sampled
from daskmoe.engine.progress import watching
from daskmoe.engine.request import FitRequest, support_shares, task_plan
from daskmoe.engine.results import Counted, FitResult, Gathered, PartitionResult, Proposed, gather
from daskmoe.engine.task_plan import TaskPlan
from daskmoe.engine.tasks import fit_partition, read_counted
from daskmoe.numerics.base.observations import Observations
from daskmoe.numerics.base.parameters import FloatArray, Mixture, SupportSample
from daskmoe.numerics.combine.candidates import Ballot, Tally, add_tallies, score_rows
from daskmoe.numerics.combine.expansion import Pilot
from daskmoe.numerics.families import Family
from daskmoe.numerics.predictive.mixture import log_likelihood
from daskmoe.rows import Partition
from daskmoe.rows.contents import Content


def build_sizes(requests: Sequence[FitRequest]) -> list[Delayed]:
    """The delayed `FitResult` of every request; they differ in their numbers of experts alone."""
    first, sizes = requests[0], [request.options.n_experts for request in requests]
    tasks, token = Tasks(), tokenize(first.token, sizes)
    plans = tasks.put(f"moe-plans-{token}", [task_plan(each) for each in requests])
    shared = shared_plan(tasks, first, first.token)
    contents = find_contents(tasks, first, shared)
    pilots = _build_pilots(tasks, first, plans, shared, contents, len(requests)) if first.sample else None
    own = list(zip(support_shares(first), contents, strict=True))
    results = partition_tasks(tasks, first, f"moe-local-fit-{token}", fit_sizes, plans, pilots, own=own)
    sent = tree(tasks, f"moe-combine-fits-{token}", _gather_sizes, results) if first.sample else results
    given, plan = build_support(tasks, first), [request.aggregation for request in requests]
    name = tokenize(token, plan, None if given is None else given.key)
    proposed = [
        tasks.call(f"moe-propose-{name}-{size}", _propose_size, place, plan[place], sent, pilots, given)
        for place, size in enumerate(sizes)
    ]
    function = tasks.call(f"moe-candidates-{name}", _scoring_of, proposed, first.sends.responses)
    keys = "moe-score", "moe-combine", name
    tallies = sum_tasks(tasks, first, keys, function, _add_scores, shared, contents=contents)
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


def _build_pilots(
    tasks: Tasks, request: FitRequest, plans: Ref, shared: Ref, contents: list[Any], count: int
) -> Ref:
    """The task that has the shared starts of every size, all fitted to one sample that is read once."""
    token = tokenize(plans.key)
    search = None
    if request.options.checkpoint is not None:
        search = tasks.call(f"moe-kept-{token}", _find_starts, plans, list(request.partitions), contents)
    samples = build_samples(tasks, request, shared, search)
    found = [tasks.call(f"moe-pilot-{token}-{i}", _fit_size, i, plans, samples, search) for i in range(count)]
    return tasks.call(f"moe-pilots-{token}", list, found)


class _Searches(NamedTuple):
    """What was found of the shared starts of every size."""

    sizes: list[Search]

    @property
    def sampled(self) -> bool:
        """Whether a size needs a sample of the rows."""
        return any(each.sampled for each in self.sizes)


def _find_starts(
    plans: Sequence[TaskPlan], partitions: Sequence[Partition], contents: Sequence[Content | None]
) -> _Searches:
    return _Searches([find_start(plan, partitions, contents) for plan in plans])


def _fit_size(
    place: int, plans: Sequence[TaskPlan], samples: Sequence[Sampled], search: _Searches | None
) -> list[Pilot]:
    return start_of(plans[place], samples, None if search is None else search.sizes[place])


def fit_sizes(
    plans: Sequence[TaskPlan],
    partition: Partition,
    piece: xr.Dataset | None,
    pilots: Sequence[list[Pilot]] | None,
    support_rows: int,
    content: Content | None,
) -> list[PartitionResult]:
    """Read one partition and fit every size to it; nothing is read where all are in checkpoints."""
    # A failure is kept by nobody, so that every size fails by itself.
    read = cache(partial(read_counted, plans[0], partition, piece))
    return [
        fit_partition(
            plan, partition, piece, None if pilots is None else pilots[i], None, support_rows, content, read
        )
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


def _scoring_of(proposed: Sequence[Proposed], responses: bool) -> Callable[[Observations], _Scores]:
    ballots = [ballot_of(each, responses)._replace(entropies=True) for each in proposed]
    return partial(_score, ballots=ballots)


@register
class _Scores(NamedTuple):
    """What rows say of the candidates of every size."""

    sizes: list[Tally]

    def within(self, partition: int) -> _Scores:
        """The same, of rows of a partition."""
        return _Scores([tally.within(partition) for tally in self.sizes])


def _score(rows: Observations, ballots: Sequence[Ballot]) -> _Scores:
    return _Scores([score_rows(rows, ballot) for ballot in ballots])


def _add_scores(first: _Scores, second: _Scores) -> _Scores:
    return _Scores([add_tallies(a, b) for a, b in zip(first.sizes, second.sizes, strict=True)])


def _aggregate_size(
    place: int, plan: AggregationPlan, proposed: Proposed, tallies: Counted, choose: bool
) -> FitResult:
    # Where a fit of this size alone compares nothing, the scores only tell how good it is.
    scores: _Scores | None = tallies.value
    tally = None if scores is None else scores.sizes[place]
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
