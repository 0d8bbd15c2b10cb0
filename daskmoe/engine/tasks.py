"""What the tasks of the graph do: fit one partition, aggregate all."""

from __future__ import annotations

import logging
import time
from typing import Literal, NamedTuple

import numpy as np
import xarray as xr

from daskmoe.config import LocalFitOptions
from daskmoe.engine.checkpoint import checkpoint_path, load_result, save_result
from daskmoe.engine.results import FitResult, PartitionResult
from daskmoe.engine.threads import single_threaded_blas
from daskmoe.errors import DaskMoEError, InvalidDataError, PartitionError
from daskmoe.numerics.aggregation import pool_support, reduction_estimator
from daskmoe.numerics.coordinates import Observations, moments
from daskmoe.numerics.families import get_family
from daskmoe.numerics.local import fit_local_estimate
from daskmoe.numerics.parameters import LocalEstimate, SupportSample
from daskmoe.rows import Partition, Rows, RowSchema, extract_rows, read_box

logger = logging.getLogger(__name__)


class TaskPlan(NamedTuple):
    """What all local tasks share.

    Attributes
    ----------
    source : str or None
        The store that tasks open; None where each is handed its piece of a dataset.
    schema : RowSchema
    options : LocalFitOptions
    seed : int
        Entropy; partition m draws from ``SeedSequence(seed, spawn_key=(m,))``.
    on_error : {"raise", "skip"}
    checkpoint : str or None
        Folder of finished partitions.
    token : str
        Of everything that a result depends on.
    """

    source: str | None
    schema: RowSchema
    options: LocalFitOptions
    seed: int
    on_error: Literal["raise", "skip"]
    checkpoint: str | None
    token: str


def fit_partition(
    plan: TaskPlan, partition: Partition, support_rows: int, piece: xr.Dataset | None
) -> PartitionResult:
    """Read one partition, fit it and draw its share of the support sample.

    Raises
    ------
    DaskMoEError
        Naming the partition, unless ``plan.on_error`` is ``"skip"``: then the result says why it was left
        out.
    """
    path = None
    if plan.checkpoint is not None:
        path = checkpoint_path(plan.checkpoint, plan.token, partition.index)
        if (kept := load_result(path)) is not None:
            logger.info("partition %s: taken from checkpoint %s", partition.label, path)
            return kept
    try:
        with single_threaded_blas():
            result = _fit(plan, partition, support_rows, piece)
    except Exception as error:
        failure = _as_partition_error(error, partition)
        if plan.on_error == "raise":
            raise failure from error
        logger.warning("partition %s is left out: %s", partition.label, failure)
        return _left_out(partition, plan, str(failure))
    if path is not None:
        save_result(path, result)
    return result


def _fit(
    plan: TaskPlan, partition: Partition, support_rows: int, piece: xr.Dataset | None
) -> PartitionResult:
    fit_seed, support_seed = np.random.SeedSequence(plan.seed, spawn_key=(partition.index,)).spawn(2)
    began = time.perf_counter()
    box = read_box(plan.source, plan.schema, partition) if plan.source is not None else piece
    assert box is not None
    rows = extract_rows(box, plan.schema, partition, on_error=plan.on_error)
    seconds_read = time.perf_counter() - began
    data = _observations(rows, partition, plan.options.n_experts)
    estimate = fit_local_estimate(data, plan.options, np.random.default_rng(fit_seed))
    logger.info(
        "partition %s: %d rows read in %.2f s, fitted in %.2f s, %.4f nats a row",
        partition.label, estimate.rows, seconds_read, estimate.seconds,
        estimate.log_likelihood / estimate.weight,
    )  # fmt: skip
    return PartitionResult(
        partition.label,
        estimate._replace(dropped_rows=rows.dropped),
        draw_support(data, support_rows, np.random.default_rng(support_seed)),
        moments(data),
        sum(a.nbytes for a in data if a is not None),
    )


def _observations(rows: Rows, partition: Partition, n_experts: int) -> Observations:
    """The rows of a partition, if they are enough for a fit."""
    assert rows.response is not None
    data = Observations(rows.features, rows.response, rows.weight)
    least = max(2, n_experts)
    used = data.n_rows if data.weight is None else int(np.count_nonzero(data.weight))
    if used < least:
        raise InvalidDataError(
            f"Partition {partition.label!r}: expected at least {least} complete rows of positive weight for "
            f"{n_experts} experts, got {used} ({rows.dropped} dropped). Use fewer or larger partitions, or "
            "on_error='skip' to leave it out."
        )
    return data


def draw_support(data: Observations, n_rows: int, rng: np.random.Generator) -> SupportSample:
    """A simple random sample of features, weighing as the rows do."""
    index = np.sort(rng.choice(data.n_rows, min(n_rows, data.n_rows), replace=False, shuffle=False))
    weight = np.ones(len(index)) if data.weight is None else data.weight[index].astype(np.float64)
    total = weight.sum()
    weight = weight / total if total > 0 else np.full(len(index), 1.0 / max(len(index), 1))
    return SupportSample(np.asarray(data.features[index], dtype=np.float64), None, weight)


def aggregate_partitions(plan: TaskPlan, results: list[PartitionResult]) -> FitResult:
    """The aggregate task: pool the support and reduce the local estimators, in partition order.

    Raises
    ------
    PartitionError
        If every partition was left out.
    """
    fitted = [r for r in results if r.estimate.parameters is not None]
    if not fitted:
        reasons = "; ".join(sorted({r.estimate.status for r in results})[:3])
        raise PartitionError(f"Expected at least one partition that can be fitted, got none: {reasons}")
    weights = np.array([r.estimate.weight for r in fitted])
    with single_threaded_blas():
        support = pool_support([r.support for r in fitted], weights)
        aggregate = reduction_estimator(
            [r.estimate.parameters for r in fitted if r.estimate.parameters is not None],
            weights,
            support,
            plan.options.n_experts,
            get_family(plan.options.family),
        )
    return FitResult(aggregate, results)


def _as_partition_error(error: Exception, partition: Partition) -> DaskMoEError:
    if isinstance(error, DaskMoEError):
        return error
    box = ", ".join(f"{dim} {start}:{stop}" for dim, start, stop in partition.box)
    return PartitionError(
        f"Partition {partition.label!r} ({box}; {partition.n_rows} rows) could not be fitted: "
        f"{type(error).__name__}: {error}. Look at these rows, or use "
        "on_error='skip' to leave the partition out."
    )


def _left_out(partition: Partition, plan: TaskPlan, reason: str) -> PartitionResult:
    estimate = LocalEstimate(
        parameters=None,
        rows=0,
        dropped_rows=partition.n_rows,
        weight=0.0,
        log_likelihood=float("nan"),
        objective=float("nan"),
        iterations=0,
        converged=False,
        start_log_likelihoods=np.empty(0),
        seconds=0.0,
        status=f"left out: {reason}",
    )
    n_features = len(plan.schema.feature_labels)
    return PartitionResult(
        partition.label, estimate, SupportSample(np.empty((0, n_features)), None, np.empty(0)), None, 0
    )
