"""`preview`: what a fit will do, before it does it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Unpack

from daskmoe.api.fit import FitKeywords
from daskmoe.engine import FitRequest, build_fit, plan_request
from daskmoe.engine.budget import (
    PROCESS_BYTES,
    VariableChunks,
    budget_of,
    dataset_of,
    variable_chunks,
)
from daskmoe.engine.limits import Workers, current_workers
from daskmoe.model.pieces import card_of, rows_of_facts
from daskmoe.options import FitOptions
from daskmoe.rows import Data

_MB = 2**20
# In HTML, which grows with the variables that are read; the text has all.
_MOST_FACTS = 100
_PREFIXES = (
    "moe-sample", "moe-pilot", "moe-local-fit", "moe-score", "moe-combine", "moe-propose", "moe-aggregate",
)  # fmt: skip
_OTHERS = "others"


@dataclass(frozen=True)
class Preview:
    """What a fit will do: shown as text, or as HTML in a notebook.

    Sizes are in bytes; peaks are of whole processes, estimated to about a quarter.
    """

    #: Name of the target.
    target: str
    #: Number of features, columns of coded variables counted one by one.
    n_features: int
    #: K.
    n_experts: int
    #: M, and the rows of the smallest, the middle and the largest partition.
    partitions: int
    rows: tuple[int, int, int]
    #: All rows, missing ones included.
    n_rows: int
    #: Of the largest partition as it is fitted, and of what each sends to the aggregation.
    partition_bytes: int
    sent_bytes: int
    #: Number of tasks by the prefix of their names.
    tasks: dict[str, int]
    #: Estimated peaks of a worker, of the worker that aggregates, and of the client.
    worker_bytes: int
    aggregate_bytes: int
    driver_bytes: int
    #: Workers, threads of each and the least memory limit, where a client is current.
    workers: Workers | None
    #: How each variable is stored and read.
    variables: tuple[VariableChunks, ...]

    def _facts(self) -> dict[str, str]:
        least, middle, most = self.rows
        facts = {
            "fit": f"{self.n_experts} experts of {self.target!r}, {self.n_features} features",
            "partitions": f"{self.partitions:,} of {middle:,} rows ({least:,} to {most:,}), "
            f"{self.n_rows:,} in all",
            "rows of a task": f"{_size(self.partition_bytes)}; it sends {_size(self.sent_bytes)}",
            "tasks": ", ".join(f"{name} {count:,}" for name, count in self.tasks.items()),
            "peak of a worker": f"{_size(self.worker_bytes)}{self._limit()}",
            "peak of the aggregation": _size(self.aggregate_bytes),
            "peak of the client": _size(self.driver_bytes),
        }
        if self.sent_bytes > self.partition_bytes:
            facts["note"] = (
                "partitions send more than their rows are: fewer, larger ones (partitions=...) send less"
            )
        for each in self.variables:
            chunks = ", ".join(f"{dim} {size:,}" for dim, size in each.chunks.items())
            shards = ", ".join(f"{dim} {size:,}" for dim, size in each.shards.items())
            cut = f"{each.n_chunks:,} chunks ({chunks})" + (f" in shards ({shards})" if shards else "")
            again = "once" if each.n_reads <= each.n_chunks else f"{each.n_reads / each.n_chunks:.1f} times"
            facts[f"reads of {each.name!r}"] = f"{cut}, each {again} by the local fits"
        return facts

    def _limit(self) -> str:
        if self.workers is None:
            return ", with one thread"
        threads = f"{self.workers.threads} thread{'s' if self.workers.threads > 1 else ''}"
        limit = f" of {_size(self.workers.memory_limit)}" if self.workers.memory_limit else ""
        number = f"{self.workers.number} worker{'s' if self.workers.number > 1 else ''}"
        return f"{limit}, with {threads}; {number}"

    def __str__(self) -> str:
        facts = self._facts()
        width = max(map(len, facts))
        return "\n".join(f"{name:<{width}}  {text}" for name, text in facts.items())

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        found = self._facts()
        shown = dict(list(found.items())[:_MOST_FACTS])
        if len(found) > len(shown):
            shown["..."] = f"{len(found) - len(shown)} more: see print(preview)"
        return card_of("What a fit will do", rows_of_facts(shown, most=len(shown)))


def preview(data: Data, target: str, *, n_experts: int, **options: Unpack[FitKeywords]) -> Preview:
    """What `fit` would do with the same arguments, without doing it.

    Metadata alone are read, and what planning a fit reads: a coordinate that ``partitions`` names, and the
    levels of text that nobody gave (``categories=``). Problems that `fit` finds before any work are found.

    Parameters
    ----------
    data, target, n_experts, **options
        As in `fit`.

    Returns
    -------
    Preview
        Partitions, rows, tasks, how chunks are read, and estimated peaks of memory, beside the limits of the
        workers where a Dask client is current.

    Raises
    ------
    InvalidOptionError, InvalidDataError, StoreError
        As `fit` before any work.

    Examples
    --------
    >>> import daskmoe
    >>> data, truth = daskmoe.simulate(2000, n_features=3, n_experts=2, chunks=500, random_state=0)
    >>> found = daskmoe.preview(data, "y", n_experts=2)
    >>> found.partitions, found.rows, found.tasks["moe-local-fit"]
    (4, (500, 500, 500), 4)
    """
    known: dict[str, Any] = {"n_experts": n_experts, **options}
    return preview_of(plan_request(data, target, FitOptions(**known)))


def preview_of(request: FitRequest) -> Preview:
    """What a request will do."""
    counts = Counter(_prefix(str(key)) for key in build_fit(request).__dask_graph__())
    dataset = dataset_of(request)
    budget = budget_of(request, dataset, sum(counts.values()))
    workers = current_workers()
    threads = 1 if workers is None else workers.threads
    return Preview(
        target=request.schema.target,
        n_features=len(request.schema.feature_labels),
        n_experts=request.options.n_experts,
        partitions=len(request.partitions),
        rows=budget.rows,
        n_rows=sum(part.n_rows for part in request.partitions),
        partition_bytes=budget.partition_bytes,
        sent_bytes=budget.sent_bytes,
        tasks={prefix: counts[prefix] for prefix in (*_PREFIXES, _OTHERS) if counts[prefix]},
        worker_bytes=PROCESS_BYTES + threads * budget.task_bytes,
        aggregate_bytes=budget.aggregate,
        driver_bytes=budget.driver,
        workers=workers,
        variables=tuple(variable_chunks(request, dataset)),
    )


def _prefix(key: str) -> str:
    return next((start for start in _PREFIXES if key.startswith(start)), _OTHERS)


def _size(size: float) -> str:
    return f"{size / _MB:,.0f} MB" if size >= 10 * _MB else f"{size / 1024:,.1f} kB"
