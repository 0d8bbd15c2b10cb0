"""The graph of a fit: M local tasks, M that score candidates, one aggregate task, and a few others.

Building computes nothing. With a store, tasks open their own row ranges and the graph holds no data; with a
dataset, each task depends on its own piece of it.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

from dask.base import tokenize
from dask.delayed import Delayed

from daskmoe.engine.aggregation import AggregationPlan, aggregate_partitions, propose, scoring_of
from daskmoe.engine.given_support import read_support, support_pieces
from daskmoe.engine.identity import content_of, nonce_of
from daskmoe.engine.keeping import find_contents, mark_of_start
from daskmoe.engine.kept_starts import find_start, start_of
from daskmoe.engine.mapping import Ref, Tasks
from daskmoe.engine.passes import (
    count_partition,
    joined,
    partition_tasks,
    shared_plan,
    sum_tasks,
    tree,
)
from daskmoe.engine.pilot import fit_sample, read_sample
from daskmoe.engine.request import FitRequest, GivenSupport, piece_of, support_shares, task_plan
from daskmoe.engine.results import Counted, FitResult, Proposed, gather
from daskmoe.engine.tasks import fit_partition
from daskmoe.numerics.combine.candidates import add_tallies
from daskmoe.rows import SampleWindow

_SAMPLE_TASKS = 16
# Where a sample is spread unevenly, parts of it may send so many times what they would otherwise.
_MOST_SHARES = 4
# A task has all its pieces of a dataset in memory at once.
_MOST_HELD_ROWS = 250_000


def build_fit(request: FitRequest) -> Delayed:
    """The delayed `FitResult` of a request."""
    tasks, token = Tasks(), request.token
    shared = shared_plan(tasks, request, token)
    contents = find_contents(tasks, request, shared)
    pilot = _build_pilot(tasks, request, shared, contents) if request.sample else None
    start = None
    if pilot is not None and request.options.checkpoint is not None:
        # Its arrays are digested once, not by every partition.
        start = tasks.call(f"moe-mark-{token}", mark_of_start, pilot)
    own, key = list(zip(support_shares(request), contents, strict=True)), f"moe-local-fit-{token}"
    results = partition_tasks(tasks, request, key, fit_partition, shared, pilot, start, own=own)
    sent = tree(tasks, f"moe-combine-{token}", gather, results) if request.sample else results
    given, plan = build_support(tasks, request), request.aggregation
    name = tokenize(token, plan, None if given is None else given.key)
    proposed = tasks.call(f"moe-propose-{name}", propose, plan, sent, pilot, given)
    tally = None
    if request.compares:
        # The sum over all partitions of what each says of the candidates.
        function = tasks.call(f"moe-candidates-{name}", scoring_of, proposed, request.sends.responses)
        keys = "moe-score", "moe-combine", name
        tally = sum_tasks(tasks, request, keys, function, add_tallies, shared, contents=contents)
    return tasks.result(tasks.call(f"moe-aggregate-{name}", _aggregate, plan, proposed, tally))


def _aggregate(plan: AggregationPlan, proposed: Proposed, tally: Counted | None) -> FitResult:
    return aggregate_partitions(plan, proposed, None if tally is None else tally.value)


def build_support(tasks: Tasks, request: FitRequest) -> Ref | None:
    """The task that reads the caller's own support, if there is one."""
    if not isinstance(request.support, GivenSupport):
        return None
    data, schema, windows = request.support
    content = content_of(data, [*schema.sources])
    key = f"moe-support-{tokenize(content, nonce_of(data), schema.identity(), request.options.seed)}"
    pieces = support_pieces(data, schema, windows)
    path = data if isinstance(data, str) else None
    return tasks.call(key, read_support, path, schema, request.options.seed, windows, pieces)


def _build_pilot(tasks: Tasks, request: FitRequest, shared: Ref, contents: list[Any]) -> Ref:
    """The tasks of a shared start: a few that read, one that fits; and one that looks for a kept one."""
    kept = None
    if request.options.checkpoint is not None:
        kept = tasks.call(f"moe-kept-{request.token}", find_start, shared, list(request.partitions), contents)
    samples = build_samples(tasks, request, shared, kept)
    return tasks.call(f"moe-pilot-{request.token}", start_of, shared, samples, kept)


def build_samples(tasks: Tasks, request: FitRequest, shared: Ref, kept: Ref | None) -> list[Ref]:
    """The tasks that read the rows of a shared start, unless it was found in a checkpoint."""
    share = _most_share(request)
    return [
        tasks.call(
            f"moe-sample-{request.token}-{index}",
            read_sample,
            shared,
            windows,
            [piece_of(request, part.window) for part in windows],
            share,
            kept,
        )
        for index, windows in enumerate(_sample_groups(request))
    ]


def fit_directly(request: FitRequest) -> FitResult:
    """The result of a request without a graph, in this thread."""
    plan = task_plan(request)
    share = _most_share(request)
    samples = [
        read_sample(plan, parts, [piece_of(request, p.window) for p in parts], share)
        for parts in _sample_groups(request)
    ]
    pilots = fit_sample(plan, samples) if samples else None
    results = [
        fit_partition(plan, partition, piece_of(request, partition), pilots, None, share)
        for partition, share in zip(request.partitions, support_shares(request), strict=True)
    ]
    sent = joined(gather, results) if pilots else results
    proposed = propose(request.aggregation, sent, pilots, None)
    tally = None
    if request.compares:
        score = scoring_of(proposed, request.sends.responses)
        scores = [
            count_partition(plan, part, piece_of(request, part), score).value for part in request.partitions
        ]
        tally = reduce(add_tallies, [each for each in scores if each is not None])
    return aggregate_partitions(request.aggregation, proposed, tally)


def _sample_groups(request: FitRequest) -> list[tuple[SampleWindow, ...]]:
    """The windows of each task, which opens a store for one after the other."""
    most = math.ceil(len(request.sample) / _SAMPLE_TASKS)
    groups: list[list[SampleWindow]] = []
    held = 0
    for part in request.sample:
        rows = 0 if isinstance(request.source, str) else part.window.n_rows
        held += rows
        if not groups or len(groups[-1]) == most or held > _MOST_HELD_ROWS:
            groups.append([])
            held = rows
        groups[-1].append(part)
    return [tuple(group) for group in groups]


def _most_share(request: FitRequest) -> float:
    """The most of its rows that a window sends: more than are used, as others may have masked rows only."""
    drawn = sum(part.positions.size for part in request.sample)
    return min(1.0, _MOST_SHARES * request.sample_rows / max(drawn, 1))
