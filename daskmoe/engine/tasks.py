"""What a task of the graph does with a partition: read it, fit it, draw its share of the support."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskmoe.engine.allocation import reused_memory
from daskmoe.engine.announcing import announce
from daskmoe.engine.interrupts import StoppableRows, stoppable
from daskmoe.engine.keeping import fit_name, keep_of_rows, kept_fit, mark_of_start
from daskmoe.engine.outcomes import Ending, Outcome, ending_of
from daskmoe.engine.results import Answer, PartitionResult
from daskmoe.engine.seeds import Seed, sequence
from daskmoe.engine.task_plan import TaskPlan
from daskmoe.engine.threads import single_threaded_blas
from daskmoe.errors import DaskMoEError, InvalidDataError, PartitionError
from daskmoe.numerics.base.extremes import Extremes
from daskmoe.numerics.base.observations import Observations, moments
from daskmoe.numerics.base.parameters import Columns, LocalEstimate, Moments, SupportSample
from daskmoe.numerics.combine.expansion import Expansion, Pilot, expand_at, expand_estimates
from daskmoe.numerics.local.fit import fit_local_estimate
from daskmoe.rows import OnError, Partition, Rows, RowSchema, extract_rows, read_box
from daskmoe.rows.contents import Content
from daskmoe.rows.retrying import WAITS, is_transient, retrying

logger = logging.getLogger(__name__)

_NOT_THERE = "target and features are all missing"

T = TypeVar("T")

# Faults of the program, and of the partition's size: the other partitions have them too.
_NEVER_LEFT_OUT = (
    MemoryError, TypeError, AttributeError, NameError, AssertionError, ImportError, NotImplementedError,
    RecursionError,
)  # fmt: skip

# What is larger is no logarithm of a number of things.
_LARGEST_OFFSET = 100.0
# The squares of what is larger, times a number of rows and a precision, may be no numbers.
_LARGEST_VALUE = 1e120


def fit_partition(
    plan: TaskPlan,
    partition: Partition,
    piece: xr.Dataset | None,
    pilots: list[Pilot] | None,
    start: str | None,
    support_rows: int,
    content: Content | None = None,
    read: Callable[[], RowsRead] | None = None,
) -> PartitionResult:
    """Read one partition, fit it (from each pilot, if there are any) and draw its share of the support.

    What was kept of the same ``content`` is taken, which None says is not known, from shared starts of the
    mark ``start``, which is found where it is not given. The rows are what ``read``
    gives, where several fits share them. A failure is a `DaskMoEError` that names the partition; with
    ``on_error="skip"`` the result says why it was left out.
    """
    if read is None:
        read = partial(read_counted, plan, partition, piece)

    def fitted() -> PartitionResult:
        result = attempt(plan, partition, lambda: _fit(plan, partition, read, pilots, support_rows))
        if isinstance(result, DaskMoEError):
            return _nothing(partition, plan, Ending(Outcome.LEFT_OUT, str(result)))
        return result

    if content is None:
        result = fitted()
    else:
        name = fit_name(plan, partition, content, start or mark_of_start(pilots))
        result = kept_fit(plan, partition, name, support_rows) or fitted()
        if result.ending.outcome is not Outcome.LEFT_OUT and not result.ending.kept:
            unkept = keep_of_rows(plan, partition, piece, content, name, result)
            result = result._replace(ending=result.ending._replace(unkept=unkept))
    announce(result, plan.options.n_experts)
    return result


def attempt(plan: TaskPlan, partition: Partition, work: Callable[[], T]) -> T | DaskMoEError:
    """What ``work`` gives, with one BLAS thread; its failure, where partitions that fail are left out."""
    try:
        with single_threaded_blas(), reused_memory(), stoppable(plan.job):
            return work()
    except Exception as error:
        failure = _as_partition_error(error, partition, plan.options.on_error)
        if plan.options.on_error == "skip" and not isinstance(error, _NEVER_LEFT_OUT):
            logger.warning("%s left out: %s", partition.name, failure)
            return failure
        # An error that is its own cause cannot be sent between processes.
        if failure is error:
            raise
        raise failure from error


def _fit(
    plan: TaskPlan,
    partition: Partition,
    read: Callable[[], RowsRead],
    pilots: list[Pilot] | None,
    support_rows: int,
) -> PartitionResult:
    fit_seed, support_seed = sequence(plan.options.seed, Seed.PARTITION, partition.index).spawn(2)
    data, absent = read()
    if absent:
        told = partition.label, absent, partition.n_rows, plan.schema.absence
        logger.info("partition %s: %d of %d rows are %s", *told)
    if absent == partition.n_rows:
        reason = f"every row is {plan.schema.absence}" if plan.schema.atoms else _NOT_THERE
        nowhere = Ending(Outcome.EMPTY, reason)
        return _nothing(partition, plan, nowhere)._replace(absent_rows=absent)
    there = partition.n_rows - absent
    # From a shared start, whose prior holds what few rows leave open, one row is enough.
    _check_rows(data, partition, plan, 1 if pilots else max(2, plan.options.n_experts))
    known = moments(data)
    if pilots:
        family, dropped = plan.family, there - data.n_rows
        answers = [_answer(*own, dropped) for own in expand_estimates(data, pilots, family, known)]
        if plan.options.n_experts == 1 and plan.sends.responses:
            # No pass over all rows follows that would find the range of the target.
            extremes = Extremes.of(data.response.T[np.newaxis])
            answers = [each._replace(estimate=each.estimate._replace(extremes=extremes)) for each in answers]
    else:
        answers = [_own_fit(plan, partition, data, known, np.random.default_rng(fit_seed), there)]
    (estimate, ending, expansion), *rivals = answers
    logger.info(
        "partition %s: %d rows fitted in %.2f s, %.4f nats a row",
        partition.label, estimate.rows, estimate.seconds, estimate.log_likelihood / estimate.weight,
    )  # fmt: skip
    if ending.outcome is Outcome.OUT_OF_PASSES:
        logger.info("partition %s: expanded after %s, short of its optimum", partition.label, ending.reason)
    drawn = support_rows if plan.sends.rows else 0
    support = draw_support(data, drawn, np.random.default_rng(support_seed), plan.sends.responses)
    data_bytes = sum(a.nbytes for a in data[:4] if a is not None)
    return PartitionResult(
        partition.label, estimate, ending, support, known, data_bytes, expansion, tuple(rivals), absent
    )


def _answer(estimate: LocalEstimate, expansion: Expansion, dropped_rows: int) -> Answer:
    """What a shared start led to."""
    return Answer(
        estimate._replace(dropped_rows=dropped_rows), ending_of(estimate, from_pilot=True), expansion
    )


def _own_fit(
    plan: TaskPlan,
    partition: Partition,
    data: Observations,
    known: Moments,
    rng: np.random.Generator,
    n_rows: int,
) -> Answer:
    """What a partition finds by itself, which has so many rows, incomplete ones among them."""
    estimate = fit_local_estimate(data, plan.local, rng, known)
    assert estimate.parameters is not None
    expansion = None
    if plan.sends.information:
        expansion = expand_at(data, estimate.parameters, known, plan.family)
    _tell_empty_experts(estimate, partition)
    extremes = estimate.extremes if plan.sends.responses else None
    estimate = estimate._replace(dropped_rows=n_rows - data.n_rows, extremes=extremes)
    return Answer(estimate, ending_of(estimate, from_pilot=False), expansion)


def _tell_empty_experts(estimate: LocalEstimate, partition: Partition) -> None:
    """Warn of experts that no row speaks for: the priors alone say what they are."""
    empty = int(np.count_nonzero(estimate.expert_weights < 1.0))
    # If all rows together weigh less, the cause is the scale of the weights, which has its own warning.
    if empty and estimate.weight >= len(estimate.expert_weights):
        logger.warning(
            "partition %s: %d of %d experts have the weight of less than one row; fewer experts would do",
            partition.label, empty, len(estimate.expert_weights),
        )  # fmt: skip


class RowsRead(NamedTuple):
    """The rows of a partition."""

    rows: Observations
    # How many others are not there.
    absent: int


def read_counted(plan: TaskPlan, partition: Partition, piece: xr.Dataset | None) -> RowsRead:
    """The rows that a fit is made of, and how many are not there."""
    rows = load_rows(plan, partition, piece, plan.options.on_error)
    return RowsRead(observations(rows, plan.schema.columns), rows.absent)


def load_rows(
    plan: TaskPlan,
    partition: Partition,
    piece: xr.Dataset | None,
    on_error: OnError,
    positions: NDArray[np.intp] | None = None,
) -> Rows:
    """A partition's rows, or those at some positions, from the store or from its piece of a dataset."""
    skip = plan.options.on_error == "skip"

    def read() -> Rows:
        box = piece
        if plan.source is not None:
            box = read_box(plan.source, plan.schema, partition, cluster=plan.cluster)
        assert box is not None
        return extract_rows(
            box,
            plan.schema,
            partition,
            on_error=on_error,
            positions=positions,
            cluster=plan.cluster,
            unknown_is_missing=skip,
        )

    rows = retrying(read, partition.name)
    _check_offset(rows, plan.schema, partition)
    _check_sizes(rows, plan.schema, partition)
    return _with_possible_targets(rows, plan, partition, skip=skip)


def _check_offset(rows: Rows, schema: RowSchema, partition: Partition) -> None:
    """Refuse what is no logarithm of anything, such as an exposure itself."""
    if schema.offset_column is None:
        return
    column = rows.features[:, schema.offset_column]
    if rows.weight is not None:
        column = column[rows.weight > 0]
    largest = float(np.abs(column).max(initial=0.0))
    if largest > _LARGEST_OFFSET:
        raise InvalidDataError(
            f"In {partition.name}: expected the offset {schema.offset!r} to be the logarithm of an exposure, "
            f"at most {_LARGEST_OFFSET:g} in size, got {largest:g}. Of an exposure take the logarithm: "
            f"data.assign(log_exposure=np.log(data[{schema.offset!r}])) and offset='log_exposure'."
        )


def _check_sizes(rows: Rows, schema: RowSchema, partition: Partition) -> None:
    """Refuse numbers that cannot be squared and summed."""
    assert rows.response is not None
    for values, names in ((rows.features, schema.feature_labels), (rows.response, (schema.target,))):
        if not values.size or max(float(values.max()), -float(values.min())) <= _LARGEST_VALUE:
            continue
        # Masked rows may hold anything.
        there = values if rows.weight is None else values[rows.weight > 0]
        columns = np.abs(there).reshape(len(there), -1).max(axis=0, initial=0.0)
        if (largest := float(columns.max())) > _LARGEST_VALUE:
            name = names[int(columns.argmax()) % len(names)]
            raise InvalidDataError(
                f"In {partition.name}: expected numbers up to {_LARGEST_VALUE:g} in size, got {largest:g} in "
                f"{name!r}. Make a fill value missing: data[{name!r}] = data[{name!r}].where("
                f"abs(data[{name!r}]) < 1e30); give others another unit."
            )


def _with_possible_targets(rows: Rows, plan: TaskPlan, partition: Partition, *, skip: bool) -> Rows:
    """The rows, if the family can have their targets; or those of which it can."""
    family = plan.family
    assert rows.response is not None
    fits = family.fits(rows.response)
    if rows.weight is not None:
        # Masked rows may hold anything.
        fits |= rows.weight == 0
    if fits.all():
        return rows
    if not skip:
        raise InvalidDataError(
            f"In {partition.name}: expected the target {plan.schema.target!r} of {plan.options.family} "
            f"experts to be {family.misfit(rows.response[~fits])}. Use another family (family=...), or "
            "drop these rows: on_error='skip' does."
        )
    wrong = int(np.count_nonzero(~fits))
    return rows._replace(
        features=rows.features[fits],
        response=rows.response[fits],
        weight=None if rows.weight is None else rows.weight[fits],
        cluster=None if rows.cluster is None else rows.cluster[fits],
        dropped=rows.dropped + wrong,
        reasons=(*rows.reasons, (plan.schema.target, wrong)),
    )


def observations(rows: Rows, columns: Columns) -> Observations:
    """What a fit is made of: the rows that weigh something."""
    assert rows.response is not None
    data = StoppableRows(rows.features, rows.response, rows.weight, rows.cluster, columns)
    if rows.weight is None or rows.weight.all():
        return data
    # Rows of weight zero add nothing, may hold fill values, and could be all of a subsample.
    return data.take(np.flatnonzero(rows.weight))


def _check_rows(data: Observations, partition: Partition, plan: TaskPlan, least: int) -> None:
    """Raise `InvalidDataError` unless the rows are enough for a fit."""
    if data.n_rows < least:
        advice = ", or on_error='skip' to leave it out" if plan.options.on_error == "raise" else ""
        raise InvalidDataError(
            f"Partition {partition.label!r}: expected at least {least} complete rows of positive weight for "
            f"{plan.options.n_experts} experts, got {data.n_rows} of {partition.n_rows}. Use fewer or larger "
            f"partitions{advice}."
        )


def draw_support(data: Observations, n_rows: int, rng: np.random.Generator, labelled: bool) -> SupportSample:
    """A simple random sample of features (and responses, if labelled), weighing as the rows do."""
    index = np.sort(rng.choice(data.n_rows, min(n_rows, data.n_rows), replace=False, shuffle=False))
    weight = np.ones(len(index)) if data.weight is None else data.weight[index].astype(np.float64)
    total = weight.sum()
    weight = weight / total if total > 0 else np.full(len(index), 1.0 / max(len(index), 1))
    response = np.asarray(data.response[index], dtype=np.float64) if labelled else None
    features = np.asarray(data.features[index], dtype=np.float64)
    return SupportSample(features, response, weight, data.columns)


def _as_partition_error(error: Exception, partition: Partition, on_error: str) -> DaskMoEError:
    if isinstance(error, DaskMoEError):
        return error
    failed = "could not be read"
    if partition.label:
        failed = f"({partition.extent}; {partition.n_rows} rows) could not be fitted"
    name = partition.name[0].upper() + partition.name[1:]
    said = f"{name} {failed}: {type(error).__name__}: {error}."
    return PartitionError(f"{said} {_advice(error, on_error)}")


def _advice(error: Exception, on_error: str) -> str:
    """What helps against an error that is not the package's own."""
    if isinstance(error, MemoryError):
        return "Use smaller partitions (partitions=...), or workers with more memory or fewer threads."
    if isinstance(error, _NEVER_LEFT_OUT):
        return "This is a fault of the program, not of these rows: please report it."
    skip = ", or use on_error='skip' to leave {} out" if on_error == "raise" else ""
    if is_transient(error):
        advice = f"The store did not answer {1 + len(WAITS)} times: see that it can be reached, and fit again"
        return f"{advice}{skip.format('such partitions')}."
    return f"Look at these rows{skip.format('them')}."


def _nothing(partition: Partition, plan: TaskPlan, ending: Ending) -> PartitionResult:
    """The result of a partition that has no estimate: of one that was left out all rows were dropped."""
    estimate = LocalEstimate(
        parameters=None,
        rows=0,
        dropped_rows=partition.n_rows if ending.outcome is Outcome.LEFT_OUT else 0,
        weight=0.0,
        log_likelihood=float("nan"),
        objective=float("nan"),
        entropy=float("nan"),
        passes=0,
        converged=False,
        start_log_likelihoods=np.empty(0),
        expert_weights=np.empty(0),
        seconds=0.0,
    )
    support = SupportSample(np.empty((0, len(plan.schema.feature_labels))), None, np.empty(0))
    return PartitionResult(partition.label, estimate, ending, support, None, 0)
