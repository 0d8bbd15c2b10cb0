"""What workers tell of local fits while a job goes on."""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple

from daskmoe.engine.results import PartitionResult

# Whoever subscribes to it hears of every partition; what is told is documented.
EVENTS = "daskmoe"
# A client has one handler a topic, and that of the displays is not to take the place of a caller's.
TOPIC = "daskmoe-local-fit"


class LocalFit(NamedTuple):
    """What a local fit tells of itself."""

    partition: str
    # Log-likelihood a row.
    nats: float


def announce(result: PartitionResult, n_experts: int) -> None:
    """Tell who listens how a partition ended, from a worker of a cluster."""
    if "distributed.worker" not in sys.modules:
        return
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:
        return
    task = str(worker.get_current_task())
    worker.log_event(EVENTS, event_of(result, n_experts) | {"task": task})
    if result.estimate.weight > 0:
        worker.log_event(TOPIC, (task, *told_by(result)))


def event_of(result: PartitionResult, n_experts: int) -> dict[str, Any]:
    """How a partition ended, as JSON can hold it."""
    estimate, ending = result.estimate, result.ending
    value = estimate.log_likelihood
    return {
        "partition": result.label,
        "n_experts": n_experts,
        "rows": int(estimate.rows),
        "dropped_rows": int(estimate.dropped_rows),
        "log_likelihood": float(value) if math.isfinite(value) else None,
        "seconds": float(estimate.seconds),
        "outcome": str(ending.outcome),
        "reason": ending.reason,
        "kept": ending.kept,
    }


def told_by(result: PartitionResult) -> LocalFit:
    """What is told of a result."""
    return LocalFit(result.label, result.estimate.log_likelihood / result.estimate.weight)
