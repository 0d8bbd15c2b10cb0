"""What workers tell of local fits while a job goes on."""

from __future__ import annotations

import sys
from typing import NamedTuple

from daskmoe.engine.results import PartitionResult

TOPIC = "daskmoe-local-fit"


class LocalFit(NamedTuple):
    """What a local fit tells of itself."""

    partition: str
    # Log-likelihood a row.
    nats: float


def announce(result: PartitionResult) -> None:
    """Tell who watches what a local fit reached, from a worker of a cluster."""
    if "distributed.worker" not in sys.modules or not result.estimate.weight > 0:
        return
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:
        return
    worker.log_event(TOPIC, (str(worker.get_current_task()), *told_by(result)))


def told_by(result: PartitionResult) -> LocalFit:
    """What is told of a result."""
    return LocalFit(result.label, result.estimate.log_likelihood / result.estimate.weight)
